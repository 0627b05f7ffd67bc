"""Training on the metric itself: the captioner draws captions, and those that earn more than their siblings become likelier.

In: encoded images and their captions. Out: a loss for each batch. Apart, because nothing here is told which word comes next.

`<end>` is a word of the reward, so that a caption that breaks off earns less. Captions are drawn, and made likelier, with
dropout: without it the network learns its few images by heart, and the reward on others falls.

Source:
    Rennie et al. 2017 (self-critical sequence training); Luo 2020 (A better variant of self-critical sequence training: several
    captions an image, each compared with the mean of the others).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from capt.decoding import DecodingOptions, Drawn, sample_captions
from capt.vocabulary import END, tokenize
from jobs.training.loop import EncodedSplit, Step, Training, computing
from jobs.training.rewards import Rewards

MAX_TOKENS = DecodingOptions().max_length + 1


class SelfCritical:
    """The reward of captions that the captioner draws, against that of the others of the same image."""

    def __init__(self, run: Training, split: EncodedSplit) -> None:
        """Count the n-grams of the references.

        Args:
            run: What is trained, and how.
            split: The images to learn from.
        """
        self.split = split
        self._run = run
        references = [[[*tokenize(text), END] for text in texts] for texts in split.captions]
        self._rewards = Rewards(references, run.options.bleu_weight)

    def step(self, encoder_out: Tensor, chosen: NDArray[np.int64], epoch: int) -> Step:  # noqa: ARG002 - as any objective
        """Draw captions for a batch and judge them.

        Args:
            encoder_out: `(N, P, D)`.
            chosen: Which images of the split they are.
            epoch: All are alike.

        Returns:
            The loss, whose gradient is that of the expected reward, turned round; −log p is of the captions drawn.
        """
        decoder = self._run.captioner.decoder.train()
        with computing(self._run.captioner):
            detected = self.split.detected_in(chosen, encoder_out.device)
            drawn = sample_captions(decoder, encoder_out, self._run.options.samples, MAX_TOKENS, detected=detected)
        rewards = self._reward(drawn, chosen)
        tokens = int(drawn.lengths.sum())
        loss = (advantages(rewards).to(drawn.nll) * drawn.nll).sum() / tokens
        return Step(loss=loss, nll=float(drawn.nll.detach().sum()) / tokens, tokens=tokens, reward=float(rewards.mean()))

    def _reward(self, drawn: Drawn, chosen: NDArray[np.int64]) -> Tensor:
        """Give the reward of each caption, `(N, K)`."""
        words = self._run.vocabulary.words
        rewards = []
        for image, rows, sizes in zip(chosen.tolist(), drawn.captions.tolist(), drawn.lengths.tolist(), strict=True):
            captions = [[words[index] for index in row[1 : size + 1]] for row, size in zip(rows, sizes, strict=True)]
            rewards.append(self._rewards.score(image, captions))
        return torch.tensor(rewards, device=drawn.captions.device)


def advantages(rewards: Tensor) -> Tensor:
    """Compare each caption's reward with the mean of the others of its image.

    Args:
        rewards: `(N, K)`, K at least 2.

    Returns:
        The same shape; each image's sum to 0.
    """
    others = (rewards.sum(-1, keepdim=True) - rewards) / (rewards.shape[-1] - 1)
    return rewards - others
