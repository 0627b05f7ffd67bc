"""The page in a real browser: no errors, tables that sort, examples that filter, nothing that overflows, open to everyone.

The browser is headless Chromium, driven by playwright. On Debian: `apt-get install --no-install-recommends chromium`; on Ubuntu:
`python -m playwright install --with-deps chromium`. CAPT_CHROMIUM names another. Without one, these tests are skipped.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright

from reports import html
from reports.compose import compose
from reports.contest import decide
from reports.findings import Findings, Pictures
from reports.sections.examples import choose_examples
from tests.test_report import HOSTILE, document_of, findings_of, pictures_of

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HOW = "install Chromium (Debian: apt-get install chromium; elsewhere: python -m playwright install --with-deps chromium)"
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Chromium: the one named, the system's, or playwright's own."""
    named = os.environ.get("CAPT_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=named, args=["--no-sandbox"])  # containers run as root
        except Error as error:
            pytest.skip(f"no browser could be started ({str(error).splitlines()[0]}): {HOW}")
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a page whose names, captions, notes and faults are hostile, with attention and a photograph that cannot be opened."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(html.render(document_of(findings_of(("old", HOSTILE), text=HOSTILE))), encoding="utf-8")
    return path


@pytest.fixture
def opened(browser: Browser) -> Iterator[Open]:
    """Open pages; whatever the console says, or tries to fetch, fails the test."""
    complaints: list[str] = []
    pages: list[Page] = []

    def open_page(path: Path, *, width: int = 1440, scheme: str = "light", scripts: bool = True) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if scheme == "dark" else "light",
            java_script_enabled=scripts,
        )
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: complaints.extend([request.url][request.url.startswith(("file:", "data:")) :]))
        page.goto(path.as_uri())
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.context.close()
    assert complaints == []


def test_hostile_text_stays_text(opened: Open, report: Path) -> None:
    """An injected script never runs, and is read as it was written."""
    page = opened(report)
    assert page.locator("main script, main img, header script").count() == 0
    assert HOSTILE in page.locator("#photographs").inner_text()
    assert page.locator("h1").inner_text() == f"{HOSTILE} is better than old"


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_nothing_overflows(opened: Open, report: Path, width: int) -> None:
    """No page is wider than the screen, on a telephone or a desktop, with everything unfolded; wide tables scroll alone."""
    page = opened(report, width=width)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_tables_sort_by_number_and_by_name(opened: Open, report: Path) -> None:
    """A heading is a button: largest first, then smallest; names the other way; the heading tells how it is sorted."""
    page = opened(report)
    table = page.locator("#scores table.sortable").first
    heading = table.locator("thead th").nth(1)
    values = table.locator("tbody tr td:nth-of-type(1)")

    def numbers() -> list[float]:
        return [float(text.split()[0]) for text in values.all_inner_texts()]

    heading.locator("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert numbers() == sorted(numbers(), reverse=True)
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert numbers() == sorted(numbers())
    table.locator("thead button").first.click()
    assert heading.get_attribute("aria-sort") is None
    names = [text.splitlines()[0] for text in table.locator("tbody th").all_inner_texts()]
    assert names == sorted(names, key=str.lower)


def test_examples_filter_by_text_reason_score_and_bucket(opened: Open, report: Path) -> None:
    """Each filter leaves those that match, and says how many; all together, too; the button shows all again."""
    page = opened(report)
    form, cards, count = page.locator(".filters"), page.locator(".card:visible"), page.locator(".count")
    expect(cards).to_have_count(12)
    expect(count).to_have_text("12 of 12 photographs match.")
    form.get_by_label("Text").fill("GRASS 05.JPG")
    expect(cards).to_have_count(1)
    assert cards.get_attribute("aria-label") == "Photograph 05.jpg"
    form.get_by_role("button", name="Show all").click()
    expect(cards).to_have_count(12)
    form.get_by_label("Why it is here").select_option("gain")
    expect(cards).to_have_count(1)
    form.get_by_role("button", name="Show all").click()
    form.get_by_label("Bucket").select_option("reference_length-0")
    expect(cards).to_have_count(5)
    form.get_by_label("from").fill("0.5")
    expect(cards).to_have_count(2)  # gains of 50 and 12.5 in the first bucket
    form.get_by_label("Which score").select_option("score-1")
    form.get_by_label("to", exact=True).fill("70")
    expect(count).to_have_text(f"{cards.count()} of 12 photographs match.")
    expect(cards).to_have_count(2)  # 62.5 and 50


def test_many_examples_come_in_portions(opened: Open, tmp_path: Path) -> None:
    """24 are shown, the button shows more, and a link to a hidden one reveals it."""
    page = opened(_large(tmp_path, 60))
    cards = page.locator(".card:visible")
    assert cards.count() == 24
    page.get_by_role("button", name="Show more").click()
    assert cards.count() == 48
    last = page.locator(".card").last
    page.evaluate(f"location.hash = '{last.get_attribute('id')}'")
    last.wait_for(state="visible")
    assert page.get_by_role("button", name="Show more").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_axe_finds_nothing(opened: Open, report: Path, scheme: str, width: int) -> None:
    """No rule of axe is broken, contrast included, in light and dark, with everything unfolded."""
    page = opened(report, width=width, scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_the_page_reads_without_scripts(opened: Open, report: Path) -> None:
    """Without scripts everything is there; only the filters are not offered."""
    page = opened(report, scripts=False)
    assert page.locator(".card:visible").count() == 12
    assert page.locator(".filters:visible").count() == 0
    assert page.locator("thead button").count() == 0


def test_each_word_lies_on_the_photograph(opened: Open, report: Path) -> None:
    """Unfolded, each word of the caption has a small photograph under fog."""
    page = opened(report)
    card = page.locator(".card").first
    card.get_by_text("Where it looked").click()
    words = card.locator(".looked li")
    said = card.locator(".said .caption").last.inner_text().split()
    assert [text.strip() for text in words.all_inner_texts()] == said
    box = words.first.locator("svg").bounding_box()
    assert box is not None
    assert box["width"] > 40
    assert words.first.locator("use").get_attribute("href") == f"#{card.get_attribute('id')}-photo"


def test_print_shows_the_report_and_not_its_buttons(opened: Open, report: Path) -> None:
    """On paper there are no filters, no contents and no buttons to sort by; the paper is white in dark mode, too."""
    page = opened(report, scheme="dark")
    page.emulate_media(media="print")
    for hidden in (".filters", ".contents", ".skip"):
        assert page.locator(hidden).first.is_hidden()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf().startswith(b"%PDF")


def test_a_thousand_photographs_open_quickly_and_stay_small(opened: Open, tmp_path: Path) -> None:
    """A report that shows a thousand photographs has less than 15 MB, and opens in a moment (generously, for a busy machine)."""
    path = _large(tmp_path, 1000, bytes_each=9_000)
    assert path.stat().st_size < 15_000_000
    start = time.perf_counter()
    page = opened(path)
    page.locator(".count").wait_for()
    assert time.perf_counter() - start < 8
    assert page.locator(".count").inner_text().startswith("1000 of 1000")


def _large(folder: Path, n: int, *, bytes_each: int = 0) -> Path:
    """Write a page of n examples, each photograph as large as those of a real report."""
    findings = _tiled(findings_of(), n)
    contest = decide(findings)
    pictures = pictures_of(findings_of())
    jpeg = pictures.photographs["00.jpg"]
    padded = replace(jpeg, jpeg=(jpeg.jpeg or b"").ljust(bytes_each, b"\0"))  # what follows the end of a JPEG is passed over
    choice = choose_examples(findings, contest, n)
    document = compose(findings, contest, choice, Pictures(photographs=dict.fromkeys(findings.image_ids, padded)))
    path = folder / "large.html"
    path.write_text(html.render(document), encoding="utf-8")
    return path


def _tiled(findings: Findings, n: int) -> Findings:
    """Repeat the images until there are n."""
    rows = [row % len(findings.image_ids) for row in range(n)]
    systems = [
        replace(
            system,
            judged=replace(  # type: ignore[type-var]  # an Evaluation
                system.judged,
                captions=[system.judged.captions[row] for row in rows],
                per_image={name: values[rows] for name, values in system.judged.per_image.items()},
            ),
        )
        for system in findings.systems
    ]
    return replace(
        findings,
        image_ids=[f"{index}.jpg" for index in range(n)],
        systems=systems,
        references=[(findings.references or [])[row] for row in rows],
        dimensions=[],
    )
