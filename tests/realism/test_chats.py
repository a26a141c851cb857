"""How a first message puts the question, what it covers, what a reply answers, and which chats mirror a benchmark."""

from __future__ import annotations

import pytest
from tests.support.realism_chats import CELLS, TRAINS, chat

from chatbench.core.records import Question
from chatbench.realism.chats import (
    Coverage,
    answer_in_reply,
    copied_share,
    coverage,
    on_common_cells,
    tells_options,
    wording_of,
)
from chatbench.sample.participants import STUDY_HABITS
from chatbench.sample.study import SampleSettings, make_sample


@pytest.mark.parametrize(
    ("question", "message", "wording"),
    [
        (TRAINS, TRAINS.text, "copy"),
        (TRAINS, f"Please answer this:\n{TRAINS.full_text}", "copy"),
        (TRAINS, TRAINS.text.upper().replace(".", ""), "copy"),
        (TRAINS, "a train goes 120 miles in 3 hours, how far in 5 hours?", "rephrase"),
        (TRAINS, "a train goes 120 miles in 3 hours, how far?", "partial"),  # it restates, yet a number is missing
        (TRAINS, "how fast is a train", "partial"),
        (TRAINS, "can you help me with math", "other"),
        (TRAINS, "", "other"),
        (CELLS, "what in a cell makes energy from sugar", "rephrase"),  # no numbers: half of its words
        (CELLS, "what is a cell", "partial"),
        (Question("q", "s", "???", ("a", "b", "c", "d"), "A"), "what?", "other"),
    ],
)
def test_a_first_message_is_one_of_four(question: Question, message: str, wording: str) -> None:
    assert wording_of(message, question) == wording


def test_coverage_is_of_all_messages_together_and_counts_each_number_once() -> None:
    # A bag of words would call a scrambled question a copy: the likely mistake.
    assert copied_share("four three two one", "one two three four") == 0.25
    assert tells_options("is it 180, 200, 220 or 600?", TRAINS)
    assert not tells_options("is it 180 or 200?", TRAINS)
    assert coverage(["120 miles, 120", "and 3"], TRAINS).numbers == pytest.approx(2 / 3)
    assert coverage(["energy"], CELLS) == Coverage(None, pytest.approx(1 / 6))  # part living cell turns sugar energy
    assert coverage([], Question("q", "s", "???", ("a", "b", "c", "d"), "A")) == Coverage(None, None)


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("The answer is C.", "C"),
        ("I first thought option A, but the answer is **B**.", "B"),
        (r"So we get \boxed{D}.", "D"),
        ("B", "B"),
        ("(A) is correct.", "A"),
        ("A train travels 40 miles per hour, so in 5 hours it travels 200 miles.", "B"),
        ("40 * 5 = 200. Let me know if you want more help!", "B"),
        ("120 + 60 = 180. The answer is 181.", None),  # the last number is no option, whatever was said before
        ("It is either 180 or 200.", None),
        ("I cannot say.", None),
        ("It is the mitochondrion. The nucleus and the ribosome do other things.", None),
        ("The nucleus holds the genes. Energy comes from a mitochondrion.", "B"),
    ],
)
def test_the_answer_in_a_reply_is_the_last_that_it_names(reply: str, letter: str | None) -> None:
    assert answer_in_reply(reply, CELLS if "nucleus" in reply else TRAINS) == letter


@pytest.mark.parametrize(
    ("messages", "reply", "answer", "mirror", "may"),
    [
        ([TRAINS.text], "The answer is B.", "B", True, True),
        ([TRAINS.text], "The answer is B.", "C", False, False),
        ([TRAINS.text, "sure?"], "The answer is B.", "B", False, False),
        (["how far does the train go"], "The answer is B.", "B", False, False),
        ([TRAINS.text], "Hm.", "B", False, True),
        ([TRAINS.text], "Hm.", None, False, True),  # None is not an adopted None
    ],
)
def test_a_mirror_is_a_copy_with_one_reply_whose_answer_is_adopted(
    messages: list[str], reply: str, answer: str | None, mirror: bool, may: bool
) -> None:
    found = chat(messages, replies=[reply] * len(messages), answer=answer)

    assert (found.mirror, found.may_mirror) == (mirror, may)


def test_copies_and_answers_of_the_sample_study_are_read_as_they_were_generated() -> None:
    sample = make_sample(SampleSettings(questions=40, chats=4))
    read = right = 0
    for conversation in sample.study.conversations:
        question = sample.study.questions[conversation.question_id]
        said = conversation.turns[0].text
        copies = {lead + text for lead in STUDY_HABITS.phrases.lead_ins for text in (question.text, question.full_text)}
        assert (wording_of(said, question) == "copy") == (said in copies)
        value = conversation.turns[-1].text.rstrip(".").split()[-1]
        if value.isdigit():
            truth = sample.problems[question.id].option_of(int(value))
            right += answer_in_reply(conversation.turns[-1].text, question) == truth
            read += 1

    assert read > 250
    assert right >= 0.98 * read


def test_only_cells_of_both_sides_are_compared() -> None:
    one, other = chat(["hi"]), chat(["hi"], assistant="llama-3.1-8b")

    assert on_common_cells([one, other], [one]) == ([one], [one])
