"""Which files there are: below a folder, or matching a pattern, on disk or in an object store, in natural order.

In: a place. Out: names or places, sorted as people sort. Apart, because every kind of source begins with it.
"""

import glob
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from capt.errors import InputError
from capt.remote import Location, Remote, locate

_GLOB = re.compile(r"[*?\[]")
_NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_NUMBERS = 1_000_000


def natural_key(name: str) -> tuple[list[int | str], str]:
    """Sort names as people do: photo2 before photo10.

    Args:
        name: Of a file or folder.

    Returns:
        A key for sorting; names that differ never compare equal.
    """
    parts = re.split(r"([0-9]+)", name.casefold())
    return [int(part) if position % 2 else part for position, part in enumerate(parts)], name


def file_names(folder: Location, *, output: Location | None = None) -> Iterator[str]:
    """Give the files below a folder, in natural order, a folder's content where its name stands among its neighbours.

    Hidden files and folders are left out, and so is the output. On disk links are followed, but no folder is entered twice.

    Args:
        folder: Where to begin.
        output: Where the run writes.

    Yields:
        Paths below the folder, `/`-separated.

    Raises:
        OSError: If a folder cannot be read.
    """
    if isinstance(folder, Remote):
        yield from _remote_names(folder, output)
        return
    for entry in walk(folder, output=output if isinstance(output, Path) else None):
        yield os.path.relpath(entry.path, folder).replace(os.sep, "/")


def _remote_names(folder: Remote, output: Location | None) -> Iterator[str]:
    within = None if output == folder else output  # a run may write where it reads
    files = (file for file in folder.files() if within is None or not file.is_below(within))
    names = (file.relative_to(folder) for file in files)
    split = [name.split("/") for name in names]
    visible = [parts for parts in split if not any(part.startswith(".") for part in parts)]
    yield from ("/".join(parts) for parts in sorted(visible, key=lambda parts: [natural_key(part) for part in parts]))


def walk(folder: Path, *, output: Path | None = None) -> Iterator[os.DirEntry[str]]:
    """Go through a folder on disk and its subfolders in natural order.

    Args:
        folder: Where to begin.
        output: Where the run writes; is left out.

    Yields:
        Everything that is not a folder; `path` begins with the folder's own path.
    """
    entered = {_identity(folder)}
    forbidden = None if output is None or not output.exists() else _identity(output)
    stack = [iter(_sorted_entries(folder))]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
        elif not _is(entry.is_dir):
            if forbidden is None or not _is(entry.is_file) or _identity(entry) != forbidden:
                yield entry
        elif (identity := _identity(entry)) not in entered and identity != forbidden:
            entered.add(identity)
            stack.append(iter(_sorted_entries(entry)))


def _is(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except OSError:  # a link that leads to itself is neither folder nor file
        return False


def _identity(entry: os.DirEntry[str] | Path) -> tuple[int, int]:
    status = entry.stat()
    return status.st_dev, status.st_ino


def _sorted_entries(folder: os.DirEntry[str] | Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(visible, key=lambda entry: natural_key(entry.name))


def is_pattern(text: str) -> bool:
    """Tell whether a name stands for several files: `*`, `?`, `[…]`, or numbers as `{00000..00099}`.

    Args:
        text: What the user wrote.

    Returns:
        Whether it does.
    """
    return bool(_GLOB.search(text) or _NUMBERS.search(text))


def matching(pattern: str) -> list[Location]:
    """Find the files that a pattern names.

    Args:
        pattern: A path or URI with `*`, `?`, `[…]` (`**` goes through folders), or numbers as `{00000..00099}`, as many
            digits as the first has.

    Returns:
        Those that exist, in natural order; of numbers all, in theirs, so that a missing one is noticed when it is read.

    Raises:
        InputError: If numbers run backwards, or are too many.
        OSError: If a folder cannot be read.
    """
    places: list[Location] = []
    for text in _numbered(pattern):
        if not _GLOB.search(text):
            places.append(locate(text))
        elif isinstance(start := locate(_before_pattern(text)), Remote):
            wanted = _regular(text.removeprefix(_before_pattern(text)))
            places += [start / name for name in file_names(start) if wanted.fullmatch(name)]
        else:
            names = glob.glob(text, recursive=True)  # noqa: PTH207  Path.glob takes no absolute pattern
            places += [path for path in (Path(name) for name in sorted(names, key=natural_key)) if path.is_file()]
    return places


def _numbered(pattern: str) -> Iterator[str]:
    found = _NUMBERS.search(pattern)
    if found is None:
        yield pattern
        return
    first, last = int(found[1]), int(found[2])
    if not 0 <= last - first < _MOST_NUMBERS:
        message = f"{found[0]} in {pattern} are not numbers from a lower to a higher one; write it as {{00000..00099}}."
        raise InputError(message)
    for number in range(first, last + 1):
        yield from _numbered(f"{pattern[: found.start()]}{number:0{len(found[1])}d}{pattern[found.end() :]}")


def _before_pattern(text: str) -> str:
    """Give the folder above the first part of a pattern that is none itself, with a slash at its end."""
    found = _GLOB.search(text)
    return text[: text.rfind("/", 0, found.start()) + 1] if found else text


def _regular(pattern: str) -> re.Pattern[str]:
    """Turn a pattern below a folder into a regular expression, as `glob` understands it."""
    parts = []
    for part in re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern):
        meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part)
        if meaning is None:
            meaning = f"[{part[1:-1].replace('!', '^', 1)}]" if part.startswith("[") else re.escape(part)
        parts.append(meaning)
    return re.compile("".join(parts))
