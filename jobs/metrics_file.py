"""Keep a Prometheus text file of how a run stands, for the textfile collector of node_exporter.

In: events. Out: one small file, replaced whole each time. Apart, because its names and labels are an interface of their own.
"""

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from capt.errors import FailureKind, InputError
from capt.files import write_whole
from capt.remote import Location, Remote
from jobs.events import Advanced, Began, Broken, Event, Finished, Interrupted, Progressed, Standing, Started
from jobs.source import readable_text

_SUFFIX = ".prom"


class MetricsFile:
    """A file of metrics that hears what happens and is rewritten whenever the run tells how it stands."""

    def __init__(self, path: Path, *, output: Location, share: str | None = None) -> None:
        """Write the file with what is known: that a run has begun, and is not complete.

        Args:
            path: Ends in `.prom`, else the collector passes it over.
            output: Of the run; with the share, what tells its metrics from those of others on the same machine.
            share: As `0/8`, when the run is done in shares.

        Raises:
            CaptError: If it has another ending or cannot be written.
        """
        if path.suffix != _SUFFIX:
            message = f"--metrics is a file that ends in {_SUFFIX}, which node_exporter's textfile collector wants, not {path}."
            raise InputError(message)
        self._path = path
        self._labels = {"output": _whole_name(output)}
        if share is not None:
            self._labels["share"] = share
        self._standing: Standing | None = None
        self._is_complete = False
        self._write()

    def hear(self, event: Event) -> None:
        """Take note of how the run stands and, unless it is one of many small steps, write it.

        Args:
            event: What happened.

        Raises:
            OutputError: If the file cannot be written; a later one may be.
        """
        match event:
            case Advanced(standing):
                self._standing = standing
            case Began(standing) | Progressed(standing):
                self._standing = standing
                self._write()
            case Started():
                self._standing = _standing_of_plan(event)
                self._write()
            case Interrupted() | Broken():
                self._write()
            case Finished():
                self._standing, self._is_complete = _standing_at_end(event), True
                self._write()
            case _:
                pass

    def close(self) -> None:
        """Leave the file as it is: the collector goes on reading it."""

    def _write(self) -> None:
        write_whole(self._path, "".join(self._lines()).encode("utf-8", "backslashreplace"))

    def _lines(self) -> Iterator[str]:
        standing = self._standing
        if standing is not None:
            failed: dict[str, int] = {**dict.fromkeys(map(str, FailureKind), 0), **standing.failed}
            yield from self._metric("capt_images_total", "gauge", "Images of this run, or of its share.", {"": standing.total})
            yield from self._metric(
                "capt_images_done", "gauge", "Images that are done, failed ones included.", {"": standing.done}
            )
            yield from self._metric("capt_images_failed", "gauge", "Images without a caption, by cause.", failed, "kind")
            yield from self._metric("capt_shards_total", "gauge", "Shards of this run, or of its share.", {"": standing.shards})
            yield from self._metric("capt_shards_done", "gauge", "Shards that are on disk.", {"": standing.shards_done})
            speed = {"": standing.images_per_second}
            yield from self._metric(
                "capt_images_per_second", "gauge", "Speed over the last half minute, at the end overall.", speed
            )
            seconds = "Busy seconds of this start by stage; stages overlap."
            yield from self._metric("capt_stage_seconds_total", "counter", seconds, standing.stage_seconds, "stage")
        yield from self._metric(
            "capt_run_complete", "gauge", "1 once every image is in the output.", {"": int(self._is_complete)}
        )
        about = "When this file was written, in seconds since 1970."
        yield from self._metric("capt_last_update_timestamp_seconds", "gauge", about, {"": round(time.time(), 3)})

    def _metric(self, name: str, kind: str, about: str, values: Mapping[str, float], label: str = "") -> Iterator[str]:
        """Give the lines of one metric, which has a value, or one for each value of a label."""
        yield f"# HELP {name} {about}\n# TYPE {name} {kind}\n"
        for key, value in values.items():
            labels = {**self._labels, label: key} if label else self._labels
            text = ",".join(f'{each}="{_escaped(content)}"' for each, content in labels.items())
            yield f"{name}{{{text}}} {value}\n"


def _standing_of_plan(event: Started) -> Standing:
    return Standing(
        total=event.images,
        done=event.images - event.to_caption,
        failed={},
        shards=event.shards,
        shards_done=0,
        images_per_second=0.0,
        seconds_left=None,
        stage_seconds={},
    )


def _standing_at_end(event: Finished) -> Standing:
    summary = event.summary
    return Standing(
        total=summary.rows,
        done=summary.rows,
        failed=summary.failed,
        shards=summary.shards,
        shards_done=summary.shards,
        images_per_second=summary.images_per_second,
        seconds_left=0.0,
        stage_seconds=summary.stages,
    )


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _whole_name(output: Location) -> str:
    """Name an output so that no other has its name, wherever the command was started."""
    return str(output) if isinstance(output, Remote) else readable_text(os.path.abspath(output))  # noqa: PTH100  not through links
