"""Rewards against pycocoevalcap on the same words."""

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider

from jobs.training.rewards import Rewards, ngrams

WORDS = ["a", "dog", "cat", "runs", "sleeps", "on", "the", "grass", "beach", "with", "red", "ball", "'s", "n't"]


def _caption(random: np.random.Generator) -> list[str]:
    return [*random.choice(WORDS, random.integers(1, 19)).tolist(), "<end>"]


def _references(images: int = 60) -> list[list[list[str]]]:
    random = np.random.default_rng(1)
    return [[_caption(random) for _ in range(1 + image % 5)] for image in range(images)]


def _captions(references: list[list[list[str]]]) -> list[list[str]]:
    """Give one caption an image: some strange, some a reference, some cut short, some without a word."""
    random = np.random.default_rng(2)
    return [[_caption(random), texts[0], texts[-1][:3], ["<end>"]][image % 4] for image, texts in enumerate(references)]


def _joined(captions: list[list[list[str]]]) -> dict[int, list[str]]:
    return {image: [" ".join(words) for words in texts] for image, texts in enumerate(captions)}


def test_rewards_are_cider_d_and_bleu_4_of_pycocoevalcap() -> None:
    """To 1e-9, for each caption of images with one to five references, with any weight of BLEU-4."""
    references = _references()
    captions = _captions(references)
    gts, res = _joined(references), _joined([[caption] for caption in captions])
    _, cider = Cider().compute_score(gts, res)
    _, bleu = Bleu(4).compute_score(gts, res, verbose=0)
    for weight in (0.0, 0.5, 3.0):
        rewards = Rewards(references, weight)
        for image, caption in enumerate(captions):
            (reward,) = rewards.score(image, [caption])
            assert reward == pytest.approx(cider[image] + weight * bleu[3][image], abs=1e-9)


def test_captions_of_an_image_are_rewarded_one_by_one() -> None:
    """What else was drawn for an image does not change a caption's reward."""
    references = _references()
    rewards, captions = Rewards(references, 1.0), _captions(references)[:6]
    assert rewards.score(7, captions) == [rewards.score(7, [caption])[0] for caption in captions]


def test_images_without_references_do_not_count() -> None:
    """Document frequencies are over the images that somebody described."""
    references = _references(20)
    assert Rewards([*references, [], []], 0.5).score(3, [references[3][0]]) == Rewards(references, 0.5).score(
        3, [references[3][0]]
    )


def test_breaking_off_earns_less_than_ending() -> None:
    """<end> is a word of the reward: the same caption without it, or with its last words cut off, earns less."""
    references = [[["a", "dog", "runs", "on", "the", "grass", "<end>"]], *_references(30)]
    whole, without, cut = Rewards(references, 0.5).score(0, [references[0][0], references[0][0][:-1], references[0][0][:-3]])
    assert whole > without > cut


def test_runs_of_words_are_counted() -> None:
    """One to four words, as often as they occur."""
    counted = ngrams(["a", "dog", "a", "dog"])
    assert counted == {
        ("a",): 2,
        ("dog",): 2,
        ("a", "dog"): 2,
        ("dog", "a"): 1,
        ("a", "dog", "a"): 1,
        ("dog", "a", "dog"): 1,
        ("a", "dog", "a", "dog"): 1,
    }
