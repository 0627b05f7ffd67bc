"""Several captioners write one caption: the mean of their probabilities decides each word."""

import json
import sys
from pathlib import Path

import pytest
import torch

from capt.captions import read_captions
from capt.checkpoint import save_checkpoint
from capt.decoding import DecodingOptions, decode, reference_nll
from capt.ensemble import Ensemble, load_writers
from capt.errors import CheckpointError
from capt.images import IMAGENET, INCEPTION
from capt.model import Captioner
from capt.vocabulary import Vocabulary
from jobs.cli import main
from tests.conftest import EXAMPLE_CAPTIONS, tiny_captioner

VOCABULARY = Vocabulary.build(EXAMPLE_CAPTIONS, min_frequency=1)
SEARCH = DecodingOptions(beam_size=3, max_length=6)


@pytest.fixture(scope="module")
def captioners() -> tuple[Captioner, Captioner, Captioner]:
    """Give two captioners that share nothing, and a third with the encoder of the first."""
    one, two, three = (tiny_captioner(len(VOCABULARY), seed=seed) for seed in (1, 2, 3))
    three.encoder.load_state_dict(one.encoder.state_dict())
    return one, two, three


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Give three images of noise."""
    return torch.randint(0, 256, (3, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def store(captioner: Captioner, path: Path, **changes: object) -> Path:
    """Write a checkpoint."""
    said = {"vocabulary": VOCABULARY, "preprocessing": INCEPTION, "card": {}, **changes}
    save_checkpoint(path, captioner=captioner, **said)  # type: ignore[arg-type] # as the test changes it
    return path


def test_one_with_itself_is_itself(captioners: tuple[Captioner, ...], images: torch.Tensor) -> None:
    """A captioner beside itself writes what it writes alone, as likely, and looks where it looks; greedily and by beam search."""
    alone, together = captioners[0], Ensemble([captioners[0], captioners[0]]).eval()
    for beam_size in (1, 3):
        options = DecodingOptions(beam_size=beam_size, max_length=6)
        with torch.inference_mode():
            expected = decode(alone.decoder, alone.encode(images), options, with_alphas=True)
            found = decode(together.decoder, together.encode(images), options, with_alphas=True)
        for one, other in zip(expected, found, strict=True):
            assert one.indices == other.indices
            assert one.log_prob == pytest.approx(other.log_prob, abs=1e-4)
            assert one.alphas is not None
            assert other.alphas is not None
            assert torch.allclose(one.alphas, other.alphas, atol=1e-6)


def test_a_word_is_as_likely_as_the_members_find_it_on_average(captioners: tuple[Captioner, ...], images: torch.Tensor) -> None:
    """Each word's probability is the mean of the members', step by step; that gives a caption its likelihood, and a reference."""
    together = Ensemble(captioners).eval()
    caption = [Vocabulary.start, 5, 7, 6, Vocabulary.end]
    with torch.inference_mode():
        encoder_out = together.encode(images)
        words = torch.tensor([caption[:-1]] * len(images))
        means = []
        states = [(each.decoder, each.decoder.remember(each.encode(images))) for each in captioners]
        before = [decoder.begin(memory, 1) for decoder, memory in states]
        for step in range(len(caption) - 1):
            told = [
                decoder.predict(memory, words[:, step : step + 1], state)
                for (decoder, memory), state in zip(states, before, strict=True)
            ]
            before = [state for _, state, _ in told]
            means.append(torch.stack([log_probs.exp() for log_probs, _, _ in told]).mean(0)[:, 0, caption[step + 1]])
        (likelihoods, *_), *_ = [reference_nll(together.decoder, encoder_out, [[caption]] * len(images))]
        expected = -torch.stack(means).log().sum(0)
    assert likelihoods[0][1] == len(caption) - 1
    assert likelihoods[0][0] == pytest.approx(float(expected[0]), abs=1e-4)
    hypothesis = decode(together.decoder, encoder_out, SEARCH)[0]
    written = [[Vocabulary.start, *hypothesis.indices, Vocabulary.end]]
    again = reference_nll(together.decoder, encoder_out[:1], [written])[0][0][0]
    if len(hypothesis.indices) < SEARCH.max_length:
        assert -hypothesis.log_prob == pytest.approx(again, abs=1e-3)


def test_equal_encoders_encode_once(captioners: tuple[Captioner, ...], images: torch.Tensor) -> None:
    """Of encoders of the same weights one is kept: three captioners with two encoders have the channels of two."""
    dimension = captioners[0].config.encoder_dim
    with torch.inference_mode():
        assert Ensemble(captioners).encode(images[:1]).shape[-1] == 2 * dimension
        assert Ensemble([captioners[0], captioners[2]]).encode(images[:1]).shape[-1] == dimension


def test_checkpoints_must_agree(captioners: tuple[Captioner, ...], tmp_path: Path) -> None:
    """Other words, another preprocessing or another grid are refused by name; the same file alone is no ensemble."""
    first = store(captioners[0], tmp_path / "first.safetensors")
    other_words = Vocabulary.build([text.replace("man", "person") for text in EXAMPLE_CAPTIONS], min_frequency=1)
    assert len(other_words) == len(VOCABULARY)
    words = store(captioners[1], tmp_path / "words.safetensors", vocabulary=other_words)
    pixels = store(captioners[1], tmp_path / "pixels.safetensors", preprocessing=IMAGENET)
    with pytest.raises(CheckpointError, match=r"words\.safetensors has not the words of .*first"):
        load_writers([first, words])
    with pytest.raises(CheckpointError, match=r"pixels\.safetensors has not the preprocessing of .*first"):
        load_writers([first, pixels])
    assert isinstance(load_writers([first]).captioner, Captioner)


def test_the_job_captions_with_several(
    captioners: tuple[Captioner, ...],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`--checkpoint` twice: one table, both names in run.json; others are another run, and what disagrees is one sentence."""
    paths = [store(captioner, tmp_path / f"{name}.safetensors") for name, captioner in zip("ab", captioners, strict=False)]

    def start(*checkpoints: Path) -> int:
        chosen = [word for path in checkpoints for word in ("--checkpoint", str(path))]
        options = ["--output", str(tmp_path / "out"), "--precision", "float32", "--max-length", "4", "--attention"]
        monkeypatch.setattr(sys, "argv", ["capt-batch", "run", str(photos), *options, *chosen])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    assert start(*paths) == 0
    assert read_captions(tmp_path / "out").num_rows == len(list(photos.iterdir()))
    report = json.loads((tmp_path / "out" / "run.json").read_text())
    assert report["fingerprint"]["checkpoint_name"] == "a.safetensors+b.safetensors"
    assert start(*paths) == 0  # nothing is left to do
    assert start(paths[0]) == 2
    assert "--checkpoint was" in capsys.readouterr().err
    other = store(captioners[1], tmp_path / "c.safetensors", preprocessing=IMAGENET)
    assert start(paths[0], other) == 2
    assert "preprocessing" in capsys.readouterr().err
