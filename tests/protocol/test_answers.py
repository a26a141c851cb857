"""Reading a simulator's output in the published order, and what lenient extraction finds beside it."""

from __future__ import annotations

import pytest

from chatbench.core.records import Question
from chatbench.protocol.answers import FinalAnswer, lenient_letter, read_answer

QUESTION = Question("q", "s", "?", ("one", "two", "three", "four"), "A")


@pytest.mark.parametrize("letter", "ABCD")
def test_the_first_character_after_the_prefix_is_the_letter(letter: str) -> None:
    assert read_answer(f"Answer: {letter}. surely") == FinalAnswer(f"{letter}. surely")
    assert QUESTION.read(f"{letter}. surely") == letter


@pytest.mark.parametrize("text", ["(A)", "d", "E", " A", "", "42"])
def test_anything_else_is_an_invalid_answer_kept_as_it_was(text: str) -> None:
    assert read_answer(f"Answer: {text}") == FinalAnswer(text)
    assert QUESTION.read(text) is None


@pytest.mark.parametrize("message", ["Answer:", "answer: A", "The Answer: A", "Answer:A", ""])
def test_without_the_exact_prefix_at_the_start_it_is_a_message(message: str) -> None:
    assert read_answer(message) is None


# ---- lenient answer extraction ----

OPTIONS = ("90 km/h", "60 km/h", "100 km/h", "None of these")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("(A)", "A"),
        ("d", "D"),
        (" B", "B"),
        ('"C"', "C"),
        ("**B**", "B"),
        ("b) 60 km/h", "B"),
        ("(d) None of these", "D"),
        ("[C]. 100 km/h", "C"),
        ("the answer is B", "B"),
        ("The answer is (b), because 60.", "B"),
        ("I would choose option C", "C"),
        ("The correct answer is: D.", "D"),
        ("the answer is b", "B"),
        ("90 km/h", "A"),
        ("none of these.", "D"),
        ("100  KM/H", "C"),
        ("**Answer:** B", "B"),
        ("**Final answer:** (c)", "C"),
        ("Answer = D", "D"),
        (r"so it is $\boxed{\text{C}}$.", "C"),
        ("\u201c90 km/h\u201d\u2026", "A"),
        ("\uff11\uff10\uff10 km/h\u3002", "C"),
    ],
)
def test_it_reads_what_a_person_would(text: str, letter: str) -> None:
    assert lenient_letter(text, OPTIONS) == letter


@pytest.mark.parametrize(
    "text",
    [
        "", "E", "I don't know", "the answer is a mystery", "a train goes 60 km", "(A) or (B)", "the answer is A or B",
        "the answer is A. No, the answer is B", "60", "Can you help?", "b 60 km/h or so", "option A is wrong, choose B",
        "AB", "Dunno", "Bob said so", "**Answer:** a train",
    ],
)  # fmt: skip
def test_it_gives_no_letter_where_a_person_would_not(text: str) -> None:
    # Taking the first of A to D anywhere in the text would read most of these: the likely mistake.
    assert lenient_letter(text, OPTIONS) is None


def test_a_letter_that_is_another_options_text_is_unclear() -> None:
    assert lenient_letter("d", ("b", "d", "a", "c")) is None
    assert lenient_letter("(A)", ("b", "d", "a", "c")) == "A"  # only a label stands in brackets
    assert lenient_letter("d", ("a", "b", "c", "d")) == "D"


def test_two_options_of_the_same_text_are_unclear() -> None:
    assert lenient_letter("same", ("same", "same", "other", "fourth")) is None
