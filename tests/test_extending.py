"""An existing output is extended: only what is new in the source is captioned, nothing that is there is lost or moved."""

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capt.captions import RUN_FILE, read_captions, shard_name
from capt.errors import InputError, OutputError
from jobs.extending import extend
from jobs.merge import MergeOptions, merge
from jobs.options import OutputOptions, RunOptions, Share
from jobs.output import Output
from jobs.plan import prepare
from jobs.reader import open_source
from jobs.run import Outcome
from jobs.source import SourceOptions
from jobs.together import begin_extending
from tests.running import change, do, said

FIRST = ("cat.jpg", "coffee.jpg", "officer.jpg", "rocket.jpg", "stairs.jpg")
LATER = ("astronaut.jpg", "photographer.jpg", "raccoon.jpg")


@pytest.fixture
def growing(options: RunOptions, photos: Path, tmp_path: Path) -> RunOptions:
    """Give a run over five photographs in shards of three, done."""
    folder = tmp_path / "growing"
    folder.mkdir()
    for name in FIRST:
        shutil.copy(photos / name, folder)
    own = change(options, source=str(folder))
    assert do(own) == Outcome(failed=0)
    return own


def add(options: RunOptions, photos: Path, *names: str) -> RunOptions:
    """Add photographs to the source, and ask to extend."""
    for name in names:
        shutil.copy(photos / name, options.source.source)
    return change(options, extend=True)


def captions(path: Path) -> dict[str, tuple[object, object]]:
    """Read what a table says of each image."""
    rows = read_captions(path).to_pylist()
    assert len({row["image_id"] for row in rows}) == len(rows)
    return {row["image_id"]: (row["caption"], row["status"]) for row in rows}


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_only_what_is_new_is_captioned(
    growing: RunOptions, photos: Path, opened_images: list[str], tmp_path: Path, name: str
) -> None:
    """New images, which come first in the source, get rows at the end; the captions are those of a run over everything."""
    own = change(growing, path=tmp_path / name)
    do(own)
    before = read_captions(tmp_path / name)
    opened_images.clear()
    extended = add(own, photos, *LATER)
    with pytest.raises(OutputError, match=r"5 images then, 8 now\); give --extend to caption only what is new"):
        do(change(extended, extend=False))
    assert "3 images are new." in said(extended)
    assert sorted(opened_images) == sorted(LATER)
    after = read_captions(tmp_path / name)
    assert after.slice(0, 5).equals(before)
    do(change(growing, source=str(photos), path=tmp_path / "everything"))
    assert captions(tmp_path / name) == captions(tmp_path / "everything")
    assert "No image is new." in said(extended)
    assert "Nothing is left to do" in said(extended)


def test_extended_again_and_merged(growing: RunOptions, photos: Path, tmp_path: Path) -> None:
    """Batches of images may come one after the other; run.json counts them, and one file can be made of all."""
    do(add(growing, photos, "astronaut.jpg"))
    do(add(growing, photos, "photographer.jpg", "raccoon.jpg"))
    ids = read_captions(tmp_path / "out").column("image_id").to_pylist()
    assert ids == [*FIRST, "astronaut.jpg", "photographer.jpg", "raccoon.jpg"]
    report = json.loads((tmp_path / "out" / RUN_FILE).read_text())
    assert (report["rows"], report["shards"], report["new"], report["not_in_source"]) == (8, 4, 2, 0)
    assert report["captioned_in_last_session"] == 2
    assert merge(MergeOptions(output=tmp_path / "out", into=tmp_path / "all.parquet")).rows == 8
    assert read_captions(tmp_path / "all.parquet").equals(read_captions(tmp_path / "out"))


def test_deleted_images_are_reported_and_stay(growing: RunOptions, photos: Path, tmp_path: Path) -> None:
    """Their rows stay, and are named; they cannot be tried again."""
    Path(growing.source.source, "cat.jpg").unlink()
    Path(growing.source.source, "stairs.jpg").unlink()
    told = " ".join(said(add(growing, photos, "raccoon.jpg")).split())
    assert "The source has 2 images of the output no more; their rows stay: cat.jpg, stairs.jpg." in told
    assert list(captions(tmp_path / "out")) == [*FIRST, "raccoon.jpg"]
    assert json.loads((tmp_path / "out" / RUN_FILE).read_text())["not_in_source"] == 2


def test_failed_rows_of_an_extended_output_are_tried_again(growing: RunOptions, photos: Path, tmp_path: Path) -> None:
    """Each by its own image, wherever that is in the source now; those of images that are gone stay failed."""
    folder = Path(growing.source.source)
    for name in ("aaa.jpg", "dog.jpg"):
        (folder / name).write_text("no photograph yet")
    extended = change(growing, extend=True)
    assert do(extended) == Outcome(failed=2)
    shutil.copy(photos / "raccoon.jpg", folder / "aaa.jpg")
    (folder / "dog.jpg").unlink()
    shutil.copy(photos / "astronaut.jpg", folder / "0.jpg")
    assert do(change(extended, retry_failed=True)) == Outcome(failed=1)
    table = captions(tmp_path / "out")
    assert [*table] == [*FIRST, "aaa.jpg", "dog.jpg", "0.jpg"]
    assert [status for _, status in table.values()] == ["ok"] * 6 + ["failed", "ok"]


def test_an_interrupted_run_is_extended(growing: RunOptions, photos: Path, tmp_path: Path) -> None:
    """A gap is filled with images that have no row yet, or, when there are none any more, by a shard without rows."""
    (tmp_path / "out" / shard_name(0)).unlink()
    (tmp_path / "out" / RUN_FILE).unlink()
    do(add(growing, photos, *LATER))
    assert captions(tmp_path / "out").keys() == {*FIRST, *LATER}
    for name in (*LATER, *FIRST[:3]):
        Path(growing.source.source, name).unlink()
    (tmp_path / "out" / shard_name(0)).unlink()
    (tmp_path / "out" / RUN_FILE).unlink()
    assert do(change(growing, extend=True)) == Outcome(failed=0)
    assert [*captions(tmp_path / "out")] == ["rocket.jpg", "stairs.jpg", "officer.jpg", "photographer.jpg", "raccoon.jpg"]
    assert pq.read_metadata(tmp_path / "out" / shard_name(0)).num_rows == 0


def test_an_extended_output_is_never_taken_for_a_plain_one(growing: RunOptions, photos: Path, tmp_path: Path) -> None:
    """Its rows are not forgotten when the old source comes back, in a folder or in one file; merging waits for its end."""
    for name in ("out", "out.parquet"):
        own = change(growing, path=tmp_path / name)
        do(own)
        extended = add(own, photos, *LATER)
        do(extended)
        for photo in LATER:
            Path(growing.source.source, photo).unlink()
        for plain in (own, change(own, retry_failed=True)):
            with pytest.raises(OutputError, match=r"was extended .* give --extend"):
                prepare(plain)
        assert do(change(extended, retry_failed=True)) == Outcome(failed=0)
        assert read_captions(tmp_path / name).num_rows == 8
    (tmp_path / "out" / RUN_FILE).unlink()
    begin_extending(tmp_path / "out")
    with pytest.raises(OutputError, match=r"An extension of .* was not finished"):
        merge(MergeOptions(output=tmp_path / "out"))
    with pytest.raises(OutputError, match="was extended"):
        prepare(growing)


def test_an_interrupted_extension_of_one_file_goes_on(
    growing: RunOptions, photos: Path, opened_images: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it captioned before it was interrupted is not captioned again."""
    own = change(growing, path=tmp_path / "out.parquet", shard_size=1)
    do(own)
    extended = add(own, photos, *LATER)
    complete = Output.complete

    def interrupted(*_: object) -> None:
        raise OutputError("stopped")  # noqa: EM101 - as if killed before the end

    monkeypatch.setattr(Output, "complete", interrupted)
    with pytest.raises(OutputError, match="stopped"):
        do(extended)
    monkeypatch.setattr(Output, "complete", complete)
    opened_images.clear()
    assert do(extended) == Outcome(failed=0)
    assert opened_images == []
    assert [*captions(tmp_path / "out.parquet")] == [*FIRST, *LATER]


def test_a_manifest_in_another_order_is_extended(options: RunOptions, photos: Path, tmp_path: Path) -> None:
    """Rows are found by their ids, bytes and further columns go with them, also when failed ones are tried again."""
    manifest = tmp_path / "m.parquet"

    def write(names: list[str], broken: str = "") -> RunOptions:
        content = [b"" if name == broken else (photos / name).read_bytes() for name in names]
        licences = [f"licence of {name}" for name in names]
        pq.write_table(pa.table({"image_id": names, "jpg": content, "licence": licences}), manifest)
        return change(options, source=str(manifest), extend=True)

    assert do(write(list(FIRST), broken="cat.jpg")) == Outcome(failed=1)
    assert do(change(write([*LATER, *reversed(FIRST)]), retry_failed=True)) == Outcome(failed=0)
    table = read_captions(tmp_path / "out")
    assert table.column("image_id").to_pylist() == [*FIRST, *LATER]
    assert table.column("licence").to_pylist() == [f"licence of {name}" for name in (*FIRST, *LATER)]
    do(change(options, path=tmp_path / "everything"))
    assert captions(tmp_path / "out") == captions(tmp_path / "everything")
    pq.write_table(pa.table({"image_id": ["x"], "jpg": [b""], "author": ["y"]}), manifest)
    with pytest.raises(OutputError, match=r"author \(string\) now, licence \(string\) then"):
        prepare(change(options, source=str(manifest), extend=True))


def test_other_choices_are_refused_still(growing: RunOptions, photos: Path, tmp_path: Path) -> None:
    """An extension is made with what the output was made with; it goes neither with --overwrite nor with --shard."""
    with pytest.raises(OutputError, match="--beam-size was 2, is 3"):
        prepare(change(add(growing, photos, *LATER), beam_size=3))
    with pytest.raises(InputError, match="--overwrite starts anew"):
        OutputOptions(path=tmp_path / "x", extend=True, overwrite=True)
    with pytest.raises(InputError, match="--shard divides"):
        OutputOptions(path=tmp_path / "x", extend=True, share=Share(0, 2))


def test_an_empty_output_is_extended_by_everything(options: RunOptions, tmp_path: Path) -> None:
    """So a nightly job needs only one command."""
    assert do(change(options, extend=True)) == Outcome(failed=0)
    assert read_captions(tmp_path / "out").num_rows == 8


def test_a_shard_that_vanishes_is_a_sentence(growing: RunOptions, tmp_path: Path) -> None:
    """Between looking and reading somebody may remove it."""
    source = open_source(SourceOptions(source=growing.source.source))
    os.unlink(tmp_path / "out" / shard_name(1))  # noqa: PTH108 - as another program would
    with pytest.raises(OutputError, match="cannot be read any more"):
        extend(source, {0: 3, 1: 2}, Output(tmp_path / "out"), 3)
