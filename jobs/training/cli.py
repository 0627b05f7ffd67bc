"""The commands of `capt-batch` that train: parse, call; no logic.

In: the command line. Out: a training run, or a file of word vectors. Apart from the program, because training has as many options
as everything else together.
"""

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from capt.errors import InputError
from jobs.threads import wait_briefly
from jobs.training.recipes import Request, describe, lay_out, notes, read_recipe, recipe_names

if TYPE_CHECKING:
    from jobs.training.follow import Plan

Choice = TypeVar("Choice", bound=StrEnum)
INTERRUPTED = 130
_OF_THE_WHOLE = frozenset({"source", "output", "recipe", "resume", "dry_run", "quiet"})


class Train(TyperCommand):
    """The command `train`, which tells the recipes' names also to those who forgot to name one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - typer's copy of click is private
        """Read the command line.

        Args:
            ctx: Typer's.
            args: The words after the command's name.

        Returns:
            Those that are left.

        Raises:
            InputError: If `--recipe` is the last word, or another option follows it.
        """
        for word, following in zip(args, [*args[1:], "-"], strict=True):
            if word == "--recipe" and following.startswith("-"):
                read_recipe("")
        return super().parse_args(ctx, args)


def train(
    context: typer.Context,
    source: Annotated[
        Path, typer.Argument(help="Parquet manifests with images, captions and splits; or a folder of images, with --references.")
    ],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.", rich_help_panel="Output")],
    recipe: Annotated[
        str | None,
        typer.Option(
            help=f"A whole training under a name: {', '.join(recipe_names())}; `capt-batch recipes` shows what they do.",
            rich_help_panel="Recipe",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check what is given, say what would be done, and stop.", rich_help_panel="Recipe")
    ] = False,
    references: Annotated[Path | None, typer.Option(help="Human captions of a folder's images.", rich_help_panel="Input")] = None,
    train_split: Annotated[str, typer.Option(help="Split to learn from.", rich_help_panel="Input")] = "train",
    val_split: Annotated[
        str | None, typer.Option(help="Split to choose by; by default val, dev or validation.", rich_help_panel="Input")
    ] = None,
    train_images: Annotated[
        Path | None, typer.Option(help="List of the images to learn from, one a line.", rich_help_panel="Input")
    ] = None,
    val_images: Annotated[
        Path | None, typer.Option(help="List of the images to choose by, one a line.", rich_help_panel="Input")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=0, help="Only this many images of each split; 0 takes all.", rich_help_panel="Input")
    ] = 0,
    allow_outside: Annotated[
        bool,
        typer.Option("--allow-outside", help="Let a manifest's paths lead out of its folder.", rich_help_panel="Input"),
    ] = False,
    words_epochs: Annotated[
        int, typer.Option(help="Passes in which the encoder learns the captions' words; 0 none.", rich_help_panel="Words first")
    ] = 0,
    words_blocks: Annotated[
        int | None,
        typer.Option(
            help="Encoder's last blocks that learn then; by default 6 of EfficientNet-Lite, 2 of others.",
            rich_help_panel="Words first",
        ),
    ] = None,
    words_learning_rate: Annotated[
        float, typer.Option(help="Of AdamW, for these blocks; falls to 0 along a cosine.", rich_help_panel="Words first")
    ] = 3e-4,
    words_batch_size: Annotated[int, typer.Option(help="Images a step.", rich_help_panel="Words first")] = 32,
    words_softness: Annotated[
        float,
        typer.Option(help="Share of soft targets: which words go together, by --text.", rich_help_panel="Words first"),
    ] = 0.0,
    words_folds: Annotated[
        int,
        typer.Option(
            help="Parts of the images, each judged by a detector that learned the others; for --detected-dim.",
            rich_help_panel="Words first",
        ),
    ] = 2,
    detected_words: Annotated[
        Path | None,
        typer.Option(
            help="detected-words.safetensors of another run with the same images: what it found.", rich_help_panel="Words first"
        ),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="Captions without images that the decoder reads first.", rich_help_panel="Text first")
    ] = None,
    text_images: Annotated[
        Path | None, typer.Option(help="Only the text of the images in this list.", rich_help_panel="Text first")
    ] = None,
    text_exclude: Annotated[
        Path | None,
        typer.Option(
            help="Not the text of these images: a list, or captions; images to choose by are always left out.",
            rich_help_panel="Text first",
        ),
    ] = None,
    text_epochs: Annotated[int, typer.Option(help="How often it is read.", rich_help_panel="Text first")] = 3,
    text_batch_size: Annotated[int, typer.Option(help="Captions a step.", rich_help_panel="Text first")] = 256,
    text_learning_rate: Annotated[
        float, typer.Option(help="Of Adam; falls to 0 in a line.", rich_help_panel="Text first")
    ] = 2e-3,
    text_softmax: Annotated[
        int, typer.Option(help="Words drawn beside a step's own to compare with; 0 compares all.", rich_help_panel="Text first")
    ] = 1024,
    encoder: Annotated[
        str, typer.Option(help="resnet50, efficientnet_lite0, efficientnet_lite2 or timm:NAME.", rich_help_panel="Model")
    ] = "resnet50",
    layer: Annotated[
        str, typer.Option(help="Maps to attend over: layer3, layer4 or layer3+layer4.", rich_help_panel="Model")
    ] = "layer4",
    stride_in_1x1: Annotated[
        bool, typer.Option("--stride-in-1x1", help="For ResNet-50 weights from Caffe or Keras.", rich_help_panel="Model")
    ] = False,
    weights: Annotated[Path | None, typer.Option(help="File of the encoder's ImageNet weights.", rich_help_panel="Model")] = None,
    image_size: Annotated[
        int | None,
        typer.Option(help="Pixels of an image's sides; by default 224, or as --weights say.", rich_help_panel="Model"),
    ] = None,
    word_vectors: Annotated[
        Path | None, typer.Option(help="word2vec file to begin the embeddings with.", rich_help_panel="Model")
    ] = None,
    start_from: Annotated[
        Path | None, typer.Option(help="Checkpoint to go on from: its network and words are taken.", rich_help_panel="Model")
    ] = None,
    min_frequency: Annotated[
        int, typer.Option(min=1, help="How often a word must occur to be known.", rich_help_panel="Model")
    ] = 5,
    embed_dim: Annotated[int, typer.Option(min=1, help="Dimension of word embeddings.", rich_help_panel="Model")] = 300,
    decoder_dim: Annotated[int, typer.Option(min=1, help="Dimension of the LSTM's state.", rich_help_panel="Model")] = 512,
    attention_dim: Annotated[
        int, typer.Option(min=0, help="Dimension of the attention; 0 reads the mean cell instead.", rich_help_panel="Model")
    ] = 512,
    dropout: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=0.95, help="Share of units dropped; by default 0.5, or --start-from's.", rich_help_panel="Model"
        ),
    ] = None,
    embedding_dropout: Annotated[
        float | None,
        typer.Option(min=0.0, max=0.95, help="Share of a read word's embedding dropped; by default 0.", rich_help_panel="Model"),
    ] = None,
    feature_dim: Annotated[
        int,
        typer.Option(
            min=0, help="Dimension to which a grid cell is projected first; 0 reads it as it is.", rich_help_panel="Model"
        ),
    ] = 0,
    feature_dropout: Annotated[
        float | None,
        typer.Option(min=0.0, max=0.95, help="Share of a projected cell dropped; by default 0.", rich_help_panel="Model"),
    ] = None,
    detected_dim: Annotated[
        int,
        typer.Option(
            min=0,
            help="Dimension to which the likelihoods of all detected words are projected, for every step; 0 reads none.",
            rich_help_panel="Model",
        ),
    ] = 0,
    detected_dropout: Annotated[
        float | None,
        typer.Option(min=0.0, max=0.95, help="Share of these dropped; by default 0.", rich_help_panel="Model"),
    ] = None,
    tie_embeddings: Annotated[bool, typer.Option(help="Output layer shares the embeddings.", rich_help_panel="Model")] = True,
    context_readout: Annotated[
        bool, typer.Option(help="Words are read out of the attended context, too.", rich_help_panel="Model")
    ] = True,
    epochs: Annotated[int, typer.Option(help="How many, at most.", rich_help_panel="Training")] = 20,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Images a step; by default 12, with --self-critical 32.", rich_help_panel="Training"),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of Adam; by default 1e-3, with --self-critical 5e-5.", rich_help_panel="Training")
    ] = None,
    warm_up: Annotated[int, typer.Option(help="Steps in which the rates rise from 0.", rich_help_panel="Training")] = 0,
    step_size: Annotated[int, typer.Option(help="StepLR: epochs between falls of the rate.", rich_help_panel="Training")] = 3,
    gamma: Annotated[
        float | None,
        typer.Option(help="StepLR: factor of a fall; by default 0.5, with --self-critical 1.", rich_help_panel="Training"),
    ] = None,
    clip: Annotated[float, typer.Option(help="Largest gradient norm; 0 does not clip.", rich_help_panel="Training")] = 5.0,
    attention_weight: Annotated[
        float, typer.Option(help="Weight of the doubly stochastic regulariser.", rich_help_panel="Training")
    ] = 1.0,
    label_smoothing: Annotated[
        float, typer.Option(help="Share of the target that all words divide; 0.1 is usual.", rich_help_panel="Training")
    ] = 0.0,
    scheduled_sampling: Annotated[
        float, typer.Option(help="Share of words read from the decoder's own; 0.25 is usual.", rich_help_panel="Training")
    ] = 0.0,
    sampling_ramp: Annotated[int, typer.Option(help="Epochs in which that share rises from 0.", rich_help_panel="Training")] = 5,
    freeze_embeddings: Annotated[
        int, typer.Option(help="Epochs in which word embeddings stay as they began.", rich_help_panel="Training")
    ] = 0,
    views: Annotated[
        int,
        typer.Option(help="Looks at an image: 1 as it is, 2 also mirrored, more also crops.", rich_help_panel="Training"),
    ] = 1,
    fine_tune_blocks: Annotated[
        int, typer.Option(help="Encoder's last blocks that learn too; 0 freezes it.", rich_help_panel="Training")
    ] = 0,
    encoder_learning_rate: Annotated[float, typer.Option(help="Of Adam, for these blocks.", rich_help_panel="Training")] = 1e-4,
    patience: Annotated[
        int, typer.Option(help="Stop after so many epochs without a better one; 0 never.", rich_help_panel="Training")
    ] = 4,
    weight_averaging: Annotated[
        float, typer.Option(help="Decay of the average of weights that is stored; 0 stores the last.", rich_help_panel="Training")
    ] = 0.0,
    start_share: Annotated[
        float, typer.Option(help="Share of the weights of --start-from in what is stored.", rich_help_panel="Training")
    ] = 0.0,
    select: Annotated[
        str, typer.Option(help="Choose the best epoch by CIDEr, Bleu_4 or perplexity.", rich_help_panel="Training")
    ] = "CIDEr",
    max_caption_length: Annotated[
        int, typer.Option(help="Words of a training caption that are read.", rich_help_panel="Training")
    ] = 50,
    seed: Annotated[int, typer.Option(help="Of everything random.", rich_help_panel="Training")] = 1,
    self_critical: Annotated[
        bool,
        typer.Option(
            "--self-critical", help="Train on CIDEr, from the checkpoint --start-from.", rich_help_panel="Self-critical"
        ),
    ] = False,
    samples: Annotated[int, typer.Option(help="Captions drawn for an image.", rich_help_panel="Self-critical")] = 5,
    bleu_weight: Annotated[
        float, typer.Option(help="Weight of BLEU-4 (0 to 1) beside CIDEr (0 to 10).", rich_help_panel="Self-critical")
    ] = 0.5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel="Machine")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.", rich_help_panel="Machine")] = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Threads that decode images.", rich_help_panel="Machine")] = 2,
    feature_cache: Annotated[
        Path | None, typer.Option(help="Where encoded images are kept; by default ~/.cache/capt.", rich_help_panel="Machine")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.", rich_help_panel="Output")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing but errors.", rich_help_panel="Output")] = False,
) -> None:
    """Train a captioner on photographs with human captions."""
    wait_briefly()
    from rich.console import Console

    from capt.device import choose_device, choose_training_precision
    from capt.encoder import EncoderConfig
    from capt.layers import Layer
    from jobs.allocation import keep_freed_memory
    from jobs.training.curves import Watcher
    from jobs.training.features import default_cache_folder
    from jobs.training.options import Selection, TextOptions, WordsOptions, stage_options
    from jobs.training.plan import DataPlan, Machine, NetworkPlan, TrainingPlan
    from jobs.training.texts import TextPlan
    from jobs.training.train import check_training, run_training

    if recipe is not None:
        _follow(context, recipe, Request(source=source, output=output, given=_given(context)))
        return
    if text is None and (text_images or text_exclude):
        message = "--text-images and --text-exclude choose from --text; name the file of captions with it."
        raise InputError(message)
    chosen = choose_device(device)
    if chosen.type == "cpu":
        keep_freed_memory()
    plan = TrainingPlan(
        data=DataPlan(
            source=source,
            references=references,
            train_split=train_split,
            validation_split=val_split,
            train_images=train_images,
            validation_images=val_images,
            limit=limit,
            allow_outside=allow_outside,
        ),
        network=NetworkPlan(
            encoder=EncoderConfig(name=encoder, layer=_one_of(Layer, layer, "--layer"), stride_in_1x1=stride_in_1x1),
            weights=weights,
            image_size=image_size,
            word_vectors=word_vectors,
            start_from=start_from,
            min_frequency=min_frequency,
            embed_dim=embed_dim,
            decoder_dim=decoder_dim,
            attention_dim=attention_dim,
            dropout=dropout,
            tie_embeddings=tie_embeddings,
            embedding_dropout=embedding_dropout,
            feature_dim=feature_dim,
            context_readout=context_readout,
            feature_dropout=feature_dropout,
            detected_dim=detected_dim,
            detected_dropout=detected_dropout,
            detected_words=detected_words,
        ),
        options=stage_options(
            self_critical=self_critical,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            warm_up=warm_up,
            step_size=step_size,
            gamma=gamma,
            clip=clip,
            attention_weight=attention_weight,
            label_smoothing=label_smoothing,
            scheduled_sampling=scheduled_sampling,
            sampling_ramp=sampling_ramp,
            freeze_embeddings=freeze_embeddings,
            views=views,
            fine_tune_blocks=fine_tune_blocks,
            encoder_learning_rate=encoder_learning_rate,
            patience=patience,
            weight_averaging=weight_averaging,
            start_share=start_share,
            select=_one_of(Selection, select, "--select"),
            max_caption_length=max_caption_length,
            seed=seed,
            samples=samples,
            bleu_weight=bleu_weight,
        ),
        machine=Machine(
            device=str(chosen),
            precision=choose_training_precision(precision, chosen),
            workers=workers,
            feature_cache=feature_cache or default_cache_folder(),
        ),
        output=output,
        words=WordsOptions(
            epochs=words_epochs,
            blocks=words_blocks,
            learning_rate=words_learning_rate,
            batch_size=words_batch_size,
            folds=words_folds,
            softness=words_softness,
        ),
        text=TextPlan(source=text, images=text_images, exclude=text_exclude) if text else None,
        text_options=TextOptions(
            epochs=text_epochs, batch_size=text_batch_size, learning_rate=text_learning_rate, softmax=text_softmax
        ),
        resume=resume,
        command=shlex.join(["capt-batch", *sys.argv[1:]]),
    )
    if context.obj is not None:  # a recipe asks what the command of a stage means
        context.obj.append(plan)
        return
    with _resumable(resume=resume), Watcher(output, Console(stderr=True), quiet=quiet) as watcher:
        if dry_run:
            needs = check_training(plan)
            watcher.say(f"{needs.learning:,} images to learn from, {needs.validating:,} to choose by ({needs.split}).")
        else:
            run_training(plan, watcher, watcher.say)


def _given(context: typer.Context) -> dict[str, Any]:
    """Name the options that were given, but for those that are of a training as a whole."""
    return {
        name.replace("_", "-"): value
        for name, value in context.params.items()
        if name not in _OF_THE_WHOLE and getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    }


def _follow(context: typer.Context, name: str, request: Request) -> None:
    """Train by a recipe."""
    from rich.console import Console

    from jobs.training.follow import Following, follow

    recipe, choices = read_recipe(name), context.params
    steps = lay_out(recipe, request)
    following = Following(
        recipe=recipe,
        steps=steps,
        plans=[plan_of(step.arguments) for step in steps],
        notes=notes(recipe, request),
        output=request.output,
        resume=choices["resume"],
        dry_run=choices["dry_run"],
        quiet=choices["quiet"],
    )
    with _resumable(resume=following.resume):
        follow(following, Console(stderr=True))


@contextmanager
def _resumable(*, resume: bool) -> Iterator[None]:
    """Tell who interrupts a training how to go on with it."""
    try:
        yield
    except KeyboardInterrupt as stop:
        command = shlex.join(["capt-batch", *sys.argv[1:]])
        again = command if resume else f"{command} --resume"
        typer.echo(f"capt-batch: Interrupted; finished epochs are kept, go on with: {again}", err=True)
        raise typer.Exit(INTERRUPTED) from stop


def recipes(
    name: Annotated[str | None, typer.Argument(help="A recipe; by default all.")] = None,
) -> None:
    """Print what recipes do: the commands that each stands for."""
    chosen = recipe_names() if name is None else [name]
    typer.echo("\n\n".join(describe(read_recipe(each)) for each in chosen))


def vectors(
    context: typer.Context,
    references: Annotated[Path, typer.Argument(help="Human captions, in any format that references may have.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="word2vec file to write.", rich_help_panel="Output")],
    split: Annotated[str | None, typer.Option(help="Only the captions of this split.", rich_help_panel="Input")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Only the captions of the images in this list.", rich_help_panel="Input")
    ] = None,
    exclude: Annotated[
        Path | None, typer.Option(help="Not the captions of these images: a list, or references.", rich_help_panel="Input")
    ] = None,
    exclude_except: Annotated[
        str | None, typer.Option(help="A split of --exclude's references that is read all the same.", rich_help_panel="Input")
    ] = None,
    dimension: Annotated[
        int, typer.Option(help="Numbers in a vector; the embedding's dimension.", rich_help_panel="Training")
    ] = 300,
    window: Annotated[int, typer.Option(help="Words on each side that are predicted.", rich_help_panel="Training")] = 5,
    epochs: Annotated[int, typer.Option(help="Passes over the captions.", rich_help_panel="Training")] = 20,
    min_frequency: Annotated[int, typer.Option(help="How often a word must occur.", rich_help_panel="Training")] = 2,
    seed: Annotated[int, typer.Option(help="Of everything random.", rich_help_panel="Training")] = 1,
) -> None:
    """Train word2vec vectors on captions, for `train --word-vectors`."""
    from jobs.training.vectors import VectorOptions, VectorPlan, make_vectors

    options = VectorOptions(dimension=dimension, window=window, epochs=epochs, min_frequency=min_frequency, seed=seed)
    plan = VectorPlan(
        references=references,
        output=output,
        split=split,
        images=images,
        exclude=exclude,
        exclude_except=exclude_except,
        options=options,
    )
    if context.obj is not None:  # a recipe asks what the command of a stage means
        context.obj.append(plan)
    else:
        typer.echo(make_vectors(plan), err=True)


def average(
    checkpoints: Annotated[list[Path], typer.Argument(help="Two or more checkpoints of the same network.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Checkpoint to write.", rich_help_panel="Output")],
) -> None:
    """Average the weights of checkpoints that began from the same one."""
    from jobs.training.averaging import average_checkpoints

    average_checkpoints(checkpoints, output)
    typer.echo(f"The mean of {len(checkpoints)} checkpoints: {output}", err=True)


_STAGES = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_STAGES.command()(train)
_STAGES.command()(vectors)


def plan_of(arguments: Sequence[str]) -> "Plan":
    """Read a command line of `train` or `vectors` as the program does, and do nothing.

    Args:
        arguments: What stands after `capt-batch`.

    Returns:
        What it would do.

    Raises:
        InputError: If a choice cannot be.
    """
    plans: list[Plan] = []
    typer.main.get_command(_STAGES).main(list(arguments), prog_name="capt-batch", standalone_mode=False, obj=plans)
    return plans[0]


def _one_of(choices: type[Choice], value: str, option: str) -> Choice:
    try:
        return choices(value)
    except ValueError as error:
        message = f"{option} must be one of {', '.join(choices)}, not {value!r}."
        raise InputError(message) from error
