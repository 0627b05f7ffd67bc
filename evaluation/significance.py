"""Bootstrap intervals from statistics: images are drawn again, their rows added up, never an n-gram counted again.

In: statistics per image. Out: sums of resamples, and intervals of the scores that follow from them. Apart, because it is the
same for every metric and must be seeded and full-size in one place.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ELEMENTS = 4_000_000  # of counts held at once, 32 MB


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How intervals are computed.

    Attributes:
        resamples: How many times the images are drawn again, each time as many as there are.
        seed: Of the drawing; the same seed draws the same images for every metric and every run.
        confidence: The share of resamples inside the interval.
    """

    resamples: int = 1000
    seed: int = 12345
    confidence: float = 0.95

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: If there are too few resamples for the confidence, or it is no share.
        """
        if not 0 < self.confidence < 1:
            message = f"confidence is {self.confidence}; it must lie between 0 and 1"
            raise ValueError(message)
        if self.resamples * (1 - self.confidence) < 2:  # noqa: PLR2004  # one on each side
            message = f"{self.resamples} resamples are too few for an interval; take 100 or more"
            raise ValueError(message)


def resampled_sums(statistics: NDArray[np.float64], bootstrap: Bootstrap) -> NDArray[np.float64]:
    """Add up the statistics of images drawn with replacement.

    Args:
        statistics: `(N, S)`.
        bootstrap: How many times, and the seed.

    Returns:
        `(R, S)`; each row is the sum over N draws.
    """
    return np.concatenate([counts @ statistics for counts in _draws(len(statistics), bootstrap)])


def interval(values: NDArray[np.float64], bootstrap: Bootstrap) -> tuple[float, float]:
    """Give the percentile interval of resampled scores.

    Args:
        values: `(R,)`.
        bootstrap: The confidence.

    Returns:
        Its lower and upper end.
    """
    tail = (1 - bootstrap.confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _draws(n: int, bootstrap: Bootstrap) -> Iterator[NDArray[np.float64]]:
    """Give how often each image was drawn, `(rows, N)`, in blocks that fit into memory."""
    generator = np.random.default_rng(bootstrap.seed)
    rows = max(1, _ELEMENTS // n)
    for start in range(0, bootstrap.resamples, rows):
        size = min(rows, bootstrap.resamples - start)
        yield generator.multinomial(n, np.full(n, 1 / n), size=size).astype(np.float64)
