"""A machine that has no memory or no file descriptors left for a run: rows say what happened, or it ends in one sentence."""

import resource
from pathlib import Path

import pyarrow as pa
import pytest

from tests.faulting import Program, Start


def _address_space(start: Start) -> int:
    pages = int(Path(f"/proc/{start.pid}/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()


def test_memory(program: Program, reference: pa.Table, tmp_path: Path) -> None:
    """A run that gets no more memory ends with 3 and says what to lower; finished shards stay.

    It gets none at all: of a little more, a thread may be begun that Python cannot finish beginning, and waits for.
    """
    output = tmp_path / "out"
    program.disturb(
        [*program.arguments(output), "--batch-size", "16"],
        output,
        lambda start: start.limit(resource.RLIMIT_AS, _address_space(start)),
        "--batch-size",
    )
    assert program.complete(program.arguments(output), output).equals(reference)


def test_open_files(program: Program, reference: pa.Table, tmp_path: Path) -> None:
    """A run that may open no further file ends with 3 and says so; finished shards stay."""
    output = tmp_path / "out"
    program.disturb(
        program.arguments(output), output, lambda start: start.limit(resource.RLIMIT_NOFILE, 3), "Too many open files"
    )
    assert program.complete([*program.arguments(output), "--retry-failed"], output).equals(reference)


@pytest.mark.parametrize("most", [8, 12])
def test_few_open_files_from_the_beginning(program: Program, reference: pa.Table, tmp_path: Path, most: int) -> None:
    """With hardly a descriptor to work with it ends in one sentence too, wherever they run out."""
    output = tmp_path / "out"
    program.start(program.arguments(output), {resource.RLIMIT_NOFILE: most}).ends_with(3, "Too many open files")
    assert program.complete([*program.arguments(output), "--retry-failed"], output).equals(reference)
