"""Write finished shards in the background, each whole or not at all.

In: a work and the tables of its batches. Out: one shard file. Apart, because compressing and waiting for the disk must not
hold the network up.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa

from capt.captions import shard_name, write_captions
from capt.errors import OutputError
from capt.remote import Location, open_parquet
from jobs.loading import Work
from jobs.progress import Stage, Stages

_SHARDS_AHEAD = 2


def write_shard(folder: Location, work: Work, tables: Sequence[pa.Table], schema: pa.Schema) -> None:
    """Write or mend one shard.

    Args:
        folder: Of the shards.
        work: Which rows; when they are not the whole shard, the others are taken from the file that is there.
        tables: The rows, in order.
        schema: Of the run.

    Raises:
        OutputError: If it cannot be written; what was there before is then still there.
    """
    path = folder / shard_name(work.shard.number)
    table = pa.concat_tables(tables).combine_chunks()
    if not work.is_whole:
        table = _mend(path, work, table)
    write_captions([table], schema, path)


def _mend(path: Location, work: Work, mended: pa.Table) -> pa.Table:
    try:
        old = open_parquet(path).read().cast(mended.schema)
    except (OSError, pa.ArrowException) as error:
        message = f"{path} cannot be read any more; remove it and start the same command again."
        raise OutputError(message) from error
    order = np.arange(old.num_rows)
    order[np.array(work.rows) - work.shard.start] = old.num_rows + np.arange(mended.num_rows)
    return pa.concat_tables([old, mended]).take(pa.array(order)).combine_chunks()


class Writer:
    """Writes shards in a thread of its own; used in a `with`, at whose end everything handed over is on disk."""

    def __init__(
        self, folder: Location, schema: pa.Schema, stages: Stages, *, on_written: Callable[[Work, Sequence[pa.Table]], None]
    ) -> None:
        """Start nothing yet.

        Args:
            folder: Of the shards; exists.
            schema: Of the run.
            stages: Where the seconds are counted.
            on_written: Called, in the writer's thread, with what was handed over once it is on disk.
        """
        self.written = 0
        self._folder, self._schema, self._stages = folder, schema, stages
        self._on_written = on_written
        self._queue: queue.Queue[tuple[Work, Sequence[pa.Table]] | None] = queue.Queue(_SHARDS_AHEAD)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def __enter__(self) -> Self:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Wait until everything is written.

        Raises:
            CaptError: If something could not be written, unless another error is already on its way.
        """
        self._queue.put(None)
        self._thread.join()
        if error is None:
            self._raise()

    def put(self, work: Work, tables: Sequence[pa.Table]) -> None:
        """Hand a finished shard over; waits while two are waiting already.

        Args:
            work: Which rows.
            tables: The rows, in order.

        Raises:
            CaptError: If an earlier shard could not be written.
        """
        self._queue.put((work, tables))
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (task := self._queue.get()) is not None:
            if self._error is not None:
                continue  # keep taking, so that nobody waits for room in the queue
            try:
                with self._stages.time(Stage.WRITE, f"writing {self._folder / shard_name(task[0].shard.number)}"):
                    write_shard(self._folder, *task, self._schema)
                self.written += 1
                self._on_written(*task)
            except Exception as error:  # noqa: BLE001  it is raised again in the thread that hands shards over
                self._error = error
