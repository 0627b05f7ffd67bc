"""Captions without images: nothing of an image that a run chooses by is ever among them."""

from pathlib import Path

import pytest

from capt.errors import InputError
from jobs.training.dataset import CaptionedImages
from jobs.training.texts import TextPlan, read_ids, read_texts


def _images(captions: dict[str, tuple[str, ...]]) -> CaptionedImages:
    places = tuple(Path(image_id) for image_id in captions)
    return CaptionedImages(image_ids=tuple(captions), captions=tuple(captions.values()), places=places, identity="toy")


LEARNING = _images({"1.jpg": ("A dog runs.", "The dog is running!"), "7": ("only here",)})
VALIDATING = _images({"3.jpg": ("a secret",), "4": ("a second secret",), "99.jpg": ("not in the text",)})


@pytest.fixture
def token(tmp_path: Path) -> Path:
    """Give captions of six images in Flickr30k's format; those of image 1 differ from the training's in writing only."""
    lines = [
        "1.jpg#0\ta dog runs .",
        "1.jpg#1\tA brown dog .",
        "2.jpg#0\ttwo",
        "3.jpg#0\ta secret , told",
        "4.jpg#0\tsecond secret",
    ]
    lines += ["5.jpg#0\tfive", "6.jpg#0\tsix", "6.jpg#1\tsix again"]
    path = tmp_path / "captions.token"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_images_to_choose_by_are_left_out_unasked(token: Path) -> None:
    """Whether or not the ids carry an ending, no caption of a validation image is in the text; how many is told."""
    texts = read_texts(TextPlan(source=token), LEARNING, VALIDATING)
    assert not any("secret" in caption for caption in texts.captions)
    assert (texts.excluded, texts.held_back) == (0, 2)


def test_training_captions_are_read_too_and_none_twice(token: Path) -> None:
    """What people wrote about a training image is added, unless the text has the same words for the same image."""
    texts = read_texts(TextPlan(source=token), LEARNING, VALIDATING)
    assert texts.captions == (
        "a dog runs .",
        "A brown dog .",
        "two",
        "five",
        "six",
        "six again",
        "The dog is running!",
        "only here",
    )
    assert texts.images == (0, 0, 1, 2, 3, 3, 0, 4)  # which captions are of the same image


@pytest.mark.parametrize("form", ["list", "list without endings", "captions"])
def test_images_are_excluded_on_demand(token: Path, tmp_path: Path, form: str) -> None:
    """A list or captions in any format name images to leave out, beside those to choose by."""
    exclude = tmp_path / "exclude.txt"
    contents = {"list": "6.jpg\n3.jpg\n77.jpg\n", "list without endings": "6\n3\n", "captions": "6.jpg#0\tx\n3.jpg#0\ty\n"}
    exclude.write_text(contents[form])
    texts = read_texts(TextPlan(source=token, exclude=exclude), LEARNING, VALIDATING)
    assert not any("six" in caption or "secret" in caption for caption in texts.captions)
    assert (texts.excluded, texts.held_back) == (1, 2)


def test_a_list_chooses_the_images(token: Path, tmp_path: Path) -> None:
    """Only the text of the images listed is read, and the training captions."""
    (tmp_path / "images.txt").write_text("2.jpg\n3.jpg\n")
    texts = read_texts(TextPlan(source=token, images=tmp_path / "images.txt"), LEARNING, VALIDATING)
    assert texts.captions == ("two", "A dog runs.", "The dog is running!", "only here")
    assert texts.held_back == 1


def test_an_excluded_training_image_is_not_read_of(token: Path, tmp_path: Path) -> None:
    """Excluding is stronger than adding, for images that the text knows."""
    (tmp_path / "exclude.txt").write_text("1.jpg\n")
    texts = read_texts(TextPlan(source=token, exclude=tmp_path / "exclude.txt"), LEARNING, VALIDATING)
    assert not any("dog" in caption for caption in texts.captions)


def test_text_of_images_to_choose_by_alone_is_refused(token: Path, tmp_path: Path) -> None:
    """When nothing is left to read, the sentence says what to do."""
    (tmp_path / "images.txt").write_text("3.jpg\n4.jpg\n")
    with pytest.raises(InputError, match="--text"):
        read_texts(TextPlan(source=token, images=tmp_path / "images.txt"), LEARNING, VALIDATING)


def test_ids_are_read_from_lists_and_captions(token: Path, tmp_path: Path) -> None:
    """A file of captions gives its images, anything else is a list of images."""
    assert read_ids(token) == ["1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg", "6.jpg"]
    (tmp_path / "list.txt").write_text("b\na\nb\n")
    assert read_ids(tmp_path / "list.txt") == ["b", "a"]
    with pytest.raises(InputError, match="does not exist"):
        read_ids(tmp_path / "nowhere.txt")
