"""Evaluations on disk: `scores.json` for people and programs, `per_image.parquet` for everything that compares.

In: an Evaluation, or the folder or file that keeps one. Out: files that exist whole or not at all, or the Evaluation again.
Apart, because this is a seam: what is compared, gated or reported is read back here, and no n-gram is ever counted again.
`per_image.parquet` carries `scores.json` in its metadata, so it is complete alone: a baseline is that one file.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from capt.errors import InputError, first_line
from capt.files import write_whole
from capt.remote import PARQUET_FAULTS
from evaluation import perplexity
from evaluation.metrics import METRICS
from evaluation.scores import Anchor, Evaluation, Score

SCORES_FILE, PER_IMAGE_FILE = "scores.json", "per_image.parquet"
SCORES_FORMAT = 1
METADATA_KEY = b"capt_scores"
_HUGE = 1e15  # no sum of counts comes near, and sums of such sums stay numbers


class ScoresFile(TypedDict):
    """What `scores.json` holds."""

    format: int
    """Of this file; raised when a key changes its meaning."""
    date: str
    """When it was scored, UTC, ISO 8601."""
    git_hash: str | None
    """The commit of the folder in which it was scored, null outside a repository."""
    signature: str
    """Everything that changes a number, as one line."""
    scores: dict[str, dict[str, float]]
    """Name -> value, low, high (library's scale), n, higher_is_better, shown_times."""
    figures: dict[str, float]
    """What explains the scores: lengths, distinct words and captions, repetition."""
    anchors: dict[str, dict[str, object]]
    """Name -> said, scores, references_per_image, n: something known, scored on the same references."""
    conditions: dict[str, object]
    """Everything that changes a number, as data: references, counts, versions, the run's fingerprint."""
    notes: list[str]
    """Sentences that a reader must know."""


def save(evaluation: Evaluation, folder: Path) -> None:
    """Write `per_image.parquet` and then `scores.json`; each exists whole or not at all.

    Args:
        evaluation: What `evaluate` gave.
        folder: Made when it is not there.

    Raises:
        OutputError: If it cannot be written.
    """
    save_file(evaluation, folder / PER_IMAGE_FILE)
    write_whole(folder / SCORES_FILE, f"{_as_json(evaluation, indent=2)}\n".encode())


def save_file(evaluation: Evaluation, path: Path) -> None:
    """Write an evaluation as one parquet file, such as a baseline; it exists whole or not at all.

    Args:
        evaluation: What `evaluate` gave.
        path: The file; replaced when it exists.

    Raises:
        OutputError: If it cannot be written.
    """
    buffer = pa.BufferOutputStream()
    pq.write_table(per_image_table(evaluation), buffer, compression="zstd")
    write_whole(path, buffer.getvalue().to_pybytes())


def load(path: Path) -> Evaluation:
    """Read an evaluation back.

    Args:
        path: The folder that `save` wrote, or a file of `save_file`.

    Returns:
        The evaluation; scores and statistics to the last digit.

    Raises:
        InputError: If there is none, or it is of another format or not whole.
    """
    file = path / PER_IMAGE_FILE if path.is_dir() else path
    if not file.is_file():
        message = f"{path} holds no scores: give the folder that `capt-eval score CAPTIONS --references REFS -o SCORES` wrote"
        raise InputError(message)
    try:
        table = pq.ParquetFile(file).read()
    except PARQUET_FAULTS as error:
        message = f"{file} cannot be read ({first_line(error)}): score the captions again with `capt-eval score`"
        raise InputError(message) from error
    text = (table.schema.metadata or {}).get(METADATA_KEY)
    if text is None:
        message = f"{file} holds no scores of capt-eval: score the captions first, with `capt-eval score`"
        raise InputError(message)
    try:
        content = json.loads(text)
        _check(content)
        return _evaluation(content, table)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, pa.ArrowException) as error:
        message = (
            f"{file} is not whole ({type(error).__name__}: {first_line(error)}): score the captions again with `capt-eval score`"
        )
        raise InputError(message) from error


def is_scored(path: Path) -> bool:
    """Whether a path holds an evaluation, as against captions that are still to be scored.

    Args:
        path: A folder or a file; need not exist.

    Returns:
        True when `load` is the way to read it.
    """
    file = path / PER_IMAGE_FILE if path.is_dir() else path
    try:
        return METADATA_KEY in (pq.read_schema(file).metadata or {})
    except PARQUET_FAULTS:  # also a name that is not UTF-8
        return False


def scores_file(evaluation: Evaluation) -> ScoresFile:
    """Give what `scores.json` holds.

    Args:
        evaluation: What `evaluate` gave.

    Returns:
        Plain values.
    """
    return ScoresFile(
        format=SCORES_FORMAT,
        date=evaluation.date,
        git_hash=evaluation.git_hash,
        signature=evaluation.signature,
        scores={name: asdict(score) for name, score in evaluation.scores.items()},
        figures=dict(evaluation.figures),
        anchors={name: asdict(anchor) for name, anchor in evaluation.anchors.items()},
        conditions=dict(evaluation.conditions),
        notes=list(evaluation.notes),
    )


def per_image_table(evaluation: Evaluation) -> pa.Table:
    """Give what `per_image.parquet` holds: id, caption, scores by name, and statistics as `METRIC.column`.

    Args:
        evaluation: What `evaluate` gave.

    Returns:
        One row an image; the metadata holds `scores.json` under `capt_scores`.
    """
    columns: dict[str, object] = {"image_id": list(evaluation.image_ids), "caption": list(evaluation.captions)}
    columns |= evaluation.per_image
    for name, table in evaluation.statistics.items():
        columns |= {f"{name}.{column}": table[:, index] for index, column in enumerate(columns_of(name))}
    return pa.table(columns, metadata={METADATA_KEY: _as_json(evaluation)})


def columns_of(metric: str) -> tuple[str, ...]:
    """Name the statistics of a metric.

    Args:
        metric: A key of METRICS, or perplexity.

    Returns:
        One name for each column.
    """
    return perplexity.COLUMNS if metric == perplexity.NAME else METRICS[metric].columns


def names_of(metric: str) -> tuple[str, ...]:
    """Name the scores of a metric.

    Args:
        metric: A key of METRICS, or perplexity.

    Returns:
        As COCO prints them.
    """
    return (perplexity.NAME,) if metric == perplexity.NAME else METRICS[metric].names


def _as_json(evaluation: Evaluation, *, indent: int | None = None) -> str:
    return json.dumps(scores_file(evaluation), indent=indent, ensure_ascii=False)


def _evaluation(content: ScoresFile, table: pa.Table) -> Evaluation:
    """Put an evaluation together from the metadata and the columns of its file."""
    if content["format"] > SCORES_FORMAT:
        message = f"format {content['format']} is newer than this version of capt reads ({SCORES_FORMAT})"
        raise ValueError(message)
    metrics = [name for name in (*METRICS, perplexity.NAME) if f"{name}.{columns_of(name)[0]}" in table.column_names]
    plain = [name for name in table.column_names if "." not in name and name not in {"image_id", "caption"}]
    evaluation = Evaluation(
        scores={name: _score(values) for name, values in content["scores"].items()},
        figures=content["figures"],
        signature=content["signature"],
        conditions=content["conditions"],
        notes=content["notes"],
        image_ids=table.column("image_id").to_pylist(),
        captions=table.column("caption").to_pylist(),
        per_image={name: _numbers(table, name) for name in plain},
        statistics={
            name: np.stack([_numbers(table, f"{name}.{column}") for column in columns_of(name)], axis=1) for name in metrics
        },
        anchors={name: Anchor(**values) for name, values in content["anchors"].items()},  # type: ignore[arg-type]  # JSON
        date=content["date"],
        git_hash=content["git_hash"],
    )
    _check_rows(evaluation)
    return evaluation


_KINDS: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("signature", "date"), str),
    **dict.fromkeys(("figures", "conditions", "scores", "anchors"), dict),
    "git_hash": (str, type(None)),
    "notes": list,
}
_CONDITION_KINDS: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("images", "images_failed", "images_missing", "captions_extra"), int),
    **dict.fromkeys(("references", "references_sha256", "tokenizer"), str),
    "references_per_image": list,
}


def _check(content: dict[str, Any]) -> None:
    """Refuse values of other types than `scores_file` gives, so that whoever compares and draws need not look again."""
    json.dumps(content, ensure_ascii=False).encode()  # half a character cannot be written
    conditions = content["conditions"] if isinstance(content["conditions"], dict) else {}
    wrong = [key for key, kind in _KINDS.items() if not isinstance(content[key], kind)]
    wrong += [key for key, kind in _CONDITION_KINDS.items() if key in conditions and not isinstance(conditions[key], kind)]
    if wrong:
        message = f"{wrong[0]} is of another type"
        raise TypeError(message)
    if not all(map(_is_number, content["figures"].values())) or not all(isinstance(note, str) for note in content["notes"]):
        message = "a figure is no number, or a note no text"
        raise TypeError(message)


def _check_rows(evaluation: Evaluation) -> None:
    """Refuse rows without a name or a text, doubled ones, tables that hold more than numbers, and scores without their table."""
    if not evaluation.image_ids:
        message = "it has no image"
        raise ValueError(message)
    if not all(isinstance(text, str) for text in (*evaluation.image_ids, *evaluation.captions)):
        message = "an image has no id or no caption"
        raise TypeError(message)
    if len(set(evaluation.image_ids)) < len(evaluation.image_ids):
        message = "an image is there twice"
        raise ValueError(message)
    if not all(np.isfinite(table).all() and (np.abs(table) < _HUGE).all() for table in evaluation.statistics.values()):
        message = "a statistic is no number"
        raise ValueError(message)
    names = {name for metric in evaluation.statistics for name in names_of(metric)}
    if lacking := evaluation.scores.keys() - names:
        message = f"{min(lacking)} has no statistics"
        raise ValueError(message)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _score(values: Mapping[str, Any]) -> Score:
    score = Score(**values)
    if not all(map(_is_number, (score.n, score.shown_times, score.value, score.low, score.high))) or score.shown_times <= 0:
        message = "a score says wrongly how it is shown"
        raise ValueError(message)
    if not all(map(math.isfinite, (score.value, score.low, score.high))):
        message = f"a score is {score.value}"
        raise ValueError(message)
    return score


def _numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    return np.asarray(table.column(name).to_numpy(), dtype=np.float64)
