"""Intervals and tests from statistics: images are drawn again or swapped, their rows added up, never an n-gram counted again.

In: statistics per image. Out: sums of resamples, and the intervals and p-values of the scores that follow from them. Apart,
because it is the same for every metric and must be seeded and full-size in one place.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ELEMENTS = 4_000_000  # of counts held at once, 32 MB


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How intervals and tests are computed.

    Attributes:
        resamples: How many times the images are drawn again, each time as many as there are; and, in tests, how many times
            two systems swap captions.
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


def swapped_sums(moves: NDArray[np.float64], bootstrap: Bootstrap) -> NDArray[np.float64]:
    """Add up what changes sides when two systems swap their captions of each image with probability 1/2.

    Args:
        moves: `(N, S)`, what the first system gains when an image is swapped: the second's statistics minus the first's.
        bootstrap: How many times, and the seed.

    Returns:
        `(R, S)`; the first system's sums grow by it, the second's shrink.
    """
    return np.concatenate([swaps @ moves for swaps in _swaps(len(moves), bootstrap)])


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


def two_sided_p(values: NDArray[np.float64], observed: float, *, noise: float = 0.0) -> float:
    """Give the share of resamples that lie at least as far from zero as what was observed.

    The observation counts as one of them, so p is never 0; a tie counts once, so p of no difference at all is 1.

    Args:
        values: `(R,)`, differences drawn from a world without a difference.
        observed: The difference found.
        noise: Differences closer than this are ties: what the order of a sum does to its last digits.

    Returns:
        p, from 1 / (R + 1) to 1.
    """
    as_far = np.count_nonzero(np.abs(values) >= abs(observed) - noise)
    return float((as_far + 1) / (len(values) + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values of several tests, so that the chance of even one false alarm stays below the level of one test.

    Args:
        p_values: One a test.

    Returns:
        The corrected ones, in the same order, never above 1; one test alone keeps its p.

    Source:
        Holm 1979: the smallest is multiplied by the number of tests, the next by one less, and none overtakes another.
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(np.asarray(p_values, dtype=np.float64)[order] * factors), 1.0)
    return [float(p) for p in corrected]


def _draws(n: int, bootstrap: Bootstrap) -> Iterator[NDArray[np.float64]]:
    """Give how often each image was drawn, `(rows, N)`, in blocks that fit into memory; whole numbers on every machine."""
    generator = np.random.default_rng(bootstrap.seed)
    for rows in _blocks(n, bootstrap):
        counts = np.empty((rows, n))
        for row, drawn in enumerate(generator.integers(0, n, size=(rows, n), dtype=np.int64)):
            counts[row] = np.bincount(drawn, minlength=n)
        yield counts


def _swaps(n: int, bootstrap: Bootstrap) -> Iterator[NDArray[np.float64]]:
    """Give whether each image is swapped, `(rows, N)` of 0 and 1, in blocks that fit into memory."""
    generator = np.random.default_rng((bootstrap.seed, 1))  # other numbers than the draws
    words = -(-n // 32)
    for rows in _blocks(n, bootstrap):
        bits = generator.integers(0, 2**32, size=(rows, words), dtype=np.uint32).astype("<u4").view(np.uint8)
        yield np.unpackbits(bits, axis=1, count=n).astype(np.float64)


def _blocks(n: int, bootstrap: Bootstrap) -> Iterator[int]:
    """Divide the resamples into blocks of so many."""
    rows = max(1, _ELEMENTS // n)
    for start in range(0, bootstrap.resamples, rows):
        yield min(rows, bootstrap.resamples - start)
