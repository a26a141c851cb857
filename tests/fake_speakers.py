"""Speakers of a few lines and a small plan, for tests of the simulation step (no model, so quick to import)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from rich.console import Console

from chatbench.core.files import AppendOnlyLog
from chatbench.core.records import Question
from chatbench.protocol.dialogue import Failure, Reply, Request, Speaker
from chatbench.steps.simulate import LoopSettings, hold_plans, plan

QUESTIONS = [Question(f"q{n}", "maths", f"What is {n}+1?", ("1", "2", "3", "4"), "A") for n in range(7)]
LOOP = LoopSettings(seed=0, max_user_turns=3, variant="two-step")
QUIET = Console(file=StringIO())


class WordsBySeed:
    """Says words drawn by the request's seed, and the number of rows it was asked together with."""

    def __init__(self) -> None:
        self.identity: dict[str, object] = {"kind": "fake", "name": "words"}
        self.asked = 0

    def reply_all(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        self.asked += len(requests)
        return [self._reply(request, len(requests)) for request in requests]

    def _reply(self, request: Request, together: int) -> Reply:
        draw = random.Random(request.seed)
        if len(request.messages[1].content) > 200 and draw.random() < 0.6:
            return Reply(f"Answer: {draw.choice('ABCDE')}")
        return Reply(f"word {draw.randrange(10**6)} of {together}")


def held(
    path: Path,
    *,
    assistant: Speaker | None = None,
    simulator: WordsBySeed | None = None,
    block_size: int | None = 8,
    repetitions: int = 3,
) -> int:
    plans = {"bot": plan(QUESTIONS, "bot", repetitions), "other": plan(QUESTIONS, "other", repetitions)}
    speakers = {"bot": assistant or WordsBySeed(), "other": WordsBySeed()}
    return hold_plans(AppendOnlyLog(path), plans, simulator or WordsBySeed(), speakers, LOOP, block_size, QUIET)
