"""Files that lie in an object store: named by a URI, with the ways of a `Path` that capt uses.

In: a URI such as `s3://bucket/photos`. Out: a `Remote`, which stands wherever a `Path` may; `locate` chooses. Apart, because
retrying, listing and what an object store calls a folder are nobody else's business. The file systems are pyarrow's, which has
S3, Google Cloud Storage, Azure and HDFS built in and asks `huggingface_hub` for `hf://`; credentials, endpoint and region come
from where each of them looks for them (as AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL), or stand in the URI's query.

An object appears under its name when its last byte has arrived, whole; there are no renames, no locks and no folders to be made.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeVar
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from capt.errors import InputError, first_line

SCHEMES = ("s3", "gs", "gcs", "hf", "abfs", "abfss", "hdfs")
_URI = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_PAUSES = (0.5, 3.0, 6.0)  # seconds before an attempt is repeated, after those that the library has repeated by itself
_S3_ERROR = re.compile(r"AWS Error (\w+) during \w+ operation: (.*?)(?: \(Request ID.*)?$", re.DOTALL)
_WITH_FOLDERS = frozenset({"hdfs"})  # file systems where a folder must be made first
_CHUNK = 1 << 22
_FINAL = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "NO_SUCH_KEY", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "does not exist")
_Result = TypeVar("_Result")


class Remote:
    """A file or folder in an object store. Whatever fails for a moment is tried again, some ten seconds later at last."""

    def __init__(self, filesystem: "FileSystem", path: str) -> None:
        """Name a place; nothing is asked of the store.

        Args:
            filesystem: Where it is.
            path: In it, as `bucket/folder/name`.
        """
        self._filesystem, self.path = filesystem, path.rstrip("/")

    def __str__(self) -> str:
        """Give the URI, without a password or a query that stood in it."""
        return f"{self._filesystem.prefix}{self.path}"

    def __repr__(self) -> str:
        """Give the same to developers."""
        return f"Remote({self})"

    def __eq__(self, other: object) -> bool:
        """Tell whether another names the same place."""
        return isinstance(other, Remote) and str(self) == str(other)

    def __hash__(self) -> int:
        """Be a key as a path is."""
        return hash(str(self))

    def __truediv__(self, name: str) -> "Remote":
        """Name what lies inside; a name with `/` at its front begins at the bucket, as a path does at the root."""
        return Remote(self._filesystem, name.lstrip("/") if name.startswith("/") else f"{self.path}/{name}")

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def suffix(self) -> str:
        """How the name ends, with the dot."""
        return Path(self.name).suffix

    @property
    def parent(self) -> "Remote":
        """The folder that it lies in."""
        return Remote(self._filesystem, self.path.rpartition("/")[0])

    def with_name(self, name: str) -> "Remote":
        """Name a neighbour."""
        return self.parent / name

    def relative_to(self, folder: "Remote") -> str:
        """Give the path below a folder that it lies in."""
        return self.path[len(folder.path) + 1 :]

    def is_below(self, folder: object) -> bool:
        """Tell whether it is a folder, or lies in it; a path with `..` in it does not, whatever the store takes that for."""
        return ".." not in self.path.split("/") and f"{self}/".startswith(f"{folder}/")

    def exists(self) -> bool:
        """Whether there is a file or a folder of this name."""
        return self._kind is not fs.FileType.NotFound

    def is_dir(self) -> bool:
        """Whether objects lie below it."""
        return self._kind is fs.FileType.Directory

    def is_file(self) -> bool:
        """Whether it is an object."""
        return self._kind is fs.FileType.File

    @property
    def _kind(self) -> fs.FileType:
        try:
            return self._try(lambda: self._store.get_file_info(self.path)).type
        except FileNotFoundError:
            return fs.FileType.NotFound

    @property
    def _store(self) -> fs.FileSystem:
        return self._filesystem.opened

    def files(self, *, recursive: bool = True) -> Iterator["Remote"]:
        """Give the files below it, in the order in which the store tells them.

        Args:
            recursive: Also those in folders below.

        Yields:
            Files; none where there is no such folder.

        Raises:
            OSError: If the store does not answer.
        """
        selector = fs.FileSelector(self.path, recursive=recursive, allow_not_found=True)
        for info in self._try(lambda: self._store.get_file_info(selector)):
            if info.type is fs.FileType.File:
                yield Remote(self._filesystem, info.path)

    def iterdir(self) -> Iterator["Remote"]:
        """Give the files in this folder."""
        return self.files(recursive=False)

    def glob(self, pattern: str) -> Iterator["Remote"]:
        """Give the files in this folder whose names match."""
        wanted = re.compile(translate(pattern))
        return (path for path in self.iterdir() if wanted.match(path.name))

    def open_input(self) -> pa.NativeFile:
        """Open it for reading anywhere in it.

        Returns:
            A seekable file.

        Raises:
            OSError: If there is no such object, or the store does not answer.
        """
        return self._try(lambda: self._store.open_input_file(self.path))

    def open_stream(self) -> pa.NativeFile:
        """Open it for reading from front to back."""
        return self._try(lambda: self._store.open_input_stream(self.path, compression=None))

    def read_bytes(self, *, most: int | None = None) -> bytes:
        """Read all of it.

        Args:
            most: Bytes after which reading stops.

        Returns:
            The content, or its first bytes.

        Raises:
            OSError: If there is no such object, or the store does not answer.
        """

        def read() -> bytes:
            with self._store.open_input_stream(self.path, compression=None) as file:
                return bytes(file.read(most))

        return self._try(read)

    def write_from(self, file: IO[bytes]) -> None:
        """Write it whole; an object of this name is replaced when the last byte has arrived.

        Args:
            file: Is read from its beginning, again when the store failed for a moment.

        Raises:
            OSError: If it cannot be written.
        """

        def write() -> None:
            file.seek(0)
            with self._store.open_output_stream(self.path) as stream:
                while chunk := file.read(_CHUNK):
                    stream.write(chunk)

        if self._filesystem.kind in _WITH_FOLDERS:
            self._store.create_dir(self.parent.path, recursive=True)
        self._try(write)

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove it.

        Args:
            missing_ok: Be content when it is gone already.

        Raises:
            OSError: If it cannot be removed.
        """
        try:
            self._try(lambda: self._store.delete_file(self.path))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def _try(self, action: Callable[[], _Result]) -> _Result:
        """Do something, again where a store or the way to it failed for a moment."""
        pauses = iter(_PAUSES)
        while True:
            try:
                return action()
            except pa.ArrowInvalid as error:  # a name that no object can have
                raise FileNotFoundError(first_line(error)) from error
            except OSError as error:
                pause = None if _is_final(error) else next(pauses, None)
                if pause is None:
                    raise _shortened(error) from error
            time.sleep(pause)


Location: TypeAlias = Path | Remote
"""Where a file or folder lies: on this machine's file system, or in an object store."""


@dataclass(frozen=True)
class FileSystem:
    """A file system by the URI that names it; opened when first used, and anew in a process that it is sent to."""

    uri: str
    prefix: str
    kind: str

    @property
    def opened(self) -> fs.FileSystem:
        """The file system itself."""
        return _open(self.uri)[0]


PARQUET_FAULTS = (OSError, pa.ArrowException, ValueError, LookupError, OverflowError)
"""What reading parquet raises where a file is damaged or odd: beside Arrow's own errors, for text or names that are not UTF-8,
for two columns of one name, and for dates that Python does not have."""


@contextmanager
def reading_parquet(what: str, remedy: str, *further: type[Exception]) -> Iterator[None]:
    """Turn what is said about a damaged or vanished file into an InputError.

    Args:
        what: Subject and verb of its sentence, such as `photos.parquet cannot be read as parquet`; the reason follows.
        remedy: The rest of the sentence, from the stop after the reason on.
        *further: Errors of whatever else reads the file, beside those of the system and of Arrow.

    Yields:
        Nothing.

    Raises:
        InputError: If the file cannot be read.
    """
    try:
        yield
    except MemoryError:  # one of Arrow's too, but no fault of the file
        raise
    except (*PARQUET_FAULTS, *further) as error:
        message = f"{what} ({first_line(error)}){remedy}"
        raise InputError(message) from error


def open_parquet(place: Location, **options: Any) -> pq.ParquetFile:  # noqa: ANN401 - pyarrow's own
    """Open a parquet file, wherever it lies.

    Args:
        place: The file.
        options: Of `pyarrow.parquet.ParquetFile`.

    Returns:
        The file, to be closed.

    Raises:
        OSError: If it cannot be read.
        pyarrow.ArrowException: If it is no parquet.
    """
    return pq.ParquetFile(place if isinstance(place, Path) else place.open_input(), **options)


def is_uri(text: str) -> bool:
    """Tell a URI from a path.

    Args:
        text: What somebody wrote.

    Returns:
        Whether it begins with a scheme and `://`.
    """
    return _URI.match(text) is not None


def locate(text: str | Path) -> Location:
    """Find out what somebody named: a path, or a place in an object store.

    Args:
        text: A path or a URI.

    Returns:
        A `Path`, also for `file://`, or a `Remote`.

    Raises:
        InputError: If the scheme is unknown, the URI is not well formed, or a library for it is missing.
    """
    found = None if isinstance(text, Path) else _URI.match(text)
    if found is None:
        return Path(text)
    scheme = found[1].lower()
    if scheme == "file":
        return Path(unquote(urlsplit(str(text)).path))
    if scheme not in SCHEMES:
        known = ", ".join(f"{each}://" for each in (*SCHEMES, "file"))
        message = f"{text} begins with {scheme}://, which is not among {known}; copy the files to one of these."
        raise InputError(message)
    filesystem, path = _find(str(text).partition("?")[0] if scheme == "hf" else str(text), scheme)
    return Remote(filesystem, path)


def place_in(folder: Location, name: str) -> Location:
    """Find what a name in somebody's list or manifest means.

    Args:
        folder: Where relative names begin.
        name: A path, relative to the folder or absolute, or a URI.

    Returns:
        The place; of a URI that names none, a file in the folder that is not there.
    """
    if is_uri(name):
        with suppress(InputError):
            return locate(name)
    return folder / name


def _find(uri: str, scheme: str) -> tuple[FileSystem, str]:
    """Name the file system of a URI, one for each store, and the path in it."""
    before, mark, query = uri.partition("?")
    authority, _, path = before.partition("://")[2].partition("/")
    user, at, bucket = authority.rpartition("@")
    if not bucket:
        message = f"{uri} names no bucket; write it as {scheme}://BUCKET/FOLDER."
        raise InputError(message)
    root = f"{scheme}://{user}{at}{bucket}{mark}{query}"
    try:
        _, inside = _open(root)
    except ImportError as error:
        message = f"{scheme}:// needs a library that is not installed ({first_line(error)}); install huggingface_hub."
        raise InputError(message) from error
    except (OSError, ValueError, pa.ArrowException) as error:
        message = f"{before} cannot be reached ({first_line(error)}); check the URI."
        raise InputError(message) from error
    inside = inside.rstrip("/")
    full = f"{inside}/{unquote(path)}" if path else inside
    prefix = f"{scheme}://" if inside else f"{scheme}://{bucket}/"
    return FileSystem(uri=root, prefix=prefix, kind=scheme), full


@lru_cache(maxsize=64)
def _open(uri: str) -> tuple[fs.FileSystem, str]:
    """Open a file system, once in a process."""
    opened, path = fs.FileSystem.from_uri(uri)
    return opened, path


def _shortened(error: OSError) -> OSError:
    """Leave out of an error of S3 which request it was and which key."""
    found = _S3_ERROR.search(str(error))
    return OSError(f"{found[2].rstrip('.')}, {found[1]}") if found else error


def _is_final(error: OSError) -> bool:
    """Whether trying again is of no use: what was asked for is not there, or not allowed."""
    if isinstance(error, FileNotFoundError | PermissionError | FileExistsError | NotADirectoryError | IsADirectoryError):
        return True
    return any(word in str(error) for word in _FINAL)
