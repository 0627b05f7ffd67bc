"""Tests of jobs.tars: WebDataset tar files as a source."""

import io
import tarfile
from pathlib import Path

import pytest

from capt.captions import read_captions
from capt.errors import InputError
from capt.files import write_whole
from capt.remote import locate
from jobs.reader import open_source
from jobs.source import Item, SourceOptions
from tests.running import Started


def make_tar(path: Path, members: dict[str, bytes], kind: int = tarfile.PAX_FORMAT) -> Path:
    """Write a tar file as img2dataset does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def read(source: str | Path, rows: list[int] | None = None, size: int = 3) -> tuple[list[Item], list[dict[str, object]]]:
    """Read a source, or some of its rows, in batches."""
    opened = open_source(SourceOptions(source=str(source)))
    items, beside = [], []
    for batch, table in opened.batches(list(range(opened.rows)) if rows is None else rows, size):
        items += batch
        beside += table.to_pylist()
    return items, beside


def pair(number: int) -> dict[str, bytes]:
    """Give the members of one key."""
    key = f"{number:05d}"
    return {f"{key}.jpg": f"image {number}".encode() * 500, f"{key}.txt": f"text {number}".encode(), f"{key}.json": b"{}"}


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_keys_and_what_is_beside_them(tmp_path: Path, kind: int) -> None:
    """A key is the path up to the first dot; its image is the item, text and JSON travel along, other members are left."""
    long = "folder/" + "n" * (120 if kind != tarfile.USTAR_FORMAT else 60)
    members = (
        {"a.b.JPEG": b"no: its ending is b.jpeg"} | pair(1) | {f"{long}.cls": b"7", f"{long}.png": b"other", "z.json": b"{}"}
    )
    items, beside = read(make_tar(tmp_path / "x.tar", members, kind))
    assert [(item.image_id, item.image) for item in items] == [("00001", b"image 1" * 500), (long, b"other")]
    assert beside == [{"txt": "text 1", "json": "{}"}, {"txt": None, "json": None}]


def test_any_rows_of_many_files(tmp_path: Path) -> None:
    """Rows anywhere are read, in several files, though neighbours are read together and others lie far apart."""
    for file in range(3):
        members = dict(part for number in range(10) for part in pair(10 * file + number).items())
        members |= {f"big{file}.bin": bytes(3 << 20)} | pair(100 + file)
        make_tar(tmp_path / f"{file:05d}.tar", members)
    everything, _ = read(tmp_path)
    assert len(everything) == 33
    for rows in ([0, 9, 10, 11, 32], [5], list(range(4, 30))):
        items, beside = read(f"{tmp_path}/{{00000..00002}}.tar", rows, size=4)
        assert items == [everything[row] for row in rows]
        assert [each["txt"] for each in beside] == [f"text {int(item.image_id)}" for item in items]


def test_a_table_beside_the_tar_files_is_no_manifest(tmp_path: Path, photos: Path, start: Started) -> None:
    """A folder that img2dataset wrote is captioned from its tar files; the table is that of the photographs themselves."""
    paths = sorted(photos.iterdir())
    make_tar(tmp_path / "in/00000.tar", {path.name: path.read_bytes() for path in paths[:5]})
    make_tar(tmp_path / "in/00001.tar", {path.name: path.read_bytes() for path in paths[5:]} | {"bad.jpg": b"rotten"})
    (tmp_path / "in/00000.parquet").write_bytes(b"is not even looked at")
    assert start(photos, "--output", tmp_path / "photos").code == 0
    assert start(tmp_path / "in", "--output", tmp_path / "tars").code == 1
    mine, theirs = (read_captions(tmp_path / name).to_pylist() for name in ("tars", "photos"))
    assert [row["image_id"] for row in mine] == [path.stem for path in paths] + ["bad"]
    assert mine[-1]["error"].startswith("not_an_image")
    captions = {Path(row["image_id"]).stem: (row["caption"], row["log_prob"]) for row in theirs}
    assert {row["image_id"]: (row["caption"], pytest.approx(row["log_prob"], abs=1e-4)) for row in mine[:-1]} == captions


def test_out_of_an_object_store(tmp_path: Path, s3: str) -> None:
    """By URI the same images come, in one pass and then by neighbours."""
    members = dict(part for number in range(20) for part in pair(number).items())
    path = make_tar(tmp_path / "a.tar", members)
    write_whole(locate(s3) / "a.tar", path.read_bytes())
    assert read(f"{s3}/a.tar") == read(path)
    assert read(f"{s3}/*.tar", [3, 7, 19]) == read(path, [3, 7, 19])


def test_refusals(tmp_path: Path) -> None:
    """What cannot be read is refused in one sentence before work."""
    whole = make_tar(tmp_path / "whole.tar", pair(1) | pair(2)).read_bytes()
    (tmp_path / "short.tar").write_bytes(whole[:5000])
    (tmp_path / "text.tar").write_text("words" * 200)
    (tmp_path / "empty.tar").write_bytes(b"")
    make_tar(tmp_path / "none.tar", {"readme.txt": b"x"})
    make_tar(tmp_path / "double.tar", {"a.jpg": b"1", "b.jpg": b"2"} | {"./a.jpg": b"3"})
    sentences = {
        "short": "short.tar cannot be read",
        "text": "text.tar cannot be read",
        "empty": "empty.tar cannot be read",
        "none": "none.tar holds no images",
        "double": "1 image id is doubled: a",
    }
    for name, sentence in sentences.items():
        with pytest.raises(InputError, match=sentence):
            read(tmp_path / f"{name}.tar")
    with pytest.raises(InputError, match="--split chooses rows of a parquet manifest"):
        open_source(SourceOptions(source=str(tmp_path / "whole.tar"), split="test"))
