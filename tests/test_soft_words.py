"""Soft words: what text tells of words that nobody wrote about an image."""

import json
import math
from itertools import product

import numpy as np
import pytest
import torch

from capt.errors import InputError
from jobs.training.caption_words import word_targets
from jobs.training.soft_words import SoftTargets, check_texts, expected_targets, soften
from jobs.training.texts import Texts

WORDS = ("horse", "saddle", "sea", "wave")
GROUPS = 400


def _texts() -> Texts:
    """Give captions of images of two kinds; on land a saddle is told by about every second caption, at sea a wave."""
    captions, images, random = [], [], np.random.default_rng(0)
    for image in range(GROUPS):
        thing, part = ("horse", "saddle") if image % 2 else ("sea", "wave")
        for _ in range(4):
            captions.append(f"the {thing} and a {part}" if random.random() < 0.5 else f"the {thing}")
            images.append(image)
    return Texts(captions=tuple(captions), images=tuple(images), excluded=0, held_back=0)


LEARNING = (("the horse", "a horse"), ("the sea",), (), ("the horse", "a saddle", "the horse"))
VALIDATION = (("the horse and a saddle", "the horse"), ("the sea", "the sea and a wave"), ("alone",))


def _soften(seed: int = 1, validation: tuple[tuple[str, ...], ...] = VALIDATION) -> tuple[SoftTargets, list[str]]:
    said: list[str] = []
    return soften(_texts(), LEARNING, validation, WORDS, seed=seed, say=said.append), said


def test_what_goes_together_is_likely_though_nobody_wrote_it() -> None:
    """Of two horses without a saddle it is far likelier than a wave; of an image without captions nothing is known."""
    softened, _ = _soften()
    horse, sea, nothing, saddled = softened.targets.astype(float)
    assert horse[0] > 0.9  # every caption of such images has it
    assert 0.35 < horse[1] < 0.65  # each of two captions with probability one half: 1/4 · 1 + 1/2 · 1/2
    assert sea[3] > 5 * sea[1]
    assert max(horse[2], horse[3], sea[0], sea[1]) < 0.1
    assert not nothing.any()
    assert saddled[1] > horse[1]
    assert ((softened.targets >= 0) & (softened.targets <= 1)).all()


@pytest.mark.parametrize("captions", range(6))
def test_targets_are_the_mean_of_what_counts_would_say(captions: int) -> None:
    """Over everything that so many captions can have, weighed by its probability, added up one by one."""
    chances = np.array([[0.0, 0.2, 0.7, 1.0]], np.float32)
    expected = np.zeros(4)
    for outcome in product((0, 1), repeat=captions):
        weight = np.prod([np.where(has, chances[0], 1 - chances[0]) for has in outcome], axis=0)
        expected += weight * word_targets(np.array([sum(outcome)], np.uint8))[0]
    np.testing.assert_allclose(expected_targets(chances, [captions])[0].astype(float), expected, atol=1e-3)


def test_the_seed_decides_and_randomness_elsewhere_is_left_alone() -> None:
    """The same seed gives the same targets whatever was drawn before, another one others; torch's own state stays."""
    torch.manual_seed(3)
    first, _ = _soften()
    drawn = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(3), drawn)
    again, _ = _soften()
    np.testing.assert_array_equal(first.targets, again.targets)
    assert first.facts == again.facts
    assert not np.array_equal(first.targets, _soften(seed=2)[0].targets)


def test_images_to_choose_by_are_only_measured_by() -> None:
    """Other validation captions change the cost that is told, and no target; one alone has no others to be told from."""
    softened, (sentence,) = _soften()
    other, _ = _soften(validation=(("the sea", "the wave of a horse"),))
    np.testing.assert_array_equal(softened.targets, other.targets)
    assert softened.facts != other.facts
    facts = softened.facts
    assert facts["images"] == GROUPS
    assert facts["loss"] < facts["loss_by_frequency"]
    assert f"{GROUPS} images told which words go together" in sentence
    assert f"{facts['loss']:.1f} nats given the other captions" in sentence
    likely = [sum(word in text.split() for text in _texts().captions) / (4 * GROUPS) for word in WORDS]
    present = [(1, 1, 0, 0), (0, 0, 1, 0)]
    costs = [-sum(math.log(p if has else 1 - p) for p, has in zip(likely, row, strict=True)) for row in present]
    assert facts["loss_by_frequency"] == pytest.approx(sum(costs) / 2, rel=1e-4)


def test_nothing_to_measure_by_is_no_number() -> None:
    """Without two captions of a validation image no cost is told, null is kept, and the targets are the same."""
    softened, (sentence,) = _soften(validation=((), ("alone",)))
    assert json.loads(json.dumps(softened.facts, allow_nan=False)) == {"images": GROUPS, "loss": None, "loss_by_frequency": None}
    assert "how well is not known" in sentence
    np.testing.assert_array_equal(softened.targets, _soften()[0].targets)


def test_text_must_tell_of_an_image_twice() -> None:
    """One image with two captions is enough to begin with; captions that are each of another image tell of no pair of words."""
    captions = ("a horse", "a sea", "a wave")
    check_texts(Texts(captions=captions, images=(0, 1, 1), excluded=0, held_back=0))
    with pytest.raises(InputError, match="no image of --text or of the training images has two; give text that has them"):
        check_texts(Texts(captions=captions, images=(0, 1, 2), excluded=0, held_back=0))
