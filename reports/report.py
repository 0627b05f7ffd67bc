"""What a report says: which numbers, how they are rounded, in which words. All decisions are here; renderers only draw.

In: anything shaped like an evaluation. Out: a Report of plain text. Apart from the renderers, so that terminal, Markdown and
HTML cannot disagree; imports nothing of the judge, only its shape.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


class ScoreShape(Protocol):
    """What a score must have to be reported: value and interval on the library's scale, n, and what to multiply by."""

    @property
    def value(self) -> float:
        """On the library's scale."""
        ...

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        ...

    @property
    def high(self) -> float:
        """Upper end of the interval."""
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


class AnchorShape(Protocol):
    """Something known, scored on the same references."""

    @property
    def said(self) -> str:
        """What it is."""
        ...

    @property
    def scores(self) -> Mapping[str, float]:
        """By name, on the library's scale."""
        ...


class EvaluationShape(Protocol):
    """What an evaluation must have to be reported."""

    @property
    def scores(self) -> Mapping[str, ScoreShape]:
        """By name."""
        ...

    @property
    def figures(self) -> Mapping[str, float]:
        """What explains them."""
        ...

    @property
    def signature(self) -> str:
        """Everything that changes a number."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """Sentences that a reader must know."""
        ...

    @property
    def anchors(self) -> Mapping[str, AnchorShape]:
        """By name; empty when nobody asked for them."""
        ...


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """One line of the table of scores, ready to print."""

    name: str
    value: str
    interval: str
    n: str
    better: str


@dataclass(frozen=True, kw_only=True)
class AnchorTable:
    """What something known reaches on the same references: headings, one row a score, and what the headings mean."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    legend: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that a renderer draws.

    Attributes:
        scores: The table.
        legend: What its numbers are.
        anchors: What to hold them against; None when nobody asked.
        figures: Label and value of what explains them.
        notes: Sentences that a reader must know.
        signature: One line.
    """

    scores: Sequence[ScoreRow]
    legend: str
    anchors: AnchorTable | None
    figures: Sequence[tuple[str, str]]
    notes: Sequence[str]
    signature: str


FIGURES = {
    "mean_length": ("words per caption", "{:.1f}"),
    "length_ratio": ("length against the closest reference", "{:.2f}"),
    "distinct_words": ("distinct words", "{:,.0f}"),
    "distinct_captions": ("distinct captions", "{:.1%}"),
    "repeated_3grams": ("captions that repeat three words", "{:.1%}"),
    "empty_captions": ("empty captions", "{:.1%}"),
    "unseen_captions": ("captions never seen in training", "{:.1%}"),
    "unknown_reference_words": ("words of the references that it does not know", "{:.1%}"),
}
"""Label and format of what explains the scores, in the order shown."""


def make_report(evaluation: EvaluationShape) -> Report:
    """Decide what is said of one evaluation.

    Args:
        evaluation: What the judge found.

    Returns:
        The report.
    """
    rows = [_row(name, score) for name, score in evaluation.scores.items()]
    plain = [name for name, score in evaluation.scores.items() if score.shown_times == 1]
    legend = "Scores ×100, as papers print them" + (f"; {', '.join(plain)} as it is" if plain else "")
    figures = [
        (label, form.format(evaluation.figures[name])) for name, (label, form) in FIGURES.items() if name in evaluation.figures
    ]
    return Report(
        scores=rows,
        legend=f"{legend}. Intervals: 95 % bootstrap over images. BLEU and METEOR are corpus scores, no means over images.",
        anchors=_anchors(evaluation) if evaluation.anchors else None,
        figures=figures,
        notes=list(evaluation.notes),
        signature=evaluation.signature,
    )


def _anchors(evaluation: EvaluationShape) -> AnchorTable:
    """Put the anchors beside the scores that they have."""
    anchors = evaluation.anchors
    return AnchorTable(
        headings=["on the same references", "these captions", *anchors],
        rows=[
            [
                name,
                *(
                    f"{value * score.shown_times:.1f}"
                    for value in (score.value, *(each.scores[name] for each in anchors.values()))
                ),
            ]
            for name, score in evaluation.scores.items()
            if all(name in each.scores for each in anchors.values())
        ],
        legend=[f"{name}: {anchor.said}" for name, anchor in anchors.items()],
    )


def _row(name: str, score: ScoreShape) -> ScoreRow:
    value, low, high = (f"{number * score.shown_times:.1f}" for number in (score.value, score.low, score.high))
    better = "higher" if score.higher_is_better else "lower"
    return ScoreRow(name=name, value=value, interval=f"{low} to {high}", n=f"{score.n:,}", better=better)
