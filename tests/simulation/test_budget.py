"""Prices and budgets worked by hand."""

from __future__ import annotations

import pytest

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Usage
from chatbench.protocol.dialogue import Failure, Reply, Request
from chatbench.simulation.budget import Price, Prices, Spending, read_price


def test_dollars_are_tokens_times_prices_of_their_side() -> None:
    # Per side, and read and written apart: 3 x 2 + 5 x 10 for the simulator, 7 x 1 + 11 x 4 for the assistant.
    prices = Prices(read_price("--simulator-price", "2/10"), Price(1, 4))

    assert prices.usd(Usage(3, 5, 7, 11)) == pytest.approx(107e-6)
    assert Prices(None, Price(1, 4)).usd(Usage(3, 5, 7, 11)) == pytest.approx(51e-6)
    # Of the 7 that the assistant read, 5 came from a cache at a tenth of the price; reasoning is among the written.
    cached = Usage(0, 0, 7, 11, assistant_reasoning_tokens=9, assistant_cached_tokens=5)
    assert Prices(None, read_price("--assistant-price", "1/4/.1")).usd(cached) == pytest.approx(46.5e-6)
    assert Prices(None, read_price("--assistant-price", "1/4")).usd(cached) == pytest.approx(51e-6)


@pytest.mark.parametrize("text", ["10", "2.5/", "a/b", "-1/2", "1/2/3/4", ""])
def test_a_price_that_cannot_be_read_is_told(text: str) -> None:
    with pytest.raises(ChatbenchError, match="--assistant-price"):
        read_price("--assistant-price", text)


def test_until_a_chat_has_ended_room_is_judged_by_the_estimate() -> None:
    # A mean of 0 let every chat begin at once: nearly all were cut off, and what they cost was lost.
    spending = Spending(Prices(), max_tokens=1000)
    spending.expect(Usage(simulator_tokens=4000, assistant_prompt_tokens=1000), 50)
    assert spending.leaves_room(16)  # a block of a local model; else a pessimistic estimate would begin none
    spending.began()
    assert spending.leaves_room(9)
    assert not spending.leaves_room(10)


def test_what_the_judge_used_leaves_less_room_for_chats() -> None:
    # Room was judged by chats alone: they began, and were cut off when the judge's part made the budget spent.
    spending = Spending(Prices(None, Price(1, 4)), max_tokens=1000)
    spending.judged(Request("assistant", (), "q", 0, "reply"), Reply("", tokens=100, prompt_tokens=400))
    spending.recorded(Usage(simulator_tokens=100))

    assert spending.leaves_room(4)
    assert not spending.leaves_room(5)
    assert spending.judge == Usage(assistant_prompt_tokens=400, assistant_tokens=100)


@pytest.mark.parametrize(
    ("tokens", "usd", "told"),
    [
        (3200, 0.001, "the rest is enough"),
        (6400, 0.001, "the rest is enough for about 4 of the 8 conversations"),
        (3200, 0.1, "the rest is enough for about 0 of the 8 conversations"),
    ],
)
def test_what_is_left_is_the_tighter_budgets(tokens: int, usd: float, told: str) -> None:
    spending = Spending(Prices(Price(2, 10)), max_tokens=4000, max_usd=0.01)
    spending.recorded(Usage(simulator_prompt_tokens=600, simulator_tokens=200))

    assert spending.outlook(tokens, usd, 8) == f"budget: $0.0032 of $0.01 and 800 of 4,000 tokens spent; {told}"


def test_a_budget_that_cannot_be_kept_is_refused() -> None:
    with pytest.raises(ChatbenchError, match="without a price"):
        Spending(Prices(), max_usd=5)
    with pytest.raises(ChatbenchError, match="more than 0"):
        Spending(Prices(), max_tokens=0)
    silent = Spending(Prices(), max_tokens=100)
    silent.metered = frozenset({"assistant"})
    request = Request("assistant", (), "q", 0, "reply")
    with pytest.raises(ChatbenchError, match="does not report how many tokens"):
        silent.replied(request, Reply("hello"))
    silent.replied(request, Failure("HTTP 503", transient=True))


def test_room_is_judged_by_those_that_ended_not_by_parts_of_those_under_way() -> None:
    # By what was spent over what ended, 3 under way would look like 4 times the cost, and the run would stop early.
    spending = Spending(Prices(), max_tokens=1000)
    spending.began(4)
    for _ in range(4):
        spending.replied(Request("simulator", (), "q", 0, "turn"), Reply("", tokens=100))
    spending.ended(Usage(simulator_tokens=100))

    assert spending.leaves_room(6)
    assert not spending.leaves_room(7)
