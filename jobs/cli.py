"""The command line `capt-batch`: parse, call, exit code; no logic.

Exit codes: 0 done; 1 finished with failed images; 2 usage, or an error before work began; 3 an error during work;
130 interrupted by Ctrl-C, 143 by SIGTERM.
"""

import math
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from capt.errors import DEBUG, CaptError, unforeseen
from capt.shown import in_log
from jobs.exit_codes import ExitCode, exit_code
from jobs.training.cli import INTERRUPTED, Train, average, recipes, train, vectors

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def main() -> None:
    """Run the command line; whatever goes wrong is told in one sentence on stderr."""
    try:
        app()
    except CaptError as error:
        typer.echo(f"capt-batch: {in_log(str(error))}", err=True)
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        typer.echo("capt-batch: Interrupted.", err=True)
        sys.exit(INTERRUPTED)
    except Exception as error:  # what nobody foresaw is told like everything else
        if os.environ.get(DEBUG):
            raise
        typer.echo(f"capt-batch: {in_log(unforeseen(error))}", err=True)
        sys.exit(exit_code(error))


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it so
    if wanted:
        from importlib.metadata import version

        typer.echo(f"capt {version('capt')}")
        raise typer.Exit


@app.callback()
def program(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Caption folders and tables of photographs, and train the captioner that does it."""


@app.command()
def run(
    source: Annotated[
        str,
        typer.Argument(
            help="Images: a folder, a list of paths, parquet or .tar files (one, a folder, a quoted glob); here or by URI."
        ),
    ],
    *,
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", help="Folder for the table's shards, or one .parquet file; perhaps a URI.", rich_help_panel="Output"
        ),
    ] = "captions",
    image_root: Annotated[
        str | None, typer.Option(help="Where relative paths in a list or manifest begin.", rich_help_panel="Input")
    ] = None,
    allow_outside: Annotated[
        bool,
        typer.Option(
            "--allow-outside", help="Let a manifest's paths lead out of --image-root, or its folder.", rich_help_panel="Input"
        ),
    ] = False,
    references: Annotated[
        Path | None, typer.Option(help="Human captions, whose likelihoods are stored too.", rich_help_panel="Input")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only this split of a manifest.", rich_help_panel="Input")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first images.", rich_help_panel="Input")] = None,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Larger images are refused: decompression bombs.", rich_help_panel="Input")
    ] = 120_000_000,
    draft: Annotated[
        bool,
        typer.Option(
            "--draft", help="Decode large JPEGs at a half, quarter or eighth of their size: quicker.", rich_help_panel="Input"
        ),
    ] = False,
    image_timeout: Annotated[
        float,
        typer.Option(
            min=0.0, metavar="SECONDS", help="An image that takes longer to open is failed; 0 waits.", rich_help_panel="Input"
        ),
    ] = 60.0,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            help="Captioner to use, by default the one that ships; given several times, they write together.",
            rich_help_panel="Model",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel="Model")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16 or int8.", rich_help_panel="Model")] = "auto",
    runtime: Annotated[
        str, typer.Option(help="What computes the encoder: auto, torch or openvino.", rich_help_panel="Model")
    ] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.", rich_help_panel="Model")] = 32,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that decode images; by default one a processor.", rich_help_panel="Model")
    ] = None,
    beam_size: Annotated[int, typer.Option(min=1, help="Captions kept open; 1 is greedy.", rich_help_panel="Decoding")] = 3,
    max_length: Annotated[int, typer.Option(min=1, help="Longest caption, in words.", rich_help_panel="Decoding")] = 20,
    min_length: Annotated[int, typer.Option(min=0, help="Shortest caption, in words.", rich_help_panel="Decoding")] = 1,
    length_penalty: Annotated[
        float, typer.Option(min=0.0, help="0 compares plain log probabilities, 1 favours long ones.", rich_help_panel="Decoding")
    ] = 1.0,
    block_ngrams: Annotated[
        int, typer.Option(min=0, help="No caption says so many words in a row twice; 0 allows it.", rich_help_panel="Decoding")
    ] = 2,
    alternatives: Annotated[
        int, typer.Option(min=0, help="Further captions of each image, fewer than beams.", rich_help_panel="Decoding")
    ] = 0,
    attention: Annotated[
        bool, typer.Option("--attention", help="Store where the network looked at each word.", rich_help_panel="Output")
    ] = False,
    shard_size: Annotated[
        int, typer.Option(min=1, help="Rows of a shard, the unit of resuming.", rich_help_panel="Output")
    ] = 1000,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Do every N-th shard, from number I; other machines do the others.", rich_help_panel="Output"
        ),
    ] = None,
    engine: Annotated[str, typer.Option(help="local, or ray: actors on a cluster.", rich_help_panel="Engine")] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Ray cluster, auto or local; by default RAY_ADDRESS or one that runs here, else one is started.",
            rich_help_panel="Engine",
        ),
    ] = None,
    actors: Annotated[
        int | None, typer.Option(min=1, help="Networks in the Ray cluster; by default as many as fit.", rich_help_panel="Engine")
    ] = None,
    gpus_per_actor: Annotated[
        float | None, typer.Option(help="From 0 to 1; by default 1 where there are GPUs.", rich_help_panel="Engine")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start anew over an earlier run.", rich_help_panel="Output")
    ] = False,
    extend: Annotated[
        bool, typer.Option("--extend", help="Caption only images that an earlier run's output lacks.", rich_help_panel="Output")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Caption the failed rows of an earlier run again.", rich_help_panel="Output")
    ] = False,
    allow_failures: Annotated[
        bool, typer.Option("--allow-failures", help="Exit with 0 although some images failed.", rich_help_panel="Output")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and stop.", rich_help_panel="Output")
    ] = False,
    log_json: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Add what happens to this file, as JSON lines; - is stdout.", rich_help_panel="Output"),
    ] = None,
    metrics: Annotated[
        Path | None,
        typer.Option(metavar="FILE.prom", help="Keep Prometheus metrics of the run in this file.", rich_help_panel="Output"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing but errors.", rich_help_panel="Output")] = False,
) -> None:
    """Caption every image of a folder, a list or a parquet table; started again, it goes on where it was stopped."""
    from capt.remote import locate
    from jobs.event_log import EventLog
    from jobs.interruption import SIGNAL_EXIT, Deadline
    from jobs.metrics_file import MetricsFile
    from jobs.narrator import Narrator
    from jobs.options import EngineOptions, NetworkOptions, OutputOptions, RunOptions, Share, default_workers
    from jobs.plan import describe, prepare
    from jobs.progress import Reporter
    from jobs.run import run as run_plan
    from jobs.source import SourceOptions

    options = RunOptions(
        source=SourceOptions(
            source=source,
            image_root=locate(image_root) if image_root else None,
            split=split,
            limit=limit,
            max_pixels=max_pixels,
            draft=draft,
            image_timeout=image_timeout,
            references=references,
            allow_outside=allow_outside,
        ),
        network=NetworkOptions(
            checkpoints=checkpoint or (),
            device=device,
            precision=precision,
            runtime=runtime,
            attention=attention,
            batch_size=batch_size,
            workers=workers or default_workers(),
        ),
        decoding={
            "beam_size": beam_size,
            "max_length": max_length,
            "min_length": min_length,
            "length_penalty": length_penalty,
            "block_ngrams": block_ngrams,
            "alternatives": alternatives,
        },
        output=OutputOptions(
            path=locate(output),
            shard_size=shard_size,
            overwrite=overwrite,
            retry_failed=retry_failed,
            extend=extend,
            share=Share.parse(shard) if shard is not None else None,
        ),
        engine=EngineOptions(engine=engine, ray_address=ray_address, actors=actors, gpus_per_actor=gpus_per_actor),
    )
    if dry_run:
        typer.echo("\n".join(map(in_log, describe(prepare(options)))), err=True)
        return
    try:
        with Deadline(), Narrator(Reporter(quiet=quiet)) as narrator:
            if log_json is not None:
                narrator.add(EventLog(log_json))
            if metrics is not None:
                narrator.add(MetricsFile(metrics, output=options.output.path, share=shard))
            with narrator.waits.of(f"looking at {source} and {output}"):
                plan = prepare(options)
            outcome = run_plan(plan, narrator)
    except KeyboardInterrupt as stop:
        typer.echo("capt-batch: Interrupted before work began; start the same command again.", err=True)
        raise typer.Exit(INTERRUPTED) from stop
    if outcome.interrupted_by is not None:
        command = shlex.join(["capt-batch", *sys.argv[1:]])
        done = f"{outcome.finished:,} of {plan.own_rows:,} images are done and kept"
        typer.echo(f"capt-batch: Interrupted; {done}, go on with: {command}", err=True)
        raise typer.Exit(SIGNAL_EXIT + outcome.interrupted_by)
    if outcome.failed and not allow_failures:
        raise typer.Exit(ExitCode.FAILED_IMAGES)


@app.command()
def merge(
    output: Annotated[str, typer.Argument(help="Folder that capt-batch run --shard wrote into.")],
    *,
    into: Annotated[str | None, typer.Option(help="Write all shards into this .parquet file as well.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace that file.")] = False,
    allow_failures: Annotated[bool, typer.Option("--allow-failures", help="Exit with 0 although some images failed.")] = False,
    log_json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Add what happens to this file, as JSON lines; - is stdout.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing but errors.")] = False,
) -> None:
    """Make a run complete that several machines did: check that every shard is there, and write run.json."""
    from capt.remote import locate
    from jobs.event_log import EventLog
    from jobs.events import Finished
    from jobs.merge import MergeOptions
    from jobs.merge import merge as merge_shards
    from jobs.narrator import Narrator
    from jobs.progress import Reporter

    with Narrator(Reporter(quiet=quiet)) as narrator:
        if log_json is not None:
            narrator.add(EventLog(log_json))
        where = MergeOptions(output=locate(output), into=locate(into) if into else None, overwrite=overwrite)
        summary = merge_shards(where)
        narrator.tell(Finished(summary=summary))
    if summary.ok < summary.rows and not allow_failures:
        raise typer.Exit(ExitCode.FAILED_IMAGES)


app.command(cls=Train)(train)
app.command()(recipes)
app.command()(vectors)
app.command()(average)


@app.command()
def info(
    checkpoint: Annotated[Path | None, typer.Argument(help="A checkpoint; by default the one that ships.")] = None,
) -> None:
    """Print the model card of a checkpoint as JSON."""
    from capt.checkpoint import DEFAULT_CHECKPOINT, read_header
    from capt.shown import json_text

    header = read_header(checkpoint)
    path = checkpoint or DEFAULT_CHECKPOINT
    parameters = sum(math.prod(shape) for shape in header.shapes.values())
    shown = {
        "checkpoint": {
            "file": str(path),
            "megabytes": round(path.stat().st_size / 1e6, 1),
            "parameters": parameters,
            "words": len(header.vocabulary),
        },
        "config": header.config,
        "preprocessing": header.preprocessing.to_dict(),
        "card": dict(header.card),
    }
    typer.echo(json_text(shown))
