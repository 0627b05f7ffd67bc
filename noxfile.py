"""The checks of this project, each in an environment of its own: `nox -l` lists them, plain `nox` runs all but `bench`."""

from pathlib import Path

import nox

nox.needs_version = ">=2025.10.16"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types", "tests", "openvino", "ray", "minimums"]
nox.options.error_on_external_run = True

PROJECT = nox.project.load_toml("pyproject.toml")
LOWEST_PYTHON = nox.project.python_versions(PROJECT)[0]
EXTRAS = "train,timm"  # openvino and ray have sessions of their own


def _group(name: str) -> tuple[str, ...]:
    return nox.project.dependency_groups(PROJECT, name)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting and the direction of imports (ruff, import-linter)."""
    session.install(*_group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", env={"PYTHONPATH": "."})


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of code, tests and tooling (mypy, strict)."""
    session.install("-e", f".[{EXTRAS}]", *_group("types"))
    session.run("mypy", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests and measure their branch coverage."""
    session.install("-e", f".[{EXTRAS}]", *_group("tests"))
    _measure(session)


@nox.session
def openvino(session: nox.Session) -> None:
    """Run the tests of OpenVINO, in an environment and a process of their own."""
    session.install("-e", f".[{EXTRAS},openvino]", *_group("tests"))
    session.run("python", "-m", "pytest", "tests/test_inference.py", "tests/test_int8.py", *session.posargs)


@nox.session
def ray(session: nox.Session) -> None:
    """Run the tests of Ray on a real cluster whose nodes are killed, which takes minutes."""
    session.install("-e", f".[{EXTRAS},ray]", *_group("tests"))
    session.run("python", "-m", "pytest", "tests/test_ray.py", *session.posargs)


@nox.session(python=LOWEST_PYTHON, venv_backend="uv")
def minimums(session: nox.Session) -> None:
    """Run the tests with the lowest Python and the lowest direct dependencies that are promised."""
    session.install("--resolution", "lowest-direct", "-e", f".[{EXTRAS}]", *_group("tests"))
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Run the measurements behind the claims about speed and memory, quickly unless given other options."""
    session.install("-e", f".[{EXTRAS}]")
    for program in sorted(Path("benchmarks").glob("*.py")):
        session.run("python", str(program), *(session.posargs or ["--quick"]))


def _measure(session: nox.Session) -> None:
    """Run pytest under coverage; programs that tests start are measured too."""
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")
