"""What the user may choose for a run, checked before anything heavy is imported.

In: plain values from the command line. Out: frozen options. Apart, because the captioner's own module imports torch.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from capt.errors import InputError
from capt.remote import Location
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
