"""The documented GitHub Actions workflow, run as a runner does: step by step, by bash, with a summary, until one step fails."""

import faulthandler
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import typer
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / "examples" / "github-actions" / "caption-gate.yml"
STEPS: list[dict[str, Any]] = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]["gate"]["steps"]
COMMANDS = [step["run"] for step in STEPS if step.get("run", "").startswith("capt-")]
CAPTION, GATE = COMMANDS
PATIENCE = 600  # seconds for one step


def _runner(folder: Path, *commands: str) -> int:
    """Run commands as GitHub does: each by `bash -e` in the same folder; the first that fails ends the job with its code."""
    programs = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "GITHUB_STEP_SUMMARY": str(folder / "summary.md")}
    environment["CI"] = "true"
    for number, command in enumerate(commands):
        script = folder / f"step-{number}.sh"
        script.write_text(command, encoding="utf-8")
        shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
        ended = subprocess.run(shell, cwd=folder, env=environment, check=False, capture_output=True, timeout=PATIENCE)
        if ended.returncode:
            return ended.returncode
    return 0


@pytest.fixture(autouse=True)
def _patience() -> None:
    """Let a slow machine run all steps: here each has a time limit of its own, instead of the test."""
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Make what the workflow expects, its baseline by its own commands and the option that its first lines name."""
    shutil.copytree(ROOT / "examples" / "photos", tmp_path / "photos", ignore=shutil.ignore_patterns("*.md"))
    shutil.copy(ROOT / "examples" / "references.jsonl", tmp_path)
    assert not (tmp_path / "baseline.parquet").exists()
    assert _runner(tmp_path, CAPTION, GATE) == 3  # no baseline yet
    assert _runner(tmp_path, GATE.replace(" > gate.json", " --update-baseline > gate.json")) == 0
    assert (tmp_path / "baseline.parquet").is_file()
    return tmp_path


def _verdict(folder: Path) -> str:
    """Read the verdict, which JSON, JUnit and the last summary must agree on."""
    content = json.loads((folder / "gate.json").read_text())
    suite = ET.parse(folder / "gate.xml").getroot()[0]  # noqa: S314  # our own file
    summary = (folder / "summary.md").read_text(encoding="utf-8")
    last: str = re.findall(r"^## Caption gate: (\S+)$", summary, re.MULTILINE)[-1]
    assert last == content["verdict"]
    assert (suite.get("failures") != "0") == (last == "fail")
    assert (suite.get("errors") != "0") == (last == "not-comparable")
    return last


def test_the_workflow_passes_warns_fails_and_refuses(repository: Path) -> None:
    """Unchanged it passes; a plainer search warns; captions of four words fail; other references are refused: 0, 0, 1, 3."""
    plainer = CAPTION + " --block-ngrams 0 --length-penalty 0 --overwrite"
    shorter = CAPTION + " --max-length 4 --overwrite"
    assert (_runner(repository, CAPTION, GATE), _verdict(repository)) == (0, "pass")
    assert (_runner(repository, plainer, GATE), _verdict(repository)) == (0, "warn")
    assert (_runner(repository, shorter, GATE), _verdict(repository)) == (1, "fail")
    references = repository / "references.jsonl"
    rows = [json.loads(line) for line in references.read_text(encoding="utf-8").splitlines()]
    references.write_text("".join(json.dumps({**row, "caption": row["caption"][:4]}) + "\n" for row in rows))
    assert (_runner(repository, GATE), _verdict(repository)) == (3, "not-comparable")
    assert (repository / "summary.md").read_text(encoding="utf-8").count("## Caption gate: ") == 6


def test_every_command_and_option_of_the_workflow_exists() -> None:
    """No step calls what the programs do not have, nor names a file that its first lines do not tell about."""
    for command in COMMANDS:
        program, name, *words = shlex.split(command.partition(">")[0])
        (entry,) = entry_points(group="console_scripts", name=program)
        whole: Any = typer.main.get_command(importlib.import_module(entry.module).app)
        known = {option for parameter in whole.commands[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known
    head = "\n".join(line for line in WORKFLOW.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    assert set(re.findall(r"\b(?:photos|references\.jsonl|baseline\.parquet)", " ".join(COMMANDS))) == {
        word for word in ("photos", "references.jsonl", "baseline.parquet") if f"#   {word}" in head
    }
    assert "--update-baseline" in head


def test_the_workflow_may_only_read() -> None:
    """It asks for no more than to read the repository, and ends by itself."""
    content = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    assert content["permissions"] == {"contents": "read"}
    assert content["jobs"]["gate"]["timeout-minutes"] <= 60
    assert [step["if"] for step in STEPS if "upload-artifact" in step.get("uses", "")] == ["always()"]
