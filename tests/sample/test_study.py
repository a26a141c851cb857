"""The sample study: its problems can be solved from their words, and its numbers are those of its generating model."""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from random import Random

import pandas as pd  # type: ignore[import-untyped]
import pytest

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import FOUR_LETTERS, Answer, Message, Question, Study, first_prompts
from chatbench.data.open_study import open_study
from chatbench.sample.participants import (
    STRENGTHS,
    STUDY_HABITS,
    chat,
    draw_person,
    reply_to,
    scripted_reply,
    strength_of,
    understand,
)
from chatbench.sample.problems import LARGEST, Problem, all_templates, draw_problem
from chatbench.sample.study import (
    SampleSettings,
    StatedFacts,
    make_sample,
    stated_facts,
    true_accuracy,
    write_sample,
)

TEMPLATES = list(all_templates())


def facts_in(message: str) -> dict[str, int]:
    """The numbers that a message holds, by their roles."""
    reading = understand(message)
    return dict(reading.facts) if reading else {}


def answers_with(study: Study, assistant: str) -> list[Answer]:
    return [answer for answer in study.answers if answer.kind == "user-AI" and answer.assistant == assistant]


def values(name: str, told: list[str], tries: int) -> list[int | None]:
    """What an assistant arrives at, asked again and again."""
    return [reply_to(name, told, Random(seed)).value for seed in range(tries)]


def problem_of(schema: str, *, catch: bool, seed: int = 0) -> Problem:
    template = next(t for t in TEMPLATES if t.schema.name == schema and (t.catch is not None) == catch)
    return draw_problem(template, "q", Random(seed))


def test_there_are_hundreds_of_templates_in_several_subsets() -> None:
    assert len(TEMPLATES) > 500
    assert len({template.schema.subset for template in TEMPLATES}) == 5


def test_every_template_is_read_from_its_own_words_and_from_short_ones() -> None:
    # A solver that looked the question up by id would pass any other test; here it only sees words.
    rng = Random(1)
    for template in TEMPLATES:
        problem = draw_problem(template, "q", rng)
        clauses = [*template.schema.clauses, *([template.catch] if template.catch else [])]
        short = [problem.words(rng.choice(c.short)) for c in clauses] + [problem.words(template.ask.short[0])]
        for text in (problem.question.full_text, ", ".join(short)):
            reading = understand(text)
            assert reading is not None, text
            assert dict(reading.facts) == dict(problem.facts), text
            assert (reading.ask, reading.catch) == (template.ask, template.catch), text


def test_options_are_four_distinct_numbers_with_the_right_one_at_the_answer() -> None:
    rng = Random(2)
    for template in TEMPLATES[::7]:
        problem = draw_problem(template, "q", rng)
        options = problem.question.options
        assert len(set(options)) == 4
        assert options[FOUR_LETTERS.index(problem.question.answer)] == str(problem.value)
        assert all(0 < int(option) <= LARGEST for option in options)
        if template.catch:
            assert str(problem.trap) in options


def test_a_catch_that_the_user_leaves_out_leads_the_assistant_into_the_trap() -> None:
    problem = problem_of("groups", catch=True)
    a, b, c = (problem.facts[name] for name in "abc")
    items, boxes = problem.template.world["items"], problem.template.world["boxes"]
    told = f"{a} {boxes}, {b} {items} in each, how many {items} in all"

    catch = f", but {c} of them are empty"
    assert statistics.mode(values("scripted-strong", [told], 40)) == a * b == problem.trap
    assert statistics.mode(values("scripted-strong", [told + catch], 40)) == (a - c) * b == problem.value


def test_a_missing_number_is_asked_for_and_a_later_message_supplies_it() -> None:
    problem = problem_of("groups", catch=False)
    world = problem.template.world
    first = f"{problem.facts['b']} {world['items']} in each, total {world['items']}?"

    asked = reply_to("scripted-strong", [first], Random(0))
    assert (asked.value, asked.text) == (None, f"How many {world['boxes']} are there?")
    told = [first, f"{problem.facts['a']} {world['boxes']}"]
    assert statistics.mode(values("scripted-strong", told, 20)) == problem.value


def test_the_option_is_named_only_to_those_who_told_the_options() -> None:
    problem = problem_of("buy", catch=False)
    question = problem.question
    for text, named in ((question.full_text, f"{question.answer}. {problem.value}"), (question.text, problem.value)):
        replies = [scripted_reply("scripted-strong", [Message("user", text)], seed) for seed in range(30)]
        assert statistics.mode(replies).endswith(f"The answer is {named}.")


def test_the_weak_assistant_is_weaker_and_nonsense_is_not_understood() -> None:
    rng = Random(3)
    problems = [draw_problem(template, "q", rng) for template in TEMPLATES[::3]]
    right = {
        name: statistics.mean(
            reply_to(name, [p.question.full_text], rng).value == p.value for p in problems for _ in range(3)
        )
        for name in STRENGTHS
    }
    assert right["scripted-strong"] > right["scripted-weak"] + 0.05
    assert right["scripted-weak"] > 0.5
    assert "do not understand" in reply_to("scripted-weak", ["blah"], rng).text
    with pytest.raises(ChatbenchError, match="no scripted assistant 'gpt'"):
        scripted_reply("gpt", [Message("user", "hi")], 0)


def test_people_who_copy_convey_everything_and_others_often_do_not() -> None:
    rng = Random(4)
    conveyed: dict[str, list[bool]] = {}
    for seed in range(300):
        problem = draw_problem(TEMPLATES[seed * 2], "q", rng)
        person = draw_person("w", STUDY_HABITS, rng)
        first = chat(person, problem, "scripted-strong", STUDY_HABITS, rng).turns[0].text
        copied = problem.question.text in first
        conveyed.setdefault("copied" if copied else "told", []).append(facts_in(first) == problem.facts)
    assert statistics.mean(conveyed["copied"]) == 1.0
    assert 0.3 < statistics.mean(conveyed["told"]) < 0.8


def test_equal_seeds_give_equal_bytes_and_other_seeds_other_questions(tmp_path: Path) -> None:
    settings = SampleSettings(questions=12, chats=2, seed=5)
    for name in ("one", "two"):
        write_sample(tmp_path / name, settings)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert [(tmp_path / "one" / f).read_bytes() for f in files] == [(tmp_path / "two" / f).read_bytes() for f in files]
    other = make_sample(SampleSettings(questions=12, chats=2, seed=6)).study
    written = open_study(tmp_path / "one")
    assert not {q.text for q in other.questions.values()} & {q.text for q in written.questions.values()}


def test_a_sample_replaces_a_sample_and_no_other_study(tmp_path: Path) -> None:
    # `chatbench sample my_chats` replaced the questions, answers and chats of that study without a word.
    kinds, folder = tmp_path / "kinds.jsonl", tmp_path / "folder"
    for questions in (12, 8):
        write_sample(kinds, SampleSettings(questions=questions, chats=1, answer_kinds=True))
        write_sample(folder, SampleSettings(questions=questions, chats=1))
    assert len(open_study(folder).questions) == len(open_study(kinds).questions) == 8
    answers = folder / "full_study" / "user_answers.csv"
    for file, path, sample in ((kinds, kinds, True), (answers, folder, False)):
        mine = file.read_text().replace("scripted-", "gpt-")
        file.write_text(mine)
        with pytest.raises(ChatbenchError, match="holds another study"):
            write_sample(path, SampleSettings(questions=8, chats=1, answer_kinds=sample))
        assert file.read_text() == mine


def test_the_written_study_is_read_back_as_it_was_made(tmp_path: Path) -> None:
    made = write_sample(tmp_path / "sample", SampleSettings(questions=12, chats=2))
    read = open_study(tmp_path / "sample")
    assert dict(read.questions) == dict(made.study.questions)
    assert sorted(c.id for c in read.conversations) == sorted(c.id for c in made.study.conversations)
    assert len(read.answers) == len(made.study.answers)
    assert len(read.ai_alone) == 12 * 2 * 3
    answers = pd.read_csv(tmp_path / "sample" / "full_study" / "user_answers.csv")
    for _, places in answers.groupby("worker_id").position:  # a question's rank in its person's session
        assert [*places.drop_duplicates()] == [*range(places.nunique())]


def test_user_ai_accuracy_of_the_study_agrees_with_its_generating_model() -> None:
    # 24 questions x 2 assistants x 20 chats: the standard error of the mean is below 0.02.
    sample = make_sample(SampleSettings(questions=24, chats=20, seed=1))
    rng = Random(0)
    for assistant in STRENGTHS:
        seen = statistics.mean(a.correct for a in answers_with(sample.study, assistant))
        true = statistics.mean(true_accuracy(p, assistant, people=100, rng=rng) for p in sample.problems.values())
        assert seen == pytest.approx(true, abs=0.06)


def test_assistants_alone_predict_user_ai_accuracy_badly() -> None:
    # What the study is for: if free text alone said how people fare, no simulator would be needed.
    sample = make_sample(SampleSettings(questions=120, chats=10))
    for assistant in STRENGTHS:
        with_ai = answers_with(sample.study, assistant)
        human = {q: statistics.mean(a.correct for a in with_ai if a.question_id == q) for q in sample.problems}
        scores = [s for s in sample.study.ai_alone if s.assistant == assistant and s.method == "free_text"]
        alone = {score.question_id: score.accuracy for score in scores}
        assert statistics.correlation([human[q] for q in human], [alone[q] for q in human]) < 0.5


def test_assistants_of_stated_strength_lie_between_weak_and_strong_and_leave_the_others_alone() -> None:
    names = ("scripted-weak", "scripted-0.4", "scripted-strong")
    sample = make_sample(SampleSettings(questions=24, chats=4, seed=1, assistants=names)).study
    usual = make_sample(SampleSettings(questions=24, chats=4, seed=1)).study
    of_weak = [[c for c in study.conversations if c.assistant == "scripted-weak"] for study in (sample, usual)]

    assert sample.assistants == tuple(sorted(names))
    assert of_weak[0] == of_weak[1]
    assert strength_of("scripted-1.0") == STRENGTHS["scripted-strong"]
    assert strength_of("scripted-0.4").overlooks_not == pytest.approx(0.45 - 0.4 * 0.40)
    replies = [scripted_reply("scripted-0.4", [Message("user", "hello")], seed) for seed in (1, 2)]
    assert replies[0] == replies[1]  # it asks: nothing was understood


@pytest.mark.parametrize("names", [(), ("scripted-2",), ("scripted-good",), ("scripted-0.5", "scripted-0.5")])
def test_assistants_that_cannot_be_generated_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ChatbenchError):
        SampleSettings(assistants=names)
    with pytest.raises(ChatbenchError, match="--questions 5000"):
        SampleSettings(questions=5000)


def test_numbers_and_levels_come_with_a_known_truth(tmp_path: Path) -> None:
    settings = SampleSettings(questions=24, chats=40, answer_kinds=True)
    sample = write_sample(tmp_path / "kinds.jsonl", settings)
    study = open_study(tmp_path / "kinds.jsonl")

    assert dict(study.questions) == dict(sample.study.questions)
    assert {question.kind.name for question in study.questions.values()} == {"number", "choice"}
    assert [(a.question_id, a.letter, a.correct) for a in study.answers] == [
        (a.question_id, a.letter, a.correct) for a in sample.study.answers
    ]
    assert {chat.id for chat in study.conversations} == {chat.id for chat in sample.study.conversations}
    # The accuracy of people is that of fresh ones, up to chance: 480 chats give each kind a standard error of 0.022.
    for kind in ("number", "choice"):
        problems = [p for p in sample.problems.values() if p.question.kind.name == kind]
        truth = [true_accuracy(p, "scripted-weak", people=60, rng=Random(1)) for p in problems]
        ids = {problem.question.id for problem in problems}
        answers = [a.correct for a in answers_with(study, "scripted-weak") if a.question_id in ids]
        assert len(answers) == 480
        assert 0.3 < statistics.mean(answers) < 0.98
        assert statistics.mean(answers) == pytest.approx(statistics.mean(truth), abs=0.09)
    # Ranges are told, named and believed; the ends of ranges are no facts, and the trap lies in another range.
    levels = {p.question.id: p for p in sample.problems.values() if p.question.kind.name == "choice"}
    named = [
        (chat.answer, re.findall(r"is ([A-E])\. (\d+)\.$", chat.turns[-1].text), levels[chat.question_id])
        for chat in study.conversations
        if chat.question_id in levels
    ]
    assert statistics.mean(bool(found) and answer == found[0][0] for answer, found, _ in named) > 0.85
    assert all(problem.option_of(int(found[0][1])) == found[0][0] for _, found, problem in named if found)
    assert all(p.option_of(p.trap) != p.question.answer for p in levels.values() if p.template.catch)
    with pytest.raises(ChatbenchError, match=r"ends in \.jsonl"):
        write_sample(tmp_path / "folder", settings)


QUESTION = Question(
    "q",
    "sample_counting",
    "Mia packs 6 boxes. Each box holds 14 pencils. Sadly, 2 of them are empty. How many pencils does Mia have in all?",
    ("84", "56", "57", "55"),
    "B",
)
CAMP = "The camp measures 16 meters long and 15 meters wide. How many square meters can be planted?"
OF_CAMP = Question("q", "sample_shapes", CAMP, ("240", "241", "242", "243"), "A")


def test_people_of_the_sample_study_never_change_a_number() -> None:
    study = make_sample(SampleSettings(questions=60, chats=3)).study
    counts = [stated_facts(messages, study.questions[q]) for q, messages in first_prompts(study.conversations).items()]
    total = sum(counts, StatedFacts())
    assert total.right == total.messages == 360
    assert 0.7 < total.shares()["facts stated"] < 0.95


@pytest.mark.parametrize(
    ("question", "message", "right", "stated"),
    [
        (QUESTION, "6 boxes, 14 pencils in each, 2 empty, how many pencils in all", 1, 3),
        (QUESTION, "6 boxes, 14 pencils in each, how many pencils in all", 1, 2),
        (QUESTION, "6 boxes, 15 pencils in each, how many pencils in all", 0, 2),  # not the problem's number
        (QUESTION, "14 boxes, 6 pencils in each, how many pencils in all", 0, 2),  # its numbers, in the wrong places
        (QUESTION, "how many pencils in all", 0, 0),
        (QUESTION, "16 boxes, how many in all", 0, 1),  # "6 boxes" stands in "16 boxes"
        (QUESTION, "Vera packs 6 boxes. Each box holds 14 pencils.", 1, 2),  # names are not what is judged
        (OF_CAMP, "camp 16 meters long, 15 meters wide. how much area to plant?", 1, 1),  # there is a place "square"
    ],
)
def test_every_number_stated_must_be_the_problems_in_its_place(
    question: Question, message: str, right: int, stated: int
) -> None:
    counts = stated_facts([message], question)
    assert (counts.right, counts.stated, counts.facts) == (right, stated, 3 if question is QUESTION else 1)


def test_facts_of_any_other_question_are_refused() -> None:
    with pytest.raises(ValueError, match="not a question of the sample study"):
        stated_facts(["hi"], Question("q", "physics", "What is mass?", ("a", "b", "c", "d"), "A"))
