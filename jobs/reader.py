"""Find the images of a source: a folder, a list of paths, parquet manifests, or WebDataset tar files; here or by URI.

In: what the user named as SOURCE, and where the output goes. Out: a Source. Apart, because neither the network nor the writer
should know where images come from.
"""

import difflib
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa

from capt.errors import InputError, first_line
from capt.images import SUPPORTED_SUFFIXES
from capt.remote import Location, Remote, locate, place_in
from jobs.listing import file_names, is_pattern, matching
from jobs.manifest import ManifestSource
from jobs.source import IdentityCheck, Item, Shard, Source, SourceOptions, readable_text
from jobs.tars import TAR_SUFFIX, TarSource

PARQUET_SUFFIXES = frozenset({".parquet", ".pq"})


def open_source(options: SourceOptions, *, output: Location | None = None) -> Source:
    """Look at a source and number its images; no image is opened.

    Args:
        options: What the user asked for.
        output: Where the run writes, so that it is not taken for input when it lies inside the source.

    Returns:
        The source, with at least one image and no image id doubled.

    Raises:
        InputError: If there is no such source, it holds no images, its columns do not fit, or ids are doubled.
    """
    path = locate(options.source)
    try:
        if path.is_dir():
            return _open_folder(path, options, output)
        if path.is_file():
            return _open_file(path, options)
        if is_pattern(options.source):
            return _open_pattern(options, output)
    except OSError as error:
        reason = error.strerror or first_line(error)
        message = f"{error.filename or path} cannot be read ({reason}); check its permissions."
        raise InputError(message) from error
    raise InputError(_no_such_source(path))


def _open_file(path: Location, options: SourceOptions) -> Source:
    suffix = path.suffix.lower()
    if suffix in PARQUET_SUFFIXES:
        return ManifestSource([path], options)
    if suffix == TAR_SUFFIX:
        return TarSource([path], options)
    if suffix in SUPPORTED_SUFFIXES:
        return PathSource([path.name], folder=path.parent, options=options)
    return _open_list(path, options)


def _open_pattern(options: SourceOptions, output: Location | None) -> Source:
    tars, manifests = _tables(matching(options.source), output)
    if tars and manifests:
        message = f"{options.source} matches {tars[0].name} and {manifests[0].name}; caption tar and parquet files in two runs."
        raise InputError(message)
    if tars:
        return TarSource(tars, options)
    if manifests:
        return ManifestSource(manifests, options)
    remedy = "check the pattern, and quote it so that the shell leaves it alone."
    message = f"No parquet or tar file matches {options.source}; {remedy}"
    raise InputError(message)


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

    def __init__(self, names: Iterable[str], *, folder: Location, options: SourceOptions) -> None:
        """Hold the names and check them.

        Args:
            names: Paths, relative to the folder or absolute, or URIs, in the order of the run.
            folder: Where relative ones start.
            options: For the limit.

        Raises:
            InputError: If an image is named twice.
        """
        # resolve() would follow links, and the user named the link
        self._folder = folder if isinstance(folder, Remote) else Path(os.path.abspath(folder))  # noqa: PTH100
        self._blob = bytearray()
        self._ends = array("Q")
        check = IdentityCheck(options.source)
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
        path = place_in(self._folder, name)
        return Item(image_id=readable_text(name), path=readable_text(str(path)), image=path)

    def _name(self, row: int) -> str:
        start = self._ends[row - 1] if row else 0
        return os.fsdecode(bytes(self._blob[start : self._ends[row]]))


def _tables(places: Iterable[Location], output: Location | None) -> tuple[list[Location], list[Location]]:
    """Choose the tar files and the parquet files among some, without what the run itself has written."""
    ours = [path for path in places if output is None or not _is_own_output(path, output)]
    tars = [path for path in ours if path.suffix.lower() == TAR_SUFFIX]
    return tars, [path for path in ours if path.suffix.lower() in PARQUET_SUFFIXES]


def _is_own_output(path: Location, output: Location) -> bool:
    """Tell whether a file is the output, or one of its shards."""
    path, output = (place.absolute() if isinstance(place, Path) else place for place in (path, output))
    return path == output or (path.parent == output and path.name.startswith("captions-"))


def _open_folder(folder: Location, options: SourceOptions, output: Location | None) -> Source:
    others: list[str] = []
    source = PathSource(_image_names(file_names(folder, output=output), others), folder=folder, options=options)
    if source.rows:
        if options.split is not None:
            message = "--split chooses rows of a parquet manifest, but the source is a folder of images; leave it out."
            raise InputError(message)
        return source
    files = (path for path in (folder / name for name in others) if isinstance(path, Remote) or path.is_file())
    tars, manifests = _tables(files, output)
    if tars:  # img2dataset lays a parquet file without images beside each
        return TarSource(tars, options)
    if manifests:
        return ManifestSource(manifests, options)
    endings = ", ".join(sorted(SUPPORTED_SUFFIXES))
    content = f"none of its {len(others)} files" if others else "no file in it"
    message = f"{folder} holds no images: {content} ends in {endings}, .parquet or .tar."
    raise InputError(message)


def _image_names(names: Iterable[str], others: list[str]) -> Iterator[str]:
    """Give the names of images; until the first one is met, keep those of other files."""
    found = False
    for name in names:
        if os.path.splitext(name)[1].lower() in SUPPORTED_SUFFIXES:  # noqa: PTH122  a Path for each of a million names
            found = True
            others.clear()
            yield name
        elif not found:
            others.append(name)


def _open_list(path: Location, options: SourceOptions) -> PathSource:
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if b"\0" in content:
        endings = ", ".join(sorted(SUPPORTED_SUFFIXES))
        message = (
            f"{path} is neither text nor an image nor parquet nor tar; give a list of paths, or a file ending in {endings}, "
            ".parquet or .tar."
        )
        raise InputError(message)
    names = (os.fsdecode(line.strip()) for line in content.split(b"\n") if line.strip())
    source = PathSource(names, folder=options.image_root or path.parent, options=options)
    if not source.rows:
        message = f"The list {path} names no images; write one path a line."
        raise InputError(message)
    return source


def _no_such_source(path: Location) -> str:
    if isinstance(path, Remote):
        return f"There is no {path}; give a folder, a list of paths, parquet or tar files that are there."
    try:
        siblings = [entry.name for entry in path.absolute().parent.iterdir()]
    except OSError:
        return f"There is no {path}, nor a folder {path.parent}; give a folder, a list of paths, parquet or tar files."
    similar = difflib.get_close_matches(path.name, siblings, n=1)
    hint = f"did you mean {path.parent / similar[0]}?" if similar else "give a folder, a list of paths, parquet or tar files."
    return f"There is no {path}; {hint}"
