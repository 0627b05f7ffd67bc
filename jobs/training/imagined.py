"""What a detector of words would say about images of which only captions are known.

In: what detectors said about training images that they had not seen, with these images' captions; and captions of other images.
Out: logits of the words for each of the others' captions, as a decoder reads them. Apart, because it is arithmetic on words, and
knows neither images nor networks.

A detector's logits are taken as a linear function of what people wrote, plus an error. The error is one about a training image of
which people wrote something similar, so that what is taken for what stays as it is: a horse for a cow, a boy for a girl. Of an
image with several captions, the decoder is to write each from what the others tell; its own words count only where similar
images are looked for.

Source:
    Hoerl and Kennard 1970 (ridge regression); Efron 1979 (bootstrap: errors are drawn from those that were seen).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from capt.vocabulary import tokenize
from jobs.training.caption_words import count_words, word_targets
from jobs.training.detection import LARGEST_LOGIT

_RIDGE = 30.0
_SIMILAR = 30  # training images from whose errors one is drawn
_ROWS = 2000  # images compared at a time
_TINY = 1e-6


class Imagination:
    """Draws what a detector would say about the image of a caption."""

    def __init__(self, words: Sequence[str], seen: tuple[Sequence[Sequence[str]], NDArray[np.float16]]) -> None:
        """Learn how detectors err.

        Args:
            words: W words that are detected.
            seen: Of N training images what people wrote, and logits `(N, W)` of detectors that had not seen them.
        """
        captions, logits = seen
        there = [image for image, texts in enumerate(captions) if texts]
        self._words = {word: place for place, word in enumerate(words)}
        targets = word_targets(count_words([captions[image] for image in there], words))
        known, said = _with_one(targets), logits[there].astype(np.float32)
        gram = known.T @ known + _RIDGE * np.eye(known.shape[1], dtype=np.float32)
        self._weights = np.linalg.solve(gram, known.T @ said).astype(np.float32)
        self._errors = (said - known @ self._weights).astype(np.float16)
        rarity = -np.log((targets > 0).mean(0).clip(_TINY, 1.0)).astype(np.float32)
        self._rarity, self._known = rarity, _unit(targets * rarity)

    def of(self, captions: Sequence[str], images: Sequence[int]) -> "ImaginedWords":
        """Get ready to draw for captions.

        Args:
            captions: T of them.
            images: The number of each one's image, from 0.

        Returns:
            What draws for them.
        """
        own = [
            np.array(sorted({self._words[w] for w in tokenize(text) if w in self._words}), dtype=np.int64) for text in captions
        ]
        counts = np.zeros((max(images, default=-1) + 1, len(self._words)), dtype=np.uint8)
        for image, places in zip(images, own, strict=True):
            counts[image, places] += counts[image, places] < np.iinfo(np.uint8).max
        similar = np.empty((len(counts), min(_SIMILAR, len(self._errors))), dtype=np.int32)
        for start in range(0, len(counts), _ROWS):
            alike = _unit(word_targets(counts[start : start + _ROWS]) * self._rarity) @ self._known.T
            similar[start : start + _ROWS] = np.argpartition(-alike, similar.shape[1] - 1, axis=1)[:, : similar.shape[1]]
        return ImaginedWords(own, np.asarray(images, dtype=np.int64), counts, similar, self)

    def judge(self, targets: NDArray[np.float32], errors_of: NDArray[np.int32]) -> NDArray[np.float32]:
        """Give logits for images of which it is known what people wrote.

        Args:
            targets: How certain each word is, `(n, W)`.
            errors_of: The training image whose error each has, `(n,)`.

        Returns:
            `(n, W)`.
        """
        logits: NDArray[np.float32] = _with_one(targets) @ self._weights + self._errors[errors_of]
        return logits.clip(-LARGEST_LOGIT, LARGEST_LOGIT)


class ImaginedWords:
    """Draws logits of detected words for captions of a text."""

    def __init__(
        self,
        own: Sequence[NDArray[np.int64]],
        images: NDArray[np.int64],
        counts: NDArray[np.uint8],
        similar: NDArray[np.int32],
        imagination: Imagination,
    ) -> None:
        """Keep what is known of each caption and its image; `Imagination.of` makes it."""
        self._own, self._images, self._counts, self._similar, self._imagination = own, images, counts, similar, imagination

    def draw(self, chosen: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.float32]:
        """Draw what a detector would say.

        Args:
            chosen: Captions of the text, `(n,)`.
            random: Decides whose errors are made.

        Returns:
            `(n, W)` logits.
        """
        images = self._images[chosen]
        counts = self._counts[images]
        for row, caption in enumerate(chosen.tolist()):
            counts[row, self._own[caption]] -= 1
        errors_of = self._similar[images, random.integers(0, self._similar.shape[1], len(chosen))]
        return self._imagination.judge(word_targets(counts), errors_of)


def _with_one(targets: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([targets, np.ones((len(targets), 1), dtype=np.float32)], 1)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float32] = rows / (lengths + _TINY)
    return unit
