r"""Conversations per second with a model behind an endpoint: chatbench's engine, a plain asyncio loop, one at a time.

A server on this machine plays simulator and assistant. It answers each request after a time drawn from a log-normal
distribution (median 300 ms, standard deviation of the log 0.5), made shorter by `--scale` so that the run is short. All
three ways hold conversations of the same kind, in this process, one way after the other, in several rounds:

- one at a time: a loop over conversations, each request awaited before the next;
- plain asyncio: what one would write by hand, `asyncio.gather` over conversations behind a semaphore, no retries;
- chatbench: `run_concurrently` with the endpoint participants (pace, retries, time limits, usage), as in `simulate`.

    python benchmarks/simulation_endpoint.py
    python benchmarks/simulation_endpoint.py --conversations 2000 --active 128 --scale 0.2

`--replicas 2` compares a model at two addresses with the same model at one of them, in alternating rounds. Each server
works on `--slots` requests at once and lets the others wait, as a GPU with a full batch does:

    python benchmarks/simulation_endpoint.py --replicas 2 --conversations 400 --active 32 --scale 1 --rounds 2
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import openai

from chatbench.core.records import Question, SimulatedConversation, Turn
from chatbench.endpoints.address import EndpointOptions
from chatbench.endpoints.participant import open_endpoint_participant
from chatbench.protocol.answers import clean_output, read_answer
from chatbench.protocol.dialogue import Dialogue, dialogue
from chatbench.protocol.dialogue_runner import run_concurrently
from chatbench.protocol.prompts import ASSISTANT_SYSTEM, prompt_text, simulator_messages

MEDIAN_SECONDS = 0.3
MAX_TOKENS = 200
SERVER = Path(__file__).with_name("loopback_endpoint.py")
QUESTION = Question("q", "maths", "What is 17 x 23?", ("391", "381", "401", "371"), "A")


@contextmanager
def serving(*options: str) -> Iterator[str]:
    """Address of a server in a process of its own."""
    with subprocess.Popen([sys.executable, str(SERVER), *options], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def chatbench_engine(url: str, conversations: int, active: int, first: int) -> int:
    """Requests that chatbench needed for so many conversations."""
    options = EndpointOptions(concurrency=active)
    simulator, assistant = (
        open_endpoint_participant(
            f"m@{url}", kind=kind, role=role, temperature=1.0, max_tokens=MAX_TOKENS, options=options
        )
        for kind, role in (("completions", "simulator"), ("chat", "assistant"))
    )
    requests = 0

    def dialogues() -> Iterator[Dialogue]:
        for number in range(first, first + conversations):
            yield dialogue(asked(number), str(number), base_seed=0)

    def replied(*_: object) -> None:
        nonlocal requests
        requests += 1

    def finished(chat: SimulatedConversation) -> None:
        assert chat.termination != "failed", chat.reason

    run_concurrently(
        dialogues(), {"simulator": simulator, "assistant": assistant}, active=active, finished=finished, replied=replied
    )
    return requests


async def one_conversation(client: openai.AsyncOpenAI, question: Question) -> int:
    """A conversation as one would write it by hand; the number of its requests."""
    turns: list[Turn] = []
    requests = 0
    for turn in range(11):
        asked = simulator_messages(question.full_text, turns, asked_for=question.asked_for, forced=turn == 10)
        written = await client.completions.create(
            model="m", prompt=prompt_text(asked), temperature=1.0, max_tokens=MAX_TOKENS, stop=["[END]"], seed=0
        )
        said = clean_output(written.choices[0].text)
        requests += 1
        if turns and (turn == 10 or read_answer(said)):
            break
        turns.append(Turn("user", said))
        messages = [{"role": "system", "content": ASSISTANT_SYSTEM}]
        messages += [{"role": one.role, "content": one.text} for one in turns]
        reply = await client.chat.completions.create(
            model="m", messages=messages, temperature=0.7, max_tokens=MAX_TOKENS, seed=0
        )
        turns.append(Turn("assistant", reply.choices[0].message.content))
        requests += 1
    return requests


def plain_asyncio(url: str, conversations: int, active: int, first: int) -> int:
    """Requests that the loop written by hand needed; one at a time where `active` is 1."""

    async def hold_all() -> int:
        client = openai.AsyncOpenAI(api_key="none", base_url=url, max_retries=0)
        places = asyncio.Semaphore(active)

        async def hold(number: int) -> int:
            async with places:
                return await one_conversation(client, asked(number))

        async with client:
            return sum(await asyncio.gather(*map(hold, range(first, first + conversations))))

    return asyncio.run(hold_all())


def asked(number: int) -> Question:
    """A question of its own for each conversation, so that the conversations differ in length."""
    return Question(f"q{number}", QUESTION.subset, f"{QUESTION.text} ({number})", QUESTION.options, "A")


def rate(hold: Callable[[], int], conversations: int) -> tuple[float, float]:
    """Conversations and requests per second."""
    began = time.perf_counter()
    requests = hold()
    seconds = time.perf_counter() - began
    return conversations / seconds, requests / seconds


def main(arguments: list[str]) -> dict[str, float]:
    """Prints the table, and gives conversations per second by way."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--conversations", type=int, default=600)
    parser.add_argument("--alone", type=int, default=20, help="conversations held one at a time, which is slow")
    parser.add_argument("--active", type=int, default=64)
    parser.add_argument("--scale", type=float, default=0.5, help="latency is the realistic one times this")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--replicas", type=int, default=1, help="addresses of the model, compared with one of them")
    parser.add_argument("--slots", type=int, default=4, help="of each address, with --replicas")
    options = parser.parse_args(arguments)
    os.environ["NO_PROXY"] = "127.0.0.1"
    if options.replicas > 1:
        return compare_addresses(options)
    rates: dict[str, list[tuple[float, float]]] = {"one at a time": [], "plain asyncio": [], "chatbench": []}
    latency_ms = MEDIAN_SECONDS * 1000 * options.scale
    with serving("--latency-ms", str(latency_ms)) as url:
        for turn in range(options.rounds):
            many, first = options.conversations, turn * options.conversations
            ways: dict[str, tuple[Callable[[], int], int]] = {
                "one at a time": (lambda first=first: plain_asyncio(url, options.alone, 1, first), options.alone),  # type: ignore[misc]
                "plain asyncio": (lambda many=many, first=first: plain_asyncio(url, many, options.active, first), many),  # type: ignore[misc]
                "chatbench": (lambda many=many, first=first: chatbench_engine(url, many, options.active, first), many),  # type: ignore[misc]
            }
            for name, (hold, count) in ways.items():
                rates[name].append(rate(hold, count))
    return table(rates, options, latency_ms)


def compare_addresses(options: argparse.Namespace) -> dict[str, float]:
    """Prints what several addresses give over one, and gives conversations per second by number of addresses."""
    latency_ms = MEDIAN_SECONDS * 1000 * options.scale
    found: dict[int, list[float]] = {1: [], options.replicas: []}
    with ExitStack() as stack:
        server = ("--latency-ms", str(latency_ms), "--slots", str(options.slots))
        urls = [stack.enter_context(serving(*server)) for _ in range(options.replicas)]
        for turn in range(options.rounds):
            for number, rates in found.items():
                served, many = ",".join(urls[:number]), options.conversations
                rates.append(rate(lambda: chatbench_engine(served, many, options.active, turn * many), many)[0])  # noqa: B023 - called here
    medians = {number: statistics.median(rates) for number, rates in found.items()}
    print(
        f"latency log-normal, median {latency_ms:g} ms, {options.slots} slots each; {options.active} conversations at "
        f"once, {options.conversations} a round, {options.rounds} rounds; load average {os.getloadavg()[0]:.1f}"
    )
    print("| addresses | conversations/s | each round | x one |\n|---|---|---|---|")
    for number, rates in found.items():
        each = ", ".join(f"{one:.2f}" for one in rates)
        print(f"| {number} | {medians[number]:.2f} | {each} | {medians[number] / medians[1]:.2f} |")
    return {str(number): median for number, median in medians.items()}


def table(
    rates: dict[str, list[tuple[float, float]]], options: argparse.Namespace, latency_ms: float
) -> dict[str, float]:
    """Prints medians over the rounds, and the ratios to the first two ways."""
    medians = {name: statistics.median(each for each, _ in found) for name, found in rates.items()}
    print(
        f"latency log-normal, median {latency_ms:g} ms (x {options.scale:g}); {options.active} conversations at once; "
        f"median of {options.rounds} rounds of {options.conversations} ({options.alone} one at a time)\n"
    )
    print("| way | conversations/s | requests/s | x one at a time | x plain asyncio |\n|---|---|---|---|---|")
    for name, found in rates.items():
        requests = statistics.median(each for _, each in found)
        ratios = [medians[name] / medians[other] for other in ("one at a time", "plain asyncio")]
        print(f"| {name} | {medians[name]:.2f} | {requests:.0f} | {ratios[0]:.1f} | {ratios[1]:.2f} |")
    return medians


if __name__ == "__main__":
    main(sys.argv[1:])
