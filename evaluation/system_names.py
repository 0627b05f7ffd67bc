"""Paths -> the names by which a comparison speaks of its systems: short, and each its own.

In: the paths of a command line. Out: a name for each. Apart, because a table may not call two systems the same.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from evaluation.stored import PER_IMAGE_FILE, SCORES_FILE


def system_names(paths: Sequence[Path]) -> list[str]:
    """Name systems after their folders or files.

    Args:
        paths: In order, at least one; one may stand there twice.

    Returns:
        As many last parts of each path as tell them apart; the same path again is counted: `name (2)`.
    """
    places = [path.resolve() if ".." in path.parts else path.absolute() for path in paths]  # a link has a name of its own
    places = [place.parent if place.name in {PER_IMAGE_FILE, SCORES_FILE} else place for place in places]
    lengths = range(1, max(len(place.parts) for place in places) + 1)
    candidates = (["/".join(place.parts[-length:]) for place in places] for length in lengths)
    names = next(each for each in candidates if len(set(each)) == len(set(places)))
    seen: Counter[str] = Counter()
    for index, name in enumerate(names):
        seen[name] += 1
        names[index] = name if seen[name] == 1 else f"{name} ({seen[name]})"
    return names
