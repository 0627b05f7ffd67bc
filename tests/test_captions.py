"""Tests of capt.captions: the table where the job and the judge meet."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capt.captions import (
    COLUMNS,
    RUN_FILE,
    Fingerprint,
    captions_schema,
    fingerprint_of,
    read_captions,
    shard_name,
    shard_paths,
    write_captions,
)
from capt.errors import InputError, OutputError

FINGERPRINT = Fingerprint(
    checkpoint_name="a.safetensors",
    checkpoint_sha256="0" * 64,
    decoding={"beam_size": 3},
    attention=False,
    precision="float32",
    preprocessing={"size": 224},
    max_pixels=100,
    source_sha256="1" * 64,
    source_rows=4,
    shard_size=2,
    references_sha256=None,
    batch_size=32,
    device="cpu",
    versions={"torch": "2.14.0"},
)


def rows(*image_ids: str, schema: pa.Schema | None = None) -> pa.Table:
    """Make a table of ok rows."""
    schema = schema or captions_schema(FINGERPRINT)
    values = [
        {"image_id": image_id, "caption": f"a {image_id}", "log_prob": -1.5, "num_tokens": 3, "status": "ok"}
        for image_id in image_ids
    ]
    return pa.Table.from_pylist(values, schema=schema)


def write_run(folder: Path, *shards: tuple[str, ...], fingerprint: Fingerprint = FINGERPRINT) -> None:
    """Write a complete run."""
    folder.mkdir(exist_ok=True)
    schema = captions_schema(fingerprint)
    for number, image_ids in enumerate(shards):
        write_captions([rows(*image_ids, schema=schema)], schema, folder / shard_name(number))
    (folder / RUN_FILE).write_text("{}")


def test_fingerprint_round_trip() -> None:
    """A fingerprint comes back from a table's metadata as it was."""
    assert fingerprint_of(captions_schema(FINGERPRINT)) == FINGERPRINT
    assert fingerprint_of(COLUMNS) is None


def test_differences_name_what_differs() -> None:
    """Settings that change captions are differences, one key each; libraries and batch size are only changes."""
    other = replace(FINGERPRINT, decoding={"beam_size": 5}, precision="bfloat16", batch_size=8, versions={"torch": "2.15.0"})
    assert FINGERPRINT.differences(other) == [("decoding.beam_size", 3, 5), ("precision", "float32", "bfloat16")]
    assert FINGERPRINT.changes(other) == [("batch_size", 32, 8), ("versions.torch", "2.14.0", "2.15.0")]
    assert FINGERPRINT.differences(FINGERPRINT) == []


def test_what_few_runs_have_is_written_only_by_those() -> None:
    """A run without --draft and int8 writes what earlier versions wrote and read; one with them reads its own, and differs."""
    assert not Fingerprint.OPTIONAL.keys() & FINGERPRINT.to_dict().keys()
    other = replace(FINGERPRINT, draft=True, encoder_sha256="ab")
    assert Fingerprint.from_json(other.to_json()) == other
    assert FINGERPRINT.differences(other) == [("draft", False, True), ("encoder_sha256", None, "ab")]
    with pytest.raises(ValueError, match="draft"):
        Fingerprint.from_json(other.to_json().replace('"draft": true', '"draft": 1'))


@pytest.mark.parametrize(
    "text",
    ["[]", "{", "{}", json.dumps({**FINGERPRINT.to_dict(), "format": 2}), json.dumps({**FINGERPRINT.to_dict(), "surplus": 1})],
)
def test_foreign_fingerprint_is_refused(text: str) -> None:
    """Metadata that this version cannot read is an InputError."""
    with pytest.raises(InputError, match="cannot be read"):
        fingerprint_of(COLUMNS.with_metadata({"capt": text}))


def test_folder_comes_back_in_order(tmp_path: Path) -> None:
    """Shards are read in the order of their numbers, with all columns."""
    write_run(tmp_path / "out", *[(f"{number}a", f"{number}b") for number in range(12)])
    table = read_captions(tmp_path / "out")
    assert table.column("image_id").to_pylist()[:4] == ["0a", "0b", "1a", "1b"]
    assert table.column("image_id").to_pylist()[-1] == "11b"
    assert table.schema.names == COLUMNS.names
    assert fingerprint_of(table.schema) == FINGERPRINT


def test_shards_beyond_five_digits_keep_their_order(tmp_path: Path) -> None:
    """Shard 100000 comes after shard 99999."""
    for number in (100_000, 99_999):
        (tmp_path / shard_name(number)).touch()
    (tmp_path / "captions-1.parquet.tmp").touch()
    assert list(shard_paths(tmp_path)) == [99_999, 100_000]
    assert shard_paths(tmp_path / "none") == {}


def test_travelling_columns_come_back(tmp_path: Path) -> None:
    """Columns that travelled along stand behind the fixed ones."""
    schema = captions_schema(FINGERPRINT, pa.schema([pa.field("licence", pa.string())]))
    table = rows("a", schema=schema).set_column(len(COLUMNS), schema.field("licence"), pa.array(["CC0"]))
    write_captions([table], schema, tmp_path / "x.parquet")
    assert read_captions(tmp_path / "x.parquet").column("licence").to_pylist() == ["CC0"]


def test_table_from_elsewhere(tmp_path: Path) -> None:
    """A table of another program needs image_id and caption; a missing caption is a failed row."""
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"caption": ["a dog", None], "image_id": ["1", "2"], "model": ["m", "m"]}), path)
    table = read_captions(path)
    assert table.column("status").to_pylist() == ["ok", "failed"]
    assert table.column("log_prob").null_count == 2
    assert table.schema.names == [*COLUMNS.names, "model"]


def test_older_shards_of_other_libraries_belong_together(tmp_path: Path) -> None:
    """A run that was resumed with a newer torch is still one run."""
    write_run(tmp_path, ("a",), ("b",))
    schema = captions_schema(replace(FINGERPRINT, versions={"torch": "3"}))
    write_captions([rows("b", schema=schema)], schema, tmp_path / shard_name(1))
    assert read_captions(tmp_path).num_rows == 2


def test_unusable_tables_are_refused(tmp_path: Path) -> None:
    """What is missing, unfinished, mixed or foreign is named in one sentence."""
    write_run(tmp_path / "unfinished", ("a",))
    (tmp_path / "unfinished" / RUN_FILE).unlink()
    write_run(tmp_path / "gap", ("a",), ("b",), ("c",))
    (tmp_path / "gap" / shard_name(1)).unlink()
    write_run(tmp_path / "mixed", ("a",), ("b",))
    schema = captions_schema(replace(FINGERPRINT, precision="bfloat16"))
    write_captions([rows("b", schema=schema)], schema, tmp_path / "mixed" / shard_name(1))
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("no parquet")
    pq.write_table(pa.table({"image": ["a"]}), tmp_path / "columns.parquet")
    pq.write_table(pa.table({"image_id": ["a"], "caption": [{"x": 1}]}), tmp_path / "types.parquet")
    pq.write_table(pa.table({"image_id": pa.array([None], pa.string()), "caption": ["a"]}), tmp_path / "nulls.parquet")
    expected = {
        "none": "There is no captions table",
        "empty": "holds no captions",
        "unfinished": "not finished",
        "gap": "lacks captions-00001.parquet",
        "mixed": "another run",
        "text.parquet": "cannot be read as parquet",
        "columns.parquet": "it has image, but no image_id",
        "types.parquet": "column caption is struct",
        "nulls.parquet": "1 rows without image_id",
    }
    for name, sentence in expected.items():
        with pytest.raises(InputError, match=sentence):
            read_captions(tmp_path / name)


def test_shards_with_other_columns_are_refused(tmp_path: Path) -> None:
    """Tables from elsewhere in one folder must agree on their columns."""
    pq.write_table(pa.table({"image_id": ["1"], "caption": ["a"]}), tmp_path / shard_name(0))
    pq.write_table(pa.table({"image_id": ["2"], "caption": ["a"], "more": [1]}), tmp_path / shard_name(1))
    with pytest.raises(InputError, match="do not have the same columns"):
        read_captions(tmp_path)


def test_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    """When writing breaks in the middle, the older file stays and no temporary file does."""
    path = tmp_path / "x.parquet"
    write_captions([rows("old")], captions_schema(FINGERPRINT), path)

    def breaking(error: BaseException) -> Iterator[pa.Table]:
        yield rows("new")
        raise error

    with pytest.raises(OutputError, match=r"No space left.*start the same command again"):
        write_captions(breaking(OSError(28, "No space left on device")), captions_schema(FINGERPRINT), path)
    with pytest.raises(KeyboardInterrupt):
        write_captions(breaking(KeyboardInterrupt()), captions_schema(FINGERPRINT), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.parquet"]
    assert read_captions(path).column("image_id").to_pylist() == ["old"]


def test_write_into_nothing_is_an_output_error(tmp_path: Path) -> None:
    """A folder that is gone is told in one sentence."""
    with pytest.raises(OutputError, match="No such file"):
        write_captions([rows("a")], captions_schema(FINGERPRINT), tmp_path / "gone" / "x.parquet")
