"""Words and their indices: the training tokeniser and the vocabulary that a checkpoint carries.

In: captions as people wrote them. Out: lists of indices, and captions again. Apart, because data, network and
decoding must agree on it; needs no torch.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from capt.errors import InputError

PAD, START, END, UNK = "<pad>", "<start>", "<end>", "<unk>"
SPECIAL_WORDS = (PAD, START, END, UNK)

# Runs of letters and digits, joined by single hyphens or points between digits; or an apostrophe ending: dog 's, do n't.
_WORD = re.compile(r"\d+(?:[.,:]\d+)+|n't(?![^\W_])|[^\W_]+?(?=n't(?![^\W_]))|'(?:s|m|d|re|ve|ll)(?![^\W_])|[^\W_]+(?:-[^\W_]+)*")
_APOSTROPHES = str.maketrans({"\N{RIGHT SINGLE QUOTATION MARK}": "'", "\N{MODIFIER LETTER APOSTROPHE}": "'"})


def tokenize(caption: str) -> list[str]:
    """Split a caption into lower-case words, without punctuation.

    The text is NFKC-normalised and lower-cased; words are runs of letters and digits, hyphenated words stay whole
    ("t-shirt"), numbers keep their inner points, and the endings 's, 'm, 'd, 're, 've, 'll and n't are words of their own, as
    in the Penn Treebank. Everything else separates.

    Args:
        caption: Any text.

    Returns:
        The words, in order; empty when there are none.

    Source:
        Karpathy and Fei-Fei 2015 (lower case, no punctuation); endings as in the Penn Treebank tokeniser.
    """
    text = unicodedata.normalize("NFKC", caption).lower().translate(_APOSTROPHES)
    return _WORD.findall(text)


def detokenize(words: Iterable[str]) -> str:
    """Join words into a caption, endings such as 's glued to the word before.

    Args:
        words: What `tokenize` gives.

    Returns:
        The caption, lower case, without punctuation.
    """
    text = ""
    for word in words:
        glued = word.startswith("'") or word == "n't" or not text
        text += word if glued else f" {word}"
    return text


class Vocabulary:
    """The words a captioner knows, each with its index; 0 to 3 are `<pad>`, `<start>`, `<end>` and `<unk>`."""

    pad, start, end, unk = range(len(SPECIAL_WORDS))

    def __init__(self, words: Sequence[str]) -> None:
        """Number the words.

        Args:
            words: All words in index order, the four special ones first, none twice.

        Raises:
            ValueError: If the special words are not first, or a word occurs twice.
        """
        self.words = tuple(words)
        self._index = {word: index for index, word in enumerate(self.words)}
        if self.words[: len(SPECIAL_WORDS)] != SPECIAL_WORDS:
            message = f"a vocabulary begins with {', '.join(SPECIAL_WORDS)}"
            raise ValueError(message)
        if len(self._index) != len(self.words):
            message = "a vocabulary names each word once"
            raise ValueError(message)

    @classmethod
    def build(cls, captions: Iterable[str], *, min_frequency: int) -> "Vocabulary":
        """Take every word that occurs often enough, the most frequent first, equals in alphabetical order.

        Args:
            captions: Training captions, as written.
            min_frequency: How many times a word must occur; rarer words become `<unk>`.

        Returns:
            The vocabulary.

        Raises:
            InputError: If no word is left.
        """
        counts = Counter(word for caption in captions for word in tokenize(caption))
        kept = sorted((word for word, count in counts.items() if count >= min_frequency), key=lambda word: (-counts[word], word))
        if not kept:
            message = (
                f"No word occurs {min_frequency} times in the training captions; lower --min-frequency or give more captions."
            )
            raise InputError(message)
        return cls((*SPECIAL_WORDS, *kept))

    def __len__(self) -> int:
        """Count the words, special ones included."""
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        """Tell whether a word has an index of its own."""
        return word in self._index

    def __eq__(self, other: object) -> bool:
        """Two vocabularies are equal when they number the same words alike."""
        return isinstance(other, Vocabulary) and self.words == other.words

    def __hash__(self) -> int:
        """Hash by the words, as equality compares them."""
        return hash(self.words)

    def encode(self, caption: str) -> list[int]:
        """Turn a caption into indices, from `<start>` to `<end>`; unknown words become `<unk>`.

        Args:
            caption: A caption as written.

        Returns:
            Its indices, words + 2 of them.
        """
        return [self.start, *(self._index.get(word, self.unk) for word in tokenize(caption)), self.end]

    def decode(self, indices: Iterable[int]) -> str:
        """Turn indices into a caption; `<pad>`, `<start>` and `<end>` are left out.

        Args:
            indices: Word indices.

        Returns:
            The caption.
        """
        silent = {self.pad, self.start, self.end}
        return detokenize(self.words[index] for index in indices if index not in silent)

    def to_json(self) -> str:
        """Write the words as a JSON list, in index order."""
        return json.dumps(self.words, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Vocabulary":
        """Read what `to_json` wrote.

        Args:
            text: A JSON list of words.

        Returns:
            The vocabulary.

        Raises:
            ValueError: If the text is no such list.
        """
        words = json.loads(text)
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            message = "a vocabulary is a JSON list of words"
            raise ValueError(message)
        return cls(words)
