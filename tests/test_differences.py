"""A comparison as people read it: at most 80 columns, every number rounded once, a finding in a word that needs no colour."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from rich.console import Console

from reports.differences import Finding, finding, make_difference_report
from reports.terminal_comparison import terminal_comparison


@dataclass(frozen=True, kw_only=True)
class _Difference:
    baseline: float = 0.5244
    value: float = 0.4952
    difference: float = -0.0292
    low: float = -0.0415
    high: float = -0.0161
    p_corrected: float = 0.0003
    n: int = 964
    higher_is_better: bool = True
    shown_times: float = 100.0


@dataclass(frozen=True, kw_only=True)
class _Options:
    resamples: int = 10_000
    seed: int = 12345
    confidence: float = 0.95


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    differences: Mapping[str, Mapping[str, _Difference]]
    baseline_name: str = "shipped"
    options: _Options = field(default_factory=_Options)
    notes: Sequence[str] = ()
    signatures: Mapping[str, str] = field(
        default_factory=lambda: {"shipped": "refs:x|decode:a|capt:1", "plain": "refs:x|decode:b|capt:1"}
    )

    @property
    def names(self) -> Sequence[str]:
        return list(self.differences)


PERPLEXITY = _Difference(
    baseline=115.67,
    value=123.4,
    difference=7.73,
    low=-0.004,
    high=9,
    p_corrected=0.2,
    n=950,
    higher_is_better=False,
    shown_times=1.0,
)


def _drawn(comparison: _Comparison) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(terminal_comparison(make_difference_report(comparison)))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_comparison_fits_80_columns_and_says_everything() -> None:
    """Both values, difference, interval, p, n and the finding are shown; below them what was done, notes and signatures."""
    wide = _Difference(difference=-0.4292, low=-0.5315, high=-0.3161)
    comparison = _Comparison(differences={"plain": {"CIDEr": wide, "perplexity": PERPLEXITY}}, notes=["plain is plain."])
    text = _drawn(comparison)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    squeezed = " ".join(text.split())
    for part in (
        "plain against shipped, 964 images",
        "CIDEr 52.44 49.52 -42.92 -53.15 to -31.61 <0.001 worse",
        "115.67 123.40 +7.73 0.00 to +9.00 0.200 unclear",
        "Scores ×100, as papers print them; perplexity as it is.",
        "95 %, paired bootstrap over images, 10,000 resamples, seed 12345.",
        "p: paired approximate randomisation. Better or worse: p below 0.05.",
        "Note: plain is plain.",
        "Signature of all: refs:x|capt:1",
        "Signature of shipped: decode:a",
        "Signature of plain: decode:b",
    ):
        assert part in squeezed, part
    assert "950" in squeezed


def test_several_systems_have_a_table_each_and_a_correction() -> None:
    """With two systems there are two tables, and the legend says that p is corrected; equal signatures are shown once."""
    comparison = _Comparison(
        differences={"plain": {"CIDEr": _Difference()}, "greedy": {"CIDEr": _Difference()}},
        signatures={"shipped": "refs:x", "plain": "refs:x", "greedy": "refs:x"},
    )
    squeezed = " ".join(_drawn(comparison).split())
    assert squeezed.count("against shipped, 964 images") == 2
    assert "corrected for 2 systems (Holm)" in squeezed
    assert "perplexity" not in squeezed
    assert squeezed.count("Signature of") == 1
    assert "Note" not in squeezed


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        (_Difference(), Finding.WORSE),
        (_Difference(difference=0.01), Finding.BETTER),
        (_Difference(difference=0.01, higher_is_better=False), Finding.WORSE),
        (_Difference(higher_is_better=False), Finding.BETTER),
        (_Difference(p_corrected=0.05), Finding.UNCLEAR),
        (_Difference(difference=0, low=-0.1, high=0.1, p_corrected=1), Finding.UNCLEAR),
        (_Difference(difference=0, low=0, high=0, p_corrected=1), Finding.SAME),
    ],
)
def test_a_finding_follows_direction_and_p(difference: _Difference, expected: Finding) -> None:
    """Better and worse need a p below the level, and mind which way is better; no difference at all is the same."""
    assert finding(difference, 0.05) is expected
