"""Participants of a few lines and a small plan, for tests of the simulation step (no model, so quick to import)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path

from rich.console import Console

from chatbench.core.records import Question
from chatbench.protocol.dialogue import AnyParticipant, Failure, Reply, Request
from chatbench.simulation.budget import Prices, Spending
from chatbench.simulation.log import count_earlier, open_log
from chatbench.simulation.run import ConversationProgress, LoopSettings, Run, plan

QUESTIONS = [Question(f"q{n}", "maths", f"What is {n}+1?", ("1", "2", "3", "4"), "A") for n in range(7)]
LOOP = LoopSettings(seed=0, max_user_turns=3)
ACTIVE = 4
QUIET = Console(file=StringIO())


def words_by_seed(request: Request, together: str) -> Reply:
    draw = random.Random(request.seed)
    if len(request.messages[1].content) > 200 and draw.random() < 0.6:
        return Reply(f"Answer: {draw.choice('ABCDE')}")
    return Reply(f"word {draw.randrange(10**6)} of {together}")


class WordsBySeed:
    """Says words drawn by the request's seed, and the number of rows it was asked together with."""

    def __init__(self) -> None:
        self.identity: dict[str, object] = {"kind": "fake", "name": "words"}
        self.asked = 0

    def reply_all(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        self.asked += len(requests)
        return [words_by_seed(request, str(len(requests))) for request in requests]


def simulated(
    path: Path,
    *,
    assistant: AnyParticipant | None = None,
    simulator: AnyParticipant | None = None,
    block_size: int = 8,
    repetitions: int = 3,
    spending: Spending | None = None,
    progress: ConversationProgress | None = None,
) -> int:
    """Simulates what is missing of the conversations about seven questions with two assistants; how many those were."""
    plans = {name: plan(QUESTIONS, name, repetitions) for name in ("bot", "other")}
    # A participant that says how many it was asked with is reproducible in fixed blocks only.
    bot, other = (
        AloneBySeed(metered=False) if isinstance(simulator, AloneBySeed) else WordsBySeed() for _ in ("bot", "other")
    )
    participants: dict[str, AnyParticipant] = {"bot": assistant or bot, "other": other}
    agreed = {"settings": {"seed": 0}, "assistants": {name: one.identity for name, one in participants.items()}}
    paid = spending or Spending(Prices())
    with open_log(path, agreed) as log, progress or ConversationProgress(QUIET, 42) as view:
        count_earlier(paid, path, participants)
        run = Run(log, simulator or WordsBySeed(), participants, LOOP, view, paid, block_size, ACTIVE)
        return run.simulate(plans)


class AloneBySeed:
    """Asked by each conversation for itself, as an endpoint is; its words depend on the seed alone."""

    def __init__(self, tokens: int = 0, wait: Callable[[int], None] = lambda _: None, *, metered: bool = True) -> None:
        self.identity: dict[str, object] = {"kind": "fake", "name": "alone", "reproducible": not metered}
        self.asked: list[Request] = []
        self._tokens = tokens
        self._wait = wait

    async def reply(self, request: Request) -> Reply | Failure:
        self.asked.append(request)
        self._wait(len(self.asked))
        await asyncio.sleep(0)  # others go on meanwhile
        said = words_by_seed(request, "alone")
        return replace(said, tokens=self._tokens, prompt_tokens=2 * self._tokens)

    async def close(self) -> None:
        pass
