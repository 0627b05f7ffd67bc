"""Decide what each column of somebody else's manifest is for.

In: the schema of a manifest. Out: which columns hold images, ids and references, and under which names the others travel
along. Apart, because here alone the habits of Hugging Face, img2dataset and others are known.
"""

from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa

from capt.captions import COLUMNS
from capt.errors import InputError
from capt.remote import Location
from jobs.source import SourceOptions

_ID_COLUMNS = ("image_id", "key", "img_id", "filename", "path")
_BYTES_COLUMNS = ("image", "jpg")
_PATH_COLUMNS = ("image_path", "path", "filename", "image")
_REFERENCE_COLUMN = "caption"
_SPLIT_COLUMN = "split"


class ImageColumn(StrEnum):
    """How a manifest holds its images."""

    STRUCT = "struct"
    BYTES = "bytes"
    PATH = "path"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of a manifest are used, and under which names the others travel along.

    `image_id` is None where the struct's own path names the image; `references` and `split` are None where there are none.
    `travelling` pairs a column's name in the manifest with its name in the output.
    """

    image: str
    kind: ImageColumn
    image_id: str | None
    references: str | None
    split: str | None
    travelling: tuple[tuple[str, str], ...]

    @property
    def used(self) -> list[str]:
        """The columns that become items, each once."""
        return list(dict.fromkeys(name for name in (self.image, self.image_id, self.references) if name is not None))

    @property
    def read(self) -> list[str]:
        """All columns that are read while captioning, each once."""
        return list(dict.fromkeys([*self.used, *(name for name, _ in self.travelling)]))

    @property
    def identifying(self) -> list[str]:
        """The columns that tell rows apart, without image bytes; a struct's path as `image.path`."""
        image = {ImageColumn.STRUCT: f"{self.image}.path", ImageColumn.PATH: self.image}.get(self.kind)
        return list(dict.fromkeys(name for name in (self.image_id, image, self.references, self.split) if name is not None))


def choose_columns(schema: pa.Schema, where: Location, options: SourceOptions) -> Columns:
    """Decide what each column of a manifest is for.

    Args:
        schema: Of the manifest.
        where: The file, for messages.
        options: A split makes the column `split` used; references given elsewhere make `caption` travel along.

    Returns:
        The columns.

    Raises:
        InputError: If there is no usable image or id column, or a column's name is doubled.
    """
    has = ", ".join(f"{field.name} ({field.type})" for field in schema) or "no columns"
    if len(set(schema.names)) < len(schema.names):
        message = f"{where} has two columns of one name ({has}); rename one."
        raise InputError(message)
    found = _image_column(schema)
    if found is None:
        message = (
            f"{where} has no usable image column, only {has}; it needs image (struct of bytes and path, or binary), "
            "jpg (binary), or image_path, path or filename (string)."
        )
        raise InputError(message)
    image, kind = found
    image_id = next((name for name in _ID_COLUMNS if name in schema.names and _is_id(schema.field(name).type)), None)
    if image_id is None and (kind is ImageColumn.BYTES or (kind is ImageColumn.STRUCT and "path" not in _fields(schema, image))):
        message = f"{where} has no id column, only {has}; it needs one of {', '.join(_ID_COLUMNS)}, unique for each image."
        raise InputError(message)
    if options.split is not None and _SPLIT_COLUMN not in schema.names:
        message = f"{where} has no column split for --split, only {has}; leave --split out."
        raise InputError(message)
    named = _REFERENCE_COLUMN in schema.names and _is_list_of_text(schema.field(_REFERENCE_COLUMN).type)
    references = _REFERENCE_COLUMN if named and options.references is None else None
    used = {image, image_id or (image if kind is ImageColumn.PATH else None), references}
    return Columns(
        image=image,
        kind=kind,
        image_id=image_id or (image if kind is ImageColumn.PATH else None),
        references=references,
        split=_SPLIT_COLUMN if options.split is not None else None,
        travelling=_rename([name for name in schema.names if name not in used]),
    )


def _image_column(schema: pa.Schema) -> tuple[str, ImageColumn] | None:
    if {"bytes", "path"} & _fields(schema, "image"):
        return "image", ImageColumn.STRUCT
    for name in _BYTES_COLUMNS:
        if name in schema.names and _is_binary(schema.field(name).type):
            return name, ImageColumn.BYTES
    for name in _PATH_COLUMNS:
        if name in schema.names and _is_text(schema.field(name).type):
            return name, ImageColumn.PATH
    return None


def _fields(schema: pa.Schema, name: str) -> set[str]:
    """Name those of a struct's fields that hold what they say: bytes, or a path as text."""
    if name not in schema.names or not pa.types.is_struct(schema.field(name).type):
        return set()
    usable = {"bytes": _is_binary, "path": _is_text}
    return {field.name for field in schema.field(name).type if field.name in usable and usable[field.name](field.type)}


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_text(kind: pa.DataType) -> bool:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_string_view(plain))


def _is_id(kind: pa.DataType) -> bool:
    return _is_text(kind) or bool(pa.types.is_integer(kind))


def _is_list_of_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _is_text(kind.value_type)


def _rename(names: list[str]) -> tuple[tuple[str, str], ...]:
    """Give travelling columns names that the output's own columns do not have."""
    taken = {*COLUMNS.names, *(name for name in names if name not in COLUMNS.names)}
    renamed: list[tuple[str, str]] = []
    for name in names:
        new = name
        while new in COLUMNS.names or (new != name and new in taken):
            new = f"manifest_{new}"
        taken.add(new)
        renamed.append((name, new))
    return tuple(renamed)
