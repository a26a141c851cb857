"""Traits and distances against hand-worked numbers, lexical measures against another package's."""

from __future__ import annotations

import math

import pytest
from tests.support.realism_chats import TRAINS, chat

from chatbench.metrics.agreement import Undefined, Value
from chatbench.realism.measures import (
    TRAITS,
    counts_by_length,
    distinct_ngrams,
    hypergeometric_diversity,
    jensen_shannon,
    kullback_leibler,
    moving_average_ttr,
    wasserstein,
    yules_k,
)

WORDS = """
the cat sat on the mat and the dog sat on the log and then the cat and the dog ran to the mat where the log was and the
cat said to the dog that the mat was warm and the dog said to the cat that the log was cold so the cat and the dog sat
down on the warm mat
"""
TEXT = WORDS.split()


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (moving_average_ttr(["a"] * 49), "fewer than 50 words"),
        (hypergeometric_diversity(["a"] * 41), "fewer than 42 words"),
        (yules_k([]), "no words"),
        (distinct_ngrams([["a"]], 2), "no text has 2 words"),
        (wasserstein([], [1]), "one side has nothing to compare"),
        (jensen_shannon([0, 0], [1, 0]), "one side has nothing to compare"),
        (kullback_leibler([1], [0]), "one side has nothing to compare"),
    ],
)
def test_what_is_too_short_or_empty_has_no_value_and_says_so(found: Value, reason: str) -> None:
    assert found == Undefined(reason)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        # Computed once with lexicalrichness 0.5.1 on the same words.
        (moving_average_ttr(TEXT, 50), 0.36),
        (moving_average_ttr(TEXT, 10), 0.8018181818181813),
        (hypergeometric_diversity(TEXT), 0.39022672388470037),
        (yules_k(TEXT), 952.1484375),
        (wasserstein([1, 1, 3], [2, 2, 4]), 1),
        # (3/4, 1/4) and (1/4, 3/4) around (1/2, 1/2): 1 - H(1/4) bits; scipy's function gives the root.
        (jensen_shannon([3, 1], [1, 3]), 1 + 0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)),
        # (4.5, 0.5) / 5 against (2.5, 2.5) / 5, and the other way round.
        (kullback_leibler([4, 0], [2, 2]), 0.9 * math.log2(1.8) + 0.1 * math.log2(0.2)),
        (kullback_leibler([2, 2], [4, 0]), 0.5 * math.log2(0.5 / 0.9) + 0.5 * math.log2(5)),
        (distinct_ngrams([["a", "b"], ["c", "d"], ["a", "b"]], 2), 2 / 3),  # no pair spans two messages
        (counts_by_length([0, 1, 2, 3, 4, 7, 8, 255, 256, 9999]), [1, 1, 2, 2, 1, 0, 0, 0, 1, 2]),  # doubling classes
    ],
)
def test_measures_and_distances_have_known_values(found: Value | list[int], expected: float | list[int]) -> None:
    assert found == pytest.approx(expected)


def test_traits_by_hand() -> None:
    chats = [
        chat([TRAINS.text, "are you sure?", "ok thanks"], person="w1"),
        chat(["120 miles in 3 hours", "are you sure?"], person="w2"),
        chat(["how far", "How far?", "how  far"], person="w3"),
    ]
    values = {trait.name: trait.of(chats) for trait in TRAITS}

    expected = {
        "user turns": 8 / 3, "length of a follow-up": (3 + 2 + 3 + 2 + 2) / 5, "follow-ups of at most 3 words": 1,
        "chats with polite words": 1 / 3, "first message: copy": 1 / 3, "numbers told by the end": (1 + 2 / 3 + 0) / 3,
        "follow-ups that repeat the chat": 2 / 5, "follow-ups said in other chats": 2 / 5,
    }  # fmt: skip
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    assert values["MATTR"] == Undefined("fewer than 50 words")
