"""Human captions by image_id, from every format in use.

In: a file or folder of Flickr30k, Kaggle, Karpathy, COCO, Hugging Face or plain tables, recognised by content, never by name.
Out: References. Apart, because training, the likelihoods of a run and the judge must read the same captions from the same
bytes; needs no torch.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from capt.errors import InputError
from capt.reference_formats import Gathering, UnknownFormatError, read_file, read_parquet, read_text

_SPLIT_NAME = re.compile(r"(?<![a-z])(train|restval|val|dev|test)(?=images|[^a-z]|$)")
_IMAGE_ENDING = re.compile(r"\.(?:jpe?g|png|webp|gif|bmp|tiff?)$", re.IGNORECASE)
_TEXT_ENDINGS = {".token", ".txt", ".csv", ".tsv", ".json", ".jsonl"}
_SHOWN = 3  # ids named in a message


@dataclass(frozen=True, kw_only=True)
class References:
    """Human captions of images.

    Attributes:
        captions: image_id -> its captions, raw text without outer white space, in file order; at least one each.
        splits: image_id -> train|restval|val|dev|test, as the format names them; empty when it names none.
        aliases: Other name -> image_id, where a format has two (COCO's number and file name).
        uncaptioned: split -> how many of its images have no caption; such a split cannot be chosen.
        source: Where they were read from, for messages.
        selection: The split or the list that chose these images; empty when all are here.
    """

    captions: Mapping[str, tuple[str, ...]]
    splits: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    uncaptioned: Mapping[str, int] = field(default_factory=dict)
    source: str = "the references"
    selection: str = ""

    def subset(self, split: str) -> "References":
        """Keep the images of one split.

        Args:
            split: Its name, as in `splits`.

        Returns:
            The references of that split only.

        Raises:
            InputError: If there is no such split, or some of its images have no captions.
        """
        sizes = Counter(self.splits.values())
        if not sizes and not self.uncaptioned:
            message = f"{self.source} has no splits: leave out the split, or give a list of images instead"
            raise InputError(message)
        if split not in sizes and split not in self.uncaptioned:
            known = ", ".join(f"{name} ({size:,} images)" for name, size in sorted(sizes.items()))
            message = f"{self.source} has no split {split!r}: choose one of {known}"
            raise InputError(message)
        if self.uncaptioned.get(split):
            total = sizes[split] + self.uncaptioned[split]
            message = (
                f"{self.source} has no captions for {self.uncaptioned[split]:,} of the {total:,} images of split {split!r}:"
                " add the file that holds them, or choose another split"
            )
            raise InputError(message)
        return replace(self.select(image_id for image_id, name in self.splits.items() if name == split), selection=split)

    def select(self, image_ids: Iterable[str]) -> "References":
        """Keep the images named, in the order named.

        Args:
            image_ids: As in `captions`, or without the ending (`1000092795` for `1000092795.jpg`), or an alias.

        Returns:
            Their references only.

        Raises:
            InputError: If some image has no captions here.
        """
        names = list(image_ids)
        resolved = self.resolve(names)
        missing = [name for name in names if name not in resolved]
        if missing:
            message = (
                f"{self.source} has no captions for {len(missing):,} of the images listed ({_first(missing)}):"
                " correct the list, or give the references that belong to it"
            )
            raise InputError(message)
        found = {image_id: self.captions[image_id] for image_id in resolved.values()}
        splits = {image_id: self.splits[image_id] for image_id in found if image_id in self.splits}
        return replace(self, captions=found, splits=splits, uncaptioned={})

    def resolve(self, names: Iterable[str]) -> dict[str, str]:
        """Find the images that names mean.

        Args:
            names: As in `captions`, without the ending (`1000092795` for `1000092795.jpg`), an alias, or with folders before it.

        Returns:
            name -> image_id, for those that mean exactly one.
        """
        stems = _by_stem(self.captions)
        found: dict[str, str] = {}
        for name in names:
            last = name.rpartition("/")[2]
            ways = (
                name if name in self.captions else None,
                self.aliases.get(name),
                stems.get(_stem(name)),
                stems.get(_stem(last)),
            )
            image_id = next((way for way in ways if way is not None), None)
            if image_id is not None:
                found[name] = image_id
        return found

    def texts(self) -> list[str]:
        """List all captions of all images.

        Returns:
            As written, in file order.
        """
        return [text for texts in self.captions.values() for text in texts]

    @cached_property
    def sha256(self) -> str:
        """Fingerprint of what is here: equal for equal captions of equal images, whatever the format or the order."""
        digest = hashlib.sha256()
        for image_id in sorted(self.captions):
            digest.update(json.dumps([image_id, sorted(self.captions[image_id])]).encode())
        return digest.hexdigest()


def read_references(path: Path, *, split: str | None = None, images: Path | None = None) -> References:
    """Read human captions, whatever the format.

    Args:
        path: A file; a folder of parquet files, or with the files of a distribution (captions, split lists, Karpathy's JSON);
            or a glob of parquet files.
        split: Keep only this one of the format's own splits.
        images: Keep only the images of this list, one a line.

    Returns:
        The references, in file order.

    Raises:
        InputError: If something is missing, is not understood, or has a fault; the sentence names the place.
    """
    references = _read(Path(path))
    if split is not None:
        references = references.subset(split)
    if images is not None:
        references = replace(references.select(read_image_list(images)), selection=Path(images).name)
    if not references.captions:
        message = f"{path} holds no captions: give a file with an image and a caption on each line"
        raise InputError(message)
    return references


def read_image_list(path: Path) -> list[str]:
    """Read a split list.

    Args:
        path: UTF-8 text, one image a line, with or without its ending; blank lines do not count.

    Returns:
        The images, in file order, each once.

    Raises:
        InputError: If it cannot be read, is empty, or is no such list.
    """
    lines = read_text(path).split("\n")
    for number, line in enumerate(lines, start=1):
        if "\t" in line.strip() or line.lstrip()[:1] in {"{", "["}:
            message = f"{path}, line {number} is not the name of an image: give a text file with one image a line"
            raise InputError(message)
    images = list(dict.fromkeys(filter(None, (line.strip() for line in lines))))
    if not images:
        message = f"{path} lists no images: give a text file with one image a line"
        raise InputError(message)
    return images


def _read(path: Path) -> References:
    """Read a file, a folder or a glob."""
    gathering = Gathering(str(path))
    try:
        if path.is_dir():
            return _read_folder(path)
        files = [path] if path.is_file() else sorted(path.parent.glob(path.name)) if "*" in path.name else []
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror}): check the path and its permissions"
        raise InputError(message) from error
    if not files:
        message = f"{path} does not exist: give the file or folder that holds the references"
        raise InputError(message)
    if len(files) > 1:
        read_parquet(files, gathering)
    else:
        read_file(files[0], gathering)
    return _freeze(gathering)


def _freeze(gathering: Gathering) -> References:
    """Make References of what was read; images without captions are only counted."""
    captions = gathering.captions
    return References(
        captions={image_id: tuple(texts) for image_id, texts in captions.items()},
        splits={image_id: split for image_id, split in gathering.splits.items() if image_id in captions},
        aliases={name: image_id for name, image_id in gathering.aliases.items() if image_id in captions},
        uncaptioned=Counter(split for image_id, split in gathering.splits.items() if image_id not in captions),
        source=gathering.source,
    )


def _read_folder(folder: Path) -> References:
    """Parquet files, or a distribution: one file of captions, with split lists and Karpathy's JSON as they are there."""
    parquet = sorted(folder.glob("*.parquet")) or sorted(folder.rglob("*.parquet"))
    if parquet:
        gathering = Gathering(str(folder))
        read_parquet(parquet, gathering)
        return _freeze(gathering)
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix.lower() in _TEXT_ENDINGS]
    lists = {path: name[1] for path in files if (name := _SPLIT_NAME.search(path.stem.lower())) and _is_image_list(path)}
    found = _read_each(path for path in files if path not in lists and "lemma" not in path.name)  # lemmas are not captions
    plain = {path: references for path, references in found.items() if not references.splits} or found
    if len(plain) != 1:
        state = (
            f"several files of captions ({_first([path.name for path in plain])})" if plain else "no captions in a known format"
        )
        message = f"{folder} holds {state}: name the file of references to read"
        raise InputError(message)
    (captions,) = plain.values()
    stated = [(path.name, references.splits) for path, references in found.items() if references.splits]
    stated += [(path.name, dict.fromkeys(read_image_list(path), split)) for path, split in lists.items()]
    return _with_splits(replace(captions, source=str(folder)), stated)


def _read_each(files: Iterable[Path]) -> dict[Path, References]:
    """Read those files that hold captions; a file in another format is something else and is passed over."""
    found = {}
    for path in files:
        gathering = Gathering(str(path))
        with suppress(UnknownFormatError):
            read_file(path, gathering)
            found[path] = _freeze(gathering)
    return found


def _is_image_list(path: Path) -> bool:
    """Whether a file looks like a split list: its lines are single words."""
    with path.open("rb") as stream:
        start = stream.read(2000)
    return bool(start.strip()) and all(len(line.split()) <= 1 for line in start.split(b"\n")) and start.lstrip()[:1] not in b"{["


def _with_splits(references: References, stated: Sequence[tuple[str, Mapping[str, str]]]) -> References:
    """Join what lists and Karpathy's JSON say of splits; they may add to each other, not disagree."""
    stems = _by_stem(references.captions)
    splits: dict[str, str] = {}
    for name, mapping in stated:
        for listed, split in mapping.items():
            image_id = listed if listed in references.captions else stems.get(_stem(listed), listed)
            if splits.setdefault(image_id, split) != split:
                message = (
                    f"{references.source} has {image_id} in split {splits[image_id]!r} and, in {name}, in {split!r}:"
                    " leave only one kind of split in the folder, or give the list of images itself"
                )
                raise InputError(message)
    known = {image_id: split for image_id, split in splits.items() if image_id in references.captions}
    uncaptioned = Counter(split for image_id, split in splits.items() if image_id not in references.captions)
    return replace(references, splits=known, uncaptioned=uncaptioned)


def _by_stem(image_ids: Iterable[str]) -> dict[str, str]:
    """Map names without their ending to image ids, but for those that two images share."""
    ids = list(image_ids)
    counts = Counter(map(_stem, ids))
    return {stem: image_id for image_id in ids if counts[stem := _stem(image_id)] == 1}


def _stem(image_id: str) -> str:
    """Take the ending of an image file off."""
    return _IMAGE_ENDING.sub("", image_id)


def _first(names: Sequence[str]) -> str:
    """Name the first few."""
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
