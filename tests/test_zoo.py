"""Rotten images of every kind: each is one row, and none ends a run, floods memory or says more than a sentence."""

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capt.captions import read_captions
from capt.errors import FailureKind, ImageError
from capt.images import open_image
from tests.conftest import EXAMPLE_PHOTOS, ROOT
from tests.running import START
from tests.zoo import build_zoo, valid_files

MOST_MEMORY = 1536 * 1024  # KiB of the whole process, of which torch and the network take the most; the README states it
LAUNCH = """
import resource, subprocess, sys
print(subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""  # a small process between: the kernel counts a starting process with the memory of the one that starts it
SENTENCE = re.compile(rf"({'|'.join(FailureKind)}): [A-Z][^\n\r\x00-\x1f\x7f]*\.")
VALID = valid_files(EXAMPLE_PHOTOS / "cat.jpg")


def test_every_animal_is_one_row(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Some hundred rotten files are one row each, with a caption or a known cause, within 1.5 GiB and in silence."""
    names = build_zoo(EXAMPLE_PHOTOS, tmp_path / "zoo")
    assert len(names) >= 200
    options = ["--checkpoint", str(tiny_checkpoint), "--max-length", "4", "--quiet", "--output", str(tmp_path / "out")]
    command = [sys.executable, "-c", START, "run", str(tmp_path / "zoo"), *options]
    ended = subprocess.run([sys.executable, "-c", LAUNCH, *command], capture_output=True, text=True, check=True, cwd=ROOT)
    code, memory = map(int, ended.stdout.split())
    assert (code, ended.stderr) == (1, "")
    rows = read_captions(tmp_path / "out").to_pylist()
    assert sorted(row["image_id"] for row in rows) == sorted(names)
    for row in rows:
        assert row["caption"] if row["status"] == "ok" else SENTENCE.fullmatch(row["error"]), row
    outcomes = {row["image_id"]: row["status"] for row in rows}
    assert [name for name, status in outcomes.items() if name.startswith(("valid-", "whole-")) and status != "ok"] == []
    assert {row["error"].split(":")[0] for row in rows if row["image_id"].startswith(("bomb-huge", "bomb-limit"))} == {
        "too_large"
    }
    assert outcomes["png-named.jpg"] == outcomes["jpg-named.png"] == "ok"
    assert {row["error"].split(":")[0] for row in rows if row["error"]} == set(FailureKind) - {
        FailureKind.NO_IMAGE,
        FailureKind.OUTSIDE,
        FailureKind.TIMEOUT,
    }
    assert memory < MOST_MEMORY


def _damaged(content: bytes, source: random.Random, other: bytes) -> bytes:
    """Flip bytes, cut, or put a piece of another file in, some of it or all."""
    damaged = bytearray(content)
    for _ in range(source.choice((0, 1, 3, 30))):
        damaged[source.randrange(len(damaged))] = source.randrange(256)
    if source.random() < 0.4:
        start, length = source.randrange(len(damaged)), source.choice((1, 4, 100, 2000))
        piece = source.randrange(len(other))
        damaged[start : start + source.choice((0, length))] = other[piece : piece + length]
    if source.random() < 0.4:
        del damaged[source.randrange(len(damaged) + 1) :]
    return bytes(damaged)


@pytest.mark.parametrize("ending", VALID)
@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(min_value=0, max_value=2**64), other=st.sampled_from(sorted(VALID)))
@pytest.mark.filterwarnings("ignore")  # the job silences Pillow's own warnings about odd metadata too
def test_damage_of_any_kind_is_an_image_error(ending: str, seed: int, other: str) -> None:
    """Bytes flipped, cut away and put in from elsewhere give an image or an ImageError, and nothing else."""
    content = _damaged(VALID[ending], random.Random(seed), VALID[other])  # noqa: S311  bytes, no secrets
    said, mode = "", "RGB"
    try:
        mode = open_image(content, max_pixels=1_000_000).mode
    except ImageError as error:
        said = str(error)
    assert mode == "RGB"
    assert not said or SENTENCE.fullmatch(said)
