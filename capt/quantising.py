"""Quantise a network that OpenVINO has converted: `python -m capt.quantising FOLDER`, a process of its own.

In: `network.xml` with its weights, `images.npy` and `normalisation.json` in the folder. Out: `quantised.xml` with its weights
there. A process of its own, because NNCF (the Neural Network Compression Framework) wraps operations of torch in every process
that imports it, talks on stdout and takes gigabytes, none of which the job should have for its other hours.

Sources:
    Jacob et al. 2018 (Quantization and training of neural networks for efficient inference); Nagel et al. 2019 (Data-free
    quantization through weight equalization and bias correction, for the correction of biases).
"""

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RECIPE = 1
"""Counts what is decided here: what another recipe made is not taken for what this one makes."""

NETWORK, IMAGES, NORMALISATION, QUANTISED = "network.xml", "images.npy", "normalisation.json", "quantised.xml"
_FIRST, _LAST = 3, 2  # convolutions that stay in float32: through the first few, and out of the last, all errors pass


def quantise_folder(folder: Path) -> None:
    """Quantise what is in a folder.

    Weights are symmetric and have a scale for each channel, in seven bits, so that processors without instructions for int8
    compute the same without an overflow. Activations have a zero point, and ranges as the images show them.

    Args:
        folder: Holds the network, the images and how they are normalised; the quantised network is put there.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # then nothing is sent to anybody
    import nncf  # noqa: PLC0415 - an extra brings it
    import openvino  # noqa: PLC0415 - the same

    core = openvino.Core()
    network = core.read_model(folder / NETWORK)
    pixels = np.load(folder / IMAGES, mmap_mode="r")  # (N, S, S, 3)
    normalisation = json.loads((folder / NORMALISATION).read_text(encoding="utf-8"))
    mean, std = (np.array(normalisation[name], dtype=np.float32) for name in ("mean", "std"))

    def normalise(number: int) -> NDArray[np.float32]:
        image: NDArray[np.float32] = (pixels[number].astype(np.float32) / 255 - mean) / std
        return np.ascontiguousarray(image.transpose(2, 0, 1)[None])  # (1, 3, S, S)

    convolutions = [each.get_friendly_name() for each in network.get_ordered_ops() if "Convolution" in each.get_type_name()]
    quantised = nncf.quantize(
        network,
        nncf.Dataset(range(len(pixels)), normalise),
        subset_size=len(pixels),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(names=sorted({*convolutions[:_FIRST], *convolutions[-_LAST:]})),
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
    )
    openvino.save_model(quantised, folder / QUANTISED, compress_to_fp16=False)


if __name__ == "__main__":
    quantise_folder(Path(sys.argv[1]))
