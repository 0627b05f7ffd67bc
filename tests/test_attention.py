"""Attention, arranged for speed, against additive attention as it is written in the paper."""

import pytest
import torch
from torch import Tensor, nn

import capt.attention
from capt.attention import Attention

C, H, A, P = 6, 5, 4, 7


def _attention(scale: float = 1.0, dim: int = A) -> Attention:
    torch.manual_seed(2)
    attention = Attention(C, H, dim).double()
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=scale)
    return attention


def _plain(attention: Attention, cells: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Give context and alpha of states (R, H) that look at cells (R, P, C), as Bahdanau et al. write it."""
    mixed = attention.grid_projection(cells) + attention.state_projection(h).unsqueeze(1)
    alpha = attention.energy(mixed.tanh()).squeeze(-1).softmax(-1)
    return (alpha.unsqueeze(-1) * cells).sum(1), alpha


@pytest.fixture(params=["blocks of one image", "blocks of several", "no blocks"])
def _arranged(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way in which the captions can be divided; the last is that of a GPU, computed here."""
    monkeypatch.setattr(capt.attention, "_NUMBERS_AT_ONCE", 1 if "one" in request.param else 4 * P * A)
    monkeypatch.setattr(capt.attention, "_has_cache", lambda _: request.param != "no blocks")


@pytest.mark.usefixtures("_arranged")
@pytest.mark.parametrize("counts", [(2, 2, 2), (1, 0, 3), (2, 2, 1), (0, 0, 1)], ids=str)
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_contexts_alphas_and_all_gradients_are_those_of_the_paper(counts: tuple[int, ...], scale: float) -> None:
    """However many captions an image has, and also where tanh is nearly ±1: values, and gradients of cells, states, weights."""
    attention = _attention(scale)
    cells = torch.randn(3, P, C, dtype=torch.float64, requires_grad=True)
    h = torch.randn(sum(counts), H, dtype=torch.float64, requires_grad=True)
    to_context, to_alpha = torch.randn(len(h), C).double(), torch.randn(len(h), P).double()
    leaves = [cells, h, *attention.parameters()]

    def told(context: Tensor, alpha: Tensor) -> list[Tensor]:
        total = (context * to_context).sum() + (alpha * to_alpha).sum()
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(total, leaves, allow_unused=True)
        return [context, alpha, *(torch.zeros(1).double() if each is None else each for each in gradients)]  # energy's bias

    expected = told(*_plain(attention, cells[torch.repeat_interleave(torch.tensor(counts))], h))
    context, alpha = attention(attention.remember(cells), h.unsqueeze(0), counts)
    for ours, theirs in zip(told(context[0], alpha[0]), expected, strict=True):
        torch.testing.assert_close(ours, theirs.view_as(ours), rtol=1e-6, atol=1e-9)


@pytest.mark.usefixtures("_arranged")
def test_as_many_captions_of_every_image_are_the_same_in_rows_and_side_by_side() -> None:
    """(N, K, H) is what (1, N · K, H) is with the counts."""
    attention = _attention()
    memory = attention.remember(torch.randn(4, P, C).double())
    h = torch.randn(4, 3, H).double()
    in_rows = attention(memory, h.view(1, 12, H), (3, 3, 3, 3))
    for ours, theirs in zip(attention(memory, h), in_rows, strict=True):
        torch.testing.assert_close(ours.flatten(0, 1), theirs[0])


@pytest.mark.usefixtures("_arranged")
def test_without_a_dimension_to_compare_in_all_cells_are_alike() -> None:
    """A = 0 attends to the mean cell, and learns so."""
    attention = _attention(dim=0)
    cells = torch.randn(2, P, C, dtype=torch.float64, requires_grad=True)
    context, alpha = attention(attention.remember(cells), torch.randn(2, 2, H).double())
    torch.testing.assert_close(alpha, torch.full_like(alpha, 1 / P))
    context.sum().backward()
    torch.testing.assert_close(cells.grad, torch.full_like(cells, 2 / P))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_threads_attend_as_one_does(mode: type[torch.no_grad]) -> None:
    """Divided among threads, in each of torch's modes, contexts and alphas are the same to the last digit; so are gradients."""
    attention, before = _attention(), torch.get_num_threads()
    h = torch.randn(8, 3, H).double()
    told = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            cells = torch.linspace(-1, 1, 8 * P * C, dtype=torch.float64).view(8, P, C).requires_grad_()
            with mode(), pytest.MonkeyPatch.context() as patch:
                patch.setattr(capt.attention, "_NUMBERS_AT_ONCE", 1)
                context, alpha = attention(attention.remember(cells), h)
                if context.requires_grad:
                    context.square().sum().backward()
            told.append((context, alpha, cells.grad))
    finally:
        torch.set_num_threads(before)
    assert all(theirs is ours is None or torch.equal(ours, theirs) for ours, theirs in zip(*told, strict=True))


def test_very_large_projections_stay_numbers() -> None:
    """Where tanh has long been ±1 nothing overflows, in float32."""
    attention = _attention().float()
    cells = torch.full((1, P, C), 1e6, requires_grad=True)
    context, alpha = attention(attention.remember(cells), torch.full((1, 2, H), -1e6))
    context.sum().backward()
    assert torch.isfinite(context).all()
    assert cells.grad is not None
    assert torch.isfinite(cells.grad).all()
    torch.testing.assert_close(alpha.sum(-1), torch.ones(1, 2))


def test_energies_are_float32_whatever_the_cells_are() -> None:
    """In bfloat16 the cells are weighed in bfloat16, and alpha is still what float32 makes of the projections."""
    attention = _attention().float()
    cells, h = torch.randn(2, P, C), torch.randn(2, 3, H)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        memory = attention.remember(cells.bfloat16())
        context, alpha = attention(memory, h)
    assert memory.projected is not None
    assert (memory.projected.dtype, alpha.dtype, context.dtype) == (torch.float32, torch.float32, torch.bfloat16)
    torch.testing.assert_close(alpha.sum(-1), torch.ones(2, 3), rtol=0, atol=1e-6)
    torch.testing.assert_close(context.float(), attention(attention.remember(cells), h)[0], rtol=0.05, atol=0.05)


def test_a_selected_memory_has_the_chosen_images_alone() -> None:
    """Cells, projections and powers of the images chosen, in the order asked for."""
    memory = _attention().remember(torch.randn(3, P, C).double())
    chosen = torch.tensor([2, 0])
    selected = memory.select(chosen)
    assert torch.equal(selected.cells, memory.cells[chosen])
    assert selected.projected is not None
    assert memory.projected is not None
    assert torch.equal(selected.projected, memory.projected[chosen])
    assert torch.equal(selected.powers, memory.powers[chosen])
