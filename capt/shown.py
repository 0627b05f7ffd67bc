"""Text of others, made safe to show: on a terminal, in the log of a CI run, as JSON.

In: names, captions and sentences that somebody else may have written. Out: text that is read as it was written, and does nothing.
Apart, because both programs show such text, and so does every error.
"""

import json
from unicodedata import category

_COMMANDS = {
    "::": ":\u2060:",
    "##[": "#\u2060#[",
}  # by which GitHub's runner is told what to do

_JOINING = frozenset({"\u200d", "\u2060"})


def one_line(text: str) -> str:
    r"""Keep a text on its line, so that no character of it steers a terminal or turns text around.

    Args:
        text: Such as a sentence with the name of somebody's file in it.

    Returns:
        The same with control characters, line breaks, marks of direction and broken Unicode written out, as `\n` or `\x1b`.
    """
    if text.isprintable():
        return text
    return "".join(each if _is_seen(each) else each.encode("unicode_escape").decode("ascii") for each in text)


def _is_seen(letter: str) -> bool:
    """Whether a character is shown as itself: letters, spaces of any width, and what joins emoji or words."""
    return letter.isprintable() or letter in _JOINING or category(letter) == "Zs"


def in_log(text: str) -> str:
    """Keep a text on its line where a CI run may read it too: nothing in it is a command to GitHub's runner.

    Args:
        text: Such as a caption.

    Returns:
        What `one_line` gives, with what could begin a command taken apart by a character that is not seen.
    """
    shown = one_line(text)
    for command, harmless in _COMMANDS.items():
        shown = shown.replace(command, harmless)
    return shown


def json_text(value: object) -> str:
    """Write JSON for people: indented, letters of all languages as they are, and the rest as JSON writes it in ASCII.

    Args:
        value: As JSON knows it.

    Returns:
        Lines of text that any program reads as JSON.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    escaped = (each if _is_seen(each) or each == "\n" else json.dumps(each)[1:-1] for each in text)
    return "".join(escaped).replace("##[", "#\\u0023[")
