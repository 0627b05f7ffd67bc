"""Several captioners that write one caption together: the probabilities of each next word are averaged.

In: checkpoints with the same words. Out: what the batch job uses in the place of one captioner. Apart, because a captioner need
not know that there are others.

Source:
    Vinyals et al. 2015, Show and Tell (ensembles of captioners: the mean of the probabilities).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from capt.attention import Memory
from capt.checkpoint import Checkpoint, check_agreement, joint_digest, load_checkpoint
from capt.encoder_file import weights_digest
from capt.errors import CheckpointError
from capt.images import Preprocessing
from capt.model import Captioner, Decoder, Precision, State
from capt.vocabulary import Vocabulary


class Memories(NamedTuple):
    """N encoded images, as each member remembers them."""

    members: tuple[Memory, ...]

    def select(self, images: Tensor) -> "Memories":
        """Keep some images.

        Args:
            images: Their indices, `(M,)`.

        Returns:
            The memories of M images.
        """
        return Memories(tuple(memory.select(images) for memory in self.members))


class States(NamedTuple):
    """Each member's state of K captions of each of N images."""

    members: tuple[State, ...]

    def each(self, change: Callable[..., Tensor], *arguments: object) -> "States":
        """Change all alike, as `State.each` does."""
        return States(tuple(state.each(change, *arguments) for state in self.members))


class EnsembleDecoder(nn.Module):
    """Decoders that judge every next word together; they read their own channels of the encoded images."""

    def __init__(self, members: Sequence[Decoder], channels: Sequence[slice]) -> None:
        """Put decoders together.

        Args:
            members: Of the same vocabulary.
            channels: For each, its encoder's channels among those of all encoders.
        """
        super().__init__()
        self.members = nn.ModuleList(members)
        self._channels = list(channels)

    def _each(self, encoder_out: Tensor) -> list[tuple[Decoder, Tensor]]:
        parts = [encoder_out[..., channels] for channels in self._channels]
        return list(zip(self.members, parts, strict=True))  # type: ignore[arg-type] # a ModuleList does not say of what

    def remember(self, encoder_out: Tensor) -> Memories:
        """Project the encoded images, once for each member.

        Args:
            encoder_out: `(N, P, D)`, the channels of all encoders side by side.

        Returns:
            What every step reads.
        """
        return Memories(tuple(member.remember(part) for member, part in self._each(encoder_out)))

    def begin(self, memory: Memories, captions: int) -> States:
        """Make the first state of K captions of each image.

        Args:
            memory: N images.
            captions: K.

        Returns:
            The state of each member.
        """
        pairs = zip(self.members, memory.members, strict=True)
        return States(tuple(member.begin(own, captions) for member, own in pairs))  # type: ignore[operator]

    def predict(self, memory: Memories, words: Tensor, state: States) -> tuple[Tensor, States, Tensor]:
        """Advance every caption by one word, and judge every word as the next one.

        Args:
            memory: N images.
            words: The previous words, `(N, K)`.
            state: Before.

        Returns:
            Log probabilities `(N, K, V)`, those of the mean of the members' probabilities; the state after; alpha `(N, K, P)`,
            the mean of where the members looked.
        """
        trios = zip(self.members, memory.members, state.members, strict=True)
        told = [member.predict(own, words, before) for member, own, before in trios]  # type: ignore[operator]
        log_probs, states, alphas = zip(*told, strict=True)
        return _mean(log_probs), States(states), torch.stack(alphas).mean(0)

    def forward(self, encoder_out: Tensor, encoded_captions: Tensor, caption_lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read given captions and predict each next word, as `Decoder.forward` does.

        Args:
            encoder_out: `(N, P, D)`, the channels of all encoders side by side.
            encoded_captions: `(N, K, L)`.
            caption_lengths: `(N, K)`.

        Returns:
            Log probabilities of the M predicted words, `(M, V)`; the words they should be, `(M,)`; the mean alphas
            `(N, K, T, P)`.
        """
        read = [member(part, encoded_captions, caption_lengths) for member, part in self._each(encoder_out)]
        log_probs = _mean([logits.float().log_softmax(-1) for logits, _, _ in read])
        return log_probs, read[0][1], torch.stack([alphas for _, _, alphas in read]).mean(0)


def _mean(log_probs: Sequence[Tensor]) -> Tensor:
    """Give the logarithm of the mean probability."""
    return torch.stack(tuple(log_probs)).logsumexp(0) - math.log(len(log_probs))


class Ensemble(nn.Module):
    """Encoders and decoders of several captioners; encoders of the same weights encode once."""

    def __init__(self, captioners: Sequence[Captioner]) -> None:
        """Put captioners together.

        Args:
            captioners: Of the same vocabulary, preprocessing and number of grid cells; of encoders that are alike, one is kept.
        """
        super().__init__()
        kept: dict[str, Captioner] = {}
        names = [f"{each.config.encoder} {weights_digest(each.encoder)}" for each in captioners]
        for name, captioner in zip(names, captioners, strict=True):
            kept.setdefault(name, captioner)
        ends = torch.tensor([captioner.config.encoder_dim for captioner in kept.values()]).cumsum(0).tolist()
        channels = {name: slice(end - kept[name].config.encoder_dim, end) for name, end in zip(kept, ends, strict=True)}
        self.decoder = EnsembleDecoder([captioner.decoder for captioner in captioners], [channels[name] for name in names])
        self._captioners = nn.ModuleList(kept.values())

    def set_precision(self, precision: Precision | str) -> "Ensemble":
        """Choose the numbers in which the encoders compute.

        Args:
            precision: One of `Precision`.

        Returns:
            Itself.
        """
        for captioner in self._captioners:
            captioner.set_precision(precision)  # type: ignore[operator]
        return self

    def encode(self, images: Tensor) -> Tensor:
        """Encode images as they come from disk.

        Args:
            images: RGB, 0 to 255, `(N, S, S, 3)` uint8.

        Returns:
            `(N, P, D)` float32, the channels of all encoders side by side.
        """
        return torch.cat([captioner.encode(images) for captioner in self._captioners], -1)  # type: ignore[operator]


@dataclass(frozen=True, kw_only=True)
class Writers:
    """One captioner, or several as one.

    Args:
        captioner: In eval mode, float32, on the CPU.
        vocabulary: The words.
        preprocessing: How images are prepared for all of them.
        sha256: Of the file, or the joint digest of all.
        paths: The files.
    """

    captioner: Captioner | Ensemble
    vocabulary: Vocabulary
    preprocessing: Preprocessing
    sha256: str
    paths: Sequence[Path]


def load_writers(paths: Sequence[Path]) -> Writers:
    """Read the checkpoints that are to write captions together.

    Args:
        paths: One or more; none is the one that ships.

    Returns:
        The captioner of the only one, or an ensemble.

    Raises:
        CheckpointError: If one cannot be read, or they cannot work together.
    """
    checkpoints = [load_checkpoint(path) for path in paths or (None,)]
    first = checkpoints[0]
    if len(checkpoints) > 1:
        check_agreement({each.path: (each.vocabulary, each.preprocessing) for each in checkpoints})
        _check_grids(checkpoints)
    return Writers(
        captioner=first.captioner if len(checkpoints) == 1 else Ensemble([each.captioner for each in checkpoints]).eval(),
        vocabulary=first.vocabulary,
        preprocessing=first.preprocessing,
        sha256=joint_digest([each.sha256 for each in checkpoints]),
        paths=[each.path for each in checkpoints],
    )


def _check_grids(checkpoints: Sequence[Checkpoint]) -> None:
    first, *others = checkpoints
    for other in others:
        cells = [_cells(each) for each in (first, other)]
        if cells[0] != cells[1]:
            both = f"{first.path} looks at {cells[0]} cells of an image and {other.path} at {cells[1]}"
            message = f"{both}; give checkpoints of the same grid to --checkpoint."
            raise CheckpointError(message)


def _cells(checkpoint: Checkpoint) -> int:
    size = checkpoint.preprocessing.size
    with torch.inference_mode():
        return int(checkpoint.captioner.encoder(torch.zeros(1, 3, size, size)).shape[1])
