"""Anchors: the numbers that something known reaches on the same references."""

from dataclasses import replace
from pathlib import Path

import pytest

from capt.references import read_references
from evaluation.anchors import CONSTANT_CAPTION, FLOOR, HUMAN, find_anchors
from evaluation.cache import Cache
from evaluation.evaluate import evaluate
from evaluation.measure import Instruments
from evaluation.pairs import Captions, Pairs, join

PAIRS = Pairs(
    image_ids=["a", "b", "c"],
    captions=["these", "are not", "used"],
    references=[["a dog runs", "a brown dog runs"], ["two men", "two men sit", "men"], ["a cat on a mat", "the cat sits"]],
    likelihoods=[None] * 3,
    origin="refs",
    references_sha256="00",
)
FAST = ["BLEU", "ROUGE_L", "CIDEr"]


def test_anchors_are_evaluations_of_something_known() -> None:
    """The floor scores one caption for all images, the human each first reference against the others: as if run by hand."""
    anchors = find_anchors(PAIRS, FAST, Instruments(cache=Cache(folder=None)), constant="a man")
    floor = evaluate(replace(PAIRS, captions=["a man"] * 3), metrics=FAST)
    human = evaluate(
        replace(PAIRS, captions=[each[0] for each in PAIRS.references], references=[each[1:] for each in PAIRS.references]),
        metrics=FAST,
    )
    assert list(anchors) == [FLOOR, HUMAN]
    assert anchors[FLOOR].scores == {name: score.value for name, score in floor.scores.items()}
    assert anchors[HUMAN].scores == {name: score.value for name, score in human.scores.items()}
    assert "a man" in anchors[FLOOR].said
    assert (anchors[FLOOR].references_per_image, anchors[HUMAN].references_per_image, anchors[HUMAN].n) == (3, 2, 3)


def test_one_reference_gives_no_human() -> None:
    """Where an image has a single reference there is nobody to compare a human with."""
    single = replace(PAIRS, references=[*PAIRS.references[:2], ["a cat"]])
    assert list(find_anchors(single, ["BLEU"], Instruments())) == [FLOOR]


def test_the_anchors_of_real_references(data_dir: Path) -> None:
    """On 964 photographs a constant caption reaches high BLEU-1 and no CIDEr, a human much more."""
    references = read_references(data_dir / "flickr8k", split="dev")
    ids = list(references.captions)
    pairs = join(Captions(image_ids=ids, captions=[CONSTANT_CAPTION] * len(ids), likelihoods=[None] * len(ids)), references)
    anchors = find_anchors(pairs, FAST, Instruments())
    assert anchors[FLOOR].scores["Bleu_1"] > 0.4
    assert anchors[FLOOR].scores["CIDEr"] < 0.15
    assert anchors[HUMAN].scores["CIDEr"] == pytest.approx(0.8141, abs=1e-4)
