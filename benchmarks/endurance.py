"""Measure whether a long run stays what it was at its beginning: memory, open files, threads and speed, from quarter to quarter.

Run: `python benchmarks/endurance.py [--quick] [--rows N] [--photos PLACE] [--shipped]`, by default 50,000 images, quickly 500. A
manifest repeats the photographs of a folder, or of parquet files with images, under as many different ids. `capt-batch run`
captions it in a process of its own, with a tiny random captioner or the one that ships. Every few seconds the kernel is asked
about that process and all that it started. Prints one line for each quarter of the images, and the last against the first; exit
code 1 if memory or open files have grown by more than a tenth, the files by more than two as well. Where other work shares the
machine, images a second of processor say more than images/s.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.memory import PHOTOS, ROOT, START, write_checkpoint, write_manifest

ROWS, QUICK_ROWS = 50_000, 500
INTERVAL, QUICK_INTERVAL = 3.0, 0.2  # seconds between samples
QUARTERS = 4
MOST_GROWTH = 1.1
MOST_MORE_FILES = 2  # a shard that is being written is open at some looks and not at others
PAGE, TICK = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
READ_AT_ONCE = 256  # photographs
USER_TIME, SYSTEM_TIME = 11, 12  # fields of /proc/PID/stat, counted behind the name


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A process and all that it started, at one moment: seconds since the start, MiB, open files, threads, processor seconds."""

    seconds: float
    memory: float
    files: int
    threads: int
    processor: float


@dataclass(frozen=True, kw_only=True)
class Quarter:
    """A quarter of the images: medians of its samples, and how many images a second of clock and of processor."""

    memory: float
    files: float
    threads: float
    per_second: float
    per_processor_second: float


def read_photographs(place: Path) -> list[bytes]:
    """Read photographs as files.

    Args:
        place: A folder of JPEG files, or of parquet files with a column `image` of bytes and path.

    Returns:
        The bytes of each.
    """
    tables = sorted(place.glob("*.parquet"))
    if not tables:
        return [path.read_bytes() for path in sorted(place.glob("*.jpg"))]
    batches = (batch for path in tables for batch in pq.ParquetFile(path).iter_batches(READ_AT_ONCE, columns=["image"]))
    return [image["bytes"] for batch in batches for image in batch.column("image").to_pylist()]


def look_at(process: int, begun: float) -> Sample:
    """Ask the kernel about a process and all that it started.

    Args:
        process: Its number.
        begun: When it was started, by the monotonic clock.

    Returns:
        What they have together; one that ends meanwhile does not count.
    """
    memory = files = threads = processor = 0
    for number in _tree(process):
        folder = Path(f"/proc/{number}")
        try:
            times = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            memory += int((folder / "statm").read_text(encoding="ascii").split()[1]) * PAGE
            files += len(list((folder / "fd").iterdir()))
            threads += len(list((folder / "task").iterdir()))
            processor += int(times[USER_TIME]) + int(times[SYSTEM_TIME])
        except (FileNotFoundError, ProcessLookupError):
            continue
    seconds = time.monotonic() - begun
    return Sample(seconds=seconds, memory=memory / 2**20, files=files, threads=threads, processor=processor / TICK)


def _tree(process: int) -> Iterator[int]:
    yield process
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        for child in children.read_text(encoding="ascii").split():
            yield from _tree(int(child))


def watch(arguments: Sequence[str], log: Path, interval: float) -> list[tuple[int, Sample]]:
    """Run `capt-batch` and look at it now and then.

    Args:
        arguments: Of the command line.
        log: Which it writes with `--log-json`.
        interval: Seconds between looks.

    Returns:
        For each shard that was written, how many images were done then, with the first look after it.

    Raises:
        SystemExit: If the run does not end well.
    """
    process = subprocess.Popen([sys.executable, "-c", START, *arguments], cwd=ROOT)
    begun, seen, looks = time.monotonic(), 0, list[tuple[int, Sample]]()
    while process.poll() is None:
        time.sleep(interval)
        sample = look_at(process.pid, begun)
        done = _rows_written(log)
        if sample.files and done > seen:
            seen = done
            looks.append((done, sample))
    if process.returncode:
        raise SystemExit(process.returncode)
    return looks


def _rows_written(log: Path) -> int:
    if not log.is_file():
        return 0
    lines = log.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
    return sum(event["rows"] for event in map(json.loads, lines) if event["event"] == "shard")


def quarters(looks: Sequence[tuple[int, Sample]], rows: int) -> list[Quarter]:
    """Sum looks up by quarters of the images.

    Args:
        looks: From `watch`.
        rows: Of the run.

    Returns:
        Four, in order.
    """
    found = []
    for number in range(QUARTERS):
        own = [look for look in looks if number * rows <= look[0] * QUARTERS <= (number + 1) * rows]
        samples = [sample for _, sample in own]
        images, first, last = own[-1][0] - own[0][0], samples[0], samples[-1]
        found.append(
            Quarter(
                memory=statistics.median(sample.memory for sample in samples),
                files=statistics.median(sample.files for sample in samples),
                threads=statistics.median(sample.threads for sample in samples),
                per_second=images / (last.seconds - first.seconds),
                per_processor_second=images / (last.processor - first.processor),
            )
        )
    return found


def _show(name: str, each: Quarter) -> str:
    numbers = f"{each.memory:,.0f} | {each.files:.0f} | {each.threads:.0f} | {each.per_second:.1f}"
    return f"| {name} | {numbers} | {each.per_processor_second:.1f} |"


def _ratio(first: Quarter, last: Quarter) -> Quarter:
    return Quarter(**{name: getattr(last, name) / value for name, value in vars(first).items()})


def main() -> None:
    """Write the manifest, watch the run, and print quarter by quarter."""
    parser = argparse.ArgumentParser(description="Measure whether a long run stays what it was at its beginning.")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS} images")
    parser.add_argument("--rows", type=int, default=None, help=f"how many images, by default {ROWS:,}")
    parser.add_argument("--photos", type=Path, default=PHOTOS, help="folder of JPEG or parquet files, by default examples/photos")
    parser.add_argument("--shipped", action="store_true", help="the captioner that ships instead of a tiny one")
    chosen = parser.parse_args()
    rows = chosen.rows or (QUICK_ROWS if chosen.quick else ROWS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photographs = read_photographs(chosen.photos)
        write_manifest(folder / "many.parquet", rows, photographs)
        options = ["--output", str(folder / "out"), "--log-json", str(folder / "log"), "--quiet"]
        options += ["--shard-size", str(max(1, rows // 100))]
        if not chosen.shipped:
            write_checkpoint(folder / "tiny.safetensors")
            options += ["--checkpoint", str(folder / "tiny.safetensors"), "--beam-size", "1", "--max-length", "4"]
        print(
            f"{rows:,} images of {len(photographs):,} photographs, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
        interval = QUICK_INTERVAL if chosen.quick else INTERVAL
        looks = watch(["run", str(folder / "many.parquet"), *options], folder / "log", interval)
        print(f"{looks[-1][1].seconds:,.0f} s, load {os.getloadavg()[0]:.1f} at the end")
    found = quarters(looks, rows)
    change = _ratio(found[0], found[-1])
    print("| images | MiB | open files | threads | images/s | images a second of processor |")
    print("| --- " * 6 + "|")
    for number, each in enumerate(found, start=1):
        print(_show(f"quarter {number}", each))
    print(f"| last / first | {' | '.join(f'{value:.3f}' for value in vars(change).values())} |")
    more_files = change.files > MOST_GROWTH and found[-1].files - found[0].files > MOST_MORE_FILES
    sys.exit(1 if change.memory > MOST_GROWTH or more_files else 0)


if __name__ == "__main__":
    main()
