"""Cheap figures that explain a score: how long captions are, how many words they know, whether they repeat themselves.

In: tokens of captions and references. Out: a few numbers by name. Apart from metrics.py, because they judge nothing.
"""

from collections.abc import Collection, Mapping, Sequence

from capt.vocabulary import tokenize

_ORDER = 3  # of the n-grams that a good caption does not repeat


def explaining_figures(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Mapping[str, float]:
    """Describe the captions.

    Args:
        captions: Tokens joined by spaces, N, at least one.
        references: Tokens joined by spaces, N lists.

    Returns:
        `mean_length` in words; `length_ratio`, all words against those of each image's reference of the closest length;
        `distinct_words`; `distinct_captions`, a share; `repeated_3grams`, the share of captions in which one occurs twice;
        `empty_captions`, a share.
    """
    words = [caption.split() for caption in captions]
    n, total = len(captions), sum(map(len, words))
    closest = sum(_closest(len(each), texts) for each, texts in zip(words, references, strict=True))
    return {
        "mean_length": total / n,
        "length_ratio": total / closest if closest else 0.0,
        "distinct_words": float(len({word for each in words for word in each})),
        "distinct_captions": len(set(captions)) / n,
        "repeated_3grams": sum(map(_repeats, words)) / n,
        "empty_captions": sum(not each for each in words) / n,
    }


def unseen_share(captions: Sequence[str], training: Collection[str]) -> float:
    """Give the share of captions that no training caption equals word for word.

    Args:
        captions: As written, N, at least one.
        training: Captions that the captioner learned from, as written.

    Returns:
        Between 0 (every caption is a copy) and 1.
    """
    known = {" ".join(tokenize(text)) for text in training}
    return sum(" ".join(tokenize(text)) not in known for text in captions) / len(captions)


def _closest(length: int, references: Sequence[str]) -> int:
    """Give the length of the reference closest to this one, the shorter of two."""
    return min((abs(other - length), other) for other in (len(text.split()) for text in references))[1]


def _repeats(words: Sequence[str]) -> bool:
    """Whether an n-gram occurs twice."""
    grams = [tuple(words[start : start + _ORDER]) for start in range(len(words) - _ORDER + 1)]
    return len(set(grams)) < len(grams)
