"""Penn Treebank tokens: one caption in, one line of tokens out, never shifted.

In: captions as written. Out: their tokens, lower case, without punctuation, joined by spaces; the same as pycocoevalcap's
PTBTokenizer gives. Apart, because every n-gram metric stands on it. The jar is run here, through its standard input: the
original writes a file into site-packages, and one odd line break moves every later caption to another image.
"""

from collections.abc import Sequence

from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

from evaluation.java import TOKENIZER_JAR, Java, JavaError, find_jar

NAME = "PTB-3.4.1"
_PUNCTUATION = frozenset(PUNCTUATIONS)
_START_SECONDS, _SECONDS_PER_CAPTION = 120.0, 0.01


def tokenize(captions: Sequence[str], java: Java) -> list[str]:
    """Split captions into Penn Treebank tokens.

    Args:
        captions: Any text; white space of any kind, line breaks included, counts as one space.
        java: Runs the tokeniser.

    Returns:
        For each caption its tokens, joined by spaces; empty for a caption without words.

    Raises:
        JavaError: If Java fails, or answers another number of lines.
    """
    if not captions:
        return []
    content = "\n".join(map(fold, captions)).encode("utf-8", "replace")
    arguments = ("-cp", find_jar(TOKENIZER_JAR), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase")
    timeout = _START_SECONDS + _SECONDS_PER_CAPTION * len(captions)
    lines = java.run(arguments, content, timeout=timeout).decode("utf-8", "replace").split("\n")
    if len(lines) != len(captions):
        message = f"the tokeniser gave {len(lines):,} lines for {len(captions):,} captions: report this with the captions"
        raise JavaError(message)
    return [_without_punctuation(line) for line in lines]


def fold(caption: str) -> str:
    """Make every run of white space one space, so that a caption is one line for any program.

    Args:
        caption: Any text.

    Returns:
        It, without line breaks of any kind (U+2028, U+0085, vertical tab and form feed included).
    """
    return " ".join(caption.split())


def _without_punctuation(line: str) -> str:
    return " ".join(word for word in line.rstrip().split(" ") if word not in _PUNCTUATION)
