"""The int8 encoder of a run: quantised with its first photographs, kept, and the same for the whole output.

In: a plan whose precision is int8. Out: the encoder's file. Apart from the engine, which takes it as it is: where it comes from
matters, because a quantised encoder made again elsewhere rounds elsewhere. So it lies with the shards while a run is not
complete, for whoever goes on with them; beside the checkpoint, or in the user's cache, for later runs on the same photographs.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from capt.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint
from capt.device import choose_device, choose_runtime
from capt.errors import CaptError, InputError, OutputError
from capt.files import cache_folder, write_whole
from capt.model import Precision
from capt.quantisation import quantisation_key, quantise, read_quantised
from capt.remote import Location
from jobs.loading import Loader, Work
from jobs.narrator import Narrator
from jobs.output import int8_path
from jobs.plan import Plan
from jobs.progress import Stages
from jobs.source import Shard

_IMAGES = 300  # that show which values occur
_LOOKED_AT = 1000  # images among which there should be so many that open
_UNFORESEEN = (OSError, OutputError, RuntimeError)  # a cache that cannot be used, or a user without home


def int8_encoder(plan: Plan, stages: Stages, narrator: Narrator) -> bytes:
    """Give the int8 encoder of a run: the one that it has, one that was kept, or a new one.

    Args:
        plan: Of the run.
        stages: Where the seconds of opening images are counted.
        narrator: Told when an encoder is made, which takes minutes.

    Returns:
        The content of the encoder's file.

    Raises:
        CaptError: If this machine does not compute in int8, there are several checkpoints, the run's encoder is gone, no image
            opens, or the network cannot be quantised.
    """
    network, sha256 = plan.options.network, plan.fingerprint.encoder_sha256
    choose_runtime(network.runtime, choose_device(network.device), Precision.INT8)
    if len(network.checkpoints) > 1:
        message = "--precision int8 is for one --checkpoint; give --precision auto or bfloat16 with several."
        raise InputError(message)
    path = next(iter(network.checkpoints), DEFAULT_CHECKPOINT)
    if sha256 is not None:
        return _find(sha256, [int8_path(plan.output.folder, sha256), *_kept(path)])
    images = _first_images(plan, stages)
    name = f"{path.stem}.int8-{quantisation_key(plan.fingerprint.checkpoint_sha256, images)[:16]}.zip"
    for place in _places(path):
        with suppress(ValueError, *_UNFORESEEN):  # not there, or damaged: then it is made
            content = (place / name).read_bytes()
            read_quantised(content)
            return content
    narrator.say(f"The encoder is quantised to int8 with {len(images):,} photographs, once; that takes minutes.")
    checkpoint = load_checkpoint(path)
    content = quantise(checkpoint.captioner.encoder, images, checkpoint.preprocessing)
    for place in _places(path):
        with suppress(*_UNFORESEEN):
            write_whole(place / name, content)
            break
    return content


def _first_images(plan: Plan, stages: Stages) -> list[NDArray[np.uint8]]:
    """Open the first photographs of the source that open, `(S, S, 3)` each: the same on every machine."""
    rows = range(min(plan.source.rows, _LOOKED_AT))
    work = Work(shard=Shard(number=0, start=rows.start, stop=rows.stop), rows=rows)
    with Loader(plan.source, [work], plan.loading, stages) as loader:
        opened = list(islice(_pixels(loader), _IMAGES))
    if not opened:
        message = f"None of the first {len(rows):,} images opens, so that there is nothing to quantise the encoder with."
        raise InputError(message)
    return opened


def _pixels(loader: Loader) -> Iterator[NDArray[np.uint8]]:
    for batch in loader.batches(lambda: False):
        yield from (image.pixels for image in batch.images if image.pixels is not None)


def _places(checkpoint: Path) -> Iterator[Path]:
    """Name the folders where encoders are kept, the best first; the one that ships lies among the program's own files."""
    if checkpoint != DEFAULT_CHECKPOINT and os.access(checkpoint.parent, os.W_OK):
        yield checkpoint.parent
    with suppress(RuntimeError):
        yield cache_folder("int8")


def _kept(checkpoint: Path) -> Iterator[Path]:
    for place in _places(checkpoint):
        yield from sorted(place.glob(f"{checkpoint.stem}.int8-*.zip"))


def _find(sha256: str, places: list[Location]) -> bytes:
    for place in places:
        with suppress(OSError):
            content = place.read_bytes()
            if hashlib.sha256(content).hexdigest() == sha256:
                return content
    message = (
        f"The int8 encoder that the run began with ({sha256[:12]}) is no more to be found, nor could it be made again exactly; "
        "choose another --output, or give --overwrite to start anew."
    )
    raise CaptError(message)
