"""Make a captioner quick that only captions: what training needs apart is folded together, once.

In: a captioner. Out: the same object, with the same captions and fewer operations; it can be trained no more. Apart, because it
is done to captioners that are loaded to caption, and to no others.

Source:
    Jacob et al. 2018 (Quantization and training of neural networks for efficient inference, 3.2: batch normalisation folding).
"""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from capt.device import Runtime
from capt.encoder import Encoder
from capt.errors import CaptError
from capt.model import Captioner, Decoder

if TYPE_CHECKING:
    from capt.ensemble import Ensemble

ENCODED_AT_ONCE = 2
"""Images that each lane of a processor encodes at a time: more are no quicker, and take more memory."""


def encode(captioner: "Captioner | Ensemble", images: Tensor) -> Tensor:
    """Encode images as `Captioner.encode` does, on a processor a few at a time.

    Args:
        captioner: Quickened or not.
        images: RGB, 0 to 255, `(N, S, S, 3)` uint8.

    Returns:
        `(N, P, D)` float32.
    """
    device = next(captioner.buffers()).device.type
    if device != "cpu":
        return captioner.encode(images.pin_memory() if device == "cuda" else images)  # pinned, it is copied while others compute
    return torch.cat([captioner.encode(some) for some in images.split(ENCODED_AT_ONCE)])


def quicken(
    captioner: nn.Module,
    *,
    size: int = 0,
    runtime: Runtime = Runtime.TORCH,
    quantised: Any = None,  # noqa: ANN401 - OpenVINO's model
) -> None:
    """Fold together what a captioner, or several as one, will not need apart.

    Batch normalisation goes into the convolution before it, in the networks that are capt's own; what each word means for the
    LSTM's gates is looked up instead of computed at every step.

    Args:
        captioner: In eval mode, on its device, its precision chosen; is changed.
        size: Of the images, pixels of each side; for OpenVINO.
        runtime: What shall compute the encoder.
        quantised: The encoder in int8, as OpenVINO reads it, for a captioner in that precision.

    Raises:
        CaptError: If OpenVINO is wanted and cannot be used.
    """
    for module in list(captioner.modules()):
        if isinstance(module, Encoder) and module.is_own and runtime is Runtime.TORCH:  # OpenVINO folds by itself
            fold_batch_norm(module)
        if isinstance(module, Captioner) and runtime is Runtime.OPENVINO:
            from capt.openvino_encoder import OpenVinoEncoder  # noqa: PLC0415 - an extra

            other = OpenVinoEncoder(module.encoder, size, module.precision, quantised)
            module.encoder = other  # type: ignore[assignment] # in its place
        if isinstance(module, Decoder):
            module.tabulate_words()


def quicken_if_known(captioner: nn.Module, *, size: int, runtime: Runtime) -> Runtime:
    """Do the same with the runtime that was chosen, or with torch where that does not know the network.

    Args:
        captioner: As in `quicken`.
        size: Of the images.
        runtime: What shall compute the encoder, if it can.

    Returns:
        What computes it.
    """
    try:
        quicken(captioner, size=size, runtime=runtime)
    except CaptError:
        quicken(captioner)
        return Runtime.TORCH
    return runtime


@torch.no_grad()
def fold_batch_norm(network: nn.Module) -> None:
    """Put each batch normalisation into the convolution before it.

    Args:
        network: In eval mode, in which each normalisation directly follows the convolution that is its neighbour before it among
            the children of their parent, as in torchvision's and capt's networks; is changed.
    """
    for parent in list(network.modules()):
        children = list(parent.named_children())
        for (name, first), (next_name, second) in pairwise(children):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                folded = fuse_conv_bn_eval(first, second)
                folded.to(memory_format=torch.channels_last)
                setattr(parent, name, folded)
                setattr(parent, next_name, nn.Identity())
