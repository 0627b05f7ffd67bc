"""Plots: the page's own colours, the same bytes for the same numbers, nothing that reaches beyond the plot."""

import re
import xml.etree.ElementTree as ET

import pytest

from reports.document import Bars, Curves, Drawing, Histogram, Intervals, Line, Mark, Plot, Table
from reports.plots import SERIES, draw
from tests.test_report import HOSTILE

MARK = Mark(series=0, value=2.0, low=1.0, high=3.0)
DRAWINGS: dict[str, Drawing] = {
    "intervals": Intervals(
        rows=[("a", [MARK, Mark(series=9, value=2.5, low=2.4, high=2.6)])], axis="x", lines=[Line(label="l", value=4.0)]
    ),
    "gains": Intervals(rows=[("a", [MARK])], axis="x", from_zero=True),
    "histogram": Histogram(edges=[0.0, 1.0, 2.0], shares=[(0, [0.25, 0.75]), (1, [0.5, 0.5])], axis="x"),
    "curves": Curves(curves=[(0, "a", [(1.0, 2.0), (2.0, 1.0)]), (1, "b", [(1.0, 3.0)])], axis="epoch"),
    "bars": Bars(parts=["a", "b"], rows=[("r", [1.0, 2.0]), ("s", [2.0, 0.0])], axis="x"),
    "verdict": Bars(parts=["higher", "the same", "lower"], rows=[("r", [1.0, 2.0, 3.0])], axis="x", is_verdict=True),
}


def _plot(drawing: Drawing, key: str = "key", alt: str = "what it shows") -> Plot:
    return Plot(key=key, title="title", alt=alt, drawing=drawing, numbers=Table(caption="", columns=[], rows=[]))


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_plot_is_one_element_in_the_colours_of_the_page(name: str) -> None:
    """No colour is fixed, so that light and dark need no second picture; no style reaches beyond the plot."""
    svg = draw(_plot(DRAWINGS[name]))
    root = ET.fromstring(svg.replace("xlink:", ""))  # noqa: S314  # our own
    assert root.tag == "svg"
    assert not re.search(r"#[0-9a-f]{6}", svg)
    assert "var(--" in svg
    assert "<style" not in svg
    assert "font-family" not in svg
    assert "http" not in svg
    assert root.attrib["aria-labelledby"] == root[0].attrib["id"]
    assert root[0].text == "what it shows"


@pytest.mark.parametrize("name", DRAWINGS)
def test_the_same_numbers_give_the_same_bytes(name: str) -> None:
    """Neither a date nor a random id is in a plot."""
    assert draw(_plot(DRAWINGS[name])) == draw(_plot(DRAWINGS[name]))


def test_two_plots_share_no_id() -> None:
    """Every id begins with the plot's key, and every reference finds its own."""
    for key in ("one", "two"):
        svg = draw(_plot(DRAWINGS["histogram"], key=key))
        ids = re.findall(r'\sid="([^"]*)"', svg)
        assert all(each.startswith(f"{key}-") for each in ids)
        assert set(re.findall(r"url\(#([^)]*)\)", svg)) | set(re.findall(r'href="#([^"]*)"', svg)) <= set(ids)


def test_names_and_alternatives_are_escaped() -> None:
    """A hostile name becomes text, formulas and foreign scripts included; a long one is cut."""
    rows = [(HOSTILE, [MARK]), ("$\\frac{1}{2}$ 犬 🐕", [MARK]), ("x" * 300, [MARK])]
    svg = draw(_plot(Intervals(rows=rows, axis=HOSTILE), alt=HOSTILE))
    root = ET.fromstring(svg.replace("xlink:", ""))  # noqa: S314  # our own
    texts = [each.text or "" for each in root.iter("text")]
    assert root[0].text == HOSTILE
    assert not list(root.iter("script"))
    assert "$\\frac{1}{2}$ 犬 🐕" in texts
    assert max(map(len, texts)) <= 34


def test_captioners_differ_in_shape_as_well_as_in_colour() -> None:
    """The first eight have colours and shapes of their own, for eyes that know fewer colours."""
    rows = [(str(series), [Mark(series=series, value=1.0, low=0.0, high=2.0)]) for series in range(SERIES)]
    svg = draw(_plot(Intervals(rows=rows, axis="x")))
    assert {f"var(--series-{series})" for series in range(SERIES)} <= set(re.findall(r"var\(--series-\d\)", svg))
    assert len(set(re.findall(r'<path id="(key-m[0-9a-f]+)"', svg))) >= SERIES
