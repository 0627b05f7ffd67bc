"""Who is held against whom, and by which score: decided once, before any section is written.

In: Findings. Out: a Contest. Apart, because headline, examples and plots must speak of the same two captioners.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from capt.errors import InputError
from reports.differences import DifferenceShape, Finding
from reports.findings import Findings, System
from reports.wording import PRIMARY_ORDER, judge

_TIE = 1e-9  # scores of single images closer than this are the same


@dataclass(frozen=True, kw_only=True)
class Contest:
    """The score that decides, and the two captioners that the headline is about.

    Attributes:
        metric: The score that decides.
        times: What it is shown times.
        baseline: Held against.
        contender: The best of the others; the baseline itself when there is no other.
        difference: Of the contender to the baseline; None when there is no other.
        gains: Per image, the contender's score minus the baseline's, `(N,)`; zeros when there is no other.
    """

    metric: str
    times: float
    baseline: System
    contender: System
    difference: DifferenceShape | None
    gains: NDArray[np.float64] = field(repr=False)

    @property
    def judgement(self) -> Finding:
        """What the difference comes to."""
        return Finding.SAME if self.difference is None else judge(self.difference)

    @property
    def wins_ties_losses(self) -> tuple[int, int, int]:
        """On how many images the contender scores higher, the same, lower; each image counts once."""
        return count_signs(self.gains)


def decide(findings: Findings) -> Contest:
    """Choose the score and the captioners.

    Args:
        findings: What was found.

    Returns:
        The contest.

    Raises:
        InputError: If the captioners have no score in common.
    """
    metrics = [name for name in PRIMARY_ORDER if all(has_score(system, name) for system in findings.systems)]
    if not metrics:
        message = "the runs have no score in common: score them with the same metrics"
        raise InputError(message)
    metric, baseline = metrics[0], findings.baseline
    contender = max(findings.others, key=lambda system: system.judged.scores[metric].value, default=baseline)
    return Contest(
        metric=metric,
        times=baseline.judged.scores[metric].shown_times,
        baseline=baseline,
        contender=contender,
        difference=findings.differences[contender.name][metric] if findings.others else None,
        gains=contender.judged.per_image[metric] - baseline.judged.per_image[metric],
    )


def has_score(system: System, name: str) -> bool:
    """Whether a captioner has a score, over all images and image by image.

    Args:
        system: The captioner.
        name: Of the score.

    Returns:
        True when it has both.
    """
    return name in system.judged.scores and name in system.judged.per_image


def shared_scores(findings: Findings) -> Sequence[str]:
    """List the scores that every captioner has.

    Args:
        findings: What was found.

    Returns:
        Names, the one that decides first.
    """
    shared = [name for name in findings.baseline.judged.scores if all(name in each.judged.scores for each in findings.systems)]
    return sorted(shared, key=lambda name: PRIMARY_ORDER.index(name) if name in PRIMARY_ORDER else len(PRIMARY_ORDER))


def count_signs(gains: NDArray[np.float64]) -> tuple[int, int, int]:
    """Count images by who scores higher.

    Args:
        gains: Per image, one score minus the other.

    Returns:
        Wins, ties, losses.
    """
    wins, losses = int(np.count_nonzero(gains > _TIE)), int(np.count_nonzero(gains < -_TIE))
    return wins, len(gains) - wins - losses, losses
