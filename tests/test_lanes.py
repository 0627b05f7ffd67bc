"""Parts of a batch are computed side by side, each on one core, and nothing else changes."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from capt.captions import read_captions
from capt.lanes import Lanes
from jobs.options import RunOptions
from tests.running import change, do

PATIENCE = 60  # seconds that a part waits for the other


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Let torch have two threads, whatever the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_parts_are_even_and_none_is_too_small() -> None:
    """A batch is divided among the lanes, but no part has fewer than eight images unless the batch has."""
    assert Lanes(2).divide(32) == [slice(0, 16), slice(16, 32)]
    assert Lanes(2).divide(9) == [slice(0, 9)]
    assert [part.stop - part.start for part in Lanes(64).divide(33)] == [8, 8, 9, 8]
    assert Lanes(1).divide(32) == [slice(0, 32)]


def test_enough_batches_are_in_work() -> None:
    """As many as keep all lanes busy, and one more to go on with; where there is one lane, one."""
    assert [Lanes(count).batches_at_once(32) for count in (1, 2, 4, 64)] == [1, 2, 2, 17]
    assert Lanes(2).batches_at_once(2) == 3


def test_parts_are_in_work_at_the_same_time_on_one_core_each() -> None:
    """Each waits for the other; torch has one thread in a lane, and as many as before outside."""
    before, meeting = torch.get_num_threads(), threading.Barrier(2, timeout=PATIENCE)

    def meet(part: int) -> tuple[int, int]:
        meeting.wait()
        return part, torch.get_num_threads()

    assert Lanes(2).each(meet, [5, 7]) == [(5, 1), (7, 1)]
    assert torch.get_num_threads() == before


def test_one_lane_is_no_thread() -> None:
    """On a GPU everything happens in the thread that asks, with torch's threads as they are."""
    here = threading.get_ident()
    assert Lanes(1).each(lambda _: threading.get_ident(), [1, 2]) == [here, here]


@pytest.mark.usefixtures("two_threads")
def test_lanes_write_the_same_table(options: RunOptions, tmp_path: Path) -> None:
    """Rows, order, captions and their likelihoods are those that one lane writes, to the last digit."""
    several = change(options, path=tmp_path / "several")
    do(several)
    torch.set_num_threads(1)
    do(change(options, path=tmp_path / "one"))
    assert read_captions(tmp_path / "several").equals(read_captions(tmp_path / "one"))
