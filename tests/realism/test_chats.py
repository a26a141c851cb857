"""How a first message puts the question, what it covers, what a reply answers, and which chats mirror a benchmark."""

from __future__ import annotations

import pytest
from tests.support.realism_chats import CELLS, TRAINS, chat

from chatbench.core.records import Question
from chatbench.metrics.first_prompts import share_in_order, words
from chatbench.realism.chats import Coverage, answer_in_reply, coverage, on_common_cells, tells_options, wording_of
from chatbench.sample.participants import STUDY_HABITS
from chatbench.sample.study import SampleSettings, make_sample


def test_words_out_of_order_are_not_copied() -> None:
    # A bag of words would call a scrambled question a copy: the likely mistake.
    assert share_in_order(words("one two three four"), words("four three two one")) == 0.25


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


def test_options_are_told_only_if_all_are() -> None:
    assert tells_options("is it 180, 200, 220 or 600?", TRAINS)
    assert not tells_options("is it 180 or 200?", TRAINS)


def test_coverage_is_of_all_messages_together_and_counts_each_number_once() -> None:
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


def test_a_mirror_is_a_copy_with_one_reply_whose_answer_is_adopted() -> None:
    told = "The answer is B."
    assert chat([TRAINS.text], replies=[told], answer="B").mirror
    assert not chat([TRAINS.text], replies=[told], answer="C").mirror
    assert not chat([TRAINS.text, "sure?"], replies=[told, told], answer="B").mirror
    assert not chat(["how far does the train go"], replies=[told], answer="B").mirror
    unread = chat([TRAINS.text], replies=["Hm."], answer="B")
    assert (unread.mirror, unread.may_mirror) == (False, True)
    assert not chat([TRAINS.text], replies=["Hm."], answer=None).mirror  # None is not an adopted None


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
