"""Tests of capt.images: every oddity is either a picture or an ImageError with its kind."""

import io
import os
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from capt.errors import FailureKind, ImageError
from capt.images import (
    IMAGENET,
    INCEPTION,
    SUPPORTED_SUFFIXES,
    Interpolation,
    Preprocessing,
    Resize,
    open_image,
    open_measured,
    to_array,
)


def encoded(image: Image.Image, format_name: str, **options: object) -> bytes:
    """Give the bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def photograph(width: int = 40, height: int = 30) -> Image.Image:
    """Give an image whose four corners differ: red, green, blue and white."""
    pixels = np.full((height, width, 3), 128, dtype=np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    pixels[height // 2 :, width // 2 :] = (255, 255, 255)
    return Image.fromarray(pixels)


def kind_of(source: Path | bytes, **options: int) -> FailureKind:
    """Give the kind of failure that a source ends in, after checking the sentence."""
    with pytest.raises(ImageError) as caught:
        open_image(source, **options)
    assert str(caught.value) == f"{caught.value.kind}: {caught.value.message}"
    assert caught.value.message.endswith(".")
    assert "\n" not in caught.value.message
    return caught.value.kind


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_formats(format_name: str) -> None:
    """Each supported format opens as RGB of the same size, from bytes."""
    image = open_image(encoded(photograph(), format_name))
    assert (image.mode, image.size) == ("RGB", (40, 30))


def test_path_and_bytes_agree(tmp_path: Path) -> None:
    """A file and its bytes give the same pixels."""
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(photograph(), "JPEG"))
    assert open_image(path).tobytes() == open_image(path.read_bytes()).tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", ["PNG", "TIFF", "WEBP"])
def test_orientation(orientation: int, format_name: str) -> None:
    """EXIF orientation is applied exactly once, whatever the format does by itself."""
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    upright = photograph()
    stored = upright if undo is None else upright.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, object] = {"lossless": True} if format_name == "WEBP" else {}
    opened = open_image(encoded(stored, format_name, exif=exif, **options))
    assert opened.size == upright.size
    assert opened.tobytes() == upright.tobytes()


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_large_jpeg_may_be_decoded_smaller_and_has_its_own_size(orientation: int) -> None:
    """No side is shorter than asked for, the picture is the same, upright, and width and height are those of the file."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(photograph(1600, 1200), "JPEG", exif=exif)
    whole, smaller = open_measured(content), open_measured(content, least=290)
    assert (smaller.width, smaller.height) == whole.image.size == (whole.width, whole.height)
    assert smaller.image.size == (whole.width // 4, whole.height // 4)  # an eighth would have 200 and 150 pixels
    difference = np.asarray(whole.image.resize(smaller.image.size), float) - np.asarray(smaller.image, float)
    assert np.abs(difference).mean() < 2


@pytest.mark.parametrize(("format_name", "least"), [("PNG", 20), ("TIFF", 20), ("JPEG", 1300), ("JPEG", 601)])
def test_what_cannot_be_decoded_smaller_is_decoded_whole(format_name: str, least: int) -> None:
    """Other formats, and photographs whose half is smaller than asked for, are the same pixels with and without."""
    content = encoded(photograph(1600, 1200), format_name)
    opened = open_measured(content, least=least)
    assert opened.image.tobytes() == open_image(content).tobytes()
    assert (opened.width, opened.height) == opened.image.size


def test_a_bomb_is_refused_before_it_is_decoded_smaller() -> None:
    """The limit is of the file's size, whatever of it would be decoded."""
    with pytest.raises(ImageError, match="--max-pixels"):
        open_measured(encoded(photograph(1600, 1200), "JPEG"), max_pixels=1_000_000, least=100)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")
def test_damaged_exif_is_ignored() -> None:
    """Damaged metadata does not lose a good picture."""
    data = encoded(photograph(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert open_image(data).size == (40, 30)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK"])
def test_modes(mode: str) -> None:
    """Every mode of Pillow becomes RGB and keeps its rough brightness."""
    source = photograph().convert(mode)
    data = encoded(source, "TIFF" if mode in {"CMYK", "LA"} else "PNG")
    opened = open_image(data)
    assert opened.mode == "RGB"
    expected = np.asarray(source.convert("RGB"), dtype=float).mean()
    assert abs(np.asarray(opened, dtype=float).mean() - expected) < 3


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_laid_on_white(mode: str) -> None:
    """Fully transparent black is white, as a viewer shows it."""
    data = encoded(Image.new(mode, (4, 4), 0), "PNG")
    assert set(open_image(data).tobytes()) == {255}


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "1"])
def test_transparent_colour_is_laid_on_white(mode: str) -> None:
    """One colour declared transparent (palette, grey, RGB) is laid on white; bitmaps too."""
    transparency: object = (0, 0, 0) if mode == "RGB" else 0
    data = encoded(Image.new(mode, (4, 4), 0), "PNG", transparency=transparency)
    assert set(open_image(data).tobytes()) == {255}


def test_palette_with_alpha_per_entry() -> None:
    """A palette whose entries have their own alpha opens without a warning."""
    image = Image.new("P", (4, 4), 1)
    image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    image.putpixel((0, 0), 2)
    opened = open_image(encoded(image, "PNG", transparency=bytes([255, 0, 255])))
    assert opened.getpixel((0, 0)) == (0, 0, 200)
    assert opened.getpixel((1, 1)) == (255, 255, 255)


def test_sixteen_bit_grey_keeps_its_range() -> None:
    """16-bit grey is scaled, not clipped: half of the range is mid grey."""
    pixels = np.full((4, 4), 32768, dtype=np.uint16)
    for data in (encoded(Image.fromarray(pixels), "PNG"), b"P5 4 4 65535\n" + pixels.astype(">u2").tobytes()):
        assert set(open_image(data).tobytes()) <= {127, 128}


def test_wide_integers_and_floats() -> None:
    """32-bit integers and floats are scaled by their range, and NaN is black."""
    integers = np.array([[0, 1_000_000]], dtype=np.int32)
    assert list(open_image(encoded(Image.fromarray(integers), "TIFF")).convert("L").tobytes()) == [0, 255]
    floats = np.array([[0.0, 0.5, 1.0, np.nan]], dtype=np.float32)
    assert list(open_image(encoded(Image.fromarray(floats), "TIFF")).convert("L").tobytes()) == [0, 128, 255, 0]


def test_animation_gives_first_frame() -> None:
    """Of an animated GIF or WebP the first frame counts."""
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    for format_name in ("GIF", "WEBP"):
        opened = open_image(encoded(red, format_name, save_all=True, append_images=[blue]))
        red_value, _, blue_value = opened.resize((1, 1)).tobytes()
        assert red_value > 200
        assert blue_value < 50


@pytest.mark.parametrize("size", [(1, 1), (1, 20000), (20000, 1)])
@pytest.mark.parametrize("resize", list(Resize))
def test_extreme_shapes(size: tuple[int, int], resize: Resize) -> None:
    """One pixel and very long thin images become the square, by stretching and by cropping."""
    opened = open_image(encoded(Image.new("RGB", size, "red"), "PNG"))
    pixels = to_array(opened, Preprocessing(name="x", size=32, resize=resize, crop_fraction=0.875, mean=(0, 0, 0), std=(1, 1, 1)))
    assert pixels.shape == (32, 32, 3)
    assert pixels[..., 0].min() == 255


def test_bomb_is_refused_before_decoding() -> None:
    """A header that promises too many pixels is too_large, whatever follows; the limit can be changed."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + b"\0\0\0\0IDAT"
    assert kind_of(bomb) == FailureKind.TOO_LARGE
    small = encoded(photograph(), "PNG")
    assert kind_of(small, max_pixels=40 * 30 - 1) == FailureKind.TOO_LARGE
    assert open_image(small, max_pixels=40 * 30).size == (40, 30)


def test_failures_of_content() -> None:
    """Empty, foreign, cut and damaged contents have each their kind."""
    data = encoded(photograph(200, 200), "JPEG")
    assert kind_of(b"") == FailureKind.EMPTY
    assert kind_of(b"<html>Not Found</html>") == FailureKind.NOT_AN_IMAGE
    assert kind_of(data[: len(data) // 2]) == FailureKind.TRUNCATED
    assert kind_of(data[:10]) == FailureKind.TRUNCATED
    assert kind_of(data[:3] + b"not really" * 9) == FailureKind.CORRUPT
    assert kind_of(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") == FailureKind.NOT_AN_IMAGE


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000"])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_any_cut_is_an_image_error(format_name: str) -> None:
    """A file cut at any byte is a picture or an ImageError, never another exception."""
    data = encoded(photograph(16, 16), format_name)
    for length in range(0, len(data), 7):
        try:
            open_image(data[:length])
        except ImageError as error:
            assert error.kind in {FailureKind.EMPTY, FailureKind.NOT_AN_IMAGE, FailureKind.TRUNCATED, FailureKind.CORRUPT}  # noqa: PT017


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "JPEG2000"])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_any_damage_is_an_image_error(format_name: str) -> None:
    """A file with damaged bytes is a picture or an ImageError, never another exception."""
    data = encoded(photograph(16, 16), format_name)
    generator = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(data)
        for position in generator.integers(0, len(data), 4):
            damaged[position] = int(generator.integers(0, 256))
        try:
            open_image(bytes(damaged), max_pixels=1_000_000)
        except ImageError as error:
            assert error.message  # noqa: PT017


def test_a_damaged_tiff_says_nothing_itself(capfd: pytest.CaptureFixture[str]) -> None:
    """What is wrong inside a compressed TIFF is told by the ImageError alone; the library that decodes it keeps quiet."""
    buffer = io.BytesIO()
    photograph(100, 100).save(buffer, "TIFF", compression="tiff_lzw")
    damaged = bytearray(buffer.getvalue())
    damaged[200:240] = b"\xff" * 40
    assert kind_of(bytes(damaged)) == FailureKind.CORRUPT
    assert capfd.readouterr().err == ""


def test_failures_of_files(tmp_path: Path) -> None:
    """Missing, empty, special and unusable paths have each their kind, and none hangs."""
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    assert kind_of(tmp_path / "gone.jpg") == FailureKind.NOT_FOUND
    assert kind_of(tmp_path / "empty.jpg") == FailureKind.EMPTY
    assert kind_of(tmp_path / "folder.jpg") == FailureKind.UNREADABLE
    assert kind_of(tmp_path / "pipe.jpg") == FailureKind.UNREADABLE
    assert kind_of(tmp_path / "loop.jpg") == FailureKind.UNREADABLE
    assert kind_of(tmp_path / "nul\0.jpg") == FailureKind.NOT_FOUND
    assert kind_of(tmp_path / ("x" * 300)) == FailureKind.UNREADABLE


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_permission_denied(tmp_path: Path) -> None:
    """A file without read permission is unreadable."""
    path = tmp_path / "secret.jpg"
    path.write_bytes(encoded(photograph(), "JPEG"))
    path.chmod(0)
    assert kind_of(path) == FailureKind.UNREADABLE


def test_error_while_reading_is_unreadable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An error of the disk while reading is unreadable, not corrupt."""

    def broken(*_: object, **__: object) -> Image.Image:
        raise OSError(5, "Input/output error")

    path = tmp_path / "a.jpg"
    path.write_bytes(b"x")
    monkeypatch.setattr(Image, "open", broken)
    assert kind_of(path) == FailureKind.UNREADABLE


def test_out_of_memory_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that does not fit into memory is too large, and the run goes on."""

    def broken(*_: object, **__: object) -> Image.Image:
        raise MemoryError

    monkeypatch.setattr(Image, "open", broken)
    assert kind_of(b"x") == FailureKind.TOO_LARGE


def test_threads_agree() -> None:
    """Images opened in many threads at once are the same as opened one by one."""
    data = encoded(photograph(300, 200), "JPEG")
    expected = to_array(open_image(data), IMAGENET)
    results: list[bool] = []

    def work() -> None:
        results.extend(bool(np.array_equal(to_array(open_image(data), IMAGENET), expected)) for _ in range(10))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 80


def test_stretch_and_crop_differ_as_named() -> None:
    """Stretching keeps all of the picture, cropping keeps the centre."""
    pixels = np.zeros((10, 30, 3), dtype=np.uint8)
    pixels[:, 10:20] = 255
    image = Image.fromarray(pixels)
    stretched = to_array(image, Preprocessing(name="x", size=8, mean=(0, 0, 0), std=(1, 1, 1)))
    cropped = to_array(image, Preprocessing(name="x", size=8, resize=Resize.CROP, mean=(0, 0, 0), std=(1, 1, 1)))
    assert stretched[0, 0, 0] == 0
    assert cropped.min() > 220  # the filter reaches a little over the edge
    assert cropped.flags.writeable


@pytest.mark.parametrize("interpolation", list(Interpolation))
def test_interpolations(interpolation: Interpolation) -> None:
    """Every filter gives the named size, and a flat image stays flat."""
    preprocessing = Preprocessing(name="x", size=9, interpolation=interpolation, mean=(0, 0, 0), std=(1, 1, 1))
    assert set(to_array(Image.new("RGB", (50, 20), (7, 7, 7)), preprocessing).flatten()) == {7}


@pytest.mark.parametrize("preprocessing", [IMAGENET, INCEPTION])
def test_preprocessing_round_trip(preprocessing: Preprocessing) -> None:
    """What to_dict writes, from_dict reads."""
    assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing


@pytest.mark.parametrize(
    "change",
    [
        {"size": 0},
        {"size": True},
        {"size": "224"},
        {"name": 3},
        {"resize": "squash"},
        {"interpolation": 2},
        {"crop_fraction": 1.5},
        {"crop_fraction": "1"},
        {"mean": [0.5, 0.5]},
        {"mean": [0.5, 0.5, "x"]},
        {"std": [0.5, 0.5, 0]},
        {"std": [0.5, 0.5, float("nan")]},
        {"surplus": 1},
    ],
)
def test_preprocessing_is_strict(change: dict[str, object]) -> None:
    """Unknown keys, wrong types and impossible values are refused."""
    with pytest.raises(ValueError, match=r"."):
        Preprocessing.from_dict(IMAGENET.to_dict() | change)


def test_suffixes_are_lower_case() -> None:
    """Suffixes are compared in lower case, with their dot."""
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in SUPPORTED_SUFFIXES)
