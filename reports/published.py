"""Published scores of captioners of this class: orientation, measured on other photographs or by other hands.

In: nothing. Out: PUBLISHED, ×100 as printed. Apart, because these are data with sources and change when somebody publishes.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Published:
    """One line of a paper's table.

    Attributes:
        system: What was measured.
        data: On which test set.
        scores: ×100, by name as COCO prints them.
        source: Where it is printed.
    """

    system: str
    data: str
    scores: Mapping[str, float]
    source: str


def _scores(*values: float | None) -> Mapping[str, float]:
    names = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "CIDEr")
    return {name: value for name, value in zip(names, values, strict=True) if value is not None}


_XU = "Xu et al. 2015, Show, Attend and Tell, table 1"
_LU = "Lu et al. 2017, Knowing When to Look, table 1"

PUBLISHED = (
    Published(
        system="Google NIC (Vinyals et al. 2015)",
        data="Flickr30k",
        scores=_scores(66.3, 42.3, 27.7, 18.3, None, None),
        source=_XU,
    ),
    Published(system="Soft attention", data="Flickr30k", scores=_scores(66.7, 43.4, 28.8, 19.1, 18.49, None), source=_XU),
    Published(system="Hard attention", data="Flickr30k", scores=_scores(66.9, 43.9, 29.6, 19.9, 18.46, None), source=_XU),
    Published(
        system="Adaptive attention, ResNet-152 fine-tuned",
        data="Flickr30k",
        scores=_scores(67.7, 49.4, 35.4, 25.1, 20.4, 53.1),
        source=_LU,
    ),
    Published(system="Soft attention", data="Flickr8k", scores=_scores(67.0, 44.8, 29.9, 19.5, 18.93, None), source=_XU),
    Published(system="Hard attention", data="Flickr8k", scores=_scores(67.0, 45.7, 31.4, 21.3, 20.30, None), source=_XU),
    Published(
        system="Adaptive attention, ResNet-152 fine-tuned",
        data="Flickr8k",
        scores=_scores(None, None, None, 23.3, None, 58.7),
        source="a re-implementation, not the authors'",
    ),
)


def relevant(references: str) -> tuple[Published, ...]:
    """Choose what was measured on the data set that the references belong to.

    Args:
        references: Their name, as the conditions of an evaluation have it.

    Returns:
        Lines of that data set; none when the name tells no data set.
    """
    return tuple(each for each in PUBLISHED if each.data.lower() in references.lower())
