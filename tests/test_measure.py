"""Measuring: Java is started once for what is new and never for what is known; nothing is left behind, whatever fails."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pycocoevalcap
import pytest

from evaluation.cache import Cache
from evaluation.java import JavaError, find_java
from evaluation.measure import Instruments, measure
from evaluation.metrics import METRICS

CAPTIONS = ["a dog runs.", "Two men sit on a bench", "", "café — naïve 犬"]
REFERENCES = [["A dog runs!", "a brown dog"], ["two men on a bench"], ["a cat"], ["a café", "犬 and a dog"]]
ROOT = Path(__file__).parents[1]


class CountingJava:
    """The real Java behind a program that writes down each start, and when."""

    def __init__(self, folder: Path) -> None:
        """Write the program."""
        self.log = folder / "starts"
        self.program = folder / "java"
        self.program.write_text(f'#!/bin/sh\necho "$$ $(date +%s%N) $*" >> {self.log}\nexec {find_java().executable} "$@"\n')
        self.program.chmod(0o755)

    def starts(self, part: str = "") -> list[list[str]]:
        """Give process number, time and command of each start whose command holds a part."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.split(" ", 2) for line in lines if part in line]


@pytest.fixture
def java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CountingJava]:
    """Let CAPT_JAVA name the counting program; whatever it started is gone afterwards."""
    counting = CountingJava(tmp_path)
    monkeypatch.setenv("CAPT_JAVA", str(counting.program))
    yield counting
    assert not _alive(counting)


def _alive(java: CountingJava) -> list[str]:
    return [number for number, _, _ in java.starts() if Path(f"/proc/{number}/exe").exists()]


def test_meteor_starts_once_and_first(java: CountingJava) -> None:
    """One METEOR for everything, started before the tokeniser, which runs while METEOR loads."""
    measure(CAPTIONS, REFERENCES, list(METRICS), Instruments(cache=Cache(folder=None)))
    (meteor,) = java.starts("meteor-1.5.jar")
    tokenizers = java.starts("PTBTokenizer")
    assert len(tokenizers) == 2
    assert all(int(meteor[0]) < int(each[0]) for each in tokenizers)  # by process number: what a start writes may be late


def test_the_same_texts_need_no_java_again(java: CountingJava, tmp_path: Path) -> None:
    """Scored again nothing is started and nothing differs; another run's captions leave the references' tokens in use."""
    instruments = Instruments(cache=Cache(folder=tmp_path / "kept"))
    tokens, first = measure(CAPTIONS, REFERENCES, list(METRICS), instruments)
    before = len(java.starts())
    again, second = measure(CAPTIONS, REFERENCES, list(METRICS), instruments)
    assert len(java.starts()) == before
    assert again == tokens
    for name, found in first.items():
        assert second[name].scores == found.scores
        np.testing.assert_array_equal(second[name].statistics, found.statistics)
        for each, values in found.per_image.items():
            np.testing.assert_array_equal(second[name].per_image[each], values)
    _, other = measure([*CAPTIONS[1:], "another run"], REFERENCES, list(METRICS), instruments)
    assert other["METEOR"].scores != first["METEOR"].scores
    assert len(java.starts("PTBTokenizer")) == 2 + 1  # the references once, the captions of each run
    assert len(java.starts("meteor-1.5.jar")) == 1 + 1


def test_nothing_in_the_cache_is_believed_blindly(java: CountingJava, tmp_path: Path) -> None:
    """A cache whose entries have lost their shape is measured anew."""

    class Odd(Cache):
        def get(self, kind: str, content: object) -> object:  # noqa: ARG002  # as the real one
            return {"scores": 1} if kind == "METEOR" else ["one line only"]

    _, found = measure(CAPTIONS, REFERENCES, list(METRICS), Instruments(cache=Odd(folder=tmp_path)))
    assert java.starts("meteor-1.5.jar")
    assert found["METEOR"].statistics.shape == (4, 23)


@pytest.mark.parametrize("part", ["PTBTokenizer", "meteor-1.5.jar"])
def test_a_java_that_fails_leaves_nothing_running(part: str, java: CountingJava) -> None:
    """When the tokeniser fails METEOR is ended, and the other way round; the error is one sentence."""
    text = java.program.read_text().replace("exec", f'case "$*" in *{part}*) echo broken >&2; exit 1;; esac\nexec')
    java.program.write_text(text)
    with pytest.raises(JavaError, match="broken"):
        measure(CAPTIONS, REFERENCES, list(METRICS), Instruments(cache=Cache(folder=None)))
    assert not _alive(java)


def test_a_killed_judge_leaves_nothing_running(java: CountingJava) -> None:
    """Even when the judge itself is killed, METEOR ends by itself, since its input has ended."""
    code = (
        "import time; from evaluation.java import find_java; from evaluation.meteor import meteor_process\n"
        "with meteor_process(find_java()) as meteor:\n"
        "    meteor.score(['a dog'], [['a dog']]); print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, env=dict(os.environ)) as judge:
        assert judge.stdout is not None
        assert judge.stdout.readline() == b"ready\n"
        assert _alive(java)
        judge.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while _alive(java) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(java)


def test_two_runs_at_once_agree(tmp_path: Path) -> None:
    """Two judges on the same texts and the same cache give the same numbers, and leave no temporary file."""
    code = (
        "import json, sys; from pathlib import Path; from evaluation.measure import *; from evaluation.cache import Cache\n"
        f"texts = {CAPTIONS!r}, {REFERENCES!r}\n"
        f"found = measure(*texts, ['METEOR', 'CIDEr'], Instruments(cache=Cache(folder=Path({str(tmp_path)!r}))))[1]\n"
        "print(json.dumps({name: each.scores for name, each in found.items()}))"
    )
    judges = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [judge.communicate(timeout=120) for judge in judges]
    assert [judge.returncode for judge in judges] == [0, 0], said
    assert said[0][0] == said[1][0] != ""
    assert not list(tmp_path.glob("*.tmp"))


def test_every_locale_gives_the_same_numbers() -> None:
    """A decimal comma, or no Unicode at all, in the user's locale changes neither tokens nor METEOR."""
    code = (
        "from evaluation.measure import *; from evaluation.cache import Cache\n"
        f"tokens, found = measure({CAPTIONS!r}, {REFERENCES!r}, ['METEOR'], Instruments(cache=Cache(folder=None)))\n"
        "print(ascii(tokens), repr(found['METEOR'].scores['METEOR']))"
    )
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "JAVA"))}
    said = [
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=each, capture_output=True, text=True, check=True).stdout
        for each in (
            plain | {"LC_ALL": "en_US.UTF-8"},
            plain | {"LC_ALL": "C"},
            plain | {"LC_ALL": "it_IT.UTF-8", "JAVA_TOOL_OPTIONS": "-Duser.language=it"},
        )
    ]
    assert said[0] == said[1] == said[2]
    assert "caf\\xe9" in said[0]


def test_nothing_is_written_into_site_packages() -> None:
    """The packages of the environment are the same, file for file, after everything was measured."""
    folder = Path(pycocoevalcap.__path__[0])
    before = _listing(folder)
    measure(CAPTIONS, REFERENCES, list(METRICS), Instruments(cache=Cache(folder=None)))
    assert _listing(folder) == before


def _listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Give size and time of each file and folder; a file made and removed again changes its folder's time."""
    found = {str(path): path.stat() for path in (folder, *folder.rglob("*")) if "__pycache__" not in path.parts}
    return {name: (state.st_size, state.st_mtime_ns) for name, state in found.items() if not name.endswith("__pycache__")}
