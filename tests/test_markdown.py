"""The report in brief: Markdown that stays text whatever it quotes, short enough for a job's summary."""

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from capt.shown import one_line
from reports import markdown
from reports.document import Cell, Column, Table
from reports.markdown import MAX_BYTES
from reports.markdown_text import plain
from tests.test_report import HOSTILE, assert_golden, document_of, findings_of

JOINER = "\u2060"  # is not seen


def test_the_brief_report_is_the_golden_file() -> None:
    """Headline, verdict, tables, photographs and signatures, as a person has read them."""
    assert_golden("report.md", markdown.render(document_of(findings_of(("old", "new", "newer")))))


def test_one_captioner_is_the_golden_file() -> None:
    """Without a comparison there is no word of one."""
    assert_golden("report-one.md", markdown.render(document_of(findings_of(("only",)))))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a *b* _c_ `d`", r"a \*b\* \_c\_ \`d\`"),
        ("<b>&amp;", "&lt;b&gt;&amp;amp;"),
        ("a | b", r"a \| b"),
        ("[x](y) ![x](y)", r"\[x\](y) \!\[x\](y)"),
        ("two\nlines\u2028more", "two lines more"),
        ("@user", "@\u2060user"),
        ("#12", "\\#\u206012"),
        ("https://x.example", "https:\u2060//x.example"),
        ("www.x.example", "www\u2060.x.example"),
        ("_WWW.x.example", "\\_WWW\u2060.x.example"),
        ("GH-12", "GH\u2060-12"),
        ("[a](http://b) www.c.org @d", "\\[a\\](http:\u2060//b) www\u2060.c.org @\u2060d"),
        ("$x$", r"\$x\$"),
        ("\\", "\\\\"),
        ("- a - b", r"\- a - b"),
        ("1. a 1. b", r"1\. a 1. b"),
        ("2) a", r"2\) a"),
    ],
)
def test_text_stays_text(text: str, expected: str) -> None:
    """No markup, table, link, mention, reference to an issue or formula comes out of a caption."""
    assert plain(text) == expected


@example("- a").via("a list in the list")
@example("1. a").via("a numbered one")
@example("--- | ---").via("the rule of a table")
@example("<b>a</b> &amp; `c` \\").via("markup")
@given(st.text(st.characters(exclude_categories=()), max_size=60))
def test_any_text_shows_as_it_is_written(text: str) -> None:
    """In a cell and in a list Markdown makes no more of it than text: no markup, no HTML, no link, no other cell."""
    shown = one_line(" ".join(text.split())).replace(JOINER, "")
    parser = MarkdownIt().enable("table")
    cells = parser.parse(f"| a | b |\n| --- | --- |\n| {plain(text)} | x |\n")
    lists = parser.parse(f"- {plain(text)}\n")
    inline = [token for token in cells if token.type == "inline"]
    assert [token.content == "x" for token in inline[2:]] in ([False, True], [shown == "x", True])
    for token in (inline[2], *(token for token in lists if token.type == "inline")):
        assert {child.type for child in token.children or ()} <= {"text", "text_special"}
        assert "".join(child.content for child in token.children or ()).replace(JOINER, "") == shown


def test_hostile_captions_names_and_ids_stay_text() -> None:
    """Nothing that looks like HTML is left unescaped anywhere but in the report's own markup."""
    text = markdown.render(document_of(findings_of(("old", HOSTILE), text=HOSTILE)))
    own = {"<br>", "<sub>", "</sub>", "<details>", "<summary>", "</summary>", "</details>"}
    left = text
    for tag in own:
        left = left.replace(tag, "")
    assert "<" not in left
    assert "http://" not in text
    assert "@user" not in text


def test_a_row_of_a_table_is_one_line_with_its_columns() -> None:
    """Whatever a cell holds, a row has as many bars as the head."""
    lines = [line for line in markdown.render(document_of(findings_of(("old", HOSTILE)))).splitlines() if line.startswith("|")]
    heads = [index for index, line in enumerate(lines) if "---" in line]
    for index in heads:
        bars = lines[index].count("|")
        assert lines[index + 1].replace(r"\|", "").count("|") == bars


def test_a_report_never_exceeds_a_job_summary() -> None:
    """Long texts and many rows are cut, and the cut is said."""
    document = document_of(findings_of())
    rows = [[Cell(text="x" * 10_000), Cell(text=str(row))] for row in range(1000)]
    table = Table(caption="long", columns=[Column(name="a"), Column(name="b")], rows=rows)
    sections = [replace(section, blocks=[table]) if section.in_brief else section for section in document.sections]
    text = markdown.render(replace(document, sections=sections))
    assert len(text.encode()) < 50_000
    assert "980 more rows are in report.html." in text
    endless = markdown.render(replace(document, verdict=["x" * 2 * MAX_BYTES]))
    assert len(endless.encode()) < 1024 * 1024
    assert endless.endswith("The rest is in report.html.\n")
