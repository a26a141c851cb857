"""The study's pages in real Chromium: a person's way in each condition, reloads, tabs, a phone, bad assistants; axe."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from tests.support.browser import OpenPage, assert_accessible, sideways_overflow
from tests.support.collected import Served, SpeakingInPieces, saying, served, small_study

from chatbench.protocol.dialogue import Failure, FunctionParticipant, Reply

QUESTION = "what is <b>it</b>?"
REPLY = "I think it is B."


def begin(page: Any) -> None:
    """Consents and reads the instructions."""
    page.get_by_role("checkbox").check()
    page.get_by_role("button", name="Begin").click()
    page.get_by_role("button", name="Continue").click()
    page.locator("#answer [name=step]").wait_for(state="attached")
    page.wait_for_load_state()


def step_of(page: Any) -> str:
    """The step that the page is for, "" after the end; to be read only once the page has loaded."""
    field = page.locator("#answer [name=step]")
    return str(field.input_value()) if field.count() else ""


def say(page: Any, text: str) -> None:
    """Sends a message by the keyboard."""
    page.get_by_label("Your message").fill(text)
    page.get_by_label("Your message").press("Enter")


def fill_in(page: Any) -> None:
    """Chooses an answer."""
    attention = step_of(page) == "attention"
    page.locator(f"[name=letter][value={'C' if attention else 'B'}]").check()
    if not attention:
        page.get_by_label("very confident").check()


def go_on(page: Any, *, clicks: int = 1) -> None:
    """Answers, and waits until the next page has loaded: a click alone does not wait for it."""
    fill_in(page)
    before = step_of(page)
    page.get_by_role("button", name="Answer and continue").click(click_count=clicks, no_wait_after=True)
    page.locator(f"#answer [name=step][value='{before}']").wait_for(state="detached")
    page.wait_for_load_state()


def chatting(open_page: OpenPage, at: Served, width: int = 1280) -> Any:
    """The page of somebody who has come to a chat."""
    page = open_page(f"{at.url}/?PROLIFIC_PID=p1", width=width)
    begin(page)
    while not step_of(page).startswith("chat"):
        go_on(page)
    return page


@pytest.mark.parametrize("condition", ["direct-to-AI", "answer-first", "user-alone"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_whole_way_in_each_condition_with_double_clicks(
    tmp_path: Path, open_page: OpenPage, condition: str, width: int
) -> None:
    study = small_study(tmp_path, conditions=(condition,), completion_code='"C0DE"')
    with served(study, {"scripted-strong": saying(REPLY)}) as at:
        page = open_page(f"{at.url}/?PROLIFIC_PID=p1", width=width)
        assert_accessible(page)
        begin(page)
        seen: set[str] = set()
        while step := step_of(page):
            if page.locator("#chat").count():
                assert page.get_by_role("button", name="Answer and continue").is_disabled()
                say(page, QUESTION)
                page.get_by_text(REPLY).wait_for()
            assert sideways_overflow(page) == 0
            if step.partition(":")[0] not in seen:
                assert_accessible(page)
            seen.add(step.partition(":")[0])
            go_on(page, clicks=2)
        assert page.get_by_text("C0DE").is_visible()
        assert_accessible(page)
        page.go_back()
        page.get_by_text("C0DE").wait_for()  # no page of the study comes again
        (visit,) = at.stored()
    assert visit.state == "finished"
    steps = [event.step for event in visit.events if event.kind == "answer"]
    assert steps == list(visit.plan)
    assert {event.body["text"] for event in visit.events if event.kind == "message"} == (
        set() if condition == "user-alone" else {QUESTION}
    )


def test_a_reload_in_mid_chat_waits_for_the_same_reply_and_a_second_tab_sees_it(
    tmp_path: Path, open_page: OpenPage
) -> None:
    came, go, asked = threading.Event(), threading.Event(), []

    def slow(request: object) -> Reply:
        asked.append(request)
        came.set()
        go.wait(60)
        return Reply(REPLY)

    study = small_study(tmp_path, conditions=("direct-to-AI",))
    with served(study, {"scripted-strong": FunctionParticipant(slow, {})}) as at:
        page = chatting(open_page, at)
        say(page, QUESTION)
        page.get_by_text("The assistant is writing").wait_for()
        assert came.wait(60)  # a reload before the message has reached the server would drop it
        page.reload()
        page.get_by_text("The assistant is writing").wait_for()
        assert page.get_by_role("button", name="Send").is_disabled()
        second = page.context.new_page()
        second.goto(f"{at.url}/study")
        second.get_by_text("The assistant is writing").wait_for()
        go.set()
        for tab in (page, second):
            tab.get_by_text(REPLY).wait_for()
            assert tab.locator(".turn").count() == 2
            assert tab.get_by_text(QUESTION).count() == 1
        go_on(second)
        fill_in(page)  # the first tab is behind: its answer is not taken for the next question
        page.get_by_role("button", name="Answer and continue").click()
        page.locator(f"#answer [name=step][value='{step_of(second)}']").wait_for(state="attached")
        (visit,) = at.stored()
    assert len(asked) == 1
    assert sum(event.kind == "answer" and event.step.startswith("chat") for event in visit.events) == 1


def test_an_assistant_that_fails_can_be_asked_again_or_done_without(tmp_path: Path, open_page: OpenPage) -> None:
    outcomes: list[Reply | Failure] = [Failure("down"), Reply(REPLY), Failure("down")]
    study = small_study(tmp_path, conditions=("direct-to-AI",))
    with served(study, {"scripted-strong": FunctionParticipant(lambda _: outcomes.pop(0), {})}) as at:
        page = chatting(open_page, at, width=390)
        say(page, QUESTION)
        page.get_by_text("The assistant did not reply").wait_for()
        assert_accessible(page)
        page.get_by_role("button", name="Try again").click()
        page.get_by_text(REPLY).wait_for()
        assert page.locator(".turn").count() == 2
        go_on(page)
        say(page, QUESTION)
        page.get_by_text("The assistant did not reply").wait_for()
        go_on(page)
        assert not step_of(page)


def test_a_message_cannot_be_typed_before_the_page_can_send_it(tmp_path: Path, open_page: OpenPage) -> None:
    held: list[Any] = []
    study = small_study(tmp_path, conditions=("direct-to-AI",))
    with served(study, {"scripted-strong": saying(REPLY)}) as at:
        page = chatting(open_page, at)
        page.route("**/study.js", lambda route: held.append(route))
        page.reload(wait_until="commit")
        page.get_by_label("Your message").wait_for()
        assert page.get_by_label("Your message").is_disabled()
        assert page.get_by_role("button", name="Send").is_disabled()
        held[0].continue_()
        say(page, QUESTION)
        page.get_by_text(REPLY).wait_for()


def test_a_reply_is_shown_while_it_is_written_and_anew_where_it_began_anew(tmp_path: Path, open_page: OpenPage) -> None:
    assistant = SpeakingInPieces(["Let me", "Let me think", "It", "It is <i>B</i>."])
    study = small_study(tmp_path, conditions=("direct-to-AI",))
    with served(study, {"scripted-strong": assistant}) as at:
        page = chatting(open_page, at)
        say(page, QUESTION)
        for text in assistant.pieces:
            assistant.say_next()
            page.locator(".turn.assistant .written").get_by_text(text, exact=True).wait_for()
            assert page.get_by_role("button", name="Answer and continue").is_disabled()
        assistant.say_next()
        page.locator("#log:not([aria-busy])").wait_for()
        page.reload()
        assert page.locator(".turn.assistant .written").inner_text() == assistant.pieces[-1]


def test_the_dashboard_is_accessible_in_both_schemes(tmp_path: Path, open_page: OpenPage) -> None:
    with served(small_study(tmp_path)) as at:
        for scheme in ("light", "dark"):
            page = open_page(f"{at.url}/dashboard?key={at.key}", scheme=scheme, width=390)  # type: ignore[arg-type]
            assert_accessible(page)
            assert sideways_overflow(page) == 0
        assert page.get_by_text("The study is open").is_visible()
