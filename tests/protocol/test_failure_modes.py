"""What goes wrong in simulators is counted, and what people write is not."""

from __future__ import annotations

import pytest

from chatbench.core.records import Question, Turn
from chatbench.protocol.answers import FinalAnswer, Said, read_answer
from chatbench.protocol.failure_modes import FailureMode, observed_in

TRAIN = Question(
    "q1",
    "physics",
    "A train goes 60 km in 40 minutes. What is its mean speed?",
    ("90 km/h", "60 km/h", "100 km/h", "24 km/h"),
    "A",
)
OPENING = "how fast is a train that goes 60 km in 40 minutes on average"
CHAT = (Turn("user", OPENING), Turn("assistant", "It goes at 90 km/h."))
LATER = (*CHAT, Turn("user", "thank you so much!"), Turn("assistant", "You're welcome!"))
PROOF = (
    "Step 1: convert the time, 40 minutes, into hours, which gives two thirds of an hour. Step 2: divide the distance "
    "of 60 km by the time. Therefore the mean speed of the train is 90 km/h, so option A."
)


def seen(message: str, turns: tuple[Turn, ...] = CHAT, question: Question = TRAIN) -> set[FailureMode]:
    return set(observed_in(read_answer(message) or Said(message), turns, question))


@pytest.mark.parametrize(
    ("message", "turns", "mode"),
    [
        (OPENING.capitalize() + "?", CHAT, "two_openings"),
        ("so how fast is a train that goes 60 km in 40 minutes on average", CHAT, "two_openings"),
        ("SYSTEM: The train goes at 90 km/h.", CHAT, "role_flip"),
        ("and in m/s?\n\nSYSTEM: That is 25 m/s.\n\nYOU: thanks", CHAT, "role_flip"),
        ("[USER] and in m/s?", CHAT, "role_flip"),
        ("Answer: A\n\nASSISTANT: Correct!", CHAT, "role_flip"),
        ("ok thanks. Answer: A", CHAT, "glued_answer"),
        ("Answer: A. Can you also tell me why?", CHAT, "glued_answer"),
        ("Answer: A, B, C, or D", CHAT, "glued_answer"),
        ("", CHAT, "empty_turn"),
        ("  \n", (), "empty_turn"),
        ("Thanks again! Have a great day!", LATER, "endless_thanks"),
        ("You\u2019re welcome, bye!", LATER, "endless_thanks"),
        (PROOF, CHAT, "assistant_work"),
        ("Sure! Here's a prompt you could use: how fast is the train", (), "assistant_work"),
        ("I'd be happy to help you with that!", CHAT, "assistant_work"),
    ],
)
def test_each_failure_is_detected(message: str, turns: tuple[Turn, ...], mode: FailureMode) -> None:
    assert mode in seen(message, turns)


@pytest.mark.parametrize(
    ("message", "turns"),
    [
        (OPENING, ()),
        # Another number makes it another question, however alike the words are.
        ("how fast is a train that goes 60 km in 50 minutes on average", CHAT),
        ("what is the speed in m/s", CHAT),
        ("YOU said 90, is the system: train plus track?", CHAT),
        ("Answer: A", CHAT),
        ("Answer: A.", CHAT),
        ("Answer: A. 90 km/h", CHAT),
        # Nothing was asked yet, so this is an opening, if a strange one.
        ("Answer: A", ()),
        ("is the answer A?", CHAT),
        ("Answer:\nA. 90 km/h\nB. 60 km/h", CHAT),
        ("give me the answer: a train at 60", CHAT),
        # Everybody says thank you once.
        ("Thanks, that's very helpful!", CHAT),
        ("thanks, and what about 80 km", LATER),
        (
            "ok so 40 minutes is 2/3 of an hour, therefore I get 60 times 2/3 which is 40 km/h but that is not there",
            CHAT,
        ),
        ("sure, but why", CHAT),
        ("of course it is", CHAT),
    ],
)
def test_what_people_write_is_not_counted(message: str, turns: tuple[Turn, ...]) -> None:
    # A detector for any "Answer:", any thanks, or any long message would fire here: the likely mistakes.
    assert seen(message, turns) == set()


def test_a_pasted_question_with_steps_of_its_own_is_not_the_assistants_work() -> None:
    question = Question("q2", "maths", f"Which step is wrong? {PROOF}", ("1", "2", "3", "4"), "A")

    assert seen(PROOF, (), question) == set()
    assert seen(PROOF, ()) == {"assistant_work"}


def test_a_question_about_participants_may_be_pasted() -> None:
    question = Question("q3", "moral", "Is it wrong?\nSYSTEM: I lied.", ("1", "2", "3", "4"), "A")

    assert seen("Is it wrong?\nSYSTEM: I lied.", (), question) == set()


def test_a_forced_answer_need_not_be_a_question() -> None:
    assert observed_in(Said(PROOF), CHAT, TRAIN, forced=True) == frozenset()
    assert observed_in(Said(""), CHAT, TRAIN, forced=True) == {"empty_turn"}


def test_reasons_before_an_iqa_answer_belong_to_it() -> None:
    assert observed_in(FinalAnswer("A.", "It is 90. So, the answer is: A."), CHAT, TRAIN) == frozenset()
    assert observed_in(FinalAnswer("A. Or is it?", "So, the answer is: A. Or is it?"), CHAT, TRAIN) == {"glued_answer"}


def test_an_end_without_words_is_no_empty_turn() -> None:
    assert observed_in(Said("", last=True), CHAT, TRAIN) == frozenset()
