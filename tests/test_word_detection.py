"""Words first: the encoder learns which words people use, only what shall learn does, a kill costs one epoch at most."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from capt.encoder import Encoder, EncoderConfig, build_encoder
from capt.encoder_file import read_encoder_file
from capt.errors import CaptError, CheckpointError, InputError
from capt.images import Preprocessing
from capt.layers import Layer
from capt.model import Captioner, ModelConfig
from capt.vocabulary import Vocabulary
from jobs.training.caption_words import count_words, find_words, word_targets
from jobs.training.detection import read_detection
from jobs.training.loop import EncodedSplit, Epoch, Training
from jobs.training.options import TrainingOptions, WordsOptions
from jobs.training.soft_words import SoftTargets, soften
from jobs.training.texts import Texts
from jobs.training.word_detection import Detector, Seeing, learn_words, learning_blocks, vary

COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220)}
D, SIDE, PER_COLOUR = 6, 8, 16
CAPTIONS = tuple((f"a {colour} field", f"the {colour} one") for colour in COLOURS for _ in range(PER_COLOUR))
VOCABULARY = Vocabulary.build((text for texts in CAPTIONS for text in texts), min_frequency=1)
PREPROCESSING = Preprocessing(name="tiny", size=SIDE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class _Listener:
    """Hears steps and sentences, and stops the run at one of the steps."""

    def __init__(self, stop: tuple[str, int] | None = None) -> None:
        self.stop = stop
        self.heard: list[tuple[str, int, int]] = []
        self.said: list[str] = []

    def step(self, what: str, done: int, steps: int, figure: str) -> None:
        assert math.isfinite(float(figure.removeprefix("loss ")))
        self.heard.append((what, done, steps))
        if (what, done) == self.stop:
            raise KeyboardInterrupt

    def epoch(self, epochs: Sequence[Epoch]) -> None:
        pytest.fail(f"no epoch of captions is done, but {epochs}")

    def say(self, sentence: str) -> None:
        self.said.append(sentence)


class _Blocks(nn.Module):
    """Four blocks, one of them depthwise, one with statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pointwise = nn.Conv2d(8, D, 1)
        self.norm = nn.BatchNorm2d(D)

    def forward(self, images: Tensor) -> Tensor:
        grid: Tensor = self.norm(self.pointwise(self.depthwise(self.stem(images).relu()).relu())).relu()
        return grid


def _captioner(*, detected: int = 0) -> Captioner:
    torch.manual_seed(0)
    config = ModelConfig(
        encoder=EncoderConfig(name="efficientnet_lite0"),
        vocab_size=len(VOCABULARY),
        encoder_dim=D,
        embed_dim=8,
        decoder_dim=12,
        attention_dim=6,
        detected_words=detected,
    )
    return Captioner(config, Encoder(_Blocks(), D), PREPROCESSING).eval()


def _pixels(seed: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(-30, 31, (len(CAPTIONS), SIDE, SIDE, 3))
    plain = np.repeat(list(COLOURS.values()), PER_COLOUR, axis=0)[:, None, None]
    return (plain + noise).astype(np.uint8)


def _seeing(*, images: str = "", **changes: Any) -> Seeing:  # noqa: ANN401 - any option
    options = WordsOptions(**{"epochs": 3, "blocks": 3, "learning_rate": 0.03, "batch_size": 20, **changes})
    learning, validation = (EncodedSplit(images=_pixels(seed), captions=CAPTIONS) for seed in (1, 2))
    return Seeing(learning=learning, validation=validation, words=find_words(CAPTIONS), options=options, images=images)


def _texts() -> Texts:
    captions = tuple(text for texts in CAPTIONS for text in texts)
    return Texts(captions=captions, images=tuple(number // 2 for number in range(len(captions))), excluded=0, held_back=0)


def _run(output: Path, captioner: Captioner | None = None, *, fingerprint: str = "same") -> Training:
    return Training(
        captioner=captioner or _captioner(),
        vocabulary=VOCABULARY,
        preprocessing=PREPROCESSING,
        options=TrainingOptions(),
        output=output,
        card={"data": "toy"},
        fingerprint=fingerprint,
    )


def _learn(
    run: Training, seeing: Seeing | None = None, *, resume: bool = False, listener: _Listener | None = None
) -> dict[str, Any]:
    return learn_words(run, seeing or _seeing(), listener or _Listener(), resume=resume)


def test_a_new_detector_says_how_frequent_words_are() -> None:
    """Its bias is the logit of the frequency, also of a word that never or always occurs; no image says more than a little."""
    detector = Detector(_captioner().encoder, np.array([0.5, 0.25, 0.0, 1.0], np.float32)).eval()
    with torch.no_grad():
        said = detector(torch.zeros(2, 4, D)).sigmoid()
    torch.testing.assert_close(said, torch.tensor([[0.5, 0.25, 1e-4, 0.9999]] * 2))


def test_an_image_is_seen_through_a_crop_mirrored_or_not_brighter_or_darker() -> None:
    """A ramp stays a ramp: its slope 72 to 100 % of what it was, falling for half of the images; brightness 85 to 115 %."""
    torch.manual_seed(1)
    side, count = 64, 400
    across = torch.linspace(0, 1, side).expand(count, 1, side, side)
    images = torch.cat([across, across.transpose(2, 3), torch.ones_like(across)], dim=1)
    seen = vary(images)
    assert seen.shape == images.shape
    brightness = seen[:, 2, 32, 32]
    torch.testing.assert_close(seen[:, 2], brightness[:, None, None].expand(count, side, side))
    assert 0.85 <= float(brightness.min()) < 0.87
    assert 1.13 < float(brightness.max()) <= 1.15
    middle = (seen / brightness[:, None, None, None])[:, :, 16:48, 16:48]  # reflection is at the borders
    across, down = (middle[:, 0].diff(dim=2).mean((1, 2)) * (side - 1), middle[:, 1].diff(dim=1).mean((1, 2)) * (side - 1))
    assert 150 < int((across < 0).sum()) < 250
    for slope in (across.abs(), down):
        assert 0.719 < float(slope.min()) < 0.74
        assert 0.98 < float(slope.max()) < 1.001
    torch.manual_seed(1)
    assert torch.equal(vary(images), seen)


def test_the_encoder_learns_to_tell_words(tmp_path: Path) -> None:
    """Colours are told apart by images that were not learned from; what is told and kept are the same figures."""
    listener = _Listener()
    facts = _learn(_run(tmp_path), _seeing(epochs=25, batch_size=4), listener=listener)
    assert facts["words"] == 3  # the colours; "a", "the", "field" and "one" are everywhere
    curve = facts["curve"]
    assert curve[-1]["mean_average_precision"] > 0.99
    assert curve[-1]["train_loss"] < 0.8 * curve[0]["train_loss"]
    assert listener.heard[:13] == [*(("words epoch 1", step, 12) for step in range(1, 13)), ("words epoch 2", 1, 12)]
    assert len(listener.said) == 25
    assert f"mean average precision {100 * curve[-1]['mean_average_precision']:.1f} %" in listener.said[-1]
    assert {path.name for path in tmp_path.iterdir()} == {"encoder.safetensors"}
    told = read_encoder_file(tmp_path / "encoder.safetensors")
    assert told is not None
    assert told.facts["words"] == facts
    assert told.preprocessing == PREPROCESSING


def test_only_what_shall_learn_does(tmp_path: Path) -> None:
    """Blocks before the last ones, depthwise kernels, statistics and the decoder stay; after it nothing of the encoder learns."""
    captioner = _captioner()
    before = {name: value.clone() for name, value in captioner.state_dict().items()}
    _learn(_run(tmp_path, captioner))
    after = captioner.state_dict()
    changed = {name.removeprefix("encoder.network.") for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"depthwise.bias", "pointwise.weight", "pointwise.bias", "norm.weight", "norm.bias"}
    assert not any(parameter.requires_grad for parameter in captioner.encoder.parameters())
    stored = load_file(tmp_path / "encoder.safetensors")
    assert all(torch.equal(value, stored[name]) for name, value in captioner.encoder.network.state_dict().items())


@pytest.mark.parametrize("softness", [0.0, 0.5])
@pytest.mark.parametrize("stop", [("words epoch 1", 2), ("words epoch 3", 1)])
def test_a_resumed_stage_equals_an_uninterrupted_one(tmp_path: Path, stop: tuple[str, int], softness: float) -> None:
    """Stopped in the middle of an epoch and resumed, the file has the same bytes as that of a run left alone; softly, too."""
    seeing = replace(_seeing(softness=softness), texts=_texts())
    expected = _learn(_run(tmp_path / "whole"), seeing)
    with pytest.raises(KeyboardInterrupt):
        _learn(_run(tmp_path / "parts"), seeing, listener=_Listener(stop))
    torch.manual_seed(99)  # another process has another state of randomness
    listener = _Listener()
    assert _learn(_run(tmp_path / "parts"), seeing, resume=True, listener=listener) == expected
    assert listener.heard[0] == (stop[0], 1, 3)
    whole, parts = ((tmp_path / name / "encoder.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == parts


def test_a_finished_stage_is_not_repeated(tmp_path: Path) -> None:
    """Resuming takes the encoder from the folder; one of another run is refused."""
    first, again, listener = _captioner(), _captioner(), _Listener()
    expected = _learn(_run(tmp_path, first))
    assert _learn(_run(tmp_path, again), resume=True, listener=listener) == expected
    assert listener.heard == []
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())
    with pytest.raises(CheckpointError, match="another --output"):
        _learn(_run(tmp_path, fingerprint="other"), resume=True)


def _changed(captions: Sequence[tuple[str, ...]], image: int) -> tuple[tuple[str, ...], ...]:
    """Give the captions of an image of the other colours to it."""
    return tuple(captions[-1] if number == image else texts for number, texts in enumerate(captions))


def test_training_images_are_judged_by_detectors_that_had_not_seen_them(tmp_path: Path) -> None:
    """What people wrote about an image changes what is said of the other part, and nothing that is said about it and its part."""
    seeing = _seeing(images="toy")
    found = []
    for name, captions in (("one", CAPTIONS), ("other", _changed(CAPTIONS, 0))):
        seen = replace(seeing, learning=replace(seeing.learning, captions=captions))
        facts = _learn(_run(tmp_path / name, _captioner(detected=3)), seen)
        assert facts["folds"] == 2
        found.append(read_detection(tmp_path / name / "detected-words.safetensors", "toy"))
    same = (found[0].logits == found[1].logits).all(1)
    assert same[0]
    assert same.sum() == len(CAPTIONS) // 2
    assert found[0].words == ("blue", "green", "red")
    assert found[0].frequencies == pytest.approx([1 / 3] * 3)


def test_unseen_images_are_told_apart_and_the_detector_is_kept(tmp_path: Path) -> None:
    """Judged unseen, an image's own colour is the likeliest; so it is by the stored layer on the encoder's mean cell."""
    captioner = _captioner(detected=3)
    _learn(_run(tmp_path, captioner), _seeing(epochs=60, batch_size=4))
    assert {path.name for path in tmp_path.iterdir()} == {"encoder.safetensors", "detected-words.safetensors"}
    found = read_detection(tmp_path / "detected-words.safetensors")
    own = [found.words.index(colour) for colour in COLOURS for _ in range(PER_COLOUR)]
    assert float((found.logits.argmax(1) == own).mean()) > 0.95
    with torch.inference_mode():
        mean = captioner.encode(torch.from_numpy(_pixels(2))).mean(1).numpy()
    said = mean @ found.weight.T + found.bias
    assert float((said.argmax(1) == own).mean()) > 0.95


@pytest.mark.parametrize(
    "stop", [("words, without part 1 of 2, epoch 2", 1), ("words, without part 2 of 2, epoch 1", 1), ("words epoch 2", 2)]
)
def test_a_resumed_stage_of_several_detectors_equals_an_uninterrupted_one(tmp_path: Path, stop: tuple[str, int]) -> None:
    """Stopped in any of the trainings and resumed, what was found has the same bytes, and no finished one is repeated."""
    expected = _learn(_run(tmp_path / "whole", _captioner(detected=3)))
    with pytest.raises(KeyboardInterrupt):
        _learn(_run(tmp_path / "parts", _captioner(detected=3)), listener=_Listener(stop))
    torch.manual_seed(99)
    listener = _Listener()
    assert _learn(_run(tmp_path / "parts", _captioner(detected=3)), resume=True, listener=listener) == expected
    assert listener.heard[0][:2] == (stop[0], 1)
    for name in ("encoder", "detected-words"):
        whole, parts = ((tmp_path / run / f"{name}.safetensors").read_bytes() for run in ("whole", "parts"))
        assert whole == parts


def test_soft_targets_are_learned_in_the_share_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each loss is against (1 − s) · counts + s · what text tells; with s = 0 it is the counts, whatever text there is."""
    texts = _texts()
    wanted: list[Tensor] = []
    loss = functional.binary_cross_entropy_with_logits

    def listen(logits: Tensor, targets: Tensor) -> Tensor:
        wanted.append(targets)
        return loss(logits, targets)

    words = find_words(CAPTIONS)
    softened = soften(texts, CAPTIONS, CAPTIONS, words, seed=0, say=lambda _: None).targets
    counts = word_targets(count_words(CAPTIONS, words))
    for softness in (0.0, 0.25):
        seeing = replace(_seeing(epochs=1, batch_size=len(CAPTIONS), softness=softness), texts=texts)
        with monkeypatch.context() as patch:
            _learn(_run(tmp_path / f"warm-{softness}"), seeing)
            patch.setattr(functional, "binary_cross_entropy_with_logits", listen)
            patch.setattr("jobs.training.word_detection.soften", lambda *_, **__: SoftTargets(targets=softened, facts={}))
            _learn(_run(tmp_path / str(softness)), seeing)
        expected = (1 - softness) * counts + softness * softened.astype(np.float32)
        torch.testing.assert_close(wanted.pop().numpy(), expected.astype(np.float16).astype(np.float32))


def test_rates_rise_and_fall_along_a_cosine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """100 steps of warm-up times half a cosine over all steps; the layer of words learns at 1e-3, the blocks as asked."""
    rates: list[tuple[float, ...]] = []
    step = torch.optim.AdamW.step

    def counted(self: torch.optim.AdamW, *arguments: Any) -> Any:  # noqa: ANN401 - as torch has it
        rates.append(tuple(group["lr"] for group in self.param_groups))
        return step(self, *arguments)

    monkeypatch.setattr("torch.optim.AdamW.step", counted)
    _learn(_run(tmp_path), _seeing(epochs=40))
    factors = [min(1, (done + 1) / 100) * (1 + math.cos(math.pi * done / 120)) / 2 for done in range(120)]
    assert [rate for rate, _ in rates] == pytest.approx([1e-3 * factor for factor in factors])
    assert [rate for _, rate in rates] == pytest.approx([0.03 * factor for factor in factors])


def test_learning_in_bfloat16_keeps_float32_weights(tmp_path: Path) -> None:
    """With low precision the loss falls too."""
    captioner = _captioner().set_precision("bfloat16")
    curve = _learn(_run(tmp_path, captioner), _seeing(epochs=30, batch_size=4))["curve"]
    assert curve[-1]["train_loss"] < 0.8 * curve[0]["train_loss"]
    assert {parameter.dtype for parameter in captioner.parameters()} == {torch.float32}


def test_an_image_without_captions_is_no_obstacle(tmp_path: Path) -> None:
    """It is neither learned from nor measured by; without a single validation word the precision is 0."""
    seeing = _seeing(epochs=1)
    learning = EncodedSplit(images=seeing.learning.images, captions=((), *CAPTIONS[1:]))
    for captions, unmeasured in (((*CAPTIONS[:20], *((),) * 28), False), (((),) * 47 + (("nothing",),), True)):
        validation = EncodedSplit(images=seeing.validation.images, captions=captions)
        seen = replace(seeing, learning=learning, validation=validation)
        curve = _learn(_run(tmp_path / str(unmeasured)), seen)["curve"]
        assert (curve[0]["mean_average_precision"] == 0) == unmeasured


def test_learning_that_diverges_ends_with_a_sentence(tmp_path: Path) -> None:
    """A loss that is no number names the learning rate."""
    captioner = _captioner()
    with torch.no_grad():
        captioner.encoder.network.get_submodule("pointwise").weight.fill_(math.nan)  # type: ignore[operator] # a tensor
    with pytest.raises(CaptError, match="--words-learning-rate"):
        _learn(_run(tmp_path, captioner))


def test_more_blocks_than_there_are_is_a_sentence(tmp_path: Path) -> None:
    """As in fine-tuning, the encoder's own count is told."""
    with pytest.raises(InputError, match="4 blocks"):
        _learn(_run(tmp_path), _seeing(blocks=5))


@pytest.mark.parametrize(
    ("name", "layer", "first"),
    [
        ("efficientnet_lite0", "layer4", "3.0.conv_pw"),
        ("efficientnet_lite2", "layer3+layer4", "3.0.conv_pw"),
        ("efficientnet_lite2", "layer3", "3.0.conv_pw"),
        ("resnet50", "layer4", "layer3.0.conv1"),
        ("resnet50", "layer3", "layer2.0.conv1"),
    ],
)
def test_the_last_stages_learn_by_default(name: str, layer: str, first: str) -> None:
    """EfficientNet-Lite's stages from the fourth on and its head, if it has one; ResNet-50's last two stages."""
    config = EncoderConfig(name=name, layer=Layer(layer))
    encoder = build_encoder(config)
    begins = next(iter(learning_blocks(encoder, config, WordsOptions()).parameters()))
    assert next(path for path, parameter in encoder.named_parameters() if parameter is begins).endswith(f"{first}.weight")


@pytest.mark.parametrize(
    "changes",
    [{"epochs": -1}, {"blocks": 0}, {"folds": 1}, {"batch_size": 0}, {"learning_rate": 0.0}, {"learning_rate": math.nan}],
)
def test_impossible_options_are_refused(changes: dict[str, Any]) -> None:
    """Each error names the option as the user gave it."""
    with pytest.raises(InputError, match=f"--words-{next(iter(changes)).replace('_', '-')} must be"):
        WordsOptions(**changes)
