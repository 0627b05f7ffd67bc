"""Word vectors from every format in use become embeddings, and wrong files are refused in one sentence."""

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from gensim.models import KeyedVectors, Word2Vec
from numpy.typing import NDArray

from capt.errors import InputError
from capt.vocabulary import Vocabulary
from capt.word_vectors import load_word_vectors

VOCABULARY = Vocabulary.build(["a dog runs", "a café in paris", "nasa"], min_frequency=1)
WORDS = ["a", "dog", "café", "Paris", "NASA", "unwanted"]
DIMENSION = 5


@pytest.fixture
def vectors() -> KeyedVectors:
    """Give gensim's vectors for a few words, some of them with capitals; "runs" and "in" are missing."""
    keyed = KeyedVectors(DIMENSION)
    keyed.add_vectors(WORDS, np.random.default_rng(0).normal(size=(len(WORDS), DIMENSION)).astype(np.float32))
    return keyed


def _expected(vectors: KeyedVectors, word: str) -> NDArray[np.float32]:
    row: NDArray[np.float32] = vectors[word]
    return row


def _write(vectors: KeyedVectors, folder: Path, form: str) -> Path:
    path = folder / form
    if form == "vectors.bin":
        vectors.save_word2vec_format(str(path), binary=True)
    elif form == "vectors.txt":
        vectors.save_word2vec_format(str(path), binary=False)
    elif form == "vectors.bin.gz":
        vectors.save_word2vec_format(str(path), binary=True)
    elif form == "glove.txt":
        path.write_text("".join(f"{word} {' '.join(map(repr, map(float, vectors[word])))}\n" for word in WORDS), encoding="utf-8")
    elif form == "glove.txt.gz":
        _write(vectors, folder, "glove.txt")
        path.write_bytes(gzip.compress((folder / "glove.txt").read_bytes()))
    elif form == "newlines.bin":  # the C program ends each vector with a line feed
        rows = (word.encode() + b" " + vectors[word].astype("<f4").tobytes() + b"\n" for word in WORDS)
        path.write_bytes(f"{len(WORDS)} {DIMENSION}\n".encode() + b"".join(rows))
    elif form == "vectors.kv":
        vectors.save(str(path))
    elif form == "beside.kv":
        vectors.save(str(path), sep_limit=1)
    return path


@pytest.mark.parametrize(
    "form",
    ["vectors.bin", "vectors.txt", "vectors.bin.gz", "glove.txt", "glove.txt.gz", "newlines.bin", "vectors.kv", "beside.kv"],
)
def test_every_format_gives_the_same_embeddings(vectors: KeyedVectors, tmp_path: Path, form: str) -> None:
    """word2vec binary and text, GloVe-like text, gzipped ones and gensim's own files give the vectors that were stored."""
    loaded = load_word_vectors(_write(vectors, tmp_path, form), VOCABULARY, dimension=DIMENSION)
    assert loaded.matrix.shape == (len(VOCABULARY), DIMENSION)
    assert loaded.matrix.dtype == np.float32
    for word, stored in {"a": "a", "dog": "dog", "café": "café", "paris": "Paris", "nasa": "NASA"}.items():
        row = loaded.matrix[VOCABULARY.words.index(word)]
        np.testing.assert_allclose(row, _expected(vectors, stored), rtol=1e-5)
    assert (loaded.found, loaded.wanted) == (5, 7)
    assert loaded.coverage == pytest.approx(5 / 7)
    assert set(loaded.missing) == {"runs", "in"}


def test_a_whole_gensim_model_is_read(tmp_path: Path) -> None:
    """What Word2Vec.save wrote serves as well as its vectors alone."""
    sentences = [["a", "dog", "runs"], ["a", "café", "in", "paris"]] * 5
    model = Word2Vec(sentences, vector_size=DIMENSION, min_count=1, seed=1, workers=1, epochs=1)
    model.save(str(tmp_path / "word2vec.model"))
    loaded = load_word_vectors(tmp_path / "word2vec.model", VOCABULARY, dimension=DIMENSION)
    np.testing.assert_array_equal(loaded.matrix[VOCABULARY.words.index("dog")], model.wv["dog"])
    assert loaded.missing == ("nasa",)


def test_words_not_found_are_drawn_like_the_others(vectors: KeyedVectors, tmp_path: Path) -> None:
    """Missing and special words get random rows of the same spread, the same for the same seed; <pad> is zero."""
    path = _write(vectors, tmp_path, "vectors.bin")
    first, again, other = (load_word_vectors(path, VOCABULARY, dimension=DIMENSION, seed=seed).matrix for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    runs = VOCABULARY.words.index("runs")
    assert not np.array_equal(first[runs], other[runs])
    assert np.abs(first[runs]).max() < 10
    assert not first[VOCABULARY.pad].any()
    assert first[VOCABULARY.unk].any()


def test_a_wrong_dimension_is_one_sentence(vectors: KeyedVectors, tmp_path: Path) -> None:
    """The error names both dimensions and the option to change, in every format."""
    for form in ("vectors.bin", "vectors.txt", "glove.txt", "vectors.kv"):
        with pytest.raises(InputError, match=r"--embed-dim 5") as caught:
            load_word_vectors(_write(vectors, tmp_path, form), VOCABULARY, dimension=300)
        assert "300" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_vectors_of_another_language_are_refused(vectors: KeyedVectors, tmp_path: Path) -> None:
    """When no word is found at all, something is wrong with the file."""
    other = Vocabulary.build(["ein hund"], min_frequency=1)
    with pytest.raises(InputError, match="none of the vocabulary's 2 words"):
        load_word_vectors(_write(vectors, tmp_path, "vectors.bin"), other, dimension=DIMENSION)


def test_a_missing_file_names_the_command_that_makes_one(tmp_path: Path) -> None:
    """Those who have no vectors learn how to train them."""
    with pytest.raises(InputError, match="capt-batch vectors"):
        load_word_vectors(tmp_path / "none.bin", VOCABULARY, dimension=DIMENSION)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 0.7])
def test_a_truncated_file_is_refused(vectors: KeyedVectors, tmp_path: Path, share: float) -> None:
    """Cut in a header, a word or a vector, the file is refused."""
    for form in ("vectors.bin", "vectors.bin.gz", "vectors.kv"):
        path = _write(vectors, tmp_path, form)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(InputError, match="cannot be read"):
            load_word_vectors(path, VOCABULARY, dimension=DIMENSION)


@pytest.mark.parametrize(
    "content",
    [
        b"just some words\n",
        b"2 5\na 1 2 3 4 5\ndog 1 2 x 4 5\n",
        b"2 5\na 1 2 3 4 5\ndog 1 2 nan 4 5\n",
        b"2 5\na 1 2 3 4 5\ndog 1 2 3 4\n",
        b"1 5\n" + b"x" * 20_000,
        b"1 5\ndog " + struct.pack("<5f", 1, 2, float("inf"), 4, 5),
        b"\x1f\x8bbroken gzip",
        bytes(range(256)) * 4,
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    """Texts of another kind, damaged numbers, endless words and broken archives each give one sentence."""
    path = tmp_path / "damaged.bin"
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read") as caught:
        load_word_vectors(path, VOCABULARY, dimension=DIMENSION)
    assert "\n" not in str(caught.value)


class _Mischief:
    """What a malicious file would carry."""

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (Path("was-executed"),))


@pytest.mark.parametrize(
    "content", [_Mischief(), {"wv": _Mischief()}, [1, 2], {"vectors": 3}], ids=["bare", "nested", "list", "dict"]
)
def test_nothing_in_a_gensim_file_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object) -> None:
    """A pickle with anything but gensim's containers and arrays is refused, and nothing of it runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.kv").write_bytes(pickle.dumps(content))
    with pytest.raises(InputError):
        load_word_vectors(tmp_path / "evil.kv", VOCABULARY, dimension=DIMENSION)
    assert not (tmp_path / "was-executed").exists()


def test_an_empty_vocabulary_has_no_coverage(vectors: KeyedVectors, tmp_path: Path) -> None:
    """A vocabulary of special words only finds nothing, which is refused."""
    with pytest.raises(InputError, match="0 words"):
        load_word_vectors(_write(vectors, tmp_path, "vectors.bin"), Vocabulary(VOCABULARY.words[:4]), dimension=DIMENSION)
