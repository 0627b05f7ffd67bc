"""Training by cross-entropy: the decoder learns to predict each next word of what people wrote.

In: a captioner, training and validation images with captions. Out: the best and the last checkpoint, a log, curves, and the
state from which an interrupted run goes on. Apart, because another way of training (on the metric itself) follows it.

Source:
    Xu et al. 2015 (loss with doubly stochastic regularisation); Kingma and Ba 2015 (Adam).
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from capt.checkpoint import save_checkpoint, write_whole
from capt.errors import CaptError
from capt.images import Preprocessing
from capt.model import Captioner, Precision, doubly_stochastic_penalty
from capt.vocabulary import Vocabulary
from jobs.training.averaging import WeightAverage
from jobs.training.options import Selection, TrainingOptions
from jobs.training.state import State, load_state, save_state
from jobs.training.validation import Validation, validate


@dataclass(frozen=True, kw_only=True)
class EncodedSplit:
    """The images of a split as the training loop reads them.

    Args:
        images: Features of a frozen encoder `(N, P, D)` float16, or pixels `(N, S, S, 3)` uint8 when the encoder learns.
        captions: For each image what people wrote.
    """

    images: NDArray[Any]
    captions: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What is known of one epoch; a line of the log.

    Args:
        epoch: From 1.
        train_loss: Mean −log p per token of the training captions, nats, regulariser excluded.
        perplexity: Of the validation captions.
        bleu_4: Of free-running validation captions, 0 to 1.
        cider: Of the same, 0 to 10.
        learning_rate: In this epoch.
        seconds: Of training and validation.
        best: Whether no earlier epoch was better.
        example: The caption of the first validation image.
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


class Listener(Protocol):
    """Whoever wants to know how training goes."""

    def step(self, epoch: int, done: int, steps: int, loss: float) -> None:
        """Hear that a step is done."""

    def epoch(self, epochs: Sequence[Epoch]) -> None:
        """Hear that an epoch is done; all so far are told."""


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


def train(
    run: Training, train_split: EncodedSplit, validation_split: EncodedSplit, listener: Listener, *, resume: bool
) -> list[Epoch]:
    """Train until the last epoch, or until validation no longer improves.

    After each epoch the folder holds `last.safetensors`, `best.safetensors`, `log.jsonl` and `state.safetensors`. A run that is
    killed and resumed does the same as one that was not: randomness depends on the seed and the epoch alone.

    Args:
        run: What to train and how.
        train_split: To learn from.
        validation_split: To choose by.
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
    scheduler = torch.optim.lr_scheduler.StepLR(optimiser, step_size=options.step_size, gamma=options.gamma)
    state = State(
        captioner=captioner,
        optimiser=optimiser,
        scheduler=scheduler,
        average=WeightAverage(_learning(optimiser), options.weight_averaging),
    )
    epochs: list[Epoch] = []
    if resume:
        epochs = [Epoch(**line) for line in load_state(run.output, state, fingerprint=run.fingerprint)]
        if epochs:
            listener.epoch(epochs)
    loader = _Loader(run, train_split)
    while len(epochs) < options.epochs and not _settled(epochs, options):
        number, started = len(epochs) + 1, time.monotonic()
        torch.manual_seed(options.seed * 100_003 + number)
        rate = optimiser.param_groups[0]["lr"]
        loss = _train_epoch(run, loader, state, number, listener)
        scheduler.step()
        with state.average.in_place():
            result = validate(captioner.decoder, _encoded(run, validation_split), validation_split.captions, run.vocabulary)
        best = _is_best(result, epochs, options.select)
        epoch = Epoch(
            epoch=number,
            train_loss=loss,
            perplexity=result.perplexity,
            bleu_4=result.bleu_4,
            cider=result.cider,
            learning_rate=rate,
            seconds=time.monotonic() - started,
            best=best,
            example=result.captions[0],
        )
        epochs.append(epoch)
        _store(run, epochs, state)
        listener.epoch(epochs)
    return epochs


def _optimiser(captioner: Captioner, options: TrainingOptions) -> torch.optim.Adam:
    groups: list[dict[str, Any]] = [{"params": list(captioner.decoder.parameters()), "lr": options.learning_rate}]
    captioner.encoder.requires_grad_(False)  # noqa: FBT003 - torch's own signature
    if options.fine_tune_blocks:
        blocks = captioner.encoder.last_blocks(options.fine_tune_blocks)
        blocks.requires_grad_(True)  # noqa: FBT003
        groups.append({"params": list(blocks.parameters()), "lr": options.encoder_learning_rate})
    return torch.optim.Adam(groups)


def _learning(optimiser: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


class _Loader:
    """Draws batches of images with all their captions, in an order that depends on the seed and the epoch alone."""

    def __init__(self, run: Training, split: EncodedSplit) -> None:
        self._run, self._split = run, split
        longest = run.options.max_caption_length + 1
        encoded = [[run.vocabulary.encode(text)[:longest] for text in texts] for texts in split.captions]
        self._encoded = [sorted(texts, key=len, reverse=True) for texts in encoded]
        self._usable = np.array([index for index, texts in enumerate(encoded) if texts], dtype=np.int64)

    def steps(self) -> int:
        return math.ceil(len(self._usable) / self._run.options.batch_size)

    def batches(self, epoch: int) -> Iterator[tuple[NDArray[Any], Tensor, Tensor]]:
        order = np.random.default_rng([self._run.options.seed, epoch]).permutation(self._usable)
        for start in range(0, len(order), self._run.options.batch_size):
            chosen = np.sort(order[start : start + self._run.options.batch_size])
            texts = [self._encoded[index] for index in chosen]
            most = max(len(captions) for captions in texts)
            longest = max(len(captions[0]) for captions in texts)
            encoded = torch.full((len(texts), most, longest), Vocabulary.pad)
            lengths = torch.zeros((len(texts), most), dtype=torch.long)
            for row, captions in enumerate(texts):
                for column, caption in enumerate(captions):
                    encoded[row, column, : len(caption)] = torch.tensor(caption)
                    lengths[row, column] = len(caption)
            yield self._split.images[chosen], encoded, lengths


def _train_epoch(run: Training, loader: _Loader, state: State, epoch: int, listener: Listener) -> float:
    captioner, options, optimiser = run.captioner, run.options, state.optimiser
    device = captioner.mean.device
    captioner.encoder.eval()  # batch norm keeps its statistics, also in blocks that learn
    captioner.decoder.train()
    trained = _learning(optimiser)
    total, tokens, steps = 0.0, 0, loader.steps()
    for done, (images, encoded, lengths) in enumerate(loader.batches(epoch), start=1):
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=captioner.precision is not Precision.FLOAT32):
            encoder_out = _encode(captioner, images, learning=bool(options.fine_tune_blocks))
            logits, targets, alphas = captioner.decoder(encoder_out, encoded.to(device), lengths.to(device))
        cross_entropy = nn.functional.cross_entropy(logits.float(), targets)
        loss = cross_entropy + options.attention_weight * doubly_stochastic_penalty(alphas)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if options.clip:
            nn.utils.clip_grad_norm_(trained, options.clip)
        optimiser.step()
        state.average.update()
        value = float(cross_entropy.detach())
        if not math.isfinite(value):
            message = (
                f"Training diverged in epoch {epoch}, step {done} (loss {value}); start a new run with a lower --learning-rate."
            )
            raise CaptError(message)
        total += value * len(targets)
        tokens += len(targets)
        listener.step(epoch, done, steps, total / tokens)
    return total / max(tokens, 1)


def _encode(captioner: Captioner, images: NDArray[Any], *, learning: bool) -> Tensor:
    tensor = torch.tensor(images)  # a copy: what comes from a memory map is read-only
    if tensor.dtype == torch.uint8:
        with torch.set_grad_enabled(learning and torch.is_grad_enabled()):
            return captioner.encode(tensor)
    return tensor.to(captioner.mean.device).float()


def _encoded(run: Training, split: EncodedSplit) -> Callable[[int, int], Tensor]:
    return lambda start, end: _encode(run.captioner, split.images[start:end], learning=False)


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
    save_state(run.output, state, fingerprint=run.fingerprint, epochs=lines)


def _curve_point(line: Mapping[str, Any]) -> dict[str, Any]:
    return {name: line[name] for name in ("epoch", "train_loss", "perplexity", "bleu_4", "cider")}
