"""Captions joined with references: each image once, in the order of the references; what does not fit is named.

In: captions as a run or another program left them, and References. Out: Pairs, or an InputError that names ids. Apart, because
a score over the wrong images is worse than none.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from capt.captions import Fingerprint, fingerprint_of, read_captions
from capt.errors import InputError
from capt.reference_formats import Gathering, read_file
from capt.references import References, read_references
from evaluation.perplexity import Likelihood, Likelihoods

_SHOWN = 3  # ids named in a message
_COLUMNS = ("image_id", "caption", "status", "reference_nll", "reference_tokens", "reference_unknown")


@dataclass(frozen=True, kw_only=True)
class Captions:
    """Machine captions, one row an image.

    Attributes:
        image_ids: As they were written; may hold one twice, which `join` refuses.
        captions: None where the image failed.
        likelihoods: Per image those of its references, or None.
        fingerprint: What the run was made with, when capt wrote it.
        source: Where they were read from, for messages.
    """

    image_ids: Sequence[str]
    captions: Sequence[str | None]
    likelihoods: Likelihoods
    fingerprint: Fingerprint | None = None
    source: str = "the captions"


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """What is scored: one caption and its references per image, N images.

    Attributes:
        image_ids: In the order of the references.
        captions: Empty where the image failed.
        references: One or more each.
        likelihoods: Per image those of its references, or None.
        origin: Name of the references and of the split or list that chose them.
        references_sha256: Of all references of the images scored.
        failed: How many images have no caption because they failed.
        missing: How many images of the references had no row at all, and are left out.
        extra: How many captions had no references, and are left out.
        fingerprint: What the run was made with, when capt wrote it.
    """

    image_ids: Sequence[str]
    captions: Sequence[str]
    references: Sequence[Sequence[str]]
    likelihoods: Likelihoods
    origin: str
    references_sha256: str
    failed: int = 0
    missing: int = 0
    extra: int = 0
    fingerprint: Fingerprint | None = field(default=None)


def load_captions(path: Path) -> Captions:
    """Read captions, whatever the format.

    Args:
        path: What `capt-batch run` wrote (folder or file), COCO results JSON, or CSV, TSV, JSONL with image and caption.

    Returns:
        The captions, in file order.

    Raises:
        InputError: If there are none, or the file has a fault.
    """
    if path.is_dir() or _is_parquet(path):
        return _from_table(read_captions(path, _COLUMNS), str(path))
    gathering = Gathering(str(path), blank=True)
    read_file(path, gathering)
    rows = [(image_id, caption) for image_id, captions in gathering.captions.items() for caption in captions]
    if not rows:
        message = f"{path} holds no captions: give what capt-batch run wrote, COCO results, or a table of images and captions"
        raise InputError(message)
    return Captions(
        image_ids=[image_id for image_id, _ in rows],
        captions=[caption or None for _, caption in rows],
        likelihoods=[None] * len(rows),
        source=str(path),
    )


def load_references(path: Path, *, split: str | None = None, images: Path | None = None) -> References:
    """Read the references to score against; which ones must be clear.

    Args:
        path: Any format of `capt.references`.
        split: The split to score.
        images: A list of the images to score, one a line.

    Returns:
        The references of exactly these images.

    Raises:
        InputError: If they cannot be read, or have several splits and none is named.
    """
    references = read_references(path, split=split, images=images)
    names = sorted(set(references.splits.values()))
    if len(names) > 1 and split is None and images is None:
        message = f"{path} has the splits {', '.join(names)}: choose one with --split, or list the images with --images"
        raise InputError(message)
    return references


def join(captions: Captions, references: References, *, partial: bool = False, leave_out_failed: bool = False) -> Pairs:
    """Put each caption beside its references.

    Args:
        captions: One row an image.
        references: Of the images to score, those and no others.
        partial: Score what there is, when images or references are missing.
        leave_out_failed: Take failed images for missing ones, which needs `partial`; otherwise they count as empty captions.

    Returns:
        The pairs, in the order of the references.

    Raises:
        InputError: If an id is doubled, or, unless partial, missing or too many; the first few are named.
    """
    found = references.resolve(captions.image_ids)
    counts = Counter(found.get(name, name) for name in captions.image_ids)
    if doubled := [name for name, count in counts.items() if count > 1]:
        message = f"{captions.source} has {_named(doubled, 'image')} more than once: keep one caption for each"
        raise InputError(message)
    rows = {
        found[name]: row
        for row, name in enumerate(captions.image_ids)
        if name in found and not (leave_out_failed and captions.captions[row] is None)
    }
    extra = [name for name in captions.image_ids if name not in found]
    missing = [image_id for image_id in references.captions if image_id not in rows]
    if not rows:
        message = (
            f"no image of {captions.source} ({_named(extra, 'image')}) is in {references.source} ({_named(missing, 'image')}):"
            " give the references of these images"
        )
        raise InputError(message)
    if (missing or extra) and not partial:
        raise InputError(_misfit(missing, extra, captions.source, references.source))
    chosen = {image_id: row for image_id in references.captions if (row := rows.get(image_id)) is not None}
    texts = [captions.captions[row] for row in chosen.values()]
    return Pairs(
        image_ids=list(chosen),
        captions=[text or "" for text in texts],
        references=[references.captions[image_id] for image_id in chosen],
        likelihoods=[captions.likelihoods[row] for row in chosen.values()],
        origin=":".join(filter(None, (Path(references.source).name, references.selection))),
        references_sha256=references.select(chosen).sha256,
        failed=sum(text is None for text in texts),
        missing=len(missing),
        extra=len(extra),
        fingerprint=captions.fingerprint,
    )


def _misfit(missing: Sequence[str], extra: Sequence[str], captions: str, references: str) -> str:
    """Name the images without a partner on the other side."""
    faults = []
    if missing:
        faults.append(f"{captions} has no caption for {_named(missing, 'image')} of {references}")
    if extra:
        faults.append(f"{references} has no references for {_named(extra, 'image')} of {captions}")
    return f"{' and '.join(faults)}: choose the split that was captioned, caption the rest, or score what there is with --partial"


def _is_parquet(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(4) == b"PAR1"
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror}): give what capt-batch run wrote, or another file of captions"
        raise InputError(message) from error


def _from_table(table: pa.Table, source: str) -> Captions:
    """Take the columns that matter out of a captions table."""
    columns: Mapping[str, list[object]] = {name: table.column(name).to_pylist() for name in _COLUMNS}
    likelihoods = zip(columns["reference_nll"], columns["reference_tokens"], columns["reference_unknown"], strict=True)
    return Captions(
        image_ids=[str(name) for name in columns["image_id"]],
        captions=[
            caption if isinstance(caption, str) and status == "ok" else None
            for caption, status in zip(columns["caption"], columns["status"], strict=True)
        ],
        likelihoods=[
            Likelihood(nll=nll, tokens=tokens, unknown=unknown if isinstance(unknown, list) else None)
            if isinstance(nll, list) and isinstance(tokens, list)
            else None
            for nll, tokens, unknown in likelihoods
        ],
        fingerprint=fingerprint_of(table.schema, source),
        source=source,
    )


def _named(names: Sequence[str], noun: str) -> str:
    """Count, and name the first few: `3 images (a, b, c)`."""
    shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    return f"{len(names):,} {noun}{'' if len(names) == 1 else 's'}{f' ({shown})' if shown else ''}"
