"""Make a run complete that several machines did: check that every shard is there, then write `run.json`, or all in one file.

In: the folder that they wrote into. Out: a complete output. Apart from the run, because it needs neither source nor network.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import filterfalse, islice
from typing import Any

from capt.captions import RUN_FILE, Fingerprint, shard_name
from capt.errors import OutputError, at_work
from capt.remote import Location, open_parquet
from jobs.output import Output
from jobs.progress import Summary
from jobs.together import read_sessions

_NAMED = 5
_NO_REPORT = (KeyError, TypeError, ValueError, OverflowError)  # what a run.json of another shape leads to


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """Which folder is made complete, and into which file its shards go as well (None: none), perhaps over an older one."""

    output: Location
    into: Location | None = None
    overwrite: bool = False


def merge(options: MergeOptions) -> Summary:
    """Check that every shard of a run is there exactly once, and make the run complete.

    A run that is complete already stays as it is.

    Args:
        options: Where.

    Returns:
        How the run went, all machines together.

    Raises:
        OutputError: If shards are missing or of two runs, a machine is still writing, or something cannot be written.
    """
    output = _folder(options.output)
    existing = output.look(overwrite=False)
    if existing.fingerprint is None:
        message = f"{output.path} holds no shards of a run; give the folder that capt-batch run --shard wrote into."
        raise OutputError(message)
    if existing.extended and existing.report is None:
        message = f"An extension of {output.path} was not finished; start the same capt-batch run --extend again."
        raise OutputError(message)
    count = _count_shards(existing.fingerprint, output, existing.report)
    _check_all(output.path, count, existing.shards, existing.fingerprint if existing.report is None else None)
    target = _target(options)
    with open_parquet(output.folder / shard_name(0)) as first:
        schema = first.schema_arrow
    if existing.report is None:
        with output.prepared(overwrite=False):
            report = _report(output, existing.fingerprint, count)
            with at_work():
                output.complete(report, schema, count)
    else:
        report = dict(existing.report)
    if target is not None:
        target.clear_up(older_than=0.0)  # an earlier merge into it may have been killed
        with at_work():
            output.pack(target.path, report, schema, count)
    try:
        return Summary(
            output=str(target.path if target is not None else output.path),
            rows=sum(existing.shards.values()),
            failed={str(cause): int(failed) for cause, failed in dict(report["failed"]).items()},
            shards=count,
            captioned=int(report["captioned_in_last_session"]),
            seconds=float(report["seconds"]),
            stages={str(stage): float(seconds) for stage, seconds in dict(report["stage_seconds"]).items()},
        )
    except _NO_REPORT as error:
        raise _damaged_report(output) from error


def _folder(path: Location) -> Output:
    output = Output(path)
    if output.file is not None:
        message = f"{path} is one file; give the folder that capt-batch run --shard wrote into."
        raise OutputError(message)
    output.check()
    return output


def _count_shards(fingerprint: Fingerprint, output: Output, report: Mapping[str, object] | None) -> int:
    """Count the shards that a run must have: those of its source or, where it is complete and perhaps extended, those it says."""
    if report is None:
        return -(-fingerprint.source_rows // fingerprint.shard_size)
    try:
        return int(str(report["shards"]))
    except _NO_REPORT as error:
        raise _damaged_report(output) from error


def _damaged_report(output: Output) -> OutputError:
    message = f"{output.folder / RUN_FILE} is damaged; remove it and start the same capt-batch run again, which writes it anew."
    return OutputError(message)


def _target(options: MergeOptions) -> Output | None:
    if options.into is None:
        return None
    target = Output(options.into)
    if target.file is None:
        message = f"--into is one file that ends in .parquet, not {options.into}."
        raise OutputError(message)
    target.check()
    target.look(overwrite=True)  # refuses what another program wrote
    if target.file.exists() and not options.overwrite:
        message = f"{options.into} exists already; give --overwrite to replace it, or another --into."
        raise OutputError(message)
    return target


def _check_all(path: Location, count: int, there: Mapping[int, int], fingerprint: Fingerprint | None) -> None:
    """Refuse a run that lacks shards, or rows of its source; a number of shards is not believed before it is checked."""

    def is_whole(number: int) -> bool:
        expected = (
            None
            if fingerprint is None
            else min(fingerprint.shard_size, fingerprint.source_rows - number * fingerprint.shard_size)
        )
        return number in there and (expected is None or there[number] == expected)

    lacking = count - sum(number < count and is_whole(number) for number in there)
    if lacking:
        named = ", ".join(map(str, islice(filterfalse(is_whole, range(count)), _NAMED))) + (", …" if lacking > _NAMED else "")
        counts = f"{lacking:,} of the {count:,} shards are not there or damaged ({named})"
        message = f"{path} is not complete: {counts}; start the same capt-batch run --shard again on the machines that do them."
        raise OutputError(message)
    foreign = sorted(number for number in there if number >= count)
    if foreign:
        message = f"{path} holds {shard_name(foreign[0])}, but the run has only {count:,} shards; remove what is not of it."
        raise OutputError(message)


def _report(output: Output, fingerprint: Fingerprint, shards: int) -> dict[str, Any]:
    """Put together what the machines told of their starts; one that was killed told nothing, and is not in the times."""
    sessions = read_sessions(output.folder)
    failed = output.count_failures(range(shards))
    stages: Counter[str] = Counter()
    for session in sessions:
        stages.update(session.get("stage_seconds", {}))
    begun, finished = _span(sessions)
    captioned, seconds = sum(int(session.get("captioned_in_last_session", 0)) for session in sessions), finished - begun
    return {
        "source": sessions[-1]["source"] if sessions else "",
        "rows": fingerprint.source_rows,
        "ok": fingerprint.source_rows - failed.total(),
        "failed": dict(failed),
        "shards": shards,
        "captioned_in_last_session": captioned,
        "seconds": round(seconds.total_seconds(), 3),
        "images_per_second": round(captioned / max(seconds.total_seconds(), 1.0), 2),
        "stage_seconds": {stage: round(total, 3) for stage, total in stages.items()},
        "started": begun.isoformat(timespec="seconds"),
        "finished": finished.isoformat(timespec="seconds"),
        "fingerprint": fingerprint.to_dict(),
        "sessions": [
            {name: session.get(name) for name in ("share", "host", "captioned_in_last_session", "seconds", "started", "finished")}
            for session in sessions
        ],
    }


def _span(sessions: Sequence[Mapping[str, Any]]) -> tuple[datetime, datetime]:
    """Find when the first start began and the last one finished."""
    now = datetime.now(UTC).replace(microsecond=0)
    begun = [datetime.fromisoformat(session["started"]) for session in sessions]
    finished = [datetime.fromisoformat(session["finished"]) for session in sessions]
    return min(begun, default=now), max(finished, default=now)
