"""Running the job in tests: options of a small run, the command in this process, and a job to start, kill and complete."""

import io
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

import jobs.loading
from capt.captions import read_captions, shard_paths
from jobs.cli import main
from jobs.events import Listener
from jobs.loading import Loaded, LoadingOptions
from jobs.narrator import Narrator
from jobs.options import NetworkOptions, OutputOptions, RunOptions
from jobs.plan import Plan, prepare
from jobs.progress import Reporter
from jobs.run import Outcome, run
from jobs.source import Item, SourceOptions

DECODING = {"beam_size": 2, "max_length": 4, "min_length": 1, "length_penalty": 0.0, "block_ngrams": 0, "alternatives": 1}
START = "from jobs.cli import main; main()"
Started = Callable[..., "Ended"]


@pytest.fixture
def options(tiny_checkpoint: Path, photos: Path, tmp_path: Path) -> RunOptions:
    """Give options that caption the example photographs in shards of three, two at a time."""
    return RunOptions(
        source=SourceOptions(source=str(photos)),
        network=NetworkOptions(checkpoints=(tiny_checkpoint,), device="cpu", precision="float32", batch_size=2, workers=2),
        decoding=DECODING,
        output=OutputOptions(path=tmp_path / "out", shard_size=3),
    )


def change(options: RunOptions, **changes: object) -> RunOptions:
    """Change options by the names of their fields, wherever they are."""
    parts: dict[str, object] = {}
    for name in ("source", "network", "output", "engine"):
        part = getattr(options, name)
        own = {key: value for key, value in changes.items() if key in part.__dataclass_fields__}
        parts[name] = replace(part, **own)
    decoding = {**options.decoding, **{key: value for key, value in changes.items() if key in options.decoding}}
    return RunOptions(**parts, decoding=decoding)  # type: ignore[arg-type]  # the parts are of the fields' types


def do(options: RunOptions) -> Outcome:
    """Prepare and run, showing nothing."""
    return carry_out(prepare(options))


def carry_out(plan: Plan, *listeners: Listener) -> Outcome:
    """Do what a plan says, telling listeners, by default nobody."""
    with Narrator(*listeners) as narrator:
        return run(plan, narrator)


def said(options: RunOptions) -> str:
    """Run, and give what was shown on a terminal that is none."""
    stream = io.StringIO()
    carry_out(prepare(options), Reporter(Console(file=stream, width=80)))
    return stream.getvalue()


@pytest.fixture
def opened_images(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give a list that grows by the id of each image that is opened."""
    seen: list[str] = []
    load = jobs.loading.load_image

    def watched(item: Item, loading: LoadingOptions) -> Loaded:
        seen.append(item.image_id)
        return load(item, loading)

    monkeypatch.setattr(jobs.loading, "load_image", watched)
    return seen


class Ended:
    """How a command ended: exit code and what it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        """Keep them; white space in `err` is folded, so that sentences can be found across lines."""
        self.code, self.out, self.err = code, out, " ".join(err.split())


def call(
    arguments: Iterable[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Run `capt-batch` in this process; give the exit code, stdout and stderr."""
    monkeypatch.setattr("sys.argv", ["capt-batch", *map(str, arguments)])
    capsys.readouterr()
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    return code, *capsys.readouterr()


@pytest.fixture
def start(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Started:
    """Give a function that runs `capt-batch run` in this process, with the tiny checkpoint."""

    def run(*arguments: object) -> Ended:
        options = ["--checkpoint", str(tiny_checkpoint), "--max-length", "4", "--beam-size", "2"]
        return Ended(*call(["run", *options, *arguments], monkeypatch, capsys))

    return run


class Job:
    """A run of many shards, two images at a time, that tests start, kill and complete."""

    def __init__(self, source: Path, checkpoint: Path) -> None:
        """Know what is captioned and by what."""
        self._source, self.checkpoint = source, checkpoint

    def arguments(self, output: Path) -> list[str]:
        """Give the arguments of `capt-batch`."""
        sizes = ["--shard-size", "4", "--batch-size", "2", "--workers", "2", "--precision", "float32"]
        search = ["--max-length", "4", "--beam-size", "2", "--checkpoint", str(self.checkpoint)]
        return ["run", str(self._source), "--output", str(output), *sizes, *search]

    def begin(self, output: Path, **options: object) -> subprocess.Popen[str]:
        """Start the command in a process of its own."""
        command = [sys.executable, "-c", START, *self.arguments(output)]
        return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload,no-any-return]  # options vary

    def complete(self, output: Path) -> pa.Table:
        """Run the command to its end in this process, which has torch already, and read the table."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["capt-batch", *self.arguments(output)])
            with pytest.raises(SystemExit) as ended:
                main()
        assert ended.value.code == 0
        return read_captions(output)


def wait_for_shards(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    """Wait until so many shards are there."""
    deadline = time.monotonic() + 120
    while len(shard_paths(folder)) < count and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def job(photos: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Give a run over 64 photographs, which are links to eight."""
    folder = tmp_path_factory.mktemp("many")
    for copy in range(8):
        for photo in photos.iterdir():
            (folder / f"{copy}-{photo.name}").symlink_to(photo)
    return Job(folder, tiny_checkpoint)


@pytest.fixture(scope="module")
def undisturbed(job: Job, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """Give the table of a run that nothing disturbed."""
    return job.complete(tmp_path_factory.mktemp("undisturbed") / "out")
