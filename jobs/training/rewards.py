"""What a caption that was drawn in training earns: CIDEr-D, and BLEU-4 to keep sentences whole.

In: the words of captions, and of what people wrote. Out: a number each. Apart from the judge's metrics, because here captions are
scored one at a time, thousands of them a minute, against the training images' own references; both agree to rounding, on the same
words.

Source:
    Vedantam et al. 2015 (CIDEr-D), Papineni et al. 2002 (BLEU), as pycocoevalcap computes them.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

N = 4  # longest n-gram
_SIGMA = 6.0
_TINY, _SMALL = 1e-15, 1e-9  # pycocoevalcap's, so that a caption without a common n-gram has a BLEU, too

Words = Sequence[str]
Ngram = tuple[str, ...]


def ngrams(words: Words) -> Counter[Ngram]:
    """Count runs of one to four words.

    Args:
        words: Of a caption.

    Returns:
        Each run, and how often it occurs.
    """
    return Counter(_runs(words))


def _runs(words: Words) -> Iterator[Ngram]:
    words = tuple(words)
    for size in range(1, N + 1):
        for start in range(len(words) - size + 1):
            yield words[start : start + size]


@dataclass(frozen=True)
class _Vector:
    """A caption as CIDEr sees it: the weight of each n-gram, the weights' norm by n, and how many words less one."""

    weights: Mapping[Ngram, float]
    norms: tuple[float, ...]
    length: int


class Rewards:
    """The rewards of captions of the training images."""

    def __init__(self, references: Sequence[Sequence[Words]], bleu_weight: float) -> None:
        """Count in how many images' references each n-gram occurs.

        Args:
            references: For each image the words of what people wrote; an image may have none, and is then not rewarded.
            bleu_weight: Weight of BLEU-4 (0 to 1) beside CIDEr-D (0 to 10).
        """
        self._references, self._bleu_weight = references, bleu_weight
        self._frequency: Counter[Ngram] = Counter()
        for texts in references:
            self._frequency.update({run for text in texts for run in _runs(text)})
        self._images = math.log(max(sum(1 for texts in references if texts), 1))

    def score(self, image: int, captions: Sequence[Words]) -> list[float]:
        """Reward captions of one image.

        Args:
            image: Its number among the references; it has some.
            captions: Their words.

        Returns:
            CIDEr-D plus weighted BLEU-4 of each.
        """
        references = [(len(text), ngrams(text)) for text in self._references[image]]
        counted = [(len(caption), ngrams(caption)) for caption in captions]
        vectors = [self._vector(counts) for _, counts in references]
        rewards = [self._cider(self._vector(counts), vectors) for _, counts in counted]
        if not self._bleu_weight:
            return rewards
        highest: Counter[Ngram] = Counter()
        for _, counts in references:
            highest |= counts  # the largest count in any one reference
        lengths = [length for length, _ in references]
        bleus = [_bleu(length, counts, lengths, highest) for length, counts in counted]
        return [reward + self._bleu_weight * bleu for reward, bleu in zip(rewards, bleus, strict=True)]

    def _vector(self, counts: Counter[Ngram]) -> _Vector:
        weights, squares, length = {}, [0.0] * N, 0
        for run, count in counts.items():
            weight = count * (self._images - math.log(max(self._frequency[run], 1)))
            weights[run] = weight
            squares[len(run) - 1] += weight * weight
            if len(run) == 2:  # noqa: PLR2004 - pycocoevalcap takes the number of pairs for the length
                length += count
        return _Vector(weights, tuple(map(math.sqrt, squares)), length)

    def _cider(self, caption: _Vector, references: Sequence[_Vector]) -> float:
        total = 0.0
        for reference in references:
            products = [0.0] * N
            for run, weight in caption.weights.items():
                other = reference.weights.get(run)
                if other:
                    products[len(run) - 1] += min(weight, other) * other
            norms = zip(products, caption.norms, reference.norms, strict=True)
            cosines = (product / (one * other) if one and other else product for product, one, other in norms)
            total += sum(cosines) * math.exp(-((caption.length - reference.length) ** 2) / (2 * _SIGMA**2))
        return 10.0 * total / N / len(references)


def _bleu(length: int, counts: Counter[Ngram], references: Sequence[int], highest: Counter[Ngram]) -> float:
    """Give BLEU-4 of one caption against the references' lengths and n-gram counts."""
    correct = [0] * N
    for run, count in counts.items():
        correct[len(run) - 1] += min(count, highest[run])
    product = math.prod((correct[k] + _TINY) / (max(0, length - k) + _SMALL) for k in range(N))
    closest = min(references, key=lambda reference: (abs(reference - length), reference))
    ratio = (length + _TINY) / (closest + _SMALL)
    return float(product ** (1 / N) * (math.exp(1 - 1 / ratio) if ratio < 1 else 1.0))
