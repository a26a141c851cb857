"""The chats of a page as a reader meets them, in a real browser: list, search, links, keys, hostile texts, a phone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.browser import OpenPage, Scheme, assert_accessible, sideways_overflow
from tests.support.page_of_chats import HOSTILE, chats, person, write_folder, write_page

if TYPE_CHECKING:
    from playwright.sync_api import Page

ALL_IDS = [chat.id for chat in chats()]


@pytest.fixture(scope="module")
def one_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("page"), chats())


def at(path: Path, address: str) -> str:
    return f"{path.resolve().as_uri()}#/{address}"


def listed(page: Page) -> list[str]:
    """Ids of the chats in the list."""
    rows = page.eval_on_selector_all(".chat-row", "rows => rows.map(row => Number(row.dataset.row))")
    return [ALL_IDS[row] for row in rows]


def wait_for_list(page: Page, ids: Sequence[str]) -> None:
    """Waits until the list holds these chats; what it holds instead is in the failure."""
    rows = ",".join(str(ALL_IDS.index(each)) for each in ids)
    script = "rows => [...document.querySelectorAll('.chat-row')].map(row => row.dataset.row).join() === rows"
    try:
        page.wait_for_function(script, arg=rows, timeout=60_000)
    except Exception:
        assert listed(page) == list(ids)
        raise


def messages(page: Page) -> list[str]:
    return page.locator(".reader .said .written").all_inner_texts()


FILTERS = (
    ("question", "sums-2", ["people/sums-2/gpt-4o/0", "tiny/fine-tuned/split_0/sums-2/gpt-4o/0"]),
    ("subset", "cats", ["people/cats-1/gpt-4o/0"]),
    ("by", "fine-tuned tiny", ALL_IDS[3:5] + ALL_IDS[6:]),
    ("answer", "right", ["people/sums-1/gpt-4o/0", ALL_IDS[3], ALL_IDS[6]]),
    ("answer", "none", ["people/cats-1/gpt-4o/0", ALL_IDS[4]]),
    ("ended", "no_answer", [ALL_IDS[4]]),
    ("failure", "role_flip", [ALL_IDS[4]]),
    ("split", "split_1", ALL_IDS[:3]),  # people's chats belong to every split in which their question is held out
)


def test_each_filter_keeps_the_chats_that_it_names(one_file: Path, open_page: OpenPage) -> None:
    page = open_page(at(one_file, "chats"))
    for name, value, expected in FILTERS:
        wait_for_list(page, ALL_IDS)
        page.select_option(f"select[name={name}]", value)
        wait_for_list(page, expected)

        page.reload()

        wait_for_list(page, expected)  # the filter is part of the address
        page.click("text=Clear")
    wait_for_list(page, ALL_IDS)


def test_search_finds_what_anybody_said_whatever_its_case_within_the_filters(
    one_file: Path, open_page: OpenPage
) -> None:
    page = open_page(at(one_file, "chats"))
    page.fill("input[name=q]", "PARIS")
    wait_for_list(page, [ALL_IDS[4], ALL_IDS[6]])  # said by the assistant, once with a capital

    page.select_option("select[name=question]", "sums-2")
    wait_for_list(page, [ALL_IDS[6]])
    page.click(".chat-row")
    page.wait_for_selector(".reader mark")
    assert page.locator(".reader mark").all_inner_texts() == ["paris"]

    page.fill("input[name=q]", "nowhere said")
    wait_for_list(page, [])
    assert page.inner_text(".status") == "Nothing found."


def test_a_link_opens_the_chat_that_it_was_copied_from_and_one_to_no_chat_says_so(
    one_file: Path, open_page: OpenPage
) -> None:
    page = open_page(at(one_file, "chats"))
    page.click(".chat-row >> nth=2")
    page.wait_for_selector(".reader .said")
    said, address = messages(page), page.url
    assert said == ["hello there", "Hello!", "is it five", "It is not."]

    other = open_page(address)
    other.wait_for_selector(".reader .said")
    assert messages(other) == said
    other.reload()
    other.wait_for_selector(".reader .said")
    assert messages(other) == said

    page.click("text=Copy link")
    page.wait_for_selector(":text('Copied'), [aria-label='Link to this chat']")

    other.goto(at(one_file, "chat/people/none/gpt-4o/7"))
    other.get_by_text("This page has no chat people/none/gpt-4o/7").wait_for()


def test_back_returns_to_the_chat_before(one_file: Path, open_page: OpenPage) -> None:
    page = open_page(at(one_file, "chats"))
    page.click(".chat-row >> nth=1")
    page.wait_for_selector("text=two and two?")
    page.click(".chat-row >> nth=2")
    page.wait_for_selector("text=hello there >> nth=1")

    page.go_back()

    page.wait_for_function("() => document.querySelector('.reader .said .written').innerText === 'two and two?'")


def test_everything_is_reached_by_keys_alone(one_file: Path, open_page: OpenPage) -> None:
    page = open_page(at(one_file, "chats"), ".chat-row")

    def chosen() -> str | None:
        row = page.evaluate("document.querySelector('[aria-selected=true]')?.dataset.row")
        return None if row is None else ALL_IDS[int(row)]

    def press(key: str, expected: str) -> None:
        page.keyboard.press(key)
        page.wait_for_function(
            "row => document.querySelector('[aria-selected=true]')?.dataset.row === row",
            arg=str(ALL_IDS.index(expected)),
        )

    press("j", ALL_IDS[0])
    press("j", ALL_IDS[1])
    press("ArrowDown", ALL_IDS[2])
    press("k", ALL_IDS[1])
    page.keyboard.press("Enter")
    page.wait_for_selector(".reader:focus")
    page.keyboard.press("Escape")
    page.wait_for_selector("[role=listbox]:focus")
    page.keyboard.press("b")
    page.wait_for_selector(".beside")
    page.keyboard.press("p")
    page.wait_for_selector("[aria-label='This chat'] .token")
    page.keyboard.press("b")
    page.wait_for_selector(".beside", state="detached")
    page.keyboard.press("/")
    page.keyboard.type("jk?")  # keys of the page are letters in a field
    assert page.input_value("input[name=q]") == "jk?"
    assert chosen() in (ALL_IDS[1], None)
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.is_visible("dialog.keys")
    page.keyboard.press("Escape")
    assert not page.is_visible("dialog.keys")


def test_hostile_texts_are_shown_as_the_text_that_they_are(one_file: Path, open_page: OpenPage) -> None:
    page = open_page(at(one_file, "chat/people/cats-1/gpt-4o/0"), ".reader .said")
    page.click("text=The question")

    script, closing, unseen, long = messages(page)
    assert (script, closing) == HOSTILE[:2]
    # What turns the direction, NUL and half a character are named, and cannot reach the text around them.
    assert unseen == "safe U+202Egnp.exeU+202C after U+2066isolatedU+2069 nul U+0000 end U+D800 tag"
    assert page.eval_on_selector(".reader .said .written", "e => getComputedStyle(e).unicodeBidi") == "isolate"
    assert len(long) < 5000
    assert "Do cats <b>purr</b>?" in page.inner_text(".asked")
    assert "owned" not in page.title()
    assert page.locator(".reader :is(script, img, b)").count() == 0
    assert sideways_overflow(page) == 0

    page.click("text=Show all 1,000,000 characters")

    assert len(page.locator(".reader .said .written").nth(3).text_content() or "") == 1_000_000
    assert sideways_overflow(page) == 0


def test_a_long_message_is_not_folded_inside_a_character(tmp_path: Path, open_page: OpenPage) -> None:
    # Characters beyond U+FFFF are two code units; cut between them, the first is shown as U+D83E.
    text = "x" * 2499 + "\U0001f986" * 20
    path = write_page(tmp_path, [person("sums-1", 0, "B", text)], with_shades=False)
    page = open_page(at(path, "chat/people/sums-1/gpt-4o/0"), ".reader .said")

    assert "U+D83E" not in messages(page)[0]


def test_real_and_simulated_chats_of_a_question_stand_side_by_side(one_file: Path, open_page: OpenPage) -> None:
    page = open_page(at(one_file, "chat/people/sums-1/gpt-4o/0?beside=1"), "[aria-label=Simulated] .said")

    def other() -> str:
        return page.locator("[aria-label=Simulated] .said .written").first.inner_text()

    assert page.locator("[aria-label='This chat'] .said .written").first.inner_text() == "two and two?"
    assert other() == "what are two and two"
    boxes = [page.locator(f"[aria-label='{name}']").bounding_box() for name in ("This chat", "Simulated")]
    assert boxes[0] is not None
    assert boxes[1] is not None
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]

    page.click("[aria-label='Simulated: the next']")
    page.wait_for_selector("text=Nor have I")
    page.reload()
    page.wait_for_selector("text=Nor have I")  # which one is part of the address


def test_each_token_is_shaded_by_its_probability(one_file: Path, open_page: OpenPage) -> None:
    page = open_page(at(one_file, "chat/people/sums-1/gpt-4o/0"))
    page.click("text=Token probabilities")
    page.wait_for_selector(".said .token")
    assert page.evaluate("document.activeElement.textContent") == "Token probabilities"  # to be pressed again

    tokens = page.locator(".said .token")
    assert tokens.all_inner_texts() == ["two", " and", " two", "?", "end of message"]
    titles = tokens.evaluate_all("tokens => tokens.map(token => token.title)")
    assert titles[1] == "probability 0.50 (0.69 nats)"
    assert titles[2].startswith("probability 0.010")
    shades = tokens.evaluate_all("tokens => tokens.map(token => parseInt(token.style.getPropertyValue('--shade')))")
    assert shades[2] > shades[1] > shades[0] == 0
    assert "end of message" in page.inner_text(".ending")  # the answer's tokens too


def test_shading_goes_on_from_chat_to_chat_by_a_model_that_did_not_train_on_it(
    one_file: Path, open_page: OpenPage
) -> None:
    # The next question may not be held out in the split that was chosen: its probabilities would be those of training.
    page = open_page(at(one_file, "chat/people/sums-1/gpt-4o/0?shade=tiny+split_7"), ".said .token")

    assert page.locator(".shade-line select option").all_inner_texts() == ["tiny, split 1"]

    page.click("[aria-label='Next chat']")
    page.wait_for_selector("text=This chat was not scored.")


def test_a_page_without_token_probabilities_says_how_to_get_them(tmp_path: Path, open_page: OpenPage) -> None:
    page = open_page(at(write_page(tmp_path, chats(), with_shades=False), "chat/people/sums-1/gpt-4o/0"))
    page.click("text=Token probabilities")

    page.wait_for_selector("text=chatbench eval-ppl tiny")


def test_the_chances_of_a_simulated_answer_are_shown(one_file: Path, open_page: OpenPage) -> None:
    page = open_page(at(one_file, "chat/tiny/fine-tuned/split_0/sums-1/gpt-4o/0"), ".ending")

    assert page.locator(".letter").all_inner_texts() == ["A 10 %", "B 20 %", "C 30 %", "D 40 %"]
    assert page.locator(".letter.right").inner_text() == "B 20 %"
    assert "0.25" in page.inner_text(".ending")


def test_a_folder_reads_the_chats_that_are_opened_from_files_beside_it(tmp_path: Path, open_page: OpenPage) -> None:
    # Browsers refuse to read JSON beside a page opened from a disk: parts that are fetched would never come.
    index = write_folder(tmp_path, chats())
    page = open_page(at(index, "chat/people/sums-1/gpt-4o/1"), ".reader .said")

    assert messages(page)[0] == "hello there"
    assert "The folder of this file holds everything" in page.inner_text("#bottom")
    page.fill("input[name=q]", "paris")
    wait_for_list(page, [ALL_IDS[4], ALL_IDS[6]])


def test_only_the_chats_in_sight_are_in_the_list_of_very_many(tmp_path: Path, open_page: OpenPage) -> None:
    # All 3,000 rows as elements would be slow; fewer than fit the window would leave gaps.
    many = [person("sums-1", number, "B", f"message {number}", "Yes.") for number in range(3000)]
    page = open_page(at(write_page(tmp_path, many, with_shades=False), "chats"), ".chat-row")
    assert page.locator(".chat-row").count() < 60

    page.locator(".chat-list").evaluate("list => list.scrollTop = list.scrollHeight")

    page.wait_for_selector("[data-row='2999']")
    box, last = page.locator(".chat-list").bounding_box(), page.locator("[data-row='2999']").bounding_box()
    assert box is not None
    assert last is not None
    assert last["y"] + last["height"] <= box["y"] + box["height"] + 2
    page.keyboard.press("End")
    page.wait_for_selector(".reader :text('message 2999')")

    other = open_page(page.url)  # the list of a link's page was at its top
    other.wait_for_selector("[data-row='2999'][aria-selected=true]")
    top = other.locator(".chat-list").evaluate("list => list.scrollTop")
    other.evaluate("location.hash = '#/chats'")
    other.wait_for_selector(".reader .empty")
    other.go_back()
    other.wait_for_selector(".reader :text('message 2999')")
    assert other.locator(".chat-list").evaluate("list => list.scrollTop") == top


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 375), ("dark", 375)])
def test_list_and_reader_are_accessible_and_fit_a_phone(
    scheme: Scheme, width: int, one_file: Path, open_page: OpenPage
) -> None:
    page = open_page(at(one_file, "chats"), width=width, scheme=scheme)
    for address in ("chats", "chat/people/sums-1/gpt-4o/0?shade=tiny+split_1",
                    "chat/tiny/fine-tuned/split_0/sums-1/gpt-4o/1?beside=1"):  # fmt: skip
        page.goto(at(one_file, address))
        page.wait_for_selector(".chat-row >> visible=true" if address == "chats" else ".reader .said")

        assert sideways_overflow(page) == 0
        assert_accessible(page)


def test_a_page_without_chats_says_how_to_get_some(tmp_path: Path, open_page: OpenPage) -> None:
    page = open_page(at(write_page(tmp_path, [], with_shades=False), "chats"))

    page.wait_for_selector("text=chatbench simulate MODEL")
