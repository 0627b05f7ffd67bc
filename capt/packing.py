"""Captions of several lengths, laid out so that each step of reading them computes only those that go on.

In: captions of N images. Out: the same, padded; what each step reads, and how its results stand in the order of the
captions. Apart from the decoder, because it is book-keeping on whole numbers, done once a batch and on the processor.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from capt.vocabulary import Vocabulary


def pad_captions(captions: Sequence[Sequence[Sequence[int]]]) -> tuple[Tensor, Tensor]:
    """Lay the captions of a batch of images side by side, as `Decoder.forward` reads them.

    Args:
        captions: For each image its encoded captions; at least one in all.

    Returns:
        The captions, padded, `(N, K, L)`, and their lengths `(N, K)`, 0 where there is none.
    """
    most = max(len(texts) for texts in captions)
    longest = max(len(text) for texts in captions for text in texts)
    encoded = torch.full((len(captions), most, longest), Vocabulary.pad)
    lengths = torch.zeros((len(captions), most), dtype=torch.long)
    for row, texts in enumerate(captions):
        for column, text in enumerate(texts):
            encoded[row, column, : len(text)] = torch.tensor(text)
            lengths[row, column] = len(text)
    return encoded, lengths


class PackedStep(NamedTuple):
    """One word of each of R captions that go on."""

    rows: Tensor | None  # (R,) which captions of the step before they are; None where all go on
    counts: tuple[int, ...]  # of each image how many they are
    images: Tensor  # (R,) whose they are
    words: Tensor  # (R,) what they read


class PackedCaptions:
    """Captions step by step, those of an image together, the images in their order."""

    def __init__(self, encoded_captions: Tensor, caption_lengths: Tensor) -> None:
        """Lay them out.

        Args:
            encoded_captions: K captions of each image, from `<start>` to `<end>`, padded, `(N, K, L)`.
            caption_lengths: With `<start>` and `<end>`, 0 for a caption that is not there, `(N, K)`.
        """
        self._device = encoded_captions.device
        needed = (caption_lengths.cpu() - 1).clamp_min(0)  # steps; the one time that the device is waited for
        there = needed > 0
        self._images = there.nonzero()[:, 0]  # of the captions that are there
        self._needed = needed[there]
        steps = int(needed.max()) if needed.numel() else 0
        going = torch.arange(steps) < self._needed.unsqueeze(-1)  # (R, T)
        places = torch.zeros(going.shape, dtype=torch.long)
        places.T[going.T] = torch.arange(int(going.sum()))
        self._sizes = going.sum(0).tolist()
        self._total = len(caption_lengths)  # images
        self._there = there.to(self._device)
        self._order = places[going].to(self._device)
        self.going = (torch.arange(steps) < needed.unsqueeze(-1)).to(self._device)
        """Which steps of which captions there are, `(N, K, T)`."""
        given = encoded_captions[self._there]
        self.targets = given[:, 1 : steps + 1][going.to(self._device)]
        """The words that follow those read, `(M,)`, in the order image, caption, step."""
        self.words = given[:, :steps].T[going.T.to(self._device)]
        """The words read, `(M,)`, in the order step, image, caption."""

    def first(self, values: Tensor) -> Tensor:
        """Take what every caption begins with.

        Args:
            values: Of K captions of each image, `(N, K, X)`.

        Returns:
            Of those that are there, `(1, R, X)`.
        """
        return values[self._there].unsqueeze(0)

    def __iter__(self) -> Iterator[PackedStep]:
        """Go through the steps."""
        images, needed = self._images, self._needed
        for step, words in enumerate(self.split(self.words)):
            kept = needed > step
            rows = None if kept.all() else kept.nonzero()[:, 0].to(self._device)
            images, needed = images[kept], needed[kept]
            counts = images.bincount(minlength=self._total).tolist()
            yield PackedStep(rows, tuple(counts), images.to(self._device), words)

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """Divide values `(M, X)` that stand in the order of `words` into those of each step, `(R, X)`."""
        parts: tuple[Tensor, ...] = values.split(self._sizes)
        return parts

    def join(self, steps: list[Tensor]) -> Tensor:
        """Put values `(R, X)` of each step into the order of `targets`, `(M, X)`."""
        return torch.cat(steps)[self._order]

    def spread(self, values: Tensor) -> Tensor:
        """Put values `(M, X)` in the order of `targets` where they belong, `(N, K, T, X)`, zeros elsewhere."""
        return values.new_zeros(*self.going.shape, values.shape[-1]).index_put((self.going,), values)
