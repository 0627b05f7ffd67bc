"""Open images ahead of the network: one thread reads the source, a few decode, and queues keep memory bounded.

In: a source and the rows to caption. Out: batches in order, each image a `(S, S, 3)` array or the reason why not. Apart from
the captioner, because it knows threads and no torch.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from capt.errors import FailureKind, ImageError, InputError
from capt.images import Preprocessing, open_measured, to_array
from jobs.patience import PatientPool
from jobs.progress import Stage, Stages
from jobs.source import Item, Shard, Source, readable_text

_BATCHES_AHEAD = 3
_PATIENCE = 0.2  # seconds between looks at whether to stop
_GRACE = 2.0  # seconds that threads have to end in: one that stalls must not keep the program from ending
_MOST_STALLED = 100  # threads given up at once: beyond that it is not the images


@dataclass(frozen=True, kw_only=True)
class Work:
    """The rows of one shard that are to be captioned: all of them, or only those that failed before."""

    shard: Shard
    rows: Sequence[int]

    @property
    def is_whole(self) -> bool:
        """Whether the shard is written anew and not mended."""
        return len(self.rows) == self.shard.stop - self.shard.start


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """One image, opened: pixels `(S, S, 3)` uint8 and its size as opened, or the reason why not."""

    pixels: NDArray[np.uint8] | None = None
    width: int | None = None
    height: int | None = None
    error: ImageError | None = None


@dataclass(frozen=True, kw_only=True)
class LoadedBatch:
    """Consecutive rows of one work, with their travelling columns; `is_last` says that the work's rows end here."""

    work: Work
    items: Sequence[Item]
    travelling: pa.Table
    images: Sequence[Loaded]
    is_last: bool


@dataclass(frozen=True, kw_only=True)
class LoadingOptions:
    """How many images at a time, by how many threads, of what size at most, in how many seconds (0: any), for which network.

    With `draft` large JPEGs are decoded smaller.
    """

    batch_size: int
    workers: int
    max_pixels: int
    preprocessing: Preprocessing
    image_timeout: float
    draft: bool = False


def load_image(item: Item, options: LoadingOptions) -> Loaded:
    """Open one image; whatever is wrong with it becomes data.

    Args:
        item: From a source.
        options: Largest size, preprocessing.

    Returns:
        Pixels or an error.
    """
    if item.image is None:
        return Loaded(error=ImageError(FailureKind.NO_IMAGE, "The manifest has neither bytes nor a path in this row."))
    try:
        if item.is_outside():
            raise _outside(item)
        least = options.preprocessing.draft_size if options.draft else 0
        opened = open_measured(item.image, max_pixels=options.max_pixels, least=least)
        return Loaded(pixels=to_array(opened.image, options.preprocessing), width=opened.width, height=opened.height)
    except ImageError as error:
        return Loaded(error=error.with_traceback(None))
    except MemoryError:
        return Loaded(error=ImageError(FailureKind.TOO_LARGE, "Decoding the image needs more memory than there is."))


def _outside(item: Item) -> ImageError:
    shown, folder = str(item.image).removeprefix(f"{item.within}/"), item.within
    reason = f"{shown} lies outside {folder}; give --image-root a folder that holds it, or --allow-outside."
    return ImageError(FailureKind.OUTSIDE, readable_text(reason))


@dataclass(frozen=True, kw_only=True)
class _Pending:
    work: Work
    items: Sequence[Item]
    travelling: pa.Table
    images: Sequence[Future[Loaded]]
    is_last: bool


class Loader:
    """Loads the images of some works in the background, in order; used in a `with`, so that its threads always end."""

    def __init__(self, source: Source, works: Sequence[Work], options: LoadingOptions, stages: Stages) -> None:
        """Read nothing yet.

        Args:
            source: Where rows come from; used by one thread only.
            works: In the order wanted.
            options: Sizes and threads.
            stages: Where the seconds are counted.
        """
        self._source, self._works, self._options, self._stages = source, works, options, stages
        self._queue: queue.Queue[_Pending | BaseException | None] = queue.Queue(_BATCHES_AHEAD)
        self._pool: PatientPool[Loaded] = PatientPool(options.workers, name="images")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._read, name="reader", daemon=True)

    def __enter__(self) -> Self:
        """Begin to read ahead."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End all threads but those that stall; images not begun are left."""
        self._stopping.set()
        self._pool.close(grace=_GRACE)
        self._thread.join(_GRACE)

    def batches(self, is_interrupted: Callable[[], bool]) -> Iterator[LoadedBatch]:
        """Give the batches as they are ready.

        Args:
            is_interrupted: Asked now and then; once it says yes, no more batches come.

        Yields:
            Batches in order.

        Raises:
            CaptError: If the source cannot be read any more, or ever more images do not open.
        """
        while not is_interrupted():
            try:
                pending = self._queue.get(timeout=_PATIENCE)
            except queue.Empty:
                continue
            if pending is None:
                return
            if isinstance(pending, BaseException):
                raise pending
            while wait(pending.images, timeout=_PATIENCE).not_done:
                if is_interrupted():
                    return
                self._give_up_stalled()
            yield LoadedBatch(
                work=pending.work,
                items=pending.items,
                travelling=pending.travelling,
                images=[self._result(image) for image in pending.images],
                is_last=pending.is_last,
            )

    def _read(self) -> None:
        try:
            for work in self._works:
                self._read_work(work)
                if self._stopping.is_set():
                    return
            self._put(None)
        except BaseException as error:  # noqa: BLE001  it is raised again in the thread that asks for batches
            self._put(error)

    def _read_work(self, work: Work) -> None:
        size, done = self._options.batch_size, 0
        batches = self._source.batches(work.rows, size)
        while not self._stopping.is_set() and done < len(work.rows):
            with self._stages.time(Stage.READ, "reading the source"):
                items, travelling = next(batches)
            done += len(items)
            images = [self._pool.submit(partial(self._load, item)) for item in items]
            self._put(
                _Pending(work=work, items=items, travelling=travelling, images=images, is_last=done == len(work.rows)),
            )

    def _load(self, item: Item) -> Loaded:
        with self._stages.time(Stage.IMAGES):
            return load_image(item, self._options)

    def _give_up_stalled(self) -> None:
        if self._options.image_timeout:
            self._pool.give_up(self._options.image_timeout)
        if self._pool.stalled > _MOST_STALLED:
            message = (
                f"More than {_MOST_STALLED} images do not open, each for more than {self._options.image_timeout:g} s: "
                "where they are stored nothing can be read; mend that and start the same command again."
            )
            raise InputError(message)

    def _result(self, image: Future[Loaded]) -> Loaded:
        try:
            return image.result()
        except TimeoutError:
            reason = f"Opening the image took more than {self._options.image_timeout:g} s (--image-timeout)."
            return Loaded(error=ImageError(FailureKind.TIMEOUT, reason))

    def _put(self, value: "_Pending | BaseException | None") -> None:
        while not self._stopping.is_set():
            try:
                self._queue.put(value, timeout=_PATIENCE)
            except queue.Full:
                continue
            return
