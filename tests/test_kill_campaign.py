"""Killed at random moments and started again, a run loses nothing: a small part of what `benchmarks/faults.py` does at length."""

from pathlib import Path

import pytest

from benchmarks.faults import WAYS, Campaign, Way, write_photographs


@pytest.fixture(scope="module")
def campaign(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """Give a campaign against runs of forty shards."""
    folder = tmp_path_factory.mktemp("campaign")
    write_photographs(folder / "photos")
    return Campaign(folder, folder / "photos", tiny_checkpoint, seed=8)


@pytest.mark.parametrize(
    ("way", "kills"), [(WAYS[0], 2), (WAYS[1], 2), (WAYS[2], 4)], ids=lambda each: getattr(each, "name", each)
)
def test_nothing_is_lost(campaign: Campaign, way: Way, kills: int) -> None:
    """Killed while it works, writes, completes or merges, a resumed run equals an undisturbed one; no file is left over."""
    tally, _ = campaign.attack(way, kills)
    assert tally.kills == kills
    assert tally.is_sound, (tally, campaign.log.read_text())
