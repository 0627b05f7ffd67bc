"""An encoder in whole numbers of eight bits, for OpenVINO, as one file that can be kept.

In: an encoder and photographs that show it which values occur. Out: the bytes of a zip archive with OpenVINO's two files, and
back. Apart from the encoder that computes, because another run, or another machine, takes the file as it is: quantised again, on
another processor, it would round elsewhere.
"""

import hashlib
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capt.encoder import Encoder
from capt.errors import CaptError
from capt.images import Preprocessing
from capt.openvino_encoder import convert, openvino
from capt.quantising import IMAGES, NETWORK, NORMALISATION, QUANTISED, RECIPE

_MEMBERS = (QUANTISED, str(Path(QUANTISED).with_suffix(".bin")))
_LIBRARIES = ("openvino", "nncf")


def quantisation_key(checkpoint_sha256: str, images: Sequence[NDArray[np.uint8]]) -> str:
    """Name what a quantised encoder follows from.

    Args:
        checkpoint_sha256: Of the checkpoint.
        images: That show which values occur.

    Returns:
        A digest over them, this way of quantising and the versions of its libraries.

    Raises:
        CaptError: If the libraries are not installed.
    """
    _check_installed()
    told = [checkpoint_sha256, str(RECIPE), *(version(name) for name in _LIBRARIES)]
    digest = hashlib.sha256("\0".join(told).encode())
    for image in images:
        digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def quantise(encoder: Encoder, images: Sequence[NDArray[np.uint8]], preprocessing: Preprocessing) -> bytes:
    """Quantise an encoder, which takes a minute or two.

    Args:
        encoder: In eval mode, float32, on the processor.
        images: `(S, S, 3)` each; some hundreds are enough.
        preprocessing: How the encoder wants them.

    Returns:
        The file's content.

    Raises:
        CaptError: If the libraries are not installed, or cannot quantise this network.
    """
    _check_installed()
    library = openvino()
    with tempfile.TemporaryDirectory(prefix="capt-int8-") as name:
        folder = Path(name)
        library.save_model(convert(encoder, preprocessing.size), folder / NETWORK, compress_to_fp16=False)
        np.save(folder / IMAGES, np.stack(images))
        normalisation = {"mean": preprocessing.mean, "std": preprocessing.std}
        (folder / NORMALISATION).write_text(json.dumps(normalisation), encoding="utf-8")
        command = [sys.executable, "-m", "capt.quantising", str(folder)]
        ended = subprocess.run(  # noqa: S603 - ourselves; in a session of its own, as Ctrl-C is for the job to answer
            command, capture_output=True, text=True, errors="replace", check=False, start_new_session=True
        )
        if ended.returncode != 0:
            reason = (ended.stderr.strip() or f"exit code {ended.returncode}").splitlines()[-1]
            message = f"The encoder cannot be quantised ({reason}); give --precision auto, float32 or bfloat16."
            raise CaptError(message)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for member in _MEMBERS:
                archive.writestr(zipfile.ZipInfo(member), (folder / member).read_bytes())
    return packed.getvalue()


def read_quantised(content: bytes) -> Any:  # noqa: ANN401 - OpenVINO's model
    """Give a quantised encoder as OpenVINO reads it.

    Args:
        content: Of the file.

    Returns:
        The network.

    Raises:
        ValueError: If the file is damaged, or none of these.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            structure, weights = (archive.read(member) for member in _MEMBERS)
        return openvino().Core().read_model(structure, weights)
    except (zipfile.BadZipFile, KeyError, RuntimeError) as error:
        message = "this is no quantised encoder, or a damaged one"
        raise ValueError(message) from error


def _check_installed() -> None:
    missing = [name for name in _LIBRARIES if find_spec(name) is None]
    if missing:
        message = f"--precision int8 needs {' and '.join(missing)}; install them with: pip install 'capt[openvino]'."
        raise CaptError(message)
