"""Tests of jobs.loading: images come in order, memory stays bounded, threads always end."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

import jobs.loading
from capt.errors import InputError
from capt.images import INCEPTION
from jobs.loading import Loaded, LoadedBatch, Loader, LoadingOptions, Work, load_image
from jobs.progress import Stages
from jobs.source import Item, Shard

OPTIONS = LoadingOptions(batch_size=2, workers=3, max_pixels=10**6, preprocessing=INCEPTION)


class Numbers:
    """A source of so many items without images, which may break at one."""

    sha256 = ""
    has_references = False
    travelling = pa.schema([])

    def __init__(self, rows: int, *, breaks_at: int | None = None) -> None:
        """Know how many, and where to break."""
        self.rows, self.read, self._breaks_at = rows, 0, breaks_at

    def image_ids(self) -> Iterator[str]:
        """Give numbers."""
        return map(str, range(self.rows))

    def batches(self, rows: Sequence[int], size: int) -> Iterator[tuple[list[Item], pa.Table]]:
        """Give items."""
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            if self._breaks_at in part:
                message = "The source broke."
                raise InputError(message)
            self.read += len(part)
            yield [Item(image_id=str(row), path=None, image=None) for row in part], pa.table({"n": list(part)})


def works(rows: int, size: int) -> list[Work]:
    """Cut rows into works."""
    shards = [Shard(number=n, start=start, stop=min(start + size, rows)) for n, start in enumerate(range(0, rows, size))]
    return [Work(shard=shard, rows=range(shard.start, shard.stop)) for shard in shards]


def test_batches_come_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long each image takes, batches come in order, never across shards, the last of each marked."""

    def slow(item: Item, _: LoadingOptions) -> Loaded:
        time.sleep(0.002 * (int(item.image_id) % 3))
        return Loaded(width=int(item.image_id))

    monkeypatch.setattr(jobs.loading, "load_image", slow)
    with Loader(Numbers(8), works(8, 3), OPTIONS, Stages()) as loader:
        batches = list(loader.batches(lambda: False))
    assert [[image.width for image in batch.images] for batch in batches] == [[0, 1], [2], [3, 4], [5], [6, 7]]
    assert [batch.is_last for batch in batches] == [False, True, False, True, True]
    assert [batch.work.shard.number for batch in batches] == [0, 0, 1, 1, 2]


def test_no_images_are_read_far_ahead() -> None:
    """While nobody asks, only a few batches are read: memory does not grow with the number of images."""
    source = Numbers(10_000)
    with Loader(source, works(10_000, 1000), OPTIONS, Stages()) as loader:
        next(loader.batches(lambda: False))
        time.sleep(0.5)
        assert source.read <= 12


def test_broken_source_is_raised_where_batches_are_asked_for() -> None:
    """What happens in the reader's thread reaches the job, after the batches before it."""
    seen: list[LoadedBatch] = []
    with (
        pytest.raises(InputError, match="The source broke"),
        Loader(Numbers(8, breaks_at=5), works(8, 8), OPTIONS, Stages()) as loader,
    ):
        seen.extend(loader.batches(lambda: False))
    assert threading.active_count() == 1 or not any(thread.name == "reader" for thread in threading.enumerate())


def test_interruption_ends_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once interrupted no more batches come, even while an image takes long, and all threads end."""
    release = threading.Event()

    def stuck(_: Item, __: LoadingOptions) -> Loaded:
        release.wait(5)
        return Loaded()

    monkeypatch.setattr(jobs.loading, "load_image", stuck)
    started = time.monotonic()
    with Loader(Numbers(100), works(100, 50), OPTIONS, Stages()) as loader:
        assert list(loader.batches(lambda: time.monotonic() - started > 0.3)) == []
        release.set()
    assert time.monotonic() - started < 4
    assert not any(thread.name in {"reader", "images"} for thread in threading.enumerate())


def test_waiting_for_the_source_can_be_interrupted() -> None:
    """While the source is slow, an interruption is noticed."""
    asked: list[int] = []

    def after_three() -> bool:
        asked.append(1)
        return len(asked) > 3

    release = threading.Event()

    class Slow(Numbers):
        def batches(self, rows: Sequence[int], size: int) -> Iterator[tuple[list[Item], pa.Table]]:
            release.wait(5)
            return super().batches(rows, size)

    with Loader(Slow(4), works(4, 4), OPTIONS, Stages()) as loader:
        assert list(loader.batches(after_three)) == []
        release.set()


def test_failures_are_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing image, an unreadable one and one that exhausts memory are errors in the result, not exceptions."""
    nothing = load_image(Item(image_id="a", path=None, image=None), OPTIONS)
    gone = load_image(Item(image_id="a", path="x", image=tmp_path / "x"), OPTIONS)

    def exhausted(*_: object) -> object:
        raise MemoryError

    good = tmp_path / "a.ppm"
    good.write_bytes(b"P6 1 1 255\n" + bytes(3))
    assert load_image(Item(image_id="a", path=None, image=good), OPTIONS).pixels is not None
    monkeypatch.setattr(jobs.loading, "to_array", exhausted)
    big = load_image(Item(image_id="a", path=None, image=good), OPTIONS)
    kinds = [each.error.kind for each in (nothing, gone, big) if each.error]
    assert kinds == ["no_image", "not_found", "too_large"]
