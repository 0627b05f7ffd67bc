"""Who may write into a folder at the same time: one run alone, or several machines that share one.

In: a folder. Out: a hold on it, or nothing when others are in the way. Apart, because locks are the system's, and what is done
under them is the output's business.
"""

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

_PATIENCE = 5.0  # seconds for which another machine may clear the folder up
_PAUSE = 0.05


class FolderLock:
    """A hold on a folder, kept until it is let go or the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        """Hold nothing yet.

        Args:
            folder: Exists by the time that it is taken.
        """
        self._folder = folder
        self._descriptor: int | None = None

    def take(self, *, shared: bool, when_alone: Callable[[], None]) -> bool:
        """Take hold of the folder.

        Args:
            shared: Whether others that share it may hold it as well.
            when_alone: Called while nobody else can hold it; not called when others share it already, or when nobody can know,
                because the file system has no locks, and others may share it.

        Returns:
            Whether it is held; not, when another holds it alone, or it is wanted alone and held by any other.

        Raises:
            OSError: If the folder cannot be opened.
        """
        self._descriptor = descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            alone = _try(descriptor, fcntl.LOCK_EX)
        except OSError:  # some network file systems know no locks
            if not shared:
                when_alone()
            return True
        if alone:
            when_alone()
            if shared:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            return True
        held = shared and _wait(descriptor)
        if not held:
            self.let_go()
        return held

    def let_go(self) -> None:
        """Let others take it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(descriptor: int) -> bool:
    """Share the folder as soon as nobody holds it alone; those that share it do so for a moment, to clear it up."""
    until = time.monotonic() + _PATIENCE
    while not (held := _try(descriptor, fcntl.LOCK_SH)) and time.monotonic() < until:
        time.sleep(_PAUSE)
    return held
