"""Text first: the decoder learns the language from captions without images, before it learns to look.

In: a captioner and captions. Out: the same captioner, its decoder a language model for which no image counts yet; a checkpoint of
it, from which other runs can start. Apart, because it needs no image and its batches are others.

The decoder reads as if every image were zeros. The mean feature and the attended context, gated or not, are then zeros too, so
nothing is attended to and nothing that belongs to images learns. What leads from images to the state is put to zero: training on
images begins with exactly this language model, and gives images weight as they prove useful. A decoder that reads which words
were detected in an image reads here what a detector would have said.

Source:
    Horvitz and Thompson 1952 (weighing what is drawn by how seldom it is); Jean et al. 2015 (a softmax over part of the words).
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from capt.checkpoint import load_checkpoint, save_checkpoint
from capt.errors import CaptError
from capt.model import Decoder
from capt.vocabulary import Vocabulary
from jobs.training.averaging import WeightAverage
from jobs.training.imagined import ImaginedWords
from jobs.training.loop import Listener, Training, computing
from jobs.training.options import TextOptions
from jobs.training.state import State, check_same_run, do_epochs

STATE, RESULT = "text-state.safetensors", "text.safetensors"
_CLIP = 5.0


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the decoder reads, and how.

    Args:
        captions: As people wrote them.
        validation: Captions that it does not read, to measure by.
        options: How.
        imagined: What draws the words that would be detected in the captions' images; None for a decoder that reads none.
        detected: Logits of the words that are detected in the validation captions' images, a row a caption.
    """

    captions: Sequence[str]
    validation: Sequence[str]
    options: TextOptions
    imagined: ImaginedWords | None = None
    detected: NDArray[np.float32] | None = None


@dataclass(frozen=True, kw_only=True)
class TextEpoch:
    """What is known of one pass over the captions.

    Args:
        epoch: From 1.
        train_loss: Mean −log p per token, nats, estimated where a step compares part of the words.
        perplexity: Of the validation captions, without their images, but for the words detected in them where they are read.
        seconds: Of training and validation.
    """

    epoch: int
    train_loss: float
    perplexity: float
    seconds: float


def learn_language(run: Training, reading: Reading, listener: Listener, *, resume: bool) -> list[TextEpoch]:
    """Train the decoder on captions alone.

    Afterwards the run's folder holds `text.safetensors`, a checkpoint in full precision; a run that is killed goes on with the
    epoch that it was in.

    Args:
        run: What is trained; its decoder has not seen an image yet.
        reading: What is read, and how.
        listener: Told about steps.
        resume: Whether to take up what the folder holds.

    Returns:
        All epochs.

    Raises:
        CaptError: If what the folder holds cannot be read or belongs to another run, or training diverges.
        OutputError: If a file cannot be written.
    """
    captioner, path = run.captioner, run.output / STATE
    if resume and (epochs := _finished(run)):
        path.unlink(missing_ok=True)
        return epochs
    captioner.encoder.requires_grad_(False)  # noqa: FBT003 - torch's own signature
    captioner.decoder.ignore_images()
    parameters = list(captioner.decoder.parameters())
    optimiser = torch.optim.Adam(parameters, fused=captioner.mean.device.type == "cpu")
    state = State(network=captioner, optimiser=optimiser, average=WeightAverage(parameters, 0.0))
    encoded, validation = (_encode(run, captions) for captions in (reading.captions, reading.validation))

    def read(number: int) -> dict[str, Any]:
        started = time.monotonic()
        torch.manual_seed(run.options.seed * 100_003 - number)
        loss = _read_once(run, encoded, reading, (state, number), listener)
        perplexity = _perplexity(run, validation, reading)
        return asdict(TextEpoch(epoch=number, train_loss=loss, perplexity=perplexity, seconds=time.monotonic() - started))

    lines = do_epochs(path, state, read, fingerprint=run.fingerprint, epochs=reading.options.epochs, resume=resume)
    epochs = [TextEpoch(**line) for line in lines]
    _store(run, epochs)
    path.unlink(missing_ok=True)
    return epochs


def _store(run: Training, epochs: Sequence[TextEpoch]) -> None:
    card = {**run.card, "fingerprint": run.fingerprint, "text_curve": [asdict(epoch) for epoch in epochs]}
    save_checkpoint(
        run.output / RESULT,
        captioner=run.captioner,
        vocabulary=run.vocabulary,
        preprocessing=run.preprocessing,
        card=card,
        half=False,
    )


def _finished(run: Training) -> list[TextEpoch]:
    """Take up a language model that is in the run's folder; empty when there is none of this run."""
    path = run.output / RESULT
    if not path.is_file():
        return []
    stored = load_checkpoint(path)
    check_same_run(path, stored.card.get("fingerprint"), run.fingerprint)
    run.captioner.decoder.load_state_dict(stored.captioner.decoder.state_dict())
    return [TextEpoch(**line) for line in stored.card["text_curve"]]


def _encode(run: Training, captions: Sequence[str]) -> NDArray[np.int32]:
    """Encode captions from `<start>` to `<end>`, padded, one a row."""
    rows = [run.vocabulary.encode(text)[: run.options.max_caption_length + 1] for text in captions]
    encoded = np.full((len(rows), max(map(len, rows))), Vocabulary.pad, dtype=np.int32)
    for number, row in enumerate(rows):
        encoded[number, : len(row)] = row
    return encoded


def _batches(encoded: NDArray[np.int32], size: int, *seed: int) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Give captions of about the same length together, in random order: which they are, and their words."""
    random = np.random.default_rng(seed)
    lengths = (encoded != Vocabulary.pad).sum(1)
    order = np.lexsort((random.random(len(encoded)), lengths))
    for start in random.permutation(np.arange(0, len(order), size)):
        chosen = order[start : start + size]
        yield chosen, torch.from_numpy(encoded[chosen, : lengths[chosen].max()]).long()


def _read_once(
    run: Training, encoded: NDArray[np.int32], reading: Reading, progress: tuple[State, int], listener: Listener
) -> float:
    """Read all captions once; gives mean −log p per token."""
    (state, epoch), decoder, options = progress, run.captioner.decoder.train(), reading.options
    random = np.random.default_rng([run.options.seed, epoch, 1])
    steps = math.ceil(len(encoded) / options.batch_size)
    nll, tokens = 0.0, 0
    for done, (chosen, batch) in enumerate(_batches(encoded, options.batch_size, run.options.seed, epoch), start=1):
        rate = options.learning_rate * (1 - ((epoch - 1) * steps + done - 1) / (options.epochs * steps))
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        detected = torch.from_numpy(reading.imagined.draw(chosen, random)) if reading.imagined else None
        loss, count = _loss(run, batch, options.softmax, detected)
        state.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), _CLIP)
        state.optimiser.step()
        value = float(loss.detach())
        if not math.isfinite(value):
            message = f"Reading text diverged in epoch {epoch}, step {done}; start a new run with a lower --text-learning-rate."
            raise CaptError(message)
        nll, tokens = nll + value * count, tokens + count
        listener.step(f"text epoch {epoch}", done, steps, f"loss {nll / tokens:.3f}")
    return nll / tokens


def _loss(run: Training, batch: Tensor, words: int, detected: Tensor | None) -> tuple[Tensor, int]:
    """Give the mean −log p of a batch `(B, L)`, and of how many tokens, where words `(B, W)` are detected."""
    batch = batch.to(run.captioner.mean.device)
    detected = None if detected is None else detected.to(batch.device)
    targets = batch[:, 1:]
    there = targets != Vocabulary.pad
    with computing(run.captioner):
        read = run.captioner.decoder.read_without_image(batch[:, :-1], detected)[there]  # (M, E)
        loss = partial_cross_entropy(run.captioner.decoder, read, targets[there], words)
    return loss, len(read)


def partial_cross_entropy(decoder: Decoder, read: Tensor, targets: Tensor, words: int) -> Tensor:
    """Compute the cross-entropy without comparing every word of a large vocabulary.

    The words that occur in the targets are compared, and some of the others, drawn anew each time; those count for as many as
    they stand for, so that the sum in the softmax's denominator is right on average.

    Args:
        decoder: Its output layer is used.
        read: What words are read out of, `(M, E)`.
        targets: The words that should follow, `(M,)`.
        words: How many of the other words to draw; 0, or as many as there are, compares all.

    Returns:
        Mean −log p, a scalar.
    """
    vocab_size = decoder.config.vocab_size
    occurring = targets.unique()  # in rising order
    others = vocab_size - len(occurring)
    if not words or words >= others:
        return nn.functional.cross_entropy(decoder.output(read).float(), targets)
    absent = torch.ones(vocab_size, dtype=torch.bool, device=targets.device)
    absent[occurring] = False
    drawn = absent.nonzero()[:, 0][torch.randperm(others, device=targets.device)[:words]]
    compared = torch.cat([occurring, drawn])
    logits = nn.functional.linear(read, decoder.output.weight[compared], decoder.output.bias[compared]).float()
    stands_for = torch.zeros_like(logits[0])
    stands_for[len(occurring) :] = math.log(others / words)
    return nn.functional.cross_entropy(logits + stands_for, torch.searchsorted(occurring, targets))


def _perplexity(run: Training, encoded: NDArray[np.int32], reading: Reading) -> float:
    nll, tokens = 0.0, 0
    run.captioner.decoder.eval()
    with torch.inference_mode():
        for chosen, batch in _batches(encoded, reading.options.batch_size, 0):
            detected = None if reading.detected is None else torch.from_numpy(reading.detected[chosen])
            loss, count = _loss(run, batch, 0, detected)
            nll, tokens = nll + float(loss) * count, tokens + count
    return math.exp(min(nll / max(tokens, 1), 700.0))


def text_facts(epochs: Sequence[TextEpoch], reading: Reading) -> dict[str, Any]:
    """Tell the model card of the text that was read first.

    Args:
        epochs: What came of it.
        reading: What was read.

    Returns:
        Facts, as JSON can hold them.
    """
    return {"captions": len(reading.captions), **asdict(reading.options), "perplexity": epochs[-1].perplexity}
