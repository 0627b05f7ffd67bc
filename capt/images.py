"""Open one image safely, and bring it into the shape that a checkpoint names.

In: a path or the bytes of a file, from anywhere. Out: an upright RGB image, or an ImageError with its cause; then a
`(S, S, 3)` array. Apart, because training and captioning must see the same pixels; needs no torch.
"""

import ctypes
import io
import math
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from capt.errors import FailureKind, ImageError, first_line
from capt.remote import Location, Remote

DEFAULT_MAX_PIXELS = 120_000_000
"""The largest image opened, in pixels: a 108-megapixel telephone photograph passes, a decompression bomb does not."""

SUPPORTED_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp", ".bmp", ".dib", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif"}
)

# Pillow's own guard warns at one size and fails at another, both process-wide; `max_pixels` replaces it, per call.
Image.MAX_IMAGE_PIXELS = None
Image.init()
with suppress(AttributeError, OSError):  # a Pillow without libtiff; else it writes to stderr, beside what Pillow raises
    ctypes.CDLL(getattr(Image, "core").__file__).TIFFSetErrorHandler(None)  # noqa: B009  not among what Pillow exports
# Only formats of photographs: Pillow's others include some that call programs (EPS) or nest further images (ICO).
_FORMATS = tuple(
    name for name in ("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF") if name in Image.OPEN
)
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")
_MOST_BYTES = 1 << 30  # of an object; a file on disk is decoded as it is read
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LYING = frozenset(_UPRIGHT[orientation] for orientation in (5, 6, 7, 8))  # whose sides change places


class Resize(StrEnum):
    """How an image of any shape becomes a square."""

    STRETCH = "stretch"
    CROP = "crop"


class Interpolation(StrEnum):
    """Pillow's filters, which smooth when they shrink."""

    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


_RESAMPLING = {
    Interpolation.BILINEAR: Image.Resampling.BILINEAR,
    Interpolation.BICUBIC: Image.Resampling.BICUBIC,
    Interpolation.LANCZOS: Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What a network expects of its images; carried by the checkpoint.

    `size` is in pixels. With `crop`, the shorter side is brought to `size / crop_fraction` and the centre is cut out.
    `mean` and `std` are of red, green and blue in 0..1; the network applies them, `to_array` does not.
    """

    name: str
    size: int = 224
    resize: Resize = Resize.STRETCH
    interpolation: Interpolation = Interpolation.BILINEAR
    crop_fraction: float = 1.0
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        """Refuse values that no network can mean.

        Raises:
            ValueError: If a value is out of range.
        """
        if self.size < 1:
            message = f"Preprocessing size must be at least 1, not {self.size}."
            raise ValueError(message)
        if not 0 < self.crop_fraction <= 1:
            message = f"Preprocessing crop_fraction must be in (0, 1], not {self.crop_fraction}."
            raise ValueError(message)
        if not all(math.isfinite(value) for value in (*self.mean, *self.std)) or min(self.std) <= 0:
            message = "Preprocessing mean and std must be finite, std above 0."
            raise ValueError(message)

    @property
    def draft_size(self) -> int:
        """Pixels that each side of an image must keep to be decoded smaller with little loss: twice what the network sees."""
        return math.ceil(2 * self.size / self.crop_fraction)

    def to_dict(self) -> dict[str, object]:
        """Give the fields as JSON knows them; `from_dict` takes them back.

        Returns:
            Field names and plain values; lists instead of tuples.
        """
        return asdict(self) | {
            "resize": str(self.resize),
            "interpolation": str(self.interpolation),
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "Preprocessing":
        """Read what `to_dict` wrote, strictly.

        Args:
            values: Every field, by name.

        Returns:
            The same preprocessing.

        Raises:
            ValueError: If a key is unknown or missing, or a value has the wrong type or is out of range.
        """
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            message = f"Preprocessing needs the keys {sorted(names)}, not {sorted(values)}."
            raise ValueError(message)
        name, size = values["name"], values["size"]
        if not isinstance(name, str) or not isinstance(size, int) or isinstance(size, bool):
            message = "Preprocessing name must be text and size a whole number."
            raise ValueError(message)  # noqa: TRY004  callers wrap one kind
        return cls(
            name=name,
            size=size,
            resize=Resize(str(values["resize"])),
            interpolation=Interpolation(str(values["interpolation"])),
            crop_fraction=_number(values["crop_fraction"], "crop_fraction"),
            mean=_three_numbers(values["mean"], "mean"),
            std=_three_numbers(values["std"], "std"),
        )


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        message = f"Preprocessing {name} must be numbers, not {value!r}."
        raise ValueError(message)  # noqa: TRY004  callers wrap one kind
    return float(value)


def _three_numbers(value: object, name: str) -> tuple[float, float, float]:
    if not isinstance(value, list | tuple) or len(value) != 3:  # noqa: PLR2004  red, green, blue
        message = f"Preprocessing {name} must be three numbers, not {value!r}."
        raise ValueError(message)
    red, green, blue = (_number(item, name) for item in value)
    return red, green, blue


IMAGENET = Preprocessing(name="imagenet-stretch-224", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
INCEPTION = Preprocessing(name="inception-stretch-224", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class Opened(NamedTuple):
    """A decoded image, and the size in pixels that it has for a person: larger than the image where that was decoded smaller."""

    image: Image.Image
    width: int
    height: int


def open_image(source: Location | bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Open and decode one image, as `open_measured` does, at its full size.

    Args:
        source: A path, a place in an object store, or the bytes of a file.
        max_pixels: Width times height above which an image is refused before it is decoded.

    Returns:
        The decoded image, mode RGB, of the size a person sees.

    Raises:
        ImageError: Whatever is wrong, with its kind.
    """
    return open_measured(source, max_pixels=max_pixels).image


def open_measured(source: Location | bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, least: int = 0) -> Opened:
    """Open and decode one image, upright and in RGB, and tell its size.

    EXIF orientation is applied; transparency is laid on white; 16-bit and floating-point grey is brought to 8 bits; of an
    animation the first frame counts. Only regular files are opened, so a named pipe cannot hang the caller. Safe in threads.

    Args:
        source: A path, a place in an object store, or the bytes of a file.
        max_pixels: Width times height above which an image is refused before it is decoded.
        least: Pixels that each side must keep where a JPEG may be decoded at a half, a quarter or an eighth of its size, which
            is quicker and not quite the same picture (Pillow's `draft`); 0 decodes everything at its full size.

    Returns:
        The decoded image, mode RGB, and the size a person sees.

    Raises:
        ImageError: Whatever is wrong, with its kind.
    """
    try:
        if isinstance(source, Remote):
            source = _fetch(source)
        if isinstance(source, bytes):
            if not source:
                raise ImageError(FailureKind.EMPTY, "The image has zero bytes.")
            return _decode(io.BytesIO(source), max_pixels, least)
        _check_regular_file(source)
        with source.open("rb") as file:
            return _decode(file, max_pixels, least)
    except FileNotFoundError as error:
        raise ImageError(FailureKind.NOT_FOUND, "There is no file at this path.") from error
    except OSError as error:  # with a number it comes from the system; Pillow's own were sorted out in _decode
        raise ImageError(FailureKind.UNREADABLE, f"The file cannot be read: {error.strerror or first_line(error)}.") from error
    except ValueError as error:  # a path with a null byte
        raise ImageError(FailureKind.NOT_FOUND, f"The path cannot be used: {error}.") from error


def _fetch(source: Remote) -> bytes:
    content = source.read_bytes(most=_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ImageError(FailureKind.TOO_LARGE, "The object has more than a gibibyte.")
    return content


def _check_regular_file(path: Path) -> None:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(FailureKind.UNREADABLE, "This is not a regular file.")
    if status.st_size == 0:
        raise ImageError(FailureKind.EMPTY, "The file has zero bytes.")


def _decode(file: BinaryIO, max_pixels: int, least: int) -> Opened:
    try:
        with Image.open(file, formats=_FORMATS) as image:
            _check_size(image, max_pixels)
            stored = image.size
            if least:
                image.draft(None, (least, least))
            is_smaller = image.size != stored
            image.load()
            method = _turning(image)
            upright = image if method is None else image.transpose(method)
            size = stored if method not in _LYING else stored[::-1]
            return Opened(_to_rgb(upright), *(size if is_smaller else upright.size))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise _unidentified(file) from error
    except (MemoryError, Image.DecompressionBombError) as error:
        raise ImageError(FailureKind.TOO_LARGE, "Decoding the image needs more memory than there is.") from error
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged files: one bad file must not end a run
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _damaged(error) from error


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        message = f"The image has {width} x {height} pixels, more than the limit of {max_pixels} (--max-pixels)."
        raise ImageError(FailureKind.TOO_LARGE, message)
    if width < 1 or height < 1:
        raise ImageError(FailureKind.CORRUPT, f"The image has {width} x {height} pixels.")


def _unidentified(file: BinaryIO) -> ImageError:
    file.seek(0)
    if file.read(8).startswith(_SIGNATURES):
        return ImageError(FailureKind.CORRUPT, "The file begins like an image, but its header cannot be read.")
    return ImageError(FailureKind.NOT_AN_IMAGE, "The content is not an image in a supported format.")


def _damaged(error: Exception) -> ImageError:
    text = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, EOFError) or any(word in text.lower() for word in ("truncated", "not enough image data", "end of file")):
        return ImageError(FailureKind.TRUNCATED, "The file ends before the image does.")
    return ImageError(FailureKind.CORRUPT, f"The image cannot be decoded ({type(error).__name__}: {text[:200]}).")


def _turning(image: Image.Image) -> Image.Transpose | None:
    """Say what brings an image upright."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)  # after load(): PNG may carry it behind the pixels
    except Exception:  # noqa: BLE001  damaged metadata must not lose a good picture
        return None
    return _UPRIGHT.get(orientation) if isinstance(orientation, int) else None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_to_8_bits(image)).convert("RGB")
    if image.has_transparency_data:
        opaque = image.convert("LA") if image.mode == "La" else image
        layer = opaque.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> NDArray[np.uint8]:
    """Scale grey of 16 or more bits to 0..255.

    Integers are taken as 0..65535, as PNG, PGM and TIFF write them; floats as 0..1; either by their own maximum where it is
    larger than that.
    """
    values = np.nan_to_num(np.asarray(image).astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    full_scale = 65535.0 if image.mode.startswith("I") else 1.0
    scaled = values / max(full_scale, float(values.max())) * 255.0
    grey: NDArray[np.uint8] = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return grey


def to_array(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Bring an image to the square that the network expects.

    The crop is cut in the original before resizing, so that a very long thin image never grows on its way.

    Args:
        image: Mode RGB, as `open_image` gives it.
        preprocessing: Size, filter and way of resizing.

    Returns:
        Pixels, `(S, S, 3)`, not normalised; a new, writable array.
    """
    size = (preprocessing.size, preprocessing.size)
    box = (0.0, 0.0, float(image.width), float(image.height))
    if preprocessing.resize is Resize.CROP:
        side = min(image.size) * preprocessing.crop_fraction
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
    pixels: NDArray[np.uint8] = np.array(image.resize(size, _RESAMPLING[preprocessing.interpolation], box=box))
    return pixels
