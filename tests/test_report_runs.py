"""Runs on disk -> report: scores and captions in every combination, what is refused, buckets against recomputation."""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from capt.captions import COLUMNS, METADATA_KEY, RUN_FILE, RUN_KEY, Status, captions_schema, write_captions
from capt.errors import CheckpointError, InputError, OutputError
from capt.model_card import SHIPPED, read_model_card
from capt.references import read_references
from evaluation.anchors import FLOOR
from evaluation.buckets import dimensions
from evaluation.cli import main
from evaluation.evaluate import evaluate
from evaluation.looking import picture_attention
from evaluation.measure import Instruments
from evaluation.pairs import join, load_captions
from evaluation.pictures import over_whole
from evaluation.report_date import report_date
from evaluation.reporting import ReportOptions, report
from evaluation.runs import ReferenceChoice, Run, open_runs, square_maps
from evaluation.significance import Bootstrap
from evaluation.stored import load, save
from evaluation.training_logs import read_training_logs
from tests.test_captions import FINGERPRINT

N = 24
WORDS = ("dog", "cat", "man", "boy", "girl", "bird")
PLACES = ("grass", "street", "beach", "snow")
ADJECTIVES = ("big", "old", "red", "tall")
METRICS = ("BLEU", "CIDEr")  # those that start no Java but the tokeniser's


def _references() -> dict[str, list[str]]:
    return {
        f"{row:02d}.jpg": [
            f"a {WORDS[row % 6]} runs on the {PLACES[row % 4]}",
            f"the {WORDS[row % 6]} is on the {PLACES[(row + row // 6) % 4]} near {' '.join(ADJECTIVES[: row % 5])} house {row}",
        ]
        for row in range(N)
    }


def _captions(good: int) -> list[str]:
    """Say the right animal for the first `good` images, and a dog for the others."""
    return [f"a {WORDS[row % 6] if row < good else 'dog'} runs on the {PLACES[row % 4]}" for row in range(N)]


def _write_run(folder: Path, captions: Sequence[str | None], *, attention: bool = False, endings: bool = True) -> Path:
    """Write a finished run as `capt-batch run` leaves one; the last image failed where its caption is None."""
    folder.mkdir()
    fingerprint = replace(FINGERPRINT, attention=attention, source_rows=N)
    rows = [
        {
            "image_id": f"{row:02d}.jpg" if endings else f"{row:02d}",
            "caption": caption,
            "attention": [[row, 255, 0, 0]] * len(caption.split()) if attention and caption else None,
            "status": Status.OK if caption is not None else Status.FAILED,
            "error": None if caption is not None else "truncated: The file ends before the image does.",
        }
        for row, caption in enumerate(captions)
    ]
    schema = captions_schema(fingerprint)
    write_captions([pa.Table.from_pylist(rows, schema=schema)], schema, folder / "captions-00000.parquet")
    told = {"captioned_in_last_session": N, "seconds": 2.0, "stage_seconds": {"encoder": 1.0}}
    (folder / RUN_FILE).write_text(json.dumps(told))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write references, photographs, two runs of captions, and the scores of each."""
    folder = tmp_path_factory.mktemp("runs")
    lines = [json.dumps({"image": image_id, "caption": texts}) for image_id, texts in _references().items()]
    (folder / "references.jsonl").write_text("\n".join(lines))
    (folder / "photos").mkdir()
    for row, image_id in enumerate(_references()):
        Image.new("RGB", (64, 48), (10 * row, 100, 100)).save(folder / "photos" / image_id)
    references = read_references(folder / "references.jsonl")
    for name, captions in (("few", _captions(4)), ("most", [*_captions(20)[:-1], None])):
        run = _write_run(folder / name, captions, attention=name == "most", endings=name == "most")
        evaluation = evaluate(join(load_captions(run), references), metrics=METRICS, instruments=Instruments())
        save(evaluation, folder / f"{name}-scores")
    return folder


def _options(place: Path, **changes: object) -> ReportOptions:
    options = ReportOptions(
        references=ReferenceChoice(path=place / "references.jsonl"),
        photographs=place / "photos",
        date="2026-01-02",
        bootstrap=Bootstrap(resamples=200),
    )
    return replace(options, **changes)  # type: ignore[arg-type]  # a test's own fields


def test_scored_runs_give_three_files(place: Path, tmp_path: Path) -> None:
    """Page, Markdown and JSON are there, and say the same; the baseline is the one named."""
    out = tmp_path / "report"
    document = report([place / "most-scores", place / "few-scores"], out, _options(place, baseline="few-scores"))
    record = json.loads((out / "report.json").read_text())
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.json", "report.md"]
    assert (record["baseline"], record["contender"]) == ("few-scores", "most-scores")
    assert record["headline"] == document.headline
    assert record["images"] == N
    assert document.headline in (out / "report.md").read_text()
    assert (out / "report.html").read_text().count("data:image/jpeg") == N


def test_the_same_inputs_give_the_same_bytes(place: Path, tmp_path: Path) -> None:
    """With the date fixed, nothing differs between two reports."""
    for name in ("one", "two"):
        report([place / "few-scores", place / "most-scores"], tmp_path / name, _options(place))
    for file in ("report.html", "report.md", "report.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_captions_are_scored_and_tell_more(place: Path, tmp_path: Path) -> None:
    """A run's folder is scored first; it also tells speed, failures, attention, and the anchors come along."""
    (run,) = open_runs([place / "most"], ReferenceChoice(path=place / "references.jsonl"))
    assert run.speed is not None
    assert (run.speed.images, run.speed.seconds) == (N, 2.0)
    assert [(each.image_id, each.kind) for each in run.failures or []] == [("23.jpg", "truncated")]
    assert {"Bleu_4", "METEOR", "CIDEr"} <= set(run.evaluation.scores)
    assert FLOOR in run.evaluation.anchors
    assert run.attention(["01.jpg", "23.jpg"])["01.jpg"].shape == (6, 2, 2)
    out = tmp_path / "report"
    report([place / "most"], out, _options(place))
    page = (out / "report.html").read_text()
    assert page.count("Where it looked, word by word") == N - 1
    assert "1 photograph could not be captioned" in page


def test_ids_without_an_ending_find_theirs(place: Path) -> None:
    """A run that names images without their ending still finds failures and photographs of the references' ids."""
    run = Run(name="few", evaluation=load(place / "few-scores"), captions=place / "few")
    assert run.own_ids["05.jpg"] == "05"


def test_scores_beside_their_captions_are_taken(place: Path, tmp_path: Path) -> None:
    """A folder that holds both is not scored again; scores of other captions are refused."""
    run = _write_run(tmp_path / "both", [*_captions(20)[:-1], None])
    for file in (place / "most-scores").iterdir():
        (run / file.name).write_bytes(file.read_bytes())
    (opened,) = open_runs([run], ReferenceChoice())
    assert opened.captions == run
    assert set(opened.evaluation.scores) == {"Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "CIDEr"}
    for file in (place / "few-scores").iterdir():
        (run / file.name).write_bytes(file.read_bytes())
    with pytest.raises(InputError, match="other captions than those beside them"):
        open_runs([run], ReferenceChoice())


def test_what_cannot_be_reported_is_refused_in_one_sentence(place: Path, tmp_path: Path) -> None:
    """Unknown baselines, other references, captions without references, and outputs that cannot be written."""
    scores = place / "few-scores"
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(json.dumps({"image": image_id, "caption": ["x"]}) for image_id in _references()))
    with pytest.raises(InputError, match="choose the baseline from few-scores"):
        report([scores], tmp_path / "out", _options(place, baseline="mine"))
    with pytest.raises(InputError, match="other references than few-scores was scored against"):
        report([scores], tmp_path / "out", _options(place, references=ReferenceChoice(path=other)))
    with pytest.raises(InputError, match="together with --references"):
        report([place / "few"], tmp_path / "out", _options(place, references=ReferenceChoice()))
    with pytest.raises(InputError, match="does not exist"):
        report([place / "none"], tmp_path / "out", _options(place, references=ReferenceChoice()))
    with pytest.raises(OutputError, match="choose another folder"):
        report([scores], other / "out", _options(place))


def test_runs_that_do_not_compare_are_refused(place: Path, tmp_path: Path) -> None:
    """Scores over other images are not put side by side."""
    references = read_references(place / "references.jsonl")
    fewer = references.select(list(references.captions)[:-2])
    save(evaluate(join(load_captions(place / "few"), fewer, partial=True), metrics=METRICS), tmp_path / "fewer")
    with pytest.raises(InputError, match="do not compare"):
        report([place / "few-scores", tmp_path / "fewer"], tmp_path / "out", _options(place))


def test_images_in_another_order_are_brought_together(place: Path, tmp_path: Path) -> None:
    """A run that lists the images the other way round gains nothing by it."""
    evaluation = load(place / "few-scores")
    back = replace(
        evaluation,
        image_ids=evaluation.image_ids[::-1],
        captions=evaluation.captions[::-1],
        per_image={name: values[::-1] for name, values in evaluation.per_image.items()},
        statistics={name: values[::-1] for name, values in evaluation.statistics.items()},
    )
    save(back, tmp_path / "back")
    document = report([place / "few-scores", tmp_path / "back"], tmp_path / "out", _options(place))
    assert document.headline == "back scores the same as few-scores"
    assert f"the same on {N}" in document.verdict[-1]


def test_buckets_are_recomputed_right(place: Path) -> None:
    """A bucket's CIDEr is the mean over its images, its BLEU what the counts of its images give; every image is in one bucket."""
    references = read_references(place / "references.jsonl")
    evaluation = evaluate(join(load_captions(place / "most"), references), metrics=METRICS)
    texts = [references.captions[image_id] for image_id in evaluation.image_ids]
    found = {each.key: each for each in dimensions([("most", evaluation)], texts, Bootstrap(resamples=200))}
    assert set(found) == {"reference_length", "word_frequency", "agreement", "status"}
    for dimension in found.values():
        estimates = dimension.scores["most"]["CIDEr"]
        assert sum(estimate.n for estimate in estimates) == N
        for bucket, estimate in enumerate(estimates):
            inside = dimension.bucket_of == bucket
            assert estimate.value == pytest.approx(evaluation.per_image["CIDEr"][inside].mean())
            assert estimate.low <= estimate.value <= estimate.high
            assert estimate.n == inside.sum()
    failed = found["status"].scores["most"]["CIDEr"][1]
    assert (failed.value, failed.n) == (0.0, 1)
    lengths = np.array([np.mean([len(text.split()) for text in each]) for each in texts])
    longer = found["reference_length"].bucket_of == 1
    assert lengths[longer].min() >= lengths[~longer].max()


def test_a_difference_in_a_bucket_is_paired(place: Path) -> None:
    """A captioner held against itself differs by nothing in every bucket and every resample."""
    references = read_references(place / "references.jsonl")
    evaluation = evaluate(join(load_captions(place / "most"), references), metrics=METRICS)
    texts = [references.captions[image_id] for image_id in evaluation.image_ids]
    found = dimensions([("a", evaluation), ("b", evaluation)], texts, Bootstrap(resamples=200))
    gains = [gain for each in found for gain in each.differences["b"]["CIDEr"]]
    assert all(gain.value == gain.low == gain.high == 0 for gain in gains)


def test_too_few_images_are_not_divided(place: Path) -> None:
    """A dozen images in four buckets would tell nothing."""
    references = read_references(place / "references.jsonl")
    few = references.select(list(references.captions)[:12])
    evaluation = evaluate(join(load_captions(place / "few"), few, partial=True), metrics=METRICS)
    assert dimensions([("few", evaluation)], list(few.captions.values()), Bootstrap(resamples=200)) == []


def test_the_command_line_reports_and_draws(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`capt-eval report` tells people in 80 columns on stderr; `capt-eval attention` draws; stdout is empty."""
    monkeypatch.setenv("COLUMNS", "80")
    runs = (place / "few-scores", place / "most-scores")
    asked = ("-r", place / "references.jsonl", "--images", place / "photos", "-o", tmp_path / "report", "--resamples", 200)
    assert _run(monkeypatch, "report", *runs, *asked, "--date", "2026-01-02") == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert max(map(len, said.err.splitlines()[:-1])) <= 80
    assert "Where most-scores gains most" in said.err
    picture = tmp_path / "looked.png"
    assert _run(monkeypatch, "attention", place / "most", "07", "--images", place / "photos", "-o", picture) == 0
    assert "a cat runs" in capsys.readouterr().err
    with Image.open(picture) as image:
        assert image.width > 600
    assert _run(monkeypatch, "report", runs[0], "-o", tmp_path / "report", "--date", "yesterday") == 3
    assert "write --date as" in capsys.readouterr().err


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["capt-eval", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def test_attention_that_is_not_there_is_told(place: Path, tmp_path: Path) -> None:
    """An unknown image, a run without attention, a failed image, a missing photograph and a wrong ending each have a sentence."""
    photos, picture = place / "photos", tmp_path / "x.png"
    for run, image, output, source, said in (
        ("most", "99.jpg", picture, photos, "no image '99.jpg'"),
        ("few", "01", picture, photos, "--attention"),
        ("most", "23.jpg", picture, photos, "--attention"),
        ("most", "01.jpg", picture, None, "--images"),
        ("most", "01.jpg", tmp_path / "x.txt", photos, "does not end in"),
    ):
        with pytest.raises(InputError, match=said):
            picture_attention(place / run, image, output, source=source)
    assert list(tmp_path.iterdir()) == []
    picture.mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        picture_attention(place / "most", "01.jpg", picture, source=photos)


def test_the_same_attention_gives_the_same_picture(place: Path, tmp_path: Path) -> None:
    """A picture for a paper does not change from day to day."""
    for name in ("a.png", "b.png"):
        picture_attention(place / "most", "01.jpg", tmp_path / name, source=place / "photos")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_maps_lie_over_what_the_network_saw() -> None:
    """A stretched photograph has its map over the whole; of one cut to its centre, the rest was not looked at."""
    maps = np.full((1, 7, 7), 200, dtype=np.uint8)
    assert over_whole(maps, (200, 100), {"resize": "stretch"}) is maps
    whole = over_whole(maps, (200, 100), {"resize": "crop", "crop_fraction": 1.0})
    assert whole.shape == (1, 28, 56)
    assert (whole[0, :, 14:42] == 200).all()
    assert whole[0].sum() == 200 * 28 * 28
    assert over_whole(maps, (100, 100), {"resize": "crop", "crop_fraction": 0.875}).shape == (1, 32, 32)


def test_maps_that_are_no_square_are_left_out() -> None:
    """Ragged rows and numbers of cells without a root give nothing rather than a wrong picture."""
    assert square_maps([[1, 2, 3, 4]]) is not None
    broken: list[object] = [None, [], [[]], [[1, 2, 3]], [[1, 2, 3, 4], [1]]]
    assert [square_maps(rows) for rows in broken] == [None] * len(broken)


def test_a_single_file_tells_its_speed(place: Path, tmp_path: Path) -> None:
    """`--output x.parquet` has the run's report in its metadata."""
    told = json.dumps({"captioned_in_last_session": 2, "seconds": 4.0, "stage_seconds": {}})
    schema = COLUMNS.with_metadata({METADATA_KEY: FINGERPRINT.to_json(), RUN_KEY: told})
    rows = [{"image_id": f"{row}.jpg", "caption": f"a dog {row}", "status": "ok"} for row in range(2)]
    path = tmp_path / "x.parquet"
    write_captions([pa.Table.from_pylist(rows, schema=schema)], schema, path)
    run = Run(name="x", evaluation=load(place / "few-scores"), captions=path)
    assert run.speed is not None
    assert run.speed.seconds == 4.0


def test_dates_can_be_fixed() -> None:
    """--date goes before SOURCE_DATE_EPOCH, which goes before now; what is no date is refused."""
    assert report_date("2026-01-31", {"SOURCE_DATE_EPOCH": "0"}) == "2026-01-31"
    assert report_date(None, {"SOURCE_DATE_EPOCH": "86400"}) == "1970-01-02T00:00:00+00:00"
    assert report_date(None, {}).startswith("20")
    with pytest.raises(InputError, match="--date as"):
        report_date("31.1.26", {})
    with pytest.raises(InputError, match="no number of seconds"):
        report_date(None, {"SOURCE_DATE_EPOCH": "soon"})


def test_training_logs_are_read_and_faults_told(tmp_path: Path) -> None:
    """A log is named after its folder, two of one name are counted; a broken line is named."""
    values = {
        "epoch": 1,
        "train_loss": 4.0,
        "perplexity": 20.0,
        "bleu_4": 0.1,
        "cider": 0.2,
        "learning_rate": 0.1,
        "seconds": 9.0,
    }
    for folder in ("a/run", "b/run"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "log.jsonl").write_text(json.dumps(values) + "\n")
    one, two = read_training_logs([tmp_path / "a" / "run", tmp_path / "b" / "run" / "log.jsonl"])
    assert (one.name, two.name) == ("run", "run (2)")
    assert one.epochs[0].perplexity == 20.0
    for content, said in (("", "no epoch yet"), ("{}", "line 1"), (json.dumps(values | {"cider": float("nan")}), "line 1")):
        (tmp_path / "log.jsonl").write_text(content)
        with pytest.raises(InputError, match=said):
            read_training_logs([tmp_path / "log.jsonl"])
    with pytest.raises(InputError, match="cannot be read"):
        read_training_logs([tmp_path / "none.jsonl"])


def test_the_shipped_card_is_read_without_torch(tmp_path: Path) -> None:
    """A card is shown where a run's checkpoint has its digest; other files are refused."""
    found = read_model_card(SHIPPED)
    assert len(found.sha256) == 64
    assert found.card["data"]
    for content in (b"", b"\x02\0\0\0\0\0\0\0{}", b"\x04\0\0\0\0\0\0\0[{}]"):
        (tmp_path / "x.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError, match="not a checkpoint"):
            read_model_card(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_model_card(tmp_path / "none.safetensors")


def test_scores_alone_give_a_report(place: Path, tmp_path: Path) -> None:
    """Without references, photographs and captions table a report still says what it can, and how to get the rest."""
    out = tmp_path / "report"
    bare = _options(place, references=ReferenceChoice(), photographs=None)
    report([place / "few-scores"], out, bare)
    page = (out / "report.html").read_text()
    assert "data:image" not in page
    for said in ("Name the photographs with --images", "Name the human captions with --references", "No run tells its speed"):
        assert said in page


def test_photographs_that_cannot_be_shown_say_why(place: Path, tmp_path: Path) -> None:
    """A damaged photograph and a missing one do not end a report."""
    photos = tmp_path / "photos"
    shutil.copytree(place / "photos", photos)
    (photos / "00.jpg").write_bytes((photos / "00.jpg").read_bytes()[:300])
    (photos / "01.jpg").unlink()
    out = tmp_path / "report"
    report([place / "few-scores"], out, _options(place, photographs=photos))
    page = (out / "report.html").read_text()
    assert page.count("data:image/jpeg") == N - 2
    assert "No photograph: The file ends before the image does." in page
    assert "No photograph: it is not where the photographs are" in page


@pytest.mark.parametrize(
    "told",
    [
        "",
        "[]",
        "{}",
        '{"seconds": "x"}',
        '{"captioned_in_last_session": 0, "seconds": 1, "stage_seconds": {}}',
        '{"captioned_in_last_session": 2, "seconds": NaN, "stage_seconds": {}}',
    ],
)
def test_a_run_that_tells_no_speed_has_none(place: Path, tmp_path: Path, told: str) -> None:
    """Whatever stands in run.json, a report is made; a speed that is none is not shown."""
    run = _write_run(tmp_path / "run", _captions(4))
    for file in (place / "few-scores").iterdir():
        (run / file.name).write_bytes(file.read_bytes())
    (run / RUN_FILE).write_text(told)
    (opened,) = open_runs([run], ReferenceChoice())
    assert opened.speed is None
