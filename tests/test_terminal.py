"""A report on a terminal or in a log: at most 80 columns, every number with interval and n, readable without colour."""

import io
from dataclasses import dataclass, field

from rich.console import Console, RenderableType

from reports.report import make_report
from reports.terminal import terminal_checks, terminal_report


@dataclass(frozen=True)
class _Score:
    value: float
    low: float
    high: float
    n: int = 31014
    higher_is_better: bool = True
    shown_times: float = 100.0


@dataclass(frozen=True)
class _Evaluation:
    scores: dict[str, _Score]
    figures: dict[str, float] = field(default_factory=dict)
    signature: str = "refs:x|" + "a" * 200
    notes: list[str] = field(default_factory=list)
    anchors: dict[str, "_Anchor"] = field(default_factory=dict)


@dataclass(frozen=True)
class _Anchor:
    said: str
    scores: dict[str, float]


@dataclass(frozen=True)
class _Check:
    name: str
    passed: bool
    said: str


def _drawn(renderable: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_report_fits_80_columns_and_shows_interval_and_n() -> None:
    """Scores are shown ×100 and perplexity as it is, and that is said; the whole signature is there."""
    evaluation = _Evaluation(
        scores={"CIDEr": _Score(0.8141, 0.7704, 0.855), "perplexity": _Score(16.44, 16.1, 16.8, 964, False, 1.0)},  # noqa: FBT003  # a row
        figures={"mean_length": 11.388, "distinct_captions": 0.5, "unknown": 1.0},
        notes=["Partial: 2 images of the references have no caption, so nothing compares with these scores."],
    )
    text = _drawn(terminal_report(make_report(evaluation)))
    assert max(map(len, text.splitlines())) <= 80
    squeezed = " ".join(text.split())
    for part in (
        "CIDEr 81.4 77.0 to 85.5 31,014 higher",
        "perplexity 16.4 16.1 to 16.8 964 lower",
        "Scores ×100, as papers print them; perplexity as it is.",
        "words per caption: 11.4",
        "distinct captions: 50.0%",
        "Note: Partial: 2 images",
    ):
        assert part in squeezed
    assert evaluation.signature in "".join(line.strip() for line in text.splitlines())
    assert "\x1b" not in text


def test_a_report_without_notes_says_nothing_more() -> None:
    """No empty heading when there is nothing to note, no word of perplexity when there is none."""
    text = _drawn(terminal_report(make_report(_Evaluation(scores={"METEOR": _Score(0.2, 0.1, 0.3)}))))
    assert "Note" not in text
    assert "perplexity" not in text


def test_anchors_stand_beside_the_scores_that_they_have() -> None:
    """A constant caption and one human have CIDEr and no perplexity; what they are is said; 80 columns are enough."""
    evaluation = _Evaluation(
        scores={"CIDEr": _Score(0.524, 0.489, 0.560), "perplexity": _Score(15.7, 15.1, 16.3, 964, False, 1.0)},  # noqa: FBT003  # a row
        anchors={
            "constant caption": _Anchor("every image captioned alike", {"CIDEr": 0.084}),
            "one human": _Anchor("each image's first reference against its other 4", {"CIDEr": 0.814}),
        },
    )
    text = _drawn(terminal_report(make_report(evaluation)))
    assert max(map(len, text.splitlines())) <= 80
    assert "CIDEr 52.4 8.4 81.4" in " ".join(text.split())
    assert "constant caption: every image captioned alike" in text
    assert sum("perplexity" in line for line in text.splitlines()) == 2  # its row, and the legend


def test_checks_show_what_failed() -> None:
    """Each check is one row with its verdict in words."""
    text = _drawn(terminal_checks([_Check("Java", True, "openjdk"), _Check("memory", False, "1.0 GB are free")]))  # noqa: FBT003  # rows
    assert [line.split()[:2] for line in text.splitlines()] == [["ok", "Java"], ["FAILED", "memory"]]
