"""Add to a finished run what its source has meanwhile: only new images are captioned, in shards of their own.

In: a source as it is now, and the shards of an output. Out: the source in the order of the output, new images at its end. Apart,
because everything else counts rows, and need not know that these were not numbered at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.output import Output
from jobs.source import Item, Shard, Source, mark

_GONE = -1
_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Extension:
    """A run that goes on with more images.

    Args:
        source: All rows of the output: those that it has, then the new ones.
        shards: All of them; those that are there have the rows that they have.
        new: How many images are new.
        gone: How many rows are of images that the source has no more; they stay.
        gone_names: The ids of the first few of them.
    """

    source: "ExtendedSource"
    shards: Sequence[Shard]
    new: int
    gone: int
    gone_names: Sequence[str]


class ExtendedSource:
    """The images of an output and those that are new, numbered as in the output."""

    def __init__(self, source: Source, order: NDArray[np.int64]) -> None:
        """Renumber a source.

        Args:
            source: As it is now.
            order: For each row of the output the row of the source; -1 for an image that is not there any more.
        """
        self._source, self._order = source, order
        self.sha256, self.travelling, self.has_references = source.sha256, source.travelling, source.has_references

    @property
    def rows(self) -> int:
        """How many rows the output has, with the new ones."""
        return len(self._order)

    def is_gone(self, row: int) -> bool:
        """Whether the source has the image of a row no more."""
        return bool(self._order[row] == _GONE)

    def image_ids(self) -> Iterator[str]:
        """Give the ids of the images that are there, in the order of the source."""
        return self._source.image_ids()

    def batches(self, rows: Sequence[int], size: int) -> Iterator[tuple[list[Item], pa.Table]]:
        """Give rows of the output in batches.

        Args:
            rows: Ascending; none of an image that is gone.
            size: Of a batch.

        Yields:
            Items, and their travelling columns.

        Raises:
            CaptError: If the source cannot be read any more.
        """
        wanted = self._order[np.asarray(rows, dtype=np.int64)]
        for start in range(0, len(wanted), size):
            part = wanted[start : start + size]
            ascending = np.argsort(part)  # a source is read from front to back
            items, travelling = next(self._source.batches([int(row) for row in part[ascending]], size))
            back = np.argsort(ascending)
            ordered = travelling.take(pa.array(back)) if travelling.num_columns else travelling
            yield [items[position] for position in back], ordered


def extend(source: Source, there: Mapping[int, int], output: Output, shard_size: int) -> Extension:
    """Find which images of a source an output lacks, and which of its own the source lacks.

    Args:
        source: As it is now.
        there: The output's shards with their rows.
        output: Where they are.
        shard_size: Rows of a new shard.

    Returns:
        The extension.

    Raises:
        OutputError: If a shard cannot be read.
    """
    ours = np.fromiter((mark(image_id) for image_id in source.image_ids()), dtype=np.uint64, count=source.rows)
    kept = {number: _marks(output, number) for number in there}
    done = np.concatenate(list(kept.values())) if kept else np.zeros(0, dtype=np.uint64)
    new = np.flatnonzero(~np.isin(ours, done))
    by_mark = np.argsort(ours)
    orders: list[NDArray[np.int64]] = []
    shards: list[Shard] = []
    taken = start = 0
    while len(shards) <= max(there, default=-1) or taken < len(new):
        number = len(shards)
        if number in kept:
            own = _find(kept[number], ours, by_mark)
        else:  # a gap that an interrupted start left, or a shard at the end
            own = new[taken : taken + shard_size]
            taken += len(own)
        orders.append(own)
        shards.append(Shard(number=number, start=start, stop=start + len(own)))
        start += len(own)
    order = np.concatenate(orders) if orders else np.zeros(0, dtype=np.int64)
    gone = np.flatnonzero(order == _GONE)
    return Extension(
        source=ExtendedSource(source, order),
        shards=shards,
        new=len(new),
        gone=len(gone),
        gone_names=[_name(output, shards, int(row)) for row in gone[:_NAMED]],
    )


def _marks(output: Output, number: int) -> NDArray[np.uint64]:
    ids = output.image_ids(number)
    return np.fromiter((mark(image_id) for image_id in ids), dtype=np.uint64, count=len(ids))


def _find(wanted: NDArray[np.uint64], marks: NDArray[np.uint64], by_mark: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find where each mark stands, -1 where it does not."""
    if not len(marks):
        return np.full(len(wanted), _GONE, dtype=np.int64)
    places = by_mark[np.searchsorted(marks, wanted, sorter=by_mark).clip(max=len(marks) - 1)]
    found: NDArray[np.int64] = np.where(marks[places] == wanted, places, _GONE)
    return found


def _name(output: Output, shards: Sequence[Shard], row: int) -> str:
    shard = next(shard for shard in shards if shard.start <= row < shard.stop)
    return output.image_ids(shard.number)[row - shard.start]
