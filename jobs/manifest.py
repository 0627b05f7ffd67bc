"""Read images, or the paths to them, out of parquet manifests, a few rows at a time.

In: parquet files of one dataset. Out: a Source whose items carry bytes or paths, and whose other columns travel along. Apart
from the reader, because row groups, blocks and files are nobody else's business.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from capt.errors import InputError, first_line
from capt.remote import Location, Remote, open_parquet, place_in
from jobs.columns import ImageColumn, choose_columns
from jobs.source import IdentityCheck, Item, SourceOptions, Unchanged, reading

_ROWS_OF_BYTES = 16  # rows decoded at a time: photographs have megabytes
_ROWS_OF_TEXT = 1024
_READ_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class _RowGroup:
    """One row group of one file, and which rows of the whole manifest it holds."""

    file: Location
    number: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class _Block:
    """A few consecutive rows, decoded."""

    table: pa.Table
    group: int
    start: int

    @property
    def stop(self) -> int:
        return self.start + int(self.table.num_rows)


class ManifestSource:
    """The rows of parquet files, decoded a few at a time; cheapest from front to back."""

    def __init__(self, files: Sequence[Location], options: SourceOptions) -> None:
        """Look at the schemas and row ids; no image is read.

        Args:
            files: In the order of the run.
            options: For image root, split and limit.

        Raises:
            InputError: If a file is no parquet, the files differ, no column is usable, no row is left, or ids are doubled.
        """
        self._root = options.image_root
        self._allow_outside = options.allow_outside
        self._unchanged = Unchanged("manifest")
        self._groups, schema = _survey(files, self._unchanged)
        self._starts = [group.start for group in self._groups]
        self._file_starts = {group.file: group.start for group in reversed(self._groups)}
        self.columns = choose_columns(schema, files[0], options)
        self._schema = pa.schema([schema.field(name) for name in self.columns.read])
        self.travelling = pa.schema([schema.field(name).with_name(renamed) for name, renamed in self.columns.travelling])
        self.has_references = self.columns.references is not None
        self._stream: Iterator[_Block] = iter(())
        self._block: _Block | None = None
        self._rows = self._select(options, files[0])
        check = IdentityCheck(options.source, str(self.travelling))
        for image_id, further in self._identities():
            check.add(image_id, *further)
        self.sha256 = check.finish(self.image_ids)

    def __getstate__(self) -> dict[str, Any]:
        """Leave what is being read behind: pickled, a source goes to another process, which opens the files itself."""
        return {**self.__dict__, "_stream": iter(()), "_block": None}

    @property
    def rows(self) -> int:
        """How many images there are."""
        return len(self._rows)

    def image_ids(self) -> Iterator[str]:
        """Give all image ids, in order."""
        return (image_id for image_id, _ in self._identities())

    def batches(self, rows: Sequence[int], size: int) -> Iterator[tuple[list[Item], pa.Table]]:
        """Give rows in batches.

        Args:
            rows: Ascending.
            size: Of a batch.

        Yields:
            Items, and their travelling columns.

        Raises:
            InputError: If a file cannot be read any more.
        """
        for start in range(0, len(rows), size):
            positions = np.array([self._rows[row] for row in rows[start : start + size]], dtype=np.int64)
            items: list[Item] = []
            tables: list[pa.Table] = []
            for table, rows_of_table, folder in self._pieces(positions):
                items += [self._item(values, folder) for values in rows_of_table]
                own = table.select([name for name, _ in self.columns.travelling])
                tables.append(own.rename_columns(self.travelling.names))
            yield items, pa.concat_tables(tables)

    def _item(self, values: dict[str, Any], folder: Location) -> Item:
        image = values[self.columns.image]
        content = image.get("bytes") if isinstance(image, dict) else image if self.columns.kind is ImageColumn.BYTES else None
        content = content if isinstance(content, bytes) else None  # a struct may call anything so
        name = image.get("path") if isinstance(image, dict) else image if self.columns.kind is ImageColumn.PATH else None
        name = name if isinstance(name, str) else None
        path = None if content is not None or not name else place_in(folder, name)
        texts = values[self.columns.references] if self.columns.references is not None else None
        references = tuple(text for text in texts or () if text is not None)
        return Item(
            image_id=_text(values[self.columns.image_id]) if self.columns.image_id is not None else str(name),
            path=None if path is None else str(path),
            image=path if content is None else content,
            references=references or None,
            within=None if path is None or self._allow_outside else folder,
        )

    def _select(self, options: SourceOptions, first: Location) -> Sequence[int] | NDArray[np.int64]:
        """Number the rows of the run: all, or those of one split, and no more than the limit."""
        total = self._groups[-1].stop if self._groups else 0
        if self.columns.split is None:
            if not total:
                message = f"{first} has no rows; give a manifest with one row an image."
                raise InputError(message)
            return range(total if options.limit is None else min(total, options.limit))
        column = self.columns.split
        found: set[str] = set()
        chosen: list[NDArray[np.int64]] = []
        for rows_of_table, start in self._scan([column]):
            values = np.array([_text(values[column]) for values in rows_of_table], dtype=object)
            found |= set(values)
            chosen.append(np.flatnonzero(values == options.split) + start)
        rows = np.concatenate(chosen)[: options.limit] if chosen else np.zeros(0, dtype=np.int64)
        if not len(rows):
            message = (
                f"No row of the manifest has the split {options.split}; its splits are {', '.join(sorted(found)) or 'none'}."
            )
            raise InputError(message)
        return rows

    def _identities(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Give each row's id, and what else its identity rests on."""
        wanted, taken = self._rows, 0
        for rows_of_table, start in self._scan(self.columns.identifying):
            for position, values in enumerate(rows_of_table, start=start):
                if taken < len(wanted) and position == wanted[taken]:
                    taken += 1
                    yield self._identity(values, position)
            if taken == len(wanted):
                return

    def _identity(self, values: dict[str, Any], position: int) -> tuple[str, tuple[str, ...]]:
        image = values.get(self.columns.image)
        path = image.get("path") if isinstance(image, dict) else image
        path = path if isinstance(path, str) else None
        image_id = path if self.columns.image_id is None else values[self.columns.image_id]
        if image_id is None or image_id == "":
            group = self._groups[bisect_right(self._starts, position) - 1]
            name = self.columns.image_id or f"{self.columns.image}.path"
            message = (
                f"{group.file}: row {position - self._file_starts[group.file]} has no id in column {name}; give each image one."
            )
            raise InputError(message)
        references = values[self.columns.references] if self.columns.references is not None else None
        return _text(image_id), (_text(path or ""), *(text or "" for text in references or ()))

    def _scan(self, columns: list[str]) -> Iterator[tuple[list[dict[str, Any]], int]]:
        """Give some columns of all rows, in lists with the number of their first row."""
        for path, first in reversed(self._file_starts.items()):
            start = first
            with reading("manifest", path), open_parquet(path) as file:
                for batch in file.iter_batches(batch_size=1 << 14, columns=columns, use_threads=False):
                    yield batch.to_pylist(), start
                    start += batch.num_rows

    def _pieces(self, positions: NDArray[np.int64]) -> Iterator[tuple[pa.Table, list[dict[str, Any]], Location]]:
        """Give the rows at ascending positions, in tables of one file each, with what becomes items and where its paths start."""
        done = 0
        while done < len(positions):
            block = self._block_with(int(positions[done]))
            inside = int(np.searchsorted(positions, block.stop))
            file = self._groups[block.group].file
            with reading("manifest", file):
                table = block.table.take(pa.array(positions[done:inside] - block.start))
                values = table.select(self.columns.used).to_pylist()
            yield table, values, _absolute(self._root or file.parent)
            done = inside

    def _block_with(self, position: int) -> _Block:
        block, wanted = self._block, bisect_right(self._starts, position) - 1
        if block is not None and block.start <= position < block.stop:
            return block
        goes_on = block is not None and position >= block.stop
        if block is None or not goes_on or (wanted != block.group and self._starts[wanted] != block.stop):
            self._stream = self._blocks(wanted)
        found = next((block for block in self._stream if position < block.stop), None)
        if found is None or found.start > position:
            self._refuse_cut(self._groups[wanted].file)
        self._block = found
        return found

    def _refuse_cut(self, file: Location) -> NoReturn:
        """Refuse a file that was cut short while it was read: Arrow then gives fewer rows, and says nothing."""
        with reading("manifest", file):
            self._unchanged.check(file)
        message = f"The manifest {file} cannot be read (it ends before its rows do); make it again, or leave it out."
        raise InputError(message)

    def _blocks(self, first: int) -> Iterator[_Block]:
        """Decode row groups from one on, without holding more of a column than a few pages."""
        rows = _ROWS_OF_TEXT if self.columns.kind is ImageColumn.PATH else _ROWS_OF_BYTES
        file: pq.ParquetFile | None = None
        for index in range(first, len(self._groups)):
            group = self._groups[index]
            with reading("manifest", group.file):
                if file is None or self._groups[index - 1].file != group.file:
                    file = open_parquet(group.file, buffer_size=_READ_BYTES, pre_buffer=False)
                start = group.start
                columns, numbers = self.columns.read, [group.number]
                for batch in file.iter_batches(rows, row_groups=numbers, columns=columns, use_threads=False):
                    self._unchanged.check(group.file)
                    yield _Block(table=_conform(pa.Table.from_batches([batch]), self._schema), group=index, start=start)
                    start += batch.num_rows


def _absolute(folder: Location) -> Location:
    return folder if isinstance(folder, Remote) else folder.absolute()


def _text(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _survey(files: Sequence[Location], unchanged: Unchanged) -> tuple[list[_RowGroup], pa.Schema]:
    """Find all row groups, and the schema that all files share; each file is remembered before it is read."""
    groups: list[_RowGroup] = []
    schema: pa.Schema | None = None
    start = 0
    for path in files:
        with reading("manifest", path):
            unchanged.check(path)
            with open_parquet(path) as file:
                own = file.schema_arrow.remove_metadata()
                sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        schema = own if schema is None else _unify(schema, own, path, files[0])
        for number, size in enumerate(sizes):
            if size:
                groups.append(_RowGroup(file=path, number=number, start=start, stop=start + size))
            start += size
    return groups, schema


def _unify(schema: pa.Schema, own: pa.Schema, path: Location, first: Location) -> pa.Schema:
    missing = sorted(set(schema.names) ^ set(own.names))
    try:
        if missing:
            raise pa.ArrowInvalid(", ".join(missing))
        return pa.unify_schemas([schema, own], promote_options="permissive")
    except pa.ArrowException as error:
        what = first_line(error)
        message = f"{path} has not the columns of {first} ({what}); caption different manifests in runs of their own."
        raise InputError(message) from error


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    ordered = table.select(schema.names)
    return ordered if ordered.schema.equals(schema) else ordered.cast(schema)
