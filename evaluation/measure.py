"""Captions and references -> tokens, and what every metric found; Java runs beside Python, and only for what is new.

In: texts as written. Out: their tokens and one Measured a metric. Apart from evaluate.py, because the anchors are measured in
the same way as what is judged.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version

import numpy as np

from evaluation import tokenizer
from evaluation.cache import Cache, user_cache
from evaluation.java import Java, find_java
from evaluation.metrics import METRICS, Measured, Tokens


@dataclass(frozen=True, kw_only=True)
class Instruments:
    """What measuring needs of the machine.

    Attributes:
        cache: Where results of Java are kept; the user's by default.
    """

    cache: Cache = field(default_factory=user_cache)

    @cached_property
    def java(self) -> Java:
        """The runtime, looked for when something is not in the cache."""
        return find_java()


def measure(
    captions: Sequence[str], references: Sequence[Sequence[str]], metrics: Sequence[str], instruments: Instruments
) -> tuple[Tokens, dict[str, Measured]]:
    """Start what loads slowly, tokenise meanwhile, then let all metrics run side by side.

    Args:
        captions: As written, N.
        references: As written, N lists.
        metrics: Keys of METRICS.
        instruments: Java and the cache.

    Returns:
        The tokens, and what each metric found, in the order of METRICS.

    Raises:
        JavaError: If Java is needed and fails.
    """
    kept = {name: _kept(name, captions, references, instruments.cache) for name in METRICS if name in metrics}
    with ThreadPoolExecutor(max_workers=2) as pool, ExitStack() as stack:  # one waits for METEOR, one computes
        measures = {
            name: stack.enter_context(METRICS[name].open(instruments.java)) for name, found in kept.items() if found is None
        }
        ours = pool.submit(_tokenize, captions, instruments)
        lines = iter(_tokenize([text for texts in references for text in texts], instruments))
        tokens = Tokens(captions=ours.result(), references=[[next(lines) for _ in texts] for texts in references])
        slow_first = sorted(measures, key=lambda name: not METRICS[name].slow)
        futures = {name: pool.submit(measures[name], tokens) for name in slow_first}
        measured = {name: found if found is not None else futures[name].result() for name, found in kept.items()}
    for name in measures:
        _keep(name, captions, references, measured[name], instruments.cache)
    return tokens, measured


def _tokenize(captions: Sequence[str], instruments: Instruments) -> list[str]:
    """Take tokens from the cache, or ask Java."""
    kept = instruments.cache.get(tokenizer.NAME, captions)
    if isinstance(kept, list) and len(kept) == len(captions):
        return [str(line) for line in kept]
    lines = tokenizer.tokenize(captions, instruments.java) if captions else []
    instruments.cache.put(tokenizer.NAME, captions, lines)
    return lines


def _content(name: str, captions: Sequence[str], references: Sequence[Sequence[str]]) -> Iterator[object]:
    """Give everything that decides what a metric finds."""
    yield from (
        METRICS[name].version,
        tokenizer.NAME,
        version("pycocoevalcap"),
        list(captions),
        [list(each) for each in references],
    )


def _kept(name: str, captions: Sequence[str], references: Sequence[Sequence[str]], cache: Cache) -> Measured | None:
    """Look up what a slow metric found for the same texts."""
    if not METRICS[name].slow:
        return None
    kept = cache.get(name, list(_content(name, captions, references)))
    try:
        return _measured(kept) if isinstance(kept, Mapping) else None
    except (AttributeError, KeyError, TypeError, ValueError):  # JSON of another shape
        return None


def _measured(kept: Mapping[str, Mapping[str, float]]) -> Measured:
    return Measured(
        scores={name: float(value) for name, value in kept["scores"].items()},
        per_image={name: np.array(values, dtype=np.float64) for name, values in kept["per_image"].items()},
        statistics=np.array(kept["statistics"], dtype=np.float64),
    )


def _keep(name: str, captions: Sequence[str], references: Sequence[Sequence[str]], found: Measured, cache: Cache) -> None:
    """Store what a slow metric found; floats survive JSON to the last digit."""
    if METRICS[name].slow:
        result = {
            "scores": dict(found.scores),
            "per_image": {each: values.tolist() for each, values in found.per_image.items()},
            "statistics": found.statistics.tolist(),
        }
        cache.put(name, list(_content(name, captions, references)), result)
