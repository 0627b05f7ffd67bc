"""EfficientNet-Lite 0 to 4 as a grid of features, with timm's parameter names and numbers.

In: normalised images (N, 3, S, S). Out: the last convolutional map, one before it, or both. Apart, so that the shipped checkpoint
runs with torch alone: importing torchvision or timm nearly doubles the start-up.

Source:
    Tan and Le 2019 (EfficientNet); the Lite variants of TensorFlow TPU: no squeeze-and-excitation, ReLU6, stem and head not
    scaled. Module names are those of timm's `tf_efficientnet_lite*`, padding is TensorFlow's SAME.
"""

import math
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from capt.depthwise import depthwise_conv2d, pays
from capt.layers import Layer, join_maps

BATCH_NORM_EPSILON = 1e-3  # TensorFlow's default, with which the weights were trained
HEAD_CHANNELS = 1280
# (kernel, stride, expansion, channels, repeats) of each stage, before scaling; the first stage has no expansion
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_LAST_FINE = 4  # the last stage with cells of 16 pixels


@dataclass(frozen=True, kw_only=True)
class LiteScale:
    """How a variant is larger than Lite0: width multiplies channels, depth multiplies repeats."""

    width: float
    depth: float


LITE_SCALES = {
    "efficientnet_lite0": LiteScale(width=1.0, depth=1.0),
    "efficientnet_lite2": LiteScale(width=1.1, depth=1.2),
}


def _round_channels(channels: float, divisor: int = 8) -> int:
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME does: more on the right and below where the padding is odd."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's own name for the argument
        """Convolve (N, C, S, S) to (N, C', ⌈S/stride⌉, ⌈S/stride⌉)."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:
            return self._convolve(input, kernel // 2)
        height, width = (max((math.ceil(size / stride) - 1) * stride + kernel - size, 0) for size in input.shape[-2:])
        return self._convolve(functional.pad(input, (width // 2, width - width // 2, height // 2, height - height // 2)), 0)

    def _convolve(self, images: Tensor, padding: int) -> Tensor:
        stride = self.stride[0]
        depthwise = self.bias is None and self.groups == self.in_channels == self.out_channels
        if depthwise and pays(images, self.weight, stride):
            return depthwise_conv2d(images, self.weight, stride, padding)
        return functional.conv2d(images, self.weight, self.bias, stride, padding, 1, self.groups)


def _convolution(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> SameConv2d:
    return SameConv2d(channels, out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPSILON)


class DepthwiseSeparable(nn.Module):
    """The first stage's block: a depthwise convolution, then a pointwise one."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int) -> None:
        """Build the block.

        Args:
            channels: Coming in.
            out: Going out.
            kernel: Side of the depthwise kernel.
            stride: Of the depthwise convolution.
        """
        super().__init__()
        self.conv_dw = _convolution(channels, channels, kernel, stride, groups=channels)
        self.bn1 = _batch_norm(channels)
        self.conv_pw = _convolution(channels, out, 1)
        self.bn2 = _batch_norm(out)
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """Transform (N, C, S, S) to (N, C', S', S')."""
        y: Tensor = functional.relu6(self.bn1(self.conv_dw(x)))
        y = self.bn2(self.conv_pw(y))
        return x + y if self.residual else y


class InvertedResidual(nn.Module):
    """Expand pointwise, convolve depthwise, project pointwise; added to its input where the shapes allow."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, *, expansion: int) -> None:
        """Build the block.

        Args:
            channels: Coming in.
            out: Going out.
            kernel: Side of the depthwise kernel.
            stride: Of the depthwise convolution.
            expansion: How many times wider the block is inside.
        """
        super().__init__()
        inside = _round_channels(channels * expansion)
        self.conv_pw = _convolution(channels, inside, 1)
        self.bn1 = _batch_norm(inside)
        self.conv_dw = _convolution(inside, inside, kernel, stride, groups=inside)
        self.bn2 = _batch_norm(inside)
        self.conv_pwl = _convolution(inside, out, 1)
        self.bn3 = _batch_norm(out)
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """Transform (N, C, S, S) to (N, C', S', S')."""
        y: Tensor = functional.relu6(self.bn1(self.conv_pw(x)))
        y = functional.relu6(self.bn2(self.conv_dw(y)))
        y = self.bn3(self.conv_pwl(y))
        return x + y if self.residual else y


def channels_of(scale: LiteScale, layer: Layer) -> int:
    """Count the channels of a map.

    Args:
        scale: Width and depth of the variant.
        layer: Which maps.

    Returns:
        D.
    """
    return HEAD_CHANNELS * layer.has_coarse + _round_channels(_STAGES[_LAST_FINE][3] * scale.width) * layer.has_fine


class EfficientNetLite(nn.Module):
    """An EfficientNet-Lite without pooling and classifier."""

    def __init__(self, scale: LiteScale, layer: Layer = Layer.LAYER4) -> None:
        """Build the network with random weights.

        Args:
            scale: Width and depth of the variant.
            layer: Which maps; stages after them are left out.
        """
        super().__init__()
        self.layer = layer
        self.conv_stem = _convolution(3, 32, 3, 2)
        self.bn1 = _batch_norm(32)
        stages: list[nn.Sequential] = []
        channels = 32
        built = _STAGES if layer.has_coarse else _STAGES[: _LAST_FINE + 1]
        for number, (kernel, stride, expansion, base, base_repeats) in enumerate(built):
            out = _round_channels(base * scale.width)
            outermost = number in (0, len(_STAGES) - 1)  # the Lite variants repeat the first and last stage once
            repeats = base_repeats if outermost else math.ceil(base_repeats * scale.depth)
            blocks: list[nn.Module] = []
            for repeat in range(repeats):
                step = stride if repeat == 0 else 1
                if expansion == 1:
                    blocks.append(DepthwiseSeparable(channels, out, kernel, step))
                else:
                    blocks.append(InvertedResidual(channels, out, kernel, step, expansion=expansion))
                channels = out
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        if layer.has_coarse:
            self.conv_head = _convolution(channels, HEAD_CHANNELS, 1)
            self.bn2 = _batch_norm(HEAD_CHANNELS)
        self.num_features = channels_of(scale, layer)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the map to attend over.

        Args:
            images: Normalised, `(N, 3, S, S)`.

        Returns:
            `(N, 1280, ⌈S/32⌉, ⌈S/32⌉)`, or as `layer` says.
        """
        x = fine = functional.relu6(self.bn1(self.conv_stem(images)))
        for number, stage in enumerate(self.blocks):
            x = stage(x)
            fine = x if number == _LAST_FINE else fine
        if not self.layer.has_coarse:
            return x
        x = functional.relu6(self.bn2(self.conv_head(x)))
        return join_maps(fine, x) if self.layer.has_fine else x

    def extra_repr(self) -> str:
        """Tell which maps where they are not the usual one; nothing else of the network tells it."""
        return "" if self.layer is Layer.LAYER4 else str(self.layer)
