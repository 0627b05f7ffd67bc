"""Tell several listeners how a run goes, and keep count for them, so that none counts by itself.

In: what the job, or an engine of it, says. Out: events, also every few seconds while nothing is said. Apart, so that the job
knows nobody who listens.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from capt.captions import Status
from capt.errors import CaptError, unforeseen
from jobs.events import (
    Advanced,
    Began,
    Broken,
    Event,
    Failure,
    Finished,
    Interrupted,
    Listener,
    Progressed,
    Said,
    ShardWritten,
    Standing,
    Warned,
)
from jobs.exit_codes import exit_code
from jobs.progress import Stages, duration
from jobs.waits import Waits

_INTERVAL = 10.0  # seconds between tellings of how far the run is
_RATE_WINDOW = 30.0  # seconds over which images/s are averaged


class Narrator:
    """Tells listeners, one event at a time; used in a `with`, at whose end an error that passes is told and all are closed."""

    def __init__(self, *listeners: Listener) -> None:
        """Tell nothing yet.

        Args:
            listeners: In the order in which they hear.
        """
        self.waits = Waits()
        self._listeners: list[Listener] = list(listeners)
        self._failing: set[int] = set()
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._has_begun = False
        self._thread = threading.Thread(target=self._tick, name="narrator", daemon=True)
        self._total = self._done = self._shards = self._shards_done = 0
        self._failed: Counter[str] = Counter()
        self._stages = Stages()
        self._history: deque[tuple[float, int]] = deque()

    def __enter__(self) -> Self:
        """Be ready, and tell from now on what takes long."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Tell of an error, and close all listeners."""
        self._closing.set()
        self._thread.join()
        if isinstance(error, Exception):
            sentence = str(error) if isinstance(error, CaptError) else unforeseen(error)
            self.tell(Broken(sentence=sentence, exit_code=exit_code(error)))
        for listener in self._listeners:
            listener.close()

    def add(self, listener: Listener) -> None:
        """Let one more hear what happens from now on.

        Args:
            listener: Closed at the end.
        """
        self._listeners.append(listener)

    def tell(self, event: Event) -> None:
        """Tell all listeners; one that fails is named in a warning, once, and hears on.

        Args:
            event: What happened.
        """
        with self._lock:
            if isinstance(event, ShardWritten):
                self._shards_done += 1
            elif isinstance(event, Finished | Interrupted):
                self._closing.set()
            for listener in self._listeners:
                try:
                    listener.hear(event)
                except (OSError, CaptError) as error:
                    if id(listener) not in self._failing:
                        self._failing.add(id(listener))
                        self.warn(f"{error} The run goes on.")

    def say(self, sentence: str) -> None:
        """Tell people something.

        Args:
            sentence: For them alone.
        """
        self.tell(Said(sentence))

    def warn(self, sentence: str) -> None:
        """Tell of something that does not end the run.

        Args:
            sentence: For whoever runs this.
        """
        self.tell(Warned(sentence))

    def begin(  # noqa: PLR0913  how far a run is has as many numbers
        self, *, total: int, done: int, failed: Mapping[str, int], shards: int, shards_done: int, stages: Stages
    ) -> None:
        """Tell that the work begins, and from now on every few seconds how far it is.

        Args:
            total: Images of the run.
            done: How many of them were finished before, the failed included.
            failed: How many of those failed, by kind.
            shards: Of the run.
            shards_done: How many of them were finished before.
            stages: Where the seconds are counted.
        """
        with self._lock:
            self._total, self._done, self._shards, self._shards_done = total, done, shards, shards_done
            self._failed, self._stages = Counter(failed), stages
            self._history.append((time.monotonic(), done))
            self._has_begun = True
            self.tell(Began(self._standing()))

    def advance(self, table: pa.Table) -> None:
        """Tell of images that are done.

        Args:
            table: Their rows, of which the columns image_id, caption, status and error are read.
        """
        self.count(table.num_rows, captions_in(table), failures(table))

    def count(self, done: int, captions: Sequence[tuple[str, str]], failed: Sequence[Failure]) -> None:
        """Tell of images that are done somewhere else.

        Args:
            done: How many, the failed included.
            captions: Pairs of image_id and caption of some.
            failed: Those without a caption.
        """
        with self._lock:
            self._done += done
            self._failed.update(failure.kind for failure in failed)
            self._note_time()
            self.tell(Advanced(self._standing(), captions, failed))

    def _tick(self) -> None:
        while not self._closing.wait(_INTERVAL):
            with self._lock:
                if self._closing.is_set():  # it may have ended while the lock was waited for
                    return
                for what, seconds in self.waits.overdue():
                    self.warn(f"Still {what}, for {duration(seconds)} now; Ctrl-C ends it, and what is finished is kept.")
                if self._has_begun:
                    self._note_time()
                    self.tell(Progressed(self._standing()))

    def _note_time(self) -> None:
        now = time.monotonic()
        self._history.append((now, self._done))
        while len(self._history) > 2 and now - self._history[0][0] > _RATE_WINDOW:  # noqa: PLR2004  a rate needs two
            self._history.popleft()

    def _standing(self) -> Standing:
        (first, before), (last, after) = self._history[0], self._history[-1]
        rate = (after - before) / (last - first) if last > first else 0.0
        return Standing(
            total=self._total,
            done=self._done,
            failed=dict(self._failed),
            shards=self._shards,
            shards_done=self._shards_done,
            images_per_second=rate,
            seconds_left=(self._total - self._done) / rate if rate > 0 else None,
            stage_seconds=self._stages.seconds(),
        )


def captions_in(table: pa.Table) -> list[tuple[str, str]]:
    """Find the captions of a captions table.

    Args:
        table: With the columns image_id and caption.

    Returns:
        Pairs of both, in order, without the failed.
    """
    ids, texts = (table.column(name).to_pylist() for name in ("image_id", "caption"))
    return [(image_id, text) for image_id, text in zip(ids, texts, strict=True) if text is not None]


def failures(table: pa.Table) -> list[Failure]:
    """Find the failed rows of a captions table.

    Args:
        table: With the columns image_id, status and error.

    Returns:
        In order.
    """
    failed = table.select(["image_id", "status", "error"]).filter(pc.field("status") == Status.FAILED)
    found = []
    for row in failed.to_pylist():
        kind, _, sentence = row["error"].partition(": ")
        found.append(Failure(image_id=row["image_id"], kind=kind, sentence=sentence))
    return found
