"""A zoo of rotten images: real photographs cut, bent and mislabelled at every kind of place, the same ones every time."""

import io
import itertools
import os
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageCms, features

_SIZE = (96, 72)
_EXIF_ORIENTATION = 0x0112
_START_OF_SCAN, _START, _END = 0xDA, 0xD8, 0xD9
_ABSURD = 0x7FFFFFF0
_SAVED_AS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpg": ("JPEG", {"quality": 80}),
    "progressive.jpg": ("JPEG", {"quality": 80, "progressive": True}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {"quality": 60}),
    "gif": ("GIF", {}),
    "tif": ("TIFF", {}),
    "lzw.tif": ("TIFF", {"compression": "tiff_lzw"}),
    "bmp": ("BMP", {}),
    "ppm": ("PPM", {}),
    "jp2": ("JPEG2000", {}),
    "avif": ("AVIF", {}),
}
_NEEDS = {"webp": "webp", "jp2": "jpg_2000", "avif": "avif"}
Animal = tuple[str, bytes]


def valid_files(photo: Path) -> dict[str, bytes]:
    """Save one photograph, made small, in every format, with orientation and profile where the format has them.

    Args:
        photo: A real one.

    Returns:
        Contents by ending.
    """
    with Image.open(photo) as image:
        small = image.convert("RGB").resize(_SIZE)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[_EXIF_ORIENTATION] = 6
    files = {}
    for ending, (name, options) in _SAVED_AS.items():
        if (feature := _NEEDS.get(ending)) and not features.check(feature):
            continue
        more = {"exif": exif, "icc_profile": profile} if name in {"JPEG", "PNG", "WEBP"} else {}
        files[ending] = _saved(small, name, **options, **more)
    return files


def _saved(image: Image.Image, name: str, **options: Any) -> bytes:  # noqa: ANN401  Pillow takes many
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def build_zoo(photos: Path, folder: Path, *, seed: int = 0) -> set[str]:
    """Write the zoo.

    Args:
        photos: Folder of real photographs.
        folder: Made.
        seed: Of what is drawn.

    Returns:
        The image ids that captioning the folder must give, one row each.
    """
    folder.mkdir()
    source = random.Random(seed)  # noqa: S311  bytes, no secrets
    animals = dict(_animals(sorted(photos.glob("*.jpg")), source))
    for name, content in animals.items():
        (folder / name).write_bytes(content)
    return {*animals, *_not_even_files(folder)}


def _animals(photos: list[Path], source: random.Random) -> Iterator[Animal]:
    files = valid_files(photos[0])
    for cut in _boundaries_of_jpeg(photos[1].read_bytes()):
        yield f"cut-real-{cut:07d}.jpg", photos[1].read_bytes()[:cut]
    for ending, content in files.items():
        yield f"whole-{ending.replace('.', '-')}.{ending.split('.')[-1]}", content
        for name, bent in _bent(ending, content, source):
            yield f"{ending.replace('.', '-')}-{name}.{ending.split('.')[-1]}", bent
    yield from _wrong_endings(files)
    yield from _bombs(files)
    yield from _odd_but_valid(photos[2])
    yield from _broken_metadata(photos[3])


def _bent(ending: str, content: bytes, source: random.Random) -> Iterator[Animal]:
    """Cut and change one valid file: at the parts of its format, in its header, anywhere."""
    boundaries = _BOUNDARIES.get(ending.rsplit(".", maxsplit=1)[-1], _sixths)(content)
    for number, place in enumerate(boundaries):
        yield f"cut-{number}", content[:place]
        after = boundaries[number + 1] if number + 1 < len(boundaries) else len(content)
        yield f"cut-in-{number}", content[: (place + after) // 2]
        yield f"without-{number}", content[:place] + content[after:]
    for number in range(6):
        bent = bytearray(content)
        bent[source.randrange(min(64, len(bent)))] ^= 1 << source.randrange(8)
        yield f"header-bit-{number}", bytes(bent)
    for number in range(4):
        bent = bytearray(content)
        for _ in range(20):
            bent[source.randrange(len(bent))] = source.randrange(256)
        yield f"bytes-{number}", bytes(bent)
    yield "doubled", content + content
    yield "zeros-at-the-end", content[: len(content) // 2] + bytes(len(content) // 2)
    yield "tail-only", content[len(content) // 3 :]


def _sixths(content: bytes) -> list[int]:
    return [len(content) * part // 6 for part in range(6)]


def _boundaries_of_jpeg(content: bytes) -> list[int]:
    """Find where each marker segment begins, and two places inside the scan."""
    places, place = [2], 2
    while content[place] == 0xFF and content[place + 1] not in {_START_OF_SCAN, _END}:
        place += 2 + int.from_bytes(content[place + 2 : place + 4])
        places.append(place)
    rest = len(content) - place
    return [*places, place + 14, place + rest // 2, len(content) - 2]


def _boundaries_of_png(content: bytes) -> list[int]:
    places, place = [], 8
    while place < len(content):
        places.append(place)
        place += 12 + int.from_bytes(content[place : place + 4])
    return places


def _boundaries_of_webp(content: bytes) -> list[int]:
    places, place = [4], 12
    while place < len(content):
        places.append(place)
        size = int.from_bytes(content[place + 4 : place + 8], "little")
        place += 8 + size + size % 2
    return places


def _boundaries_of_tiff(content: bytes) -> list[int]:
    """Find the directory's entries; which end of the file they are at is the writer's choice."""
    directory = int.from_bytes(content[4:8], "little")
    entries = int.from_bytes(content[directory : directory + 2], "little")
    return sorted({4, 8, len(content) // 2, *(directory + 2 + 12 * number for number in range(entries + 1))})


def _boundaries_of_gif(content: bytes) -> list[int]:
    palette = 3 << ((content[10] & 7) + 1)
    return [6, 10, 13, 13 + palette // 2, 13 + palette, 13 + palette + 10, 13 + palette + 12, len(content) // 2, len(content) - 1]


def _boundaries_of_bmp(content: bytes) -> list[int]:
    return [2, 10, 14, 18, 22, 26, 28, 30, 34, 54, len(content) // 2]


_BOUNDARIES = {
    "jpg": _boundaries_of_jpeg,
    "png": _boundaries_of_png,
    "webp": _boundaries_of_webp,
    "tif": _boundaries_of_tiff,
    "gif": _boundaries_of_gif,
    "bmp": _boundaries_of_bmp,
}


def _wrong_endings(files: dict[str, bytes]) -> Iterator[Animal]:
    yield "png-named.jpg", files["png"]
    yield "jpg-named.png", files["jpg"]
    yield "gif-named.webp", files["gif"]
    yield "text-named.jpg", b"This is no photograph.\n"
    yield "html-named.png", b"<!doctype html><title>404 Not Found</title>"
    yield "svg-named.png", b'<svg xmlns="http://www.w3.org/2000/svg"/>'
    yield "postscript-named.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\nshowpage\n"
    yield "pdf-named.jpg", b"%PDF-1.4\n%%EOF\n"
    yield "zip-named.jpg", b"PK\x05\x06" + bytes(18)
    yield "zeros.jpg", bytes(4096)
    yield "newline.png", b"\n"
    yield "empty.jpg", b""
    yield "signature-alone.png", files["png"][:8]
    yield "marker-alone.jpg", b"\xff\xd8\xff"
    yield "riff-alone.webp", b"RIFF\xff\xff\xff\x7fWEBP"
    yield "web-page-before.jpg", b"HTTP/1.1 200 OK\r\n\r\n" + files["jpg"]


def _bombs(files: dict[str, bytes]) -> Iterator[Animal]:
    """Declare dimensions that no memory holds, or none at all."""
    for name, (width, height) in {
        "huge": (_ABSURD, _ABSURD),
        "wide": (_ABSURD, 1),
        "tall": (1, _ABSURD),
        "limit": (20_000, 20_000),
        "flat": (0, 7),
        "nothing": (0, 0),
    }.items():
        yield f"bomb-{name}.png", png(width, height, b"")
        yield f"bomb-{name}.bmp", files["bmp"][:18] + struct.pack("<ii", width, height) + files["bmp"][26:]
        yield f"bomb-{name}.tif", _tiff_of(files["tif"], width, height)
        yield f"bomb-{name}.gif", files["gif"][:6] + struct.pack("<HH", width & 0xFFFF, height & 0xFFFF) + files["gif"][10:]
        yield f"bomb-{name}.ppm", b"P6 %d %d 255\n" % (width, height)
        yield f"bomb-{name}.jpg", _jpeg_of(files["jpg"], width & 0xFFFF, height & 0xFFFF)
    yield "bomb-digits.ppm", b"P6 " + b"9" * 5000 + b" 1 255\n"
    yield "bomb-text-chunk.png", _with_chunk(files["png"], b"zTXt", b"Comment\0\0" + zlib.compress(bytes(20_000_000), 9))
    yield "bomb-profile.png", _with_chunk(_without_profile(files["png"]), b"iCCP", b"x\0\0" + zlib.compress(bytes(20_000_000), 9))


def png(width: int, height: int, data: bytes) -> bytes:
    """Make a grey PNG that declares a size, whatever its data are."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(data)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _with_chunk(content: bytes, kind: bytes, data: bytes) -> bytes:
    after_header = 8 + 25
    return content[:after_header] + _chunk(kind, data) + content[after_header:]


def _without_profile(content: bytes) -> bytes:
    places = [*_boundaries_of_png(content), len(content)]
    chunks = [content[start:stop] for start, stop in itertools.pairwise(places)]
    return content[:8] + b"".join(chunk for chunk in chunks if chunk[4:8] != b"iCCP")


def _tiff_of(content: bytes, width: int, height: int) -> bytes:
    bent = bytearray(content)
    directory = int.from_bytes(content[4:8], "little")
    for place, size in ((directory + 2, width), (directory + 14, height)):  # the first two entries
        bent[place + 2 : place + 12] = struct.pack("<HII", 4, 1, size)
    return bytes(bent)


def _jpeg_of(content: bytes, width: int, height: int) -> bytes:
    frame = content.index(b"\xff\xc0")
    return content[: frame + 5] + struct.pack(">HH", height, width) + content[frame + 9 :]


def _odd_but_valid(photo: Path) -> Iterator[Animal]:
    """Give images that are unusual and whole: each must have a caption."""
    with Image.open(photo) as image:
        small = image.convert("RGB").resize(_SIZE)
    palette = small.quantize(16)
    palette.info["transparency"] = 3
    yield "valid-one-pixel.png", _saved(small.resize((1, 1)), "PNG")
    yield "valid-line.png", _saved(small.resize((1, 5000)), "PNG")
    yield "valid-row.gif", _saved(small.resize((5000, 1)), "GIF")
    yield "valid-cmyk.jpg", _saved(small.convert("CMYK"), "JPEG")
    yield "valid-cmyk.tif", _saved(small.convert("CMYK"), "TIFF")
    yield "valid-lab.tif", _saved(small.convert("LAB"), "TIFF")
    yield "valid-16-bit.png", _saved(small.convert("I;16"), "PNG")
    yield "valid-16-bit.tif", _saved(small.convert("I;16"), "TIFF")
    yield "valid-float.tif", _saved(small.convert("F"), "TIFF")
    yield "valid-one-bit.png", _saved(small.convert("1"), "PNG")
    yield "valid-grey-alpha.png", _saved(small.convert("LA"), "PNG")
    yield "valid-alpha.webp", _saved(small.convert("RGBA"), "WEBP")
    yield "valid-palette.png", _saved(palette, "PNG", transparency=3)
    yield "valid-palette-alpha.png", _saved(palette, "PNG", transparency=bytes(range(0, 160, 10)))
    frames = [small.resize((8, 8)).rotate(number).quantize(8) for number in range(1000)]
    yield "valid-many-frames.gif", _saved(frames[0], "GIF", save_all=True, append_images=frames[1:], loop=0)
    turned = [small.rotate(number) for number in range(5)]
    yield "valid-animation.webp", _saved(turned[0], "WEBP", save_all=True, append_images=turned[1:], loop=0)
    yield "valid-animation.png", _saved(turned[0], "PNG", save_all=True, append_images=turned[1:])
    yield "valid-pages.tif", _saved(turned[0], "TIFF", save_all=True, append_images=turned[1:])


def _broken_metadata(photo: Path) -> Iterator[Animal]:
    """Give good pictures whose metadata are not: each must have a caption."""
    with Image.open(photo) as image:
        small = image.convert("RGB").resize(_SIZE)
    exif = Image.Exif()
    for number, orientation in enumerate((0, 9, 255, 65535)):
        exif[_EXIF_ORIENTATION] = orientation
        yield f"valid-orientation-{number}.jpg", _saved(small, "JPEG", exif=exif)
    exif[_EXIF_ORIENTATION] = 6
    whole = exif.tobytes()
    for number, data in enumerate(
        (whole[:9], whole[:14], whole[:-3], b"Exif\0\0" + bytes(range(256)), b"Exif\0\0MM\0*\xff\xff\xff\xff")
    ):
        yield f"valid-exif-{number}.jpg", _saved(small, "JPEG", exif=data)
        yield f"valid-exif-{number}.webp", _saved(small, "WEBP", exif=data)
    for number, profile in enumerate((b"no profile", bytes(128), b"\xff" * 3000)):
        yield f"valid-profile-{number}.jpg", _saved(small, "JPEG", icc_profile=profile)
        yield f"valid-profile-{number}.png", _saved(small, "PNG", icc_profile=profile)


def _not_even_files(folder: Path) -> Iterator[str]:
    """Make what only looks like an image in a listing."""
    os.mkfifo(folder / "pipe.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "nowhere.jpg").symlink_to("not-there")
    (folder / "device.jpg").symlink_to("/dev/zero")
    (folder / "secret.jpg").write_bytes((folder / "whole-jpg.jpg").read_bytes())
    (folder / "secret.jpg").chmod(0)
    (folder / "folder.jpg").mkdir()
    (folder / "folder.jpg" / "inside.jpg").write_bytes(b"")
    (folder / "folder.jpg" / "itself").symlink_to("..")
    (folder / "empty-folder.png").mkdir()
    return iter(["pipe.jpg", "loop.jpg", "nowhere.jpg", "device.jpg", "secret.jpg", "folder.jpg/inside.jpg"])
