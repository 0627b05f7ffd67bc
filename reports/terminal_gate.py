"""A gate's verdicts on a terminal or in a log: at most 80 columns, no colour needed to read them.

In: a VerdictTable. Out: something that rich prints. Apart, because it draws and decides nothing.
"""

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from reports.safe_text import safe_text
from reports.verdicts import VerdictTable

_STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red", "not-comparable": "bold red"}
_SHOWN = 12  # changes between two runs; all of them are in the JSON


def terminal_gate(table: VerdictTable) -> RenderableType:
    """Draw verdicts.

    Args:
        table: What is said.

    Returns:
        For rich's Console to print; it renders itself, on a terminal or in a log.
    """
    style = _STYLES.get(table.verdict, "")
    parts: list[RenderableType] = [safe_text(f"Gate: {table.verdict}. {table.headline}", style=style)]
    parts += [safe_text(f"Reason: {reason}", style=style) for reason in table.reasons]
    parts += [_scores(table), safe_text(table.legend, style="dim")] if table.rows else []
    parts += _paragraph([safe_text(row.said, style=_STYLES.get(row.verdict, "")) for row in table.rows if row.said])
    parts += _paragraph([safe_text(f"Note: {note}", style="yellow") for note in table.notes])
    changes = [safe_text(f"{key}: {before} -> {after}") for key, before, after in table.changes[:_SHOWN]]
    if len(table.changes) > _SHOWN:
        changes.append(safe_text(f"and {len(table.changes) - _SHOWN} more"))
    parts += _paragraph([safe_text("What differs between the runs, baseline -> candidate:"), *changes] if changes else [])
    parts += _paragraph([safe_text(f"Signature of {side}: {line}", style="dim") for side, line in table.signatures])
    return Group(*parts)


def _scores(table: VerdictTable) -> Table:
    """Draw the table of scores."""
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    drawn.add_column("score", no_wrap=True)
    drawn.add_column("verdict", no_wrap=True)
    for heading in table.headings:
        drawn.add_column(heading, justify="right", no_wrap=True)
    for row in table.rows:
        drawn.add_row(row.name, safe_text(row.verdict, style=_STYLES.get(row.verdict, "")), *row.cells)
    return drawn


def _paragraph(lines: list[Text]) -> list[Text]:
    """Set lines apart from what stands above them."""
    return [Text(), *lines] if lines else []
