"""The card in a real browser, from a disk: both themes, paper and a telephone, with foreign words in every place.

Every test also proves that nothing was fetched, no dialog came up, and the browser found nothing to complain of.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import PHONE, needs_chromium, opened, playwright
from test_report import artifacts, evaluation, hostile, published, report, store  # noqa: F401  fixtures

from minimind.artifact import Artifact
from minimind.evaluate.card.card import Report
from minimind.evaluate.card.page import render_html

WIDE = {"width": 1180, "height": 900}
BACKGROUND = "getComputedStyle(document.body).backgroundColor"

pytestmark = [pytest.mark.slow, needs_chromium]


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with opened() as chromium:
        yield chromium


@pytest.fixture
def visit(browser: "playwright.Browser") -> Iterator[Any]:
    """`visit(file, **options)` opens a page from the disk; it may ask for nothing else and complain of nothing."""
    wrong: list[str] = []
    contexts = []

    def open_page(file: Path, **options: Any) -> "playwright.Page":
        context = browser.new_context(**{"viewport": WIDE, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: wrong.append(said.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        own = (file.as_uri(), "data:")
        page.on("request", lambda request: None if request.url.startswith(own) else wrong.append(request.url))
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_card_opens_from_a_disk_in_both_themes(published: Artifact, visit: Any, theme: str) -> None:  # noqa: F811
    """A page that is mailed around: whole in one file, every picture there, in the colours of the reader's machine."""
    page = visit(published.dir / "report.html", color_scheme=theme)
    playwright.expect(page.get_by_role("heading", name="How good it is")).to_be_visible()
    pictures = page.evaluate("[...document.images].map(image => [image.naturalWidth, image.currentSrc])")
    assert len(pictures) > 8 and all(width > 400 for width, _ in pictures)
    dark = set(page.evaluate("[...document.querySelectorAll('source')].map(source => source.srcset)"))
    assert {source for _, source in pictures} & dark == (dark if theme == "dark" else set())
    assert (page.evaluate(BACKGROUND) == "rgb(18, 20, 24)") == (theme == "dark")
    page.get_by_text("bits per byte by source").click()
    playwright.expect(page.get_by_role("cell", name="others").first).to_be_visible()


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_foreign_words_do_nothing_and_break_nothing(
    published: Artifact,  # noqa: F811
    report: Report,  # noqa: F811
    visit: Any,
    tmp_path: Path,
    size: dict[str, int],
) -> None:
    """Markup in any name or answer is text, and none is so long that the page must be pushed aside."""
    file = tmp_path / "report.html"
    endless = hostile(report).replace(host="m" * 300, warnings=["w" * 400])
    file.write_text(render_html(endless, published.dir), encoding="utf-8")
    page = visit(file, viewport=size)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert page.evaluate("document.scripts.length") == 0
    assert page.get_by_text("<script>alert('x')</script>").count() > 30


def test_paper_is_light_and_has_all_of_the_page(published: Artifact, visit: Any) -> None:  # noqa: F811
    """What is printed by somebody whose machine is dark must not be a black page, nor cut off at the right."""
    page = visit(published.dir / "report.html", color_scheme="dark", viewport={"width": 760, "height": 1000})
    page.emulate_media(media="print")
    assert page.evaluate(BACKGROUND) == "rgb(255, 255, 255)"
    assert page.evaluate("document.documentElement.scrollWidth") <= 760
    assert not page.get_by_role("navigation").is_visible()
    dark = set(page.evaluate("[...document.querySelectorAll('source')].map(source => source.srcset)"))
    assert not dark & set(page.evaluate("[...document.images].map(image => image.currentSrc)"))
    assert page.pdf(format="A4").startswith(b"%PDF")
