"""What is said of a judgement, and how terminal and Markdown show it: the same words, the same rounding, within 80 columns."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from reports.gate_markdown import gate_markdown
from reports.terminal_gate import terminal_gate
from reports.verdicts import VerdictTable, make_verdict_table

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class _Row:
    name: str = "CIDEr"
    verdict: str = "pass"
    findings: Sequence[str] = ()
    baseline: float | None = 0.5244
    candidate: float | None = 0.4952
    difference: float | None = -0.0292
    low: float | None = -0.0413
    high: float | None = -0.0157
    allowed: float | None = 0.01
    limit: float | None = None
    higher_is_better: bool = True
    shown_times: float = 100.0


@dataclass(frozen=True, kw_only=True)
class _Change:
    key: str = "run.decoding.beam_size"
    baseline: str = "3"
    candidate: str = "1"


@dataclass(frozen=True, kw_only=True)
class _Judgement:
    verdict: str = "fail"
    rows: Sequence[_Row] = (_Row(verdict="fail", findings=("large", "significant")),)
    reasons: Sequence[str] = ()
    changes: Sequence[_Change] = ()
    notes: Sequence[str] = ()
    signatures: Mapping[str, str] = field(default_factory=lambda: {"baseline": "refs:a", "candidate": "refs:b"})
    confidence: float = 0.95
    renewed: Path | None = None


PERPLEXITY = _Row(
    name="perplexity",
    baseline=15.66,
    candidate=16.0,
    difference=0.34,
    low=0.28,
    high=0.38,
    allowed=0.31,
    higher_is_better=False,
    shown_times=1.0,
)


def _said(row: _Row) -> str:
    (found,) = make_verdict_table(_Judgement(rows=[row])).rows
    return found.said


def _drawn(table: VerdictTable) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(terminal_gate(table))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("findings", "said"),
    [
        ((), ""),
        (("large", "significant"), "CIDEr fell by 2.92, more than the 1.00 allowed, and significantly."),
        (("large",), "CIDEr fell by 2.92, more than the 1.00 allowed, but not significantly."),
        (("significant",), "CIDEr fell by 2.92, significantly but not more than the 1.00 allowed."),
        (("significant", "strict"), "CIDEr fell by 2.92, significantly but not more than the 1.00 allowed; would be a warning"),
        (("better",), "CIDEr got better, significantly: --update-baseline keeps that."),
        (("ignored",), "CIDEr is ignored by the rules."),
        (("vanished",), "CIDEr is missing from the candidate, though the baseline or the rules name it."),
        (("undefined",), "CIDEr cannot be judged, because it gives no number here."),
        (("new",), "CIDEr is new: the baseline does not have it."),
    ],
)
def test_each_finding_is_a_sentence(findings: tuple[str, ...], said: str) -> None:
    """Numbers ×100 and rounded once; what passes without remark says nothing."""
    assert _said(_Row(findings=findings)).startswith(said)
    assert bool(_said(_Row(findings=findings))) == bool(said)


def test_perplexity_rises_and_has_a_ceiling() -> None:
    """Its words follow the direction, its numbers are as they are."""
    row = _Row(**{**vars(PERPLEXITY), "findings": ("large", "significant", "limit"), "limit": 15.9})
    assert _said(row) == (
        "perplexity rose by 0.34, more than the 0.31 allowed, and significantly; is above the ceiling of 15.90."
    )
    assert _said(_Row(findings=("limit",), limit=0.5)) == "CIDEr is below the floor of 50.00."
    assert _said(_Row(findings=("significant",), allowed=None)) == "CIDEr fell by 2.92, significantly."


def test_a_table_has_the_columns_that_some_score_fills() -> None:
    """What cannot be compared shows values alone; a comparison shows change, interval and tolerance as well."""
    table = make_verdict_table(_Judgement(rows=[_Row(), PERPLEXITY]))
    assert list(table.headings) == ["baseline", "candidate", "change", "95 % interval", "allowed"]
    assert [list(row.cells) for row in table.rows] == [
        ["52.44", "49.52", "−2.92", "−4.13 to −1.57", "1.00"],
        ["15.66", "16.00", "+0.34", "+0.28 to +0.38", "0.31"],
    ]
    assert table.legend.startswith("Scores ×100, perplexity as it is;")
    bare = _Row(verdict="not-comparable", difference=None, low=None, high=None, allowed=None)
    table = make_verdict_table(_Judgement(verdict="not-comparable", rows=[bare]))
    assert (list(table.headings), list(table.rows[0].cells)) == (["baseline", "candidate"], ["52.44", "49.52"])


@pytest.mark.parametrize(
    ("judgement", "headline"),
    [
        (_Judgement(), "What fails: CIDEr."),
        (_Judgement(verdict="warn", rows=[_Row(), _Row(name="METEOR", verdict="warn")]), "Look at METEOR."),
        (_Judgement(verdict="pass", rows=[_Row()]), "No score got clearly worse."),
        (_Judgement(verdict="not-comparable", rows=[]), "The candidate cannot be held against the baseline."),
        (_Judgement(verdict="pass", renewed=Path("b.parquet")), "The candidate is the new baseline, written to b.parquet."),
    ],
)
def test_the_headline_says_how_it_ended(judgement: _Judgement, headline: str) -> None:
    """In one sentence that names the scores that matter."""
    assert make_verdict_table(judgement).headline == headline


def test_a_first_baseline_is_not_told_score_by_score() -> None:
    """Without a baseline every score is new, which the headline says once."""
    first = _Judgement(verdict="pass", rows=[_Row(findings=("new", "accepted"))], signatures={"candidate": "refs:b"})
    assert [row.said for row in make_verdict_table(first).rows] == [""]


def test_the_terminal_shows_everything_in_80_columns() -> None:
    """Verdict, reasons, numbers, sentences, notes, the first changes and both signatures; readable without colour."""
    rows = [_Row(name=name, verdict=word) for name, word in (("perplexity", "pass"), ("Bleu_4", "warn"), ("METEOR", "fail"))]
    rows.append(_Row(verdict="fail", findings=("large", "significant")))
    judgement = _Judgement(
        rows=rows,
        changes=[_Change(key=f"run.key_{number}") for number in range(20)],
        notes=["The candidate was made with beam_size 1 instead of 3. " * 3],
        signatures={"baseline": "refs:a|" + "a" * 200, "candidate": "refs:b"},
    )
    text = _drawn(make_verdict_table(judgement))
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    squeezed = " ".join(text.split())
    for part in (
        "Gate: fail. What fails: METEOR, CIDEr.",
        "Bleu_4 warn 52.44 49.52 −2.92 −4.13 to −1.57 1.00",
        "CIDEr fell by 2.92, more than the 1.00 allowed, and significantly.",
        "Note: The candidate was made with",
        "run.key_11: 3 -> 1 and 8 more",
        "Signature of the candidate: refs:b",
    ):
        assert part in squeezed
    refusal = _drawn(make_verdict_table(_Judgement(verdict="not-comparable", rows=[], reasons=["why"], signatures={})))
    assert refusal.split("\n") == [
        "Gate: not-comparable. The candidate cannot be held against the baseline.",
        "Reason: why",
        "",
    ]


def test_equal_signatures_are_shown_once() -> None:
    """One line is enough for two runs that were made alike."""
    table = make_verdict_table(_Judgement(signatures={"baseline": "refs:a", "candidate": "refs:a"}))
    assert list(table.signatures) == [("both", "refs:a")]


def test_text_from_files_cannot_command_a_terminal() -> None:
    """Escape sequences and line breaks in ids, names and reasons are shown, not obeyed."""
    hostile = "a\x1b[2Jb\nc\rd\x07"
    table = make_verdict_table(
        _Judgement(
            reasons=[hostile],
            notes=[hostile],
            changes=[_Change(key=hostile, baseline=hostile)],
            signatures={"baseline": hostile},
            renewed=Path(hostile),
        )
    )
    for text in (table.reasons[0], table.notes[0], *table.changes[0], table.signatures[0][1], table.headline):
        assert all(letter.isprintable() for letter in text)
    assert table.reasons[0] == "a\ufffd[2Jb c d\ufffd"


def test_markdown_says_the_same() -> None:
    """Heading, table, sentences, notes; what differs between the runs is folded away."""
    judgement = _Judgement(changes=[_Change()], notes=["Few images."])
    text = gate_markdown(make_verdict_table(judgement), most_bytes=MEBIBYTE)
    html = MarkdownIt().enable("table").render(text.replace("<details>", "").replace("</details>", ""))
    for part in (
        "<h2>Caption gate: fail</h2>",
        "<p>What fails: CIDEr.</p>",
        '<th style="text-align:right">95 % interval</th>',
        "<td>CIDEr</td>\n<td>fail</td>\n" + '<td style="text-align:right">52.44</td>',
        "<li>CIDEr fell by 2.92, more than the 1.00 allowed, and significantly.</li>",
        "<li>Few images.</li>",
        "<td>run.decoding.beam_size</td>\n<td>3</td>\n<td>1</td>",
        "<li>Signature of the candidate: refs:b</li>",
    ):
        assert part in html
    assert "<details><summary>How the two were made</summary>\n\n|" in text
    assert text.startswith("\n## ")
    assert text.endswith("\n")


def test_a_summary_never_exceeds_what_is_allowed() -> None:
    """Too long, it goes without what differs between the runs; then it is the verdict alone; then nothing."""
    judgement = _Judgement(notes=["é" * 900] * 5, changes=[_Change(candidate=str(number)) for number in range(500)])
    table = make_verdict_table(judgement)
    whole = gate_markdown(table, most_bytes=MEBIBYTE)
    size = len(whole.encode())
    lengths = []
    for most in (size, size - 1, 5000, 100, 10, 0, -5):
        text = gate_markdown(table, most_bytes=most)
        assert len(text.encode()) <= max(most, 0)
        lengths.append(len(text))
    assert lengths[0] > lengths[1] > lengths[3] > lengths[4] == lengths[5] == lengths[6] == 0
    assert "What fails: CIDEr." in gate_markdown(table, most_bytes=100)


def test_endless_texts_are_cut() -> None:
    """A million letters in one id do not become a million letters in the summary."""
    table = make_verdict_table(_Judgement(reasons=["x" * 1_000_000]))
    text = gate_markdown(table, most_bytes=MEBIBYTE)
    assert len(text) < 5000
    assert "x…" in text
