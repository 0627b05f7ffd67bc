"""Measure what `capt/depthwise.py` gains: a step of fine-tuning EfficientNet-Lite0 with its backward pass, and with torch's own.

Run: `python benchmarks/fine_tuning.py [--quick]`, by default batches of 32 images of 224 pixels, quickly 8 of 96. A step is the
network forward and backward in bfloat16 on the processor, as `capt-batch train` does it with `--words-epochs` (depthwise
kernels frozen) or `--fine-tune-blocks` (they learn too); both ways take turns, and the median of the rounds counts. The claims:
with frozen kernels a step takes at most 0.75 of the time, with kernels that learn at most 0.5. Where the processor has no
instructions for bfloat16 nothing is measured: `capt-batch train` computes in float32 there, and leaves these convolutions to
torch.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from unittest import mock

import torch

from capt.device import choose_training_precision
from capt.encoder import Encoder, EncoderConfig, build_encoder
from capt.model import Precision

IMAGES, SIDE, ROUNDS = 32, 224, 5
QUICK_IMAGES, QUICK_SIDE, QUICK_ROUNDS = 8, 96, 2
CASES = (("6 blocks, depthwise kernels frozen", 6, False), ("6 blocks", 6, True), ("the whole network", 11, True))


def step(encoder: Encoder, images: torch.Tensor) -> float:
    """Go forward and backward once.

    Args:
        encoder: Some of its blocks learn.
        images: Normalised, `(N, 3, S, S)`.

    Returns:
        Seconds.
    """
    encoder.zero_grad(set_to_none=True)
    begun = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoder_out = encoder(images)
    encoder_out.float().mean(1).square().sum().backward()
    return time.perf_counter() - begun


def torch_alone(step: Callable[[], float]) -> float:
    """Do a step without capt's depthwise convolution.

    Args:
        step: Gives seconds.

    Returns:
        Seconds.
    """
    with mock.patch("capt.efficientnet_lite.pays", return_value=False):
        return step()


def learning(blocks: int, *, kernels: bool) -> Encoder:
    """Make an encoder of which a part learns.

    Args:
        blocks: How many of its last ones.
        kernels: Whether depthwise kernels are among what learns.

    Returns:
        The encoder, with random weights.
    """
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(name="efficientnet_lite0"))
    encoder.to(memory_format=torch.channels_last).requires_grad_(False)  # noqa: FBT003 - torch's own signature
    for module in encoder.last_blocks(blocks).requires_grad_(True).modules():  # noqa: FBT003
        if isinstance(module, torch.nn.Conv2d) and module.groups > 1:
            module.weight.requires_grad_(kernels)
    return encoder


def main() -> None:
    """Measure and print one line for each case."""
    if choose_training_precision("auto", torch.device("cpu")) is not Precision.BFLOAT16:
        print("No instructions for bfloat16: here capt-batch train computes in float32, and torch convolves.")
        return
    quick = sys.argv[1:] == ["--quick"]
    count, side, rounds = (QUICK_IMAGES, QUICK_SIDE, QUICK_ROUNDS) if quick else (IMAGES, SIDE, ROUNDS)
    images = torch.randn(count, 3, side, side).contiguous(memory_format=torch.channels_last)
    print(f"{count} images of {side}×{side}, bfloat16, median of {rounds}, {torch.get_num_threads()} of {os.cpu_count()} cores")
    for name, blocks, kernels in CASES:
        encoder = learning(blocks, kernels=kernels)
        once = partial(step, encoder, images)
        pairs = [(torch_alone(once), once()) for _ in range(rounds + 1)]
        theirs, ours = (statistics.median(seconds[1:]) for seconds in zip(*pairs, strict=True))  # the first ones meet the shapes
        print(f"{name:<36} torch {theirs:>6.2f} s  capt {ours:>6.2f} s  {ours / theirs:>5.2f} ×")


if __name__ == "__main__":
    main()
