"""Bootstrap intervals: seeded, full-size, the same draws for every metric, close to the textbook's."""

import numpy as np
import pytest

from evaluation import significance
from evaluation.significance import Bootstrap, interval, resampled_sums


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


@pytest.mark.parametrize(
    ("resamples", "confidence", "message"), [(10, 0.95, "too few"), (1000, 95, "between 0 and 1"), (1000, 0, "between 0 and 1")]
)
def test_impossible_options_are_refused(resamples: int, confidence: float, message: str) -> None:
    """An interval needs resamples on both sides of it."""
    with pytest.raises(ValueError, match=message):
        Bootstrap(resamples=resamples, confidence=confidence)
