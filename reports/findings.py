"""What a report is made from: raw numbers and texts, nothing rounded, nothing worded.

In: nothing; these are the nouns that the judge fills. Out: Findings. Apart from the report, because the judge knows files and
statistics and the report knows words; imports nothing of the judge, only its shapes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reports.differences import DifferenceShape
from reports.report import AnchorShape, EvaluationShape


class JudgedShape(EvaluationShape, Protocol):
    """An evaluation with its single images, all in the order of `Findings.image_ids`."""

    @property
    def conditions(self) -> Mapping[str, object]:
        """Everything that changes a number, as data."""
        ...

    @property
    def captions(self) -> Sequence[str]:
        """As they were scored; empty where the image failed."""
        ...

    @property
    def per_image(self) -> Mapping[str, NDArray[np.float64]]:
        """Scores of single images by name."""
        ...

    @property
    def date(self) -> str:
        """When it was scored."""
        ...

    @property
    def git_hash(self) -> str | None:
        """Where it was scored."""
        ...


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How long a run took, for `images` images; `stages` overlap, so their seconds may add up to more than `seconds`."""

    images: int
    seconds: float
    stages: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An image without a caption; `kind` is one of a few words."""

    image_id: str
    kind: str
    said: str


@dataclass(frozen=True, kw_only=True)
class System:
    """One captioner.

    Attributes:
        name: Unique in the report.
        judged: Its evaluation.
        speed: When the run tells.
        failures: Images without a caption; None when the captions table is not at hand.
        card: The checkpoint's model card, when the checkpoint is at hand.
        has_attention: Whether the run stored where the network looked.
    """

    name: str
    judged: JudgedShape
    speed: Speed | None = None
    failures: Sequence[Failure] | None = None
    card: Mapping[str, object] | None = None
    has_attention: bool = False


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its interval, on the library's scale, and the images behind it."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """A way to divide the images into buckets.

    Attributes:
        key: What is looked at, one of a few words.
        edges: Bucket `i` reaches from `edges[i]` to `edges[i + 1]`; empty when buckets have no edges.
        bucket_of: The bucket of each image, `(N,)`.
        scores: System -> score -> one estimate a bucket.
        differences: The same of differences to the baseline, for the other systems.
    """

    key: str
    edges: Sequence[float]
    bucket_of: NDArray[np.int64] = field(repr=False)
    scores: Mapping[str, Mapping[str, Sequence[Estimate]]]
    differences: Mapping[str, Mapping[str, Sequence[Estimate]]]


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch of a training log; scores on the library's scale."""

    epoch: int
    train_loss: float
    perplexity: float
    bleu_4: float
    cider: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training run."""

    name: str
    epochs: Sequence[Epoch]


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """A photograph made small: a JPEG and its size in pixels; or, without a JPEG, why there is none."""

    jpeg: bytes | None
    width: int = 0
    height: int = 0
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything that a report is made from, N images.

    Attributes:
        image_ids: In the order of everything per image.
        systems: At least one; the baseline first.
        references: Human captions, N lists; None when they are not at hand.
        differences: System -> score -> difference to the baseline.
        dimensions: Ways to divide the images.
        trainings: Learning curves.
        notes: Sentences that a reader must know.
        resamples: Of the bootstrap and of the tests.
        confidence: The share of resamples inside an interval.
        with_photographs: Whether a source of photographs was named.
        date: Of the report, ISO 8601.
        version: Of capt.
    """

    image_ids: Sequence[str]
    systems: Sequence[System]
    references: Sequence[Sequence[str]] | None = None
    differences: Mapping[str, Mapping[str, DifferenceShape]] = field(default_factory=dict)
    dimensions: Sequence[Dimension] = ()
    trainings: Sequence[Training] = ()
    notes: Sequence[str] = ()
    resamples: int = 1000
    confidence: float = 0.95
    with_photographs: bool = False
    date: str
    version: str

    @property
    def baseline(self) -> System:
        """What the others are held against."""
        return self.systems[0]

    @property
    def anchors(self) -> Mapping[str, AnchorShape]:
        """What is known on the same references: of the first captioner that was scored with it."""
        return next((system.judged.anchors for system in self.systems if system.judged.anchors), {})

    @property
    def others(self) -> Sequence[System]:
        """All but the baseline."""
        return self.systems[1:]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What is shown of the chosen images.

    Attributes:
        photographs: By image id; empty when no source was named.
        attention: System -> image id -> one square map of 0 to 255 a word, `(T, side, side)`.
    """

    photographs: Mapping[str, Photograph] = field(default_factory=dict)
    attention: Mapping[str, Mapping[str, NDArray[np.uint8]]] = field(default_factory=dict)
