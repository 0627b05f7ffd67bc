"""`capt-eval` as people call it: data on stdout, words on stderr, exit codes, never a traceback."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation import doctor
from evaluation.cli import main
from evaluation.doctor import Check, examine
from evaluation.java import JavaError

ROWS = {"a.jpg": ("a dog runs", ["a dog runs", "one dog"]), "b.jpg": ("a man", ["a man sits"]), "c.jpg": ("x", ["two cats"])}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Write captions and references of three images."""
    captions, references = tmp_path / "captions.json", tmp_path / "references.jsonl"
    captions.write_text(json.dumps([{"image_id": name, "caption": caption} for name, (caption, _) in ROWS.items()]))
    references.write_text("\n".join(json.dumps({"image": name, "caption": texts}) for name, (_, texts) in ROWS.items()))
    return captions, references


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["capt-eval", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def test_score_prints_a_table_for_people_and_json_for_programs(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table goes to stderr, JSON alone to stdout, and both files into the folder."""
    captions, references = files
    out = tmp_path / "scores"
    chosen = ("-m", "BLEU", "-m", "CIDEr")
    assert _run(monkeypatch, "score", captions, "--references", references, *chosen, "-o", out, "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out) | {"date": ""} == json.loads((out / "scores.json").read_text()) | {"date": ""}
    assert "Bleu_4" in said.err
    assert "Signature" in said.err
    assert (out / "per_image.parquet").is_file()
    assert _run(monkeypatch, "score", captions, "-r", references, "-m", "BLEU") == 0
    assert capsys.readouterr().out == ""


def test_bad_data_is_one_sentence_and_exit_code_3(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing images end with 3 and one line on stderr; --partial scores what there is."""
    captions, references = files
    short = tmp_path / "short.jsonl"
    short.write_text("\n".join(references.read_text().split("\n")[:2]))
    assert _run(monkeypatch, "score", captions, "-r", short, "-m", "BLEU") == 3
    said = capsys.readouterr()
    assert said.err.startswith("capt-eval: ")
    assert said.err.count("\n") == 1
    assert "c.jpg" in said.err
    assert said.out == ""
    assert _run(monkeypatch, "score", captions, "-r", short, "-m", "BLEU", "--partial") == 0


def test_usage_is_exit_code_2(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unknown metric or a missing option is usage."""
    captions, references = files
    assert _run(monkeypatch, "score", captions, "-r", references, "-m", "SPICE") == 2
    assert "choose from" in capsys.readouterr().err
    assert _run(monkeypatch, "score", captions) == 2


def test_a_missing_java_is_exit_code_4(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the machine lacks is told apart from bad data."""
    captions, references = files
    monkeypatch.setenv("CAPT_JAVA", "/nothing/java")
    assert _run(monkeypatch, "score", captions, "-r", references) == 4
    assert "CAPT_JAVA names /nothing/java" in capsys.readouterr().err


def test_doctor_says_what_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The doctor ends with 0 when all is well and with 4 when something is not."""
    for passed, code in ((True, 0), (False, 4)):
        monkeypatch.setattr(doctor, "examine", lambda passed=passed: [Check(name="Java", passed=passed, said="this")])
        assert _run(monkeypatch, "doctor") == code
        assert ("FAILED" in capsys.readouterr().err) is not passed


def test_the_doctor_finds_this_machine_well() -> None:
    """Every check passes where the tests run: Java, jars, memory, a place to write, both programs, locale."""
    checks = examine()
    assert [check.name for check in checks] == [
        "Java",
        "jars",
        "memory",
        "write access",
        "cache",
        "tokeniser",
        "METEOR",
        "locale",
    ]
    assert {check.name for check in checks if not check.passed} <= {"memory"}  # a busy machine may have little


def test_the_doctor_survives_a_sick_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Java, memory and a place to write, the doctor still lists every check and what to do."""
    monkeypatch.setenv("CAPT_JAVA", "/nothing")
    monkeypatch.setattr(doctor, "_available_bytes", lambda: 1_000_000_000)
    monkeypatch.setattr("tempfile.NamedTemporaryFile", _full)
    failed = {check.name: check.said for check in examine() if not check.passed}
    assert set(failed) == {"Java", "memory", "write access", "tokeniser", "METEOR"}
    assert "end other programs first" in failed["memory"]
    assert "TMPDIR" in failed["write access"]


def _full() -> None:
    raise OSError(28, "No space left on device")


def test_a_cache_that_cannot_be_written_is_told_and_does_no_harm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a place for the cache everything works, only slower: the doctor says so and does not fail."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "cannot be written" in doctor._cache()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "folder"))
    assert f"in {tmp_path / 'folder' / 'capt' / 'scores'}" in doctor._cache()


def test_the_doctor_notices_wrong_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tokens than expected are a failed check."""
    monkeypatch.setattr("evaluation.tokenizer.tokenize", lambda *_: ["two dogs", "running"])
    with pytest.raises(JavaError, match="let CAPT_JAVA name another Java"):
        doctor._tokenizer()


@pytest.mark.parametrize("modules", [("evaluation.cli",), ("evaluation.evaluate", "evaluation.doctor", "reports.terminal")])
def test_the_judge_needs_no_torch_and_help_nothing_heavy(modules: tuple[str, ...]) -> None:
    """A laptop without torch can judge; the command line alone loads no numpy either, so --help answers at once."""
    code = (
        f"import sys, {', '.join(modules)}; print(*({{'torch', 'torchvision', 'numpy', 'pyarrow', 'rich'}} & set(sys.modules)))"
    )
    root = Path(__file__).parents[1]
    loaded = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "torchvision"} & set(loaded)
    assert "evaluation.cli" not in modules or not {"numpy", "pyarrow"} & set(loaded)


@pytest.mark.parametrize("command", [(), ("score",), ("compare",), ("gate",), ("report",), ("attention",), ("doctor",)])
def test_every_command_has_help(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Help is on stdout, with exit code 0."""
    assert _run(monkeypatch, *command, "--help") == 0
    assert "Usage: capt-eval" in capsys.readouterr().out
