"""`capt-eval`: parse, call, exit code; no logic.

In: the command line. Out: data on stdout, words for people on stderr, and an exit code: 0 done, 2 usage, 3 bad data,
4 environment, 130 interrupted. Heavy imports are inside the commands, so that --help answers at once.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from capt.errors import DEBUG, CaptError, InputError, unforeseen
from capt.shown import in_log

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

BAD_DATA, ENVIRONMENT, INTERRUPTED = 3, 4, 130

# Options that several commands have.
ScoreFirst = Annotated[
    Path | None,
    typer.Option("--references", "-r", help="Score captions against these first, any format.", rich_help_panel="Input"),
]
Split = Annotated[str | None, typer.Option(help="Score this split of the references.", rich_help_panel="Input")]
ImageList = Annotated[Path | None, typer.Option(help="Score the images of this list.", rich_help_panel="Input")]
Partial = Annotated[bool, typer.Option("--partial", help="Score what there is.", rich_help_panel="Input")]


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it so
    if wanted:
        from importlib.metadata import version

        typer.echo(f"capt {version('capt')}")
        raise typer.Exit


@app.callback()
def root(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Judge captions the way papers do."""


@app.command()
def score(
    captions: Annotated[
        Path, typer.Argument(help="What capt-batch run wrote (folder or file), COCO results JSON, or CSV, TSV, JSONL.")
    ],
    *,
    references: Annotated[Path, typer.Option("--references", "-r", help="Human captions, any format.", rich_help_panel="Input")],
    split: Split = None,
    images: ImageList = None,
    partial: Partial = False,
    leave_out_failed: Annotated[
        bool,
        typer.Option(
            "--leave-out-failed", help="With --partial: do not count failed images as empty captions.", rich_help_panel="Input"
        ),
    ] = False,
    training_captions: Annotated[
        Path | None,
        typer.Option(help="What the captioner learned from: tells how many captions are copies.", rich_help_panel="Input"),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", "-m", help="BLEU, METEOR, ROUGE_L or CIDEr; repeatable.", rich_help_panel="Scores"),
    ] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap resamples.", rich_help_panel="Scores")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.", rich_help_panel="Scores")] = 12345,
    anchors: Annotated[
        bool,
        typer.Option("--anchors", help="Score a constant caption and one human on these references.", rich_help_panel="Scores"),
    ] = False,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Keep what Java found in ~/.cache/capt.", rich_help_panel="Scores")
    ] = True,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for scores.json, per_image.parquet.", rich_help_panel="Output")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print scores.json on stdout.", rich_help_panel="Output")] = False,
) -> None:
    """Score captions against human references: BLEU, METEOR, ROUGE-L, CIDEr and perplexity, with intervals."""
    import json
    from dataclasses import replace

    from rich.console import Console

    from capt.references import read_references
    from evaluation.anchors import find_anchors
    from evaluation.cache import Cache
    from evaluation.evaluate import evaluate
    from evaluation.measure import Instruments
    from evaluation.metrics import METRICS
    from evaluation.pairs import join, load_captions, load_references
    from evaluation.significance import Bootstrap
    from evaluation.stored import save, scores_file
    from reports.report import make_report
    from reports.terminal import terminal_report

    chosen = metric or list(METRICS)
    if unknown := [name for name in chosen if name not in METRICS]:
        message = f"there is no metric {unknown[0]!r}; choose from {', '.join(METRICS)}"
        raise typer.BadParameter(message, param_hint="--metric")
    if leave_out_failed and not partial:
        message = "failed images left out make the scores partial; give --partial too"
        raise typer.BadParameter(message, param_hint="--leave-out-failed")
    pairs = join(
        load_captions(captions),
        load_references(references, split=split, images=images),
        partial=partial,
        leave_out_failed=leave_out_failed,
    )
    instruments = Instruments() if cache else Instruments(cache=Cache(folder=None))
    evaluation = evaluate(
        pairs,
        metrics=chosen,
        bootstrap=Bootstrap(resamples=resamples, seed=seed),
        training=None if training_captions is None else read_references(training_captions).texts(),
        instruments=instruments,
    )
    if anchors:
        evaluation = replace(evaluation, anchors=find_anchors(pairs, chosen, instruments))
    if output is not None:
        save(evaluation, output)
    Console(stderr=True).print(terminal_report(make_report(evaluation)))
    if as_json:
        sys.stdout.write(json.dumps(scores_file(evaluation), indent=2) + "\n")


@app.command()
def compare(
    systems: Annotated[
        list[Path],
        typer.Argument(
            metavar="BASELINE SYSTEM...",
            help="What capt-eval score -o wrote (folders or files), the baseline first; or captions, with --references.",
            show_default=False,
        ),
    ],
    *,
    references: ScoreFirst = None,
    split: Split = None,
    images: ImageList = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", "-m", help="Bleu_4, METEOR, CIDEr, perplexity, …; repeatable.", rich_help_panel="Scores"),
    ] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Of both paired tests.", rich_help_panel="Scores")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Of both paired tests.", rich_help_panel="Scores")] = 12345,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers on stdout.", rich_help_panel="Output")] = False,
) -> None:
    """Compare systems with a baseline: differences, their intervals and p-values, each image paired with itself."""
    import json

    from rich.console import Console

    from evaluation import perplexity
    from evaluation.candidates import open_evaluation
    from evaluation.comparison import compare as compare_systems
    from evaluation.comparison import comparison_file
    from evaluation.metrics import METRICS
    from evaluation.significance import Bootstrap
    from evaluation.system_names import system_names
    from reports.differences import make_difference_report
    from reports.terminal_comparison import terminal_comparison

    if len(systems) < 2:  # noqa: PLR2004  # the baseline and one more
        message = "give two or more, the baseline first"
        raise typer.BadParameter(message, param_hint="BASELINE SYSTEM...")
    names = [name for each in METRICS.values() for name in each.names] + [perplexity.NAME]
    if unknown := [name for name in metric or () if name not in names]:
        message = f"there is no score {unknown[0]!r}; choose from {', '.join(names)}"
        raise typer.BadParameter(message, param_hint="--metric")
    opened = [open_evaluation(path, references=references, split=split, images=images) for path in systems]
    baseline, *others = zip(system_names(systems), opened, strict=True)
    comparison = compare_systems(baseline, others, Bootstrap(resamples=resamples, seed=seed), metric)
    Console(stderr=True).print(terminal_comparison(make_difference_report(comparison)))
    if as_json:
        sys.stdout.write(json.dumps(comparison_file(comparison), indent=2) + "\n")


@app.command()
def gate(
    candidate: Annotated[
        Path, typer.Argument(help="What capt-eval score -o wrote (folder or file); or captions, with --references.")
    ],
    *,
    baseline: Annotated[
        Path, typer.Option("--baseline", "-b", help="The file to hold it against, kept in git.", rich_help_panel="Input")
    ],
    rules: Annotated[
        Path | None,
        typer.Option(
            help="TOML file of rules; by default the table tool.capt.gate of ./pyproject.toml.", rich_help_panel="Input"
        ),
    ] = None,
    references: ScoreFirst = None,
    split: Split = None,
    images: ImageList = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail, too.", rich_help_panel="Verdict")] = False,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML, one test case a score.", rich_help_panel="Output")] = None,
    update_baseline: Annotated[
        bool,
        typer.Option("--update-baseline", help="Make the candidate the baseline, and pass.", rich_help_panel="Output"),
    ] = False,
) -> None:
    """Hold captions against a baseline: 0 when no score got clearly worse, 1 when one did, 3 when they do not compare."""
    from evaluation.announce import announce
    from evaluation.gating import GateOptions
    from evaluation.gating import gate as hold

    judgement = hold(
        GateOptions(
            candidate=candidate,
            baseline=baseline,
            rules=rules,
            references=references,
            split=split,
            images=images,
            strict=strict,
            update=update_baseline,
        )
    )
    announce(judgement, junit_file=junit, environment=os.environ)
    raise typer.Exit(judgement.verdict.exit_code)


@app.command()
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="What capt-batch run wrote (with --references), what capt-eval score -o wrote, or a folder that holds both.",
            show_default=False,
        ),
    ],
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for report.html, report.md and report.json.", rich_help_panel="Output")
    ],
    references: Annotated[
        Path | None,
        typer.Option(
            "--references", "-r", help="Human captions, any format: shown, and scored against.", rich_help_panel="Input"
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="This split of the references.", rich_help_panel="Input")] = None,
    image_list: Annotated[Path | None, typer.Option(help="The images of this list.", rich_help_panel="Input")] = None,
    partial: Partial = False,
    images: Annotated[
        Path | None,
        typer.Option(help="Where the photographs are: a folder, or parquet files; shown in the report.", rich_help_panel="Input"),
    ] = None,
    training_log: Annotated[
        list[Path] | None,
        typer.Option(help="log.jsonl of capt-batch train, or its folder; repeatable.", rich_help_panel="Input"),
    ] = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(help="Show the model card of this checkpoint where a run used it; repeatable.", rich_help_panel="Input"),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option("--baseline", "-b", help="Hold the others against this run; by default the first.")
    ] = None,
    examples: Annotated[int, typer.Option(min=0, max=1000, help="The most photographs shown.", rich_help_panel="Output")] = 200,
    resamples: Annotated[int, typer.Option(min=100, help="Of the paired tests.", rich_help_panel="Scores")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Of the paired tests.", rich_help_panel="Scores")] = 12345,
    date: Annotated[
        str | None,
        typer.Option(help="Date of the report, ISO 8601; else SOURCE_DATE_EPOCH, else now.", rich_help_panel="Output"),
    ] = None,
) -> None:
    """Write a report on one run, or compare several: a page with photographs, Markdown and JSON."""
    from rich.console import Console

    from evaluation.report_date import report_date
    from evaluation.reporting import HTML, JSON, MARKDOWN, ReportOptions
    from evaluation.reporting import report as write
    from evaluation.runs import ReferenceChoice
    from evaluation.significance import Bootstrap
    from reports.terminal_document import terminal_document

    options = ReportOptions(
        references=ReferenceChoice(path=references, split=split, image_list=image_list, partial=partial),
        baseline=baseline,
        photographs=images,
        training_logs=training_log or (),
        checkpoints=checkpoint or (),
        examples=examples,
        date=report_date(date, os.environ),
        bootstrap=Bootstrap(resamples=resamples, seed=seed),
    )
    console = Console(stderr=True)
    console.print(terminal_document(write(runs, output, options)))
    console.print(in_log(f"{output / HTML}, {MARKDOWN}, {JSON}"), markup=False, emoji=False, highlight=False, soft_wrap=True)


@app.command()
def attention(
    run: Annotated[Path, typer.Argument(help="What capt-batch run --attention wrote (folder or file).")],
    image: Annotated[str, typer.Argument(help="The image's id.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture: .png, .jpg, .webp or .tif.")],
    images: Annotated[Path | None, typer.Option(help="Where the photographs are; by default where the run found them.")] = None,
) -> None:
    """Draw where the network looked for each word of one caption."""
    from evaluation.looking import picture_attention

    caption = picture_attention(run, image, output, source=images)
    sys.stderr.write(f"{in_log(f'{output}: {caption}')}\n")


@app.command()
def doctor() -> None:
    """Check what the metrics need on this machine, and say what to do."""
    from rich.console import Console

    from evaluation.doctor import examine
    from reports.terminal import terminal_checks

    checks = examine()
    Console(stderr=True).print(terminal_checks(checks))
    if not all(check.passed for check in checks):
        raise typer.Exit(ENVIRONMENT)


def main() -> None:
    """Run the command line; what a user can mend is one sentence, never a traceback."""
    try:
        app(prog_name="capt-eval")
    except CaptError as error:
        sys.stderr.write(f"capt-eval: {in_log(str(error))}\n")
        sys.exit(BAD_DATA if isinstance(error, InputError) else ENVIRONMENT)
    except KeyboardInterrupt:
        sys.stderr.write("capt-eval: interrupted; nothing was written.\n")
        sys.exit(INTERRUPTED)
    except Exception as error:  # what nobody foresaw is told like everything else
        if os.environ.get(DEBUG):
            raise
        sys.stderr.write(f"capt-eval: {in_log(unforeseen(error))}\n")
        sys.exit(ENVIRONMENT)


if __name__ == "__main__":
    main()
