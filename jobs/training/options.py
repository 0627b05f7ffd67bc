"""How to train: every choice of a training run, checked in one place.

In: numbers from the command line. Out: `TrainingOptions`, `WordsOptions`, `TextOptions`. Apart, so that the loop, the log and the
model card read the same choices.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from capt.errors import InputError


class Selection(StrEnum):
    """By which validation figure the best epoch is chosen."""

    CIDER = "CIDEr"
    BLEU_4 = "Bleu_4"
    PERPLEXITY = "perplexity"


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Every choice of the training loop.

    Args:
        epochs: How many, at most.
        batch_size: Images a step; each brings all its captions.
        learning_rate: Of Adam, for decoder and attention.
        warm_up: Steps in which the learning rates rise from 0.
        step_size: StepLR: epochs between two falls of the learning rate.
        gamma: StepLR: factor of a fall.
        clip: Largest norm of the gradient; 0 does not clip.
        attention_weight: λ of the doubly stochastic regularisation; cross-entropy only.
        label_smoothing: Share of the target that all words divide among them; cross-entropy only.
        scheduled_sampling: Largest probability with which the decoder reads its own word instead of the given one;
            cross-entropy only.
        sampling_ramp: Epochs in which this probability rises from 0.
        freeze_embeddings: Epochs in which the words' embeddings, and an output layer tied to them, do not learn.
        views: Looks at each training image, one of which an epoch draws: 1 as it is, 2 also its mirror image, more also crops.
        fine_tune_blocks: How many of the encoder's last blocks learn; 0 keeps it frozen.
        encoder_learning_rate: Of Adam, for these blocks.
        patience: Epochs without a better validation before training stops; 0 never stops early.
        weight_averaging: Decay of a running average of the decoder's weights, which is what is validated and stored; 0 stores the
            weights themselves.
        start_share: Share of the weights that training began with in what is validated and stored; for --start-from.
        select: By which validation figure the best epoch is chosen.
        max_caption_length: Words of a training caption that are read; validation reads all.
        seed: Of everything random.
        self_critical: Whether to train on the metric, with captions that the captioner draws itself, instead of cross-entropy.
        samples: Captions drawn for each image; self-critical only.
        bleu_weight: Weight of BLEU-4 (0 to 1) beside CIDEr (0 to 10) in the reward; self-critical only.
    """

    epochs: int = 20
    batch_size: int = 12
    learning_rate: float = 1e-3
    warm_up: int = 0
    step_size: int = 3
    gamma: float = 0.5
    clip: float = 5.0
    attention_weight: float = 1.0
    label_smoothing: float = 0.0
    scheduled_sampling: float = 0.0
    sampling_ramp: int = 5
    freeze_embeddings: int = 0
    views: int = 1
    fine_tune_blocks: int = 0
    encoder_learning_rate: float = 1e-4
    patience: int = 4
    weight_averaging: float = 0.0
    start_share: float = 0.0
    select: Selection = Selection.CIDER
    max_caption_length: int = 50
    seed: int = 1
    self_critical: bool = False
    samples: int = 5
    bleu_weight: float = 0.5

    def __post_init__(self) -> None:
        """Check every number.

        Raises:
            InputError: If one cannot be, naming its option, or two do not go together.
        """
        values = self.to_dict()
        _check_least(values, ("epochs", "batch_size", "step_size", "max_caption_length", "views"), 1)
        _check_least(values, ("samples",), 2)  # each is compared with the others
        not_negative = (
            "clip",
            "attention_weight",
            "fine_tune_blocks",
            "patience",
            "seed",
            "warm_up",
            "sampling_ramp",
            "freeze_embeddings",
        )
        _check_least(values, (*not_negative, "bleu_weight"), 0)
        _check_positive(values, ("learning_rate", "gamma", "encoder_learning_rate"))
        _check_share(values, ("weight_averaging", "start_share", "label_smoothing", "scheduled_sampling"))
        for name in ("label_smoothing", "scheduled_sampling"):
            if self.self_critical and values[name]:
                message = f"{_option(name)} belongs to cross-entropy; leave it out with --self-critical."
                raise InputError(message)

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON can hold them."""
        return asdict(self)

    def rate_factor(self, epoch: int, steps_done: int) -> float:
        """Give what the learning rates are multiplied by.

        Args:
            epoch: From 1.
            steps_done: In the whole run, with the one that is about to be done.

        Returns:
            The factor of StepLR, times that of the warm-up.
        """
        risen = min(1.0, steps_done / self.warm_up) if self.warm_up else 1.0
        return risen * self.gamma ** ((epoch - 1) // self.step_size)

    def sampling(self, epoch: int) -> float:
        """Give the probability with which an epoch's decoder reads its own words.

        Args:
            epoch: From 1.

        Returns:
            0 in the first epoch, unless there is no ramp.
        """
        return self.scheduled_sampling * (min(1.0, (epoch - 1) / self.sampling_ramp) if self.sampling_ramp else 1.0)


_SELF_CRITICAL = MappingProxyType({"learning_rate": 5e-5, "batch_size": 32, "gamma": 1.0})


def stage_options(*, self_critical: bool, **choices: Any) -> TrainingOptions:  # noqa: ANN401 - any field
    """Make the options of a stage; what was not chosen is what suits the stage.

    Args:
        self_critical: Which stage.
        **choices: Fields of TrainingOptions; None is no choice.

    Returns:
        The options.

    Raises:
        InputError: If a choice cannot be.
    """
    suiting = _SELF_CRITICAL if self_critical else {}
    chosen = {name: value for name, value in choices.items() if value is not None}
    return TrainingOptions(self_critical=self_critical, **{**suiting, **chosen})


@dataclass(frozen=True, kw_only=True)
class WordsOptions:
    """How the encoder first learns which words people use about an image.

    Args:
        epochs: Passes over the training images; 0 leaves this stage out.
        blocks: How many of the encoder's last blocks learn; None is what suits the encoder.
        learning_rate: Of AdamW, for these blocks; it falls to 0 along a cosine.
        batch_size: Images a step.
        folds: Parts of the training images, each judged by a detector that learned from the others, for a decoder that reads
            which words were detected.
        softness: Share, in what is learned, of how likely others would use a word, in place of whether captions have it.
    """

    epochs: int = 0
    blocks: int | None = None
    learning_rate: float = 3e-4
    batch_size: int = 32
    folds: int = 2
    softness: float = 0.0

    def __post_init__(self) -> None:
        """Check every number.

        Raises:
            InputError: If one cannot be, naming its option.
        """
        values = {f"words_{name}": value for name, value in asdict(self).items() if value is not None}
        _check_least(values, ("words_epochs",), 0)
        _check_least(values, ("words_folds",), 2)
        _check_least(values, ["words_batch_size", *(["words_blocks"] if self.blocks is not None else [])], 1)
        _check_positive(values, ("words_learning_rate",))
        if not 0 <= self.softness <= 1:
            message = f"--words-softness must be from 0 to 1, not {self.softness}."
            raise InputError(message)


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """How the decoder first learns the language, from captions without images.

    Args:
        epochs: Passes over the captions.
        batch_size: Captions a step, of about the same length.
        learning_rate: Of Adam at the start; it falls to 0 in a line.
        softmax: Words, beside those of the step itself, that a step compares; 0 compares the whole vocabulary.
    """

    epochs: int = 3
    batch_size: int = 256
    learning_rate: float = 2e-3
    softmax: int = 1024

    def __post_init__(self) -> None:
        """Check every number.

        Raises:
            InputError: If one cannot be, naming its option.
        """
        values = {f"text_{name}": value for name, value in asdict(self).items()}
        _check_least(values, ("text_epochs", "text_batch_size"), 1)
        _check_least(values, ("text_softmax",), 0)
        _check_positive(values, ("text_learning_rate",))


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _check_least(values: Mapping[str, Any], names: Iterable[str], least: int) -> None:
    for name in names:
        if not values[name] >= least:  # NaN is not either
            message = f"{_option(name)} must be at least {least}, not {values[name]}."
            raise InputError(message)


def _check_positive(values: Mapping[str, Any], names: Iterable[str]) -> None:
    for name in names:
        if not values[name] > 0:
            message = f"{_option(name)} must be more than 0, not {values[name]}."
            raise InputError(message)


def _check_share(values: Mapping[str, Any], names: Iterable[str]) -> None:
    for name in names:
        if not 0 <= values[name] < 1:
            message = f"{_option(name)} must be at least 0 and below 1, not {values[name]}."
            raise InputError(message)
