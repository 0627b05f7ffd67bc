"""Word vectors from the captions themselves, for those who have no pretrained file.

In: human captions. Out: a word2vec file that `--word-vectors` reads. Apart, because it needs gensim and nothing else does.

Source:
    Mikolov et al. 2013 (word2vec, skip-gram with negative sampling), as implemented by gensim.
"""

import importlib.util
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from capt.errors import InputError, OutputError
from capt.references import read_references
from capt.vocabulary import tokenize
from jobs.training.texts import read_ids


@dataclass(frozen=True, kw_only=True)
class VectorOptions:
    """How word vectors are trained.

    Args:
        dimension: Numbers in a vector.
        window: Words on each side that are predicted.
        epochs: Passes over the captions.
        min_frequency: How often a word must occur to get a vector.
        seed: Of everything random; one thread is used, so that the same captions give the same vectors.
    """

    dimension: int = 300
    window: int = 5
    epochs: int = 20
    min_frequency: int = 2
    seed: int = 1

    def __post_init__(self) -> None:
        """Check every number.

        Raises:
            InputError: If one is below 1 (seed: below 0).
        """
        for name, lowest in (("dimension", 1), ("window", 1), ("epochs", 1), ("min_frequency", 1), ("seed", 0)):
            if getattr(self, name) < lowest:
                message = f"--{name.replace('_', '-')} must be at least {lowest}, not {getattr(self, name)}."
                raise InputError(message)


@dataclass(frozen=True, kw_only=True)
class VectorPlan:
    """Whose captions word vectors are trained on, and where they go.

    Args:
        references: Human captions, in any format of `capt.references`.
        output: The file to write.
        split: Only the captions of this split.
        images: A list: only the captions of these images.
        exclude: A list, or captions: not those of these images.
        exclude_except: A split of what is excluded that is not.
        options: How.
    """

    references: Path
    output: Path
    split: str | None = None
    images: Path | None = None
    exclude: Path | None = None
    exclude_except: str | None = None
    options: VectorOptions = field(default_factory=VectorOptions)


def make_vectors(plan: VectorPlan) -> str:
    """Train word vectors as planned.

    Args:
        plan: On what, and where to.

    Returns:
        What came of it, for people.

    Raises:
        InputError: If the captions cannot be read, or no vectors can be trained on them.
        OutputError: If the file cannot be written.
    """
    read = read_references(plan.references, split=plan.split, images=plan.images)
    unwanted = set(read.resolve(_excluded(plan)).values())
    captions = [text for image_id, texts in read.captions.items() if image_id not in unwanted for text in texts]
    count = train_vectors(captions, plan.output, plan.options)
    return f"{count:,} words from {len(captions):,} captions ({len(unwanted):,} images left out): {plan.output}"


def _excluded(plan: VectorPlan) -> list[str]:
    """Name the images whose captions are not read."""
    if plan.exclude is None:
        if plan.exclude_except is not None:
            message = "--exclude-except is about --exclude; give that as well, or leave it out."
            raise InputError(message)
        return []
    excluded = read_ids(plan.exclude)
    if plan.exclude_except is None:
        return excluded
    wanted = set(read_references(plan.exclude, split=plan.exclude_except).captions)
    return [image_id for image_id in excluded if image_id not in wanted]


def train_vectors(captions: Sequence[str], path: Path, options: VectorOptions) -> int:
    """Train word2vec on captions and write word2vec's binary format.

    Args:
        captions: As people wrote them.
        path: The file to write; it appears whole or not at all.
        options: How.

    Returns:
        How many words got a vector.

    Raises:
        InputError: If gensim is not installed, or no word occurs often enough.
        OutputError: If the file cannot be written.
    """
    if importlib.util.find_spec("gensim") is None:
        message = "Training word vectors needs gensim; install it with: pip install 'capt[train]'."
        raise InputError(message)
    from gensim.models import Word2Vec  # noqa: PLC0415 - an extra

    sentences = [tokenize(caption) for caption in captions]
    model = Word2Vec(
        vector_size=options.dimension,
        window=options.window,
        min_count=options.min_frequency,
        sg=1,
        negative=10,
        seed=options.seed,
        workers=1,
    )
    model.build_vocab(sentences)
    if len(model.wv) == 0:
        message = f"No word occurs {options.min_frequency} times in these captions; lower --min-frequency or give more captions."
        raise InputError(message)
    model.train(sentences, total_examples=len(sentences), epochs=options.epochs)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            written = Path(folder) / path.name
            model.wv.save_word2vec_format(str(written), binary=True)
            written.replace(path)
    except OSError as error:
        message = f"{path} cannot be written ({error.strerror or error}); choose another --output or make room."
        raise OutputError(message) from error
    return len(model.wv)
