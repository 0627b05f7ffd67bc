"""Caption one batch: opened images in, rows of the captions table out; a bad image is a row with status and error.

In: a LoadedBatch. Out: its rows as an Arrow table. Apart, because everything the job asks of torch is here, behind Network.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from capt.captions import Status
from capt.decoding import DecodingOptions, Hypothesis, decode, reference_nll
from capt.device import Runtime, choose_device, choose_precision, choose_runtime
from capt.ensemble import load_writers
from capt.errors import CaptError, first_line
from capt.inference import encode, quicken, quicken_if_known
from capt.lanes import Lanes
from capt.model import Precision
from capt.quantisation import read_quantised
from jobs.allocation import keep_freed_memory
from jobs.loading import LoadedBatch
from jobs.options import AUTO, NetworkOptions
from jobs.progress import Stage, Stages
from jobs.source import ReferenceBook

_BRIGHTEST = 255
_ON_A_DEVICE = 2  # batches in work, so that it has one to encode while what a step of the other decided is on its way
_NO_MEMORY = re.compile("not enough memory|allocate memory|bad_alloc")  # what torch says where it raises no kind of its own


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """What the network says about one image.

    `reference_nll` has for each reference the summed −log p in nats and the number of tokens, `reference_unknown` how many of
    them the vocabulary lacks; None without references.
    `attention` is `(words, P)` uint8.
    """

    caption: str
    log_prob: float
    num_tokens: int
    alternatives: Sequence[tuple[str, float]] | None = None
    reference_nll: Sequence[tuple[float, int]] | None = None
    reference_unknown: Sequence[int] | None = None
    attention: NDArray[np.uint8] | None = None


class Network(Protocol):
    """Whatever captions pixels; `caption` may be called by so many threads at the same time, so that it is never idle."""

    batches_at_once: int

    def caption(self, pixels: Sequence[NDArray[np.uint8]], references: Sequence[Sequence[str] | None]) -> list[Captioned]:
        """Caption images `(S, S, 3)`, and judge the references of those that have some."""
        ...


class TorchNetwork:
    """A checkpoint, or several together, on a device, with the options of the search."""

    def __init__(
        self, options: NetworkOptions, decoding: DecodingOptions, stages: Stages, quantised: bytes | None = None
    ) -> None:
        """Load the checkpoints and bring them to their device.

        Args:
            options: Which, where, how.
            decoding: Of the search.
            stages: Where the seconds are counted.
            quantised: File of the encoder, for int8.

        Raises:
            CaptError: If the checkpoint or the device cannot be used.
        """
        self.device = choose_device(options.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.lanes = Lanes(torch.get_num_threads() if self.device.type == "cpu" else 1)
        self.precision = choose_precision(options.precision, self.device)
        self.writers = load_writers(options.checkpoints)
        self._captioner = self.writers.captioner.to(self.device).set_precision(self.precision)
        self.runtime = choose_runtime(options.runtime, self.device, self.precision)
        self._quicken(options, quantised)
        self._decoding, self._with_attention, self._stages = decoding, options.attention, stages
        of_lanes = self.lanes.batches_at_once(options.batch_size)
        self.batches_at_once = of_lanes if self.device.type == "cpu" else _ON_A_DEVICE

    @property
    def versions(self) -> dict[str, str]:
        """What beside torch computes, and which version of it."""
        return {str(self.runtime): version(self.runtime)} if self.runtime is Runtime.OPENVINO else {}

    def _quicken(self, options: NetworkOptions, quantised: bytes | None) -> None:
        size = self.writers.preprocessing.size
        if options.runtime == AUTO and self.precision is not Precision.INT8:
            self.runtime = quicken_if_known(self._captioner, size=size, runtime=self.runtime)
            return
        network = None if quantised is None else read_quantised(quantised)
        quicken(self._captioner, size=size, runtime=self.runtime, quantised=network)

    def caption(self, pixels: Sequence[NDArray[np.uint8]], references: Sequence[Sequence[str] | None]) -> list[Captioned]:
        """Caption one batch.

        Args:
            pixels: N arrays `(S, S, 3)`; none gives none.
            references: For each image its human captions, or None.

        Returns:
            N captions, in order.

        Raises:
            CaptError: If the device has not enough memory, or fails.
        """
        if not pixels:
            return []
        parts = self.lanes.divide(len(pixels))
        try:
            made = self.lanes.each(lambda part: self._caption(pixels[part], references[part]), parts)
        except RuntimeError as error:  # whatever a device reports
            reason = first_line(error)
            if isinstance(error, torch.OutOfMemoryError) or _NO_MEMORY.search(reason):
                message = (
                    f"{self.device} has not the memory for {len(pixels)} images at a time; lower --batch-size and start again."
                )
            else:
                message = f"{self.device} failed ({reason}); start the same command again, or give --device cpu."
            raise CaptError(message) from error
        return [captioned for part in made for captioned in part]

    @torch.inference_mode()
    def _caption(self, pixels: Sequence[NDArray[np.uint8]], references: Sequence[Sequence[str] | None]) -> list[Captioned]:
        with self._stages.time(Stage.ENCODE):
            encoder_out = encode(self._captioner, torch.from_numpy(np.stack(pixels)))
        with self._stages.time(Stage.SEARCH):
            found = decode(self._captioner.decoder, encoder_out, self._decoding, with_alphas=self._with_attention)
        likelihoods: list[list[tuple[float, int]]] = [[] for _ in found]
        vocabulary = self.writers.vocabulary
        encoded = [[vocabulary.encode(text) for text in texts or ()] for texts in references]
        if any(encoded):
            with self._stages.time(Stage.REFERENCES):
                likelihoods = reference_nll(self._captioner.decoder, encoder_out, encoded)
        unknown = [[indices.count(vocabulary.unk) for indices in each] for each in encoded]
        return [self._describe(*each) for each in zip(found, likelihoods, unknown, strict=True)]

    def _describe(self, hypothesis: Hypothesis, likelihoods: list[tuple[float, int]], unknown: list[int]) -> Captioned:
        decoded = self.writers.vocabulary.decode
        others = [(decoded(each.indices), each.log_prob) for each in hypothesis.alternatives]
        return Captioned(
            caption=decoded(hypothesis.indices),
            log_prob=hypothesis.log_prob,
            num_tokens=hypothesis.num_tokens,
            alternatives=others if self._decoding.alternatives else None,
            reference_nll=likelihoods or None,
            reference_unknown=unknown or None,
            attention=None if hypothesis.alphas is None else scale_attention(hypothesis.alphas.float().numpy()),
        )


def scale_attention(alphas: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Make attention small enough to keep: each word's brightest cell becomes 255.

    Args:
        alphas: `(T, P)`, not negative.

    Returns:
        `(T, P)`.
    """
    brightest = np.maximum(alphas.max(axis=1, initial=0.0, keepdims=True), np.finfo(np.float32).tiny)
    scaled: NDArray[np.uint8] = np.rint(alphas / brightest * _BRIGHTEST).astype(np.uint8)
    return scaled


def caption_batch(network: Network, batch: LoadedBatch, schema: pa.Schema, book: ReferenceBook | None) -> pa.Table:
    """Caption the images that could be opened, and make rows of all.

    Args:
        network: Captions pixels.
        batch: Items and opened images, some of them failed.
        schema: Of the captions table, with the batch's travelling columns at its end.
        book: References from a file; None takes those that the items bring.

    Returns:
        One row for each item, in order.
    """
    good = [row for row, image in enumerate(batch.images) if image.pixels is not None]
    references = [book.find(batch.items[row].image_id) if book else batch.items[row].references for row in good]
    pixels = [image.pixels for image in batch.images if image.pixels is not None]
    captions: list[Captioned | None] = [None] * len(batch.items)
    for row, captioned in zip(good, network.caption(pixels, references), strict=True):
        captions[row] = captioned
    return _make_table(batch, captions, schema)


def _make_table(batch: LoadedBatch, captions: Sequence[Captioned | None], schema: pa.Schema) -> pa.Table:
    nll = [None if each is None or each.reference_nll is None else each.reference_nll for each in captions]
    columns: dict[str, Sequence[object]] = {
        "image_id": [item.image_id for item in batch.items],
        "path": [item.path for item in batch.items],
        "caption": [each and each.caption for each in captions],
        "log_prob": [each and each.log_prob for each in captions],
        "num_tokens": [each and each.num_tokens for each in captions],
        "alternatives": [each and _structs(each.alternatives) for each in captions],
        "reference_nll": [each and [value for value, _ in each] for each in nll],
        "reference_tokens": [each and [tokens for _, tokens in each] for each in nll],
        "reference_unknown": [each and each.reference_unknown for each in captions],
        "attention": [None if each is None or each.attention is None else list(each.attention) for each in captions],
        "width": [image.width for image in batch.images],
        "height": [image.height for image in batch.images],
        "status": [Status.OK if image.error is None else Status.FAILED for image in batch.images],
        "error": [None if image.error is None else str(image.error) for image in batch.images],
    }
    arrays = [pa.array(values, type=schema.field(name).type) for name, values in columns.items()]
    travelling = [batch.travelling.column(name) for name in schema.names[len(columns) :]]
    return pa.Table.from_arrays([*arrays, *travelling], schema=schema)


def _structs(alternatives: Sequence[tuple[str, float]] | None) -> list[dict[str, object]] | None:
    if alternatives is None:
        return None
    return [{"caption": caption, "log_prob": log_prob} for caption, log_prob in alternatives]
