"""Learning curves from the logs that `capt-batch train` writes.

In: `log.jsonl`, one line an epoch. Out: a Training. Apart, because it is the only thing a report reads of a training run.
"""

import json
import math
from dataclasses import fields
from pathlib import Path

from capt.errors import InputError
from reports.findings import Epoch, Training

_LOG = "log.jsonl"


def read_training_logs(paths: list[Path]) -> list[Training]:
    """Read training logs.

    Args:
        paths: Files, or the folders of training runs.

    Returns:
        One training a path, named after its folder; equal names are counted.

    Raises:
        InputError: If one cannot be read, or a line is no epoch.
    """
    trainings: list[Training] = []
    for path in paths:
        file = path / _LOG if path.is_dir() else path
        name = file.resolve().parent.name if file.name == _LOG else file.stem
        count = sum(each.name.split(" (")[0] == name for each in trainings)
        trainings.append(Training(name=f"{name} ({count + 1})" if count else name, epochs=_epochs(file)))
    return trainings


def _epochs(file: Path) -> list[Epoch]:
    try:
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        message = f"{file} cannot be read ({error}): give the log.jsonl that `capt-batch train` wrote, or its folder"
        raise InputError(message) from error
    epochs = []
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
            found = {each.name: float(values[each.name]) for each in fields(Epoch)}
            if not all(map(math.isfinite, found.values())):
                message = "a value is not finite"
                raise ValueError(message)  # noqa: TRY301  # told with its line below
            epochs.append(Epoch(**found | {"epoch": int(found["epoch"])}))  # type: ignore[arg-type]  # epoch is whole
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            message = f"{file}, line {number} is no epoch of a training log ({error}): give the log.jsonl of `capt-batch train`"
            raise InputError(message) from error
    if not epochs:
        message = f"{file} holds no epoch yet: wait for the first one"
        raise InputError(message)
    return epochs
