"""What is said of systems held against a baseline: which numbers, how they are rounded, in which words.

In: anything shaped like a comparison. Out: a DifferenceReport of plain text. Apart from the renderers, so that terminal, Markdown
and HTML cannot disagree; imports nothing of the judge, only its shape.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

_BAR = "|"  # between the parts of a signature
_LEAST_SHOWN = 0.001  # a smaller p is shown as smaller than this


class Finding(StrEnum):
    """What a difference comes to."""

    BETTER = "better"
    WORSE = "worse"
    UNCLEAR = "unclear"
    SAME = "same"


class DifferenceShape(Protocol):
    """What a difference must have to be reported: both values, their distance, its interval and p, all on the library's scale."""

    @property
    def baseline(self) -> float:
        """The baseline's value."""
        ...

    @property
    def value(self) -> float:
        """The system's."""
        ...

    @property
    def difference(self) -> float:
        """The second minus the first."""
        ...

    @property
    def low(self) -> float:
        """Lower end of its interval."""
        ...

    @property
    def high(self) -> float:
        """Upper end of its interval."""
        ...

    @property
    def p_corrected(self) -> float:
        """After correction for several systems."""
        ...

    @property
    def n(self) -> int:
        """Images behind it."""
        ...

    @property
    def higher_is_better(self) -> bool:
        """False for perplexity."""
        ...

    @property
    def shown_times(self) -> float:
        """100 for what papers print times 100, else 1."""
        ...


class OptionsShape(Protocol):
    """How intervals and p-values were computed."""

    @property
    def resamples(self) -> int:
        """How many."""
        ...

    @property
    def seed(self) -> int:
        """Of both tests."""
        ...

    @property
    def confidence(self) -> float:
        """The share of resamples inside an interval."""
        ...


class ComparisonShape(Protocol):
    """What a comparison must have to be reported."""

    @property
    def baseline_name(self) -> str:
        """Of the baseline."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """Of the other systems."""
        ...

    @property
    def differences(self) -> Mapping[str, Mapping[str, DifferenceShape]]:
        """By system, then by score."""
        ...

    @property
    def options(self) -> OptionsShape:
        """Of both tests."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """Sentences that a reader must know."""
        ...

    @property
    def signatures(self) -> Mapping[str, str]:
        """By name, the baseline's too: everything that changes a number."""
        ...


@dataclass(frozen=True, kw_only=True)
class DifferenceRow:
    """One line of a table of differences, ready to print."""

    name: str
    baseline: str
    value: str
    difference: str
    interval: str
    p: str
    finding: Finding


@dataclass(frozen=True, kw_only=True)
class DifferenceTable:
    """One system against the baseline.

    Attributes:
        system: Its name.
        title: Who is held against whom, over how many images.
        rows: One a score.
    """

    system: str
    title: str
    rows: Sequence[DifferenceRow]


@dataclass(frozen=True, kw_only=True)
class DifferenceReport:
    """Everything that a renderer draws.

    Attributes:
        tables: One a system.
        interval: What stands above the intervals.
        legend: What the numbers are, and the words.
        notes: Sentences that a reader must know.
        signatures: Whose, and what: first what all have in common, then what each has alone.
    """

    tables: Sequence[DifferenceTable]
    interval: str
    legend: str
    notes: Sequence[str]
    signatures: Sequence[tuple[str, str]]


def make_difference_report(comparison: ComparisonShape) -> DifferenceReport:
    """Decide what is said of a comparison.

    Args:
        comparison: What the judge found.

    Returns:
        The report.
    """
    level = round(1 - comparison.options.confidence, 9)  # 0.05, without the last digits of the subtraction
    tables = []
    for system in comparison.names:
        found = comparison.differences[system]
        n = max((each.n for each in found.values()), default=0)
        tables.append(
            DifferenceTable(
                system=system,
                title=f"{system} against {comparison.baseline_name}, {n:,} images",
                rows=[_row(name, each, n, level) for name, each in found.items()],
            )
        )
    return DifferenceReport(
        tables=tables,
        interval=f"{_percent(comparison.options.confidence)} interval",
        legend=_legend(comparison, level),
        notes=list(comparison.notes),
        signatures=_signatures(comparison.signatures),
    )


def finding(difference: DifferenceShape, level: float) -> Finding:
    """Say in one word what a difference comes to.

    Args:
        difference: What was found.
        level: The p from which on a difference may be chance, such as 0.05.

    Returns:
        The word.
    """
    if difference.difference == difference.low == difference.high == 0:
        return Finding.SAME
    if difference.p_corrected >= level:
        return Finding.UNCLEAR
    return Finding.BETTER if (difference.difference > 0) == difference.higher_is_better else Finding.WORSE


def _row(name: str, found: DifferenceShape, n: int, level: float) -> DifferenceRow:
    apart, low, high = (_signed(number * found.shown_times) for number in (found.difference, found.low, found.high))
    return DifferenceRow(
        name=name if found.n == n else f"{name}, {found.n:,} images",
        baseline=f"{found.baseline * found.shown_times:.2f}",
        value=f"{found.value * found.shown_times:.2f}",
        difference=apart,
        interval=f"{low} to {high}",
        p=f"{found.p_corrected:.3f}" if found.p_corrected >= _LEAST_SHOWN else f"<{_LEAST_SHOWN}",
        finding=finding(found, level),
    )


def _signed(number: float) -> str:
    """Write a difference with its sign; nothing has none."""
    text = f"{number:+.2f}"
    return text if float(text) else "0.00"


def _legend(comparison: ComparisonShape, level: float) -> str:
    """Say what the numbers and the words are."""
    options, systems = comparison.options, len(comparison.names)
    shown = {name: each for found in comparison.differences.values() for name, each in found.items()}
    plain = ", ".join(name for name, each in shown.items() if each.shown_times == 1)
    corrected = f", corrected for {systems} systems (Holm)" if systems > 1 else ""
    return (
        f"Scores ×100, as papers print them{f'; {plain} as it is' if plain else ''}."
        f" Intervals: {_percent(options.confidence)}, paired bootstrap over images, {options.resamples:,} resamples, seed"
        f" {options.seed}. p: paired approximate randomisation{corrected}. Better or worse: p below {level:.2g}."
    )


def _percent(share: float) -> str:
    return f"{share * 100:g} %"


def _signatures(signatures: Mapping[str, str]) -> list[tuple[str, str]]:
    """Write once what all signatures have in common."""
    parts = {name: signature.split(_BAR) for name, signature in signatures.items()}
    first = next(iter(parts.values()))
    common = [part for part in first if all(part in each for each in parts.values())]
    own = {name: _BAR.join(part for part in each if part not in common) for name, each in parts.items()}
    return [("all", _BAR.join(common)), *((name, text) for name, text in own.items() if text)]
