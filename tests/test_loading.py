"""Tests of jobs.loading: images come in order, memory stays bounded, threads always end."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

import jobs.loading
from capt.errors import InputError
from capt.images import INCEPTION
from jobs.loading import Loaded, LoadedBatch, Loader, LoadingOptions, Work, load_image
from jobs.patience import PatientPool
from jobs.progress import Stages
from jobs.source import Item, Shard
from tests.stalling import StallingFile

OPTIONS = LoadingOptions(batch_size=2, workers=3, max_pixels=10**6, preprocessing=INCEPTION, image_timeout=0.0)


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


class Paths(Numbers):
    """A source of so many images that are all one file."""

    def __init__(self, rows: int, path: Path) -> None:
        """Know how many, and which."""
        super().__init__(rows)
        self._path = path

    def batches(self, rows: Sequence[int], size: int) -> Iterator[tuple[list[Item], pa.Table]]:
        """Give items."""
        for items, table in super().batches(rows, size):
            yield [replace(item, path=str(self._path), image=self._path) for item in items], table


ENDS_BESIDE_A_STALL = """
import sys
from pathlib import Path
from jobs.loading import Loader
from jobs.progress import Stages
from tests.test_loading import OPTIONS, Paths, replace, works
options = replace(OPTIONS, image_timeout=0.2)
with Loader(Paths(4, Path(sys.argv[1])), works(4, 4), options, Stages()) as loader:
    for batch in loader.batches(lambda: False):
        print(*(image.error for image in batch.images), sep="\\n")
"""


def test_stalled_images_are_failed_and_the_program_ends(stalling: StallingFile) -> None:
    """Images that do not open in time are failed rows, and the program ends while its threads still wait for them."""
    root = Path(__file__).parents[1]
    ended = subprocess.run(
        [sys.executable, "-c", ENDS_BESIDE_A_STALL, str(stalling.path)], cwd=root, capture_output=True, text=True, check=True
    )
    assert stalling.is_waited_for
    assert ended.stdout.splitlines() == ["timeout: Opening the image took more than 0.2 s (--image-timeout)."] * 4
    assert ended.stderr == ""


def test_interruption_does_not_wait_for_a_stall(stalling: StallingFile) -> None:
    """Without a limit an image that does not open is waited for, but an interruption is noticed."""
    asked: list[int] = []

    def after_three() -> bool:
        asked.append(1)
        return len(asked) > 3

    with Loader(Paths(2, stalling.path), works(2, 2), OPTIONS, Stages()) as loader:
        assert list(loader.batches(after_three)) == []
    assert stalling.is_waited_for


def test_other_images_are_opened_beside_stalled_ones(stalling: StallingFile, photos: Path) -> None:
    """Each thread that is given up is replaced: with one worker, the images behind a stalled one are opened."""

    class OneStalls(Numbers):
        def batches(self, rows: Sequence[int], size: int) -> Iterator[tuple[list[Item], pa.Table]]:
            for items, table in super().batches(rows, size):
                paths = {"1": stalling.path, "3": stalling.path}
                yield [replace(item, image=paths.get(item.image_id, photos / "cat.jpg")) for item in items], table

    options = replace(OPTIONS, workers=1, image_timeout=1.0)
    with Loader(OneStalls(6), works(6, 6), options, Stages()) as loader:
        images = [image for batch in loader.batches(lambda: False) for image in batch.images]
    assert [image.error.kind if image.error else "" for image in images] == ["", "timeout", "", "timeout", "", ""]


def test_too_many_stalls_end_the_run(stalling: StallingFile) -> None:
    """When ever more images do not open it is the storage, and one sentence says so."""
    options = replace(OPTIONS, image_timeout=0.01)
    with (
        pytest.raises(InputError, match=r"More than 100 images do not open, each for more than 0\.01 s"),
        Loader(Paths(1000, stalling.path), works(1000, 1000), options, Stages()) as loader,
    ):
        list(loader.batches(lambda: False))
    assert stalling.is_waited_for


def test_threads_that_come_back_count_no_more(stalling: StallingFile) -> None:
    """A thread whose image opens at last ends, and is not counted among the stalled."""
    pool: PatientPool[bytes] = PatientPool(1, name="images")
    late, soon = pool.submit(stalling.path.read_bytes), pool.submit(lambda: b"soon")
    while not stalling.is_waited_for:
        time.sleep(0.01)
    pool.give_up(0.0)
    assert isinstance(late.exception(), TimeoutError)
    assert soon.result(timeout=60) == b"soon"
    assert pool.stalled == 1
    stalling.release()
    while pool.stalled:
        time.sleep(0.01)
    pool.close(grace=60)
    assert not any(thread.name == "images" for thread in threading.enumerate())


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
