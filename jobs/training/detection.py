"""What detectors of words found, on disk: the detector itself, and what others say about images that they had not seen.

In and out: a `Detection`. Apart from `word_detection.py`, which trains detectors, because other runs read what was found.

A detector knows the images that it learned from too well, and a decoder that is trained on what it says about them trusts it too
much; so the training images are judged by detectors that learned from the others.

Source:
    Wolpert 1992 (Stacked generalization: the next level learns from judgements on what was held out).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from capt.errors import InputError
from capt.files import write_whole
from jobs.training.state import check_same_run

LARGEST_LOGIT = 14.0  # beyond, a likelihood is 0 or 1 in float16
_KEY = "capt"
_FAULTS = (LookupError, ValueError, TypeError, AttributeError, OverflowError, RecursionError)  # of a header that is odd
_ARRAYS = ("weight", "bias", "frequencies", "logits")


@dataclass(frozen=True, kw_only=True)
class Detection:
    """A detector, and what is known of the training images without having learned from them.

    Args:
        words: W of them.
        weight: Of the linear layer on an encoder's mean cell, `(W, D)`.
        bias: Of the same, `(W,)`.
        frequencies: How likely each word is of any training image, 0 to 1, `(W,)`.
        logits: Of the training images, `(N, W)`, each image judged by a detector that had not seen it.
        images: Which training images these are (`name_images`).
        encoder: Which weights the encoder has whose mean cell the detector reads (`jobs.training.features.weights_digest`).
    """

    words: tuple[str, ...]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    frequencies: NDArray[np.float32]
    logits: NDArray[np.float16]
    images: str
    encoder: str


def name_images(image_ids: Sequence[str]) -> str:
    """Name training images, so that what was found about them is not taken for others.

    Args:
        image_ids: In their order.

    Returns:
        sha256 of them.
    """
    return hashlib.sha256(json.dumps(list(image_ids)).encode()).hexdigest()


def write_detection(path: Path, detection: Detection) -> None:
    """Write what was found; the file appears whole or not at all.

    Args:
        path: Ending in `.safetensors`.
        detection: To be stored.

    Raises:
        OutputError: If it cannot be written.
    """
    arrays = {name: np.ascontiguousarray(getattr(detection, name)) for name in _ARRAYS}
    write_whole(
        path,
        save(arrays, {_KEY: json.dumps({"words": detection.words, "images": detection.images, "encoder": detection.encoder})}),
    )


def read_detection(path: Path, images: str | None = None) -> Detection:
    """Read what `write_detection` wrote.

    Args:
        path: The file.
        images: The name of the images that are trained on; None reads what was found about any.

    Returns:
        What was found.

    Raises:
        InputError: If the file cannot be read, or tells of other images.
    """
    try:
        told, arrays = _read(path)
        named = {name: str(told[name]) for name in ("images", "encoder")}
        found = Detection(words=tuple(map(str, told["words"])), **named, **{name: arrays[name] for name in _ARRAYS})  # type: ignore[arg-type] # arrays
        _check_shapes(found)
    except FileNotFoundError as error:
        message = f"There is no {path}; give --detected-words the file that a run with --words-epochs and --detected-dim wrote."
        raise InputError(message) from error
    except (OSError, SafetensorError, *_FAULTS) as error:
        message = f"{path} cannot be read as detected words ({type(error).__name__}); name the file that a training run wrote."
        raise InputError(message) from error
    if images is not None and images != found.images:
        message = f"{path} tells of other training images; give the same images as the run that wrote it, or leave it out."
        raise InputError(message)
    return found


def _check_shapes(found: Detection) -> None:
    """Refuse arrays that do not belong to the words, or to each other."""
    words = len(found.words)
    fits = found.weight.shape[:1] == found.bias.shape == found.frequencies.shape == (words,) == found.logits.shape[1:]
    if not fits or found.weight.ndim != 2 or not all(np.isfinite(getattr(found, name)).all() for name in _ARRAYS):  # noqa: PLR2004  (W, D)
        message = "its arrays do not fit its words"
        raise ValueError(message)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], fingerprint: str) -> None:
    """Keep part of a stage's result.

    Args:
        path: The file, in the run's folder.
        arrays: By name.
        fingerprint: What this run is.

    Raises:
        OutputError: If it cannot be written.
    """
    write_whole(path, save(dict(arrays), {_KEY: json.dumps({"fingerprint": fingerprint})}))


def read_arrays(path: Path, fingerprint: str) -> dict[str, NDArray[Any]] | None:
    """Take up part of a stage's result.

    Args:
        path: The file, in the run's folder.
        fingerprint: What this run is.

    Returns:
        What `write_arrays` was given; None where there is no such file, or it is damaged.

    Raises:
        CheckpointError: If it belongs to another run.
    """
    try:
        told, arrays = _read(path)
    except (OSError, SafetensorError, *_FAULTS):
        return None
    check_same_run(path, told.get("fingerprint"), fingerprint)
    return arrays


def _read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    with safe_open(path, "numpy") as file:
        told = json.loads((file.metadata() or {})[_KEY])
        if not isinstance(told, dict):
            message = f"{_KEY} is no object"
            raise TypeError(message)
        return told, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
