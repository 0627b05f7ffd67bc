"""Other looks at an image: what they show, and that they are always the same."""

import numpy as np
import pytest
from PIL import Image

from jobs.training.views import view


def _image(width: int = 40, height: int = 30) -> Image.Image:
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([across * 6, down * 8, np.zeros_like(down)], -1).astype(np.uint8))


def test_the_first_two_views_are_the_image_and_its_mirror_image() -> None:
    """Nothing is lost or moved but left and right."""
    pixels = np.asarray(_image())
    np.testing.assert_array_equal(np.asarray(view(_image(), 0, "a")), pixels)
    np.testing.assert_array_equal(np.asarray(view(_image(), 1, "a")), pixels[:, ::-1])


@pytest.mark.parametrize("number", [2, 3, 4, 5])
def test_a_crop_is_a_part_that_keeps_most_of_the_image(number: int) -> None:
    """At least 80 % of each side, of pixels in their order; odd views are mirrored."""
    shown = np.asarray(view(_image(), number, "a")).astype(int)
    assert 32 <= shown.shape[1] <= 40
    assert 24 <= shown.shape[0] <= 30
    assert set(np.diff(shown[..., 0], axis=1).ravel()) == {-6 if number % 2 else 6}
    assert set(np.diff(shown[..., 1], axis=0).ravel()) == {8}


def test_a_view_is_the_same_each_time_and_another_for_another_image() -> None:
    """Crops depend on the image's id and the number alone, so that cached features stay true."""
    corners = {tuple(np.asarray(view(_image(), 2, f"{name}"))[0, 0]) for name in range(20)}
    assert len(corners) > 5
    again = np.asarray(view(_image(), 2, "a"))
    np.testing.assert_array_equal(np.asarray(view(_image(), 2, "a")), again)


def test_the_smallest_image_can_be_cropped() -> None:
    """One pixel stays one pixel."""
    assert view(_image(1, 1), 2, "a").size == (1, 1)
