"""A report as data: `report.json`, for programs that read what people see.

In: Findings, the contest and the examples. Out: plain values on the library's scale. Apart, because its keys are a promise:
`format` is raised when one changes its meaning.
"""

from collections.abc import Mapping, Sequence
from typing import TypedDict

from reports.contest import Contest, count_signs
from reports.differences import DifferenceShape
from reports.document import Example
from reports.findings import Dimension, Estimate, Findings, System
from reports.sections.buckets import labels
from reports.sections.verdict import headline, sentences, warnings
from reports.wording import VERDICTS, judge

REPORT_FORMAT = 1


class ScoreRecord(TypedDict):
    """A score, or a difference of two."""

    value: float
    """On the library's scale."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    n: int
    """Images behind it."""


class DifferenceRecord(ScoreRecord):
    """A difference to the baseline."""

    p: float
    """Two-sided, corrected for the number of captioners."""
    verdict: str
    """better, worse, no clear difference, or the same."""


class SpeedRecord(TypedDict):
    """How fast a run was."""

    images: int
    """How many."""
    seconds: float
    """In which time."""
    stages: dict[str, float]
    """Seconds by stage; stages overlap."""


class SystemRecord(TypedDict):
    """One captioner."""

    name: str
    """Unique in the report."""
    signature: str
    """Everything that changes a number, as one line."""
    scores: dict[str, ScoreRecord]
    """By name."""
    differences: dict[str, DifferenceRecord]
    """To the baseline, by name; empty for the baseline."""
    wins_ties_losses: list[int] | None
    """Images with a higher, the same and a lower score than the baseline; null for the baseline."""
    figures: dict[str, float]
    """What explains the scores."""
    anchors: dict[str, dict[str, float]]
    """Scores of something known on the same references, by name."""
    conditions: dict[str, object]
    """Everything that changes a number, as data."""
    speed: SpeedRecord | None
    """Null when the run does not tell."""
    failures: dict[str, int] | None
    """Failed images by cause; null when the captions table was not at hand."""
    card: dict[str, object] | None
    """The checkpoint's model card, when the checkpoint was at hand."""


class DimensionRecord(TypedDict):
    """A way to divide the images."""

    key: str
    """What is looked at."""
    buckets: list[str]
    """In words, with edges."""
    scores: dict[str, dict[str, list[ScoreRecord]]]
    """Captioner, score, one a bucket."""
    differences: dict[str, dict[str, list[ScoreRecord]]]
    """The same of differences to the baseline."""


class ExampleRecord(TypedDict):
    """An image that the report shows."""

    image_id: str
    """Its id."""
    group: str
    """Why it is shown: gain, loss, best, worst, typical or further."""
    captions: dict[str, str]
    """By captioner."""
    scores: dict[str, float]
    """Of the score that decides, by captioner, library's scale."""
    references: list[str]
    """Human captions."""


class ReportFile(TypedDict):
    """What `report.json` holds."""

    format: int
    """Of this file; raised when a key changes its meaning."""
    date: str
    """Of the report."""
    version: str
    """Of capt."""
    headline: str
    """The answer."""
    verdict: list[str]
    """The answer in two or three sentences."""
    warnings: list[str]
    """What a reader must know before believing a number."""
    images: int
    """How many."""
    metric: str
    """The score that decides."""
    baseline: str
    """Name of the captioner that the others are held against."""
    contender: str
    """The best of the others; the baseline itself when it is alone."""
    confidence: float
    """The share of resamples inside an interval."""
    resamples: int
    """Of the bootstrap, and of the tests."""
    systems: list[SystemRecord]
    """The baseline first."""
    dimensions: list[DimensionRecord]
    """Scores by bucket."""
    training: dict[str, list[dict[str, float]]]
    """Learning curves by name."""
    examples: list[ExampleRecord]
    """The images that the report shows."""


def report_file(findings: Findings, contest: Contest, examples: Sequence[Example]) -> ReportFile:
    """Give what `report.json` holds.

    Args:
        findings: What was found.
        contest: The score that decides.
        examples: The images shown.

    Returns:
        Plain values.
    """
    return ReportFile(
        format=REPORT_FORMAT,
        date=findings.date,
        version=findings.version,
        headline=headline(findings, contest),
        verdict=sentences(findings, contest),
        warnings=warnings(findings),
        images=len(findings.image_ids),
        metric=contest.metric,
        baseline=contest.baseline.name,
        contender=contest.contender.name,
        confidence=findings.confidence,
        resamples=findings.resamples,
        systems=[_system(findings, contest, system) for system in findings.systems],
        dimensions=[_dimension(each) for each in findings.dimensions],
        training={each.name: [dict(vars(epoch)) for epoch in each.epochs] for each in findings.trainings},
        examples=[_example(each, contest) for each in examples],
    )


def _system(findings: Findings, contest: Contest, system: System) -> SystemRecord:
    judged, speed = system.judged, system.speed
    gains = judged.per_image[contest.metric] - contest.baseline.judged.per_image[contest.metric]
    causes: dict[str, int] | None = None if system.failures is None else {}
    for failure in system.failures or ():
        if causes is not None:
            causes[failure.kind] = causes.get(failure.kind, 0) + 1
    return SystemRecord(
        name=system.name,
        signature=judged.signature,
        scores={
            name: ScoreRecord(value=found.value, low=found.low, high=found.high, n=found.n)
            for name, found in judged.scores.items()
        },
        differences={name: _difference(found) for name, found in findings.differences.get(system.name, {}).items()},
        wins_ties_losses=None if system is contest.baseline else list(count_signs(gains)),
        figures=dict(judged.figures),
        anchors={name: dict(anchor.scores) for name, anchor in judged.anchors.items()},
        conditions=dict(judged.conditions),
        speed=None if speed is None else SpeedRecord(images=speed.images, seconds=speed.seconds, stages=dict(speed.stages)),
        failures=causes,
        card=None if system.card is None else dict(system.card),
    )


def _difference(found: DifferenceShape) -> DifferenceRecord:
    return DifferenceRecord(
        value=found.difference, low=found.low, high=found.high, n=found.n, p=found.p_corrected, verdict=VERDICTS[judge(found)]
    )


def _dimension(dimension: Dimension) -> DimensionRecord:
    return DimensionRecord(
        key=dimension.key,
        buckets=labels(dimension),
        scores=_estimates(dimension.scores),
        differences=_estimates(dimension.differences),
    )


def _estimates(found: Mapping[str, Mapping[str, Sequence[Estimate]]]) -> dict[str, dict[str, list[ScoreRecord]]]:
    return {
        system: {
            name: [ScoreRecord(value=each.value, low=each.low, high=each.high, n=each.n) for each in estimates]
            for name, estimates in scores.items()
        }
        for system, scores in found.items()
    }


def _example(example: Example, contest: Contest) -> ExampleRecord:
    return ExampleRecord(
        image_id=example.image_id,
        group=example.group,
        captions={said.name: said.caption for said in example.said},
        scores={said.name: said.order / contest.times for said in example.said},
        references=list(example.references),
    )
