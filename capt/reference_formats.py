"""The formats in which human captions come: each is one reader that fills a Gathering.

In: the bytes of one file. Out: rows in a Gathering, or an InputError that names the line. Apart from references.py, so that a
new format is one reader here and one line where formats are recognised.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from capt.errors import InputError, first_line
from capt.remote import reading_parquet

IMAGE_COLUMNS = ("image_id", "key", "img_id", "image", "image_name", "filename", "file_name", "path")  # first that exists
CAPTION_COLUMNS = ("caption", "captions", "comment", "sentence", "sentences")
SPLIT_COLUMN = "split"
_ROWS = 4096  # of parquet, held at a time
_MOST_CAPTIONS = 1_000_000  # of one image; a small file of parquet can claim any number of equal rows

_TOKEN_LINE = re.compile(r"(?P<image_id>[^\t]+)#\d+\t(?P<caption>.*)")
_KAGGLE_FAULT = re.compile(r"\s*\d+\s+(?P<caption>\D.*)")  # "2199200615.jpg| 4   A dog runs …": the second bar is missing


class UnknownFormatError(InputError):
    """A file that is in none of the formats, so it may be something else than captions."""


class Gathering:
    """References while they are read: rows come in, faults are told with their place."""

    def __init__(self, source: str, *, blank: bool = False) -> None:
        """Begin with nothing.

        Args:
            source: How messages name the place.
            blank: Whether a caption may be empty; a person's may not, a machine's may.
        """
        self.source = source
        self.blank = blank
        self.captions: dict[str, list[str]] = {}
        self.splits: dict[str, str] = {}
        self.aliases: dict[str, str] = {}

    def add(self, image_id: object, captions: object, place: str, split: object = None) -> None:
        """Take one row; `captions` is one text, a list of them, or None for an image without."""
        if isinstance(image_id, bool) or not isinstance(image_id, str | int) or not str(image_id).strip():
            message = f"{place} names no image: correct or remove it"
            raise InputError(message)
        image_id = str(image_id).strip()
        nothing = [""] if self.blank else []
        texts = [captions] if isinstance(captions, str) else nothing if captions is None else captions
        if not isinstance(texts, Sequence) or not all(isinstance(text, str) and (self.blank or text.strip()) for text in texts):
            message = f"{place} has an empty caption for {image_id}: write the caption, or remove it"
            raise InputError(message)
        if not all(map(_is_unicode, (image_id, *texts))):
            message = f"{place} holds half a character for {image_id}: correct it, or save the file as UTF-8 again"
            raise InputError(message)
        if texts:
            held = self.captions.setdefault(image_id, [])
            held.extend(text.strip() for text in texts)
            if len(held) > _MOST_CAPTIONS:
                message = f"{place} is the caption number {len(held):,} of {image_id}: give each image its own name"
                raise InputError(message)
        if split is not None and self.splits.setdefault(image_id, str(split)) != str(split):
            message = (
                f"{place} puts {image_id} into split {str(split)!r}, an earlier one into {self.splits[image_id]!r}: keep one"
            )
            raise InputError(message)


def _is_unicode(text: str) -> bool:
    """Whether a text can be written: JSON may hold one half of a pair of surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_file(path: Path, gathering: Gathering) -> None:
    """Recognise one file by its first bytes and read it.

    Args:
        path: A file in any of the formats.
        gathering: Takes the rows.

    Raises:
        InputError: If it has a fault; UnknownFormatError if it is in none of the formats.
    """
    try:
        with path.open("rb") as stream:
            is_parquet = stream.read(4) == b"PAR1"
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror}): check the path and its permissions"
        raise InputError(message) from error
    if is_parquet:
        read_parquet([path], gathering)
        return
    text = read_text(path)
    first = next((line for line in text.split("\n") if line.strip()), "")
    if first.lstrip()[:1] in {"{", "["}:
        _read_json(text, gathering)
    elif _TOKEN_LINE.match(first):
        _read_token_lines(text, gathering)
    else:
        _read_table(text, first, gathering)


def read_text(path: Path) -> str:
    """Read UTF-8, with or without a byte order mark; lines end in a line feed whatever they ended in."""
    try:
        content = path.read_bytes()
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror}): check the path and its permissions"
        raise InputError(message) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        message = f"{path}, line {line} is not UTF-8 text: save the file as UTF-8, or give another one"
        raise InputError(message) from error


def _read_token_lines(text: str, gathering: Gathering) -> None:
    """Flickr30k's and Flickr8k's own format: `1000092795.jpg#0<TAB>caption`."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{gathering.source}, line {number}"
        match = _TOKEN_LINE.match(line)
        if match is None:
            message = f"{place} is not of the form image.jpg#0<TAB>caption: correct or remove it"
            raise InputError(message)
        gathering.add(match["image_id"], match["caption"], place)


def _read_table(text: str, header: str, gathering: Gathering) -> None:
    """CSV, TSV, or Kaggle's bars; the header names the columns."""
    for delimiter in "\t|,":
        names = [name.strip().strip('"').strip().lower() for name in header.split(delimiter)]
        image, caption = _column(names, IMAGE_COLUMNS), _column(names, CAPTION_COLUMNS)
        if image is not None and caption is not None:
            break
    else:
        message = (
            f"{gathering.source} is none of the formats known: give Flickr30k's token file, Kaggle's results.csv, Karpathy's or"
            f" COCO's JSON, parquet, or a table whose first line names an image column ({', '.join(IMAGE_COLUMNS)}) and a caption"
            f" column ({', '.join(CAPTION_COLUMNS)})"
        )
        raise UnknownFormatError(message)
    split = _column(names, (SPLIT_COLUMN,))
    for number, row in _table_rows(text, delimiter, gathering.source):
        place = f"{gathering.source}, line {number}"
        fault = _KAGGLE_FAULT.fullmatch(row[-1]) if delimiter == "|" and len(row) == len(names) - 1 else None
        if fault is None and len(row) != len(names):
            message = (
                f"{place} has {len(row)} fields where the first line names {len(names)}:"
                " put a caption that holds the separator between quotation marks"
            )
            raise InputError(message)
        gathering.add(row[image], fault["caption"] if fault else row[caption], place, row[split].strip() if split else None)


def _table_rows(text: str, delimiter: str, source: str) -> Iterator[tuple[int, list[str]]]:
    """Give each row below the header with its line number; only commas come with quotation marks that span lines."""
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    rows = (row for row in reader if any(cell.strip() for cell in row))
    try:
        next(rows)
        for row in rows:
            yield reader.line_num, row if delimiter == "," else [_unquoted(cell) for cell in row]
    except csv.Error as error:
        message = f"{source}, line {reader.line_num} is broken ({error}): correct its quotation marks"
        raise InputError(message) from error


def _unquoted(cell: str) -> str:
    """Remove the quotation marks that a program put around a whole cell, and only those."""
    inside = cell[1:-1]
    quoted = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inside.replace('""', "")
    return inside.replace('""', '"') if quoted else cell


def _read_json(text: str, gathering: Gathering) -> None:
    """Karpathy's JSON, COCO's, a list of rows, or one row a line."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        if not error.msg.startswith("Extra data"):
            message = f"{gathering.source}, line {error.lineno} is not valid JSON ({error.msg}): fetch or export the file again"
            raise InputError(message) from error
        _read_json_rows(_json_lines(text, gathering.source), gathering)
        return
    except (ValueError, RecursionError) as error:
        message = f"{gathering.source} is not JSON that can be read ({first_line(error)}): fetch or export the file again"
        raise InputError(message) from error
    images = data.get("images") if isinstance(data, dict) else None
    if isinstance(images, list) and isinstance(data.get("annotations"), list):
        _read_coco(images, data["annotations"], gathering)
    elif isinstance(images, list):
        _read_karpathy(images, gathering)
    else:
        rows = data if isinstance(data, list) else [data]
        _read_json_rows(((f"{gathering.source}, entry {number}", row) for number, row in enumerate(rows, 1)), gathering)


def _json_lines(text: str, source: str) -> Iterator[tuple[str, object]]:
    """Give each line's value with its place."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield f"{source}, line {number}", json.loads(line)
        except json.JSONDecodeError as error:
            message = f"{source}, line {number} is not valid JSON ({error.msg}): correct or remove it"
            raise InputError(message) from error
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, or brackets without end
            message = f"{source}, line {number} is not JSON that can be read ({first_line(error)}): correct or remove it"
            raise InputError(message) from error


def _read_json_rows(rows: Iterable[tuple[str, object]], gathering: Gathering) -> None:
    """Rows with an image and a caption, or a list of captions."""
    for place, row in rows:
        names = list(row) if isinstance(row, dict) else []
        image, caption = _column(names, IMAGE_COLUMNS), _column(names, CAPTION_COLUMNS)
        if not isinstance(row, dict) or image is None or caption is None:
            message = (
                f"{place} has no image and caption: give it one of {', '.join(IMAGE_COLUMNS)}"
                f" and one of {', '.join(CAPTION_COLUMNS)}"
            )
            raise InputError(message)
        gathering.add(row[names[image]], row[names[caption]], place, row.get(SPLIT_COLUMN))


def _read_karpathy(images: Sequence[object], gathering: Gathering) -> None:
    """Karpathy's `dataset_*.json`: images with filename, split and sentences."""
    for number, image in enumerate(images, start=1):
        place = f"{gathering.source}, image {number}"
        try:
            filename, split = image["filename"], image["split"]  # type: ignore[index]  # the except below is the check
            captions = [sentence["raw"] for sentence in image["sentences"]]  # type: ignore[index]  # as above
        except (KeyError, TypeError) as error:
            message = f"{place} lacks filename, split or sentences with raw text: fetch Karpathy's file again"
            raise InputError(message) from error
        if str(filename) in gathering.captions:
            message = f"{place} names {filename} a second time: keep one"
            raise InputError(message)
        gathering.add(filename, captions, place, split)
        if isinstance(image, dict) and "cocoid" in image:
            gathering.aliases[str(image["cocoid"])] = str(filename).strip()


def _read_coco(images: Sequence[object], annotations: Sequence[object], gathering: Gathering) -> None:
    """COCO's `captions_*.json`: the file name is the image_id, COCO's number an alias."""
    try:
        names = {image["id"]: str(image.get("file_name") or image["id"]) for image in images}  # type: ignore[attr-defined, index]
        gathering.aliases |= {str(number): name for number, name in names.items()}
        for number, annotation in enumerate(annotations, start=1):
            image_id = annotation["image_id"]  # type: ignore[index]  # the except below is the check
            place = f"{gathering.source}, annotation {number}"
            gathering.add(names.get(image_id, image_id), annotation["caption"], place)  # type: ignore[index]
    except (KeyError, TypeError, AttributeError) as error:
        message = f"{gathering.source} has an image without id or an annotation without caption: give COCO's captions_*.json"
        raise InputError(message) from error


def read_parquet(files: Sequence[Path], gathering: Gathering) -> None:
    """Hugging Face's tables: an image column, a caption column of texts or lists of them, perhaps a split; no image is read."""
    for path in files:
        for number, (image_id, captions, split) in enumerate(_parquet_rows(path), start=1):
            place = f"{path}, row {number}"
            if not isinstance(captions, str) and str(image_id) in gathering.captions:
                message = f"{place} names {image_id} a second time: keep one, or give only one of the files"
                raise InputError(message)
            gathering.add(image_id, captions, place, split)


def _parquet_rows(path: Path) -> Iterator[tuple[object, object, object]]:
    """Give image, caption and split, which is None where there is none, of each row; few rows are held at a time."""
    with reading_parquet(f"{path} cannot be read as parquet", ": fetch or export the file again"):
        names = _parquet_columns(path)
        for batch in pq.ParquetFile(path).iter_batches(_ROWS, columns=names):
            columns = [batch.column(name).to_pylist() for name in names]
            yield from zip(*columns, *([[None] * batch.num_rows] if len(names) == 2 else []), strict=True)  # noqa: PLR2004  no split


def _parquet_columns(path: Path) -> list[str]:
    """Name the columns that matter: image, caption and, when there is one, split."""
    schema = pq.read_schema(path)
    plain = [name for name in schema.names if not pa.types.is_nested(schema.field(name).type)]
    plain = [name for name in plain if not pa.types.is_binary(schema.field(name).type)]  # the photographs themselves
    image = next((name for name in IMAGE_COLUMNS if name in plain), None)
    caption = next((name for name in CAPTION_COLUMNS if name in schema.names), None)
    if image is None or caption is None:
        message = (
            f"{path} has no column {'of image names' if image is None else 'of captions'} (it has {', '.join(schema.names)}):"
            f" name it {(IMAGE_COLUMNS if image is None else CAPTION_COLUMNS)[0]}"
        )
        raise InputError(message)
    return [image, caption, *([SPLIT_COLUMN] if SPLIT_COLUMN in plain else [])]


def _column(names: Sequence[str], wanted: Sequence[str]) -> int | None:
    """Where the first of the wanted names is."""
    return next((names.index(name) for name in wanted if name in names), None)
