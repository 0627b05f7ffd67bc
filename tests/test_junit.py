"""A gate as JUnit XML: well-formed whatever it is told, one case a score, failures and errors counted."""

from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.junit import junit
from reports.verdicts import VerdictRow, VerdictTable

HOSTILE = "<b>&\"'\n\t]]>\x00\x1b[31m\ud800\ufffe|`x`"


def _table(*rows: tuple[str, str, str], verdict: str = "fail", reasons: tuple[str, ...] = ()) -> VerdictTable:
    """Make a table of name, verdict, sentence."""
    return VerdictTable(
        verdict=verdict,
        headline="So it ended.",
        headings=[],
        rows=[VerdictRow(name=name, verdict=found, cells=[], said=said) for name, found, said in rows],
        reasons=reasons,
        changes=[],
        notes=[],
        legend="",
        signatures=[],
    )


def _read(text: str) -> tuple[ET.Element, list[ET.Element]]:
    suites = ET.fromstring(text.encode("utf-8"))  # noqa: S314  # our own text
    (suite,) = suites
    assert (suites.tag, suite.tag) == ("testsuites", "testsuite")
    return suite, list(suite)


def test_each_score_is_a_case() -> None:
    """A failed score is a failure with its sentence; a warning and what passed are no failure, and are counted so."""
    rows = ("CIDEr", "fail", "CIDEr fell."), ("ROUGE_L", "warn", "ROUGE_L fell a little."), ("METEOR", "pass", "")
    suite, cases = _read(junit(_table(*rows)))
    assert [case.get("name") for case in cases] == ["CIDEr", "ROUGE_L", "METEOR"]
    assert {case.get("classname") for case in cases} == {"capt-eval gate"}
    assert [[child.tag for child in case] for case in cases] == [["failure"], ["system-out"], []]
    assert (cases[0][0].get("message"), cases[0][0].text) == ("CIDEr fell.", "CIDEr fell.")
    assert cases[1][0].text == "warn: ROUGE_L fell a little."
    assert {name: suite.get(name) for name in ("tests", "failures", "errors")} == {"tests": "3", "failures": "1", "errors": "0"}


@pytest.mark.parametrize("rows", [(), (("CIDEr", "not-comparable", ""), ("METEOR", "not-comparable", ""))])
def test_what_cannot_be_compared_is_an_error(rows: tuple[tuple[str, str, str], ...]) -> None:
    """With its reasons, in every score; and in one case of its own when there are no scores, so that no suite is empty."""
    suite, cases = _read(junit(_table(*rows, verdict="not-comparable", reasons=("one", "two"))))
    assert len(cases) == max(len(rows), 1)
    assert [case[0].tag for case in cases] == ["error"] * len(cases)
    assert {case[0].get("message") for case in cases} == {"one; two"}
    assert suite.get("errors") == suite.get("tests") == str(len(cases))


def test_hostile_text_stays_text() -> None:
    """Markup is escaped, and what XML cannot hold is replaced, in names, messages and reasons."""
    _, (case,) = _read(junit(_table((HOSTILE, "fail", HOSTILE))))
    shown = HOSTILE.replace("\x00", "\ufffd").replace("\x1b", "\ufffd").replace("\ud800", "\ufffd").replace("\ufffe", "\ufffd")
    assert (case.get("name"), case[0].get("message"), case[0].text) == (shown, shown, shown)
    _, (whole,) = _read(junit(_table(verdict="not-comparable", reasons=(HOSTILE,))))
    assert whole[0].text == shown


@given(st.text(st.characters(exclude_categories=())), st.sampled_from(["pass", "warn", "fail", "not-comparable"]))
def test_any_text_is_well_formed(text: str, verdict: str) -> None:
    """Whatever a score or a sentence holds, lone surrogates included, a parser reads the file."""
    _, cases = _read(junit(_table((text, verdict, text), reasons=(text,))))
    assert len(cases) == 1
