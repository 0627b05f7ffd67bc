"""Perplexity of the references under the network, from the likelihoods that the job stored; no network is needed here.

In: per image and reference, summed -log p in nats and the number of tokens (words and `<end>`). Out: exp(sum nll / sum tokens),
and the same per image. Apart from metrics.py, because it judges the network on the human captions, not the captions it wrote.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NAME = "perplexity"
COLUMNS = ("reference_nll", "reference_tokens")
COMMAND = "capt-batch run SOURCE --references REFS"

Likelihoods = Sequence[tuple[Sequence[float], Sequence[int]] | None]


def missing_likelihoods(likelihoods: Likelihoods, references: Sequence[Sequence[str]]) -> str | None:
    """Say why there is no perplexity.

    Args:
        likelihoods: Per image the -log p and the tokens of each reference, or None.
        references: What the captions are scored against.

    Returns:
        One sentence, or None when perplexity can be computed.
    """
    if not any(likelihoods):
        return f"No perplexity: the captions came without likelihoods, which `{COMMAND}` stores."
    for likelihood, texts in zip(likelihoods, references, strict=True):
        if likelihood is not None and not len(likelihood[0]) == len(likelihood[1]) == len(texts):
            return f"No perplexity: the likelihoods belong to other references; `{COMMAND}` with these ones stores them anew."
    return None


def statistics(likelihoods: Likelihoods) -> NDArray[np.float64]:
    """Add the references of each image up.

    Args:
        likelihoods: Per image the -log p and the tokens of each reference; None where the image failed.

    Returns:
        `(N, 2)`: nats and tokens, both 0 for an image without.
    """
    rows = [(sum(likelihood[0]), sum(likelihood[1])) if likelihood is not None else (0.0, 0) for likelihood in likelihoods]
    return np.array(rows, dtype=np.float64).reshape(-1, len(COLUMNS))


def corpus_score(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute perplexity.

    Args:
        sums: `(..., 2)`, nats and tokens added over images.

    Returns:
        `(...)`, 1 or more; not a number where there are no tokens.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.exp(sums[..., 0] / sums[..., 1]), dtype=np.float64)
