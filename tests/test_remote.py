"""Tests of capt.remote: files in an object store, by a real S3 server; and whole runs that read from it and write to it."""

import io
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capt.captions import RUN_FILE, read_captions, shard_name
from capt.errors import FailureKind, ImageError, InputError
from capt.files import write_whole
from capt.images import open_image
from capt.remote import Remote, locate
from jobs.merge import MergeOptions, merge
from jobs.reader import open_source
from jobs.source import SourceOptions
from tests.object_store import disturbed, point_to
from tests.running import Started


def put(folder: str, files: dict[str, bytes]) -> None:
    """Write objects."""
    for name, content in files.items():
        write_whole(locate(folder) / name, content)


def put_photos(folder: str, photos: Path) -> None:
    """Copy photographs into the object store."""
    put(folder, {path.name: path.read_bytes() for path in photos.iterdir()})


def same(table: pa.Table, other: pa.Table) -> bool:
    """Tell whether two tables hold the same captions."""
    names = ["image_id", "caption", "log_prob", "width", "status", "error"]
    return bool(table.select(names).equals(other.select(names)))


def test_paths_stay_paths(tmp_path: Path) -> None:
    """A path is a path, and so is file://; percent signs in a URI are undone, in a path they stay."""
    assert locate("photos/a%20b") == Path("photos/a%20b")
    assert locate(f"file://{tmp_path}/a%20b") == tmp_path / "a b"


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("http://host/photos", "http://, which is not among s3://"),
        ("s3:///photos", "names no bucket"),
        ("s3://", "names no bucket"),
    ],
)
def test_unusable_uris_are_refused(uri: str, sentence: str) -> None:
    """What cannot be a place is refused in one sentence."""
    with pytest.raises(InputError, match=sentence):
        locate(uri)


def test_object(s3: str) -> None:
    """An object is written whole, read, found, listed and removed, whatever is in its name."""
    folder = locate(s3)
    assert isinstance(folder, Remote)
    assert not folder.exists()
    write_whole(folder / "a b%20ü.txt", b"one")
    write_whole(folder / "deep/er/c.txt", b"two")
    assert (folder / "a b%20ü.txt").read_bytes() == b"one"
    assert (folder / "a b%20ü.txt").read_bytes(most=2) == b"on"
    assert folder.is_dir()
    assert not folder.is_file()
    assert sorted(file.relative_to(folder) for file in folder.files()) == ["a b%20ü.txt", "deep/er/c.txt"]
    assert [file.name for file in folder.iterdir()] == ["a b%20ü.txt"]
    assert [file.name for file in folder.glob("*.txt")] == ["a b%20ü.txt"]
    assert str(pickle.loads(pickle.dumps(folder / "x"))) == f"{s3}/x"  # noqa: S301 - our own
    (folder / "deep/er/c.txt").unlink()
    (folder / "deep/er/c.txt").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (folder / "deep/er/c.txt").unlink()


def test_query_and_password_are_not_shown(s3_server: str, s3: str) -> None:
    """An endpoint in the URI is used; neither it nor a secret appears in messages and tables."""
    put(s3, {"a.txt": b"x"})
    bucket = s3.removeprefix("s3://")
    place = locate(f"s3://key:secret@{bucket}/a.txt?endpoint_override={s3_server}&scheme=http&region=us-east-1")
    assert isinstance(place, Remote)
    assert place.read_bytes() == b"x"
    assert str(place) == f"{s3}/a.txt"


def test_remote_images_fail_as_local_ones_do(s3: str, photos: Path) -> None:
    """An object is opened as an image; a missing one and an empty one say so."""
    photo = next(photos.iterdir())
    put(s3, {"a.jpg": photo.read_bytes(), "empty.jpg": b""})
    assert open_image(locate(s3) / "a.jpg").tobytes() == open_image(photo).tobytes()
    for name, kind in (("none.jpg", FailureKind.NOT_FOUND), ("empty.jpg", FailureKind.EMPTY)):
        with pytest.raises(ImageError) as failed:
            open_image(locate(s3) / name)
        assert failed.value.kind is kind


def test_a_remote_folder_is_in_the_order_of_a_local_one(s3: str, tmp_path: Path) -> None:
    """The same names give the same image ids in the same order, hidden ones left out."""
    names = ["b/2.jpg", "b/10.jpg", "a9.jpg", "a10.JPG", ".hidden/x.jpg", "b.jpg", "b/.x.jpg", "notes.txt", "b/a/1.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"x")
    put(s3, dict.fromkeys(names, b"x"))
    here, there = (open_source(SourceOptions(source=str(place))) for place in (tmp_path, s3))
    assert list(there.image_ids()) == list(here.image_ids())
    assert there.sha256 == here.sha256


def test_remote_patterns(s3: str) -> None:
    """A pattern in a URI finds parquet files: `*` in one folder, `**` in all, numbers each."""
    table = pa.table({"image_id": ["a"], "path": ["a.jpg"]})
    for number, name in enumerate(["x/00.parquet", "x/01.parquet", "x/y/02.parquet"]):
        stream = io.BytesIO()
        pq.write_table(table.set_column(0, "image_id", pa.array([str(number)])), stream)
        put(s3, {name: stream.getvalue()})
    found = {
        "x/*.parquet": ["0", "1"],
        "x/0[1-9].parquet": ["1"],
        "**/*.parquet": ["0", "1", "2"],
        "x/{00..01}.parquet": ["0", "1"],
    }
    for pattern, ids in found.items():
        assert list(open_source(SourceOptions(source=f"{s3}/{pattern}")).image_ids()) == ids
    with pytest.raises(InputError, match="No parquet or tar file matches"):
        open_source(SourceOptions(source=f"{s3}/*.parquet"))
    with pytest.raises(InputError, match=r"There is no s3://.*/nowhere"):
        open_source(SourceOptions(source=f"{s3}/nowhere"))


def test_a_run_from_and_to_an_object_store(s3: str, photos: Path, tmp_path: Path, start: Started) -> None:
    """Images by URI into a folder by URI give the table that local ones give; started again, nothing is left to do."""
    assert start(photos, "--output", tmp_path / "out", "--shard-size", "3").code == 0
    put_photos(f"{s3}/in", photos)
    arguments = (f"{s3}/in", "--output", f"{s3}/out", "--shard-size", "3")
    assert start(*arguments).code == 0
    assert same(read_captions(locate(f"{s3}/out")), read_captions(tmp_path / "out"))
    assert "Nothing is left to do" in start(*arguments).err
    (locate(f"{s3}/out") / shard_name(1)).unlink()
    (locate(f"{s3}/out") / RUN_FILE).unlink()
    assert start(*arguments).code == 0
    assert same(read_captions(locate(f"{s3}/out")), read_captions(tmp_path / "out"))
    refused = start(*arguments, "--max-length", "3")
    assert refused.code == 2
    assert "holds a run with other settings (--max-length was 4, is 3)" in refused.err
    assert start(*arguments, "--max-length", "3", "--overwrite").code == 0


def test_a_run_may_write_where_it_reads(s3: str, photos: Path, start: Started) -> None:
    """A folder of an object store takes the captions of its own images, and goes on there."""
    put_photos(s3, photos)
    assert start(s3, "--output", s3, "--shard-size", "3").code == 0
    (locate(s3) / RUN_FILE).unlink()
    assert start(s3, "--output", s3, "--shard-size", "3").code == 0
    assert read_captions(locate(s3)).num_rows == len(list(photos.iterdir()))


def test_shares_and_one_file_in_an_object_store(s3: str, photos: Path, tmp_path: Path, start: Started) -> None:
    """Machines share an output by URI, merge makes it complete and one file of it; a run into one file leaves nothing else."""
    assert start(photos, "--output", tmp_path / "out", "--shard-size", "3").code == 0
    expected = read_captions(tmp_path / "out")
    for share in ("0/2", "1/2"):
        assert start(photos, "--output", f"{s3}/shared", "--shard-size", "3", "--shard", share).code == 0
    assert not (locate(f"{s3}/shared") / RUN_FILE).exists()
    merge(MergeOptions(output=locate(f"{s3}/shared"), into=locate(f"{s3}/all.parquet")))
    assert same(read_captions(locate(f"{s3}/shared")), expected)
    assert same(read_captions(locate(f"{s3}/all.parquet")), expected)
    assert start(photos, "--output", f"{s3}/one.parquet", "--shard-size", "3").code == 0
    assert same(read_captions(locate(f"{s3}/one.parquet")), expected)
    folder = locate(s3)
    assert isinstance(folder, Remote)
    assert sorted(file.name for file in folder.iterdir()) == ["all.parquet", "one.parquet"]


def test_a_store_that_throttles_and_breaks_off(
    s3_server: str, s3: str, photos: Path, start: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every third request is refused and every seventh answer is cut in two, the table is the same."""
    assert start(photos, "--output", f"{s3}/undisturbed").code == 0
    put_photos(f"{s3}/in", photos)
    seen: list[str] = []

    def disturb(method: str, _: str, number: int) -> str | None:
        answer = "throttle" if number % 3 == 0 else "cut" if method == "GET" and number % 7 == 0 else None
        seen.append(answer or "")
        return answer

    with disturbed(s3_server, disturb) as address:
        point_to(address, monkeypatch)
        ended = start(f"{s3}/in", "--output", f"{s3}/out", "--shard-size", "2")
    assert ended.code == 0, ended.err
    assert {"throttle", "cut"} <= set(seen)
    point_to(s3_server, monkeypatch)
    assert same(read_captions(locate(f"{s3}/out")), read_captions(locate(f"{s3}/undisturbed")))


def test_no_bucket(s3: str, photos: Path, start: Started) -> None:
    """A bucket that is not there is refused before work, as source and as output, in one sentence."""
    del s3
    ended = start(photos, "--output", "s3://nobody-has-this/out")
    assert ended.code == 2
    assert "s3://nobody-has-this/out cannot be written (The specified bucket does not exist, NO_SUCH_BUCKET)" in ended.err
    ended = start("s3://nobody-has-this/in")
    assert ended.code == 2
    assert "There is no s3://nobody-has-this/in" in ended.err


def test_uris_in_lists_and_manifests(s3: str, photos: Path, tmp_path: Path, start: Started) -> None:
    """A list may name URIs; a manifest's must stay in its folder unless allowed; one that names no place is a failed row."""
    put_photos(s3, photos)
    name = min(path.name for path in photos.iterdir())
    put(s3, {f"up/{name}": (photos / name).read_bytes()})
    names = [f"{s3}/{name}", f"{s3}/none.jpg", "http://host/a.jpg", "s3:///a.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(names))
    pq.write_table(pa.table({"path": [*names, name]}), tmp_path / "m.parquet")
    put(s3, {"m.parquet": (tmp_path / "m.parquet").read_bytes(), "up/m.parquet": (tmp_path / "m.parquet").read_bytes()})

    def failures(source: object, *options: object) -> list[str | None]:
        ended = start(source, "--output", tmp_path / "out", "--overwrite", *options)
        assert ended.code == 1, ended.err
        return [error and error.split(":")[0] for error in read_captions(tmp_path / "out").column("error").to_pylist()]

    assert failures(tmp_path / "list.txt") == [None, "not_found", "not_found", "not_found"]
    assert failures(tmp_path / "m.parquet", "--allow-outside") == [None, *["not_found"] * 4]
    assert failures(f"{s3}/m.parquet") == [None, "not_found", "not_found", "not_found", None]
    assert failures(f"{s3}/m.parquet", "--image-root", f"{s3}/up", "--allow-outside") == [None, *["not_found"] * 3, None]
    assert failures(f"{s3}/m.parquet", "--image-root", f"{s3}/up") == ["outside", "outside", "not_found", "not_found", None]
