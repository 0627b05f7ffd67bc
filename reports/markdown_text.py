"""Text that somebody else wrote, as GitHub's Markdown: it shows as it is written.

In: captions, names, ids, reasons. Out: one line each. Apart, because everything that is drawn in Markdown needs it, and only this
knows what Markdown takes for markup.
"""

import re

from capt.shown import one_line

_LONGEST = 200  # characters of one text
_MARKUP = re.compile(r"[\\`*_{}\[\]#|~$!^]|^[-+](?=[\s-]|$)|^=")
_NUMBERED = re.compile(r"^(\d+)(?=[.)](?:\s|$))")  # would begin a list
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_JOINER = "\u2060"  # takes no room and is no space; GitHub makes mentions, links and references even of what is escaped


def plain(text: str, longest: int | None = _LONGEST) -> str:
    """Write text so that it stays text.

    Args:
        text: Anything, hostile or not.
        longest: The most characters; None for all.

    Returns:
        One line without markup, links, mentions or references to issues.
    """
    folded = one_line(" ".join(text.split()))
    if longest is not None and len(folded) > longest:
        folded = f"{folded[: longest - 1]}…"
    escaped = _NUMBERED.sub(r"\1\\", _MARKUP.sub(r"\\\g<0>", folded))
    escaped = "".join(_ENTITIES.get(letter, letter) for letter in escaped)
    escaped = escaped.replace("://", f":{_JOINER}//").replace("@", f"@{_JOINER}").replace("\\#", f"\\#{_JOINER}")
    return re.sub(r"(?i)(www)(?=\.)|(\bGH)(?=-\d)", rf"\g<0>{_JOINER}", escaped)
