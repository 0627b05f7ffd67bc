"""The gate as one readable function: read rules, baseline and candidate, judge, and renew the baseline when told to.

In: paths. Out: a Judgement. Apart from gate.py, which only weighs what is already in memory. What cannot be read is not an error
here but a verdict, so that whoever waits for JSON, JUnit or a summary gets one that says why.
"""

from dataclasses import dataclass
from pathlib import Path

from capt.errors import InputError
from evaluation.baseline import read_baseline, renew_baseline
from evaluation.candidates import open_evaluation
from evaluation.gate import Judgement, accept, judge
from evaluation.gate_rules import read_rules


@dataclass(frozen=True, kw_only=True)
class GateOptions:
    """What is held against what.

    Attributes:
        candidate: Scores, or captions when references are given.
        baseline: The file that `update` writes.
        rules: A TOML file; by default the pyproject.toml of the current folder.
        references: What captions are scored against first.
        split: Of the references.
        images: A list of the images to score.
        strict: Whether warnings fail.
        update: Whether the candidate becomes the baseline.
    """

    candidate: Path
    baseline: Path
    rules: Path | None = None
    references: Path | None = None
    split: str | None = None
    images: Path | None = None
    strict: bool = False
    update: bool = False


def gate(options: GateOptions) -> Judgement:
    """Judge a candidate, or make it the baseline.

    Args:
        options: What is held against what.

    Returns:
        The judgement; `not-comparable` when something cannot be read.

    Raises:
        OutputError: If the baseline cannot be written.
        JavaError: If captions are to be scored and Java fails.
    """
    try:
        rules = read_rules(options.rules)
        baseline = None if options.update and not options.baseline.exists() else read_baseline(options.baseline)
        candidate = open_evaluation(options.candidate, references=options.references, split=options.split, images=options.images)
        judgement = judge(baseline, candidate, rules, strict=options.strict)
        if not options.update:
            return judgement
        renew_baseline(candidate, options.baseline)
        return accept(judgement, options.baseline)
    except InputError as error:
        return Judgement(reasons=[str(error)])
