"""What a checkpoint says of itself, for programs that have no torch: its digest and its model card.

In: a .safetensors file. Out: sha256 and card. Apart from checkpoint.py, which builds networks: the judge shows cards and may not
import torch, not even through another module.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from capt.errors import CheckpointError

SHIPPED = Path(__file__).with_name("default.safetensors")
_LENGTH_BYTES, _MAX_HEADER_BYTES = 8, 50_000_000


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """A checkpoint's digest, as runs record it, and its card."""

    sha256: str
    card: Mapping[str, object]


def read_model_card(path: Path) -> ModelCard:
    """Read a model card; the weights are only hashed.

    Args:
        path: A checkpoint of capt.

    Returns:
        Digest and card.

    Raises:
        CheckpointError: If it is missing or no checkpoint.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            header = json.loads(file.read(min(length, _MAX_HEADER_BYTES)))
            card = json.loads(header["__metadata__"]["card"], parse_constant=str)  # NaN is no JSON
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        message = f"the checkpoint {path} cannot be read ({error.strerror}); name the .safetensors file of a run."
        raise CheckpointError(message) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        message = f"{path} is not a checkpoint of capt; name the .safetensors file that `capt-batch train` wrote."
        raise CheckpointError(message) from error
    return ModelCard(sha256=digest, card=card if isinstance(card, dict) else {})
