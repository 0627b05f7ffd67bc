"""Recipes: whole trainings under a name, and the ordinary commands that they stand for.

In: `recipes.toml`, where the numbers are, and what was given beside `--recipe`. Out: the command line of each stage. Apart from
`follow.py`, which carries them out, because the help names the recipes and must not wait for torch.
"""

import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from capt.errors import InputError

VECTORS = "vectors"  # the stage that trains word vectors; every other trains a captioner
_FILE = Path(__file__).with_name("recipes.toml")
_WITH_TEXT = "with-text"


class Scope(StrEnum):
    """In which stages an option holds that is given beside `--recipe`."""

    ALL = "every stage that looks at images"
    FIRST = "the first of them, which makes the network"
    CROSS_ENTROPY = "those trained by cross-entropy"
    SELF_CRITICAL = "those trained on the metric"


_MACHINE = ("device", "workers", "feature-cache")  # what decides nothing but where and how fast
_DATA = ("references", "train-split", "val-split", "train-images", "val-images", "limit", "allow-outside")
_NETWORK = ("encoder", "layer", "stride-in-1x1", "weights", "image-size", "word-vectors", "min-frequency")
_SIZES = ("embed-dim", "decoder-dim", "attention-dim", "feature-dim", "detected-dim", "tie-embeddings", "context-readout")
_DROPOUTS = ("dropout", "embedding-dropout", "feature-dropout", "detected-dropout")
_DETECTED = "detected-words"
_ABOUT = MappingProxyType(
    {"text-": "text", "words-": "words-epochs"}
)  # options that begin so are about another, of the first stage
_LOOP = ("epochs", "batch-size", "patience", "select", "max-caption-length", "views", "clip", "weight-averaging")
SCOPES: Mapping[str, Scope] = MappingProxyType(
    {
        **dict.fromkeys((*_DATA, *_MACHINE, "precision", "seed", *_LOOP, *_DROPOUTS, _DETECTED), Scope.ALL),
        **dict.fromkeys((*_NETWORK, *_SIZES, "text"), Scope.FIRST),
        **dict.fromkeys(("attention-weight", "label-smoothing", "scheduled-sampling", "sampling-ramp"), Scope.CROSS_ENTROPY),
        **dict.fromkeys(("samples", "bleu-weight"), Scope.SELF_CRITICAL),
    }
)
DECIDED = frozenset(  # by the recipe, for each stage; beside it they are refused
    {
        "start-from",
        "start-share",
        "self-critical",
        "learning-rate",
        "warm-up",
        "step-size",
        "gamma",
        "freeze-embeddings",
        "fine-tune-blocks",
        "encoder-learning-rate",
    }
)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of a recipe.

    Args:
        name: Also of its folder.
        options: Of its command, by name.
        with_text: Options that it has as well when there is text.
    """

    name: str
    options: Mapping[str, Any]
    with_text: Mapping[str, Any]

    @property
    def self_critical(self) -> bool:
        """Whether it trains on the metric."""
        return bool(self.options.get("self-critical"))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole training.

    Args:
        name: As given to `--recipe`.
        about: A sentence.
        stages: In order; at least one that trains a captioner.
    """

    name: str
    about: str
    stages: Sequence[Stage]

    @property
    def trainings(self) -> Sequence[Stage]:
        """The stages that train a captioner."""
        return [stage for stage in self.stages if stage.name != VECTORS]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a recipe is followed with.

    Args:
        source: The images.
        output: Folder of the whole training.
        given: Options that were given beside `--recipe`, by name; those with which the program would begin are not.
    """

    source: Path
    output: Path
    given: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A stage as a command.

    Args:
        stage: Its name.
        self_critical: Whether it trains on the metric.
        output: The folder of its run, or the file of vectors.
        command: Which of `capt-batch`.
        source: What the command works on.
        options: Of the command, by name.
    """

    stage: str
    self_critical: bool
    output: Path
    command: str
    source: Path
    options: Mapping[str, Any]

    @property
    def arguments(self) -> list[str]:
        """What stands after `capt-batch`."""
        return [self.command, str(self.source), *_written({**self.options, "output": self.output})]

    @property
    def line(self) -> str:
        """The whole command line, fit for a shell."""
        return shlex.join(["capt-batch", *self.arguments])

    @property
    def choices(self) -> list[str]:
        """What decides the result."""
        deciding = {name: value for name, value in self.options.items() if name not in _MACHINE}
        return [self.command, str(self.source), *_written(deciding)]


def recipe_names() -> list[str]:
    """Name the recipes there are, in order."""
    return list(_read())


def read_recipe(name: str) -> Recipe:
    """Read a recipe.

    Args:
        name: One of `recipe_names`.

    Returns:
        The recipe.

    Raises:
        InputError: If there is none of this name.
    """
    if name not in _read():
        what = f"There is no recipe {name!r}" if name else "--recipe needs a name"
        message = f"{what}; choose one of {', '.join(recipe_names())} (capt-batch recipes tells what each does)."
        raise InputError(message)
    table = _read()[name]
    stages = [
        Stage(
            name=stage,
            options={option: value for option, value in options.items() if option != _WITH_TEXT},
            with_text=options.get(_WITH_TEXT, {}),
        )
        for stage, options in table.items()
        if isinstance(options, dict)
    ]
    return Recipe(name=name, about=table["about"], stages=stages)


@cache
def _read() -> dict[str, dict[str, Any]]:
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))


def scope_of(option: str) -> Scope | None:
    """Tell in which stages an option holds that is given beside `--recipe`.

    Args:
        option: Of `capt-batch train`.

    Returns:
        In which; None when the recipe decides it, or it is of the training as a whole.
    """
    return Scope.FIRST if option.startswith(tuple(_ABOUT)) else SCOPES.get(option)


def lay_out(recipe: Recipe, request: Request) -> list[Step]:
    """Write a recipe's stages as commands.

    Args:
        recipe: Which.
        request: On what, and what else was given.

    Returns:
        The commands, in order.

    Raises:
        InputError: If something was given that the recipe decides, or that is of no use.
    """
    _check(recipe, request.given)
    steps: list[Step] = []
    for stage in recipe.stages:
        if stage.name != VECTORS:
            steps.append(_training(recipe, stage, request, steps))
        elif "word-vectors" not in request.given:
            steps.append(_vectors(recipe, stage, request))
    return steps


def notes(recipe: Recipe, request: Request) -> list[str]:
    """Tell what a recipe leaves out because of what was given, or was not.

    Args:
        recipe: Which.
        request: On what, and what else was given.

    Returns:
        Sentences.
    """
    told = []
    if "text" not in request.given and any(stage.with_text for stage in recipe.trainings):
        told.append("No --text is given, so the decoder reads none first.")
    if "word-vectors" in request.given and len(recipe.trainings) < len(recipe.stages):
        told.append(f"The word vectors are those of {request.given['word-vectors']}; none are trained.")
    return told


def describe(recipe: Recipe) -> str:
    """Tell what a recipe does: the commands that it stands for.

    Args:
        recipe: Which.

    Returns:
        Lines of text, with names where a user's paths belong.
    """
    given = {"references": "CAPTIONS"}
    lines = [f"{recipe.name}: {recipe.about}", *_described(recipe, given)]
    if any(stage.with_text for stage in recipe.trainings):
        lines += ["", *_described(recipe, {**given, "text": "TEXT"})]
    return "\n".join(lines)


def _described(recipe: Recipe, given: Mapping[str, Any]) -> list[str]:
    request = Request(source=Path("IMAGES"), output=Path("OUT"), given=given)
    whole = ["capt-batch", "train", "IMAGES", *_written({**given, "recipe": recipe.name, "output": "OUT"})]
    return [f"  {shlex.join(whole)}", "is the same as", *(f"  {step.line}" for step in lay_out(recipe, request))]


def _check(recipe: Recipe, given: Mapping[str, Any]) -> None:
    """Refuse what would not be used as it was meant."""
    first = _effective(recipe, recipe.trainings[0], {name: value for name, value in given.items() if scope_of(name)})
    for name in given:
        scope = scope_of(name)
        if scope is None:
            advice = f"capt-batch recipes {recipe.name} shows its commands, to run one by one with other choices"
            message = f"--{name} is decided by the recipe {recipe.name}, for each stage; leave it out ({advice})."
            raise InputError(message)
        if not any(_holds(name, recipe, stage) for stage in recipe.trainings):
            message = f"--{name} belongs to {scope}, and the recipe {recipe.name} has none; leave it out."
            raise InputError(message)
        about = next((about for prefix, about in _ABOUT.items() if name.startswith(prefix)), None)
        if about not in {None, name} and not first.get(about):
            message = f"--{name} is about --{about}; give that as well, or leave it out."
            raise InputError(message)


def _holds(name: str, recipe: Recipe, stage: Stage) -> bool:
    """Whether an option that was given belongs to a stage that trains a captioner."""
    return {
        Scope.ALL: True,
        Scope.FIRST: stage == recipe.trainings[0],
        Scope.CROSS_ENTROPY: not stage.self_critical,
        Scope.SELF_CRITICAL: stage.self_critical,
        None: False,
    }[scope_of(name)]


def _training(recipe: Recipe, stage: Stage, request: Request, before: Sequence[Step]) -> Step:
    options = _effective(recipe, stage, request.given)
    previous = next((step.output for step in reversed(before) if step.stage != VECTORS), None)
    if previous is not None:
        options["start-from"] = previous / "best.safetensors"
        if _effective(recipe, recipe.trainings[0], request.given).get("detected-dim"):
            options.setdefault(_DETECTED, request.output / recipe.trainings[0].name / f"{_DETECTED}.safetensors")
    elif before:
        options["word-vectors"] = before[0].output
    return Step(
        stage=stage.name,
        self_critical=stage.self_critical,
        output=request.output / stage.name,
        command="train",
        source=request.source,
        options=options,
    )


def _effective(recipe: Recipe, stage: Stage, given: Mapping[str, Any]) -> dict[str, Any]:
    """Put together a stage's own options and those that were given and hold in it: these come first and count."""
    own = {**stage.options, **(stage.with_text if "text" in given else {})}
    chosen = {name: value for name, value in given.items() if _holds(name, recipe, stage)}
    return {**chosen, **{name: value for name, value in own.items() if name not in chosen}}


def _vectors(recipe: Recipe, stage: Stage, request: Request) -> Step:
    """Train word vectors on what people wrote of the training images, or on the text, but never of images to choose by."""
    given, options = request.given, dict(stage.options)
    references, split = given.get("references", request.source), given.get("train-split", "train")
    if "text" in given and "train-images" in given:
        options["exclude"] = given.get("val-images", references)
    elif "text" in given:
        options.update({"exclude": references, "exclude-except": split})
    elif "train-images" in given:
        options["images"] = given["train-images"]
    else:
        options["split"] = split
    dimension = _effective(recipe, recipe.trainings[0], given).get("embed-dim")
    if dimension is not None:
        options["dimension"] = dimension
    if "seed" in given:
        options["seed"] = given["seed"]
    return Step(
        stage=stage.name,
        self_critical=False,
        output=request.output / "vectors.bin",
        command="vectors",
        source=given.get("text", references),
        options=options,
    )


def _written(options: Mapping[str, Any]) -> list[str]:
    """Write options as on a command line."""
    words: list[str] = []
    for name, value in options.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words += [f"--{name}", str(value)]
    return words
