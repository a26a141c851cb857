"""The browser of the tests notices what it is there to notice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.browser import OpenPage, assert_accessible, leaves, listen, sideways_overflow

if TYPE_CHECKING:
    from playwright.sync_api import Browser

STRICT = "default-src 'none'; style-src 'unsafe-inline'"


def page_file(folder: Path, body: str, *, head: str = "") -> Path:
    path = folder / "page.html"
    path.write_text(f"<!doctype html><html lang=en><title>t</title>{head}<main><h1>t</h1>{body}</main>", "utf-8")
    return path


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("<script>console.error('oh')</script>", "console: oh"),
        ("<script>throw new Error('ah')</script>", "script: ah"),
        ("<img src='https://example.org/x.png' alt=''>", "request: https://example.org/x.png"),
        ("<script>new WebSocket('wss://example.org/')</script>", "websocket: wss://example.org/"),
    ],
)
def test_errors_and_requests_that_leave_the_page_are_complaints(
    body: str, expected: str, tmp_path: Path, browser: Browser
) -> None:
    # Listening only to the first page load, or only to one kind of trouble, would let a page call home unseen.
    complaints: list[str] = []
    page = browser.new_page()
    page.route(leaves, lambda route: route.abort())
    listen(page, complaints.append)

    page.goto(page_file(tmp_path, body).as_uri())
    page.wait_for_load_state("networkidle")
    page.close()

    assert expected in complaints


def test_axe_works_under_a_strict_policy_and_finds_poor_contrast(tmp_path: Path, open_page: OpenPage) -> None:
    # If the page's policy stopped axe, or it found nothing, every test of accessibility would pass for nothing.
    policy = f'<meta http-equiv="Content-Security-Policy" content="{STRICT}">'
    poor = page_file(tmp_path, "<p style='color:#ccc;background:#fff'>hard to read</p>", head=policy)

    with pytest.raises(AssertionError, match="color-contrast"):
        assert_accessible(open_page(poor))

    assert_accessible(open_page(page_file(tmp_path, "<p>easy to read</p>", head=policy)))


def test_a_wide_table_is_seen_to_scroll_sideways_on_a_phone(tmp_path: Path, open_page: OpenPage) -> None:
    page = open_page(page_file(tmp_path, "<div style='width:500px'>wide</div>"), width=375)

    assert sideways_overflow(page) > 100
