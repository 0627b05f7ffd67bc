"""Pairs -> Evaluation: every score with its interval, n and signature.

In: pairs of captions and references, and which metrics. Out: an Evaluation. Apart, because this is the whole judging as one
readable function, without a command line and without files.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from capt.errors import InputError
from evaluation import perplexity
from evaluation.figures import explaining_figures, unseen_share
from evaluation.measure import Instruments, measure
from evaluation.metrics import METRICS, Measured, Tokens
from evaluation.pairs import Pairs
from evaluation.scores import Evaluation, Score
from evaluation.signature import conditions, current_commit, signature
from evaluation.significance import Bootstrap, interval, resampled_sums

_FEW_IMAGES = 100  # below this, CIDEr's document frequencies mean little


def evaluate(
    pairs: Pairs,
    *,
    metrics: Sequence[str] = tuple(METRICS),
    bootstrap: Bootstrap | None = None,
    training: Collection[str] | None = None,
    instruments: Instruments | None = None,
) -> Evaluation:
    """Score captions against their references.

    Args:
        pairs: At least two images when CIDEr is among the metrics.
        metrics: Keys of METRICS; perplexity comes along whenever the captions carry likelihoods.
        bootstrap: How intervals are computed.
        training: Captions that the captioner learned from, as written; tell how many of its own are copies.
        instruments: Java for METEOR and the tokeniser, and the cache; the user's when not given.

    Returns:
        The evaluation.

    Raises:
        InputError: If there are too few images.
        JavaError: If Java fails.
    """
    bootstrap = bootstrap or Bootstrap()
    n = len(pairs.image_ids)
    if "CIDEr" in metrics and n < 2:  # noqa: PLR2004  # its document frequencies need another image
        message = f"CIDEr needs two images or more, and there is {n}: score more, or choose another metric"
        raise InputError(message)
    tokens, measured = measure(pairs.captions, pairs.references, metrics, instruments or Instruments())
    scores = _scores(measured, bootstrap)
    statistics = {name: found.statistics for name, found in measured.items()}
    per_image = {name: values for found in measured.values() for name, values in found.per_image.items()}
    reason = perplexity.missing_likelihoods(pairs.likelihoods, pairs.references)
    if reason is None:
        statistics[perplexity.NAME] = perplexity.statistics(pairs.likelihoods)
        per_image[perplexity.NAME] = perplexity.corpus_score(statistics[perplexity.NAME])
        scores[perplexity.NAME] = _perplexity(statistics[perplexity.NAME], bootstrap)
    found_conditions = conditions(pairs, list(measured), bootstrap)
    return Evaluation(
        scores=scores,
        figures=_figures(pairs, tokens, training),
        signature=signature(found_conditions),
        conditions=found_conditions,
        notes=_notes(pairs, reason, metrics),
        image_ids=pairs.image_ids,
        captions=pairs.captions,
        per_image=per_image,
        statistics=statistics,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        git_hash=current_commit(),
    )


def _figures(pairs: Pairs, tokens: Tokens, training: Collection[str] | None) -> dict[str, float]:
    """Gather what explains the scores."""
    found = dict(explaining_figures(tokens.captions, tokens.references))
    unknown = perplexity.unknown_share(pairs.likelihoods)
    if unknown is not None:
        found["unknown_reference_words"] = unknown
    if training is not None:
        found["unseen_captions"] = unseen_share(pairs.captions, training)
    return found


def _scores(measured: Mapping[str, Measured], bootstrap: Bootstrap) -> dict[str, Score]:
    """Give every score its interval; all metrics see the same resamples."""
    n = len(next(iter(measured.values())).statistics)
    sums = resampled_sums(np.hstack([found.statistics for found in measured.values()]), bootstrap)  # (R, all columns)
    scores: dict[str, Score] = {}
    start = 0
    for name, found in measured.items():
        end = start + found.statistics.shape[1]
        resampled = METRICS[name].corpus(sums[:, start:end], n)  # (R, scores)
        for column, (each, value) in enumerate(found.scores.items()):
            low, high = interval(resampled[:, column], bootstrap)
            scores[each] = Score(value=value, low=low, high=high, n=n)
        start = end
    return scores


def _perplexity(statistics: NDArray[np.float64], bootstrap: Bootstrap) -> Score:
    """Give perplexity over the images that have likelihoods."""
    known = statistics[statistics[:, 1] > 0]
    low, high = interval(perplexity.corpus_score(resampled_sums(known, bootstrap)), bootstrap)
    value = float(perplexity.corpus_score(known.sum(axis=0)))
    return Score(value=value, low=low, high=high, n=len(known), higher_is_better=False, shown_times=1.0)


def _notes(pairs: Pairs, perplexity_reason: str | None, metrics: Sequence[str]) -> list[str]:
    """Say what a reader must know before believing a number."""
    notes = []
    if pairs.missing:
        notes.append(
            f"Partial: {pairs.missing:,} images of the references have no caption, so nothing compares with these scores."
        )
    if pairs.extra:
        notes.append(f"{pairs.extra:,} captions without references were left out.")
    if pairs.failed:
        notes.append(f"{pairs.failed:,} images failed in the run and count as empty captions.")
    if "CIDEr" in metrics and len(pairs.image_ids) < _FEW_IMAGES:
        notes.append(f"CIDEr over {len(pairs.image_ids)} images means little: it weighs words by the references scored.")
    if perplexity_reason:
        notes.append(perplexity_reason)
    return notes
