"""Tests of jobs.reader and jobs.source: which images a source has, in which order, and what is refused."""

import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capt.errors import InputError
from jobs.listing import natural_key
from jobs.reader import open_source, plan_shards
from jobs.source import IdentityCheck, Item, ReferenceBook, Source, SourceOptions, readable_text


def make(folder: Path, *names: str) -> Path:
    """Make files that look like images by name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def items_of(source: Source) -> list[Item]:
    """Read a whole source in small batches."""
    return [item for items, _ in source.batches(range(source.rows), 2) for item in items]


def ids_of(path: Path | str, **options: object) -> list[str]:
    """Give the image ids of a source, in order."""
    source = open_source(SourceOptions(source=str(path), **options))  # type: ignore[arg-type]  # each test gives what fits
    ids = [item.image_id for item in items_of(source)]
    assert ids == list(source.image_ids())
    return ids


def test_a_pattern_without_a_folder_is_of_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pattern that begins with a star finds files here, and one that finds none, such as a name in brackets, is refused."""
    pq.write_table(pa.table({"image_path": ["a.jpg"]}), tmp_path / "one.parquet")
    monkeypatch.chdir(tmp_path)
    assert ids_of("*.parquet") == ["a.jpg"]
    with pytest.raises(InputError, match="No parquet or tar file matches"):
        ids_of("[red]none")


def test_folder_is_read_in_natural_order(tmp_path: Path) -> None:
    """Subfolders are entered, numbers count as numbers, endings in any case, hidden and foreign files are left out."""
    make(
        tmp_path, "b/2.jpg", "b/10.jpg", "b/1.PNG", "a10.jpeg", "a9.webp", ".hidden.jpg", ".git/x.jpg", "notes.txt", "c.jpg.part"
    )
    assert ids_of(tmp_path) == ["a9.webp", "a10.jpeg", "b/1.PNG", "b/2.jpg", "b/10.jpg"]


def test_items_of_a_folder_have_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path says where the image was read from, wherever the command was started."""
    make(tmp_path, "photos/a.jpg")
    monkeypatch.chdir(tmp_path)
    (item,) = items_of(open_source(SourceOptions(source="photos")))
    assert item.path == str(tmp_path / "photos" / "a.jpg")
    assert item.image == tmp_path / "photos" / "a.jpg"


def test_links(tmp_path: Path) -> None:
    """Links to folders are followed, loops end, no folder is entered twice, dangling links become items."""
    make(tmp_path, "here/a.jpg", "elsewhere/b.jpg")
    (tmp_path / "here" / "loop").symlink_to(tmp_path / "here")
    (tmp_path / "here" / "up").symlink_to(tmp_path / "here" / "loop")
    (tmp_path / "here" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here" / "twice").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here" / "dangling.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "here" / "self").symlink_to(tmp_path / "here" / "self")
    assert ids_of(tmp_path / "here") == ["a.jpg", "dangling.jpg", "more/b.jpg"]


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """A foreign byte in a name is escaped in the id, and the file can still be opened."""
    name = os.fsdecode(b"caf\xe9.jpg")
    make(tmp_path, name)
    (item,) = items_of(open_source(SourceOptions(source=str(tmp_path))))
    assert item.image_id == "caf\\xe9.jpg"
    assert isinstance(item.image, Path)
    assert item.image.read_bytes() == b"x"


def test_output_inside_the_source_is_left_out(tmp_path: Path) -> None:
    """What the run writes is never read."""
    make(tmp_path, "a.jpg", "out/picture.jpg")
    source = open_source(SourceOptions(source=str(tmp_path)), output=tmp_path / "out")
    assert list(source.image_ids()) == ["a.jpg"]


def test_own_tables_are_no_manifests(tmp_path: Path) -> None:
    """Neither shards in the source's own folder nor the one output file are taken for manifests."""
    for name, image_id in (("manifest", "a"), ("captions-00000", "b"), ("output", "c")):
        pq.write_table(pa.table({"image_id": [image_id], "image_path": [f"{image_id}.jpg"]}), tmp_path / f"{name}.parquet")
    source = open_source(SourceOptions(source=str(tmp_path)), output=tmp_path)
    assert list(source.image_ids()) == ["a", "c"]
    (tmp_path / "captions-00000.parquet").unlink()
    for pattern in (tmp_path, tmp_path / "*.parquet"):
        source = open_source(SourceOptions(source=str(pattern)), output=tmp_path / "output.parquet")
        assert list(source.image_ids()) == ["a"]


def test_list_of_paths(tmp_path: Path) -> None:
    """A text file names images relative to its folder, or to --image-root; blank lines and a byte order mark do not count."""
    make(tmp_path, "photos/a.jpg", "photos/b.jpg")
    absolute = tmp_path / "photos" / "b.jpg"
    listing = tmp_path / "list.txt"
    listing.write_bytes(b"\xef\xbb\xbfphotos/a.jpg\r\n\n  \n" + bytes(absolute) + b"\n")
    source = open_source(SourceOptions(source=str(listing)))
    assert [item.image for item in items_of(source)] == [tmp_path / "photos" / "a.jpg", absolute]
    listing.write_text("a.jpg\n")
    (item,) = items_of(open_source(SourceOptions(source=str(listing), image_root=tmp_path / "photos")))
    assert item.image == tmp_path / "photos" / "a.jpg"


def test_single_image(tmp_path: Path) -> None:
    """One photograph is a source too."""
    make(tmp_path, "a.jpg")
    assert ids_of(tmp_path / "a.jpg") == ["a.jpg"]


def test_limit(tmp_path: Path) -> None:
    """A limit takes images from the start."""
    make(tmp_path, *(f"{number}.jpg" for number in range(20)))
    assert ids_of(tmp_path, limit=3) == ["0.jpg", "1.jpg", "2.jpg"]


def test_any_rows_can_be_asked_for(tmp_path: Path) -> None:
    """Rows are given by number, in batches of the size asked for."""
    make(tmp_path, *(f"{number}.jpg" for number in range(10)))
    source = open_source(SourceOptions(source=str(tmp_path)))
    batches = list(source.batches([1, 4, 7], 2))
    assert [[item.image_id for item in items] for items, _ in batches] == [["1.jpg", "4.jpg"], ["7.jpg"]]
    assert [table.num_rows for _, table in batches] == [2, 1]


def test_identity_depends_on_names_and_order(tmp_path: Path) -> None:
    """Another image, another order or another number of images is another source; the folder's place is not."""
    first = open_source(SourceOptions(source=str(make(tmp_path / "one", "a.jpg", "b.jpg"))))
    same = open_source(SourceOptions(source=str(make(tmp_path / "two", "a.jpg", "b.jpg"))))
    other = open_source(SourceOptions(source=str(make(tmp_path / "three", "a.jpg", "bb.jpg"))))
    listing = tmp_path / "list.txt"
    listing.write_text("b.jpg\na.jpg\n")
    turned = open_source(SourceOptions(source=str(listing)))
    assert first.sha256 == same.sha256
    assert len({first.sha256, other.sha256, turned.sha256}) == 3


def test_refusals(tmp_path: Path) -> None:
    """Each source that cannot be used is refused in one sentence that says what to do."""
    (tmp_path / "empty").mkdir()
    make(tmp_path, "texts/a.txt", "texts/b.md", "photos/a.jpg")
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "binary.dat").write_bytes(b"\0\1\2")
    (tmp_path / "double.txt").write_text("a.jpg\nb.jpg\na.jpg\nb.jpg\na.jpg\n")
    expected = {
        "empty": r"holds no images: no file in it ends in \.apng.*\.jpg.*\.parquet",
        "texts": r"none of its 2 files ends in \.apng",
        "blank.txt": "names no images",
        "binary.dat": "neither text nor an image nor parquet",
        "double.txt": r"2 image ids are doubled: a\.jpg \(3 times\), b\.jpg \(2 times\)",
        "fotos": r"did you mean .*photos\?",
        "nowhere/photos": "nor a folder",
        "unlike-anything-here": "give a folder, a list",
        "*.parquet": "No parquet or tar file matches",
    }
    for name, sentence in expected.items():
        with pytest.raises(InputError, match=sentence):
            open_source(SourceOptions(source=str(tmp_path / name)))
    with pytest.raises(InputError, match="--split chooses rows"):
        open_source(SourceOptions(source=str(tmp_path / "photos"), split="dev"))


def test_unreadable_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A subfolder that cannot be listed is refused: its images would be missing silently."""

    def denied(_: object) -> object:
        raise PermissionError(13, "Permission denied", "secret")

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(InputError, match="secret cannot be read"):
        open_source(SourceOptions(source=str(tmp_path)))


@pytest.mark.parametrize("options", [{"limit": 0}, {"max_pixels": 0}])
def test_impossible_numbers(options: dict[str, int]) -> None:
    """Options are checked where they are made."""
    with pytest.raises(InputError, match="must be at least 1"):
        SourceOptions(source="x", **options)  # type: ignore[arg-type]  # the keys vary


def test_many_doubled_ids_are_counted() -> None:
    """Only the first few doubled ids are named."""
    check = IdentityCheck("photos")
    ids = [str(number % 50) for number in range(100)]
    for image_id in ids:
        check.add(image_id)
    with pytest.raises(InputError, match=r"50 image ids are doubled: 0 \(2 times\), 1 \(2 times\), 2 \(2 times\), …;"):
        check.finish(lambda: iter(ids))


def test_one_doubled_id() -> None:
    """One doubled id is told in the singular."""
    check = IdentityCheck("photos")
    for image_id in "aab":
        check.add(image_id)
    with pytest.raises(InputError, match="1 image id is doubled"):
        check.finish(lambda: iter("aab"))


@given(st.integers(0, 500), st.integers(1, 60))
def test_shards_cover_every_row_once(rows: int, size: int) -> None:
    """Shards are contiguous ranges, in order, without gap or overlap."""
    shards = plan_shards(rows, size)
    assert [row for shard in shards for row in range(shard.start, shard.stop)] == list(range(rows))
    assert [shard.number for shard in shards] == list(range(len(shards)))


@given(st.lists(st.text(st.characters(exclude_characters="/\0"), min_size=1), unique=True))
def test_natural_order_is_total(names: list[str]) -> None:
    """Any set of names has one order, whatever order it came in."""
    shuffled = names.copy()
    random.Random(0).shuffle(shuffled)  # noqa: S311  no secret
    assert sorted(names, key=natural_key) == sorted(shuffled, key=natural_key)


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name and b"/" not in name))
def test_any_name_becomes_text(name: bytes) -> None:
    """Any file name becomes valid UTF-8; a name that is UTF-8 already stays as it is."""
    text = readable_text(os.fsdecode(name))
    text.encode()
    try:
        assert text == name.decode()
    except UnicodeDecodeError:
        assert "\\x" in text


def test_references_are_found_by_id_alias_and_file_name() -> None:
    """References match the image id, another name of the image, or the file name at the end of the id."""
    book = ReferenceBook(captions={"a.jpg": ("a dog",), "42": ("a cat",)}, aliases={"b.jpg": "42"})
    assert book.find("a.jpg") == ("a dog",)
    assert book.find("deep/down/a.jpg") == ("a dog",)
    assert book.find("b.jpg") == book.find("x/b.jpg") == ("a cat",)
    assert book.find("c.jpg") is None
