"""The page: everything escaped, no connection to anywhere, the same bytes for the same findings."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from reports import html
from tests.test_report import HOSTILE, document_of, findings_of


class _Page(HTMLParser):
    """What a browser would see: tags with attributes, and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep a tag."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Keep text."""
        self.text += data


@pytest.fixture(scope="module")
def page() -> str:
    """Draw a page in which names, captions, references, notes, cards and faults are hostile."""
    return html.render(document_of(findings_of(("old", HOSTILE, f"{HOSTILE} 2"), text=HOSTILE)))


def test_hostile_text_stays_text(page: str) -> None:
    """No tag comes out of any text, and the text is there word for word."""
    seen = _Page(page)
    assert [tag for tag, _ in seen.tags if tag == "img"] == []
    assert sum(tag == "script" for tag, _ in seen.tags) == 2
    assert not [name for _, attributes in seen.tags for name in attributes if name.startswith("on")]
    assert HOSTILE in seen.text


def test_the_page_refers_to_nothing_outside(page: str) -> None:
    """Every address is inside the page or holds its own data."""
    for tag, attributes in _Page(page).tags:
        for name in ("href", "src", "xlink:href", "action", "srcset"):
            address = attributes.get(name)
            assert address is None or address.startswith(("#", "data:image/")), (tag, address)
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_the_policy_allows_the_own_scripts_alone(page: str) -> None:
    """The page forbids itself every connection; the digests in the policy are those of its scripts."""
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    digests = set(re.findall(r"'sha256-([^']*)'", policy[1]))
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    assert digests == {base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in scripts}


def test_ids_are_unique(page: str) -> None:
    """No two elements share an id, so that links and labels find theirs."""
    ids = [attributes["id"] for _, attributes in _Page(page).tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {attributes["href"] for tag, attributes in _Page(page).tags if tag == "a"}
    assert {str(target)[1:] for target in targets} <= set(ids)


def test_the_same_findings_give_the_same_bytes() -> None:
    """Nothing of the day or the process is in the page but the date given."""
    assert html.render(document_of(findings_of())) == html.render(document_of(findings_of()))


def test_every_plot_has_its_numbers_and_words(page: str) -> None:
    """Each plot is named for those who cannot see it, and stands above a table of the same numbers."""
    seen = _Page(page)
    plots = [attributes for tag, attributes in seen.tags if tag == "svg" and attributes.get("class") == "plot"]
    assert len(plots) > 8
    assert all(attributes["role"] == "img" and attributes["aria-labelledby"] for attributes in plots)
    assert page.count("<summary>Numbers") == len(plots)


def test_one_captioner_alone_has_a_page() -> None:
    """A single run gives a report without a word of a comparison."""
    text = html.render(document_of(findings_of(("only",))))
    assert "only reaches CIDEr 64.6" in text
    assert "Wins, ties and losses" not in text
