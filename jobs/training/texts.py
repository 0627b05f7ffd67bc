"""Captions without images, from which the decoder first learns the language.

In: a file of captions, and which images must not be in it. Out: the captions. Apart, because leaving out what a model is later
chosen by must be done in one place.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from capt.errors import InputError
from capt.reference_formats import UnknownFormatError
from capt.references import References, read_image_list, read_references
from capt.vocabulary import tokenize
from jobs.training.dataset import CaptionedImages


@dataclass(frozen=True, kw_only=True)
class TextPlan:
    """Where captions without images are.

    Args:
        source: Captions in any format of `capt.references`.
        images: A list: only the captions of these images.
        exclude: A list, or captions: not those of these images.
    """

    source: Path
    images: Path | None = None
    exclude: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What the decoder reads before it sees an image.

    Args:
        captions: As people wrote them; those of the training images are among them, none twice for an image.
        images: For each caption the number of its image, from 0.
        excluded: How many images were left out on demand.
        held_back: How many were left out because they are those that the run chooses by.
    """

    captions: tuple[str, ...]
    images: tuple[int, ...]
    excluded: int
    held_back: int


def read_texts(plan: TextPlan, learning: CaptionedImages, validating: CaptionedImages) -> Texts:
    """Read captions without images, and add those of the training images.

    Images to choose by are left out of the text whether or not it was asked for, so that nothing of them is ever learned.

    Args:
        plan: Where the captions are.
        learning: The training images.
        validating: The images to choose by.

    Returns:
        The captions.

    Raises:
        InputError: If the file or a list cannot be read, or nothing is left.
    """
    read = read_references(plan.source, images=plan.images)
    held_back = set(read.resolve(validating.image_ids).values())
    excluded = set(read.resolve(read_ids(plan.exclude)).values()) - held_back if plan.exclude else set()
    left_out = held_back | excluded
    told = [(image_id, text) for image_id, texts in read.captions.items() if image_id not in left_out for text in texts]
    if not told:
        message = f"{plan.source} has no captions but those that are left out; give others to --text, or leave it out."
        raise InputError(message)
    told += _not_yet_in(read, learning, excluded)
    numbers = {image_id: number for number, image_id in enumerate(dict(told))}
    return Texts(
        captions=tuple(text for _, text in told),
        images=tuple(numbers[image_id] for image_id, _ in told),
        excluded=len(excluded),
        held_back=len(held_back),
    )


def _not_yet_in(read: References, learning: CaptionedImages, excluded: Collection[str]) -> list[tuple[str, str]]:
    """Give those captions of the training images that the text does not have for the same image, each with its image."""
    known = read.resolve(learning.image_ids)
    added = []
    for image_id, texts in zip(learning.image_ids, learning.captions, strict=True):
        same = known.get(image_id, "")
        there = {tuple(tokenize(text)) for text in read.captions.get(same, ())}
        added += [(same or image_id, text) for text in texts if same not in excluded and tuple(tokenize(text)) not in there]
    return added


def read_ids(path: Path) -> list[str]:
    """Read which images are meant, from a list of images or from their captions.

    Args:
        path: A list, one image a line; or captions in any format.

    Returns:
        Their ids, as written.

    Raises:
        InputError: If it cannot be read.
    """
    try:
        return list(read_references(path).captions)
    except UnknownFormatError:
        return read_image_list(path)
