"""One photograph and, word by word, where the network looked: a picture for a paper or a slide.

In: an opened photograph, a caption, and one map a word. Out: an image file. Apart, because the page shows the same with markup;
after Xu et al. 2015 (Show, Attend and Tell), figure 5: here clear where it looked, fog elsewhere.
"""

import io
import math
import warnings
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from capt.files import write_whole

_COLUMNS, _TILE, _LABEL = 6, 1.9, 0.3  # tiles in a row; inches of a tile's width; of the word above it
_FOG, _DENSE, _DOTS, _LONGEST = (
    0.28,
    0.88,
    120,
    640,
)  # grey, and how dense where nothing was looked at; dots an inch; pixels of the photograph's longer side
FORMATS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
"""Endings of pictures that can be written."""


def draw_attention(photograph: Image.Image, caption: str, maps: NDArray[np.uint8], output: Path) -> None:
    """Draw the photograph, and once more for each word with fog over what the network did not look at.

    Args:
        photograph: Mode RGB.
        caption: As it was written; as many words as maps.
        maps: `(T, rows, columns)`, 0 to 255, over the whole photograph.
        output: The picture; its ending names the format.

    Raises:
        ValueError: If words and maps are not as many.
        OutputError: If it cannot be written.
    """
    words = caption.split()
    small = photograph.copy()
    small.thumbnail((_LONGEST, _LONGEST))
    tiles = [("", None), *zip(words, maps, strict=True)]
    columns = min(_COLUMNS, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    height = _TILE * small.height / small.width + _LABEL
    with matplotlib.style.context(["default", {"text.parse_math": False}]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a word in a script that the font lacks
        figure = Figure(figsize=(columns * _TILE, rows * height + _LABEL), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, (word, cells) in zip(axes, tiles, strict=False):
            _tile(axis, small, word, cells)
        for axis in axes:
            axis.set_axis_off()
        figure.suptitle(caption, fontsize=11)
        _save(figure, output)


def _tile(axis: Axes, photograph: Image.Image, word: str, cells: NDArray[np.uint8] | None) -> None:
    extent = (0, photograph.width, photograph.height, 0)
    axis.imshow(photograph, extent=extent)
    if cells is not None:
        fog = np.full((*cells.shape, 4), _FOG)
        fog[..., 3] = _DENSE * (1 - cells / 255)
        axis.imshow(fog, extent=extent, interpolation="bicubic")
    axis.set_title(word, fontsize=10)


def _save(figure: Figure, output: Path) -> None:
    kind = output.suffix.lower().removeprefix(".")
    stream = io.BytesIO()
    figure.savefig(stream, format=kind, dpi=_DOTS, metadata={"Software": None} if kind == "png" else None)
    write_whole(output, stream.getvalue())
