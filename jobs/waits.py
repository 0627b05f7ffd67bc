"""What a run waits for at the moment, and since when, so that a stall is not a silence.

In: blocks that may take long, from any thread. Out: which ones do. Apart, because whoever waits for a file system
cannot speak, and whoever speaks does not wait.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_LONG = 10.0  # seconds after which it is told what is waited for; then after twice as many, and so on


@dataclass
class _Wait:
    what: str
    begun: float
    told_after: float


class Waits:
    """Blocks that are being executed, in whatever threads."""

    def __init__(self) -> None:
        """Wait for nothing."""
        self._lock = threading.Lock()
        self._open: dict[int, _Wait] = {}

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """Let it be known what a block does, in case that it does not end.

        Args:
            what: As in `writing captions-00003.parquet`.

        Yields:
            Nothing.
        """
        wait = _Wait(what=what, begun=time.monotonic(), told_after=_LONG)
        with self._lock:
            self._open[id(wait)] = wait
        try:
            yield
        finally:
            with self._lock:
                del self._open[id(wait)]

    def overdue(self) -> list[tuple[str, float]]:
        """Tell which blocks take long; each is named again only when it has taken twice as long.

        Returns:
            What they do, and for how many seconds; mostly none.
        """
        now, late = time.monotonic(), []
        with self._lock:
            for wait in self._open.values():
                passed = now - wait.begun
                if passed >= wait.told_after:
                    wait.told_after = 2 * passed
                    late.append((wait.what, passed))
        return late
