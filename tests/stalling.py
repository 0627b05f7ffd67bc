"""A file whose opening really stalls: another process has a write lease on it, and the kernel lets nobody in before it is let go.

In: a regular file. Out: the same, which blocks whoever opens it, until it is released or for as long as the system lets a lease
be held (45 seconds unless changed). Apart, because nothing in the program is replaced for it, and no right to mount is needed.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HOLD = """
import fcntl, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
with open(sys.argv[1], "r+b") as file:
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    print("held", flush=True)
    sys.stdin.read()
"""


class StallingFile:
    """A file that is there and does not open."""

    def __init__(self, path: Path, content: bytes) -> None:
        """Write the file and hold it, or skip the test where that cannot be done.

        Args:
            path: Where.
            content: What whoever waits long enough reads.
        """
        self.path = path
        path.write_bytes(content)
        command = [sys.executable, "-c", HOLD, str(path)]
        pipe = subprocess.PIPE
        self._holder = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        if self._holder.stdout is None or self._holder.stdout.readline() != "held\n":
            self.release()
            pytest.skip("this file system has no leases to make a file stall")

    @property
    def is_waited_for(self) -> bool:
        """Whether somebody wanted to open it, and the kernel still holds whoever does."""
        number = f" {self._holder.pid} "
        return any("BREAKING" in line and number in line for line in Path("/proc/locks").read_text().splitlines())

    def release(self) -> None:
        """Let everybody in."""
        self._holder.communicate()


@pytest.fixture
def stalling(tmp_path: Path, photos: Path) -> Iterator[StallingFile]:
    """Give a photograph that does not open."""
    file = StallingFile(tmp_path / "stalling.jpg", (photos / "cat.jpg").read_bytes())
    yield file
    file.release()
