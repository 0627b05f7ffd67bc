"""What the user may choose for a run, checked before anything heavy is imported.

In: plain values from the command line. Out: frozen options. Apart, because the captioner's own module imports torch.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

from capt.errors import InputError
from capt.remote import Location
from jobs.source import SourceOptions

AUTO = "auto"
INT8 = "int8"  # of capt.model.Precision, which imports torch
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
    runtime: str = AUTO
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


@dataclass(frozen=True)
class Share:
    """What one of several machines does of a run: every `count`-th shard, beginning with number `index`."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Share":
        """Read what the user wrote.

        Args:
            text: As `0/8`.

        Returns:
            The share.

        Raises:
            InputError: If it is not `I/N` with I from 0 up to N - 1.
        """
        index, slash, count = text.partition("/")
        if not (slash and index.strip().isdecimal() and count.strip().isdecimal()):
            message = f"--shard is I/N, such as 0/8 for the first of eight machines, not {text!r}."
            raise InputError(message)
        share = cls(int(index), int(count))
        if share.index >= share.count:
            last = f"of {share.count} machines the last is {share.count - 1}/{share.count}" if share.count else "and 0/1 is all"
            message = f"--shard counts from 0, {last}, not {text}."
            raise InputError(message)
        return share

    def takes(self, number: int) -> bool:
        """Whether a shard, by its number, is in this share."""
        return number % self.count == self.index

    def __str__(self) -> str:
        """Write it as the user does."""
        return f"{self.index}/{self.count}"


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Where the table goes, what happens to an earlier one there, and which share of it is done here (None: all)."""

    path: Location
    shard_size: int = DEFAULT_SHARD_SIZE
    overwrite: bool = False
    retry_failed: bool = False
    extend: bool = False
    share: Share | None = None

    def __post_init__(self) -> None:
        """Refuse impossible numbers and contradictions.

        Raises:
            InputError: If a value is out of range, or options exclude each other.
        """
        _at_least_one("shard-size", self.shard_size)
        if self.overwrite and self.retry_failed:
            message = "--overwrite starts anew and --retry-failed keeps what is there; give one of them."
            raise InputError(message)
        if self.extend and (self.overwrite or self.share):
            other = "--overwrite starts anew" if self.overwrite else "--shard divides what is known beforehand"
            message = f"--extend adds to what is there and {other}; give one of them."
            raise InputError(message)
        if self.share and self.path.suffix == ".parquet":
            remedy = "name a folder, and make one file of it afterwards: capt-batch merge FOLDER --into FILE.parquet"
            message = f"With --shard several machines write into one folder, but {self.path} is one file; {remedy}"
            raise InputError(message)
        if self.share and self.overwrite:
            message = f"--overwrite would remove what the other machines write; remove {self.path} before the first one starts."
            raise InputError(message)


class EngineName(StrEnum):
    """Where a run is done: in this process, or by actors on a Ray cluster."""

    LOCAL = "local"
    RAY = "ray"


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Where a run is done; of Ray: which cluster, how many actors, and how much of a GPU for each (None: what fits)."""

    engine: str = EngineName.LOCAL
    ray_address: str | None = None
    actors: int | None = None
    gpus_per_actor: float | None = None

    def __post_init__(self) -> None:
        """Refuse impossible numbers, contradictions, and Ray where it is not installed.

        Raises:
            InputError: If a value is out of range, belongs to another engine, or Ray is missing.
        """
        if self.engine not in set(EngineName):
            message = f"There is no engine {self.engine!r}; give {' or '.join(EngineName)}."
            raise InputError(message)
        if self.engine != EngineName.RAY:
            if (self.ray_address, self.actors, self.gpus_per_actor) != (None, None, None):
                message = "--ray-address, --actors and --gpus-per-actor are for Ray; give --engine ray with them."
                raise InputError(message)
            return
        if self.actors is not None:
            _at_least_one("actors", self.actors)
        if self.gpus_per_actor is not None and not 0 <= self.gpus_per_actor <= 1:
            message = f"--gpus-per-actor is from 0 to 1, since an actor computes on one GPU, not {self.gpus_per_actor:g}."
            raise InputError(message)
        if (self.ray_address or "").startswith("ray://"):
            remedy = "start the command on a machine of the cluster, with --ray-address auto"
            message = f"{self.ray_address} is for clients outside a cluster, which share no folder with it; {remedy}."
            raise InputError(message)
        if find_spec("ray") is None:
            message = "Ray is not installed; install it with: pip install 'capt[ray]'."
            raise InputError(message)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Everything about a run; `decoding` has the fields of `capt.decoding.DecodingOptions`."""

    source: SourceOptions
    network: NetworkOptions
    decoding: Mapping[str, int | float]
    output: OutputOptions
    engine: EngineOptions = field(default_factory=EngineOptions)

    def __post_init__(self) -> None:
        """Refuse a device that Ray's actors cannot have.

        Raises:
            InputError: If device and engine contradict each other.
        """
        if self.engine.engine != EngineName.RAY:
            return
        device, gpus = self.network.device, self.engine.gpus_per_actor
        if device.startswith("cuda:"):
            message = f"Ray chooses which GPU an actor has; give --device cuda, not {device}."
            raise InputError(message)
        if (device == "cuda" and gpus == 0) or (device not in {AUTO, "cuda"} and gpus):
            message = f"--gpus-per-actor {gpus:g} contradicts --device {device}; leave one of them out."
            raise InputError(message)


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        message = f"--{name} must be at least 1, not {value}."
        raise InputError(message)
