"""What is shown of the chosen images: photographs made small, and where the networks looked.

In: runs, image ids, and where the photographs are. Out: Pictures. Apart, because only here photographs are opened, and only
those that were chosen: the size of a report does not grow with the number of images.
"""

import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from capt.errors import ImageError
from capt.images import Resize, open_image
from capt.photographs import find_photographs
from evaluation.runs import Run
from evaluation.scores import mapping_of
from reports.findings import Photograph, Pictures

_MANY = 300  # photographs from which on they are made smaller
_LONG_SIDE, _SMALL_SIDE, _QUALITY = 256, 192, 70
_FINER = 4  # how many times finer a padded map is, so that its place is met
_WORKERS = 4


def gather_pictures(runs: Sequence[Run], image_ids: Sequence[str], source: Path | None) -> Pictures:
    """Open the photographs, and read the attention.

    Args:
        runs: Over the same images.
        image_ids: The images shown.
        source: A folder or parquet files; None shows no photographs and so no attention.

    Returns:
        The pictures; a photograph that cannot be opened has its fault instead.

    Raises:
        InputError: If there are no photographs at the source.
    """
    if source is None:
        return Pictures()
    own = {image_id: name for run in reversed(runs) for image_id, name in run.own_ids.items()}
    names = {image_id: own.get(image_id, image_id) for image_id in image_ids}
    contents = find_photographs(source, names.values())
    side = _LONG_SIDE if len(image_ids) <= _MANY else _SMALL_SIDE
    with ThreadPoolExecutor(_WORKERS) as pool:
        small = pool.map(lambda image_id: _small(contents.get(names[image_id]), side), image_ids)
        photographs = dict(zip(image_ids, small, strict=True))
    shown = [image_id for image_id in image_ids if photographs[image_id].jpeg is not None]
    attention = {}
    for run in runs:
        maps = run.attention(shown)
        attention[run.name] = {
            image_id: over_whole(each, (photographs[image_id].width, photographs[image_id].height), preprocessing(run))
            for image_id, each in maps.items()
        }
    return Pictures(photographs=photographs, attention=attention)


def preprocessing(run: Run) -> Mapping[str, object]:
    """Give what a run's network saw of a photograph.

    Args:
        run: Scored, with its fingerprint where capt captioned.

    Returns:
        The fingerprint's preprocessing; empty when it is unknown.
    """
    return mapping_of(mapping_of(run.evaluation.conditions.get("run")).get("preprocessing"))


def over_whole(maps: NDArray[np.uint8], size: tuple[int, int], seen: Mapping[str, object]) -> NDArray[np.uint8]:
    """Bring maps over the part that a network saw onto the whole photograph.

    Args:
        maps: `(T, side, side)`.
        size: Width and height of the photograph.
        seen: The preprocessing: stretched maps are left as they are; around a centre cut out, nothing was looked at.

    Returns:
        `(T, rows, columns)`, to be stretched over the whole photograph.
    """
    if seen.get("resize") != Resize.CROP:
        return maps
    width, height = size
    cut = min(width, height) * float(str(seen.get("crop_fraction", 1.0)))
    fine = np.kron(maps, np.ones((1, _FINER, _FINER), dtype=np.uint8))
    side = fine.shape[1]
    rows, columns = (max(side, round(side * length / cut)) for length in (height, width))
    whole = np.zeros((len(maps), rows, columns), dtype=np.uint8)
    top, left = (rows - side) // 2, (columns - side) // 2
    whole[:, top : top + side, left : left + side] = fine
    return whole


def _small(content: Path | bytes | None, side: int) -> Photograph:
    if content is None:
        return Photograph(jpeg=None, fault="it is not where the photographs are")
    try:
        image = open_image(content)
    except ImageError as error:
        return Photograph(jpeg=None, fault=error.message)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=_QUALITY, optimize=True)
    return Photograph(jpeg=stream.getvalue(), width=image.width, height=image.height)
