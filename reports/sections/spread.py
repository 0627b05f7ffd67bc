"""How the scores of single photographs are spread: one mean hides whether all are middling or half are hopeless.

In: Findings and the contest. Out: a section. Apart, because it looks at photographs one by one, the leaderboard at all of them.
"""

from collections.abc import Iterator

import numpy as np

from reports.contest import Contest, count_signs
from reports.document import Bars, Cell, Column, Histogram, Plot, Plots, Section, Table
from reports.findings import Findings
from reports.sections.scores import legend
from reports.wording import number, percent, signed, spoken

_BINS = 24
_QUANTILES = ((0.05, "5 %"), (0.25, "25 %"), (0.5, "half"), (0.75, "75 %"), (0.95, "95 %"))


def spread_section(findings: Findings, contest: Contest) -> Section:
    """Write how single photographs score.

    Args:
        findings: What was found.
        contest: The score that decides.

    Returns:
        The section.
    """
    plots = [_distribution(findings, contest)]
    lead = f"{spoken(contest.metric)} of single photographs."
    if findings.others:
        plots += [_gains(findings, contest), _wins(findings, contest)]
        lead += f" Gains are those over {findings.baseline.name} on the same photograph."
    return Section(
        key="spread",
        title="Photograph by photograph",
        lead=lead,
        blocks=[Plots(plots=plots, legend=legend(findings)), _quantiles(findings, contest)],
    )


def wins_table(findings: Findings, contest: Contest) -> Table:
    """Count wins, ties and losses against the baseline.

    Args:
        findings: What was found.
        contest: The score that decides.

    Returns:
        One row a captioner.
    """
    return Table(
        caption=f"Photographs on which a captioner scores higher than {findings.baseline.name}, the same, or lower",
        columns=[Column(name="captioner", numeric=False), *(Column(name=name) for name in ("higher", "the same", "lower"))],
        rows=[
            [Cell(text=name), *(Cell(text=f"{count:,}", order=count) for count in counts)]
            for name, counts in _counts(findings, contest)
        ],
    )


def _counts(findings: Findings, contest: Contest) -> Iterator[tuple[str, tuple[int, int, int]]]:
    before = findings.baseline.judged.per_image[contest.metric]
    for system in findings.others:
        yield system.name, count_signs(system.judged.per_image[contest.metric] - before)


def _wins(findings: Findings, contest: Contest) -> Plot:
    counts = list(_counts(findings, contest))
    return Plot(
        key="wins",
        title="Wins, ties and losses",
        alt="; ".join(
            f"{name}: higher on {wins:,}, the same on {ties:,}, lower on {losses:,}" for name, (wins, ties, losses) in counts
        ),
        drawing=Bars(parts=("higher", "the same", "lower"), rows=counts, axis="photographs", is_verdict=True),
        numbers=wins_table(findings, contest),
    )


def _distribution(findings: Findings, contest: Contest) -> Plot:
    values = [system.judged.per_image[contest.metric] * contest.times for system in findings.systems]
    top = max(float(np.quantile(np.concatenate(values), 0.99)), 1e-9)
    edges = np.linspace(0.0, top, _BINS + 1)
    shares = [np.histogram(np.minimum(each, top), bins=edges)[0] / len(each) for each in values]
    label = spoken(contest.metric)
    return Plot(
        key="distribution",
        title=f"{label} of single photographs",
        alt="Histograms; the middle photograph has "
        + ", ".join(
            f"{number(float(np.median(each)))} with {system.name}" for system, each in zip(findings.systems, values, strict=True)
        ),
        drawing=Histogram(
            edges=list(map(float, edges)),
            shares=[(index, list(map(float, each))) for index, each in enumerate(shares)],
            axis=label,
        ),
        numbers=Table(
            caption=f"Share of the photographs by {label}; the last row holds all that lie above",
            columns=[Column(name=label, numeric=False), *(Column(name=system.name) for system in findings.systems)],
            rows=[
                [
                    Cell(text=f"{number(edges[row])} to {number(edges[row + 1])}", order=float(edges[row])),
                    *(Cell(text=percent(each[row]), order=float(each[row])) for each in shares),
                ]
                for row in range(_BINS)
            ],
        ),
    )


def _gains(findings: Findings, contest: Contest) -> Plot:
    before = findings.baseline.judged.per_image[contest.metric]
    gains = [(system.judged.per_image[contest.metric] - before) * contest.times for system in findings.others]
    reach = max(float(np.quantile(np.abs(np.concatenate(gains)), 0.98)), 1e-9)
    edges = np.linspace(-reach, reach, _BINS + 2)  # an odd number of bins: the middle one holds the ties
    shares = [np.histogram(np.clip(each, -reach, reach), bins=edges)[0] / len(each) for each in gains]
    return Plot(
        key="gains",
        title=f"Gain in {spoken(contest.metric)} over {findings.baseline.name}",
        alt="Histograms of the differences on single photographs; the middle one is "
        + ", ".join(
            f"{signed(float(np.median(each)))} for {system.name}" for system, each in zip(findings.others, gains, strict=True)
        ),
        drawing=Histogram(
            edges=list(map(float, edges)),
            shares=[(index, list(map(float, each))) for index, each in enumerate(shares, start=1)],
            axis=f"{spoken(contest.metric)} minus that of {findings.baseline.name}",
        ),
        numbers=Table(
            caption="Share of the photographs by gain; the outermost rows hold all that lie beyond",
            columns=[Column(name="gain", numeric=False), *(Column(name=system.name) for system in findings.others)],
            rows=[
                [
                    Cell(text=f"{signed(edges[row])} to {signed(edges[row + 1])}", order=float(edges[row])),
                    *(Cell(text=percent(each[row]), order=float(each[row])) for each in shares),
                ]
                for row in range(_BINS + 1)
            ],
        ),
    )


def _quantiles(findings: Findings, contest: Contest) -> Table:
    rows = []
    for index, system in enumerate(findings.systems):
        values = system.judged.per_image[contest.metric] * contest.times
        cells = [float(np.quantile(values, share)) for share, _ in _QUANTILES]
        nothing = float(np.mean(values == 0))
        rows.append(
            [
                Cell(text=system.name, series=index),
                *(Cell(text=number(value), order=value) for value in cells),
                Cell(text=percent(nothing), order=nothing),
            ]
        )
    return Table(
        caption=f"{spoken(contest.metric)} that so many of the photographs do not exceed",
        columns=[
            Column(name="captioner", numeric=False),
            *(Column(name=label) for _, label in _QUANTILES),
            Column(name="exactly 0"),
        ],
        rows=rows,
    )
