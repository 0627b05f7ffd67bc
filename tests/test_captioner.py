"""Tests of jobs.captioner: the one place where the job asks torch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray

from capt.captions import captions_schema
from capt.decoding import DecodingOptions
from capt.errors import CaptError, FailureKind, ImageError
from jobs.captioner import Captioned, TorchNetwork, caption_batch, scale_attention
from jobs.loading import Loaded, LoadedBatch, Work
from jobs.options import NetworkOptions
from jobs.progress import Stages
from jobs.source import Item, ReferenceBook, Shard
from tests.test_captions import FINGERPRINT

SCHEMA = captions_schema(FINGERPRINT, pa.schema([pa.field("n", pa.int64())]))


class Echo:
    """A network that says how bright each image is and remembers what it was asked."""

    batches_at_once = 1

    def __init__(self) -> None:
        """Remember nothing yet."""
        self.references: list[Sequence[str] | None] = []

    def caption(self, pixels: Sequence[NDArray[np.uint8]], references: Sequence[Sequence[str] | None]) -> list[Captioned]:
        """Give the first pixel as caption."""
        self.references += references
        return [
            Captioned(
                caption=str(int(image[0, 0, 0])),
                log_prob=-1.0,
                num_tokens=2,
                alternatives=[("other", -2.0)],
                reference_nll=[(3.0, 4)] if texts else None,
                reference_unknown=[2] if texts else None,
                attention=np.array([[0, 255]], dtype=np.uint8),
            )
            for image, texts in zip(pixels, references, strict=True)
        ]


def batch(*images: Loaded, references: tuple[str, ...] | None = None) -> LoadedBatch:
    """Make a batch of items a, b, c …."""
    items = [Item(image_id=name, path=None, image=b"", references=references) for name in "abcdef"[: len(images)]]
    work = Work(shard=Shard(number=0, start=0, stop=len(images)), rows=range(len(images)))
    travelling = pa.table({"n": pa.array(range(len(images)), pa.int64())})
    return LoadedBatch(work=work, items=items, travelling=travelling, images=images, is_last=True)


def image(value: int) -> Loaded:
    """Make an image of one colour."""
    return Loaded(pixels=np.full((4, 4, 3), value, dtype=np.uint8), width=10, height=20)


FAILED = Loaded(error=ImageError(FailureKind.TRUNCATED, "The file ends before the image does."))


def test_captions_stay_with_their_images() -> None:
    """Failed images in between do not shift the captions of the others."""
    table = caption_batch(Echo(), batch(image(1), FAILED, image(3), FAILED, image(5)), SCHEMA, None)
    assert table.column("caption").to_pylist() == ["1", None, "3", None, "5"]
    assert table.column("status").to_pylist() == ["ok", "failed", "ok", "failed", "ok"]
    assert table.column("error").to_pylist()[1] == "truncated: The file ends before the image does."
    assert table.column("n").to_pylist() == [0, 1, 2, 3, 4]
    row = table.to_pylist()[0]
    assert (row["width"], row["height"], row["log_prob"], row["num_tokens"]) == (10, 20, -1.0, 2)
    assert row["alternatives"] == [{"caption": "other", "log_prob": -2.0}]
    assert row["attention"] == [[0, 255]]
    assert row["reference_nll"] is None
    assert table.schema.equals(SCHEMA, check_metadata=True)


def test_batch_without_a_good_image() -> None:
    """A batch of failures is rows all the same."""
    assert caption_batch(Echo(), batch(FAILED, FAILED), SCHEMA, None).num_rows == 2


def test_references_come_from_the_book_or_the_items() -> None:
    """A references file goes before what the manifest brings."""
    network = Echo()
    table = caption_batch(network, batch(image(1), FAILED, image(2), references=("own",)), SCHEMA, None)
    assert network.references == [("own",), ("own",)]
    assert table.column("reference_nll").to_pylist() == [[3.0], None, [3.0]]
    assert table.column("reference_tokens").to_pylist() == [[4], None, [4]]
    assert table.column("reference_unknown").to_pylist() == [[2], None, [2]]
    network = Echo()
    book = ReferenceBook(captions={"c": ("from the book",)}, aliases={})
    caption_batch(network, batch(image(1), FAILED, image(2), references=("own",)), SCHEMA, book)
    assert network.references == [None, ("from the book",)]


def test_attention_is_scaled_by_word() -> None:
    """Each word's brightest cell is 255, and no words give no rows."""
    assert scale_attention(np.array([[0.5, 0.25], [0.1, 0.1]], dtype=np.float32)).tolist() == [[255, 128], [255, 255]]
    assert scale_attention(np.zeros((0, 7), dtype=np.float32)).shape == (0, 7)


@pytest.fixture(scope="module")
def network(tiny_checkpoint: Path) -> TorchNetwork:
    """Give the tiny checkpoint as a network."""
    options = NetworkOptions(checkpoints=(tiny_checkpoint,), device="cpu", precision="float32", attention=True)
    return TorchNetwork(options, DecodingOptions(beam_size=3, max_length=5, alternatives=2), Stages())


def noise(count: int) -> list[NDArray[np.uint8]]:
    """Make images of noise."""
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (224, 224, 3), dtype=np.uint8) for _ in range(count)]


def test_network_gives_everything_asked_for(network: TorchNetwork) -> None:
    """Caption, likelihood, alternatives, attention, and the likelihood of references where there are some."""
    first, second = network.caption(noise(2), [None, ("a cat", "a zebra of coffee")])
    assert first.reference_nll is None
    assert first.reference_unknown is None
    assert second.reference_nll is not None
    assert [tokens for _, tokens in second.reference_nll] == [3, 5]
    assert second.reference_unknown == [0, 1]
    for each in (first, second):
        assert each.num_tokens == len(each.caption.split()) + 1
        assert each.alternatives is not None
        assert len(each.alternatives) == 2
        assert each.attention is not None
        assert each.attention.shape == (each.num_tokens - 1, 49)


def test_network_without_images(network: TorchNetwork) -> None:
    """No images, no captions."""
    assert network.caption([], []) == []


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (torch.OutOfMemoryError(), "lower --batch-size"),
        (RuntimeError("CUDA error\nmore"), r"cpu failed \(CUDA error\)"),
    ],
)
def test_failing_device_is_one_sentence(
    network: TorchNetwork, monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str
) -> None:
    """When the device's memory is full the sentence says to lower the batch size; other failures are told in one sentence."""

    def failing(*_: object) -> object:
        raise error

    monkeypatch.setattr(network._captioner, "encode", failing)
    with pytest.raises(CaptError, match=sentence):
        network.caption(noise(1), [None])
