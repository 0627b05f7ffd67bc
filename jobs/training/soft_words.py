"""Soft words: how likely one more person would use each word about an image, from what others wrote about it.

In: captions without images, by image, and those of the training images. Out: targets `(N, W)` for words first. Apart from
`word_detection.py`, because it learns from text alone and sees no image.

Nobody tells everything: a word that no caption of an image has may well be true of it, and one that a single caption has may be
an error. What the other captions say tells how likely it is: who reads of a surfer expects a wave. A small network learns that
from images with several captions: it reads some of them as a bag of words, and says which words another one has.

Source:
    Szegedy et al. 2016 (soft targets in place of certain ones); Fang et al. 2015 (which words an image's captions have).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from capt.errors import InputError
from capt.vocabulary import tokenize
from jobs.training.texts import Texts

_LEAST_CAPTIONS = 10  # that have a word which is read
_DIMENSION, _DROPOUT = 512, 0.5
_EPOCHS, _BATCH_SIZE, _RATE = 8, 128, 1e-3
_LEAST_STEPS = 400  # of little text there are more epochs
_READ_AT_LEAST = 2  # captions, where there are as many
_SMALLEST_FREQUENCY = 1e-4

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class SoftTargets:
    """What words first learns instead of counts.

    Args:
        targets: How certain each word is about each image, 0 to 1, `(N, W)`; 0 for an image without captions.
        facts: For the model card, as JSON can hold them: of how many `images` captions were read; what the words of another
            caption cost in nats, summed over words, mean over the validation images, given the others (`loss`) and by the
            words' frequencies alone (`loss_by_frequency`); None for both where no validation image has two captions.
    """

    targets: NDArray[np.float16]
    facts: dict[str, Any]


@dataclass(frozen=True)
class _Told:
    """One caption: which words that are read it has, and which that are detected."""

    read: NDArray[np.int32]
    detected: NDArray[np.int32]


_Group = list[_Told]  # the captions of an image


def check_texts(texts: Texts) -> None:
    """Refuse text that tells nothing about which words go together.

    Args:
        texts: What would be learned from.

    Raises:
        InputError: If no image has two captions.
    """
    if not _with_several(texts):
        message = (
            "--words-softness learns from images that have several captions, and no image of --text or of the training images "
            "has two; give text that has them, or leave --words-softness out."
        )
        raise InputError(message)


def soften(  # noqa: PLR0913 - what is read, what it is for, what it is judged by
    texts: Texts,
    learning: Sequence[Sequence[str]],
    validation: Sequence[Sequence[str]],
    words: Sequence[str],
    *,
    seed: int,
    say: Say,
) -> SoftTargets:
    """Learn from text which words go together, and say how certain each word is about the training images.

    A target is what counts of as many captions as the image has would give on average, if each had the word with the probability
    that the network says: that of two captions or more, and half that of one.

    Args:
        texts: Captions of images, those of validation images not among them.
        learning: Captions of the N training images.
        validation: Captions of the validation images, which are only measured by.
        words: W that are detected.
        seed: Decides the result, with the rest.
        say: Told in a sentence how well the words are known.

    Returns:
        The targets.
    """
    several = _with_several(texts)
    reader = _Reader(several, words)
    told = [reader.read(captions) for captions in several]
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        frequencies = _frequencies(told, len(words))
        network = _Network(reader.words, frequencies)
        _learn(network, told, np.random.default_rng(seed), len(words))
    measured = [reader.read(captions) for captions in validation if len(captions) > 1]
    given, by_frequency = _measure(network, measured, frequencies) if measured else (None, None)
    say(_told_of(given, by_frequency, len(several)))
    targets = np.empty((len(learning), len(words)), np.float16)
    for chosen in _batches(np.arange(len(learning))):  # a matrix of these in float32 takes half a gigabyte of Flickr30k
        captions = [learning[number] for number in chosen]
        chances = _chances(network, [reader.read(each) for each in captions])
        targets[chosen] = expected_targets(chances, [len(each) for each in captions])
    return SoftTargets(targets=targets, facts={"images": len(several), "loss": given, "loss_by_frequency": by_frequency})


def _with_several(texts: Texts) -> list[list[str]]:
    """Give the captions of each image that has more than one."""
    groups: dict[int, list[str]] = {}
    for text, image in zip(texts.captions, texts.images, strict=True):
        groups.setdefault(image, []).append(text)
    return [captions for captions in groups.values() if len(captions) > 1]


def _told_of(given: float | None, by_frequency: float | None, images: int) -> str:
    learned = f"The captions of {images:,} images told which words go together"
    if given is None or by_frequency is None:
        return f"{learned}; no image to choose by has two captions, so how well is not known."
    return (
        f"{learned}: the words of a caption cost {given:.1f} nats given the other captions of its image, "
        f"{by_frequency:.1f} by their frequencies alone."
    )


def expected_targets(chances: NDArray[np.float32], captions: Sequence[int]) -> NDArray[np.float16]:
    """Say what `word_targets` of counts would be on average.

    Args:
        chances: How likely a caption has each word, `(N, W)`.
        captions: How many captions each image has.

    Returns:
        The chance of two captions or more, and half that of one, `(N, W)`; 0 where there are no captions.
    """
    count = np.asarray(captions, np.float32)[:, None]
    none = (1 - chances) ** count
    one = count * chances * (1 - chances) ** np.maximum(count - 1, 0)
    expected: NDArray[np.float16] = (1 - none - one / 2).clip(0, 1).astype(np.float16)
    return expected


class _Reader:
    """Turns captions into numbers of words."""

    def __init__(self, groups: Sequence[Sequence[str]], words: Sequence[str]) -> None:
        captions = Counter(word for texts in groups for text in texts for word in set(tokenize(text)))
        known = sorted(word for word, count in captions.items() if count >= _LEAST_CAPTIONS)
        self._read = {word: place for place, word in enumerate(known)}
        self._detected = {word: place for place, word in enumerate(words)}
        self.words = len(known)

    def read(self, captions: Sequence[str]) -> _Group:
        return [_Told(_places(tokens, self._read), _places(tokens, self._detected)) for tokens in map(_distinct, captions)]


def _distinct(text: str) -> list[str]:
    return sorted(set(tokenize(text)))


def _places(words: Sequence[str], places: dict[str, int]) -> NDArray[np.int32]:
    return np.array([places[word] for word in words if word in places], dtype=np.int32)


class _Network(nn.Module):
    """From a bag of words to a logit for each word that is detected."""

    def __init__(self, read: int, frequencies: NDArray[np.float32]) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(max(read, 1), _DIMENSION, mode="sum")
        nn.init.uniform_(self.bag.weight, -(max(read, 1) ** -0.5), max(read, 1) ** -0.5)  # as a linear layer of it
        self.bias = nn.Parameter(torch.zeros(_DIMENSION))
        self.dropout = nn.Dropout(_DROPOUT)
        self.output = nn.Linear(_DIMENSION, len(frequencies))
        with torch.no_grad():  # it begins by saying how frequent the words are
            self.output.bias.copy_(torch.from_numpy(frequencies).clamp(_SMALLEST_FREQUENCY, 1 - _SMALLEST_FREQUENCY).logit())

    def forward(self, groups: Sequence[_Group]) -> Tensor:
        """Read groups of captions, each word as often as the share of captions that have it: `(n, W)`."""
        places = [told.read for group in groups for told in group]
        shares = [np.full(len(told.read), 1 / len(group), np.float32) for group in groups for told in group]
        sizes = [sum(len(told.read) for told in group) for group in groups]
        offsets = torch.tensor([0, *np.cumsum(sizes[:-1]).tolist()])
        words = torch.from_numpy(np.concatenate(places or [np.zeros(0, np.int32)])).long()
        weights = torch.from_numpy(np.concatenate(shares or [np.zeros(0, np.float32)]))
        hidden = (self.bag(words, offsets, per_sample_weights=weights) + self.bias).relu()
        logits: Tensor = self.output(self.dropout(hidden))
        return logits


def _learn(network: _Network, groups: Sequence[_Group], random: np.random.Generator, words: int) -> None:
    """Let the network tell the words of a caption from others of its image, drawn anew each time."""
    optimiser = torch.optim.Adam(network.parameters(), _RATE)
    of_an_epoch = max(-(-len(groups) // _BATCH_SIZE), 1)
    epochs = max(_EPOCHS, -(-_LEAST_STEPS // of_an_epoch)) if groups else 0
    steps, done = epochs * of_an_epoch, 0
    for _ in range(epochs):
        for chosen in _batches(random.permutation(len(groups))):
            pairs = [_divide(groups[number], random) for number in chosen]
            targets = _present([held for held, _ in pairs], words)
            for group in optimiser.param_groups:
                group["lr"] = _RATE * (1 - done / steps)
            loss = functional.binary_cross_entropy_with_logits(network([others for _, others in pairs]), targets) * words
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            done += 1
    network.eval()


def _batches(order: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(order), _BATCH_SIZE):
        yield order[start : start + _BATCH_SIZE]


def _divide(group: _Group, random: np.random.Generator) -> tuple[_Told, _Group]:
    """Draw the caption that is to be told, and some of the others, from which."""
    order = random.permutation(len(group))
    others = len(group) - 1
    kept = int(random.integers(min(_READ_AT_LEAST, others), others + 1))
    return group[order[0]], [group[number] for number in order[1 : 1 + kept]]


def _present(captions: Sequence[_Told], words: int) -> Tensor:
    """Say which words each caption has, `(n, W)`."""
    present = np.zeros((len(captions), words), np.float32)
    for row, told in enumerate(captions):
        present[row, told.detected] = 1
    return torch.from_numpy(present)


def _frequencies(groups: Sequence[_Group], words: int) -> NDArray[np.float32]:
    """Say which share of the captions has each word, `(W,)`."""
    counts, captions = np.zeros(words, np.float32), 0
    for group in groups:
        captions += len(group)
        for told in group:
            counts[told.detected] += 1
    return counts / np.float32(max(captions, 1))


@torch.no_grad()
def _chances(network: _Network, groups: Sequence[_Group]) -> NDArray[np.float32]:
    """Say how likely one more caption has each word, `(n, W)`."""
    parts = [network([groups[number] for number in chosen]).sigmoid().numpy() for chosen in _batches(np.arange(len(groups)))]
    return np.concatenate(parts) if parts else np.zeros((0, network.output.out_features), np.float32)


def _measure(network: _Network, groups: Sequence[_Group], frequencies: NDArray[np.float32]) -> tuple[float, float]:
    """Give what the words of each group's first caption cost, given the others, and by frequency alone."""
    present = _present([group[0] for group in groups], len(frequencies)).numpy()
    given = _chances(network, [group[1:] for group in groups])
    return _cost(present, given), _cost(present, np.broadcast_to(frequencies, present.shape))


def _cost(present: NDArray[np.float32], chances: NDArray[np.float32]) -> float:
    sure = chances.clip(_SMALLEST_FREQUENCY, 1 - _SMALLEST_FREQUENCY)
    return float(-(present * np.log(sure) + (1 - present) * np.log1p(-sure)).sum(1).mean())
