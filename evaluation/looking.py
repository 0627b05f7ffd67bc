"""Where the network looked, for one image of a run: find its row and its photograph, and have them drawn.

In: a captions table and an image id. Out: a picture. Apart, because it needs no scores and no references.
"""

from pathlib import Path

import pyarrow.compute as pc

from capt.captions import fingerprint_of, read_captions
from capt.errors import InputError
from capt.images import open_image
from capt.photographs import find_photographs
from capt.references import References
from evaluation.pictures import over_whole
from evaluation.runs import square_maps
from reports.attention import FORMATS, draw_attention


def picture_attention(captions: Path, image: str, output: Path, *, source: Path | None = None) -> str:
    """Draw where the network looked for each word.

    Args:
        captions: What `capt-batch run --attention` wrote.
        image: The image's id, with or without its ending.
        output: The picture.
        source: Where the photographs are; by default the path that the run recorded.

    Returns:
        The caption.

    Raises:
        CaptError: If there is no such image, no attention, or no photograph.
    """
    if output.suffix.lower() not in FORMATS:
        message = f"{output} does not end in {', '.join(FORMATS)}: choose another file with --output"
        raise InputError(message)
    table = read_captions(captions, ("image_id", "path", "attention"))
    names = [str(name) for name in table.column("image_id").to_pylist()]
    known = References(captions=dict.fromkeys(names, ())).resolve([image]).get(image)
    if known is None:
        message = (
            f"{captions} has no image {image!r}, but {len(names):,} others such as {', '.join(names[:3])}: name one of these"
        )
        raise InputError(message)
    row = table.filter(pc.equal(table.column("image_id"), known)).to_pylist()[0]
    caption, maps = row["caption"], square_maps(row["attention"])
    if not caption or maps is None or len(caption.split()) != len(maps):
        message = f"{captions} holds no attention for {known}: caption it again with `capt-batch run SOURCE --attention`"
        raise InputError(message)
    content = find_photographs(source, [known]).get(known) if source is not None else row["path"] and Path(row["path"])
    if content is None:
        message = f"the photograph {known} is not at hand: name the folder or the parquet files that were captioned with --images"
        raise InputError(message)
    photograph = open_image(content)
    fingerprint = fingerprint_of(table.schema)
    seen = fingerprint.preprocessing if fingerprint is not None else {}
    draw_attention(photograph, caption, over_whole(maps, photograph.size, seen), output)
    return str(caption)
