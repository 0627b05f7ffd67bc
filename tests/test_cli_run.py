"""`capt-batch run` as a user starts, kills and resumes it: exit codes, sentences, and nothing lost."""

import inspect
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

import pyarrow as pa
import pytest

from capt.captions import read_captions, shard_name, shard_paths
from capt.decoding import DecodingOptions
from jobs.cli import run
from jobs.options import NetworkOptions, OutputOptions
from jobs.source import SourceOptions
from tests.running import Job, Started, wait_for_shards
from tests.stalling import StallingFile

WITHOUT_TORCH = """
import sys
from jobs.cli import main
try:
    main()
finally:
    assert "torch" not in sys.modules
"""
MOUNT, UMOUNT = shutil.which("mount") or "mount", shutil.which("umount") or "umount"


@pytest.mark.parametrize(("name", "moments"), [("out", (1, 6)), ("out.parquet", (3,))])
def test_kill_at_any_moment(job: Job, undisturbed: pa.Table, tmp_path: Path, name: str, moments: tuple[int, ...]) -> None:
    """Killed with -9 at random moments and started again, the table is the one of an undisturbed run."""
    output = tmp_path / name
    folder = tmp_path / ".out.parquet.parts" if name.endswith(".parquet") else output
    generator = random.Random(name)  # noqa: S311  no secret
    for shards in moments:
        process = job.begin(output)
        wait_for_shards(process, folder, shards)
        time.sleep(generator.random() * 0.2)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert len(shard_paths(folder)) < 16
    table = job.complete(output)
    assert table.equals(undisturbed)
    assert len(set(table.column("image_id").to_pylist())) == 64
    assert not list(tmp_path.rglob("*.tmp"))
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interruption(job: Job, undisturbed: pa.Table, tmp_path: Path, number: int, code: int) -> None:
    """Ctrl-C ends the run cleanly, says with which command to go on, and that command completes it."""
    output = tmp_path / "out"
    process = job.begin(output)
    wait_for_shards(process, output, 2)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert out == ""
    kept = shard_paths(output)
    assert f"Interrupted; {4 * len(kept)} of 64 images are done and kept, go on with: capt-batch run" in err
    assert "Traceback" not in err
    assert 2 <= len(kept) < 16
    assert sorted(path.name for path in output.iterdir()) == [shard_name(shard) for shard in kept]
    assert job.complete(output).equals(undisturbed)


def test_full_disk(job: Job, tmp_path: Path) -> None:
    """When a file cannot grow any more the run ends with 3 and one sentence, and no half file is left."""
    unmeasured = {
        name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")
    }  # its file would be cut too
    process = job.begin(
        tmp_path / "out", env=unmeasured, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
    )
    _, err = process.communicate(timeout=120)
    assert process.returncode == 3
    assert "cannot be written (File too large); make room or mend it and start the same command again." in err
    assert "Traceback" not in err
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run([MOUNT, "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("this user cannot mount a small file system")
    yield disk
    subprocess.run([UMOUNT, str(disk)], check=True)


def test_full_file_system(job: Job, undisturbed: pa.Table, small_disk: Path) -> None:
    """On a full file system finished shards stay; with more room the same command completes the run."""
    output = small_disk / "out"
    process = job.begin(output)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 3
    assert "No space left on device" in err
    assert 0 < len(shard_paths(output)) < 16
    assert not list(output.glob("*.tmp"))
    subprocess.run([MOUNT, "-o", "remount,size=10m", str(small_disk)], check=True)
    assert job.complete(output).equals(undisturbed)


def test_done(start: Started, photos: Path, tmp_path: Path) -> None:
    """A good run exits with 0, shows a table on stderr in 80 columns and nothing on stdout; again, it says so."""
    ended = start(photos, "-o", tmp_path / "out")
    assert (ended.code, ended.out) == (0, "")
    assert "captioned │ 8" in ended.err
    again = start(photos, "-o", tmp_path / "out")
    assert again.code == 0
    assert "is complete: 8 rows. Nothing is left to do." in again.err


def test_quiet(start: Started, photos: Path, tmp_path: Path) -> None:
    """Quiet shows nothing when nothing is wrong."""
    ended = start(photos, "-o", tmp_path / "out", "--quiet")
    assert (ended.code, ended.out, ended.err) == (0, "", "")


def test_failures_decide_the_exit_code(start: Started, tmp_path: Path) -> None:
    """Failed images give 1, with --allow-failures 0, also when the run is complete already."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    arguments = (tmp_path / "photos", "-o", tmp_path / "out")
    ended = start(*arguments)
    assert ended.code == 1
    assert "failed: empty │ 1" in ended.err
    assert start(*arguments).code == 1
    assert start(*arguments, "--allow-failures").code == 0


def test_an_image_that_does_not_open(start: Started, photos: Path, stalling: StallingFile, tmp_path: Path) -> None:
    """An image whose opening stalls is a failed row after --image-timeout seconds; once it opens, --retry-failed captions it."""
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    (folder / "cat.jpg").unlink()
    (folder / "cat.jpg").symlink_to(stalling.path)
    arguments = (folder, "-o", tmp_path / "out", "--image-timeout", "3")
    ended = start(*arguments)
    assert stalling.is_waited_for
    assert ended.code == 1
    failed = {row["image_id"]: row["error"] for row in read_captions(tmp_path / "out").to_pylist() if row["status"] == "failed"}
    assert failed == {"cat.jpg": "timeout: Opening the image took more than 3 s (--image-timeout)."}
    stalling.release()
    assert start(*arguments, "--retry-failed").code == 0


def test_dry_run(start: Started, photos: Path, tmp_path: Path) -> None:
    """A dry run says what would be done and writes nothing."""
    ended = start(photos, "-o", tmp_path / "out", "--dry-run")
    assert (ended.code, ended.out) == (0, "")
    assert "0 shards finished, 1 to do with 8 images." in ended.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{tmp}/nothing"], "There is no"),
        (["{tmp}"], "holds no images"),
        (["{photos}", "--limit", "0"], "--limit"),
        (["{photos}", "--batch-size", "0"], "--batch-size"),
        (["{photos}", "--image-timeout", "nan"], "--image-timeout"),
        (["{photos}", "--beam-size", "0"], "--beam-size"),
        (["{photos}", "--precision", "float8"], "no precision 'float8'"),
        (["{photos}", "--device", "abacus"], "no device 'abacus'"),
        (["{photos}", "--overwrite", "--retry-failed"], "give one of them"),
        (["{photos}", "--references", "{tmp}/none.json"], "none.json"),
        (["{photos}", "-o", "/proc/x"], "/proc/x cannot be written"),
        (["{photos}", "--min-length", "9"], "--min-length"),
    ],
)
def test_refused_before_work(start: Started, photos: Path, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    """What cannot work is refused with 2 and one sentence, and nothing is written."""
    filled = [each.format(tmp=tmp_path, photos=photos) for each in arguments]
    ended = start(*(["-o", tmp_path / "out"] if "-o" not in filled else []), *filled)
    assert ended.code == 2
    assert sentence in ended.err
    assert ended.out == ""
    assert "Traceback" not in ended.err
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_that_is_none(start: Started, photos: Path, tmp_path: Path) -> None:
    """A checkpoint that cannot be read is refused before anything is written."""
    (tmp_path / "x.safetensors").write_text("no checkpoint")
    ended = start(photos, "-o", tmp_path / "out", "--checkpoint", tmp_path / "x.safetensors")
    assert ended.code == 2
    assert "x.safetensors is not a checkpoint" in ended.err
    assert not (tmp_path / "out").exists()


def test_defaults_are_those_of_the_options() -> None:
    """The command's defaults are those that the options have, although the command names them without importing them."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(run).parameters.items()}
    source, network = SourceOptions(source="x"), NetworkOptions()
    output = OutputOptions(path=Path("captions"))
    for options in (source, network, output):
        for field in fields(options):
            if field.name not in {"source", "workers", "path", "checkpoints", "share"}:
                assert defaults[field.name] == getattr(options, field.name)
    assert defaults["checkpoint"] is None  # the one that ships, as no checkpoint is
    assert not network.checkpoints
    search = DecodingOptions()
    assert {field.name: defaults[field.name] for field in fields(search)} == asdict(search)
    assert defaults["output"] == str(output.path)


def test_refusals_come_before_torch(job: Job, photos: Path, tmp_path: Path) -> None:
    """Neither a refusal nor a finished run waits for torch to load."""
    job = Job(photos, job.checkpoint)
    job.complete(tmp_path / "out")
    (tmp_path / "file").touch()
    for output, code in (("out", 0), ("file", 2)):
        arguments = [sys.executable, "-c", WITHOUT_TORCH, *job.arguments(tmp_path / output)]
        assert subprocess.run(arguments, check=False).returncode == code
