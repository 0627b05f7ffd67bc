"""What tests of `capt-batch train` share: a few photographs with captions, and the command in this process."""

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from capt.encoder import EncoderConfig, build_encoder
from tests.running import call

CAPTIONS = {
    "astronaut.jpg": ("a woman in an orange suit", "a smiling astronaut"),
    "cat.jpg": ("a cat with green eyes", "the face of a cat"),
    "coffee.jpg": ("a cup of coffee", "coffee in a red cup"),
    "officer.jpg": ("a woman in uniform", "an old woman with a hat"),
    "photographer.jpg": ("a man with a camera", "a man in a black coat"),
    "raccoon.jpg": ("a raccoon on a plant", "the face of a raccoon"),
    "rocket.jpg": ("a rocket at night", "a rocket between towers"),
    "stairs.jpg": ("people on stairs", "stairs of a tower"),
}
VALIDATION = ("cat.jpg", "stairs.jpg")

Start = Callable[..., "Ended"]


class Ended:
    """How a command ended: exit code and what it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        """Keep them."""
        self.code, self.out, self.err = code, out, err


@pytest.fixture(name="start")
def start_fixture(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Start:
    """Give a function that runs `capt-batch` in this process."""

    def run(*arguments: object) -> Ended:
        return Ended(*call(arguments, monkeypatch, capsys))

    return run


@pytest.fixture(name="given", scope="module")
def given_fixture(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """Give a folder with a manifest, the same as folder and token file, encoder weights and a feature cache."""
    folder = tmp_path_factory.mktemp("given")
    rows = [
        {
            "image": {"bytes": (photos / name).read_bytes(), "path": name},
            "image_id": name,
            "caption": list(texts),
            "split": "dev" if name in VALIDATION else "train",
        }
        for name, texts in CAPTIONS.items()
    ]
    (folder / "manifests").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "manifests" / "all.parquet")
    write_given(folder, CAPTIONS)
    return folder


def write_given(folder: Path, captions: Mapping[str, Sequence[str]]) -> None:
    """Write captions as a token file with lists of the splits, and weights of an encoder.

    Args:
        folder: Where.
        captions: Of each photograph.
    """
    lines = [f"{name}#{k}\t{text}" for name, texts in captions.items() for k, text in enumerate(texts)]
    (folder / "captions.token").write_text("\n".join(lines) + "\n")
    (folder / "train.txt").write_text("".join(f"{name}\n" for name in captions if name not in VALIDATION))
    (folder / "val.txt").write_text("".join(f"{name}\n" for name in VALIDATION))
    torch.manual_seed(0)
    save_file(build_encoder(EncoderConfig(name="efficientnet_lite0")).network.state_dict(), folder / "lite0.safetensors")


def begin_process(arguments: list[str]) -> "subprocess.Popen[str]":
    """Start `capt-batch` as a process of its own that can be interrupted.

    Args:
        arguments: Its command line.

    Returns:
        The process; what it says on stderr can be read.
    """
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a job in the background ignores Ctrl-C
    program = f"{listen}; from jobs.cli import main; main()"
    return subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE, text=True)


def train_arguments(given: Path, output: Path, *more: object) -> list[str]:
    """Write the command line of a training that ends soon.

    Args:
        given: What the fixture gives.
        output: The run's folder.
        *more: Further arguments.

    Returns:
        The arguments of `capt-batch`.
    """
    arguments = ["train", given / "manifests", "--output", output, "--encoder", "efficientnet_lite0"]
    arguments += ["--weights", given / "lite0.safetensors", "--feature-cache", given / "cache", "--min-frequency", "1"]
    arguments += ["--embed-dim", "16", "--decoder-dim", "24", "--attention-dim", "8", "--batch-size", "3", "--device", "cpu"]
    return [str(argument) for argument in (*arguments, "--precision", "float32", *more)]
