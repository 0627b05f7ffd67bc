"""Drawings -> SVG that goes into a page: small, in the page's own colours, the same bytes for the same numbers.

In: a Plot. Out: one `<svg>` element as text. Apart, because only this knows matplotlib. Colours are written as the page's CSS
variables, so that light and dark need no second picture; captioners differ in shape as well as in colour (Okabe and Ito's).
"""

import io
import re
import warnings
from collections.abc import Callable
from html import escape

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reports.document import Bars, Curves, Drawing, Histogram, Intervals, Plot

SERIES = 8  # colours and shapes; further captioners begin again
_SHAPES = "osD^vPX*"
_DASHES = ("-", "--", ":", "-.")
_INK, _MUTED, _RULE = "#0a0a01", "#0a0a02", "#0a0a03"  # stand for CSS variables until the end
_VARIABLES = {_INK: "var(--ink)", _MUTED: "var(--muted)", _RULE: "var(--rule)"}
_COLOURS = tuple(f"#0b0b0{index}" for index in range(SERIES))
_VARIABLES |= {colour: f"var(--series-{index})" for index, colour in enumerate(_COLOURS)}

_PARTS = tuple(f"#0c0c0{index}" for index in range(SERIES))
_VARIABLES |= {colour: f"var(--part-{index})" for index, colour in enumerate(_PARTS)}
_GOOD, _BAD, _PAPER = "#0d0d01", "#0d0d02", "#0d0d03"
_VARIABLES |= {_GOOD: "var(--good)", _BAD: "var(--bad)", _PAPER: "var(--card)"}

_WIDTH, _ROW, _FLAT = 3.5, 0.36, 2.35  # inches: of a plot, of a row, of a plot without rows
_LABEL = 34  # characters of a label
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 8.5,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
}


def draw(plot: Plot) -> str:
    """Draw a plot.

    Args:
        plot: What to draw.

    Returns:
        One `<svg>` element with a title for those who cannot see it; its ids begin with the plot's key.
    """
    with matplotlib.style.context(["default", {**_STYLE, "svg.hashsalt": plot.key}]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name in a script that the measuring font lacks: the page's own font shows it
        figure = Figure(figsize=(_WIDTH, _height(plot.drawing)), layout="constrained")
        FigureCanvasSVG(figure)
        _DRAWERS[type(plot.drawing)](figure.subplots(), plot.drawing)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _embed(stream.getvalue(), plot)


def _height(drawing: Drawing) -> float:
    if isinstance(drawing, Intervals):
        marks = max([len(marks) for _, marks in drawing.rows], default=1)
        return 0.5 + _ROW * len(drawing.lines) + (_ROW + 0.13 * (marks - 1)) * len(drawing.rows)
    if isinstance(drawing, Bars):
        return 0.75 + 0.5 * len(drawing.rows) + 0.17 * ((len(drawing.parts) + 1) // 2)
    return _FLAT


def _short(label: str) -> str:
    return label if len(label) <= _LABEL else f"{label[: _LABEL - 1]}…"


def _colour(series: int) -> str:
    return _COLOURS[series % SERIES]


def _intervals(axes: Axes, drawing: Intervals) -> None:
    """Draw one row below the other, each with its name above it, so that no long name takes room from the marks."""
    ticks: list[float] = []
    position = 0.0
    for label, marks in drawing.rows:
        axes.annotate(_short(label), (0, position), xycoords=("axes fraction", "data"), va="center", fontsize=8.5)
        for mark in marks:
            position -= 0.6 if mark is marks[0] else 0.36
            colour, shape = _colour(mark.series), _SHAPES[mark.series % SERIES]
            axes.plot([mark.low, mark.high], [position, position], color=colour, linewidth=1.8, solid_capstyle="butt")
            axes.plot([mark.value], [position], shape, color=colour, markersize=5.5)
        ticks.append(position)
        position -= 0.75 if marks else 0.6
    for line in drawing.lines:
        axes.annotate(
            _short(line.label), (0, position), xycoords=("axes fraction", "data"), va="center", fontsize=8.5, color=_MUTED
        )
        position -= 0.6
        axes.axvline(line.value, color=_RULE, linewidth=0.9, linestyle="--")
        axes.plot([line.value], [position], "d", color=_MUTED, markersize=5)
        position -= 0.75
    if drawing.from_zero:
        axes.axvline(0, color=_INK, linewidth=1)
    axes.set_ylim(position + 0.3, 0.35)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.margins(x=0.06)
    axes.set_xlabel(_short(drawing.axis))


def _histogram(axes: Axes, drawing: Histogram) -> None:
    for order, (series, shares) in enumerate(drawing.shares):
        values = [100 * share for share in shares]
        colour = _colour(series)
        axes.stairs(values, drawing.edges, color=colour, linewidth=1.5, linestyle=_DASHES[order % len(_DASHES)])
        if order == 0:
            axes.stairs(values, drawing.edges, color=colour, fill=True, alpha=0.16)
        top = max(range(len(values)), key=values.__getitem__)
        centre = (drawing.edges[top] + drawing.edges[top + 1]) / 2
        axes.plot([centre], [values[top]], _SHAPES[series % SERIES], color=colour, markersize=5)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("% of the photographs" if "words" not in drawing.axis else "% of the captions")
    axes.set_xlabel(_short(drawing.axis))


def _curves(axes: Axes, drawing: Curves) -> None:
    for series, _, points in drawing.curves:
        shape, dash = _SHAPES[series % SERIES], _DASHES[series % len(_DASHES)]
        axes.plot(*zip(*points, strict=True), marker=shape, markersize=4.5, color=_colour(series), linewidth=1.5, linestyle=dash)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(drawing.axis)


def _bars(axes: Axes, drawing: Bars) -> None:
    starts = [0.0] * len(drawing.rows)
    for index, part in enumerate(drawing.parts):
        values = [parts[index] for _, parts in drawing.rows]
        places = [-place for place in range(len(values))]
        colour = (_GOOD, _RULE, _BAD)[index] if drawing.is_verdict else _PARTS[index % SERIES]
        axes.barh(places, values, left=starts, height=0.42, color=colour, edgecolor=_PAPER, linewidth=0.8, label=part)
        starts = [start + value for start, value in zip(starts, values, strict=True)]
    for place, (label, _) in enumerate(drawing.rows):
        axes.annotate(_short(label), (0, -place + 0.27), xycoords=("axes fraction", "data"), va="bottom", fontsize=8.5)
    axes.set_ylim(-len(drawing.rows) + 0.6, 0.75)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(drawing.axis)
    axes.figure.legend(loc="outside lower center", ncols=2, fontsize=8.5)


_DRAWERS: dict[type, Callable[[Axes, Drawing], None]] = {
    Intervals: _intervals,  # type: ignore[dict-item]
    Histogram: _histogram,  # type: ignore[dict-item]
    Curves: _curves,  # type: ignore[dict-item]
    Bars: _bars,  # type: ignore[dict-item]
}


def _embed(svg: str, plot: Plot) -> str:
    """Make matplotlib's file an element of a page."""
    text = svg[svg.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>\s*", "", text, flags=re.DOTALL)  # would reach the whole page
    text = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{plot.key}-", text)
    text = re.sub(r"font-family: [^;\"]*; ?", "", text)  # the page's own font
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    box = re.search(r'viewBox="([^"]*)"', text)
    width = float(box[1].split()[2]) if box else 0
    opening = (
        f'<svg class="plot" role="img" aria-labelledby="{plot.key}-title" viewBox="{box[1] if box else ""}"'
        f' style="max-width:{width * 4 / 3 * 1.4:.0f}px"><title id="{plot.key}-title">{escape(plot.alt)}</title>'
    )
    return opening + text[text.index(">") + 1 :].strip()
