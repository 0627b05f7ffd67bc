"""Training by cross-entropy: the decoder learns to predict each next word of what people wrote.

In: encoded images and their captions. Out: a loss for each batch. Apart, because another way of training (on the metric itself)
follows it.

Source:
    Xu et al. 2015 (loss with doubly stochastic regularisation); Szegedy et al. 2016 (label smoothing); Bengio et al. 2015
    (scheduled sampling).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from capt.model import doubly_stochastic_penalty
from capt.packing import pad_captions
from jobs.training.loop import EncodedSplit, Step, Training, computing


class CrossEntropy:
    """−log p of what people wrote, with the regularisers that were chosen."""

    def __init__(self, run: Training, split: EncodedSplit) -> None:
        """Encode the captions.

        Args:
            run: What is trained, and how.
            split: The images to learn from.
        """
        self.split = split
        self._run = run
        longest = run.options.max_caption_length + 1
        encoded = [[run.vocabulary.encode(text)[:longest] for text in texts] for texts in split.captions]
        self._encoded = [sorted(texts, key=len, reverse=True) for texts in encoded]

    def step(self, encoder_out: Tensor, chosen: NDArray[np.int64], epoch: int) -> Step:
        """Judge the decoder on a batch.

        Args:
            encoder_out: `(N, P, D)`.
            chosen: Which images of the split they are.
            epoch: From 1; scheduled sampling grows with it.

        Returns:
            The loss; the mean −log p is without smoothing and regulariser.
        """
        options, captioner = self._run.options, self._run.captioner
        encoded, lengths = pad_captions([self._encoded[index] for index in chosen])
        encoded, lengths = encoded.to(encoder_out.device), lengths.to(encoder_out.device)
        with computing(captioner):
            detected = self.split.detected_in(chosen, encoder_out.device)
            logits, targets, alphas = captioner.decoder(
                encoder_out, encoded, lengths, sampling=options.sampling(epoch), detected=detected
            )
        nll, uniform = _cross_entropies(logits, targets)
        smoothed = nll.lerp(uniform, options.label_smoothing) if options.label_smoothing else nll
        loss = smoothed + options.attention_weight * doubly_stochastic_penalty(alphas)
        return Step(loss=loss, nll=float(nll.detach()), tokens=len(targets))


def _cross_entropies(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Give the mean cross-entropy with the words themselves, and with a uniform distribution over all words."""
    log_probs = logits.float().log_softmax(-1)
    return torch.nn.functional.nll_loss(log_probs, targets), -log_probs.mean()
