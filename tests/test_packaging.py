"""What is shipped: the wheel's contents, the two programs and their help, and a README that says what is true."""

import importlib
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import pytest
import typer

import capt
import evaluation
import jobs
import reports

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = ("capt-batch", "capt-eval")
TEST_COMMAND = "python3 -m venv .venv && .venv/bin/pip install 'nox[uv]' && .venv/bin/nox -s tests"
RUN_COMMAND = "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/capt-batch run examples/photos --output captions"


def _run(*command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


def _commands() -> dict[str, Any]:
    """Give both programs and each of their commands, as typer built them, by "program command"."""
    found: dict[str, Any] = {}
    for program in PROGRAMS:
        (entry,) = entry_points(group="console_scripts", name=program)
        whole: Any = typer.main.get_command(importlib.import_module(entry.module).app)
        found[program] = whole
        found |= {f"{program} {name}": command for name, command in whole.commands.items()}
    return found


COMMANDS = _commands()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build sdist and wheel with the build backend itself, as pip does; give their folder."""
    folder = tmp_path_factory.mktemp("dist")
    result = _run(sys.executable, "-m", "hatchling", "build", "-d", str(folder), cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize("package", [capt, jobs, evaluation, reports], ids=lambda package: package.__name__)
def test_each_top_level_name_is_ours(package: Any) -> None:  # noqa: ANN401 - a module
    """Names as common as `jobs` and `reports` could be another distribution's: these are this project's folders."""
    assert package.__file__ is not None
    assert (Path(package.__file__).parent / "__init__.py").is_file()
    assert package.__doc__.startswith(f"{package.__name__}: ")


def test_the_wheel_holds_everything_and_nothing_else(built: Path) -> None:
    """Every module, the shipped checkpoint and the templates are in; tests, examples and tooling are not."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    wanted = {
        path.relative_to(ROOT).as_posix()
        for package in packages
        for path in (ROOT / package).rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and path.suffix in {".py", ".safetensors", ".toml", ".j2", ".html", ".css"}
    }
    assert wanted <= names
    assert {name.split("/")[0] for name in names} == {*packages, f"capt-{version('capt')}.dist-info"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_source_archive_holds_what_a_reader_needs(built: Path) -> None:
    """Tests, examples and the README are in the sdist."""
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "noxfile.py", "tests/conftest.py", "examples/photos/cat.jpg", "pyproject.toml"} <= names


def test_the_version_is_written_once() -> None:
    """The installed version is the one in pyproject.toml, and no module repeats it."""
    stated = PROJECT["project"]["version"]
    assert version("capt") == stated
    for path in (path for package in ("capt", "jobs", "evaluation", "reports") for path in (ROOT / package).rglob("*.py")):
        assert f'"{stated}"' not in path.read_text(encoding="utf-8"), path


def test_the_project_cannot_be_published_by_accident() -> None:
    """Its top-level names are too common for a public index, so the index would refuse it."""
    assert "Private :: Do Not Upload" in PROJECT["project"]["classifiers"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name: str) -> None:
    """Each command says in a sentence what it does, and each option and argument what it means."""
    command = COMMANDS[name]
    assert command.help.split("\n\n")[0].endswith("."), name
    silent = [parameter.name for parameter in command.params if not getattr(parameter, "help", None)]
    assert silent == []


@pytest.mark.parametrize("name", COMMANDS)
def test_help_answers(name: str) -> None:
    """--help of each command prints its own help on stdout, with exit code 0."""
    program, *command = name.split()
    (entry,) = entry_points(group="console_scripts", name=program)
    start = f"import {entry.module}; {entry.module}.{entry.attr}()"
    result = _run(sys.executable, "-c", start, *command, "--help")
    assert result.returncode == 0, result.stderr
    words = " ".join(re.sub(r"[^\w,.]+", " ", result.stdout).split())
    first = " ".join(re.sub(r"[^\w,.]+", " ", COMMANDS[name].help.split(".")[0]).split())
    assert first in words


def test_every_command_is_in_the_readme_and_every_command_there_exists() -> None:
    """The README names each command as `program command`, and none that does not exist."""
    assert [command for command in COMMANDS if command not in README] == []
    assert set(re.findall(r"\b(capt-(?:batch|eval) [a-z]+)\b", README)) <= set(COMMANDS)


def test_every_option_in_the_readme_exists() -> None:
    """No option is documented that no command has."""
    known = {
        option
        for command in COMMANDS.values()
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    ours = re.sub(r"^.*(?:pip|nox|uv) .*$", "", README, flags=re.MULTILINE)
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", ours)) <= known | {"--help"}


@pytest.mark.parametrize("module", ["jobs.cli", "evaluation.cli"])
def test_help_loads_nothing_heavy(module: str) -> None:
    """Asking for help imports neither torch nor pandas nor pyarrow: it answers at once."""
    program = (
        f"import sys; sys.argv = ['x', '--help']\nimport {module}\ntry: {module}.main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'torchvision', 'timm', 'pandas', 'pyarrow', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)))"
    )
    assert _run(sys.executable, "-c", program).stderr.strip() == ""


@pytest.mark.parametrize("package", ["evaluation", "reports"])
def test_the_judge_needs_no_torch(package: str) -> None:
    """Every module of evaluation and reports imports where torch is not installed."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((ROOT / package).rglob("*.py"))
    ]
    blocked = "import sys; sys.modules.update(dict.fromkeys(('torch', 'torchvision', 'timm')))"
    result = _run(sys.executable, "-c", f"{blocked}; import {', '.join(modules)}")
    assert result.returncode == 0, result.stderr


def test_the_readme_is_finished() -> None:
    """Where real output belongs stands real output, not a word that holds its place."""
    assert re.findall(r"^[A-Z]+-OF-[A-Z-]+$", README, re.MULTILINE) == []


def test_ci_runs_the_commands_of_the_readme() -> None:
    """.ci/run calls the README's test command; the README's two commands stand on a line of their own."""
    lines = [line.strip() for line in README.splitlines()]
    assert TEST_COMMAND in lines
    assert RUN_COMMAND in lines
    script = (ROOT / ".ci" / "run").read_text()
    assert TEST_COMMAND in script.splitlines()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_architecture_names_every_module() -> None:
    """ARCHITECTURE.md lists each module of the four packages, and no module that does not exist."""
    tree = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").partition("## The tree")[2].partition("\n## ")[0]
    modules = {
        path.name
        for package in ("capt", "jobs", "evaluation", "reports")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert set(re.findall(r"\b(\w+\.py)\b", tree)) == modules


def test_the_workflow_calls_the_sessions_of_nox() -> None:
    """What runs on a push is what runs here."""
    sessions = set(re.findall(r"^@nox\.session.*\n(?:@.*\n)*def (\w+)", (ROOT / "noxfile.py").read_text(), re.MULTILINE))
    assert sessions == {"lint", "types", "tests", "openvino", "ray", "minimums", "bench"}
    workflow = (ROOT / ".github" / "workflows" / "checks.yml").read_text()
    matrix = re.search(r"session: \[(.*)\]", workflow)
    assert matrix is not None
    assert set(matrix[1].split(", ")) == sessions - {"bench"}


def test_lower_bounds_are_stated_for_everything() -> None:
    """Each direct dependency has a lowest version, which the minimums session can install."""
    project = PROJECT["project"]
    groups = [entry for group in PROJECT["dependency-groups"].values() for entry in group if isinstance(entry, str)]
    extras = [entry for extra in project["optional-dependencies"].values() for entry in extra]
    assert [entry for entry in project["dependencies"] + extras + groups if ">=" not in entry] == []


def test_the_example_photographs_are_credited_and_small() -> None:
    """Four to eight photographs, each in the credits with a free licence, none above 120 kB."""
    folder = ROOT / "examples" / "photos"
    photos = sorted(folder.glob("*.jpg"))
    credits_text = (folder / "CREDITS.md").read_text(encoding="utf-8")
    assert 4 <= len(photos) <= 8
    for photo in photos:
        (line,) = [line for line in credits_text.splitlines() if f"`{photo.name}`" in line]
        assert "CC0" in line or "public domain" in line
        assert photo.stat().st_size < 120_000


def test_no_credentials_or_private_addresses_are_tracked() -> None:
    """Nothing in the project names a package index of its own: environments bring theirs."""
    for name in ("pyproject.toml", "noxfile.py", ".ci/run", ".github/workflows/checks.yml", ".pre-commit-config.yaml"):
        text = (ROOT / name).read_text()
        assert not re.search(r"index-url|find-links|extra-index", text), name
