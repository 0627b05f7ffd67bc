"""How captioners write: length, vocabulary, repetition, and the captions they give again and again.

In: Findings. Out: a section. Apart, because it judges nothing: it explains scores.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from reports.contest import Contest
from reports.document import Block, Cell, Column, Fold, Histogram, Plot, Plots, Section, Table
from reports.findings import Findings
from reports.report import FIGURES
from reports.sections.scores import legend
from reports.wording import percent

_LONGEST = 30  # words; what is longer counts as this
_COMMONEST = 5


def profile_section(findings: Findings, contest: Contest) -> Section:  # noqa: ARG001  # sections are called alike
    """Write how captioners write.

    Args:
        findings: What was found.
        contest: Not needed.

    Returns:
        The section.
    """
    blocks: list[Block] = [_figures(findings), Plots(plots=[_lengths(findings)], legend=_legend(findings))]
    blocks.append(Fold(title="Captions given most often", blocks=[_commonest(findings)]))
    return Section(
        key="profile",
        title="How they write",
        lead="Length, vocabulary and repetition judge nothing, but they explain scores: short captions lose BLEU,"
        " few distinct words mean safe phrases.",
        blocks=blocks,
    )


def _figures(findings: Findings) -> Table:
    names = [name for name in FIGURES if any(name in system.judged.figures for system in findings.systems)]
    rows = [
        [
            Cell(text=FIGURES[name][0]),
            *(
                Cell(text=FIGURES[name][1].format(figures[name]).replace("%", "\u00a0%"), order=figures[name])
                if name in (figures := system.judged.figures)
                else Cell(text="–")
                for system in findings.systems
            ),
        ]
        for name in names
    ]
    columns = [Column(name="figure", numeric=False), *(Column(name=system.name) for system in findings.systems)]
    return Table(caption="Length, vocabulary and repetition", columns=columns, rows=rows)


def _legend(findings: Findings) -> list[tuple[int, str]]:
    named = legend(findings) or [(0, findings.baseline.name)]
    return [*named, (len(findings.systems), "the references")] if findings.references is not None else named


def _lengths(findings: Findings) -> Plot:
    shares = [(index, _shares(system.judged.captions)) for index, system in enumerate(findings.systems)]
    names = [system.name for system in findings.systems]
    if findings.references is not None:
        shares.append((len(findings.systems), _shares([text for texts in findings.references for text in texts])))
        names.append("the references")
    last = max((words for _, each in shares for words, share in enumerate(each) if share > 0), default=1)
    means = [sum(words * share for words, share in enumerate(each)) for _, each in shares]
    return Plot(
        key="lengths",
        title="Words in a caption",
        alt="Histograms of lengths; the mean is "
        + ", ".join(f"{mean:.1f} for {name}" for mean, name in zip(means, names, strict=True)),
        drawing=Histogram(
            edges=[words - 0.5 for words in range(last + 2)],
            shares=[(index, each[: last + 1]) for index, each in shares],
            axis="words, as they were written",
        ),
        numbers=Table(
            caption="Share of the captions by number of words",
            columns=[Column(name="words", numeric=False), *(Column(name=name) for name in names)],
            rows=[
                [
                    Cell(text=f"{words} or more" if words == _LONGEST else str(words), order=words),
                    *(Cell(text=percent(each[words]), order=each[words]) for _, each in shares),
                ]
                for words in range(last + 1)
            ],
        ),
    )


def _shares(captions: Sequence[str]) -> list[float]:
    lengths = np.minimum([len(caption.split()) for caption in captions], _LONGEST)
    return [float(share) for share in np.bincount(lengths, minlength=_LONGEST + 1) / max(1, len(captions))]


def _commonest(findings: Findings) -> Table:
    rows = []
    for index, system in enumerate(findings.systems):
        counted = Counter(caption for caption in system.judged.captions if caption)
        for caption, count in sorted(counted.items(), key=lambda each: (-each[1], each[0]))[:_COMMONEST]:
            rows.append([Cell(text=caption), Cell(text=system.name, series=index), Cell(text=f"{count:,}", order=count)])
    columns = [Column(name="caption", numeric=False), Column(name="captioner", numeric=False), Column(name="photographs")]
    return Table(caption="Captions given most often", columns=columns, rows=rows)
