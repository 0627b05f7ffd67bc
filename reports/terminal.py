"""A Report on a terminal or in a log: at most 80 columns, no colour needed to read it.

In: a Report. Out: something that rich prints. Apart, because it draws and decides nothing.
"""

from collections.abc import Sequence
from typing import Protocol

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from reports.report import AnchorTable, Report
from reports.safe_text import safe_text

WIDTH = 80


def terminal_report(report: Report) -> RenderableType:
    """Draw a report.

    Args:
        report: What it says.

    Returns:
        For rich's Console to print; it renders itself, on a terminal or in a log.
    """
    parts: list[RenderableType] = [_scores(report), safe_text(report.legend, style="dim"), Text()]
    parts += _anchors(report.anchors) if report.anchors else []
    parts += [safe_text(f"{label}: {value}") for label, value in report.figures]
    parts += [Text(), *(safe_text(f"Note: {note}", style="yellow") for note in report.notes)] if report.notes else []
    parts += [Text(), safe_text(f"Signature: {report.signature}", style="dim")]
    return Group(*parts)


def _anchors(shown: AnchorTable) -> list[RenderableType]:
    """Draw what the scores are held against."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    first, *others = shown.headings
    table.add_column(first)
    for heading in others:
        table.add_column(heading, justify="right")
    for row in shown.rows:
        table.add_row(*map(safe_text, row))
    return [table, *(safe_text(line, style="dim") for line in shown.legend), Text()]


def _scores(report: Report) -> Table:
    """Draw the table of scores."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("score")
    for heading in ("value", "95 % interval", "images"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("better", no_wrap=True)
    for row in report.scores:
        table.add_row(row.name, safe_text(row.value, style="bold"), row.interval, row.n, row.better)
    return table


class CheckShape(Protocol):
    """What a check must have to be drawn."""

    @property
    def name(self) -> str:
        """What was looked at."""
        ...

    @property
    def passed(self) -> bool:
        """Whether it will do."""
        ...

    @property
    def said(self) -> str:
        """What was found, or what to do."""
        ...


def terminal_checks(checks: Sequence[CheckShape]) -> RenderableType:
    """Draw checks of the machine.

    Args:
        checks: In order.

    Returns:
        For rich's Console to print.
    """
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in checks:
        verdict = safe_text("ok", style="green") if check.passed else safe_text("FAILED", style="bold red")
        table.add_row(verdict, check.name, safe_text(check.said))
    return table
