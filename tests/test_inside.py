"""Tests of capt.inside: what stays inside a folder, and every way out of it that a table of others can name."""

import os
from pathlib import Path

import pytest

from capt.inside import goes_down, lies_inside


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a folder with links of every kind, beside a file that is nobody's business."""
    inside = tmp_path / "photos"
    (inside / "deep").mkdir(parents=True)
    (inside / "odd:").mkdir()
    (tmp_path / "photos-secret").mkdir()
    for name in ("photos/a.jpg", "photos/deep/b.jpg", "photos/odd:/c.jpg", "photos-secret/a.jpg", "secret.jpg"):
        (tmp_path / name).write_bytes(b"x")
    (inside / "good.jpg").symlink_to("deep/b.jpg")
    (inside / "good-folder").symlink_to("deep")
    (inside / "bad.jpg").symlink_to("../secret.jpg")
    (inside / "bad-absolute.jpg").symlink_to(tmp_path / "secret.jpg")
    (inside / "bad-folder").symlink_to(tmp_path)
    (inside / "twice.jpg").symlink_to("bad.jpg")
    (inside / "round.jpg").symlink_to("round.jpg")
    return inside


@pytest.mark.parametrize(
    "name",
    ["a.jpg", "deep/b.jpg", "deep/../a.jpg", "good.jpg", "good-folder/b.jpg", "none.jpg", "no/ne.jpg", "odd:/c.jpg", "round.jpg"],
)
def test_what_stays_inside(folder: Path, name: str) -> None:
    """Names below the folder lie inside, whether there is a file or not, as do links that lead to others in it."""
    assert lies_inside(folder / name, folder)
    assert lies_inside(folder / str(folder / name), folder)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.jpg",
        "../photos-secret/a.jpg",
        "deep/../../secret.jpg",
        "..",
        "bad-folder/..",
        "/etc/passwd",
        "//etc/passwd",
        "bad.jpg",
        "bad-absolute.jpg",
        "bad-folder/secret.jpg",
        "bad-folder/photos/../secret.jpg",
        "good-folder/../../secret.jpg",
        "twice.jpg",
        "file:///etc/passwd",
        "http://127.0.0.1/a.jpg",
        "s3://bucket/a.jpg",
        "FILE:/etc/passwd",
    ],
)
def test_every_way_out(folder: Path, name: str) -> None:
    """Absolute names, `..`, links and links to links, folders that begin alike and URIs lead out."""
    assert not lies_inside(folder / name, folder)


def test_the_folder_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    """A folder that is reached by a link holds what lies where the link leads, and `.` is a folder as well."""
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert lies_inside(link / "a.jpg", link)
    assert lies_inside(folder / "a.jpg", link)
    assert not lies_inside(link / "bad.jpg", link)
    assert not lies_inside(link / ".." / "secret.jpg", link)
    assert lies_inside(Path("/etc/passwd"), Path("/"))


def test_a_name_that_cannot_be_leads_nowhere(folder: Path) -> None:
    """A null byte is no way out: whoever opens it is told what is wrong."""
    assert lies_inside(folder / "a\0.jpg", folder)
    assert lies_inside(folder / "a\0" / "b.jpg", folder)
    assert lies_inside(folder / os.fsdecode(b"\xff.jpg"), folder)


def test_names_that_go_down() -> None:
    """Without looking at the disk, a relative name without `..` goes down."""
    assert goes_down("a/b.jpg")
    assert not any(map(goes_down, ["/a.jpg", "../a.jpg", "a/../b.jpg", "a\0.jpg"]))
