"""Check everything that can be checked before work begins, and find what is to be done.

In: options. Out: a Plan, or one sentence why not. Apart from the run, because a plan needs no torch and writes nothing: a
refusal, a dry run and a run that is complete already answer at once.
"""

import hashlib
import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from capt.captions import Fingerprint
from capt.checkpoint import DEFAULT_CHECKPOINT, check_agreement, joint_digest, read_header
from capt.errors import InputError, OutputError
from capt.images import Preprocessing
from capt.references import read_references
from capt.remote import Location, Remote
from jobs.extending import ExtendedSource, Extension, extend
from jobs.loading import LoadingOptions, Work
from jobs.options import AUTO, INT8, EngineName, RunOptions
from jobs.output import NOT_IN_SOURCE, Existing, Output
from jobs.reader import open_source, plan_shards
from jobs.source import Item, ReferenceBook, Shard, Source

_LOOKED_AT = 1000  # first images that are looked for before work begins
_LOOKED_AT_FAR_AWAY = 50  # where each look is a question to an object store
CHOSEN_LATER = frozenset({"openvino"})  # what computes is chosen when the network is loaded
_ANEW = "choose another --output, or give --overwrite to start anew."
_ANEW_TOGETHER = "give all machines the same, or choose another --output."
_OPTION_NAMES = {
    "checkpoint_sha256": "--checkpoint",
    "encoder_sha256": "the int8 encoder",
    "attention": "--attention",
    "draft": "--draft",
    "precision": "--precision",
    "max_pixels": "--max-pixels",
    "shard_size": "--shard-size",
    "references_sha256": "--references",
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be done, known without torch: the images, their shards, and what an earlier start did of them.

    `works` is empty when nothing is left; `report` is then what `run.json` said. Device and precision of `fingerprint` are
    what the user asked for, perhaps `auto`. `facts` go into `run.json`.
    """

    options: RunOptions
    source: Source
    book: ReferenceBook | None
    output: Output
    preprocessing: Preprocessing
    fingerprint: Fingerprint
    shards: Sequence[Shard]
    works: Sequence[Work]
    report: Mapping[str, object] | None
    warnings: Sequence[str]
    facts: Mapping[str, object] = field(default_factory=dict)

    @property
    def own(self) -> Sequence[Shard]:
        """The shards that are this machine's to do: all, unless it does a share."""
        share = self.options.output.share
        return [shard for shard in self.shards if share is None or share.takes(shard.number)]

    @property
    def own_rows(self) -> int:
        """How many images they have."""
        return sum(shard.stop - shard.start for shard in self.own)

    @property
    def to_caption(self) -> int:
        """How many images are left."""
        return sum(len(work.rows) for work in self.works)

    @property
    def loading(self) -> LoadingOptions:
        """How its images are opened."""
        return LoadingOptions(
            batch_size=self.options.network.batch_size,
            workers=self.options.network.workers,
            max_pixels=self.options.source.max_pixels,
            image_timeout=self.options.source.image_timeout,
            preprocessing=self.preprocessing,
            draft=self.options.source.draft,
        )

    @property
    def failed_before(self) -> Mapping[str, int] | None:
        """How many rows of a complete run have no caption, by kind; None while it is not complete."""
        failed = None if self.report is None else self.report.get("failed")
        return failed if isinstance(failed, dict) else None


def prepare(options: RunOptions) -> Plan:
    """Check everything that can be checked without torch, and find what is to be done.

    Args:
        options: Of the run.

    Returns:
        The plan; nothing was written.

    Raises:
        CaptError: If the output, the checkpoint, the source or the references cannot be used, or the output belongs to a run
            with other settings.
    """
    output = Output(options.output.path)
    output.check()
    preprocessing, checkpoint_sha256 = _look_at_checkpoints(options.network.checkpoints)
    source = open_source(options.source, output=options.output.path)
    book, references_sha256 = _read_book(options, source)
    asked = Fingerprint(
        checkpoint_name="+".join(path.name for path in options.network.checkpoints or (DEFAULT_CHECKPOINT,)),
        checkpoint_sha256=checkpoint_sha256,
        decoding=options.decoding,
        attention=options.network.attention,
        precision=options.network.precision,
        preprocessing=preprocessing.to_dict(),
        max_pixels=options.source.max_pixels,
        draft=options.source.draft,
        source_sha256=source.sha256,
        source_rows=source.rows,
        shard_size=options.output.shard_size,
        references_sha256=references_sha256,
        batch_size=options.network.batch_size,
        device=options.network.device,
        versions={name: importlib.metadata.version(name) for name in ("capt", "pillow", "torch")},
    )
    existing = output.look(overwrite=options.output.overwrite)
    share, then = options.output.share, existing.fingerprint
    shards = plan_shards(source.rows, options.output.shard_size)
    about: list[str] = []
    facts: dict[str, object] = {}
    if existing.extended and not options.output.extend:
        message = f"{output.path} was extended by images of a later source; give --extend with it, or choose another --output."
        raise OutputError(message)
    if options.output.extend and then is not None:  # the run stays the one that it was, whatever is added to it
        asked = replace(asked, source_sha256=then.source_sha256, source_rows=then.source_rows)
        extension, about = _extend(source, existing, output, options.output.shard_size)
        source, shards = extension.source, list(extension.shards)
        facts = {"new": extension.new, NOT_IN_SOURCE: extension.gone}
    fingerprint, warnings = match(asked, existing, output, remedy=_ANEW_TOGETHER if share else _ANEW)
    if options.engine.engine == EngineName.RAY and fingerprint.precision == INT8:
        message = "Ray's actors do not share an int8 encoder; give --shard to several machines, or another --precision."
        raise InputError(message)
    own = [shard for shard in shards if share is None or share.takes(shard.number)]
    works = _find_works(own, existing, output, retry_failed=options.output.retry_failed)
    if isinstance(source, ExtendedSource):
        works = _without_gone(works, source)
    if works and len(existing.shards) == 0:
        _check_some_exist(source)
    return Plan(
        options=options,
        source=source,
        book=book,
        output=output,
        preprocessing=preprocessing,
        fingerprint=fingerprint,
        shards=shards,
        works=works,
        report=existing.report if not works else None,
        warnings=[*warnings, *about],
        facts=facts,
    )


def describe(plan: Plan) -> list[str]:
    """Say what a plan would do.

    Args:
        plan: From `prepare`.

    Returns:
        Sentences.
    """
    shards, unfinished, size = len(plan.shards), len(plan.works), plan.fingerprint.shard_size
    share = plan.options.output.share
    finished = f"{len(plan.own) - unfinished:,} {'of them ' if share else 'shards '}finished"
    return [
        *plan.warnings,
        f"{plan.options.source.source}: {plan.source.rows:,} images, in {shards:,} shards of up to {size:,}.",
        *([f"Share {share}: {len(plan.own):,} shards with {plan.own_rows:,} images."] if share else []),
        f"{plan.output.path}: {finished}, {unfinished:,} to do with {plan.to_caption:,} images.",
    ]


def _extend(source: Source, existing: Existing, output: Output, shard_size: int) -> tuple[Extension, list[str]]:
    """Add what is new in a source to a run; gives it with sentences about the difference."""
    columns = output.travelling(min(existing.shards)) if existing.shards else source.travelling
    if not columns.equals(source.travelling):
        now, before = (", ".join(f"{each.name} ({each.type})" for each in schema) for schema in (source.travelling, columns))
        has = f"{now or 'none'} now, {before or 'none'} then"
        message = f"The source has other further columns than when {output.path} was written ({has}); choose another --output."
        raise OutputError(message)
    extension = extend(source, existing.shards, output, shard_size)
    about = [f"{extension.new:,} images are new." if extension.new else "No image is new."]
    if extension.gone:
        names = ", ".join(extension.gone_names) + (", …" if extension.gone > len(extension.gone_names) else "")
        about.append(f"The source has {extension.gone:,} images of the output no more; their rows stay: {names}.")
    return extension, about


def _without_gone(works: Sequence[Work], source: ExtendedSource) -> list[Work]:
    """Leave out failed rows of images that cannot be tried again."""
    kept = [replace(work, rows=[row for row in work.rows if not source.is_gone(row)]) for work in works]
    return [work for work in kept if work.rows]


def _look_at_checkpoints(paths: Sequence[Path]) -> tuple[Preprocessing, str]:
    headers = {path: read_header(path) for path in paths or (DEFAULT_CHECKPOINT,)}
    check_agreement({path: (header.vocabulary, header.preprocessing) for path, header in headers.items()})
    digests = []
    for path in paths or (DEFAULT_CHECKPOINT,):
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return next(iter(headers.values())).preprocessing, joint_digest(digests)


def _read_book(options: RunOptions, source: Source) -> tuple[ReferenceBook | None, str | None]:
    if options.source.references is None:
        return None, None
    references = read_references(options.source.references)
    book = ReferenceBook(captions=references.captions, aliases=references.aliases)
    if not any(book.find(image_id) for image_id in source.image_ids()):
        ours, theirs = next(source.image_ids()), next(iter(references.captions))
        message = f"None of the images has references: the source has ids such as {ours}, the references such as {theirs}."
        raise InputError(message)
    return book, references.sha256


def match(
    asked: Fingerprint, existing: Existing, output: Output, *, remedy: str = _ANEW_TOGETHER
) -> tuple[Fingerprint, list[str]]:
    """Refuse to mix two runs.

    Args:
        asked: What the run here would be made with; some of it may be `auto`.
        existing: What the output holds.
        output: For messages.
        remedy: What to do when they differ.

    Returns:
        The fingerprint to go on with, and warnings of what may move last digits.

    Raises:
        OutputError: If they differ.
    """
    then = existing.fingerprint
    if then is None:
        return asked, []
    now = replace(
        asked,
        precision=then.precision if asked.precision == AUTO else asked.precision,
        device=then.device if asked.device == AUTO else asked.device,
        encoder_sha256=asked.encoder_sha256 or then.encoder_sha256,
        versions={**{name: then.versions[name] for name in CHOSEN_LATER & then.versions.keys()}, **asked.versions},
    )
    different = {key: (here, there) for key, here, there in now.differences(then)}
    if "source_sha256" in different:
        counts = f"{then.source_rows:,} images then, {now.source_rows:,} now"
        more = "give --extend to caption only what is new, " if remedy == _ANEW else ""
        message = f"The source has changed since the run in {output.path} began ({counts}); {more}{remedy}"
        raise OutputError(message)
    if different:
        changes = "; ".join(
            f"{_option_name(key)} was {_short(there)}, is {_short(here)}" for key, (here, there) in different.items()
        )
        message = f"{output.path} holds a run with other settings ({changes}); {remedy}"
        raise OutputError(message)
    informative = [
        f"{_option_name(key)} was {there}, is {here}: log-likelihoods may differ in their last digits."
        for key, here, there in now.changes(then)
        if key != "checkpoint_name"
    ]
    return now, informative


def _option_name(key: str) -> str:
    if key.startswith("decoding."):
        return f"--{key.removeprefix('decoding.').replace('_', '-')}"
    return _OPTION_NAMES.get(key, key.replace("_", "-"))


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text[:12] if len(text) == hashlib.sha256().digest_size * 2 else text


def _find_works(shards: Sequence[Shard], existing: Existing, output: Output, *, retry_failed: bool) -> list[Work]:
    works = []
    for shard in shards:
        rows: Sequence[int] = range(shard.start, shard.stop)
        if existing.shards.get(shard.number) == len(rows):
            rows = [shard.start + row for row in output.failed_rows(shard.number)] if retry_failed else ()
        if len(rows):
            works.append(Work(shard=shard, rows=rows))
    return works


def _check_some_exist(source: Source) -> None:
    """Refuse a list or manifest whose paths all lead nowhere, or out: a wrong folder is likelier than so many lost files."""
    looked_at: list[Location] = []
    outside: list[Item] = []
    far_away = 0
    for items, _ in source.batches(range(min(source.rows, _LOOKED_AT)), 100):
        for item in items:
            if isinstance(item.image, bytes | None) or far_away == _LOOKED_AT_FAR_AWAY:
                return
            if item.is_outside():
                outside.append(item)
            elif _exists(item.image):
                return
            far_away += isinstance(item.image, Remote)
            looked_at.append(item.image)
    if len(outside) == len(looked_at):
        message = (
            f"The manifest's first {len(looked_at)} images all lie outside {outside[0].within}, beginning with {looked_at[0]}; "
            "give --image-root a folder that holds them, or --allow-outside if you trust who wrote it."
        )
        raise InputError(message)
    message = (
        f"None of the first {len(looked_at)} images exists, beginning with {looked_at[0]}; check the paths, or give --image-root."
    )
    raise InputError(message)


def _exists(place: Location) -> bool:
    return place.exists() if isinstance(place, Remote) else os.path.lexists(place)
