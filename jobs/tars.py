"""Read images out of WebDataset tar files, as img2dataset writes them and clip-retrieval reads them.

In: tar files. Out: a Source of one item for each key that has an image; text and JSON beside it travel along. Apart from the
reader, because what is where in a tar file is nobody else's business.

A tar file has no table of contents: its headers are read once from front to back, and where each image begins is kept, sixteen
bytes an image beside its key. On disk that skips what lies between headers; out of an object store it is one pass over
everything, which costs less than a request for each header. After that, neighbours are read together.

Source:
    https://github.com/webdataset/webdataset (a key is the path up to the first dot of the name; its members are neighbours).
"""

import tarfile
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, Any

import pyarrow as pa

from capt.clipped import Clipped
from capt.errors import InputError
from capt.images import SUPPORTED_SUFFIXES
from capt.remote import Location, Remote
from jobs.source import IdentityCheck, Item, SourceOptions, Unchanged, readable_text, reading

TAR_SUFFIX = ".tar"
_BESIDE = ("txt", "json")
_FARTHEST = 1 << 20  # bytes between two members that are rather read over than asked for twice
_LONGEST_READ = 1 << 26
_LONGEST_HEADER = 1 << 20  # bytes; of a header that says that it is longer, no more is read
_TEXT = pa.string()


@dataclass
class _Members:
    """Where members of one kind are: first byte and length of each row's, length -1 where a row has none."""

    starts: "array[int]" = field(default_factory=lambda: array("Q"))
    sizes: "array[int]" = field(default_factory=lambda: array("q"))

    def add(self, place: tuple[int, int] | None) -> None:
        start, size = place or (0, -1)
        self.starts.append(start)
        self.sizes.append(size)

    def place(self, row: int) -> tuple[int, int] | None:
        return None if self.sizes[row] < 0 else (self.starts[row], self.sizes[row])


class TarSource:
    """The images of tar files, numbered in the order in which they stand there; cheapest from front to back."""

    has_references = False

    def __init__(self, files: Sequence[Location], options: SourceOptions) -> None:
        """Read the headers; no image is read.

        Args:
            files: In the order of the run.
            options: For the limit.

        Raises:
            InputError: If a file is no tar, none has an image, a key is doubled, or a split is asked for.
        """
        if options.split is not None:
            message = "--split chooses rows of a parquet manifest, but the source is tar files; leave it out."
            raise InputError(message)
        self._files = list(files)
        self._unchanged = Unchanged("tar file")
        self._first_rows: list[int] = []
        self._names, self._ends = bytearray(), array("Q")
        self._images = _Members()
        beside = {name: _Members() for name in _BESIDE}
        check = IdentityCheck(options.source)
        for path in self._files:
            self._first_rows.append(len(self._ends))
            left = None if options.limit is None else options.limit - len(self._ends)
            with reading("tar file", path, tarfile.TarError, EOFError):
                self._unchanged.check(path)
                for key, places in islice(_samples(path), left):
                    self._names += key.encode("utf-8", "surrogateescape")
                    self._ends.append(len(self._names))
                    image = places["image"]
                    self._images.add(image)
                    for name, members in beside.items():
                        members.add(places.get(name))
                    check.add(readable_text(key), str(image[1]))
        if not self._ends:
            endings = ", ".join(sorted(SUPPORTED_SUFFIXES))
            message = f"{self._files[0]} holds no images: no member's name ends in {endings}."
            raise InputError(message)
        self._beside = {name: members for name, members in beside.items() if max(members.sizes) >= 0}
        self.travelling = pa.schema([(name, _TEXT) for name in self._beside])
        self.sha256 = check.finish(self.image_ids)

    @property
    def rows(self) -> int:
        """How many images there are."""
        return len(self._ends)

    def image_ids(self) -> Iterator[str]:
        """Give all image ids, in order: WebDataset's keys."""
        return (self._key(row) for row in range(self.rows))

    def batches(self, rows: Sequence[int], size: int) -> Iterator[tuple[list[Item], pa.Table]]:
        """Give rows in batches.

        Args:
            rows: Ascending.
            size: Of a batch.

        Yields:
            Items with the bytes of their images; and the text and JSON beside them.

        Raises:
            InputError: If a file cannot be read any more.
        """
        opened: tuple[int, IO[bytes]] | None = None
        try:
            for start in range(0, len(rows), size):
                items: list[Item] = []
                beside: dict[str, list[str | None]] = {name: [] for name in self._beside}
                for number, group in self._by_file(rows[start : start + size]):
                    with reading("tar file", self._files[number], tarfile.TarError, EOFError):
                        if opened is None or opened[0] != number:
                            if opened is not None:
                                opened[1].close()
                            opened = (number, _open(self._files[number]))
                        content = _read(opened[1], self._places(group))
                        self._unchanged.check(self._files[number])
                    for row in group:
                        image = content[self._images.starts[row]]
                        items.append(Item(image_id=self._key(row), path=None, image=image))
                        for name, members in self._beside.items():
                            place = members.place(row)
                            beside[name].append(None if place is None else content[place[0]].decode("utf-8", "replace"))
                table = pa.table({name: pa.array(texts, _TEXT) for name, texts in beside.items()})
                yield items, table if beside else pa.table({"row": pa.nulls(len(items))}).select([])
        finally:
            if opened is not None:
                opened[1].close()

    def _by_file(self, rows: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """Give ascending rows, those of one file together, with its number."""
        groups: dict[int, list[int]] = {}
        for row in rows:
            groups.setdefault(bisect_right(self._first_rows, row) - 1, []).append(row)
        yield from groups.items()

    def _places(self, rows: Sequence[int]) -> list[tuple[int, int]]:
        found = (members.place(row) for row in rows for members in (self._images, *self._beside.values()))
        return sorted(place for place in found if place is not None)

    def _key(self, row: int) -> str:
        start = self._ends[row - 1] if row else 0
        return readable_text(self._names[start : self._ends[row]].decode("utf-8", "surrogateescape"))


def _samples(path: Location) -> Iterator[tuple[str, Mapping[str, tuple[int, int]]]]:
    """Give the keys of a tar file that have an image, each with where its image, text and JSON are."""
    key, places = "", dict[str, tuple[int, int]]()
    for name, start, size in _members(path):
        folder, slash, base = name.rpartition("/")
        stem, _, ending = base.partition(".")
        if f"{folder}{slash}{stem}" != key:
            if "image" in places:
                yield key, places
            key, places = f"{folder}{slash}{stem}", {}
        ending = ending.lower()
        if f".{ending}" in SUPPORTED_SUFFIXES:
            places.setdefault("image", (start, size))
        elif ending in _BESIDE:
            places.setdefault(ending, (start, size))
    if "image" in places:
        yield key, places


def _members(path: Location) -> Iterator[tuple[str, int, int]]:
    """Give name, first byte and length of each file in a tar file."""
    far_away = isinstance(path, Remote)
    file: Any = path.open_stream() if isinstance(path, Remote) else Clipped(path, most=_LONGEST_HEADER)
    with closing(file), tarfile.open(fileobj=file, mode="r|" if far_away else "r:") as tar:
        for member in tar:
            is_short = isinstance(file, Clipped) and member.offset_data + member.size > file.size
            if member.issparse() or member.size < 0 or is_short:
                message = f"{member.name} is not there as its header says"
                raise tarfile.ReadError(message)
            if member.isfile() and not member.name.rpartition("/")[2].startswith("."):
                yield member.name.removeprefix("./"), member.offset_data, member.size
            tar.members.clear()  # type: ignore[attr-defined]  # or it keeps all of them


def _open(path: Location) -> IO[bytes]:
    return path.open_input() if isinstance(path, Remote) else path.open("rb")


def _read(file: IO[bytes], places: Sequence[tuple[int, int]]) -> dict[int, bytes]:
    """Read members, ascending, neighbours together; gives them by their first byte."""
    content: dict[int, bytes] = {}
    waiting: list[tuple[int, int]] = []
    for place in places:
        if waiting and not _is_near(waiting, place):
            content |= _read_together(file, waiting)
            waiting = []
        waiting.append(place)
    return content | _read_together(file, waiting)


def _is_near(waiting: Sequence[tuple[int, int]], place: tuple[int, int]) -> bool:
    (first, _), (last, size) = waiting[0], waiting[-1]
    return place[0] - (last + size) <= _FARTHEST and place[0] + place[1] - first <= _LONGEST_READ


def _read_together(file: IO[bytes], places: Sequence[tuple[int, int]]) -> dict[int, bytes]:
    if not places:
        return {}
    first, (last, size) = places[0][0], places[-1]
    file.seek(first)
    block = file.read(last + size - first)
    return {start: bytes(block[start - first : start - first + length]) for start, length in places}
