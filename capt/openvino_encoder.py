"""An encoder that OpenVINO computes: on a processor about as quick in float32 as torch is in bfloat16, with the same captions.

In: an encoder of torch. Out: a module that takes its place. Apart, because OpenVINO is an extra. Converting takes seconds, so
what comes of it is kept in the user's cache, under a name that tells network, weights and size apart.
"""

import hashlib
import importlib
import sys
import tempfile
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from capt.encoder import Encoder
from capt.encoder_file import weights_digest
from capt.errors import CaptError, first_line
from capt.files import cache_folder
from capt.model import Precision

_HINTS = {Precision.FLOAT32: "f32", Precision.BFLOAT16: "bf16", Precision.INT8: "f32"}  # of what is not in int8


def openvino() -> Any:  # noqa: ANN401 - a module without types
    """Import OpenVINO, which sends no word of it to anybody.

    Returns:
        The module.

    Raises:
        CaptError: If it cannot be imported.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # then it takes a stub in its place
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        message = f"OpenVINO cannot be used ({first_line(error)}); install it with: pip install 'capt[openvino]'."
        raise CaptError(message) from error


class OpenVinoEncoder(nn.Module):
    """The same grid of features from the same weights; for captioning only."""

    is_own = False

    def __init__(self, encoder: Encoder, size: int, precision: Precision, quantised: Any = None) -> None:  # noqa: ANN401
        """Convert an encoder, or take what was converted before.

        Args:
            encoder: In eval mode, float32, on the processor.
            size: Of the images, pixels of each side.
            precision: float32, bfloat16 or, with `quantised`, int8.
            quantised: The same encoder in int8, as OpenVINO reads it.

        Raises:
            CaptError: If OpenVINO cannot be used, cannot convert this network, or does not compute in this precision.
        """
        super().__init__()
        self._requests = threading.local()
        if precision not in _HINTS or (precision is Precision.INT8) != (quantised is not None):
            message = f"OpenVINO computes in {', '.join(_HINTS)}, not in {precision}; choose one of them, or --runtime torch."
            raise CaptError(message)
        library = openvino()
        hints = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": torch.get_num_threads(),  # each thread that encodes has one
        }
        try:
            network = convert(encoder, size) if quantised is None else quantised
            self._network = library.Core().compile_model(network, "CPU", hints)
        except RuntimeError as error:
            message = f"OpenVINO cannot compute this encoder ({first_line(error)}); give --runtime torch."
            raise CaptError(message) from error
        # What OpenVINO's binding sets up at its first computation waits for itself for ever when two threads come to it at once.
        self.forward(torch.zeros(1, 3, size, size))

    def forward(self, images: Tensor) -> Tensor:
        """Encode images; several threads may do so at the same time, each on one core.

        Args:
            images: Normalised, `(N, 3, S, S)` float32.

        Returns:
            The grid, row by row, `(N, P, D)`.
        """
        if not hasattr(self._requests, "own"):
            self._requests.own = self._network.create_infer_request()
        return torch.from_numpy(self._requests.own.infer(images.contiguous().numpy())[0])


def convert(encoder: Encoder, size: int) -> Any:  # noqa: ANN401 - OpenVINO's model
    """Give an encoder as OpenVINO reads it, from the cache if it is there.

    Args:
        encoder: In eval mode, float32, on the processor.
        size: Of the images, pixels of each side.

    Returns:
        The network.

    Raises:
        CaptError: If OpenVINO cannot be imported.
    """
    library = openvino()
    told = (
        f"{library.get_version()}\0{encoder.published}\0{size}\0{weights_digest(encoder)}"  # with strides, which have no weights
    )
    path = cache_folder("openvino") / f"{hashlib.sha256(told.encode()).hexdigest()[:32]}.xml"
    with suppress(RuntimeError):  # not there, or damaged
        return library.Core().read_model(path)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # of tracing; sizes are fixed, and the batch is checked by a test
        example = torch.zeros(2, 3, size, size)
        converted = library.convert_model(encoder, example_input=example, input=[-1, 3, size, size])
    with suppress(OSError, RuntimeError):  # a cache that cannot be written costs seconds, no captions
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            whole = Path(folder) / path.name
            library.save_model(converted, whole, compress_to_fp16=False)
            whole.with_suffix(".bin").replace(path.with_suffix(".bin"))
            whole.replace(path)
    return converted
