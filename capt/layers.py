"""Which map of a network is attended over: cells of 16 pixels, of 32, or of 32 with what the finer ones saw.

In: the two maps, `(N, C, height, width)`. Out: the one to attend over. Apart, because every network of capt's own has both
maps, and what is done with them is the same for all.
"""

from enum import StrEnum

import torch
from torch import Tensor
from torch.nn import functional


class Layer(StrEnum):
    """Which maps are attended over, named as in ResNet-50; in EfficientNet-Lite those of the same coarseness."""

    LAYER3 = "layer3"
    LAYER4 = "layer4"
    BOTH = "layer3+layer4"

    @property
    def has_fine(self) -> bool:
        """Whether the last map with cells of 16 pixels is among them."""
        return self is not Layer.LAYER4

    @property
    def has_coarse(self) -> bool:
        """Whether the last map, with cells of 32 pixels, is among them."""
        return self is not Layer.LAYER3


def join_maps(fine: Tensor, coarse: Tensor) -> Tensor:
    """Give each coarse cell the mean of the fine ones that it covers, after its own channels.

    Args:
        fine: `(N, C, height, width)`.
        coarse: `(N, D, ⌈height/2⌉, ⌈width/2⌉)`.

    Returns:
        `(N, D + C, ⌈height/2⌉, ⌈width/2⌉)`.
    """
    return torch.cat([coarse, functional.avg_pool2d(fine, 2, ceil_mode=True)], dim=1)
