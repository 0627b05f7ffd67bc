"""Ctrl-C and SIGTERM: the first asks the job to stop cleanly, the second ends it at once, and so does time.

In: signals. Out: a question the job asks between batches; the end of the program where it cannot ask. Apart, because signal
handlers are process-wide and must be put back.
"""

import os
import select
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
SIGNAL_EXIT = 128  # a shell reports a process that a signal ended as 128 and the signal's number: 130, 143
_SHOW_CURSOR = "\x1b[?25h"
_STDERR = 2
_END = 0  # no signal has this number
_GRACE = 30.0  # seconds that a clean stop may take: about what those who send SIGTERM wait before they kill
_HELD_UP = "capt-batch: Interrupted; what it waits for did not end within {:g} s, go on with the same command.\n"


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
            _leave(number)
        self.signal = number


class Deadline:
    """Ends the program some time after a signal, or at the second one, whatever holds it up, while this is entered.

    Python hears signals between two steps of the main thread: one that waits in the system or in a library, as for a file system
    that hangs, hears none. The system itself writes their numbers into a pipe, which another thread reads.
    """

    def __enter__(self) -> Self:
        """Begin to watch; outside the main thread, where Python delivers no signals, nothing is watched."""
        self._is_watching = threading.current_thread() is threading.main_thread()
        if self._is_watching:
            self._reader, self._writer = os.pipe()
            os.set_blocking(self._writer, False)
            self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            self._thread = threading.Thread(target=self._watch, name="deadline", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Watch no longer."""
        if self._is_watching:
            signal.set_wakeup_fd(self._before)
            os.close(self._writer)  # the thread reads the end, and ends
            self._thread.join()
            os.close(self._reader)

    def _watch(self) -> None:
        first = None
        while first is None:
            first = self._next_signal(None)
            if first == _END:
                return
        until = time.monotonic() + _GRACE
        while (left := until - time.monotonic()) > 0:
            number = self._next_signal(left)
            if number == _END:
                return
            if number is not None:
                _leave(number)
        os.write(_STDERR, _HELD_UP.format(_GRACE).encode())
        _leave(first)

    def _next_signal(self, timeout: float | None) -> int | None:
        """Wait for a signal that asks to stop; `_END` when nothing more is watched, None when it was another, or time is over."""
        if not select.select([self._reader], [], [], timeout)[0]:
            return None
        data = os.read(self._reader, 1)
        return _END if not data else data[0] if data[0] in _SIGNALS else None


def _leave(number: int) -> None:
    if sys.stderr.isatty():
        os.write(_STDERR, _SHOW_CURSOR.encode())
    os._exit(SIGNAL_EXIT + number)
