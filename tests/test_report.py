"""What a report says: who is better and whether it is real, which photographs are shown, how numbers are written."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from capt.errors import InputError
from evaluation.comparison import Difference
from evaluation.scores import Anchor, Evaluation, Score
from reports.compose import compose
from reports.contest import count_signs, decide
from reports.document import Document, Example, Gallery, Table
from reports.findings import Dimension, Epoch, Estimate, Failure, Findings, Photograph, Pictures, Speed, System, Training
from reports.published import PUBLISHED, relevant
from reports.record import report_file
from reports.sections.buckets import labels, tags
from reports.sections.examples import choose_examples, looked, make_examples
from reports.wording import interval, number, p_value, percent, plural, signed

GOLDEN = Path(__file__).with_name("golden")
HOSTILE = '<script>alert("x")</script> & [a](http://evil.example) @user `x` | #1 <img src=x onerror=alert(1)>'
N = 12
BASE = np.array([0.125, 0.5, 1.25, 0.0, 0.75, 0.25, 0.875, 0.375, 0.625, 2.0, 0.75, 0.25])  # exact sums on every machine
GAINS = np.array([0.5, 0.0, -0.375, 0.0, 0.125, 0.625, 0.0, -0.125, 0.0, 0.25, 0.0, 0.375])


def evaluation_of(cider: Sequence[float], captions: Sequence[str], **changes: object) -> Evaluation:
    """Make an evaluation whose numbers are what they are, without a judge."""
    values = np.asarray(cider, dtype=np.float64)
    mean = float(values.mean())
    scores = {
        "Bleu_4": Score(value=mean / 3, low=mean / 3 - 0.02, high=mean / 3 + 0.02, n=len(values)),
        "CIDEr": Score(value=mean, low=mean - 0.1, high=mean + 0.1, n=len(values)),
        "perplexity": Score(value=15.25, low=14.5, high=16.0, n=len(values), higher_is_better=False, shown_times=1.0),
    }
    run = {"checkpoint_name": "x.safetensors", "precision": "float32", "device": "cpu", "batch_size": 8}
    conditions = {
        "references": "flickr8k:dev",
        "references_sha256": "ab" * 32,
        "images": len(values),
        "images_failed": 0,
        "run": run,
    }
    evaluation = Evaluation(
        scores=scores,
        figures={"mean_length": 9.5, "distinct_captions": 0.75, "empty_captions": 0.0},
        signature=f"refs:flickr8k:dev|n:{len(values)}|ckpt:{captions[0][:5]}",
        conditions=conditions,
        notes=[],
        image_ids=[f"{row:02d}.jpg" for row in range(len(values))],
        captions=list(captions),
        per_image={"CIDEr": values, "Bleu_4": values / 3},
        statistics={"CIDEr": values[:, None]},
        anchors={
            "constant caption": Anchor(said="the same for all", scores={"CIDEr": 0.084}, references_per_image=2, n=len(values))
        },
        date="2026-01-02",
    )
    return replace(evaluation, **changes)  # type: ignore[arg-type]  # a test's own fields


def difference_of(name: str, baseline: float, value: float, *, p: float, spread: float = 0.05) -> Difference:
    """Make a difference whose p is what it is."""
    apart = value - baseline
    return Difference(
        name=name,
        baseline=baseline,
        value=value,
        difference=apart,
        low=apart - spread,
        high=apart + spread,
        p_bootstrap=p,
        p_randomisation=p,
        p_corrected=p,
        n=N,
        higher_is_better=name != "perplexity",
        shown_times=1.0 if name == "perplexity" else 100.0,
    )


def findings_of(names: Sequence[str] = ("old", "new"), *, p: float = 0.01, text: str = "a dog runs") -> Findings:
    """Make findings of one captioner or more: the first is the baseline, each further one gains more."""
    systems, differences = [], {}
    base = float(BASE.mean())
    for index, name in enumerate(names):
        evaluation = evaluation_of(BASE + index * GAINS, [f"{text} {row} {name}" for row in range(N)])
        systems.append(
            System(
                name=name,
                judged=evaluation,
                speed=Speed(images=N, seconds=2.5, stages={"encoder": 1.5, "caption search": 0.75}),
                failures=[Failure(image_id="03.jpg", kind="truncated", said=f"The file ends early. {text}")] if index else [],
                card={"date": "2026-01-01", "data": {"source": text}},
                has_attention=bool(index),
            )
        )
        if index:
            value = evaluation.scores["CIDEr"].value
            differences[name] = {
                "Bleu_4": difference_of("Bleu_4", base / 3, value / 3, p=0.4),
                "CIDEr": difference_of("CIDEr", base, value, p=p),
                "perplexity": difference_of("perplexity", 15.25, 15.25, p=1.0, spread=0.0),
            }
    return Findings(
        image_ids=systems[0].judged.image_ids,  # type: ignore[attr-defined]  # an Evaluation has them
        systems=systems,
        references=[[f"{text} in the grass {row}", f"one dog {row}"] for row in range(N)],
        differences=differences,
        dimensions=[_dimension(names)],
        trainings=[Training(name=text, epochs=[_epoch(1), _epoch(2)])],
        notes=[f"{names[-1]} was made with {text}."],
        resamples=1000,
        with_photographs=True,
        date="2026-01-02",
        version="0.0",
    )


def _epoch(epoch: int) -> Epoch:
    return Epoch(
        epoch=epoch, train_loss=4.0 / epoch, perplexity=20.0 / epoch, bleu_4=0.2, cider=0.4, learning_rate=0.001, seconds=60.0
    )


def _dimension(names: Sequence[str]) -> Dimension:
    estimates = [Estimate(value=0.5, low=0.4, high=0.6, n=5), Estimate(value=0.7, low=0.6, high=0.8, n=7)]
    return Dimension(
        key="reference_length",
        edges=[4.0, 9.5, 14.0],
        bucket_of=np.array([0] * 5 + [1] * 7),
        scores={name: {"CIDEr": estimates, "Bleu_4": estimates} for name in names},
        differences={name: {"CIDEr": estimates} for name in names[1:]},
    )


def pictures_of(findings: Findings) -> Pictures:
    """Make a photograph of one colour for each image, and attention for the last captioner."""
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), (10, 120, 60)).save(stream, format="JPEG")
    photographs = {image_id: Photograph(jpeg=stream.getvalue(), width=40, height=30) for image_id in findings.image_ids}
    photographs[findings.image_ids[3]] = Photograph(jpeg=None, fault=f"The file ends early. {HOSTILE}")
    maps = {}
    for image_id, caption in zip(findings.image_ids, findings.systems[-1].judged.captions, strict=True):
        words = len(caption.split())
        maps[image_id] = np.tile(np.arange(49, dtype=np.uint8).reshape(1, 7, 7) * 5, (words, 1, 1))
    return Pictures(photographs=photographs, attention={findings.systems[-1].name: maps})


def document_of(findings: Findings, *, pictures: Pictures | None = None) -> Document:
    """Compose a document of all images."""
    contest = decide(findings)
    choice = choose_examples(findings, contest, N)
    return compose(findings, contest, choice, pictures or pictures_of(findings))


def _gallery(document: Document) -> Gallery:
    return next(block for section in document.sections for block in section.blocks if isinstance(block, Gallery))


@pytest.mark.parametrize(
    ("names", "p", "headline"),
    [
        (("old",), 0.01, "old reaches CIDEr 64.6"),
        (("old", "new"), 0.01, "new is better than old"),
        (("old", "new"), 0.2, "12 photographs cannot tell new from old"),
        (("old", "new", "newer"), 0.01, "newer is better than old, and highest of 3"),
        (("old", "new", "newer"), 0.2, "None of 2 captioners is clearly better than old"),
    ],
)
def test_the_headline_follows_from_the_test(names: tuple[str, ...], p: float, headline: str) -> None:
    """Better is said only when p lies below 5 %; a few photographs are named as the reason when nothing can be told."""
    assert document_of(findings_of(names, p=p)).headline == headline


def test_a_worse_captioner_is_called_worse() -> None:
    """The baseline is named as the better one, and a difference in perplexity counts downwards."""
    findings = findings_of()
    worse = difference_of("CIDEr", 0.64, 0.5, p=0.001)
    perplexity = difference_of("perplexity", 15.0, 14.0, p=0.001, spread=0.2)
    document = document_of(replace(findings, differences={"new": {"CIDEr": worse, "perplexity": perplexity}}))
    assert document.headline == "old is better than new"
    assert [(tile.name, tile.tone.value) for tile in document.tiles] == [
        ("CIDEr", "bad"),
        ("BLEU-4", "plain"),
        ("perplexity", "good"),
    ]
    assert "better by perplexity" in " ".join(document.verdict)


def test_the_verdict_counts_each_photograph_once() -> None:
    """Wins, ties and losses add up to all photographs."""
    sentence = document_of(findings_of()).verdict[-1]
    assert sentence == "Photograph by photograph new scores higher on 5, the same on 5 and lower on 2."
    assert sum(count_signs(GAINS)) == N


def test_few_photographs_are_a_warning() -> None:
    """A report on a dozen photographs says on top that no number of it proves anything."""
    assert document_of(findings_of()).warnings[0].startswith("Only 12 photographs")


def test_a_note_that_all_share_is_told_once() -> None:
    """A note of one captioner has its name before it."""
    findings = findings_of()
    noted = [
        replace(system, judged=replace(system.judged, notes=["All.", *(["One."] if index else [])]))  # type: ignore[type-var]
        for index, system in enumerate(findings.systems)
    ]
    assert list(document_of(replace(findings, systems=noted)).warnings[1:]) == ["All.", "new: One."]


def test_the_largest_gains_and_losses_come_first() -> None:
    """Examples are chosen by the difference, each once, and the same findings give the same ones."""
    findings = findings_of()
    choice = choose_examples(findings, decide(findings), 8)
    assert [(each.row, each.group) for each in choice[:4]] == [(5, "gain"), (2, "loss"), (9, "best"), (3, "worst")]
    assert len({each.row for each in choice}) == len(choice) == 8
    assert choice == choose_examples(findings, decide(findings), 8)
    assert len(choose_examples(findings, decide(findings), 1000)) == N
    assert choose_examples(findings, decide(findings), 0) == []


def test_no_photograph_is_called_a_gain_without_one() -> None:
    """Where two captioners say the same, there are no gains and losses."""
    findings = findings_of()
    same = replace(findings.systems[1], judged=findings.systems[0].judged)
    findings = replace(findings, systems=[findings.systems[0], same])
    assert {each.group for each in choose_examples(findings, decide(findings), N)} == {"best", "worst", "typical", "further"}


def test_each_example_shows_every_caption_and_reference() -> None:
    """The better caption is marked, unless all are level; the bucket is told in words."""
    examples = {example.image_id: example for example in _gallery(document_of(findings_of())).examples}
    won, level = examples["05.jpg"], examples["01.jpg"]
    assert [(said.name, said.score, said.is_best) for said in won.said] == [("old", "25.0", False), ("new", "87.5", True)]
    assert [said.is_best for said in level.said] == [False, False]
    assert won.references == ["a dog runs in the grass 5", "one dog 5"]
    assert won.difference == "+62.5"
    assert list(won.tags) == ["references of 9.5–14.0 words"]


def test_each_word_has_its_map() -> None:
    """The fog is thin where the network looked and dense where it did not; words and maps that do not match are not shown."""
    grid = np.zeros((1, 2, 2), dtype=np.uint8)
    grid[0, 0, 1] = 255
    (word,) = looked("dog", grid)
    fog = np.array(Image.open(io.BytesIO(word.png)).convert("LA"))[..., 1]
    assert word.word == "dog"
    assert fog[0, 1] == 0
    assert (fog[[0, 1, 1], [0, 0, 1]] > 200).all()
    assert looked("two dogs", grid) == []
    assert looked("dog", None) == []


def test_what_is_missing_is_said() -> None:
    """Without references, photographs, tables and attention, each part says in one line how to get it."""
    findings = findings_of()
    bare = [replace(system, speed=None, failures=None, has_attention=False, card=None) for system in findings.systems]
    findings = replace(findings, systems=bare, references=None, dimensions=(), trainings=(), with_photographs=False)
    leads = {section.key: section.lead for section in document_of(findings, pictures=Pictures()).sections}
    assert "--references" in leads["buckets"]
    for option in ("--images", "--references", "--attention"):
        assert option in leads["photographs"]
    assert "capt-batch run" in leads["speed"]
    assert "training" not in leads


def test_what_differs_between_runs_is_a_table() -> None:
    """Conditions that agree are not in it."""
    findings = findings_of()
    other = replace(findings.systems[1].judged, conditions={"images": N, "run": {"precision": "bfloat16"}})  # type: ignore[type-var]
    document = document_of(replace(findings, systems=[findings.systems[0], replace(findings.systems[1], judged=other)]))
    compared = next(section for section in document.sections if section.key == "compared")
    table = compared.blocks[0]
    assert isinstance(table, Table)
    told = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert told["run.precision"] == ["float32", "bfloat16"]
    assert "images" not in told


def test_runs_without_a_common_score_are_refused() -> None:
    """There is nothing to say of them together."""
    findings = findings_of()
    other = replace(findings.systems[1].judged, per_image={})  # type: ignore[type-var]
    with pytest.raises(InputError, match="no score in common"):
        decide(replace(findings, systems=[findings.systems[0], replace(findings.systems[1], judged=other)]))


def test_published_scores_are_lines_of_the_same_data_set() -> None:
    """Which data set it is, the name of the references tells; every line has its source."""
    assert {each.data for each in relevant("flickr8k:dev")} == {"Flickr8k"}
    assert {each.data for each in relevant("dataset_flickr30k.json:test")} == {"Flickr30k"}
    assert relevant("mine.csv") == ()
    assert all(each.source and each.scores for each in PUBLISHED)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (number(-0.04), "0.0"),
        (number(1234.56), "1,234.6"),
        (number(-3.14), "−3.1"),
        (number(float("nan")), "–"),
        (signed(3.14), "+3.1"),
        (signed(0.01), "0.0"),
        (signed(-2.0), "−2.0"),
        (interval(-0.5, 1.25, with_sign=True), "−0.5 to +1.2"),
        (percent(0.125), "12.5\u00a0%"),
        (p_value(0.0321, 1000), "p\u00a0=\u00a00.032"),
        (p_value(1 / 1001, 1000), "p\u00a0≤\u00a00.001"),
        (p_value(1 / 10001, 10_000), "p\u00a0≤\u00a00.001"),
        (p_value(1 / 101, 100), "p\u00a0≤\u00a00.010"),
        (plural(1, "photograph"), "1 photograph"),
        (plural(1000, "photograph"), "1,000 photographs"),
    ],
)
def test_numbers_are_written_one_way(written: str, expected: str) -> None:
    """A minus is a minus sign, nothing has no sign, and no p is smaller than the resamples can tell."""
    assert written == expected


def test_buckets_have_names_with_their_edges() -> None:
    """The first and the last one say which end they are."""
    dimension = _dimension(("old",))
    assert labels(dimension) == ["shortest: 4.0–9.5", "longest: 9.5–14.0"]
    assert labels(replace(dimension, key="status", edges=[])) == ["captioned", "failed"]
    assert tags(replace(dimension, key="agreement", edges=[0.1, 0.25, 0.5]))[0] == "agreement 0.10–0.25"


def test_the_record_is_the_golden_file() -> None:
    """`report.json` keeps its keys and values: whoever changes one sees it here, and raises the format."""
    findings = findings_of()
    contest = decide(findings)
    examples = make_examples(findings, contest, choose_examples(findings, contest, 4), pictures_of(findings))
    assert_golden("report.json", json.dumps(report_file(findings, contest, examples), indent=1, ensure_ascii=False) + "\n")


def assert_golden(name: str, text: str) -> None:
    """Compare with a file that a person has read; when it should change, delete it, run the test twice, and read it again."""
    path = GOLDEN / name
    if not path.exists():
        path.write_text(text, encoding="utf-8")
        pytest.fail(f"{path} was not there and is now: read it, and keep it")
    assert text == path.read_text(encoding="utf-8")


def test_a_record_holds_plain_values() -> None:
    """JSON without NaN, and every example with all captions."""
    findings = findings_of(("only",))
    contest = decide(findings)
    examples: list[Example] = make_examples(findings, contest, choose_examples(findings, contest, 3), Pictures())
    record: Mapping[str, object] = json.loads(json.dumps(report_file(findings, contest, examples), allow_nan=False))
    assert record["contender"] == record["baseline"] == "only"
    assert record["systems"][0]["wins_ties_losses"] is None  # type: ignore[index]  # plain JSON
