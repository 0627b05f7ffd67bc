"""File systems that hang under a run: it says what it waits for, and a signal ends it in bounded time all the same."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faulting import Program, are_kept, contents
from tests.stalling import StallingFile


def _list(photographs: list[Path], path: Path) -> bytes:
    path.write_text("\n".join(map(str, photographs)), encoding="utf-8")
    return path.read_bytes()


def _manifest(photographs: list[Path], path: Path) -> bytes:
    images = [photo.read_bytes() for photo in photographs]
    pq.write_table(pa.table({"image_id": [photo.name for photo in photographs], "image": images}), path)
    return path.read_bytes()


@pytest.mark.parametrize(("name", "write"), [("list.txt", _list), ("many.parquet", _manifest)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_while_looking(
    program: Program, tmp_path: Path, name: str, write: Callable[[list[Path], Path], bytes], number: signal.Signals
) -> None:
    """A source that does not open is named after some seconds, and a signal ends the wait for it."""
    content = write(sorted(program.photos.iterdir()), tmp_path / name)
    stalling = StallingFile(tmp_path / name, content)
    try:
        start = program.start(program.arguments(tmp_path / "out", tmp_path / name), is_impatient=True)
        assert start.has_said(f"Still looking at {tmp_path / name} and {tmp_path / 'out'}, for "), start.said()
        assert stalling.is_waited_for
        start.send(number)
        if number == signal.SIGTERM:
            assert start.end(30) == -number  # nothing has begun that would have to be ended cleanly
        else:
            start.ends_with(130, "Interrupted")
    finally:
        stalling.release()
    assert not (tmp_path / "out").exists()


@pytest.fixture
def freezable(tmp_path: Path) -> Iterator[Path]:
    """Give a small file system that can be frozen: whoever writes to it then waits."""
    image, folder = tmp_path / "image", tmp_path / "freezable"
    folder.mkdir()
    image.write_bytes(bytes(16 << 20))
    tools = [shutil.which(name) for name in ("mkfs.ext4", "mount", "umount", "fsfreeze")]
    if os.geteuid() or None in tools:
        pytest.skip("this user cannot mount a file system and freeze it")
    make, mount, umount, freeze = map(str, tools)
    if subprocess.run([make, "-q", str(image)], check=False).returncode:
        pytest.skip("no file system can be made here")
    if subprocess.run([mount, "-o", "loop", str(image), str(folder)], check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("this user cannot mount a file system and freeze it")
    yield folder
    subprocess.run([freeze, "--unfreeze", str(folder)], check=False, stderr=subprocess.DEVNULL)
    subprocess.run([umount, str(folder)], check=True)


def test_while_writing(program: Program, reference: pa.Table, freezable: Path) -> None:
    """A shard that cannot be written on is named after some seconds; after a signal nothing is waited for, and nothing lost."""
    output = freezable / "out"
    start = program.start(program.arguments(output), is_impatient=True)
    start.stop_after_shards(output, 3)
    subprocess.run(["fsfreeze", "--freeze", str(freezable)], check=True)  # noqa: S607  the fixture looked for it
    try:
        kept = contents(output)
        start.go_on()
        assert start.has_said(f"Still writing {output / 'captions-'}"), start.said()
        start.send(signal.SIGTERM)
        assert start.has_said("Interrupted; what it waits for did not end within 2 s"), start.said()
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", str(freezable)], check=True)  # noqa: S607  as above
    assert start.end() == 143  # only the kernel held it
    assert "Traceback" not in start.said()
    assert are_kept(kept, output)
    assert program.complete(program.arguments(output), output).equals(reference)
