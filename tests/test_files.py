"""Files are there whole or not at all."""

import os
from pathlib import Path

import pytest

from capt.errors import OutputError
from capt.files import write_whole


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When writing fails in the middle, the old file is untouched, nothing half-written stays, and the cause is said."""
    target = tmp_path / "model.safetensors"
    target.write_bytes(b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_whole(target, b"new")
    assert target.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    """A file where a folder should be gives an OutputError."""
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_whole(tmp_path / "file" / "model.safetensors", b"")
