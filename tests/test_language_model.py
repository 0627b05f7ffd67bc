"""Text first: the decoder learns a language from captions alone, nothing of images changes, a kill costs one epoch at most."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from capt.checkpoint import load_checkpoint
from capt.encoder import Encoder, EncoderConfig
from capt.errors import CaptError, CheckpointError, InputError
from capt.images import Preprocessing
from capt.model import Captioner, ModelConfig
from capt.vocabulary import Vocabulary
from jobs.training.language_model import Reading, TextEpoch, learn_language, partial_cross_entropy, text_facts
from jobs.training.loop import Epoch, Training
from jobs.training.options import TextOptions, TrainingOptions

CAPTIONS = (
    "a dog runs on the beach",
    "the dog is running",
    "a cat sleeps on a sofa",
    "a sleeping cat",
    "two children play football",
    "children play with a ball",
    "snow covers the mountain in winter",
)
VOCABULARY = Vocabulary.build(CAPTIONS, min_frequency=1)
PREPROCESSING = Preprocessing(name="tiny", size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
P, D, V = 4, 6, len(VOCABULARY)


class _Listener:
    """Hears steps, and stops the run at one of them."""

    def __init__(self, stop: tuple[str, int] | None = None) -> None:
        self.stop = stop
        self.heard: list[tuple[str, int, int]] = []

    def step(self, what: str, done: int, steps: int, figure: str) -> None:
        assert math.isfinite(float(figure.removeprefix("loss ")))
        self.heard.append((what, done, steps))
        if (what, done) == self.stop:
            raise KeyboardInterrupt

    def epoch(self, epochs: Sequence[Epoch]) -> None:
        pytest.fail(f"no epoch on images is done, but {epochs}")

    def say(self, sentence: str) -> None:
        pytest.fail(f"nothing else happens, but {sentence}")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """Give a real encoder, so that its checkpoint loads."""
    from capt.encoder import build_encoder  # noqa: PLC0415 - beside the fixture that needs it

    torch.manual_seed(0)
    return build_encoder(EncoderConfig(name="efficientnet_lite0"))


def _captioner(encoder: Encoder, **sizes: Any) -> Captioner:  # noqa: ANN401 - any field of the configuration
    torch.manual_seed(0)
    values = {"embed_dim": 16, "decoder_dim": 24, "attention_dim": 8, "dropout": 0.1, **sizes}
    config = ModelConfig(encoder=EncoderConfig(name="efficientnet_lite0"), vocab_size=V, encoder_dim=encoder.dimension, **values)
    return Captioner(config, encoder, PREPROCESSING)


def _run(captioner: Captioner, output: Path, *, fingerprint: str = "same", **choices: Any) -> Training:  # noqa: ANN401 - any option
    return Training(
        captioner=captioner,
        vocabulary=VOCABULARY,
        preprocessing=PREPROCESSING,
        options=TrainingOptions(**choices),
        output=output,
        card={"data": "toy"},
        fingerprint=fingerprint,
    )


def _reading(**changes: Any) -> Reading:  # noqa: ANN401 - any option
    options = replace(TextOptions(epochs=3, batch_size=3, learning_rate=0.01), **changes)
    return Reading(captions=CAPTIONS, validation=CAPTIONS[:3], options=options)


def _learn(run: Training, reading: Reading, *, resume: bool = False, listener: _Listener | None = None) -> list[TextEpoch]:
    return learn_language(run, reading, listener or _Listener(), resume=resume)


def test_a_language_is_learned_by_heart(encoder: Encoder, tmp_path: Path) -> None:
    """Read often enough, the captions become likely: perplexity falls from about the vocabulary to that of choosing one."""
    captioner = _captioner(encoder, dropout=0.0)
    epochs = _learn(_run(captioner, tmp_path), _reading(epochs=60))
    assert 0.5 * V < epochs[0].perplexity < 1.5 * V
    assert epochs[-1].perplexity < 2.0
    assert epochs[-1].train_loss == pytest.approx(math.log(epochs[-1].perplexity), abs=0.4)


def test_perplexity_is_over_the_whole_vocabulary_whatever_a_step_compares(encoder: Encoder, tmp_path: Path) -> None:
    """Σ −log p over words and <end>, of an image of zeros, computed here one caption at a time."""
    captioner = _captioner(encoder)
    epochs = _learn(_run(captioner, tmp_path), _reading(softmax=2))
    decoder, nll, tokens = captioner.decoder.eval(), 0.0, 0
    for caption in CAPTIONS[:3]:
        words = torch.tensor([[VOCABULARY.encode(caption)]])
        with torch.no_grad():
            logits, targets, _ = decoder(torch.zeros(1, P, encoder.dimension), words, torch.tensor([[words.shape[-1]]]))
        nll += float(nn.functional.cross_entropy(logits, targets, reduction="sum"))
        tokens += len(targets)
    assert epochs[-1].perplexity == pytest.approx(math.exp(nll / tokens), rel=1e-4)


def test_nothing_that_looks_at_images_learns(encoder: Encoder, tmp_path: Path) -> None:
    """Encoder, attention and gate stay as they were; no image has weight yet, and what reads words has learned."""
    before = {name: value.clone() for name, value in _captioner(encoder).state_dict().items()}
    captioner = _captioner(encoder)
    _learn(_run(captioner, tmp_path), _reading())
    after = captioner.state_dict()
    changed = {name.split(".")[1] for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"embedding", "initial", "word_gates", "context_gates", "readout", "output"}
    assert not captioner.decoder.initial.weight.any()
    assert not captioner.decoder.context_gates.weight[:, : encoder.dimension].any()


def test_the_result_is_a_checkpoint_in_full_precision(encoder: Encoder, tmp_path: Path) -> None:
    """text.safetensors loads like any checkpoint, with exactly these weights, and its card tells of the text."""
    captioner, reading = _captioner(encoder), _reading()
    listener = _Listener()
    epochs = _learn(_run(captioner, tmp_path), reading, listener=listener)
    assert {path.name for path in tmp_path.iterdir()} == {"text.safetensors"}
    stored = load_checkpoint(tmp_path / "text.safetensors")
    for name, value in captioner.decoder.state_dict().items():
        assert torch.equal(stored.captioner.decoder.state_dict()[name], value), name
    assert stored.card["data"] == "toy"
    assert [line["perplexity"] for line in stored.card["text_curve"]] == [epoch.perplexity for epoch in epochs]
    assert text_facts(epochs, reading)["captions"] == len(CAPTIONS)
    assert listener.heard == [(f"text epoch {epoch}", step, 3) for epoch in (1, 2, 3) for step in (1, 2, 3)]


@pytest.mark.parametrize("stop", [("text epoch 1", 2), ("text epoch 3", 1)])
def test_a_resumed_reading_equals_an_uninterrupted_one(encoder: Encoder, tmp_path: Path, stop: tuple[str, int]) -> None:
    """Stopped in the middle of an epoch and resumed, the weights are exactly those of a run left alone."""
    whole = _captioner(encoder)
    expected = _learn(_run(whole, tmp_path / "whole"), _reading())
    with pytest.raises(KeyboardInterrupt):
        _learn(_run(_captioner(encoder), tmp_path / "parts"), _reading(), listener=_Listener(stop))
    torch.manual_seed(99)  # another process has another state of randomness
    parts, listener = _captioner(encoder), _Listener()
    epochs = _learn(_run(parts, tmp_path / "parts"), _reading(), resume=True, listener=listener)
    assert listener.heard[0] == (stop[0], 1, 3)
    assert [epoch.perplexity for epoch in epochs] == [epoch.perplexity for epoch in expected]
    for name, value in whole.decoder.state_dict().items():
        assert torch.equal(value, parts.decoder.state_dict()[name]), name


def test_a_finished_reading_is_not_repeated(encoder: Encoder, tmp_path: Path) -> None:
    """Resuming takes the result from the folder; a result of another run is refused."""
    first = _captioner(encoder)
    expected = _learn(_run(first, tmp_path), _reading())
    again, listener = _captioner(encoder), _Listener()
    assert _learn(_run(again, tmp_path), _reading(), resume=True, listener=listener) == expected
    assert listener.heard == []
    for name, value in first.decoder.state_dict().items():
        assert torch.equal(value, again.decoder.state_dict()[name]), name
    with pytest.raises(CheckpointError, match="another --output"):
        _learn(_run(_captioner(encoder), tmp_path, fingerprint="other"), _reading(), resume=True)


def test_reading_that_diverges_ends_with_a_sentence(encoder: Encoder, tmp_path: Path) -> None:
    """A loss that is no number names the learning rate."""
    captioner = _captioner(encoder)
    with torch.no_grad():
        captioner.decoder.readout.weight.fill_(math.nan)
    with pytest.raises(CaptError, match="--text-learning-rate"):
        _learn(_run(captioner, tmp_path), _reading())


def _decoder() -> tuple[Captioner, Tensor, Tensor]:
    captioner = _captioner(Encoder(nn.Identity(), D), dropout=0.0, tie_embeddings=False)
    nn.init.normal_(captioner.decoder.output.weight)
    read = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))
    return captioner, read, torch.tensor([4, 7, 4, 9, 2])


@pytest.mark.parametrize("words", [0, V - 4, V, 10_000])
def test_all_words_compared_is_cross_entropy(words: int) -> None:
    """0, and at least as many as there are beside the targets, is the plain loss, gradients included."""
    captioner, read, targets = _decoder()
    read.requires_grad_()
    (partial,) = torch.autograd.grad(partial_cross_entropy(captioner.decoder, read, targets, words), read)
    (whole,) = torch.autograd.grad(nn.functional.cross_entropy(captioner.decoder.output(read), targets), read)
    torch.testing.assert_close(partial, whole)


def test_a_part_of_the_words_stands_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over every possible choice of two other words, the mean of the softmax's denominator is exactly that of all words."""
    captioner, read, _ = _decoder()
    read, target = read[:1], torch.tensor([7])
    with torch.no_grad():
        logits = captioner.decoder.output(read).double()[0]
        denominators = []
        for choice in itertools.combinations(range(V - 1), 2):
            monkeypatch.setattr("torch.randperm", lambda *_, choice=choice, **__: torch.tensor(choice))
            loss = partial_cross_entropy(captioner.decoder, read, target, 2)
            denominators.append(math.exp(float(loss) + float(logits[7])))  # loss = log Z − logit
    assert len(set(denominators)) > 100
    assert sum(denominators) / len(denominators) == pytest.approx(float(logits.exp().sum()), rel=1e-4)


@pytest.mark.parametrize(
    "changes", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"learning_rate": math.nan}, {"softmax": -1}]
)
def test_impossible_options_are_refused(changes: dict[str, Any]) -> None:
    """Each error names the option as the user gave it."""
    with pytest.raises(InputError, match=f"--text-{next(iter(changes)).replace('_', '-')} must be"):
        _reading(**changes)
