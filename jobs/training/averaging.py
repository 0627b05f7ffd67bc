"""Averages of weights, which validate better than the weights that training leaves.

In: a network while it learns, or checkpoints of one network. Out: the same network with averaged weights. Apart, because the loop
need not know how an average is kept.

Source:
    Polyak and Juditsky 1992; the warm-up of the decay is TensorFlow's ExponentialMovingAverage. Wortsman et al. 2022 (Model
    soups): averages of checkpoints that began alike. Wortsman et al. 2022 (Robust fine-tuning of zero-shot models): weights
    between those that training began with and what came of them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from capt.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from capt.errors import InputError


class WeightAverage:
    """The exponential moving average of some parameters, on request mixed with what they began as."""

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float, *, start_share: float = 0.0) -> None:
        """Begin with the parameters as they are.

        Args:
            parameters: What is averaged.
            decay: Share of the old average that a step keeps, once warm; 0 makes the average the parameters themselves.
            start_share: Share of the parameters as they are now in what is put in their place later.
        """
        self._parameters, self._decay, self._start_share = list(parameters), decay, start_share
        self.steps = 0
        self.average: list[Tensor] = self._copies() if decay else []
        self._start: list[Tensor] = self._copies() if start_share else []

    def _copies(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters after a step of the optimiser."""
        self.steps += 1
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps))
        for average, parameter in zip(self.average, self._parameters, strict=False):
            average.lerp_(parameter, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average, mixed with the start, in the parameters' place for a while."""
        if not self.average and not self._start:
            yield
            return
        own = self._copies()
        mixed = self.average or own
        if self._start:
            mixed = [tensor.lerp(start, self._start_share) for tensor, start in zip(mixed, self._start, strict=True)]
        self._put(mixed)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, tensors: Sequence[Tensor]) -> None:
        for parameter, tensor in zip(self._parameters, tensors, strict=True):
            parameter.copy_(tensor)


def average_checkpoints(paths: Sequence[Path], output: Path) -> None:
    """Write the mean of several checkpoints as a checkpoint.

    Args:
        paths: Two or more, of the same network with the same words; they should have begun from the same weights.
        output: The file to write. Its card names what was averaged.

    Raises:
        InputError: If there are fewer than two, or they are of different networks.
        CheckpointError: If one cannot be read.
        OutputError: If the file cannot be written.
    """
    if len(paths) < 2:  # noqa: PLR2004 - an average
        message = "One checkpoint is its own average; name two or more."
        raise InputError(message)
    first = load_checkpoint(paths[0])
    mean = {name: value.double() for name, value in first.captioner.state_dict().items()}
    averaged = [_named(first)]
    for path in paths[1:]:
        other = load_checkpoint(path)
        _check_alike(first, other)
        averaged.append(_named(other))
        for name, value in other.captioner.state_dict().items():
            mean[name] += value
    first.captioner.load_state_dict({name: value / len(paths) for name, value in mean.items()})
    save_checkpoint(
        output,
        captioner=first.captioner,
        vocabulary=first.vocabulary,
        preprocessing=first.preprocessing,
        card={"averaged": averaged},
    )


def _named(checkpoint: Checkpoint) -> dict[str, object]:
    return {"file": checkpoint.path.name, "sha256": checkpoint.sha256, "card": dict(checkpoint.card)}


def _check_alike(first: Checkpoint, other: Checkpoint) -> None:
    differing = [
        what
        for what, alike in (
            ("network", first.captioner.config == other.captioner.config),
            ("words", first.vocabulary == other.vocabulary),
            ("preprocessing", first.preprocessing == other.preprocessing),
        )
        if not alike
    ]
    if differing:
        message = f"{other.path} has not the {' and '.join(differing)} of {first.path}; average checkpoints of the same network."
        raise InputError(message)
