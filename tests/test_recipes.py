"""`capt-batch train --recipe` and `capt-batch recipes`: a whole training in one command."""

import json
import re
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import load_file

from capt.checkpoint import load_checkpoint
from jobs.cli import app
from jobs.training.cli import plan_of
from jobs.training.plan import TrainingPlan
from jobs.training.recipes import DECIDED, SCOPES, Request, lay_out, read_recipe, recipe_names, scope_of
from jobs.training.vectors import VectorPlan
from tests import training_runs
from tests.running import call
from tests.training_runs import VALIDATION, begin_process, write_given

CAPTIONS = {**training_runs.CAPTIONS, "astronaut.jpg": ("a woman in an orange suit", "a smiling astronaut in a suit")}
OWN = {"source", "output", "recipe", "resume", "dry-run", "quiet"}  # of the whole training
SMALL = (
    *("--embed-dim", 16, "--decoder-dim", 24, "--attention-dim", 8, "--feature-dim", 12, "--min-frequency", 1),
    *("--batch-size", 3, "--epochs", 1, "--words-epochs", 0),  # six images are too few to learn words from
)

Start = Callable[..., tuple[int, str, str]]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Start:
    """Give a function that runs `capt-batch` in this process; it gives the exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        return call(arguments, monkeypatch, capsys)

    return run


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """Give a folder with photographs, Karpathy's JSON, the same as a token file with lists, and encoder weights."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "photos").symlink_to(photos)
    images = [
        {
            "filename": name,
            "split": "val" if name in VALIDATION else "train",
            "sentences": [{"raw": text} for text in texts],
        }
        for name, texts in CAPTIONS.items()
    ]
    (folder / "dataset_flickr30k.json").write_text(json.dumps({"images": images, "dataset": "flickr30k"}))
    write_given(folder, CAPTIONS)
    return folder


def _arguments(given: Path, output: Path, *more: object) -> list[str]:
    arguments = [
        "train",
        given / "photos",
        "--recipe",
        "default",
        "--output",
        output,
        "--references",
        given / "dataset_flickr30k.json",
    ]
    arguments += ["--encoder", "efficientnet_lite0", "--image-size", 96]
    arguments += ["--weights", given / "lite0.safetensors", "--feature-cache", given / "cache"]
    return [str(argument) for argument in (*arguments, "--device", "cpu", "--precision", "float32", *SMALL, *more)]


def _finished(output: Path) -> list[str]:
    path = output / "recipe.json"
    steps = json.loads(path.read_text())["steps"] if path.exists() else []
    return [step["stage"] for step in steps if step["finished"]]


def _same(first: Path, second: Path) -> bool:
    weights, others = load_file(first), load_file(second)
    return all(torch.equal(weights[name], others[name]) for name in weights)


def _interrupted(arguments: list[str], when: Callable[[], bool], by: signal.Signals) -> str:
    """Start a training, end it by a signal as soon as something is so, and give what it said."""
    with begin_process(arguments) as process:
        until = time.monotonic() + 120
        while not when() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        process.send_signal(by)
        _, err = process.communicate()
    assert process.returncode == (130 if by is signal.SIGINT else -by), err
    return err


def test_one_command_trains_from_images_to_the_metric(given: Path, tmp_path: Path, start: Start) -> None:
    """A folder and Karpathy's JSON suffice: vectors, cross-entropy and the metric; it ends with which file is for what.

    The last card has the command as it was given, the recipe, and the cards before. Commands run by hand give the same weights.
    """
    arguments = _arguments(given, tmp_path / "run")
    code, out, err = start(*arguments)
    assert code == 0, err
    assert out == ""
    last, likely = (tmp_path / "run" / stage / "best.safetensors" for stage in ("self-critical", "cross-entropy"))
    assert err.splitlines()[-2:] == [f"For captions: {last}", f"For perplexity, and to train on: {likely}"]
    assert "No --text is given" in err
    assert _finished(tmp_path / "run") == ["vectors", "cross-entropy", "self-critical"]
    card = load_checkpoint(last).card
    assert card["command"] == shlex.join(["capt-batch", *arguments])
    assert (card["recipe"]["name"], card["recipe"]["stage"]) == ("default", "self-critical")
    assert card["started_from"]["sha256"] == load_checkpoint(likely).sha256
    assert card["started_from"]["card"]["recipe"]["stage"] == "cross-entropy"
    assert card["started_from"]["card"]["word_vectors"]["file"] == "vectors.bin"
    for command in card["recipe"]["commands"]:
        assert f"  {command}" in err.splitlines()  # on one line, to be copied
        by_hand = shlex.split(command.replace(str(tmp_path / "run"), str(tmp_path / "hand")))
        assert start(*by_hand[1:])[0] == 0
    assert (tmp_path / "run" / "vectors.bin").read_bytes() == (tmp_path / "hand" / "vectors.bin").read_bytes()
    for path in (last, likely):
        assert _same(path, tmp_path / "hand" / path.relative_to(tmp_path / "run"))


def test_a_training_killed_between_and_inside_stages_goes_on(given: Path, tmp_path: Path, start: Start) -> None:
    """Killed after the vectors and again inside self-critical training, it ends with the weights of one that was left alone.

    What is finished is not made again.
    """
    more = ("--epochs", 5, "--patience", 0)
    assert start(*_arguments(given, tmp_path / "whole", *more, "--quiet")) == (0, "", "")
    arguments, output = _arguments(given, tmp_path / "killed", *more), tmp_path / "killed"
    _interrupted(arguments, lambda: "vectors" in _finished(output), signal.SIGKILL)
    vectors = (output / "vectors.bin").stat().st_mtime_ns
    state = output / "self-critical" / "state.safetensors"
    said = _interrupted([*arguments, "--resume"], state.exists, signal.SIGINT)
    assert "Traceback" not in said
    assert f"{shlex.join(['capt-batch', *arguments])} --resume" in said
    best = output / "cross-entropy" / "best.safetensors"
    before = best.stat().st_mtime_ns
    code, _, err = start(*arguments, "--resume")
    assert code == 0, err
    assert "Stage 2" not in err
    assert "Stage 3 of 3: self-critical." in err
    assert ((output / "vectors.bin").stat().st_mtime_ns, best.stat().st_mtime_ns) == (vectors, before)
    for stage in ("cross-entropy", "self-critical"):
        assert _same(tmp_path / "whole" / stage / "last.safetensors", output / stage / "last.safetensors")
    assert start(*arguments, "--resume")[0] == 0  # nothing is left to do: it says so and ends


def test_a_training_is_neither_overwritten_nor_gone_on_with_otherwise(given: Path, tmp_path: Path, start: Start) -> None:
    """Without --resume a folder that holds a training is refused, with it other choices in a stage that is finished are."""
    arguments = _arguments(given, tmp_path / "run", "--limit", 2, "--quiet")
    assert start(*arguments)[0] == 0
    code, _, err = start(*arguments)
    assert code == 2
    assert "--resume" in err
    code, _, err = start(*arguments, "--resume", "--seed", 5)
    assert code == 2
    assert "stage vectors is finished and had other data or options" in err
    code, _, err = start(*arguments, "--resume", "--recipe", "flickr30k-resnet50")
    assert code == 2
    assert "by the recipe default" in err
    (tmp_path / "run" / "recipe.json").write_text("{")
    assert "damaged" in start(*arguments, "--resume")[2]


def test_text_is_read_first_when_it_is_given(given: Path, tmp_path: Path, start: Start) -> None:
    """--text brings the recipe's choices for text; lists of images and one's own word vectors hold where they belong."""
    text = tmp_path / "text.token"
    text.write_text("kite.jpg#0\ta kite over a beach\nboat.jpg#0\ta boat\nboat.jpg#1\tthe boat at sea\n")
    vectors = tmp_path / "own.bin"
    assert start("vectors", given / "captions.token", "--dimension", 16, "--epochs", 1, "-o", vectors)[0] == 0
    more = ["--references", given / "captions.token", "--train-images", given / "train.txt", "--val-images", given / "val.txt"]
    more += ["--text", text, "--word-vectors", vectors, "--text-batch-size", 4]
    code, _, err = start(*_arguments(given, tmp_path / "run", *more))
    assert code == 0, err
    assert "3 captions to read first" not in err
    assert "none are trained" in err
    assert not (tmp_path / "run" / "vectors.bin").exists()
    card = load_checkpoint(tmp_path / "run" / "cross-entropy" / "best.safetensors").card
    assert card["text"]["epochs"] == read_recipe("default").trainings[0].with_text["text-epochs"]
    assert card["word_vectors"]["file"] == "own.bin"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--recipe", "other"), "choose one of default, detected-words, flickr30k-resnet50"),
        (("--recipe", ""), "choose one of default, detected-words, flickr30k-resnet50"),
        (("--recipe",), "choose one of default, detected-words, flickr30k-resnet50"),
        (("--recipe", "--quiet"), "choose one of default, detected-words, flickr30k-resnet50"),
        (("--learning-rate", "0.1"), "--learning-rate is decided by the recipe default"),
        (("--self-critical",), "--self-critical is decided by the recipe default"),
        (("--start-from", "any.safetensors"), "--start-from is decided by the recipe default"),
        (("--text-epochs", "2"), "--text-epochs is about --text"),
        (("--samples", "1"), "--samples"),
        (("--weights", "missing.safetensors"), "missing.safetensors"),
        (("--text", "missing.token"), "missing.token"),
        (("--references", "captions.token"), "--train-images and --val-images"),
        (("--device", "warp"), "--device"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_used_is_refused_before_work(
    given: Path, tmp_path: Path, start: Start, more: tuple[str, ...], said: str
) -> None:
    """One sentence and code 2, also for a mistake that only a later stage would meet; nothing is written."""
    more = tuple(str(given / word) if word == "captions.token" else word for word in more)
    code, _, err = start(*_arguments(given, tmp_path / "run", *more))
    assert code == 2
    assert said in err
    assert err.splitlines()[-1].startswith("capt-batch: ")
    assert not (tmp_path / "run").exists()


def test_a_dry_run_checks_and_shows_the_commands(given: Path, tmp_path: Path, start: Start) -> None:
    """With --dry-run the commands stand there with the paths given, and how much the images take; nothing is written.

    A training without a recipe can be checked as well.
    """
    code, _, err = start(*_arguments(given, tmp_path / "run", "--dry-run"))
    assert code == 0, err
    assert f"--start-from {tmp_path / 'run' / 'cross-entropy' / 'best.safetensors'}" in err
    assert "6 images to learn from, 2 to choose by (val); encoded or prepared they take at most 0.0 GB" in err
    assert "at most 1 epochs" in err
    plain = [word for word in _arguments(given, tmp_path / "run", "--dry-run") if word not in {"--recipe", "default"}]
    code, _, err = start(*plain)
    assert code == 0, err
    assert "6 images to learn from, 2 to choose by (val)." in err
    assert not (tmp_path / "run").exists()


def test_missing_weights_are_told_before_word_vectors_are_trained(
    given: Path, tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline and without ResNet-50's weights, what to put where is said at once."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody answers there
    arguments = ["train", given / "photos", "--recipe", "flickr30k-resnet50", "-o", tmp_path / "run", "--device", "cpu"]
    code, _, err = start(*arguments, "--references", given / "dataset_flickr30k.json")
    assert code == 2
    assert "resnet50-11ad3fa6.pth at" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("text", [{}, {"text": Path("text.token")}], ids=["", "with text"])
def test_a_recipe_is_made_of_commands_that_exist(name: str, text: dict[str, Any]) -> None:
    """Every command of a recipe is understood, says what the recipe says, and begins where the one before ended."""
    recipe = read_recipe(name)
    request = Request(source=Path("images"), output=Path("out"), given={"device": "cpu", "seed": 7, **text})
    plans = [plan_of(step.arguments) for step in lay_out(recipe, request)]
    assert len(plans) == len(recipe.stages)
    trainings = [plan for plan in plans if isinstance(plan, TrainingPlan)]
    assert [plan.network.start_from for plan in trainings] == [
        None,
        *(plan.output / "best.safetensors" for plan in trainings[:-1]),
    ]
    assert [plan.options.self_critical for plan in trainings] == [stage.self_critical for stage in recipe.trainings]
    found = trainings[0].output / "detected-words.safetensors" if trainings[0].network.detected_dim else None
    assert [plan.network.detected_words for plan in trainings] == [None, *[found] * (len(trainings) - 1)]
    assert {plan.options.seed for plan in plans} == {7}
    for plan, stage in zip(plans, recipe.stages, strict=True):
        assert plan.output == Path("out") / ("vectors.bin" if stage.name == "vectors" else stage.name)
        for option, value in stage.options.items():
            if hasattr(plan.options, option.replace("-", "_")):
                assert getattr(plan.options, option.replace("-", "_")) == value
    vectors = [plan for plan in plans if isinstance(plan, VectorPlan)]
    assert [plan.options.dimension for plan in vectors] == [trainings[0].network.embed_dim] * len(vectors)
    assert trainings[0].network.word_vectors == (vectors[0].output if vectors else None)
    assert (trainings[0].text is not None) == bool(text)
    for plan in vectors:  # those of the text leave out the images to choose by, and whatever else is not to be learned from
        read = (text["text"], Path("images"), "train", None) if text else (Path("images"), None, None, "train")
        assert (plan.references, plan.exclude, plan.exclude_except, plan.split) == read


def test_each_option_of_train_has_its_place_beside_a_recipe() -> None:
    """No option is silently ignored: it holds in stages that are named, or is refused, or is of the training as a whole."""
    command: Any = typer.main.get_command(app)
    options = {parameter.name.replace("_", "-") for parameter in command.commands["train"].params} - {"help"}
    assert {option for option in options if scope_of(option) is None} == DECIDED | OWN
    assert not set(SCOPES) & (DECIDED | OWN)
    assert set(SCOPES) <= options


def test_recipes_are_told(start: Start) -> None:
    """`recipes` prints each recipe's commands on stdout, `recipes NAME` those of one, and the help of `train` names them."""
    code, out, _ = start("recipes")
    assert code == 0
    assert re.findall(r"^([\w-]+): ", out, re.MULTILINE) == recipe_names()
    shown = [shlex.split(line)[1:] for line in out.splitlines() if line.startswith("  capt-batch")]
    for arguments in shown:
        if "--recipe" not in arguments:
            plan_of(arguments)
    code, out, _ = start("recipes", "flickr30k-resnet50")
    assert code == 0
    assert out.startswith("flickr30k-resnet50: ")
    assert "default" not in out
    assert start("recipes", "other")[0] == 2
    command: Any = typer.main.get_command(app)
    (option,) = [each for each in command.commands["train"].params if each.name == "recipe"]
    assert all(name in option.help for name in recipe_names())
