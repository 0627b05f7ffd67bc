"""Kill the job at random moments, start it again, and look whether anything was lost.

Run: `python benchmarks/faults.py [--quick] [--kills N] [--seed S]`, by default 200 kills, quickly 21. A run of many small
shards is ended by SIGKILL at moments drawn uniformly over the time that it needs undisturbed: alone into a folder, alone into one
file, and by two workers that share a folder and are merged. Started again, it must end with the table of an undisturbed run, all
columns and rows, and leave no temporary file. Each start is a fork of a process that has imported torch and the job, so that a
kill costs no seconds of start-up and falls into the work. Prints a table; exit code 1 if anything was lost.
"""

import argparse
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from capt.captions import RUN_FILE, read_captions, shard_name, shard_paths

PHOTOS = Path(__file__).parents[1] / "examples" / "photos"
DEFAULT_KILLS, QUICK_KILLS, DEFAULT_SEED = 200, 21, 2026
IMAGES, SHARD_SIZE, BATCH_SIZE, SIDE = 80, 2, 2, 64  # 40 shards: much of the time is writing
TOLD_EVERY = 20  # kills
PRELOADED = [
    *("torch", "pandas", "pyarrow.pandas_compat", "pydantic.type_adapter", "capt.efficientnet_lite"),
    *("jobs.cli", "jobs.captioner", "jobs.merge", "jobs.plan", "jobs.progress", "jobs.run"),
]
UNDISTURBED_RUNS = 3
Commands = Sequence[Sequence[str]]
"""Arguments of `capt-batch` for starts that run at the same time."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to caption the photographs: what is started, step after step, and where its table is then.

    `steps` takes the arguments of the source and of the network, and the folder; `finished` names all files that may be left.
    """

    name: str
    table: str
    steps: Callable[[Sequence[str], Path], Sequence[Commands]]
    finished: frozenset[str]


def _alone(job: Sequence[str], folder: Path) -> Sequence[Commands]:
    return [[[*job, "--output", str(folder / "out")]]]


def _one_file(job: Sequence[str], folder: Path) -> Sequence[Commands]:
    return [[[*job, "--output", str(folder / "x.parquet")]]]


def _shared(job: Sequence[str], folder: Path) -> Sequence[Commands]:
    shares = [[*job, "--output", str(folder / "out"), "--shard", f"{number}/2"] for number in range(2)]
    return [shares, [["merge", str(folder / "out"), "--into", str(folder / "x.parquet"), "--overwrite", "--quiet"]]]


_SHARDS = frozenset({"out", f"out/{RUN_FILE}", *(f"out/{shard_name(number)}" for number in range(IMAGES // SHARD_SIZE))})
WAYS = (
    Way(name="alone, a folder", table="out", steps=_alone, finished=_SHARDS),
    Way(name="alone, one file", table="x.parquet", steps=_one_file, finished=frozenset({"x.parquet"})),
    Way(name="two workers, merged", table="out", steps=_shared, finished=_SHARDS | {"x.parquet"}),
)


@dataclass(kw_only=True)
class Tally:
    """What became of the kills of one way.

    `under_way` were before the end; `half_written` left a temporary file. `torn` shards were there after a kill and not what
    they should be; `unequal` tables differ after resuming, `lost_rows` of them; `leftover` files should not be there; `refused`
    starts did not end with 0.
    """

    kills: int = 0
    under_way: int = 0
    before_shards: int = 0
    after_shards: int = 0
    half_written: int = 0
    torn: int = 0
    refused: int = 0
    unequal: int = 0
    lost_rows: int = 0
    leftover: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether nothing was lost and nothing left."""
        return not (self.torn or self.refused or self.unequal or self.lost_rows or self.leftover)


class Campaign:
    """Starts, kills and resumes runs over one source; every random choice follows from the seed."""

    def __init__(self, folder: Path, source: Path, checkpoint: Path, *, seed: int = DEFAULT_SEED) -> None:
        """Start the process that the others are forked from; it imports, and runs no thread.

        Args:
            folder: For the outputs; what was started says its errors in `starts.log` there.
            source: Photographs, `IMAGES` of them.
            checkpoint: The captioner; small, so that the moments fall into writing as well.
            seed: Of the moments.
        """
        sizes = ["--shard-size", str(SHARD_SIZE), "--batch-size", str(BATCH_SIZE), "--workers", "2"]
        search = ["--precision", "float32", "--max-length", "4", "--beam-size", "2", "--runtime", "torch", "--quiet"]
        self._job = ["run", str(source), "--checkpoint", str(checkpoint), *sizes, *search]
        self._folder = folder
        self._random = random.Random(seed)  # noqa: S311  moments, no secrets
        self._processes: ForkServerContext = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(PRELOADED)
        self.log = folder / "starts.log"

    def attack(self, way: Way, kills: int, told: Callable[[str], None] = lambda _: None) -> tuple[Tally, float]:
        """Kill a run so many times, each in a folder of its own, and resume it each time.

        Args:
            way: What is started.
            kills: How many.
            told: Takes a line now and then.

        Returns:
            What became of them, and the seconds that the run needs undisturbed.
        """
        reference, seconds = self._undisturbed(way)
        tally = Tally()
        for number in range(1, kills + 1):
            with tempfile.TemporaryDirectory(dir=self._folder) as name:
                folder = Path(name)
                tally.kills += 1
                tally.under_way += self._start_and_kill(way, folder, self._random.uniform(0, seconds))
                _look_after_kill(way, folder, reference, tally)
                tally.refused += sum(self._complete(way, folder))
                _look_at_the_end(way, folder, reference, tally)
            if number % TOLD_EVERY == 0:
                told(f"{way.name}: {number} of {kills} killed and resumed, {'nothing lost' if tally.is_sound else tally}")
        return tally, seconds

    def _undisturbed(self, way: Way) -> tuple[pa.Table, float]:
        times, tables = [], []
        for _ in range(UNDISTURBED_RUNS):
            with tempfile.TemporaryDirectory(dir=self._folder) as name:
                begun = time.perf_counter()
                codes = self._complete(way, Path(name))
                times.append(time.perf_counter() - begun)
                if any(codes):
                    message = f"An undisturbed run ended with {codes}: {self.log.read_text()}"
                    raise SystemExit(message)
                tables.append(read_captions(Path(name) / way.table))
        if not all(table.equals(tables[0]) for table in tables):
            message = "Two undisturbed runs differ, so nothing can be found out about disturbed ones."
            raise SystemExit(message)
        return tables[0], statistics.median(times)

    def _start_and_kill(self, way: Way, folder: Path, moment: float) -> bool:
        """Start what a way starts, and kill one start or all that are running then; tells whether any was."""
        until = time.perf_counter() + moment
        for commands in way.steps(self._job, folder):
            running = [self._begin(command) for command in commands]
            while any(process.is_alive() for process in running) and time.perf_counter() < until:
                running[0].join(min(0.002, max(0.0, until - time.perf_counter())))
            if time.perf_counter() >= until:
                victims = self._random.sample(running, self._random.randint(1, len(running)))
                for victim in victims:
                    victim.kill()
                for process in running:
                    process.join()
                return any(victim.exitcode != 0 for victim in victims)
        return False

    def _complete(self, way: Way, folder: Path) -> list[int]:
        """Start what a way starts, undisturbed; gives the exit codes that are not 0."""
        codes: list[int | None] = []
        for commands in way.steps(self._job, folder):
            running = [self._begin(command) for command in commands]
            for process in running:
                process.join()
            codes += [process.exitcode for process in running]
        return [1 for code in codes if code != 0]

    def _begin(self, arguments: Sequence[str]) -> ForkServerProcess:
        process = self._processes.Process(target=be_the_program, args=(list(arguments), str(self.log)))
        process.start()
        return process


def be_the_program(arguments: Sequence[str], log: str) -> None:
    """Be `capt-batch` in a process that was forked with everything imported.

    Args:
        arguments: Of the command line.
        log: File that takes what it prints.
    """
    import torch  # noqa: PLC0415  the process that starts this one needs none

    from jobs.cli import main as capt_batch  # noqa: PLC0415  as above

    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    torch.set_num_threads(1)
    sys.argv = ["capt-batch", *arguments]
    capt_batch()


def _look_after_kill(way: Way, folder: Path, reference: pa.Table, tally: Tally) -> None:
    """Look at what a kill left: each shard must be whole and right, whatever else is missing."""
    shards = {**shard_paths(folder / "out"), **shard_paths(folder / ".x.parquet.parts")}
    tally.before_shards += not shards and not (folder / way.table).is_file()
    tally.after_shards += len(shards) * SHARD_SIZE == reference.num_rows or (folder / "x.parquet").is_file()
    tally.half_written += any(path.suffix == ".tmp" for path in folder.rglob("*"))
    for number, path in shards.items():
        try:
            whole = pq.ParquetFile(path).read().equals(reference.slice(number * SHARD_SIZE, SHARD_SIZE))
        except (OSError, pa.ArrowException):
            whole = False
        tally.torn += not whole


def _look_at_the_end(way: Way, folder: Path, reference: pa.Table, tally: Tally) -> None:
    """Hold what a resumed run ended with against the table of an undisturbed one."""
    tables = [way.table, *(["x.parquet"] if "x.parquet" in way.finished else [])]
    for name in dict.fromkeys(tables):
        try:
            table = read_captions(folder / name)
        except Exception as error:  # noqa: BLE001  whatever it is, the table is lost
            print(f"{way.name}: {error}", file=sys.stderr)
            table = reference.slice(0, 0)
        tally.unequal += not table.equals(reference)
        there = {str(row) for row in table.to_pylist()}
        tally.lost_rows += sum(str(row) not in there for row in reference.to_pylist())
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    tally.leftover += sorted(names - way.finished)


def write_photographs(folder: Path) -> None:
    """Write small copies of the example photographs, `IMAGES` of them.

    Args:
        folder: Made.
    """
    folder.mkdir()
    photos = sorted(PHOTOS.glob("*.jpg"))
    for number in range(IMAGES):
        photo = photos[number % len(photos)]
        with Image.open(photo) as image:
            image.draft("RGB", (SIDE, SIDE))
            image.convert("RGB").resize((SIDE, SIDE)).save(folder / f"{number:03d}-{photo.name}")


def _write_checkpoint(path: str) -> None:
    from benchmarks.memory import write_checkpoint  # noqa: PLC0415  imports torch

    write_checkpoint(Path(path))


def main() -> None:
    """Kill, resume, compare and print."""
    parser = argparse.ArgumentParser(description="Kill the job at random moments, and look whether anything was lost.")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_KILLS} kills")
    parser.add_argument("--kills", type=int, default=None, help=f"how many, by default {DEFAULT_KILLS}")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="of the moments")
    chosen = parser.parse_args()
    kills = chosen.kills or (QUICK_KILLS if chosen.quick else DEFAULT_KILLS)
    shares = (kills // 4, kills // 4, kills - 2 * (kills // 4))  # half alone, half shared
    sound = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photographs(folder / "photos")
        writing = multiprocessing.get_context("spawn").Process(target=_write_checkpoint, args=(str(folder / "tiny.safetensors"),))
        writing.start()
        writing.join()
        campaign = Campaign(folder, folder / "photos", folder / "tiny.safetensors", seed=chosen.seed)
        print(f"{IMAGES} images in {IMAGES // SHARD_SIZE} shards, seed {chosen.seed}, {os.cpu_count()} cores")
        lines = []
        for way, share in zip(WAYS, shares, strict=True):
            tally, seconds = campaign.attack(way, share, lambda line: print(line, flush=True))
            sound = sound and tally.is_sound
            resumed = tally.kills - tally.refused
            equal = tally.kills - min(tally.kills, tally.unequal)
            lines.append(
                f"| {way.name} | {seconds:.2f} | {tally.kills} | {tally.under_way} | {tally.before_shards} "
                f"| {tally.after_shards} | {tally.half_written} | {tally.torn} | {resumed} | {equal} | {tally.lost_rows} "
                f"| {len(tally.leftover)} |"
            )
            if tally.leftover:
                print("Left over:", ", ".join(tally.leftover[:10]))
        print(
            "| | s undisturbed | kills | under way | before a shard | after the last | half-written | torn shards | resumed "
            "| equal | lost rows | left-over files |"
        )
        print("| --- " * 12 + "|")
        print("\n".join(lines))
        if not sound and campaign.log.exists():
            print(campaign.log.read_text()[-2000:], file=sys.stderr)
    sys.exit(0 if sound else 1)


if __name__ == "__main__":
    main()
