"""A disk that fills under a run: it ends in one sentence, what is finished stays, and with room the same command completes it."""

import resource
from pathlib import Path

import pyarrow as pa
import pytest

from capt.captions import RUN_FILE
from tests.faulting import Disk, Program, are_kept, contents

FULL = "No space left on device"


def test_before_the_first_shard(program: Program, reference: pa.Table, disk: Disk) -> None:
    """A disk that is full from the beginning is refused before work, with 2; nothing is left there."""
    disk.fill()
    arguments = program.arguments(disk.path / "out")
    program.start(arguments).ends_with(2, FULL)
    assert list(disk.path.iterdir()) == [disk.filling]
    disk.filling.unlink()
    assert program.complete(arguments, disk.path / "out").equals(reference)


def test_at_the_first_shard(program: Program, reference: pa.Table, disk: Disk) -> None:
    """Room for a trial, but for no shard, ends the run with 3 and leaves nothing half written."""
    disk.fill(but=4096)
    output = disk.path / "out"
    program.start(program.arguments(output)).ends_with(3, FULL)
    assert list(output.iterdir()) == []
    disk.filling.unlink()
    assert program.complete(program.arguments(output), output).equals(reference)


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_in_the_middle(program: Program, reference: pa.Table, disk: Disk, name: str) -> None:
    """A disk that fills in the middle ends the run with 3; finished shards stay as they are."""
    output, folder = disk.path / name, disk.path / (".out.parquet.parts" if "." in name else name)
    program.disturb(program.arguments(output), folder, lambda _: disk.fill(), FULL)
    disk.filling.unlink()
    assert program.complete(program.arguments(output), output).equals(reference)


def test_a_quota(program: Program, reference: pa.Table, tmp_path: Path) -> None:
    """What the system refuses to a user is told like a full disk, where nobody may mount one."""
    output = tmp_path / "out"
    program.disturb(program.arguments(output), output, lambda start: start.limit(resource.RLIMIT_FSIZE, 4096), "File too large")
    assert program.complete(program.arguments(output), output).equals(reference)


def test_at_run_json(program: Program, reference: pa.Table, disk: Disk) -> None:
    """A run whose last word cannot be written is not complete, and says so with 3; all its shards stay."""
    output = disk.path / "out"
    arguments = program.arguments(output, f"{program.photos}{'/.' * 1500}")  # makes run.json larger than a page
    program.complete(arguments, output)
    (output / RUN_FILE).unlink()
    kept = contents(output)
    disk.fill(but=4096)  # enough for a trial
    program.start(arguments).ends_with(3, FULL)
    assert are_kept(kept, output)
    assert not (output / RUN_FILE).exists()
    disk.filling.unlink()
    assert program.complete(arguments, output).equals(reference)


def test_when_merging(program: Program, reference: pa.Table, disk: Disk, tmp_path: Path) -> None:
    """A merge into one file that does not fit ends with 3 and leaves no half file, and the run complete."""
    output = tmp_path / "out"
    program.complete(program.arguments(output), output)
    kept = contents(output)
    disk.fill(but=8192)
    merge = ["merge", str(output), "--into", str(disk.path / "x.parquet")]
    program.start(merge).ends_with(3, FULL)
    assert list(disk.path.iterdir()) == [disk.filling]
    assert are_kept(kept, output)
    disk.filling.unlink()
    assert program.complete(merge, disk.path / "x.parquet").equals(reference)


def test_temporary_folder(program: Program, reference: pa.Table, disk: Disk, tmp_path: Path) -> None:
    """A full /tmp is not in the way of a run on disk, which writes beside its output."""
    disk.fill()
    output = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(disk.path))
        assert program.complete(program.arguments(output), output).equals(reference)
