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

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

BAD_DATA, ENVIRONMENT, INTERRUPTED = 3, 4, 130


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
    split: Annotated[str | None, typer.Option(help="Score this split of the references.", rich_help_panel="Input")] = None,
    images: Annotated[Path | None, typer.Option(help="Score the images of this list.", rich_help_panel="Input")] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Score what there is.", rich_help_panel="Input")] = False,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", "-m", help="BLEU, METEOR, ROUGE_L or CIDEr; repeatable.", rich_help_panel="Scores"),
    ] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap resamples.", rich_help_panel="Scores")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.", rich_help_panel="Scores")] = 12345,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for scores.json, per_image.parquet.", rich_help_panel="Output")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print scores.json on stdout.", rich_help_panel="Output")] = False,
) -> None:
    """Score captions against human references: BLEU, METEOR, ROUGE-L, CIDEr and perplexity, with intervals."""
    import json

    from rich.console import Console

    from evaluation.evaluate import evaluate
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
    pairs = join(load_captions(captions), load_references(references, split=split, images=images), partial=partial)
    evaluation = evaluate(pairs, metrics=chosen, bootstrap=Bootstrap(resamples=resamples, seed=seed))
    if output is not None:
        save(evaluation, output)
    Console(stderr=True).print(terminal_report(make_report(evaluation)))
    if as_json:
        sys.stdout.write(json.dumps(scores_file(evaluation), indent=2) + "\n")


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
        sys.stderr.write(f"capt-eval: {error}\n")
        sys.exit(BAD_DATA if isinstance(error, InputError) else ENVIRONMENT)
    except KeyboardInterrupt:
        sys.stderr.write("capt-eval: interrupted; nothing was written.\n")
        sys.exit(INTERRUPTED)
    except Exception as error:  # what nobody foresaw is told like everything else
        if os.environ.get(DEBUG):
            raise
        sys.stderr.write(f"capt-eval: {unforeseen(error)}\n")
        sys.exit(ENVIRONMENT)


if __name__ == "__main__":
    main()
