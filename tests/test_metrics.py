"""The metrics: numbers identical to pycocoevalcap called directly, statistics that give them again, METEOR always ended."""

import os
import stat
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from capt.references import read_references
from evaluation import meteor
from evaluation.java import Java, JavaError, find_java
from evaluation.metrics import METRICS, Measured, Tokens
from evaluation.stored import load

CAPTIONS = (
    "a man in a blue shirt is standing on the street",
    "two dogs run through the snow",
    "",
    "a dog is shaking off water",
    "a child jumps",
    "a child jumps",
    "un été à la plage 日本",
    "a a a a a",
    "something entirely unlike it",
    "the man is riding a bike on a dirt road near the mountains",
)
REFERENCES = (
    ("a man stands on a street", "a man in blue is standing outside", "someone wearing a blue shirt"),
    ("two dogs running in snow", "dogs play in the snow"),
    ("a cat sleeps",),
    ("a dog shakes his head", "a dog shakes off water"),
    ("a child jumps", "the kid is jumping"),
    ("", "children playing"),
    ("un été à la plage 日本", "a beach"),
    ("a a b", "the cat"),
    ("two people talk",),
    ("a man rides a bicycle along a mountain path", "a biker on a dirt road"),
)
THEIRS = {"BLEU": Bleu, "METEOR": Meteor, "ROUGE_L": Rouge, "CIDEr": Cider}
TOKENS = Tokens(captions=CAPTIONS, references=REFERENCES)


@pytest.fixture(scope="module")
def measured() -> dict[str, Measured]:
    """Measure everything once, under the locale that makes METEOR answer an empty line when it gets through to Java."""
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("_JAVA_OPTIONS", "-Duser.language=it -Duser.country=IT")
        measures = {name: stack.enter_context(metric.open(find_java())) for name, metric in METRICS.items()}
        return {name: measure(TOKENS) for name, measure in measures.items()}


def _ask_them(
    name: str, gts: dict[int, list[str]], res: dict[int, list[str]], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[float], list[list[float]]]:
    """Call pycocoevalcap directly; give corpus scores, and for each the scores of the images."""
    monkeypatch.setenv("PATH", f"{find_java().executable.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=en -Duser.country=US")
    scorer = THEIRS[name]()
    try:
        score, scores = scorer.compute_score(gts, res, 0) if name == "BLEU" else scorer.compute_score(gts, res)
    finally:
        if name == "METEOR" and scorer.lock.locked():
            scorer.lock.release()  # else its destructor waits for ever
    return (list(score), list(map(list, scores))) if name == "BLEU" else ([score], [list(scores)])


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_shipped_checkpoints_scores_are_those_of_pycocoevalcap(
    name: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The captions in the committed baseline, tokenised and scored by pycocoevalcap alone, give the baseline's own numbers."""
    baseline = load(Path(__file__).parent / "baselines" / "dev.parquet")
    references = read_references(data_dir / "flickr8k", split="dev").captions
    monkeypatch.setenv("PATH", f"{find_java().executable.parent}{os.pathsep}{os.environ['PATH']}")
    texts = dict(enumerate(zip(baseline.captions, (references[image_id] for image_id in baseline.image_ids), strict=True)))
    gts = PTBTokenizer().tokenize({row: [{"caption": text} for text in humans] for row, (_, humans) in texts.items()})
    res = PTBTokenizer().tokenize({row: [{"caption": caption}] for row, (caption, _) in texts.items()})
    expected, rows = _ask_them(name, gts, res, monkeypatch)
    assert [baseline.scores[each].value for each in METRICS[name].names] == [float(value) for value in expected]
    for each, theirs in zip(METRICS[name].names, rows, strict=True):
        assert baseline.per_image[each].tolist() == theirs


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_scores_are_those_of_pycocoevalcap(name: str, measured: dict[str, Measured], monkeypatch: pytest.MonkeyPatch) -> None:
    """Corpus scores and scores of images equal those of the library called directly, to the last digit."""
    gts = {index: list(texts) for index, texts in enumerate(REFERENCES)}
    res = {index: [text] for index, text in enumerate(CAPTIONS)}
    expected, rows = _ask_them(name, gts, res, monkeypatch)
    assert list(measured[name].scores) == list(METRICS[name].names)
    assert list(measured[name].scores.values()) == [float(value) for value in expected]
    for ours, theirs in zip(measured[name].per_image.values(), rows, strict=True):
        assert ours.tolist() == theirs


@pytest.mark.parametrize("name", METRICS)
def test_statistics_give_the_corpus_score_again(name: str, measured: dict[str, Measured]) -> None:
    """What is stored per image adds up to the score; for each image alone too, where the score is no mean."""
    metric, found = METRICS[name], measured[name]
    assert found.statistics.shape == (len(CAPTIONS), len(metric.columns))
    again = metric.corpus(found.statistics.sum(axis=0), len(CAPTIONS))
    np.testing.assert_allclose(again, list(found.scores.values()), rtol=1e-13, atol=0)
    singles = metric.corpus(found.statistics, 1)
    np.testing.assert_allclose(singles, np.stack(list(found.per_image.values()), axis=1), rtol=1e-12, atol=1e-12)


def test_meteor_counts_no_chunk_for_a_whole_match(measured: dict[str, Measured]) -> None:
    """The jar leaves the chunk of a caption that matches as one whole out of the sum, and so do the statistics."""
    chunks = measured["METEOR"].statistics[:, meteor.STATISTICS.index("chunks")]
    assert measured["METEOR"].per_image["METEOR"][4] == pytest.approx(1.0)
    assert chunks[4] == 0
    assert chunks[0] > 0


def test_a_caption_cannot_break_the_protocol(measured: dict[str, Measured]) -> None:
    """Three bars in caption or reference are taken out before METEOR reads them."""
    assert meteor._safe("a ||| dog") == "a dog"
    assert set(measured) == set(METRICS)


def _pretended(path: Path, body: str) -> Java:
    path.write_text(f"#!{sys.executable}\nimport sys, time\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return Java(executable=path)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("print('no memory', file=sys.stderr); sys.exit(1)", r"METEOR ended early \(no memory\)"),
        ("sys.stdin.readline()", r"METEOR ended early \(it said nothing\)"),
        ("time.sleep(60)", "no answer within 1 seconds"),
        ("for line in sys.stdin: print('' if line[0] == 'E' else '1,0', flush=True)", "an answer that is no number"),
    ],
)
def test_meteor_never_hangs_and_never_stays(tmp_path: Path, body: str, message: str) -> None:
    """An early end, silence or nonsense is a JavaError within the time limit, and the process is gone."""
    program = _pretended(tmp_path / "java", body)
    with pytest.raises(JavaError, match=message), meteor.meteor_process(program, answer_seconds=1) as process:
        process.score(["a dog"], [["a dog"]])
    assert process._process.returncode is not None
    assert not process._reader.is_alive()


def test_meteor_is_ended_when_the_caller_fails(tmp_path: Path) -> None:
    """An error anywhere else ends the process too."""
    program = _pretended(tmp_path / "java", "time.sleep(60)")
    with pytest.raises(KeyError), meteor.meteor_process(program) as process:
        raise KeyError
    assert process._process.returncode is not None


def test_a_meteor_that_does_not_start(tmp_path: Path) -> None:
    """A Java that cannot be started is told before anything is scored."""
    (tmp_path / "java").write_text("")
    with pytest.raises(JavaError, match="cannot be started"), meteor.meteor_process(Java(executable=tmp_path / "java")):
        pass
