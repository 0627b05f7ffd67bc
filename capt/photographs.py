"""Find photographs by id, in a folder or in parquet manifests, and give their bytes or paths; none is decoded here.

In: where the photographs are, and ids. Out: for each id found a path or the bytes of a file, for `capt.images.open_image`. Apart,
because the judge shows photographs that the job captioned, and knows nothing of the job. An id, or a path in a
manifest, is somebody else's text: it never leads out of the folder.
"""

import glob
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from capt.errors import InputError
from capt.images import SUPPORTED_SUFFIXES
from capt.inside import goes_down, lies_inside
from capt.remote import reading_parquet

_ID_COLUMNS = ("image_id", "key", "img_id", "filename", "path")
_BYTES_COLUMNS = ("image", "jpg")
_PATH_COLUMNS = ("image_path", "path", "filename", "image")
_ROWS = 64  # of photographs held at a time


def find_photographs(source: Path, image_ids: Iterable[str]) -> dict[str, Path | bytes]:
    """Find photographs.

    Args:
        source: A folder of images, a parquet file, a folder of parquet files, or a glob of them.
        image_ids: As `capt-batch run` named them; also without their ending.

    Returns:
        id -> path or bytes, for those that are there.

    Raises:
        InputError: If there is no such source, or it holds no photographs.
    """
    wanted = dict.fromkeys(image_ids)
    if source.is_dir():
        tables = sorted(source.glob("*.parquet")) or sorted(source.glob("*.pq"))
        return _in_tables(tables, wanted) if tables else _in_folder(source, wanted)
    if source.is_file() and source.suffix.lower() in SUPPORTED_SUFFIXES:
        return {image_id: source for image_id in wanted if image_id in {source.name, source.stem}}
    files = [source] if source.is_file() else sorted(map(Path, glob.glob(str(source))))  # noqa: PTH207  # an absolute pattern
    if not files:
        message = f"there are no photographs at {source}: give the folder or the parquet files that were captioned"
        raise InputError(message)
    return _in_tables(files, wanted)


def _in_folder(folder: Path, wanted: Mapping[str, None]) -> dict[str, Path | bytes]:
    """Take ids for paths under the folder; what is not there by its whole name is looked for without its ending."""
    found: dict[str, Path | bytes] = {}
    for image_id in wanted:
        if not goes_down(image_id):
            continue
        path = folder / image_id
        if path.is_file():
            found[image_id] = path
    if missing := [image_id for image_id in wanted if image_id not in found]:
        files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUPPORTED_SUFFIXES and path.is_file()]
        if not files:
            message = f"{folder} holds no photographs: give the folder or the parquet files that were captioned"
            raise InputError(message)
        by_stem = _unique((path.relative_to(folder).with_suffix("").as_posix(), path) for path in files)
        by_stem = _unique((path.stem, path) for path in files) | by_stem
        found |= {image_id: by_stem[stem] for image_id in missing if (stem := _stem(image_id)) in by_stem}
    return found


def _unique(pairs: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Keep names that mean one file only."""
    paths: dict[str, list[Path]] = {}
    for name, path in pairs:
        paths.setdefault(name, []).append(path)
    return {name: each[0] for name, each in paths.items() if len(each) == 1}


def _stem(image_id: str) -> str:
    head, dot, suffix = image_id.rpartition(".")
    return head if f".{suffix.lower()}" in SUPPORTED_SUFFIXES and dot else image_id


def _in_tables(files: Iterable[Path], wanted: Mapping[str, None]) -> dict[str, Path | bytes]:
    """Look through parquet files; row groups without a wanted id are passed over."""
    found: dict[str, Path | bytes] = {}
    for path in files:
        remedy = ": give the photographs that were captioned"
        with reading_parquet(f"{path} cannot be read as parquet", remedy), pq.ParquetFile(path) as file:
            found |= dict(_in_table(file, path, wanted))
    return found


def _in_table(file: pq.ParquetFile, path: Path, wanted: Mapping[str, None]) -> Iterator[tuple[str, Path | bytes]]:
    schema = file.schema_arrow
    image = _image_column(schema, path)
    is_struct = pa.types.is_struct(schema.field(image).type)
    column = next((name for name in _ID_COLUMNS if name in schema.names), f"{image}.path" if is_struct else image)
    for group in range(file.num_row_groups):
        ids = file.read_row_group(group, columns=[column]).column(0).combine_chunks()
        names = [_name(value) for value in ids.to_pylist()]
        if not any(name in wanted for name in names):
            continue
        start = 0
        for batch in file.iter_batches(_ROWS, row_groups=[group], columns=[image]):
            for row, name in enumerate(names[start : start + batch.num_rows]):
                content = _content(batch.column(0)[row].as_py(), path.parent) if name in wanted else None
                if content is not None:
                    yield name, content
            start += batch.num_rows


def _name(value: object) -> str:
    """Take the id out of a cell, which may be a struct with a path."""
    if isinstance(value, Mapping):
        return _name(value.get("path"))
    return "" if value is None else str(value)


def _image_column(schema: pa.Schema, path: Path) -> str:
    kinds = {field.name: field.type for field in schema}
    if "image" in kinds and pa.types.is_struct(kinds["image"]):
        return "image"
    for name in _BYTES_COLUMNS:
        if name in kinds and (pa.types.is_binary(kinds[name]) or pa.types.is_large_binary(kinds[name])):
            return name
    for name in _PATH_COLUMNS:
        if name in kinds and (pa.types.is_string(kinds[name]) or pa.types.is_large_string(kinds[name])):
            return name
    message = f"{path} has no column of photographs, only {', '.join(kinds)}: give the parquet files that were captioned"
    raise InputError(message)


def _content(value: object, folder: Path) -> Path | bytes | None:
    """Take bytes, or a path under the manifest's folder, out of a cell."""
    if isinstance(value, Mapping):
        content = value.get("bytes")
        return content if isinstance(content, bytes) else _content(value.get("path"), folder)
    if isinstance(value, bytes):
        return value
    path = folder / value if isinstance(value, str) and value else None
    return path if path is None or lies_inside(path, folder) else None
