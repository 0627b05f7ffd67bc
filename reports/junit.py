"""A gate's verdicts as JUnit XML, which continuous integration shows as tests: one test case a score.

In: a VerdictTable. Out: XML text. Apart, because it draws and decides nothing.
"""

import re
from xml.etree import ElementTree as ET

from reports.verdicts import VerdictRow, VerdictTable

_NOT_XML = re.compile(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")  # what XML 1.0 cannot hold, even escaped
_SUITE, _WHOLE = "capt-eval gate", "comparison"


def junit(table: VerdictTable) -> str:
    """Draw verdicts.

    Args:
        table: What is said.

    Returns:
        One `<testsuite>`: a failed score is a failure, a warning passes with its sentence as output, and what cannot be compared
        is an error.
    """
    cases = [_case(row, table) for row in table.rows] or [_whole(table)]
    counts = {f"{kind}s": sum(case.find(kind) is not None for case in cases) for kind in ("failure", "error")}
    totals = {"tests": len(cases), **counts, "time": 0}
    attributes = {"name": _SUITE, **{name: str(total) for name, total in totals.items()}}
    suites = ET.Element("testsuites", attributes)
    suite = ET.SubElement(suites, "testsuite", attributes)
    suite.extend(cases)
    ET.indent(suites)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(suites, encoding="unicode")}\n'


def _case(row: VerdictRow, table: VerdictTable) -> ET.Element:
    """One score: failure, error, or passed with what there is to say."""
    case = ET.Element("testcase", {"classname": _SUITE, "name": _clean(row.name), "time": "0"})
    if row.verdict == "not-comparable":
        _add(case, "error", row.verdict, "; ".join(table.reasons))
    elif row.verdict == "fail":
        _add(case, "failure", row.verdict, row.said)
    elif row.said:
        ET.SubElement(case, "system-out").text = _clean(f"{row.verdict}: {row.said}")
    return case


def _whole(table: VerdictTable) -> ET.Element:
    """The case of a gate that has no scores: nothing could be read."""
    case = ET.Element("testcase", {"classname": _SUITE, "name": _WHOLE, "time": "0"})
    _add(case, "error", table.verdict, "; ".join(table.reasons) or table.headline)
    return case


def _add(case: ET.Element, kind: str, verdict: str, message: str) -> None:
    text = _clean(message)
    ET.SubElement(case, kind, {"type": _clean(verdict), "message": text}).text = text


def _clean(text: str) -> str:
    """Replace what XML cannot hold."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
