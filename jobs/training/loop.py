"""The training loop: epochs of steps, validation, what is kept, and how an interrupted run goes on.

In: a captioner, an objective with its training images, validation images. Out: the best and the last checkpoint, a log, and the
state from which an interrupted run goes on. Apart, because it is the same for cross-entropy and for training on the metric.

Source:
    Kingma and Ba 2015 (Adam).
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from capt.checkpoint import save_checkpoint
from capt.errors import CaptError
from capt.files import write_whole
from capt.images import Preprocessing
from capt.model import Captioner, Precision
from capt.vocabulary import Vocabulary
from jobs.training.averaging import WeightAverage
from jobs.training.options import Selection, TrainingOptions
from jobs.training.state import State, load_state, save_state
from jobs.training.validation import BATCH_SIZE, Validation, validate

STATE = "state.safetensors"


@dataclass(frozen=True, kw_only=True)
class EncodedSplit:
    """The images of a split as the training loop reads them.

    Args:
        images: Features of a frozen encoder `(N, P, D)` float16, or pixels `(N, S, S, 3)` uint8 when the encoder learns.
        captions: For each image what people wrote.
        views: Other looks at the same images, of the same shape.
        detected: Logits of the words that count as detected in the images, `(N, W)`; None asks the decoder's own detector.
    """

    images: NDArray[Any]
    captions: Sequence[Sequence[str]]
    views: Sequence[NDArray[Any]] = ()
    detected: NDArray[np.float16] | None = None

    def detected_in(self, chosen: NDArray[np.int64], device: torch.device) -> Tensor | None:
        """Give the logits of the words that count as detected in chosen images, `(n, W)`, if they are known."""
        return None if self.detected is None else torch.from_numpy(self.detected[chosen]).to(device).float()


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What is known of one epoch; a line of the log.

    Args:
        epoch: From 1.
        train_loss: Mean −log p per token, nats, of the training captions, or in self-critical training of the captions drawn;
            without regulariser and smoothing.
        perplexity: Of the validation captions.
        bleu_4: Of free-running validation captions, 0 to 1.
        cider: Of the same, 0 to 10.
        learning_rate: At the epoch's end.
        seconds: Of training and validation.
        best: Whether no earlier epoch was better.
        example: The caption of the first validation image.
        reward: Mean reward of the captions drawn, in self-critical training.
    """

    epoch: int
    train_loss: float
    perplexity: float
    bleu_4: float
    cider: float
    learning_rate: float
    seconds: float
    best: bool
    example: str
    reward: float | None = None


class Listener(Protocol):
    """Whoever wants to know how training goes."""

    def step(self, what: str, done: int, steps: int, figure: str) -> None:
        """Hear that a step of something is done, and what came of it so far."""

    def epoch(self, epochs: Sequence[Epoch]) -> None:
        """Hear that an epoch is done; all so far are told."""

    def say(self, sentence: str) -> None:
        """Hear what came of something else, in a sentence."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Everything a run needs besides its data.

    Args:
        captioner: On its device; what is trained.
        vocabulary: The words.
        preprocessing: How images were prepared.
        options: How to train.
        output: The run's folder.
        card: What the model card says besides the metrics.
        fingerprint: What must be the same for an interrupted run to go on.
    """

    captioner: Captioner
    vocabulary: Vocabulary
    preprocessing: Preprocessing
    options: TrainingOptions
    output: Path
    card: Mapping[str, Any]
    fingerprint: str


class Step(NamedTuple):
    """What an objective says of one batch.

    Args:
        loss: To be made smaller.
        nll: Mean −log p per token.
        tokens: How many there were.
        reward: Mean over the captions drawn; None without.
    """

    loss: Tensor
    nll: float
    tokens: int
    reward: float | None = None


class Objective(Protocol):
    """What training makes better on a split."""

    @property
    def split(self) -> EncodedSplit:
        """The images to learn from."""

    def step(self, encoder_out: Tensor, chosen: NDArray[np.int64], epoch: int) -> Step:
        """Judge the decoder on a batch: encoded images `(N, P, D)`, and which of the split they are."""


def train(run: Training, objective: Objective, validating: EncodedSplit, listener: Listener, *, resume: bool) -> list[Epoch]:
    """Train until the last epoch, or until validation no longer improves.

    After each epoch the folder holds `last.safetensors`, `best.safetensors`, `log.jsonl` and `state.safetensors`. A run that is
    killed and resumed does the same as one that was not: randomness depends on the seed and the epoch alone.

    Args:
        run: What to train and how.
        objective: By what, and the images to learn from.
        validating: The images to choose by.
        listener: Told about steps and epochs.
        resume: Whether to go on from the folder's state.

    Returns:
        All epochs, those before a resumption included.

    Raises:
        CaptError: If the state cannot be read or belongs to another run, or training diverges.
        OutputError: If a file cannot be written.
    """
    captioner, options = run.captioner, run.options
    optimiser = _optimiser(captioner, options)
    average = WeightAverage(_learning(optimiser), options.weight_averaging, start_share=options.start_share)
    state = State(network=captioner, optimiser=optimiser, average=average)
    epochs: list[Epoch] = []
    if resume:
        epochs = [Epoch(**line) for line in load_state(run.output / STATE, state, fingerprint=run.fingerprint)]
        if epochs:
            listener.epoch(epochs)
    while len(epochs) < options.epochs and not _settled(epochs, options):
        number, started = len(epochs) + 1, time.monotonic()
        torch.manual_seed(options.seed * 100_003 + number)
        train_loss, reward = _train_epoch(run, objective, state, number, listener)
        with state.average.in_place():
            result = validate(captioner.decoder, _encoded(run, validating), validating.captions, run.vocabulary)
        epoch = Epoch(
            epoch=number,
            train_loss=train_loss,
            perplexity=result.perplexity,
            bleu_4=result.bleu_4,
            cider=result.cider,
            learning_rate=optimiser.param_groups[0]["lr"],
            seconds=time.monotonic() - started,
            best=_is_best(result, epochs, options.select),
            example=result.captions[0],
            reward=reward,
        )
        epochs.append(epoch)
        _store(run, epochs, state)
        listener.epoch(epochs)
    return epochs


def _optimiser(captioner: Captioner, options: TrainingOptions) -> torch.optim.Adam:
    groups: list[dict[str, Any]] = [{"params": list(captioner.decoder.parameters()), "full_rate": options.learning_rate}]
    captioner.encoder.requires_grad_(False)  # noqa: FBT003 - torch's own signature
    if options.fine_tune_blocks:
        blocks = captioner.encoder.last_blocks(options.fine_tune_blocks)
        blocks.requires_grad_(True)  # noqa: FBT003
        groups.append({"params": list(blocks.parameters()), "full_rate": options.encoder_learning_rate})
    return torch.optim.Adam(groups, fused=captioner.mean.device.type == "cpu")


def _learning(optimiser: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


def batches(split: EncodedSplit, size: int, seed: int, epoch: int) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """Draw batches of images with captions, in an order and in views that depend on the seed and the epoch alone.

    Args:
        split: The images.
        size: Images a batch.
        seed: The run's.
        epoch: From 1.

    Yields:
        Which images of the split, in rising order, and these images.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(usable(split))
    views = random.integers(0, 1 + len(split.views), len(split.captions))
    for start in range(0, len(order), size):
        chosen = np.sort(order[start : start + size])
        images = np.array(split.images[chosen])  # a copy: what comes from a memory map is read-only
        for number, view in enumerate(split.views, start=1):
            drawn = views[chosen] == number
            images[drawn] = view[chosen[drawn]]
        yield chosen, images


def usable(split: EncodedSplit) -> NDArray[np.int64]:
    """Name the images of a split that have captions.

    Args:
        split: The images.

    Returns:
        Their places, in rising order.
    """
    return np.array([index for index, texts in enumerate(split.captions) if texts], dtype=np.int64)


def _train_epoch(run: Training, objective: Objective, state: State, epoch: int, listener: Listener) -> tuple[float, float | None]:
    """Do an epoch's steps; gives mean −log p per token, and the mean reward."""
    captioner, options, optimiser = run.captioner, run.options, state.optimiser
    captioner.encoder.eval()  # batch norm keeps its statistics, also in blocks that learn
    captioner.decoder.train()
    steps = math.ceil(len(usable(objective.split)) / options.batch_size)
    drawn = batches(objective.split, options.batch_size, options.seed, epoch)
    nll, tokens, reward, rewarded = 0.0, 0, 0.0, 0
    for done, (chosen, images) in enumerate(drawn, start=1):
        factor = options.rate_factor(epoch, (epoch - 1) * steps + done)
        for group in optimiser.param_groups:
            group["lr"] = group["full_rate"] * factor
        step = objective.step(_encode(captioner, images, learning=True), chosen, epoch)
        frozen = [captioner.decoder.embedding.weight] if epoch <= options.freeze_embeddings else []
        _descend(step.loss, state, options, frozen=frozen)
        if not math.isfinite(step.nll):
            where = f"epoch {epoch}, step {done} (loss {step.nll})"
            message = f"Training diverged in {where}; start a new run with a lower --learning-rate."
            raise CaptError(message)
        nll, tokens = nll + step.nll * step.tokens, tokens + step.tokens
        if step.reward is not None:
            reward, rewarded = reward + step.reward * len(chosen), rewarded + len(chosen)
        figure = f"reward {reward / rewarded:.3f}" if rewarded else f"loss {nll / max(tokens, 1):.3f}"
        listener.step(f"epoch {epoch}", done, steps, figure)
    return nll / max(tokens, 1), reward / rewarded if rewarded else None


def _descend(loss: Tensor, state: State, options: TrainingOptions, *, frozen: Sequence[Tensor]) -> None:
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    for parameter in frozen:
        parameter.grad = None
    if options.clip:
        nn.utils.clip_grad_norm_(_learning(state.optimiser), options.clip)
    state.optimiser.step()
    state.average.update()


def computing(captioner: Captioner) -> torch.autocast:
    """Compute in the captioner's precision, for training: its decoder too is in bfloat16 where the encoder is."""
    low = captioner.precision is not Precision.FLOAT32
    return torch.autocast(captioner.mean.device.type, dtype=torch.bfloat16, enabled=low)


def _encode(captioner: Captioner, images: NDArray[Any], *, learning: bool) -> Tensor:
    tensor = torch.tensor(images)
    if tensor.dtype == torch.uint8:
        learns = any(parameter.requires_grad for parameter in captioner.encoder.parameters())
        with torch.set_grad_enabled(learning and learns and torch.is_grad_enabled()):
            return captioner.encode(tensor)
    return tensor.to(captioner.mean.device).float()


def _encoded(run: Training, split: EncodedSplit) -> Callable[[int, int], Tensor]:
    return lambda start, end: _encode(run.captioner, split.images[start:end], learning=False)


def detect(run: Training, split: EncodedSplit) -> NDArray[np.float32]:
    """Ask the decoder's own detector which words are used about the images of a split.

    Args:
        run: Its decoder reads detected words.
        split: N encoded images.

    Returns:
        Logits, `(N, W)`.
    """
    detected, encoded = run.captioner.decoder.detected, _encoded(run, split)
    if detected is None:
        message = "this decoder detects no words"
        raise ValueError(message)
    with torch.inference_mode():
        starts = range(0, len(split.captions), BATCH_SIZE)
        return np.concatenate([detected.detect(encoded(start, start + BATCH_SIZE)).cpu().numpy() for start in starts])


def _figure(figures: Validation | Epoch, select: Selection) -> float:
    """Give the figure that is chosen by, turned so that more is better."""
    return {Selection.CIDER: figures.cider, Selection.BLEU_4: figures.bleu_4, Selection.PERPLEXITY: -figures.perplexity}[select]


def _is_best(result: Validation, epochs: Sequence[Epoch], select: Selection) -> bool:
    return all(_figure(result, select) > _figure(epoch, select) for epoch in epochs)


def _settled(epochs: Sequence[Epoch], options: TrainingOptions) -> bool:
    if not options.patience or not epochs:
        return False
    best = max(epoch.epoch for epoch in epochs if epoch.best)
    return epochs[-1].epoch - best >= options.patience


def _store(run: Training, epochs: Sequence[Epoch], state: State) -> None:
    """Write the epoch's files; the state comes last, so that a kill in between repeats the epoch."""
    lines = [asdict(epoch) for epoch in epochs]
    validation = {"split": run.card.get("validation_split"), **lines[-1]}
    card = {**run.card, "validation": validation, "learning_curve": [_curve_point(line) for line in lines]}
    with state.average.in_place():
        for name in ("last", "best") if epochs[-1].best else ("last",):
            save_checkpoint(
                run.output / f"{name}.safetensors",
                captioner=run.captioner,
                vocabulary=run.vocabulary,
                preprocessing=run.preprocessing,
                card=card,
            )
    write_whole(run.output / "log.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    save_state(run.output / STATE, state, fingerprint=run.fingerprint, epochs=lines)


def _curve_point(line: Mapping[str, Any]) -> dict[str, Any]:
    names = ("epoch", "train_loss", "perplexity", "bleu_4", "cider", "reward")
    return {name: line[name] for name in names if line[name] is not None}
