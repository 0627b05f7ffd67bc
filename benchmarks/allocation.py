"""Measure what keeping freed memory gives (`jobs.allocation`): whole runs with it and without, by turns.

Run: `python benchmarks/allocation.py [--quick]`, by default 96 images and three rounds, quickly 16 and one. `capt-batch run`
captions the photographs of examples/photos again and again, by torch and, where it is installed, by OpenVINO, with the shipped
checkpoint. Without means: as glibc comes, which a variable of the environment that tunes nothing brings about. Prints medians:
seconds of the processor, those of them in the kernel, seconds from the first image to the last, page faults and peak memory.
"""

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from benchmarks.memory import ROOT, START, write_manifest

IMAGES, QUICK_IMAGES = 96, 16
ROUNDS, QUICK_ROUNDS = 3, 1
AS_IT_COMES = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=7"}  # glibc's own number: whoever sets one is left alone
KIBIBYTE = 1024


@dataclass(frozen=True, kw_only=True)
class Used:
    """What a run used: seconds of the processor, in the kernel and of the clock; page faults; MiB at most."""

    processor: float
    kernel: float
    clock: float
    faults: float
    memory: float


def caption(source: Path, runtime: str, environment: dict[str, str], folder: Path) -> Used:
    """Caption the images of a manifest in a process of its own.

    Args:
        source: The manifest.
        runtime: `torch` or `openvino`.
        environment: Variables beside this process's own.
        folder: For the output, which replaces what is there.

    Returns:
        What it used.

    Raises:
        SystemExit: If it fails.
    """
    arguments = ["run", str(source), "--output", str(folder), "--overwrite", "--quiet", "--runtime", runtime]
    command = [sys.executable, "-c", START, *arguments]
    process = os.posix_spawn(sys.executable, command, {**os.environ, "PYTHONPATH": str(ROOT), **environment})
    _, status, used = os.wait4(process, 0)
    if status:
        sys.exit(f"capt-batch ended with {os.waitstatus_to_exitcode(status)}")
    seconds = json.loads((folder / "run.json").read_text(encoding="utf-8"))["seconds"]
    return Used(
        processor=used.ru_utime + used.ru_stime,
        kernel=used.ru_stime,
        clock=float(seconds),
        faults=used.ru_minflt,
        memory=used.ru_maxrss / KIBIBYTE,
    )


def median(runs: Sequence[Used]) -> Used:
    """Take the median of each number."""
    names = Used.__dataclass_fields__
    return Used(**{name: statistics.median(getattr(run, name) for run in runs) for name in names})


def main() -> None:
    """Let both ways take turns, for each runtime, and print what they used."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few images, one round")
    quick = parser.parse_args().quick
    images, rounds = (QUICK_IMAGES, QUICK_ROUNDS) if quick else (IMAGES, ROUNDS)
    ways = {"as glibc comes": AS_IT_COMES, "kept": {}}
    runtimes = ["torch", *(["openvino"] if importlib.util.find_spec("openvino") else [])]
    with tempfile.TemporaryDirectory() as name:
        source, folder = Path(name) / "many.parquet", Path(name) / "out"
        write_manifest(source, images)
        print(f"{images} images, {rounds} rounds, {os.cpu_count()} cores")
        print(f"{'':26}{'processor s':>12}{'kernel s':>10}{'clock s':>9}{'faults':>12}{'MiB':>7}")
        for runtime in runtimes:
            runs: dict[str, list[Used]] = {way: [] for way in ways}
            for _ in range(rounds):
                for way, environment in ways.items():
                    runs[way].append(caption(source, runtime, environment, folder))
            for way, used in runs.items():
                processor, kernel, clock, faults, memory = astuple(median(used))
                label = f"{runtime}, {way}"
                print(f"{label:26}{processor:12.1f}{kernel:10.1f}{clock:9.1f}{faults:12,.0f}{memory:7,.0f}", flush=True)


if __name__ == "__main__":
    main()
