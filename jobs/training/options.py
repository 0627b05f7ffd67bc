"""How to train: every choice of a training run, checked in one place.

In: numbers from the command line. Out: `TrainingOptions`. Apart, so that the loop, the log and the model card read the same
choices.
"""

from dataclasses import asdict, dataclass
from enum import StrEnum

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
        step_size: StepLR: epochs between two falls of the learning rate.
        gamma: StepLR: factor of a fall.
        clip: Largest norm of the gradient; 0 does not clip.
        attention_weight: λ of the doubly stochastic regularisation.
        fine_tune_blocks: How many of the encoder's last blocks learn; 0 keeps it frozen.
        encoder_learning_rate: Of Adam, for these blocks.
        patience: Epochs without a better validation before training stops; 0 never stops early.
        weight_averaging: Decay of a running average of the decoder's weights, which is what is validated and stored; 0 stores the
            weights themselves.
        select: By which validation figure the best epoch is chosen.
        max_caption_length: Words of a training caption that are read; validation reads all.
        seed: Of everything random.
    """

    epochs: int = 20
    batch_size: int = 12
    learning_rate: float = 1e-3
    step_size: int = 3
    gamma: float = 0.5
    clip: float = 5.0
    attention_weight: float = 1.0
    fine_tune_blocks: int = 0
    encoder_learning_rate: float = 1e-4
    patience: int = 4
    weight_averaging: float = 0.0
    select: Selection = Selection.CIDER
    max_caption_length: int = 50
    seed: int = 1

    def __post_init__(self) -> None:
        """Check every number.

        Raises:
            InputError: If one cannot be, naming its option.
        """
        at_least_one = ("epochs", "batch_size", "step_size", "max_caption_length")
        not_negative = ("clip", "attention_weight", "fine_tune_blocks", "patience", "seed")
        positive = ("learning_rate", "gamma", "encoder_learning_rate")
        for names, lowest, strict in ((at_least_one, 1, False), (not_negative, 0, False), (positive, 0, True)):
            for name in names:
                value = getattr(self, name)
                if value < lowest or (strict and value == lowest) or value != value:  # noqa: PLR0124 - NaN differs from itself
                    message = f"--{name.replace('_', '-')} must be {'more than' if strict else 'at least'} {lowest}, not {value}."
                    raise InputError(message)

        if not 0 <= self.weight_averaging < 1:
            message = f"--weight-averaging must be at least 0 and below 1, not {self.weight_averaging}."
            raise InputError(message)

    def to_dict(self) -> dict[str, object]:
        """Give the fields as JSON can hold them."""
        return asdict(self)
