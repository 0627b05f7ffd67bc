"""Names and captions that want to be more than text, through the real commands, into everything that they write.

Photographs have hostile names, the checkpoint writes hostile words, one file is damaged; then each output is read as its readers
do: a terminal, GitHub's runner, a browser, a Markdown renderer, an XML parser, Prometheus, a reader of JSON lines.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from markdown_it import MarkdownIt
from prometheus_client.parser import text_string_to_metric_families

from capt.captions import read_captions
from capt.checkpoint import save_checkpoint
from capt.images import INCEPTION
from capt.shown import in_log, json_text, one_line
from capt.vocabulary import SPECIAL_WORDS, Vocabulary
from tests.conftest import EXAMPLE_PHOTOS, ROOT, tiny_captioner

HOSTILE = (
    *(
        "[red]red[/red]",
        "[link=javascript:alert(1)]x[/link]",
        ":boom:",
        "\x1b]0;owned\x07\x1b[31m",
        "\x9b31m",
        "a\rb\x08c",
        "x\x7f",
    ),
    *("a\n::error::owned", "::set-output name=x::owned", "##[error]owned", "\u202egpj.exe", "a\u2028line", "a\u200bb"),
    *(
        "<img src=x onerror=alert(1)>",
        "<script>alert(1)</script>",
        '" onmouseover="alert(1)',
        "javascript:alert(1)",
        "{{7*7}}",
    ),
    *(
        "[x](javascript:alert(1))",
        "![x](http:evil.example)",
        "|a|b|",
        "`x`",
        "@user #1",
        "# heading",
        "- [ ] x",
        "www.evil.example",
    ),
    *("]]>&amp;&lt;", "=cmd|' !A0", "+1+1", "-1", "@SUM(1)", "'; DROP TABLE x; --", "$(touch owned)", 'quote"\\back'),
)
NAMES = tuple(text.replace("/", "\u2044") for text in HOSTILE)  # a file's name has no slash
STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200c\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069]")
COMMAND = re.compile(r"^\s*::|##\[", re.MULTILINE)  # what GitHub's runner obeys
PROGRAMS = {"capt-batch": "from jobs.cli import main; main()", "capt-eval": "from evaluation.cli import main; main()"}
Said = subprocess.CompletedProcess[str]


def _call(program: str, *arguments: object, folder: Path) -> Said:
    command = [sys.executable, "-c", PROGRAMS[program], *map(str, arguments)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "GITHUB_STEP_SUMMARY": "summary.md", "HOME": str(folder)}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Said | Path]:
    """Caption, look, score, compare, gate and report; give what each said, and the folder of all files."""
    folder = tmp_path_factory.mktemp("hostile")
    photos = folder / "photos"
    photos.mkdir()
    for name in NAMES:
        shutil.copy(EXAMPLE_PHOTOS / "cat.jpg", photos / f"{name}.jpg")
    (photos / "[red]\x1b[31m\n::error::damaged.jpg").write_bytes(b"\xff\xd8\xff nothing")
    vocabulary = Vocabulary((*SPECIAL_WORDS, *HOSTILE))
    captioner, card = tiny_captioner(len(vocabulary)), {"name": HOSTILE[0], "about": list(HOSTILE)}
    save_checkpoint(folder / "x.safetensors", captioner=captioner, vocabulary=vocabulary, preprocessing=INCEPTION, card=card)
    said: dict[str, Said | Path] = {"folder": folder}

    def call(name: str, program: str, *arguments: object) -> None:
        said[name] = _call(program, *arguments, folder=folder)

    run = ("--checkpoint", "x.safetensors", "--max-length", "6", "--log-json", "log.jsonl", "--metrics", "m.prom")
    call("run", "capt-batch", "run", "photos", "-o", "[red]out\x1b[31m::x", *run)
    call("info", "capt-batch", "info", "x.safetensors")
    out = folder / "[red]out\x1b[31m::x"
    rows = read_captions(out).to_pylist()
    references = [json.dumps({"image_id": row["image_id"], "caption": [row["caption"] or "a dog", "a dog"]}) for row in rows]
    (folder / "references.jsonl").write_text("\n".join(references))
    for name in ("[red]one\x1b[31m", "two ::error::x"):
        call(
            f"score {name}",
            "capt-eval",
            "score",
            out,
            "-r",
            "references.jsonl",
            "-o",
            name,
            "-m",
            "BLEU",
            "-m",
            "CIDEr",
            "--json",
        )
    call("compare", "capt-eval", "compare", "[red]one\x1b[31m", "two ::error::x", "--json")
    call("gate", "capt-eval", "gate", "[red]one\x1b[31m", "-b", "two ::error::x", "--junit", "junit.xml")
    call("refused", "capt-eval", "gate", "[red]\x1b[31m\n::error::none", "-b", "two ::error::x", "--junit", "refused.xml")
    call("missing", "capt-batch", "run", "[red]\x1b[31m\n::error::none")
    call("dry run", "capt-batch", "run", "photos", "-o", out, *run[:4], "--dry-run")
    options = ("-r", "references.jsonl", "--images", "photos", "-o", "report", "--checkpoint", "x.safetensors")
    call("report", "capt-eval", "report", out, "[red]one\x1b[31m", *options)
    return said


def _said(outputs: Mapping[str, Said | Path], name: str) -> Said:
    found = outputs[name]
    assert isinstance(found, subprocess.CompletedProcess)
    return found


def _file(outputs: Mapping[str, Said | Path], name: str) -> str:
    folder = outputs["folder"]
    assert isinstance(folder, Path)
    return (folder / name).read_text(encoding="utf-8")


def test_every_command_did_its_work(outputs: Mapping[str, Said | Path]) -> None:
    """The hostile run is a run like others, so what follows is about its real outputs; what is refused is so in a sentence."""
    codes = {name: _said(outputs, name).returncode for name in outputs if name != "folder"}
    wanted = {"run": 1, "refused": 3, "missing": 2}
    assert codes == {name: wanted.get(name, 0) for name in codes}, {name: _said(outputs, name).stderr for name in codes}


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_no_stream_steers_a_terminal_or_commands_a_runner(outputs: Mapping[str, Said | Path], stream: str) -> None:
    """What every command prints holds no character that steers, and no line that GitHub's runner would obey."""
    for name in outputs:
        if name != "folder":
            text = getattr(_said(outputs, name), stream)
            assert not STEERING.findall(text), (name, text)
            assert not COMMAND.findall(text), (name, text)


def test_markup_is_shown_as_it_was_written(outputs: Mapping[str, Said | Path]) -> None:
    """Names with rich's markup and emoji are read on the terminal as they stand."""
    assert "[red]out" in _said(outputs, "run").stderr
    assert "[red]one" in _said(outputs, "compare").stderr


class _Page(HTMLParser):
    """Collects what a page does beside showing text."""

    def __init__(self) -> None:
        super().__init__()
        self.handlers: list[str] = []
        self.addresses: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "action", "xlink:href"}]


def test_the_page_runs_nothing_but_its_own(outputs: Mapping[str, Said | Path]) -> None:
    """In the HTML there is no handler, no address but of data and of places in the page, and the two scripts of the page."""
    page = _Page()
    text = _file(outputs, "report/report.html")
    page.feed(text)
    assert (page.handlers, page.scripts) == ([], 2)
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert "onerror=alert" in text  # as text
    assert not STEERING.findall(text)


@pytest.mark.parametrize("name", ["report/report.md", "summary.md"])
def test_markdown_has_no_links_pictures_or_mentions(name: str, outputs: Mapping[str, Said | Path]) -> None:
    """Rendered as GitHub does, no text of others becomes a link, a picture, a tag or a mention."""
    text = _file(outputs, name)
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    inline = [child for token in tokens for child in token.children or ()]
    assert not [each for each in inline if each.type in {"link_open", "image"}]
    tags = {each.content for each in (*inline, *tokens) if each.type in {"html_inline", "html_block"}}
    allowed = re.compile(r"(?:</?(?:sub|details|summary|br|sup)>|[^<>])*")
    assert all(allowed.fullmatch(tag) for tag in tags), tags
    assert not re.search(r"(?<!\\)@\w|(?<![\w\\])#\d|://|www\.", text)
    assert not STEERING.findall(text.replace("\u2060", ""))


@pytest.mark.parametrize("name", ["junit.xml", "refused.xml"])
def test_junit_is_xml(name: str, outputs: Mapping[str, Said | Path]) -> None:
    """The XML is well formed, and its texts hold no character that steers."""
    root = ET.fromstring(_file(outputs, name))  # noqa: S314  # our own file
    texts = [text for each in root.iter() for text in (each.text or "", *each.attrib.values())]
    assert not STEERING.findall("".join(texts))
    assert {each.tag for each in root.iter()} <= {"testsuites", "testsuite", "testcase", "error", "failure", "system-out"}


def test_metrics_and_log_are_read_whole(outputs: Mapping[str, Said | Path]) -> None:
    """Prometheus' own parser finds the output's name; each line of the log is an object, and one names the damaged image."""
    families = list(text_string_to_metric_families(_file(outputs, "m.prom")))
    names = {sample.labels["output"] for family in families for sample in family.samples}
    assert [Path(name).name for name in names] == ["[red]out\x1b[31m::x"]
    lines = [json.loads(line) for line in _file(outputs, "log.jsonl").splitlines()]
    failed = [line for line in lines if line["event"] == "image_failed"]
    assert [line["image_id"] for line in failed] == ["[red]\x1b[31m\n::error::damaged.jpg"]
    assert len(lines) == _file(outputs, "log.jsonl").count("\n")


def test_the_table_holds_names_as_they_are(outputs: Mapping[str, Said | Path]) -> None:
    """In data nothing is changed: ids are the files' names, to the last character."""
    folder = outputs["folder"]
    assert isinstance(folder, Path)
    ids = read_captions(folder / "[red]out\x1b[31m::x").column("image_id").to_pylist()
    assert set(ids) == {f"{name}.jpg" for name in NAMES} | {"[red]\x1b[31m\n::error::damaged.jpg"}


@pytest.mark.parametrize("show", [one_line, in_log])
def test_shown_text_is_one_printable_line(show: Callable[[str], str]) -> None:
    """Every hostile text becomes printable; plain text in any language stays as it is."""
    for text in HOSTILE:
        shown = show(text)
        assert "\n" not in shown
        assert not STEERING.findall(shown)
    assert show("ein Hund läuft, 一只狗 🐕") == "ein Hund läuft, 一只狗 🐕"


def test_json_for_people_is_json() -> None:
    """What is written out for a terminal is read back to the last character, half characters included."""
    value = {"a": [*HOSTILE, "\ud800", "läuft"], "b": {"c": 1.5}}
    text = json_text(value)
    assert json.loads(text) == value
    assert "läuft" in text
    assert not STEERING.findall(text)
