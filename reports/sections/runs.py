"""What the runs tell of themselves: speed, learning curves, failures.

In: Findings. Out: three sections. Apart, because none of it is about the quality of a caption.
"""

from collections import Counter
from collections.abc import Sequence

from reports.contest import Contest
from reports.document import Bars, Block, Cell, Column, Curves, Fold, Plot, Plots, Section, Table
from reports.findings import Findings, Training
from reports.wording import number, plural

_EXAMPLES_OF_A_CAUSE = 5
_VISIBLE = 0.002  # of a run's time: stages that take less are not shown
_CURVES = (
    ("perplexity", "Validation perplexity (lower is better)", 1.0),
    ("cider", "Validation CIDEr", 100.0),
    ("bleu_4", "Validation BLEU-4", 100.0),
    ("train_loss", "Training loss, nats per token", 1.0),
)


def speed_section(findings: Findings, contest: Contest) -> Section:  # noqa: ARG001  # sections are called alike
    """Write how fast the runs were.

    Args:
        findings: What was found.
        contest: Not needed.

    Returns:
        The section; a sentence when no run tells.
    """
    timed = [(system.name, index, speed) for index, system in enumerate(findings.systems) if (speed := system.speed)]
    if not timed:
        return Section(key="speed", title="Speed", lead="No run tells its speed: name the folders that capt-batch run wrote.")
    stages = [
        stage
        for stage in dict.fromkeys(stage for _, _, speed in timed for stage in speed.stages)
        if any(speed.stages.get(stage, 0.0) >= _VISIBLE * speed.seconds for _, _, speed in timed)
    ]
    rows = [
        [
            Cell(text=name, series=index),
            Cell(
                text=number(speed.images / speed.seconds) if speed.seconds else "–", order=speed.images / max(speed.seconds, 1e-9)
            ),
            Cell(text=f"{speed.images:,}", order=speed.images),
            Cell(text=number(speed.seconds), order=speed.seconds),
            *(Cell(text=_made(findings, index, key)) for key in ("device", "precision", "batch_size")),
        ]
        for name, index, speed in timed
    ]
    numeric, plain = ("images/s", "images", "seconds"), ("device", "precision", "batch size")
    table = Table(
        caption="Speed of each run, as it was measured then",
        columns=[
            Column(name="captioner", numeric=False),
            *(Column(name=name) for name in numeric),
            *(Column(name=name, numeric=False) for name in plain),
        ],
        rows=rows,
    )
    each = [(name, [1000 * speed.stages.get(stage, 0.0) / max(speed.images, 1) for stage in stages]) for name, _, speed in timed]
    plot = Plot(
        key="stages",
        title="Where the time goes",
        alt="Milliseconds an image by stage, in the table below",
        drawing=Bars(parts=stages, rows=each, axis="milliseconds an image; stages overlap"),
        numbers=Table(
            caption="Milliseconds an image",
            columns=[Column(name="captioner", numeric=False), *(Column(name=stage) for stage in stages)],
            rows=[[Cell(text=name), *(Cell(text=number(value), order=value) for value in values)] for name, values in each],
        ),
    )
    blocks: list[Block] = [table, *([Plots(plots=[plot])] if stages else [])]
    return Section(
        key="speed",
        title="Speed",
        lead="Speeds compare only when the machine was the same and had nothing else to do.",
        blocks=blocks,
    )


def _made(findings: Findings, index: int, key: str) -> str:
    run = findings.systems[index].judged.conditions.get("run")
    return str(run.get(key, "–")) if isinstance(run, dict) else "–"


def training_section(findings: Findings, contest: Contest) -> Section:  # noqa: ARG001  # sections are called alike
    """Write the learning curves.

    Args:
        findings: What was found.
        contest: Not needed.

    Returns:
        The section.
    """
    rows = [
        [
            Cell(text=training.name, series=index),
            Cell(text=str(epoch.epoch), order=epoch.epoch),
            Cell(text=number(epoch.train_loss, 3), order=epoch.train_loss),
            Cell(text=number(epoch.perplexity, 2), order=epoch.perplexity),
            Cell(text=number(100 * epoch.bleu_4), order=epoch.bleu_4),
            Cell(text=number(100 * epoch.cider), order=epoch.cider),
            Cell(text=f"{epoch.learning_rate:.1e}", order=epoch.learning_rate),
            Cell(text=number(epoch.seconds, 0), order=epoch.seconds),
        ]
        for index, training in enumerate(findings.trainings)
        for epoch in training.epochs
    ]
    names = ("epoch", "training loss", "perplexity", "BLEU-4", "CIDEr", "learning rate", "seconds")
    table = Table(
        caption="Every epoch", columns=[Column(name="training", numeric=False), *(Column(name=name) for name in names)], rows=rows
    )
    return Section(
        key="training",
        title="Training",
        lead="Validation during training: perplexity from −log p alone; BLEU-4 and CIDEr of captions written freely, ×100, on the"
        " training tokens, so that they lie a little off the scores above.",
        blocks=[
            Plots(
                plots=[_curve(findings.trainings, *each) for each in _CURVES],
                legend=[(index, training.name) for index, training in enumerate(findings.trainings)],
            ),
            Fold(title="Every epoch", blocks=[table]),
        ],
    )


def _curve(trainings: Sequence[Training], key: str, title: str, times: float) -> Plot:
    curves = [
        (index, training.name, [(float(epoch.epoch), times * float(getattr(epoch, key))) for epoch in training.epochs])
        for index, training in enumerate(trainings)
    ]
    last = ", ".join(f"{name} ends at {number(points[-1][1], 2)}" for _, name, points in curves if points)
    epochs = sorted({epoch for _, _, points in curves for epoch, _ in points})
    return Plot(
        key=f"curve-{key.replace('_', '-')}",
        title=title,
        alt=f"{title} by epoch: {last}",
        drawing=Curves(curves=curves, axis="epoch"),
        numbers=Table(
            caption=title,
            columns=[Column(name="epoch", numeric=False), *(Column(name=name) for _, name, _ in curves)],
            rows=[
                [
                    Cell(text=f"{epoch:.0f}", order=epoch),
                    *(
                        Cell(text=number(value, 2), order=value)
                        if (value := dict(points).get(epoch)) is not None
                        else Cell(text="–")
                        for _, _, points in curves
                    ),
                ]
                for epoch in epochs
            ],
        ),
    )


def failures_section(findings: Findings, contest: Contest) -> Section:  # noqa: ARG001  # sections are called alike
    """Write which images failed, by cause.

    Args:
        findings: What was found.
        contest: Not needed.

    Returns:
        The section.
    """
    counts, examples = [], []
    for index, system in enumerate(findings.systems):
        known = system.failures
        if known is None:
            failed = system.judged.conditions.get("images_failed") or 0
            known_cells = [
                Cell(text="unknown: name the folder that capt-batch run wrote" if failed else "–"),
                Cell(text=f"{failed}"),
            ]
            counts.append([Cell(text=system.name, series=index), *known_cells])
            continue
        causes = Counter(failure.kind for failure in known)
        counts += [
            [Cell(text=system.name, series=index), Cell(text=cause), Cell(text=f"{count:,}", order=count)]
            for cause, count in (causes.most_common() or [("none", 0)])
        ]
        shown: Counter[str] = Counter()
        for failure in known:
            shown[failure.kind] += 1
            if shown[failure.kind] <= _EXAMPLES_OF_A_CAUSE:
                examples.append([Cell(text=failure.image_id), Cell(text=system.name, series=index), Cell(text=failure.said)])
    total = sum(
        len(system.failures or ()) or int(str(system.judged.conditions.get("images_failed") or 0)) for system in findings.systems
    )
    blocks: list[Block] = [
        Table(
            caption="Failed photographs by cause",
            columns=[Column(name="captioner", numeric=False), Column(name="cause", numeric=False), Column(name="photographs")],
            rows=counts,
        )
    ]
    if examples:
        columns = [Column(name=name, numeric=False) for name in ("photograph", "captioner", "what went wrong")]
        blocks.append(Table(caption=f"The first {_EXAMPLES_OF_A_CAUSE} of each cause", columns=columns, rows=examples))
    lead = (
        f"{plural(total, 'photograph')} could not be captioned; each counts as an empty caption."
        if total
        else "No photograph failed."
    )
    return Section(key="failures", title="Failures", lead=lead, blocks=blocks if total else [])
