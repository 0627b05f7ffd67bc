"""The captions table, where the job and the judge meet: its columns, how it is written and read, and whose it is.

In: rows of captions, or the folder or file that a run left. Out: a parquet file that exists whole or not at all, or one
Arrow table in the order of the run. Apart, because both programs depend on it and on nothing else of each other; no torch.
"""

import json
import os
import re
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import IO, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from capt.errors import InputError, OutputError, first_line
from capt.remote import PARQUET_FAULTS, Location, Remote, open_parquet

METADATA_KEY = b"capt"
RUN_KEY = b"capt_run"
RUN_FILE = "run.json"
FORMAT_VERSION = 1


class Status(StrEnum):
    """Whether a row has a caption."""

    OK = "ok"
    FAILED = "failed"


ALTERNATIVE = pa.struct([pa.field("caption", pa.string()), pa.field("log_prob", pa.float32())])
COLUMNS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("path", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("log_prob", pa.float32()),
        pa.field("num_tokens", pa.int32()),
        pa.field("alternatives", pa.list_(ALTERNATIVE)),
        pa.field("reference_nll", pa.list_(pa.float32())),
        pa.field("reference_tokens", pa.list_(pa.int32())),
        pa.field("reference_unknown", pa.list_(pa.int32())),
        pa.field("attention", pa.list_(pa.list_(pa.uint8()))),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
    ]
)
"""The columns every captions table has, in order; a manifest's own columns follow them."""

_REQUIRED = ("image_id", "caption")
_SHARD_NAME = re.compile(r"captions-(\d{5,})\.parquet")


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What a run was made with: rows of two runs belong together when `differences` is empty.

    `source_sha256` is over the ordered image ids and paths; `references_sha256` is null without references; `encoder_sha256` is
    of the quantised encoder, there only when the precision is int8; `draft` tells that large JPEGs were decoded smaller, and is
    there only when they were. `batch_size`, `device` and `versions` may move the last digits of a log-likelihood; they are
    recorded and compared by `changes`.
    """

    checkpoint_name: str
    checkpoint_sha256: str
    decoding: Mapping[str, int | float]
    attention: bool
    precision: str
    preprocessing: Mapping[str, object]
    max_pixels: int
    source_sha256: str
    source_rows: int
    shard_size: int
    references_sha256: str | None
    batch_size: int
    device: str
    versions: Mapping[str, str]
    encoder_sha256: str | None = None
    draft: bool = False
    format: int = FORMAT_VERSION
    OPTIONAL: ClassVar[Mapping[str, object]] = MappingProxyType({"encoder_sha256": None, "draft": False})
    INFORMATIVE: ClassVar[frozenset[str]] = frozenset({"checkpoint_name", "batch_size", "device", "versions"})

    def to_dict(self) -> dict[str, object]:
        """Give the fields as JSON knows them.

        Returns:
            Names and plain values.
        """
        return {key: value for key, value in asdict(self).items() if key not in self.OPTIONAL or value != self.OPTIONAL[key]}

    def to_json(self) -> str:
        """Give the fingerprint as it stands in a table's metadata.

        Returns:
            JSON, keys sorted.
        """
        return json.dumps(self.to_dict(), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Fingerprint":
        """Read what `to_json` wrote.

        Args:
            text: JSON of one object.

        Returns:
            The fingerprint.

        Raises:
            ValueError: If it is no fingerprint, or one of a newer format.
        """
        try:
            values = json.loads(text)
            json.dumps(values, ensure_ascii=False, allow_nan=False).encode()  # half a character, or what is no number
        except RecursionError as error:
            message = "this is nested without end"
            raise ValueError(message) from error
        names = {each.name for each in fields(cls)}
        if not isinstance(values, dict) or not isinstance(values.get("format"), int):
            message = "this is not a fingerprint"
            raise ValueError(message)  # noqa: TRY004  callers wrap one kind
        if values["format"] > FORMAT_VERSION:
            message = f"format {values['format']} is newer than this version of capt reads ({FORMAT_VERSION})"
            raise ValueError(message)
        if {*cls.OPTIONAL, *values} != names:
            message = f"a fingerprint has the keys {sorted(names)}"
            raise ValueError(message)
        for name, kind in _KINDS.items():
            value = values.get(name, cls.OPTIONAL.get(name))
            if not isinstance(value, kind) or (kind is int and isinstance(value, int) and not 0 < value < _HUGE):
                message = f"a fingerprint's {name} is not {value!r}"
                raise ValueError(message)
        return cls(**values)

    def differences(self, other: "Fingerprint") -> list[tuple[str, object, object]]:
        """Name what keeps rows of two runs apart.

        Args:
            other: The fingerprint to compare with.

        Returns:
            Key, value here, value there, for each key that differs; keys inside decoding and preprocessing by their own name.
        """
        return [each for each in self._compare(other) if each[0].split(".")[0] not in self.INFORMATIVE]

    def changes(self, other: "Fingerprint") -> list[tuple[str, object, object]]:
        """Name what may move last digits only: batch size, device, versions of libraries.

        Args:
            other: The fingerprint to compare with.

        Returns:
            Key, value here, value there, for each key that differs.
        """
        return [each for each in self._compare(other) if each[0].split(".")[0] in self.INFORMATIVE]

    def _compare(self, other: "Fingerprint") -> Iterator[tuple[str, object, object]]:
        ours, theirs = _flat(asdict(self)), _flat(asdict(other))
        for key in sorted(ours.keys() | theirs.keys()):
            if ours.get(key) != theirs.get(key):
                yield key, ours.get(key), theirs.get(key)


_HUGE = 2**63
_KINDS: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("checkpoint_name", "checkpoint_sha256", "precision", "source_sha256", "device"), str),
    **dict.fromkeys(("max_pixels", "source_rows", "shard_size", "batch_size"), int),
    **dict.fromkeys(("decoding", "preprocessing", "versions"), dict),
    **dict.fromkeys(("attention", "draft"), bool),
    **dict.fromkeys(("references_sha256", "encoder_sha256"), (str, type(None))),
}


def _flat(values: Mapping[str, object]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    return flat


def captions_schema(fingerprint: Fingerprint, travelling: pa.Schema | None = None) -> pa.Schema:
    """Give the schema of one run's tables.

    Args:
        fingerprint: What the run is made with; goes into the metadata.
        travelling: A manifest's own columns, under the names they have here.

    Returns:
        `COLUMNS`, then the travelling ones, with the metadata key `capt`.
    """
    return pa.schema([*COLUMNS, *(travelling or [])], metadata={METADATA_KEY: fingerprint.to_json()})


def fingerprint_of(schema: pa.Schema, place: object = "The captions table") -> Fingerprint | None:
    """Read the fingerprint out of a table's schema.

    Args:
        schema: Of a captions table, or of any other.
        place: Where the table is, for messages.

    Returns:
        The fingerprint, or nothing when the table was not written by capt.

    Raises:
        InputError: If there is one that this version cannot read.
    """
    text = (schema.metadata or {}).get(METADATA_KEY)
    if text is None:
        return None
    try:
        return Fingerprint.from_json(text)
    except (ValueError, TypeError) as error:
        message = f"{place}: its metadata cannot be read ({first_line(error)}); use the version of capt that wrote it."
        raise InputError(message) from error


def shard_name(number: int) -> str:
    """Name the file of a shard.

    Args:
        number: From 0.

    Returns:
        `captions-00000.parquet` and so on.
    """
    return f"captions-{number:05d}.parquet"


def shard_paths(folder: Location) -> dict[int, Location]:
    """Find the shards that a folder holds.

    Args:
        folder: A run's output; need not exist.

    Returns:
        Paths by shard number, in order.
    """
    if not folder.is_dir():
        return {}
    matches = ((_SHARD_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return dict(sorted((int(match[1]), path) for match, path in matches if match))


def write_captions(tables: Iterable[pa.Table], schema: pa.Schema, path: Location) -> None:
    """Write one captions file so that it exists whole or not at all, even when the machine stops.

    In an object store it appears when it has arrived; until then it is a temporary file of this machine.

    Args:
        tables: Written one after the other, one row group each; only one is held at a time.
        schema: What `captions_schema` gives.
        path: The file; replaced when it exists.

    Raises:
        OutputError: If it cannot be written; the temporary file is then gone and an older file untouched.
    """
    try:
        if isinstance(path, Remote):
            with tempfile.TemporaryFile() as file:
                _write_tables(tables, schema, file)
                path.write_from(file)
        else:
            _write_local(tables, schema, path)
    except OSError as error:
        reason = error.strerror or first_line(error)
        message = f"{path} cannot be written ({reason}); make room or mend it and start the same command again."
        raise OutputError(message) from error


def _write_local(tables: Iterable[pa.Table], schema: pa.Schema, path: Path) -> None:
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")  # others may write the same shard at the same time
    try:
        with temporary.open("xb") as file:
            _write_tables(tables, schema, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        _discard(temporary)
        raise


def _write_tables(tables: Iterable[pa.Table], schema: pa.Schema, file: IO[bytes]) -> None:
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table, row_group_size=max(1, table.num_rows))


def _discard(path: Path) -> None:
    with suppress(OSError):  # the next start removes it
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot; the rename itself is still atomic
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_captions(path: Location, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a whole captions table, from the folder or the file that a run left, or from elsewhere.

    A table that another program wrote is taken too when it has `image_id` and `caption`: the other columns are then null,
    and `status` says `ok` wherever there is a caption.

    Args:
        path: A folder with `captions-*.parquet`, or one parquet file.
        columns: Names of those to read, beside id, caption and status; all when not given. The rest is then null, or absent
            where the run brought it along. (Attention maps, for one, are large.)

    Returns:
        Rows in the order of the run; `COLUMNS` first, then further columns; the schema's metadata carries the fingerprint.

    Raises:
        InputError: If there is nothing, the run is not finished, shards are missing or of two runs, or columns are wrong.
    """
    if path.is_dir():
        return _read_folder(path, columns)
    if not path.exists():
        message = f"There is no captions table at {path}; give the folder or the .parquet file that capt-batch run wrote."
        raise InputError(message)
    return _read_file(path, columns)


def _read_folder(folder: Location, columns: Sequence[str] | None) -> pa.Table:
    shards = shard_paths(folder)
    if not shards:
        message = f"{folder} holds no captions-*.parquet; give the folder or the .parquet file that capt-batch run wrote."
        raise InputError(message)
    missing = sorted(set(range(max(shards) + 1)) - set(shards))
    if missing:
        message = f"{folder} lacks {shard_name(missing[0])}; start the same capt-batch run again to fill the gap."
        raise InputError(message)
    tables = [_read_file(path, columns) for path in shards.values()]
    prints = [fingerprint_of(table.schema, path) for path, table in zip(shards.values(), tables, strict=True)]
    if prints[0] is not None and not (folder / RUN_FILE).exists():
        message = f"The run in {folder} is not finished (it has no {RUN_FILE}); start the same capt-batch run again."
        raise InputError(message)
    for path, other in zip(shards.values(), prints, strict=True):
        if (other is None) != (prints[0] is None) or (other and prints[0] and other.differences(prints[0])):
            message = f"{path} belongs to another run than {shard_name(0)}; keep the shards of one run in a folder."
            raise InputError(message)
    try:
        return pa.concat_tables(tables)
    except pa.ArrowException as error:
        message = f"The shards in {folder} do not have the same columns ({first_line(error)}); caption them in one run."
        raise InputError(message) from error


def _read_file(path: Location, columns: Sequence[str] | None) -> pa.Table:
    try:
        file = open_parquet(path)
        kept = None if columns is None else {*columns, *_REQUIRED, "status"}
        table = file.read(columns=[name for name in file.schema_arrow.names if kept is None or name in kept])
        return _conform(table, path)
    except PARQUET_FAULTS as error:
        message = f"{path} cannot be read as parquet ({first_line(error)}); caption its images again."
        raise InputError(message) from error


def _conform(table: pa.Table, path: Location) -> pa.Table:
    missing = [name for name in _REQUIRED if name not in table.column_names]
    if missing:
        message = f"{path} is no captions table: it has {', '.join(table.column_names) or 'no column'}, but no {missing[0]}."
        raise InputError(message)
    columns: dict[str, pa.ChunkedArray | pa.Array] = {}
    for expected in COLUMNS:
        if expected.name in table.column_names:
            columns[expected.name] = _cast(table.column(expected.name), expected, path)
        else:
            columns[expected.name] = pa.nulls(table.num_rows, expected.type)
    if "status" not in table.column_names:
        columns["status"] = pa.array([Status.OK if each.is_valid else Status.FAILED for each in columns["caption"]], pa.string())
    if columns["image_id"].null_count:
        message = f"{path} has {columns['image_id'].null_count} rows without image_id; give each image its own."
        raise InputError(message)
    further = [each for each in table.schema if each.name not in COLUMNS.names]
    arrays = [*columns.values(), *(table.column(each.name) for each in further)]
    return pa.Table.from_arrays(arrays, schema=pa.schema([*COLUMNS, *further], metadata=table.schema.metadata))


def _cast(column: pa.ChunkedArray, expected: pa.Field, path: Location) -> pa.ChunkedArray:
    try:
        cast = column.cast(expected.type)
    except pa.ArrowException as error:
        message = f"{path}: column {expected.name} is {column.type}, not {expected.type}; write it as the README's table says."
        raise InputError(message) from error
    cast.validate(full=True)  # parquet does not check that text is UTF-8
    return cast
