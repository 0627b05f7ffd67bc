"""The training loop learns, measures what it says, and goes on after a kill as if nothing had happened."""

import io
import json
import math
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn

from capt.checkpoint import read_header
from capt.decoding import DecodingOptions, decode
from capt.encoder import Encoder, EncoderConfig
from capt.errors import CaptError, CheckpointError, InputError
from capt.images import Preprocessing
from capt.model import Captioner, ModelConfig
from capt.vocabulary import Vocabulary
from jobs.training.cross_entropy import CrossEntropy
from jobs.training.curves import Watcher, draw_curves, epoch_row, epoch_table
from jobs.training.loop import EncodedSplit, Epoch, Step, Training, train
from jobs.training.options import Selection, TrainingOptions
from jobs.training.validation import validate

CAPTIONS = (
    ("a dog runs on the beach", "the dog is running"),
    ("a cat sleeps on a sofa", "a sleeping cat"),
    ("two children play football", "children play with a ball"),
    ("a red car drives by", "the car is red"),
    ("a woman rides a horse", "a horse with a woman on it"),
    ("snow covers the mountain", "a mountain in winter"),
)
VOCABULARY = Vocabulary.build((text for texts in CAPTIONS for text in texts), min_frequency=1)
PREPROCESSING = Preprocessing(name="tiny", size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
P, D = 4, 6


class _Silent:
    """A listener that hears nothing, or stops the run at a given step."""

    def __init__(self, stop: tuple[int, int] | None = None) -> None:
        self.stop = stop
        self.heard: list[tuple[int, int, int]] = []
        self.epochs: list[int] = []

    def step(self, what: str, done: int, steps: int, figure: str) -> None:
        epoch = int(what.removeprefix("epoch "))
        assert math.isfinite(float(figure.removeprefix("loss ")))
        self.heard.append((epoch, done, steps))
        if (epoch, done) == self.stop:
            raise KeyboardInterrupt

    def epoch(self, epochs: Sequence[Epoch]) -> None:
        self.epochs.append(len(epochs))

    def say(self, sentence: str) -> None:
        pytest.fail(f"nothing else happens, but {sentence}")


class _Blocks(nn.Module):
    """Two convolutions: an encoder whose blocks can learn."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.second = nn.Conv2d(4, D, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        grid: Tensor = self.second(self.first(images).relu())
        return grid


def _captioner(**sizes: Any) -> Captioner:  # noqa: ANN401 - any field of the configuration
    torch.manual_seed(0)
    values = {"embed_dim": 24, "decoder_dim": 32, "attention_dim": 12, "dropout": 0.1, **sizes}
    config = ModelConfig(encoder=EncoderConfig(name="efficientnet_lite0"), vocab_size=len(VOCABULARY), encoder_dim=D, **values)
    return Captioner(config, Encoder(_Blocks(), D), PREPROCESSING)


def _options(**changes: Any) -> TrainingOptions:  # noqa: ANN401 - any option
    return replace(TrainingOptions(epochs=4, batch_size=4, learning_rate=0.01, step_size=2, patience=0), **changes)


def _run(output: Path, options: TrainingOptions, *, captioner: Captioner | None = None, fingerprint: str = "same") -> Training:
    return Training(
        captioner=captioner or _captioner(),
        vocabulary=VOCABULARY,
        preprocessing=PREPROCESSING,
        options=options,
        output=output,
        card={"data": "toy"},
        fingerprint=fingerprint,
    )


def _split(captions: Sequence[Sequence[str]] = CAPTIONS, seed: int = 1) -> EncodedSplit:
    features = np.random.default_rng(seed).normal(size=(len(captions), P, D)).astype(np.float16)
    return EncodedSplit(images=features, captions=captions)


def _learn(
    run: Training,
    split: EncodedSplit | None = None,
    validating: EncodedSplit | None = None,
    *,
    resume: bool = False,
    listener: _Silent | None = None,
) -> list[Epoch]:
    objective = CrossEntropy(run, split or _split())
    return train(run, objective, validating or _split(CAPTIONS[:3]), listener or _Silent(), resume=resume)


def test_training_learns_a_handful_of_images_by_heart(tmp_path: Path) -> None:
    """The loss falls far, and afterwards each image is captioned with a caption that was written for it."""
    run = _run(tmp_path, _options(epochs=60, step_size=30))
    epochs = _learn(run)
    assert epochs[0].train_loss > 2.5
    assert epochs[-1].train_loss < 1.0
    assert epochs[-1].perplexity < 3.0
    found = decode(run.captioner.decoder.eval(), torch.from_numpy(_split().images).float(), DecodingOptions())
    for hypothesis, texts in zip(found, CAPTIONS, strict=True):
        assert VOCABULARY.decode(hypothesis.indices) in texts


def test_the_rate_falls_as_steplr_says(tmp_path: Path) -> None:
    """Adam's rate is multiplied by gamma every step_size epochs, and the log says which rate an epoch had."""
    epochs = _learn(_run(tmp_path, _options(epochs=5, gamma=0.1)))
    assert [epoch.learning_rate for epoch in epochs] == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001])


def test_every_epoch_leaves_its_files(tmp_path: Path) -> None:
    """Log, state, best and last checkpoint are on disk; the card holds data and validation."""
    listener = _Silent()
    epochs = _learn(_run(tmp_path, _options(epochs=3)), listener=listener)
    assert {path.name for path in tmp_path.iterdir()} == {
        "log.jsonl",
        "state.safetensors",
        "best.safetensors",
        "last.safetensors",
    }
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert {"train_loss", "perplexity", "bleu_4", "learning_rate", "seconds"} <= set(lines[0])
    card = read_header(tmp_path / "last.safetensors").card
    assert card["data"] == "toy"
    assert card["validation"]["perplexity"] == pytest.approx(epochs[-1].perplexity)
    assert listener.epochs == [1, 2, 3]
    assert listener.heard == [(epoch, step, 2) for epoch in (1, 2, 3) for step in (1, 2)]


def _weights(path: Path) -> dict[str, Tensor]:
    return load_file(path)


def _comparable(epochs: Sequence[Epoch]) -> list[Epoch]:
    return [replace(epoch, seconds=0.0) for epoch in epochs]


@pytest.mark.parametrize("averaging", [0.0, 0.9])
@pytest.mark.parametrize("stop", [(1, 1), (3, 1), (4, 2)])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, stop: tuple[int, int], averaging: float) -> None:
    """Stopped in the middle of an epoch and resumed, weights, log and chosen epoch are exactly those of a run left alone."""
    options = _options(epochs=5, weight_averaging=averaging, start_share=averaging / 2)
    whole = _learn(_run(tmp_path / "whole", options))
    with pytest.raises(KeyboardInterrupt):
        _learn(_run(tmp_path / "parts", options), listener=_Silent(stop))
    torch.manual_seed(99)  # another process has another state of randomness
    parts = _learn(_run(tmp_path / "parts", options), resume=True)
    assert _comparable(parts) == _comparable(whole)
    for name in ("best.safetensors", "last.safetensors"):
        expected = _weights(tmp_path / "whole" / name)
        for key, value in _weights(tmp_path / "parts" / name).items():
            assert torch.equal(value, expected[key]), f"{name}: {key}"


def test_a_finished_run_can_be_prolonged(tmp_path: Path) -> None:
    """Resuming with more epochs gives what one long run gives; resuming a finished run changes nothing."""
    whole = _learn(_run(tmp_path / "whole", _options(epochs=4)))
    _learn(_run(tmp_path / "parts", _options(epochs=2)))
    parts = _learn(_run(tmp_path / "parts", _options(epochs=4)), resume=True)
    assert _comparable(parts) == _comparable(whole)
    listener = _Silent()
    again = _learn(_run(tmp_path / "parts", _options(epochs=4)), resume=True, listener=listener)
    assert again == parts
    assert listener.heard == []


def test_a_run_with_other_choices_is_not_resumed(tmp_path: Path) -> None:
    """A state that belongs to other data or options is refused."""
    _learn(_run(tmp_path, _options(epochs=1)))
    with pytest.raises(InputError, match="other data or options"):
        _learn(_run(tmp_path, _options(epochs=2), fingerprint="another"), resume=True)


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    """A truncated state file is named with the way out."""
    _learn(_run(tmp_path, _options(epochs=1)))
    state = tmp_path / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match="delete it"):
        _learn(_run(tmp_path, _options(epochs=2)), resume=True)


def test_training_stops_when_validation_no_longer_improves(tmp_path: Path) -> None:
    """After `patience` epochs without a better one the run ends, also when resumed, and the best epoch's weights are kept."""
    options = _options(epochs=40, patience=2, learning_rate=0.05, select=Selection.PERPLEXITY)
    run = _run(tmp_path, options)
    strangers = _split((("the red horse sleeps",), ("two dogs in snow",)), seed=7)
    epochs = _learn(run, validating=strangers)
    best = min(epochs, key=lambda epoch: epoch.perplexity)
    assert len(epochs) == best.epoch + 2 < 40
    assert [epoch.epoch for epoch in epochs if epoch.best][-1] == best.epoch
    assert read_header(tmp_path / "best.safetensors").card["validation"]["epoch"] == best.epoch
    assert read_header(tmp_path / "last.safetensors").card["validation"]["epoch"] == epochs[-1].epoch
    assert len(_learn(_run(tmp_path, options), validating=strangers, resume=True)) == len(epochs)


@pytest.mark.parametrize(("select", "figure"), [(Selection.CIDER, "cider"), (Selection.BLEU_4, "bleu_4")])
def test_the_best_epoch_is_chosen_as_asked(tmp_path: Path, select: Selection, figure: str) -> None:
    """The last epoch marked best has the largest figure of all, the first such one."""
    epochs = _learn(_run(tmp_path, _options(epochs=6, select=select)))
    figures = [getattr(epoch, figure) for epoch in epochs]
    assert [epoch.epoch for epoch in epochs if epoch.best][-1] == figures.index(max(figures)) + 1


def test_a_diverging_run_ends_with_a_sentence(tmp_path: Path) -> None:
    """A loss that is no number stops the run and names the learning rate; the last good state is kept."""
    split = _split()
    split.images[0] = np.nan
    with pytest.raises(CaptError, match="--learning-rate"):
        _learn(_run(tmp_path, _options()), split)


def test_an_image_without_captions_is_no_obstacle(tmp_path: Path) -> None:
    """Images without captions are not learned from, and images may have different numbers of captions."""
    captions = ((), *CAPTIONS[1:4], ("a woman",), ("snow", "a mountain", "winter"))
    listener = _Silent()
    _learn(_run(tmp_path, _options(epochs=1, batch_size=5)), _split(captions), listener=listener)
    assert listener.heard == [(1, 1, 1)]


def test_the_regulariser_is_in_the_gradient_and_not_in_the_figures(tmp_path: Path) -> None:
    """With a rate of almost nothing, a huge regulariser changes neither training loss nor perplexity."""
    options = _options(epochs=1, learning_rate=1e-12, clip=0.0)
    plain, regularised = (
        _learn(_run(tmp_path / str(weight), replace(options, attention_weight=weight)))[0] for weight in (0.0, 1e4)
    )
    assert plain.train_loss == pytest.approx(regularised.train_loss, rel=1e-4)
    assert plain.perplexity == pytest.approx(regularised.perplexity, rel=1e-4)
    strong = _learn(_run(tmp_path / "strong", replace(options, learning_rate=0.01, attention_weight=100.0)))[0]
    free = _learn(_run(tmp_path / "free", replace(options, learning_rate=0.01, attention_weight=0.0)))[0]
    assert strong.train_loss != free.train_loss


def test_smoothing_is_in_the_gradient_and_not_in_the_figures(tmp_path: Path) -> None:
    """The loss is torch's cross-entropy with label smoothing; what is logged is −log p of the words themselves."""
    run = _run(tmp_path, _options(label_smoothing=0.2, attention_weight=0.0))
    run.captioner.decoder.eval()
    features = torch.from_numpy(_split().images).float()
    step = CrossEntropy(run, _split()).step(features, np.arange(len(CAPTIONS)), 1)
    logits, targets = [], []
    for grid, texts in zip(features, CAPTIONS, strict=True):
        for text in texts:
            indices = torch.tensor([[VOCABULARY.encode(text)]])
            of_one, words, _ = run.captioner.decoder(grid.unsqueeze(0), indices, torch.tensor([[indices.shape[-1]]]))
            logits.append(of_one)
            targets.append(words)
    every, words = torch.cat(logits), torch.cat(targets)
    torch.testing.assert_close(step.loss, nn.functional.cross_entropy(every, words, label_smoothing=0.2))
    assert step.nll == pytest.approx(float(nn.functional.cross_entropy(every, words).detach()), rel=1e-5)
    assert step.tokens == len(words)


def test_rates_rise_to_steplr_and_fall_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step's rate is torch's StepLR times a linear warm-up, for the decoder and for the encoder's blocks alike."""
    rates: list[tuple[float, ...]] = []
    step = torch.optim.Adam.step

    def counted(self: torch.optim.Adam, *arguments: Any) -> Any:  # noqa: ANN401 - as torch has it
        rates.append(tuple(group["lr"] for group in self.param_groups))
        return step(self, *arguments)

    monkeypatch.setattr("torch.optim.Adam.step", counted)
    pixels = np.random.default_rng(0).integers(0, 256, (len(CAPTIONS), 8, 8, 3), dtype=np.uint8)
    split = EncodedSplit(images=pixels, captions=CAPTIONS)
    options = _options(epochs=5, gamma=0.1, warm_up=3, fine_tune_blocks=1, encoder_learning_rate=0.004)
    epochs = _learn(_run(tmp_path, options), split, split)
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimiser, step_size=2, gamma=0.1)
    expected = []
    for _ in range(5):
        expected += [scheduler.get_last_lr()[0]] * 2
        optimiser.step()
        scheduler.step()
    expected[:3] = [0.01 / 3, 0.02 / 3, 0.01]
    assert [rate for rate, _ in rates] == pytest.approx(expected)
    assert [rate for _, rate in rates] == pytest.approx([0.4 * rate for rate in expected])
    assert [epoch.learning_rate for epoch in epochs] == pytest.approx(expected[1::2])


def test_scheduled_sampling_rises_with_the_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From 0 in a line to the largest probability, at once without a ramp, and what is passed to the decoder is that."""
    options = _options(scheduled_sampling=0.2, sampling_ramp=4)
    assert [options.sampling(epoch) for epoch in range(1, 8)] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2, 0.2, 0.2])
    assert _options(scheduled_sampling=0.2, sampling_ramp=0).sampling(1) == 0.2
    run = _run(tmp_path, replace(options, epochs=3))
    passed: list[float] = []
    forward = run.captioner.decoder.forward

    def listen(*tensors: Tensor, sampling: float = 0.0, detected: None = None) -> tuple[Tensor, Tensor, Tensor]:
        if run.captioner.decoder.training:
            passed.append(sampling)
        return forward(*tensors, sampling=sampling, detected=detected)

    monkeypatch.setattr(run.captioner.decoder, "forward", listen)
    _learn(run)
    assert passed == pytest.approx([0.0, 0.0, 0.05, 0.05, 0.1, 0.1])


def test_embeddings_are_frozen_for_as_many_epochs_as_asked(tmp_path: Path) -> None:
    """Up to that epoch they are what they began as, while the rest learns; after it they learn; a resumed run agrees."""
    begun = _captioner().decoder.embedding.weight.detach().clone()
    for epochs in (2, 3):
        run = _run(tmp_path / f"{epochs}", _options(epochs=epochs, freeze_embeddings=2))
        _learn(run)
        assert torch.equal(run.captioner.decoder.embedding.weight, begun) == (epochs == 2)
        assert not torch.equal(run.captioner.decoder.readout.weight, _captioner().decoder.readout.weight)
    _learn(_run(tmp_path / "2", _options(epochs=3, freeze_embeddings=2)), resume=True)
    whole = _weights(tmp_path / "3" / "last.safetensors")
    assert all(torch.equal(value, whole[name]) for name, value in _weights(tmp_path / "2" / "last.safetensors").items())


def test_every_view_of_an_image_is_drawn_with_its_own_captions(tmp_path: Path) -> None:
    """An epoch draws one view of each image; over epochs all are drawn about as often, and validation sees the image as it is."""
    first = np.zeros((6, P, D), dtype=np.float16) + np.arange(6).reshape(6, 1, 1)
    split = EncodedSplit(images=first, captions=CAPTIONS, views=[first + 10, first + 20])
    seen: list[tuple[int, int]] = []

    class _Looking:
        def __init__(self, run: Training) -> None:
            self.split, self._objective = split, CrossEntropy(run, split)

        def step(self, encoder_out: Tensor, chosen: Any, epoch: int) -> Step:  # noqa: ANN401 - as any objective
            values = [int(value) for value in encoder_out[:, 0, 0]]
            assert [value % 10 for value in values] == chosen.tolist()
            seen.extend((epoch, value) for value in values)
            return self._objective.step(encoder_out, chosen, epoch)

    run = _run(tmp_path, _options(epochs=60))
    train(run, _Looking(run), _split(), _Silent(), resume=False)
    assert len(set(seen)) == len(seen) == 60 * 6
    assert {epoch: sorted(value % 10 for of, value in seen if of == epoch) for epoch in (1, 60)} == {
        1: [*range(6)],
        60: [*range(6)],
    }
    for view in range(3):
        assert 90 <= sum(value // 10 == view for _, value in seen) <= 150


def test_gradients_are_clipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The norm given is the one used; 0 does not clip."""
    norms: list[float] = []
    clip = nn.utils.clip_grad_norm_

    def counted(parameters: Any, largest: float) -> Tensor:  # noqa: ANN401 - as torch has it
        norms.append(largest)
        return clip(parameters, largest)

    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", counted)
    _learn(_run(tmp_path / "a", _options(epochs=1, clip=0.25)))
    assert norms == [0.25, 0.25]
    _learn(_run(tmp_path / "b", _options(epochs=1, clip=0.0)))
    assert len(norms) == 2


def test_a_frozen_encoder_stays_as_it_is_and_blocks_learn_when_asked(tmp_path: Path) -> None:
    """Only the blocks named learn; a resumed fine-tuning equals an uninterrupted one."""
    pixels = np.random.default_rng(0).integers(0, 256, (len(CAPTIONS), 8, 8, 3), dtype=np.uint8)
    split = EncodedSplit(images=pixels, captions=CAPTIONS)
    before = _captioner().encoder.state_dict()
    changed = {}
    for blocks in (0, 1):
        run = _run(tmp_path / str(blocks), _options(epochs=3, fine_tune_blocks=blocks))
        _learn(run, split, split)
        after = run.captioner.encoder.state_dict()
        changed[blocks] = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed[0] == set()
    assert changed[1] == {"network.second.weight", "network.second.bias"}
    parts = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        _learn(_run(parts, _options(epochs=3, fine_tune_blocks=1)), split, split, listener=_Silent((3, 1)))
    _learn(_run(parts, _options(epochs=3, fine_tune_blocks=1)), split, split, resume=True)
    whole = _weights(tmp_path / "1" / "last.safetensors")
    assert all(torch.equal(value, whole[name]) for name, value in _weights(parts / "last.safetensors").items())


def test_batch_norm_keeps_its_statistics_while_the_encoder_learns(tmp_path: Path) -> None:
    """Fine-tuned as a whole, an encoder learns scales and shifts; means and variances stay those of its pretraining."""
    captioner = _captioner()
    captioner.encoder = Encoder(nn.Sequential(nn.Conv2d(3, D, 4, stride=4), nn.BatchNorm2d(D), nn.ReLU()), D)
    before = {name: value.clone() for name, value in captioner.encoder.state_dict().items()}
    pixels = np.random.default_rng(0).integers(0, 256, (len(CAPTIONS), 8, 8, 3), dtype=np.uint8)
    split = EncodedSplit(images=pixels, captions=CAPTIONS)
    _learn(_run(tmp_path, _options(epochs=2, fine_tune_blocks=2), captioner=captioner), split, split)
    after = captioner.encoder.state_dict()
    changed = {name.removeprefix("network.") for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"0.weight", "0.bias", "1.weight", "1.bias"}


def test_training_in_bfloat16_learns_too(tmp_path: Path) -> None:
    """With low precision the weights stay float32 and the loss falls."""
    captioner = _captioner().set_precision("bfloat16")
    epochs = _learn(_run(tmp_path, _options(epochs=15, step_size=10), captioner=captioner))
    assert epochs[-1].train_loss < 0.7 * epochs[0].train_loss
    assert {parameter.dtype for parameter in captioner.parameters()} == {torch.float32}


def test_perplexity_is_the_exponential_of_mean_log_likelihood() -> None:
    """exp(Σ −log p / Σ tokens) over all captions: words and <end>, not <start> or <pad>, computed here one caption at a time."""
    decoder = _captioner(dropout=0.5).decoder.train()
    features = torch.from_numpy(_split().images).float()
    result = validate(decoder, lambda start, end: features[start:end], CAPTIONS, VOCABULARY)
    assert decoder.training  # left as it was found
    decoder.eval()
    nll, tokens = 0.0, 0
    for grid, texts in zip(features, CAPTIONS, strict=True):
        for text in texts:
            indices = VOCABULARY.encode(text)
            with torch.no_grad():
                logits, _, _ = decoder(grid.unsqueeze(0), torch.tensor([[indices]]), torch.tensor([[len(indices)]]))
            log_probs = logits.double().log_softmax(-1)
            nll -= sum(float(log_probs[step, word]) for step, word in enumerate(indices[1:]))
            tokens += len(indices) - 1
    assert result.perplexity == pytest.approx(math.exp(nll / tokens), rel=1e-5)
    assert len(result.captions) == len(CAPTIONS)


def test_validation_captions_are_free_running_and_scored_by_bleu_and_cider(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captions equal to a reference score BLEU-4 1 and a high CIDEr; captions of other words score 0."""
    decoder = _captioner().decoder
    features = torch.from_numpy(_split().images).float()

    class _Says:
        def __init__(self, text: str) -> None:
            self.indices = tuple(VOCABULARY.encode(text)[1:-1])

    for texts, bleu in (([texts[0] for texts in CAPTIONS], 1.0), (["sofa car sofa car sofa"] * len(CAPTIONS), 0.0)):
        monkeypatch.setattr("jobs.training.validation.decode", lambda *_, texts=texts, **__: [_Says(text) for text in texts])
        result = validate(decoder, lambda start, end: features[start:end], CAPTIONS, VOCABULARY)
        assert result.bleu_4 == pytest.approx(bleu, abs=1e-3)
        assert (result.cider > 1.0) == (bleu == 1.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"step_size": 0},
        {"gamma": -1.0},
        {"clip": -1.0},
        {"patience": -1},
        {"fine_tune_blocks": -2},
        {"warm_up": -1},
        {"views": 0},
        {"label_smoothing": 1.0},
        {"scheduled_sampling": -0.1},
        {"sampling_ramp": -1},
        {"weight_averaging": 1.0},
    ],
)
def test_impossible_options_are_refused(changes: dict[str, Any]) -> None:
    """Each error names the option as the user gave it."""
    option = next(iter(changes)).replace("_", "-")
    with pytest.raises(InputError, match=f"--{option} must be"):
        _options(**changes)


EPOCHS = tuple(
    Epoch(
        epoch=number,
        train_loss=4.0 / number,
        perplexity=40.12 / number,
        bleu_4=0.201,
        cider=0.52,
        learning_rate=1e-3,
        seconds=12.3,
        best=number != 2,
        example="a dog [runs] on the beach",
    )
    for number in (1, 2, 3)
)


def test_an_epoch_is_shown_with_scores_times_100() -> None:
    """The table's cells are for people: BLEU-4 and CIDEr ×100 as papers print them."""
    assert epoch_row(EPOCHS[0]) == ("1", "4.000", "40.12", "20.1", "52.0", "1.0e-03", "12 s", "best")
    console = Console(file=io.StringIO(), width=80)
    console.print(epoch_table(EPOCHS))
    shown = console.file.getvalue()  # type: ignore[attr-defined] # a StringIO
    assert "40.12" in shown
    assert shown.count("best") == 2


@pytest.mark.parametrize("terminal", [False, True])
def test_a_watcher_shows_epochs_and_keeps_files(tmp_path: Path, terminal: bool) -> None:  # noqa: FBT001 - a case
    """Plain lines in a log, a table on a terminal; TensorBoard files and the picture of the curves in the folder."""
    text = io.StringIO()
    with Watcher(tmp_path, Console(file=text, force_terminal=terminal, width=100)) as watcher:
        watcher.say("600 images [to] learn from.")
        watcher.step("epoch 1", 1, 10, "loss 3.000")
        watcher.epoch(EPOCHS[:2])
        watcher.epoch(EPOCHS)
    shown = text.getvalue()
    assert "600 images [to] learn from." in shown
    assert "40.12" in shown
    assert "20.06" in shown
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert list((tmp_path / "tensorboard").glob("events.*"))
    if not terminal:
        assert shown.count("\n") == shown.count("40.12") + 1 + 1 + 2 + 3  # sentence, heading, three epochs with examples
        assert "a dog [runs] on the beach" in shown


def test_a_quiet_watcher_shows_nothing_and_writes_all(tmp_path: Path) -> None:
    """Quiet means nothing on the terminal; the files are written all the same."""
    text = io.StringIO()
    with Watcher(tmp_path, Console(file=text, force_terminal=True), quiet=True) as watcher:
        watcher.say("hello")
        watcher.step("epoch 1", 1, 1, "loss 0.000")
        watcher.epoch(EPOCHS)
    assert text.getvalue() == ""
    assert (tmp_path / "curves.png").exists()


def test_a_watcher_speaks_now_and_then_in_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal, long epochs report their steps every half minute, not every step."""
    text = io.StringIO()
    with Watcher(tmp_path, Console(file=text)) as watcher:
        watcher.step("epoch 1", 1, 100, "loss 3.000")
        monkeypatch.setattr("jobs.training.curves._SECONDS_BETWEEN_LINES", 0.0)
        watcher.step("epoch 1", 2, 100, "loss 2.900")
    assert "step 1 of" not in text.getvalue()
    assert "epoch 1: step 2 of 100, loss 2.900" in text.getvalue()


def test_without_tensorboard_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard is an extra: where it is missing, no files are written for it and nothing fails."""
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard.writer", None)
    with Watcher(tmp_path, Console(file=io.StringIO())) as watcher:
        watcher.epoch(EPOCHS)
    assert not (tmp_path / "tensorboard").exists()


def test_one_epoch_can_be_drawn(tmp_path: Path) -> None:
    """The picture exists from the first epoch on."""
    draw_curves(EPOCHS[:1], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_ctrl_c_waits_until_the_files_of_an_epoch_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interruption in the middle of TensorBoard's work, which could lock it for ever, comes after the picture is drawn."""
    watcher = Watcher(tmp_path, Console(file=io.StringIO()))
    write = watcher._record
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores Ctrl-C

    def write_interrupted(epoch: Epoch) -> None:
        signal.raise_signal(signal.SIGINT)
        write(epoch)

    monkeypatch.setattr(watcher, "_record", write_interrupted)
    try:
        with pytest.raises(KeyboardInterrupt), watcher:
            watcher.epoch(EPOCHS[:1])
    finally:
        signal.signal(signal.SIGINT, before)
    assert list((tmp_path / "tensorboard").iterdir())
    assert (tmp_path / "curves.png").exists()
