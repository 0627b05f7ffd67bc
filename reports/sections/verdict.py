"""The answer: a headline, two or three sentences and the scores at a glance, honest about what nobody can tell.

In: Findings and the contest. Out: headline, sentences, tiles, warnings. Apart, because these words are read by everyone and
must follow from interval and test alone.
"""

from reports.contest import Contest, shared_scores
from reports.differences import Finding
from reports.document import Tile, Tone
from reports.findings import Findings
from reports.wording import FEW_IMAGES, VERDICTS, interval, judge, listed, number, p_value, plural, score, signed, spoken

_GLANCE = ("CIDEr", "METEOR", "Bleu_4", "perplexity")
_TONES = {Finding.BETTER: Tone.GOOD, Finding.WORSE: Tone.BAD}


def headline(findings: Findings, contest: Contest) -> str:
    """Answer in one line.

    Args:
        findings: What was found.
        contest: Who is held against whom.

    Returns:
        Which captioner is better, or that nobody can tell.
    """
    value = score(contest.contender.judged.scores[contest.metric])[0]
    first, other = contest.baseline.name, contest.contender.name
    if contest.difference is None:
        return f"{first} reaches {spoken(contest.metric)} {value}"
    if len(findings.others) > 1:
        return {
            Finding.BETTER: f"{other} is better than {first}, and highest of {len(findings.systems)}",
            Finding.WORSE: f"{first} scores highest of {len(findings.systems)}",
        }.get(contest.judgement, f"None of {len(findings.others)} captioners is clearly better than {first}")
    if contest.judgement is Finding.UNCLEAR and len(findings.image_ids) < FEW_IMAGES:
        return f"{plural(len(findings.image_ids), 'photograph')} cannot tell {other} from {first}"
    return {
        Finding.BETTER: f"{other} is better than {first}",
        Finding.WORSE: f"{first} is better than {other}",
        Finding.SAME: f"{other} scores the same as {first}",
    }.get(contest.judgement, f"No clear difference between {other} and {first}")


def sentences(findings: Findings, contest: Contest) -> list[str]:
    """Answer in two or three sentences.

    Args:
        findings: What was found.
        contest: Who is held against whom.

    Returns:
        The sentences.
    """
    if contest.difference is None:
        return [_alone(findings, contest), *_meaning(findings, contest)]
    found, times, n = contest.difference, contest.times, len(findings.image_ids)
    value, against = (score(each.judged.scores[contest.metric])[0] for each in (contest.contender, contest.baseline))
    between = interval(found.low * times, found.high * times, with_sign=True)
    proof = f"{findings.confidence:.0%} interval {between}, {p_value(found.p_corrected, findings.resamples)}".replace(
        "%", "\u00a0%"
    )
    real = {
        Finding.BETTER: "The difference is real.",
        Finding.WORSE: "The difference is real.",
        Finding.UNCLEAR: "Chance alone could explain it.",
        Finding.SAME: "There is no difference at all.",
    }[contest.judgement]
    wins, ties, losses = contest.wins_ties_losses
    change, name = signed(found.difference * times), contest.contender.name
    who = f"{name} has " if len(findings.others) > 1 else ""  # of two, the headline names both
    both = f"{spoken(contest.metric)} {value} against {against} on the same {plural(n, 'photograph')}"
    return [
        f"{who}{both}: {change} ({proof}). {real}",
        *_agreement(findings, contest),
        f"Photograph by photograph {name} scores higher on {wins:,}, the same on {ties:,} and lower on {losses:,}.",
    ]


def tiles(findings: Findings, contest: Contest) -> list[Tile]:
    """Show the scores that matter most.

    Args:
        findings: What was found.
        contest: Whose scores.

    Returns:
        One tile a score.
    """
    shown = []
    for name in _GLANCE:
        if name not in shared_scores(findings):
            continue
        found = contest.contender.judged.scores[name]
        value, between = score(found)
        difference = findings.differences.get(contest.contender.name, {}).get(name)
        if difference is None:
            shown.append(Tile(name=spoken(name), value=value, below=between))
            continue
        verdict = judge(difference)
        shown.append(
            Tile(
                name=spoken(name),
                value=value,
                below=contest.baseline.name,
                against=score(contest.baseline.judged.scores[name])[0],
                difference=signed(difference.difference * found.shown_times),
                verdict=VERDICTS[verdict]
                + (
                    f", {interval(difference.low * found.shown_times, difference.high * found.shown_times, with_sign=True)}"
                    if verdict is not Finding.SAME
                    else ""
                ),
                tone=_TONES.get(verdict, Tone.PLAIN),
            )
        )
    return shown


def warnings(findings: Findings) -> list[str]:
    """Say what a reader must know before believing a number.

    Args:
        findings: What was found.

    Returns:
        Sentences, each once; a note that all captioners share is told without names.
    """
    n, told = len(findings.image_ids), []
    if n < FEW_IMAGES:
        told.append(f"Only {plural(n, 'photograph')}: read the captions, and take no number here for more than a hint.")
    by_note: dict[str, list[str]] = {}
    for system in findings.systems:
        for note in system.judged.notes:
            by_note.setdefault(note, []).append(system.name)
    for note, names in by_note.items():
        told.append(note if len(names) == len(findings.systems) else f"{', '.join(names)}: {note}")
    return told


def _alone(findings: Findings, contest: Contest) -> str:
    value, between = score(contest.baseline.judged.scores[contest.metric])
    confidence = f"{findings.confidence:.0%}".replace("%", "\u00a0%")
    images = plural(len(findings.image_ids), "photograph")
    return f"{spoken(contest.metric)} {value} over {images} ({confidence} interval {between})."


def _meaning(findings: Findings, contest: Contest) -> list[str]:
    """Put a score between what is known."""
    known = [
        f"{label} {number(anchor.scores[contest.metric] * contest.times)}"
        for label, anchor in findings.anchors.items()
        if contest.metric in anchor.scores
    ]
    return [f"For comparison, on the same references: {', '.join(known)}."] if known else []


def _agreement(findings: Findings, contest: Contest) -> list[str]:
    """Say whether the other scores point the same way."""
    found = {
        spoken(name): judge(difference)
        for name, difference in findings.differences[contest.contender.name].items()
        if name != contest.metric
    }
    names = {verdict: [name for name, each in found.items() if each is verdict] for verdict in VERDICTS}
    parts = [f"{words} by {listed(names[verdict])}" for verdict, words in VERDICTS.items() if names[verdict]]
    return [f"The other scores: {'; '.join(parts)}."] if parts else []
