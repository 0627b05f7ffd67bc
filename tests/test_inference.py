"""A captioner is made quick for captioning: what it computes stays the same."""

import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import capt.openvino_encoder
from capt.captions import Fingerprint, fingerprint_of, read_captions
from capt.checkpoint import load_checkpoint
from capt.decoding import DecodingOptions
from capt.device import Runtime
from capt.encoder import Encoder, EncoderConfig, build_encoder
from capt.errors import CaptError
from capt.files import cache_folder
from capt.inference import fold_batch_norm, quicken
from capt.layers import Layer
from capt.model import Captioner, Precision
from capt.openvino_encoder import OpenVinoEncoder
from jobs.captioner import TorchNetwork
from jobs.options import NetworkOptions, RunOptions
from jobs.progress import Stages
from tests.conftest import tiny_captioner
from tests.running import change, do

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="install the extra capt[openvino]")


def lively(name: str, layer: Layer = Layer.LAYER4) -> Encoder:
    """Build an encoder whose batch normalisation has statistics of its own, as after training."""
    torch.manual_seed(1)
    encoder = build_encoder(EncoderConfig(name=name, layer=layer))
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)  # type: ignore[arg-type] # it has one
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type] # it has one
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return encoder.eval()


def images(count: int, size: int = 96) -> torch.Tensor:
    """Give images, normalised, as the captioner hands them on."""
    made = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count))
    return made.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layer", Layer)
@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2", "resnet50"])
def test_folded_batch_norm_gives_the_same_features(name: str, layer: Layer) -> None:
    """Of every network that is folded; no normalisation is left, and folding again changes nothing."""
    encoder = lively(name, layer)
    with torch.inference_mode():
        before = encoder(images(2))
        fold_batch_norm(encoder)
        after = encoder(images(2))
        assert not any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules())
        assert before.abs().mean() > 1e-3
        torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3 * float(before.abs().max()))
        fold_batch_norm(encoder)
        assert torch.equal(encoder(images(2)), after)


def test_networks_of_others_are_left_alone() -> None:
    """In timm's networks neighbours need not follow each other, and a normalisation may hold an activation."""
    encoder = build_encoder(EncoderConfig(name="timm:test_resnet"))
    assert not encoder.is_own
    before = [type(module) for module in encoder.modules()]
    quicken(encoder)
    assert [type(module) for module in encoder.modules()] == before


def test_tabulated_words_are_those_computed() -> None:
    """What each word means for the gates is the same, looked up or computed."""
    decoder = tiny_captioner(20).decoder
    words = torch.tensor([[1, 5], [19, 2]])
    with torch.inference_mode():
        before = decoder.read_words(words)
        decoder.tabulate_words()
        torch.testing.assert_close(decoder.read_words(words), before)


@needs_openvino
@pytest.mark.parametrize("layer", [Layer.LAYER4, Layer.BOTH])
@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet50"])
def test_openvino_gives_the_same_features(name: str, layer: Layer) -> None:
    """In float32, for any number of images, and not what was made of the same weights for other maps; nobody is told of it."""
    encoder = lively(name, layer)
    with torch.inference_mode():
        other = OpenVinoEncoder(encoder, 96, Precision.FLOAT32)
        for count in (1, 3):
            ours, theirs = other(images(count)), encoder(images(count))
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))
    assert sys.modules["openvino_telemetry"] is None


@needs_openvino
def test_openvino_has_computed_before_threads_share_it() -> None:
    """Two threads that came to the first computation at the same time waited for each other for ever, now and then."""
    assert OpenVinoEncoder(lively("efficientnet_lite0"), 96, Precision.FLOAT32)._requests.own is not None


@needs_openvino
def test_openvino_in_bfloat16_is_near() -> None:
    """It may round, but not more than torch does."""
    encoder = lively("efficientnet_lite0")
    with torch.inference_mode():
        exact = encoder(images(2))
        near = OpenVinoEncoder(encoder, 96, Precision.BFLOAT16)(images(2))
    assert float((near - exact).abs().mean() / exact.abs().mean()) < 0.1
    with pytest.raises(CaptError, match="float32, bfloat16, int8, not in float16"):
        OpenVinoEncoder(encoder, 96, Precision.FLOAT16)


@needs_openvino
def test_what_openvino_made_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is converted once; what is damaged is made again; other weights are not taken for these; no cache is no failure."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    converted = []
    library = capt.openvino_encoder.openvino()
    convert = library.convert_model

    def counted(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - OpenVINO's
        converted.append(named)
        return convert(*arguments, **named)

    monkeypatch.setattr(library, "convert_model", counted)
    encoder = lively("efficientnet_lite0")
    with torch.inference_mode():
        first = OpenVinoEncoder(encoder, 96, Precision.FLOAT32)(images(1))
        again = OpenVinoEncoder(encoder, 96, Precision.FLOAT32)(images(1))
    assert torch.equal(first, again)
    assert len(converted) == 1
    kept = sorted(cache_folder("openvino").iterdir())
    assert [path.suffix for path in kept] == [".bin", ".xml"]
    kept[1].write_text("no network")
    OpenVinoEncoder(encoder, 96, Precision.FLOAT32)
    assert len(converted) == 2
    OpenVinoEncoder(encoder, 64, Precision.FLOAT32)
    fold_batch_norm(encoder)
    OpenVinoEncoder(encoder, 96, Precision.FLOAT32)
    assert len(converted) == 4
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    OpenVinoEncoder(encoder, 96, Precision.FLOAT32)
    assert len(converted) == 5


@needs_openvino
def test_runtimes_write_the_same_captions(options: RunOptions, tmp_path: Path) -> None:
    """The table is the same but for last digits, and tells who computed; one run may go on with the other."""
    tables = {}
    for runtime in ("torch", "openvino"):
        do(change(options, runtime=runtime, path=tmp_path / runtime))
        tables[runtime] = read_captions(tmp_path / runtime)
    assert tables["torch"]["caption"].equals(tables["openvino"]["caption"])
    ours, theirs = (np.array(table["log_prob"]) for table in tables.values())
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    prints = [fingerprint_of(table.schema) for table in tables.values()]
    assert ["openvino" in each.versions for each in prints if isinstance(each, Fingerprint)] == [False, True]
    assert do(change(options, path=tmp_path / "openvino")).failed == 0


@needs_openvino
def test_what_openvino_cannot_do_torch_does(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself the job falls back; asked for OpenVINO, it says why not."""

    def refuse(*_: object) -> None:
        message = "OpenVINO cannot compute this encoder; give --runtime torch."
        raise CaptError(message)

    monkeypatch.setattr(OpenVinoEncoder, "__init__", refuse)
    options = NetworkOptions(checkpoints=(tiny_checkpoint,), device="cpu")
    network = TorchNetwork(options, DecodingOptions(max_length=3), Stages())
    assert network.runtime is Runtime.TORCH
    assert network.versions == {}
    assert len(network.caption([np.zeros((224, 224, 3), np.uint8)], [None])) == 1
    with pytest.raises(CaptError, match="--runtime torch"):
        TorchNetwork(replace(options, runtime="openvino"), DecodingOptions(), Stages())


def test_a_quick_captioner_writes_the_same(tiny_checkpoint: Path) -> None:
    """From pixels to log probabilities, nothing moves but last digits."""
    plain, quick = (load_checkpoint(tiny_checkpoint).captioner.eval() for _ in range(2))
    quicken(quick)
    assert isinstance(quick, Captioner)
    pixels = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8)
    words = torch.tensor([[1, 4], [7, 3]])
    told = []
    for captioner in (plain, quick):
        with torch.inference_mode():
            memory = captioner.decoder.remember(captioner.encode(pixels))
            state = captioner.decoder.begin(memory, 2)
            told.append(captioner.decoder.predict(memory, words, state)[0])
    torch.testing.assert_close(told[0], told[1], rtol=1e-3, atol=1e-3)
