"""Decide whether a path that somebody else wrote stays inside a folder.

In: a name, or a path and a folder. Out: yes or no; nothing is opened. Apart, because the job and the judge both read tables that
name files, and both must decide alike.
"""

import os
import re
from functools import lru_cache
from pathlib import Path, PurePosixPath

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_FOLDERS_KNOWN = 4096


def goes_down(name: str) -> bool:
    """Whether a name leads out of no folder by itself; links in that folder are its owner's.

    Args:
        name: Somebody else's, `/`-separated.

    Returns:
        False for absolute names, for those with `..`, and for what cannot be a path.
    """
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name


def lies_inside(path: Path, folder: Path) -> bool:
    """Whether a path leads into a folder, once all links are followed.

    Args:
        path: May lead anywhere, or nowhere; what looks like the URI of something else (`http://…`) lies in no folder.
        folder: May itself be a link.

    Returns:
        True also for a path that no system can have: opening it tells why.
    """
    try:
        root = _real(os.fspath(folder))
        real = _real_path(path)
        return not _looks_like_uri(path, folder) and os.path.commonpath([root, real]) == root
    except ValueError:  # a null byte
        return True


def _real_path(path: Path) -> str:
    """Follow all links; a folder's are followed once for all its files."""
    if path.name in {"", ".."}:
        return os.path.realpath(path)
    real = os.path.join(_real(os.fspath(path.parent)), path.name)  # noqa: PTH118  a Path for each of a million images
    return os.path.realpath(real) if os.path.islink(real) else real  # noqa: PTH114  the same


@lru_cache(_FOLDERS_KNOWN)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def _looks_like_uri(path: Path, folder: Path) -> bool:
    """Whether a path begins, inside the folder, with a scheme that is no folder there."""
    first = path.relative_to(folder).parts[:1] if path.is_relative_to(folder) else ()
    return any(_SCHEME.fullmatch(part) and not os.path.lexists(folder / part) for part in first)
