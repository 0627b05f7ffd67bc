"""Tests of jobs.run: the job from options to a complete table, with a tiny checkpoint and real photographs."""

import io
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import jobs.engines
import jobs.loading
from capt.captions import RUN_FILE, read_captions, shard_name, shard_paths
from capt.errors import CaptError, InputError, OutputError
from jobs.options import RunOptions
from jobs.plan import describe, prepare
from jobs.run import Outcome
from tests.running import carry_out, change, do, said


def rows(path: Path) -> list[dict[str, object]]:
    """Read a finished table as rows."""
    return list(read_captions(path).to_pylist())


def written(folder: Path) -> dict[int, int]:
    """Tell when each shard was written last."""
    return {number: (folder / shard_name(number)).stat().st_mtime_ns for number in shard_paths(folder)}


def encoded(image: Image.Image, name: str) -> bytes:
    """Give the bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, name)
    return buffer.getvalue()


def test_folder_becomes_table(options: RunOptions, photos: Path, tmp_path: Path) -> None:
    """Every photograph is one row with a caption, in order; run.json counts them."""
    assert do(options) == Outcome(failed=0)
    table = rows(tmp_path / "out")
    assert [row["image_id"] for row in table] == sorted(path.name for path in photos.iterdir())
    for row in table:
        assert row["status"] == "ok"
        assert row["error"] is None
        assert row["caption"]
        assert isinstance(row["log_prob"], float)
        assert row["log_prob"] < 0
        assert row["num_tokens"] == len(str(row["caption"]).split()) + 1
        assert len(row["alternatives"]) == 1  # type: ignore[arg-type]  # a list
        assert row["reference_nll"] is None
        assert row["attention"] is None
        with Image.open(str(row["path"])) as image:
            assert (row["width"], row["height"]) == image.size
    report = json.loads((tmp_path / "out" / RUN_FILE).read_text())
    assert (report["rows"], report["ok"], report["failed"], report["shards"]) == (8, 8, {}, 3)
    assert set(report["stage_seconds"]) >= {"encoder", "caption search", "decoding images", "writing"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [*(shard_name(n) for n in range(3)), RUN_FILE]


def test_attention_is_stored(options: RunOptions, tmp_path: Path) -> None:
    """With attention each word has its grid, whose brightest cell is 255."""
    do(change(options, attention=True, alternatives=0, limit=2))
    for row in rows(tmp_path / "out"):
        attention = row["attention"]
        assert isinstance(attention, list)
        assert len(attention) == row["num_tokens"] - 1  # type: ignore[operator]  # an int
        assert all(len(word) == 49 and max(word) == 255 for word in attention)
        assert row["alternatives"] is None


def test_single_file_has_the_same_content(options: RunOptions, tmp_path: Path) -> None:
    """--output x.parquet gives one file with the rows of the folder, and no parts are left."""
    do(options)
    do(change(options, path=tmp_path / "one" / "x.parquet"))
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["x.parquet"]
    assert rows(tmp_path / "one" / "x.parquet") == rows(tmp_path / "out")
    report = json.loads(pq.read_schema(tmp_path / "one" / "x.parquet").metadata[b"capt_run"])
    assert report["rows"] == 8
    assert prepare(change(options, path=tmp_path / "one" / "x.parquet")).report == report


def test_finished_run_does_nothing(options: RunOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished run started again says so, without loading the network."""
    do(options)
    monkeypatch.setattr(jobs.engines, "load_network", lambda *_: pytest.fail("the network was loaded"))
    assert "is complete: 8 rows. Nothing is left to do." in said(options)


def test_interrupted_run_goes_on(options: RunOptions, tmp_path: Path, opened_images: list[str]) -> None:
    """Missing shards are captioned, finished ones are kept as they are and their images are not opened."""
    do(options)
    complete = rows(tmp_path / "out")
    before = written(tmp_path / "out")
    (tmp_path / "out" / RUN_FILE).unlink()
    (tmp_path / "out" / shard_name(1)).unlink()
    (tmp_path / "out" / f"{shard_name(1)}.tmp").write_text("half")
    opened_images.clear()
    do(options)
    after = written(tmp_path / "out")
    assert rows(tmp_path / "out") == complete
    assert sorted(opened_images) == [row["image_id"] for row in complete[3:6]]
    assert (after[0], after[2]) == (before[0], before[2])
    assert not list((tmp_path / "out").glob("*.tmp"))


def test_damaged_shard_is_done_again(options: RunOptions, tmp_path: Path) -> None:
    """A shard that a crash of the machine left unreadable is captioned again."""
    do(options)
    complete = rows(tmp_path / "out")
    (tmp_path / "out" / shard_name(2)).write_bytes(b"")
    do(options)
    assert rows(tmp_path / "out") == complete


def test_only_run_json_is_missing(options: RunOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the last shard, a run is completed without loading the network."""
    do(options)
    (tmp_path / "out" / RUN_FILE).unlink()
    monkeypatch.setattr(jobs.engines, "load_network", lambda *_: pytest.fail("the network was loaded"))
    assert do(options) == Outcome(failed=0)
    assert len(rows(tmp_path / "out")) == 8


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"beam_size": 3}, r"--beam-size was 2, is 3"),
        ({"shard_size": 4}, r"--shard-size was 3, is 4"),
        ({"precision": "bfloat16"}, r"--precision was float32, is bfloat16"),
        ({"attention": True}, r"--attention was False, is True"),
        ({"draft": True}, r"--draft was False, is True"),
        ({"max_pixels": 5000}, r"--max-pixels was 120000000, is 5000"),
        ({"limit": 5}, r"The source has changed since the run in .* began \(8 images then, 5 now\)"),
    ],
)
def test_other_settings_are_refused(options: RunOptions, tmp_path: Path, changes: dict[str, object], sentence: str) -> None:
    """A run with other settings, or over another source, is refused before work; --overwrite starts anew."""
    do(options)
    before = rows(tmp_path / "out")
    with pytest.raises(OutputError, match=sentence + r".*choose another --output, or give --overwrite"):
        prepare(change(options, **changes))
    assert rows(tmp_path / "out") == before
    do(change(options, **changes, overwrite=True))
    assert len(rows(tmp_path / "out")) == changes.get("limit", 8)


def test_automatic_precision_stays_with_the_run(options: RunOptions) -> None:
    """`auto` goes on with the precision that the run began with, whatever this machine would choose."""
    do(options)
    plan = prepare(change(options, precision="auto", device="auto"))
    assert plan.fingerprint.precision == "float32"
    assert plan.works == []


def test_batch_size_is_only_warned_of(options: RunOptions, tmp_path: Path) -> None:
    """Another batch size may go on, with a warning that last digits may move."""
    do(options)
    (tmp_path / "out" / RUN_FILE).unlink()
    (tmp_path / "out" / shard_name(1)).unlink()
    assert "batch-size was 2, is 8: log-likelihoods may differ in their last digits." in " ".join(
        said(change(options, batch_size=8)).split()
    )


def test_foreign_files_are_never_replaced(options: RunOptions, tmp_path: Path) -> None:
    """A parquet file that this program did not write is refused, with --overwrite too."""
    foreign = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": [1]}), foreign)
    (tmp_path / "folder").mkdir()
    shutil.copy(foreign, tmp_path / "folder" / shard_name(0))
    for path in (foreign, tmp_path / "folder"):
        for overwrite in (False, True):
            with pytest.raises(OutputError, match="was not written by capt-batch run"):
                prepare(change(options, path=path, overwrite=overwrite))


def test_shards_of_two_runs_are_refused(options: RunOptions, tmp_path: Path) -> None:
    """A folder into which shards of another run were copied is refused."""
    do(options)
    do(change(options, path=tmp_path / "other", beam_size=3))
    shutil.copy(tmp_path / "other" / shard_name(1), tmp_path / "out" / shard_name(1))
    with pytest.raises(OutputError, match="holds shards of two runs"):
        prepare(options)


def test_outputs_that_cannot_be_written(options: RunOptions, tmp_path: Path) -> None:
    """An output that cannot be written is refused before work, and nothing is left behind."""
    (tmp_path / "file").touch()
    (tmp_path / "folder.parquet").mkdir()
    expected = {
        tmp_path / "file": "is a file",
        tmp_path / "file" / "below": "cannot be written",
        tmp_path / "folder.parquet": "is a folder",
        Path("/proc/nothing/here"): "cannot be written",
    }
    for path, sentence in expected.items():
        with pytest.raises(OutputError, match=sentence):
            prepare(change(options, path=path))
    prepare(change(options, path=tmp_path / "deep" / "down"))
    assert not (tmp_path / "deep").exists()


def test_two_runs_into_one_folder(options: RunOptions, tmp_path: Path) -> None:
    """While a run writes, another into the same folder is refused."""
    plan = prepare(options)
    with plan.output.prepared(overwrite=False), pytest.raises(OutputError, match="Another capt-batch run is writing"):
        carry_out(prepare(options))
    assert not shard_paths(tmp_path / "out")
    assert do(options) == Outcome(failed=0)


@pytest.fixture
def zoo(tmp_path: Path, photos: Path) -> Path:
    """Give a folder of oddities, good ones beginning with `ok` and bad ones with the kind of their failure."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    photo = next(iter(sorted(photos.iterdir()))).read_bytes()
    good = {
        "ok-grey.png": encoded(Image.new("L", (30, 20), 9), "PNG"),
        "ok-palette.gif": encoded(Image.new("P", (30, 20), 9), "GIF"),
        "ok-cmyk.jpg": encoded(Image.new("CMYK", (30, 20)), "JPEG"),
        "ok-alpha.webp": encoded(Image.new("RGBA", (30, 20)), "WEBP"),
        "ok-16-bit.png": encoded(Image.new("I;16", (30, 20), 30000), "PNG"),
        "ok-thin.png": encoded(Image.new("RGB", (1, 5000)), "PNG"),
        "ok-pixel.bmp": encoded(Image.new("RGB", (1, 1)), "BMP"),
        os.fsdecode(b"ok-caf\xe9.jpg"): photo,
    }
    bad = {
        "empty.jpg": b"",
        "not_an_image.jpg": b"<html>",
        "truncated.jpg": photo[: len(photo) // 2],
        "too_large.png": encoded(Image.new("1", (5000, 3000)), "PNG"),
    }
    for name, content in {**good, **bad}.items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "unreadable.jpg")
    (folder / "not_found.jpg").symlink_to(folder / "gone")
    return folder


def test_rotten_images_become_failed_rows(options: RunOptions, zoo: Path, tmp_path: Path) -> None:
    """Each oddity is captioned or is one failed row with its cause; none ends the run."""
    outcome = do(change(options, source=str(zoo), max_pixels=10_000_000))
    table = rows(tmp_path / "out")
    assert outcome.failed == 6
    assert len(table) == 14
    for row in table:
        if str(row["image_id"]).startswith("ok"):
            assert (row["status"], row["error"]) == ("ok", None)
            assert row["caption"]
        else:
            kind = str(row["image_id"]).split(".")[0]
            assert row["status"] == "failed"
            assert str(row["error"]).startswith(f"{kind}: ")
            assert row["caption"] is row["log_prob"] is row["width"] is None
    report = json.loads((tmp_path / "out" / RUN_FILE).read_text())
    assert report["failed"] == dict.fromkeys(("empty", "not_an_image", "not_found", "too_large", "truncated", "unreadable"), 1)
    assert "ok-caf\\xe9.jpg" in {row["image_id"] for row in table}


def test_all_images_rotten(options: RunOptions, tmp_path: Path) -> None:
    """A batch without one good image is fine."""
    (tmp_path / "bad").mkdir()
    for number in range(5):
        (tmp_path / "bad" / f"{number}.jpg").touch()
    assert do(change(options, source=str(tmp_path / "bad"))) == Outcome(failed=5)
    assert do(change(options, source=str(tmp_path / "bad"))) == Outcome(failed=5)


@pytest.mark.parametrize("name", ["again", "again.parquet"])
def test_retry_failed(options: RunOptions, zoo: Path, tmp_path: Path, opened_images: list[str], name: str) -> None:
    """--retry-failed captions failed rows again and leaves the others as they are, in a folder and in one file."""
    options = change(options, source=str(zoo), path=tmp_path / name)
    do(options)
    before = {row["image_id"]: row for row in rows(tmp_path / name)}
    shutil.copy(zoo / "ok-grey.png", zoo / "empty.jpg")
    opened_images.clear()
    assert do(change(options, retry_failed=True)) == Outcome(failed=4)  # too_large passes at this limit
    after = {row["image_id"]: row for row in rows(tmp_path / name)}
    assert sorted(opened_images) == ["empty.jpg", "not_an_image.jpg", "not_found.jpg", "truncated.jpg", "unreadable.jpg"]
    assert list(after) == list(before)
    assert after["empty.jpg"]["status"] == "ok"
    changed = [image_id for image_id, row in after.items() if row != before[image_id]]
    assert changed == ["empty.jpg"]
    assert len(list(tmp_path.glob(".again*"))) == 0


def test_retry_without_failures_does_nothing(options: RunOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """--retry-failed on a run without failures says that it is complete."""
    do(options)
    monkeypatch.setattr(jobs.engines, "load_network", lambda *_: pytest.fail("the network was loaded"))
    assert "Nothing is left to do" in said(change(options, retry_failed=True))


@pytest.fixture
def manifest(photos: Path, tmp_path: Path) -> Path:
    """Give a manifest with bytes, captions and a column of its own."""
    names = sorted(photos.iterdir())
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images: list[dict[str, object]] = [{"bytes": path.read_bytes(), "path": path.name} for path in names]
    images[2] = {"bytes": None, "path": None}
    captions = [["a cat", "a man in a black coat"] if number % 2 else None for number in range(8)]
    table = pa.table(
        {
            "image": pa.array(images, kind),
            "image_id": [path.stem for path in names],
            "caption": pa.array(captions, pa.list_(pa.string())),
            "licence": [f"l{number}" for number in range(8)],
        }
    )
    pq.write_table(table, tmp_path / "manifest.parquet", row_group_size=3)
    return tmp_path / "manifest.parquet"


def test_manifest_becomes_table(options: RunOptions, manifest: Path, tmp_path: Path) -> None:
    """Bytes in a manifest are captioned, its references judged, its columns carried along; no path is given."""
    assert do(change(options, source=str(manifest))) == Outcome(failed=1)
    table = rows(tmp_path / "out")
    assert [row["licence"] for row in table] == [f"l{number}" for number in range(8)]
    assert {row["path"] for row in table} == {None}
    assert str(table[2]["error"]).startswith("no_image: ")
    for number, row in enumerate(table):
        if number % 2:
            assert row["reference_tokens"] == [3, 7]
            assert all(nll > 0 for nll in row["reference_nll"])  # type: ignore[attr-defined]  # a list
        else:
            assert row["reference_nll"] is row["reference_tokens"] is None


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_odd_columns_travel_unchanged(options: RunOptions, photos: Path, tmp_path: Path, name: str) -> None:
    """Categories whose values differ by file, nested, null, decimal, time and view columns arrive as they were."""
    paths = sorted(str(path) for path in photos.iterdir())
    tables = []
    for number, part in enumerate((paths[:5], paths[5:])):
        count = len(part)
        columns = {
            "image_path": pa.array(part),
            "category": pa.array([f"c{number}-{row % 2}" for row in range(count)]).dictionary_encode(),
            "nested": pa.array([[{"box": [1.5, 2.0], "label": "cat"}]] * count),
            "nothing": pa.nulls(count),
            "price": pa.array([None] + [number] * (count - 1), pa.int64()).cast(pa.decimal128(30, 2)),
            "when": pa.array([10**15] * count, pa.timestamp("us", "Europe/Rome")),
            "text": pa.array(["x"] * count, pa.large_string()),
            "raw": pa.array([b"\xff\0"] * count),
            "pairs": pa.array([[("a", 1)]] * count, pa.map_(pa.string(), pa.int8())),
            "log_prob": pa.array([1.0] * count),
        }
        tables.append(pa.table(columns))
        (tmp_path / "m").mkdir(exist_ok=True)
        pq.write_table(tables[-1], tmp_path / "m" / f"{number}.parquet", row_group_size=2)
    output = tmp_path / name
    do(change(options, source=str(tmp_path / "m"), image_root=photos, path=output))
    read = read_captions(output)
    for column in tables[0].column_names[1:]:
        name_here = "manifest_log_prob" if column == "log_prob" else column
        expected = [value for table in tables for value in table.column(column).to_pylist()]
        assert read.column(name_here).to_pylist() == expected
        assert read.schema.field(name_here).type == tables[0].schema.field(column).type
    again = change(options, source=str(tmp_path / "m"), image_root=photos, path=output, retry_failed=True)
    assert do(again) == Outcome(failed=0)


def test_likelihood_of_own_caption(options: RunOptions, photos: Path, tmp_path: Path) -> None:
    """The caption found, given as reference, has the likelihood that the search gave it."""
    do(options)
    found = rows(tmp_path / "out")
    references = tmp_path / "references.csv"
    lines = [f"{row['image_id']},{row['caption']}" for row in found]
    references.write_text("\n".join(["image,caption", *lines]))
    do(change(options, references=references, path=tmp_path / "judged"))
    for row in rows(tmp_path / "judged"):
        assert row["reference_nll"] == [pytest.approx(-row["log_prob"], rel=1e-4)]  # type: ignore[operator]  # a float
        assert row["reference_tokens"] == [row["num_tokens"]]
    assert photos.exists()


def test_references_are_part_of_the_fingerprint(options: RunOptions, tmp_path: Path) -> None:
    """Other references are another run."""
    references = tmp_path / "references.csv"
    references.write_text("image,caption\ncat.jpg,a cat\nrocket.jpg,a rocket\n")
    do(change(options, references=references))
    assert sum(row["reference_nll"] is not None for row in rows(tmp_path / "out")) == 2
    references.write_text("image,caption\ncat.jpg,a dog\nrocket.jpg,a rocket\n")
    with pytest.raises(OutputError, match=r"--references was [0-9a-f]{12}, is [0-9a-f]{12}"):
        prepare(change(options, references=references))


def test_references_of_other_images_are_refused(options: RunOptions, tmp_path: Path) -> None:
    """References that fit none of the images are refused, naming an id of each side."""
    references = tmp_path / "references.csv"
    references.write_text("image,caption\nother.jpg,a cat\n")
    with pytest.raises(InputError, match=r"such as astronaut\.jpg, the references such as other\.jpg"):
        prepare(change(options, references=references))


def test_list_with_wrong_folder_is_refused(options: RunOptions, tmp_path: Path) -> None:
    """When none of the paths exists, the folder is wrong and not the images."""
    listing = tmp_path / "list.txt"
    listing.write_text("cat.jpg\nrocket.jpg\n")
    with pytest.raises(InputError, match=r"None of the first 2 images exists.*--image-root"):
        prepare(change(options, source=str(listing)))


@pytest.fixture
def hostile(photos: Path, tmp_path: Path) -> Path:
    """Give a manifest with one honest path among some that lead out of its folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copy(photos / "cat.jpg", folder)
    (folder / "link.jpg").symlink_to(photos / "rocket.jpg")
    (folder / "link").symlink_to(photos)
    (tmp_path / "coffee.jpg").symlink_to(photos / "coffee.jpg")
    names = ["cat.jpg", "../coffee.jpg", str(photos / "stairs.jpg"), "link.jpg", "link/officer.jpg", "file:///etc/passwd"]
    pq.write_table(pa.table({"image_path": names}), folder / "m.parquet")
    return folder / "m.parquet"


def test_a_manifest_reads_nothing_outside(options: RunOptions, hostile: Path, photos: Path, tmp_path: Path) -> None:
    """Paths of a manifest that lead out of its folder are failed rows that say what to do; --allow-outside lets them."""
    folder = hostile.parent
    assert do(change(options, source=str(hostile))) == Outcome(failed=5)
    errors = {row["image_id"]: row["error"] for row in rows(tmp_path / "out")}
    assert errors.pop("cat.jpg") is None
    remedy = f"lies outside {folder}; give --image-root a folder that holds it, or --allow-outside."
    shown = {name: name if name != "file:///etc/passwd" else "/etc/passwd" for name in errors}
    assert errors == {name: f"outside: {shown[str(name)]} {remedy}" for name in errors}
    assert do(change(options, source=str(hostile), allow_outside=True, retry_failed=True)) == Outcome(failed=1)
    kinds = {row["image_id"]: str(row["error"]).partition(":")[0] for row in rows(tmp_path / "out") if row["error"]}
    assert kinds == {"file:///etc/passwd": "not_an_image"}
    assert photos.is_dir()


def test_a_manifest_that_lies_elsewhere_is_refused(options: RunOptions, photos: Path, tmp_path: Path) -> None:
    """When all images lie outside, the folder is wrong: one sentence before work; a root that holds them mends it."""
    pq.write_table(pa.table({"path": [str(path) for path in sorted(photos.iterdir())]}), tmp_path / "m.parquet")
    elsewhere = change(options, source=str(tmp_path / "m.parquet"))
    with pytest.raises(InputError, match=r"first 8 images all lie outside .*--image-root .*--allow-outside") as caught:
        prepare(elsewhere)
    assert not caught.value.during_work
    assert not (tmp_path / "out").exists()
    assert do(change(elsewhere, image_root=photos)) == Outcome(failed=0)


def test_links_of_a_list_are_its_owners(options: RunOptions, photos: Path, tmp_path: Path) -> None:
    """Paths in a list that the user wrote may lead anywhere, as may links in a folder."""
    (tmp_path / "list.txt").write_text(f"{photos}/cat.jpg\n")
    assert do(change(options, source=str(tmp_path / "list.txt"))) == Outcome(failed=0)


def test_dry_run_writes_nothing(options: RunOptions, tmp_path: Path) -> None:
    """A plan says what would be done and leaves no trace."""
    lines = " ".join(describe(prepare(options)))
    assert "8 images, in 3 shards of up to 3." in lines
    assert "0 shards finished, 3 to do with 8 images." in lines
    assert not (tmp_path / "out").exists()


def test_impossible_search_is_refused_before_work(options: RunOptions, tmp_path: Path) -> None:
    """Decoding options that cannot be met together are refused, and nothing was written."""
    with pytest.raises(CaptError, match="--alternatives") as caught:
        do(change(options, alternatives=5))
    assert not caught.value.during_work
    assert not (tmp_path / "out").exists()


def test_failing_write_ends_the_run(options: RunOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk ends the run with one sentence, marked as during work; finished shards stay and the run can go on."""
    write = pq.ParquetWriter.write_table
    written: list[int] = []

    def full(self: pq.ParquetWriter, table: pa.Table, **keywords: object) -> None:
        written.append(1)
        if len(written) > 1:
            raise OSError(28, "No space left on device")
        write(self, table, **keywords)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(OutputError, match="No space left on device") as caught:
        do(options)
    monkeypatch.undo()
    assert caught.value.during_work
    assert [path.name for path in (tmp_path / "out").iterdir()] == [shard_name(0)]
    assert do(options) == Outcome(failed=0)
    assert len(rows(tmp_path / "out")) == 8


def test_source_that_breaks_later_ends_the_run(options: RunOptions, manifest: Path) -> None:
    """A manifest that vanishes while it is read ends the run with one sentence, marked as during work."""
    plan = prepare(change(options, source=str(manifest)))
    manifest.unlink()
    with pytest.raises(InputError, match="cannot be read") as caught:
        carry_out(plan)
    assert caught.value.during_work


def test_vanished_image_is_a_failed_row(options: RunOptions, photos: Path, tmp_path: Path) -> None:
    """An image that vanishes after the source was listed is a failed row."""
    folder = shutil.copytree(photos, tmp_path / "photos")
    plan = prepare(change(options, source=str(folder)))
    (folder / "cat.jpg").unlink()
    assert carry_out(plan) == Outcome(failed=1)
    assert {row["image_id"]: row["error"] for row in rows(tmp_path / "out") if row["error"]} == {
        "cat.jpg": "not_found: There is no file at this path."
    }


def test_batches_depend_on_the_row_only(options: RunOptions, tmp_path: Path) -> None:
    """Batches never cross a shard, so a run's composition does not depend on where it was interrupted."""
    source = prepare(options).source
    sizes = [[len(items) for items, _ in source.batches(range(start, min(start + 3, 8)), 2)] for start in (0, 3, 6)]
    assert sizes == [[2, 1], [2, 1], [2]]
    assert tmp_path.exists()


def test_changed_checkpoint_is_noticed(options: RunOptions, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A checkpoint that was replaced between the plan and its loading is refused."""
    copy = Path(shutil.copy(tiny_checkpoint, tmp_path / "c.safetensors"))
    plan = prepare(change(options, checkpoint=copy))
    plan = replace(plan, fingerprint=replace(plan.fingerprint, checkpoint_sha256="0" * 64))
    with pytest.raises(CaptError, match="changed while it was read"):
        carry_out(plan)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Keep results free of the number of threads that other tests chose."""
    import torch  # noqa: PLC0415  only where it is needed

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
