"""The rules of the gate: what is stated counts, the rest keeps its default, a fault names file, key and what is allowed."""

from pathlib import Path

import pytest

from capt.errors import InputError
from evaluation.gate_rules import DEFAULTS, Rule, Rules, Severity, read_rules, score_names
from evaluation.significance import Bootstrap


def _file(folder: Path, text: str, name: str = "rules.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_defaults_are_those_of_the_manual() -> None:
    """CIDEr 1.0, BLEU-4 0.5, METEOR 0.3 and 2 % of perplexity may fail; no other score has a tolerance, so it warns at most."""
    rules = Rules()
    assert {name: rules.of(name) for name in DEFAULTS} == {
        "CIDEr": Rule(absolute=1.0),
        "Bleu_4": Rule(absolute=0.5),
        "METEOR": Rule(absolute=0.3),
        "perplexity": Rule(relative=0.02),
    }
    assert {rules.of(name) for name in score_names() if name not in DEFAULTS} == {Rule()}
    assert rules.bootstrap == Bootstrap(resamples=1000, seed=12345, confidence=0.95)


def test_what_is_stated_counts_and_the_rest_keeps_its_default(tmp_path: Path) -> None:
    """Key by key, in a file of rules and in a pyproject.toml alike."""
    plain = "resamples = 500\nseed = 7\nconfidence = 0.9\n[{0}CIDEr]\nrelative = 0.05\n"
    plain += "[{0}ROUGE_L]\nabsolute = 1\nseverity = 'warn'\n"
    expected = Rules(
        source=str(tmp_path / "rules.toml"),
        stated={
            "CIDEr": Rule(absolute=1.0, relative=0.05),
            "ROUGE_L": Rule(absolute=1.0, severity=Severity.WARN),
        },
        bootstrap=Bootstrap(resamples=500, seed=7, confidence=0.9),
    )
    assert read_rules(_file(tmp_path, plain.format(""))) == expected
    project = _file(tmp_path, "[project]\nname = 'x'\n[tool.capt.gate]\n" + plain.format("tool.capt.gate."), "pyproject.toml")
    found = read_rules(project)
    assert (found.stated, found.bootstrap, found.source) == (expected.stated, expected.bootstrap, str(project))
    assert found.of("METEOR") == DEFAULTS["METEOR"]


def test_the_project_file_of_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --rules, [tool.capt.gate] of ./pyproject.toml counts; without file or section, the defaults do."""
    monkeypatch.chdir(tmp_path)
    assert read_rules() == Rules()
    _file(tmp_path, "[project]\nname = 'x'\n[tool.other]\ncapt = 1\n", "pyproject.toml")
    assert read_rules() == Rules()
    _file(tmp_path, "[tool.capt.gate.CIDEr]\nfloor = 40\n", "pyproject.toml")
    assert read_rules().of("CIDEr") == Rule(absolute=1.0, floor=40)
    assert read_rules(_file(tmp_path, "[perplexity]\nceiling = 20\n")).of("CIDEr") == DEFAULTS["CIDEr"]


def test_a_project_file_that_is_named_must_have_rules(tmp_path: Path) -> None:
    """Whoever names it expects rules in it; a TOML file of rules may be empty."""
    with pytest.raises(InputError, match=r"has no section \[tool\.capt\.gate\]"):
        read_rules(_file(tmp_path, "[project]\nname = 'x'\n", "pyproject.toml"))
    assert read_rules(_file(tmp_path, "")).stated == {}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[CIDEr]\nabs = 1.0", ["[CIDEr]", "'abs'", "choose from absolute, relative, floor, severity"]),
        ("[perplexity]\nfloor = 1.0", ["[perplexity]", "'floor'", "ceiling"]),
        ("[METEOR]\nceiling = 1.0", ["[METEOR]", "'ceiling'", "floor"]),
        ("[cider]\nabsolute = 1.0", ["'cider'", "CIDEr", "resamples"]),
        ("[SPICE]\n", ["'SPICE'", "Bleu_4"]),
        ("CIDEr = 1.0", ["CIDEr must be a table", "1.0"]),
        ("[CIDEr]\nabsolute = '1'", ["[CIDEr]", "absolute must be a number, 0 or more", "'1'"]),
        ("[CIDEr]\nabsolute = true", ["absolute must be a number", "True"]),
        ("[CIDEr]\nabsolute = -1", ["absolute must be a number, 0 or more", "-1"]),
        ("[CIDEr]\nabsolute = inf", ["absolute must be a number", "inf"]),
        ("[CIDEr]\nfloor = nan", ["floor must be a number", "nan"]),
        (f"[CIDEr]\nfloor = 1{'0' * 400}", ["floor must be a number"]),
        ("[CIDEr]\nrelative = 2", ["relative must be a share", "0.02 for 2 %"]),
        ("[CIDEr]\nseverity = 'error'", ["severity must be 'fail', 'warn', 'ignore'", "'error'"]),
        ("[CIDEr]\nseverity = 1", ["severity must be 'fail', 'warn', 'ignore'"]),
        ("[CIDEr]\nseverity = 'ignore'\nfloor = 1", ["'ignore'", "floor", "leave one of the two out"]),
        ("resamples = 10", ["resamples must be a whole number, 100 or more", "10"]),
        ("resamples = 100.5", ["resamples must be a whole number"]),
        ("seed = -1", ["seed must be a whole number, 0 or more"]),
        ("confidence = 95", ["confidence must be a share between 0 and 1", "95"]),
        ("resamples = 100\nconfidence = 0.999", ["100 resamples are too few"]),
        ("[CIDEr\n", ["is not valid TOML", "line 1"]),
    ],
)
def test_a_fault_names_file_key_and_what_is_allowed(text: str, parts: list[str], tmp_path: Path) -> None:
    """Unknown keys, unknown scores, wrong types and impossible numbers are one sentence each."""
    path = _file(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_rules(path)
    for part in (str(path), *parts):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_fault_in_the_project_file_names_its_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the section itself is misspelt: rules that nobody reads would be worse than none."""
    monkeypatch.chdir(tmp_path)
    for text, part in (
        ("[tool.capt.gate.CIDEr]\nabs = 1", "pyproject.toml, [tool.capt.gate.CIDEr]: there is no key 'abs'"),
        ("[tool.capt.gates.CIDEr]\nabsolute = 1", "pyproject.toml, [tool.capt]: there is no key 'gates'; choose from gate"),
        ("[tool.capt]\ngate = 1", "gate must be a table"),
        ("[tool]\ncapt = 1", "capt must be a table"),
    ):
        _file(tmp_path, text, "pyproject.toml")
        with pytest.raises(InputError) as caught:
            read_rules()
        assert part in str(caught.value)


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    """Missing, a folder, or not UTF-8."""
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    for name, part in (("none.toml", "No such file"), ("", "Is a directory"), ("latin.toml", "not valid TOML")):
        with pytest.raises(InputError, match=part):
            read_rules(tmp_path / name)


def test_the_rules_are_told_as_plain_values(tmp_path: Path) -> None:
    """Whoever reads the JSON sees every rule that can fail, its source, and how intervals were computed."""
    rules = read_rules(_file(tmp_path, "[ROUGE_L]\nseverity = 'ignore'\n"))
    assert rules.to_dict() == {
        "source": str(tmp_path / "rules.toml"),
        "resamples": 1000,
        "seed": 12345,
        "confidence": 0.95,
        "scores": {
            "Bleu_4": {"absolute": 0.5, "severity": "fail"},
            "METEOR": {"absolute": 0.3, "severity": "fail"},
            "ROUGE_L": {"severity": "ignore"},
            "CIDEr": {"absolute": 1.0, "severity": "fail"},
            "perplexity": {"relative": 0.02, "severity": "fail"},
        },
    }


def test_the_rules_in_the_readme_are_rules(tmp_path: Path) -> None:
    """What the README shows can be copied as it stands."""
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (text,) = [block.partition("```")[0] for block in readme.split("```toml\n")[1:] if "[tool.capt.gate]" in block]
    assert set(read_rules(_file(tmp_path, text, "pyproject.toml")).stated) == {"CIDEr", "ROUGE_L"}
