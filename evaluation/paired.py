"""Two systems side by side: the same images drawn or swapped in both, and every score computed from the sums.

In: two evaluations of the same images, in any order. Out: each score of both, and its differences in resamples. Apart from
comparison.py, because here are only arrays, and one rule: a resample never sees the two systems on different images.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from evaluation import perplexity
from evaluation.metrics import METRICS
from evaluation.scores import Evaluation
from evaluation.significance import Bootstrap, resampled_sums, swapped_sums

Statistics = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PairedTables:
    """One metric's statistics of both systems, each row the same image in both.

    Attributes:
        names: Of the scores.
        baseline: `(N, S)`.
        other: `(N, S)`.
        corpus: Sums `(..., S)` to scores `(..., len(names))`.
    """

    names: Sequence[str]
    baseline: Statistics = field(repr=False)
    other: Statistics = field(repr=False)
    corpus: Callable[[Statistics], Statistics]


@dataclass(frozen=True, kw_only=True)
class ResampledScore:
    """One score of both systems, and the other's minus the baseline's in resamples of either kind.

    Attributes:
        name: Of the score.
        baseline: The baseline's.
        other: The other's.
        n: Images behind it.
        drawn: `(R,)`, images drawn with replacement, for both alike.
        swapped: `(R,)`, the two systems' captions of an image swapped with probability 1/2.
    """

    name: str
    baseline: float
    other: float
    n: int
    drawn: NDArray[np.float64] = field(repr=False)
    swapped: NDArray[np.float64] = field(repr=False)


def paired_tables(baseline: Evaluation, other: Evaluation) -> list[PairedTables]:
    """Put the statistics of each metric that both have side by side.

    Args:
        baseline: The one.
        other: The other, over the same images; their order may differ.

    Returns:
        The tables, in the baseline's order of images; perplexity over the images where both have it, see
        `unpaired_perplexity`.
    """
    rows = _rows(baseline, other)
    tables = [
        PairedTables(
            names=metric.names,
            baseline=baseline.statistics[name],
            other=other.statistics[name][rows],
            corpus=partial(metric.corpus, n=len(rows)),
        )
        for name, metric in METRICS.items()
        if name in baseline.statistics and name in other.statistics
    ]
    if perplexity.NAME in baseline.statistics and perplexity.NAME in other.statistics:
        here, there = _likelihoods(baseline, other)
        if len(here) and unpaired_perplexity(baseline, other) is None:
            tables.append(
                PairedTables(
                    names=(perplexity.NAME,),
                    baseline=here,
                    other=there,
                    corpus=lambda sums: perplexity.corpus_score(sums)[..., None],
                )
            )
    return tables


def unpaired_perplexity(baseline: Evaluation, other: Evaluation) -> str | None:
    """Say why the perplexities of two systems do not compare, although both have one.

    Perplexity is a mean over tokens. Two networks that split the same references into different numbers of tokens are asked
    different questions, and so are two that were asked about no image in common.

    Args:
        baseline: The one.
        other: The other, over the same images.

    Returns:
        A phrase, or None.
    """
    if perplexity.NAME not in baseline.statistics or perplexity.NAME not in other.statistics:
        return None
    here, there = _likelihoods(baseline, other)
    if not len(here):
        return "no image has likelihoods in both"
    if (here[:, 1] != there[:, 1]).any():
        return "the networks split the references into different numbers of tokens"
    return None


def resampled_scores(tables: Sequence[PairedTables], options: Bootstrap) -> Iterator[ResampledScore]:
    """Draw and swap images, once for all metrics that are over as many images.

    Args:
        tables: What `paired_tables` gave.
        options: Resamples and seed.

    Yields:
        Each score.
    """
    for n, group in groupby(tables, key=lambda each: len(each.baseline)):
        chosen = list(group)
        before, after = np.hstack([each.baseline for each in chosen]), np.hstack([each.other for each in chosen])  # (N, all S)
        old, new = np.hsplit(resampled_sums(np.hstack([before, after]), options), 2)  # (R, all S), the same images in both
        moved = swapped_sums(after - before, options)
        start = 0
        for each in chosen:
            part = slice(start, start := start + each.baseline.shape[1])
            here, there = before[:, part].sum(axis=0), after[:, part].sum(axis=0)
            with np.errstate(invalid="ignore"):  # of two perplexities without bound the difference is no number, which is told
                drawn = each.corpus(new[:, part]) - each.corpus(old[:, part])  # (R, names)
                swapped = each.corpus(there - moved[:, part]) - each.corpus(here + moved[:, part])
            for name, *values in zip(each.names, each.corpus(here), each.corpus(there), drawn.T, swapped.T, strict=True):
                yield ResampledScore(
                    name=name, n=n, baseline=float(values[0]), other=float(values[1]), drawn=values[2], swapped=values[3]
                )


def _rows(baseline: Evaluation, other: Evaluation) -> list[int]:
    """Find the other's row of each of the baseline's images."""
    row_of = {image_id: row for row, image_id in enumerate(other.image_ids)}
    return [row_of[image_id] for image_id in baseline.image_ids]


def _likelihoods(baseline: Evaluation, other: Evaluation) -> tuple[Statistics, Statistics]:
    """Give nats and tokens of the images that have them in both, `(n, 2)` each."""
    here, there = baseline.statistics[perplexity.NAME], other.statistics[perplexity.NAME][_rows(baseline, other)]
    both = (here[:, 1] > 0) & (there[:, 1] > 0)
    return here[both], there[both]
