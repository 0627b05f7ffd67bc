"""Evaluations on disk: what is read back is what was written, to the last digit; what is broken is one sentence."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from capt.errors import InputError
from evaluation.evaluate import evaluate
from evaluation.metrics import METRICS
from evaluation.pairs import Pairs
from evaluation.perplexity import COLUMNS, Likelihood
from evaluation.scores import Evaluation
from evaluation.stored import METADATA_KEY, SCORES_FORMAT, ScoresFile, is_scored, load, save, save_file, scores_file

PAIRS = Pairs(
    image_ids=["a", "b", "c"],
    captions=["a dog runs.", "Two men sit on a bench", ""],
    references=[["A dog runs!", "a brown dog"], ["two men on a bench"], ["a cat", "cats"]],
    likelihoods=[Likelihood(nll=[4.0, 5.0], tokens=[4, 4]), Likelihood(nll=[9.0], tokens=[6]), None],
    origin="refs:test",
    references_sha256="0123456789abcdef",
)


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Score three images without METEOR."""
    return evaluate(PAIRS, metrics=["BLEU", "ROUGE_L", "CIDEr"])


@pytest.mark.parametrize("way", ["folder", "file"])
def test_what_was_written_is_read_back(way: str, evaluation: Evaluation, tmp_path: Path) -> None:
    """Scores, intervals, statistics, figures and conditions survive the disk to the last digit, in either form."""
    path = tmp_path / ("scores" if way == "folder" else "baseline.parquet")
    (save if way == "folder" else save_file)(evaluation, path)
    found = load(path)
    assert is_scored(path)
    assert scores_file(found) == json.loads(json.dumps(scores_file(evaluation)))
    assert list(found.image_ids) == list(evaluation.image_ids)
    assert list(found.captions) == list(evaluation.captions)
    assert list(found.statistics) == list(evaluation.statistics)
    for name, table in evaluation.statistics.items():
        np.testing.assert_array_equal(found.statistics[name], table)
    for name, values in evaluation.per_image.items():
        np.testing.assert_array_equal(found.per_image[name], values)


def test_what_holds_no_scores_is_refused(evaluation: Evaluation, tmp_path: Path) -> None:
    """Nothing, text, another table, a newer format and a lost column are one sentence each that says what to do."""
    (tmp_path / "text").write_text("no parquet")
    pq.write_table(pq.ParquetFile(_written(evaluation, tmp_path)).read().replace_schema_metadata({}), tmp_path / "bare")
    table = pq.ParquetFile(_written(evaluation, tmp_path)).read()
    newer = json.dumps(json.loads(table.schema.metadata[METADATA_KEY]) | {"format": 99})
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: newer}), tmp_path / "newer")
    pq.write_table(table.drop_columns(["BLEU.matches_3"]), tmp_path / "cut")
    for name, message in {
        "nothing": "holds no scores: give the folder",
        "text": "cannot be read",
        "bare": "score the captions first",
        "newer": "format 99 is newer",
        "cut": "is not whole",
    }.items():
        with pytest.raises(InputError, match=message):
            load(tmp_path / name)
    assert not any(is_scored(tmp_path / name) for name in ("nothing", "text", "bare"))


def _written(evaluation: Evaluation, folder: Path) -> Path:
    save_file(evaluation, folder / "whole.parquet")
    return folder / "whole.parquet"


def test_the_documentation_names_every_key_and_column(evaluation: Evaluation) -> None:
    """docs/scores.md describes what is written: every key of scores.json, every figure, every statistic but METEOR's counts."""
    text = (Path(__file__).parents[1] / "docs" / "scores.md").read_text(encoding="utf-8")
    found = evaluate(PAIRS, metrics=["BLEU"], training=["a dog"])
    names = {*ScoresFile.__annotations__, *evaluation.scores["CIDEr"].__dict__, *evaluation.figures, *found.figures, *COLUMNS}
    assert {name for name in names if f"`{name}`" not in text} == set()
    for name in METRICS["BLEU"].columns:
        assert f"`{name}`" in text or name[-1] in "23"
    assert f"of this file, {SCORES_FORMAT};" in text
