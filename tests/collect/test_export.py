"""What was collected as files that every command reads, and nothing that leads back to a person."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.support.collected import OTHER_KINDS, QUESTIONS, Person, served, small_study

from chatbench.collect.config import CollectedStudy
from chatbench.collect.results import export
from chatbench.core.answer_kinds import Choice
from chatbench.core.errors import ChatbenchError
from chatbench.data.open_study import open_study
from chatbench.protocol.dialogue import FunctionParticipant, Reply, Request


def test_the_export_reads_back_filtered_with_other_ids_and_without_salt(tmp_path: Path) -> None:
    study = small_study(tmp_path, conditions=("answer-first",))
    with served(study) as at:
        at.person(name="WORKER-GOOD").finish()
        careless = at.person("attention", "WORKER-CARELESS")
        careless.answer("A")
        careless.finish()
        at.person("chat", "WORKER-LEAVER").say("what is it?")  # a chat that never gets its answer
        found = at.ask(lambda store: export(study, store, tmp_path / "out", "person"))
        again = at.ask(lambda store: export(study, store, tmp_path / "again", "person"))
        stored = at.stored()
        secrets = at.ask(_settings)
        with pytest.raises(ChatbenchError, match="not empty"):
            at.ask(lambda store: export(study, store, tmp_path / "out", "person"))

    # One question alone, two answered first and then with the assistant.
    assert (found.people, found.kept, found.answers, found.conversations) == (3, 1, 5, 2)
    assert found.left_out == {"attention check wrong": 1, "did not finish": 1}
    assert found.notes == {"chats without a final answer: left out": 1}
    for path in (tmp_path / "out", tmp_path / "out" / "study.jsonl"):
        read = open_study(path)
        assert sorted((a.question_id, a.kind, a.letter, a.confidence) for a in read.answers) == sorted(
            (e.step.partition(":")[2], "user-AI" if e.step.startswith("chat") else "user-alone", "B", "very-confident")
            for e in stored[0].events
            if e.kind == "answer" and ":" in e.step
        )
        assert {chat.turns[0].text for chat in read.conversations} == {"what is it?"}
        assert {chat.condition for chat in read.conversations} == {"answer-first"}
    everybody = (tmp_path / "out" / "full_study" / "user_answers.csv").read_text().splitlines()
    assert len({line.split(",")[1] for line in everybody[1:]}) == 3
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    written = "\n".join(path.read_text(encoding="utf-8") for path in files)
    for secret in ("WORKER", *secrets, *(v.person for v in stored), *(v.id for v in stored), "127.0.0.1"):
        assert secret not in written
    ids = {
        json.loads(line)["worker_id"] for name in ("out", "again") for line in (tmp_path / name / "study.jsonl").open()
    }
    assert len(ids) == 2  # one person, who cannot be followed from one export to the next
    assert again.answers == found.answers


def test_answers_of_each_kind_are_asked_for_judged_and_read_back(tmp_path: Path) -> None:
    # A page with four radio buttons for everything, or an export that compares texts, fails here.
    given = {"two": "B", "six": "E", "number": "10.4 km", "text": "PARIS"}
    refused = {"two": "C", "six": "G", "number": "far", "text": " "}
    asked_for = {"number": "Please give a number in km, in", "text": "Please give a short text, in"}  # "number> km"
    study = small_study(tmp_path, conditions=("user-alone",), phase_1=2, questions=OTHER_KINDS)
    with served(study) as at:
        person = at.person()
        while person.step:
            question = person.step.partition(":")[2]
            if not question:
                person.act()
                continue
            page = person.answer(refused[question])
            assert (page.status_code, asked_for.get(question, "one of the options") in page.text) == (400, True)
            assert person.answer(given[question]).status_code == 200
        found = at.ask(lambda store: export(study, store, tmp_path / "out", "person"))
    read = open_study(tmp_path / "out")

    assert {question.id: question for question in read.questions.values()} == study.questions
    assert {(a.question_id, a.letter, a.correct) for a in read.answers} == {
        ("two", "B", True), ("six", "E", False), ("number", "10.4", True), ("text", "PARIS", True),
    }  # fmt: skip
    assert found.lines(tmp_path / "out")[0].startswith("1 person; 1 finished")
    assert found.lines(tmp_path / "out")[1:] == [
        "note: 4 x questions without four unordered options: no files in the ChatBench layout, which has no others",
        f"next: chatbench check-study {tmp_path / 'out'}",
    ]


def test_four_levels_stay_ordered_and_a_check_that_was_asked_filters_although_it_is_gone(tmp_path: Path) -> None:
    # The ChatBench layout, read in place of study.jsonl, made them plain options; today's study.toml chose the filter.
    levels = [{**question, "ordered": True} for question in QUESTIONS]
    study = small_study(tmp_path, conditions=("user-alone",), questions=levels)
    with served(study) as at:
        for name, letter in (("good", "C"), ("careless", "A")):
            person = at.person("attention", name)
            person.answer(letter)
            person.finish()
        path = study.folder / "study.toml"
        text = path.read_text()
        path.write_text(text[: text.index("[attention]")] + text[text.index("[recruiting]") :])
        now = CollectedStudy(study.folder)
        found = at.ask(lambda store: export(now, store, tmp_path / "out", "person"))

    assert now.config.attention is None
    assert found.left_out == {"attention check wrong": 1}
    assert list(found.notes.values()) == [6]
    read = open_study(tmp_path / "out").questions
    assert {each.kind for each in read.values()} == {Choice(ordered=True)}


def test_an_export_of_nobody_says_why_in_words(tmp_path: Path) -> None:
    study = small_study(tmp_path)
    with served(study) as at:
        for joined, said in ((0, "among 0 people"), (1, "among 1 person: 1 did not finish")):
            if joined:
                Person(at.url).join()
            with pytest.raises(ChatbenchError, match=f"nobody to export {said}\n"):
                at.ask(lambda store: export(study, store, tmp_path / "out", "person"))


def test_a_reply_that_came_after_the_answer_is_left_out_and_counted(tmp_path: Path) -> None:
    # It cannot have led to the answer, and chats in the export are what people had before they answered.
    asked, go = threading.Event(), threading.Event()

    def replies(request: Request) -> Reply:
        if request.messages[-1].content == "and then?":
            asked.set()
            go.wait(60)
        return Reply("B", tokens=5, prompt_tokens=10)

    study = small_study(tmp_path, conditions=("direct-to-AI",))
    with served(study, {"scripted-strong": FunctionParticipant(replies, {})}) as at, ThreadPoolExecutor(1) as pool:
        person = at.person("chat")
        person.say("what is it?")
        late = pool.submit(person.say, "and then?", 1)
        asked.wait(60)
        answered = person.step
        assert person.answer().status_code == 200
        go.set()
        assert '"done": true' in late.result().text
        person.finish()
        found = at.ask(lambda store: export(study, store, tmp_path / "out", "person"))
        (visit,) = at.stored()
    read = open_study(tmp_path / "out")

    assert visit.turns(answered) == [("what is it?", "B"), ("and then?", "B")]
    assert [len(chat.turns) for chat in read.conversations] == [2, 2]
    assert found.notes == {"replies that were complete only after the answer: left out": 1}


async def _settings(store: object) -> list[str]:
    return [value for name, value in store.settings.items() if name != "state"]  # type: ignore[attr-defined]
