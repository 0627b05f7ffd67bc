"""Scores by bucket: on which kinds of photographs a captioner is good, and where the difference comes from.

In: Findings with their dimensions. Out: a section, and the words for a bucket that examples carry as tags. Apart, because what a
bucket is called is decided here alone.
"""

from collections.abc import Sequence

from reports.contest import Contest
from reports.document import Block, Cell, Column, Fold, Intervals, Mark, Plot, Plots, Section, Table, Words
from reports.findings import Dimension, Estimate, Findings
from reports.sections.scores import legend
from reports.wording import FEW_IMAGES, estimate, number, plural, spoken

_TITLES = {
    "reference_length": "Length of the references, in words",
    "word_frequency": "How common the references' words are",
    "agreement": "Agreement between the references",
    "status": "Whether the photograph could be captioned",
}
_EXPLAINED = {
    "reference_length": "the mean number of words in a photograph's references",
    "word_frequency": "the geometric mean of how often a reference's word occurs in all references here",
    "agreement": "the mean share of words that two references of a photograph have in common (Jaccard)",
    "status": "failed photographs count as empty captions",
}
_ENDS = {
    "reference_length": ("shortest", "longest"),
    "word_frequency": ("rarest", "commonest"),
    "agreement": ("least", "most"),
}
_TAGS = {
    "reference_length": "references of {} words",
    "word_frequency": "words used {} times",
    "agreement": "agreement {}",
    "status": "{}",
}
_STATUS = ("captioned", "failed")
_TABLED = ("CIDEr", "METEOR", "Bleu_4", "ROUGE_L")


def buckets_section(findings: Findings, contest: Contest) -> Section:
    """Write the scores by bucket.

    Args:
        findings: What was found.
        contest: The score that decides.

    Returns:
        The section; a sentence when there is nothing to divide.
    """
    if not findings.dimensions:
        why = (
            "Name the human captions with --references to see scores by bucket."
            if findings.references is None
            else f"{plural(len(findings.image_ids), 'photograph')} are too few to be divided."
        )
        return Section(key="buckets", title="Where they are good", lead=why)
    blocks: list[Block] = [Plots(plots=[_plot(findings, contest, each) for each in findings.dimensions], legend=legend(findings))]
    if findings.others:
        blocks.append(
            Plots(plots=[_difference_plot(findings, contest, each) for each in findings.dimensions], legend=legend(findings))
        )
    blocks.append(Fold(title="All scores by bucket", blocks=[_table(findings, each) for each in findings.dimensions]))
    explained = "; ".join(f"{title(each).lower()}: {_EXPLAINED[each.key]}" for each in findings.dimensions)
    blocks.append(Words(text=f"How the photographs are divided. {explained[0].upper()}{explained[1:]}."))
    return Section(
        key="buckets",
        title="Where they are good",
        lead="The same scores on parts of the photographs. The fewer photographs in a bucket, the wider the interval;"
        " CIDEr weighs words by all references, in every bucket.",
        blocks=blocks,
    )


def title(dimension: Dimension) -> str:
    """Name a way to divide.

    Args:
        dimension: The way.

    Returns:
        A few words.
    """
    return _TITLES[dimension.key]


def labels(dimension: Dimension) -> list[str]:
    """Name the buckets of a dimension.

    Args:
        dimension: The way to divide.

    Returns:
        One label a bucket, with its edges where it has some.
    """
    if dimension.key == "status":
        return list(_STATUS)
    digits = 2 if dimension.key == "agreement" else 1 if dimension.key == "reference_length" else 0
    spans = [
        f"{number(low, digits)}–{number(high, digits)}" for low, high in zip(dimension.edges, dimension.edges[1:], strict=False)
    ]
    first, last = _ENDS[dimension.key]
    spans[0], spans[-1] = f"{first}: {spans[0]}", f"{last}: {spans[-1]}"
    return spans


def tags(dimension: Dimension) -> list[str]:
    """Name the buckets of a dimension where nothing around them says what they are.

    Args:
        dimension: The way to divide.

    Returns:
        One tag a bucket.
    """
    spans = [label.rpartition(": ")[2] for label in labels(dimension)]
    return [_TAGS[dimension.key].format(span) for span in spans]


def _plot(findings: Findings, contest: Contest, dimension: Dimension) -> Plot:
    found = {
        index: dimension.scores[system.name][contest.metric]
        for index, system in enumerate(findings.systems)
        if contest.metric in dimension.scores[system.name]
    }
    return _intervals(findings, contest, dimension, found, of_gains=False)


def _difference_plot(findings: Findings, contest: Contest, dimension: Dimension) -> Plot:
    found = {
        index: dimension.differences[system.name][contest.metric]
        for index, system in enumerate(findings.systems)
        if index and contest.metric in dimension.differences[system.name]
    }
    return _intervals(findings, contest, dimension, found, of_gains=True)


def _intervals(
    findings: Findings, contest: Contest, dimension: Dimension, found: dict[int, Sequence[Estimate]], *, of_gains: bool
) -> Plot:
    names, times, metric = labels(dimension), contest.times, spoken(contest.metric)
    rows = [
        (
            name,
            [
                Mark(series=index, value=each[row].value * times, low=each[row].low * times, high=each[row].high * times)
                for index, each in found.items()
            ],
        )
        for row, name in enumerate(names)
    ]
    axis = metric if not of_gains else f"{metric} minus that of {findings.baseline.name}"
    return Plot(
        key=f"{'gain' if of_gains else 'bucket'}-{dimension.key.replace('_', '-')}",
        title=title(dimension) if not of_gains else f"Difference by: {title(dimension)[0].lower()}{title(dimension)[1:]}",
        alt=f"{axis} by bucket: "
        + "; ".join(f"{name}: " + ", ".join(number(mark.value) for mark in marks) for name, marks in rows),
        drawing=Intervals(rows=rows, axis=axis, from_zero=of_gains),
        numbers=Table(
            caption=axis,
            columns=[Column(name="bucket", numeric=False), *(Column(name=findings.systems[index].name) for index in found)],
            rows=[
                [Cell(text=name), *(_cell(each[row], times, with_sign=of_gains) for each in found.values())]
                for row, name in enumerate(names)
            ],
        ),
    )


def _cell(found: Estimate, times: float, *, with_sign: bool = False) -> Cell:
    value, between = estimate(found, times, with_sign=with_sign)
    return Cell(text=value, below=between, order=found.value)


def _table(findings: Findings, dimension: Dimension) -> Table:
    """Give all scores of all captioners by bucket."""
    rows = []
    names = [name for name in _TABLED if all(name in dimension.scores[system.name] for system in findings.systems)]
    for row, label in enumerate(labels(dimension)):
        for index, system in enumerate(findings.systems):
            found = dimension.scores[system.name]
            n = found[names[0]][row].n
            few = f"{n:,}" + (" (few)" if n < FEW_IMAGES else "")
            cells = [_cell(found[name][row], findings.baseline.judged.scores[name].shown_times) for name in names]
            rows.append([Cell(text=label, order=row), Cell(text=system.name, series=index), Cell(text=few, order=n), *cells])
    return Table(
        caption=title(dimension),
        columns=[
            Column(name="bucket", numeric=False),
            Column(name="captioner", numeric=False),
            Column(name="photographs"),
            *(Column(name=spoken(name)) for name in names),
        ],
        rows=rows,
    )
