"""A gate's verdicts as Markdown, such as GitHub shows below a run.

In: a VerdictTable. Out: text that is safe whatever captions, files or ids are called, and never longer than allowed. Apart,
because it draws and decides nothing.
"""

import re
from collections.abc import Sequence

from reports.verdicts import VerdictTable

_SPECIAL = re.compile(r"[\\`*_{}\[\]()#!|~@$^]|^[-+=]|:(?=//)|(?<=www)\.", re.IGNORECASE)
_NUMBERED = re.compile(r"^(\d+)(?=\.(?:\s|$))")  # would begin a list
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_CELL = 1000  # characters; no caption or name needs more


def gate_markdown(table: VerdictTable, *, most_bytes: int) -> str:
    """Draw verdicts.

    Args:
        table: What is said.
        most_bytes: How long the text may be, in UTF-8.

    Returns:
        Markdown between line breaks: everything; else without the differences between the runs; else the verdict alone;
        else nothing.
    """
    heading = f"\n## Caption gate: {escape(table.verdict)}\n\n{escape(table.headline)}\n\n"
    body = _list(table.reasons) + _scores(table) + _list([row.said for row in table.rows if row.said])
    body += f"Notes:\n\n{_list(table.notes)}" if table.notes else ""
    whole = heading + body + _changes(table)
    return next((text for text in (whole, heading + body, heading) if len(text.encode()) <= most_bytes), "")


def escape(text: str) -> str:
    """Make text show as it is written, in a cell or a line of Markdown.

    Args:
        text: Anything.

    Returns:
        One line without control characters, HTML, links, or anything else that Markdown gives a meaning.
    """
    line = "".join(letter if letter.isprintable() else " " for letter in " ".join(text.split()))
    line = f"{line[:_CELL]}…" if len(line) > _CELL else line
    escaped = _NUMBERED.sub(r"\1\\", _SPECIAL.sub(r"\\\g<0>", line))
    return "".join(_ENTITIES.get(letter, letter) for letter in escaped)


def _scores(table: VerdictTable) -> str:
    if not table.rows:
        return ""
    head = ["score", "verdict", *table.headings]
    rows = [[row.name, row.verdict, *row.cells] for row in table.rows]
    return _table(head, rows, right_from=2) + f"{escape(table.legend)}\n\n"


def _changes(table: VerdictTable) -> str:
    """Fold away what differs between the runs, and both signatures."""
    parts = []
    if table.changes:
        parts.append(_table(["what differs", "baseline", "candidate"], table.changes, right_from=3))
    parts.append(_list([f"Signature of {side}: {line}" for side, line in table.signatures]))
    inside = "".join(parts)
    return f"<details><summary>How the two were made</summary>\n\n{inside}</details>\n\n" if inside else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right_from: int) -> str:
    rule = ["---" if column < right_from else "---:" for column in range(len(head))]
    lines = [_line([escape(cell) for cell in head]), _line(rule), *(_line([escape(cell) for cell in row]) for row in rows)]
    return "\n".join(lines) + "\n\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _list(lines: Sequence[str]) -> str:
    return "".join(f"- {escape(line)}\n" for line in lines) + "\n" if lines else ""
