"""Pairs become an Evaluation: scores with intervals and signature, figures, notes, and two files that keep them."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from capt.captions import Fingerprint
from capt.errors import InputError, OutputError
from capt.references import read_references
from evaluation.evaluate import evaluate
from evaluation.figures import explaining_figures, unseen_share
from evaluation.java import JavaError
from evaluation.metrics import METRICS
from evaluation.pairs import Captions, Pairs, join
from evaluation.perplexity import Likelihood
from evaluation.scores import Evaluation
from evaluation.signature import current_commit, signature
from evaluation.significance import Bootstrap
from evaluation.stored import per_image_table, save, scores_file

FAST = ("BLEU", "ROUGE_L", "CIDEr")
FINGERPRINT = Fingerprint(
    checkpoint_name="default",
    checkpoint_sha256="ab" * 32,
    decoding={"beam_size": 3, "max_length": 20},
    attention=False,
    precision="float32",
    preprocessing={},
    max_pixels=1,
    source_sha256="cd",
    source_rows=3,
    shard_size=10,
    references_sha256=None,
    batch_size=1,
    device="cpu",
    versions={},
)
PAIRS = Pairs(
    image_ids=["a", "b", "c"],
    captions=["a dog runs.", "Two men sit on a bench", ""],
    references=[["A dog runs!", "a brown dog"], ["two men on a bench"], ["a cat", "cats"]],
    likelihoods=[Likelihood(nll=[4.0, 5.0], tokens=[4, 4], unknown=[1, 0]), Likelihood(nll=[9.0], tokens=[6], unknown=[0]), None],
    origin="refs:test",
    references_sha256="0123456789abcdef",
    failed=1,
    missing=2,
    extra=1,
    fingerprint=FINGERPRINT,
)


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Score three images without METEOR."""
    return evaluate(PAIRS, metrics=FAST)


def test_every_score_has_n_and_an_interval(evaluation: Evaluation) -> None:
    """BLEU-1 to 4, ROUGE-L, CIDEr and perplexity each carry n and an interval around the value."""
    assert list(evaluation.scores) == ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr", "perplexity"]
    for name, score in evaluation.scores.items():
        assert score.low <= score.value <= score.high
        assert score.n == (2 if name == "perplexity" else 3)
    perplexity = evaluation.scores["perplexity"]
    assert perplexity.value == pytest.approx(np.exp(18 / 14))
    assert (perplexity.higher_is_better, perplexity.shown_times) == (False, 1)


def test_the_signature_holds_everything_that_changes_a_number(evaluation: Evaluation) -> None:
    """References, counts, tokeniser, metrics, run, versions and bootstrap are in the line; changing one changes it."""
    for part in (
        "refs:refs:test|sha:0123456789ab|nrefs:1-2|n:3|failed:1|missing:2|tok:PTB-3.4.1|BLEU:closest",
        "ckpt:default@abababababab|decode:beam_size=3,max_length=20|precision:float32",
        "pycocoevalcap:1.2|boot:1000@12345",
    ):
        assert part in evaluation.signature
    other = {**evaluation.conditions, "references_sha256": "ffff", "run": None, "images_failed": 0}
    assert signature(other) != evaluation.signature
    assert "ckpt" not in signature(other)
    assert "failed" not in signature(other)


def test_notes_say_what_a_reader_must_know(evaluation: Evaluation) -> None:
    """Partial, left out, failed, few images, no likelihoods: each is said."""
    text = " ".join(evaluation.notes)
    for part in ("Partial: 2 images", "1 captions without references", "1 images failed", "CIDEr over 3 images means little"):
        assert part in text
    bare = evaluate(replace(PAIRS, likelihoods=[None] * 3, failed=0, missing=0, extra=0, fingerprint=None), metrics=["BLEU"])
    assert len(bare.notes) == 1
    assert "capt-batch run SOURCE --references REFS" in bare.notes[0]
    assert "perplexity" not in bare.scores


def test_scores_follow_from_the_stored_statistics(evaluation: Evaluation) -> None:
    """per_image.parquet holds what gives every corpus score again."""
    table = per_image_table(evaluation)
    for name in FAST:
        metric = METRICS[name]
        sums = np.array([table.column(f"{name}.{column}").to_numpy().sum() for column in metric.columns])
        again = metric.corpus(sums, table.num_rows)
        np.testing.assert_allclose(again, [evaluation.scores[each].value for each in metric.names], rtol=1e-13)


def test_files_are_whole_and_typed(evaluation: Evaluation, tmp_path: Path) -> None:
    """scores.json and per_image.parquet come without leftovers, and say the same as the evaluation."""
    save(evaluation, tmp_path / "new" / "scores")
    assert sorted(path.name for path in (tmp_path / "new" / "scores").iterdir()) == ["per_image.parquet", "scores.json"]
    content = json.loads((tmp_path / "new" / "scores" / "scores.json").read_text())
    assert content["format"] == 1
    assert content["signature"] == evaluation.signature
    assert content["scores"]["CIDEr"]["value"] == evaluation.scores["CIDEr"].value
    assert content | {"date": ""} == json.loads(json.dumps(scores_file(evaluation))) | {"date": ""}
    table = pq.read_table(tmp_path / "new" / "scores" / "per_image.parquet")
    assert table.column("image_id").to_pylist() == ["a", "b", "c"]
    assert json.loads(table.schema.metadata[b"capt_scores"])["signature"] == evaluation.signature


def test_a_folder_that_cannot_be_written_is_an_output_error(evaluation: Evaluation, tmp_path: Path) -> None:
    """A file where the folder should be is told in one sentence."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        save(evaluation, tmp_path / "file")


def test_one_image_is_refused_by_cider_only() -> None:
    """CIDEr of one image is always 0, so it is refused; BLEU is not."""
    one = replace(PAIRS, image_ids=["a"], captions=["a dog"], references=[["a dog"]], likelihoods=[None])
    with pytest.raises(InputError, match="CIDEr needs two images"):
        evaluate(one)
    assert evaluate(one, metrics=["BLEU"]).scores["Bleu_1"].value == pytest.approx(1)


def test_a_missing_java_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Java nothing is scored, and nothing is left waiting."""
    monkeypatch.setenv("CAPT_JAVA", "/nothing")
    with pytest.raises(JavaError):
        evaluate(PAIRS)


def test_figures_explain() -> None:
    """Length, ratio to the closest reference, distinct words and captions, repetition and emptiness."""
    figures = explaining_figures(["a b a b a b", "a b a b a b", "c", ""], [["a b c"], ["a", "a b c d e"], ["c d", "c"], ["c"]])
    assert figures == {
        "mean_length": 13 / 4,
        "length_ratio": 13 / (3 + 5 + 1 + 1),
        "distinct_words": 3,
        "distinct_captions": 3 / 4,
        "repeated_3grams": 1 / 2,
        "empty_captions": 1 / 4,
    }
    assert explaining_figures([""], [[""]])["length_ratio"] == 0


def test_copies_of_training_captions_are_counted() -> None:
    """Case and punctuation do not hide a copy; what nobody wrote before is unseen."""
    assert unseen_share(["a dog runs", "A cat.", "new words", ""], ["A dog runs!", "a cat"]) == 2 / 4
    found = evaluate(PAIRS, metrics=["BLEU"], training=["a dog runs"])
    assert found.figures["unseen_captions"] == pytest.approx(2 / 3)
    assert "unseen_captions" not in evaluate(PAIRS, metrics=["BLEU"]).figures


def test_unknown_words_stand_beside_perplexity(evaluation: Evaluation) -> None:
    """The share of words read as `<unk>` is a figure, since many of them make perplexity low."""
    assert evaluation.figures["unknown_reference_words"] == 1 / 11


def test_the_commit_is_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Inside a repository a score names its commit and says when files were changed; outside, or without git, none."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)  # a hook of git sets these
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert current_commit() is None
    git = ("git", "-c", "user.name=x", "-c", "user.email=x@y", "-c", "commit.gpgsign=false")
    (tmp_path / "file").write_text("1")
    for command in (("init", "-q"), ("add", "file"), ("commit", "-qm", "first")):
        subprocess.run((*git, *command), check=True)
    head = subprocess.run((*git, "rev-parse", "HEAD"), check=True, capture_output=True, text=True).stdout.strip()
    assert current_commit() == head
    (tmp_path / "file").write_text("2")
    assert current_commit() == f"{head}-dirty"
    monkeypatch.setenv("PATH", "")
    assert current_commit() is None


def test_one_human_against_the_other_four(data_dir: Path) -> None:
    """The known anchor on Flickr8k's development split: all metrics, METEOR included, on real captions."""
    references = read_references(data_dir / "flickr8k", split="dev")
    others = replace(references, captions={name: texts[1:] for name, texts in references.captions.items()})
    humans = [texts[0] for texts in references.captions.values()]
    captions = Captions(image_ids=list(references.captions), captions=humans, likelihoods=[None] * len(humans))
    found = evaluate(join(captions, others), bootstrap=Bootstrap(resamples=200))
    shown = {name: round(100 * score.value, 2) for name, score in found.scores.items()}
    assert shown == {
        "Bleu_1": 63.22,
        "Bleu_2": 44.85,
        "Bleu_3": 31.17,
        "Bleu_4": 21.51,
        "METEOR": 25.68,
        "ROUGE_L": 49.60,
        "CIDEr": 81.41,
    }
    meteor = found.statistics["METEOR"].sum(axis=0)
    assert METRICS["METEOR"].corpus(meteor, 964)[0] == pytest.approx(found.scores["METEOR"].value, rel=1e-13)
