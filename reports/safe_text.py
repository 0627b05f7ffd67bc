"""Text of others for rich: it has neither markup nor anything that moves the cursor.

In: text. Out: rich's Text. Apart, because everything that draws on a terminal needs it.
"""

from rich.text import Text

from capt.shown import in_log


def safe_text(text: str, style: str = "") -> Text:
    """Make text of what somebody else may have written.

    Args:
        text: Anything.
        style: In which it is drawn.

    Returns:
        One line, folded where it is too long; no character of it moves the cursor, changes a colour, or is a command in a log.
    """
    return Text(in_log(text), style=style, overflow="fold")
