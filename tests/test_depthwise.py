"""Our depthwise convolution is torch's, gradients included, and is used only where torch is slow and something learns."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from capt import efficientnet_lite
from capt.depthwise import depthwise_conv2d, pays
from capt.efficientnet_lite import LITE_SCALES, EfficientNetLite

KERNELS = ((1, 1), (2, 2), (3, 3), (5, 5), (7, 7), (3, 5))
CHANNELS = 4


def _case(kernel: tuple[int, int], sides: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, CHANNELS, *sides, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(CHANNELS, 1, *kernel, generator=generator, dtype=torch.float64).to(dtype)
    images = images.contiguous(memory_format=torch.channels_last)
    return images.requires_grad_(), weight.requires_grad_()


def _with_gradients(output: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(2)).to(output.dtype)
    return output.detach(), *torch.autograd.grad(output, inputs, grad)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients_are_those_of_torch(kernel: tuple[int, int], dtype: torch.dtype, tolerance: float) -> None:
    """For every stride, padding (also more than the kernel reaches) and odd and even sides; in each kind of numbers."""
    for stride, padding, sides in product((1, 2, 3), (0, 1, 2, 4), ((7, 7), (8, 8), (9, 8), (8, 11))):
        images, weight = _case(kernel, sides, dtype)
        ours = _with_gradients(depthwise_conv2d(images, weight, stride, padding), images, weight)
        theirs = _with_gradients(functional.conv2d(images, weight, None, stride, padding, 1, CHANNELS), images, weight)
        for mine, expected in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize(("kernel", "stride"), [((3, 3), 1), ((3, 3), 2), ((5, 5), 1), ((5, 5), 2)])
def test_gradients_are_those_of_finite_differences(kernel: tuple[int, int], stride: int) -> None:
    """Against no other implementation at all: torch's gradcheck, in float64."""
    images, weight = _case(kernel, (7, 6), torch.float64)
    assert torch.autograd.gradcheck(lambda images, weight: depthwise_conv2d(images, weight, stride, 1), (images, weight))


@pytest.mark.parametrize("learning", ["images", "weight"])
def test_a_gradient_is_computed_only_where_it_is_wanted(learning: str) -> None:
    """Frozen kernels, or images that are the network's input, get none, and the other's stays the same."""
    images, weight = _case((5, 5), (8, 8), torch.float64)
    both = dict(zip(("images", "weight"), _with_gradients(depthwise_conv2d(images, weight, 2), images, weight)[1:], strict=True))
    tensors = {"images": images, "weight": weight}
    for name, tensor in tensors.items():
        tensor.requires_grad_(name == learning)
    _, alone = _with_gradients(depthwise_conv2d(images, weight, 2), tensors[learning])
    torch.testing.assert_close(alone, both[learning])


def test_autocast_computes_in_bfloat16_and_gives_float32_gradients() -> None:
    """As torch does: the weights stay float32 and so do their gradients; float64 is left alone."""
    images, weight = _case((5, 5), (9, 9), torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = depthwise_conv2d(images, weight, 2, 2)
        theirs = functional.conv2d(images, weight, None, 2, 2, 1, CHANNELS)
        double = depthwise_conv2d(images.double(), weight.double(), 2, 2)
        inside = torch.autograd.grad(output.sum(), (images, weight), retain_graph=True)
    assert output.dtype == torch.bfloat16
    assert double.dtype == torch.float64
    torch.testing.assert_close(output, theirs)
    for mine, expected, again in zip(
        _with_gradients(output, images, weight)[1:], _with_gradients(theirs, images, weight)[1:], inside, strict=True
    ):
        assert mine.dtype == again.dtype == torch.float32
        torch.testing.assert_close(mine, expected, rtol=2e-2, atol=2e-2 * float(expected.abs().max()))


def test_it_is_used_only_where_it_helps() -> None:
    """Never in inference, never in float32, never for what is frozen; there torch's own is as quick or nothing is computed."""
    images, weight = _case((5, 5), (8, 8), torch.bfloat16)
    frozen = weight.detach()
    assert pays(images, frozen, 2)
    assert pays(images, weight, 1)
    assert pays(images.detach(), weight, 1)
    assert not pays(images, frozen, 1)
    assert not pays(images, weight[:, :, :3, :3].detach().requires_grad_(), 1)
    assert not pays(images.detach(), frozen, 2)
    assert not pays(images.float(), weight.float(), 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pays(images.float(), weight.float(), 2)
    with torch.no_grad():
        assert not pays(images, weight, 2)
    with torch.inference_mode():
        assert not pays(images, weight, 2)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Give a list that gets an entry for every use of our convolution by the network."""
    heard: list[Any] = []

    def counted(*arguments: Any) -> Tensor:  # noqa: ANN401 - as the function has them
        heard.append(arguments)
        return depthwise_conv2d(*arguments)

    monkeypatch.setattr(efficientnet_lite, "depthwise_conv2d", counted)
    return heard


def test_a_network_learns_the_same_with_it(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 every gradient of EfficientNet-Lite0 points where torch's points; inference does not touch it."""
    torch.manual_seed(0)
    network = EfficientNetLite(LITE_SCALES["efficientnet_lite0"]).eval()
    images = torch.randn(2, 3, 65, 65).contiguous(memory_format=torch.channels_last)
    gradients = []
    for ours in (True, False):
        if not ours:
            monkeypatch.setattr(efficientnet_lite, "pays", lambda *_: False)
        network.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            grid = network(images)
        grid.float().square().sum().backward()
        gradients.append({name: each.grad.clone() for name, each in network.named_parameters() if each.grad is not None})
        if ours:
            assert len(calls) == 11  # of 16: nine of 5×5, and two strided ones of 3×3
            calls.clear()
            with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
                network(images)
    assert not calls
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        mine, theirs = (each.double().flatten() for each in (gradient, gradients[1][name]))
        assert float(mine @ theirs / mine.norm() / theirs.norm()) > 0.99, name
