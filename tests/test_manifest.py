"""Tests of jobs.manifest: other people's parquet tables as a source."""

import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capt.errors import InputError
from jobs.manifest import ManifestSource
from jobs.reader import open_source
from jobs.source import Item, Source, SourceOptions

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def manifest(path: Path, row_group_size: int = 3, /, **columns: object) -> Path:
    """Write a parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


def opened(path: Path | str, **options: object) -> Source:
    """Open a source."""
    return open_source(SourceOptions(source=str(path), **options))  # type: ignore[arg-type]  # each test gives what fits


def read(source: Source, size: int = 2) -> tuple[list[Item], pa.Table]:
    """Read a whole source."""
    batches = list(source.batches(range(source.rows), size))
    return [item for items, _ in batches for item in items], pa.concat_tables([table for _, table in batches])


def test_hugging_face_struct(tmp_path: Path) -> None:
    """`image` as struct<bytes, path> is read by field names; captions are references; other columns travel along."""
    images = pa.array([{"bytes": b"1", "path": "a.jpg"}, {"bytes": b"2", "path": "b.jpg"}], STRUCT)
    captions = pa.array([["a dog", None, "dogs"], []], pa.list_(pa.string()))
    path = manifest(tmp_path / "m.parquet", image=images, caption=captions, split=["dev", "test"], licence=[1, None])
    items, table = read(opened(path))
    assert items == [
        Item(image_id="a.jpg", path=None, image=b"1", references=("a dog", "dogs")),
        Item(image_id="b.jpg", path=None, image=b"2", references=None),
    ]
    assert table.to_pydict() == {"split": ["dev", "test"], "licence": [1, None]}


def test_fields_in_another_order(tmp_path: Path) -> None:
    """The struct's fields are found by name, not by place."""
    kind = pa.struct([("path", pa.string()), ("extra", pa.int8()), ("bytes", pa.large_binary())])
    path = manifest(tmp_path / "m.parquet", image=pa.array([{"bytes": b"1", "path": "a", "extra": 3}], kind), key=["000"])
    items, _ = read(opened(path))
    assert items == [Item(image_id="000", path=None, image=b"1")]


def test_struct_without_bytes_is_a_path(tmp_path: Path) -> None:
    """Where a struct has no bytes its path is opened; where it has neither, there is no image."""
    images = pa.array([{"bytes": None, "path": "a.jpg"}, {"bytes": None, "path": None}, None], STRUCT)
    path = manifest(tmp_path / "m.parquet", image=images, image_id=["1", "2", "3"])
    items, _ = read(opened(path))
    assert [item.image for item in items] == [tmp_path / "a.jpg", None, None]
    assert items[0].path == str(tmp_path / "a.jpg")


def test_img2dataset(tmp_path: Path) -> None:
    """`jpg` as binary with `key`; columns named like the output's travel under another name."""
    path = manifest(
        tmp_path / "00000.parquet",
        jpg=pa.array([b"1", None], pa.binary()),
        key=["000", "001"],
        caption=["alt text", None],
        width=[640, None],
        status=["success", "failed_to_download"],
        url=["http://a", "http://b"],
    )
    source = opened(path)
    items, table = read(source)
    assert [(item.image_id, item.image) for item in items] == [("000", b"1"), ("001", None)]
    assert table.schema.names == ["manifest_caption", "manifest_width", "manifest_status", "url"]
    assert not source.has_references


def test_renamed_columns_never_collide(tmp_path: Path) -> None:
    """A manifest that has both `caption` and `manifest_caption` keeps both."""
    path = manifest(tmp_path / "m.parquet", image_path=["a"], image_id=["1"], caption=["x"], manifest_caption=["y"])
    _, table = read(opened(path))
    assert table.to_pydict() == {"manifest_manifest_caption": ["x"], "manifest_caption": ["y"]}


def test_image_as_plain_bytes_with_numbers_as_ids(tmp_path: Path) -> None:
    """`image` as binary, and ids that are numbers."""
    path = manifest(tmp_path / "m.parquet", image=pa.array([b"1"], pa.large_binary()), img_id=[42])
    items, _ = read(opened(path))
    assert items == [Item(image_id="42", path=None, image=b"1")]


@pytest.mark.parametrize("name", ["image_path", "path", "filename", "image"])
def test_paths(tmp_path: Path, name: str) -> None:
    """String columns name files, relative to the manifest's folder or --image-root; a null is no image."""
    path = manifest(tmp_path / "m.parquet", **{name: ["a.jpg", "/b.jpg"], "key": ["1", "2"]})
    items, _ = read(opened(path))
    assert [item.image for item in items] == [tmp_path / "a.jpg", Path("/b.jpg")]
    items, _ = read(opened(path, image_root=Path("/photos")))
    assert [item.path for item in items] == ["/photos/a.jpg", "/b.jpg"]


def test_categories_are_text(tmp_path: Path) -> None:
    """Categories of pandas (dictionary-encoded strings) are ids, paths and travelling columns like others."""
    values = pa.array(["a", "b"]).dictionary_encode()
    path = manifest(tmp_path / "m.parquet", image_path=values, kind=values)
    items, table = read(opened(path))
    assert [item.image_id for item in items] == ["a", "b"]
    assert table.column("kind").to_pylist() == ["a", "b"]


def test_folder_and_glob_are_one_manifest(tmp_path: Path) -> None:
    """Files are read in natural order, each with paths from its own folder; schemas may differ in width."""
    manifest(tmp_path / "part-10.parquet", image_path=["c"], n=pa.array([3], pa.int64()))
    manifest(tmp_path / "part-9.parquet", image_path=["a", "b"], n=pa.array([1, 2], pa.int32()))
    manifest(tmp_path / "sub" / "part.parquet", image_path=["d"], n=pa.array([None], pa.null()))
    items, table = read(opened(tmp_path))
    assert [item.image for item in items] == [tmp_path / "a", tmp_path / "b", tmp_path / "c", tmp_path / "sub" / "d"]
    assert table.column("n").to_pylist() == [1, 2, 3, None]
    items, _ = read(opened(f"{tmp_path}/part-*.parquet"))
    assert [item.image_id for item in items] == ["a", "b", "c"]


def test_split_keeps_its_rows(tmp_path: Path) -> None:
    """--split and --limit choose rows; their numbers are those of the run."""
    path = manifest(tmp_path / "m.parquet", image_path=[str(n) for n in range(20)], split=["dev", "test"] * 10)
    source = opened(path, split="test", limit=7)
    assert list(source.image_ids()) == ["1", "3", "5", "7", "9", "11", "13"]
    assert [item.image_id for item in read(source)[0]] == ["1", "3", "5", "7", "9", "11", "13"]
    assert opened(path, limit=4).rows == 4


def test_references_elsewhere_make_captions_travel(tmp_path: Path) -> None:
    """With --references the manifest's own captions are kept as manifest_caption."""
    path = manifest(tmp_path / "m.parquet", image_path=["a"], caption=[["x", "y"]])
    source = opened(path, references=tmp_path / "other.json")
    assert not source.has_references
    assert read(source)[1].to_pydict() == {"manifest_caption": [["x", "y"]]}


def test_identity_depends_on_references_and_columns(tmp_path: Path) -> None:
    """Other references or other travelling columns make another source."""
    plain = opened(manifest(tmp_path / "1.parquet", image_path=["a"], caption=[["x"]])).sha256
    other = opened(manifest(tmp_path / "2.parquet", image_path=["a"], caption=[["y"]])).sha256
    wider = opened(manifest(tmp_path / "3.parquet", image_path=["a"], caption=[["x"]], more=[1])).sha256
    assert len({plain, other, wider}) == 3


@settings(max_examples=40, deadline=None)
@given(data=st.data(), sizes=st.lists(st.integers(0, 7), min_size=1, max_size=4), group=st.integers(1, 4), size=st.integers(1, 5))
def test_any_rows_in_any_batches(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, sizes: list[int], group: int, size: int
) -> None:
    """Whatever the files, row groups, batch size and rows asked for, each row comes with its own id, bytes and columns."""
    total = sum(sizes)
    if not total:
        return
    folder = tmp_path_factory.mktemp("manifest")
    start = 0
    for number, count in enumerate(sizes):
        numbers = list(range(start, start + count))
        contents = pa.array([str(n).encode() for n in numbers], pa.binary())
        keys = pa.array([f"id{n}" for n in numbers], pa.string())
        manifest(folder / f"{number}.parquet", group, jpg=contents, key=keys, n=pa.array(numbers, pa.int64()))
        start += count
    source = opened(folder)
    assert source.rows == total
    for _ in range(3):
        rows = sorted(data.draw(st.sets(st.integers(0, total - 1))))
        got = [
            (item.image_id, item.image, n)
            for items, t in source.batches(rows, size)
            for item, n in zip(items, t["n"].to_pylist(), strict=True)
        ]
        assert got == [(f"id{row}", str(row).encode(), row) for row in rows]


def test_travels_to_other_processes(tmp_path: Path) -> None:
    """Pickled while it is read, a manifest gives the same rows elsewhere, and goes on here."""
    path = manifest(tmp_path / "m.parquet", image=[b"%d" % row for row in range(9)], image_id=[str(row) for row in range(9)])
    source = opened(path)
    whole, batches = read(source), source.batches(range(9), 2)
    next(batches)
    assert read(pickle.loads(pickle.dumps(source))) == whole  # noqa: S301  our own
    assert [item.image_id for items, _ in batches for item in items] == [str(row) for row in range(2, 9)]


def test_refusals(tmp_path: Path) -> None:
    """Each manifest that cannot be used is refused in one sentence that names what it has."""
    manifest(tmp_path / "image.parquet", url=["http://a"], key=["1"], image=[3])
    manifest(tmp_path / "id.parquet", jpg=pa.array([b"1"], pa.binary()), url=["x"], image_id=[[1]])
    manifest(tmp_path / "struct.parquet", image=pa.array([{"bytes": b"1"}], pa.struct([("bytes", pa.binary())])))
    manifest(tmp_path / "null.parquet", image_path=["a", "b"], key=["1", None])
    manifest(tmp_path / "nullpath.parquet", image=pa.array([{"bytes": b"1", "path": None}], STRUCT))
    manifest(tmp_path / "double.parquet", image_path=["a", "b"], key=["1", "1"])
    manifest(tmp_path / "rows.parquet", image_path=pa.array([], pa.string()))
    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["path", "path"]), tmp_path / "names.parquet")
    (tmp_path / "text.parquet").write_text("not parquet")
    manifest(tmp_path / "two" / "1.parquet", image_path=["a"], n=[1])
    manifest(tmp_path / "two" / "2.parquet", image_path=["b"], n=["x"])
    manifest(tmp_path / "three" / "1.parquet", image_path=["a"])
    manifest(tmp_path / "three" / "2.parquet", image_path=["b"], n=[1])
    manifest(tmp_path / "split.parquet", image_path=["a"], split=["dev"])
    expected = {
        "image.parquet": r"no usable image column, only url \(string\), key \(string\), image \(int64\); it needs image",
        "id.parquet": r"no id column, only jpg \(binary\), url .*; it needs one of image_id, key",
        "struct.parquet": "no id column",
        "null.parquet": "row 1 has no id in column key",
        "nullpath.parquet": r"row 0 has no id in column image\.path",
        "double.parquet": "1 image id is doubled",
        "rows.parquet": "has no rows",
        "names.parquet": "two columns of one name",
        "text.parquet": "cannot be read",
        "two": "has not the columns of",
        "three": r"has not the columns of .* \(n\)",
    }
    for name, sentence in expected.items():
        with pytest.raises(InputError, match=sentence):
            opened(tmp_path / name)
    with pytest.raises(InputError, match="no column split"):
        opened(tmp_path / "two" / "1.parquet", split="dev")
    with pytest.raises(InputError, match="its splits are dev"):
        opened(tmp_path / "split.parquet", split="tset")


def test_damage_in_the_middle_is_an_input_error(tmp_path: Path) -> None:
    """A manifest that is damaged behind its footer is named when its rows are read."""
    contents = pa.array([bytes([n]) * 5000 for n in range(50)], pa.binary())
    path = manifest(tmp_path / "m.parquet", 50, jpg=contents, key=[str(n) for n in range(50)])
    source = ManifestSource([path], SourceOptions(source=str(path)))
    data = bytearray(path.read_bytes())
    data[10:2000] = b"\xff" * 1990
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"m\.parquet cannot be read"):
        read(source)


def test_vanished_manifest_is_an_input_error(tmp_path: Path) -> None:
    """A manifest that is gone when its rows are read is named."""
    path = manifest(tmp_path / "m.parquet", image_path=["a"])
    source = ManifestSource([path], SourceOptions(source=str(path)))
    path.unlink()
    with pytest.raises(InputError, match=r"m\.parquet cannot be read"):
        read(source)
