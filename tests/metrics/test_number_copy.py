"""Which numbers of a question its first prompts hold."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import pytest

from chatbench.core.records import Question
from chatbench.metrics.first_prompts import content_words, number_copy, numbers, restates

PENS = Question(
    id="q1",
    subset="s",
    text="Mia buys 12 pens and 30 pencils. Each pen costs 2 coins. How many coins for the pens?",
    options=("24", "60", "84", "42"),
    answer="A",
)


def test_numbers_are_compared_by_value() -> None:
    assert numbers("1,200 and 1200.0") == {Decimal(1200)}
    assert numbers("3.50, 0.7%, 12-5, x2") == {Decimal("3.5"), Decimal("0.7"), Decimal(12), Decimal(5), Decimal(2)}


def test_a_number_of_any_length_keeps_all_its_digits() -> None:
    # Python's decimal context has 28 digits: beyond them quantize() fails and normalize() rounds.
    long = "1" * 40
    assert numbers(f"{long}.0 and {long}.50") == {Decimal(long), Decimal(long + ".5")}
    assert numbers(f"{long}1") != numbers(f"{long}2")
    assert {str(n) for n in numbers("1,200.00 0.0 007")} == {"1200", "0", "7"}


def test_a_comma_between_numbers_of_a_list_does_not_join_them() -> None:
    # "1,2,3" is three numbers, "1,234" is one.
    assert numbers("1,2,3 and 10,20") == {Decimal(n) for n in (1, 2, 3, 10, 20)}
    assert numbers("1,234") == {Decimal(1234)}


def test_content_words_leave_function_words_out() -> None:
    assert content_words("How many pens does she have?") == {"pens"}


@pytest.mark.parametrize(
    ("prompt", "restated"),
    [
        (PENS.full_text, True),
        ("12 pens, 2 coins each?", True),  # two of three numbers
        ("mia buys pens and pencils, what is the cost of the pens in coins", True),  # words, no number
        ("what is 12 times 7", False),  # one of three numbers, no word
        ("hello", False),
    ],
)
def test_a_prompt_restates_with_half_of_the_words_or_half_of_the_numbers(prompt: str, restated: bool) -> None:
    assert restates(prompt, PENS) is restated


def test_counts_of_a_copy_an_omission_an_invention_and_a_greeting() -> None:
    prompts = [
        PENS.full_text,  # everything
        "Mia buys 12 pens, each costs 2 coins, how many coins?",  # leaves 30 out
        "Mia buys 12 pens and 30 pencils. Each pen costs 5 coins. How many coins for the pens?",  # 5 is not in it
        "hi, can you help?",
    ]

    assert number_copy(prompts, PENS) == Counter(prompts=4, restatements=3, complete=1, with_number=3, no_foreign=2)


def test_numbers_of_the_options_are_not_foreign() -> None:
    assert number_copy(["is it 24 or 60"], PENS)["no_foreign"] == 1


def test_a_question_without_numbers_says_nothing_about_copying() -> None:
    moral = Question("q2", "s", "Is it wrong to lie?", ("1", "2", "3", "4"), "A")

    assert number_copy(["Is it wrong to lie?"], moral) == Counter()
