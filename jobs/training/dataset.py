"""Photographs with human captions, for training: where each image is, and what people wrote about it.

In: parquet manifests with images, captions and a split column; or a folder of images with a references file. Out: a
`CaptionedImages` for a split. Apart, because the training loop must not know formats. A path in a manifest, or an id, is somebody
else's text: unless that is allowed, it never leads out of the folder.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from capt.errors import InputError
from capt.images import SUPPORTED_SUFFIXES
from capt.inside import goes_down, lies_inside
from capt.references import read_references
from capt.remote import reading_parquet

_ID_COLUMNS = ("image_id", "key", "img_id", "filename", "path")
_PATH_COLUMNS = ("image_path", "path", "filename")
_BYTES_COLUMNS = ("image", "jpg")
_ROWS_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class CaptionedImages:
    """The images of one split, in a fixed order.

    Args:
        image_ids: N of them, unique.
        captions: For each image what people wrote, as written.
        places: Where each image is: a file, or a row of a parquet file.
        identity: sha256 of ids and places (name, size and time of the files), which names cached features.
    """

    image_ids: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]
    places: tuple["Path | Row", ...]
    identity: str = field(repr=False)

    def __len__(self) -> int:
        """Count the images."""
        return len(self.image_ids)

    def subset(self, count: int) -> "CaptionedImages":
        """Keep the first images only.

        Args:
            count: How many.

        Returns:
            A smaller set with an identity of its own.
        """
        if count >= len(self):
            return self
        return _captioned(self.image_ids[:count], self.captions[:count], self.places[:count])

    def read(self, start: int = 0) -> Iterator[Path | bytes]:
        """Read the images in order.

        Args:
            start: The first one wanted.

        Yields:
            The path of each image, or its bytes.

        Raises:
            InputError: If a manifest cannot be read any more.
        """
        reader = _RowReader()
        for place in self.places[start:]:
            yield reader.read(place) if isinstance(place, Row) else place


@dataclass(frozen=True)
class Row:
    """An image inside a parquet file."""

    file: Path
    column: str
    number: int


class _RowReader:
    """Reads rows of parquet files that are asked for in rising order, a few at a time."""

    def __init__(self) -> None:
        self._at: tuple[Path, str] | None = None
        self._batches: Iterator[list[bytes]] = iter(())
        self._rows: list[bytes] = []
        self._first = 0

    def read(self, place: Row) -> bytes:
        if (place.file, place.column) != self._at or place.number < self._first:
            self._at = (place.file, place.column)
            self._batches = _image_batches(place.file, place.column)
            self._rows, self._first = [], 0
        while place.number >= self._first + len(self._rows):
            self._first += len(self._rows)
            self._rows = next(self._batches)
        return self._rows[place.number - self._first]


def _image_batches(file: Path, column: str) -> Iterator[list[bytes]]:
    with _reading(file):
        for batch in pq.ParquetFile(file).iter_batches(batch_size=_ROWS_AT_ONCE, columns=[column]):
            yield [_content(image) for image in batch.column(column).to_pylist()]


def _content(image: object) -> bytes:
    """Take the bytes of a photograph out of a cell; one that has none is empty, which whoever opens it says of its image."""
    held = image.get("bytes") if isinstance(image, dict) else image
    return held if isinstance(held, bytes) else b""


def _reading(file: Path) -> AbstractContextManager[None]:
    """Tell what is wrong with a manifest in one sentence."""
    return reading_parquet(f"{file} cannot be read as parquet", "; remove it or write it again.")


def read_dataset(
    source: Path, *, split: str, references: Path | None = None, images: Path | None = None, allow_outside: bool = False
) -> CaptionedImages:
    """Find the captioned images of a split.

    Args:
        source: A folder of images (with `references`), or a parquet manifest with captions: a file, or a folder of them.
        split: Which split: of the manifest's `split` column, or of the references.
        references: Human captions of a folder's images, in any format of `capt.references`.
        images: A list of the split's images, one a line, for references without splits.
        allow_outside: Whether a manifest's paths may lead out of its folder.

    Returns:
        The images, in the order of the manifest or of the references.

    Raises:
        InputError: If there are no such images, some are missing, or lie outside the manifest's folder.
    """
    files = _parquet_files(source)
    if files and references is None:
        dataset = _from_manifests(source, files, split)
        if not allow_outside:
            _check_inside(dataset, {file.parent for file in files})
        return dataset
    if references is None:
        message = f"{source} holds no parquet manifest with captions; name the images' captions with --references."
        raise InputError(message)
    return _from_folder(source, references, split, images)


def dataset_splits(source: Path) -> list[str]:
    """List the splits that parquet manifests name, in alphabetical order; empty for a folder of images.

    Args:
        source: What `read_dataset` takes.

    Returns:
        Names of splits.

    Raises:
        InputError: If the source does not exist or a manifest cannot be read.
    """
    names: set[str] = set()
    for file in _parquet_files(source):
        parquet = _open(file)
        with _reading(file):
            if "split" in parquet.schema_arrow.names:
                names.update(str(name) for name in parquet.read(columns=["split"])["split"].unique().to_pylist())
    return sorted(names)


def _parquet_files(source: Path) -> list[Path]:
    if source.is_dir():
        return sorted(source.glob("*.parquet"))
    if source.is_file():
        return [source]
    message = f"There is nothing at {source}; give a folder of photographs or parquet manifests."
    raise InputError(message)


def _open(file: Path) -> pq.ParquetFile:
    with _reading(file):
        return pq.ParquetFile(file)


def _from_manifests(source: Path, files: Sequence[Path], split: str) -> CaptionedImages:
    image_ids: list[str] = []
    captions: list[tuple[str, ...]] = []
    places: list[Path | Row] = []
    for file in files:
        parquet = _open(file)
        id_column = _choose(parquet, _ID_COLUMNS, "an id", file)
        _choose(parquet, ("caption",), "captions", file)
        names = parquet.schema_arrow.names
        image_column = _choose(parquet, (*_BYTES_COLUMNS, *_PATH_COLUMNS), "images", file)
        in_rows = image_column in _BYTES_COLUMNS
        wanted = dict.fromkeys(
            [id_column, "caption", *(["split"] if "split" in names else []), *([] if in_rows else [image_column])]
        )
        with _reading(file):
            rows = parquet.read(columns=list(wanted)).to_pylist()
        for number, row in enumerate(rows):
            if row.get("split", split) != split:
                continue
            image_ids.append(str(row[id_column]))
            captions.append(_captions(row["caption"], file, number))
            places.append(Row(file, image_column, number) if in_rows else _path(row, image_column, file, number))
    if not image_ids:
        found = ", ".join(dataset_splits(source)) or "none"
        message = f"{source} has no images of split {split!r} (splits there: {found}); choose with --train-split and --val-split."
        raise InputError(message)
    if doubled := len(image_ids) - len(set(image_ids)):
        message = f"{doubled} image ids of {source} occur more than once in the training data; make them unique."
        raise InputError(message)
    return _captioned(image_ids, captions, places)


def _check_inside(dataset: CaptionedImages, folders: Collection[Path]) -> None:
    """Refuse paths that lead out of the folder of the manifests, before a network learns from what lies there."""
    paths = (place for place in dataset.places if isinstance(place, Path))
    outside = [path for path in paths if not any(lies_inside(path, folder) for folder in folders)]
    if outside:
        counts = f"{len(outside)} of {len(dataset)} images"
        remedy = "put the manifest above them, or give --allow-outside if you trust who wrote it."
        message = f"{counts} lie outside the manifest's folder, such as {outside[0]}; {remedy}"
        raise InputError(message)


def _captions(written: object, file: Path, number: int) -> tuple[str, ...]:
    """Take one caption, a list of them, or none."""
    held = [text for text in (written if isinstance(written, list) else [written]) if text]
    texts = tuple(text for text in held if isinstance(text, str))
    if len(texts) < len(held):
        message = (
            f"{file}, row {number + 1} has captions that are no text; write the column caption as text, or as lists of text."
        )
        raise InputError(message)
    return texts


def _path(row: Mapping[str, Any], column: str, file: Path, number: int) -> Path:
    name = row[column]
    if not isinstance(name, str) or not name or "\0" in name:
        message = f"{file}, row {number + 1} names no image in column {column}; name a file, or leave the row out."
        raise InputError(message)
    return file.parent / name


def _choose(parquet: pq.ParquetFile, columns: Sequence[str], what: str, file: Path) -> str:
    with _reading(file):
        names = parquet.schema_arrow.names
    found = next((column for column in columns if column in names), None)
    if found is None:
        message = f"{file} has no column with {what} ({', '.join(columns)}); it has {', '.join(names)}."
        raise InputError(message)
    return found


def _from_folder(folder: Path, references: Path, split: str, images: Path | None) -> CaptionedImages:
    read = read_references(references, images=images)
    if images is None and not read.splits and not read.uncaptioned:
        message = f"{references} names no splits; list the images with --train-images and --val-images, one a line."
        raise InputError(message)
    selected = (read if images else read.subset(split)).captions
    paths = {image_id: _find(folder, image_id) for image_id in selected}
    missing = [image_id for image_id, path in paths.items() if path is None]
    if missing:
        counts = f"{len(missing)} of {len(paths)} images"
        message = f"{counts} of {references} are not in {folder}, such as {missing[0]}; give the folder that holds them."
        raise InputError(message)
    return _captioned(list(selected), list(selected.values()), [path for path in paths.values() if path is not None])


def _find(folder: Path, image_id: str) -> Path | None:
    names = [image_id, *(image_id + suffix for suffix in sorted(SUPPORTED_SUFFIXES))]
    return next((folder / name for name in names if goes_down(name) and (folder / name).is_file()), None)


def _captioned(image_ids: Sequence[str], captions: Sequence[tuple[str, ...]], places: Sequence[Path | Row]) -> CaptionedImages:
    digest = hashlib.sha256()
    stamps: dict[Path, str] = {}
    for image_id, place in zip(image_ids, places, strict=True):
        file = place.file if isinstance(place, Row) else place
        if file not in stamps:
            status = file.stat() if file.is_file() else None
            stamps[file] = f"{file.name}:{status.st_size}:{status.st_mtime_ns}" if status else f"{file.name}:missing"
        row = f"{place.column}:{place.number}" if isinstance(place, Row) else ""
        digest.update(f"{image_id}\0{stamps[file]}\0{row}\n".encode(errors="surrogateescape"))
    return CaptionedImages(
        image_ids=tuple(image_ids), captions=tuple(captions), places=tuple(places), identity=digest.hexdigest()
    )
