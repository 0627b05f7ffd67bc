"""What a source of images is to the job: numbered items, an identity, and columns that travel along.

In: nothing; these are the nouns that readers produce and the job consumes. Apart from the readers, so that each knows this
and not the others.
"""

import hashlib
import math
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from capt.errors import InputError
from capt.images import DEFAULT_MAX_PIXELS
from capt.inside import lies_inside
from capt.remote import Location, Remote, reading_parquet

DEFAULT_IMAGE_TIMEOUT = 60.0
_NAMED_DOUBLES = 3


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Which images, and how they are found.

    `limit` is the number of images to take from the start. `image_root` is what relative paths in a list or manifest start
    from; by default the folder that the list or manifest is in. `split` keeps the rows of a manifest whose column `split`
    says so. `allow_outside` lets the paths of a manifest lead out of that folder. `image_timeout` is the seconds that opening
    an image may take, 0 any.
    """

    source: str
    image_root: Location | None = None
    split: str | None = None
    limit: int | None = None
    max_pixels: int = DEFAULT_MAX_PIXELS
    draft: bool = False
    image_timeout: float = DEFAULT_IMAGE_TIMEOUT
    references: Path | None = None
    allow_outside: bool = False

    def __post_init__(self) -> None:
        """Refuse impossible numbers.

        Raises:
            InputError: If a value is out of range.
        """
        for name, value in (("limit", self.limit), ("max-pixels", self.max_pixels)):
            if value is not None and value < 1:
                message = f"--{name} must be at least 1, not {value}."
                raise InputError(message)
        if not 0 <= self.image_timeout < math.inf:
            message = f"--image-timeout is a number of seconds, or 0 to wait for ever, not {self.image_timeout:g}."
            raise InputError(message)


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One image to caption: where it lies, or bytes from a manifest, or neither when the manifest has none in this row.

    `within` is the folder that the path must lead into, where somebody else wrote it.
    """

    image_id: str
    path: str | None
    image: Location | bytes | None
    references: tuple[str, ...] | None = None
    within: Location | None = None

    def is_outside(self) -> bool:
        """Whether the path leads out of the folder in which it must stay."""
        if self.within is None or isinstance(self.image, bytes | None):
            return False
        if isinstance(self.image, Path) and isinstance(self.within, Path):
            return not lies_inside(self.image, self.within)
        return not (isinstance(self.image, Remote) and self.image.is_below(self.within))


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A contiguous range of a run's rows, which becomes one file: from `start` up to, not including, `stop`."""

    number: int
    start: int
    stop: int


class Source(Protocol):
    """The images of a run, numbered from 0."""

    @property
    def rows(self) -> int:
        """How many images there are."""
        ...

    @property
    def sha256(self) -> str:
        """What tells this source from another: over the ordered image ids, paths and references inside it."""
        ...

    @property
    def travelling(self) -> pa.Schema:
        """A manifest's columns that go along unchanged, under the names they have in the output."""
        ...

    @property
    def has_references(self) -> bool:
        """Whether items bring their references."""
        ...

    def image_ids(self) -> Iterator[str]:
        """Give all image ids, in order."""
        ...

    def batches(self, rows: Sequence[int], size: int) -> Iterator[tuple[list[Item], pa.Table]]:
        """Give rows, ascending, in batches: items and their travelling columns, `size` at a time but for the last."""
        ...


class IdentityCheck:
    """Watches the image ids of a source go by: gives their fingerprint, and finds doubled ones in eight bytes an image."""

    def __init__(self, source: str, about: str = "") -> None:
        """Begin with no image.

        Args:
            source: What the user named, for messages.
            about: What else tells the source apart: its travelling columns.
        """
        self._source = source
        self._digest = hashlib.sha256(about.encode())
        self._marks = array("Q")

    def add(self, image_id: str, *further: str) -> None:
        """Count one image.

        Args:
            image_id: Its id.
            further: What else tells it apart: a path, references.
        """
        self._marks.append(mark(image_id))
        for text in (image_id, *further):
            data = text.encode("utf-8", "surrogatepass")
            self._digest.update(b"%d:" % len(data))
            self._digest.update(data)
        self._digest.update(b"\n")

    def finish(self, image_ids: Callable[[], Iterator[str]]) -> str:
        """Refuse doubled ids.

        Args:
            image_ids: Gives all ids once more, to name the doubled ones; called only when there may be some.

        Returns:
            The sha256 of the source.

        Raises:
            InputError: If ids are doubled, naming the first few.
        """
        marks = np.sort(np.frombuffer(self._marks, dtype=np.uint64)) if self._marks else np.zeros(0, dtype=np.uint64)
        repeated = {int(each) for each in marks[1:][marks[1:] == marks[:-1]]}
        if repeated:
            self._refuse_doubles(image_id for image_id in image_ids() if mark(image_id) in repeated)
        return self._digest.hexdigest()

    def _refuse_doubles(self, suspects: Iterable[str]) -> None:
        counts: dict[str, int] = {}
        for image_id in suspects:
            counts[image_id] = counts.get(image_id, 0) + 1
        doubled = [f"{image_id} ({count} times)" for image_id, count in counts.items() if count > 1]
        if doubled:
            named = ", ".join(doubled[:_NAMED_DOUBLES]) + (", …" if len(doubled) > _NAMED_DOUBLES else "")
            ids = "1 image id is" if len(doubled) == 1 else f"{len(doubled)} image ids are"
            message = f"In {self._source} {ids} doubled: {named}; give each image its own."
            raise InputError(message)


def mark(image_id: str) -> int:
    """Give an image id as eight bytes; that two of a million have the same is likely as one in thirty million.

    Args:
        image_id: Its id.

    Returns:
        A number below 2^64.
    """
    data = image_id.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


@contextmanager
def reading(kind: str, place: Location, *further: type[Exception]) -> Iterator[None]:
    """Turn what is said about a damaged or vanished file of a source into an InputError that names it.

    Args:
        kind: What the file is, such as `manifest`.
        place: The file.
        further: Errors of whatever reads such files, beside those of the system and of Arrow.

    Yields:
        Nothing.

    Raises:
        InputError: If the file cannot be read.
    """
    with reading_parquet(f"The {kind} {place} cannot be read", "; make it again, or leave it out.", *further):
        yield


class Unchanged:
    """Watches that the files of a source stay what they were when its images were numbered.

    Rows are known by their place in a file: of a file that was written anew, other images would be captioned under the ids and
    the fingerprint of those that were planned. What lies in an object store is not asked about, each time a request.
    """

    def __init__(self, kind: str) -> None:
        """Know no file yet.

        Args:
            kind: What the files are, such as `manifest`.
        """
        self._kind = kind
        self._stamps: dict[Location, tuple[int, int]] = {}

    def __getstate__(self) -> dict[str, object]:
        """Leave the stamps behind: a copy of the file on another machine may have another time."""
        return {**self.__dict__, "_stamps": {}}

    def check(self, place: Location) -> None:
        """Look at a file, the first time to remember it.

        Args:
            place: The file.

        Raises:
            InputError: If it was changed since.
            OSError: If it is gone.
        """
        if isinstance(place, Remote):
            return
        status = place.stat()
        stamp = (status.st_size, status.st_mtime_ns)
        if self._stamps.setdefault(place, stamp) != stamp:
            message = f"The {self._kind} {place} was changed while it was read; put back what it was, or start a run of its own."
            raise InputError(message)


def readable_text(name: str) -> str:
    r"""Make a path fit for a table of UTF-8 text.

    Args:
        name: A path as Python gives it, with surrogates for bytes that are not UTF-8.

    Returns:
        The same when it is UTF-8, else with each foreign byte as `\xNN`.
    """
    return os.fsencode(name).decode("utf-8", "backslashreplace")


@dataclass(frozen=True, kw_only=True)
class ReferenceBook:
    """Human captions from a file, found by image id, by another name of it, or by the file name at its end."""

    captions: Mapping[str, tuple[str, ...]]
    aliases: Mapping[str, str]

    def find(self, image_id: str) -> tuple[str, ...] | None:
        """Look up an image.

        Args:
            image_id: As in the table.

        Returns:
            Its references, or None when it has none.
        """
        for name in (image_id, image_id.rsplit("/", 1)[-1]):
            found = self.captions.get(name) or self.captions.get(self.aliases.get(name, ""))
            if found:
                return found
        return None
