"""Valid files damaged in every way that hypothesis can think of: as bytes, as JSON, as tables, as safetensors.

In: the content of a valid file. Out: strategies of damaged content. Apart from the tests, because damage to bytes seldom gets
past a checksum or a footer, so each kind of file needs damage of its own that a reader cannot refuse at first sight.

`CAPT_FUZZ_EXAMPLES` says how many examples a test tries (30 when it is not set, which is quick, and the same each time); a
campaign sets thousands, and each run then tries others: `CAPT_FUZZ_EXAMPLES=5000 python -m pytest tests/test_fuzz.py`.
"""

import io
import json
import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("CAPT_FUZZ_EXAMPLES", "30"))
FUZZ = settings(
    max_examples=EXAMPLES,
    derandomize="CAPT_FUZZ_EXAMPLES" not in os.environ,
    deadline=timedelta(seconds=20),  # of one example: a reader that takes so long hangs
    suppress_health_check=list(HealthCheck),
    database=None,
    print_blob=True,
)
Sign = Callable[[dict[str, Any], bytes], None]

ODD: tuple[object, ...] = (
    *(None, True, -1, 0, 1, 1.5, float("nan"), float("inf"), 1e300, 10**30, 2**63, 10**12),
    *("", "x", " ", "\0", "\ud800", "\x1b[31m\n", "../..", "1", [], {}, [[]], [None], ["x", 1], {"a": {}}, [{}], {"": None}),
)
INSERTED = (
    *(
        b"\0",
        b"\xff\xfe",
        b"\xff" * 8,
        b"\n",
        b"\r\n",
        b"\x1b]0;x\x07",
        b'"',
        b'""',
        b",",
        b"\t",
        b"|",
        b" ",
        b"#0\t",
        b"\\ud800",
    ),
    *(
        b"[" * 3000,
        b'{"a":' * 3000,
        b"9" * 5000,
        b"1e999",
        b"-1",
        b"NaN",
        b"null",
        b"{}",
        b"[]",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
    ),
    *(b"18446744073709551616", b"1000000000000", b"\xf3\x01\x01", b"x" * 200_000),
)
ENCODINGS = ("utf-16", "utf-32", "utf-7", "latin-1", "cp037")


@st.composite
def bent(draw: st.DrawFn, content: bytes) -> bytes:
    """Cut, flip, overwrite, repeat, swap and put in, up to four times."""
    damaged = content
    for _ in range(draw(st.integers(1, 4))):
        first, second = sorted(draw(st.integers(0, len(damaged))) for _ in range(2))
        before, middle, after = damaged[:first], damaged[first:second], damaged[second:]
        match draw(st.sampled_from(("flip", "cut", "drop", "insert", "replace", "repeat", "swap", "encoding"))):
            case "flip":
                flipped = bytes([before[-1] ^ 1 << draw(st.integers(0, 7))]) if before else b""
                damaged = before[:-1] + flipped + middle + after
            case "cut":
                damaged = before
            case "drop":
                damaged = before + after
            case "insert":
                damaged = before + draw(st.sampled_from(INSERTED)) + middle + after
            case "replace":
                put = draw(st.binary(min_size=1, max_size=16) | st.sampled_from(INSERTED))
                damaged = before + put + (middle + after)[len(put) :]
            case "repeat":
                damaged = before + middle * draw(st.integers(2, 4)) + after
            case "swap":
                damaged = after + middle + before
            case _:
                damaged = damaged.decode("utf-8", "replace").encode(draw(st.sampled_from(ENCODINGS)), "replace")
        damaged = damaged[: 4 * len(content) + 1_000_000]
    return damaged


@st.composite
def odd_json(draw: st.DrawFn, value: Any, depth: int = 0) -> Any:  # noqa: ANN401 - JSON is anything
    """Replace, remove, double or rename something inside a value."""
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 5 + depth)) == 0:
        return draw(st.sampled_from(ODD))
    changed = value.copy()
    key = draw(st.sampled_from(list(value))) if isinstance(value, dict) else draw(st.integers(0, len(value) - 1))
    match draw(st.sampled_from(("inside", "inside", "inside", "remove", "add"))):
        case "inside":
            changed[key] = draw(odd_json(value[key], depth + 1))
        case "remove":
            del changed[key]
        case _ if isinstance(changed, dict):
            changed[draw(st.sampled_from(("", "x", "format", "\ud800", "\x1b[31m", "a\nb")))] = value[key]
        case _:
            changed.insert(key, value[key])
    return changed


def odd_json_text(content: bytes) -> st.SearchStrategy[bytes]:
    """Give JSON, or JSON lines, with something odd in it, still well formed."""
    lines = content.splitlines() if _is_json_lines(content) else [content]
    values = st.integers(0, len(lines) - 1).flatmap(
        lambda number: st.builds(
            lambda odd: [*lines[:number], json.dumps(odd).encode(), *lines[number + 1 :]], odd_json(json.loads(lines[number]))
        )
    )
    return values.map(b"\n".join)


def _is_json_lines(content: bytes) -> bool:
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return True
    return False


def odd_column(kind: str, rows: int) -> pa.Array:
    """Make a column that a reader may not expect.

    Args:
        kind: A key of `ODD_COLUMNS`.
        rows: How many.

    Returns:
        The column.
    """
    return ODD_COLUMNS[kind](rows)


def _broken_text(rows: int) -> pa.Array:
    """Make text that is not UTF-8, which parquet does not check."""
    return pa.array([b"\xff\xfe\xed\xa0\x80"] * rows, pa.binary()).view(pa.string())


ODD_COLUMNS: Mapping[str, Callable[[int], pa.Array]] = {
    "nothing": pa.nulls,
    "no text": lambda rows: pa.nulls(rows, pa.string()),
    "no list": lambda rows: pa.nulls(rows, pa.list_(pa.string())),
    "no struct": lambda rows: pa.nulls(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    "numbers": lambda rows: pa.array(range(rows), pa.int64()),
    "large numbers": lambda rows: pa.array([2**64 - 1] * rows, pa.uint64()),
    "not numbers": lambda rows: pa.array([float("nan")] * rows),
    "infinities": lambda rows: pa.array([float("inf")] * rows, pa.float32()),
    "bool": lambda rows: pa.array([True] * rows),
    "bytes": lambda rows: pa.array([b"\xff\0"] * rows),
    "not UTF-8": _broken_text,
    "dictionary": lambda rows: pa.array([str(row) for row in range(rows)]).dictionary_encode(),
    "odd text": lambda rows: pa.array([("\x1b[31m\0\n" + "x" * row * 5000) for row in range(rows)], pa.large_string()),
    "empty text": lambda rows: pa.array([""] * rows),
    "list of nothing": lambda rows: pa.array([[None]] * rows, pa.list_(pa.string())),
    "list of numbers": lambda rows: pa.array([[1, 2]] * rows),
    "list of text": lambda rows: pa.array([["a", "b"]] * rows, pa.large_list(pa.string())),
    "list of broken text": lambda rows: pa.ListArray.from_arrays(list(range(rows + 1)), _broken_text(rows)),
    "struct of numbers": lambda rows: pa.array([{"bytes": 1, "path": 2}] * rows),
    "struct of text": lambda rows: pa.array([{"bytes": "x", "path": "a\0b"}] * rows),
    "struct of paths": lambda rows: pa.array(
        [{"path": f"s3://:{row}"} for row in range(rows)], pa.struct([("path", pa.string())])
    ),
    "struct of structs": lambda rows: pa.array([{"path": {"path": {"bytes": b"x"}}}] * rows),
    "map": lambda rows: pa.array([[("a", 1)]] * rows, pa.map_(pa.string(), pa.int64())),
    "far dates": lambda rows: pa.array([2**62] * rows, pa.timestamp("us")),
    "far days": lambda rows: pa.array([2**31 - 1] * rows, pa.date32()),
    "foreign zone": lambda rows: pa.array([0] * rows, pa.timestamp("us", tz="Nowhere/None")),
    "decimals": lambda rows: pa.array([1] * rows, pa.decimal128(38, 2)),
    "sealed": lambda rows: pa.array([b"1234"] * rows, pa.binary(4)),
}


def read_table(content: bytes) -> pa.Table:
    """Read parquet."""
    return pq.ParquetFile(io.BytesIO(content)).read()


def table_bytes(table: pa.Table) -> bytes:
    """Write parquet."""
    stream = io.BytesIO()
    pq.write_table(table, stream, row_group_size=2)
    return stream.getvalue()


@st.composite
def odd_parquet(draw: st.DrawFn, content: bytes) -> bytes:
    """Change columns, types, names, rows or metadata of a table, up to three times; it is valid parquet still."""
    table = read_table(content)
    for _ in range(draw(st.integers(1, 3))):
        names = [f"n{number}" for number in range(table.num_columns)] if len(set(table.column_names)) < table.num_columns else []
        number = draw(st.integers(0, table.num_columns - 1))
        field = table.schema.field(number)
        match draw(
            st.sampled_from(("type", "type", "type", "drop", "rename", "double", "rows", "nulls", "metadata", "metadata"))
        ):
            case "type":
                column = odd_column(draw(st.sampled_from(sorted(ODD_COLUMNS))), table.num_rows)
                table = table.set_column(number, field.name, column)
            case "drop" if table.num_columns > 1:
                table = table.remove_column(number)
            case "rename":
                others = [*table.column_names, "", "\x1b[31m", "a\nb", "image", "path", "split", "caption"]
                names = table.column_names
                names[number] = draw(st.sampled_from(others))
                table = table.rename_columns(names)
            case "double":
                table = table.append_column(field, table.column(number))
            case "rows":
                table = table.slice(draw(st.integers(0, table.num_rows)))
            case "nulls":
                table = table.set_column(number, field.name, pa.nulls(table.num_rows, field.type))
            case _:
                table = table.replace_schema_metadata(_odd_metadata(draw, table.schema.metadata or {}))
    return table_bytes(table)


def _odd_metadata(draw: st.DrawFn, metadata: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Change a value that is JSON as JSON, or as bytes; a key may go."""
    if not metadata:
        return {b"capt": b"{}", b"\xff": b"\xff"}
    key = draw(st.sampled_from(sorted(metadata)))
    odd = odd_json_text(metadata[key]) if metadata[key][:1] == b"{" and not _is_json_lines(metadata[key]) else st.just(b"")
    return {**metadata, key: draw(bent(metadata[key]) | odd)} if draw(st.integers(0, 5)) else {b"x\xff": metadata[key]}


@st.composite
def odd_safetensors(draw: st.DrawFn, content: bytes, sign: Sign | None = None, nested: tuple[str, ...] = ()) -> bytes:
    """Change the header of a safetensors file: values, sizes, offsets, types, its own length, and JSON that it holds as text.

    Args:
        draw: Hypothesis's.
        content: A valid file.
        sign: Makes the header's own checks true again, given header and weights.
        nested: Keys of the metadata that hold JSON.

    Returns:
        A file whose header is JSON still, unless only its length was changed.
    """
    length = int.from_bytes(content[:8], "little")
    header, weights = json.loads(content[8 : 8 + length]), content[8 + length :]
    for _ in range(draw(st.integers(1, 2))):
        metadata = header.get("__metadata__") if isinstance(header, dict) else None
        if nested and isinstance(metadata, dict) and draw(st.integers(0, 3)):
            key = draw(st.sampled_from(nested))
            if isinstance(metadata.get(key), str) and metadata[key][:1] in {"{", "["}:
                odd = json.dumps(draw(odd_json(json.loads(metadata[key]))))
                header = {**header, "__metadata__": {**metadata, key: odd}}
        else:
            header = draw(_odd_header(header))
    if sign is not None and isinstance(header, dict) and isinstance(header.get("__metadata__"), dict):
        sign(header["__metadata__"], weights)
    text = json.dumps(header).encode()
    said = draw(st.sampled_from((len(text), len(text), len(text), len(text), 0, 1, len(text) - 1, 2**31, 2**63, 2**64 - 1)))
    return said.to_bytes(8, "little") + text + weights


def _odd_header(header: Any) -> st.SearchStrategy[Any]:  # noqa: ANN401 - JSON is anything
    """Change a tensor's entry, or anything."""
    tensors = [name for name in header if name != "__metadata__"] if isinstance(header, dict) else []
    entries = (
        {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**63]},
        {"dtype": "F64", "shape": [10**12], "data_offsets": [0, 8 * 10**12]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]},
        {"dtype": "F4", "shape": [], "data_offsets": [0, 0]},
        {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F8_E5M2", "shape": [4], "data_offsets": [0, 4]},
        {"dtype": "absurd", "shape": [0], "data_offsets": [0, 0]},
    )
    one = st.sampled_from(tensors or ["x"])
    whole = st.builds(lambda name, entry: {**header, name: entry}, one, st.sampled_from(entries)) if tensors else st.just(header)
    return whole | odd_json(header)
