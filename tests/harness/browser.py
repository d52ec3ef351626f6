"""A browser without a window, for tests of pages that we write. It reaches no network, and every request is noted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ARGUMENTS = (
    *("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND"),
)
"""Without these, a browser looks hosts up by itself when it starts."""

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
AXE = f"() => axe.run(document, {{runOnly: {RULES!r}, resultTypes: ['violations']}})"


@dataclass
class Visit:
    """A page that was opened, with what it asked for and what it had to say."""

    page: Page
    requests: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)

    def unfold(self, at_most: int = 1_000) -> None:
        """Open what is folded, the first of it."""
        self.page.evaluate(
            "most => [...document.querySelectorAll('details')].slice(0, most).forEach(one => one.open = true)", at_most
        )

    def violations(self) -> list[tuple[str, str]]:
        """Return what axe finds: the rule, and the first element that breaks it."""
        self.page.evaluate((resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8"))
        found: dict[str, Any] = self.page.evaluate(AXE)
        return [(one["id"], one["nodes"][0]["html"][:200]) for one in found["violations"]]

    def overhang(self) -> int:
        """Return how many pixels of the page are beyond the window, to be scrolled sideways for."""
        found: int = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        return max(found, 0)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Debian's Chromium."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", headless=True, chromium_sandbox=False, args=ARGUMENTS
        )
        yield started
        started.close()


@contextmanager
def visit(browser: Browser, file: Path, *, width: int = 1280, scheme: Any = "light") -> Iterator[Visit]:
    """Open a file in a window of a width, in light or dark colours."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    made = Visit(context.new_page())
    made.page.on("request", lambda request: made.requests.append(request.url))
    made.page.on("console", lambda message: made.console.append(message.text))
    made.page.on("pageerror", lambda error: made.console.append(str(error)))
    made.page.goto(file.as_uri())
    yield made
    context.close()
