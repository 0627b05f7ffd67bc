"""Word vectors trained elsewhere, as the first weights of the word embedding.

In: a word2vec file, binary or text, or vectors saved by gensim. Out: an embedding matrix for a vocabulary, with its coverage.
Apart, because the formats have nothing to do with the network; needs no torch.

Source:
    Mikolov et al. 2013 (word2vec); the file formats are those of its C program.
"""

import gzip
import pickle
import warnings
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from capt.clipped import Clipped
from capt.errors import InputError, first_line
from capt.vocabulary import Vocabulary

_HEADER_FIELDS = 2
_MAX_WORD_BYTES = 10_000
_LONGEST_LINE = 1 << 20  # bytes
_HUGE = 1e15  # beyond, squares of such numbers are none
_NUMBERS = frozenset({"f2", "f4", "f8"})  # numpy's codes


@dataclass(frozen=True, kw_only=True)
class WordVectors:
    """An embedding matrix from pretrained vectors.

    Args:
        matrix: `(V, E)` float32; rows of words that were not found are drawn at random with the others' spread.
        found: How many of the vocabulary's words were found, special words aside.
        wanted: How many words were looked for.
        missing: The words not found, in index order.
    """

    matrix: NDArray[np.float32]
    found: int
    wanted: int
    missing: tuple[str, ...]

    @property
    def coverage(self) -> float:
        """Share of the vocabulary's words that were found, 0 to 1."""
        return self.found / self.wanted if self.wanted else 0.0


def load_word_vectors(path: Path, vocabulary: Vocabulary, *, dimension: int, seed: int = 0) -> WordVectors:
    """Make an embedding matrix from a file of word vectors.

    A word is looked for as it is, then capitalised, then in capitals (the Google News vectors keep case).

    Args:
        path: word2vec binary (`.bin`), word2vec text, plain GloVe-like text, each also gzipped, or what gensim's `save` wrote
            (`.kv` or `.model`, with its `.npy` files beside it).
        vocabulary: The words wanted.
        dimension: E, that the file must have.
        seed: For the rows of words that are not found.

    Returns:
        The matrix, and how many words were found.

    Raises:
        InputError: If the file is missing, damaged, has another dimension, or none of the words.
    """
    if not path.is_file():
        message = f"There is no file of word vectors at {path}; give a word2vec file, or make one with `capt-batch vectors`."
        raise InputError(message)
    wanted = {spelling for word in vocabulary.words[4:] for spelling in _spellings(word)}
    try:
        vectors = _read(path, wanted, dimension)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        message = f"{path} cannot be read as word2vec vectors ({first_line(error)}); give word2vec's binary or text format."
        raise InputError(message) from error
    found = {
        word: vectors[hit]
        for word in vocabulary.words[4:]
        if (hit := next((s for s in _spellings(word) if s in vectors), None)) is not None
    }
    if not found:
        message = f"{path} has none of the vocabulary's {len(vocabulary) - 4} words; give vectors of the captions' language."
        raise InputError(message)
    return _fill(vocabulary, found, dimension, seed)


def _spellings(word: str) -> tuple[str, ...]:
    return (word, word.capitalize(), word.upper())


def _fill(vocabulary: Vocabulary, found: Mapping[str, NDArray[np.float32]], dimension: int, seed: int) -> WordVectors:
    rows = np.stack(list(found.values()))
    generator = np.random.default_rng(seed)
    matrix = generator.normal(rows.mean(), rows.std(), (len(vocabulary), dimension)).astype(np.float32)
    matrix[vocabulary.pad] = 0.0
    for index, word in enumerate(vocabulary.words):
        if word in found:
            matrix[index] = found[word]
    missing = tuple(word for word in vocabulary.words[4:] if word not in found)
    return WordVectors(matrix=matrix, found=len(found), wanted=len(vocabulary) - 4, missing=missing)


def _read(path: Path, wanted: set[str], dimension: int) -> dict[str, NDArray[np.float32]]:
    if path.suffix in {".kv", ".model"}:
        return _read_gensim(path, wanted, dimension)
    with _open(path) as file:
        first = file.readline(_MAX_WORD_BYTES * 2)
        fields = first.split()
        if len(fields) == _HEADER_FIELDS and all(field.isdigit() for field in fields):
            count, width = int(fields[0]), int(fields[1])
            _check_dimension(path, width, dimension)
            start = file.tell()
            if _is_text(file.readline(_MAX_WORD_BYTES * 2), width):
                file.seek(start)
                return dict(_text_rows(file, wanted, width))
            file.seek(start)
            return dict(_binary_rows(file, wanted, count, width))
        if not _is_text(first, len(fields) - 1):
            message = "its first line is neither a header nor a word with numbers"
            raise ValueError(message)
        _check_dimension(path, len(fields) - 1, dimension)
        file.seek(0)
        return dict(_text_rows(file, wanted, dimension))


def _open(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    if gzipped:
        return cast("BinaryIO", gzip.open(path, "rb"))
    return path.open("rb")


def _check_dimension(path: Path, width: int, dimension: int) -> None:
    if width != dimension:
        message = f"{path} has vectors of {width} numbers, not {dimension}; start with --embed-dim {width} or give other vectors."
        raise InputError(message)


def _is_text(line: bytes, width: int) -> bool:
    try:
        fields = line.decode("utf-8").rstrip("\n").rstrip().split(" ")
        return len(fields) == width + 1 and width > 0 and all(np.isfinite(float(field)) for field in fields[1:])
    except ValueError:
        return False


def _text_rows(file: BinaryIO, wanted: set[str], width: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    while line := file.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            message = "it has a line without end"
            raise ValueError(message)
        word, _, numbers = line.decode("utf-8", errors="replace").rstrip().partition(" ")
        if word in wanted:
            row = _checked(numbers.split(), word)
            if row.shape != (width,):
                message = f"the vector of {word!r} is damaged"
                raise ValueError(message)
            yield word, row


def _binary_rows(file: BinaryIO, wanted: set[str], count: int, width: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    size = width * 4
    for _ in range(count):
        word = _binary_word(file)
        content = file.read(size)
        if len(content) < size:
            message = "it ends in the middle of a vector"
            raise ValueError(message)
        if word in wanted:
            yield word, _checked(np.frombuffer(content, dtype="<f4"), word)


def _binary_word(file: BinaryIO) -> str:
    letters = bytearray()
    while (letter := file.read(1)) != b" ":
        if not letter or len(letters) > _MAX_WORD_BYTES:
            message = "it ends in the middle of a word"
            raise ValueError(message)
        letters += letter
    return letters.lstrip(b"\n").decode("utf-8", errors="replace")


class _Bag:
    """Stands for gensim's classes while one of their files is read: it keeps the attributes and has no code."""

    def __init__(self, *_: object) -> None:
        """Take whatever the file passes to the class it stands for."""

    def __setitem__(self, key: object, value: object) -> None:
        """Forget what a dictionary of the file would have kept."""

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


class _Kind(_Bag):
    """Stands for numpy's dtype: keeps its code and its order of bytes."""

    def __init__(self, code: object, *_: object) -> None:
        super().__init__()
        self.code, self.order = code, "="

    def __setstate__(self, state: object) -> None:
        self.order = state[1] if isinstance(state, tuple) else "="


class _Array(_Bag):
    """Stands for numpy's array: its numbers are made of its bytes, never of the shape that the file states alone."""

    numbers: NDArray[Any] | None = None

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple):
            _, shape, kind, is_fortran, content = state
            self.numbers = _numbers(content, kind, shape, "F" if is_fortran else "C")


def _numbers(content: object, kind: object, shape: Any, order: Any) -> NDArray[Any] | None:  # noqa: ANN401 - the file's own words
    """Make an array of bytes; None of what is no number."""
    if not isinstance(content, bytes | bytearray) or not isinstance(kind, _Kind) or kind.code not in _NUMBERS:
        return None
    return np.frombuffer(content, dtype=np.dtype(str(kind.code)).newbyteorder(">" if kind.order == ">" else "<")).reshape(
        shape, order=order
    )


def _from_buffer(content: object, kind: object, shape: object, order: object) -> _Array:
    """Stand for how numpy reads an array of protocol 5."""
    array = _Array()
    array.numbers = _numbers(content, kind, shape, order)
    return array


class _GensimUnpickler(pickle._Unpickler):  # noqa: SLF001 - see below
    """Reads vectors saved by gensim; anything but gensim's containers and numpy's arrays is refused, so nothing runs.

    It is Python's own unpickler in Python: the one in C sets memory aside for whatever a file of ten bytes claims. No code of
    numpy or gensim is called; classes of ours stand for theirs.
    """

    _STAND_INS: Mapping[str, object] = {
        "ndarray": _Array,
        "_reconstruct": lambda *_: _Array(),
        "_frombuffer": _from_buffer,
        "dtype": _Kind,
        "scalar": _Bag,
    }
    _PUT_ASIDE = frozenset({("collections", "defaultdict"), ("builtins", "int"), ("builtins", "hash")})  # a whole model has them

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - pickle's own signature
        if module.split(".", maxsplit=1)[0] == "numpy" and name in self._STAND_INS:
            return self._STAND_INS[name]
        if module.startswith(("gensim.", "numpy.random.")) or (module, name) in self._PUT_ASIDE:
            return _Bag
        message = f"it holds an object of {module}.{name}"
        raise ValueError(message)


def _read_gensim(path: Path, wanted: set[str], dimension: int) -> dict[str, NDArray[np.float32]]:
    try:
        with Clipped(path) as file:
            loaded = _GensimUnpickler(file).load()
    except Exception as error:  # a damaged pickle leads to a dozen kinds; each means the same to the user
        raise ValueError(first_line(error)) from error
    vectors = getattr(loaded, "wv", loaded)  # a whole model keeps its vectors in wv
    beside = path.with_name(f"{path.name}{'.wv' if vectors is not loaded else ''}.vectors.npy")
    held = getattr(vectors, "vectors", None)
    matrix = held.numbers if isinstance(held, _Array) else _read_beside(beside) if held is None and beside.is_file() else None
    words = getattr(vectors, "index_to_key", None)
    if matrix is None or matrix.ndim != 2 or not isinstance(words, list) or len(matrix) != len(words):  # noqa: PLR2004  (V, E)
        message = f"it holds no vectors, or {beside.name} is not beside it"
        raise ValueError(message)
    _check_dimension(path, matrix.shape[1], dimension)
    known = ((row, word) for row, word in enumerate(words) if isinstance(word, str) and word in wanted)
    return {word: _checked(matrix[row], word) for row, word in known}


def _read_beside(path: Path) -> NDArray[Any]:
    """Open an array that gensim saved as a file of its own; it stays on disk."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what is odd about a header
            return cast("NDArray[Any]", np.load(path, mmap_mode="r", allow_pickle=False))
    except Exception as error:  # numpy evaluates the header as Python does, and fails in as many ways
        message = f"{path.name}, {first_line(error)}"
        raise ValueError(message) from error


def _checked(numbers: object, word: str) -> NDArray[np.float32]:
    """Take the numbers of a word; damaged ones are refused."""
    with np.errstate(over="ignore", invalid="ignore"):
        row = np.asarray(numbers, dtype=np.float32)
    if not (np.abs(row) < _HUGE).all():  # also what is no number
        message = f"the vector of {word!r} is damaged"
        raise ValueError(message)
    return row
