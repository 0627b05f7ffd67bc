"""A gate's verdicts as Markdown, such as GitHub shows below a run.

In: a VerdictTable. Out: text that is safe whatever captions, files or ids are called, and never longer than allowed. Apart,
because it draws and decides nothing.
"""

from collections.abc import Sequence

from reports.markdown_text import plain
from reports.verdicts import VerdictTable

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
    heading = f"\n## Caption gate: {_plain(table.verdict)}\n\n{_plain(table.headline)}\n\n"
    body = _list(table.reasons) + _scores(table) + _list([row.said for row in table.rows if row.said])
    body += f"Notes:\n\n{_list(table.notes)}" if table.notes else ""
    whole = heading + body + _changes(table)
    return next((text for text in (whole, heading + body, heading) if len(text.encode()) <= most_bytes), "")


def _plain(text: str) -> str:
    return plain(text, _CELL)


def _scores(table: VerdictTable) -> str:
    if not table.rows:
        return ""
    head = ["score", "verdict", *table.headings]
    rows = [[row.name, row.verdict, *row.cells] for row in table.rows]
    return _table(head, rows, right_from=2) + f"{_plain(table.legend)}\n\n"


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
    lines = [_line([_plain(cell) for cell in head]), _line(rule), *(_line([_plain(cell) for cell in row]) for row in rows)]
    return "\n".join(lines) + "\n\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _list(lines: Sequence[str]) -> str:
    return "".join(f"- {_plain(line)}\n" for line in lines) + "\n" if lines else ""
