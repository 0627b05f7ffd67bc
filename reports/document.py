"""What a renderer draws: sections of tables, plots, facts and examples, every number already rounded and worded.

In: nothing; these are nouns. Out: Document. Apart, because whoever decides (reports/sections) and whoever draws (HTML, Markdown,
terminal) meet here and nowhere else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from reports.findings import Photograph


class Tone(StrEnum):
    """How a cell is meant; renderers may colour it, and its text says it too."""

    PLAIN = "plain"
    GOOD = "good"
    BAD = "bad"
    QUIET = "quiet"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: What it says.
        below: What smaller lines below it say, one a line.
        order: What it is sorted by; its text when not given.
        tone: How it is meant.
        series: The captioner whose mark stands before it.
    """

    text: str
    below: str = ""
    order: float | None = None
    tone: Tone = Tone.PLAIN
    series: int | None = None


@dataclass(frozen=True, kw_only=True)
class Column:
    """The heading of a column; numbers stand to the right."""

    name: str
    numeric: bool = True


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; the first cell of a row names the row."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A value with its interval, drawn in the colour and shape of a series."""

    series: int
    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Line:
    """A value to compare with, drawn across a plot."""

    label: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Rows of values with intervals, one below the other."""

    rows: Sequence[tuple[str, Sequence[Mark]]]
    axis: str
    lines: Sequence[Line] = ()
    from_zero: bool = False


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Shares of the images by value, one outline a series; `edges` are shared."""

    edges: Sequence[float]
    shares: Sequence[tuple[int, Sequence[float]]]
    axis: str


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Values by epoch, one line a series."""

    curves: Sequence[tuple[int, str, Sequence[tuple[float, float]]]]
    axis: str


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Rows of stacked parts, from 0; a verdict's three parts are good, neither and bad."""

    parts: Sequence[str]
    rows: Sequence[tuple[str, Sequence[float]]]
    axis: str
    is_verdict: bool = False


Drawing = Intervals | Histogram | Curves | Bars


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A small plot with the same numbers as a table.

    Attributes:
        key: Unique in the document; letters, digits and hyphens.
        title: Above it.
        alt: What it shows, for those who cannot see it.
        drawing: What is drawn.
        numbers: The same as a table.
    """

    key: str
    title: str
    alt: str
    drawing: Drawing
    numbers: Table


@dataclass(frozen=True, kw_only=True)
class Plots:
    """Plots side by side; `legend` names the series by number, or is empty when rows do."""

    kind: ClassVar[str] = "plots"
    plots: Sequence[Plot]
    legend: Sequence[tuple[int, str]] = ()


@dataclass(frozen=True, kw_only=True)
class Words:
    """A paragraph."""

    kind: ClassVar[str] = "words"
    text: str


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Something that opens when asked for."""

    kind: ClassVar[str] = "fold"
    title: str
    blocks: Sequence["Block"]


@dataclass(frozen=True, kw_only=True)
class Looked:
    """A word and where the network looked for it: a PNG as wide as the grid, fog where it did not look."""

    word: str
    png: bytes


@dataclass(frozen=True, kw_only=True)
class Said:
    """What one captioner said of a photograph."""

    series: int
    name: str
    caption: str
    score: str
    order: float
    is_best: bool
    looked: Sequence[Looked] = ()


@dataclass(frozen=True, kw_only=True)
class Example:
    """A photograph with everything said about it.

    Attributes:
        key: Unique in the document.
        image_id: Its id.
        group: Why it is here, a key of the gallery's groups.
        photograph: Made small; None when no source was named.
        alt: What stands for it when it cannot be seen.
        said: One caption a captioner.
        references: Human captions.
        difference: Of the contender to the baseline, worded; empty with one captioner.
        order: The same as a number.
        buckets: Keys of the gallery's buckets.
        tags: The buckets in words.
    """

    key: str
    image_id: str
    group: str
    photograph: Photograph | None
    alt: str
    said: Sequence[Said]
    references: Sequence[str]
    difference: str
    order: float
    buckets: Sequence[str]
    tags: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Examples that can be filtered.

    Attributes:
        metric: The score shown with each caption.
        groups: Key and words of why an example is here, in order.
        buckets: For each way to divide: its words, and key and words of each bucket.
        measures: What can be filtered by: the attribute's key and words.
        examples: In order.
    """

    kind: ClassVar[str] = "gallery"
    metric: str
    groups: Sequence[tuple[str, str]]
    buckets: Sequence[tuple[str, Sequence[tuple[str, str]]]]
    measures: Sequence[tuple[str, str]]
    examples: Sequence[Example]


Block = Table | Plots | Words | Fold | Gallery


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the report.

    Attributes:
        key: For links.
        title: Its heading.
        lead: What it says, in a sentence or two.
        blocks: What it shows.
        in_brief: Whether Markdown has it too.
    """

    key: str
    title: str
    lead: str = ""
    blocks: Sequence[Block] = ()
    in_brief: bool = False


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One score at a glance.

    Attributes:
        name: Of the score.
        value: The contender's.
        below: Its interval; or, where there is a difference, whose value it is held against.
        against: The baseline's value; empty with one captioner.
        difference: Between the two; empty with one captioner.
        verdict: What it comes to.
        tone: How it is meant.
    """

    name: str
    value: str
    below: str
    against: str = ""
    difference: str = ""
    verdict: str = ""
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, kw_only=True)
class Strip:
    """A few examples at a glance, with a link to each."""

    title: str
    examples: Sequence[Example]


@dataclass(frozen=True, kw_only=True)
class Document:
    """A whole report.

    Attributes:
        headline: The answer, in a few words.
        title: What was reported on, for the window's title.
        facts: Short: when, how many images, which references.
        verdict: The answer in two or three sentences.
        tiles: The scores that matter most.
        metric: The score shown with single captions.
        strips: The photographs that show it.
        warnings: What a reader must know before believing a number.
        notes: How the runs were made.
        legend: What the numbers are.
        sections: All the rest.
        series: Names of the captioners, by number.
        signatures: Of each captioner: everything that changes a number, as one line.
        date: ISO 8601.
        version: Of capt.
    """

    headline: str
    title: str
    facts: Sequence[str]
    verdict: Sequence[str]
    tiles: Sequence[Tile]
    metric: str
    strips: Sequence[Strip] = field(default=())
    warnings: Sequence[str]
    notes: Sequence[str]
    legend: str
    sections: Sequence[Section]
    series: Sequence[str]
    signatures: Sequence[str]
    date: str
    version: str
