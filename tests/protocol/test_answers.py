"""Reading a simulator's output in the published order."""

from __future__ import annotations

import pytest

from chatbench.protocol.answers import FinalAnswer, clean_output, read_answer, read_iqa_answer


def test_cleaning_goes_from_white_space_over_quotes_to_the_participant_and_stops_there() -> None:
    # Cleaning until nothing changes any more would read the second line as an answer: the likely mistake.
    assert clean_output(' "YOU: Answer: B" \n') == "Answer: B"
    assert clean_output('YOU: "Answer: B"') == '"Answer: B'
    assert clean_output("YOU: YOU: hi") == "YOU: hi"


def test_a_quote_at_one_end_only_goes_too() -> None:
    assert clean_output('what does he mean by "moral"') == 'what does he mean by "moral'


@pytest.mark.parametrize("letter", "ABCD")
def test_the_first_character_after_the_prefix_is_the_letter(letter: str) -> None:
    assert read_answer(f"Answer: {letter}. surely") == FinalAnswer(f"{letter}. surely", letter)


@pytest.mark.parametrize("text", ["(A)", "d", "E", " A", "", "42"])
def test_anything_else_is_an_invalid_answer_kept_as_it_was(text: str) -> None:
    assert read_answer(f"Answer: {text}") == FinalAnswer(text, None)


@pytest.mark.parametrize("message", ["Answer:", "answer: A", "The Answer: A", "Answer:A", ""])
def test_without_the_exact_prefix_at_the_start_it_is_a_message(message: str) -> None:
    assert read_answer(message) is None


def test_iqa_eval_finds_its_answer_anywhere() -> None:
    assert read_iqa_answer("Thanks. So, the answer is: C.") == FinalAnswer("C.", "C")
    assert read_iqa_answer("So, the answer is: none of them") == FinalAnswer("none of them", None)
    assert read_iqa_answer("Answer: C") is None
