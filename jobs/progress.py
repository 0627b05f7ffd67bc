"""Tell how the job goes: a bar on a terminal, plain lines elsewhere, a table at the end; always on stderr.

In: counts and seconds. Out: text for people. Apart, so that the job itself never prints.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

_RATE_WINDOW = 30.0  # seconds over which images/s are averaged
_LINE_INTERVAL = 10.0  # seconds between plain lines
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

    def __init__(self) -> None:
        """Begin at zero."""
        self._lock = threading.Lock()
        self._seconds: Counter[Stage] = Counter()

    @contextmanager
    def time(self, stage: Stage) -> Iterator[None]:
        """Count the seconds of a block.

        Args:
            stage: To which they belong.

        Yields:
            Nothing.
        """
        begun = time.perf_counter()
        try:
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


def printable(text: str) -> str:
    """Make a text safe to show: what could steer a terminal becomes a question mark.

    Args:
        text: Such as the name of somebody's file.

    Returns:
        As many printable characters.
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text)


class Reporter:
    """Shows how a run goes on; used in a `with`, so that the terminal is left in order."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        """Show nothing yet.

        Args:
            console: Where to; stderr by default.
            quiet: Show nothing at all.
        """
        self._console = Console(stderr=True, quiet=quiet) if console is None else console
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._total = self._done = self._failed = 0
        self._history: deque[tuple[float, int]] = deque()
        self._last_line = 0.0
        self._samples: list[tuple[str, str]] = []

    def __enter__(self) -> Self:
        """Be ready."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Take the bar down."""
        if self._bar is not None:
            self._bar.stop()

    def say(self, sentence: str) -> None:
        """Show one sentence, above the bar if there is one.

        Args:
            sentence: For people.
        """
        self._console.print(sentence, markup=False, highlight=False, soft_wrap=not self._console.is_terminal)

    def begin(self, *, total: int, done: int) -> None:
        """Show that the work begins.

        Args:
            total: Images of the run.
            done: How many of them were captioned before.
        """
        self._total, self._done = total, done
        self._history.append((time.monotonic(), done))
        self._last_line = time.monotonic()
        if self._console.is_terminal and not self._console.quiet:
            columns = (BarColumn(bar_width=None), TextColumn("{task.description}", markup=False))
            self._bar = Progress(*columns, console=self._console, expand=True)
            self._task = self._bar.add_task(self._state(), total=total, completed=done)
            self._bar.start()

    def advance(self, *, done: int, failed: int) -> None:
        """Count images.

        Args:
            done: How many were finished, the failed included.
            failed: How many of them failed.
        """
        now = time.monotonic()
        self._done += done
        self._failed += failed
        self._history.append((now, self._done))
        while len(self._history) > 2 and now - self._history[0][0] > _RATE_WINDOW:  # noqa: PLR2004  a rate needs two
            self._history.popleft()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=self._state(), completed=self._done)
        elif now - self._last_line >= _LINE_INTERVAL:
            self._last_line = now
            self.say(f"{self._done:,} of {self._total:,} images, {self._rest()}")

    def sample(self, captions: Iterable[tuple[str, str]]) -> None:
        """Keep the first few captions of this start, to be shown at the end.

        Args:
            captions: Pairs of image_id and caption.
        """
        self._samples += islice(captions, _SAMPLES - len(self._samples))

    def finish(self, summary: Summary) -> None:
        """Take the bar down and show the table, and the first captions.

        Args:
            summary: Of the run.
        """
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        self.say(f"{summary.rows:,} images in {summary.output}:")
        self._console.print(summary_table(summary))
        for image_id, caption in self._samples:
            self.say(f"{printable(image_id)}: {caption}")

    def _rate(self) -> float:
        (first, before), (last, after) = self._history[0], self._history[-1]
        return (after - before) / (last - first) if last > first else 0.0

    def _state(self) -> str:
        return f"{self._done:,}/{self._total:,} · {self._rest()}"

    def _rest(self) -> str:
        rate = self._rate()
        left = f"{duration((self._total - self._done) / rate)} left" if rate > 0 else "starting"
        failed = f" · {self._failed:,} failed" if self._failed else ""
        return f"{rate:.1f} images/s{failed} · {left}"


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
        table.add_row(f"failed: {cause}", f"{count:,}")
    table.add_section()
    table.add_row("this time", f"{summary.captioned:,} images in {duration(summary.seconds)}")
    table.add_row("images/s", f"{summary.images_per_second:.1f}")
    for stage, seconds in summary.stages.items():
        table.add_row(f"  {stage}", f"{seconds:.1f} s")
    return table
