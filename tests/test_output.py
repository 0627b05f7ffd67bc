"""Tests of jobs.output and jobs.options: what an earlier start left is never lost or mixed up."""

import fcntl
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capt.captions import METADATA_KEY, RUN_FILE, captions_schema, shard_name, write_captions
from capt.errors import InputError, OutputError
from jobs.options import NetworkOptions, OutputOptions
from jobs.output import Output
from tests.test_captions import FINGERPRINT, rows

SCHEMA = captions_schema(FINGERPRINT)


def write_shard(folder: Path, number: int, *image_ids: str) -> None:
    """Write one shard."""
    folder.mkdir(exist_ok=True, parents=True)
    write_captions([rows(*image_ids)], SCHEMA, folder / shard_name(number))


def test_nothing_is_there(tmp_path: Path) -> None:
    """A new output has no run, and looking makes nothing."""
    existing = Output(tmp_path / "out").look(overwrite=False)
    assert (existing.fingerprint, existing.shards, existing.report) == (None, {}, None)
    assert not (tmp_path / "out").exists()


def test_shards_and_report_are_found(tmp_path: Path) -> None:
    """Finished shards are found with their rows; a report that is no JSON object does not count."""
    write_shard(tmp_path / "out", 0, "a", "b")
    write_shard(tmp_path / "out", 2, "c")
    output = Output(tmp_path / "out")
    for text, report in (("{}", {}), ("[]", None), ("{", None)):
        (tmp_path / "out" / RUN_FILE).write_text(text)
        existing = output.look(overwrite=False)
        assert existing.fingerprint == FINGERPRINT
        assert existing.shards == {0: 2, 2: 1}
        assert existing.report == report


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_newer_format_is_refused(tmp_path: Path, name: str) -> None:
    """Tables of a newer capt are neither continued nor replaced."""
    newer = json.dumps({**FINGERPRINT.to_dict(), "format": 99})
    (tmp_path / "out").mkdir()
    path = tmp_path / name if name.endswith(".parquet") else tmp_path / name / shard_name(0)
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({METADATA_KEY: newer}), path)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"choose another --output"):
            Output(tmp_path / name).look(overwrite=overwrite)


def test_overwriting_leaves_other_files(tmp_path: Path) -> None:
    """Starting anew removes shards, run.json and half-written files, and nothing else."""
    folder = tmp_path / "out"
    write_shard(folder, 0, "a")
    for name in (RUN_FILE, "captions-00001.parquet.tmp", "notes.txt"):
        (folder / name).write_text("{}")
    with Output(folder).prepared(overwrite=True):
        assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_going_on_keeps_shards(tmp_path: Path) -> None:
    """Going on removes run.json, which says that a run is complete, and half-written files, but no shard."""
    folder = tmp_path / "out"
    write_shard(folder, 0, "a")
    (folder / RUN_FILE).write_text("{}")
    (folder / "captions-00001.parquet.tmp").touch()
    with Output(folder).prepared(overwrite=False):
        assert [path.name for path in folder.iterdir()] == [shard_name(0)]


def test_overwriting_one_file(tmp_path: Path) -> None:
    """Starting anew over one file removes it and the parts of an interrupted start."""
    write_captions([rows("a")], SCHEMA, tmp_path / "x.parquet")
    write_shard(tmp_path / ".x.parquet.parts", 0, "b")
    output = Output(tmp_path / "x.parquet")
    with output.prepared(overwrite=True):
        assert not (tmp_path / "x.parquet").exists()
        assert list(output.folder.iterdir()) == []


def test_file_systems_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where files cannot be locked, runs go on without."""

    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with Output(tmp_path / "out").prepared(overwrite=False):
        assert (tmp_path / "out").is_dir()


def test_run_json_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full at the very end is told like any other."""
    write_shard(tmp_path / "out", 0, "a")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"run\.json cannot be written \(No space left on device\)"):
        Output(tmp_path / "out").complete({}, SCHEMA, 1)
    assert not (tmp_path / "out" / RUN_FILE).exists()


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """A path that became impossible after it was checked is an OutputError."""
    output = Output(tmp_path / "file" / "out")
    output.check()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"), output.prepared(overwrite=False):
        pytest.fail("it was made")


def test_causes_are_counted(tmp_path: Path) -> None:
    """Failed rows are counted by the word before the colon, over all shards, and found by their places."""
    values = [
        {"image_id": "a", "status": "ok", "caption": "x"},
        {"image_id": "b", "status": "failed", "error": "truncated: It ends: early."},
        {"image_id": "c", "status": "failed", "error": "empty: It is empty."},
    ]
    table = pa.Table.from_pylist(values, schema=SCHEMA)
    for number in range(2):
        write_captions([table], SCHEMA, tmp_path / shard_name(number))
    output = Output(tmp_path)
    assert output.count_failures(range(2)) == {"truncated": 2, "empty": 2}
    assert output.failed_rows(1) == [1, 2]


@pytest.mark.parametrize("name", ["batch_size", "workers"])
def test_impossible_network_options(name: str) -> None:
    """Numbers are checked where options are made, and the sentence names the option."""
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')} must be at least 1, not 0"):
        NetworkOptions(**{name: 0})  # type: ignore[arg-type]  # the keys vary


def test_impossible_output_options() -> None:
    """Shards have rows."""
    with pytest.raises(InputError, match="--shard-size must be at least 1"):
        OutputOptions(path=Path("x"), shard_size=0)
