"""A judgement told wherever somebody looks: JSON on stdout, a table on stderr, JUnit XML, and the summary of a CI run.

In: a Judgement. Out: what programs and people read. Apart from gate.py, which decides: nothing here can change a verdict, and
all four are drawn from the same table.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import TypedDict

from rich.console import Console

from capt.files import write_whole
from evaluation.gate import Judgement
from reports.gate_markdown import gate_markdown
from reports.junit import junit
from reports.terminal_gate import terminal_gate
from reports.verdicts import VerdictTable, make_verdict_table

GATE_FORMAT = 1
SUMMARY = "GITHUB_STEP_SUMMARY"  # environment variable: the file that GitHub shows below a run
_SUMMARY_BYTES = 1024 * 1024  # of which it shows nothing when it is longer


class GateFile(TypedDict):
    """What `capt-eval gate` prints on stdout."""

    format: int
    """Of this object; raised when a key changes its meaning."""
    verdict: str
    """Of the whole: pass, warn, fail or not-comparable."""
    exit_code: int
    """With which the program ends."""
    reasons: list[str]
    """Why nothing could be compared; empty otherwise."""
    scores: list[dict[str, object]]
    """name, verdict, findings (keywords), said (a sentence), n, higher_is_better, shown_times, and on the library's scale, null
    when there is none: baseline, candidate, difference, low, high, allowed, limit."""
    changes: list[dict[str, str]]
    """key, baseline, candidate: in what the two runs differ."""
    notes: list[str]
    """Sentences that a reader must know."""
    signatures: dict[str, str]
    """Of baseline and candidate: everything that changes a number, as one line."""
    rules: dict[str, object] | None
    """source (null for the defaults), resamples, seed, confidence, and scores: name -> tolerances in shown units, severity."""
    renewed: str | None
    """The baseline that --update-baseline wrote."""


def announce(judgement: Judgement, *, junit_file: Path | None = None, environment: Mapping[str, str]) -> None:
    """Tell a judgement everywhere.

    Args:
        judgement: What the gate found.
        junit_file: Where JUnit XML goes, when asked for.
        environment: Names the summary's file under `GITHUB_STEP_SUMMARY`; one that cannot be written is only said.

    Raises:
        OutputError: If the JUnit file cannot be written; everything else was told before.
    """
    table = make_verdict_table(judgement)
    sys.stdout.write(json.dumps(gate_file(judgement, table), indent=2, allow_nan=False) + "\n")
    Console(stderr=True).print(terminal_gate(table))
    if summary := environment.get(SUMMARY):
        _append_summary(table, Path(summary))
    if junit_file is not None:
        write_whole(junit_file, junit(table).encode())


def gate_file(judgement: Judgement, table: VerdictTable) -> GateFile:
    """Give what goes to stdout.

    Args:
        judgement: What the gate found.
        table: The same in words.

    Returns:
        Plain values; what is no number is null.
    """
    return GateFile(
        format=GATE_FORMAT,
        verdict=judgement.verdict,
        exit_code=judgement.verdict.exit_code,
        reasons=list(judgement.reasons),
        scores=[_plain(asdict(row)) | {"said": told.said} for row, told in zip(judgement.rows, table.rows, strict=True)],
        changes=[asdict(change) for change in judgement.changes],
        notes=list(judgement.notes),
        signatures=dict(judgement.signatures),
        rules=judgement.rules.to_dict() if judgement.rules else None,
        renewed=str(judgement.renewed) if judgement.renewed else None,
    )


def _plain(values: Mapping[str, object]) -> dict[str, object]:
    """Make numbers that JSON does not know null, and sequences lists."""
    plain: dict[str, object] = {}
    for key, value in values.items():
        missing = isinstance(value, float) and not isfinite(value)
        plain[key] = None if missing else list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
    return plain


def _append_summary(table: VerdictTable, path: Path) -> None:
    """Add to the summary as much as there is room for; whatever goes wrong is said and changes nothing."""
    try:
        room = _SUMMARY_BYTES - (path.stat().st_size if path.exists() else 0)
        text = gate_markdown(table, most_bytes=room)
        if not text:
            _say(f"{SUMMARY} has no room left for this verdict: {path} may hold {_SUMMARY_BYTES:,} bytes")
            return
        with path.open("a", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        _say(f"the summary {path} that {SUMMARY} names cannot be written ({error.strerror}); the verdict stands without it")


def _say(sentence: str) -> None:
    sys.stderr.write(f"capt-eval: {sentence}\n")
