"""Which words are worth detecting, how certain each is, and how well they are detected: known answers."""

import numpy as np
import pytest

from capt.errors import InputError
from jobs.training.caption_words import average_precision, count_words, find_words, word_targets


def test_words_are_those_of_enough_images_and_not_of_nearly_all() -> None:
    """15 images suffice and 14 do not; a word of 90 % is too common; an image without captions does not count."""
    images = 20
    counts = {"dog": 15, "cat": 14, "on": 18, "the": 17, "a": images}
    captions = [[" ".join(word for word, count in counts.items() if number < count)] for number in range(images)]
    assert find_words([*captions, []]) == ("dog", "the")
    captions[0] *= 5  # a word counts once for an image
    assert find_words(captions) == ("dog", "the")
    with pytest.raises(InputError, match="--words-epochs"):
        find_words(captions[:14])


def test_two_captions_make_a_word_certain() -> None:
    """The target is the number of captions that have the word, halved, and at most 1; a word counts once in a caption."""
    captions = [["a dog", "Dogs!", "the dog sees a dog", "my dog"], ["a cat sees a cat"], []]
    counts = count_words(captions, ["dog", "cat", "sees"])
    assert counts.tolist() == [[3, 0, 1], [0, 1, 1], [0, 0, 0]]
    assert word_targets(counts).tolist() == [[1.0, 0.0, 0.5], [0.0, 0.5, 0.5], [0.0, 0.0, 0.0]]
    assert word_targets(counts).dtype == np.float32


def test_average_precision_is_the_mean_purity_down_to_each_hit() -> None:
    """Recomputed one word and one hit at a time; words that do not occur are left out."""
    random = np.random.default_rng(3)
    logits = random.normal(size=(30, 12)).astype(np.float32)
    present = random.random((30, 12)) < random.random(12) * 0.6
    present[:, 4] = False
    precisions, occurrences = [], []
    for word in range(12):
        ranked = [image for _, image in sorted((-logits[image, word], image) for image in range(30))]
        hits = [place for place, image in enumerate(ranked, start=1) if present[image, word]]
        if hits:
            precisions.append(sum(number / place for number, place in enumerate(hits, start=1)) / len(hits))
            occurrences.append(len(hits))
    mean, weighted = average_precision(logits, present)
    assert mean == pytest.approx(sum(precisions) / len(precisions))
    assert weighted == pytest.approx(np.dot(precisions, occurrences) / sum(occurrences))
    first_and_third = np.array([[True], [False], [True], [False]])
    assert average_precision(np.array([[3.0], [2], [1], [0]], np.float32), first_and_third)[0] == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(logits, np.zeros_like(present)) == (0.0, 0.0)
