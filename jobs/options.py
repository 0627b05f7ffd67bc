"""What the user may choose for a run, checked before anything heavy is imported.

In: plain values from the command line. Out: frozen options. Apart, because the captioner's own module imports torch.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from capt.errors import InputError
from jobs.source import SourceOptions

AUTO = "auto"
DEFAULT_BATCH_SIZE = 32
DEFAULT_SHARD_SIZE = 1000
_MOST_WORKERS = 8


def default_workers() -> int:
    """Choose how many threads decode images.

    Returns:
        As many as this process may use processors, at most eight: more only fill memory.
    """
    return min(_MOST_WORKERS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Which checkpoints (none: the one that ships; several write together) run where and how; some may be `auto`."""

    checkpoints: Sequence[Path] = ()
    device: str = AUTO
    precision: str = AUTO
    attention: bool = False
    batch_size: int = DEFAULT_BATCH_SIZE
    workers: int = field(default_factory=default_workers)

    def __post_init__(self) -> None:
        """Refuse impossible numbers.

        Raises:
            InputError: If a value is out of range.
        """
        _at_least_one("batch-size", self.batch_size)
        _at_least_one("workers", self.workers)


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Where the table goes, and what happens to an earlier one there."""

    path: Path
    shard_size: int = DEFAULT_SHARD_SIZE
    overwrite: bool = False
    retry_failed: bool = False

    def __post_init__(self) -> None:
        """Refuse impossible numbers and contradictions.

        Raises:
            InputError: If a value is out of range, or options exclude each other.
        """
        _at_least_one("shard-size", self.shard_size)
        if self.overwrite and self.retry_failed:
            message = "--overwrite starts anew and --retry-failed keeps what is there; give one of them."
            raise InputError(message)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Everything about a run; `decoding` has the fields of `capt.decoding.DecodingOptions`."""

    source: SourceOptions
    network: NetworkOptions
    decoding: Mapping[str, int | float]
    output: OutputOptions


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        message = f"--{name} must be at least 1, not {value}."
        raise InputError(message)
