"""A recipe carried out: each stage in turn, those that are finished not again.

In: a recipe's commands, and what they mean. Out: a folder with the run of each stage, and which file is for what. Apart from
`recipes.py`, which only writes the commands, and from `train.py`, which knows one run.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from capt.errors import CheckpointError, InputError, OutputError, at_work
from capt.files import write_whole
from jobs.training.curves import Watcher
from jobs.training.plan import TrainingPlan
from jobs.training.recipes import Recipe, Step
from jobs.training.train import Needs, Say, check_training, run_training
from jobs.training.vectors import VectorPlan, make_vectors

RECORD = "recipe.json"
Plan = TrainingPlan | VectorPlan


@dataclass(frozen=True, kw_only=True)
class Following:
    """A recipe that is followed.

    Args:
        recipe: Which.
        steps: Its commands.
        plans: What they mean, one each.
        notes: Sentences on what is left out.
        output: Folder of the whole training.
        resume: Whether to go on with what the folder holds.
        dry_run: Only say what would be done.
        quiet: Say nothing.
    """

    recipe: Recipe
    steps: Sequence[Step]
    plans: Sequence[Plan]
    notes: Sequence[str]
    output: Path
    resume: bool = False
    dry_run: bool = False
    quiet: bool = False


def follow(run: Following, console: Console) -> None:
    """Train a captioner by a recipe.

    The folder holds `recipe.json`: the commands, and which stages are finished.

    Args:
        run: What is to be done.
        console: Where people read.

    Raises:
        CaptError: If anything that was given cannot be used, or belongs to another training.
    """

    def say(sentence: str) -> None:
        if not run.quiet:
            console.print(Text(sentence), soft_wrap=True)  # a command stays on one line, to be copied

    finished = _finished(run)
    for sentence in (*_overview(run, finished), *run.notes, *_needs(run, finished)):
        say(sentence)
    if run.dry_run:
        return
    _record(run, finished)
    with at_work():
        for number, (step, plan) in enumerate(zip(run.steps, run.plans, strict=True), start=1):
            if step.stage not in finished:
                say(f"Stage {number} of {len(run.steps)}: {step.stage}.")
                _carry_out(run, step, plan, console, say)
                finished.append(step.stage)
                _record(run, finished)
    for sentence in _endings(run):
        say(sentence)


def _carry_out(run: Following, step: Step, plan: Plan, console: Console, say: Say) -> None:
    if isinstance(plan, VectorPlan):
        say(make_vectors(plan))
        return
    facts = {"name": run.recipe.name, "stage": step.stage, "commands": [each.line for each in run.steps]}
    with Watcher(plan.output, console, quiet=run.quiet) as watcher:
        run_training(replace(plan, resume=run.resume, recipe=facts), watcher, watcher.say)


def _finished(run: Following) -> list[str]:
    """Name the stages that need not run again; refuse a folder that holds another training."""
    if not run.resume:
        _check_new(run)
        return []
    path = run.output / RECORD
    try:
        record = json.loads(path.read_bytes())
        recipe, steps = record["recipe"], [(step["stage"], step["choices"]) for step in record["steps"] if step["finished"]]
    except FileNotFoundError:
        return []  # nothing was begun
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        message = f"{path} is damaged ({type(error).__name__}); choose another --output, or delete the folder to start again."
        raise CheckpointError(message) from error
    choices = {step.stage: step.choices for step in run.steps}
    if recipe != run.recipe.name:
        message = f"{run.output} holds a training by the recipe {recipe}; name this one to resume it, or another --output."
        raise InputError(message)
    for stage, made_with in steps:
        if choices.get(stage) != made_with:
            message = (
                f"{run.output} holds a training whose stage {stage} is finished and had other data or options"
                f" (capt-batch {' '.join(map(str, made_with))}); give the same ones to resume it, or another --output."
            )
            raise InputError(message)
    return [step.stage for step in run.steps if step.stage in dict(steps) and _result(step).is_file()]


def _result(step: Step) -> Path:
    return step.output if step.command == "vectors" else step.output / "best.safetensors"


def _check_new(run: Following) -> None:
    held = next((path for path in (run.output / RECORD, *(step.output for step in run.steps)) if path.exists()), None)
    if held is not None:
        message = f"{run.output} already holds a training ({held.name}); go on with it by --resume, or choose another --output."
        raise OutputError(message)


def _record(run: Following, finished: Sequence[str]) -> None:
    steps = [
        {"stage": step.stage, "command": step.line, "choices": step.choices, "finished": step.stage in finished}
        for step in run.steps
    ]
    write_whole(run.output / RECORD, json.dumps({"recipe": run.recipe.name, "steps": steps}, indent=2).encode())


def _overview(run: Following, finished: Sequence[str]) -> list[str]:
    lines = [f"Recipe {run.recipe.name}: {len(run.steps)} stages, the same as these commands:"]
    for step, plan in zip(run.steps, run.plans, strict=True):
        epochs = plan.options.epochs
        much = f"{epochs} epochs" if isinstance(plan, VectorPlan) else f"at most {epochs} epochs"
        first = f"{plan.text_options.epochs} times through the text, " if isinstance(plan, TrainingPlan) and plan.text else ""
        done = "; finished" if step.stage in finished else ""
        lines += [f"{step.stage} ({first}{much}{done})", f"  {step.line}"]
    return lines


def _needs(run: Following, finished: Sequence[str]) -> list[str]:
    """Check what the first training needs before anything is done; tell how much that is."""
    trainings = [(step, plan) for step, plan in zip(run.steps, run.plans, strict=True) if isinstance(plan, TrainingPlan)]
    first, plan = trainings[0]
    if first.stage in finished:
        return []
    needs = check_training(plan)
    kept = _cached(needs, trainings)
    images = f"{needs.learning:,} images to learn from, {needs.validating:,} to choose by ({needs.split})"
    return [f"{images}; encoded or prepared they take at most {kept / 1e9:.1f} GB in {plan.machine.feature_cache}."]


def _cached(needs: Needs, trainings: Sequence[tuple[Step, TrainingPlan]]) -> int:
    """Count the bytes that the cache will hold: pixels once, features anew for each encoder."""
    kept: dict[str, int] = {}
    encoder = 0

    def keep(what: str, size: int, views: int = 1) -> None:
        kept[what] = max(kept.get(what, 0), size * (needs.learning * views + needs.validating))

    for step, plan in trainings:
        if step.options.get("words-epochs"):
            keep("pixels", needs.pixel_bytes)
            encoder += 1
        if plan.options.fine_tune_blocks:
            keep("pixels", needs.pixel_bytes, plan.options.views)
            encoder += 1
        else:
            keep(f"features {encoder}", needs.feature_bytes, plan.options.views)
    return sum(kept.values())


def _endings(run: Following) -> list[str]:
    """Say which file is for what: training on the metric makes captions better and perplexity worse."""
    trained = [step for step in run.steps if step.command == "train"]
    by_cross_entropy = [step for step in trained if not step.self_critical]
    captions, likely = _result(trained[-1]), _result(by_cross_entropy[-1])
    if captions == likely:
        return [f"For captions and for perplexity: {captions}"]
    return [f"For captions: {captions}", f"For perplexity, and to train on: {likely}"]
