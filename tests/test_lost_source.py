"""A source, a checkpoint or references that change under a run: rows say what happened, or it ends in one sentence."""

import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capt.captions import read_captions
from tests.faulting import IMAGES, Program, are_kept, captions_of

LATE = IMAGES - 2  # an image that is read long after the third shard
FIRST = IMAGES - 4  # images in the first of two tables, so that there is time to change it while it is read


def _photographs(program: Program, folder: Path) -> list[Path]:
    shutil.copytree(program.photos, folder)
    return sorted(folder.iterdir())[:IMAGES]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:500])


def _replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (Path.unlink, "not_found"),
        (_truncate, "truncated"),
        (lambda path: path.write_bytes(b""), "empty"),
        (_replace_by_folder, "unreadable"),
    ],
    ids=["removed", "truncated", "emptied", "a folder"],
)
def test_an_image(program: Program, reference: pa.Table, tmp_path: Path, fault: Callable[[Path], object], cause: str) -> None:
    """An image that was listed and is no more what it was is a row with its cause; put back, --retry-failed captions it."""
    photographs = _photographs(program, tmp_path / "photos")
    output, arguments = tmp_path / "out", program.arguments(tmp_path / "out", tmp_path / "photos")
    photo, content = photographs[LATE], photographs[LATE].read_bytes()
    start = program.start(arguments)
    kept = start.stop_after_shards(output, 3)
    fault(photo)
    start.go_on()
    assert start.end() == 1, start.said()
    failed = [row for row in read_captions(output).to_pylist() if row["status"] == "failed"]
    assert [row["image_id"] for row in failed] == [photo.name]
    assert failed[0]["error"].startswith(f"{cause}: ")
    assert are_kept(kept, output)
    shutil.rmtree(photo, ignore_errors=True)
    photo.write_bytes(content)
    assert captions_of(program.complete([*arguments, "--retry-failed"], output)).equals(captions_of(reference))


def _write_manifests(photographs: list[Path], folder: Path) -> list[Path]:
    """Write two manifests of the photographs."""
    folder.mkdir()
    paths = []
    for number, own in enumerate((photographs[:FIRST], photographs[FIRST:])):
        table = pa.table({"image_id": [path.stem for path in own], "image": [path.read_bytes() for path in own]})
        paths.append(folder / f"{number}.parquet")
        pq.write_table(table, paths[-1], row_group_size=4)
    return paths


def _write_tars(photographs: list[Path], folder: Path) -> list[Path]:
    """Write the same as tar files."""
    folder.mkdir()
    paths = []
    for number, own in enumerate((photographs[:FIRST], photographs[FIRST:])):
        paths.append(folder / f"{number}.tar")
        with tarfile.open(paths[-1], "w") as tar:
            for path in own:
                tar.add(path, path.name)
    return paths


def _reorder(path: Path) -> None:
    """Write a manifest or tar file anew, in another order, so that it is as long and as good as before."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        pq.write_table(table.take(list(reversed(range(table.num_rows)))), path, row_group_size=4)
        return
    content = path.read_bytes()
    with tarfile.open(fileobj=io.BytesIO(content)) as old, tarfile.open(path, "w") as new:
        for member in reversed(old.getmembers()):
            new.addfile(member, old.extractfile(member))


@pytest.fixture(params=[_write_manifests, _write_tars], ids=["parquet", "tar"])
def tables(program: Program, tmp_path: Path, request: pytest.FixtureRequest) -> list[Path]:
    """Give two manifests, or two tar files, with the photographs that the program captions."""
    found: list[Path] = request.param(sorted(program.photos.iterdir())[:IMAGES], tmp_path / "tables")
    return found


@pytest.mark.parametrize("fault", [Path.unlink, _truncate, _reorder], ids=["removed", "truncated", "reordered"])
@pytest.mark.parametrize("which", [0, 1], ids=["being read", "not yet read"])
def test_a_table_of_images(
    program: Program, reference: pa.Table, tables: list[Path], fault: Callable[[Path], None], which: int
) -> None:
    """A manifest or tar file that is no more what was planned ends the run with 3, and no row of another image is written."""
    file = tables[which]
    output = file.parents[1] / "out"
    arguments = program.arguments(output, file.parent)
    content = file.read_bytes()
    program.disturb(arguments, output, lambda _: fault(file), str(file), after=1)
    file.write_bytes(content)
    assert captions_of(program.complete(arguments, output)).equals(captions_of(reference))


def test_checkpoint_and_references(program: Program, tmp_path: Path) -> None:
    """Both are read before work: what becomes of the files then changes nothing in this start, and the next one says so."""
    checkpoint, references = tmp_path / "tiny.safetensors", tmp_path / "references.csv"
    shutil.copy(program.checkpoint, checkpoint)
    names = [path.name for path in sorted(program.photos.iterdir())]
    references.write_text("image_id,caption\n" + "".join(f"{name},a cat sits\n" for name in names), encoding="utf-8")
    output = tmp_path / "out"
    whole = [str(checkpoint) if each == str(program.checkpoint) else each for each in program.arguments(tmp_path / "whole")]
    whole += ["--references", str(references)]
    undisturbed = program.complete(whole, tmp_path / "whole")
    arguments = [str(output) if each == str(tmp_path / "whole") else each for each in whole]
    start = program.start(arguments)
    kept = start.stop_after_shards(output, 3)
    saved = {path: path.read_bytes() for path in (checkpoint, references)}
    checkpoint.write_bytes(b"")
    references.unlink()
    start.go_on()
    assert start.end() == 0, start.said()
    assert read_captions(output).equals(undisturbed)
    assert are_kept(kept, output)
    program.start(arguments).ends_with(2, str(checkpoint))
    checkpoint.write_bytes(saved[checkpoint])
    program.start(arguments).ends_with(2, str(references))
    references.write_bytes(saved[references])
    assert program.complete(arguments, output).equals(undisturbed)
