"""Two evaluations or more against one: per score the difference, its interval and p, from the stored statistics alone.

In: evaluations, the first of them the baseline. Out: a Comparison, or the reasons why there can be none. Apart, because both
`compare` and the gate rest on it, and because it needs neither Java nor captions nor n-grams.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypedDict

import numpy as np

from capt.errors import InputError
from evaluation.paired import ResampledScore, paired_tables, resampled_scores
from evaluation.provenance import provenance_notes
from evaluation.scores import Evaluation, Score, mapping_of
from evaluation.significance import Bootstrap, holm, interval, two_sided_p

COMPARISON_FORMAT = 1
_NOISE = 1e-11  # of a score: what the order of its sums may change
_SHORT, _SHOWN = 12, 3  # digits of a sha256, and images named


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far one score of a system lies from the baseline's, both over the same images.

    Attributes:
        name: Of the score.
        baseline: The baseline's value, on the library's own scale, as everything here.
        value: The system's.
        difference: `value` minus `baseline`.
        low: Lower end of its paired bootstrap interval.
        high: Its upper end.
        p_bootstrap: Two-sided p of the paired bootstrap, its resamples shifted to a mean of zero.
        p_randomisation: Two-sided p of paired approximate randomisation.
        p_corrected: The same after Holm, over the systems of one comparison.
        n: Images behind it.
        higher_is_better: False for perplexity.
        shown_times: What papers multiply it by.
    """

    name: str
    baseline: float
    value: float
    difference: float
    low: float
    high: float
    p_bootstrap: float
    p_randomisation: float
    p_corrected: float
    n: int
    higher_is_better: bool
    shown_times: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Systems against a baseline.

    Attributes:
        baseline_name: Of the baseline.
        names: Of the others, in order.
        differences: By system, then by score.
        options: How intervals and p-values were computed.
        notes: Sentences that a reader must know.
        signatures: By name, the baseline's too.
    """

    baseline_name: str
    names: Sequence[str]
    differences: Mapping[str, Mapping[str, Difference]]
    options: Bootstrap
    notes: Sequence[str]
    signatures: Mapping[str, str]


class ComparisonFile(TypedDict):
    """What `capt-eval compare --json` prints."""

    format: int
    """Of this file; raised when a key changes its meaning."""
    baseline: str
    """Name of the baseline."""
    systems: dict[str, dict[str, dict[str, object]]]
    """System -> score -> what Difference says, on the library's own scale."""
    resamples: int
    """Of the bootstrap, and of the randomisation."""
    seed: int
    """Of both."""
    confidence: float
    """The share of resamples inside an interval."""
    signatures: dict[str, str]
    """Name -> everything that changes a number, as one line."""
    notes: list[str]
    """Sentences that a reader must know."""


def incomparable(one: Evaluation, other: Evaluation) -> list[str]:
    """Say why the numbers of two evaluations may not be held against each other.

    Args:
        one: The first, such as the baseline.
        other: The second.

    Returns:
        One phrase a reason, each with what to do; empty when they compare.
    """
    here, there = one.conditions, other.conditions
    only_here, only_there = (sorted(set(a.image_ids) - set(b.image_ids)) for a, b in ((one, other), (other, one)))
    partial = here.get("images_missing") or there.get("images_missing")
    reasons = []
    if not (partial and (only_here or only_there)):  # a partial run has other references because it has other images
        reasons += _references(here, there)
    if only_here or only_there:
        parts = [_named(only_here, "first", "second"), _named(only_there, "second", "first")]
        advice = "caption the missing ones, and score without --partial" if partial else "caption and score the same images"
        reasons.append(f"the images differ ({'; '.join(filter(None, parts))}): {advice}")
    if here.get("tokenizer") != there.get("tokenizer"):
        reasons.append(_versions("the tokeniser", here.get("tokenizer"), there.get("tokenizer")))
    metrics, others = mapping_of(here.get("metrics")), mapping_of(there.get("metrics"))
    reasons += [
        _versions(name, metrics[name], others[name]) for name in metrics if metrics[name] != others.get(name, metrics[name])
    ]
    return reasons


def paired_differences(baseline: Evaluation, other: Evaluation, options: Bootstrap) -> dict[str, Difference]:
    """Compare one system with a baseline.

    Both tests see the two systems on the same images: the bootstrap draws images, as many as there are, and both systems' rows
    come along; the randomisation swaps the two rows of an image. Scores are computed from sums of rows, so BLEU, METEOR and
    perplexity are those of a corpus, and CIDEr's document frequencies stay those of all images.

    Args:
        baseline: What it is compared with.
        other: The system.
        options: Resamples and seed of both tests; confidence of the interval.

    Returns:
        By name, the scores that both have.

    Raises:
        InputError: If they do not compare.

    Source:
        Koehn 2004 (paired bootstrap); Riezler and Maxwell 2005 (approximate randomisation). Draws and randomisation are
        sacrebleu's. Its p of the bootstrap is not: that looks at one side only, and without a difference falls below 0.05 in
        one comparison of ten.
    """
    if reasons := incomparable(baseline, other):
        message = f"these scores do not compare: {'; and '.join(reasons)}"
        raise InputError(message)
    return {
        found.name: _difference(found, (baseline.scores[found.name], other.scores[found.name]), options)
        for found in resampled_scores(paired_tables(baseline, other), options)
        if found.name in baseline.scores and found.name in other.scores
    }


def compare(
    baseline: tuple[str, Evaluation],
    others: Sequence[tuple[str, Evaluation]],
    options: Bootstrap,
    scores: Sequence[str] | None = None,
) -> Comparison:
    """Compare systems with a baseline.

    Each score is one question, "which of these systems differ from the baseline?", so its p-values are corrected over the
    systems. They are not corrected over the scores, which are views of one thing and rise and fall together: name the score
    that decides before looking. Corrected is the randomisation's p, which assumes nothing of how scores are spread.

    Args:
        baseline: Its name and evaluation.
        others: The same of each system, one or more, names unique.
        options: Resamples and seed of both tests; confidence of the intervals.
        scores: The scores to compare, by name; all that a system has in common with the baseline when not given.

    Returns:
        The comparison.

    Raises:
        InputError: If one does not compare with the baseline, or has no score in common with it.
    """
    name, evaluation = baseline
    everyone = [baseline, *others]
    if len({each for each, _ in everyone}) < len(everyone):
        message = f"names must be unique, and these are not: {', '.join(each for each, _ in everyone)}"
        raise ValueError(message)
    for each, other in others:
        if reasons := incomparable(evaluation, other):
            message = f"{name} (first) and {each} (second) do not compare: {'; and '.join(reasons)}"
            raise InputError(message)
    found = {each: paired_differences(evaluation, other, options) for each, other in others}
    if scores is not None:
        found = {each: {key: found[each][key] for key in found[each] if key in scores} for each in found}
    if empty := [each for each in found if not found[each]]:
        wanted = f" of {', '.join(scores)}" if scores else ""
        message = f"{name} and {empty[0]} have no score{wanted} in common: score both with the same metrics"
        raise InputError(message)
    return Comparison(
        baseline_name=name,
        names=[each for each, _ in others],
        differences=_corrected(found),
        options=options,
        notes=provenance_notes(baseline, others),
        signatures={each: other.signature for each, other in everyone},
    )


def comparison_file(comparison: Comparison) -> ComparisonFile:
    """Give what `capt-eval compare --json` prints.

    Args:
        comparison: What `compare` gave.

    Returns:
        Plain values.
    """
    return ComparisonFile(
        format=COMPARISON_FORMAT,
        baseline=comparison.baseline_name,
        systems={
            system: {name: asdict(difference) for name, difference in found.items()}
            for system, found in comparison.differences.items()
        },
        resamples=comparison.options.resamples,
        seed=comparison.options.seed,
        confidence=comparison.options.confidence,
        signatures=dict(comparison.signatures),
        notes=list(comparison.notes),
    )


def _references(here: Mapping[str, object], there: Mapping[str, object]) -> list[str]:
    """Say how the references differ."""
    reasons = []
    if here.get("references_sha256") != there.get("references_sha256"):
        one, other = (f"{each.get('references')}, sha256 {str(each.get('references_sha256'))[:_SHORT]}" for each in (here, there))
        reasons.append(f"the references differ ({one} against {other}): score both against the same file and split")
    if here.get("references_per_image") != there.get("references_per_image"):
        few, many = (_counts(each.get("references_per_image")) for each in (here, there))
        reasons.append(f"the number of references differs ({few} an image against {many}): give both the same ones")
    return reasons


def _counts(value: object) -> str:
    """Write the fewest and the most references an image has."""
    low, high = value if isinstance(value, Sequence) else ("?", "?")
    return str(low) if low == high else f"{low} to {high}"


def _named(names: Sequence[str], having: str, lacking: str) -> str:
    """Count images that one side lacks, and name the first few; empty when there are none."""
    shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    return f"{len(names):,} of the {having} not in the {lacking}: {shown}" if names else ""


def _versions(subject: str, one: object, other: object) -> str:
    return f"{subject} differs ({one} against {other}): score both with the same version of capt-eval"


def _difference(found: ResampledScore, scores: tuple[Score, Score], options: Bootstrap) -> Difference:
    """Turn resampled differences into an interval and two p-values; what sums do to their last digits is no difference."""
    baseline, value = (
        score.value if score.n == found.n else computed  # the library's own last digits
        for score, computed in zip(scores, (found.baseline, found.other), strict=True)
    )
    noise = _NOISE * max(abs(baseline), abs(value))
    difference = value - baseline if abs(value - baseline) > noise else 0.0
    drawn = np.where(np.abs(found.drawn) > noise, found.drawn, 0.0)
    low, high = interval(drawn, options)
    p_randomisation = two_sided_p(found.swapped, difference, noise=noise)
    return Difference(
        name=found.name,
        baseline=baseline,
        value=value,
        difference=difference,
        low=low,
        high=high,
        p_bootstrap=two_sided_p(drawn - drawn.mean(), difference, noise=noise),
        p_randomisation=p_randomisation,
        p_corrected=p_randomisation,
        n=found.n,
        higher_is_better=scores[0].higher_is_better,
        shown_times=scores[0].shown_times,
    )


def _corrected(found: Mapping[str, Mapping[str, Difference]]) -> dict[str, dict[str, Difference]]:
    """Correct the p-values of each score over the systems that have it."""
    corrected: dict[str, dict[str, Difference]] = {system: {} for system in found}
    for name in dict.fromkeys(name for differences in found.values() for name in differences):
        systems = [system for system in found if name in found[system]]
        p_values = holm([found[system][name].p_randomisation for system in systems])
        for system, p in zip(systems, p_values, strict=True):
            corrected[system][name] = replace(found[system][name], p_corrected=p)
    return corrected
