"""On which device, and in which numbers, a network computes.

In: what the user asked for. Out: a torch device and a precision. Apart, because captioning and training choose alike.
"""

import importlib.util
from enum import StrEnum

import torch

from capt.errors import InputError
from capt.model import Precision

AUTO = "auto"


class Runtime(StrEnum):
    """What computes the encoder."""

    TORCH = "torch"
    OPENVINO = "openvino"


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
    """Choose the numbers to caption with: the quickest that keep the captions, the same on every machine; or those named.

    bfloat16 and int8, quicker on processors that have them, change one caption in nine and one in five (benchmarks/RESULTS.md).

    Args:
        wanted: `auto`, or one of `Precision`.
        device: Where the network computes.

    Returns:
        The precision; for `auto` float16 on a CUDA GPU, else float32.

    Raises:
        InputError: If there is no such precision.
    """
    if wanted == AUTO:
        return Precision.FLOAT16 if device.type == "cuda" else Precision.FLOAT32
    return _named(wanted)


def choose_training_precision(wanted: str, device: torch.device) -> Precision:
    """Choose the numbers to train with: bfloat16 where the hardware computes with them, else float32; or those named.

    Args:
        wanted: `auto`, or one of `Precision`.
        device: Where the network computes.

    Returns:
        The precision.

    Raises:
        InputError: If there is no such precision, or nobody trains in it.
    """
    if wanted == AUTO:
        return Precision.BFLOAT16 if _computes_bfloat16(device) else Precision.FLOAT32
    if wanted == Precision.INT8:
        message = "--precision int8 is for captioning; train with auto, float32 or bfloat16."
        raise InputError(message)
    return _named(wanted)


def choose_runtime(wanted: str, device: torch.device, precision: Precision) -> Runtime:
    """Choose what computes the encoder: OpenVINO on a processor where it is installed, else torch; or the one named.

    Args:
        wanted: `auto`, or one of `Runtime`.
        device: Where the network computes.
        precision: In which numbers; OpenVINO does not compute in float16 on a processor, torch not in int8.

    Returns:
        The runtime.

    Raises:
        InputError: If there is no such runtime, it is not installed, or it does not know the device or the precision.
    """
    if precision is Precision.INT8:
        if wanted == Runtime.TORCH:
            message = "torch does not compute in int8; give --runtime openvino, or another --precision."
            raise InputError(message)
        wanted = Runtime.OPENVINO if wanted == AUTO else wanted
    there = importlib.util.find_spec("openvino") is not None
    if wanted == AUTO:
        fits = there and device.type == "cpu" and precision is not Precision.FLOAT16
        return Runtime.OPENVINO if fits else Runtime.TORCH
    if wanted not in set(Runtime):
        message = f"There is no runtime {wanted!r}; give auto, {', '.join(Runtime)}."
        raise InputError(message)
    runtime = Runtime(wanted)
    if runtime is Runtime.OPENVINO and not there:
        message = "OpenVINO is not installed; install it with: pip install 'capt[openvino]'."
        raise InputError(message)
    if runtime is Runtime.OPENVINO and device.type != "cpu":
        message = f"--runtime openvino computes on the processor, not on {device}; give --device cpu, or --runtime torch."
        raise InputError(message)
    return runtime


def _named(wanted: str) -> Precision:
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
