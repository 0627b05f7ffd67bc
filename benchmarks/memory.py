"""Measure whether memory grows with the number of images: peak memory of `capt-batch run` over small and large manifests.

Run: `python benchmarks/memory.py [--quick | ROWS ...]`, by default 5,000 and 50,000, quickly 500 and 5,000. Writes manifests
whose rows reuse the photographs of examples/photos (bytes inside, as datasets are published), captions each with a tiny random
captioner in a process of its own, and prints the peak resident memory of that process as the kernel counted it. The claim: it
does not depend on the rows.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[1]
PHOTOS = ROOT / "examples" / "photos"
DEFAULT_ROWS, QUICK_ROWS = (5_000, 50_000), (500, 5_000)
SIDE = 32  # pixels; a small network input, so that an hour of work takes minutes
ROW_GROUP = 1000  # rows, as Hugging Face writes them
KIBIBYTE = 1024
START = "from jobs.cli import main; main()"


def write_checkpoint(path: Path) -> None:
    """Write a tiny captioner with random weights.

    Args:
        path: Where.
    """
    import torch  # noqa: PLC0415  only this process's first step needs it

    from capt.checkpoint import save_checkpoint  # noqa: PLC0415  imports torch
    from capt.encoder import EncoderConfig, build_encoder  # noqa: PLC0415  imports torch
    from capt.images import Preprocessing  # noqa: PLC0415  beside the others
    from capt.model import Captioner, ModelConfig  # noqa: PLC0415  imports torch
    from capt.vocabulary import Vocabulary  # noqa: PLC0415  beside the others

    torch.manual_seed(0)
    vocabulary = Vocabulary.build(["a dog runs on the grass", "two people sit on a bench"], min_frequency=1)
    encoder = build_encoder(EncoderConfig(name="efficientnet_lite0"))
    config = ModelConfig(
        encoder=EncoderConfig(name="efficientnet_lite0"),
        vocab_size=len(vocabulary),
        encoder_dim=encoder.dimension,
        embed_dim=8,
        decoder_dim=8,
        attention_dim=8,
    )
    preprocessing = Preprocessing(name="memory", size=SIDE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    captioner = Captioner(config, encoder, preprocessing)
    save_checkpoint(path, captioner=captioner, vocabulary=vocabulary, preprocessing=preprocessing, card={"name": "memory"})


def write_manifest(path: Path, rows: int, photos: Sequence[bytes] = ()) -> int:
    """Write a manifest that reuses a few photographs.

    Args:
        path: Where.
        rows: How many.
        photos: The bytes of each, by default of the examples.

    Returns:
        Its size in bytes.
    """
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image_id", pa.string()), ("image", kind), ("note", pa.string())])
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for table in _row_groups(rows, photos or [each.read_bytes() for each in sorted(PHOTOS.glob("*.jpg"))], schema):
            writer.write_table(table)
    return path.stat().st_size


def _row_groups(rows: int, photos: Sequence[bytes], schema: pa.Schema) -> Iterator[pa.Table]:
    for start in range(0, rows, ROW_GROUP):
        numbers = range(start, min(start + ROW_GROUP, rows))
        images = [{"bytes": photos[number % len(photos)], "path": None} for number in numbers]
        notes = [f"row {number}" for number in numbers]
        yield pa.table({"image_id": [f"{number:08d}" for number in numbers], "image": images, "note": notes}, schema=schema)


def caption(manifest: Path, output: Path, checkpoint: Path) -> tuple[float, float]:
    """Caption a manifest in a process of its own.

    Args:
        manifest: The source.
        output: A folder that is not there yet.
        checkpoint: The captioner.

    Returns:
        Peak resident memory in MiB, and seconds.
    """
    begun = time.perf_counter()
    options = ["--output", str(output), "--checkpoint", str(checkpoint), "--beam-size", "1", "--max-length", "4", "--quiet"]
    process = subprocess.Popen([sys.executable, "-c", START, "run", str(manifest), *options], cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(os.waitstatus_to_exitcode(status))
    return usage.ru_maxrss / KIBIBYTE, time.perf_counter() - begun


def main() -> None:
    """Measure and print one line for each number of rows."""
    wanted = (
        list(QUICK_ROWS) if sys.argv[1:] == ["--quick"] else [int(argument) for argument in sys.argv[1:]] or list(DEFAULT_ROWS)
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint(folder / "memory.safetensors")
        for rows in wanted:
            manifest = folder / f"{rows}.parquet"
            size = write_manifest(manifest, rows)
            peak, seconds = caption(manifest, folder / f"out-{rows}", folder / "memory.safetensors")
            manifest.unlink()
            sizes = f"manifest {size / KIBIBYTE**2:>6,.0f} MiB  peak {peak:>6,.0f} MiB"
            print(f"{rows:>9,} rows  {sizes}  {rows / seconds:>6,.0f} images/s")


if __name__ == "__main__":
    main()
