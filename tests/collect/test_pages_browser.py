"""The study's pages in real Chromium: a person's way, reloads, tabs, a phone, a failing assistant; axe."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.browser import OpenPage, assert_accessible, sideways_overflow
from tests.support.collected import Fields, served, small_study

from chatbench.protocol.dialogue import Failure, FunctionParticipant, Reply


def test_a_whole_way_on_a_phone_with_reload_and_back(tmp_path: Path, open_page: OpenPage) -> None:
    outcomes: list[Reply | Failure] = [Failure("down")]
    assistant = FunctionParticipant(lambda _: outcomes.pop() if outcomes else Reply("I think it is B."), {})
    study = small_study(tmp_path, conditions=("answer-first",), completion_code='"C0DE"')
    with served(study, {"scripted-strong": assistant}) as at:
        page = open_page(f"{at.url}/?PROLIFIC_PID=p1", width=390)
        assert_accessible(page)
        page.get_by_role("checkbox").check()
        page.get_by_role("button", name="Begin").click()
        chats = 0
        while page.locator("[name=step]").count():
            assert_accessible(page)
            assert sideways_overflow(page) == 0
            if page.locator("#chat").count():
                chats += 1
                box = page.get_by_label("Your message")
                box.fill("what is <b>it</b>?")
                box.press("Enter")
                if chats == 1:
                    page.get_by_text("The assistant did not reply").wait_for()
                    page.get_by_role("button", name="Try again").click()
                page.get_by_text("I think it is B.").wait_for()
                page.reload()
                assert page.locator(".turn").count() == 2
                assert page.get_by_text("what is <b>it</b>?").count() == 1
            if page.locator("[name=letter]").count():
                attention = "blue" in page.locator("#question").inner_text()
                page.locator(f"[name=letter][value={'C' if attention else 'B'}]").check()
                if not attention:
                    page.get_by_label("very confident").check()
            before = Fields(page.content()).hidden["step"]
            page.locator("button.main").dblclick(no_wait_after=True)
            page.locator(f"[name=step][value='{before}']").first.wait_for(state="detached")
        assert page.get_by_text("C0DE").is_visible()
        assert_accessible(page)
        page.go_back()
        page.wait_for_load_state()
        assert page.get_by_text("C0DE").is_visible()
        (visit,) = at.stored()
        assert visit.state == "finished"
        steps = [event.step for event in visit.events if event.kind == "answer"]
        assert len(steps) == len(set(steps)) == len(visit.plan)
        assert {event.body["text"] for event in visit.events if event.kind == "message"} == {"what is <b>it</b>?"}


def test_the_dashboard_is_accessible_in_both_schemes(tmp_path: Path, open_page: OpenPage) -> None:
    with served(small_study(tmp_path)) as at:
        for scheme in ("light", "dark"):
            page = open_page(f"{at.url}/dashboard?key={at.key}", scheme=scheme, width=390)  # type: ignore[arg-type]
            assert_accessible(page)
            assert sideways_overflow(page) == 0
        assert re.search(r"The study is open", page.content())
