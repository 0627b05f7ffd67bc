"""An encoder's weights as a file of their own: what training an encoder writes, and what `--weights` of another run reads.

In and out: an encoder, how its images are prepared, and facts about its training. Apart from checkpoints, because it has neither
words nor a decoder; and from `capt.encoder`, because files of others say nothing of themselves.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from capt.encoder import Encoder, EncoderConfig, at_size, encoder_preprocessing
from capt.errors import CaptError, WeightsError
from capt.files import write_whole
from capt.images import Preprocessing

_KEY = "capt"  # one key only: safetensors writes several in a random order, and the same training shall give the same bytes


@dataclass(frozen=True, kw_only=True)
class EncoderFile:
    """What a file of an encoder's weights says of itself.

    Args:
        config: Which network.
        preprocessing: How images are prepared for it.
        facts: About its training, as JSON can hold them.
    """

    config: EncoderConfig
    preprocessing: Preprocessing
    facts: Mapping[str, Any]


def weights_digest(encoder: Encoder) -> str:
    """Name the weights of an encoder.

    Args:
        encoder: Whose.

    Returns:
        sha256 of their names and numbers, wherever they are.
    """
    digest = hashlib.sha256()
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy())
    return digest.hexdigest()


def write_encoder(path: Path, encoder: Encoder, about: EncoderFile) -> None:
    """Write an encoder's weights, in full precision and under their publisher's names; the file appears whole or not at all.

    Args:
        path: Ending in `.safetensors`.
        encoder: To be stored.
        about: What the file shall say of itself.

    Raises:
        OutputError: If the file cannot be written.
    """
    told = {"encoder": about.config.to_dict(), "preprocessing": about.preprocessing.to_dict(), "facts": dict(about.facts)}
    tensors = {name: value.detach().cpu().contiguous() for name, value in encoder.published.state_dict().items()}
    write_whole(path, save(tensors, {_KEY: json.dumps(told)}))


def read_encoder_file(path: Path) -> EncoderFile | None:
    """Read what a file of weights says of itself.

    Args:
        path: Any file of weights.

    Returns:
        None where it says nothing: a file that `write_encoder` did not write, or none that can be read as safetensors at all.

    Raises:
        WeightsError: If what it says cannot be understood.
    """
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(_KEY)
    except (OSError, SafetensorError):
        return None
    if text is None:
        return None
    try:
        told = json.loads(text)
        preprocessing = Preprocessing.from_dict(told["preprocessing"])
        return EncoderFile(config=EncoderConfig(**told["encoder"]), preprocessing=preprocessing, facts=dict(told["facts"]))
    except CaptError as error:
        message = f"The header of {path} is damaged ({error}); write or fetch it again."
        raise WeightsError(message) from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        message = f"The header of {path} is damaged ({type(error).__name__}); write or fetch it again."
        raise WeightsError(message) from error


def weights_preprocessing(config: EncoderConfig, weights: Path | None, size: int | None = None) -> Preprocessing:
    """Tell how images must be prepared for an encoder with the weights of a file, or of its publisher.

    Args:
        config: Which network.
        weights: The file, or None.
        size: Pixels of each side that are chosen instead; None for no choice.

    Returns:
        What the file says; where it says nothing, what the publisher's weights were trained with, at 224 pixels.

    Raises:
        WeightsError: If the file says that it belongs to another network.
        InputError: If the network takes no images of that size.
    """
    told = read_encoder_file(weights) if weights is not None else None
    if told is None:
        return encoder_preprocessing(config, size)
    own, wanted = ((each.name, each.stride_in_1x1) for each in (told.config, config))
    if own != wanted:
        network = f"{told.config.name}{' with --stride-in-1x1' if told.config.stride_in_1x1 else ''}"
        message = f"{weights} holds weights of the encoder {network}; choose the same one, or other weights."
        raise WeightsError(message)
    return at_size(config, told.preprocessing, size)
