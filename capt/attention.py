"""Additive soft attention: how much each cell of an image's grid matters for the next word.

In: encoded images and the states of their captions. Out: contexts, and where the network looked. Apart from the decoder, because
it reads most of the memory, and is arranged for speed: tanh(x + y) = 1 − 2 / (1 + e^2x · e^2y), so what depends on the cell
alone is raised once per image and not at every step and caption; a few images at a time are worked on, while their
numbers are in the processor's cache; and what lies between is computed again for the gradient, and not kept.

Sources:
    Bahdanau et al. 2015: additive attention. Xu et al. 2015, Show, Attend and Tell: over cells, all alike for the first state.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from capt.lanes import Lanes

_LARGEST_POWER = 40.0  # e^40 · e^40 is still a float32
_NUMBERS_AT_ONCE = 1 << 18  # one MiB of float32, which is near the processor
_Block = tuple[slice | Tensor, slice, tuple[int, int]]  # images, rows, and how many images and captions of each
Made = TypeVar("Made")


class Seen(NamedTuple):
    """What the detected words of N images add to the decoder, computed once per image."""

    start: Tensor  # (N, 2H) to the first h and c
    gates: Tensor  # (N, 1, 4H) to the LSTM's gates, at every step
    readout: Tensor  # (N, 1, E) to what words are read out of, at every step


class Memory(NamedTuple):
    """N encoded images, with their projections, which are computed once per image and never per step or beam."""

    cells: Tensor  # (N, P, C) what is attended to
    projected: Tensor | None  # (N, P, A) the same, as attention compares it with the state; None without gradients
    powers: Tensor  # (N, P, A) e to twice the power of that, without gradient
    seen: Seen | None = None

    def select(self, images: Tensor) -> "Memory":
        """Keep some images.

        Args:
            images: Their indices, `(M,)`.

        Returns:
            The memory of M images.
        """
        seen = None if self.seen is None else Seen(*(each[images] for each in self.seen))
        projected = None if self.projected is None else self.projected[images]
        return Memory(self.cells[images], projected, self.powers[images], seen)

    def added(self, chosen: Tensor | None = None) -> Tensor | None:
        """Give what the detected words add where words are read out.

        Args:
            chosen: Which captions, or steps of captions, of the N images are meant, `(N, …)` bool; None means each image once.

        Returns:
            `(M, E)` of the M chosen, `(N, 1, E)` of all, or None where nothing is detected.
        """
        if self.seen is None or chosen is None:
            return None if self.seen is None else self.seen.readout
        image = torch.arange(len(chosen), device=chosen.device).view(-1, *(1,) * (chosen.dim() - 1)).expand_as(chosen)
        return self.seen.readout[image[chosen], 0]


class Attention(nn.Module):
    """Additive soft attention: how much each grid cell matters for the next word; with A = 0, all alike."""

    def __init__(self, context_dim: int, decoder_dim: int, attention_dim: int) -> None:
        """Build the projections.

        Args:
            context_dim: C.
            decoder_dim: H.
            attention_dim: A.
        """
        super().__init__()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Initializing zero-element tensors")  # A = 0
            self.grid_projection = nn.Linear(context_dim, attention_dim)
            self.state_projection = nn.Linear(decoder_dim, attention_dim)
            self.energy = nn.Linear(attention_dim, 1)  # its bias is the same for all cells, so it changes nothing

    def remember(self, cells: Tensor, seen: Seen | None = None) -> Memory:
        """Bring cells to where they are compared with the state.

        Args:
            cells: `(N, P, C)`.
            seen: What detected words add.

        Returns:
            The memory of N images.
        """
        projected = _exact(self.grid_projection(cells))
        return Memory(cells, projected if torch.is_grad_enabled() else None, _raise(projected.detach()), seen)

    def forward(self, memory: Memory, h: Tensor, counts: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """Attend.

        All captions of an image look at the same map; it is never copied per caption or beam.

        Args:
            memory: N images.
            h: States of K captions of each image, `(N, K, H)`; or, with `counts`, of the R captions of all, `(1, R, H)`.
            counts: How many captions each image has, where they differ.

        Returns:
            The context, `(N, K, C)`, and the weights alpha, `(N, K, P)`, which sum to 1 over P; or `(1, R, C)`, `(1, R, P)`.
        """
        state = _exact(self.state_projection(h)).flatten(0, 1)
        weight = self.energy.weight[0].to(state.dtype)
        counts = (h.shape[1],) * len(h) if counts is None else counts
        with torch.autocast(h.device.type, enabled=False):
            context, alpha = _Attend.apply(memory.cells, memory.projected, memory.powers, state, weight, counts)
        return context.unflatten(0, h.shape[:2]), alpha.unflatten(0, h.shape[:2])


class _Attend(torch.autograd.Function):
    """From compared cells and states to contexts (R, C) and alphas (R, P); its gradient computes the energies once more."""

    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917 - what attention reads
        ctx: Any,  # noqa: ANN401 - torch's own
        cells: Tensor,
        projected: Tensor | None,  # noqa: ARG004 - has the gradient that `powers` has not
        powers: Tensor,
        state: Tensor,
        weight: Tensor,
        counts: Sequence[int],
    ) -> tuple[Tensor, Tensor]:
        raised, factors = _raise(state), -2 * weight
        context = cells.new_empty(len(state), cells.shape[-1])
        alpha = state.new_empty(len(state), cells.shape[1])

        def attend(block: _Block) -> None:
            images, rows, shape = block
            energies = _halves(powers[images], raised[rows].view(*shape, -1)) @ factors  # but for what all cells share
            weights = energies.softmax(-1)  # (n, k, P)
            alpha[rows] = weights.flatten(0, 1)
            context[rows] = (weights.to(cells.dtype) @ cells[images]).flatten(0, 1)

        _each(attend, _blocks(counts, powers))
        ctx.save_for_backward(cells, powers, raised, weight, alpha)
        ctx.counts = counts
        return context, alpha

    @staticmethod
    def backward(ctx: Any, to_context: Tensor, to_alpha: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - torch's own
        cells, powers, raised, weight, alpha = ctx.saved_tensors
        of_cells, of_powers, of_state = torch.zeros_like(cells), torch.zeros_like(powers), torch.empty_like(raised)

        def attend(block: _Block) -> Tensor:
            images, rows, shape = block
            weights, wanted = alpha[rows].view(*shape, -1), to_context[rows].view(*shape, -1)
            _add(of_cells, images, weights.to(cells.dtype).transpose(1, 2) @ wanted)
            wished = to_alpha[rows].view(*shape, -1) + (wanted @ cells[images].transpose(1, 2)).to(weights.dtype)
            energies = weights * (wished - (wished * weights).sum(-1, keepdim=True))  # their gradient, (n, k, P)
            halves = _halves(powers[images], raised[rows].view(*shape, -1))
            of_factors: Tensor = energies.flatten() @ halves.flatten(0, 2)
            slopes = halves.addcmul_(halves, halves, value=-1).mul_(energies.unsqueeze(-1))  # (1 − tanh²) / 4
            _add(of_powers, images, slopes.sum(1))
            of_state[rows] = slopes.sum(2).flatten(0, 1)
            return of_factors

        with torch.autocast(cells.device.type, enabled=False):
            of_weight = torch.stack(_each(attend, _blocks(ctx.counts, powers))).sum(0).mul_(-2)
        of_projected = of_powers.mul_(4 * weight) if ctx.needs_input_grad[1] else None
        return of_cells, of_projected, None, of_state.mul_(4 * weight), of_weight, None


def _halves(powers: Tensor, raised: Tensor) -> Tensor:
    """Give 1 / (1 + e^2x · e^2y), which is (1 − tanh) / 2, of n images (n, P, A) and k states of each (n, k, A): (n, k, P, A)."""
    return torch.addcmul(powers.new_ones(()), powers.unsqueeze(1), raised.unsqueeze(2)).reciprocal_()


def _blocks(counts: Sequence[int], powers: Tensor) -> Iterator[_Block]:
    """Divide captions into blocks: which images, which rows, and how many images and captions of each.

    On a processor a block is as many images as fit into its cache, at least one; elsewhere it is all of them.
    """
    if not _has_cache(powers.device):
        everything = slice(0, len(powers)), slice(0, sum(counts))
        if len(set(counts)) == 1:
            yield *everything, (len(counts), counts[0])
        else:
            owners = torch.repeat_interleave(torch.tensor(counts)).to(powers.device)
            yield owners, everything[1], (len(owners), 1)
        return
    image = row = 0
    while image < len(counts):
        captions, images = counts[image], 1
        most = _NUMBERS_AT_ONCE // max(captions * powers[0].numel(), 1)
        while images < most and image + images < len(counts) and counts[image + images] == captions:
            images += 1
        if captions:
            yield slice(image, image + images), slice(row, row + images * captions), (images, captions)
        image, row = image + images, row + images * captions


def _has_cache(device: torch.device) -> bool:
    return device.type == "cpu"


def _add(total: Tensor, images: slice | Tensor, values: Tensor) -> None:
    """Add values to those of a block's images; an image may be there more than once."""
    if isinstance(images, slice):
        total[images] = values  # no other block has them
    else:
        total.index_add_(0, images, values)


def _each(attend: Callable[[_Block], Made], blocks: Iterator[_Block]) -> list[Made]:
    """Do every block, side by side where torch has several threads: they wait once, and not after each small operation."""
    every = list(blocks)
    lanes = _lanes(torch.get_num_threads() if len(every) > 1 else 1)
    inference = torch.is_inference_mode_enabled()  # is of a thread, as are gradients

    def several(part: slice) -> list[Made]:
        with torch.inference_mode(inference), torch.no_grad():
            return [attend(block) for block in every[part]]

    return [made for part in lanes.each(several, lanes.divide(len(every), least=1)) for made in part]


@cache
def _lanes(count: int) -> Lanes:
    return Lanes(count)


def _exact(values: Tensor) -> Tensor:
    """Give numbers of at least float32."""
    return values if values.dtype in {torch.float32, torch.float64} else values.float()


def _raise(projected: Tensor) -> Tensor:
    """Give e to twice the power of what is compared; tanh has long been ±1 where it is cut off."""
    return projected.mul(2).clamp_(-_LARGEST_POWER, _LARGEST_POWER).exp_()
