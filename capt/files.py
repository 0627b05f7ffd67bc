"""Files that exist whole or not at all, even when the machine stops while they are written.

In: a path and its content. Out: the file, or an OutputError that leaves an older one untouched. Apart, because checkpoints,
scores, reports and the ends of runs all promise this, and one mistake would break the promise.
"""

import io
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from capt.errors import OutputError, first_line
from capt.remote import Location, Remote


def cache_folder(name: str) -> Path:
    """Name a folder in this user's cache: `$XDG_CACHE_HOME/capt/NAME`, else `~/.cache/capt/NAME`.

    Args:
        name: What is kept there.

    Returns:
        The folder; it is not made.

    Raises:
        RuntimeError: If the user has no home.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "capt" / name


def write_whole(path: Location, content: bytes) -> None:
    """Write a file so that it is there whole or not at all.

    Args:
        path: The file; its folder is made, an older file replaced.
        content: What it shall hold.

    Raises:
        OutputError: If the file cannot be written.
    """
    temporary = ""
    try:
        if isinstance(path, Remote):
            path.write_from(io.BytesIO(content))
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            with suppress(OSError):
                Path(temporary).unlink(missing_ok=True)
        message = f"{path} cannot be written ({error.strerror or first_line(error)}); choose another place or make room."
        raise OutputError(message) from error
