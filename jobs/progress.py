"""Show people how the job goes: a bar on a terminal, plain lines elsewhere, a table at the end; always on stderr.

In: events. Out: text for people. Apart, so that the job itself never prints.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from capt.shown import in_log
from jobs.events import Advanced, Began, Event, Finished, Progressed, Said, Standing, Warned
from jobs.waits import Waits

_MINUTE, _HOUR = 60, 3600
_SAMPLES = 8  # captions shown at the end, so that a newcomer sees what is in the table


class Stage(StrEnum):
    """Where the seconds go; stages overlap, and decoding has several threads, so they add up to more than the clock."""

    READ = "reading the source"
    IMAGES = "decoding images"
    ENCODE = "encoder"
    SEARCH = "caption search"
    REFERENCES = "references"
    WRITE = "writing"
    WAIT = "waiting for images"


class Stages:
    """Counts busy seconds by stage, from any thread."""

    def __init__(self, waits: Waits | None = None) -> None:
        """Begin at zero.

        Args:
            waits: Where blocks that say what they do are known while they last.
        """
        self._waits = Waits() if waits is None else waits
        self._lock = threading.Lock()
        self._seconds: Counter[Stage] = Counter()

    @contextmanager
    def time(self, stage: Stage, what: str = "") -> Iterator[None]:
        """Count the seconds of a block.

        Args:
            stage: To which they belong.
            what: What it does that a file system may hold up, as in `writing captions-00003.parquet`.

        Yields:
            Nothing.
        """
        begun = time.perf_counter()
        try:
            with self._waits.of(what) if what else nullcontext():
                yield
        finally:
            passed = time.perf_counter() - begun
            with self._lock:
                self._seconds[stage] += passed  # type: ignore[assignment]  # Counter is typed for whole numbers

    def add(self, seconds: Mapping[str, float]) -> None:
        """Count what was counted elsewhere.

        Args:
            seconds: By stage, as `seconds()` gives them.
        """
        with self._lock:
            for name, passed in seconds.items():
                self._seconds[Stage(name)] += passed  # type: ignore[assignment]  # Counter is typed for whole numbers

    def seconds(self) -> dict[str, float]:
        """Give the seconds so far.

        Returns:
            By stage, in the order of the pipeline, those that took any.
        """
        with self._lock:
            return {str(stage): round(float(self._seconds[stage]), 3) for stage in Stage if stage in self._seconds}


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a run stands: all its rows, by outcome, and what this start of it did in how many seconds."""

    output: str
    rows: int
    failed: Mapping[str, int]
    shards: int
    captioned: int
    seconds: float
    stages: Mapping[str, float]

    @property
    def ok(self) -> int:
        """How many rows have a caption."""
        return self.rows - sum(self.failed.values())

    @property
    def images_per_second(self) -> float:
        """Of this start."""
        return self.captioned / self.seconds if self.seconds > 0 else 0.0

    def figures(self) -> dict[str, object]:
        """Give the figures under the names that they have in `run.json`.

        Returns:
            Names and values as JSON knows them.
        """
        return {
            "rows": self.rows,
            "ok": self.ok,
            "failed": dict(self.failed),
            "shards": self.shards,
            "captioned_in_last_session": self.captioned,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.images_per_second, 2),
            "stage_seconds": dict(self.stages),
        }


def duration(seconds: float) -> str:
    """Write a time as people say it.

    Args:
        seconds: Not negative.

    Returns:
        As `9 s`, `3 min 20 s` or `2 h 05 min`.
    """
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02} min"


class Reporter:
    """Shows people how a run goes on: one of those who hear what happens in it."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        """Show nothing yet.

        Args:
            console: Where to; stderr by default.
            quiet: Show nothing at all.
        """
        self._console = Console(stderr=True, quiet=quiet) if console is None else console
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._samples: list[tuple[str, str]] = []

    def hear(self, event: Event) -> None:
        """Show an event, if it is for people.

        Args:
            event: What happened.
        """
        match event:
            case Said(sentence) | Warned(sentence):
                self._say(sentence)
            case Began(standing):
                self._begin(standing)
            case Advanced(standing, captions):
                self._samples += islice(captions, _SAMPLES - len(self._samples))
                self._move(standing)
            case Progressed(standing):
                if self._bar is None:
                    self._say(f"{standing.done:,} of {standing.total:,} images, {_rest(standing)}")
                self._move(standing)
            case Finished(summary=summary, is_old=False):
                self._finish(summary)
            case _:
                pass

    def close(self) -> None:
        """Take the bar down, so that the terminal is left in order."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _say(self, sentence: str) -> None:
        """Show one sentence, above the bar if there is one."""
        self._console.print(in_log(sentence), markup=False, emoji=False, highlight=False, soft_wrap=not self._console.is_terminal)

    def _begin(self, standing: Standing) -> None:
        if self._console.is_terminal and not self._console.quiet:
            columns = (BarColumn(bar_width=None), TextColumn("{task.description}", markup=False))
            self._bar = Progress(*columns, console=self._console, expand=True)
            self._task = self._bar.add_task(_state(standing), total=standing.total, completed=standing.done)
            self._bar.start()

    def _move(self, standing: Standing) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=_state(standing), completed=standing.done)

    def _finish(self, summary: Summary) -> None:
        """Take the bar down and show the table, and the first captions."""
        self.close()
        self._say(f"{summary.rows:,} images in {summary.output}:")
        self._console.print(summary_table(summary))
        for image_id, caption in self._samples:
            self._say(f"{image_id}: {caption}")


def _state(standing: Standing) -> str:
    return f"{standing.done:,}/{standing.total:,} · {_rest(standing)}"


def _rest(standing: Standing) -> str:
    left = "starting" if standing.seconds_left is None else f"{duration(standing.seconds_left)} left"
    count = sum(standing.failed.values())
    failed = f" · {count:,} failed" if count else ""
    return f"{standing.images_per_second:.1f} images/s{failed} · {left}"


def summary_table(summary: Summary) -> Table:
    """Make the table that ends a run.

    Args:
        summary: Of the run.

    Returns:
        Two columns: what, and how much.
    """
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("captioned", f"{summary.ok:,}")
    for cause, count in sorted(summary.failed.items(), key=lambda each: -each[1]):
        table.add_row(Text(in_log(f"failed: {cause}")), f"{count:,}")
    table.add_section()
    table.add_row("this time", f"{summary.captioned:,} images in {duration(summary.seconds)}")
    table.add_row("images/s", f"{summary.images_per_second:.1f}")
    for stage, seconds in summary.stages.items():
        table.add_row(Text(in_log(f"  {stage}")), f"{seconds:.1f} s")
    return table
