"""Runs as a report needs them: an evaluation, and the captions table that it came from when that is at hand.

In: paths of scores, of captions, or of a folder that holds both. Out: Runs. Apart, because other commands want scores alone; a
report also wants to know how fast a run was, what failed, and where the network looked.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from capt.captions import RUN_FILE, RUN_KEY, Status, fingerprint_of, read_captions, shard_paths
from capt.errors import InputError
from capt.references import References, read_references
from capt.remote import PARQUET_FAULTS
from evaluation.anchors import find_anchors
from evaluation.evaluate import evaluate
from evaluation.measure import Instruments
from evaluation.metrics import METRICS
from evaluation.pairs import join, load_captions, load_references
from evaluation.scores import Evaluation
from evaluation.stored import is_scored, load
from evaluation.system_names import system_names
from reports.findings import Failure, Speed

_UNKNOWN_CAUSE = "unknown"


@dataclass(frozen=True, kw_only=True)
class ReferenceChoice:
    """Which human captions: a path, and of these one split or the images of a list; `partial` scores what there is."""

    path: Path | None = None
    split: str | None = None
    image_list: Path | None = None
    partial: bool = False


@dataclass(frozen=True, kw_only=True)
class Run:
    """One captioner as it was found on disk.

    Attributes:
        name: Unique among the runs.
        evaluation: Its scores.
        captions: Where its captions table is; None when only scores were given.
    """

    name: str
    evaluation: Evaluation
    captions: Path | None = None
    _found: dict[str, pa.Table] = field(default_factory=dict, repr=False)

    @cached_property
    def own_ids(self) -> Mapping[str, str]:
        """image_id of the evaluation -> the id in the captions table, which may lack an ending; empty without a table."""
        if self.captions is None:
            return {}
        names = [str(name) for name in self._columns("image_id").column("image_id").to_pylist()]
        known = References(captions=dict.fromkeys(self.evaluation.image_ids, ())).resolve(names)
        return {image_id: name for name, image_id in known.items()}

    @property
    def failures(self) -> list[Failure] | None:
        """Images of the evaluation without a caption; None without a table."""
        if self.captions is None:
            return None
        table = self._columns("status", "error")
        failed = table.filter(pc.not_equal(table.column("status"), Status.OK.value))
        known = {own: image_id for image_id, own in self.own_ids.items()}
        return [
            _failure(known[str(row["image_id"])], row["error"]) for row in failed.to_pylist() if str(row["image_id"]) in known
        ]

    @property
    def speed(self) -> Speed | None:
        """How fast it was; None when it does not tell."""
        report = _run_report(self.captions)
        try:
            images, seconds = int(str(report["captioned_in_last_session"])), float(str(report["seconds"]))
            stages = report["stage_seconds"]
            times = {str(name): float(each) for name, each in stages.items()} if isinstance(stages, Mapping) else {}
            if images < 1 or seconds <= 0 or not all(map(math.isfinite, (seconds, *times.values()))):
                return None
            return Speed(images=images, seconds=seconds, stages=times)
        except (KeyError, TypeError, ValueError):
            return None

    @property
    def has_attention(self) -> bool:
        """Whether it stored where the network looked."""
        if self.captions is None:
            return False
        shards = shard_paths(self.captions) if self.captions.is_dir() else {0: self.captions}
        try:
            schema = pq.read_schema(next(iter(shards.values())))
        except (*PARQUET_FAULTS, StopIteration):
            return False
        fingerprint = fingerprint_of(schema, self.captions)
        return fingerprint.attention if fingerprint is not None else "attention" in schema.names

    def attention(self, image_ids: Sequence[str]) -> dict[str, NDArray[np.uint8]]:
        """Read where the network looked.

        Args:
            image_ids: As in the evaluation.

        Returns:
            By image id, `(T, side, side)`, for those that have it.
        """
        if not self.has_attention:
            return {}
        own = {self.own_ids[image_id]: image_id for image_id in image_ids if image_id in self.own_ids}
        table = self._columns("attention")
        chosen = table.filter(pc.is_in(table.column("image_id"), value_set=pa.array(list(own), pa.string())))
        found = ((own[str(row["image_id"])], square_maps(row["attention"])) for row in chosen.to_pylist())
        return {image_id: maps for image_id, maps in found if maps is not None}

    def _columns(self, *names: str) -> pa.Table:
        """Read some columns of the captions table, beside id, caption and status; each set once."""
        key = ",".join(names)
        if key not in self._found and self.captions is not None:
            self._found[key] = read_captions(self.captions, names)
        return self._found[key]


def open_runs(paths: Sequence[Path], choice: ReferenceChoice) -> list[Run]:
    """Open runs, and score what is not scored yet.

    Args:
        paths: Scores, captions, or folders that hold both.
        choice: What captions are scored against.

    Returns:
        One run a path, in order.

    Raises:
        InputError: If one cannot be read, or captions come without references.
        JavaError: If captions are to be scored and Java fails.
    """
    references = cache(partial(_load_references, choice))  # read when the first run needs them, and once
    return [_open_run(path, name, choice, references) for path, name in zip(paths, system_names(paths), strict=True)]


def read_texts(choice: ReferenceChoice, runs: Sequence[Run]) -> list[Sequence[str]] | None:
    """Read the human captions that the runs were scored against.

    Args:
        choice: Where they are.
        runs: Over the same images.

    Returns:
        One list an image, in the order of the first run; None when no references are named.

    Raises:
        InputError: If they are not those that the runs were scored against.
    """
    if choice.path is None:
        return None
    evaluation = runs[0].evaluation
    chosen = read_references(choice.path, split=choice.split, images=choice.image_list).select(evaluation.image_ids)
    if chosen.sha256 != evaluation.conditions["references_sha256"]:
        message = f"{choice.path} holds other references than {runs[0].name} was scored against: name those, or score again"
        raise InputError(message)
    return [chosen.captions[image_id] for image_id in evaluation.image_ids]


def square_maps(rows: object) -> NDArray[np.uint8] | None:
    """Give maps of cells their two dimensions back.

    Args:
        rows: One list of cells a word, as the captions table has it.

    Returns:
        `(T, side, side)`; None when there are none, or they make no square.
    """
    if not isinstance(rows, list) or not rows or any(not row or len(row) != len(rows[0]) for row in rows):
        return None
    side = round(len(rows[0]) ** 0.5)
    return np.array(rows, dtype=np.uint8).reshape(-1, side, side) if side * side == len(rows[0]) else None


def _load_references(choice: ReferenceChoice) -> References:
    assert choice.path is not None  # noqa: S101  # whoever asks has looked
    return load_references(choice.path, split=choice.split, images=choice.image_list)


def _open_run(path: Path, name: str, choice: ReferenceChoice, references: Callable[[], References]) -> Run:
    has_captions = bool(shard_paths(path)) if path.is_dir() else not is_scored(path)
    if is_scored(path):
        run = Run(name=name, evaluation=load(path), captions=path if has_captions else None)
        _check_same_captions(run)
        return run
    if choice.path is None:
        state = "holds no scores" if path.exists() else "does not exist"
        message = f"{path} {state}: give what `capt-eval score -o` wrote, or captions together with --references"
        raise InputError(message)
    human = references()
    pairs = join(load_captions(path), human, partial=choice.partial)
    instruments = Instruments()
    evaluation = evaluate(pairs, instruments=instruments)
    anchors = find_anchors(pairs, tuple(METRICS), instruments)
    return Run(name=name, evaluation=replace(evaluation, anchors=anchors, date=""), captions=path if _is_table(path) else None)


def _is_table(path: Path) -> bool:
    """Whether captions are a table of capt's, as against COCO's JSON and the like."""
    return path.is_dir() or path.suffix == ".parquet"


def _check_same_captions(run: Run) -> None:
    """Refuse scores that lie beside captions of a later run."""
    if run.captions is None:
        return
    table = run._columns()  # noqa: SLF001  # its own module
    texts = dict(zip(map(str, table.column("image_id").to_pylist()), table.column("caption").to_pylist(), strict=True))
    scored = zip(run.evaluation.image_ids, run.evaluation.captions, strict=True)
    if any((texts.get(run.own_ids.get(image_id, "")) or "") != caption for image_id, caption in scored):
        message = (
            f"the scores in {run.captions} belong to other captions than those beside them: score again with `capt-eval score`"
        )
        raise InputError(message)


def _failure(image_id: str, error: object) -> Failure:
    kind, colon, said = str(error or "").partition(": ")
    return Failure(image_id=image_id, kind=kind if colon else _UNKNOWN_CAUSE, said=said if colon else str(error or ""))


def _run_report(captions: Path | None) -> Mapping[str, object]:
    """Read what a run says of itself: run.json of a folder, or the same in the metadata of a single file."""
    if captions is None:
        return {}
    try:
        if captions.is_dir():
            text: str | bytes = (captions / RUN_FILE).read_bytes()
        else:
            text = (pq.read_schema(captions).metadata or {}).get(RUN_KEY, b"{}")
        found = json.loads(text)
    except (*PARQUET_FAULTS, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
