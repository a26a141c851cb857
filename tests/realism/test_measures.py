"""Traits and distances against hand-worked numbers, lexical measures against another package's."""

from __future__ import annotations

import math
from random import Random

import pytest
from tests.support.realism_chats import TRAINS, chat

from chatbench.metrics.agreement import Undefined
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


def test_all_measures_equal_those_of_lexicalrichness() -> None:
    # Computed once with lexicalrichness 0.5.1 on the same words.
    assert moving_average_ttr(TEXT, 50) == pytest.approx(0.36)
    assert moving_average_ttr(TEXT, 10) == pytest.approx(0.8018181818181813)
    assert hypergeometric_diversity(TEXT) == pytest.approx(0.39022672388470037)
    assert yules_k(TEXT) == pytest.approx(952.1484375)


def test_mattr_slides_its_window_by_one_word() -> None:
    # Windows abc, bca, caa, aaa hold 3, 3, 2, 1 distinct words; set side by side, abc and aaa would give 2/3.
    assert moving_average_ttr(list("abcaaa"), 3) == pytest.approx(9 / 4 / 3)


def test_hdd_is_the_expected_share_of_distinct_words_in_a_draw() -> None:
    words, rng = [*"a" * 6, *"b" * 3, *"cdefg"], Random(0)
    drawn = [len(set(rng.sample(words, 5))) / 5 for _ in range(20_000)]

    assert hypergeometric_diversity(words, 5) == pytest.approx(sum(drawn) / len(drawn), abs=0.005)


def test_a_text_that_is_too_short_has_no_value_and_says_so() -> None:
    assert moving_average_ttr(["a"] * 49) == Undefined("fewer than 50 words")
    assert hypergeometric_diversity(["a"] * 41) == Undefined("fewer than 42 words")
    assert yules_k([]) == Undefined("no words")
    assert distinct_ngrams([["a"]], 2) == Undefined("no text has 2 words")


def test_yules_k_does_not_depend_on_length_where_words_repeat_alike() -> None:
    # The type-token ratio would be halved by doubling the text.
    once, thrice = [*"abcdefgh" * 20], [*"abcdefgh" * 60]
    assert yules_k(once) == pytest.approx(yules_k(thrice), rel=0.06)


def test_no_pair_of_words_spans_two_messages() -> None:
    assert distinct_ngrams([["a", "b"], ["c", "d"], ["a", "b"]], 2) == pytest.approx(2 / 3)


def test_wasserstein_is_the_mean_shift() -> None:
    assert wasserstein([1, 1, 3], [2, 2, 4]) == pytest.approx(1)


def test_jensen_shannon_is_a_divergence_in_bits_and_not_its_root() -> None:
    # (3/4, 1/4) and (1/4, 3/4) around (1/2, 1/2): 1 - H(1/4) = 0.1887 bits; scipy's function gives its root, 0.434.
    assert jensen_shannon([3, 1], [1, 3]) == pytest.approx(1 + 0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))


def test_kullback_leibler_is_smoothed_by_half_a_chat_and_has_a_direction() -> None:
    # (4.5, 0.5) / 5 against (2.5, 2.5) / 5, and the other way round.
    assert kullback_leibler([4, 0], [2, 2]) == pytest.approx(0.9 * math.log2(1.8) + 0.1 * math.log2(0.2))
    assert kullback_leibler([2, 2], [4, 0]) == pytest.approx(0.5 * math.log2(0.5 / 0.9) + 0.5 * math.log2(5))


def test_lengths_fall_into_doubling_classes() -> None:
    assert counts_by_length([0, 1, 2, 3, 4, 7, 8, 255, 256, 9999]) == [1, 1, 2, 2, 1, 0, 0, 0, 1, 2]


def test_a_side_without_chats_has_no_distance() -> None:
    assert isinstance(wasserstein([], [1]), Undefined)
    assert isinstance(jensen_shannon([0, 0], [1, 0]), Undefined)
    assert isinstance(kullback_leibler([1], [0]), Undefined)


def test_traits_by_hand() -> None:
    chats = [
        chat([TRAINS.text, "are you sure?", "ok thanks"], person="w1"),
        chat(["120 miles in 3 hours", "are you sure?"], person="w2"),
        chat(["how far", "How far?", "how  far"], person="w3"),
    ]
    values = {trait.name: trait.of(chats) for trait in TRAITS}

    assert values["user turns"] == pytest.approx(8 / 3)
    assert values["length of a follow-up"] == pytest.approx((3 + 2 + 3 + 2 + 2) / 5)
    assert values["follow-ups of at most 3 words"] == 1
    assert values["chats with polite words"] == pytest.approx(1 / 3)
    assert values["first message: copy"] == pytest.approx(1 / 3)
    assert values["numbers told by the end"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert values["follow-ups that repeat the chat"] == pytest.approx(2 / 5)
    assert values["follow-ups said in other chats"] == pytest.approx(2 / 5)
    assert values["MATTR"] == Undefined("fewer than 50 words")
