"""The report's page in a browser: it can be read by everybody, asks for nothing, and runs nothing."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from harness.browser import browser, visit
from harness.inventories import HOSTILE, inventory
from varmenne.audit.inventory import Inventory, LogFacts
from varmenne.audit.report import views
from varmenne.audit.report.folder import PAGE, report
from varmenne.audit.report.language import Language, table
from varmenne.audit.report.page import SECTIONS

__all__ = ["browser"]

EMPTY = replace(inventory(0), findings=(), tokens=(), log=LogFacts(origin="varmenne/00", size=0, root=""), asked=())


def _page(folder: Path, made: Inventory, language: Language) -> Path:
    """Write the page alone."""
    path = folder / f"{language}-{len(made.keys)}.html"
    path.write_bytes(report(made, language)[PAGE])
    return path


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[Language, Path]:
    """The page with most states and every exception, with texts that attack it, in each language."""
    folder = tmp_path_factory.mktemp("pages")
    return {language: _page(folder, inventory(6, hostile=True), language) for language in Language}


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 320)])
@pytest.mark.parametrize("language", Language)
def test_it_can_be_read_by_everybody(
    browser: Browser, pages: dict[Language, Path], language: Language, scheme: str, width: int
) -> None:
    """No rule of WCAG 2.2 AA that a program can check is broken, with a time line unfolded."""
    with visit(browser, pages[language], width=width, scheme=scheme) as seen:
        seen.unfold(at_most=1)
        assert seen.violations() == []
        assert seen.page.get_attribute("html", "lang") == language


@pytest.mark.parametrize("width", [320, 768, 1280])
@pytest.mark.parametrize("language", Language)
def test_nothing_is_scrolled_sideways(
    browser: Browser, pages: dict[Language, Path], language: Language, width: int
) -> None:
    """Long hashes, paths and names are broken; tables become cards where they have no room."""
    with visit(browser, pages[language], width=width) as seen:
        seen.unfold()
        assert seen.overhang() == 0


def test_it_asks_for_nothing_and_runs_nothing(browser: Browser, pages: dict[Language, Path]) -> None:
    """One request, the file itself; no console message, so the policy allowed all that there is; and no dialog."""
    page = pages[Language.ENGLISH]
    with visit(browser, page) as seen:
        seen.page.on("dialog", lambda dialog: pytest.fail(dialog.message))
        seen.page.wait_for_timeout(200)
        assert (seen.requests, seen.console) == ([page.as_uri()], [])
        assert seen.page.locator("script, img, link, iframe, object, form, [style], [onerror]").count() == 0
        assert HOSTILE in seen.page.inner_text("header")
        assert seen.page.evaluate("getComputedStyle(document.querySelector('.warning')).fontWeight") == "600"


def test_the_policy_allows_one_style_sheet_and_nothing_else(pages: dict[Language, Path]) -> None:
    """The hash is that of the text between the tags, to the byte, and stands in front of it."""
    text = pages[Language.ENGLISH].read_text(encoding="utf-8")
    found = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert found is not None
    assert policy is not None
    digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
    assert policy[1] == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert policy.start() < found.start()


def test_these_tests_would_find_a_bad_page(browser: Browser, tmp_path: Path) -> None:
    """A page with the faults that are looked for: each is found."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!doctype html><html><head><title>x</title>"
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; img-src *\"></head><body>"
        "<p style='color:#aaa'>pale</p><img src='https://example.com/x.png'><script>1</script>"
        "<pre>" + "wide" * 200 + "</pre></body></html>"
    )
    with visit(browser, bad) as seen:
        assert {"html-has-lang", "image-alt"} <= {rule for rule, _html in seen.violations()}
        assert seen.overhang() > 0
        assert "https://example.com/x.png" in seen.requests
        assert any("Content Security Policy" in line for line in seen.console)
    pale = tmp_path / "pale.html"
    pale.write_text("<!doctype html><html lang=en><head><title>x</title></head><body><main><h1>x</h1>"
                    "<p style='color:#bbb'>pale</p></main></body></html>")  # fmt: skip
    with visit(browser, pale) as seen:
        assert [rule for rule, _html in seen.violations()] == ["color-contrast"]


@pytest.mark.parametrize("language", Language)
def test_all_sections_are_there_and_links_lead_somewhere(
    browser: Browser, pages: dict[Language, Path], language: Language
) -> None:
    """Each section has its heading, and what is linked to is on the page."""
    with visit(browser, pages[language]) as seen:
        headings = seen.page.locator("h2").all_inner_texts()
        assert headings == [table(language)[section] for section in SECTIONS]
        assert seen.page.evaluate(
            "[...document.querySelectorAll('a')].filter(a => !document.querySelector(a.getAttribute('href')"
            ".replace(/^#(\\d)/, '#\\\\3$1 '))).map(a => a.getAttribute('href'))"
        ) == []  # fmt: skip


@pytest.mark.parametrize("language", Language)
def test_an_empty_journal_has_a_report_too(browser: Browser, tmp_path: Path, language: Language) -> None:
    """Nothing is there, and that is what is said."""
    with visit(browser, _page(tmp_path, EMPTY, language), width=320) as seen:
        assert (seen.violations(), seen.overhang()) == ([], 0)
        assert table(language)["no_keys"] in seen.page.inner_text("#inventory")
        assert table(language)["no_exceptions"] in seen.page.inner_text("#exceptions")
        assert table(language)["no_vkey"] in seen.page.inner_text("#verify")


def test_it_is_printed_in_full(browser: Browser, pages: dict[Language, Path]) -> None:
    """On paper nothing can be unfolded: time lines that are folded on the screen are printed."""
    with visit(browser, pages[Language.ENGLISH]) as seen:
        act = seen.page.locator("#timelines details").nth(5).locator("tbody tr").first
        assert not act.is_visible()
        seen.page.emulate_media(media="print")
        assert act.is_visible()
        assert not seen.page.locator("nav").is_visible()
        assert seen.page.pdf(prefer_css_page_size=True, tagged=True).startswith(b"%PDF-")


def test_keys_beyond_what_a_page_holds_are_counted(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fleet's page says how many keys it shows, of how many, and where the others are."""
    monkeypatch.setattr(views, "MOST_ROWS", 12)
    monkeypatch.setattr(views, "MOST_TIMELINES", 4)
    with visit(browser, _page(tmp_path, inventory(20), Language.FINNISH)) as seen:
        told = table(Language.FINNISH)["shown_of"]
        assert told.format(shown=12, all=20) in seen.page.inner_text("#inventory")
        assert told.format(shown=4, all=20) in seen.page.inner_text("#timelines")
        assert seen.page.locator("#inventory tbody tr").count() == 12
