"""What a detector would say about an image of which only captions are known: as wrong as detectors are, and no wronger."""

import numpy as np
import pytest
from numpy.typing import NDArray

from jobs.training.caption_words import count_words, word_targets
from jobs.training.imagined import Imagination

WORDS = ("boat", "dog", "sea", "snow")
SCENES = (
    ("a boat at sea", "the boat", "sea"),
    ("a dog", "the dog runs"),
    ("a dog in snow", "snow", "a dog"),
    ("snow", "only snow"),
    ("the sea", "sea and sky"),
    ("a boat", "boat in a harbour"),
)
CAPTIONS = SCENES * 1000
WEIGHTS = np.array([[4.0, 0.0, 1.0, 0.0], [0.0, 3.0, 0.0, -1.0], [0.5, 0.0, 3.0, 0.0], [0.0, 0.0, 0.0, 5.0]], np.float32)
BIAS = np.array([-3.0, -2.0, -2.5, -4.0], np.float32)


def logits_of(captions: tuple[tuple[str, ...], ...], errors: NDArray[np.float32]) -> NDArray[np.float16]:
    """Judge as a detector that is linear in what people wrote, and errs."""
    targets = word_targets(count_words(captions, WORDS))
    return (targets @ WEIGHTS + BIAS + errors).astype(np.float16)


@pytest.fixture(scope="module")
def errors() -> NDArray[np.float32]:
    """Give errors, larger about dogs than about boats."""
    sizes = np.tile([0.01, 0.5, 0.5, 0.01, 0.01, 0.01], len(CAPTIONS) // 6)[:, None]
    return np.random.default_rng(0).normal(size=(len(CAPTIONS), len(WORDS))).astype(np.float32) * sizes.astype(np.float32)


def test_a_caption_is_to_be_written_from_what_the_others_tell(errors: NDArray[np.float32]) -> None:
    """Its own words do not count: of two captions each sees the other's words, and a lone caption sees none."""
    imagination = Imagination(WORDS, (CAPTIONS, logits_of(CAPTIONS, errors * 0)))
    imagined = imagination.of(["a boat", "the sea", "a dog"], [0, 0, 1])
    drawn = imagined.draw(np.array([0, 1, 2]), np.random.default_rng(0))
    expected = word_targets(count_words([["the sea"], ["a boat"], []], WORDS)) @ WEIGHTS + BIAS
    assert drawn == pytest.approx(expected, abs=0.7)  # ridge regression draws a little towards the mean
    assert drawn[0].argmax() == WORDS.index("sea")
    assert drawn[1].argmax() == WORDS.index("boat")


def test_errors_are_those_about_similar_images(errors: NDArray[np.float32]) -> None:
    """Where people wrote of dogs the detector errs as it errs about dogs, where of boats as about boats; each time anew."""
    imagination = Imagination(WORDS, (CAPTIONS, logits_of(CAPTIONS, errors)))
    texts = ["a boat at sea", "the boat", "sea", "a dog", "a dog", "a dog"]
    imagined = imagination.of(texts, [0, 0, 0, 1, 1, 1])
    random = np.random.default_rng(0)
    boats, dogs = (np.stack([imagined.draw(np.array([chosen]), random)[0] for _ in range(200)]) for chosen in (1, 4))
    assert boats.std(0).max() < 0.1
    assert 0.3 < dogs.std(0).min() < dogs.std(0).max() < 0.7
    again = imagined.draw(np.array([4] * 5), np.random.default_rng(3))
    assert np.array_equal(again, imagined.draw(np.array([4] * 5), np.random.default_rng(3)))


def test_images_without_captions_teach_nothing(errors: NDArray[np.float32]) -> None:
    """What was said about them, whatever it is, changes nothing."""
    logits = logits_of(CAPTIONS, errors)
    more = np.concatenate([logits, np.full((50, len(WORDS)), 9.0, np.float16)])
    chosen, texts = np.array([0, 1]), (["a dog", "snow"], [0, 0])
    one = Imagination(WORDS, (CAPTIONS, logits)).of(*texts).draw(chosen, np.random.default_rng(1))
    other = Imagination(WORDS, ((*CAPTIONS, *((),) * 50), more)).of(*texts).draw(chosen, np.random.default_rng(1))
    assert np.array_equal(one, other)


def test_few_images_suffice() -> None:
    """With fewer training images than errors are usually drawn from, those are drawn from that there are."""
    imagination = Imagination(WORDS, (SCENES, logits_of(SCENES, np.zeros((6, 4), np.float32))))
    assert imagination.of(["a dog"], [0]).draw(np.array([0]), np.random.default_rng(0)).shape == (1, len(WORDS))
