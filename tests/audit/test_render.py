import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

from markupsafe import escape

from captum_robust.audit import Rules
from captum_robust.audit.render import render, table_html

ROOT = Path(__file__).parents[2]
EVIL = "<script>alert(1)</script>\"'&<img src=http://example.org/x>"


class Page(HTMLParser):
    """Tags, addresses and texts of a page; unclosed elements are an error."""

    VOID = frozenset(["meta", "img", "line", "circle", "polyline", "rect", "br"])

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.addresses, self.texts = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.addresses += [v for k, v in attrs if k in ("src", "href", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_is_whole_and_asks_for_nothing(report):
    page = Page(render(report, "Title"))
    assert page.addresses
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    assert not [a for _, a in page.tags if "style" in a]  # the policy would ignore it
    assert not re.search(r"https?://", "".join(page.texts))


def test_what_a_user_names_is_text(report):
    found = report.explanations["gradient"]
    evil = replace(
        report,
        explanations={EVIL: replace(found, reason=EVIL, errors={EVIL: 1}, indicators={EVIL: 1.0})},
        refused={EVIL: EVIL},
        agreement={EVIL: found.values["sensitivity"]},
        settings={**report.settings, "feature_names": [EVIL]},
        circumstances={EVIL: EVIL},
    )
    plain, page = Page(render(report, "Title")), Page(render(evil, EVIL))
    count = lambda p, tag: sum(t == tag for t, _ in p.tags)  # noqa: E731
    assert count(page, "script") == count(plain, "script") == 1
    assert count(page, "img") == count(plain, "img")
    assert any("<script>" in text for text in page.texts)


def test_pictures_and_curves_have_words(report):
    page = Page(render(report, "Title"))
    assert all(a.get("alt") for t, a in page.tags if t == "img")
    # What a picture shows is said, or stands beside it as a number.
    assert all(a.get("aria-label") or "aria-hidden" in a for t, a in page.tags if t == "svg")
    assert sum(t == "h1" for t, _ in page.tags) == 1
    assert sum(t == "figcaption" for t, _ in page.tags) == sum(t == "figure" for t, _ in page.tags)
    assert next(a for t, a in page.tags if t == "html")["lang"] == "en"


def test_a_notebook_shows_the_table(report):
    assert report._repr_html_() == table_html(report)
    Page(table_html(report))


def columns(text):
    """The heads of the first table."""
    return re.findall(r'<th scope="col">([^<]*)</th>', text.split("</thead>")[0])


def test_the_reports_in_the_documentation_are_those_of_today(report):
    """Else run examples/reproduce/audits.py again."""
    stored = sorted((ROOT / "docs" / "_static" / "audits").glob("*.html"))
    assert stored
    today = render(report, "Title")
    for path in stored:
        text = path.read_text(encoding="utf-8")
        for tag in ("style", "script"):
            wanted = today.split(f"<{tag}>")[1].split(f"</{tag}>")[0]
            assert f"<{tag}>{wanted}</{tag}>" in text, path.name
        assert columns(text) == columns(today), path.name
        for sentence in Rules().sentences():
            assert f"<li>{escape(sentence)}</li>" in text, path.name
