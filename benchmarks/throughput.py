"""Measure how near `capt-batch run` comes to what the machine can do: images per second of the whole job and of its parts.

Run: `python benchmarks/throughput.py [--quick | --curves [--most N]]`. For the shipped checkpoint and for ResNet-50 (49 cells,
random weights, eleven words), with photographs of examples/photos as files of 500×375, as 224×224 in parquet, and as files of 12
megapixels, it prints images per second of

    encoder    a: the encoder alone, on pixels in memory
    captioner  b: encoder and beam search, on pixels in memory
    images     c: JPEG decoding and resizing alone, by as many threads as the job uses
    job        d: `capt-batch run`, a process of its own, from the first image to the last
    peer          as many write it: one image at a time, float32, eleven words, the map projected at every step, copied per beam

with the ratios d / min(a, c) and b / a, stage times and peak memory of the job; then how long it takes until an image is in work,
beside `import torch` alone, and `--help`. All lines of a case take turns, and the median of the rounds counts. `--curves`
measures instead how the job grows: from 100 to 50,000 images, and with 1, 3, 5 and 10 beams.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from operator import getitem
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from capt.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint, save_checkpoint
from capt.decoding import DecodingOptions, decode
from capt.device import choose_device, choose_precision, choose_runtime
from capt.encoder import EncoderConfig, build_encoder
from capt.images import IMAGENET, open_image, to_array
from capt.inference import encode, quicken
from capt.lanes import Lanes
from capt.model import Captioner, ModelConfig, Precision
from capt.quantisation import quantise, read_quantised
from capt.vocabulary import Vocabulary
from jobs.options import DEFAULT_BATCH_SIZE, default_workers

ROOT = Path(__file__).parents[1]
PHOTOS = sorted((ROOT / "examples" / "photos").glob("*.jpg"))
START = "from jobs.cli import main; main()"
FIRST_IMAGE = """
import os, sys, time
import jobs.loading
def first(item, options):
    print(time.time() - float(os.environ["BEGUN"]), flush=True)
    os._exit(0)
jobs.loading.load_image = first
from jobs.cli import main
main()
"""
LAUNCH = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""  # small itself: the kernel counts a starting process with the memory of the one that starts it
WORDS, BEAMS = 11, 3
CURVE_IMAGES, CURVE_BEAMS = (100, 1_000, 10_000, 50_000), (1, 3, 5, 10)
MEBIBYTE = 1024
QUALITY = 90


@dataclass(frozen=True, kw_only=True)
class Case:
    """One checkpoint on one set of photographs: how many, and how many of them for what is slow."""

    name: str
    checkpoint: Path
    source: Path
    images: int
    precision: str = "auto"
    runtime: str = "auto"
    search: tuple[str, ...] = ()
    peer_images: int = 8


@dataclass
class Lines:
    """Images per second of each line, round by round, and what else the job told."""

    rates: dict[str, list[float]] = field(default_factory=dict)
    peaks: list[float] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, images: int, seconds: float) -> None:
        """Count a round of a line."""
        self.rates.setdefault(name, []).append(images / seconds)

    def rate(self, name: str) -> float:
        """Give the median of a line."""
        return statistics.median(self.rates[name])


def write_resnet50(path: Path) -> None:
    """Write a captioner with ResNet-50's last map and random weights, in other respects of the shipped one's sizes.

    Args:
        path: Where.
    """
    shipped = load_checkpoint(DEFAULT_CHECKPOINT)
    vocabulary = shipped.vocabulary
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(name="resnet50"))
    config = ModelConfig(
        encoder=EncoderConfig(name="resnet50"),
        vocab_size=len(vocabulary),
        encoder_dim=encoder.dimension,
        feature_dim=shipped.captioner.config.feature_dim,
    )
    captioner = Captioner(config, encoder, IMAGENET)
    save_checkpoint(path, captioner=captioner, vocabulary=vocabulary, preprocessing=IMAGENET, card={"name": "random"})


def write_photographs(folder: Path, size: tuple[int, int], count: int) -> None:
    """Write photographs of a size; the first eight are encoded, the others are links to them.

    Args:
        folder: Where.
        size: Width and height, pixels.
        count: How many.
    """
    folder.mkdir()
    for number in range(count):
        path = folder / f"{number:06d}.jpg"
        if number < len(PHOTOS):
            path.write_bytes(_encoded(PHOTOS[number], size))
        else:
            path.hardlink_to(folder / f"{number % len(PHOTOS):06d}.jpg")


def write_manifest(path: Path, count: int) -> None:
    """Write a parquet manifest with photographs of 224×224 as bytes.

    Args:
        path: Where.
        count: How many.
    """
    photographs = [_encoded(photo, (224, 224)) for photo in PHOTOS]
    content = list(islice(cycle(photographs), count))
    table = pa.table({"image_id": [f"{number:06d}" for number in range(count)], "jpg": pa.array(content, pa.binary())})
    pq.write_table(table, path, row_group_size=1000)


def _encoded(photo: Path, size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    open_image(photo).resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _sources(case: Case) -> list[Path | bytes]:
    """Give what is opened: paths of a folder, or bytes of a manifest."""
    if case.source.is_dir():
        return list(sorted(case.source.iterdir()))  # noqa: C413  a list of either kind
    return [bytes(content) for content in pq.read_table(case.source)["jpg"].to_pylist()]


class Machine:
    """A checkpoint in memory as the job uses it, with a batch of pixels; and as a peer would."""

    def __init__(self, case: Case) -> None:
        """Load the checkpoint and open a few photographs."""
        self.case = case
        read = load_checkpoint(case.checkpoint)
        device = choose_device("cpu")
        self.preprocessing = read.preprocessing
        precision = choose_precision(case.precision, device)
        self.captioner = read.captioner.to(device).set_precision(precision).eval()
        self.lanes = Lanes(torch.get_num_threads())
        self.peer = load_checkpoint(case.checkpoint).captioner.eval()
        self.sources = _sources(case)
        pixels = [to_array(open_image(each), self.preprocessing) for each in self.sources[: len(PHOTOS)]]
        quantised = None
        if precision is Precision.INT8:
            quantised = read_quantised(quantise(self.captioner.encoder, pixels, self.preprocessing))
        runtime = choose_runtime(case.runtime, device, precision)
        quicken(self.captioner, size=self.preprocessing.size, runtime=runtime, quantised=quantised)
        self.batch = torch.from_numpy(np.stack(list(islice(cycle(pixels), DEFAULT_BATCH_SIZE))))
        search = dict(zip(case.search[::2], map(int, case.search[1::2]), strict=True))
        lengths = {name.removeprefix("--").replace("-", "_"): value for name, value in search.items()}
        self.decoding = DecodingOptions(**{"beam_size": BEAMS, **lengths})

    def encoder(self, images: int) -> int:
        """Encode so many images, in whole batches, on all cores as the job does; gives how many."""
        return self._in_lanes(self._encode, images)

    def all_in_memory(self, images: int) -> int:
        """Encode and search."""
        return self._in_lanes(lambda part: decode(self.captioner.decoder, self._encode(part), self.decoding), images)

    def _encode(self, part: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return encode(self.captioner, part)

    def _in_lanes(self, function: Callable[[torch.Tensor], object], images: int) -> int:
        batches = max(1, images // DEFAULT_BATCH_SIZE)
        parts = [self.batch[part] for part in self.lanes.divide(DEFAULT_BATCH_SIZE)]
        self.lanes.each(function, parts * batches)
        return batches * DEFAULT_BATCH_SIZE

    def decoding_images(self, images: int) -> int:
        """Open and resize."""
        with ThreadPoolExecutor(default_workers()) as pool:
            sources = list(islice(cycle(self.sources), images))
            for _ in pool.map(lambda source: to_array(open_image(source), self.preprocessing), sources):
                pass
        return images

    def as_a_peer(self, images: int) -> int:
        """Caption one image after the other, as tutorials do."""
        with torch.inference_mode():
            for source in islice(cycle(self.sources), images):
                pixels = to_array(open_image(source), self.preprocessing)
                plain_beam_search(self.peer, torch.from_numpy(pixels).unsqueeze(0), self.decoding)
        return images


def plain_beam_search(captioner: Captioner, pixels: torch.Tensor, options: DecodingOptions) -> list[int]:
    """Search as the best-known tutorial does: the map copied for every beam and projected at every step.

    Args:
        captioner: In float32.
        pixels: One image, `(1, S, S, 3)`.
        options: Beam size.

    Returns:
        The words, eleven of them.
    """
    decoder = captioner.decoder
    beams = options.beam_size
    encoder_out = captioner.encode(pixels).expand(beams, -1, -1).contiguous()
    written = torch.full((beams, 1), Vocabulary.start)
    scores = torch.zeros(beams, 1)
    memory = decoder.remember(encoder_out)
    state = decoder.begin(memory, 1)
    for step in range(WORDS):
        memory = decoder.remember(encoder_out)  # projects the map, at every step
        log_probs, state, _ = decoder.predict(memory, written[:, -1:], state)
        log_probs[..., Vocabulary.end] = -torch.inf
        totals = scores + log_probs[:, 0]
        flat = totals[0] if step == 0 else totals.flatten()
        best, which = flat.topk(beams)
        origin, word = which // totals.shape[1], which % totals.shape[1]
        written = torch.cat([written[origin], word.unsqueeze(1)], 1)
        scores, encoder_out = best.unsqueeze(1), encoder_out[origin]
        state = state.each(getitem, origin)
    return written[0, 1:].tolist()


def job(case: Case, output: Path, *more: str) -> tuple[float, float, dict[str, float]]:
    """Run the whole job in a process of its own.

    Args:
        case: What.
        output: A folder that is not there.
        more: Further options.

    Returns:
        Seconds from the first image to the last, peak memory in MiB, seconds of the stages.
    """
    command = [sys.executable, "-c", START, "run", str(case.source), "-o", str(output), "--checkpoint", str(case.checkpoint)]
    command += ["--device", "cpu", "--precision", case.precision, "--runtime", case.runtime, "--quiet", *case.search, *more]
    ended = subprocess.run([sys.executable, "-c", LAUNCH, *command], cwd=ROOT, check=True, capture_output=True, text=True)
    report = json.loads((output / "run.json").read_text())
    return float(report["seconds"]), int(ended.stdout) / MEBIBYTE, dict(report["stage_seconds"])


@contextmanager
def _timed() -> Iterator[Callable[[], float]]:
    begun = time.perf_counter()
    yield lambda: time.perf_counter() - begun


def measure(case: Case, rounds: int, folder: Path) -> Lines:
    """Let all lines of a case take turns.

    Args:
        case: What.
        rounds: How often; one more warms up.
        folder: For outputs.

    Returns:
        What was measured.
    """
    lines, machine = Lines(), Machine(case)
    work = {
        "encoder": (machine.encoder, case.images),
        "captioner": (machine.all_in_memory, case.images),
        "images": (machine.decoding_images, case.images),
        "peer": (machine.as_a_peer, case.peer_images),
    }
    for each, _ in work.values():
        each(1)  # meets the shapes
    for number in range(rounds):
        for name, (each, images) in work.items():
            with _timed() as seconds:
                done = each(images)
                lines.add(name, done, seconds())
        took, peak, lines.stages = job(case, folder / f"out-{case.name.replace(' ', '-')}-{number}")
        lines.add("job", case.images, took)
        lines.peaks.append(peak)
    return lines


def show(case: Case, lines: Lines) -> None:
    """Print a case as one row of a Markdown table, and its stages."""
    a, b, c, d, peer = (lines.rate(name) for name in ("encoder", "captioner", "images", "job", "peer"))
    ratios = f"{d / min(a, c):.2f} | {b / a:.2f} | {d / peer:.0f}"
    print(f"| {case.name} | {a:.0f} | {b:.0f} | {c:.0f} | {d:.0f} | {peer:.1f} | {ratios} | {max(lines.peaks):,.0f} |")
    told = ", ".join(f"{stage} {1000 * seconds / case.images:.1f}" for stage, seconds in lines.stages.items())
    print(f"  <!-- ms of work an image: {told} -->", flush=True)


def start_up(folder: Path, rounds: int) -> None:
    """Print how long the job takes until its first image is in work, beside `import torch`, and `--help`."""
    write_photographs(folder / "one", (500, 375), 1)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    seconds: dict[str, list[float]] = {"import torch": [], "first image": [], "--help": []}
    for number in range(rounds):
        with _timed() as passed:
            subprocess.run([sys.executable, "-c", "import torch"], check=True)
            seconds["import torch"].append(passed())
        command = [
            sys.executable,
            "-c",
            FIRST_IMAGE,
            "run",
            str(folder / "one"),
            "-o",
            str(folder / f"first-{number}"),
            "--quiet",
        ]
        told = subprocess.run(
            command, env={**environment, "BEGUN": str(time.time())}, check=True, capture_output=True, text=True
        ).stdout
        seconds["first image"].append(float(told))
        with _timed() as passed:
            subprocess.run([sys.executable, "-c", START, "--help"], env=environment, check=True, capture_output=True)
            seconds["--help"].append(passed())
    torch_alone, first, help_text = (statistics.median(each) for each in seconds.values())
    print(
        f"start-up: import torch {torch_alone:.2f} s, first image in work {first:.2f} s ({first / torch_alone:.2f} ×), ", end=""
    )
    print(f"--help {help_text:.2f} s", flush=True)


def curves(folder: Path, most: int) -> None:
    """Print how the job grows with images, up to `most`, and with beams, with the shipped checkpoint on 224×224 in parquet."""
    print("| images | images/s | peak MiB |\n| --- | --- | --- |")
    for count in (count for count in CURVE_IMAGES if count <= most):
        write_manifest(folder / "curve.parquet", count)
        case = Case(name="curve", checkpoint=DEFAULT_CHECKPOINT, source=folder / "curve.parquet", images=count)
        took, peak, _ = job(case, folder / f"curve-{count}")
        print(f"| {count:,} | {count / took:.0f} | {peak:,.0f} |", flush=True)
    print("\n| beams | images/s | × one beam |\n| --- | --- | --- |")
    count = CURVE_IMAGES[1]
    write_manifest(folder / "beams.parquet", count)
    case = Case(name="beams", checkpoint=DEFAULT_CHECKPOINT, source=folder / "beams.parquet", images=count)
    rates = {}
    for beams in CURVE_BEAMS:
        rates[beams] = count / job(case, folder / f"beams-{beams}", "--beam-size", str(beams))[0]
        print(f"| {beams} | {rates[beams]:.0f} | {rates[beams] / rates[CURVE_BEAMS[0]]:.2f} |", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Images per second of the job and of its parts.")
    parser.add_argument("--quick", action="store_true", help="few images, one round")
    parser.add_argument("--precision", default="auto", help="as of capt-batch run")
    parser.add_argument("--runtime", default="auto", help="as of capt-batch run")
    parser.add_argument("--only", default="", help="only cases whose name holds this")
    parser.add_argument("--curves", action="store_true", help="how the job grows with images and beams")
    parser.add_argument("--most", type=int, default=CURVE_IMAGES[-1], help="with --curves: no more images than these")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if chosen.curves:
            curves(folder, chosen.most)
            return
        rounds, many, few, large = (1, 64, 32, 8) if chosen.quick else (3, 384, 256, 48)
        resnet50 = folder / "resnet50.safetensors"
        write_resnet50(resnet50)
        write_photographs(folder / "files", (500, 375), many)
        write_photographs(folder / "some", (500, 375), few)
        write_photographs(folder / "large", (4000, 3000), large)
        write_manifest(folder / "rows.parquet", many)
        write_manifest(folder / "few.parquet", few)
        eleven = ("--max-length", str(WORDS), "--min-length", str(WORDS))
        cases = [
            Case(name="shipped, files of 500×375", checkpoint=DEFAULT_CHECKPOINT, source=folder / "files", images=many),
            Case(name="shipped, 224×224 in parquet", checkpoint=DEFAULT_CHECKPOINT, source=folder / "rows.parquet", images=many),
            Case(name="shipped, files of 12 megapixels", checkpoint=DEFAULT_CHECKPOINT, source=folder / "large", images=large),
            Case(name="ResNet-50, files of 500×375", checkpoint=resnet50, source=folder / "some", images=few, search=eleven),
            Case(
                name="ResNet-50, 224×224 in parquet",
                checkpoint=resnet50,
                source=folder / "few.parquet",
                images=few,
                search=eleven,
            ),
            Case(
                name="ResNet-50, files of 12 megapixels",
                checkpoint=resnet50,
                source=folder / "large",
                images=large,
                search=eleven,
            ),
        ]
        precision = choose_precision(chosen.precision, choose_device("cpu"))
        runtime = choose_runtime(chosen.runtime, choose_device("cpu"), precision)
        threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
        print(f"{threads}, torch {torch.__version__}, encoder by {runtime} in {precision}, {rounds} rounds")
        print("| | a encoder | b captioner | c images | d job | peer | d/min(a, c) | b/a | d/peer | peak MiB |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
        for case in cases:
            if chosen.only in case.name:
                own = replace(case, precision=chosen.precision, runtime=chosen.runtime)
                show(own, measure(own, rounds, folder))
        start_up(folder, rounds)


if __name__ == "__main__":
    main()
