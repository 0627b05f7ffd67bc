"""Where a run writes: a folder of shards, or one file by way of a hidden folder of parts.

In: the path that the user named. Out: what is there already, a place that can be written, and the finished run. Apart, because
nothing of an earlier run may be lost or mixed up, and that is decided here alone.
"""

import glob
import io
import json
import os
import shutil
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from capt.captions import COLUMNS, RUN_FILE, RUN_KEY, Fingerprint, Status, fingerprint_of, shard_name, shard_paths, write_captions
from capt.errors import InputError, OutputError, first_line
from capt.files import write_whole
from capt.remote import PARQUET_FAULTS, Location, Remote, open_parquet
from jobs.lock import FolderLock
from jobs.together import forget, is_extending, read_agreement

_PROBE_BYTES = 4096
_LOOKING = 16  # shards looked into at a time: where files are far away, waiting is most of it
_OLD = 3600.0  # seconds after which no machine is still writing a shard
NOT_IN_SOURCE = "not_in_source"
"""In the report of a run that was extended: how many of its rows are of images that the source had no more."""


@dataclass(frozen=True, kw_only=True)
class Existing:
    """What an output holds already: one run's fingerprint, its finished shards with their rows, and whether all is done.

    `report` is what `run.json` says when the run is complete. `extended` says that the shards are not, in their order, those of
    the source with which the run began.
    """

    extended: bool = False
    fingerprint: Fingerprint | None
    shards: Mapping[int, int]
    report: Mapping[str, object] | None


def int8_path(folder: Location, sha256: str) -> Location:
    """Name the file of the int8 encoder that a run in a folder goes on with.

    Args:
        folder: Of the shards.
        sha256: Of the file.

    Returns:
        The path.
    """
    return folder / f".encoder-{sha256[:12]}.int8.zip"


class Output:
    """The folder or file that `--output` names, here or in an object store.

    An object store has no locks: two runs may write to one place there at the same time. As each shard is written whole, and says
    what it was made with, the same command started twice does no harm, and another one is found out by whoever reads both.
    """

    def __init__(self, path: Location) -> None:
        """Decide by its ending whether a path is one file or a folder; nothing is touched.

        Args:
            path: A folder, or a file ending in `.parquet`.
        """
        self.path = path
        self.file = path if path.suffix == ".parquet" else None
        self.folder = path.with_name(f".{path.name}.parts") if self.file else path
        self._lock = None if isinstance(self.folder, Remote) else FolderLock(self.folder)

    def check(self) -> None:
        """Refuse an output that cannot be written, before any work; nothing is left behind.

        Raises:
            OutputError: If it cannot be written.
        """
        if self.file is not None and self.file.is_dir():
            message = f"{self.path} is a folder; name a folder without .parquet at its end, or a file."
            raise OutputError(message)
        if self.file is None and self.path.exists() and not self.path.is_dir():
            message = f"{self.path} is a file; name a folder, or a file ending in .parquet."
            raise OutputError(message)
        try:
            _probe(self.path if self.file is None else self.path.parent)
        except OSError as error:
            raise self._cannot_write(error) from error

    def look(self, *, overwrite: bool) -> Existing:
        """Find what an earlier start left.

        Args:
            overwrite: Whether it is to be replaced; it then counts as nothing, but other programs' files are refused still.

        Returns:
            The run there; shards that cannot be read, as after a crash of the machine, do not count.

        Raises:
            OutputError: If there are files that this program did not write, or shards of two runs.
        """
        if overwrite:
            for path in [self.file] if self.file is not None and self.file.exists() else shard_paths(self.folder).values():
                _read_footer(path)
            return Existing(fingerprint=None, shards={}, report=None)
        if self.file is not None and self.file.exists():
            return self._look_at_file(self.file)
        fingerprint = read_agreement(self.folder)
        shards: dict[int, int] = {}
        paths = shard_paths(self.folder)
        with ThreadPoolExecutor(_LOOKING) as pool:
            footers = list(pool.map(_read_footer, paths.values()))
        for number, found in zip(paths, footers, strict=True):
            if found is None:
                continue
            own, shards[number] = found
            if fingerprint is not None and own.differences(fingerprint):
                message = f"{self.path} holds shards of two runs; choose another --output, or remove those of one of them."
                raise OutputError(message)
            fingerprint = fingerprint or own
        return self._existing(fingerprint, shards, self._read_report())

    @contextmanager
    def prepared(self, *, overwrite: bool, shared: bool = False) -> Iterator[None]:
        """Make the folder, keep other runs out of it for a while, and clear away what is half written.

        Args:
            overwrite: Whether to remove an earlier run too; files of other programs stay.
            shared: Whether other machines may do their shares of the same run there; what is half written may then be theirs.

        Yields:
            Nothing.

        Raises:
            OutputError: If it cannot be written, or another run is writing there.
        """
        self._prepare(overwrite=overwrite, shared=shared)
        try:
            yield
        finally:
            if self._lock is not None:
                self._lock.let_go()

    def unpack(self) -> None:
        """Turn a finished single file back into parts, so that some can be mended; the file stays until it is replaced.

        Parts that an interrupted start has mended or added stay as they are.

        Raises:
            OutputError: If the parts cannot be written.
        """
        if self.file is None or not self.file.exists():
            return
        with open_parquet(self.file) as file:
            schema = _without_report(file.schema_arrow)
            own = fingerprint_of(schema)
            for number in range(file.num_row_groups):
                if own is not None and _rows_of(self.folder / shard_name(number), own) is not None:
                    continue
                table = file.read_row_group(number).replace_schema_metadata(schema.metadata)
                write_captions([table], schema, self.folder / shard_name(number))

    def failed_rows(self, number: int) -> list[int]:
        """Find the rows of a finished shard that have no caption.

        Args:
            number: Of the shard.

        Returns:
            Positions in the shard, ascending.

        Raises:
            OutputError: If it cannot be read.
        """
        return [row for row, (status, _) in enumerate(self._outcomes(number)) if status == Status.FAILED]

    def image_ids(self, number: int) -> list[str]:
        """Read which images a finished shard is of.

        Args:
            number: Of the shard.

        Returns:
            Their ids, in order.

        Raises:
            OutputError: If it cannot be read.
        """
        with self._reading(number):
            return [str(image_id) for image_id in self._read(number, ["image_id"]).column("image_id").to_pylist()]

    def count_failures(self, shards: Iterable[int]) -> Counter[str]:
        """Count failed rows by their cause.

        Args:
            shards: Numbers of those that are looked at.

        Returns:
            Kinds of failure and how many rows have each.

        Raises:
            OutputError: If one cannot be read.
        """
        causes: Counter[str] = Counter()
        with ThreadPoolExecutor(_LOOKING) as pool:
            for outcomes in pool.map(self._outcomes, shards):
                causes.update(str(error or "").split(":", 1)[0] for status, error in outcomes if status == Status.FAILED)
        return causes

    def check_shards(self, numbers: Iterable[int]) -> None:
        """See that no finished shard has gone while others were written.

        Args:
            numbers: Of the shards that must be there.

        Raises:
            OutputError: If one is not, naming it.
        """
        lost = sorted(set(numbers) - shard_paths(self.folder).keys())
        if lost:
            named = f"{shard_name(lost[0])}{' and others were' if len(lost) > 1 else ' was'}"
            message = (
                f"{named} removed from {self.folder} while the run went on; start the same command again, which makes it anew."
            )
            raise OutputError(message)

    def complete(self, report: Mapping[str, object], schema: pa.Schema, shards: int) -> None:
        """Make a run complete: `run.json` last, or all parts in one file.

        Args:
            report: What is to be known of the run.
            schema: Of its tables.
            shards: How many there are.

        Raises:
            OutputError: If it cannot be written.
        """
        if self.file is None:
            write_whole(self.folder / RUN_FILE, f"{_as_text(report)}\n".encode())
            with suppress(OSError):  # the run is complete; the next that is prepared here removes it
                forget(self.folder)
            return
        self.pack(self.file, report, schema, shards)
        if isinstance(self.folder, Remote):
            for part in self.folder.files():
                part.unlink(missing_ok=True)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def pack(self, file: Location, report: Mapping[str, object], schema: pa.Schema, shards: int) -> None:
        """Write all shards into one file; they stay.

        Args:
            file: Replaced when it exists.
            report: What is to be known of the run.
            schema: Of its tables.
            shards: How many there are.

        Raises:
            OutputError: If it cannot be written.
        """
        parts = (open_parquet(self.folder / shard_name(number)).read().cast(schema) for number in range(shards))
        try:
            if isinstance(file, Path):
                file.parent.mkdir(parents=True, exist_ok=True)
            write_captions(parts, schema.with_metadata({**schema.metadata, RUN_KEY: _as_text(report)}), file)
        except PARQUET_FAULTS as error:
            message = f"{file} cannot be made of the shards in {self.folder} ({first_line(error)}); start the same command again."
            raise OutputError(message) from error

    def _prepare(self, *, overwrite: bool, shared: bool) -> None:
        try:
            if isinstance(self.folder, Path):
                self.folder.mkdir(parents=True, exist_ok=True)
            clear_up = partial(self.clear_up, older_than=_OLD if shared else 0.0)
            if self._lock is not None and not self._lock.take(shared=shared, when_alone=clear_up):
                message = f"Another capt-batch run is writing to {self.path}; wait for it, or choose another --output."
                raise OutputError(message)
            (self.folder / RUN_FILE).unlink(missing_ok=True)
            if overwrite:
                forget(self.folder)
                for path in (*shard_paths(self.folder).values(), *self.folder.glob(".encoder-*.int8.zip")):
                    path.unlink()
                if self.file is not None:
                    self.file.unlink(missing_ok=True)
        except OSError as error:
            raise self._cannot_write(error) from error

    def clear_up(self, *, older_than: float) -> None:
        """Remove what was half written when a run was killed; young files may be another machine's that no lock reaches.

        Args:
            older_than: Seconds; what was written to since stays.
        """
        if isinstance(self.folder, Remote):
            return  # nothing is half written there
        halves = [*self.folder.glob("*.tmp")]
        if isinstance(self.file, Path):
            halves += self.file.parent.glob(f"{glob.escape(self.file.name)}.*tmp")
        for path in halves:
            with suppress(OSError):  # another user's, or just now gone
                if time.time() - path.stat().st_mtime >= older_than:
                    path.unlink(missing_ok=True)

    def travelling(self, number: int) -> pa.Schema:
        """Tell the columns of a finished shard that came from a manifest.

        Args:
            number: Of the shard.

        Returns:
            Their names and types, in order.

        Raises:
            OutputError: If it cannot be read.
        """
        with self._reading(number):
            return pa.schema(list(self._read(number, None).schema)[len(COLUMNS) :])

    @contextmanager
    def _reading(self, number: int) -> Iterator[None]:
        """Say of a shard whose footer was whole that the rest of it is not."""
        try:
            yield
        except MemoryError:  # one of Arrow's too, but no fault of the file
            raise
        except PARQUET_FAULTS as error:
            what = f"{shard_name(number)} of {self.path} cannot be read any more ({_reason(error)})"
            message = f"{what}; mend that, or remove it, and start the same command again."
            raise OutputError(message) from error

    def _read(self, number: int, columns: Sequence[str] | None) -> pa.Table:
        """Read some columns of a finished shard; None gives all, but no rows."""
        part = self.folder / shard_name(number)
        if self.file is not None and self.file.exists() and not part.exists():
            with open_parquet(self.file) as file:
                return file.schema_arrow.empty_table() if columns is None else file.read_row_group(number, columns=columns)
        with open_parquet(part) as file:
            return file.schema_arrow.empty_table() if columns is None else file.read(columns=columns)

    def _outcomes(self, number: int) -> list[tuple[object, object]]:
        with self._reading(number):
            table = self._read(number, ["status", "error"])
            return list(zip(table.column("status").to_pylist(), table.column("error").to_pylist(), strict=True))

    def _look_at_file(self, path: Location) -> Existing:
        foreign = f"{path} was not written by capt-batch run; choose another --output."
        try:
            with open_parquet(path) as file:
                schema = file.schema_arrow
                sizes = {number: file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)}
            fingerprint = fingerprint_of(schema)
        except (*PARQUET_FAULTS, InputError) as error:
            raise OutputError(foreign) from error
        if fingerprint is None:
            raise OutputError(foreign)
        report = _parse(schema.metadata.get(RUN_KEY))
        for number, part in shard_paths(self.folder).items():  # mended or added by a start that was interrupted
            if (rows := _rows_of(part, fingerprint)) is not None:
                sizes[number], report = rows, None
        return self._existing(fingerprint, sizes, report)

    def _existing(
        self, fingerprint: Fingerprint | None, shards: Mapping[int, int], report: Mapping[str, object] | None
    ) -> Existing:
        extended = is_extending(self.folder) or NOT_IN_SOURCE in (report or {})
        return Existing(fingerprint=fingerprint, shards=shards, report=report, extended=extended)

    def _read_report(self) -> Mapping[str, object] | None:
        try:
            return _parse((self.folder / RUN_FILE).read_bytes())
        except OSError:
            return None

    def _cannot_write(self, error: OSError) -> OutputError:
        return OutputError(f"{self.path} cannot be written ({error.strerror or first_line(error)}); choose another --output.")


def _probe(place: Location) -> None:
    """Write something into a folder or, when it is not there yet, where it will be, and remove it."""
    if isinstance(place, Remote):
        probe = place / f".probe-{uuid.uuid4().hex}"
        probe.write_from(io.BytesIO(bytes(_PROBE_BYTES)))
        probe.unlink()
        return
    folder = place.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(_PROBE_BYTES))
        file.flush()


def _read_footer(path: Location) -> tuple[Fingerprint, int] | None:
    try:
        with open_parquet(path) as file:
            fingerprint, rows = fingerprint_of(file.schema_arrow), file.metadata.num_rows
    except PARQUET_FAULTS:
        return None
    except InputError as error:
        message = f"{path} was written by another version of capt ({error}); choose another --output."
        raise OutputError(message) from error
    if fingerprint is None:
        message = f"{path} was not written by capt-batch run; choose another --output."
        raise OutputError(message)
    return fingerprint, rows


def _rows_of(path: Location, fingerprint: Fingerprint) -> int | None:
    """Count the rows of a shard, if it is there, whole and of this run."""
    found = _read_footer(path) if path.exists() else None
    return found[1] if found is not None and not found[0].differences(fingerprint) else None


def _reason(error: Exception) -> str:
    """Tell why a file cannot be read; Arrow says it in many words, and its path again."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else first_line(error)


def _without_report(schema: pa.Schema) -> pa.Schema:
    return schema.with_metadata({key: value for key, value in schema.metadata.items() if key != RUN_KEY})


def _as_text(report: Mapping[str, object]) -> str:
    return json.dumps(report, indent=2, ensure_ascii=False)


def _parse(text: bytes | None) -> Mapping[str, object] | None:
    try:
        values = json.loads(text or b"null")
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None
