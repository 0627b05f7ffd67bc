"""Perplexity of the references under the network, from the likelihoods that the job stored; no network is needed here.

In: per image and reference, summed -log p in nats and the number of tokens (words and `<end>`). Out: exp(sum nll / sum tokens),
the same per image, and the share of words that the network does not know. Apart from metrics.py, because it judges the network
on the human captions, not the captions it wrote.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NAME = "perplexity"
COLUMNS = ("reference_nll", "reference_tokens")
COMMAND = "capt-batch run SOURCE --references REFS"


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """What the job stored about one image's references, one number each.

    Attributes:
        nll: Summed -log p, nats.
        tokens: Words and `<end>`.
        unknown: How many of the words the vocabulary lacks; None where an older run did not count them.
    """

    nll: Sequence[float]
    tokens: Sequence[int]
    unknown: Sequence[int] | None = None


Likelihoods = Sequence[Likelihood | None]


def missing_likelihoods(likelihoods: Likelihoods, references: Sequence[Sequence[str]]) -> str | None:
    """Say why there is no perplexity.

    Args:
        likelihoods: Per image those of its references, or None.
        references: What the captions are scored against.

    Returns:
        One sentence, or None when perplexity can be computed.
    """
    if not any(likelihoods):
        return f"No perplexity: the captions came without likelihoods, which `{COMMAND}` stores."
    for likelihood, texts in zip(likelihoods, references, strict=True):
        if likelihood is not None and not len(likelihood.nll) == len(likelihood.tokens) == len(texts):
            return f"No perplexity: the likelihoods belong to other references; `{COMMAND}` with these ones stores them anew."
    return None


def statistics(likelihoods: Likelihoods) -> NDArray[np.float64]:
    """Add the references of each image up.

    Args:
        likelihoods: Per image those of its references; None where the image failed.

    Returns:
        `(N, 2)`: nats and tokens, both 0 for an image without.
    """
    rows = [(sum(likelihood.nll), sum(likelihood.tokens)) if likelihood is not None else (0.0, 0) for likelihood in likelihoods]
    return np.array(rows, dtype=np.float64).reshape(-1, len(COLUMNS))


def unknown_share(likelihoods: Likelihoods) -> float | None:
    """Give the share of the references' words that the network reads as `<unk>`, which flatters perplexity.

    Args:
        likelihoods: Per image those of its references, or None.

    Returns:
        Between 0 and 1, `<end>` not counted; None where the run did not count them.
    """
    known = [each for each in likelihoods if each is not None]
    words = sum(sum(each.tokens) - len(each.tokens) for each in known)
    if not words or any(each.unknown is None for each in known):
        return None
    return sum(sum(each.unknown or ()) for each in known) / words


def corpus_score(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute perplexity.

    Args:
        sums: `(..., 2)`, nats and tokens added over images.

    Returns:
        `(...)`, 1 or more; not a number where there are no tokens.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.asarray(np.exp(sums[..., 0] / sums[..., 1]), dtype=np.float64)
