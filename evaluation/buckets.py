"""Scores on parts of the images: by length of the references, by how common their words are, by how far they agree.

In: evaluations of the same images, and the references. Out: Dimensions. Apart, because it divides images and adds statistics up
again; no n-gram is counted, and CIDEr keeps the document frequencies of all references.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from capt.vocabulary import tokenize
from evaluation.metrics import METRICS
from evaluation.scores import Evaluation
from evaluation.significance import Bootstrap, interval, resampled_sums
from reports.findings import Dimension, Estimate

_QUARTERS, _HALVES = 80, 20  # images from which on they are divided into four, or two

Named = tuple[str, Evaluation]


def dimensions(systems: Sequence[Named], references: Sequence[Sequence[str]] | None, options: Bootstrap) -> list[Dimension]:
    """Divide the images, and score each part.

    Args:
        systems: Name and evaluation; the baseline first; all rows of the same images.
        references: Human captions, N lists; None when they are not at hand.
        options: Of the intervals.

    Returns:
        One dimension for each way to divide that makes sense here; none when there are too few images.
    """
    n = len(systems[0][1].image_ids)
    found = []
    parts = 4 if n >= _QUARTERS else 2 if n >= _HALVES else 0
    for key, values in _values(references) if references is not None and parts else ():
        edges = np.unique(np.quantile(values, np.linspace(0, 1, parts + 1)))
        if len(edges) > 2:  # noqa: PLR2004  # two buckets or more
            bucket_of = np.searchsorted(edges[1:-1], values, side="right")
            found.append(_dimension(key, list(map(float, edges)), bucket_of, systems, options))
    empty = np.array([not any(texts) for texts in zip(*(each.captions for _, each in systems), strict=True)])
    if 0 < empty.sum() < n:
        found.append(_dimension("status", [], empty.astype(np.int64), systems, options))
    return found


def _values(references: Sequence[Sequence[str]]) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Give what images are divided by."""
    words = [[tokenize(text) for text in texts] for texts in references]
    yield "reference_length", np.array([np.mean([len(each) for each in texts]) for texts in words])
    counts = Counter(word for texts in words for each in texts for word in each)
    yield "word_frequency", np.array([_common(texts, counts) for texts in words])
    if min(map(len, words)) > 1:
        yield "agreement", np.array([_agreement(texts) for texts in words])


def _common(texts: Sequence[Sequence[str]], counts: Mapping[str, int]) -> float:
    """Give the geometric mean of how often the words occur in all references."""
    logs = [np.log(counts[word]) for each in texts for word in each]
    return float(np.exp(np.mean(logs))) if logs else 1.0


def _agreement(texts: Sequence[Sequence[str]]) -> float:
    """Give the mean share of words that two references have in common."""
    sets = [frozenset(each) for each in texts]
    return float(np.mean([len(one & other) / (len(one | other) or 1) for one, other in combinations(sets, 2)]))


def _dimension(
    key: str, edges: Sequence[float], bucket_of: NDArray[np.int64], systems: Sequence[Named], options: Bootstrap
) -> Dimension:
    metrics = [name for name in METRICS if all(name in each.statistics for _, each in systems)]
    scores: dict[str, dict[str, list[Estimate]]] = {name: {} for name, _ in systems}
    differences: dict[str, dict[str, list[Estimate]]] = {name: {} for name, _ in systems[1:]}
    for bucket in range(int(bucket_of.max()) + 1):
        rows = np.flatnonzero(bucket_of == bucket)
        found = {score: values for metric in metrics for score, values in _scored(metric, systems, rows, options)}
        for score, (values, resampled) in found.items():
            for column, (name, _) in enumerate(systems):
                scores[name].setdefault(score, []).append(_estimate(values[column], resampled[:, column], len(rows), options))
                if column:
                    gain, gains = values[column] - values[0], resampled[:, column] - resampled[:, 0]
                    differences[name].setdefault(score, []).append(_estimate(gain, gains, len(rows), options))
    return Dimension(key=key, edges=edges, bucket_of=bucket_of, scores=scores, differences=differences)


def _scored(
    metric: str, systems: Sequence[Named], rows: NDArray[np.int64], options: Bootstrap
) -> Iterator[tuple[str, tuple[NDArray[np.float64], NDArray[np.float64]]]]:
    """Give each score of a metric: `(systems,)`, and the same in resamples of these images, `(R, systems)`."""
    tables = [each.statistics[metric][rows] for _, each in systems]
    width, n = tables[0].shape[1], len(rows)
    sums = np.hstack([table.sum(axis=0) for table in tables]).reshape(len(systems), width)
    drawn = resampled_sums(np.hstack(tables), options).reshape(-1, len(systems), width)  # the same images for all
    values, resampled = METRICS[metric].corpus(sums, n), METRICS[metric].corpus(drawn, n)
    for column, name in enumerate(METRICS[metric].names):
        yield name, (values[:, column], resampled[:, :, column])


def _estimate(value: float, resampled: NDArray[np.float64], n: int, options: Bootstrap) -> Estimate:
    low, high = interval(resampled, options)
    return Estimate(value=float(value), low=low, high=high, n=n)
