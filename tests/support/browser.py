"""Real headless Chromium for tests of pages: what a reader sees, with every complaint of the browser a failure.

`open_page` gives a page to look at. The test fails if the console shows an error, a script throws, or a request would
leave the page for anything but a file, its own data or this machine; such requests are stopped, and no name is looked
up.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
ARGUMENTS = (
    "--no-sandbox",  # containers run tests as root, where Chromium's own sandbox cannot start
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)
STAYING_SCHEMES = ("file", "data", "blob", "about")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
VENDOR = Path(__file__).parents[1] / "vendor"
SERIOUS = ("serious", "critical")

Scheme = Literal["light", "dark"]


class OpenPage(Protocol):
    """Opens a file or an address in a window of its own, and waits until it has loaded and shows `until`."""

    def __call__(
        self, target: Path | str, until: str = "", *, scheme: Scheme = "light", width: int = 1280, height: int = 800
    ) -> Page: ...


def chromium_path() -> str:
    """Where Chromium is; skips the test with the reason where it, or Playwright, is not."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    found = next((path for name in CHROMIUM_NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on this machine, e.g.: apt-get install chromium")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser a module: while it runs, its thread has an event loop, beside which asyncio.run cannot work."""
    path = chromium_path()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Opens pages, and fails the test that opened them if the browser had anything to complain of."""
    contexts, complaints = [], list[str]()

    def opened(
        target: Path | str, until: str = "", *, scheme: Scheme = "light", width: int = 1280, height: int = 800
    ) -> Page:
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": height})
        contexts.append(context)
        context.route(leaves, lambda route: route.abort())
        page = context.new_page()
        page.set_default_timeout(60_000)  # other tests may run beside this one
        listen(page, complaints.append)
        page.goto(target.resolve().as_uri() if isinstance(target, Path) else target, wait_until="load")
        if until:
            page.wait_for_selector(until)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not complaints, "the browser complained:\n" + "\n".join(dict.fromkeys(complaints))


def listen(page: Page, complain: Callable[[str], None]) -> None:
    """Tells of errors in the console, exceptions in scripts, and requests that would leave the page."""

    def heard(message: ConsoleMessage) -> None:
        if message.type == "error":
            complain(f"console: {message.text}")

    page.on("console", heard)
    page.on("pageerror", lambda error: complain(f"script: {error}"))
    page.on("request", lambda request: complain(f"request: {request.url[:200]}") if leaves(request.url) else None)
    page.on("websocket", lambda socket: complain(f"websocket: {socket.url[:200]}") if leaves(socket.url) else None)


def leaves(address: str) -> bool:
    """Whether a request to this address would leave the page and the machine.

    >>> leaves("file:///report.html"), leaves("http://127.0.0.1:8000/"), leaves("http://127.0.0.1.evil.org/")
    (False, False, True)
    """
    parts = urlsplit(address)
    return parts.scheme not in STAYING_SCHEMES and parts.hostname not in LOOPBACK


def assert_accessible(page: Page) -> None:
    """Fails where axe-core finds something serious or critical on the page as it is shown now (WCAG 2 A and AA)."""
    page.evaluate(axe_source())
    found: dict[str, Any] = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    serious = [
        f"{finding['impact']} {finding['id']}: {finding['help']}\n"
        + "\n".join(f"    {node['html'][:160]}\n      {node['failureSummary'][:300]}" for node in finding["nodes"][:5])
        for finding in found["violations"]
        if finding["impact"] in SERIOUS
    ]
    assert not serious, "\n".join(serious)


def axe_source() -> str:
    """The vendored axe-core, once its SHA-256 is the one that vendor/README.md states."""
    script = (VENDOR / "axe.min.js").read_bytes()
    stated = re.findall(r"`([0-9a-f]{64})`", (VENDOR / "README.md").read_text(encoding="utf-8"))
    assert hashlib.sha256(script).hexdigest() in stated, "tests/vendor/axe.min.js is not the file that its README names"
    return script.decode("utf-8")


def sideways_overflow(page: Page) -> int:
    """Pixels by which the page is wider than its window; 0 where nothing scrolls sideways."""
    return int(page.evaluate("document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth"))
