"""What was compared: conditions that the runs share, those in which they differ, signatures and model cards.

In: Findings. Out: a section. Apart, because a number means something only beside how it was made.
"""

import json
from collections.abc import Iterator, Mapping

from reports.contest import Contest
from reports.document import Block, Cell, Column, Fold, Section, Table
from reports.findings import Findings, System

_LONGEST = 300  # characters of one value


def compared_section(findings: Findings, contest: Contest) -> Section:  # noqa: ARG001  # sections are called alike
    """Write what was compared.

    Args:
        findings: What was found.
        contest: Not needed.

    Returns:
        The section.
    """
    known = {system.name: dict(_flat(system.judged.conditions)) for system in findings.systems}
    keys = list(dict.fromkeys(key for values in known.values() for key in values))
    differing = [key for key in keys if len({values.get(key, "–") for values in known.values()}) > 1]
    shared = [key for key in keys if key not in differing]
    blocks: list[Block] = []
    if findings.others:
        columns = [Column(name="condition", numeric=False), *(Column(name=name, numeric=False) for name in known)]
        rows = [[Cell(text=key), *(Cell(text=values.get(key, "–")) for values in known.values())] for key in differing]
        blocks.append(Table(caption="In what the runs differ", columns=columns, rows=rows))
    blocks.append(
        Fold(
            title="Conditions of all runs",
            blocks=[_pairs("Conditions", [(key, known[findings.baseline.name][key]) for key in shared])],
        )
    )
    blocks.append(
        Fold(title="Signatures", blocks=[_pairs("Signatures", [(each.name, each.judged.signature) for each in findings.systems])])
    )
    blocks += [_card(system) for system in findings.systems if system.card is not None]
    lead = "Equal signatures mean comparable numbers."
    if findings.others and not differing:
        lead = "The runs differ in nothing but their captions. " + lead
    return Section(key="compared", title="What was compared", lead=lead, blocks=blocks)


def _card(system: System) -> Fold:
    return Fold(
        title=f"Model card of {system.name}",
        blocks=[
            _pairs(
                f"Model card of {system.name}", [*_flat({k: v for k, v in (system.card or {}).items() if k != "learning_curve"})]
            )
        ],
    )


def _pairs(caption: str, pairs: list[tuple[str, str]]) -> Table:
    columns = [Column(name="what", numeric=False), Column(name="value", numeric=False)]
    return Table(caption=caption, columns=columns, rows=[[Cell(text=key), Cell(text=value)] for key, value in pairs])


def _flat(values: Mapping[str, object], before: str = "") -> Iterator[tuple[str, str]]:
    """Write nested values as `outer.inner` and text."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        elif value is not None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"{before}{key}", text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
