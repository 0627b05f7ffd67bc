"""`capt-batch train`, `vectors` and `info` as a user starts them."""

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from capt.checkpoint import load_checkpoint
from capt.encoder import EncoderConfig, build_encoder
from jobs.training.detection import read_detection, write_detection
from tests.running import call

CAPTIONS = {
    "astronaut.jpg": ("a woman in an orange suit", "a smiling astronaut"),
    "cat.jpg": ("a cat with green eyes", "the face of a cat"),
    "coffee.jpg": ("a cup of coffee", "coffee in a red cup"),
    "officer.jpg": ("a woman in uniform", "an old woman with a hat"),
    "photographer.jpg": ("a man with a camera", "a man in a black coat"),
    "raccoon.jpg": ("a raccoon on a plant", "the face of a raccoon"),
    "rocket.jpg": ("a rocket at night", "a rocket between towers"),
    "stairs.jpg": ("people on stairs", "stairs of a tower"),
}
VALIDATION = ("cat.jpg", "stairs.jpg")

Start = Callable[..., "Ended"]


class Ended:
    """How a command ended: exit code and what it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        """Keep them."""
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Start:
    """Give a function that runs `capt-batch` in this process."""

    def run(*arguments: object) -> Ended:
        return Ended(*call(arguments, monkeypatch, capsys))

    return run


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """Give a folder with a manifest, the same as folder and token file, encoder weights and a feature cache."""
    folder = tmp_path_factory.mktemp("given")
    rows = [
        {
            "image": {"bytes": (photos / name).read_bytes(), "path": name},
            "image_id": name,
            "caption": list(texts),
            "split": "dev" if name in VALIDATION else "train",
        }
        for name, texts in CAPTIONS.items()
    ]
    (folder / "manifests").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "manifests" / "all.parquet")
    lines = [f"{name}#{k}\t{text}" for name, texts in CAPTIONS.items() for k, text in enumerate(texts)]
    (folder / "captions.token").write_text("\n".join(lines) + "\n")
    (folder / "train.txt").write_text("".join(f"{name}\n" for name in CAPTIONS if name not in VALIDATION))
    (folder / "val.txt").write_text("".join(f"{name}\n" for name in VALIDATION))
    torch.manual_seed(0)
    save_file(build_encoder(EncoderConfig(name="efficientnet_lite0")).network.state_dict(), folder / "lite0.safetensors")
    return folder


def _arguments(given: Path, output: Path, *more: object) -> list[str]:
    arguments = ["train", given / "manifests", "--output", output, "--encoder", "efficientnet_lite0"]
    arguments += ["--weights", given / "lite0.safetensors", "--feature-cache", given / "cache", "--min-frequency", "1"]
    arguments += ["--embed-dim", "16", "--decoder-dim", "24", "--attention-dim", "8", "--batch-size", "3", "--device", "cpu"]
    return [str(argument) for argument in (*arguments, "--precision", "float32", *more)]


def test_a_manifest_is_learned_from(given: Path, tmp_path: Path, start: Start) -> None:
    """One command gives a checkpoint that loads, a log, curves and TensorBoard files; stdout stays empty."""
    ended = start(*_arguments(given, tmp_path / "run", "--epochs", 2))
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
    arguments = _arguments(given, tmp_path / "run", "--epochs", 1, "--references", given / "captions.token")
    arguments[1] = str(photos)
    ended = start(*arguments, "--train-images", given / "train.txt", "--val-images", given / "val.txt", "--quiet")
    assert ended.code == 0, ended.err
    assert ended.err == ""
    assert load_checkpoint(tmp_path / "run" / "last.safetensors").card["data"]["references"] == "captions.token"


def _process(arguments: list[str]) -> "subprocess.Popen[str]":
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a job in the background ignores Ctrl-C
    program = f"{listen}; from jobs.cli import main; main()"
    return subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE, text=True)


def _lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def test_a_run_that_was_killed_goes_on_to_the_same_result(given: Path, tmp_path: Path, start: Start) -> None:
    """After kill -9 between epochs, --resume gives exactly the weights of a run that was left alone."""
    assert start(*_arguments(given, tmp_path / "whole", "--epochs", 5, "--patience", 0, "--quiet")).code == 0
    arguments = _arguments(given, tmp_path / "killed", "--epochs", 5, "--patience", 0)
    with _process(arguments) as process:
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
    with _process(_arguments(given, tmp_path / "run", "--epochs", 5000, "--patience", 0)) as process:
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
    assert start(*_arguments(given, tmp_path / "run", "--epochs", 1, "--quiet")).code == 0
    ended = start(*_arguments(given, tmp_path / "run", "--epochs", 1))
    assert ended.code == 2
    assert "--resume" in ended.err
    ended = start(*_arguments(given, tmp_path / "run", "--epochs", 1, "--resume", "--seed", 5))
    assert ended.code in {2, 3}
    assert "other data or options" in ended.err


def test_vectors_are_trained_on_captions_and_used(given: Path, tmp_path: Path, start: Start) -> None:
    """`vectors` writes a file that `train --word-vectors` reads, with its coverage; a wrong dimension is one sentence."""
    vectors = tmp_path / "vectors.bin"
    ended = start("vectors", given / "captions.token", "-o", vectors, "--dimension", 16, "--min-frequency", 1, "--epochs", 2)
    assert ended.code == 0, ended.err
    assert "words from 16 captions" in ended.err
    ended = start(*_arguments(given, tmp_path / "run", "--epochs", 1, "--word-vectors", vectors))
    assert ended.code == 0, ended.err
    assert "(100.0%) found" in ended.err
    ended = start(*_arguments(given, tmp_path / "other", "--epochs", 1, "--word-vectors", vectors, "--embed-dim", 20))
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
    ended = start(*_arguments(given, tmp_path / "run", "--epochs", 1), *more)
    assert ended.code == 2
    assert said in ended.err
    assert ended.err.splitlines()[-1].startswith("capt-batch: ")
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_the_network_may_see_larger_images(given: Path, tmp_path: Path, start: Start) -> None:
    """--image-size is what the checkpoint tells everybody who prepares images for it, and so `run` captions with it."""
    ended = start(*_arguments(given, tmp_path / "run", "--epochs", 1, "--image-size", 96))
    assert ended.code == 0, ended.err
    best = tmp_path / "run" / "best.safetensors"
    told = load_checkpoint(best).preprocessing
    assert (told.size, told.name) == (96, "inception-stretch-96")
    captioned = start("run", given / "manifests", "-o", tmp_path / "captions", "--checkpoint", best)
    assert captioned.code == 0, captioned.err


def test_a_checkpoint_is_gone_on_from(given: Path, tmp_path: Path, start: Start) -> None:
    """--start-from takes network, vocabulary and weights of a checkpoint, and the card says so; a dropout may be changed."""
    assert start(*_arguments(given, tmp_path / "first", "--epochs", 2, "--quiet")).code == 0
    first = tmp_path / "first" / "last.safetensors"
    more = ("--start-from", first, "--fine-tune-blocks", 1, "--embedding-dropout", 0.25)
    ended = start(*_arguments(given, tmp_path / "second", "--epochs", 1, *more))
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
    ended = start(*_arguments(given, tmp_path / "run", "--epochs", 1, *more))
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
    ended = start(*_arguments(given, tmp_path / "other", "--epochs", 1, "--start-from", tmp_path / "run" / "text.safetensors"))
    assert ended.code == 0, ended.err
    assert load_checkpoint(tmp_path / "other" / "last.safetensors").vocabulary == checkpoint.vocabulary


def test_a_run_that_was_killed_while_it_read_goes_on_to_the_same_result(given: Path, tmp_path: Path, start: Start) -> None:
    """Killed in the text and resumed, a run ends with the weights of one that was left alone; without --resume it is refused."""
    more = ("--epochs", 2, "--text", _text(given, tmp_path), "--text-epochs", 60, "--text-batch-size", 4)
    assert start(*_arguments(given, tmp_path / "whole", *more, "--quiet")).code == 0
    arguments = _arguments(given, tmp_path / "killed", *more)
    state = tmp_path / "killed" / "text-state.safetensors"
    with _process(arguments) as process:
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


def _seen(given: Path, folder: Path, *, also: str = "") -> Path:
    """Write a manifest with enough images for words to be learned: the photographs again and again, "dog" in 16 of 20.

    One more word is in as many of them, where it is asked for.
    """
    photos = pq.read_table(given / "manifests" / "all.parquet").to_pylist()
    words = [("dog", also) if number % 5 else ("cat", "") for number in range(22)]
    rows = [
        {**photos[number % len(photos)], "image_id": f"{number}.jpg", "split": "dev" if number >= 20 else "train"}
        | {"caption": [f"a {animal} on grass", f"the {animal} {more}"]}
        for number, (animal, more) in enumerate(words)
    ]
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "seen.parquet")
    return folder


def test_words_are_seen_first(given: Path, tmp_path: Path, start: Start) -> None:
    """Words, then text, then images; the card tells of it, the encoder is that of encoder.safetensors, which others can take.

    Killed before the last stage and resumed, no word is learned again.
    """
    seen = _seen(given, tmp_path / "seen")
    words = ("--words-epochs", 1, "--words-batch-size", 10, "--words-softness", 0.5)
    more = (*words, "--text", given / "captions.token", "--text-epochs", 1)

    def arguments(name: str, *others: object) -> list[str]:
        command, _, *options = _arguments(given, tmp_path / name, "--epochs", 1, *others)
        return [command, str(seen), *options]

    ended = start(*arguments("run", *more))
    assert ended.code == 0, ended.err
    said = " ".join(ended.err.split())
    assert "nats given the other captions of its image" in said
    assert "Words epoch 1 of 1: loss" in said
    assert "The encoder tells 1 words with a mean average precision of" in said
    assert "read 1 times" in said
    checkpoint = load_checkpoint(tmp_path / "run" / "best.safetensors")
    card = checkpoint.card["words"]
    assert card | {"words": 1, "epochs": 1, "blocks": 6, "batch_size": 10, "learning_rate": 3e-4, "softness": 0.5} == card
    assert [point["epoch"] for point in card["curve"]] == [1]
    assert card["soft_words"]["images"] > 0
    assert 0 < card["soft_words"]["loss"] < math.inf
    learned, begun = load_file(tmp_path / "run" / "encoder.safetensors"), load_file(given / "lite0.safetensors")
    assert not torch.equal(learned["conv_head.weight"], begun["conv_head.weight"])
    own = checkpoint.captioner.encoder.network.state_dict()
    torch.testing.assert_close(own["conv_head.weight"], learned["conv_head.weight"], rtol=1e-3, atol=1e-6)
    refused = start(*arguments("run", *more))
    assert (refused.code, "--resume" in refused.err) == (2, True)
    (tmp_path / "run" / "state.safetensors").unlink()
    again = start(*arguments("run", *more, "--resume"))
    assert again.code == 0, again.err
    assert "Words epoch" not in again.err
    assert load_file(tmp_path / "run" / "best.safetensors")["encoder.network.conv_head.weight"].equal(
        own["conv_head.weight"].half()
    )
    others = arguments("other", "--weights", tmp_path / "run" / "encoder.safetensors")
    ended = start(*others)
    assert ended.code == 0, ended.err
    taken = load_checkpoint(tmp_path / "other" / "best.safetensors").captioner.encoder.network.state_dict()
    assert all(torch.equal(value, taken[name]) for name, value in own.items())


@pytest.mark.parametrize(("layer", "shape"), [("layer3", (16, 112)), ("layer3+layer4", (4, 1392))], ids=["layer3", "both"])
def test_the_decoder_may_attend_over_finer_maps(
    given: Path, tmp_path: Path, start: Start, layer: str, shape: tuple[int, int]
) -> None:
    """--layer is followed through words first, fine-tuning and the checkpoint, with which `run` captions."""
    seen = _seen(given, tmp_path / "seen")
    more = ["--image-size", 64, "--layer", layer, "--words-epochs", 1, "--words-batch-size", 10, "--fine-tune-blocks", 2]
    ended = start("train", seen, *_arguments(given, tmp_path / "run", "--epochs", 1, *more)[2:])
    assert ended.code == 0, ended.err
    best = tmp_path / "run" / "best.safetensors"
    captioner = load_checkpoint(best).captioner
    with torch.inference_mode():
        assert captioner.encode(torch.zeros(1, 64, 64, 3, dtype=torch.uint8)).shape[1:] == shape
    captioned = start("run", given / "manifests", "-o", tmp_path / "captions", "--checkpoint", best)
    assert captioned.code == 0, captioned.err


def test_text_of_single_captions_softens_nothing(given: Path, tmp_path: Path, start: Start) -> None:
    """Where no image has two captions, --words-softness is refused, also by a dry run, before an image is opened."""
    photos = pq.read_table(given / "manifests" / "all.parquet").to_pylist()
    rows = [{**photo, "image": {"bytes": b"no image", "path": ""}, "caption": photo["caption"][:1]} for photo in photos]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "one.parquet")
    (tmp_path / "one.token").write_text("1.jpg#0\ta man rides a horse\n2.jpg#0\ta wave\n")
    command, _, *options = _arguments(given, tmp_path / "run", "--text", tmp_path / "one.token")
    for more in ((), ("--dry-run",)):
        ended = start(command, tmp_path / "one.parquet", *options, "--words-epochs", 1, "--words-softness", 0.5, *more)
        assert ended.code == 2
        assert "no image of --text or of the training images has two" in " ".join(ended.err.split())
    assert not list((tmp_path / "run").glob("*"))


def test_the_decoder_reads_which_words_are_detected(given: Path, tmp_path: Path, start: Start) -> None:
    """Words, text read as if there were images, images, then the metric; killed before images and resumed, nothing differs.

    The checkpoint holds its detector; what was found is taken by other runs on the same images, and refused on others.
    """
    seen = _seen(given, tmp_path / "seen")

    def arguments(name: str, *others: object) -> list[str]:
        command, _, *options = _arguments(given, tmp_path / name, "--epochs", 1, *others)
        return [command, str(seen), *options]

    text = ("--text", given / "captions.token", "--text-epochs", 1)
    more = ("--detected-dim", 6, "--detected-dropout", 0.2, *text)
    ended = start(*arguments("run", "--words-epochs", 1, "--words-batch-size", 10, *more))
    assert ended.code == 0, ended.err
    found, best = tmp_path / "run" / "detected-words.safetensors", tmp_path / "run" / "best.safetensors"
    checkpoint = load_checkpoint(best)
    assert (checkpoint.captioner.config.detected_words, checkpoint.captioner.config.detected_dim) == (1, 6)
    assert checkpoint.card["network"]["detected_dropout"] == 0.2
    detector = checkpoint.captioner.decoder.state_dict()["detected.detector.weight"]
    torch.testing.assert_close(detector, load_file(found)["weight"].half().float())
    before = load_file(tmp_path / "run" / "last.safetensors")
    (tmp_path / "run" / "state.safetensors").unlink()
    ended = start(*arguments("run", "--words-epochs", 1, "--words-batch-size", 10, *more, "--resume"))
    assert ended.code == 0, ended.err
    weights = load_file(tmp_path / "run" / "last.safetensors")
    assert all(torch.equal(before[name], weights[name]) for name in weights)
    metric = ("--start-from", best, "--self-critical", "--learning-rate", 0.01)
    told, alone = arguments("told", *metric, "--detected-words", found), arguments("alone", *metric)
    assert start(*told).code == 0
    ended = start(*alone)
    assert ended.code == 0
    assert "give --detected-words, if so" in " ".join(ended.err.split())
    told_of, not_told_of = (load_file(tmp_path / run / "last.safetensors") for run in ("told", "alone"))
    assert any(not torch.equal(told_of[name], not_told_of[name]) for name in told_of)
    ended = start(*arguments("again", "--start-from", best, "--words-epochs", 1, "--words-batch-size", 10))
    assert ended.code == 0, ended.err
    detector_again = load_file(tmp_path / "again" / "detected-words.safetensors")["weight"]
    kept = load_checkpoint(tmp_path / "again" / "last.safetensors").captioner.decoder.state_dict()
    torch.testing.assert_close(kept["detected.detector.weight"], detector_again.half().float())
    assert "too favourable" in " ".join(ended.err.split())
    other = read_detection(found)
    write_detection(tmp_path / "other.safetensors", replace(other, weight=other.weight + 1))
    for mistaken, said in (
        (("--start-from", best, "--detected-words", tmp_path / "other.safetensors"), "another detector"),
        (("--detected-words", found, "--detected-dim", 6), "give --weights"),
        (("--start-from", best, "--fine-tune-blocks", 1), "--fine-tune-blocks"),
        (("--words-epochs", 1, "--detected-dim", 6, "--words-folds", 30), "ask for fewer"),
    ):
        ended = start(*arguments("mistaken", *mistaken))
        assert (ended.code, said in " ".join(ended.err.split())) == (2, True), ended.err
    refused = _arguments(given, tmp_path / "refused", "--start-from", best, "--words-epochs", 1, "--epochs", 1)
    refused[1] = str(_seen(given, tmp_path / "more", also="park"))
    ended = start(*refused)
    assert ended.code == 2
    assert "tell of 2 words, and the decoder reads 1" in " ".join(ended.err.split())
    others = ("--weights", tmp_path / "run" / "encoder.safetensors", "--detected-words", found, "--detected-dim", 6)
    assert start(*arguments("other", *others)).code == 0
    ended = start(*arguments("few", *others, "--limit", 3))
    assert ended.code == 2
    assert "other training images" in ended.err


def test_the_encoder_of_a_checkpoint_learns_words_too(given: Path, tiny_checkpoint: Path, tmp_path: Path, start: Start) -> None:
    """--start-from brings an encoder, and it learns as a new one does; the decoder goes on from the checkpoint's."""
    arguments = _arguments(given, tmp_path / "run", "--epochs", 1, "--words-epochs", 1, "--start-from", tiny_checkpoint)
    arguments[1] = str(_seen(given, tmp_path / "seen"))
    ended = start(*arguments, "--words-blocks", 1, "--limit", 20)
    assert ended.code == 0, ended.err
    checkpoint = load_checkpoint(tmp_path / "run" / "last.safetensors")
    assert checkpoint.card["words"]["blocks"] == 1
    assert "started_from" in checkpoint.card
    before = load_checkpoint(tiny_checkpoint).captioner.encoder.state_dict()
    changed = {name for name, value in checkpoint.captioner.encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"network.bn2.weight", "network.bn2.bias"}


def test_training_goes_on_with_the_metric(given: Path, tmp_path: Path, start: Start) -> None:
    """--self-critical starts from a checkpoint, keeps its own folder, and leaves the other as it was."""
    assert start(*_arguments(given, tmp_path / "first", "--epochs", 1, "--quiet")).code == 0
    first = tmp_path / "first" / "best.safetensors"
    before = first.read_bytes()
    more = ("--start-from", first, "--self-critical", "--samples", 3, "--bleu-weight", 1, "--epochs", 2)
    ended = start(*_arguments(given, tmp_path / "second", *more))
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
    ended = start(*_arguments(given, tmp_path / "whole", "--epochs", 3, *more))
    assert ended.code == 0, ended.err
    assert start(*_arguments(given, tmp_path / "parts", "--epochs", 2, *more)).code == 0
    assert start(*_arguments(given, tmp_path / "parts", "--epochs", 3, *more, "--resume")).code == 0
    whole, parts = (load_file(tmp_path / run / "last.safetensors") for run in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    card = load_checkpoint(tmp_path / "whole" / "last.safetensors").card
    assert card["options"] | {"label_smoothing": 0.1, "scheduled_sampling": 0.25, "warm_up": 3, "views": 3} == card["options"]
    assert card["network"]["embedding_dropout"] == 0.2


def test_checkpoints_are_averaged(given: Path, tmp_path: Path, start: Start) -> None:
    """Every weight is the mean of theirs, as near as float16 allows; the card names them; other networks are refused."""
    paths = []
    for seed in (1, 2):
        assert start(*_arguments(given, tmp_path / f"{seed}", "--epochs", 1, "--seed", seed, "--quiet")).code == 0
        paths.append(tmp_path / f"{seed}" / "last.safetensors")
    ended = start("average", *paths, "-o", tmp_path / "mean.safetensors")
    assert ended.code == 0, ended.err
    first, second, mean = (load_checkpoint(path) for path in (*paths, tmp_path / "mean.safetensors"))
    states = [checkpoint.captioner.state_dict() for checkpoint in (first, second, mean)]
    for name, value in states[2].items():
        torch.testing.assert_close(value, (states[0][name] + states[1][name]) / 2, rtol=1e-3, atol=1e-6, check_dtype=False)
    assert [each["sha256"] for each in mean.card["averaged"]] == [first.sha256, second.sha256]
    assert start(*_arguments(given, tmp_path / "wide", "--epochs", 1, "--attention-dim", 9, "--quiet")).code == 0
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
    ended = start(*_arguments(given, tmp_path / "run", *more))
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
    ended = start(*_arguments(given, tmp_path / "file" / "run"))
    assert ended.code == 2
    assert "--output" in ended.err


def test_few_images_can_be_tried_first(given: Path, tmp_path: Path, start: Start) -> None:
    """--limit takes the first images of each split."""
    ended = start(*_arguments(given, tmp_path / "run", "--epochs", 1, "--limit", 1))
    assert ended.code == 0, ended.err
    assert "1 images to learn from, 1 to choose by" in ended.err


def test_more_blocks_than_there_are_is_one_sentence(given: Path, tmp_path: Path, start: Start) -> None:
    """Fine-tuning asks for at most as many blocks as the encoder has."""
    ended = start(*_arguments(given, tmp_path / "run", "--epochs", 1, "--fine-tune-blocks", 500))
    assert ended.code in {2, 3}
    assert "blocks" in ended.err


def test_version_is_printed(start: Start) -> None:
    """--version answers on stdout and ends."""
    ended = start("--version")
    assert ended.code == 0
    assert ended.out.startswith("capt ")
