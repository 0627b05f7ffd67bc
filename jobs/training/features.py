"""What a frozen encoder says of every training image, computed once and kept on disk.

In: captioned images and an encoder (or, for fine-tuning, only the preprocessing). Out: a memory-mapped array, one row an image.
Apart, because encoding takes longer than an epoch of the decoder and does not change from run to run.
"""

import copy
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from capt.device import AUTO, choose_runtime
from capt.encoder_file import weights_digest
from capt.errors import ImageError, InputError, OutputError
from capt.files import cache_folder, write_whole
from capt.images import Preprocessing, open_image, to_array
from capt.inference import encode, quicken_if_known
from capt.lanes import Lanes
from capt.model import Captioner
from jobs.training.dataset import CaptionedImages
from jobs.training.views import view

_FLOAT16_MAX = float(np.finfo(np.float16).max)
BATCH_SIZE = 32

Progress = Callable[[int, int], None]
_Prepared = Callable[[int], Iterator[NDArray[np.uint8]]]


def default_cache_folder() -> Path:
    """Name the user's cache folder for features (`XDG_CACHE_HOME`, else `~/.cache`)."""
    return cache_folder("features")


def cached_features(  # noqa: PLR0913 - what is encoded, with what, where to, and how
    dataset: CaptionedImages,
    captioner: Captioner,
    preprocessing: Preprocessing,
    folder: Path,
    *,
    workers: int,
    progress: Progress,
    look: int = 0,
) -> NDArray[np.float16]:
    """Encode every image, or find that this was done before.

    An interrupted computation goes on where its last finished batch ended; two at once wait for each other.

    Args:
        dataset: N images.
        captioner: Its encoder is used, in its precision, on its device.
        preprocessing: How images are prepared.
        folder: Where caches are kept; each is a folder named by encoder, weights, preprocessing, precision and data.
        workers: Threads that decode images.
        progress: Told how many images are done, of how many.
        look: Which view of each image, as `jobs.training.views` numbers them.

    Returns:
        `(N, P, D)` float16, memory-mapped, read-only.

    Raises:
        InputError: If an image cannot be read, naming it.
        OutputError: If the cache cannot be written.
    """
    size = preprocessing.size
    with torch.inference_mode():
        cells, channels = captioner.encode(torch.zeros(1, size, size, 3, dtype=torch.uint8)).shape[1:]

    quick: list[_Quick] = []  # made when it is needed: most runs find everything in the cache

    def encoded(batch: NDArray[np.uint8]) -> NDArray[np.float16]:
        if not quick:
            quick.append(_Quick(captioner, size))
        return quick[0].encode(batch)

    key = _key(
        "features",
        dataset,
        preprocessing,
        captioner.config.encoder.to_dict(),
        str(captioner.precision),
        weights_digest(captioner.encoder),
        *_named(look),
    )
    array = _Array(folder / key, (len(dataset), cells, channels), np.dtype(np.float16))
    return array.fill(_prepared(dataset, preprocessing, look, workers), encoded, progress)


def cached_pixels(  # noqa: PLR0913 - what is prepared, where to, and how
    dataset: CaptionedImages, preprocessing: Preprocessing, folder: Path, *, workers: int, progress: Progress, look: int = 0
) -> NDArray[np.uint8]:
    """Decode and resize every image once, for training that changes the encoder.

    Args:
        dataset: N images.
        preprocessing: How images are prepared.
        folder: Where caches are kept.
        workers: Threads that decode images.
        progress: Told how many images are done, of how many.
        look: Which view of each image.

    Returns:
        `(N, S, S, 3)` uint8, memory-mapped, read-only.

    Raises:
        InputError: If an image cannot be read, naming it.
        OutputError: If the cache cannot be written.
    """
    array = _Array(
        folder / _key("pixels", dataset, preprocessing, *_named(look)),
        (len(dataset), preprocessing.size, preprocessing.size, 3),
        np.dtype(np.uint8),
    )
    return array.fill(_prepared(dataset, preprocessing, look, workers), lambda batch: batch, progress)


class _Quick:
    """The encoder as the batch job computes it: a copy, of which parts of a batch are computed side by side."""

    def __init__(self, captioner: Captioner, size: int) -> None:
        device = captioner.mean.device
        self._captioner = copy.deepcopy(captioner).eval()
        quicken_if_known(self._captioner, size=size, runtime=choose_runtime(AUTO, device, captioner.precision))
        self._lanes = Lanes(torch.get_num_threads() if device.type == "cpu" else 1)

    def encode(self, batch: NDArray[np.uint8]) -> NDArray[np.float16]:
        @torch.inference_mode()
        def part_of(part: slice) -> Tensor:
            encoded = encode(self._captioner, torch.from_numpy(batch[part]))
            return encoded.clamp(-_FLOAT16_MAX, _FLOAT16_MAX).to(torch.float16).cpu()

        return torch.cat(self._lanes.each(part_of, self._lanes.divide(len(batch)))).numpy()


def _named(look: int) -> list[str]:
    return [f"view {look}"] if look else []


def _key(kind: str, dataset: CaptionedImages, preprocessing: Preprocessing, *more: object) -> str:
    text = json.dumps([kind, dataset.identity, preprocessing.to_dict(), *more], sort_keys=True)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


class _Array:
    """An array on disk that is filled from the front, with the number of rows that are done beside it."""

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
        self._folder = folder
        self._shape, self._dtype = shape, dtype
        self._data, self._done_file = folder / "rows.bin", folder / "done.json"

    def fill(
        self, prepared: _Prepared, compute: Callable[[NDArray[np.uint8]], NDArray[np.generic]], progress: Progress
    ) -> NDArray:  # type: ignore[type-arg] # float16 or uint8, as the caller asked
        total = self._shape[0]
        try:
            with self._locked():
                done = self._done()
                if done < total:
                    self._allocate()
                    rows = np.memmap(self._data, self._dtype, mode="r+", shape=self._shape)
                    for batch in prepared(done):
                        rows[done : done + len(batch)] = compute(batch)
                        rows.flush()
                        done += len(batch)
                        write_whole(self._done_file, json.dumps({"rows": done}).encode())
                        progress(done, total)
        except OSError as error:
            advice = "choose another with --feature-cache or make room"
            message = f"The feature cache {self._folder} cannot be written ({error.strerror or error}); {advice}."
            raise OutputError(message) from error
        return np.memmap(self._data, self._dtype, mode="r", shape=self._shape)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _bytes(self) -> int:
        return int(np.prod(self._shape)) * self._dtype.itemsize

    def _done(self) -> int:
        if not self._data.is_file() or self._data.stat().st_size != self._bytes() or not self._done_file.is_file():
            return 0
        try:
            return int(json.loads(self._done_file.read_text())["rows"])
        except (ValueError, KeyError, TypeError):
            return 0

    def _allocate(self) -> None:
        """Reserve the room now: writing to a memory map on a full disk would kill the process."""
        with self._data.open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, self._bytes())


def _prepared(dataset: CaptionedImages, preprocessing: Preprocessing, look: int, workers: int) -> _Prepared:
    """Give what opens and resizes the images, batch by batch, from one on."""

    def prepare(item: tuple[str, Path | bytes]) -> NDArray[np.uint8]:
        image_id, source = item
        try:
            return to_array(view(open_image(source), look, image_id), preprocessing)
        except ImageError as error:
            message = f"The training image {image_id} cannot be used ({error}); mend it or leave it out."
            raise InputError(message) from error

    def batches(start: int) -> Iterator[NDArray[np.uint8]]:
        items = zip(dataset.image_ids[start:], dataset.read(start), strict=True)
        with ThreadPoolExecutor(workers) as pool:
            while batch := list(pool.map(prepare, islice(items, BATCH_SIZE))):
                yield np.stack(batch)

    return batches
