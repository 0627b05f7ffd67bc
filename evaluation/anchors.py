"""Anchors, which tell what a number means: the floor that a constant caption reaches, and one human against the others.

In: references. Out: Anchors. Apart, because they judge the references and are the same for every captioner.
"""

from collections.abc import Sequence

from evaluation.measure import Instruments, measure
from evaluation.pairs import Pairs
from evaluation.scores import Anchor

CONSTANT_CAPTION = "a man in a blue shirt is standing on the street"
FLOOR, HUMAN = "constant caption", "one human"


def find_anchors(
    pairs: Pairs, metrics: Sequence[str], instruments: Instruments, *, constant: str = CONSTANT_CAPTION
) -> dict[str, Anchor]:
    """Score a constant caption, and each image's first reference against its others.

    Args:
        pairs: Whose references are used; their captions are not.
        metrics: Keys of METRICS.
        instruments: Java and the cache.
        constant: The caption given to every image.

    Returns:
        `constant caption`, and `one human` where every image has two references or more.

    Raises:
        JavaError: If Java fails.
    """
    n = len(pairs.references)
    anchors = {FLOOR: _anchor(f'every image captioned "{constant}"', [constant] * n, pairs.references, metrics, instruments)}
    if min(map(len, pairs.references)) > 1:
        most = max(map(len, pairs.references)) - 1
        said = f"each image's first reference against its other {most}; one reference fewer makes the numbers lower"
        first, others = [texts[0] for texts in pairs.references], [texts[1:] for texts in pairs.references]
        anchors[HUMAN] = _anchor(said, first, others, metrics, instruments)
    return anchors


def _anchor(
    said: str, captions: Sequence[str], references: Sequence[Sequence[str]], metrics: Sequence[str], instruments: Instruments
) -> Anchor:
    _, measured = measure(captions, references, metrics, instruments)
    scores = {name: value for found in measured.values() for name, value in found.scores.items()}
    return Anchor(said=said, scores=scores, references_per_image=max(map(len, references)), n=len(captions))
