"""Files that claim to be huge: nothing is set aside for what a header says, before the file is known to hold it.

All are read in one process that may not grow by more than a gibibyte of addresses, and the memory that each took is measured.
"""

import gzip
import io
import json
import pickle
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import ROOT
from tests.trained_specimens import checkpoint, sign

MOST_MEBIBYTES = 100  # that reading one of these files takes, whatever it claims
HUGE = 10**12
READ = """
import json, resource, sys, warnings
from pathlib import Path
from capt.checkpoint import load_checkpoint, read_header
from capt.encoder_weights import read_weights
from capt.encoder_file import read_encoder_file
from capt.errors import CaptError
from capt.references import read_references
from capt.vocabulary import Vocabulary
from capt.word_vectors import load_word_vectors
from jobs.reader import open_source
from jobs.source import SourceOptions
import timm, torch

def vectors(path):
    load_word_vectors(path, Vocabulary.build(["dog"], min_frequency=1), dimension=3)

def source(path):
    found = open_source(SourceOptions(source=str(path), limit=1))
    return [items for items, _ in found.batches(range(found.rows), 1)]

readers = {"checkpoint": load_checkpoint, "weights": read_weights, "encoder": read_encoder_file, "vectors": vectors,
           "source": source, "references": read_references}

def status(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name + ":"))

read_header(), torch.zeros(1)  # what is loaded once is not the file's
size = status("VmSize") * 1024 + (1 << 30)
resource.setrlimit(resource.RLIMIT_AS, (size, size))
for line in sys.stdin:
    reader, path = json.loads(line)
    Path("/proc/self/clear_refs").write_text("5")
    before, said = status("VmRSS"), None
    try:
        readers[reader](Path(path))
    except CaptError as error:
        said = str(error)
    except BaseException as error:
        said = f"! {type(error).__name__}: {error}"
    print(json.dumps([said, (status("VmHWM") - before) // 1024]), flush=True)
"""


def _odd_checkpoint(**config: Any) -> bytes:  # noqa: ANN401 - what stands in JSON
    """Give a checkpoint whose configuration says otherwise, with a digest that is true."""
    content = checkpoint().files["best.safetensors"]
    length = int.from_bytes(content[:8], "little")
    header, weights = json.loads(content[8 : 8 + length]), content[8 + length :]
    metadata = header["__metadata__"]
    metadata["config"] = json.dumps({**json.loads(metadata["config"]), **config})
    sign(metadata, weights)
    return _safetensors(header, weights)


def _safetensors(header: Mapping[str, object], weights: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + weights


def _claim(size: int) -> bytes:
    return _safetensors({"a": {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size]}})


def _tar(kind: bytes, size: int, name: str = "x.png") -> bytes:
    """Give a tar file whose one header says that so many bytes follow."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.type = size, kind
    return entry.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


def _sparse() -> bytes:
    """Give a tar file with a member of which one byte is there and the rest is holes."""
    header = bytearray(_tar(tarfile.GNUTYPE_SPARSE, 512)[:512])
    header[386:410] = b"00000000000\0" + b"00000001000\0"
    header[483:495] = b"77777777777\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1536)


def _npy() -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (HUGE, 3)})
    return stream.getvalue()


def _rows(count: int, **columns: object) -> bytes:
    """Give a small parquet file of many equal rows."""
    stream = io.BytesIO()
    table = pa.table({name: pa.repeat(value, count) for name, value in columns.items()})
    pq.write_table(table, stream, row_group_size=count)
    return stream.getvalue()


MEMO = b"\x80\x02}r" + b"\xff" * 4 + b"."  # the place 2**32 - 1 of the memo
BYTES = b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"x."
ARRAY = (
    b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n\x8a\x06" + HUGE.to_bytes(6, "little") + b"\x85U\x01b\x87R."
)
CLAIMS: Mapping[str, tuple[str, str, Callable[[], bytes]]] = {
    "a tensor of terabytes": ("checkpoint", "a.safetensors", lambda: _claim(HUGE)),
    "a header of exabytes": ("checkpoint", "a.safetensors", lambda: _safetensors({}, length=2**63)),
    "a vocabulary of billions": ("checkpoint", "a.safetensors", lambda: _odd_checkpoint(vocab_size=10**9)),
    "a wide decoder": ("checkpoint", "a.safetensors", lambda: _odd_checkpoint(decoder_dim=10**6)),
    "wide cells": ("checkpoint", "a.safetensors", lambda: _odd_checkpoint(encoder_dim=10**9)),
    "wide words": ("checkpoint", "a.safetensors", lambda: _odd_checkpoint(detected_words=10**6, detected_dim=10**6)),
    "a network of billions": (
        "checkpoint",
        "a.safetensors",
        lambda: _odd_checkpoint(encoder={"name": "timm:vit_giant_patch14_224", "layer": "layer4", "stride_in_1x1": False}),
    ),
    "weights of terabytes": ("weights", "a.safetensors", lambda: _claim(HUGE)),
    "an encoder of terabytes": ("encoder", "a.safetensors", lambda: _claim(HUGE)),
    "a trillion word vectors": ("vectors", "a.bin", lambda: f"{HUGE} 3\n".encode() + b"cat " + struct.pack("<3f", 1, 2, 3)),
    "word vectors of a trillion numbers": ("vectors", "a.bin", f"3 {HUGE}\ncat ".encode),
    "a line of megabytes": ("vectors", "a.txt", lambda: gzip.compress(b"dog 1 2 3\ncat 1 2 " + b"3" * (2 * 10**8), 1)),
    "a memo of gigabytes": ("vectors", "a.kv", lambda: MEMO),
    "bytes of a terabyte": ("vectors", "a.kv", lambda: BYTES),
    "an array of a terabyte": ("vectors", "a.kv", lambda: ARRAY),
    "an image of gigabytes": ("source", "a.tar", lambda: _tar(tarfile.REGTYPE, 2**33 - 1)),
    "a name of gigabytes": ("source", "a.tar", lambda: _tar(tarfile.GNUTYPE_LONGNAME, 2**33 - 1)),
    "attributes of gigabytes": ("source", "a.tar", lambda: _tar(tarfile.XHDTYPE, 2**33 - 1)),
    "an image of holes": ("source", "a.tar", _sparse),
    "references without a name": (
        "references",
        "a.parquet",
        lambda: _rows(3 * 10**6, image_id=pa.scalar(None, pa.string()), caption="x"),
    ),
    "references of one image": ("references", "a.parquet", lambda: _rows(3 * 10**6, image_id="a", caption="a dog")),
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[str | None, int]]:
    """Read them all; give what was said, and how many mebibytes it took."""
    folder, lines = tmp_path_factory.mktemp("claims"), []
    for number, (reader, name, make) in enumerate(CLAIMS.values()):
        (folder / str(number)).mkdir()
        (folder / str(number) / name).write_bytes(make())
        lines.append(json.dumps([reader, str(folder / str(number) / name)]))
    ended = subprocess.run(
        [sys.executable, "-c", READ], input="\n".join(lines), capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return dict(zip(CLAIMS, map(json.loads, ended.stdout.splitlines()), strict=True))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is measured by /proc")
@pytest.mark.parametrize("claim", CLAIMS)
def test_what_a_file_claims_costs_nothing(claim: str, told: Mapping[str, tuple[str | None, int]]) -> None:
    """A file of some kilobytes that says that it is huge is refused, or read without what it says, within 100 MiB."""
    said, mebibytes = told[claim]
    assert said is None or CLAIMS[claim][1] in said
    assert said is None or not said.startswith("!"), said
    assert mebibytes < MOST_MEBIBYTES


def test_an_array_beside_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """The array beside gensim's file is mapped, so one that claims more than its file has is an error, not memory."""
    from capt.errors import InputError  # noqa: PLC0415 - beside the others
    from capt.vocabulary import Vocabulary  # noqa: PLC0415
    from capt.word_vectors import load_word_vectors  # noqa: PLC0415

    (tmp_path / "a.kv").write_bytes(pickle.dumps(None))
    (tmp_path / "a.kv.vectors.npy").write_bytes(_npy())
    with pytest.raises(InputError, match=r"a\.kv cannot be read"):
        load_word_vectors(tmp_path / "a.kv", Vocabulary.build(["dog"], min_frequency=1), dimension=3)
