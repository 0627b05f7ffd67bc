"""The cache: found again by content, bounded, and never in the way."""

import os
from pathlib import Path

import pytest

from evaluation.cache import Cache, user_cache


def test_what_is_kept_is_found_by_content(tmp_path: Path) -> None:
    """The same kind and content give the same result, floats to the last digit; any other content gives none."""
    cache = Cache(folder=tmp_path / "new")
    assert cache.get("METEOR", ["a", ["b"]]) is None
    cache.put("METEOR", ["a", ["b"]], {"score": 0.1 + 0.2, "text": "é\u2028"})
    assert cache.get("METEOR", ["a", ["b"]]) == {"score": 0.1 + 0.2, "text": "é\u2028"}
    for kind, content in (("PTB", ["a", ["b"]]), ("METEOR", ["a", "b"]), ("METEOR", ["a", ["b"], ""]), ("METEOR", ["ab"])):
        assert cache.get(kind, content) is None
    assert [path.suffix for path in (tmp_path / "new").iterdir()] == [".gz"]


def test_the_folder_stays_within_its_limit(tmp_path: Path) -> None:
    """What was used longest ago goes first, and what was just kept stays."""
    cache = Cache(folder=tmp_path, limit_bytes=4000)  # three files of a little more than 1,000 bytes
    for number in range(3):
        cache.put("x", [number], os.urandom(1000).hex())
        _age(tmp_path, seconds=100)
    assert cache.get("x", [0]) is not None  # used again, so it is the youngest now
    for number in range(3, 5):
        cache.put("x", [number], os.urandom(1000).hex())
    assert cache.size() <= cache.limit_bytes
    found = [number for number in range(5) if cache.get("x", [number]) is not None]
    assert 4 in found
    assert 0 in found
    assert 1 not in found


def _age(folder: Path, *, seconds: float) -> None:
    for path in folder.iterdir():
        state = path.stat()
        os.utime(path, (state.st_atime - seconds, state.st_mtime - seconds))


def test_a_broken_file_is_as_good_as_none(tmp_path: Path) -> None:
    """A file cut short, of another kind, or no JSON is passed over and replaced."""
    cache = Cache(folder=tmp_path)
    cache.put("x", [1], list(range(1000)))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for content in (b"", whole[:50], b"\x1f\x8bnonsense", b"[1]"):
        path.write_bytes(content)
        assert cache.get("x", [1]) is None
    cache.put("x", [1], [2])
    assert cache.get("x", [1]) == [2]


def test_no_folder_and_no_room_cost_nothing_but_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a folder, with a file in its place, or on a full disk nothing is kept and nothing is raised or left."""
    for cache in (Cache(folder=None), Cache(folder=_file(tmp_path) / "in it")):
        cache.put("x", [1], [2])
        assert cache.get("x", [1]) is None
        assert cache.size() == 0
    full = Cache(folder=tmp_path / "full")
    monkeypatch.setattr(Path, "replace", _no_room)
    full.put("x", [1], [2])
    assert full.get("x", [1]) is None
    assert list((tmp_path / "full").iterdir()) == []


def _file(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file"


def _no_room(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """XDG_CACHE_HOME goes before the home folder; without a home there is no cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache().folder == tmp_path / "capt" / "scores"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert user_cache().folder == Path("/home/somebody/.cache/capt/scores")
    monkeypatch.setattr(Path, "home", _no_home)
    assert user_cache().folder is None


def _no_home() -> Path:
    message = "Could not determine home directory."
    raise RuntimeError(message)
