"""`capt-batch train` whose encoder learns words first, and whose decoder reads which words are detected."""

import math
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from capt.checkpoint import load_checkpoint
from jobs.training.detection import read_detection, write_detection
from tests.training_runs import Start, given_fixture, start_fixture, train_arguments  # noqa: F401 - fixtures


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
        command, _, *options = train_arguments(given, tmp_path / name, "--epochs", 1, *others)
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
    ended = start("train", seen, *train_arguments(given, tmp_path / "run", "--epochs", 1, *more)[2:])
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
    command, _, *options = train_arguments(given, tmp_path / "run", "--text", tmp_path / "one.token")
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
        command, _, *options = train_arguments(given, tmp_path / name, "--epochs", 1, *others)
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
    refused = train_arguments(given, tmp_path / "refused", "--start-from", best, "--words-epochs", 1, "--epochs", 1)
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
    arguments = train_arguments(given, tmp_path / "run", "--epochs", 1, "--words-epochs", 1, "--start-from", tiny_checkpoint)
    arguments[1] = str(_seen(given, tmp_path / "seen"))
    ended = start(*arguments, "--words-blocks", 1, "--limit", 20)
    assert ended.code == 0, ended.err
    checkpoint = load_checkpoint(tmp_path / "run" / "last.safetensors")
    assert checkpoint.card["words"]["blocks"] == 1
    assert "started_from" in checkpoint.card
    before = load_checkpoint(tiny_checkpoint).captioner.encoder.state_dict()
    changed = {name for name, value in checkpoint.captioner.encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"network.bn2.weight", "network.bn2.bias"}
