"""Ctrl-C and SIGTERM: the first asks the job to stop cleanly, the second ends it at once.

In: signals. Out: a question the job asks between batches. Apart, because signal handlers are process-wide and must be put back.
"""

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
SIGNAL_EXIT = 128  # a shell reports a process that a signal ended as 128 and the signal's number: 130, 143
_SHOW_CURSOR = "\x1b[?25h"


class Interruption:
    """Watches for signals while it is entered; outside the main thread, where Python delivers none, it does nothing."""

    def __init__(self) -> None:
        """Watch nothing yet."""
        self.signal: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        """Begin to watch."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._notice) for number in _SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Put the earlier handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal gave, it takes back

    def is_requested(self) -> bool:
        """Whether the job is to stop."""
        return self.signal is not None

    def pass_on(self) -> None:
        """Deliver what came meanwhile to the earlier handlers; for work that a signal must not cut in two."""
        if self.signal is not None:
            signal.raise_signal(self.signal)

    def _notice(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None:
            if sys.stderr.isatty():
                os.write(sys.stderr.fileno(), _SHOW_CURSOR.encode())
            os._exit(SIGNAL_EXIT + number)
        self.signal = number
