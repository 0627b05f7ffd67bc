"""An encoder in int8 is made of the run's own photographs, kept, and the same for the whole output."""

import hashlib
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import jobs.calibration
from capt.captions import RUN_FILE, Fingerprint, fingerprint_of, read_captions, shard_name
from capt.checkpoint import load_checkpoint, save_checkpoint
from capt.errors import CaptError, InputError, OutputError
from capt.files import cache_folder
from capt.model import Precision
from capt.openvino_encoder import OpenVinoEncoder
from capt.quantisation import read_quantised
from jobs.merge import MergeOptions, merge
from jobs.options import NetworkOptions, OutputOptions, RunOptions, Share
from jobs.output import int8_path
from jobs.plan import prepare
from jobs.source import SourceOptions
from tests.running import DECODING, carry_out, change, do, said
from tests.test_inference import lively

pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("openvino", "nncf")), reason="install the extra capt[openvino]"
)


@pytest.fixture(scope="module")
def int8(tiny_checkpoint: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> RunOptions:
    """Give the options of a run that was done in int8, with a checkpoint in a folder of its own."""
    folder = tmp_path_factory.mktemp("int8")
    checkpoint = load_checkpoint(tiny_checkpoint)
    checkpoint.captioner.encoder.load_state_dict(lively("efficientnet_lite0").state_dict())
    save_checkpoint(
        folder / "tiny.safetensors",
        captioner=checkpoint.captioner,
        vocabulary=checkpoint.vocabulary,
        preprocessing=checkpoint.preprocessing,
        card=checkpoint.card,
    )
    options = RunOptions(
        source=SourceOptions(source=str(photos)),
        network=NetworkOptions(checkpoints=(folder / "tiny.safetensors",), device="cpu", precision="int8", batch_size=2),
        decoding=DECODING,
        output=OutputOptions(path=folder / "out", shard_size=3),
    )
    do(options)
    return options


@pytest.fixture
def copied(int8: RunOptions, tmp_path: Path) -> RunOptions:
    """Give the same run in another folder, with a checkpoint beside which nothing is kept."""
    shutil.copytree(_folder(int8), tmp_path / "out")
    checkpoint = shutil.copy(int8.network.checkpoints[0], tmp_path / "tiny.safetensors")
    return change(int8, path=tmp_path / "out", checkpoints=(Path(checkpoint),))


@pytest.fixture
def never_quantised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be quantised again."""

    def refuse(*_: object) -> bytes:
        pytest.fail("the encoder was quantised again")

    monkeypatch.setattr(jobs.calibration, "quantise", refuse)


def _folder(options: RunOptions) -> Path:
    assert isinstance(options.output.path, Path)
    return options.output.path


def _fingerprint(options: RunOptions) -> Fingerprint:
    found = fingerprint_of(read_captions(options.output.path).schema)
    assert found is not None
    return found


def _kept(options: RunOptions) -> Path:
    """Find the encoder that lies beside the checkpoint."""
    [path] = options.network.checkpoints[0].parent.glob("tiny.int8-*.zip")
    return path


def _undo_a_shard(options: RunOptions) -> None:
    (_folder(options) / RUN_FILE).unlink()
    (_folder(options) / shard_name(1)).unlink()


def test_the_table_tells_which_encoder_made_it(int8: RunOptions) -> None:
    """The fingerprint names the encoder's file, which lies with the shards and beside the checkpoint."""
    made = _fingerprint(int8)
    assert (made.precision, "openvino" in made.versions) == ("int8", True)
    assert made.encoder_sha256 is not None
    for path in (int8_path(_folder(int8), made.encoder_sha256), _kept(int8)):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == made.encoder_sha256
    assert read_captions(_folder(int8)).column("status").to_pylist() == ["ok"] * 8


def test_the_encoder_is_quantised_and_near(int8: RunOptions) -> None:
    """It has quantised convolutions, and gives nearly the features of float32, but not exactly."""
    network = read_quantised(_kept(int8).read_bytes())
    assert sum(each.get_type_name() == "FakeQuantize" for each in network.get_ordered_ops()) > 20
    encoder = load_checkpoint(int8.network.checkpoints[0]).captioner.encoder
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        exact, near = encoder(images), OpenVinoEncoder(encoder, 224, Precision.INT8, network)(images)
    assert 0 < float((near - exact).norm() / exact.norm()) < 0.5


@pytest.mark.usefixtures("never_quantised")
def test_a_run_goes_on_with_its_encoder(copied: RunOptions, int8: RunOptions) -> None:
    """Where nothing is kept, as on another machine, the encoder beside the shards makes the same rows, asked for or by auto."""
    for precision in ("int8", "auto"):
        _undo_a_shard(copied)
        do(change(copied, precision=precision))
        assert read_captions(_folder(copied)).equals(read_captions(_folder(int8)))


@pytest.mark.usefixtures("never_quantised")
def test_a_run_whose_encoder_is_gone_is_refused(copied: RunOptions) -> None:
    """One quantised anew would round elsewhere; so would one that was altered."""
    _undo_a_shard(copied)
    next(_folder(copied).glob(".encoder-*")).write_bytes(b"altered")
    with pytest.raises(CaptError, match=r"no more to be found.* --overwrite"):
        do(copied)


@pytest.mark.usefixtures("never_quantised")
def test_photographs_are_added_by_the_same_encoder(copied: RunOptions, photos: Path, tmp_path: Path) -> None:
    """An extension goes on with the run's encoder, although the first photographs are others."""
    more = shutil.copytree(photos, tmp_path / "more")
    shutil.copy(photos / "cat.jpg", more / "aaa.jpg")
    do(change(copied, source=str(more), extend=True))
    table = read_captions(_folder(copied))
    assert (table.num_rows, table.column("status").to_pylist()) == (9, ["ok"] * 9)


@pytest.mark.usefixtures("never_quantised")
def test_machines_share_an_encoder(copied: RunOptions, int8: RunOptions, tmp_path: Path) -> None:
    """The second machine, on which nothing is kept, takes what the first one left; their shards are one run."""
    output = replace(copied.output, path=tmp_path / "shared")
    do(replace(int8, output=replace(output, share=Share(0, 2))))
    do(replace(copied, output=replace(output, share=Share(1, 2))))
    merge(MergeOptions(output=tmp_path / "shared"))
    assert read_captions(tmp_path / "shared").equals(read_captions(_folder(int8)))


def test_a_machine_that_began_at_the_same_moment_starts_again(
    copied: RunOptions, int8: RunOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two encoders never write into one output: the later machine is refused, leaves nothing, and then takes the first one's."""
    other = _archive_again(_kept(int8).read_bytes())
    output = replace(copied.output, path=tmp_path / "shared")
    late = prepare(replace(copied, output=replace(output, share=Share(1, 2))))
    do(replace(int8, output=replace(output, share=Share(0, 2))))
    monkeypatch.setattr(jobs.calibration, "quantise", lambda *_: other)
    with pytest.raises(OutputError, match="start the same command again"):
        carry_out(late)
    assert len(list((tmp_path / "shared").glob(".encoder-*"))) == 1
    do(replace(copied, output=replace(output, share=Share(1, 2))))
    merge(MergeOptions(output=tmp_path / "shared"))


@pytest.mark.usefixtures("never_quantised")
def test_another_run_takes_what_is_kept(int8: RunOptions, tmp_path: Path) -> None:
    """The same photographs and checkpoint make the same encoder, so that it is made once."""
    do(change(int8, path=tmp_path / "again"))
    assert _fingerprint(change(int8, path=tmp_path / "again")) == _fingerprint(int8)


def test_what_is_damaged_or_of_other_photographs_is_made_again(
    int8: RunOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is taken; beside the program's own files nothing is kept, but in the user's cache."""
    whole = _kept(int8).read_bytes()
    asked: list[int] = []

    def counted(*arguments: object) -> bytes:
        asked.append(len(arguments))
        return whole

    monkeypatch.setattr(jobs.calibration, "quantise", counted)
    checkpoint = shutil.copy(int8.network.checkpoints[0], tmp_path / "tiny.safetensors")
    mine = change(int8, checkpoints=(Path(checkpoint),), path=tmp_path / "first")
    kept = Path(shutil.copy(_kept(int8), tmp_path))
    kept.write_bytes(whole[:-2000])
    assert "quantised to int8 with 8 photographs" in " ".join(said(mine).split())
    assert len(asked) == 1
    assert kept.read_bytes() == whole
    do(change(mine, path=tmp_path / "second", limit=5))
    assert len(asked) == 2
    monkeypatch.setattr(jobs.calibration, "DEFAULT_CHECKPOINT", checkpoint)
    do(change(mine, path=tmp_path / "third", limit=4))
    assert len(asked) == 3
    assert len(list(tmp_path.glob("tiny.int8-*.zip"))) == 2
    assert len(list(cache_folder("int8").glob("tiny.int8-*.zip"))) == 1


def test_without_a_photograph_that_opens_it_says_so(int8: RunOptions, tmp_path: Path) -> None:
    """There is nothing to learn the ranges from."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"no photograph")
    with pytest.raises(InputError, match="nothing to quantise the encoder with"):
        do(change(int8, source=str(tmp_path / "photos"), path=tmp_path / "out"))


def test_torch_is_refused_before_the_work(int8: RunOptions, tmp_path: Path) -> None:
    """Only OpenVINO computes in int8; nobody waits minutes to hear that."""
    with pytest.raises(InputError, match="--runtime openvino"):
        do(change(int8, runtime="torch", path=tmp_path / "out"))


@pytest.mark.skipif(find_spec("ray") is None, reason="install the extra capt[ray]")
def test_ray_is_refused(copied: RunOptions) -> None:
    """Also when a run that was begun in int8 is to go on there."""
    with pytest.raises(InputError, match="do not share an int8 encoder"):
        prepare(change(copied, precision="auto", engine="ray"))


def test_several_checkpoints_are_refused(int8: RunOptions, tmp_path: Path) -> None:
    """Of two encoders only one would be in int8."""
    with pytest.raises(InputError, match="for one --checkpoint"):
        do(change(int8, checkpoints=[*int8.network.checkpoints] * 2, path=tmp_path / "out"))


def _archive_again(content: bytes) -> bytes:
    """Give another file of the same encoder, as another machine would have made it."""
    return content + b"\0"
