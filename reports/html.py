"""A Document as one HTML page that needs nothing else: no network, no fonts, no second file.

In: a Document. Out: the page's text. Apart, because only this knows the template. Everything is escaped by the template; plots
are the only markup that is not, and plots.py escapes what it draws. The page forbids itself every connection, and every script
but its own.
"""

import base64
import hashlib
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from capt.shown import one_line
from reports.document import Document, Plot
from reports.plots import SERIES, draw

_EARLY = (
    'document.documentElement.classList.add("waiting");'  # before the first photograph: many are laid out only when asked for
)


def render(document: Document) -> str:
    """Draw a document as a page.

    Args:
        document: What it says.

    Returns:
        The page; the same document gives the same text.
    """
    environment = Environment(
        loader=PackageLoader("reports"),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data"] = _data
    environment.filters["plot"] = _plot
    style, script = (files("reports.templates").joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return environment.get_template("page.html").render(
        document=document,
        style=Markup(style),  # noqa: S704  # a file of this package
        script=Markup(script),  # noqa: S704  # a file of this package
        early=Markup(_EARLY),  # noqa: S704  # a constant
        script_digests=[_digest(_EARLY), _digest(script)],
        colours=SERIES,
    )


def _visible(value: object) -> Any:  # noqa: ANN401 - what was given, or text
    """Write out what is not seen in text, such as marks that turn it around; lines stay lines."""
    return "\n".join(map(one_line, value.split("\n"))) if type(value) is str else value


def _digest(script: str) -> str:
    """Give what the page's policy knows a script by."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _data(content: bytes, kind: str) -> str:
    """Write bytes as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _plot(plot: Plot) -> Markup:
    """Draw a plot; what it draws is escaped there."""
    return Markup(_visible(draw(plot)))  # noqa: S704  # plots.py escapes
