"""MATTR, HD-D, Yule's K and distinct-n against hand-worked numbers and another package's."""

from __future__ import annotations

from random import Random

import pytest

from chatbench.metrics.agreement import Undefined
from chatbench.realism.measures import distinct_ngrams, hypergeometric_diversity, moving_average_ttr, yules_k

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
