"""A comparison on a terminal or in a log: at most 80 columns, no colour needed to read it.

In: a DifferenceReport. Out: something that rich prints. Apart, because it draws and decides nothing.
"""

from collections.abc import Mapping

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from reports.differences import DifferenceReport, DifferenceTable, Finding
from reports.safe_text import safe_text

_STYLES: Mapping[Finding, str] = {Finding.BETTER: "green", Finding.WORSE: "bold red", Finding.UNCLEAR: "", Finding.SAME: "dim"}


def terminal_comparison(report: DifferenceReport) -> RenderableType:
    """Draw a comparison.

    Args:
        report: What it says.

    Returns:
        For rich's Console to print.
    """
    parts: list[RenderableType] = []
    for table in report.tables:
        parts += [safe_text(table.title, style="bold"), _differences(table, report.interval)]
    parts.append(safe_text(report.legend, style="dim"))
    parts += [Text(), *(safe_text(f"Note: {note}", style="yellow") for note in report.notes)] if report.notes else []
    parts.append(Text())
    parts += [safe_text(f"Signature of {name}: {signature}", style="dim") for name, signature in report.signatures]
    return Group(*parts)


def _differences(shown: DifferenceTable, interval: str) -> Table:
    """Draw the table of one system."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("score")
    for heading in ("baseline", "value", "difference", interval, "p"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("found", no_wrap=True)
    for row in shown.rows:
        table.add_row(
            row.name,
            row.baseline,
            row.value,
            safe_text(row.difference, style="bold"),
            row.interval,
            row.p,
            safe_text(row.finding, style=_STYLES[row.finding]),
        )
    return table
