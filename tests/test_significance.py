"""Resampling: seeded, full-size, the same for every metric; intervals like the textbook's, p-values like the enumerated ones."""

from itertools import product

import numpy as np
import pytest

from evaluation import significance
from evaluation.significance import Bootstrap, holm, interval, resampled_sums, swapped_sums, two_sided_p


def test_the_interval_of_a_mean_is_the_textbooks() -> None:
    """For a mean, the bootstrap's interval is mean ± 1.96 standard errors, within sampling error."""
    values = np.random.default_rng(0).normal(5, 2, size=(400, 1))
    bootstrap = Bootstrap(resamples=4000)
    low, high = interval(resampled_sums(values, bootstrap)[:, 0] / len(values), bootstrap)
    margin = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - margin, abs=0.1 * margin)
    assert high == pytest.approx(values.mean() + margin, abs=0.1 * margin)


def test_resamples_are_full_size_and_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each resample draws N images; the same seed gives the same ones, in blocks or at once; another seed gives others."""
    ones = np.ones((50, 1))
    assert set(resampled_sums(ones, Bootstrap())[:, 0]) == {50.0}
    numbers = np.arange(50.0)[:, None]
    first = resampled_sums(numbers, Bootstrap())
    assert (first == resampled_sums(numbers, Bootstrap())).all()
    assert (first != resampled_sums(numbers, Bootstrap(seed=1))).any()
    monkeypatch.setattr(significance, "_ELEMENTS", 120)
    assert (first == resampled_sums(numbers, Bootstrap())).all()
    both = resampled_sums(np.hstack([numbers, -numbers]), Bootstrap())
    assert (both[:, 0] == -both[:, 1]).all()


def test_images_are_drawn_with_replacement_and_alike() -> None:
    """How often an image is drawn has mean 1 and variance 1 - 1/N, as in a full-size bootstrap, and in no half-size one."""
    counts = resampled_sums(np.eye(40), Bootstrap(resamples=5000))
    assert counts.mean(axis=0) == pytest.approx(np.ones(40), abs=0.08)
    assert counts.var() == pytest.approx(1 - 1 / 40, rel=0.02)
    assert (counts.sum(axis=1) == 40).all()


def test_images_are_swapped_with_probability_one_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image is swapped in half of the resamples, independently; equal seeds swap alike, in blocks or at once."""
    swaps = swapped_sums(np.eye(40), Bootstrap(resamples=5000))
    assert set(np.unique(swaps)) == {0.0, 1.0}
    assert swaps.mean(axis=0) == pytest.approx(np.full(40, 0.5), abs=0.03)
    assert np.abs(np.corrcoef(swaps.T) - np.eye(40)).max() < 0.07  # five standard errors of 780 correlations
    assert len(np.unique(swaps, axis=0)) == 5000
    monkeypatch.setattr(significance, "_ELEMENTS", 120)
    assert (swaps == swapped_sums(np.eye(40), Bootstrap(resamples=5000))).all()
    assert (swaps != swapped_sums(np.eye(40), Bootstrap(resamples=5000, seed=1))).any()


def test_p_is_that_of_all_swaps_enumerated() -> None:
    """With 10 images, approximate randomisation finds the p of all 1,024 ways to swap, within its own error."""
    moves = np.array([3.0, -1, 4, 1, -5, 2, 6, 5, -3, 5])[:, None]
    observed = float(moves.sum())
    every = np.array([float((np.array(signs) * moves[:, 0]).sum()) for signs in product((-1, 1), repeat=10)])
    exact = float((np.abs(every) >= abs(observed)).mean())
    swapped = observed - 2 * swapped_sums(moves, Bootstrap(resamples=20_000))[:, 0]
    assert 0.02 < exact < 0.5
    assert two_sided_p(swapped, observed) == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000))


def test_ties_count_once_and_the_observation_counts() -> None:
    """The p is (as far or farther + 1) / (R + 1): 1 when nothing differs, never 0, and the last digits of a sum break no tie."""
    assert two_sided_p(np.zeros(99), 0.0) == 1.0
    assert two_sided_p(np.zeros(99), 0.5) == 0.01
    assert two_sided_p(np.array([0.5, -0.5, 0.4]), -0.5) == 0.75
    assert two_sided_p(np.full(3, 0.1 + 0.2), 0.3 + 1e-15, noise=1e-12) == 1.0


def test_holm_is_the_books() -> None:
    """Known answer: 0.01, 0.04, 0.03 become 0.03, 0.06, 0.06; one test keeps its p, and none exceeds 1."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.2]) == [0.2]
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("resamples", "confidence", "message"), [(10, 0.95, "too few"), (1000, 95, "between 0 and 1"), (1000, 0, "between 0 and 1")]
)
def test_impossible_options_are_refused(resamples: int, confidence: float, message: str) -> None:
    """An interval needs resamples on both sides of it."""
    with pytest.raises(ValueError, match=message):
        Bootstrap(resamples=resamples, confidence=confidence)
