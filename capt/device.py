"""On which device, and in which numbers, a network computes.

In: what the user asked for. Out: a torch device and a precision. Apart, because captioning and training choose alike.
"""

import torch

from capt.errors import InputError
from capt.model import Precision

AUTO = "auto"


def choose_device(wanted: str) -> torch.device:
    """Choose a device: a CUDA GPU, else Apple's, else the processor; or the one named.

    Args:
        wanted: `auto`, or a torch device such as `cpu`, `cuda:1` or `mps`.

    Returns:
        A device that is there.

    Raises:
        InputError: If the one named does not exist on this machine.
    """
    if wanted == AUTO:
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(best)
    try:
        device = torch.device(wanted)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        message = f"This machine has no device {wanted!r} that torch can use; give --device cpu, or auto."
        raise InputError(message) from error
    return device


def choose_precision(wanted: str, device: torch.device) -> Precision:
    """Choose the numbers: bfloat16 where the hardware computes with them, else float32; or those named.

    Args:
        wanted: `auto`, or one of `Precision`.
        device: Where the network computes.

    Returns:
        The precision.

    Raises:
        InputError: If there is no such precision.
    """
    if wanted == AUTO:
        return Precision.BFLOAT16 if _computes_bfloat16(device) else Precision.FLOAT32
    try:
        return Precision(wanted)
    except ValueError as error:
        message = f"There is no precision {wanted!r}; give auto, {', '.join(Precision)}."
        raise InputError(message) from error


def _computes_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
