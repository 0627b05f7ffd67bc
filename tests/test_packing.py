"""Captions of several lengths, step by step."""

import torch

from capt.packing import PackedCaptions

# image 0 has one caption of two steps, image 1 none, image 2 one of one step and one of three
WORDS = torch.tensor([[[1, 5, 2, 0], [0, 0, 0, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]], [[1, 2, 0, 0], [1, 6, 7, 2]]])
LENGTHS = torch.tensor([[3, 0], [0, 0], [2, 4]])


def test_a_step_has_those_captions_that_go_on() -> None:
    """Which of the step before they are, how many of each image, whose, and what they read."""
    steps = [
        (None if step.rows is None else step.rows.tolist(), step.counts, step.images.tolist(), step.words.tolist())
        for step in PackedCaptions(WORDS, LENGTHS)
    ]
    assert steps == [
        (None, (1, 0, 2), [0, 2, 2], [1, 1, 1]),
        ([0, 2], (1, 0, 1), [0, 2], [5, 6]),
        ([1], (0, 0, 1), [2], [7]),
    ]


def test_what_steps_give_is_put_in_the_order_of_the_captions() -> None:
    """Image, caption, step: as the targets stand; and spread out, each where it belongs and zeros elsewhere."""
    packed = PackedCaptions(WORDS, LENGTHS)
    assert packed.targets.tolist() == [5, 2, 2, 6, 7, 2]
    joined = packed.join([step.words.unsqueeze(-1) for step in packed])
    assert joined[:, 0].tolist() == [1, 5, 1, 1, 6, 7]
    spread = packed.spread(joined)
    assert spread.shape == (3, 2, 3, 1)
    assert spread[..., 0].tolist() == [[[1, 5, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]], [[1, 0, 0], [1, 6, 7]]]
    assert torch.equal(spread[..., 0].bool(), packed.going)


def test_what_captions_begin_with_is_taken_of_those_that_are_there() -> None:
    """Of K captions of each image, the R that there are, image by image; the words of all steps are divided among them."""
    packed = PackedCaptions(WORDS, LENGTHS)
    values = torch.arange(6).view(3, 2, 1)
    assert packed.first(values).tolist() == [[[0], [4], [5]]]
    assert [part.tolist() for part in packed.split(packed.words)] == [step.words.tolist() for step in packed]
