"""Training on the metric: what a caption earns reaches the weights, and a killed run goes on as if nothing had happened."""

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from capt.checkpoint import read_header
from capt.decoding import Drawn, sample_captions
from capt.encoder import Encoder, EncoderConfig
from capt.errors import InputError
from capt.images import Preprocessing
from capt.model import Captioner, ModelConfig
from capt.vocabulary import Vocabulary, tokenize
from jobs.training.cross_entropy import CrossEntropy
from jobs.training.curves import Watcher, epoch_table
from jobs.training.loop import EncodedSplit, Epoch, Training, train
from jobs.training.options import TrainingOptions, stage_options
from jobs.training.rewards import Rewards
from jobs.training.self_critical import MAX_TOKENS, SelfCritical, advantages

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
P, D, K = 4, 6, 5


class _Silent:
    """A listener that stops the run at a given step."""

    def __init__(self, stop: tuple[int, int] | None = None) -> None:
        self.stop = stop

    def step(self, what: str, done: int, steps: int, figure: str) -> None:
        assert steps >= done
        assert figure.startswith(("loss ", "reward "))
        if self.stop and (what, done) == (f"epoch {self.stop[0]}", self.stop[1]):
            raise KeyboardInterrupt

    def epoch(self, epochs: Sequence[Epoch]) -> None:
        assert epochs

    def say(self, sentence: str) -> None:
        pytest.fail(f"nothing else happens, but {sentence}")


def _captioner(dropout: float = 0.0) -> Captioner:
    torch.manual_seed(0)
    config = ModelConfig(
        encoder=EncoderConfig(name="efficientnet_lite0"),
        vocab_size=len(VOCABULARY),
        encoder_dim=D,
        embed_dim=24,
        decoder_dim=32,
        attention_dim=12,
        dropout=dropout,
    )
    return Captioner(config, Encoder(nn.Conv2d(3, D, 4, stride=4), D), PREPROCESSING)


def _options(**changes: Any) -> TrainingOptions:  # noqa: ANN401 - any option
    return stage_options(**{"self_critical": True, "epochs": 3, "batch_size": 4, "patience": 0, **changes})


def _run(output: Path, options: TrainingOptions, captioner: Captioner | None = None) -> Training:
    return Training(
        captioner=captioner or _captioner(),
        vocabulary=VOCABULARY,
        preprocessing=PREPROCESSING,
        options=options,
        output=output,
        card={},
        fingerprint="same",
    )


def _split() -> EncodedSplit:
    features = np.random.default_rng(1).normal(size=(len(CAPTIONS), P, D)).astype(np.float16)
    return EncodedSplit(images=features, captions=CAPTIONS)


def _learn(run: Training, *, resume: bool = False, listener: _Silent | None = None) -> list[Epoch]:
    objective = SelfCritical(run, _split()) if run.options.self_critical else CrossEntropy(run, _split())
    return train(run, objective, _split(), listener or _Silent(), resume=resume)


def test_each_caption_is_compared_with_the_others_of_its_image() -> None:
    """The advantage is the reward less the mean of the other samples' rewards; equal captions gain nothing."""
    rewards = torch.tensor([[1.0, 2.0, 6.0], [0.5, 0.5, 0.5]])
    expected = torch.tensor([[1 - 4.0, 2 - 3.5, 6 - 1.5], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(advantages(rewards), expected)


def _spy(monkeypatch: pytest.MonkeyPatch) -> list[Drawn]:
    """Note what is drawn."""
    noted: list[Drawn] = []

    def drawing(*values: Any, **named: Any) -> Drawn:  # noqa: ANN401 - as sample_captions
        noted.append(sample_captions(*values, **named))
        return noted[-1]

    monkeypatch.setattr("jobs.training.self_critical.sample_captions", drawing)
    return noted


def _log_prob(captioner: Captioner, grid: Tensor, words: Sequence[int]) -> Tensor:
    """Sum the log probabilities of words, of what can be drawn: without <pad>, <start> and <unk>."""
    logits, targets, _ = captioner.decoder.eval()(
        grid, torch.tensor([[[Vocabulary.start, *words]]]), torch.tensor([[len(words) + 1]])
    )
    allowed = [index for index in range(len(VOCABULARY)) if index not in (Vocabulary.pad, Vocabulary.start, Vocabulary.unk)]
    normaliser = logits[:, allowed].logsumexp(-1)
    log_prob: Tensor = (logits.gather(1, targets.unsqueeze(1))[:, 0] - normaliser).sum()
    return log_prob


@pytest.mark.parametrize("longest", [3, 21])
def test_the_gradient_is_that_of_reinforce(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longest: int) -> None:
    """−Σ advantage × ∇ log p / Σ tokens, computed here caption by caption, whatever their lengths and whether they ended."""
    monkeypatch.setattr("jobs.training.self_critical.MAX_TOKENS", longest)
    noted = _spy(monkeypatch)
    run = _run(tmp_path, _options(bleu_weight=0.7))
    grid = torch.from_numpy(_split().images[:2]).float()
    step = SelfCritical(run, _split()).step(grid, np.array([0, 1]), 1)
    step.loss.backward()
    found = {name: parameter.grad for name, parameter in run.captioner.decoder.named_parameters()}
    rewards = Rewards([[[*tokenize(text), "<end>"] for text in row] for row in CAPTIONS], 0.7)
    other, total, tokens, earned = _captioner(), torch.zeros(()), 0, []
    for image in range(2):
        rows = zip(noted[0].captions[image].tolist(), noted[0].lengths[image].tolist(), strict=True)
        drawn = [row[1 : length + 1] for row, length in rows]
        scores = rewards.score(image, [[VOCABULARY.words[index] for index in indices] for indices in drawn])
        earned += scores
        for indices, score in zip(drawn, scores, strict=True):
            advantage = score - (sum(scores) - score) / (len(scores) - 1)
            total = total - advantage * _log_prob(other, grid[[image]], indices)
            tokens += len(indices)
    assert longest == 3 or len(noted[0].lengths.unique()) > 1
    (total / tokens).backward()
    for name, parameter in other.decoder.named_parameters():
        gradient, expected = found[name], parameter.grad
        assert (gradient is None) == (expected is None)
        if gradient is not None and expected is not None:
            torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)
    assert step.reward == pytest.approx(sum(earned) / len(earned), rel=1e-5)
    assert step.tokens == tokens


def test_training_on_the_metric_raises_it(tmp_path: Path) -> None:
    """After some cross-entropy, the reward of captions drawn rises far above where it began, and so does validation's CIDEr."""
    captioner = _captioner(0.5)
    first = _options(self_critical=False, epochs=12, learning_rate=0.01, gamma=1.0)
    begun = _learn(_run(tmp_path / "first", first, captioner))
    epochs = _learn(_run(tmp_path / "second", _options(epochs=60, learning_rate=0.005), captioner))
    rewards = [epoch.reward for epoch in epochs if epoch.reward is not None]
    assert len(rewards) == 60
    assert sum(rewards[-5:]) > 2 * sum(rewards[:5])
    assert epochs[-1].cider > begun[-1].cider


def test_the_best_is_kept_by_cider_with_its_rewards(tmp_path: Path) -> None:
    """Log and card tell the rewards; the best checkpoint is that of the epoch with the highest CIDEr."""
    epochs = _learn(_run(tmp_path, _options(learning_rate=0.01)))
    figures = [epoch.cider for epoch in epochs]
    card = read_header(tmp_path / "best.safetensors").card
    assert card["validation"]["epoch"] == figures.index(max(figures)) + 1
    assert all(point["reward"] > 0 for point in read_header(tmp_path / "last.safetensors").card["learning_curve"])
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["reward"] for line in lines] == [epoch.reward for epoch in epochs]


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    """Captions are drawn by seed and epoch: stopped within an epoch and resumed, everything is as if left alone."""
    whole = _learn(_run(tmp_path / "whole", _options(learning_rate=0.01)))
    with pytest.raises(KeyboardInterrupt):
        _learn(_run(tmp_path / "parts", _options(learning_rate=0.01)), listener=_Silent((2, 1)))
    torch.manual_seed(99)
    parts = _learn(_run(tmp_path / "parts", _options(learning_rate=0.01)), resume=True)
    assert [replace(epoch, seconds=0) for epoch in parts] == [replace(epoch, seconds=0) for epoch in whole]


def test_captions_are_drawn_by_the_network_that_learns(tmp_path: Path) -> None:
    """With its dropout, though validation switched that off; the same seed draws the same captions."""
    grid = torch.from_numpy(_split().images).float()

    def drawn(dropout: float) -> tuple[float, int]:
        run = _run(tmp_path, _options(), _captioner(dropout))
        run.captioner.decoder.eval()
        torch.manual_seed(5)
        step = SelfCritical(run, _split()).step(grid, np.arange(len(CAPTIONS)), 1)
        return step.nll, step.tokens

    assert drawn(0.5) == drawn(0.5) != drawn(0.0)
    assert drawn(0.5)[1] <= len(CAPTIONS) * K * MAX_TOKENS


def test_what_was_not_chosen_suits_the_stage() -> None:
    """Self-critical training has a lower, constant rate and larger batches, unless others are chosen."""
    options = stage_options(self_critical=True, learning_rate=None, batch_size=7, gamma=None)
    assert (options.learning_rate, options.batch_size, options.gamma) == (5e-5, 7, 1.0)
    assert stage_options(self_critical=False, learning_rate=None) == TrainingOptions()


@pytest.mark.parametrize(
    "changes", [{"samples": 1}, {"bleu_weight": -1.0}, {"label_smoothing": 0.1}, {"scheduled_sampling": 0.2}]
)
def test_impossible_options_are_refused(changes: dict[str, Any]) -> None:
    """One caption has no siblings; what belongs to cross-entropy is no choice here."""
    with pytest.raises(InputError, match=f"--{next(iter(changes)).replace('_', '-')} "):
        _options(**changes)


def test_rewards_are_shown_in_the_place_of_losses(tmp_path: Path) -> None:
    """Table, plain lines and TensorBoard show the reward; the picture is drawn of it."""
    epochs = [
        Epoch(
            epoch=number,
            train_loss=2.0,
            perplexity=20.0,
            bleu_4=0.25,
            cider=0.7,
            learning_rate=5e-5,
            seconds=1.0,
            best=True,
            example="a dog",
            reward=0.8125 + number,
        )
        for number in (1, 2)
    ]
    text = io.StringIO()
    with Watcher(tmp_path, Console(file=text, width=100)) as watcher:
        watcher.epoch(epochs)
    assert "reward" in text.getvalue()
    assert "1.812" in text.getvalue()
    assert "train loss" not in text.getvalue()
    assert epoch_table(epochs).columns[1].header == "reward"
    assert (tmp_path / "curves.png").stat().st_size > 1000
