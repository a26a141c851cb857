"""Perplexity and bits per byte, with numbers by hand."""

from __future__ import annotations

import math
from itertools import permutations

import pytest

from chatbench.metrics.text import TokenLoss, perplexity_by_kind, summarise


def test_each_token_weighs_the_same_not_each_example_and_a_uniform_guess_among_v_has_perplexity_v() -> None:
    # A mean over examples of their perplexities would give 5, of their mean losses 4: the likely mistakes.
    short, long = TokenLoss(math.log(2), 1, 1), TokenLoss(3 * math.log(8), 3, 1)

    assert summarise([short, long]).perplexity == pytest.approx(2**2.5)
    assert summarise([TokenLoss(7 * math.log(320), 7, 1)]).perplexity == pytest.approx(320)


def test_bits_per_byte_divides_by_bytes_not_by_characters_or_tokens() -> None:
    # "né" is 2 characters and 3 bytes; 6 bits over 3 bytes.
    assert summarise([TokenLoss(6 * math.log(2), 1, len("né".encode()))]).bits_per_byte == pytest.approx(2.0)


def test_the_order_of_examples_does_not_show_in_the_last_digit() -> None:
    losses = [TokenLoss(nats, 1, 1) for nats in (1e-9, 0.1, 0.2, 0.3, 1e3)]

    assert len({summarise(order[:4]).perplexity for order in permutations(losses[:4])}) == 1
    assert len({summarise(order).bits_per_byte for order in permutations(losses)}) == 1


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


@pytest.mark.parametrize("losses", [[], [TokenLoss(1.0, 1, 0)], [TokenLoss(0.0, 0, 1)]])
def test_nothing_scored_is_an_error_and_not_a_perplexity_of_one(losses: list[TokenLoss]) -> None:
    with pytest.raises(ValueError, match="so there is no perplexity"):
        summarise(losses)


@pytest.mark.parametrize("nats", [math.nan, -1.0])
def test_a_loss_that_is_not_a_number_cannot_be_made(nats: float) -> None:
    with pytest.raises(ValueError, match=str(nats)):
        TokenLoss(nats, 1)
