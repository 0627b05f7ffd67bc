"""`capt-eval gate` as CI calls it: JSON alone on stdout, words on stderr, JUnit and summary beside them, exit codes."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from capt.shown import one_line
from evaluation.cli import main
from evaluation.evaluate import evaluate
from evaluation.pairs import Pairs
from evaluation.stored import save, save_file

REFERENCES = {f"{number}.jpg": [f"a dog runs over hill {number}", f"one dog on hill {number}"] for number in range(30)}
GOOD = {name: texts[0] for name, texts in REFERENCES.items()}
BAD = dict.fromkeys(REFERENCES, "two men sit")
MEBIBYTE = 1024 * 1024


def _pairs(captions: dict[str, str]) -> Pairs:
    return Pairs(
        image_ids=list(captions),
        captions=list(captions.values()),
        references=list(REFERENCES.values()),
        likelihoods=[None] * len(captions),
        origin="references.jsonl",
        references_sha256="ab" * 32,
    )


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Score good and bad captions, good ones against other references, and make the good ones a baseline; without METEOR."""
    folder = tmp_path_factory.mktemp("scored")
    good, bad = (evaluate(_pairs(captions), metrics=["BLEU", "ROUGE_L", "CIDEr"]) for captions in (GOOD, BAD))
    save(good, folder / "good")
    save(bad, folder / "bad")
    save(replace(good, conditions={**good.conditions, "references_sha256": "cd" * 32}), folder / "other")
    save_file(good, folder / "baseline.parquet")
    return folder


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder without a pyproject.toml, and not inside of somebody's CI run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


@dataclass(frozen=True, kw_only=True)
class _Said:
    """How the program ended, and what it said where."""

    code: int
    out: str
    err: str

    @property
    def content(self) -> dict[str, Any]:
        """What stdout holds, which must be JSON and nothing else."""
        content: dict[str, Any] = json.loads(self.out)
        return content


Gate = Callable[..., _Said]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Gate:
    """Give the command, as a function of its arguments."""

    def run(*arguments: object) -> _Said:
        monkeypatch.setattr(sys, "argv", ["capt-eval", "gate", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        said = capsys.readouterr()
        return _Said(code=int(caught.value.code or 0), out=said.out, err=said.err)

    return run


@pytest.mark.parametrize(
    ("command", "ending"),
    [
        ("good", ("pass", 0)),
        ("bad --rules warn.toml", ("warn", 0)),
        ("bad --rules warn.toml --strict", ("fail", 1)),
        ("bad", ("fail", 1)),
        ("other", ("not-comparable", 3)),
        ("nothing", ("not-comparable", 3)),
    ],
)
def test_verdict_and_exit_code_agree_everywhere(
    command: str, ending: tuple[str, int], scored: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON, table, JUnit and summary say the same, and the program ends as they say."""
    Path("warn.toml").write_text("".join(f"[{name}]\nseverity = 'warn'\n" for name in ("CIDEr", "Bleu_4")))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    verdict, code = ending
    candidate, *options = command.split()
    said = gate(scored / candidate, "--baseline", scored / "baseline.parquet", "--junit", "out/gate.xml", *options)
    assert (said.code, said.content["verdict"], said.content["exit_code"]) == (code, verdict, code)
    assert said.err.startswith(f"Gate: {verdict}. ")
    assert f"## Caption gate: {verdict}" in Path("summary.md").read_text(encoding="utf-8")
    suite = ET.parse("out/gate.xml").getroot()[0]  # noqa: S314  # our own file
    assert (suite.get("failures") != "0", suite.get("errors") != "0") == (code == 1, code == 3)


def test_the_json_holds_what_programs_need(scored: Path, gate: Gate) -> None:
    """Per score numbers on the library's scale, findings and sentence; signatures, rules and their source."""
    Path("rules.toml").write_text("[CIDEr]\nabsolute = 1.0\n")
    content = gate(scored / "bad", "-b", scored / "baseline.parquet", "--rules", "rules.toml").content
    keys = ("format", "verdict", "exit_code", "reasons", "scores", "changes", "notes", "signatures", "rules", "renewed")
    assert tuple(content) == keys
    (cider,) = [row for row in content["scores"] if row["name"] == "CIDEr"]
    assert cider["findings"] == ["large", "significant"]
    assert cider["said"].startswith("CIDEr fell by ")
    assert cider["difference"] == pytest.approx(cider["candidate"] - cider["baseline"])
    assert cider["low"] <= cider["difference"] <= cider["high"] < 0
    assert (cider["allowed"], cider["n"]) == (0.01, 30)
    assert (content["rules"]["source"], content["rules"]["scores"]["CIDEr"]["absolute"]) == ("rules.toml", 1.0)
    assert set(content["signatures"]) == {"baseline", "candidate"}


def test_the_project_file_rules(scored: Path, gate: Gate) -> None:
    """[tool.capt.gate] of the current folder is found, and a fault in it is a refusal, not a default."""
    arguments = (scored / "bad", "-b", scored / "baseline.parquet")
    names = ("CIDEr", "ROUGE_L", "Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4")
    Path("pyproject.toml").write_text("".join(f"[tool.capt.gate.{name}]\nseverity = 'ignore'\n" for name in names))
    said = gate(*arguments)
    assert (said.code, said.content["rules"]["source"]) == (0, "pyproject.toml")
    Path("pyproject.toml").write_text("[tool.capt.gate.cider]\n")
    said = gate(*arguments)
    assert said.code == 3
    assert "'cider'" in said.content["reasons"][0]


def test_captions_are_scored_first_when_references_are_given(gate: Gate) -> None:
    """The same captions pass against the baseline made of them, worse ones fail; nothing but the baseline is written."""
    Path("references.jsonl").write_text("".join(json.dumps({"image": k, "caption": v}) + "\n" for k, v in REFERENCES.items()))
    for name, captions in (("good.json", GOOD), ("bad.json", BAD)):
        Path(name).write_text(json.dumps([{"image_id": k, "caption": v} for k, v in captions.items()]))
    options = ("--baseline", "base.parquet", "--references", "references.jsonl")
    missing = gate("good.json", *options)
    assert missing.code == 3
    assert "--update-baseline" in missing.content["reasons"][0]
    first = gate("good.json", *options, "--update-baseline")
    assert (first.code, first.content["renewed"]) == (0, "base.parquet")
    assert gate("good.json", *options).code == 0
    assert gate("bad.json", *options).code == 1
    renewed = gate("bad.json", *options, "--update-baseline")
    assert (renewed.code, renewed.content["verdict"]) == (0, "pass")
    assert "The candidate is the new baseline" in renewed.err
    assert "CIDEr fell by" in renewed.err
    assert {path.name for path in Path().iterdir()} == {"references.jsonl", "good.json", "bad.json", "base.parquet"}


def test_summaries_are_appended(scored: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier step wrote stays, and each gate adds its own."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    Path("summary.md").write_text("earlier, without a line break")
    for _ in range(2):
        assert gate(scored / "good", "-b", scored / "baseline.parquet").code == 0
    text = Path("summary.md").read_text(encoding="utf-8")
    assert text.startswith("earlier, without a line break\n## Caption gate: pass\n")
    assert text.count("\n## Caption gate: pass\n") == 2


@pytest.mark.parametrize("taken", [10, MEBIBYTE - 200, MEBIBYTE - 5, 2 * MEBIBYTE])
def test_a_summary_stays_within_its_limit(taken: int, scored: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """GitHub drops a summary above 1 MiB altogether: what is there counts, and what has no room is said on stderr instead."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    Path("summary.md").write_text("x" * taken)
    said = gate(scored / "good", "-b", scored / "baseline.parquet")
    text = Path("summary.md").read_text(encoding="utf-8")
    assert said.code == 0
    assert len(text.encode()) <= max(taken, MEBIBYTE)
    assert ("| CIDEr |" in text) == (taken == 10)
    assert ("has no room left" in said.err) == (taken > MEBIBYTE - 100) == ("Caption gate" not in text)


@pytest.mark.parametrize(("candidate", "code"), [("good", 0), ("bad", 1)])
def test_a_summary_that_cannot_be_written_changes_nothing(
    candidate: str, code: int, scored: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verdict and exit code stand, and one sentence says what happened; an empty variable means none is wanted."""
    for place, told in (("/nothing/summary.md", True), (".", True), ("", False)):
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", place)
        said = gate(scored / candidate, "-b", scored / "baseline.parquet")
        assert (said.code, said.content["exit_code"]) == (code, code)
        assert ("the verdict stands without it" in said.err) == told


def test_a_junit_file_that_cannot_be_written_is_an_error(scored: Path, gate: Gate) -> None:
    """It was asked for, so the run does not pass without it; the verdict is told all the same."""
    Path("file").write_text("")
    said = gate(scored / "good", "-b", scored / "baseline.parquet", "--junit", "file/gate.xml")
    assert (said.code, said.content["verdict"]) == (4, "pass")
    assert "file/gate.xml cannot be written" in said.err


def test_hostile_names_do_no_harm(scored: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path with markup, line breaks, escape sequences and broken UTF-8 is text in the JSON, the XML and the summary."""
    name = "<img src=x>|`a`\n# b\x1b[31m\udcff"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    said = gate(name, "-b", scored / "baseline.parquet", "--junit", "gate.xml")
    assert said.code == 3
    assert one_line(name) in said.content["reasons"][0]
    assert "\x1b" not in said.err
    message = ET.parse("gate.xml").getroot()[0][0][0].get("message") or ""  # noqa: S314  # our own file
    assert "<img src=x>|`a`" in message
    summary = Path("summary.md").read_text(encoding="utf-8")
    assert "&lt;img src=x&gt;\\|\\`a\\`" in summary
    assert "<img" not in summary


def test_usage_and_environment_have_their_own_codes(scored: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing option is 2; a machine without Java is 4, and there is no verdict then."""
    assert gate(scored / "good").code == 2
    assert gate(scored / "good", "-b", scored / "baseline.parquet", "--unknown").code == 2
    Path("captions.csv").write_text("image,caption\na.jpg,a dog\nb.jpg,a man\n")
    monkeypatch.setenv("CAPT_JAVA", "/nothing/java")
    said = gate("captions.csv", "-r", "captions.csv", "-b", scored / "baseline.parquet")
    assert (said.code, said.out) == (4, "")
    assert "CAPT_JAVA" in said.err
