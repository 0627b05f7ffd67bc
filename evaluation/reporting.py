"""Runs -> report: `report.html`, `report.md`, `report.json`, as one readable function.

In: paths and choices. Out: three files, and the Document for the terminal. Apart from the command line, which only parses, and
from reports/, which knows no files.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from capt.errors import InputError, OutputError
from capt.files import write_whole
from capt.model_card import SHIPPED, ModelCard, read_model_card
from evaluation.buckets import dimensions
from evaluation.comparison import compare, incomparable
from evaluation.pictures import gather_pictures
from evaluation.runs import ReferenceChoice, Run, open_runs, read_texts
from evaluation.scores import Evaluation, mapping_of
from evaluation.significance import Bootstrap
from evaluation.training_logs import read_training_logs
from reports import html, markdown
from reports.compose import compose
from reports.contest import decide
from reports.document import Document
from reports.findings import Findings, System
from reports.record import report_file
from reports.sections.examples import choose_examples, make_examples

HTML, MARKDOWN, JSON = "report.html", "report.md", "report.json"


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What may be chosen for a report.

    Attributes:
        references: Human captions; scores on disk need them for examples and buckets only.
        baseline: Name of the run that the others are held against; the first when not given.
        photographs: A folder or parquet files; None shows no photographs.
        training_logs: Logs of `capt-batch train`.
        checkpoints: Whose cards are shown, where a run was made with them; the shipped one is known.
        examples: The most images shown.
        date: ISO 8601; fixes what would change from day to day.
        bootstrap: Of the tests between runs.
    """

    references: ReferenceChoice
    baseline: str | None = None
    photographs: Path | None = None
    training_logs: Sequence[Path] = ()
    checkpoints: Sequence[Path] = ()
    examples: int = 200
    date: str
    bootstrap: Bootstrap


def report(paths: Sequence[Path], output: Path, options: ReportOptions) -> Document:
    """Write a report.

    Args:
        paths: Runs: scores, captions, or folders that hold both.
        output: The folder for the three files.
        options: All choices.

    Returns:
        What the report says.

    Raises:
        CaptError: If something cannot be read, compared or written.
    """
    _check_output(output)
    trainings = read_training_logs(list(options.training_logs))
    cards = [read_model_card(path) for path in (*options.checkpoints, *([SHIPPED] if SHIPPED.exists() else []))]
    runs = _aligned(_baseline_first(open_runs(paths, options.references), options.baseline))
    texts = read_texts(options.references, runs)
    findings = replace(_findings(runs, texts, cards, options), trainings=trainings)
    contest = decide(findings)
    choice = choose_examples(findings, contest, options.examples)
    pictures = gather_pictures(runs, [findings.image_ids[each.row] for each in choice], options.photographs)
    document = compose(findings, contest, choice, pictures)
    record = report_file(findings, contest, make_examples(findings, contest, choice, pictures))
    files = {
        JSON: json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        MARKDOWN: markdown.render(document),
        HTML: html.render(document),
    }
    for name, text in files.items():
        write_whole(output / name, text.encode(errors="backslashreplace"))
    return document


def _baseline_first(runs: list[Run], baseline: str | None) -> list[Run]:
    if baseline is None:
        return runs
    names = [run.name for run in runs]
    if baseline not in names:
        message = f"no run is named {baseline!r}: choose the baseline from {', '.join(names)}"
        raise InputError(message)
    return sorted(runs, key=lambda run: run.name != baseline)


def _aligned(runs: list[Run]) -> list[Run]:
    """Bring all runs into the order of the first; refuse what does not compare before anything is computed."""
    first = runs[0]
    for run in runs[1:]:
        if reasons := incomparable(first.evaluation, run.evaluation):
            message = f"{first.name} (first) and {run.name} (second) do not compare: {'; and '.join(reasons)}"
            raise InputError(message)
    return [first, *(replace(run, evaluation=_in_order(run.evaluation, first.evaluation.image_ids)) for run in runs[1:])]


def _in_order(evaluation: Evaluation, image_ids: Sequence[str]) -> Evaluation:
    if list(evaluation.image_ids) == list(image_ids):
        return evaluation
    row_of = {image_id: row for row, image_id in enumerate(evaluation.image_ids)}
    rows = np.array([row_of[image_id] for image_id in image_ids])
    return replace(
        evaluation,
        image_ids=list(image_ids),
        captions=[evaluation.captions[row] for row in rows],
        per_image={name: values[rows] for name, values in evaluation.per_image.items()},
        statistics={name: values[rows] for name, values in evaluation.statistics.items()},
    )


def _findings(
    runs: Sequence[Run], texts: list[Sequence[str]] | None, cards: Sequence[ModelCard], options: ReportOptions
) -> Findings:
    baseline, *others = named = [(run.name, run.evaluation) for run in runs]
    comparison = compare(baseline, others, options.bootstrap) if others else None
    fewer = replace(options.bootstrap, resamples=min(options.bootstrap.resamples, 1000))  # many small intervals
    return Findings(
        image_ids=runs[0].evaluation.image_ids,
        systems=[
            System(
                name=run.name,
                judged=run.evaluation,
                speed=run.speed,
                failures=run.failures,
                card=_card(run.evaluation, cards),
                has_attention=run.has_attention,
            )
            for run in runs
        ],
        references=texts,
        differences=comparison.differences if comparison else {},
        dimensions=dimensions(named, texts, fewer),
        notes=comparison.notes if comparison else (),
        resamples=options.bootstrap.resamples,
        confidence=options.bootstrap.confidence,
        with_photographs=options.photographs is not None,
        date=options.date,
        version=version("capt"),
    )


def _card(evaluation: Evaluation, cards: Sequence[ModelCard]) -> dict[str, object] | None:
    digest = mapping_of(evaluation.conditions.get("run")).get("checkpoint_sha256")
    return next((dict(card.card) for card in cards if card.sha256 == digest), None)


def _check_output(output: Path) -> None:
    """Refuse a folder that cannot be written before any work."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        probe = output / f".{HTML}.tmp"
        probe.write_text("", encoding="utf-8")
        probe.unlink()
    except OSError as error:
        message = f"{output} cannot be written ({error.strerror or error}): choose another folder with --output"
        raise OutputError(message) from error
