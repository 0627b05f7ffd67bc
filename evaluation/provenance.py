"""How two systems were made, and what that does to their comparison, in sentences.

In: the baseline and a system, by name. Out: notes. Apart from comparison.py, because nothing here changes a number or forbids
one: these are the things that explain a difference.
"""

from collections.abc import Mapping, Sequence

from evaluation import perplexity
from evaluation.paired import unpaired_perplexity
from evaluation.scores import Evaluation, mapping_of
from reports.wording import listed

_CHECKPOINT, _PREPARED = "checkpoint_sha256", "preprocessing"
_PARTS = (_CHECKPOINT, "decoding", "precision", _PREPARED, "max_pixels")  # of a fingerprint, that change captions
_TOLD_BY_NAME = ("size", "mean", "std")  # of a preprocessing, whose name says them more briefly
_NAMED = "checkpoint"  # what both its name and its sha256 are shown as
_SHORT = 12  # hexadecimal digits of a sha256
_FEW_IMAGES = 100  # below this, resamples know too little

_UNKNOWN = "unknown_reference_words"  # a figure

Named = tuple[str, Evaluation]


def provenance_notes(baseline: Named, systems: Sequence[Named]) -> list[str]:
    """Say what a reader must know before believing a difference.

    Args:
        baseline: Its name and evaluation.
        systems: The same of each system; comparable with the baseline.

    Returns:
        Sentences; none when only the captions differ.
    """
    notes = _few(baseline[1])
    for find in (_made, _missing_scores, _perplexity, _libraries):
        for system in systems:
            notes += find(*baseline, *system)
    return [*notes, *_vocabularies(*baseline, systems), *_failed(baseline, *systems)]


def _made(old: str, one: Evaluation, new: str, other: Evaluation) -> list[str]:
    """Say how the two runs differ, when they tell."""
    texts = dict(zip(one.image_ids, one.captions, strict=True))
    if texts == dict(zip(other.image_ids, other.captions, strict=True)):
        return [f"{new} has the same captions as {old}, word for word."]
    here, there = (mapping_of(each.conditions.get("run")) for each in (one, other))
    if bool(here) != bool(there):
        return [f"How {new if here else old} was made is unknown: its captions carry no fingerprint of a run."]
    before, after = _flat(here), _flat(there)
    untold = set(_TOLD_BY_NAME) if before.get(_PREPARED) != after.get(_PREPARED) else set()
    if here.get(_CHECKPOINT) == there.get(_CHECKPOINT):  # the same one, whatever the files are called
        untold.add(_NAMED)
    differing = [key for key in {**before, **after} if key not in untold and before.get(key) != after.get(key)]
    changed = [f"{key} {after.get(key)} instead of {before.get(key)}" for key in differing]
    return [f"{new} was made with {', '.join(changed)}."] if changed else []


def _flat(run: Mapping[str, object]) -> dict[str, object]:
    """Take out of a fingerprint what changes captions, parts of parts by their own name."""
    flat: dict[str, object] = {}
    for key in _PARTS:
        value = run.get(key)
        parts = dict(value) if isinstance(value, Mapping) else {key: value}
        flat |= {key if part == "name" else part: told for part, told in parts.items()}
    if _CHECKPOINT in run:
        flat[_NAMED] = f"{run.get('checkpoint_name')}@{str(flat.pop(_CHECKPOINT))[:_SHORT]}"
    return flat


def _missing_scores(old: str, one: Evaluation, new: str, other: Evaluation) -> list[str]:
    """Name scores that only one side has."""
    sides = (
        (old, [name for name in one.scores if name not in other.scores]),
        (new, [name for name in other.scores if name not in one.scores]),
    )
    return [f"Only {system} has {', '.join(names)}: not compared." for system, names in sides if names]


def _perplexity(old: str, one: Evaluation, new: str, other: Evaluation) -> list[str]:
    """Say what perplexity is over."""
    if perplexity.NAME not in one.scores or perplexity.NAME not in other.scores:
        return []
    if reason := unpaired_perplexity(one, other):
        return [f"Perplexity of {new} and {old} is not compared: {reason}."]
    counts = [int((each.statistics[perplexity.NAME][:, 1] > 0).sum()) for each in (one, other)]
    some = min(counts) < len(one.image_ids)
    return [f"Perplexity of {new} and {old} is over the images for which both have likelihoods."] if some else []


def _vocabularies(old: str, one: Evaluation, systems: Sequence[Named]) -> list[str]:
    """Say whose networks were asked other words, where perplexities are compared."""
    here = _share(one)
    lacking: dict[str, list[str]] = {}
    for new, other in systems:
        there = _share(other)
        both = perplexity.NAME in one.scores and perplexity.NAME in other.scores and not unpaired_perplexity(one, other)
        if both and here and there and here != there:
            lacking.setdefault(there, []).append(new)
    others = ", ".join(f"that of {listed(names)} {share}" for share, names in lacking.items())
    easier = "who lacks more has the easier perplexity"
    return [f"The vocabulary of {old} lacks {here} of the references' words, {others}: {easier}."] if others else []


def _share(evaluation: Evaluation) -> str:
    share = evaluation.figures.get(_UNKNOWN)
    return "" if share is None else f"{share:.1%}"


def _libraries(old: str, one: Evaluation, new: str, other: Evaluation) -> list[str]:
    """Say when the scores were computed by different versions of pycocoevalcap."""
    before, after = (mapping_of(each.conditions.get("versions")).get("pycocoevalcap") for each in (one, other))
    return [f"{new} was scored with pycocoevalcap {after}, {old} with {before}."] if before != after else []


def _failed(*systems: Named) -> list[str]:
    """Name who failed on images."""
    return [
        f"{evaluation.conditions['images_failed']:,} images failed in {name} and count as empty captions."
        for name, evaluation in systems
        if evaluation.conditions.get("images_failed")
    ]


def _few(evaluation: Evaluation) -> list[str]:
    """Warn of a handful of images."""
    n = len(evaluation.image_ids)
    return [f"{n} images are few: intervals from so few are too narrow, and p-values uncertain."] if n < _FEW_IMAGES else []
