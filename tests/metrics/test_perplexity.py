"""Perplexity and bits per byte, with numbers by hand."""

from __future__ import annotations

import math
from itertools import permutations

import pytest

from chatbench.metrics.perplexity import TokenLoss, bits_per_byte, corpus_perplexity, perplexity_by_kind, summarise


def test_each_token_weighs_the_same_not_each_example() -> None:
    # A mean over examples of their perplexities would give 5, of their mean losses 4: the likely mistakes.
    short, long = TokenLoss(math.log(2), 1), TokenLoss(3 * math.log(8), 3)

    assert corpus_perplexity([short, long]) == pytest.approx(2**2.5)


def test_a_uniform_guess_among_v_tokens_has_perplexity_v() -> None:
    assert corpus_perplexity([TokenLoss(7 * math.log(320), 7)]) == pytest.approx(320)


def test_bits_per_byte_divides_by_bytes_not_by_characters_or_tokens() -> None:
    # "né" is 2 characters and 3 bytes; 6 bits over 3 bytes.
    assert bits_per_byte([TokenLoss(6 * math.log(2), 1, len("né".encode()))]) == pytest.approx(2.0)


def test_the_order_of_examples_does_not_show_in_the_last_digit() -> None:
    losses = [TokenLoss(nats, 1, 1) for nats in (1e-9, 0.1, 0.2, 0.3, 1e6)]

    assert len({corpus_perplexity(order[:4]) for order in permutations(losses[:4])}) == 1
    assert len({bits_per_byte(order) for order in permutations(losses)}) == 1


def test_kinds_come_in_the_order_of_a_conversation() -> None:
    losses = [
        ("answer", TokenLoss(0.0, 2, 9)),
        ("first", TokenLoss(math.log(4), 1, 2)),
        ("answer", TokenLoss(0.0, 1, 9)),
    ]

    by_kind = perplexity_by_kind(losses)

    assert list(by_kind) == ["first", "answer"]
    assert by_kind["first"].perplexity == pytest.approx(4)
    assert (by_kind["answer"].tokens, by_kind["answer"].examples, by_kind["answer"].perplexity) == (3, 2, 1)


def test_nothing_scored_is_an_error_and_not_a_perplexity_of_one() -> None:
    with pytest.raises(ValueError, match="no token"):
        summarise([])
    with pytest.raises(ValueError, match="no bytes"):
        bits_per_byte([TokenLoss(1.0, 1, 0)])


def test_a_loss_that_is_not_a_number_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="nan"):
        TokenLoss(math.nan, 1)
    with pytest.raises(ValueError, match="-1"):
        TokenLoss(-1.0, 1)
