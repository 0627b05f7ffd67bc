"""Captioned images for training, from parquet manifests and from folders with references."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from capt.errors import InputError
from jobs.training.dataset import CaptionedImages, dataset_splits, read_dataset


def _jpeg(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(file, "JPEG")
    return file.getvalue()


def _rows(count: int, split: str = "train", first: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "image": {"bytes": _jpeg(10 * number), "path": f"{number}.jpg"},
            "image_id": f"{number}.jpg",
            "caption": [f"caption {k} of {number}" for k in range(2)],
            "split": split,
        }
        for number in range(first, first + count)
    ]


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
    return path


def _shades(dataset: CaptionedImages, start: int = 0) -> list[int]:
    found = []
    for image in dataset.read(start):
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            found.append(round(int(opened.convert("L").getpixel((4, 4))) / 10))  # type: ignore[arg-type] # one channel
    return found


def test_a_manifest_gives_the_images_of_a_split(tmp_path: Path) -> None:
    """Rows of other splits are left out; ids, captions and images stay together, over files and row groups, in order."""
    _write(tmp_path / "a.parquet", _rows(5) + _rows(2, "dev", 5))
    _write(tmp_path / "b.parquet", _rows(4, "train", 7))
    dataset = read_dataset(tmp_path, split="train")
    numbers = [0, 1, 2, 3, 4, 7, 8, 9, 10]
    assert dataset.image_ids == tuple(f"{number}.jpg" for number in numbers)
    assert dataset.captions[5] == ("caption 0 of 7", "caption 1 of 7")
    assert _shades(dataset) == numbers
    assert _shades(dataset, 6) == numbers[6:]
    assert len(read_dataset(tmp_path, split="dev")) == 2
    assert dataset_splits(tmp_path) == ["dev", "train"]


def test_a_manifest_without_splits_is_taken_whole(tmp_path: Path) -> None:
    """No split column means that every row is wanted; a caption may be a single text; bytes may be named jpg."""
    rows = [{"jpg": _jpeg(10 * n), "key": n, "caption": f"caption of {n}"} for n in range(3)]
    dataset = read_dataset(_write(tmp_path / "all.parquet", rows), split="train")
    assert dataset.image_ids == ("0", "1", "2")
    assert dataset.captions == (("caption of 0",), ("caption of 1",), ("caption of 2",))
    assert _shades(dataset) == [0, 1, 2]
    assert dataset_splits(tmp_path / "all.parquet") == []


def test_a_manifest_may_name_files(tmp_path: Path) -> None:
    """Paths are relative to the manifest's folder."""
    (tmp_path / "images").mkdir()
    for n in range(2):
        (tmp_path / "images" / f"{n}.jpg").write_bytes(_jpeg(10 * n))
    rows = [{"image_id": str(n), "image_path": f"images/{n}.jpg", "caption": ["x"], "split": "train"} for n in range(2)]
    assert _shades(read_dataset(_write(tmp_path / "m.parquet", rows), split="train")) == [0, 1]


@pytest.mark.parametrize("name", ["../secret.jpg", "{tmp}/secret.jpg", "link.jpg", "file://{tmp}/secret.jpg"])
def test_a_manifest_reads_nothing_outside(tmp_path: Path, name: str) -> None:
    """A path that leads out of the manifest's folder is refused, with the option that allows it, before anything is read."""
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.jpg").write_bytes(_jpeg(20))
    (tmp_path / "data" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (tmp_path / "data" / "good.jpg").write_bytes(_jpeg(10))
    paths = ["good.jpg", name.format(tmp=tmp_path)]
    rows = [{"image_id": str(n), "image_path": path, "caption": ["x"], "split": "train"} for n, path in enumerate(paths)]
    manifest = _write(tmp_path / "data" / "m.parquet", rows)
    with pytest.raises(InputError, match=r"1 of 2 images lie outside .*; .*--allow-outside"):
        read_dataset(manifest, split="train")
    if not name.startswith("file:"):  # training opens no URIs
        assert _shades(read_dataset(manifest, split="train", allow_outside=True)) == [1, 2]


def test_a_reference_names_nothing_outside(tmp_path: Path) -> None:
    """An image id that leads out of the folder of images finds nothing there, as one that is not there."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "secret.jpg").write_bytes(_jpeg(20))
    (tmp_path / "references.csv").write_text("image_id,caption\n../secret.jpg,x\n", encoding="utf-8")
    (tmp_path / "list.txt").write_text("../secret.jpg\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"1 of 1 images .* are not in"):
        read_dataset(tmp_path / "photos", split="train", references=tmp_path / "references.csv", images=tmp_path / "list.txt")


def test_a_row_without_an_image_is_empty_bytes(tmp_path: Path) -> None:
    """A null image or null bytes are left to whoever opens images."""
    rows = _rows(3)
    rows[0]["image"] = None
    rows[1]["image"] = {"bytes": None, "path": "gone.jpg"}
    assert list(read_dataset(_write(tmp_path / "m.parquet", rows), split="train").read())[:2] == [b"", b""]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder of four images beside a token file of their captions."""
    images = tmp_path / "images"
    images.mkdir()
    lines = []
    for n in range(4):
        (images / f"{n}.jpg").write_bytes(_jpeg(10 * n))
        lines += [f"{n}.jpg#{k}\tcaption {k} of {n} ." for k in range(2)]
    (tmp_path / "captions.token").write_text("\n".join(lines) + "\n")
    (tmp_path / "train.txt").write_text("2.jpg\n0.jpg\n")
    return tmp_path


def test_a_folder_with_references_and_a_list_gives_the_images_listed(folder: Path) -> None:
    """Flickr30k's form: images in a folder, captions in a token file, the split as a list of images."""
    dataset = read_dataset(folder / "images", split="train", references=folder / "captions.token", images=folder / "train.txt")
    assert set(dataset.image_ids) == {"0.jpg", "2.jpg"}
    assert _shades(dataset) == [int(image_id.split(".")[0]) for image_id in dataset.image_ids]
    assert all(len(captions) == 2 for captions in dataset.captions)


def test_images_that_are_missing_are_named(folder: Path) -> None:
    """A reference without its image stops before any work, with the number and an example."""
    (folder / "images" / "2.jpg").unlink()
    with pytest.raises(InputError, match=r"1 of 2 images .*2\.jpg"):
        read_dataset(folder / "images", split="train", references=folder / "captions.token", images=folder / "train.txt")


def test_a_folder_of_images_needs_references(folder: Path) -> None:
    """Without captions there is nothing to learn from."""
    with pytest.raises(InputError, match="--references"):
        read_dataset(folder / "images", split="train")


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """The error names the path."""
    with pytest.raises(InputError, match="nothing at"):
        read_dataset(tmp_path / "nowhere", split="train")


def test_a_split_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    """The user learns which splits the manifest has."""
    _write(tmp_path / "a.parquet", _rows(2, "learn"))
    with pytest.raises(InputError, match="splits there: learn"):
        read_dataset(tmp_path, split="train")


@pytest.mark.parametrize(("dropped", "said"), [("image", "images"), ("caption", "captions"), ("image_id", "an id")])
def test_a_manifest_without_a_column_names_those_it_has(tmp_path: Path, dropped: str, said: str) -> None:
    """Which kind of column is missing, what it may be called, and what is there instead."""
    rows = [{name: value for name, value in row.items() if name != dropped} for row in _rows(2)]
    with pytest.raises(InputError, match=f"no column with {said}.*it has.*split"):
        read_dataset(_write(tmp_path / "m.parquet", rows), split="train")


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    """A damaged manifest is named."""
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(InputError, match=r"broken\.parquet"):
        read_dataset(tmp_path, split="train")


def test_doubled_ids_are_refused(tmp_path: Path) -> None:
    """An image id is one image."""
    _write(tmp_path / "a.parquet", _rows(2))
    _write(tmp_path / "b.parquet", _rows(3))
    with pytest.raises(InputError, match="2 image ids"):
        read_dataset(tmp_path, split="train")


def test_identity_follows_the_data(tmp_path: Path) -> None:
    """The name of cached features changes with the images and not with the captions' wording or the folder's name."""
    path = _write(tmp_path / "a.parquet", _rows(4))
    whole = read_dataset(path, split="train")
    assert read_dataset(path, split="train").identity == whole.identity
    assert whole.subset(3).identity != whole.identity
    assert whole.subset(3).image_ids == whole.image_ids[:3]
    assert whole.subset(9) is whole
    _write(path, _rows(4, first=1))
    assert read_dataset(path, split="train").identity != whole.identity
