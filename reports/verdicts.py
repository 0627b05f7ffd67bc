"""What is said of a gate's judgement: which numbers, how they are rounded, in which words. Renderers only draw.

In: anything shaped like a judgement. Out: a VerdictTable of plain text. Apart from the renderers, so that terminal, Markdown,
JUnit and JSON cannot disagree; imports nothing of the judge, only its shape.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from reports.wording import number, signed

_DIGITS = 2  # after the point: tolerances are tenths
_SHORT = 40  # characters of a value that differs between two runs; longer ones are checksums


class ScoreVerdictShape(Protocol):
    """What the verdict on one score must have; numbers on the library's own scale."""

    @property
    def name(self) -> str:
        """As COCO prints it."""
        ...

    @property
    def verdict(self) -> str:
        """pass, warn, fail or not-comparable."""
        ...

    @property
    def findings(self) -> Sequence[str]:
        """What it rests on, keys of a sentence each."""
        ...

    @property
    def baseline(self) -> float | None:
        """The baseline's value."""
        ...

    @property
    def candidate(self) -> float | None:
        """The candidate's."""
        ...

    @property
    def difference(self) -> float | None:
        """Candidate minus baseline."""
        ...

    @property
    def low(self) -> float | None:
        """Lower end of its interval."""
        ...

    @property
    def high(self) -> float | None:
        """Upper end."""
        ...

    @property
    def allowed(self) -> float | None:
        """How far it may fall."""
        ...

    @property
    def limit(self) -> float | None:
        """Floor or ceiling."""
        ...

    @property
    def higher_is_better(self) -> bool:
        """False for perplexity."""
        ...

    @property
    def shown_times(self) -> float:
        """100 for what papers print times 100, else 1."""
        ...


class ChangeShape(Protocol):
    """What a difference between two runs must have."""

    @property
    def key(self) -> str:
        """What differs."""
        ...

    @property
    def baseline(self) -> str:
        """There."""
        ...

    @property
    def candidate(self) -> str:
        """Here."""
        ...


class JudgementShape(Protocol):
    """What a judgement must have to be told."""

    @property
    def verdict(self) -> str:
        """The worst of all."""
        ...

    @property
    def rows(self) -> Sequence[ScoreVerdictShape]:
        """One a score."""
        ...

    @property
    def reasons(self) -> Sequence[str]:
        """Why nothing can be compared."""
        ...

    @property
    def changes(self) -> Sequence[ChangeShape]:
        """In what the runs differ."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """Sentences that a reader must know."""
        ...

    @property
    def signatures(self) -> Mapping[str, str]:
        """Of both sides."""
        ...

    @property
    def confidence(self) -> float:
        """Of the intervals."""
        ...

    @property
    def renewed(self) -> Path | None:
        """The baseline that was written."""
        ...


@dataclass(frozen=True, kw_only=True)
class VerdictRow:
    """One line of the table, ready to print.

    Attributes:
        name: Of the score.
        verdict: Of the score.
        cells: Its numbers, one for each of the table's headings.
        said: A sentence, or empty.
    """

    name: str
    verdict: str
    cells: Sequence[str]
    said: str


@dataclass(frozen=True, kw_only=True)
class VerdictTable:
    """Everything that a renderer draws.

    Attributes:
        verdict: Of the whole.
        headline: One sentence.
        headings: Of the numbers; only those that some row has.
        rows: One a score.
        reasons: Why nothing can be compared.
        changes: What differs between the runs, there, here.
        notes: Sentences that a reader must know.
        legend: What the numbers are.
        signatures: Of which side, and the line.
    """

    verdict: str
    headline: str
    headings: Sequence[str]
    rows: Sequence[VerdictRow]
    reasons: Sequence[str]
    changes: Sequence[tuple[str, str, str]]
    notes: Sequence[str]
    legend: str
    signatures: Sequence[tuple[str, str]]


def make_verdict_table(judgement: JudgementShape) -> VerdictTable:
    """Decide what is said of a judgement.

    Args:
        judgement: What the gate found.

    Returns:
        The table.
    """
    found = {row.name: _cells(row) for row in judgement.rows}
    headings = ("baseline", "candidate", "change", f"{judgement.confidence * 100:g} % interval", "allowed")
    kept = [column for column in range(len(headings)) if any(cells[column] for cells in found.values())]
    return VerdictTable(
        verdict=str(judgement.verdict),
        headline=_headline(judgement),
        headings=[headings[column] for column in kept],
        rows=[
            VerdictRow(
                name=row.name,
                verdict=str(row.verdict),
                cells=[found[row.name][column] for column in kept],
                said=_sentence(row) if "baseline" in judgement.signatures or "new" not in row.findings else "",
            )
            for row in judgement.rows
        ],
        reasons=[_line(reason) for reason in judgement.reasons],
        changes=[(_line(each.key), _shortened(each.baseline), _shortened(each.candidate)) for each in judgement.changes],
        notes=[_line(note) for note in judgement.notes],
        legend=_legend(judgement),
        signatures=_signatures(judgement.signatures),
    )


def _headline(judgement: JudgementShape) -> str:
    """Say in one sentence how it ended."""
    if judgement.renewed is not None:
        return f"The candidate is the new baseline, written to {_line(str(judgement.renewed))}."
    worst = ", ".join(row.name for row in judgement.rows if row.verdict == judgement.verdict)
    return {
        "pass": "No score got clearly worse.",
        "warn": f"Look at {worst}.",
        "fail": f"What fails: {worst}.",
    }.get(judgement.verdict, "The candidate cannot be held against the baseline.")


def _legend(judgement: JudgementShape) -> str:
    plain = [row.name for row in judgement.rows if row.shown_times == 1]
    times = "Scores ×100" + (f", {', '.join(plain)} as it is" if plain else "")
    paired = any(row.difference is not None for row in judgement.rows)
    return times + ("; change with its paired bootstrap interval; allowed: how much worse it may get." if paired else ".")


def _signatures(signatures: Mapping[str, str]) -> list[tuple[str, str]]:
    """Say once what is the same of both."""
    if len(signatures) > 1 and len(set(signatures.values())) == 1:
        return [("both", _line(next(iter(signatures.values()))))]
    return [(f"the {side}", _line(line)) for side, line in signatures.items()]


def _cells(row: ScoreVerdictShape) -> list[str]:
    """Write the numbers of one score."""
    times = row.shown_times
    return [
        _number(row.baseline, times),
        _number(row.candidate, times),
        _signed(row.difference, times),
        "" if row.low is None or row.high is None else f"{_signed(row.low, times)} to {_signed(row.high, times)}",
        _number(row.allowed, times),
    ]


def _number(value: float | None, times: float) -> str:
    return "" if value is None else number(value * times, _DIGITS)


def _signed(value: float | None, times: float) -> str:
    return "" if value is None else signed(value * times, _DIGITS)


def _sentence(row: ScoreVerdictShape) -> str:
    """Put the findings on one score into words; empty when there is nothing to say."""
    drop = _drop(row)
    limit = f"{'below the floor' if row.higher_is_better else 'above the ceiling'} of {_number(row.limit, row.shown_times)}"
    words = {
        "limit": f"is {limit}",
        "vanished": "is missing from the candidate, though the baseline or the rules name it",
        "undefined": "cannot be judged, because it gives no number here",
        "strict": "would be a warning without --strict",
        "new": "is new: the baseline does not have it",
        "better": "got better, significantly: --update-baseline keeps that",
        "ignored": "is ignored by the rules",
    }
    parts = [drop, *(words[finding] for finding in words if finding in row.findings)]
    said = "; ".join(filter(None, parts))
    return f"{row.name} {said}." if said else ""


def _drop(row: ScoreVerdictShape) -> str:
    """Say how far a score fell, and how sure that is."""
    large, significant = "large" in row.findings, "significant" in row.findings
    if row.difference is None or not (large or significant):
        return ""
    fell = f"{'fell' if row.higher_is_better else 'rose'} by {_number(abs(row.difference), row.shown_times)}"
    size = f"more than the {_number(row.allowed, row.shown_times)} allowed"
    if large and significant:
        return f"{fell}, {size}, and significantly"
    if large:
        return f"{fell}, {size}, but not significantly"
    return f"{fell}, significantly" + (f" but not {size}" if row.allowed is not None else "")


def _shortened(value: str) -> str:
    line = _line(value)
    return line if len(line) <= _SHORT else f"{line[:12]}…"


def _line(text: str) -> str:
    """Make a text one line that no terminal obeys: ids and names come from files that anybody may have written."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(text.split()))
