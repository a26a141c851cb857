"""The page in a real browser: it loads quietly, keeps its links, works by keyboard, on a phone, in light and dark."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.browser import OpenPage, Scheme, assert_accessible, sideways_overflow

from chatbench.data.workspace import Workspace
from chatbench.report.report import Shown, report

if TYPE_CHECKING:
    from playwright.sync_api import Page

VIEWS = ("overview", "figures", "questions", "chats", "comparison")


@pytest.fixture(scope="session")
def page_file(finished: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the finished run."""
    out = tmp_path_factory.mktemp("page") / "report.html"
    report(Shown(finished, ("tiny", "distilgpt2")), out)
    return out


def go(page: Page, address: str) -> None:
    """Follows an address within the page, and waits until it is shown."""
    page.evaluate("address => { location.hash = address }", address)
    page.wait_for_function(
        "view => document.querySelector('#top a[aria-current=page]')?.getAttribute('href').startsWith(`#/${view}`)",
        arg=address.strip("#/").split("/")[0].split("?")[0],
    )
    page.wait_for_selector("#content h1")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 375)])
def test_every_view_is_quiet_accessible_and_no_wider_than_its_window(
    scheme: Scheme, width: int, page_file: Path, open_page: OpenPage
) -> None:
    page = open_page(page_file, scheme=scheme, width=width)
    for view in VIEWS:
        go(page, f"#/{view}")

        assert sideways_overflow(page) == 0, view
        assert_accessible(page)


def test_pointing_at_a_mark_names_its_question_and_clicking_opens_it(page_file: Path, open_page: OpenPage) -> None:
    page = open_page(page_file)
    go(page, "#/figures")
    mark = page.locator('svg.opens g[aria-label="dot"] circle').first
    mark.scroll_into_view_if_needed()
    mark.hover(force=True)

    tip = page.locator('svg.opens g[aria-label="tip"] text').first
    tip.wait_for(state="attached")
    named = tip.text_content() or ""
    mark.click(force=True)
    page.wait_for_url("**/report.html#/question/*")
    page.wait_for_selector("#content h1")

    assert "people: " in named
    assert "#/question/elementary_mathematics-redux-" in page.url
    assert re.findall(r"near the \w+", named)[0] in page.locator("#content").inner_text()


def test_an_address_opens_what_it_names_and_the_way_back_works(page_file: Path, open_page: OpenPage) -> None:
    # The likely mistake: views that are only reached by clicking, so that a link in a mail opens the overview.
    page = open_page(f"{page_file.as_uri()}#/question/elementary_mathematics-redux-3")
    page.get_by_text("ducks").first.wait_for()

    page.goto(f"{page_file.as_uri()}#/questions?search=ducks")
    page.locator("tbody tr").first.wait_for()
    assert page.locator("tbody tr").count() == 1
    page.go_back()
    page.locator("h1", has_text="ducks").or_(page.locator("h1", has_text="redux-3")).first.wait_for()


def test_an_address_that_names_nothing_says_so_and_breaks_nothing(page_file: Path, open_page: OpenPage) -> None:
    for address in ("nothing", "question/none", "chat/%E0%A4%A", "questions?order=x&subset=y", "figures?run=z"):
        page = open_page(f"{page_file.as_uri()}#/{address}")
        page.wait_for_selector("#content h1")


def test_the_filter_by_user_names_the_base_model_and_keeps_its_chats(page_file: Path, open_page: OpenPage) -> None:
    # "base model" is two words: cut at the first blank, its chats would be those of a model called "model tiny".
    page = open_page(f"{page_file.as_uri()}#/chats")
    page.locator(".chat-row").first.wait_for()
    names = page.locator("select[name=by] option").all_inner_texts()

    page.select_option("select[name=by]", label="tiny, base model")

    assert set(names) == {"User: all", "people", "tiny", "distilgpt2", "tiny, base model", "distilgpt2, base model"}
    page.locator(".status", has_text="16 of 252 chats").wait_for()
    assert set(page.locator(".chat-row .chip").all_inner_texts()) == {"tiny, base model"}


def test_the_keyboard_reaches_the_content_and_every_view(page_file: Path, open_page: OpenPage) -> None:
    page = open_page(page_file)
    page.wait_for_selector("#content h1")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"

    page.reload()
    page.wait_for_selector("#content h1")
    for _ in range(4):  # skip link, name of the page, overview, figures
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Figures"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.keyboard.press("Enter")
    page.locator("h1", has_text="Figures").wait_for()


def test_a_page_of_a_run_that_has_only_begun_says_what_to_do_next(
    finished: Workspace, tmp_path: Path, open_page: OpenPage
) -> None:
    shutil.copytree(finished.results / "models" / "tiny", tmp_path / "results" / "models" / "tiny")
    report(Shown(Workspace(finished.data, tmp_path / "results")), tmp_path / "report.html")
    page = open_page(tmp_path / "report.html")

    for view in ("overview", "figures"):
        go(page, f"#/{view}")
        page.get_by_text("chatbench simulate tiny").first.wait_for()
        assert_accessible(page)


def test_a_folder_of_files_opens_from_the_disk_and_reads_its_chats(
    finished: Workspace, tmp_path: Path, open_page: OpenPage
) -> None:
    # Browsers refuse to read JSON beside a page opened from a disk: parts that are fetched would never come.
    report(Shown(finished, ("tiny",)), tmp_path / "page", folder=True)
    page = open_page(tmp_path / "page" / "index.html")
    go(page, "#/chats")

    page.get_by_text("apples").first.wait_for()
