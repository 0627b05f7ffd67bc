"""A Document in a few lines for a terminal or a log: at most 80 columns, no colour needed to read it.

In: a Document. Out: something that rich prints. Apart from terminal.py, which draws what `score` and `doctor` say.
"""

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from reports.document import Document, Tone
from reports.safe_text import safe_text

_STYLES = {Tone.GOOD: "bold green", Tone.BAD: "bold red"}
_EXAMPLES = 2  # of a strip


def terminal_document(document: Document) -> RenderableType:
    """Draw a document in brief.

    Args:
        document: What it says.

    Returns:
        For rich's Console to print.
    """
    parts: list[RenderableType] = [safe_text(document.headline, "bold"), Text()]
    parts += [safe_text(sentence) for sentence in document.verdict]
    parts += [_tiles(document)]
    parts += [safe_text(f"Note: {warning}", "yellow") for warning in document.warnings]
    parts += [safe_text(note) for note in document.notes]
    for strip in document.strips:
        parts += [Text(), safe_text(strip.title, "bold")]
        for example in strip.examples[:_EXAMPLES]:
            parts.append(safe_text(f"{example.image_id} {example.difference}".rstrip(), "dim"))
            parts += [safe_text(f"  {said.name}: {said.caption or '(no caption)'} [{said.score}]") for said in example.said]
    for name, signature in zip(document.series, document.signatures, strict=True):
        parts += [Text(), safe_text(f"Signature of {name}: {signature}", "dim")]
    return Group(*parts)


def _tiles(document: Document) -> Table:
    """Draw the scores at a glance."""
    compared = any(tile.against for tile in document.tiles)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("score")
    for name in ("value", "against", "difference") if compared else ("value", "interval"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for tile in document.tiles:
        cells = (tile.against, tile.difference) if compared else (tile.below,)
        table.add_row(tile.name, tile.value, *cells, safe_text(tile.verdict, _STYLES.get(tile.tone, "")))
    return table
