"""Photographs by id: folders and parquet in every shape, and no id that leads out of the folder."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capt.errors import InputError
from capt.photographs import find_photographs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a folder with photographs, one in a folder below, and one outside."""
    inside = tmp_path / "photos"
    (inside / "deep").mkdir(parents=True)
    for path in (inside / "a.jpg", inside / "deep" / "b.png", inside / "c.JPG", tmp_path / "secret.jpg", inside / "note.txt"):
        path.write_bytes(path.name.encode())
    return inside


def test_ids_are_paths_with_or_without_their_ending(folder: Path) -> None:
    """An id is a path under the folder; without its ending, or without its folders, it is found when it means one file."""
    found = find_photographs(folder, ["a.jpg", "deep/b.png", "deep/b", "b", "c.jpg", "none.jpg"])
    assert {name: Path(str(path)).name for name, path in found.items()} == {
        "a.jpg": "a.jpg",
        "deep/b.png": "b.png",
        "deep/b": "b.png",
        "b": "b.png",
        "c.jpg": "c.JPG",
    }


@pytest.mark.parametrize("image_id", ["../secret.jpg", "deep/../../secret.jpg", "/etc/passwd", "a\0.jpg", "../secret", ""])
def test_no_id_leads_out_of_the_folder(folder: Path, image_id: str) -> None:
    """Ids are somebody else's text; what lies elsewhere is never shown."""
    assert find_photographs(folder, [image_id]) == {}


def test_no_path_in_a_manifest_leads_out_of_its_folder(folder: Path) -> None:
    """What a manifest names elsewhere is not shown, whether by `..`, by an absolute path or by a link."""
    (folder / "link.jpg").symlink_to("../secret.jpg")
    names = ["a.jpg", "../secret.jpg", str(folder.parent / "secret.jpg"), "link.jpg"]
    pq.write_table(pa.table({"image_id": list("abcd"), "image_path": names}), folder / "m.parquet")
    assert find_photographs(folder / "m.parquet", "abcd") == {"a": folder / "a.jpg"}


def test_a_name_that_means_two_files_means_none(folder: Path) -> None:
    """Rather no photograph than a wrong one."""
    (folder / "a.png").write_bytes(b"other")
    assert find_photographs(folder, ["a"]) == {}


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (pa.table({"image": [{"bytes": b"1", "path": "a.jpg"}, {"bytes": b"2", "path": "b.jpg"}]}), b"2"),
        (pa.table({"image_id": ["x", "b.jpg"], "image": [{"bytes": b"1", "path": "a"}, {"bytes": b"2", "path": "z"}]}), b"2"),
        (pa.table({"key": ["a", "b.jpg"], "jpg": [b"1", b"2"]}), b"2"),
        (pa.table({"image_id": [7, 8], "image": [b"1", b"2"]}), None),
        (pa.table({"image_path": ["deep/a.jpg", "deep/b.jpg"], "image_id": ["a", "b.jpg"]}), Path("deep/b.jpg")),
        (pa.table({"path": ["a.jpg", "b.jpg"]}), Path("b.jpg")),
        (pa.table({"image_id": ["b.jpg"], "image": [{"bytes": None, "path": "p.jpg"}]}), Path("p.jpg")),
        (
            pa.table(
                {"image_id": ["b.jpg"], "image": pa.array([None], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}
            ),
            None,
        ),
    ],
)
def test_parquet_gives_bytes_or_paths(tmp_path: Path, table: pa.Table, expected: bytes | Path | None) -> None:
    """Structs, bytes and paths are found by the same id columns as when they were captioned; row groups do not matter."""
    pq.write_table(table, tmp_path / "m.parquet", row_group_size=1)
    wanted = tmp_path / expected if isinstance(expected, Path) else expected
    for source in (tmp_path, tmp_path / "m.parquet", tmp_path / "*.parquet"):
        assert find_photographs(source, ["b.jpg"]).get("b.jpg") == wanted


def test_a_single_photograph_is_a_source(folder: Path) -> None:
    """One file is found by its name."""
    assert find_photographs(folder / "a.jpg", ["a.jpg", "b.jpg"]) == {"a.jpg": folder / "a.jpg"}


def test_what_holds_no_photographs_is_refused(tmp_path: Path) -> None:
    """A missing source, an empty folder, other parquet and other files each have a sentence."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("x")
    pq.write_table(pa.table({"n": [1]}), tmp_path / "n.parquet")
    for source, said in (
        ("none", "no photographs at"),
        ("empty", "holds no photographs"),
        ("text.txt", "cannot be read as parquet"),
        ("n.parquet", "no column of photographs, only n"),
    ):
        with pytest.raises(InputError, match=said):
            find_photographs(tmp_path / source, ["a.jpg"])
