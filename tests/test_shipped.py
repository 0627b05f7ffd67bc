"""The checkpoint that ships: it is there, says what it is, and captions photographs that it has never seen."""

import hashlib
import json
import math
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from capt.checkpoint import DEFAULT_CHECKPOINT, Checkpoint, load_checkpoint, read_header
from capt.decoding import DecodingOptions, decode, reference_nll
from capt.images import open_image, to_array
from jobs.training.dataset import read_dataset

ROOT = Path(__file__).parents[1]
MEGABYTE = 1_000_000
ROUNDING = 0.06  # of one decimal, and of last digits from machine to machine
PEOPLE = {"man", "woman", "boy", "girl", "person", "people", "men", "women", "child", "lady"}
WITH_PEOPLE = ("astronaut.jpg", "officer.jpg", "photographer.jpg")


@pytest.fixture(scope="module")
def shipped() -> Checkpoint:
    """Load it once."""
    return load_checkpoint()


def _encode(shipped: Checkpoint, sources: list[Path | bytes]) -> torch.Tensor:
    pixels = np.stack([to_array(open_image(source), shipped.preprocessing) for source in sources])
    with torch.inference_mode():
        return shipped.captioner.encode(torch.from_numpy(pixels))


def test_it_is_small_and_says_what_it_is() -> None:
    """It fits into 40 MB, and its card names data, command, versions, and what it reached on which split."""
    assert DEFAULT_CHECKPOINT.stat().st_size <= 40 * MEGABYTE
    card = read_header().card
    assert {"date", "command", "data", "options", "versions", "validation", "learning_curve"} <= card.keys()
    assert card["validation"]["perplexity"] <= 16.5
    assert card["data"]["train_images"] > card["data"]["validation_images"] > 0


def test_it_captions_the_examples(shipped: Checkpoint) -> None:
    """Each example photograph gets a sentence in known words, hardly any twice, and people are seen where people are."""
    photos = sorted((ROOT / "examples" / "photos").glob("*.jpg"))
    found = decode(shipped.captioner.decoder, _encode(shipped, list(photos)), DecodingOptions())
    captions = {photo.name: shipped.vocabulary.decode(each.indices) for photo, each in zip(photos, found, strict=True)}
    assert len(set(captions.values())) >= len(photos) - 1  # strange photographs may look alike to it
    assert all(3 <= len(caption.split()) <= 20 and "<" not in caption for caption in captions.values())
    for name in WITH_PEOPLE:
        assert PEOPLE & set(captions[name].split()), captions[name]


def test_it_finds_likely_what_people_wrote(shipped: Checkpoint, data_dir: Path) -> None:
    """On photographs it has not seen, perplexity is about that of its card: the file in the package is the one measured."""
    dataset = read_dataset(data_dir / "flickr8k", split="dev").subset(96)
    encoded = _encode(shipped, list(dataset.read()))
    references = [[shipped.vocabulary.encode(text) for text in texts] for texts in dataset.captions]
    figures = [figure for image in reference_nll(shipped.captioner.decoder, encoded, references) for figure in image]
    perplexity = math.exp(sum(nll for nll, _ in figures) / sum(tokens for _, tokens in figures))
    assert perplexity < 1.15 * shipped.card["validation"]["perplexity"]


@pytest.mark.parametrize("document", ["README.md", "docs/captioner.md"])
def test_documented_figures_are_those_of_the_committed_baseline(document: str) -> None:
    """Every score in README and model card, and each end of its interval, is what the self-gate's baseline holds."""
    measured = json.loads(pq.read_schema(ROOT / "tests" / "baselines" / "dev.parquet").metadata[b"capt_scores"])
    text = (ROOT / document).read_text()
    rows = re.findall(r"^\| ([A-Za-z0-9-]+)[^|]* \| ([\d.]+) \| ([\d.]+) to ([\d.]+) \|", text, flags=re.MULTILINE)
    assert len(rows) == len(measured["scores"])
    for name, *shown in rows:
        score = measured["scores"][name.replace("BLEU-", "Bleu_").replace("ROUGE-", "ROUGE_")]
        expected = [score["shown_times"] * score[end] for end in ("value", "low", "high")]
        assert [float(number) for number in shown] == pytest.approx(expected, abs=ROUNDING), name
    assert measured["conditions"]["run"]["checkpoint_sha256"] == hashlib.sha256(DEFAULT_CHECKPOINT.read_bytes()).hexdigest()
    unknown = f"{measured['figures']['unknown_reference_words']:.1%}".replace("%", " %")
    assert unknown in text
    assert f"{len(read_header().vocabulary):,}" in text
