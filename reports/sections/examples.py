"""The photographs themselves: which ones are shown, and what is said of each.

In: Findings, the contest, and later the pictures. Out: a choice of images, then a section with a gallery. Apart, because the
choice must be made before any photograph is opened, and always fall on the same ones.
"""

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reports.contest import Contest
from reports.document import Block, Example, Gallery, Looked, Said, Section, Strip
from reports.findings import Findings, Pictures
from reports.sections.buckets import labels, tags, title
from reports.wording import number, plural, signed, spoken

_MOST, _LEAST_SHARE, _STRIP = 12, 3, 4  # of one group; of the images, one in so many; at a glance
_TIE = 1e-9
_FOG, _DENSE = (
    72,
    225,
)  # dark grey shows on bright and dark photographs alike; how dense it is where nothing was looked at, of 255


@dataclass(frozen=True, kw_only=True)
class Choice:
    """An image that is shown, and why."""

    row: int
    group: str


def choose_examples(findings: Findings, contest: Contest, limit: int) -> list[Choice]:
    """Choose the images to show; the same findings give the same ones.

    Args:
        findings: What was found.
        contest: Whose gains and losses.
        limit: The most images.

    Returns:
        The largest gains and losses, the best, worst and typical ones, and further ones spread evenly; each image once.
    """
    n = len(findings.image_ids)
    each = max(1, min(_MOST, limit // 10, n // _LEAST_SHARE))
    mean = np.mean([system.judged.per_image[contest.metric] for system in findings.systems], axis=0)
    away = np.abs(mean - np.median(mean))
    orders: dict[str, NDArray[np.int64]] = {}
    if findings.others:
        orders["gain"] = _ordered(-contest.gains, contest.gains > _TIE)
        orders["loss"] = _ordered(contest.gains, contest.gains < -_TIE)
    orders["best"], orders["worst"], orders["typical"] = _ordered(-mean), _ordered(mean), _ordered(away)
    chosen: dict[int, str] = {}
    for group, order in orders.items():
        free = [row for row in order.tolist() if row not in chosen]
        chosen |= dict.fromkeys(free[: max(0, min(each, limit - len(chosen)))], group)
    others = [row for row in range(n) if row not in chosen]
    wanted = min(limit - len(chosen), len(others))
    chosen |= {others[index * len(others) // wanted]: "further" for index in range(wanted)}
    return [Choice(row=row, group=group) for row, group in chosen.items()]


def _ordered(keys: NDArray[np.float64], allowed: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """Give rows by key, smallest first; equal ones in the order of the images."""
    order = np.argsort(keys, kind="stable")
    return order if allowed is None else order[allowed[order]]


def make_examples(findings: Findings, contest: Contest, choice: Sequence[Choice], pictures: Pictures) -> list[Example]:
    """Put together what is said of the chosen images.

    Args:
        findings: What was found.
        contest: Whose difference is shown.
        choice: What `choose_examples` gave.
        pictures: Photographs and attention of the chosen images, as far as there are any.

    Returns:
        One example a choice.
    """
    words = {dimension.key: tags(dimension) for dimension in findings.dimensions}
    return [_example(findings, contest, each, pictures, words) for each in choice]


def _example(
    findings: Findings, contest: Contest, choice: Choice, pictures: Pictures, words: Mapping[str, Sequence[str]]
) -> Example:
    row, image_id = choice.row, findings.image_ids[choice.row]
    buckets = [(dimension.key, int(dimension.bucket_of[row])) for dimension in findings.dimensions]
    gain = float(contest.gains[row])
    photograph = pictures.photographs.get(image_id)
    return Example(
        key=f"photo-{row}",
        image_id=image_id,
        group=choice.group,
        photograph=photograph,
        alt=f"Photograph {image_id}" + (f": {findings.references[row][0]}" if findings.references else ""),
        said=_said(findings, contest, row, pictures),
        references=findings.references[row] if findings.references else (),
        difference=signed(gain * contest.times) if findings.others else "",
        order=gain * contest.times,
        buckets=[f"{key}-{bucket}" for key, bucket in buckets],
        tags=[words[key][bucket] for key, bucket in buckets],
    )


def _said(findings: Findings, contest: Contest, row: int, pictures: Pictures) -> list[Said]:
    image_id = findings.image_ids[row]
    values = [float(system.judged.per_image[contest.metric][row]) for system in findings.systems]
    best = max(values)
    return [
        Said(
            series=index,
            name=system.name,
            caption=system.judged.captions[row],
            score=number(value * contest.times),
            order=value * contest.times,
            is_best=len(values) > 1 and value > min(values) + _TIE and value >= best - _TIE,
            looked=looked(system.judged.captions[row], pictures.attention.get(system.name, {}).get(image_id)),
        )
        for index, (system, value) in enumerate(zip(findings.systems, values, strict=True))
    ]


def looked(caption: str, maps: NDArray[np.uint8] | None) -> list[Looked]:
    """Put each word beside the place where the network looked for it.

    Args:
        caption: As it was written.
        maps: `(T, side, side)`, 0 to 255; None when the run stored none.

    Returns:
        One a word; none when words and maps are not as many.
    """
    words = caption.split()
    if maps is None or len(words) != len(maps):
        return []
    return [Looked(word=word, png=_veil(grid)) for word, grid in zip(words, maps, strict=True)]


def _veil(grid: NDArray[np.uint8]) -> bytes:
    """Make a fog that lifts where the network looked, one pixel a cell."""
    cover = np.rint((255 - grid.astype(np.float64)) / 255 * _DENSE).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(np.dstack([np.full_like(cover, _FOG), cover])).save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def examples_section(findings: Findings, contest: Contest, examples: Sequence[Example]) -> Section:
    """Write the gallery.

    Args:
        findings: What was found.
        contest: Whose score is shown.
        examples: What `make_examples` gave.

    Returns:
        The section.
    """
    metric = spoken(contest.metric)
    measures = [(f"score-{index}", f"{metric} of {system.name}") for index, system in enumerate(findings.systems)]
    if findings.others:
        measures.insert(0, ("difference", f"difference in {metric}"))
    gallery = Gallery(
        metric=metric,
        groups=[(key, words) for key, words in _groups(contest) if any(example.group == key for example in examples)],
        buckets=[
            (title(dimension), [(f"{dimension.key}-{bucket}", label) for bucket, label in enumerate(labels(dimension))])
            for dimension in findings.dimensions
        ],
        measures=measures,
        examples=examples,
    )
    shown = (
        f"{len(examples):,} of {plural(len(findings.image_ids), 'photograph')}"
        if len(examples) < len(findings.image_ids)
        else "All"
    )
    lead = f"{shown}, the largest gains and losses first." if findings.others else f"{shown}, the best and the worst first."
    missing = []
    if not findings.with_photographs:
        missing.append("Name the photographs with --images to see them.")
    if findings.references is None:
        missing.append("Name the human captions with --references to see them.")
    if not any(system.has_attention for system in findings.systems):
        missing.append("To see where a network looked, caption with --attention and name the folder of captions.")
    blocks: list[Block] = [gallery]
    return Section(key="photographs", title="Photographs", lead=" ".join([lead, *missing]), blocks=blocks)


def strips(contest: Contest, examples: Sequence[Example]) -> list[Strip]:
    """Show the answer in photographs.

    Args:
        contest: Whose gains and losses.
        examples: What `make_examples` gave.

    Returns:
        A few largest gains and losses; or, with one captioner, a few best and worst.
    """
    words = dict(_groups(contest))
    shown = {contest.baseline.name, contest.contender.name}
    groups = ("gain", "loss") if contest.difference is not None else ("best", "worst")
    found = [(words[group], [_only(each, shown) for each in examples if each.group == group][:_STRIP]) for group in groups]
    return [Strip(title=title, examples=each) for title, each in found if each]


def _only(example: Example, names: Collection[str]) -> Example:
    """Keep what some captioners said."""
    return replace(example, said=[said for said in example.said if said.name in names])


def _groups(contest: Contest) -> list[tuple[str, str]]:
    both = contest.difference is not None
    return [
        ("gain", f"Where {contest.contender.name} gains most"),
        ("loss", f"Where {contest.contender.name} loses most"),
        ("best", "Best of all on average" if both else "Best"),
        ("worst", "Worst of all on average" if both else "Worst"),
        ("typical", "Typical"),
        ("further", "Further ones, spread evenly"),
    ]
