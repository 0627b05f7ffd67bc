"""The report on a terminal: 80 columns, readable without colour, and nothing in a caption steers the terminal."""

import io
from unicodedata import category

import pytest
from rich.console import Console

from reports.document import Document
from reports.terminal_document import terminal_document
from tests.test_report import document_of, findings_of


def _drawn(document: Document) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(terminal_document(document))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("names", [("only",), ("old", "new"), ("old", "x" * 200)])
def test_it_fits_80_columns(names: tuple[str, ...]) -> None:
    """Whatever names and captions there are, no line is longer."""
    text = _drawn(document_of(findings_of(names)))
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text


def test_it_says_who_is_better_and_by_how_much() -> None:
    """Headline, the score against the baseline's, its interval and verdict, photographs, and every signature."""
    text = _drawn(document_of(findings_of()))
    assert text.startswith("new is better than old\n")
    assert "\N{REPLACEMENT CHARACTER}" not in text
    for part in (
        "CIDEr 76.0 64.6 +11.5 better, +6.5 to +16.5",
        "Note: Only 12 photographs",
        "Where new gains most",
        "05.jpg +62.5",
    ):
        assert part in " ".join(text.split())
    assert text.count("Signature of ") == 2


def test_one_captioner_shows_its_intervals() -> None:
    """There is nothing to hold it against, so the interval of the score itself is shown."""
    assert "CIDEr 64.6 54.6 to 74.6" in " ".join(_drawn(document_of(findings_of(("only",)))).split())


def test_no_caption_steers_the_terminal() -> None:
    """Escape sequences in captions and names are written out, and do nothing."""
    text = _drawn(document_of(findings_of(("old", "new\x1b[2J"), text="a\x1b[31mdog\x07\x9b")))
    assert not [each for each in text if category(each).startswith("C") and each != "\n"]
    assert r"a\x1b[31mdog\x07\x9b" in text
