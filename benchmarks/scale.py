"""Measure what ten million images cost beside looking at them: planning, memory, files, and going on where it stopped.

Run: `python benchmarks/scale.py [--quick] [--rows N]`, by default 10,000,000 rows, quickly 200,000. A manifest of so many paths
is planned as for any run. Then every row becomes a row of the captions table, through the job's own source, table and shards, but
with a stub in the place of the network and without opening the images: what is left is what grows with their number and not with
their content. Half of the shards are written, then the run is planned again, as after a stop, and completed. Memory is that of
this process, torch included, asked of the system every million rows.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from capt.captions import captions_schema
from jobs.captioner import Captioned, caption_batch
from jobs.loading import Loaded, LoadedBatch, Work
from jobs.options import NetworkOptions, OutputOptions, RunOptions
from jobs.plan import Plan, prepare
from jobs.source import SourceOptions
from jobs.writer import write_shard

ROWS, QUICK_ROWS, SHARD_SIZE = 10_000_000, 200_000, 10_000
ROWS_OF_A_FILE, BATCH_SIZE = 1_000_000, 1000
CAPTION = "a man in a blue shirt is standing on the street"
PIXELS = np.zeros((1, 1, 3), dtype=np.uint8)


class Stub:
    """Captions in no time, always the same."""

    batches_at_once = 1

    def caption(self, pixels: Sequence[NDArray[np.uint8]], references: Sequence[Sequence[str] | None]) -> list[Captioned]:
        """Caption images without looking at them.

        Args:
            pixels: Of N images.
            references: Not asked for.

        Returns:
            N captions.
        """
        del references
        return [Captioned(caption=CAPTION, log_prob=-9.5, num_tokens=11)] * len(pixels)


def resident() -> float:
    """Give the memory of this process now, in MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def write_manifest(folder: Path, rows: int) -> None:
    """Write paths as img2dataset names files, a million a parquet file; the first image exists.

    Args:
        folder: Made.
        rows: How many.
    """
    (folder / "000000").mkdir(parents=True)
    (folder / "000000" / "000000000000.jpg").write_bytes(b"")
    for number, start in enumerate(range(0, rows, ROWS_OF_A_FILE)):
        numbers = range(start, min(start + ROWS_OF_A_FILE, rows))
        names = [f"{row:012d}" for row in numbers]
        paths = [f"{row // 1000:06d}/{row:012d}.jpg" for row in numbers]
        pq.write_table(pa.table({"image_id": names, "image_path": paths}), folder / f"{number:05d}.parquet")


def plan_run(folder: Path) -> Plan:
    """Plan the run, and say what that took.

    Args:
        folder: With the manifest in `in`; the output is `out`.

    Returns:
        The plan.
    """
    begun, before = time.perf_counter(), resident()
    options = RunOptions(
        source=SourceOptions(source=str(folder / "in" / "*.parquet")),
        network=NetworkOptions(device="cpu", precision="float32"),
        decoding={},
        output=OutputOptions(path=folder / "out", shard_size=SHARD_SIZE),
    )
    plan = prepare(options)
    seconds, grown = time.perf_counter() - begun, resident() - before
    print(
        f"planned {plan.source.rows:,} rows in {seconds:.1f} s, {plan.to_caption:,} of them to do; "
        f"{grown:+.0f} MiB, now {resident():.0f} MiB",
        flush=True,
    )
    return plan


def caption(plan: Plan, works: Sequence[Work]) -> None:
    """Write the shards of some works, and say every million rows how that goes.

    Args:
        plan: Of the run.
        works: Which ones.
    """
    schema = captions_schema(plan.fingerprint, plan.source.travelling)
    begun, done = time.perf_counter(), 0
    for work in works:
        tables, left = [], len(work.rows)
        for items, travelling in plan.source.batches(work.rows, BATCH_SIZE):
            left -= len(items)
            images = [Loaded(pixels=PIXELS, width=500, height=375)] * len(items)
            batch = LoadedBatch(work=work, items=items, travelling=travelling, images=images, is_last=not left)
            tables.append(caption_batch(Stub(), batch, schema, None))
        write_shard(plan.output.folder, work, tables, schema)
        done += len(work.rows)
        if done % ROWS_OF_A_FILE == 0 or work is works[-1]:
            rate = done / (time.perf_counter() - begun)
            print(f"  {done:,} rows, {rate:,.0f} a second, {resident():.0f} MiB", flush=True)


def main() -> None:
    """Plan, write half, plan again, write the rest, and look at a complete output."""
    parser = argparse.ArgumentParser(description="Measure what ten million images cost beside looking at them.")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS:,} rows")
    parser.add_argument("--rows", type=int, default=None, help=f"how many, by default {ROWS:,}")
    chosen = parser.parse_args()
    rows = chosen.rows or (QUICK_ROWS if chosen.quick else ROWS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        writing = multiprocessing.get_context("spawn").Process(target=write_manifest, args=(folder / "in", rows))
        writing.start()
        writing.join()
        (folder / "out").mkdir()
        print(f"{os.cpu_count()} cores, shards of {SHARD_SIZE:,} rows; {resident():.0f} MiB before", flush=True)
        plan = plan_run(folder)
        caption(plan, plan.works[: len(plan.works) // 2])
        plan = plan_run(folder)
        caption(plan, plan.works)
        plan = plan_run(folder)
        report = {"rows": plan.source.rows, "failed": {}}
        schema = captions_schema(plan.fingerprint, plan.source.travelling)
        plan.output.complete(report, schema, len(plan.shards))
        sizes = [path.stat().st_size for path in (folder / "out").iterdir()]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
        print(f"{len(sizes):,} files, {sum(sizes) / rows:.1f} bytes a row of table; {peak:.0f} MiB at most")


if __name__ == "__main__":
    main()
