"""A candidate against a baseline: a verdict for each score and for the whole, and the exit code that follows from it.

In: two evaluations and rules. Out: a Judgement. Apart, because verdict and exit code are one computation: nothing prints, writes
or exits here, and whoever does takes both from the same place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import isfinite
from pathlib import Path

from evaluation.comparison import Difference, incomparable, paired_differences
from evaluation.gate_rules import Rule, Rules, Severity, score_names
from evaluation.provenance import provenance_notes
from evaluation.scores import Evaluation, Score

_NOISE = 1e-9  # in shown units: what arithmetic may add to a difference that equals its tolerance
_VISIBLE = 0.005  # in shown units: an end of an interval closer to zero is shown as 0.00, and proves nothing


class Verdict(StrEnum):
    """What is found, from best to worst."""

    PASS = "pass"  # noqa: S105  # no password
    WARN = "warn"
    FAIL = "fail"
    NOT_COMPARABLE = "not-comparable"

    @property
    def exit_code(self) -> int:
        """How `capt-eval gate` ends."""
        return _EXIT_CODES[self]


_EXIT_CODES: Mapping[Verdict, int] = {Verdict.PASS: 0, Verdict.WARN: 0, Verdict.FAIL: 1, Verdict.NOT_COMPARABLE: 3}


class Finding(StrEnum):
    """What a verdict rests on."""

    LARGE = "large"  # the drop exceeds the tolerance
    SIGNIFICANT = "significant"  # the whole paired interval lies on the bad side
    LIMIT = "limit"  # below the floor, above the ceiling
    VANISHED = "vanished"  # the candidate lacks it
    UNDEFINED = "undefined"  # no number to judge by
    STRICT = "strict"  # a warning that --strict makes a failure
    NEW = "new"  # the baseline lacks it
    BETTER = "better"  # the whole paired interval lies on the good side
    IGNORED = "ignored"  # by the rules
    ACCEPTED = "accepted"  # the candidate became the baseline


@dataclass(frozen=True, kw_only=True)
class ScoreVerdict:
    """What is found of one score; numbers on the library's own scale.

    Attributes:
        name: As COCO prints it.
        verdict: Of this score.
        findings: What it rests on; empty when there is nothing to say.
        baseline: The baseline's value, when it has one.
        candidate: The candidate's, when it has one.
        difference: Candidate minus baseline, when they compare.
        low: Lower end of its paired interval.
        high: Its upper end.
        allowed: How far it may fall; None when no tolerance is set.
        limit: The floor, or where lower is better the ceiling.
        n: Images behind the difference.
        higher_is_better: False for perplexity.
        shown_times: What papers multiply it by.
    """

    name: str
    verdict: Verdict
    findings: Sequence[Finding] = ()
    baseline: float | None = None
    candidate: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    allowed: float | None = None
    limit: float | None = None
    n: int | None = None
    higher_is_better: bool = True
    shown_times: float = 100.0


@dataclass(frozen=True, kw_only=True)
class Change:
    """One thing in which the two runs differ, as text."""

    key: str
    baseline: str
    candidate: str


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The whole verdict.

    Attributes:
        rows: One a score.
        reasons: Why nothing can be compared; empty otherwise.
        changes: In what the runs differ.
        notes: Sentences that a reader must know.
        signatures: Of `baseline` and `candidate`, as far as they could be read.
        rules: By which it was judged, when they could be read.
        renewed: The baseline that was written.
    """

    rows: Sequence[ScoreVerdict] = ()
    reasons: Sequence[str] = ()
    changes: Sequence[Change] = ()
    notes: Sequence[str] = ()
    signatures: Mapping[str, str] = field(default_factory=dict)
    rules: Rules | None = None
    renewed: Path | None = None

    @property
    def verdict(self) -> Verdict:
        """The worst of all; without anything judged there is nothing to pass."""
        if self.reasons or not self.rows:
            return Verdict.NOT_COMPARABLE
        return max((row.verdict for row in self.rows), key=list(Verdict).index)

    @property
    def confidence(self) -> float:
        """Of the intervals."""
        return (self.rules or Rules()).bootstrap.confidence


def judge(baseline: Evaluation | None, candidate: Evaluation, rules: Rules, *, strict: bool = False) -> Judgement:
    """Hold a candidate against a baseline.

    A drop is large when it exceeds the larger of the two tolerances, and significant when the paired interval lies wholly on the
    bad side: both make a failure, one alone a warning. A score that the candidate lacks fails, and so does one beyond its limit.

    Args:
        baseline: What it is compared with; None when there is none yet, so that every score is new.
        candidate: What is judged.
        rules: How far each score may fall.
        strict: Whether warnings fail.

    Returns:
        The judgement.
    """
    old: Mapping[str, Score] = baseline.scores if baseline else {}
    new = candidate.scores
    reasons = incomparable(baseline, candidate) if baseline else []
    found = paired_differences(baseline, candidate, rules.bootstrap) if baseline and not reasons else {}
    names = [name for name in score_names() if name in {*old, *new, *rules.stated}]
    rows = [_row(name, rules.of(name), (old.get(name), new.get(name)), found.get(name)) for name in names]
    rows = [replace(row, verdict=Verdict.NOT_COMPARABLE, findings=()) for row in rows] if reasons else rows
    return Judgement(
        rows=[_strictly(row) for row in rows] if strict else rows,
        reasons=reasons,
        changes=_changes(baseline, candidate) if baseline else [],
        notes=_notes(None if reasons else baseline, candidate),
        signatures={side: each.signature for side, each in (("baseline", baseline), ("candidate", candidate)) if each},
        rules=rules,
    )


def accept(judgement: Judgement, path: Path) -> Judgement:
    """Say of a judgement that its candidate has become the baseline: what was found stays, and all of it passes.

    Args:
        judgement: By the old baseline, or by none.
        path: Where the new one was written.

    Returns:
        The same with every verdict `pass`.
    """
    rows = [replace(row, verdict=Verdict.PASS, findings=(*row.findings, Finding.ACCEPTED)) for row in judgement.rows]
    notes = [f"The old baseline did not compare: {reason}." for reason in judgement.reasons]
    return replace(judgement, rows=rows, reasons=(), notes=[*notes, *judgement.notes], renewed=path)


def _row(name: str, rule: Rule, scores: tuple[Score | None, Score | None], found: Difference | None) -> ScoreVerdict:
    """Judge one score, given the baseline's and the candidate's value and, when they compare, their difference."""
    baseline, candidate = scores
    known = candidate or baseline
    row = ScoreVerdict(
        name=name,
        verdict=Verdict.PASS,
        baseline=baseline.value if baseline else None,
        candidate=candidate.value if candidate else None,
    )
    if known is not None:
        limit = rule.floor if known.higher_is_better else rule.ceiling
        row = replace(
            row,
            higher_is_better=known.higher_is_better,
            shown_times=known.shown_times,
            limit=limit / known.shown_times if limit is not None else None,
        )
    if found is not None:
        row = replace(
            row,
            baseline=found.baseline,
            candidate=found.value,
            difference=found.difference,
            low=found.low,
            high=found.high,
            allowed=_allowed(rule, found),
            n=found.n,
        )
    findings = _findings(row, rule)
    return replace(row, findings=findings, verdict=_verdict(findings, rule))


def _allowed(rule: Rule, found: Difference) -> float | None:
    """Give the larger of the two tolerances; None when neither is set, for then no drop is large."""
    tolerances = []
    if rule.absolute is not None:
        tolerances.append(rule.absolute / found.shown_times)
    if rule.relative is not None:
        tolerances.append(rule.relative * abs(found.baseline))
    return max(tolerances, default=None)


def _findings(row: ScoreVerdict, rule: Rule) -> tuple[Finding, ...]:
    """List what the verdict on one score rests on."""
    if rule.severity is Severity.IGNORE:
        return (Finding.IGNORED,)
    if row.candidate is None:
        return (Finding.VANISHED,)
    sign = 1.0 if row.higher_is_better else -1.0
    found = (Finding.NEW,) if row.baseline is None and isfinite(row.candidate) else _drop(row, sign)
    beyond = row.limit is not None and not sign * (row.candidate - row.limit) * row.shown_times >= -_NOISE  # also when NaN
    return (*found, Finding.LIMIT) if beyond else found


def _drop(row: ScoreVerdict, sign: float) -> tuple[Finding, ...]:
    """Weigh the difference and its interval; `sign` is 1 where higher is better, else -1."""
    if (
        row.difference is None
        or row.low is None
        or row.high is None
        or not all(map(isfinite, (row.difference, row.low, row.high)))
    ):
        return (Finding.UNDEFINED,)
    drop = -sign * row.difference
    worst, best = sorted((sign * row.low * row.shown_times, sign * row.high * row.shown_times))
    held = {
        Finding.LARGE: row.allowed is not None and (drop - row.allowed) * row.shown_times > _NOISE,
        Finding.SIGNIFICANT: best < -_VISIBLE,
        Finding.BETTER: worst > _VISIBLE,
    }
    return tuple(finding for finding, holds in held.items() if holds)


def _verdict(findings: Sequence[Finding], rule: Rule) -> Verdict:
    """Turn findings into the verdict on one score."""
    if {Finding.LIMIT, Finding.VANISHED, Finding.UNDEFINED} & set(findings):
        return Verdict.FAIL
    drops = {Finding.LARGE, Finding.SIGNIFICANT} & set(findings)
    if len(drops) == 2 and rule.severity is Severity.FAIL:  # noqa: PLR2004  # both
        return Verdict.FAIL
    return Verdict.WARN if drops else Verdict.PASS


def _strictly(row: ScoreVerdict) -> ScoreVerdict:
    if row.verdict is not Verdict.WARN:
        return row
    return replace(row, verdict=Verdict.FAIL, findings=(*row.findings, Finding.STRICT))


def _changes(baseline: Evaluation, candidate: Evaluation) -> list[Change]:
    """List in what the two runs, when both are known, and the programs that scored them differ."""
    found = []
    for part, name in (("run", "run"), ("versions", "scored with")):
        values = baseline.conditions.get(part), candidate.conditions.get(part)
        if all(isinstance(value, Mapping) for value in values):
            old, new = (_flat(value, name) for value in values)
            keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
            found += [Change(key=key, baseline=old.get(key, ""), candidate=new.get(key, "")) for key in keys]
    return found


def _flat(value: object, name: str) -> dict[str, str]:
    """Give what is inside of mappings as text, by dotted names."""
    if not isinstance(value, Mapping):
        return {name: str(value)}
    return {key: text for inner in value for key, text in _flat(value[inner], f"{name}.{inner}").items()}


def _notes(baseline: Evaluation | None, candidate: Evaluation) -> list[str]:
    """Gather what a reader must know: of the two together where they compare, then what was said of the candidate's scores."""
    about = provenance_notes(("the baseline", baseline), [("the candidate", candidate)]) if baseline else []
    return list(dict.fromkeys(note[:1].upper() + note[1:] for note in (*about, *candidate.notes)))
