"""EfficientNet-Lite gives timm's numbers under timm's names."""

from typing import Any

import pytest
import timm
import torch
from torch import nn

from capt.efficientnet_lite import LITE_SCALES, EfficientNetLite
from capt.layers import Layer, join_maps


def _unlike_new(network: nn.Module) -> dict[str, torch.Tensor]:
    """Give weights and batch-norm statistics that differ from those of a new network, so that a forgotten one shows."""
    torch.manual_seed(1)
    state = dict(network.state_dict())
    for name, value in state.items():
        if name.endswith("running_var"):
            state[name] = torch.rand_like(value) + 0.5
        elif "bn" in name and value.is_floating_point():
            state[name] = value + 0.2 * torch.randn_like(value)
    return state


@pytest.mark.parametrize("name", sorted(LITE_SCALES))
@pytest.mark.parametrize("size", [224, 75])
def test_outputs_equal_those_of_timm(name: str, size: int) -> None:
    """With the same weights under the same names, the map equals timm's, at the usual size and at an odd one."""
    theirs: Any = timm.create_model(f"tf_{name}", pretrained=False, num_classes=0, global_pool="").eval()
    ours = EfficientNetLite(LITE_SCALES[name]).eval()
    state = _unlike_new(theirs)
    theirs.load_state_dict(state)
    ours.load_state_dict(state)  # strict: no name is missing and none is left over
    images = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        expected, actual = theirs.forward_features(images), ours(images)
    assert actual.shape == (2, ours.num_features, -(-size // 32), -(-size // 32))
    assert expected.abs().max() > 0.1  # it says something
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(LITE_SCALES))
@pytest.mark.parametrize("size", [96, 75])
def test_the_finer_map_is_that_of_timm(name: str, size: int) -> None:
    """Layer3 is timm's last map with cells of 16 pixels, without the stages after it; of both, it is joined to the last map."""
    theirs: Any = timm.create_model(f"tf_{name}", pretrained=False, features_only=True, out_indices=(3,)).eval()
    whole = EfficientNetLite(LITE_SCALES[name], Layer.BOTH).eval()
    state = _unlike_new(whole)
    whole.load_state_dict(state)
    theirs.load_state_dict(state, strict=False)
    images = torch.randn(1, 3, size, size)
    grids = {}
    for layer in Layer:
        ours = EfficientNetLite(LITE_SCALES[name], layer).eval()
        ours.load_state_dict({key: state[key] for key in ours.state_dict()})
        with torch.inference_mode():
            grids[layer] = ours(images)
        assert grids[layer].shape[1] == ours.num_features
    with torch.inference_mode():
        (expected,) = theirs(images)
    assert expected.shape[-1] == -(-size // 16)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(grids[Layer.LAYER3], expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(grids[Layer.BOTH], join_maps(grids[Layer.LAYER3], grids[Layer.LAYER4]))


def test_parameters_stand_in_the_order_of_timm() -> None:
    """The weights that are published under other names are copied over by order, so the order is part of the contract."""
    theirs: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0, global_pool="")
    ours = EfficientNetLite(LITE_SCALES["efficientnet_lite0"])
    assert list(ours.state_dict()) == list(theirs.state_dict())
