"""A running average of weights, which validates better than the weights that training leaves.

In: a network while it learns. Out: the same network with averaged weights, for as long as it is validated and stored. Apart,
because the loop need not know how the average is kept.

Source:
    Polyak and Juditsky 1992; the warm-up of the decay is TensorFlow's ExponentialMovingAverage.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """The exponential moving average of some parameters."""

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        """Begin with the parameters as they are.

        Args:
            parameters: What is averaged.
            decay: Share of the old average that a step keeps, once warm; 0 makes the average the parameters themselves.
        """
        self._parameters, self._decay = list(parameters), decay
        self.steps = 0
        self.average: list[Tensor] = [parameter.detach().clone() for parameter in self._parameters] if decay else []

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters after a step of the optimiser."""
        self.steps += 1
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps))
        for average, parameter in zip(self.average, self._parameters, strict=False):
            average.lerp_(parameter, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average in the parameters' place for a while."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for average, parameter in zip(self.average, self._parameters, strict=False):
            kept = parameter.clone()
            parameter.copy_(average)
            average.copy_(kept)
