"""What a run keeps to itself: its temporary files, and its machine; nothing of it is open to others."""

import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.running import START

LISTENING = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}  # states, as the kernel numbers them
WATCHED = (
    """
import atexit, json, os, sys
os.umask(0)
opened, made = [], []
def hear(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[2] & os.O_CREAT:
        opened.append(os.path.abspath(arguments[0]))
    elif event in ("tempfile.mkstemp", "tempfile.mkdtemp"):
        made.append(os.path.abspath(arguments[0]))
sys.addaudithook(hear)
def tell():
    with open(os.environ["WATCHED"], "w") as file:
        json.dump({"opened": opened, "made": made}, file)
atexit.register(tell)
"""
    + START
)

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it is /proc that tells")


def _arguments(photos: Path, checkpoint: Path, output: Path) -> list[str]:
    options = ["--checkpoint", str(checkpoint), "--max-length", "4", "--workers", "2", "--shard-size", "3", "--batch-size", "2"]
    return ["run", str(photos), "--output", str(output), *options]


def test_temporary_files_are_ones_own_whatever_the_umask(photos: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Under a umask of 000 all that a run makes is in its output, or was made by `mkstemp` for its owner alone; none is left."""
    import json  # noqa: PLC0415 - only here

    temporary, output, watched = tmp_path / "tmp", tmp_path / "out", tmp_path / "watched.json"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary), "WATCHED": str(watched), "HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", WATCHED, *_arguments(photos, tiny_checkpoint, output)]
    subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True)
    told = json.loads(watched.read_text())
    beside = {str(watched), os.devnull}
    made_elsewhere = [path for path in told["opened"] if not path.startswith((f"{output}/", "/proc/")) and path not in beside]
    assert [path for path in made_elsewhere if path not in told["made"] and path != str(tmp_path)] == []
    assert any(path.startswith(f"{output}/captions-00000.parquet.") for path in told["opened"])  # the watch sees files
    assert list(temporary.iterdir()) == []
    assert {path.name for path in output.iterdir()} == {"run.json", *(f"captions-0000{number}.parquet" for number in range(3))}
    assert stat.S_IMODE((output / "run.json").stat().st_mode) == 0o644


def test_a_file_that_is_made_whole_is_private_until_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is written, a checkpoint, a report or a state is its owner's alone, under a umask of 000 too."""
    from capt.files import write_whole  # noqa: PLC0415 - beside its test

    seen: list[int] = []
    sync = os.fsync

    def look(descriptor: int) -> None:
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    before = os.umask(0)
    try:
        write_whole(tmp_path / "file", b"content")
    finally:
        os.umask(before)
    assert seen == [0o600]


def _listening(process: int) -> set[str]:
    """Give the addresses at which a process or one that it started listens."""
    inodes = {inode for each in _family(process) for inode in _sockets(each)}
    return {address for kind, state in LISTENING.items() for address, inode in _bound(kind, state) if inode in inodes}


def _family(process: int) -> Iterator[int]:
    """Give a process and all below it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has ended
                continue
    found = [process]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    yield from found


def _sockets(process: int) -> Iterator[str]:
    try:
        for link in Path(f"/proc/{process}/fd").iterdir():
            target = str(link.readlink())
            if target.startswith("socket:["):
                yield target[8:-1]
    except OSError:  # it has ended
        return


def _bound(kind: str, state: str) -> Iterator[tuple[str, str]]:
    table = Path(f"/proc/net/{kind}")
    for line in table.read_text().splitlines()[1:] if table.exists() else ():
        fields = line.split()
        if fields[3] == state:
            words = bytes.fromhex(fields[1].partition(":")[0])
            yield str(ip_address(b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4)))), fields[9]


def _watch(command: list[str], environment: Mapping[str, str]) -> tuple[int, set[str], int]:
    """Run a command to its end; give its exit code, where it listened, and how often that was looked at."""
    process = subprocess.Popen(command, cwd=ROOT, env=dict(environment), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found: set[str] = set()
    looks = 0
    while process.poll() is None:
        found |= _listening(process.pid)
        looks += 1
        time.sleep(0.02)
    return process.returncode, found, looks


def test_a_run_listens_nowhere(photos: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """While it captions, neither the run nor anything that it started waits for connections, here or elsewhere."""
    command = [sys.executable, "-c", START, *_arguments(photos, tiny_checkpoint, tmp_path / "out")]
    code, found, looks = _watch(command, os.environ)
    assert (code, found) == (0, set())
    assert looks > 20


def test_the_watch_sees_a_public_address() -> None:
    """A program that listens everywhere is seen to, so that nothing found means something."""
    program = "import socket, time; s = socket.create_server(('0.0.0.0', 0)); time.sleep(2)"
    code, found, _ = _watch([sys.executable, "-c", program], os.environ)
    assert (code, found) == (0, {"0.0.0.0"})  # noqa: S104  it is what must be found
