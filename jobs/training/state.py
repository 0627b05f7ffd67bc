"""The state of a training run between two epochs: weights, Adam's moments, schedule and log, as one safetensors file.

In and out: a captioner, an optimiser and a schedule. Apart from checkpoints, because it is float32, larger, and of use only to
the run that wrote it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from capt.checkpoint import write_whole
from capt.errors import CheckpointError, InputError
from capt.model import Captioner

_NAME = "state.safetensors"


def save_state(  # noqa: PLR0913 - a run's state has as many parts
    folder: Path,
    captioner: Captioner,
    optimiser: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.StepLR,
    *,
    fingerprint: str,
    epochs: Sequence[Mapping[str, Any]],
) -> None:
    """Write the state; the file appears whole or not at all.

    Args:
        folder: The run's.
        captioner: Its weights are kept in full precision.
        optimiser: Its moments and step counts are kept.
        scheduler: Its position is kept.
        fingerprint: What must be the same for the run to go on.
        epochs: The log so far.

    Raises:
        OutputError: If it cannot be written.
    """
    tensors = {f"model.{name}": tensor for name, tensor in _trained(captioner).items()}
    for number, parameter in enumerate(_parameters(optimiser)):
        for name, value in optimiser.state.get(parameter, {}).items():
            tensors[f"optimiser.{number}.{name}"] = torch.as_tensor(value)
    metadata = {
        "fingerprint": fingerprint,
        "epochs": json.dumps(list(epochs)),
        "scheduler": json.dumps(scheduler.state_dict()),
        "rates": json.dumps([group["lr"] for group in optimiser.param_groups]),
    }
    write_whole(
        folder / _NAME, save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, metadata)
    )


def load_state(
    folder: Path,
    captioner: Captioner,
    optimiser: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.StepLR,
    *,
    fingerprint: str,
) -> list[dict[str, Any]]:
    """Take up the state that a run left.

    Args:
        folder: The run's.
        captioner: Gets the weights.
        optimiser: Gets moments, counts and learning rates.
        scheduler: Gets its position.
        fingerprint: What this run is.

    Returns:
        The log so far; empty when the run had not finished an epoch.

    Raises:
        InputError: If the state belongs to a run with other choices.
        CheckpointError: If the file is damaged.
    """
    path = folder / _NAME
    if not path.is_file():
        return []
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if metadata["fingerprint"] != fingerprint:
            message = f"{folder} holds a run with other data or options; give the same ones to resume it, or another --output."
            raise InputError(message)
        own = captioner.state_dict()
        captioner.load_state_dict(
            {**own, **{name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}}
        )
        for number, parameter in enumerate(_parameters(optimiser)):
            prefix = f"optimiser.{number}."
            values = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            optimiser.state[parameter] = {
                name: value if name == "step" else value.to(parameter.device) for name, value in values.items()
            }
        scheduler.load_state_dict(json.loads(metadata["scheduler"]))
        for group, rate in zip(optimiser.param_groups, json.loads(metadata["rates"]), strict=True):
            group["lr"] = rate
        epochs: list[dict[str, Any]] = json.loads(metadata["epochs"])
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        message = f"{path} is damaged ({type(error).__name__}); delete it to start this run again."
        raise CheckpointError(message) from error
    return epochs


def _parameters(optimiser: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


def _trained(captioner: Captioner) -> dict[str, Tensor]:
    """Name the weights that change: the decoder's, and those encoder blocks that learn."""
    learning = {name for name, parameter in captioner.named_parameters(remove_duplicate=False) if parameter.requires_grad}
    return {name: tensor for name, tensor in captioner.state_dict().items() if name in learning}
