"""The state of training between two epochs: weights, Adam's moments and the log, as one safetensors file.

In and out: a network and an optimiser. Apart from checkpoints, because it is float32, larger, and of use only to
the run that wrote it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from capt.errors import CheckpointError, InputError
from capt.files import write_whole
from jobs.training.averaging import WeightAverage


@dataclass(frozen=True, kw_only=True)
class State:
    """Everything that changes while a network learns.

    Args:
        network: Its weights, of which those are kept that learn.
        optimiser: Its moments and step counts; learning rates follow from the epoch and the step.
        average: The running average of the weights that learn.
    """

    network: nn.Module
    optimiser: torch.optim.Optimizer
    average: WeightAverage


def save_state(path: Path, state: State, *, fingerprint: str, epochs: Sequence[Mapping[str, Any]]) -> None:
    """Write the state; the file appears whole or not at all.

    Args:
        path: The file, in the run's folder.
        state: Is kept in full precision.
        fingerprint: What must be the same for the run to go on.
        epochs: The log so far.

    Raises:
        OutputError: If it cannot be written.
    """
    tensors = {f"model.{name}": tensor for name, tensor in _trained(state.network).items()}
    for number, parameter in enumerate(_parameters(state.optimiser)):
        for name, value in state.optimiser.state.get(parameter, {}).items():
            tensors[f"optimiser.{number}.{name}"] = torch.as_tensor(value)
    tensors |= {f"average.{number}": tensor for number, tensor in enumerate(state.average.average)}
    metadata = {
        "fingerprint": fingerprint,
        "epochs": json.dumps(list(epochs)),
        "averaged_steps": str(state.average.steps),
    }
    write_whole(path, save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, metadata))


def load_state(path: Path, state: State, *, fingerprint: str) -> list[dict[str, Any]]:
    """Take up the state that a run left.

    Args:
        path: The file, in the run's folder.
        state: Gets what was stored.
        fingerprint: What this run is.

    Returns:
        The log so far; empty when the run had not finished an epoch.

    Raises:
        InputError: If the state belongs to a run with other choices.
        CheckpointError: If the file is damaged.
    """
    if not path.is_file():
        return []
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if metadata["fingerprint"] != fingerprint:
            message = (
                f"{path.parent} holds a run with other data or options; give the same ones to resume it, or another --output."
            )
            raise InputError(message)
        _fill(state, tensors)
        state.average.steps = int(metadata["averaged_steps"])
        epochs = [dict(line) for line in json.loads(metadata["epochs"])]
    except (OSError, SafetensorError, LookupError, ValueError, TypeError, AttributeError, OverflowError, RuntimeError) as error:
        message = f"{path} is damaged ({type(error).__name__}); delete it to start this run again."
        raise CheckpointError(message) from error
    return epochs


def do_epochs(  # noqa: PLR0913 - what learns, how often, and where its state is kept
    path: Path, state: State, learn: Callable[[int], Mapping[str, Any]], *, fingerprint: str, epochs: int, resume: bool
) -> list[dict[str, Any]]:
    """Do the epochs of a stage, keeping the state after each; a stage that was killed goes on with the epoch that it was in.

    Args:
        path: The state's file.
        state: Changes from epoch to epoch.
        learn: Does the epoch of a number, from 1, and gives its line of the log.
        fingerprint: What this run is.
        epochs: How many there shall be.
        resume: Whether to take up what the file holds.

    Returns:
        The log of all epochs, those before a resumption included.

    Raises:
        CaptError: If the state cannot be read or belongs to another run, or what learns ends with one.
        OutputError: If the state cannot be written.
    """
    lines: list[Mapping[str, Any]] = [*load_state(path, state, fingerprint=fingerprint)] if resume else []
    while len(lines) < epochs:
        lines.append(learn(len(lines) + 1))
        save_state(path, state, fingerprint=fingerprint, epochs=lines)
    return [dict(line) for line in lines]


def check_same_run(path: Path, found: object, fingerprint: str) -> None:
    """Refuse the result of a stage that belongs to another run.

    Args:
        path: The result.
        found: The fingerprint in it.
        fingerprint: What this run is.

    Raises:
        CheckpointError: If they differ.
    """
    if found != fingerprint:
        message = f"{path} belongs to a run with other data or options; give the same ones to resume it, or another --output."
        raise CheckpointError(message)


def _fill(state: State, tensors: Mapping[str, Tensor]) -> None:
    own = state.network.state_dict()
    own |= {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    state.network.load_state_dict(own)
    kinds: set[frozenset[str]] = set()
    for number, parameter in enumerate(_parameters(state.optimiser)):
        prefix = f"optimiser.{number}."
        values = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        if any(value.shape not in {parameter.shape, ()} for value in values.values()):
            message = "a moment has another shape than its weights"
            raise ValueError(message)
        kinds.add(frozenset(values))
        state.optimiser.state[parameter] = {
            name: value if name == "step" else value.to(parameter.device) for name, value in values.items()
        }
    if len(kinds - {frozenset()}) > 1:
        message = "some weights lack a moment that others have"
        raise ValueError(message)
    for number, average in enumerate(state.average.average):
        average.copy_(tensors[f"average.{number}"])


def _parameters(optimiser: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


def _trained(network: nn.Module) -> dict[str, Tensor]:
    """Name the weights that change: a decoder's, and those encoder blocks that learn."""
    learning = {name for name, parameter in network.named_parameters(remove_duplicate=False) if parameter.requires_grad}
    return {name: tensor for name, tensor in network.state_dict().items() if name in learning}
