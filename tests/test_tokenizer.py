"""Penn Treebank tokens: the same as pycocoevalcap's, and one line in is one line out."""

import os
from pathlib import Path

import pytest
from pycocoevalcap.tokenizer import ptbtokenizer

from capt.references import read_references
from evaluation.java import Java, JavaError, find_java
from evaluation.tokenizer import fold, tokenize

CAPTIONS = [
    "A man -- in a T-shirt -- isn't running.",
    "He lives in the U.S.",
    'Two "young" kids (both blond) eat 1 1/2 pies; $5.50 each...',
    "Un été à la plage 日本 🙂",
    "",
    "a | b ||| c",
    "the dog 's ball , and the cat's",
    "ISTANBUL III",
    "...",
    "last",
]
ODD_BREAKS = ["\r", "\u2028", "\u2029", "\x0b", "\x0c", "\x85", "\x1c", "\n", "\r\n", "\t", "\xa0", "\u3000"]


def _theirs(captions: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ask pycocoevalcap itself, with the wheel's Java on the path."""
    monkeypatch.setenv("PATH", f"{find_java().executable.parent}{os.pathsep}{os.environ['PATH']}")
    found = ptbtokenizer.PTBTokenizer().tokenize({index: [{"caption": text}] for index, text in enumerate(captions)})
    return [texts[0] for texts in found.values()]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_tokens_are_those_of_pycocoevalcap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Abbreviations, contractions, fractions, quotation marks, other scripts: identical tokens."""
    assert tokenize(CAPTIONS, find_java()) == _theirs(CAPTIONS, monkeypatch)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_tokens_of_real_captions_are_those_of_pycocoevalcap(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Identical tokens for every caption of Flickr8k's development split."""
    captions = [text for texts in read_references(data_dir / "flickr8k", split="dev").captions.values() for text in texts]
    assert tokenize(captions, find_java()) == _theirs(captions, monkeypatch)


@pytest.mark.parametrize("count", [1, 3])
def test_odd_white_space_never_shifts_captions(count: int) -> None:
    """No line break of any kind moves a later caption to another image."""
    captions = [f"a dog{odd * count}runs{odd}" for odd in ODD_BREAKS] + ["the last one"]
    assert tokenize(captions, find_java()) == ["a dog runs"] * len(ODD_BREAKS) + ["the last one"]


@pytest.mark.parametrize("captions", [[], [""], ["", "", "a", ""], ["\udcff a"]])
def test_empty_and_unencodable_captions_keep_their_place(captions: list[str]) -> None:
    """Empty captions are empty lines; half a surrogate pair does not end the run."""
    tokens = tokenize(captions, find_java())
    assert [bool(line) for line in tokens] == [bool(text.strip()) for text in captions]


def test_nothing_is_written_beside_the_jar() -> None:
    """Site-packages may be read-only, and two runs at once do not meet."""
    folder = Path(ptbtokenizer.__file__).parent
    before = {path: path.stat().st_mtime_ns for path in (folder, *folder.iterdir())}
    tokenize(["a dog"], find_java())
    assert before == {path: path.stat().st_mtime_ns for path in (folder, *folder.iterdir())}


def test_another_number_of_lines_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the jar answers fewer lines than captions, nothing is scored."""
    monkeypatch.setattr(Java, "run", lambda *_, **__: b"one line")
    with pytest.raises(JavaError, match="1 lines for 2 captions"):
        tokenize(["a", "b"], find_java())


def test_fold_leaves_one_space() -> None:
    """Every run of white space becomes one space."""
    assert fold(" a\r\n\u2028b\x0b ") == "a b"
