"""`capt-eval compare` as people call it: a table on stderr, numbers on stdout, exit codes, never a traceback."""

import json
import sys
from pathlib import Path

import pytest

from evaluation.cli import main
from evaluation.evaluate import evaluate
from evaluation.pairs import join, load_captions, load_references
from evaluation.stored import save, save_file
from evaluation.system_names import system_names

REFERENCES = {
    "a.jpg": ["a dog runs on the grass", "one dog runs fast"],
    "b.jpg": ["a man sits on a bench", "a man rests on a wooden bench"],
    "c.jpg": ["two cats sleep", "cats on a sofa"],
    "d.jpg": ["a child plays in the snow", "a boy plays outside"],
}
GOOD = ["a dog runs on grass", "a man sits on a bench", "two cats sleep on a sofa", "a child plays in the snow"]
POOR = ["a dog", "a man on a horse", "two cats sleep on a sofa", "a man in water"]


def _captions(path: Path, texts: list[str]) -> Path:
    path.write_text(json.dumps([{"image_id": name, "caption": text} for name, text in zip(REFERENCES, texts, strict=True)]))
    return path


@pytest.fixture
def references(tmp_path: Path) -> Path:
    """Write the references of four images."""
    path = tmp_path / "references.jsonl"
    path.write_text("\n".join(json.dumps({"image": name, "caption": texts}) for name, texts in REFERENCES.items()))
    return path


@pytest.fixture
def scored(tmp_path: Path, references: Path) -> tuple[Path, Path]:
    """Score two systems: one into a folder, one into a file."""
    paths = tmp_path / "good", tmp_path / "poor.parquet"
    for path, texts, write in zip(paths, (GOOD, POOR), (save, save_file), strict=True):
        captions = load_captions(_captions(tmp_path / f"{path.name}.json", texts))
        write(evaluate(join(captions, load_references(references)), metrics=["BLEU", "CIDEr"]), path)
    return paths


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["capt-eval", "compare", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def test_a_table_for_people_and_json_for_programs(
    scored: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first is the baseline; the table is on stderr, 80 columns, and JSON alone on stdout when it is asked for."""
    assert _run(monkeypatch, *scored, "--resamples", 500) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert max(map(len, said.err.splitlines())) <= 80
    assert "poor.parquet against good, 4 images" in said.err
    assert _run(monkeypatch, *scored, "--resamples", 500, "--seed", 3, "-m", "CIDEr", "-m", "Bleu_1", "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert list(content["systems"]["poor.parquet"]) == ["Bleu_1", "CIDEr"]
    assert content["systems"]["poor.parquet"]["CIDEr"]["difference"] < 0
    assert (content["baseline"], content["resamples"], content["seed"]) == ("good", 500, 3)


def test_captions_are_scored_first_and_several_systems_compared(
    scored: tuple[Path, Path],
    references: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With --references captions are scored by all metrics first, beside scores on disk; a system against itself has p = 1."""
    captions = _captions(tmp_path / "captions.json", POOR)
    assert _run(monkeypatch, captions, scored[0], captions, "-r", references, "--json", "--resamples", 200) == 0
    said = capsys.readouterr()
    systems = json.loads(said.out)["systems"]
    assert list(systems["good"]) == ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "CIDEr"]
    assert "Only captions.json has METEOR, ROUGE_L: not compared." in " ".join(said.err.split())
    assert systems["good"]["Bleu_1"]["difference"] > 0
    assert set(systems["captions.json (2)"]) == {*systems["good"], "METEOR", "ROUGE_L"}
    assert {each["p_corrected"] for each in systems["captions.json (2)"].values()} == {1.0}


def test_what_does_not_compare_is_exit_code_3(
    scored: tuple[Path, Path],
    references: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Other references, captions without scores, and nothing at all are one sentence each, and no number."""
    other = tmp_path / "other.jsonl"
    other.write_text(references.read_text().replace("one dog", "some dog"))
    captions = _captions(tmp_path / "captions.json", GOOD)
    save(evaluate(join(load_captions(captions), load_references(other)), metrics=["BLEU", "CIDEr"]), tmp_path / "other")
    for path, message in {
        tmp_path / "other": "good (first) and other (second) do not compare: the references differ (references.jsonl, sha256",
        captions: "--references",
        tmp_path / "nothing": "nothing",
    }.items():
        assert _run(monkeypatch, scored[0], path, "--json") == 3
        said = capsys.readouterr()
        assert message in said.err
        assert said.err.count("\n") == 1
        assert said.out == ""


@pytest.mark.parametrize(("extra", "message"), [(("-m", "SPICE"), "choose from Bleu_1"), ((), "the baseline first")])
def test_usage_is_exit_code_2(
    extra: tuple[str, ...],
    message: str,
    scored: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An unknown score, and one system alone, are usage."""
    assert _run(monkeypatch, *(scored if extra else scored[:1]), *extra) == 2
    assert message in capsys.readouterr().err


def test_help_is_on_stdout(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The help says what to give."""
    assert _run(monkeypatch, "--help") == 0
    assert "BASELINE SYSTEM..." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/a", "runs/b"], ["a", "b"]),
        (["a/scores", "b/scores"], ["a/scores", "b/scores"]),
        (["a/scores/per_image.parquet", "b.parquet"], ["scores", "b.parquet"]),
        (["a", "a", "b/../a"], ["a", "a (2)", "a (3)"]),
        (["x/a/scores", "y/a/scores", "x/a/scores"], ["x/a/scores", "y/a/scores", "x/a/scores (2)"]),
    ],
)
def test_systems_have_short_names_of_their_own(paths: list[str], names: list[str]) -> None:
    """A system is named by as much of its path as tells it apart; one given twice is counted."""
    assert system_names([Path(path) for path in paths]) == names


def test_a_link_is_called_what_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`latest` stays `latest`, wherever it leads; the folder one is in has a name, too."""
    (tmp_path / "2026-11-26").mkdir()
    (tmp_path / "latest").symlink_to("2026-11-26")
    monkeypatch.chdir(tmp_path / "2026-11-26")
    assert system_names([tmp_path / "latest", Path()]) == ["latest", "2026-11-26"]
    assert system_names([tmp_path / "latest" / ".."]) == [tmp_path.name]
