"""A file that is never asked for more than it has.

In: a file on disk. Out: its bytes. Apart, because readers of others (tar, pickle) believe a length that the file itself
states, and set aside as much memory before they read.
"""

import os
from pathlib import Path
from types import TracebackType
from typing import Self


class Clipped:
    """A file on disk that gives what is there, however much is asked for."""

    def __init__(self, path: Path, *, most: int | None = None) -> None:
        """Open the file.

        Args:
            path: The file.
            most: Bytes that one reading gives at most; by default as many as there are.

        Raises:
            OSError: If it cannot be opened.
        """
        self._file = path.open("rb")
        self.size = os.fstat(self._file.fileno()).st_size
        self._most = self.size if most is None else most
        self.seek, self.tell, self.close, self.readline = self._file.seek, self._file.tell, self._file.close, self._file.readline

    def read(self, size: int) -> bytes:
        """Read on.

        Args:
            size: How many bytes are wanted.

        Returns:
            As many, or those that are left, or the most that one reading gives.
        """
        return self._file.read(min(size, self._most))

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Close the file."""
        self._file.close()
