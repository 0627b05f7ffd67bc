"""The gate's verdicts: what fails, what warns, what cannot be compared, and that the exit code follows from the verdict alone."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from capt.errors import InputError, OutputError
from evaluation import perplexity
from evaluation.baseline import read_baseline, renew_baseline
from evaluation.gate import Finding, Judgement, ScoreVerdict, Verdict, accept, judge
from evaluation.gate_rules import Rule, Rules, Severity
from evaluation.gating import GateOptions, gate
from evaluation.metrics import METRICS
from evaluation.scores import Evaluation, Score
from evaluation.stored import load, save, save_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

N = 200
SPREAD = np.random.default_rng(7).normal(size=N)
SPREAD = (SPREAD - SPREAD.mean()) / SPREAD.std()  # mean 0, standard deviation 1
CONDITIONS: Mapping[str, object] = {
    "references": "captions:test",
    "references_sha256": "ab" * 32,
    "references_per_image": [5, 5],
    "images": N,
    "images_failed": 0,
    "images_missing": 0,
    "tokenizer": "PTB-3.4.1",
    "metrics": {"ROUGE_L": "beta1.2", "CIDEr": "D,df=references"},
    "versions": {"capt": "0.1.0", "pycocoevalcap": "1.2"},
    "run": {"checkpoint_name": "a", "checkpoint_sha256": "aa", "decoding": {"beam_size": 3}, "precision": "float32"},
}


def _evaluation(
    *, cider: float = 0.5, rouge: float | None = 0.4, spread: float = 0.0, nats: float | None = None, **conditions: object
) -> Evaluation:
    """Make an evaluation of N images whose scores are exactly these; `spread` moves single images, not the mean."""
    tables: dict[str, NDArray[np.float64]] = {}
    own = 0.1 * np.sin(np.arange(N))  # images differ; the same in every evaluation
    own -= own.mean()
    if rouge is not None:
        tables["ROUGE_L"] = (rouge + own + spread * SPREAD)[:, None]
    tables["CIDEr"] = (cider + own + spread * SPREAD)[:, None]
    scores = {name: _score(float(METRICS[name].corpus(table.sum(axis=0), N)[0])) for name, table in tables.items()}
    if nats is not None:
        tables[perplexity.NAME] = np.stack([np.full(N, 50 * nats), np.full(N, 50.0)], axis=1)
        scores[perplexity.NAME] = replace(_score(float(np.exp(nats))), higher_is_better=False, shown_times=1.0)
    return Evaluation(
        scores=scores,
        figures={},
        signature="refs:captions:test",
        conditions={**CONDITIONS, **conditions},
        notes=[],
        image_ids=[f"{row}.jpg" for row in range(N)],
        captions=[f"a dog {row}" for row in range(N)],
        per_image={name: table[:, 0] for name, table in tables.items()},
        statistics=tables,
    )


def _score(value: float) -> Score:
    return Score(value=value, low=value, high=value, n=N)


def _row(judgement: Judgement, name: str) -> ScoreVerdict:
    (row,) = [row for row in judgement.rows if row.name == name]
    return row


@pytest.mark.parametrize(
    ("drop", "spread", "findings", "verdict"),
    [
        (0.02, 0.0, (Finding.LARGE, Finding.SIGNIFICANT), Verdict.FAIL),
        (0.02, 0.5, (Finding.LARGE,), Verdict.WARN),
        (0.005, 0.0, (Finding.SIGNIFICANT,), Verdict.WARN),
        (0.005, 0.5, (), Verdict.PASS),
        (0.0, 0.0, (), Verdict.PASS),
        (-0.02, 0.5, (), Verdict.PASS),
        (-0.02, 0.0, (Finding.BETTER,), Verdict.PASS),
    ],
)
def test_a_drop_that_is_large_and_significant_fails_and_one_alone_warns(
    drop: float, spread: float, findings: tuple[Finding, ...], verdict: Verdict
) -> None:
    """CIDEr may fall by 1.0 (×100), or by what chance explains; beyond one of them it warns, beyond both it fails."""
    judgement = judge(_evaluation(), _evaluation(cider=0.5 - drop, spread=spread), Rules())
    row = _row(judgement, "CIDEr")
    assert (tuple(row.findings), row.verdict) == (findings, verdict)
    assert row.difference == pytest.approx(-drop, abs=1e-12)
    assert row.allowed == pytest.approx(0.01)


def test_the_interval_is_that_of_paired_differences() -> None:
    """It agrees with the normal approximation of the mean difference, which never saw a resample."""
    row = _row(judge(_evaluation(), _evaluation(cider=0.49, spread=0.1), Rules()), "CIDEr")
    half = 1.96 * 0.1 / np.sqrt(N)
    assert row.low == pytest.approx(-0.01 - half, abs=0.15 * half)
    assert row.high == pytest.approx(-0.01 + half, abs=0.15 * half)


def test_the_larger_tolerance_counts_and_reaching_it_is_no_excess() -> None:
    """Absolute 1.0 and relative 10 % of 50 allow a drop of 5.0, exactly 5.0 included."""
    rules = Rules(stated={"CIDEr": Rule(absolute=1.0, relative=0.1)})
    for drop, verdict in ((0.05, Verdict.WARN), (0.0501, Verdict.FAIL)):  # significant in any case
        row = _row(judge(_evaluation(), _evaluation(cider=0.5 - drop), rules), "CIDEr")
        assert row.allowed == pytest.approx(0.05)
        assert row.verdict is verdict
    for hundredths in range(1, 40):  # some of these differences are a last digit above their tolerance
        equal = Rules(stated={"CIDEr": Rule(absolute=hundredths)})
        assert judge(_evaluation(), _evaluation(cider=0.5 - hundredths / 100), equal).verdict is Verdict.WARN


@pytest.mark.parametrize(("factor", "verdict"), [(1.03, "fail"), (1.01, "warn"), (1.0, "pass"), (0.97, "pass")])
def test_perplexity_is_worse_when_it_rises(factor: float, verdict: str) -> None:
    """By default 2 % more may fail, less never does."""
    before, after = _evaluation(nats=2.0), _evaluation(nats=2.0 + np.log(factor))
    row = _row(judge(before, after, Rules()), "perplexity")
    assert row.verdict == verdict
    assert row.candidate == pytest.approx(np.exp(2) * factor)


def test_scores_without_a_tolerance_warn_at_most() -> None:
    """By default ROUGE-L cannot fail, however far it falls; with a tolerance of one's own it can."""
    fallen = _evaluation(rouge=0.2)
    judgement = judge(_evaluation(), fallen, Rules())
    assert (judgement.verdict, judgement.verdict.exit_code) == (Verdict.WARN, 0)
    assert judge(_evaluation(), fallen, Rules(stated={"ROUGE_L": Rule(absolute=1.0)})).verdict is Verdict.FAIL


def test_strict_makes_every_warning_a_failure() -> None:
    """Then verdict and exit code say fail, in the score and in the whole; what passed still passes."""
    judgement = judge(_evaluation(), _evaluation(rouge=0.2), Rules(), strict=True)
    assert (judgement.verdict, judgement.verdict.exit_code) == (Verdict.FAIL, 1)
    assert _row(judgement, "ROUGE_L").findings == (Finding.SIGNIFICANT, Finding.STRICT)
    assert _row(judgement, "CIDEr").verdict is Verdict.PASS


def test_severity_bounds_what_a_drop_may_lead_to() -> None:
    """`warn` never fails by a drop, and `ignore` says nothing of it."""
    for severity, verdict in ((Severity.FAIL, "fail"), (Severity.WARN, "warn"), (Severity.IGNORE, "pass")):
        rules = Rules(stated={"CIDEr": Rule(absolute=1.0, severity=severity)})
        assert judge(_evaluation(), _evaluation(cider=0.4), rules).verdict == verdict


@pytest.mark.parametrize("severity", [Severity.FAIL, Severity.WARN])
def test_below_the_floor_always_fails(severity: Severity) -> None:
    """Even when the score rose, or only warns, or is new; at the floor it passes. Perplexity has a ceiling instead."""
    for name, rule, before, after in (
        ("CIDEr", Rule(floor=60.0, severity=severity), _evaluation(), _evaluation(cider=0.599)),
        ("perplexity", Rule(ceiling=7.0, severity=severity), _evaluation(nats=2.0), _evaluation(nats=1.95)),
    ):
        rules = Rules(stated={name: rule})
        assert Finding.LIMIT in _row(judge(before, after, rules), name).findings
        assert judge(before, after, rules).verdict is Verdict.FAIL
        assert judge(None, after, rules).verdict is Verdict.FAIL
    reached = Rules(stated={"CIDEr": Rule(floor=60.0), "perplexity": Rule(ceiling=float(np.exp(1.9)))})
    assert judge(_evaluation(nats=2.0), _evaluation(cider=0.6, nats=1.9), reached).verdict is Verdict.PASS


def test_a_vanished_score_fails_and_a_new_one_passes() -> None:
    """What the baseline has or the rules name, the candidate must have, unless the rules ignore it."""
    whole, less = _evaluation(nats=2.0), _evaluation(rouge=None)
    judgement = judge(whole, less, Rules())
    for name in ("ROUGE_L", "perplexity"):
        assert (_row(judgement, name).verdict, _row(judgement, name).findings) == (Verdict.FAIL, (Finding.VANISHED,))
    named = judge(less, less, Rules(stated={"METEOR": Rule(absolute=0.3)}))
    assert (named.verdict, _row(named, "METEOR").findings) == (Verdict.FAIL, (Finding.VANISHED,))
    ignored = {name: Rule(severity=Severity.IGNORE) for name in ("ROUGE_L", "perplexity", "METEOR")}
    assert judge(whole, less, Rules(stated=ignored)).verdict is Verdict.PASS
    new = judge(less, whole, Rules())
    assert (new.verdict, _row(new, "perplexity").findings) == (Verdict.PASS, (Finding.NEW,))


def test_what_gives_no_number_fails() -> None:
    """Perplexity over other tokens, or one that is infinite, is never a pass."""
    before, after = _evaluation(nats=2.0), _evaluation(nats=2.0)
    shifted = after.statistics | {perplexity.NAME: after.statistics[perplexity.NAME] + [[0.0, 1.0]]}  # type: ignore[operator]  # dicts
    judgement = judge(before, replace(after, statistics=shifted), Rules())
    assert (judgement.verdict, _row(judgement, "perplexity").findings) == (Verdict.FAIL, (Finding.UNDEFINED,))
    for value in (np.inf, np.nan):
        scores = {**after.scores, "perplexity": replace(after.scores["perplexity"], value=value)}
        assert judge(None, replace(after, scores=scores), Rules()).verdict is Verdict.FAIL


def test_what_no_reader_could_see_is_no_finding() -> None:
    """Another processor moves every image by a millionth, all the same way: neither significant nor better."""
    before = _evaluation(nats=2.0)
    for shift in (1e-6, -1e-6):
        judgement = judge(before, _evaluation(cider=0.5 + shift, rouge=0.4 + shift, nats=2.0 + shift), Rules())
        assert [tuple(row.findings) for row in judgement.rows] == [(), (), ()]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"references_sha256": "cd" * 32}, "references differ"),
        ({"references_per_image": [4, 4]}, "number of references"),
        ({"tokenizer": "spaces"}, "tokeniser"),
        ({"metrics": {"ROUGE_L": "beta1.2", "CIDEr": "plain"}}, "CIDEr"),
    ],
)
def test_other_references_or_metrics_are_not_comparable(change: dict[str, Any], said: str) -> None:
    """Then no score has a verdict of its own, no difference is shown, strict or not, and the reason is told."""
    for strict in (False, True):
        judgement = judge(_evaluation(), _evaluation(cider=0.1, **change), Rules(), strict=strict)
        assert {row.verdict for row in judgement.rows} == {Verdict.NOT_COMPARABLE}
        assert {row.difference for row in judgement.rows} == {None}
        assert (judgement.verdict, judgement.verdict.exit_code) == (Verdict.NOT_COMPARABLE, 3)
        assert said in " ".join(judgement.reasons)


def test_other_images_are_not_comparable() -> None:
    """The reason names some of them."""
    before = _evaluation()
    judgement = judge(before, replace(before, image_ids=["other.jpg", *before.image_ids[1:]]), Rules())
    assert judgement.verdict is Verdict.NOT_COMPARABLE
    assert "other.jpg" in " ".join(judgement.reasons)


def test_the_verdict_of_the_whole_is_the_worst_and_the_exit_code_follows() -> None:
    """Pass and warn end with 0, fail with 1, not comparable with 3; with nothing judged there is nothing to pass."""
    found = [ScoreVerdict(name=str(verdict), verdict=verdict) for verdict in Verdict]
    for last, code in zip(range(1, 5), (0, 0, 1, 3), strict=True):
        judgement = Judgement(rows=list(reversed(found[:last])))
        assert judgement.verdict is found[last - 1].verdict
        assert judgement.verdict.exit_code == code
    assert Judgement().verdict is Verdict.NOT_COMPARABLE
    assert Judgement(rows=found[:1], reasons=["why"]).verdict is Verdict.NOT_COMPARABLE


def test_what_differs_between_the_runs_is_listed() -> None:
    """Choices inside the fingerprint by their own name, and the versions that scored; nothing when a run is unknown."""
    run = {**CONDITIONS["run"], "decoding": {"beam_size": 1}}  # type: ignore[dict-item]  # a mapping
    other = _evaluation(run=run, versions={"capt": "0.2.0", "pycocoevalcap": "1.2"})
    changes = judge(_evaluation(), other, Rules()).changes
    assert [(each.key, each.baseline, each.candidate) for each in changes] == [
        ("run.decoding.beam_size", "3", "1"),
        ("scored with.capt", "0.1.0", "0.2.0"),
    ]
    assert judge(_evaluation(), _evaluation(run=None), Rules()).changes == []


def test_a_new_baseline_is_accepted_with_what_was_found(tmp_path: Path) -> None:
    """Every verdict becomes pass, the findings stay; an old baseline that did not compare becomes a note."""
    judgement = accept(judge(_evaluation(), _evaluation(cider=0.4), Rules()), tmp_path)
    assert (judgement.verdict, judgement.renewed) == (Verdict.PASS, tmp_path)
    assert _row(judgement, "CIDEr").findings == (Finding.LARGE, Finding.SIGNIFICANT, Finding.ACCEPTED)
    other = accept(judge(_evaluation(), _evaluation(references_sha256="cd"), Rules()), tmp_path)
    assert other.verdict is Verdict.PASS
    assert other.notes[0].startswith("The old baseline did not compare: the references differ")


def test_the_baseline_is_written_only_when_told_to(tmp_path: Path) -> None:
    """A missing one is not comparable and names the option; with it the file appears, and the candidate passes against it."""
    candidate, path = tmp_path / "scores", tmp_path / "new" / "baseline.parquet"
    save(_evaluation(), candidate)
    options = GateOptions(candidate=candidate, baseline=path)
    missing = gate(options)
    assert missing.verdict is Verdict.NOT_COMPARABLE
    assert "--update-baseline" in missing.reasons[0]
    assert not path.parent.exists()
    assert gate(replace(options, update=True)).verdict is Verdict.PASS
    content = path.read_bytes()
    assert gate(options).verdict is Verdict.PASS
    save(_evaluation(cider=0.4), candidate)
    assert gate(options).verdict is Verdict.FAIL
    assert path.read_bytes() == content
    renewed = gate(replace(options, update=True))
    assert renewed.verdict is Verdict.PASS
    assert _row(renewed, "CIDEr").difference == pytest.approx(-0.1)
    assert load(path).scores["CIDEr"].value == pytest.approx(0.4)


def test_a_baseline_is_whole_and_replaces_nothing_else(tmp_path: Path) -> None:
    """Partial scores, a folder and a file of something else are refused, and stay as they are."""
    text = tmp_path / "notes.txt"
    text.write_text("mine")
    save(_evaluation(), tmp_path / "scores")
    refused = gate(GateOptions(candidate=tmp_path / "scores", baseline=text, update=True))
    assert (refused.verdict, text.read_text()) == (Verdict.NOT_COMPARABLE, "mine")
    with pytest.raises(InputError, match="must not be partial"):
        renew_baseline(_evaluation(images_missing=3), tmp_path / "new.parquet")
    with pytest.raises(InputError, match="a baseline is one file"):
        renew_baseline(_evaluation(), tmp_path)
    with pytest.raises(OutputError, match="cannot be written"):
        renew_baseline(_evaluation(), text / "deeper" / "baseline.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "scores"]


def test_what_cannot_be_read_is_a_verdict(tmp_path: Path) -> None:
    """Rules with a fault and captions without references are not comparable, with the sentence as the reason."""
    save_file(_evaluation(), tmp_path / "baseline.parquet")
    (tmp_path / "rules.toml").write_text("[CIDEr]\nabs = 1.0\n")
    options = GateOptions(candidate=tmp_path / "baseline.parquet", baseline=tmp_path / "baseline.parquet")
    faulty = gate(replace(options, rules=tmp_path / "rules.toml"))
    assert (faulty.verdict, len(faulty.rows)) == (Verdict.NOT_COMPARABLE, 0)
    assert "'abs'" in faulty.reasons[0]
    (tmp_path / "captions.csv").write_text("image,caption\n0.jpg,a dog\n")
    bare = gate(replace(options, candidate=tmp_path / "captions.csv"))
    assert "--references" in bare.reasons[0]


def test_a_baseline_of_a_thousand_images_is_small(tmp_path: Path) -> None:
    """With every metric's statistics, all of them different, it takes less than half a megabyte."""
    rng = np.random.default_rng(3)
    tables = {name: rng.random((1000, len(metric.columns))) for name, metric in METRICS.items()}
    tables[perplexity.NAME] = rng.random((1000, 2))
    words = np.array(["a", "man", "woman", "dog", "runs", "in", "the", "red", "grass", "with", "another", "ball", "on", "street"])
    one = replace(
        _evaluation(),
        image_ids=[f"{number}.jpg" for number in rng.integers(10**9, 10**10, 1000)],
        captions=[" ".join(rng.choice(words, 12)) for _ in range(1000)],
        statistics=tables,
        per_image={name: rng.random(1000) for metric in METRICS.values() for name in metric.names},
    )
    path = tmp_path / "baseline.parquet"
    renew_baseline(one, path)
    assert path.stat().st_size < 500_000
    assert list(read_baseline(path).captions) == list(one.captions)


def test_a_baseline_holds_no_human_captions(tmp_path: Path) -> None:
    """Its only texts are ids and machine captions; everything else is numbers."""
    renew_baseline(_evaluation(nats=2.0), tmp_path / "baseline.parquet")
    schema = pq.read_schema(tmp_path / "baseline.parquet")
    assert [field.name for field in schema if str(field.type) != "double"] == ["image_id", "caption"]
