"""The running average of weights: what it is, that it comes and goes, and that a resumed run has the same one."""

import pytest
import torch
from torch import nn

from jobs.training.averaging import WeightAverage


def test_the_average_follows_its_recurrence() -> None:
    """After each step the average keeps min(decay, (1 + t) / (10 + t)) of itself and takes the rest from the weights."""
    weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    average = WeightAverage([weight], 0.5)
    expected = weight.detach().clone()
    for step in range(1, 31):
        with torch.no_grad():
            weight.mul_(1.1).add_(0.3)
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight.detach()
        torch.testing.assert_close(average.average[0], expected)


def test_the_average_stands_in_for_a_while_only() -> None:
    """Inside `in_place` the network has the average, afterwards its own weights again, also after an error."""
    layer = nn.Linear(3, 2)
    average = WeightAverage(list(layer.parameters()), 0.9)
    own = layer.weight.detach().clone() + 1.0
    with torch.no_grad():
        layer.weight.add_(1.0)
    average.update()
    averaged = average.average[0].clone()
    with average.in_place():
        assert torch.equal(layer.weight, averaged)
    assert torch.equal(layer.weight, own)
    with pytest.raises(RuntimeError), average.in_place():
        raise RuntimeError
    assert torch.equal(layer.weight, own)
    assert torch.equal(average.average[0], averaged)


def test_without_decay_there_is_nothing_to_put_in_place() -> None:
    """A decay of 0 leaves the weights alone and costs no memory."""
    layer = nn.Linear(3, 2)
    average = WeightAverage(list(layer.parameters()), 0.0)
    before = layer.weight.detach().clone()
    average.update()
    with average.in_place():
        assert torch.equal(layer.weight, before)
    assert average.average == []


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_what_is_stored_lies_between_the_start_and_what_came_of_it(decay: float) -> None:
    """Of the start its share, of the average (or, without one, the weights) the rest; afterwards the weights are back."""
    layer = nn.Linear(3, 2)
    start = layer.weight.detach().clone()
    average = WeightAverage(list(layer.parameters()), decay, start_share=0.7)
    with torch.no_grad():
        layer.weight.add_(1.0)
    average.update()
    own = layer.weight.detach().clone()
    came_of_it = average.average[0] if decay else own
    with average.in_place():
        torch.testing.assert_close(layer.weight.detach(), 0.7 * start + 0.3 * came_of_it)
    assert torch.equal(layer.weight, own)
