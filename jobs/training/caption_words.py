"""Which words people use about images: which are worth detecting, how certain each is, how well they are detected.

In: captions. Out: words, targets `(N, W)`, average precision. Apart from `word_detection.py`, because it is arithmetic that needs
no network.

Source:
    Fang et al. 2015 (From captions to visual concepts and back), who also measure by average precision.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from capt.errors import InputError
from capt.vocabulary import tokenize

_LEAST_IMAGES, _LARGEST_SHARE = 15, 0.9  # of the training images: seldomer words are not learned, commoner ones say nothing
_CERTAIN = 2  # captions that have a word


def find_words(captions: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Choose the words to be detected: those of enough images, and not of nearly all.

    Args:
        captions: For each training image what people wrote.

    Returns:
        The words, in alphabetical order.

    Raises:
        InputError: If there are none.
    """
    images = [texts for texts in captions if texts]
    occurring = Counter(word for texts in images for word in {word for text in texts for word in tokenize(text)})
    words = sorted(word for word, count in occurring.items() if _LEAST_IMAGES <= count < _LARGEST_SHARE * len(images))
    if not words:
        what = (
            f"occurs in the captions of at least {_LEAST_IMAGES} training images and of fewer than {_LARGEST_SHARE:.0%} of them"
        )
        message = f"No word {what}; give more images, or leave out --words-epochs."
        raise InputError(message)
    return tuple(words)


def count_words(captions: Sequence[Sequence[str]], words: Sequence[str]) -> NDArray[np.uint8]:
    """Count how many captions of each image have each word.

    Args:
        captions: For each of N images what people wrote.
        words: W of them.

    Returns:
        `(N, W)`, at most 255.
    """
    places = {word: place for place, word in enumerate(words)}
    counts = np.zeros((len(captions), len(words)), dtype=np.uint8)
    for image, texts in enumerate(captions):
        for text in texts[: np.iinfo(np.uint8).max]:
            counts[image, [places[word] for word in set(tokenize(text)) if word in places]] += 1
    return counts


def word_targets(counts: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn counts of captions into how certain a word is.

    Args:
        counts: How many captions of an image have a word.

    Returns:
        0, 0.5 or 1, of the same shape.
    """
    return (counts.clip(max=_CERTAIN) / _CERTAIN).astype(np.float32)


def average_precision(logits: NDArray[np.float32], present: NDArray[np.bool_]) -> tuple[float, float]:
    """Measure how well words are detected: for each word, how pure the list of images is, down to each image that has it.

    Args:
        logits: Of N images and W words; the greater, the likelier.
        present: Whether a caption of the image has the word, `(N, W)`.

    Returns:
        The mean over words that occur, and the mean in which a word counts as often as there are images with it; both 0 where no
        word occurs. Images of the same logit stay in their order.
    """
    order = np.argsort(-logits, axis=0, kind="stable")
    found = np.take_along_axis(present, order, axis=0)
    precision = np.cumsum(found, axis=0) / np.arange(1, len(found) + 1)[:, None]
    occurrences = found.sum(0)
    if not occurrences.any():
        return 0.0, 0.0
    sums = (precision * found).sum(0)
    return float((sums[occurrences > 0] / occurrences[occurrences > 0]).mean()), float(sums.sum() / occurrences.sum())
