"""Faults under a run: the real command in a process of its own, stopped at a known point, and what must hold whatever happened.

In: photographs and arguments. Out: how the command ended, and its table when it was started again. Apart, because every kind of
fault is held against the same promises. Each start is a fork of a process that has imported torch and the job, so that a fault
costs no seconds of start-up.
"""

import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pyarrow as pa
import pytest

import jobs.interruption
import jobs.narrator
import jobs.waits
from benchmarks.faults import PRELOADED, be_the_program, write_photographs
from capt.captions import read_captions, shard_paths

IMAGES, SHARD_SIZE = 32, 2
SHARDS = IMAGES // SHARD_SIZE
PATIENCE = 120.0  # seconds after which a test has failed
Limits = Mapping[int, int]
"""Limits of the system, as `resource.RLIMIT_NOFILE`, and what they are set to before the program begins."""


class Start:
    """One start of `capt-batch`, which can be stopped at a known point."""

    def __init__(self, process: ForkServerProcess, log: Path) -> None:
        """Watch a process that was started.

        Args:
            process: Of `capt-batch`.
            log: Where it says what it says.
        """
        self._process, self._log = process, log

    @property
    def pid(self) -> int:
        """The number of the process."""
        assert self._process.pid is not None
        return self._process.pid

    def said(self) -> str:
        """Give what it has printed so far."""
        return self._log.read_text(encoding="utf-8") if self._log.exists() else ""

    def stop(self) -> None:
        """Stop the process where it is."""
        os.kill(self.pid, signal.SIGSTOP)

    def limit(self, kind: int, most: int) -> None:
        """Set a limit of the system for the process that runs already."""
        resource.prlimit(self.pid, kind, (most, most))

    def stop_when(self, is_so: Callable[[], bool]) -> None:
        """Stop the process as soon as something is so, and while it works."""
        _wait_until(lambda: is_so() or not self._process.is_alive())
        self.stop()
        assert self._process.is_alive(), self.said()

    def stop_after_shards(self, folder: Path, count: int) -> dict[int, bytes]:
        """Stop the process once so many shards are there; gives what they hold."""
        self.stop_when(lambda: len(shard_paths(folder)) >= count)
        assert len(shard_paths(folder)) < SHARDS
        return contents(folder)

    def has_said(self, sentence: str) -> bool:
        """Wait until it says something; False when it has ended before."""
        _wait_until(lambda: sentence in self.said() or not self._process.is_alive())
        return sentence in self.said()

    def send(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def go_on(self) -> None:
        """Let the stopped process go on."""
        os.kill(self.pid, signal.SIGCONT)

    def end(self, timeout: float = PATIENCE) -> int:
        """Wait until it has ended; gives its exit code."""
        self._process.join(timeout)
        if self._process.is_alive():
            self._process.kill()
            pytest.fail(f"it has not ended after {timeout:g} s: {self.said()}")
        return int(self._process.exitcode or 0)

    def ends_with(self, code: int, sentence: str) -> None:
        """Hold its end against what every error promises: the documented code, one sentence, no traceback."""
        ended, said = self.end(), self.said()
        last = [line for line in said.splitlines() if line.startswith("capt-batch: ")]
        assert (ended, len(last)) == (code, 1), said
        assert sentence in last[0], said
        assert "Traceback" not in said, said
        assert "unforeseen" not in said, said


class Program:
    """`capt-batch run` over 32 small photographs in sixteen shards, and the table of a run that nothing disturbed."""

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        """Write the photographs; nothing is started yet."""
        self.photos, self.checkpoint, self._folder = folder / "photos", checkpoint, folder
        write_photographs(self.photos)
        self._processes: ForkServerContext = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(PRELOADED)
        self._started: list[ForkServerProcess] = []

    def arguments(self, output: Path, source: Path | str | None = None) -> list[str]:
        """Give the arguments of the run."""
        sizes = ["--shard-size", str(SHARD_SIZE), "--batch-size", "2", "--workers", "2", "--precision", "float32"]
        search = ["--max-length", "4", "--beam-size", "2", "--runtime", "torch", "--checkpoint", str(self.checkpoint)]
        source = source or self.photos
        return ["run", str(source), "--limit", str(IMAGES), "--output", str(output), *sizes, *search]

    def start(self, arguments: list[str], limits: Limits | None = None, *, is_impatient: bool = False) -> Start:
        """Start the command; an impatient one speaks of what it waits for, and gives it up, after a second or two."""
        log = self._folder / f"{len(self._started)}.log"
        process = self._processes.Process(target=_be_limited, args=(arguments, str(log), dict(limits or {}), is_impatient))
        process.start()
        self._started.append(process)
        return Start(process, log)

    def close(self) -> None:
        """End what a test that failed has left, stopped as it may be."""
        for process in self._started:
            if process.is_alive():
                process.kill()

    def disturb(
        self, arguments: list[str], folder: Path, fault: Callable[[Start], object], sentence: str, *, after: int = 3
    ) -> None:
        """Do something to a run in its middle, and see that it ends with 3 and a sentence and keeps its shards.

        Args:
            arguments: Of the command.
            folder: Where its shards appear.
            fault: Done while the process stands still.
            sentence: What it must say, in part.
            after: Shards that are there by then.
        """
        start = self.start(arguments)
        kept = start.stop_after_shards(folder, after)
        fault(start)
        start.go_on()
        start.ends_with(3, sentence)
        assert are_kept(kept, folder)
        assert not list(folder.glob("*.tmp"))

    def complete(self, arguments: list[str], output: Path) -> pa.Table:
        """Start the command and let it end well, as after a fault; gives its table."""
        start = self.start(arguments)
        assert start.end() == 0, start.said()
        return read_captions(output)


def _be_limited(arguments: list[str], log: str, limits: dict[int, int], is_impatient: bool) -> None:  # noqa: FBT001
    for kind, most in limits.items():
        resource.setrlimit(kind, (most, most))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background, as tests may be, ignores it
    if is_impatient:
        jobs.waits._LONG, jobs.narrator._INTERVAL, jobs.interruption._GRACE = 1.0, 0.5, 2.0
    be_the_program(arguments, log)


def contents(folder: Path) -> dict[int, bytes]:
    """Give the bytes of the shards in a folder, by number."""
    return {number: path.read_bytes() for number, path in shard_paths(folder).items()}


def captions_of(table: pa.Table) -> pa.Table:
    """Give a table without what depends on where its images lie, and in which kind of source."""
    return table.drop_columns(["image_id", "path"])


def are_kept(shards: Mapping[int, bytes], folder: Path) -> bool:
    """Tell whether shards that were finished are still there, unchanged."""
    return bool(shards) and shards.items() <= contents(folder).items()


def _wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Disk:
    """A small file system in memory, which can be made larger, or one that nobody can write to."""

    def __init__(self, path: Path, kibibytes: int) -> None:
        """Mount it, or skip the test where this user may not."""
        self.path = path
        path.mkdir()
        self._mount("-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs")

    def _mount(self, *arguments: str) -> None:
        command = [shutil.which("mount") or "mount", *arguments, str(self.path)]
        if os.geteuid() or subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode:
            pytest.skip("this user cannot mount a file system")

    def change(self, options: str) -> bool:
        """Mount it with other options, `ro` or `rw`; tells whether it could be: not while a file is being written."""
        command = [shutil.which("mount") or "mount", "-o", f"remount,{options}", str(self.path)]
        return subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0

    @property
    def filling(self) -> Path:
        """The file that fills it; removed, there is room again."""
        return self.path / "filling"

    def fill(self, *, but: int = 0) -> None:
        """Write a file that leaves so many bytes free."""
        free = os.statvfs(self.path).f_bavail * os.statvfs(self.path).f_frsize
        self.filling.write_bytes(bytes(max(0, free - but)))

    def leave(self) -> None:
        """Unmount it."""
        subprocess.run([shutil.which("umount") or "umount", "--lazy", str(self.path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Give a file system of four mebibytes."""
    small = Disk(tmp_path / "disk", 4096)
    yield small
    small.leave()


@pytest.fixture(scope="session")
def program(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Give the command and what it captions."""
    found = Program(tmp_path_factory.mktemp("program"), tiny_checkpoint)
    yield found
    found.close()


@pytest.fixture(scope="session")
def reference(program: Program, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """Give the table of a run that nothing disturbed."""
    output = tmp_path_factory.mktemp("reference") / "out"
    return program.complete(program.arguments(output), output)
