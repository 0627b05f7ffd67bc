"""`capt-batch train`, `vectors` and `info` as a user starts them."""

import json
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from capt.checkpoint import load_checkpoint
from tests.training_runs import Start, begin_process, given_fixture, start_fixture, train_arguments  # noqa: F401 - fixtures


def test_a_manifest_is_learned_from(given: Path, tmp_path: Path, start: Start) -> None:
    """One command gives a checkpoint that loads, a log, curves and TensorBoard files; stdout stays empty."""
    ended = start(*train_arguments(given, tmp_path / "run", "--epochs", 2))
    assert ended.code == 0, ended.err
    assert ended.out == ""
    assert "6 images to learn from, 2 to choose by (dev)" in ended.err
    assert "Best epoch" in ended.err
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"best.safetensors", "last.safetensors", "log.jsonl", "curves.png", "tensorboard"} <= names
    checkpoint = load_checkpoint(tmp_path / "run" / "best.safetensors")
    assert "raccoon" in checkpoint.vocabulary
    assert "eyes" not in checkpoint.vocabulary  # a word of the validation split only
    assert checkpoint.preprocessing.mean == (0.5, 0.5, 0.5)
    assert {"data", "date", "versions", "options", "validation"} <= set(checkpoint.card)
    assert checkpoint.card["data"] | {"train_images": 6, "validation_images": 2} == checkpoint.card["data"]


def test_a_folder_with_references_and_lists_is_learned_from(given: Path, photos: Path, tmp_path: Path, start: Start) -> None:
    """Images in a folder, captions in a token file, splits as lists: Flickr30k's form."""
    arguments = train_arguments(given, tmp_path / "run", "--epochs", 1, "--references", given / "captions.token")
    arguments[1] = str(photos)
    ended = start(*arguments, "--train-images", given / "train.txt", "--val-images", given / "val.txt", "--quiet")
    assert ended.code == 0, ended.err
    assert ended.err == ""
    assert load_checkpoint(tmp_path / "run" / "last.safetensors").card["data"]["references"] == "captions.token"


def _lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def test_a_run_that_was_killed_goes_on_to_the_same_result(given: Path, tmp_path: Path, start: Start) -> None:
    """After kill -9 between epochs, --resume gives exactly the weights of a run that was left alone."""
    assert start(*train_arguments(given, tmp_path / "whole", "--epochs", 5, "--patience", 0, "--quiet")).code == 0
    arguments = train_arguments(given, tmp_path / "killed", "--epochs", 5, "--patience", 0)
    with begin_process(arguments) as process:
        until = time.monotonic() + 120
        while _lines(tmp_path / "killed" / "log.jsonl") < 2 and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    (tmp_path / "killed" / ".state.safetensors.x1y2z3.tmp").write_bytes(b"a kill in the middle of a write leaves such a file")
    ended = start(*arguments, "--resume")
    assert ended.code == 0, ended.err
    assert _lines(tmp_path / "killed" / "log.jsonl") == 5
    for name in ("best.safetensors", "last.safetensors"):
        whole, killed = (load_file(tmp_path / run / name) for run in ("whole", "killed"))
        assert all(torch.equal(whole[key], killed[key]) for key in whole), name
    assert not [path for path in (tmp_path / "killed").iterdir() if path.name.endswith(".tmp")]


def test_an_interrupted_run_ends_with_130(given: Path, tmp_path: Path) -> None:
    """Ctrl-C gives exit code 130, no traceback, and says how to go on."""
    with begin_process(train_arguments(given, tmp_path / "run", "--epochs", 5000, "--patience", 0)) as process:
        until = time.monotonic() + 120
        while _lines(tmp_path / "run" / "log.jsonl") < 1 and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "--resume" in err


def test_a_run_is_not_overwritten(given: Path, tmp_path: Path, start: Start) -> None:
    """A folder with a run needs --resume or another name."""
    assert start(*train_arguments(given, tmp_path / "run", "--epochs", 1, "--quiet")).code == 0
    ended = start(*train_arguments(given, tmp_path / "run", "--epochs", 1))
    assert ended.code == 2
    assert "--resume" in ended.err
    ended = start(*train_arguments(given, tmp_path / "run", "--epochs", 1, "--resume", "--seed", 5))
    assert ended.code in {2, 3}
    assert "other data or options" in ended.err


def test_vectors_are_trained_on_captions_and_used(given: Path, tmp_path: Path, start: Start) -> None:
    """`vectors` writes a file that `train --word-vectors` reads, with its coverage; a wrong dimension is one sentence."""
    vectors = tmp_path / "vectors.bin"
    ended = start("vectors", given / "captions.token", "-o", vectors, "--dimension", 16, "--min-frequency", 1, "--epochs", 2)
    assert ended.code == 0, ended.err
    assert "words from 16 captions" in ended.err
    ended = start(*train_arguments(given, tmp_path / "run", "--epochs", 1, "--word-vectors", vectors))
    assert ended.code == 0, ended.err
    assert "(100.0%) found" in ended.err
    ended = start(*train_arguments(given, tmp_path / "other", "--epochs", 1, "--word-vectors", vectors, "--embed-dim", 20))
    assert ended.code == 2
    assert "--embed-dim 16" in ended.err


def test_vectors_are_the_same_each_time_and_leave_out_what_is_excluded(given: Path, tmp_path: Path, start: Start) -> None:
    """The same captions and seed give the same file; --images and --exclude choose the captions."""
    common = ("--dimension", 8, "--min-frequency", 1, "--epochs", 1)
    for name in ("a.bin", "b.bin"):
        assert start("vectors", given / "captions.token", "-o", tmp_path / name, *common).code == 0
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()
    ended = start("vectors", given / "captions.token", "-o", tmp_path / "c.bin", *common, "--exclude", given / "val.txt")
    assert "from 12 captions (2 images left out)" in ended.err
    ended = start("vectors", given / "captions.token", "-o", tmp_path / "d.bin", *common, "--images", given / "val.txt")
    assert "from 4 captions" in ended.err
    but = ("--exclude", given / "manifests", "--exclude-except", "train")
    ended = start("vectors", given / "captions.token", "-o", tmp_path / "e.bin", *common, *but)
    assert (tmp_path / "e.bin").read_bytes() == (tmp_path / "c.bin").read_bytes()
    ended = start("vectors", given / "captions.token", "-o", tmp_path / "f.bin", *common, "--exclude-except", "train")
    assert (ended.code, "--exclude" in ended.err) == (2, True)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--encoder", "resnet51"), "resnet50"),
        (("--layer", "layer9"), "--layer"),
        (("--select", "SPICE"), "--select"),
        (("--device", "warp"), "--device"),
        (("--precision", "int3"), "precision"),
        (("--learning-rate", "0"), "--learning-rate"),
        (("--train-split", "nowhere"), "splits there"),
        (("--val-split", "train"), "in both"),
        (("--weights", "missing.safetensors"), "missing.safetensors"),
        (("--word-vectors", "missing.bin"), "missing.bin"),
        (("--min-frequency", "99"), "--min-frequency"),
        (("--start-from", "missing.safetensors"), "missing.safetensors"),
        (("--references", "missing.token"), "missing.token"),
        (("--text", "missing.token"), "missing.token"),
        (("--text-exclude", "some.txt"), "--text"),
        (("--text-epochs", "0"), "--text-epochs"),
        (("--words-epochs", "-1"), "--words-epochs"),
        (("--words-blocks", "0"), "--words-blocks"),
        (("--words-epochs", "1"), "leave out --words-epochs"),
        (("--words-epochs", "1", "--self-critical", "--start-from", "x.safetensors"), "leave it out"),
        (("--words-folds", "1"), "--words-folds"),
        (("--words-softness", "1.5"), "--words-softness must be from 0 to 1"),
        (("--words-softness", "nan", "--words-epochs", "1"), "--words-softness must be from 0 to 1"),
        (("--words-softness", "0.5"), "--words-softness is about --words-epochs"),
        (("--words-softness", "0.5", "--words-epochs", "1"), "--words-softness learns from --text"),
        (("--detected-dim", "8"), "--words-epochs or --detected-words"),
        (("--detected-words", "missing.safetensors"), "Without --detected-dim"),
        (("--detected-words", "missing.safetensors", "--detected-dim", "8"), "There is no missing.safetensors"),
        (("--detected-words", "x", "--detected-dim", "8", "--words-epochs", "1"), "leave one of them out"),
        (("--self-critical",), "--start-from"),
        (("--start-share", "0.5"), "--start-from"),
        (("--views", "0"), "--views"),
        (("--image-size", "16"), "--image-size"),
        (("--image-size", "96", "--start-from", "missing.safetensors"), "leave out one of them"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_cannot_be_used_is_one_sentence_and_code_2(
    given: Path, tmp_path: Path, start: Start, more: tuple[str, ...], said: str
) -> None:
    """Nothing of a mistake on the command line ends in a traceback, and no work is begun."""
    ended = start(*train_arguments(given, tmp_path / "run", "--epochs", 1), *more)
    assert ended.code == 2
    assert said in ended.err
    assert ended.err.splitlines()[-1].startswith("capt-batch: ")
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_the_network_may_see_larger_images(given: Path, tmp_path: Path, start: Start) -> None:
    """--image-size is what the checkpoint tells everybody who prepares images for it, and so `run` captions with it."""
    ended = start(*train_arguments(given, tmp_path / "run", "--epochs", 1, "--image-size", 96))
    assert ended.code == 0, ended.err
    best = tmp_path / "run" / "best.safetensors"
    told = load_checkpoint(best).preprocessing
    assert (told.size, told.name) == (96, "inception-stretch-96")
    captioned = start("run", given / "manifests", "-o", tmp_path / "captions", "--checkpoint", best)
    assert captioned.code == 0, captioned.err


def test_a_checkpoint_is_gone_on_from(given: Path, tmp_path: Path, start: Start) -> None:
    """--start-from takes network, vocabulary and weights of a checkpoint, and the card says so; a dropout may be changed."""
    assert start(*train_arguments(given, tmp_path / "first", "--epochs", 2, "--quiet")).code == 0
    first = tmp_path / "first" / "last.safetensors"
    more = ("--start-from", first, "--fine-tune-blocks", 1, "--embedding-dropout", 0.25)
    ended = start(*train_arguments(given, tmp_path / "second", "--epochs", 1, *more))
    assert ended.code == 0, ended.err
    second = load_checkpoint(tmp_path / "second" / "last.safetensors")
    assert (second.captioner.config.dropout, second.captioner.config.embedding_dropout) == (0.5, 0.25)
    assert second.vocabulary == load_checkpoint(first).vocabulary
    assert second.card["started_from"]["sha256"] == load_checkpoint(first).sha256


def _text(given: Path, tmp_path: Path) -> Path:
    """Write captions of two images that nobody photographed, and of all others."""
    path = tmp_path / "text.token"
    more = "kite.jpg#0\ta kite over a beach\nboat.jpg#0\ta boat\nboat.jpg#1\tthe boat at sea\n"
    path.write_text((given / "captions.token").read_text() + more)
    return path


def test_text_is_read_first(given: Path, tmp_path: Path, start: Start) -> None:
    """The vocabulary is counted from text without the images to choose by; a checkpoint of the language stays, to begin with.

    The card tells how much was read and how well it is predicted without images.
    """
    text = _text(given, tmp_path)
    more = ("--text", text, "--text-exclude", given / "train.txt", "--text-epochs", 2, "--text-batch-size", 4)
    ended = start(*train_arguments(given, tmp_path / "run", "--epochs", 1, *more))
    assert ended.code == 0, ended.err
    assert "3 captions to read first (6 images left out, and 2 because they are those to choose by)" in " ".join(
        ended.err.split()
    )
    assert "read 2 times: perplexity" in ended.err
    checkpoint = load_checkpoint(tmp_path / "run" / "best.safetensors")
    assert "boat" in checkpoint.vocabulary
    assert "eyes" not in checkpoint.vocabulary  # of the validation split
    assert checkpoint.card["text"]["captions"] == 3
    assert checkpoint.card["text"]["epochs"] == 2
    assert checkpoint.card["text"]["perplexity"] > 1
    ended = start(
        *train_arguments(given, tmp_path / "other", "--epochs", 1, "--start-from", tmp_path / "run" / "text.safetensors")
    )
    assert ended.code == 0, ended.err
    assert load_checkpoint(tmp_path / "other" / "last.safetensors").vocabulary == checkpoint.vocabulary


def test_a_run_that_was_killed_while_it_read_goes_on_to_the_same_result(given: Path, tmp_path: Path, start: Start) -> None:
    """Killed in the text and resumed, a run ends with the weights of one that was left alone; without --resume it is refused."""
    more = ("--epochs", 2, "--text", _text(given, tmp_path), "--text-epochs", 60, "--text-batch-size", 4)
    assert start(*train_arguments(given, tmp_path / "whole", *more, "--quiet")).code == 0
    arguments = train_arguments(given, tmp_path / "killed", *more)
    state = tmp_path / "killed" / "text-state.safetensors"
    with begin_process(arguments) as process:
        until = time.monotonic() + 120
        while not state.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    assert state.exists()
    refused = start(*arguments)
    assert refused.code == 2
    assert "--resume" in refused.err
    assert start(*arguments, "--resume").code == 0
    whole, killed = (load_file(tmp_path / run / "last.safetensors") for run in ("whole", "killed"))
    assert all(torch.equal(whole[key], killed[key]) for key in whole)


def test_training_goes_on_with_the_metric(given: Path, tmp_path: Path, start: Start) -> None:
    """--self-critical starts from a checkpoint, keeps its own folder, and leaves the other as it was."""
    assert start(*train_arguments(given, tmp_path / "first", "--epochs", 1, "--quiet")).code == 0
    first = tmp_path / "first" / "best.safetensors"
    before = first.read_bytes()
    more = ("--start-from", first, "--self-critical", "--samples", 3, "--bleu-weight", 1, "--epochs", 2)
    ended = start(*train_arguments(given, tmp_path / "second", *more))
    assert ended.code == 0, ended.err
    assert "reward" in ended.err
    card = load_checkpoint(tmp_path / "second" / "best.safetensors").card
    assert card["options"] | {"self_critical": True, "samples": 3, "bleu_weight": 1.0, "learning_rate": 5e-5} == card["options"]
    assert card["started_from"]["sha256"] == load_checkpoint(first).sha256
    begun = card["started_from"]["card"]["network"]
    assert card["network"] == {name: value for name, value in begun.items() if name not in {"weights", "min_frequency"}}
    assert first.read_bytes() == before


def test_every_ingredient_of_the_recipe_can_be_taken_together(given: Path, tmp_path: Path, start: Start) -> None:
    """Smoothing, sampling, warm-up, views, dropouts and averaging give a checkpoint whose card names them; resuming agrees."""
    more = ["--label-smoothing", 0.1, "--scheduled-sampling", 0.25, "--sampling-ramp", 1, "--warm-up", 3, "--views", 3]
    more += ["--embedding-dropout", 0.2, "--weight-averaging", 0.9]
    ended = start(*train_arguments(given, tmp_path / "whole", "--epochs", 3, *more))
    assert ended.code == 0, ended.err
    assert start(*train_arguments(given, tmp_path / "parts", "--epochs", 2, *more)).code == 0
    assert start(*train_arguments(given, tmp_path / "parts", "--epochs", 3, *more, "--resume")).code == 0
    whole, parts = (load_file(tmp_path / run / "last.safetensors") for run in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    card = load_checkpoint(tmp_path / "whole" / "last.safetensors").card
    assert card["options"] | {"label_smoothing": 0.1, "scheduled_sampling": 0.25, "warm_up": 3, "views": 3} == card["options"]
    assert card["network"]["embedding_dropout"] == 0.2


def test_checkpoints_are_averaged(given: Path, tmp_path: Path, start: Start) -> None:
    """Every weight is the mean of theirs, as near as float16 allows; the card names them; other networks are refused."""
    paths = []
    for seed in (1, 2):
        assert start(*train_arguments(given, tmp_path / f"{seed}", "--epochs", 1, "--seed", seed, "--quiet")).code == 0
        paths.append(tmp_path / f"{seed}" / "last.safetensors")
    ended = start("average", *paths, "-o", tmp_path / "mean.safetensors")
    assert ended.code == 0, ended.err
    first, second, mean = (load_checkpoint(path) for path in (*paths, tmp_path / "mean.safetensors"))
    states = [checkpoint.captioner.state_dict() for checkpoint in (first, second, mean)]
    for name, value in states[2].items():
        torch.testing.assert_close(value, (states[0][name] + states[1][name]) / 2, rtol=1e-3, atol=1e-6, check_dtype=False)
    assert [each["sha256"] for each in mean.card["averaged"]] == [first.sha256, second.sha256]
    assert start(*train_arguments(given, tmp_path / "wide", "--epochs", 1, "--attention-dim", 9, "--quiet")).code == 0
    ended = start("average", paths[0], tmp_path / "wide" / "last.safetensors", "-o", tmp_path / "no.safetensors")
    assert ended.code == 2
    assert "has not the network" in ended.err
    assert start("average", paths[0], "-o", tmp_path / "no.safetensors").code == 2
    assert not (tmp_path / "no.safetensors").exists()


def test_info_prints_the_card_as_json(tiny_checkpoint: Path, start: Start) -> None:
    """`info FILE` answers on stdout with what the file says of itself."""
    ended = start("info", tiny_checkpoint)
    assert ended.code == 0, ended.err
    told = json.loads(ended.out)
    assert told["card"] == {"name": "tiny"}
    assert told["checkpoint"]["file"] == str(tiny_checkpoint)
    assert told["config"]["encoder"]["name"]
    assert told["preprocessing"]["size"] == 224


def test_text_is_for_a_decoder_that_is_new(given: Path, tiny_checkpoint: Path, tmp_path: Path, start: Start) -> None:
    """Reading first and going on from a checkpoint exclude each other."""
    more = ("--text", given / "captions.token", "--start-from", tiny_checkpoint)
    ended = start(*train_arguments(given, tmp_path / "run", *more))
    assert ended.code == 2
    assert "leave out --text or --start-from" in ended.err


def test_info_of_a_foreign_file_is_one_sentence(tmp_path: Path, start: Start) -> None:
    """A file that is no checkpoint gives code 2."""
    (tmp_path / "letter.txt").write_text("Dear reader")
    ended = start("info", tmp_path / "letter.txt")
    assert ended.code == 2
    assert "not a checkpoint" in ended.err


def test_vectors_need_gensim(given: Path, tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, the error is the command that installs it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    ended = start("vectors", given / "captions.token", "-o", tmp_path / "v.bin")
    assert ended.code == 2
    assert "capt[train]" in ended.err


@pytest.mark.parametrize(
    ("more", "said"),
    [(("--min-frequency", 99), "--min-frequency"), (("--dimension", 0), "--dimension"), (("--window", 0), "--window")],
)
def test_vectors_that_cannot_be_trained_are_one_sentence(
    given: Path, tmp_path: Path, start: Start, more: tuple[object, ...], said: str
) -> None:
    """Captions without frequent words and impossible numbers name the option."""
    ended = start("vectors", given / "captions.token", "-o", tmp_path / "v.bin", *more)
    assert ended.code == 2
    assert said in ended.err
    assert not (tmp_path / "v.bin").exists()


def test_an_output_that_cannot_be_written_is_refused(given: Path, tmp_path: Path, start: Start) -> None:
    """Training and vectors look at their output before they work, or leave nothing half-written."""
    (tmp_path / "file").touch()
    ended = start("vectors", given / "captions.token", "-o", tmp_path / "file" / "v.bin", "--min-frequency", 1, "--epochs", 1)
    assert ended.code in {2, 3}
    assert "cannot be written" in ended.err
    ended = start(*train_arguments(given, tmp_path / "file" / "run"))
    assert ended.code == 2
    assert "--output" in ended.err


def test_few_images_can_be_tried_first(given: Path, tmp_path: Path, start: Start) -> None:
    """--limit takes the first images of each split."""
    ended = start(*train_arguments(given, tmp_path / "run", "--epochs", 1, "--limit", 1))
    assert ended.code == 0, ended.err
    assert "1 images to learn from, 1 to choose by" in ended.err


def test_more_blocks_than_there_are_is_one_sentence(given: Path, tmp_path: Path, start: Start) -> None:
    """Fine-tuning asks for at most as many blocks as the encoder has."""
    ended = start(*train_arguments(given, tmp_path / "run", "--epochs", 1, "--fine-tune-blocks", 500))
    assert ended.code in {2, 3}
    assert "blocks" in ended.err


def test_version_is_printed(start: Start) -> None:
    """--version answers on stdout and ends."""
    ended = start("--version")
    assert ended.code == 0
    assert ended.out.startswith("capt ")
