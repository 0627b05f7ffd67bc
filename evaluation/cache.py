"""What Java said before, kept by content: the same captions against the same references are never tokenised or aligned twice.

In: the content that decides a result. Out: the result, if it was kept. Apart, because it may fail at any time (no room, no
permission, a file cut short, two runs at once) without anybody losing more than time.
"""

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from capt.files import cache_folder

_LIMIT_BYTES = 256_000_000
_ENDING = ".json.gz"


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Results by content, in a folder that never grows beyond its limit.

    Attributes:
        folder: Made when something is kept; None keeps nothing.
        limit_bytes: The most that all files take; those used longest ago go first.
    """

    folder: Path | None
    limit_bytes: int = _LIMIT_BYTES

    def get(self, kind: str, content: Sequence[object]) -> object:
        """Look a result up.

        Args:
            kind: What made it, with its version; part of the file's name.
            content: What decides it, as JSON knows it.

        Returns:
            The result, or None when it is not here or cannot be read.
        """
        if self.folder is None:
            return None
        path = self._path(kind, content)
        try:
            result: object = json.loads(gzip.decompress(path.read_bytes()))
        except (OSError, EOFError, ValueError, RecursionError, zlib.error):
            return None
        with suppress(OSError):
            os.utime(path)  # the time of its last use
        return result

    def put(self, kind: str, content: Sequence[object], result: object) -> None:
        """Keep a result, if that is possible, and forget the oldest if there is no room.

        Args:
            kind: As for `get`.
            content: As for `get`.
            result: As JSON knows it.
        """
        if self.folder is None:
            return
        path = self._path(kind, content)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary.write_bytes(gzip.compress(json.dumps(result).encode(), compresslevel=1, mtime=0))
            temporary.replace(path)
            self._forget()
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def size(self) -> int:
        """Add up what the files take, in bytes."""
        return sum(size for _, size, _ in self._files())

    def _path(self, kind: str, content: Sequence[object]) -> Path:
        assert self.folder is not None  # noqa: S101  # callers have looked
        digest = hashlib.sha256(json.dumps([kind, *content]).encode()).hexdigest()
        return self.folder / f"{kind}-{digest[:40]}{_ENDING}"

    def _files(self) -> list[tuple[float, int, Path]]:
        """Give time of last use, size and path of each file, whatever other runs do meanwhile."""
        found = []
        for path in self.folder.glob(f"*{_ENDING}*") if self.folder else ():
            with suppress(OSError):
                state = path.stat()
                found.append((state.st_mtime, state.st_size, path))
        return sorted(found)

    def _forget(self) -> None:
        files = self._files()
        total = sum(size for _, size, _ in files)
        for _, size, path in files:
            if total <= self.limit_bytes:
                return
            with suppress(OSError):
                path.unlink()
                total -= size


def user_cache() -> Cache:
    """Give the cache of this user: `$XDG_CACHE_HOME/capt/scores`, else `~/.cache/capt/scores`.

    Returns:
        It; nothing is made yet. A user without a home has none.
    """
    try:
        return Cache(folder=cache_folder("scores"))
    except RuntimeError:
        return Cache(folder=None)
