"""Other looks at a training image: its mirror image, and crops.

In: an opened image and the number of a view. Out: an image. Apart, because what may be done to a photograph so that its captions
still fit is a decision of its own.
"""

import zlib

import numpy as np
from PIL import Image

_LEAST = 0.8  # of each side that a crop keeps, so that what people wrote about is still in it


def view(image: Image.Image, number: int, image_id: str) -> Image.Image:
    """Look at an image in one of several ways, always the same for the same image.

    Args:
        image: The photograph.
        number: 0 is the image itself, 1 its mirror image; higher ones are crops, every second one mirrored too.
        image_id: Decides, with the number, where a crop lies.

    Returns:
        What is seen.
    """
    if number > 1:
        random = np.random.default_rng([number, zlib.crc32(image_id.encode(errors="surrogateescape"))])
        width, height = (int(side * random.uniform(_LEAST, 1.0)) or 1 for side in image.size)
        left, top = (int(random.integers(0, whole - part + 1)) for whole, part in zip(image.size, (width, height), strict=True))
        image = image.crop((left, top, left + width, top + height))
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if number % 2 else image
