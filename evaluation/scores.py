"""What the judge found: scores that never travel alone, and the statistics they follow from.

In: nothing; these are nouns. Out: Score and Evaluation, which every command of `capt-eval` gives or takes. Apart from
evaluate.py, which makes them, and stored.py, which keeps them, because comparing and gating need neither Java nor n-grams.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_PERCENT = 100.0


@dataclass(frozen=True, kw_only=True)
class Score:
    """A number that never travels alone.

    Attributes:
        value: On the library's own scale.
        low: Lower end of the bootstrap interval.
        high: Its upper end.
        n: Images behind it.
        higher_is_better: False for perplexity.
        shown_times: What papers multiply it by.
    """

    value: float
    low: float
    high: float
    n: int
    higher_is_better: bool = True
    shown_times: float = _PERCENT


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """What a number means: the scores of something known, on the same references.

    Attributes:
        said: What was scored, one sentence.
        scores: By name, on the library's own scale.
        references_per_image: The most references that an image had here.
        n: Images.
    """

    said: str
    scores: Mapping[str, float]
    references_per_image: int
    n: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The judgement on one set of captions, N images.

    Attributes:
        scores: By name, as COCO prints them.
        figures: What explains them.
        signature: One line; equal lines mean comparable numbers.
        conditions: The same as data, and more.
        notes: Sentences that a reader must know.
        image_ids: In the order of all that follows.
        captions: As they were scored; empty where the image failed.
        per_image: Scores of single images by name, each `(N,)`.
        statistics: By metric, each `(N, S)` with the metric's columns; corpus scores follow from their sums.
        anchors: By name, when asked for.
        date: When it was scored, UTC, ISO 8601.
        git_hash: The commit of the folder in which it was scored; None outside a repository.
    """

    scores: Mapping[str, Score]
    figures: Mapping[str, float]
    signature: str
    conditions: Mapping[str, object]
    notes: Sequence[str]
    image_ids: Sequence[str]
    captions: Sequence[str]
    per_image: Mapping[str, NDArray[np.float64]] = field(repr=False)
    statistics: Mapping[str, NDArray[np.float64]] = field(repr=False)
    anchors: Mapping[str, Anchor] = field(default_factory=dict)
    date: str = ""
    git_hash: str | None = None


def mapping_of(value: object) -> dict[str, object]:
    """Take a part of an evaluation's conditions that is a mapping, such as `run` or `versions`.

    Args:
        value: The part; None where there is none.

    Returns:
        It; empty when it is no mapping.
    """
    return dict(value) if isinstance(value, Mapping) else {}
