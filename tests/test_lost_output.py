"""An output that is taken away from a run, or locked: it ends in one sentence, and the same command does what is missing."""

import shutil
from pathlib import Path

import pyarrow as pa

from capt.captions import RUN_FILE, shard_name
from tests.faulting import Disk, Program, are_kept, contents

READ_ONLY = "Read-only file system"


def test_read_only(program: Program, reference: pa.Table, disk: Disk) -> None:
    """An output on a read-only file system is refused before work, with 2."""
    disk.change("ro")
    arguments = program.arguments(disk.path / "out")
    program.start(arguments).ends_with(2, READ_ONLY)
    disk.change("rw")
    assert list(disk.path.iterdir()) == []
    assert program.complete(arguments, disk.path / "out").equals(reference)


def test_read_only_in_the_middle(program: Program, reference: pa.Table, disk: Disk) -> None:
    """A file system that becomes read-only, as broken disks do, ends the run with 3; finished shards stay."""
    output = disk.path / "out"
    start = program.start(program.arguments(output))
    start.stop_after_shards(output, 3)
    while not disk.change("ro"):
        start.go_on()
        start.stop()
    kept = contents(output)
    start.go_on()
    start.ends_with(3, READ_ONLY)
    assert are_kept(kept, output)
    disk.change("rw")
    assert program.complete(program.arguments(output), output).equals(reference)


def test_removed(program: Program, reference: pa.Table, tmp_path: Path) -> None:
    """A folder that is removed under a run is not made again behind somebody's back: the run ends with 3."""
    output = tmp_path / "out"
    start = program.start(program.arguments(output))
    start.stop_after_shards(output, 5)
    shutil.rmtree(output)
    start.go_on()
    start.ends_with(3, "No such file or directory")
    assert not output.exists()
    assert program.complete(program.arguments(output), output).equals(reference)


def test_replaced_by_a_file(program: Program, reference: pa.Table, tmp_path: Path) -> None:
    """A file in the place of the folder ends the run with 3, is refused by the next start with 2, and stays."""
    output = tmp_path / "out"
    start = program.start(program.arguments(output))
    start.stop_after_shards(output, 5)
    output.rename(tmp_path / "moved")
    output.write_text("somebody's", encoding="utf-8")
    kept = contents(tmp_path / "moved")
    start.go_on()
    start.ends_with(3, "Not a directory")
    program.start(program.arguments(output)).ends_with(2, "is a file; name a folder")
    assert output.read_text(encoding="utf-8") == "somebody's"
    output.unlink()
    (tmp_path / "moved").rename(output)
    assert are_kept(kept, output)
    assert program.complete(program.arguments(output), output).equals(reference)


def test_a_finished_shard_removed(program: Program, reference: pa.Table, tmp_path: Path) -> None:
    """A run of which somebody removes a finished shard is never called complete: it ends with 3 and names the shard."""
    output = tmp_path / "out"
    start = program.start(program.arguments(output))
    start.stop_after_shards(output, 5)
    (output / shard_name(1)).unlink()
    kept = contents(output)
    start.go_on()
    start.ends_with(3, shard_name(1))
    assert not (output / RUN_FILE).exists()
    assert are_kept(kept, output)
    assert program.complete(program.arguments(output), output).equals(reference)


def test_a_part_of_one_file_removed(program: Program, reference: pa.Table, tmp_path: Path) -> None:
    """The same holds for the parts of which one file is made."""
    output, parts = tmp_path / "x.parquet", tmp_path / ".x.parquet.parts"
    start = program.start(program.arguments(output))
    start.stop_after_shards(parts, 5)
    (parts / shard_name(1)).unlink()
    start.go_on()
    start.ends_with(3, shard_name(1))
    assert not output.exists()
    assert program.complete(program.arguments(output), output).equals(reference)
