"""A Document in brief, as GitHub's Markdown: for a pull request or a job's summary.

In: a Document. Out: text of bounded size. Apart, because it draws and decides nothing. Captions, names and ids are text that
somebody else wrote: nothing in them becomes markup, a link, a mention or a picture.
"""

from collections.abc import Iterator, Sequence

from reports.document import Cell, Document, Example, Section, Table, Tone
from reports.markdown_text import plain

MAX_BYTES = 900_000
"""Below the 1 MiB that a job's summary on GitHub may have; a report in brief is far smaller."""

_ROWS, _EXAMPLES, _REFERENCES = 20, 5, 2  # of a table; of a group; of an example
_GOOD, _BAD = "▲", "▼"


def render(document: Document) -> str:
    """Write a document in brief.

    Args:
        document: What it says.

    Returns:
        Markdown, ending in a line feed.
    """
    lines = [f"## {plain(document.headline)}", "", *(f"{plain(sentence, None)}\n" for sentence in document.verdict)]
    lines += [f"{plain(note, 600)}\n" for note in document.notes]
    if document.warnings:
        lines += ["> [!NOTE]", *(f"> {plain(warning, 600)}<br>" for warning in document.warnings), ""]
    for section in document.sections:
        if section.in_brief:
            lines += _section(section)
    for strip in document.strips:
        lines += [f"**{plain(strip.title)}**", "", *_examples(strip.examples), ""]
    lines += ["<details><summary>Signatures</summary>", ""]
    lines += [f"- {plain(name)}: {plain(text, 1000)}" for name, text in zip(document.series, document.signatures, strict=True)]
    lines += ["", "</details>", ""]
    lines += [f"<sub>{plain(document.legend, None)} capt {plain(document.version)}, {plain(document.date)}.</sub>"]
    return _bounded("\n".join(lines) + "\n")


def _section(section: Section) -> Iterator[str]:
    for block in section.blocks:
        if isinstance(block, Table):
            yield from _table(block)


def _table(table: Table) -> Iterator[str]:
    yield f"**{plain(table.caption)}**"
    yield ""
    yield f"| {' | '.join(plain(column.name) for column in table.columns)} |"
    yield f"|{'|'.join(' ---: ' if column.numeric else ' --- ' for column in table.columns)}|"
    for row in table.rows[:_ROWS]:
        yield f"| {' | '.join(map(_cell, row))} |"
    if len(table.rows) > _ROWS:
        yield ""
        yield f"{len(table.rows) - _ROWS:,} more rows are in report.html."
    yield ""


def _cell(cell: Cell) -> str:
    text = plain(cell.text)
    if cell.tone in {Tone.GOOD, Tone.BAD}:
        text = f"**{text}** {_GOOD if cell.tone is Tone.GOOD else _BAD}"
    elif cell.tone is Tone.QUIET and text:
        text = f"*{text}*"
    below = "<br>".join(f"<sub>{plain(line)}</sub>" for line in cell.below.splitlines())
    return f"{text}<br>{below}" if below else text


def _examples(examples: Sequence[Example]) -> Iterator[str]:
    for example in examples[:_EXAMPLES]:
        change = f", {example.difference}" if example.difference else ""
        yield f"- {plain(example.image_id)}{change}"
        for said in example.said:
            text = f"“{plain(said.caption)}”" if said.caption else "no caption"
            yield f"  - {plain(said.name)} ({said.score}): {f'**{text}**' if said.is_best else text}"
        for reference in example.references[:_REFERENCES]:
            yield f"  - a person: “{plain(reference)}”"


def _bounded(text: str) -> str:
    """Cut what would be too long for a job's summary, between two lines."""
    if len(text.encode()) <= MAX_BYTES:
        return text
    kept = text.encode()[:MAX_BYTES].decode(errors="ignore")
    return f"{kept[: kept.rindex(chr(10))]}\n\nThe rest is in report.html.\n"
