"""The leaderboard: every score with its interval, the difference to the baseline, and the lines that tell what a number means.

In: Findings and the contest. Out: a section. Apart, because this is what a reader looks at first.
"""

from collections.abc import Iterator

from reports.contest import Contest, shared_scores
from reports.differences import DifferenceShape, Finding
from reports.document import Block, Cell, Column, Fold, Intervals, Line, Mark, Plot, Plots, Section, Table, Tone, Words
from reports.findings import Findings, System
from reports.published import PUBLISHED, relevant
from reports.wording import VERDICTS, interval, judge, number, p_value, score, signed, spoken

_TONES = {Finding.BETTER: Tone.GOOD, Finding.WORSE: Tone.BAD}
_PLOTTED = ("CIDEr", "METEOR", "Bleu_4", "perplexity")


def scores_section(findings: Findings, contest: Contest) -> Section:
    """Write the leaderboard.

    Args:
        findings: What was found.
        contest: The score that decides.

    Returns:
        The section.
    """
    blocks: list[Block] = [
        Plots(plots=list(_interval_plots(findings, contest)), legend=legend(findings)),
        _leaderboard(findings, contest),
    ]
    if findings.others:
        blocks.append(_differences(findings))
    blocks.append(_published())
    lead = (
        f"Ordered by {spoken(contest.metric)}. The bars are {findings.confidence:.0%} bootstrap intervals over the photographs;"
        " two captioners are compared on the same photographs, so their bars may overlap and the difference still be real."
        if findings.others
        else f"The bars are {findings.confidence:.0%} bootstrap intervals over the photographs."
    )
    return Section(key="scores", title="Scores", lead=lead.replace("%", "\u00a0%"), blocks=blocks, in_brief=True)


def legend(findings: Findings) -> list[tuple[int, str]]:
    """Name the series.

    Args:
        findings: What was found.

    Returns:
        Number and name of each captioner; none when there is one.
    """
    return [(index, system.name) for index, system in enumerate(findings.systems)] if findings.others else []


def ranked(findings: Findings, contest: Contest) -> list[tuple[int, System]]:
    """Order the captioners by the score that decides.

    Args:
        findings: What was found.
        contest: The score.

    Returns:
        Series number and captioner, best first; equal ones in the order given.
    """
    return sorted(enumerate(findings.systems), key=lambda each: -each[1].judged.scores[contest.metric].value)


def _interval_plots(findings: Findings, contest: Contest) -> Iterator[Plot]:
    for name in _PLOTTED:
        if name not in shared_scores(findings) or (findings.others and _all_the_same(findings, name)):
            continue
        times = findings.baseline.judged.scores[name].shown_times
        rows = [
            (system.name, [Mark(series=index, value=found.value * times, low=found.low * times, high=found.high * times)])
            for index, system in ranked(findings, contest)
            for found in [system.judged.scores[name]]
        ]
        lines = _lines(findings, name)
        better = "" if findings.baseline.judged.scores[name].higher_is_better else ", lower is better"
        yield Plot(
            key=f"scores-{name.lower().replace('_', '-')}",
            title=spoken(name) + better,
            alt=f"{spoken(name)} of {', '.join(f'{label} {number(marks[0].value)}' for label, marks in rows)}, with intervals",
            drawing=Intervals(rows=rows, axis=spoken(name), lines=lines),
            numbers=Table(
                caption=spoken(name),
                columns=[Column(name="captioner", numeric=False), Column(name="value"), Column(name="interval")],
                rows=[
                    *(
                        [Cell(text=label), Cell(text=number(mark.value)), Cell(text=interval(mark.low, mark.high))]
                        for label, (mark,) in rows
                    ),
                    *([Cell(text=line.label), Cell(text=number(line.value)), Cell(text="")] for line in lines),
                ],
            ),
        )


def _all_the_same(findings: Findings, name: str) -> bool:
    return len({system.judged.scores[name].value for system in findings.systems}) == 1


def _lines(findings: Findings, name: str) -> list[Line]:
    """Give what a score means: the floor, one human, and one published score on the same data set."""
    times = findings.baseline.judged.scores[name].shown_times
    anchors = findings.anchors
    lines = [Line(label=label, value=anchor.scores[name] * times) for label, anchor in anchors.items() if name in anchor.scores]
    lines += [
        Line(label=f"{each.system.split(',')[0].lower()}, published", value=each.scores[name])
        for each in relevant(str(findings.baseline.judged.conditions.get("references", "")))[:3]
        if name in each.scores and each.system.startswith(("Soft", "Adaptive"))
    ]
    return lines


def _leaderboard(findings: Findings, contest: Contest) -> Table:
    names = shared_scores(findings)
    rows = [
        [Cell(text=system.name + (" (baseline)" if findings.others and not index else ""), series=index)]
        + [_score_cell(system, name) for name in names]
        for index, system in ranked(findings, contest)
    ]
    for label, anchor in findings.anchors.items():
        cells = [_known_cell(anchor.scores.get(name), findings.baseline.judged.scores[name].shown_times) for name in names]
        rows.append([Cell(text=label, below=anchor.said, tone=Tone.QUIET), *cells])
    n = findings.baseline.judged.scores[contest.metric].n
    return Table(
        caption=f"Scores over {n:,} photographs, with intervals",
        columns=[Column(name="captioner", numeric=False), *(Column(name=spoken(name)) for name in names)],
        rows=rows,
    )


def _score_cell(system: System, name: str) -> Cell:
    found = system.judged.scores[name]
    value, between = score(found)
    return Cell(text=value, below=between, order=found.value)


def _known_cell(value: float | None, times: float) -> Cell:
    return Cell(text="–", tone=Tone.QUIET) if value is None else Cell(text=number(value * times), order=value, tone=Tone.QUIET)


def _differences(findings: Findings) -> Table:
    names = [name for name in shared_scores(findings) if all(name in findings.differences[each.name] for each in findings.others)]
    return Table(
        caption=f"Difference to {findings.baseline.name}, on the same photographs",
        columns=[Column(name="captioner", numeric=False), *(Column(name=spoken(name)) for name in names)],
        rows=[
            [Cell(text=system.name, series=index)]
            + [difference_cell(findings.differences[system.name][name], findings.resamples) for name in names]
            for index, system in enumerate(findings.systems)
            if index
        ],
    )


def difference_cell(found: DifferenceShape, resamples: int) -> Cell:
    """Write a difference with its interval, p and what it comes to.

    Args:
        found: The difference.
        resamples: Of the test.

    Returns:
        The cell.
    """
    times, verdict = found.shown_times, judge(found)
    between = interval(found.low * times, found.high * times, with_sign=True)
    return Cell(
        text=signed(found.difference * times),
        below=f"{between}\n{p_value(found.p_corrected, resamples)}\n{VERDICTS[verdict]}",
        order=found.difference,
        tone=_TONES.get(verdict, Tone.PLAIN),
    )


def _published() -> Fold:
    names = ("CIDEr", "METEOR", "Bleu_4", "Bleu_3", "Bleu_2", "Bleu_1")
    table = Table(
        caption="Published scores, ×100",
        columns=[
            Column(name="captioner", numeric=False),
            Column(name="test set", numeric=False),
            *(Column(name=spoken(name)) for name in names),
            Column(name="source", numeric=False),
        ],
        rows=[
            [
                Cell(text=each.system),
                Cell(text=each.data),
                *(
                    Cell(text=number(each.scores[name]), order=each.scores[name]) if name in each.scores else Cell(text="–")
                    for name in names
                ),
                Cell(text=each.source),
            ]
            for each in PUBLISHED
        ],
    )
    words = Words(
        text="For orientation: measured on the named test sets, and only what has the same references compares exactly."
    )
    return Fold(title="Published scores of captioners of this class", blocks=[words, table])
