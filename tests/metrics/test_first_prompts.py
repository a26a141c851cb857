"""Which numbers and words of a question its first prompts hold."""

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
LONG = "1" * 40  # Python's decimal context has 28 digits: beyond them quantize() fails and normalize() rounds


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1,200 and 1200.0", ["1200"]),
        ("3.50, 0.7%, 12-5, x2", ["3.5", "0.7", "12", "5", "2"]),
        (f"{LONG}.0, {LONG}.50, {LONG}1 and {LONG}2", [LONG, f"{LONG}.5", f"{LONG}1", f"{LONG}2"]),
        ("1,200.00 0.0 007", ["1200", "0", "7"]),
        ("1,2,3 and 10,20", ["1", "2", "3", "10", "20"]),  # a comma between numbers of a list does not join them
        ("1,234", ["1234"]),
    ],
)
def test_numbers_are_compared_by_value(text: str, found: list[str]) -> None:
    assert numbers(text) == {Decimal(number) for number in found}
    assert all("E" not in str(number) for number in numbers(text))


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
    assert content_words("How many pens does she have?") == {"pens"}  # not the function words


@pytest.mark.parametrize(
    ("question", "prompts", "counts"),
    [
        (PENS, [
            PENS.full_text,  # everything
            "Mia buys 12 pens, each costs 2 coins, how many coins?",  # leaves 30 out
            "Mia buys 12 pens and 30 pencils. Each pen costs 5 coins. How many coins for the pens?",  # 5 is not in it
            "hi, can you help?",
        ], Counter(prompts=4, restatements=3, complete=1, with_number=3, no_foreign=2)),
        (PENS, ["is it 24 or 60"], Counter(prompts=1, with_number=1, no_foreign=1)),  # numbers of the options
        (Question("q2", "s", "Is it wrong to lie?", ("1", "2", "3", "4"), "A"), ["Is it wrong to lie?"], Counter()),
    ],
)  # fmt: skip
def test_copies_omissions_and_inventions(question: Question, prompts: list[str], counts: Counter[str]) -> None:
    assert number_copy(prompts, question) == counts
