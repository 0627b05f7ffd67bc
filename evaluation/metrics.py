"""The metrics: thin adapters to pycocoevalcap, each with the statistics per image from which its corpus score follows.

In: tokens of captions and references. Out: scores on the library's own scale, the same per image, and a table of statistics.
Apart, because a new metric is one class and one line here. Statistics are kept apart from scores (sacrebleu's idea), so that
an interval only adds rows up and never counts an n-gram again.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider_scorer import CiderScorer, cook_refs, cook_test
from pycocoevalcap.rouge.rouge import Rouge

from evaluation import meteor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evaluation.java import Java

Statistics = NDArray[np.float64]
Text = TypeVar("Text")


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """What is scored, as tokens joined by spaces.

    Attributes:
        captions: One per image, N.
        references: One or more per image, N lists.
    """

    captions: Sequence[str]
    references: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a metric found.

    Attributes:
        scores: Corpus scores by name, as the library computes them.
        per_image: Scores of single images by name, each `(N,)`.
        statistics: `(N, S)`; the corpus score is a function of its sums.
    """

    scores: Mapping[str, float]
    per_image: Mapping[str, NDArray[np.float64]]
    statistics: Statistics


Measure = Callable[[Tokens], Measured]


class Metric(Protocol):
    """A metric; its instances hold nothing."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of its scores, as COCO prints them."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Of its statistics, S."""
        ...

    @property
    def version(self) -> str:
        """What the signature says of it."""
        ...

    @property
    def slow(self) -> bool:
        """Whether its results are worth keeping."""
        ...

    def open(self, java: "Java") -> AbstractContextManager[Measure]:
        """Start what it needs; the measuring itself is the function that the context gives."""
        ...

    def corpus(self, sums: Statistics, n: int) -> Statistics:
        """Corpus scores `(..., len(names))` from sums `(..., S)` over n images."""
        ...


class Bleu:
    """BLEU-1 to 4 with the closest reference length; a corpus score, no mean over images."""

    names = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4")
    columns = ("length", "closest_length", *(f"{kind}_{n}" for kind in ("ngrams", "matches") for n in range(1, 5)))
    version = "closest"
    slow = False

    def open(self, java: "Java") -> AbstractContextManager[Measure]:  # noqa: ARG002  # Python alone
        """Nothing to start."""
        return nullcontext(self.measure)

    def measure(self, tokens: Tokens) -> Measured:
        """Score as pycocoevalcap does, and keep its counts."""
        scorer = BleuScorer(n=4)
        for caption, references in zip(tokens.captions, tokens.references, strict=True):
            scorer += (caption, list(references))
            scorer.crefs.clear()  # the n-grams of one image's references are needed for its own caption only
        scores, per_image = scorer.compute_score(option="closest", verbose=0)
        closest = [scorer._single_reflen(row["reflen"], "closest", row["testlen"]) for row in scorer.ctest]  # noqa: SLF001  # its own rule
        rows = [
            [row["testlen"], length, *row["guess"], *row["correct"]] for row, length in zip(scorer.ctest, closest, strict=True)
        ]
        return Measured(
            scores=dict(zip(self.names, map(float, scores), strict=True)),
            per_image={name: np.array(values) for name, values in zip(self.names, per_image, strict=True)},
            statistics=np.array(rows, dtype=np.float64).reshape(-1, len(self.columns)),
        )

    def corpus(self, sums: Statistics, n: int) -> Statistics:  # noqa: ARG002  # a ratio of sums
        """Geometric means of precisions, times the brevity penalty; the library's own small constants."""
        small, tiny = 1e-9, 1e-15
        precisions = (sums[..., 6:10] + tiny) / (sums[..., 2:6] + small)
        means = np.cumprod(precisions, axis=-1) ** (1.0 / np.arange(1, 5))
        ratio = (sums[..., 0] + tiny) / (sums[..., 1] + small)
        penalty = np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0)
        return np.asarray(means * penalty[..., None], dtype=np.float64)


class RougeL:
    """ROUGE-L, the mean over images of an F-score on the longest common subsequence."""

    names = ("ROUGE_L",)
    columns = ("rouge_l",)
    version = "beta1.2"
    slow = False

    def open(self, java: "Java") -> AbstractContextManager[Measure]:  # noqa: ARG002  # Python alone
        """Nothing to start."""
        return nullcontext(self.measure)

    def measure(self, tokens: Tokens) -> Measured:
        """Score as pycocoevalcap does."""
        gts = {index: list(references) for index, references in enumerate(tokens.references)}
        res = {index: [caption] for index, caption in enumerate(tokens.captions)}
        return _mean_of_images(self.names[0], *Rouge().compute_score(gts, res))

    def corpus(self, sums: Statistics, n: int) -> Statistics:
        """The mean."""
        return sums / n


class Cider:
    """CIDEr as pycocoevalcap computes it (CIDEr-D in substance); document frequencies come from the references scored."""

    names = ("CIDEr",)
    columns = ("cider",)
    version = "D,df=references"
    slow = False

    def open(self, java: "Java") -> AbstractContextManager[Measure]:  # noqa: ARG002  # Python alone
        """Nothing to start."""
        return nullcontext(self.measure)

    def measure(self, tokens: Tokens) -> Measured:
        """Score as pycocoevalcap does; n-grams are counted when they are needed, so that memory holds no image's but one."""
        scorer = CiderScorer()
        scorer.ctest = _Counted(tokens.captions, cook_test)
        scorer.crefs = _Counted(tokens.references, cook_refs)
        return _mean_of_images(self.names[0], *scorer.compute_score())

    def corpus(self, sums: Statistics, n: int) -> Statistics:
        """The mean; document frequencies stay those of all images."""
        return sums / n


class Meteor:
    """METEOR 1.5, the jar's own score; a corpus score, no mean over images."""

    names = ("METEOR",)
    columns = meteor.STATISTICS
    version = "1.5,norm"
    slow = True

    @contextmanager
    def open(self, java: "Java") -> "Iterator[Measure]":
        """Start the jar; it loads while others work."""
        with meteor.meteor_process(java) as process:
            yield lambda tokens: self.measure(tokens, process)

    def measure(self, tokens: Tokens, process: meteor.MeteorProcess) -> Measured:
        """Ask the jar."""
        score, scores, statistics = process.score(tokens.captions, tokens.references)
        return Measured(scores={"METEOR": score}, per_image={"METEOR": np.array(scores)}, statistics=statistics)

    def corpus(self, sums: Statistics, n: int) -> Statistics:  # noqa: ARG002  # a ratio of sums
        """The jar's formula on sums."""
        return meteor.corpus_score(sums)[..., None]


METRICS: Mapping[str, Metric] = {"BLEU": Bleu(), "METEOR": Meteor(), "ROUGE_L": RougeL(), "CIDEr": Cider()}


def _mean_of_images(name: str, score: float, scores: Sequence[float]) -> Measured:
    """Make Measured of what a scorer of pycocoevalcap found, whose corpus score is the mean over images."""
    per_image = np.asarray(scores, dtype=np.float64)
    return Measured(scores={name: float(score)}, per_image={name: per_image}, statistics=per_image[:, None])


class _Counted(Generic[Text]):
    """The n-grams of all images as a sequence that counts them anew each time it is walked through, and keeps none."""

    def __init__(self, texts: Sequence[Text], count: Callable[[Text], object]) -> None:
        self._texts, self._count = texts, count

    def __len__(self) -> int:
        return len(self._texts)

    def __iter__(self) -> "Iterator[object]":
        return map(self._count, self._texts)
