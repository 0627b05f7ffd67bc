"""Whether this machine can judge: Java, jars, memory, a place to write, and a locale that does no harm.

In: the machine. Out: a list of checks, each with what to do. Apart, because it must work when nothing else does: every fault
becomes a failed check.
"""

import locale
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from capt.errors import CaptError
from evaluation.cache import user_cache
from evaluation.java import METEOR_DATA, METEOR_JAR, TOKENIZER_JAR, JavaError, find_jar, find_java

_NEEDED_BYTES = 2_500_000_000  # METEOR's 2 GB heap and what is around it
_KNOWN_CAPTION, _KNOWN_TOKENS = "Two dogs,\u2028running — in the U.S.A.!", "two dogs running in the u.s.a."
_KNOWN_SCORE = 0.2  # METEOR of that pair is above
_PROBE = "probe"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing looked at.

    Attributes:
        name: What.
        passed: Whether it will do.
        said: What was found, or what to do.
    """

    name: str
    passed: bool
    said: str


def examine() -> list[Check]:
    """Look at everything the metrics need.

    Returns:
        One check each; never raises what a user could mend.
    """
    checks = {
        "Java": _java,
        "jars": _jars,
        "memory": _memory,
        "write access": _write_access,
        "cache": _cache,
        "tokeniser": _tokenizer,
        "METEOR": _meteor,
        "locale": _locale,
    }
    return [_checked(name, check) for name, check in checks.items()]


def _checked(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name=name, passed=True, said=check())
    except CaptError as error:
        return Check(name=name, passed=False, said=str(error))


def _java() -> str:
    java = find_java()
    version = java.run(("--version",), b"", timeout=60).decode(errors="replace").splitlines()
    return f"{version[0] if version else 'unknown'} from {java.origin} ({java.executable})"


def _jars() -> str:
    return f"in {[find_jar(name).parent for name in (TOKENIZER_JAR, METEOR_DATA, METEOR_JAR)][-1].parent}"


def _memory() -> str:
    free = _available_bytes()
    if free < _NEEDED_BYTES:
        message = f"{free / 1e9:.1f} GB are free and METEOR takes up to {_NEEDED_BYTES / 1e9:.1f}: end other programs first"
        raise JavaError(message)
    return f"{free / 1e9:.1f} GB free"


def _available_bytes() -> int:
    """Give the memory that a new program can have, in bytes."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # not Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _write_access() -> str:
    try:
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"capt")
            return f"temporary files go to {Path(file.name).parent}"
    except OSError as error:
        message = f"no temporary file can be written ({error.strerror}): let TMPDIR name a folder with room"
        raise JavaError(message) from error


def _cache() -> str:
    cache = user_cache()
    cache.put(_PROBE, [], [])
    if cache.get(_PROBE, []) is None:
        return f"{cache.folder} cannot be written, so nothing is kept; let XDG_CACHE_HOME name a folder to score faster"
    return f"{cache.size() / 1e6:.0f} MB of at most {cache.limit_bytes / 1e6:.0f} in {cache.folder}"


def _tokenizer() -> str:
    from evaluation.tokenizer import tokenize  # noqa: PLC0415  # needs pycocoevalcap, which may be broken

    tokens = tokenize([_KNOWN_CAPTION, ""], find_java())
    if tokens != [_KNOWN_TOKENS, ""]:
        message = f"{_KNOWN_CAPTION!r} gave {tokens}: let CAPT_JAVA name another Java"
        raise JavaError(message)
    return "gives the tokens expected"


def _meteor() -> str:
    from evaluation.meteor import meteor_process  # noqa: PLC0415  # beside the other

    with meteor_process(find_java()) as meteor:
        score, _, _ = meteor.score(["two dogs run"], [["two dogs running in the snow"]])
    if not _KNOWN_SCORE < score < 1:
        message = f"a known pair of captions scored {score}: install pycocoevalcap again"
        raise JavaError(message)
    return f"answers ({score:.3f} for a known pair)"


def _locale() -> str:
    return f"{locale.setlocale(locale.LC_CTYPE)}; Java is run in English whatever it is"
