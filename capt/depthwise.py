"""Depthwise convolution whose backward pass is quick on a processor in bfloat16, where torch's own takes most of a training step.

In: images `(N, C, H, W)` and a kernel a channel. Out: the convolution, with gradients. Apart, because it is about a gap in a
library, and goes when the gap is closed.

Torch 2.14 has fast code for the gradient of the images where the stride is 1, and for that of kernels up to 3×3; the rest takes 3
to 100 times as long. So both are put back to these cases: with zeros between its numbers, the gradient of a strided convolution
is that of a dense one; and a larger kernel is the union of pieces of 3×3, whose gradients see the images shifted. In float32
torch's own is about as quick, and stays. `benchmarks/fine_tuning.py` measures what this gains.

Source:
    Dumoulin and Visin 2016 (A guide to convolution arithmetic: the transpose of a strided convolution).
"""

from itertools import product
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.grad import conv2d_weight

_FAST_SIDE = 3  # of the largest kernel that torch has fast code for


def pays(images: Tensor, weight: Tensor, stride: int) -> bool:
    """Tell whether a depthwise convolution should be computed here instead of by torch.

    Args:
        images: What is convolved.
        weight: The kernels, `(C, 1, h, w)`.
        stride: Of the convolution.

    Returns:
        True only where gradients are wanted, on a processor, in bfloat16, and torch is slow; never in inference.
    """
    if not torch.is_grad_enabled() or images.device.type != "cpu" or _computed_in(images) != torch.bfloat16:
        return False
    return (images.requires_grad and stride > 1) or (weight.requires_grad and max(weight.shape[-2:]) > _FAST_SIDE)


def depthwise_conv2d(images: Tensor, weight: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """Convolve each channel with a kernel of its own.

    Args:
        images: `(N, C, H, W)`.
        weight: The kernels, `(C, 1, h, w)`.
        stride: In both directions.
        padding: Zeros on each side.

    Returns:
        `(N, C, H', W')`, what `conv2d` with C groups gives, under autocast too.
    """
    dtype = _computed_in(images)
    return cast("Tensor", _Depthwise.apply(images.to(dtype), weight.to(dtype), stride, padding))


def _computed_in(images: Tensor) -> torch.dtype:
    """Name the numbers in which torch would convolve; autocast leaves float64 alone."""
    cast_to_less = torch.is_autocast_enabled(images.device.type) and images.dtype != torch.float64
    return torch.get_autocast_dtype(images.device.type) if cast_to_less else images.dtype


class _Depthwise(torch.autograd.Function):
    """Forward as torch has it; backward by way of what torch is quick at."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:  # noqa: ANN401 - torch's context
        ctx.save_for_backward(images if ctx.needs_input_grad[1] else None, weight)
        ctx.shape, ctx.stride, ctx.padding = images.shape, stride, padding
        return functional.conv2d(images, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # noqa: ANN401 - torch's context
        images, weight = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            of_images = _of_images(grad, weight, ctx.shape, ctx.stride, ctx.padding) if ctx.needs_input_grad[0] else None
            of_weight = _of_weight(grad, images, weight, ctx.stride, ctx.padding) if ctx.needs_input_grad[1] else None
        return of_images, of_weight, None, None


def _of_images(grad: Tensor, weight: Tensor, shape: torch.Size, stride: int, padding: int) -> Tensor:
    """Give the gradient of the images: the dense gradient, padded, convolved with the flipped kernels."""
    (images, channels, *sides), kernel = shape, weight.shape[-2:]
    if stride > 1:
        height, width = (side + 2 * padding - own + 1 for side, own in zip(sides, kernel, strict=True))
        dense = grad.new_zeros(images, height, width, channels)  # (N, H', W', C): channels last in memory
        dense[:, ::stride, ::stride] = grad.permute(0, 2, 3, 1)
        grad = dense.permute(0, 3, 1, 2)
    around = [own - 1 - padding for own in kernel]
    flipped = weight.flip(2, 3)
    if min(around) < 0:  # more padding than kernel: what fell on the padding alone is cut off
        grad, around = functional.pad(grad, (around[1], around[1], around[0], around[0])), [0, 0]
    return functional.conv2d(grad, flipped, None, 1, around, 1, channels)


def _of_weight(grad: Tensor, images: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Give the gradient of the kernels, piece by piece; torch sums in float32."""
    padded = functional.pad(images, (padding,) * 4) if padding else images
    gradient = torch.empty_like(weight)
    kernel, outputs = weight.shape[-2:], grad.shape[-2:]
    side_h, side_w = (min(side, _FAST_SIDE) for side in kernel)
    seen_h, seen_w = ((count - 1) * stride + side for count, side in zip(outputs, (side_h, side_w), strict=True))
    for top, left in product(_starts(kernel[0]), _starts(kernel[1])):
        seen = padded[:, :, top : top + seen_h, left : left + seen_w]
        gradient[:, :, top : top + side_h, left : left + side_w] = conv2d_weight(
            seen, (len(weight), 1, side_h, side_w), grad, stride, 0, 1, len(weight)
        )
    return gradient


def _starts(side: int) -> list[int]:
    """Tell where pieces begin that cover a side; the last ones may overlap."""
    return [min(start, max(side - _FAST_SIDE, 0)) for start in range(0, side, _FAST_SIDE)]
