"""Words first: the encoder's last blocks learn which words people use about an image, before the decoder looks at any.

In: a captioner, pixels and captions. Out: the same captioner with an encoder whose features say more of what captions speak of; a
file of its weights, from which other runs can start. Apart, because its network ends in words without order, and it is over
before the features of the then frozen encoder are computed.

What is detected is any word that enough, and not nearly all, of the training images have in a caption. Two of an image's
captions make a word certain, one half certain; where text tells which words go together, targets may be softer
(`soft_words.py`). Batch norm keeps its statistics. Kernels of depthwise convolutions stay as they are: they hold few of the
weights, and where torch itself computes their gradients, not `capt.depthwise`, that can take longer than the rest of a step.

Source:
    Fang et al. 2015 (From captions to visual concepts and back); Wu et al. 2016 (What value do explicit high level concepts have
    in vision to language problems?); Loshchilov and Hutter 2017 (cosine), 2019 (AdamW).
"""

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from capt.encoder import Encoder, EncoderConfig
from capt.encoder_file import EncoderFile, read_encoder_file, weights_digest, write_encoder
from capt.encoder_weights import read_weights
from capt.errors import CaptError
from jobs.training.averaging import WeightAverage
from jobs.training.caption_words import average_precision, count_words, word_targets
from jobs.training.detection import LARGEST_LOGIT, Detection, read_arrays, write_arrays, write_detection
from jobs.training.loop import EncodedSplit, Listener, Training, batches, computing, usable
from jobs.training.options import WordsOptions
from jobs.training.soft_words import SoftTargets, soften
from jobs.training.state import State, check_same_run, do_epochs
from jobs.training.texts import Texts

STATE, RESULT, DETECTION = "words-state.safetensors", "encoder.safetensors", "detected-words.safetensors"
_DROPOUT, _WEIGHT_DECAY, _HEAD_RATE, _WARM_UP = 0.3, 1e-2, 1e-3, 100
_SMALLEST_FREQUENCY, _HEAD_DEVIATION = 1e-4, 0.01
_SMALLEST_CROP, _BRIGHTNESS = 0.72, 0.15  # of each side; up and down
_BLOCKS = {"efficientnet_lite0": 6, "efficientnet_lite2": 6}  # stages 3 to 6 of 0 to 6, and the head
_BLOCKS_OF_OTHERS = 2  # the last two stages: of ResNet-50, and of any network that ends with its map of 16 pixels
_SEEDS = 50_000  # apart from those of the epochs that follow
PART = "words-part-"


@dataclass(frozen=True, kw_only=True)
class Seeing:
    """What the encoder looks at, and how it learns.

    Args:
        learning: Pixels and captions to learn from.
        validation: Pixels and captions to measure by.
        words: What it learns to tell.
        options: How.
        images: Which images are learned from (`jobs.training.detection.name_images`).
        texts: Captions without images, from which it follows which words go together; needed where targets are soft.
        soft: Soft targets `(N, W)`, once they are known.
    """

    learning: EncodedSplit
    validation: EncodedSplit
    words: Sequence[str]
    options: WordsOptions
    images: str = ""
    texts: Texts | None = None
    soft: NDArray[np.float16] | None = None


@dataclass(frozen=True, kw_only=True)
class WordsEpoch:
    """What is known of one pass over the images.

    Args:
        epoch: From 1.
        train_loss: Binary cross-entropy, nats, summed over words; mean over images.
        mean_average_precision: Of the words that occur in the validation captions, 0 to 1.
        weighted_average_precision: The same, each word counted as often as there are images with it.
    """

    epoch: int
    train_loss: float
    mean_average_precision: float
    weighted_average_precision: float


def learn_words(run: Training, seeing: Seeing, listener: Listener, *, resume: bool) -> dict[str, Any]:
    """Train the encoder's last blocks to tell which words people use about an image.

    Afterwards the encoder is frozen and the run's folder holds `encoder.safetensors`, its weights for `--weights` of other runs.
    Where the decoder is to read the words, there is `detected-words.safetensors` as well: the detector, and what detectors that
    had not seen them say about the training images. A run that is killed goes on with the epoch that it was in.

    Args:
        run: What is trained.
        seeing: What it looks at, and how.
        listener: Told about steps and epochs.
        resume: Whether to take up what the folder holds.

    Returns:
        Facts for the model card, as JSON can hold them: the options, how many `words`, and the `curve` of epochs.

    Raises:
        InputError: If the encoder has fewer blocks.
        CaptError: If what the folder holds cannot be read or belongs to another run, or training diverges.
        OutputError: If a file cannot be written.
    """
    captioner = run.captioner
    if resume and (facts := _finished(run)):
        _tidy(run)
        return facts
    blocks = learning_blocks(captioner.encoder, captioner.config.encoder, seeing.options)
    softened = _soften(run, seeing, listener)
    seeing = replace(seeing, soft=None if softened is None else softened.targets)
    unseen = _judge_unseen(run, seeing, listener, resume=resume) if captioner.config.detected_words else None
    detector, curve = _train(run, seeing, listener, _Part(name="words"), resume=resume)
    captioner.encoder.requires_grad_(False)  # noqa: FBT003 - torch's own signature
    facts = {**asdict(seeing.options), "blocks": len(blocks), "words": len(seeing.words), "curve": curve}
    facts |= {} if softened is None else {"soft_words": softened.facts}
    if unseen is not None:
        counts = count_words(seeing.learning.captions, seeing.words)
        detected = Detection(
            words=tuple(seeing.words),
            weight=detector.head.weight.detach().cpu().numpy(),
            bias=detector.head.bias.detach().cpu().numpy(),
            frequencies=word_targets(counts[usable(seeing.learning)]).mean(0),
            logits=unseen,
            images=seeing.images,
            encoder=weights_digest(captioner.encoder),
        )
        write_detection(run.output / DETECTION, detected)
    told = {"words": facts, "fingerprint": run.fingerprint}
    about = EncoderFile(config=captioner.config.encoder, preprocessing=run.preprocessing, facts=told)
    write_encoder(run.output / RESULT, captioner.encoder, about)
    _tidy(run)
    return facts


def _soften(run: Training, seeing: Seeing, listener: Listener) -> SoftTargets | None:
    """Find soft targets, where some are wanted."""
    if not seeing.options.softness:
        return None
    if seeing.texts is None:
        message = "soft targets need texts"
        raise ValueError(message)
    learning, validation = seeing.learning.captions, seeing.validation.captions
    return soften(seeing.texts, learning, validation, seeing.words, seed=run.options.seed, say=listener.say)


def _tidy(run: Training) -> None:
    """Remove what only an unfinished stage needs."""
    for leftover in (run.output / STATE, *run.output.glob(f"{PART}*.safetensors")):
        leftover.unlink(missing_ok=True)


def _finished(run: Training) -> dict[str, Any]:
    """Take up an encoder that is in the run's folder; empty when there is none."""
    path = run.output / RESULT
    if not path.is_file():
        return {}
    about, weights = read_encoder_file(path), read_weights(path)
    check_same_run(path, about.facts.get("fingerprint") if about else None, run.fingerprint)
    run.captioner.encoder.published.load_state_dict(weights)
    return dict(about.facts["words"]) if about else {}


def _judge_unseen(run: Training, seeing: Seeing, listener: Listener, *, resume: bool) -> NDArray[np.float16]:
    """Train a detector for each part of the training images on the others, and let it judge this part; gives logits `(N, W)`."""
    total, chosen = len(seeing.learning.captions), usable(seeing.learning)
    order = np.random.default_rng(run.options.seed + _SEEDS).permutation(chosen)
    logits = np.zeros((total, len(seeing.words)), dtype=np.float16)
    for number in range(seeing.options.folds):
        held = np.sort(order[number :: seeing.options.folds])
        path = run.output / f"{PART}{number + 1}.safetensors"
        judged = read_arrays(path, run.fingerprint) if resume else None
        if judged is None:
            hidden = set(held.tolist())
            captions = [() if image in hidden else texts for image, texts in enumerate(seeing.learning.captions)]
            part = replace(seeing, learning=replace(seeing.learning, captions=captions))
            apart = replace(run, captioner=copy.deepcopy(run.captioner))  # each begins with the encoder as it is now
            name = f"words, without part {number + 1} of {seeing.options.folds},"
            detector, _ = _train(apart, part, listener, _Part(name=name, number=number + 1), resume=resume)
            judged = {"logits": _judge(apart, detector, seeing.learning, held, seeing.options.batch_size)}
            write_arrays(path, judged, run.fingerprint)
            (run.output / f"{PART}{number + 1}-{STATE}").unlink(missing_ok=True)
        logits[held] = judged["logits"].clip(-LARGEST_LOGIT, LARGEST_LOGIT)
    return logits


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One training of a detector: what it is called, and its number, 0 for the one that is kept."""

    name: str
    number: int = 0

    @property
    def state(self) -> str:
        return f"{PART}{self.number}-{STATE}" if self.number else STATE


def _train(run: Training, seeing: Seeing, listener: Listener, part: _Part, *, resume: bool) -> tuple["Detector", list[Any]]:
    """Train a detector, and with it the last blocks of the run's encoder; gives it, and its epochs for the log."""
    task = _task(run, seeing, learning_blocks(run.captioner.encoder, run.captioner.config.encoder, seeing.options))
    state = State(network=task.detector, optimiser=task.optimiser, average=WeightAverage([], 0.0))

    def learn(number: int) -> dict[str, Any]:
        started = time.monotonic()
        torch.manual_seed(run.options.seed * 100_003 + _SEEDS + 1000 * part.number + number)
        loss = _look_once(run, task, (part.name, number), listener)
        mean, weighted = _validate(run, task)
        epoch = WordsEpoch(epoch=number, train_loss=loss, mean_average_precision=mean, weighted_average_precision=weighted)
        listener.say(_sentence(epoch, part, seeing.options, time.monotonic() - started))
        return asdict(epoch)

    path, epochs = run.output / part.state, seeing.options.epochs
    curve = do_epochs(path, state, learn, fingerprint=run.fingerprint, epochs=epochs, resume=resume)
    return task.detector.eval(), curve


def learning_blocks(encoder: Encoder, config: EncoderConfig, options: WordsOptions) -> nn.ModuleList:
    """Choose the blocks of an encoder that learn: as many of the last ones as was said, or as suit the network.

    Args:
        encoder: The network.
        config: Which one it is.
        options: How many.

    Returns:
        The blocks.

    Raises:
        InputError: If the encoder has fewer.
    """
    suited = _BLOCKS.get(config.name, _BLOCKS_OF_OTHERS) if config.layer.has_coarse else _BLOCKS_OF_OTHERS
    return encoder.last_blocks(options.blocks or suited)


class Detector(nn.Module):
    """An encoder with a layer on the mean of its grid that says which words are used."""

    def __init__(self, encoder: Encoder, frequencies: NDArray[np.float32]) -> None:
        """Put a new layer on an encoder, which begins by saying of each image how frequent the words are.

        Args:
            encoder: Is shared, not copied.
            frequencies: Mean target of each word, `(W,)`.
        """
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(_DROPOUT)
        self.head = nn.Linear(encoder.dimension, len(frequencies))
        nn.init.normal_(self.head.weight, std=_HEAD_DEVIATION)
        with torch.no_grad():
            self.head.bias.copy_(torch.from_numpy(frequencies).clamp(_SMALLEST_FREQUENCY, 1 - _SMALLEST_FREQUENCY).logit())

    def forward(self, encoder_out: Tensor) -> Tensor:
        """Give a logit for each word: `(N, P, D)` to `(N, W)`."""
        logits: Tensor = self.head(self.dropout(encoder_out.float().mean(1)))
        return logits


@dataclass(frozen=True, kw_only=True)
class _Task:
    """Everything that the epochs have in common."""

    detector: Detector
    optimiser: torch.optim.Optimizer
    seeing: Seeing
    targets: NDArray[np.float16]  # how certain each word is about each training image, (N, W)
    present: NDArray[np.bool_]  # in the validation captions, of the images that have any


def _task(run: Training, seeing: Seeing, blocks: nn.ModuleList) -> _Task:
    targets = mixed_targets(word_targets(count_words(seeing.learning.captions, seeing.words)), seeing)
    present = count_words(seeing.validation.captions, seeing.words)[usable(seeing.validation)] > 0
    torch.manual_seed(run.options.seed * 100_003 + _SEEDS)
    detector = Detector(run.captioner.encoder, targets[usable(seeing.learning)].mean(0, dtype=np.float32))
    detector.to(run.captioner.mean.device).eval()  # batch norm keeps its statistics, also in blocks that learn
    detector.encoder.requires_grad_(False)  # noqa: FBT003 - torch's own signature
    blocks.requires_grad_(True)  # noqa: FBT003
    for module in blocks.modules():
        if isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels:
            module.weight.requires_grad_(False)  # noqa: FBT003
    groups = [
        {"params": list(detector.head.parameters()), "full_rate": _HEAD_RATE},
        {"params": [each for each in blocks.parameters() if each.requires_grad], "full_rate": seeing.options.learning_rate},
    ]
    fused = run.captioner.mean.device.type == "cpu"
    optimiser = torch.optim.AdamW(groups, weight_decay=_WEIGHT_DECAY, fused=fused)
    return _Task(detector=detector, optimiser=optimiser, seeing=seeing, targets=targets, present=present)


def mixed_targets(certain: NDArray[np.float32], seeing: Seeing) -> NDArray[np.float16]:
    """Mix what counts of captions say with soft targets.

    Args:
        certain: What counts say, `(N, W)`.
        seeing: Has the soft targets, and their share.

    Returns:
        The targets, `(N, W)`; without soft targets those of the counts.
    """
    if seeing.soft is None:
        return certain.astype(np.float16)
    share, mixed = seeing.options.softness, np.empty(certain.shape, np.float16)
    for target, counted, soft in zip(mixed, certain, seeing.soft, strict=True):  # row by row: they are large matrices
        target[:] = (1 - share) * counted + share * soft.astype(np.float32)
    return mixed


def _look_once(run: Training, task: _Task, which: tuple[str, int], listener: Listener) -> float:
    """Look at all training images once, in the epoch of a part; gives the mean loss of an image."""
    name, epoch = which
    options, learning = task.seeing.options, task.seeing.learning
    steps = math.ceil(len(usable(learning)) / options.batch_size)
    task.detector.dropout.train()
    total, images = 0.0, 0
    for done, (chosen, pixels) in enumerate(batches(learning, options.batch_size, run.options.seed, epoch), start=1):
        factor = _rate_factor((epoch - 1) * steps + done - 1, options.epochs * steps)
        for group in task.optimiser.param_groups:
            group["lr"] = group["full_rate"] * factor
        loss = _loss(run, task, pixels, task.targets[chosen])
        task.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        task.optimiser.step()
        value = float(loss.detach())
        if not math.isfinite(value):
            where = f"epoch {epoch}, step {done}"
            message = f"Learning words diverged in {where}; start a new run with a lower --words-learning-rate."
            raise CaptError(message)
        total, images = total + value * len(chosen), images + len(chosen)
        listener.step(f"{name} epoch {epoch}", done, steps, f"loss {total / images:.2f}")
    task.detector.dropout.eval()
    return total / images


def _rate_factor(done: int, steps: int) -> float:
    """Give what the rates are multiplied by: a warm-up, times half a cosine to 0 over all steps."""
    return min(1.0, (done + 1) / _WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * done / steps))


def _loss(run: Training, task: _Task, pixels: NDArray[np.uint8], targets: NDArray[np.float16]) -> Tensor:
    """Give binary cross-entropy, summed over words, mean over the images `(n, S, S, 3)`."""
    captioner = run.captioner
    images = torch.from_numpy(pixels).to(captioner.mean.device).permute(0, 3, 1, 2).float().div(255.0)
    normalised = (vary(images) - captioner.mean) / captioner.std
    with computing(captioner):
        encoder_out = captioner.encoder(normalised.contiguous(memory_format=torch.channels_last))
    wanted = torch.from_numpy(targets).to(captioner.mean.device).float()
    loss: Tensor = functional.binary_cross_entropy_with_logits(task.detector(encoder_out), wanted) * targets.shape[1]
    return loss


def vary(images: Tensor) -> Tensor:
    """Look at each image through a crop of its own, half of them mirrored, brighter or darker; of the same size as before.

    Args:
        images: `(N, 3, S, S)`, 0 to 1.

    Returns:
        The same shape; brighter ones reach beyond 1.
    """
    count = len(images)
    kept = 1 - (1 - _SMALLEST_CROP) * torch.rand(count, 2)  # of each side; drawn on the processor: the same on every device
    moved = (2 * torch.rand(count, 2) - 1) * (1 - kept)
    mirrored = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)  # noqa: PLR2004 - half
    brightness = 1 + _BRIGHTNESS * (2 * torch.rand(count, 1, 1, 1) - 1)
    corners = torch.zeros(count, 2, 3)
    corners[:, 0, 0], corners[:, 1, 1], corners[:, :, 2] = kept[:, 0] * mirrored, kept[:, 1], moved
    grid = functional.affine_grid(corners.to(images.device), list(images.shape), align_corners=False)
    seen: Tensor = functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return seen * brightness.to(images.device)


def _validate(run: Training, task: _Task) -> tuple[float, float]:
    validation = task.seeing.validation
    logits = _judge(run, task.detector, validation, usable(validation), task.seeing.options.batch_size)
    return average_precision(logits, task.present)


def _judge(run: Training, detector: Detector, split: EncodedSplit, chosen: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    """Give a detector's logits of chosen images, `(n, W)`."""
    logits = []
    with torch.inference_mode():
        for start in range(0, len(chosen), size):
            pixels = np.array(split.images[chosen[start : start + size]])
            logits.append(detector(run.captioner.encode(torch.from_numpy(pixels))).cpu().numpy())
    return np.concatenate(logits)


def _sentence(epoch: WordsEpoch, part: _Part, options: WordsOptions, seconds: float) -> str:
    figures = f"{100 * epoch.mean_average_precision:.1f} % ({100 * epoch.weighted_average_precision:.1f} % by occurrence)"
    which = f"{part.name.capitalize()} epoch {epoch.epoch} of {options.epochs}"
    return f"{which}: loss {epoch.train_loss:.2f}, mean average precision {figures}, {seconds:.0f} s."
