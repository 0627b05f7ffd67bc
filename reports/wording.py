"""How numbers and names are written: one rounding, one minus sign, one way to write an interval, for every renderer.

In: numbers on the library's scale. Out: text. Apart, because terminal, Markdown, HTML and plots must not disagree.
"""

import math
from collections.abc import Sequence

from reports.differences import DifferenceShape, Finding, finding
from reports.findings import Estimate
from reports.report import ScoreShape

PRIMARY_ORDER = ("CIDEr", "METEOR", "ROUGE_L", "Bleu_4", "Bleu_3", "Bleu_2", "Bleu_1")
"""The score that decides is the first of these that there is."""

LEVEL = 0.05
"""A difference is called real when its corrected p lies below."""

FEW_IMAGES = 100
"""With fewer, no number proves anything."""

_SPOKEN = {"Bleu_1": "BLEU-1", "Bleu_2": "BLEU-2", "Bleu_3": "BLEU-3", "Bleu_4": "BLEU-4", "ROUGE_L": "ROUGE-L"}


VERDICTS = {
    Finding.BETTER: "better",
    Finding.WORSE: "worse",
    Finding.UNCLEAR: "no clear difference",
    Finding.SAME: "the same",
}
"""What a difference comes to, in words."""


def listed(names: Sequence[str]) -> str:
    """Write names one after another, as in a sentence.

    Args:
        names: At least one.

    Returns:
        `a`, `a and b`, `a, b and c`.
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def spoken(name: str) -> str:
    """Write a score's name as papers do.

    Args:
        name: As COCO prints it.

    Returns:
        `BLEU-4` for `Bleu_4`.
    """
    return _SPOKEN.get(name, name)


def number(value: float, digits: int = 1) -> str:
    """Write a number; a minus is a minus sign.

    Args:
        value: As shown.
        digits: After the point.

    Returns:
        A dash when it is not finite.
    """
    if not math.isfinite(value):
        return "–"
    text = f"{value:,.{digits}f}"
    return (text if float(text.replace(",", "")) else text.lstrip("-")).replace("-", "−")


def signed(value: float, digits: int = 1) -> str:
    """Write a difference, with its sign.

    Args:
        value: As shown.
        digits: After the point.

    Returns:
        `+3.1`, `−0.4` or `0.0`.
    """
    text = number(value, digits)
    return f"+{text}" if value > 0 and text.strip("0.") else text


def interval(low: float, high: float, *, with_sign: bool = False) -> str:
    """Write an interval.

    Args:
        low: As shown.
        high: As shown.
        with_sign: For differences.

    Returns:
        `49.0 to 56.6`.
    """
    write = signed if with_sign else number
    return f"{write(low)} to {write(high)}"


def score(found: ScoreShape) -> tuple[str, str]:
    """Write a score.

    Args:
        found: On the library's scale.

    Returns:
        Its value and its interval.
    """
    times = found.shown_times
    return number(found.value * times), interval(found.low * times, found.high * times)


def estimate(found: Estimate, times: float, *, with_sign: bool = False) -> tuple[str, str]:
    """Write an estimate.

    Args:
        found: On the library's scale.
        times: What it is shown times.
        with_sign: For differences.

    Returns:
        Its value and its interval.
    """
    value = (signed if with_sign else number)(found.value * times)
    return value, interval(found.low * times, found.high * times, with_sign=with_sign)


def p_value(p: float, resamples: int) -> str:
    """Write a p-value; none is smaller than the resamples can tell.

    Args:
        p: From 0 to 1.
        resamples: Of the test.

    Returns:
        `p = 0.032`, `p ≤ 0.001`.
    """
    least = max(1 / (resamples + 1), 0.001)
    text = f"p ≤ {least:.3f}" if p <= least else f"p = {p:.3f}"
    return text.replace(" ", "\u00a0")


def percent(share: float, digits: int = 1) -> str:
    """Write a share.

    Args:
        share: From 0 to 1.
        digits: After the point.

    Returns:
        `12.5 %`.
    """
    return f"{100 * share:.{digits}f}\u00a0%"


def judge(found: DifferenceShape) -> Finding:
    """Say what a difference comes to, as `capt-eval compare` does.

    Args:
        found: The difference, with its corrected p.

    Returns:
        Better or worse only when chance does not explain it.
    """
    return finding(found, LEVEL)


def plural(count: int, noun: str) -> str:
    """Count things.

    Args:
        count: How many.
        noun: One of them.

    Returns:
        `1 photograph`, `1,000 photographs`.
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
