"""The study's pages over HTTP: assignment, the way through each condition, and people who mean no good."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.collected import Person, in_thread, saying, served, small_study

from chatbench.cli import main
from chatbench.collect.rehearse import Fields, Habits, rehearse_async
from chatbench.collect.results import figures
from chatbench.protocol.dialogue import Failure, FunctionParticipant, Reply, Request


def refuse_poison(text: str) -> str:
    """A moderation hook."""
    return "poison" if "poison" in text else ""


def fail_on_poison(text: str) -> str:
    """A moderation hook with a fault."""
    if "poison" in text:
        raise ValueError("the hook's own fault")
    return ""


@pytest.mark.parametrize(
    ("condition", "phase_2"),
    [
        ("direct-to-AI", ["chat", "chat"]),
        ("answer-first", ["first", "chat", "first", "chat"]),
        ("user-alone", ["second", "second"]),
    ],
)
def test_a_person_goes_through_each_condition_and_everything_is_kept(
    tmp_path: Path, condition: str, phase_2: list[str]
) -> None:
    with served(small_study(tmp_path, conditions=(condition,), completion_code='"C0DE"')) as at:
        person = at.person()
        person.finish()
        assert "C0DE" in person.page.text
        (visit,) = at.stored()

    answered = [event.step for event in visit.events if event.kind == "answer"]
    assert [step.partition(":")[0] for step in answered] == ["instructions", "alone", "attention", *phase_2]
    # Phase 1 asks other questions than phase 2; an answer that comes first is about the chat's own.
    assert answered[1].partition(":")[2] not in {step.partition(":")[2] for step in answered[3:]}
    assert visit.state == "finished"
    assert [e.kind for e in visit.events].count("shown") == len(visit.plan)  # each page's time
    assert visit.events[0].body == {"version": at.study.consent_version}
    assert "p1" not in visit.person


def test_many_who_join_at_once_fill_the_cells_evenly_and_no_more_than_wanted(tmp_path: Path) -> None:
    # An assignment that counts and then writes in two transactions puts several into one cell.
    study = small_study(tmp_path, people=2, joins_per_minute="100")
    with served(study) as at:
        people = [Person(at.url, f"p{number}") for number in range(15)]
        barrier = threading.Barrier(len(people))

        def join(person: Person) -> int:
            barrier.wait()
            return person.join().status_code

        with ThreadPoolExecutor(len(people)) as pool:
            codes = Counter(pool.map(join, people))
        cells = Counter((visit.cell.batch, visit.cell.condition) for visit in at.stored())

    assert codes == {200: 12, 503: 3}
    assert sorted(cells.values()) == [2] * 6


def test_a_place_is_free_again_when_its_person_leaves_or_runs_out_of_time(tmp_path: Path) -> None:
    study = small_study(tmp_path, conditions=("user-alone",), people=1)
    with served(study) as at:
        first, _, _ = at.person("alone", "p0"), at.person(name="p1"), at.person(name="p2")
        assert Person(at.url, "p9").join().status_code == 503
        first.answer("D")
        left = first.http.post("/leave", data=first.fields)
        assert "Your participation has ended" in left.text
        fourth = Person(at.url, "p3")
        assert fourth.join().status_code == 200
        assert first.http.post("/answer", data={**first.fields, "letter": "B"}).status_code == 409

        visits = at.stored()
        assert [visit.state for visit in visits] == ["left", "active", "active", "active"]
        assert visits[3].cell == visits[0].cell
        # What the person answered before is kept, and the person marked.
        answers = [e.body["letter"] for e in visits[0].events if e.kind == "answer" and e.step.startswith("alone")]
        assert answers == ["D"]
        at.grow_old(minutes=61)
        assert Person(at.url, "late").join().status_code == 200
        assert Counter(visit.state for visit in at.stored()) == {"left": 4, "active": 1}
        assert "Your participation has ended" in fourth.http.get("/study").text


def test_the_next_person_in_a_browser_does_not_get_the_part_of_the_one_before(tmp_path: Path) -> None:
    # A shared computer: whoever holds the cookie would otherwise go on as the first, or get their completion code.
    with served(small_study(tmp_path, completion_code='"C0DE"')) as at:
        first = at.person()
        refused = first.http.get("/", params={"PROLIFIC_PID": "p2"})
        assert (refused.status_code, "another browser" in refused.text) == (409, True)
        assert 'href="/study"' not in refused.text
        assert first.open(PROLIFIC_PID="p1").url.path == "/study"
        assert first.open().url.path == "/study"
        first.finish()
        assert "C0DE" in first.open(PROLIFIC_PID="p1").text
        second = first.open(PROLIFIC_PID="p2")
        assert "C0DE" not in second.text
        assert first.join().status_code == 200
        assert first.step == "instructions"
        assert first.open(PROLIFIC_PID="p3").status_code == 409
        at.grow_old(minutes=61)  # the second went away without a word
        assert first.open(PROLIFIC_PID="p3").status_code == 200
        assert first.join().status_code == 200
        assert [visit.person for visit in at.stored()] == [at.ask(hashed(name)) for name in ("p1", "p2", "p3")]


def test_a_preview_before_the_link_and_two_links_in_two_tabs_break_nothing(tmp_path: Path) -> None:
    # One cookie for two sessions would be a server error.
    with served(small_study(tmp_path)) as at:
        browser = Person(at.url, "p0")
        browser.open(preview=at.key)
        browser.join()
        forms = [Fields(browser.open(PROLIFIC_PID=name).text).hidden for name in ("p1", "p2")]
        codes = [browser.http.post("/join", data={**form, "agree": "yes"}).status_code for form in forms]
        (visit,) = at.stored()
        assert visit.person == at.ask(hashed("p1"))

    assert codes == [200, 409]


def test_who_has_a_place_keeps_it_while_nobody_else_can_join(tmp_path: Path) -> None:
    # Their browser may send the consent again, after a lost connection for example.
    with served(small_study(tmp_path, conditions=("direct-to-AI",), tokens="15")) as at:
        person = Person(at.url)
        form = {**person.fields, "agree": "yes"}
        person.join()
        at.ask(lambda store: store.set_state("paused"))
        assert person.http.post("/join", data=form).status_code == 200
        at.ask(lambda store: store.set_state("open"))
        person.go_to("chat")
        person.say("what?")  # 15 tokens
        assert "All places are taken" in Person(at.url, "p2").join().text
        assert person.http.post("/join", data=form).status_code == 200


def test_who_is_out_of_time_has_left_even_before_anybody_else_joins(tmp_path: Path) -> None:
    with served(small_study(tmp_path)) as at:
        person, other = at.person(), at.person(name="p2")
        at.grow_old(minutes=61)
        shown = at.ask(lambda store: figures(at.study, store, "person"))
        facts = dict(shown.facts)
        assert person.answer().status_code == 409
        assert other.say("late").status_code == 409
        assert [visit.state for visit in at.stored()] == ["left", "left"]

    assert (facts["in progress"], facts["active in the last 5 minutes"], facts["left or ran out of time"]) == (
        "0", "0", "2",
    )  # fmt: skip
    assert sum(cell.left for cell in shown.cells) == 2
    # Each label and name keeps its distance from what follows it.
    lines = replace(shown, cells=(replace(shown.cells[0], assistant="an-assistant-with-a-long-name"),)).lines()
    assert {f"active in the last 5 minutes{' ' * 2}0", f"finished{' ' * 22}0"} < set(lines)
    assert lines[-1].split()[1:3] == ["an-assistant-with-a-long-name", "direct-to-AI"]
    assert lines[-2].index("condition") == lines[-1].index("direct-to-AI")


def test_what_is_sent_twice_counts_once_and_what_is_out_of_order_is_refused(tmp_path: Path) -> None:
    with served(small_study(tmp_path, conditions=("direct-to-AI",))) as at:
        person = Person(at.url)
        old_page = person.page
        person.join()
        assert person.http.post("/join", data={**Fields(old_page.text).hidden, "agree": "yes"}).status_code == 200
        person.go_to("alone")
        form = {**person.fields, "letter": "A", "confidence": "not-confident"}
        with ThreadPoolExecutor(4) as pool:  # a double click, and two tabs
            codes = list(pool.map(lambda _: person.http.post("/answer", data=form).status_code, range(4)))
        assert set(codes) == {200}
        back = person.http.post("/answer", data={**form, "letter": "B"})  # by the back button: the first counts
        assert back.status_code == 200
        person.page = person.http.get("/study")
        (visit,) = at.stored()
        ahead = visit.plan[-1]
        assert person.answer("B", step=ahead).status_code == 409
        assert person.answer("B", step="chat:no-such").status_code == 409
        assert person.say("hello", step=ahead).status_code == 409
        assert person.answer("E").status_code == 400
        person.finish()
        (visit,) = at.stored()
        assert person.http.post("/answer", data={**form, "step": ahead}).status_code == 200  # done: nothing changes
        assert person.http.post("/message", data={**form, "step": ahead, "text": "x", "turn": "0"}).status_code == 409
        assert len(at.stored()[0].events) == len(visit.events)
        assert at.noted("refused: answer out of order or after the end")

    assert [e.body["letter"] for e in visit.events if e.kind == "answer" and e.step == form["step"]] == ["A"]


def test_nobody_takes_another_s_part_forges_a_form_or_sends_too_much(tmp_path: Path) -> None:
    with served(small_study(tmp_path, conditions=("direct-to-AI",), requests_per_minute="60")) as at:
        thief, person = Person(at.url), at.person()
        assert thief.join().status_code == 409
        stranger = Person(at.url, "p2")
        assert stranger.http.get("/study").status_code == 404
        assert stranger.http.post("/answer", data={**person.fields, "letter": "B"}).status_code == 403
        assert person.answer(csrf="0" * 64).status_code == 403
        assert person.http.post("/answer", data={"letter": "B"}).status_code == 403
        assert stranger.join(kind="rehearsal").status_code == 403
        assert stranger.http.get("/dashboard").status_code == 403
        assert stranger.http.get("/dashboard", params={"key": "guess"}).status_code == 403
        assert stranger.http.get("/assets/../server.py").status_code == 404
        assert stranger.http.get("/assets/%2e%2e/server.py").status_code == 404
        person.go_to("chat")
        assert person.say("x" * 5000).status_code == 400
        assert person.say("x" * 10_000_000).status_code == 413
        page = person.http.get("/study")
        assert "script-src 'self'" in page.headers["content-security-policy"]
        assert "unsafe" not in page.headers["content-security-policy"]
        assert {"x-frame-options", "x-content-type-options", "referrer-policy"} <= set(page.headers)
        assert page.headers["cache-control"] == "no-store"
        assert {person.http.get("/study").status_code for _ in range(70)} == {200, 429}
        assert len(at.stored()) == 1


def test_what_people_and_assistants_write_is_shown_as_text(tmp_path: Path) -> None:
    script = "<script>alert(1)</script>"
    with served(small_study(tmp_path, conditions=("direct-to-AI",)), {"scripted-strong": saying(script)}) as at:
        person = at.person("chat")
        person.say(f"{script} {{{{ 70007*70007 }}}}")
        page = person.http.get("/study").text

    assert script not in page
    assert page.count("&lt;script&gt;") == 2
    assert "4900980049" not in page  # what a template would make of it; short numbers are in tokens, too


def test_a_message_sent_again_gets_the_reply_that_it_has_and_asks_the_assistant_once(tmp_path: Path) -> None:
    asked: list[Request] = []
    go = threading.Event()

    def slow(request: Request) -> Reply:
        asked.append(request)
        go.wait(60)
        return Reply("B", tokens=3, prompt_tokens=7)

    with served(
        small_study(tmp_path, conditions=("direct-to-AI",)), {"scripted-strong": FunctionParticipant(slow, {})}
    ) as at:
        person = at.person("chat")
        with ThreadPoolExecutor(2) as pool:
            both = [pool.submit(person.say, "what?") for _ in range(2)]
            while not asked:
                pass
            assert "data-pending" in person.http.get("/study").text  # a reload in mid-chat
            go.set()
            replies = {each.result().text.split("\n", 1)[-1] for each in both}
        again = person.say("what?")
        other = person.say("another")
        (visit,) = at.stored()
        used = at.ask(lambda store: store.tokens())

    assert len(asked) == 1
    assert [message.content for message in asked[0].messages[1:]] == ["what?"]
    assert all('"done": true' in reply for reply in replies)
    assert '"text": "B"' in again.text
    assert other.status_code == 409
    assert visit.turns(person.step) == [("what?", "B")]
    assert used == {"scripted-strong": (7, 3)}


def test_what_cannot_be_stored_is_told_and_can_be_sent_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # As with a full disk. People saw "Internal Server Error", and the log a page of traceback for each.
    def change(statement: str) -> Callable[[Any], Any]:
        return lambda store: store.write(lambda connection: connection.exec_driver_sql(statement))

    told = "could not be stored. Please wait a moment, then go back and send it again."
    with served(small_study(tmp_path, conditions=("direct-to-AI",))) as at:
        alone, chatting, waiting = at.person("alone", "p0"), at.person("chat", "p1"), Person(at.url, "p2")
        for table in ("events", "incidents"):
            fails = "BEGIN SELECT RAISE(ROLLBACK, 'database or disk is full'); END"
            at.ask(change(f"CREATE TRIGGER full_{table} BEFORE INSERT ON {table} {fails}"))
        pages = [waiting.join(), alone.answer(), chatting.say("?")]
        pages.append(alone.answer(csrf="0" * 64))  # a refusal whose note cannot be stored
        assert [page.status_code for page in pages] == [500] * 4
        assert all(told in page.text for page in pages)
        assert told in pages[2].json()["error"]
        for table in ("events", "incidents"):
            at.ask(change(f"DROP TRIGGER full_{table}"))
        assert '"done": true' in chatting.say("?").text
        assert alone.answer().status_code == 200
        assert waiting.join().status_code == 200

    lines = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(lines) == 4
    assert all("disk is full" in line.getMessage() and not line.exc_info for line in lines)


def test_blanks_around_an_id_are_not_part_of_it(tmp_path: Path) -> None:
    with served(small_study(tmp_path)) as at:
        person = Person(at.url, " p1\u00a0")
        assert person.fields["person"] == "p1"
        person.join()
        other = Person(at.url, "p2")
        assert other.join(person="p1 ").status_code == 409
        assert Person(at.url, " ").page.status_code == 400
        assert other.join(person=" ").status_code == 400
        assert [visit.person for visit in at.stored()] == [at.ask(hashed("p1"))]
        assert main(["collect", "remove", str(at.study.folder), "--person", "p1 "]) == 0
        assert at.stored() == []


def test_a_failing_assistant_a_spent_budget_and_moderation_stop_nobody(tmp_path: Path) -> None:
    study = small_study(
        tmp_path, conditions=("direct-to-AI",), tokens="15", moderation='"tests.collect.test_server:refuse_poison"'
    )
    outcomes: list[Reply | Failure] = [Failure("HTTP 500 secret-host"), Reply("B", tokens=10, prompt_tokens=10)]
    assistant = FunctionParticipant(lambda _: outcomes.pop(0), {})
    with served(study, {"scripted-strong": assistant}) as at:
        person = at.person("chat")
        assert person.answer().status_code == 400  # nothing was asked yet
        assert person.say("poison").status_code == 400
        failed = person.say("what?")
        assert "did not reply" in failed.text
        assert "secret-host" not in failed.text
        assert '"done": true' in person.say("what?").text
        assert "did not reply" in person.say("and?", 1).text  # the budget
        person.finish()
        assert person.http.get("/study").status_code == 200
        assert "All places are taken" in Person(at.url, "p2").join().text
        (visit,) = at.stored()
        assert visit.state == "finished"
        assert at.noted("secret-host")


def test_an_assistant_that_raises_fails_one_message_and_traps_nobody(tmp_path: Path) -> None:
    # Not a ChatbenchError: as a local model without memory. It once ended the task that was to store what happened.
    broken = FunctionParticipant(lambda _: 1 / 0, {})  # type: ignore[arg-type,return-value]
    with served(small_study(tmp_path, conditions=("direct-to-AI",)), {"scripted-strong": broken}) as at:
        person = at.person("chat")
        assert "did not reply" in person.say("what?").text
        assert person.answer().status_code == 200
        assert at.noted("division by zero")


def test_a_slow_moderation_hook_of_the_study_s_folder_keeps_nobody_else_waiting(tmp_path: Path) -> None:
    # It ran in the event loop: every page waited for it. And it was found only if installed.
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "waiting_hook.py").write_text(
        "import threading\nasked, go = threading.Semaphore(0), threading.Event()\n"
        "def check(text):\n    asked.release()\n    assert go.wait(60)\n    return ''\n"
    )
    study = small_study(tmp_path, conditions=("direct-to-AI",), people=9, moderation='"waiting_hook:check"')
    import waiting_hook  # type: ignore[import-not-found]  # it was imported from the study's folder

    with served(study) as at, ThreadPoolExecutor(9) as pool:
        people = [at.person("chat", f"p{number}") for number in range(9)]
        said = [pool.submit(person.say, "what?") for person in people]
        for _ in people:  # more than the threads that the database shares with others
            assert waiting_hook.asked.acquire(timeout=60)
        assert Person(at.url, "p10").join().status_code == 200
        assert people[0].http.get("/dashboard", params={"key": at.key}).status_code == 200
        waiting_hook.go.set()
        assert all('"done": true' in each.result().text for each in said)


def test_a_moderation_hook_that_raises_fails_one_message_and_traps_nobody(tmp_path: Path) -> None:
    study = small_study(tmp_path, conditions=("direct-to-AI",), moderation='"tests.collect.test_server:fail_on_poison"')
    with served(study, {"scripted-strong": saying("poison")}) as at:
        person = at.person("chat")
        assert 'class="main" disabled' in person.http.get("/study").text
        assert person.say("poison").status_code == 503
        assert 'class="main" disabled' not in person.http.get("/study").text
        assert person.answer().status_code == 200
        person.go_to("chat")
        unchecked = person.say("what?")
        assert "did not reply" in unchecked.text
        assert "poison" not in unchecked.text
        assert person.answer().status_code == 200
        (visit,) = at.stored()
        used = at.ask(lambda store: store.tokens())
        assert at.noted("the hook's own fault") == 2

    assert visit.state == "finished"
    assert [event.body["text"] for event in visit.events if event.kind == "message"] == ["what?"]
    assert used == {"scripted-strong": (10, 5)}


def test_what_a_person_cost_stays_counted_when_they_are_removed(tmp_path: Path) -> None:
    # The limits are for money that is spent, whoever spent it.
    asked, go = threading.Event(), threading.Event()

    def slow(request: Request) -> Reply:
        if request.messages[-1].content == "slowly":
            asked.set()
            go.wait(60)
        return Reply("B", tokens=5, prompt_tokens=10)

    study = small_study(tmp_path, conditions=("direct-to-AI",))
    with served(study, {"scripted-strong": FunctionParticipant(slow, {})}) as at, ThreadPoolExecutor(1) as pool:
        person = at.person("chat")
        person.say("what?")
        late = pool.submit(person.say, "slowly", 1)
        asked.wait(60)
        assert at.ask(lambda store: store.remove("p1")) == 1
        before = at.ask(lambda store: store.tokens())
        go.set()
        late.result()
        after = at.ask(lambda store: store.tokens())
        shown = dict(at.ask(lambda store: figures(study, store, "person")).facts)

    assert (before, after) == ({"scripted-strong": (10, 5)}, {"scripted-strong": (20, 10)})
    assert shown["tokens read and written"] == "20 and 10"


def test_the_longest_message_in_any_script_is_not_too_large(tmp_path: Path) -> None:
    # In a form each of these characters takes nine bytes: 63,000 of 65,536.
    with served(small_study(tmp_path, conditions=("direct-to-AI",), characters="7000")) as at:
        person = at.person("chat")
        assert person.say("\u8bf4" * 7000).status_code == 200
        assert person.say("\u8bf4" * 7001, 1).status_code == 400


def test_the_study_is_paused_stopped_watched_and_forgets_a_person(tmp_path: Path) -> None:
    with served(small_study(tmp_path, conditions=("direct-to-AI",))) as at:
        person = at.person()
        researcher = Person(at.url, "r")
        board = researcher.http.get("/dashboard", params={"key": at.key})
        assert board.status_code == 200
        assert "The study is open" in board.text
        assert "key=" not in str(board.url)
        form = Fields(board.text).hidden
        assert researcher.http.post("/dashboard", data={"state": "stopped"}).status_code == 403
        paused = researcher.http.post("/dashboard", data={**form, "state": "paused"})
        assert "The study is paused" in paused.text
        assert Person(at.url, "p2").join().status_code == 503
        assert person.answer().status_code == 200  # who is in goes on
        researcher.http.post("/dashboard", data={**form, "state": "stopped"})
        assert "The study has ended" in person.http.get("/study").text
        count = len(at.stored()[0].events)
        person.answer()
        assert len(at.stored()[0].events) == count
        assert at.ask(lambda store: store.remove("nobody")) == 0
        assert at.ask(lambda store: store.remove("p1")) == 1
        assert at.stored() == []
        preview = Person(at.url)
        preview.page = preview.http.get("/", params={"preview": at.key})
        at.ask(lambda store: store.set_state("open"))
        preview.join()
        preview.finish()
        assert at.stored() == []


def test_twenty_rehearsing_people_lose_nothing_and_are_kept_apart(tmp_path: Path) -> None:
    with served(small_study(tmp_path, people=4, requests_per_minute="10000")) as at:
        pilot = in_thread(
            lambda: rehearse_async(at.study, at.url, at.key, people=20, habits=Habits(leaves=0.0), prefix="r")
        )
        visits = at.stored("rehearsal")
        hashes = {at.ask(hashed(f"r-{number}")): f"r-{number}" for number in range(20)}
        assert at.stored() == []

    assert pilot.ended == {"finished": 20}
    assert pilot.faults == []
    kept = Counter(
        (hashes[visit.person], event.step, event.body["letter"])
        for visit in visits for event in visit.events if event.kind == "answer" and "letter" in event.body
    )  # fmt: skip
    said = Counter(
        (hashes[visit.person], f"{event.step}#{event.body['turn']}", event.body["text"])
        for visit in visits for event in visit.events if event.kind == "message"
    )  # fmt: skip
    assert Counter(pilot.acknowledged) == kept + said
    cells = Counter((visit.cell.batch, visit.cell.condition) for visit in visits)
    assert max(cells.values()) - min(cells.values()) <= 1


def hashed(name: str):  # type: ignore[no-untyped-def]
    async def work(store: object) -> str:
        return store.hashed(name)  # type: ignore[attr-defined,no-any-return]

    return work
