"""Measure how near `capt-batch train` comes to what the machine can do: seconds of a step and of an epoch, images per second.

Run: `python benchmarks/training.py [--quick]`. With the shipped checkpoint's sizes, and made captions as long as those of
Flickr8k (11.8 words) whose words are as unevenly frequent (Zipf), it prints

    decoder     a step of cross-entropy on cached features, 24 images of five captions, as the job does it
    plain loop  the same as many write it: every caption a row with a copy of its image's map, tanh over all of it at every step
    words       a step in which the encoder's last blocks learn words, 32 images: varied, forward, backward, update
    bare        forward and backward of the same encoder alone
    tuning      a step in which decoder and the encoder's last blocks learn together (`--fine-tune-blocks`), 24 images
    apart       forward and backward of that encoder alone, and a step of the decoder, one after the other
    cache       images/s that the feature cache takes in: decoded, resized, encoded, written
    encoder     images/s of the same encoder alone in torch, 32 at a time, all cores on each operation

and what an epoch of the decoder over 29,000 captions takes. Lines of a pair take turns, and the median of the rounds counts.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.throughput import write_photographs
from capt.checkpoint import Checkpoint, load_checkpoint
from capt.encoder import Encoder
from capt.model import Captioner
from capt.packing import pad_captions
from jobs.allocation import keep_freed_memory
from jobs.training.cross_entropy import CrossEntropy
from jobs.training.dataset import CaptionedImages
from jobs.training.features import cached_features
from jobs.training.loop import EncodedSplit, Epoch, Training, train
from jobs.training.options import TrainingOptions, WordsOptions
from jobs.training.word_detection import Seeing, learn_words

IMAGES, CAPTIONS, EPOCH = 24, 5, 29_000  # of a step, of an image, of an epoch
LENGTH_SHAPE, LENGTH_SCALE = 8.5, 1.27  # of a gamma distribution; one word more
WORDS_IMAGES = 32
BLOCKS = 6  # of the encoder, that learn


class Clock:
    """Listens to a training, and notes how long each step took but the first two, which meet shapes and memory."""

    def __init__(self) -> None:
        """Start."""
        self.seconds: list[float] = []
        self._before = 0.0

    def step(self, what: str, done: int, steps: int, figure: str) -> None:  # noqa: ARG002 - as any listener
        """Hear of a step."""
        now = time.perf_counter()
        if done > 2:  # noqa: PLR2004 - steps that do not count
            self.seconds.append(now - self._before)
        self._before = now

    def epoch(self, epochs: Sequence[Epoch]) -> None:
        """Hear of an epoch."""

    def say(self, sentence: str) -> None:
        """Hear a sentence."""


def write_captions(words: Sequence[str], images: int) -> list[list[str]]:
    """Make captions as long as people's, of words as unevenly frequent.

    Args:
        words: From the most frequent on.
        images: How many; each has five.

    Returns:
        For each image its captions.
    """
    random = np.random.default_rng(0)
    share = 1 / (np.arange(len(words)) + 2.7)  # Zipf and Mandelbrot
    lengths = 1 + random.gamma(LENGTH_SHAPE, LENGTH_SCALE, (images, CAPTIONS)).astype(int)
    return [[" ".join(random.choice(words, length, p=share / share.sum())) for length in each] for each in lengths]


def make_pixels(images: int, size: int, words: Sequence[str]) -> tuple[EncodedSplit, EncodedSplit]:
    """Make images of noise with captions, for an encoder that learns.

    Args:
        images: How many to learn from.
        size: Pixels of each side.
        words: Of the captions, from the most frequent on.

    Returns:
        The images to learn from, and the first two of them to choose by.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (images, size, size, 3), np.uint8)
    captions = write_captions(words, images)
    return EncodedSplit(images=pixels, captions=captions), EncodedSplit(images=pixels[:2], captions=captions[:2])


def prepare(checkpoint: Checkpoint, folder: Path, blocks: int = 0) -> Training:
    """Make a training of a checkpoint's network.

    Args:
        checkpoint: Whose.
        folder: For its files.
        blocks: Of the encoder, that learn with the decoder.

    Returns:
        The training, of one epoch.
    """
    return Training(
        captioner=checkpoint.captioner.float().train(),
        vocabulary=checkpoint.vocabulary,
        preprocessing=checkpoint.preprocessing,
        options=TrainingOptions(epochs=1, batch_size=IMAGES, fine_tune_blocks=blocks),
        output=folder,
        card={"name": "a measurement"},
        fingerprint="",
    )


class PlainLoop(nn.Module):
    """A decoder of the same sizes as many write it: rows sorted by length, and everything at every step."""

    def __init__(self, captioner: Captioner) -> None:
        """Build the layers.

        Args:
            captioner: Whose sizes.
        """
        super().__init__()
        sizes = captioner.config
        self.features = nn.Linear(sizes.encoder_dim, sizes.context_dim)
        self.embedding = nn.Embedding(sizes.vocab_size, sizes.embed_dim)
        self.of_cells = nn.Linear(sizes.context_dim, sizes.attention_dim)
        self.of_state = nn.Linear(sizes.decoder_dim, sizes.attention_dim)
        self.energy = nn.Linear(sizes.attention_dim, 1)
        self.initial = nn.Linear(sizes.context_dim, 2 * sizes.decoder_dim)
        self.gate = nn.Linear(sizes.decoder_dim, sizes.context_dim)
        self.cell = nn.LSTMCell(sizes.embed_dim + sizes.context_dim, sizes.decoder_dim)
        self.readout = nn.Linear(sizes.decoder_dim + sizes.context_dim, sizes.embed_dim)
        self.output = nn.Linear(sizes.embed_dim, sizes.vocab_size)
        self.dropouts = sizes.feature_dropout, sizes.dropout
        self.optimiser = torch.optim.Adam(self.parameters(), 1e-4)

    def step(self, encoder_out: Tensor, encoded: list[list[list[int]]]) -> None:
        """Learn from a batch.

        Args:
            encoder_out: `(N, P, D)`.
            encoded: The captions of each image.
        """
        captions, lengths = pad_captions(encoded)
        lengths, order = lengths.flatten().sort(descending=True)
        captions = captions.flatten(0, 1)[order]
        cells = nn.functional.dropout(self.features(encoder_out).relu(), self.dropouts[0])
        cells = cells.repeat_interleave(CAPTIONS, 0)[order]
        projected = self.of_cells(cells)
        h, c = self.initial(cells.mean(1)).tanh().chunk(2, -1)
        context, _ = self._attend(cells, projected, h)
        words, looked, total = self.embedding(captions), torch.zeros(cells.shape[:2]), torch.zeros(())
        for step in range(int(lengths[0]) - 1):
            rows = int((lengths - 1 > step).sum())
            h, c = self.cell(torch.cat([words[:rows, step], context[:rows]], -1), (h[:rows], c[:rows]))
            context, alpha = self._attend(cells[:rows], projected[:rows], h)
            looked = looked + nn.functional.pad(alpha, (0, 0, 0, len(cells) - rows))
            logits = self.output(self.readout(nn.functional.dropout(torch.cat([h, context], -1), self.dropouts[1])))
            total = total + nn.functional.cross_entropy(logits, captions[:rows, step + 1], reduction="sum")
        self.optimiser.zero_grad()
        (total / (lengths - 1).sum() + (1 - looked).square().mean()).backward()
        nn.utils.clip_grad_norm_(self.parameters(), 5.0)
        self.optimiser.step()

    def _attend(self, cells: Tensor, projected: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        alpha = self.energy((projected + self.of_state(h).unsqueeze(1)).tanh()).squeeze(-1).softmax(-1)
        return (alpha.unsqueeze(-1) * cells).sum(1) * self.gate(h).sigmoid(), alpha


def decoders(rounds: int, steps: int) -> tuple[float, float]:
    """Measure the decoder.

    Args:
        rounds: How many.
        steps: Of each, for each line.

    Returns:
        Seconds of a step of the job, and of the plain loop.
    """
    checkpoint = load_checkpoint()
    captioner, vocabulary = checkpoint.captioner, checkpoint.vocabulary
    captions = write_captions(vocabulary.words[4:], steps * IMAGES)
    cells = (checkpoint.preprocessing.size // 32 + 1) ** 2
    features = np.random.default_rng(0).random((steps * IMAGES, cells, captioner.config.encoder_dim), np.float32)
    split = EncodedSplit(images=features.astype(np.float16), captions=captions)
    few = EncodedSplit(images=split.images[:2], captions=captions[:2])
    plain, clock, theirs = PlainLoop(captioner), Clock(), []
    encoded = [[list(vocabulary.encode(text)) for text in texts] for texts in captions]
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            run = prepare(checkpoint, Path(folder))
            train(run, CrossEntropy(run, split), few, clock, resume=False)
        for step in range(steps):
            batch = slice(step * IMAGES, (step + 1) * IMAGES)
            theirs.append(_timed(partial(plain.step, torch.from_numpy(features[batch]), encoded[batch])))
    return statistics.median(clock.seconds), statistics.median(theirs)


def encoders(rounds: int, steps: int) -> tuple[float, float]:
    """Measure words first.

    Args:
        rounds: How many.
        steps: Of each, for each line.

    Returns:
        Seconds of a step of the job, and of forward and backward alone.
    """
    clock, bare = Clock(), []
    for _ in range(rounds):
        checkpoint = load_checkpoint()
        size, words = checkpoint.preprocessing.size, checkpoint.vocabulary.words[100:1100]
        split, few = make_pixels(steps * WORDS_IMAGES, size, words)
        options = WordsOptions(epochs=1, batch_size=WORDS_IMAGES, blocks=BLOCKS)
        with tempfile.TemporaryDirectory() as folder:
            run = prepare(checkpoint, Path(folder))
            learn_words(run, Seeing(learning=split, validation=few, words=words, options=options), clock, resume=False)
        encoder = run.captioner.encoder
        for module in encoder.last_blocks(BLOCKS).modules():
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(not (isinstance(module, nn.Conv2d) and module.groups > 1))
        bare += [_there_and_back(encoder, WORDS_IMAGES, size) for _ in range(steps)]
    return statistics.median(clock.seconds), statistics.median(bare)


def fine_tuning(rounds: int, steps: int) -> tuple[float, float]:
    """Measure decoder and encoder that learn together.

    Args:
        rounds: How many.
        steps: Of each, for each line.

    Returns:
        Seconds of a step of the job, and of forward and backward of the encoder alone.
    """
    clock, bare = Clock(), []
    for _ in range(rounds):
        checkpoint = load_checkpoint()
        size = checkpoint.preprocessing.size
        split, few = make_pixels(steps * IMAGES, size, checkpoint.vocabulary.words[4:])
        with tempfile.TemporaryDirectory() as folder:
            run = prepare(checkpoint, Path(folder), BLOCKS)
            train(run, CrossEntropy(run, split), few, clock, resume=False)
        run.captioner.encoder.last_blocks(BLOCKS).requires_grad_(True)  # noqa: FBT003 - torch's own signature
        bare += [_there_and_back(run.captioner.encoder, IMAGES, size) for _ in range(steps)]
    return statistics.median(clock.seconds), statistics.median(bare)


def caches(rounds: int, images: int) -> tuple[float, float]:
    """Measure the feature cache.

    Args:
        rounds: How many.
        images: Of each.

    Returns:
        Images per second that are cached, and that torch alone encodes.
    """
    cached, encoded = [], []
    checkpoint = load_checkpoint()
    captioner, size = checkpoint.captioner.float().eval(), checkpoint.preprocessing.size
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photographs(folder / "photographs", (500, 375), images)
        places = tuple(sorted((folder / "photographs").iterdir()))
        ids = tuple(place.name for place in places)
        dataset = CaptionedImages(image_ids=ids, captions=(("x",),) * images, places=places, identity="photographs")
        for number in range(rounds):
            cached.append(images / _timed(partial(_cache, checkpoint, dataset, folder / str(number))))
            batch = torch.randint(0, 256, (32, size, size, 3), dtype=torch.uint8)
            with torch.inference_mode():
                encoded.append(len(batch) / _timed(partial(captioner.encode, batch)))
    return statistics.median(cached), statistics.median(encoded)


def _there_and_back(encoder: Encoder, images: int, size: int) -> float:
    encoder.zero_grad(set_to_none=True)
    pixels = torch.randn(images, 3, size, size).contiguous(memory_format=torch.channels_last)
    return _timed(lambda: encoder(pixels).mean().backward())


def _cache(checkpoint: Checkpoint, dataset: CaptionedImages, folder: Path) -> NDArray[np.float16]:
    workers = os.cpu_count() or 1
    return cached_features(
        dataset, checkpoint.captioner, checkpoint.preprocessing, folder, workers=workers, progress=lambda _done, _total: None
    )


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure training.")
    parser.add_argument("--quick", action="store_true", help="one short round, which proves no more than that it runs")
    rounds, steps, images = (1, 4, 16) if parser.parse_args().quick else (3, 12, 256)
    keep_freed_memory()
    print(f"{torch.get_num_threads()} threads of {os.cpu_count()} cores, float32, torch {torch.__version__}")
    decoder, theirs = decoders(rounds, steps)
    epoch = EPOCH / (IMAGES * CAPTIONS)
    print(f"decoder {decoder:>6.2f} s  plain loop {theirs:>6.2f} s  {decoder / theirs:.2f} ×")
    print(f"an epoch of 29,000 captions: {decoder * epoch:.0f} s and {theirs * epoch:.0f} s")
    ours, theirs = encoders(rounds, max(steps // 2, 4))
    print(f"words   {ours:>6.2f} s  bare       {theirs:>6.2f} s  {ours / theirs:.2f} ×")
    ours, theirs = fine_tuning(rounds, max(steps // 2, 4))
    print(f"tuning  {ours:>6.2f} s  apart      {theirs + decoder:>6.2f} s  {ours / (theirs + decoder):.2f} ×")
    cached, encoded = caches(rounds, images)
    print(f"cache   {cached:>6.1f} images/s  encoder {encoded:>6.1f} images/s  {cached / encoded:.2f} ×")


if __name__ == "__main__":
    main()
