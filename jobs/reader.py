"""Find the images of a source: a folder, a list of paths, or parquet manifests.

In: what the user named as SOURCE, and where the output goes. Out: a Source. Apart, because neither the network nor the writer
should know where images come from.
"""

import difflib
import glob
import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa

from capt.errors import InputError
from capt.images import SUPPORTED_SUFFIXES
from jobs.manifest import ManifestSource
from jobs.source import IdentityCheck, Item, Shard, Source, SourceOptions, readable_text

PARQUET_SUFFIXES = frozenset({".parquet", ".pq"})
_GLOB = re.compile(r"[*?\[]")


def open_source(options: SourceOptions, *, output: Path | None = None) -> Source:
    """Look at a source and number its images; no image is opened.

    Args:
        options: What the user asked for.
        output: Where the run writes, so that it is not taken for input when it lies inside the source.

    Returns:
        The source, with at least one image and no image id doubled.

    Raises:
        InputError: If there is no such source, it holds no images, its columns do not fit, or ids are doubled.
    """
    path = Path(options.source)
    try:
        if path.is_dir():
            return _open_folder(path, options, output)
        if path.is_file():
            suffix = path.suffix.lower()
            if suffix in PARQUET_SUFFIXES:
                return ManifestSource([path], options)
            if suffix in SUPPORTED_SUFFIXES:
                return PathSource([path.name], folder=path.parent, options=options)
            return _open_list(path, options)
    except OSError as error:
        message = f"{error.filename or path} cannot be read ({error.strerror or error}); check its permissions."
        raise InputError(message) from error
    if _GLOB.search(options.source) and not path.exists():
        return ManifestSource(find_manifests(options.source, output), options)
    raise InputError(_no_such_source(path))


def plan_shards(rows: int, shard_size: int) -> list[Shard]:
    """Cut a run into numbered shards.

    Args:
        rows: Number of images.
        shard_size: Rows of each shard but the last.

    Returns:
        Contiguous ranges that cover every row once.
    """
    starts = range(0, rows, shard_size)
    return [Shard(number=number, start=start, stop=min(start + shard_size, rows)) for number, start in enumerate(starts)]


class PathSource:
    """Images named by paths, from a folder or a list; only the names are held, as bytes."""

    has_references = False
    travelling = pa.schema([])

    def __init__(self, names: Iterable[str], *, folder: Path, options: SourceOptions) -> None:
        """Hold the names and check them.

        Args:
            names: Paths, relative to the folder or absolute, in the order of the run.
            folder: Where relative ones start.
            options: For the limit.

        Raises:
            InputError: If an image is named twice.
        """
        self._folder = Path(os.path.abspath(folder))  # noqa: PTH100  resolve() would follow links, and the user named the link
        self._blob = bytearray()
        self._ends = array("Q")
        check = IdentityCheck()
        for name in islice(names, options.limit):
            self._blob += os.fsencode(name)
            self._ends.append(len(self._blob))
            check.add(readable_text(name))
        self.sha256 = check.finish(self.image_ids)

    @property
    def rows(self) -> int:
        """How many images there are."""
        return len(self._ends)

    def image_ids(self) -> Iterator[str]:
        """Give all image ids, in order."""
        return (readable_text(self._name(row)) for row in range(self.rows))

    def batches(self, rows: Sequence[int], size: int) -> Iterator[tuple[list[Item], pa.Table]]:
        """Give rows in batches.

        Args:
            rows: Ascending.
            size: Of a batch.

        Yields:
            Items, and a table without columns.
        """
        for start in range(0, len(rows), size):
            items = [self._item(row) for row in rows[start : start + size]]
            yield items, pa.table({"row": pa.nulls(len(items))}).select([])

    def _item(self, row: int) -> Item:
        name = self._name(row)
        path = self._folder / name
        return Item(image_id=readable_text(name), path=readable_text(str(path)), image=path)

    def _name(self, row: int) -> str:
        start = self._ends[row - 1] if row else 0
        return os.fsdecode(bytes(self._blob[start : self._ends[row]]))


def natural_key(name: str) -> tuple[list[int | str], str]:
    """Sort names as people do: photo2 before photo10.

    Args:
        name: Of a file or folder.

    Returns:
        A key for sorting; names that differ never compare equal.
    """
    parts = re.split(r"([0-9]+)", name.casefold())
    return [int(part) if position % 2 else part for position, part in enumerate(parts)], name


def walk(folder: Path, *, output: Path | None = None) -> Iterator[os.DirEntry[str]]:
    """Go through a folder and its subfolders in natural order.

    Hidden files and folders are left out, and so is the output. Links are followed, but no folder is entered twice.

    Args:
        folder: Where to begin.
        output: Where the run writes.

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


def find_manifests(pattern: Path | str, output: Path | None) -> list[Path]:
    """Find parquet files.

    Args:
        pattern: A folder, searched with its subfolders, or a glob.
        output: Where the run writes; what lies there is left out.

    Returns:
        Paths in natural order; for a folder perhaps none.

    Raises:
        InputError: If a glob matches no parquet file.
    """
    if isinstance(pattern, Path):
        candidates = [Path(entry.path) for entry in walk(pattern, output=output) if _is(entry.is_file)]
    else:
        names = glob.glob(pattern, recursive=True)  # noqa: PTH207  Path.glob takes no absolute pattern
        candidates = [Path(name) for name in sorted(names, key=natural_key)]
    forbidden = None if output is None else output.absolute()
    files = [
        path
        for path in candidates
        if path.suffix.lower() in PARQUET_SUFFIXES and path.absolute() != forbidden and not _is_own_shard(path, forbidden)
    ]
    if not files and not isinstance(pattern, Path):
        message = f"No parquet file matches {pattern}; check the pattern, and quote it so that the shell leaves it alone."
        raise InputError(message)
    return files


def _is_own_shard(path: Path, output: Path | None) -> bool:
    return path.absolute().parent == output and path.name.startswith("captions-")


def _open_folder(folder: Path, options: SourceOptions, output: Path | None) -> Source:
    source = PathSource(_image_names(folder, output), folder=folder, options=options)
    if source.rows:
        if options.split is not None:
            message = "--split chooses rows of a parquet manifest, but the source is a folder of images; leave it out."
            raise InputError(message)
        return source
    manifests = find_manifests(folder, output)
    if manifests:
        return ManifestSource(manifests, options)
    endings = ", ".join(sorted(SUPPORTED_SUFFIXES))
    others = sum(1 for _ in walk(folder, output=output))
    content = f"none of its {others} files" if others else "no file in it"
    message = f"{folder} holds no images: {content} ends in {endings} or .parquet."
    raise InputError(message)


def _image_names(folder: Path, output: Path | None) -> Iterator[str]:
    for entry in walk(folder, output=output):
        if os.path.splitext(entry.name)[1].lower() in SUPPORTED_SUFFIXES:  # noqa: PTH122  a Path for each of a million names
            yield os.path.relpath(entry.path, folder).replace(os.sep, "/")


def _open_list(path: Path, options: SourceOptions) -> PathSource:
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if b"\0" in content:
        endings = ", ".join(sorted(SUPPORTED_SUFFIXES))
        message = (
            f"{path} is neither text nor an image nor parquet; give a list of paths, a file ending in {endings} or .parquet."
        )
        raise InputError(message)
    names = (os.fsdecode(line.strip()) for line in content.split(b"\n") if line.strip())
    source = PathSource(names, folder=options.image_root or path.parent, options=options)
    if not source.rows:
        message = f"The list {path} names no images; write one path a line."
        raise InputError(message)
    return source


def _no_such_source(path: Path) -> str:
    try:
        siblings = [entry.name for entry in path.absolute().parent.iterdir()]
    except OSError:
        return f"There is no {path}, nor a folder {path.parent}; give a folder, a list of paths or a parquet manifest."
    similar = difflib.get_close_matches(path.name, siblings, n=1)
    hint = f"did you mean {path.parent / similar[0]}?" if similar else "give a folder, a list of paths or a parquet manifest."
    return f"There is no {path}; {hint}"
