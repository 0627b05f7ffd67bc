"""Findings -> Document: the whole report as one readable function.

In: what was found, the images chosen and their pictures. Out: a Document for any renderer. Apart from the sections, because
their order is a decision of its own.
"""

from collections.abc import Callable, Sequence

from reports.contest import Contest
from reports.document import Document, Section
from reports.findings import Findings, Pictures
from reports.sections.buckets import buckets_section
from reports.sections.compared import compared_section
from reports.sections.examples import Choice, examples_section, make_examples, strips
from reports.sections.profile import profile_section
from reports.sections.runs import failures_section, speed_section, training_section
from reports.sections.scores import scores_section
from reports.sections.spread import spread_section
from reports.sections.verdict import headline, sentences, tiles, warnings
from reports.wording import plural, spoken


def compose(findings: Findings, contest: Contest, choice: Sequence[Choice], pictures: Pictures) -> Document:
    """Write the whole report.

    Args:
        findings: What was found.
        contest: The score that decides, and who is held against whom.
        choice: The images that are shown.
        pictures: Photographs and attention of these.

    Returns:
        The document.
    """
    examples = make_examples(findings, contest, choice, pictures)
    before: list[Callable[[Findings, Contest], Section]] = [scores_section]
    after: list[Callable[[Findings, Contest], Section]] = [spread_section, buckets_section, profile_section, speed_section]
    after += [training_section] if findings.trainings else []
    after += [failures_section, compared_section]
    names = [system.name for system in findings.systems]
    scores = findings.baseline.judged.scores
    plain = [name for name, score in scores.items() if score.shown_times == 1]
    legend = "Scores ×100, as papers print them" + (f"; {', '.join(plain)} as it is" if plain else "")
    intervals = f"{findings.confidence:.0%}".replace("%", "\u00a0%")
    return Document(
        headline=headline(findings, contest),
        title=names[0] if len(names) == 1 else f"{', '.join(names[1:])} against {names[0]}",
        facts=[
            plural(len(findings.image_ids), "photograph"),
            f"references {findings.baseline.judged.conditions.get('references', 'unknown')}",
            findings.date[:10],
        ],
        verdict=sentences(findings, contest),
        tiles=tiles(findings, contest),
        metric=spoken(contest.metric),
        strips=strips(contest, examples),
        warnings=warnings(findings),
        notes=findings.notes,
        legend=f"{legend}. Intervals: {intervals}, {findings.resamples:,} bootstrap resamples of the photographs."
        + (" Differences: paired, p from approximate randomisation, corrected after Holm." if findings.others else ""),
        sections=[
            *(write(findings, contest) for write in before),
            examples_section(findings, contest, examples),
            *(write(findings, contest) for write in after),
        ],
        series=names,
        signatures=[system.judged.signature for system in findings.systems],
        date=findings.date,
        version=findings.version,
    )
