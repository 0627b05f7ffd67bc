"""Write what happens in a run as JSON lines, one object an event, for programs that collect logs.

In: events. Out: lines at the end of a file, or on stdout. Apart, because people read something else, and a log that cannot be
written must not cost a caption.
"""

import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from capt.errors import OutputError
from jobs.events import (
    Advanced,
    Broken,
    Event,
    Failure,
    Finished,
    Interrupted,
    NetworkLoaded,
    Progressed,
    ShardWritten,
    Standing,
    Started,
    Warned,
)
from jobs.source import readable_text

STDOUT = Path("-")
_STDOUT_DESCRIPTOR = 1
_MOST_FAILED = 1000  # failed images named in one start: a wrong disk must not fill another one; the table has them all
_NAMES = {
    Warned: "warning",
    NetworkLoaded: "network",
    ShardWritten: "shard",
    Interrupted: "interrupted",
    Broken: "error",
}


class EventLog:
    """A file of JSON lines that hears what happens; each line is handed to the system whole, and at once."""

    def __init__(self, path: Path) -> None:
        """Open the file, whose older lines stay.

        Args:
            path: Its folder is made; `-` is stdout.

        Raises:
            OutputError: If it cannot be written.
        """
        self._path = path
        self._named = 0
        self._is_torn = False
        try:
            if path == STDOUT:
                self._file = open(_STDOUT_DESCRIPTOR, "wb", buffering=0, closefd=False)  # noqa: SIM115  closed in close()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = path.open("ab", buffering=0)
        except OSError as error:
            message = f"The log {path} cannot be written ({error.strerror or error}); choose another --log-json."
            raise OutputError(message) from error

    def hear(self, event: Event) -> None:
        """Write the lines of an event.

        Args:
            event: What happened.

        Raises:
            OutputError: If they cannot be written; later ones may be.
        """
        for name, fields in self._describe(event):
            self._write({"time": _now(), "event": name, **fields})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _describe(self, event: Event) -> Iterator[tuple[str, Mapping[str, object]]]:
        match event:
            case Started():
                names = {"source": readable_text(event.source), "output": readable_text(event.output)}
                machine = {"host": platform.node(), "pid": os.getpid(), "capt": version("capt")}
                yield "started", {**vars(event), **names, **machine}
            case Progressed(standing):
                yield "progress", _progress(standing)
            case Advanced(failures=failures):
                yield from self._name_failures(failures)
            case Finished(summary=summary, facts=facts):
                yield "finished", {"output": summary.output, **summary.figures(), **facts}
            case Warned() | NetworkLoaded() | ShardWritten() | Interrupted() | Broken():
                yield _NAMES[type(event)], vars(event)
            case _:
                pass

    def _name_failures(self, failures: Sequence[Failure]) -> Iterator[tuple[str, Mapping[str, object]]]:
        for failure in failures:
            self._named += 1
            if self._named <= _MOST_FAILED:
                yield "image_failed", vars(failure)
            elif self._named == _MOST_FAILED + 1:
                yield "warning", {"sentence": f"More than {_MOST_FAILED:,} images failed; the log names no more, the table does."}

    def _write(self, values: Mapping[str, object]) -> None:
        line = json.dumps(values, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace") + b"\n"
        if self._is_torn:  # what a full disk cut off stays a line of its own
            line = b"\n" + line
        written = 0
        try:
            while written < len(line):
                written += self._file.write(line[written:]) or 0
        except OSError as error:
            self._is_torn = self._is_torn or written > 0
            message = f"The log {self._path} cannot be written ({error.strerror or error}): lines are missing."
            raise OutputError(message) from error
        self._is_torn = False


def _progress(standing: Standing) -> dict[str, object]:
    left = standing.seconds_left
    return {
        "done": standing.done,
        "total": standing.total,
        "failed": dict(standing.failed),
        "shards_done": standing.shards_done,
        "shards": standing.shards,
        "images_per_second": round(standing.images_per_second, 2),
        "seconds_left": None if left is None else round(left, 1),
        "stage_seconds": dict(standing.stage_seconds),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
