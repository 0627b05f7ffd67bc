"""The rules of the gate: how far each score may fall, and what happens when it falls further.

In: `[tool.capt.gate]` of a pyproject.toml, or a TOML file of the same keys. Out: Rules, or an InputError that names file and key.
Apart from gate.py, because it is the only part of the gate that people write.
"""

import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import NoReturn

from capt.errors import InputError, first_line
from evaluation import perplexity
from evaluation.metrics import METRICS
from evaluation.significance import Bootstrap

PROJECT_FILE = "pyproject.toml"
_SECTION = ("tool", "capt", "gate")
_LEAST_RESAMPLES = 100
_HUGE = 1e12  # no number in a rule comes near; infinities and what is no number are above it
_LOWER_IS_BETTER = frozenset({perplexity.NAME})


class Severity(StrEnum):
    """What a drop may lead to at worst."""

    FAIL = "fail"
    WARN = "warn"
    IGNORE = "ignore"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How far one score may fall; numbers in the units that are shown (×100, perplexity as it is).

    Attributes:
        absolute: The drop that is allowed.
        relative: The drop that is allowed, as a share of the baseline's value; the larger of the two counts.
        floor: Below this the verdict is fail, whatever the baseline, where higher is better.
        ceiling: Above this the verdict is fail, whatever the baseline, where lower is better.
        severity: What a drop may lead to at worst; floor and ceiling always fail.
    """

    absolute: float | None = None
    relative: float | None = None
    floor: float | None = None
    ceiling: float | None = None
    severity: Severity = Severity.FAIL


# Without a tolerance no drop is large, so a score that is not here warns at most: when it falls significantly.
DEFAULTS: Mapping[str, Rule] = {
    "CIDEr": Rule(absolute=1.0),
    "Bleu_4": Rule(absolute=0.5),
    "METEOR": Rule(absolute=0.3),
    perplexity.NAME: Rule(relative=0.02),
}


@dataclass(frozen=True, kw_only=True)
class Rules:
    """All rules of one gate.

    Attributes:
        source: The file that states them, or None for the defaults.
        stated: By score, those that the file names; the candidate must have each of these scores.
        bootstrap: How the paired intervals are computed.
    """

    source: str | None = None
    stated: Mapping[str, Rule] = field(default_factory=dict)
    bootstrap: Bootstrap = field(default_factory=Bootstrap)

    def of(self, name: str) -> Rule:
        """Give the rule of one score.

        Args:
            name: As COCO prints it.

        Returns:
            The stated one, else the default.
        """
        return self.stated.get(name) or DEFAULTS.get(name) or Rule()

    def to_dict(self) -> dict[str, object]:
        """Give the rules as JSON knows them.

        Returns:
            Source, resamples, seed and confidence, and under `scores` the rule of every score that has one.
        """
        scores = {name: _stated(self.of(name)) for name in score_names() if self.of(name) != Rule()}
        return {"source": self.source, **asdict(self.bootstrap), "scores": scores}


def score_names() -> list[str]:
    """Name every score that can be gated.

    Returns:
        As COCO prints them, and perplexity.
    """
    return [*(name for metric in METRICS.values() for name in metric.names), perplexity.NAME]


def read_rules(path: Path | None = None) -> Rules:
    """Read rules; those that are not stated keep their default.

    Args:
        path: A TOML file of rules, or a pyproject.toml with `[tool.capt.gate]`; by default the pyproject.toml of the current
            folder, where the section may be absent.

    Returns:
        The rules.

    Raises:
        InputError: If the file cannot be read, or a key, a type or a number in it is wrong.
    """
    file = path or Path(PROJECT_FILE)
    if path is None and not file.is_file():
        return Rules()
    content = _read_toml(file)
    if file.name != PROJECT_FILE:
        return _rules(content, _Place(str(file)))
    section = _section(content, file)
    if section is None and path is not None:
        message = f"{file} has no section [{'.'.join(_SECTION)}]: add it, or leave --rules out for the default rules"
        raise InputError(message)
    return Rules() if section is None else _rules(section, _Place(str(file), _SECTION))


def _read_toml(file: Path) -> dict[str, object]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"the rules {file} cannot be read ({error.strerror}): check the path and its permissions"
        raise InputError(message) from error
    except (ValueError, RecursionError) as error:  # also what is not UTF-8, and brackets without end
        message = f"{file} is not valid TOML ({first_line(error)}): correct it"
        raise InputError(message) from error


def _section(content: Mapping[str, object], file: Path) -> Mapping[str, object] | None:
    """Give `[tool.capt.gate]` of a pyproject.toml; a misspelt neighbour is refused, not passed over."""
    tool = content.get("tool")
    capt = tool.get("capt") if isinstance(tool, dict) else None
    if capt is None:
        return None
    place = _Place(str(file), _SECTION[:2])
    found: dict[str, object] = place.table(capt, "capt")
    place.only(found, _SECTION[2:])
    return place.table(found["gate"], "gate") if "gate" in found else None


@dataclass(frozen=True)
class _Place:
    """Where in which file something stands; every fault is told through it."""

    file: str
    keys: tuple[str, ...] = ()

    def inside(self, key: str) -> "_Place":
        return _Place(self.file, (*self.keys, key))

    def refuse(self, said: str) -> NoReturn:
        """Tell a fault with its place."""
        section = f", [{'.'.join(self.keys)}]" if self.keys else ""
        message = f"{self.file}{section}: {said}"
        raise InputError(message)

    def only(self, table: Iterable[str], allowed: Iterable[str]) -> None:
        """Refuse the first key that is not allowed."""
        known = list(allowed)
        for key in table:
            if key not in known:
                self.refuse(f"there is no key {key!r}; choose from {', '.join(known)}")

    def table(self, value: object, key: str) -> dict[str, object]:
        """Take a table."""
        if not isinstance(value, dict):
            self.refuse(f"{key} must be a table of keys and values, not {value!r}")
        return value

    def number(self, key: str, value: object, wanted: str, holds: Callable[[float], bool]) -> float:
        """Take a number of ordinary size that fulfils a condition; a bool is none."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not (abs(value) < _HUGE and holds(value)):
            self.refuse(f"{key} must be {wanted}, not {value!r}")
        return value

    def whole(self, key: str, value: object, least: int) -> int:
        """Take a whole number."""
        number = self.number(key, value, f"a whole number, {least} or more", lambda found: found >= least and found % 1 == 0)
        return int(number)


def _rules(table: Mapping[str, object], place: _Place) -> Rules:
    """Take a whole section apart: keys of the bootstrap, and one table a score."""
    names = score_names()
    place.only(table, [*(each.name for each in fields(Bootstrap)), *names])
    stated = {name: _rule(name, place.table(table[name], name), place.inside(name)) for name in names if name in table}
    return Rules(source=place.file, stated=stated, bootstrap=_bootstrap(table, place))


def _rule(name: str, table: Mapping[str, object], place: _Place) -> Rule:
    """Take the table of one score; keys that it does not state keep their default."""
    limit = "ceiling" if name in _LOWER_IS_BETTER else "floor"
    place.only(table, ("absolute", "relative", limit, "severity"))
    values: dict[str, float] = {}
    for key in ("absolute", limit):
        if key in table:
            values[key] = place.number(key, table[key], "a number, 0 or more", lambda number: number >= 0)
    if "relative" in table:
        share = "a share of the baseline's value, such as 0.02 for 2 %"
        values["relative"] = place.number("relative", table["relative"], share, lambda number: 0 <= number < 1)
    severity = _severity(table.get("severity", Severity.FAIL), place)
    if severity is Severity.IGNORE and limit in values:
        place.refuse(f"a score with severity 'ignore' cannot have a {limit}; leave one of the two out")
    return replace(DEFAULTS.get(name, Rule()), **values, severity=severity)


def _severity(value: object, place: _Place) -> Severity:
    if not isinstance(value, str) or value not in set(Severity):
        place.refuse(f"severity must be {', '.join(repr(str(each)) for each in Severity)}, not {value!r}")
    return Severity(value)


def _bootstrap(table: Mapping[str, object], place: _Place) -> Bootstrap:
    found = Bootstrap()
    if "resamples" in table:
        found = replace(found, resamples=place.whole("resamples", table["resamples"], _LEAST_RESAMPLES))
    if "seed" in table:
        found = replace(found, seed=place.whole("seed", table["seed"], 0))
    if "confidence" not in table:
        return found
    confidence = place.number("confidence", table["confidence"], "a share between 0 and 1", lambda share: 0 < share < 1)
    try:
        return replace(found, confidence=confidence)
    except ValueError as error:
        place.refuse(str(error))


def _stated(rule: Rule) -> dict[str, object]:
    return {key: value for key, value in asdict(rule).items() if value is not None}
