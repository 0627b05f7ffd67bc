"""Tests of jobs.writer: shards are written in the background, whole or not at all, and mended in place."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import jobs.writer
from capt.captions import captions_schema, shard_name
from capt.errors import OutputError
from jobs.loading import Work
from jobs.progress import Stages
from jobs.source import Shard
from jobs.writer import Writer, write_shard
from tests.test_captions import FINGERPRINT

SCHEMA = captions_schema(FINGERPRINT, pa.schema([pa.field("n", pa.int8())]))


def table(*image_ids: str, status: str = "ok") -> pa.Table:
    """Make rows."""
    return pa.Table.from_pylist([{"image_id": image_id, "status": status, "n": 1} for image_id in image_ids], schema=SCHEMA)


def ids(path: Path) -> list[str]:
    """Read the ids of a shard."""
    return list(pq.read_table(path).column("image_id").to_pylist())


def write(folder: Path, count: int, *, then: Exception | None = None) -> None:
    """Hand so many shards to a writer, and perhaps break."""
    with Writer(folder, SCHEMA, Stages(), on_written=lambda _work, _tables: None) as writer:
        for _ in range(count):
            writer.put(WHOLE, [table("a")])
        if then is not None:
            raise then


WHOLE = Work(shard=Shard(number=4, start=40, stop=43), rows=range(40, 43))


def test_batches_become_one_shard(tmp_path: Path) -> None:
    """The batches of a shard are one file, one row group, in order, with the run's fingerprint."""
    write_shard(tmp_path, WHOLE, [table("a", "b"), table("c")], SCHEMA)
    path = tmp_path / shard_name(4)
    assert ids(path) == ["a", "b", "c"]
    assert pq.ParquetFile(path).num_row_groups == 1
    assert pq.read_schema(path).metadata == SCHEMA.metadata


def test_mending_replaces_only_its_rows(tmp_path: Path) -> None:
    """Rows done again take the places of the old ones; the others stay."""
    write_shard(tmp_path, WHOLE, [table("a", "b", "c", status="failed")], SCHEMA)
    write_shard(tmp_path, Work(shard=WHOLE.shard, rows=[40, 42]), [table("A"), table("C")], SCHEMA)
    read = pq.read_table(tmp_path / shard_name(4))
    assert read.column("image_id").to_pylist() == ["A", "b", "C"]
    assert read.column("status").to_pylist() == ["ok", "failed", "ok"]


def test_mending_what_is_gone(tmp_path: Path) -> None:
    """A shard that vanished cannot be mended, and says so."""
    with pytest.raises(OutputError, match="cannot be read any more"):
        write_shard(tmp_path, Work(shard=WHOLE.shard, rows=[40]), [table("A")], SCHEMA)


def test_everything_is_on_disk_at_the_end(tmp_path: Path) -> None:
    """When the writer is left, each shard handed over exists, and each was told of once it did."""
    told: list[bool] = []

    def on_written(work: Work, tables: Sequence[pa.Table]) -> None:
        told.append(ids(tmp_path / shard_name(work.shard.number)) == tables[0].column("image_id").to_pylist())

    with Writer(tmp_path, SCHEMA, Stages(), on_written=on_written) as writer:
        for number in range(10):
            writer.put(Work(shard=Shard(number=number, start=number, stop=number + 1), rows=[number]), [table(str(number))])
    assert [ids(tmp_path / shard_name(number)) for number in range(10)] == [[str(number)] for number in range(10)]
    assert writer.written == 10
    assert told == [True] * 10


@pytest.mark.parametrize("count", [1, 10])
def test_failure_is_raised_in_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """What happens in the writer's thread reaches the job, at the next shard or at the end, and never blocks it."""

    def broken(*_: object) -> None:
        message = "The disk is full."
        raise OutputError(message)

    monkeypatch.setattr(jobs.writer, "write_shard", broken)
    with pytest.raises(OutputError, match="The disk is full"):
        write(tmp_path, count)


def test_another_error_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the job itself is not hidden by one of the writer."""
    monkeypatch.setattr(jobs.writer, "write_shard", lambda *_: (_ for _ in ()).throw(OSError))
    with pytest.raises(ZeroDivisionError):
        write(tmp_path, 1, then=ZeroDivisionError())
