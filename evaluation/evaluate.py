"""Pairs -> Evaluation: every score with its interval, and the two files that keep it.

In: pairs of captions and references, and which metrics. Out: an Evaluation; `scores.json` and `per_image.parquet`. Apart,
because this is the whole judging as one readable function, without a command line.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from capt.errors import InputError, OutputError
from evaluation import perplexity
from evaluation.figures import explaining_figures
from evaluation.java import Java, find_java
from evaluation.metrics import METRICS, Measured, Tokens
from evaluation.pairs import Pairs
from evaluation.signature import conditions, signature
from evaluation.significance import Bootstrap, interval, resampled_sums
from evaluation.tokenizer import tokenize

SCORES_FILE, PER_IMAGE_FILE = "scores.json", "per_image.parquet"
SCORES_FORMAT = 1

_FEW_IMAGES = 100  # below this, CIDEr's document frequencies mean little
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


class ScoresFile(TypedDict):
    """What `scores.json` holds."""

    format: int
    """Of this file; raised when a key changes its meaning."""
    date: str
    """When it was scored, UTC, ISO 8601."""
    signature: str
    """Everything that changes a number, as one line."""
    scores: dict[str, dict[str, float]]
    """Name -> value, low, high (library's scale), n, higher_is_better, shown_times."""
    figures: dict[str, float]
    """What explains the scores: lengths, distinct words and captions, repetition."""
    conditions: dict[str, object]
    """Everything that changes a number, as data: references, counts, versions, the run's fingerprint."""
    notes: list[str]
    """Sentences that a reader must know."""


def evaluate(
    pairs: Pairs,
    *,
    metrics: Sequence[str] = tuple(METRICS),
    bootstrap: Bootstrap | None = None,
    java: Java | None = None,
) -> Evaluation:
    """Score captions against their references.

    Args:
        pairs: At least two images when CIDEr is among the metrics.
        metrics: Keys of METRICS; perplexity comes along whenever the captions carry likelihoods.
        bootstrap: How intervals are computed.
        java: The runtime for METEOR and the tokeniser; found when not given.

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
    tokens, measured = _measure(pairs, metrics, java or find_java())
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
        figures=explaining_figures(tokens.captions, tokens.references),
        signature=signature(found_conditions),
        conditions=found_conditions,
        notes=_notes(pairs, reason, metrics),
        image_ids=pairs.image_ids,
        captions=pairs.captions,
        per_image=per_image,
        statistics=statistics,
    )


def save(evaluation: Evaluation, folder: Path) -> None:
    """Write `per_image.parquet` and then `scores.json`; each exists whole or not at all.

    Args:
        evaluation: What `evaluate` gave.
        folder: Made when it is not there.

    Raises:
        OutputError: If it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        table = folder / f".{PER_IMAGE_FILE}.tmp"
        pq.write_table(per_image_table(evaluation), table)
        table.replace(folder / PER_IMAGE_FILE)
        text = folder / f".{SCORES_FILE}.tmp"
        text.write_text(json.dumps(scores_file(evaluation), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        text.replace(folder / SCORES_FILE)
    except OSError as error:
        message = f"{folder} cannot be written ({error.strerror or error}): choose another folder with --output"
        raise OutputError(message) from error


def scores_file(evaluation: Evaluation) -> ScoresFile:
    """Give what `scores.json` holds.

    Args:
        evaluation: What `evaluate` gave.

    Returns:
        Plain values.
    """
    return ScoresFile(
        format=SCORES_FORMAT,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        signature=evaluation.signature,
        scores={name: asdict(score) for name, score in evaluation.scores.items()},
        figures=dict(evaluation.figures),
        conditions=dict(evaluation.conditions),
        notes=list(evaluation.notes),
    )


def per_image_table(evaluation: Evaluation) -> pa.Table:
    """Give what `per_image.parquet` holds: id, caption, scores by name, and statistics as `METRIC.column`.

    Args:
        evaluation: What `evaluate` gave.

    Returns:
        One row an image; the signature is in the metadata under `capt_signature`.
    """
    columns: dict[str, object] = {"image_id": list(evaluation.image_ids), "caption": list(evaluation.captions)}
    columns |= evaluation.per_image
    for name, table in evaluation.statistics.items():
        names = perplexity.COLUMNS if name == perplexity.NAME else METRICS[name].columns
        columns |= {f"{name}.{column}": table[:, index] for index, column in enumerate(names)}
    return pa.table(columns, metadata={"capt_signature": evaluation.signature})


def _measure(pairs: Pairs, metrics: Sequence[str], java: Java) -> tuple[Tokens, dict[str, Measured]]:
    """Start what loads slowly, tokenise meanwhile, then let all metrics run side by side."""
    lengths = [len(texts) for texts in pairs.references]
    flat = [text for texts in pairs.references for text in texts]
    with ThreadPoolExecutor(max_workers=len(metrics) + 1) as pool, ExitStack() as stack:
        measures = {name: stack.enter_context(METRICS[name].open(java)) for name in METRICS if name in metrics}
        captions = pool.submit(tokenize, pairs.captions, java)
        lines = iter(tokenize(flat, java))
        tokens = Tokens(captions=captions.result(), references=[[next(lines) for _ in range(length)] for length in lengths])
        futures = {name: pool.submit(measure, tokens) for name, measure in measures.items()}
        return tokens, {name: future.result() for name, future in futures.items()}


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
