"""How many requests an endpoint is asked at once, and when one of several addresses is left out."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.clock import Clock

from chatbench.endpoints.address import EndpointOptions
from chatbench.endpoints.errors import Fault, Patience, Replica
from chatbench.protocol.dialogue import Reply


def replica(most: int) -> tuple[Replica, Clock]:
    clock = Clock()
    return Replica(most, clock, clock.sleep), clock


def overloaded(asked_at: float, retry_after: float | None = None) -> tuple[Fault, float]:
    return Fault("busy", "HTTP 429", retry_after), asked_at


def test_the_limit_is_halved_once_for_all_requests_that_were_under_way_together() -> None:
    # Halving for each of them would leave one place of 64 after six faults of the same moment.
    one, clock = replica(64)
    clock.now = 1.0

    for asked_at in (0.1, 0.2, 0.9):
        one.leave_out(*overloaded(asked_at))
    assert one.limit == 32
    clock.now = 2.0
    one.leave_out(*overloaded(1.5))
    assert one.limit == 16


def test_a_round_of_good_answers_gives_an_eighth_back_and_never_more_than_the_most() -> None:
    one, clock = replica(64)
    clock.now = 1.0
    one.leave_out(*overloaded(0.5))

    for _ in range(32):
        one.answered()
    assert one.limit == pytest.approx(32 + 8, abs=1)
    for _ in range(1000):
        one.answered()
    assert one.limit == 64


def test_one_place_always_stays() -> None:
    one, clock = replica(4)
    for second in range(1, 10):
        clock.now = float(second)
        one.leave_out(*overloaded(second - 0.5))

    assert one.limit == 1


def test_nobody_asks_before_the_time_that_the_endpoint_named() -> None:
    one, clock = replica(2)

    async def asked() -> list[float]:
        one.leave_out(*overloaded(0.0, retry_after=30.0))
        async with one.place() as at:
            return [at]

    assert asyncio.run(asked()) == [30.0]
    assert clock.now == 30.0


def test_places_are_given_in_the_order_of_asking_and_a_cancelled_request_gives_its_own_back() -> None:
    one, _ = replica(1)
    order: list[int] = []

    async def ask(number: int, free: asyncio.Event) -> None:
        async with one.place():
            order.append(number)
            await free.wait()

    async def all_ask() -> None:
        free = asyncio.Event()
        tasks = [asyncio.create_task(ask(number, free)) for number in range(5)]
        await asyncio.sleep(0)
        tasks[0].cancel()  # it has the place
        tasks[2].cancel()  # it waits for one
        free.set()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(all_ask())

    assert order == [0, 1, 3, 4]


def test_a_request_that_is_cancelled_in_the_moment_it_gets_a_place_does_not_keep_it() -> None:
    # The place would be lost for ever, and after as many such moments as there are places nobody could ask.
    one, _ = replica(1)

    async def take() -> None:
        async with one.place():
            await asyncio.sleep(0)

    async def all_ask() -> None:
        async with one.place():
            second = asyncio.create_task(take())
            await asyncio.sleep(0)
        second.cancel()  # it was just handed the place, and has not run yet
        await asyncio.gather(second, return_exceptions=True)
        await asyncio.wait_for(take(), 5)

    asyncio.run(all_ask())


def test_an_hour_that_one_address_asks_to_wait_is_waited_by_nobody_who_queues_there() -> None:
    # The third request waits for the slot of the first, which is told to come back in an hour.
    clock = Clock()
    patience = Patience(["a", "b"], EndpointOptions(concurrency=1), clock, clock.sleep)

    async def attempt(number: int, _unchecked: bool) -> Reply | Fault:
        await asyncio.sleep(0)
        return Reply("hello") if number else Fault("busy", "HTTP 429", retry_after=3600.0)

    async def all_ask() -> list[Reply | Fault]:
        return await asyncio.gather(*(patience.answer(attempt, seed) for seed in range(4)))

    assert [type(found) for found in asyncio.run(all_ask())] == [Reply] * 4
    assert clock.now < 5


def test_an_address_that_stays_dead_for_days_is_tried_every_twenty_seconds() -> None:
    # Pauses that double without an end would overflow after some hours.
    one, clock = replica(4)
    for _ in range(5000):
        assert one.is_open
        one.leave_out(Fault("down", "cannot connect"), clock.now)
        assert not one.is_open
        clock.now = one.opens_at
    assert clock.now == pytest.approx(5000 * 20, rel=0.01)

    one.leave_out(Fault("down", "cannot connect"), clock.now)
    one.answered()  # by a request that was under way
    assert one.is_open


def test_requests_that_fail_together_double_the_pause_once() -> None:
    one, clock = replica(64)
    for _ in range(64):
        one.leave_out(Fault("broken", "no answer"), clock.now)

    assert one.opens_at == 0.5


def test_one_request_at_a_time_tries_an_address_that_was_left_out() -> None:
    # All that wait would meet a machine without power, and each the whole time limit.
    clock = Clock()
    patience = Patience(["a", "b"], EndpointOptions(concurrency=64), clock, clock.sleep)
    patience.replicas[0].leave_out(Fault("down", "cannot connect"), 0.0)
    clock.now = 1.0
    asked: list[int] = []

    async def attempt(number: int, _unchecked: bool) -> Reply:
        asked.append(number)
        await asyncio.sleep(0.01)
        return Reply("hello")

    async def all_ask() -> None:
        await asyncio.gather(*(patience.answer(attempt, seed) for seed in range(10)))

    asyncio.run(all_ask())
    assert sorted(asked) == [0, *[1] * 9]
