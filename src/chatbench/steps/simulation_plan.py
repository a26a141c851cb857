"""Which conversations a simulation holds, and how each is begun: the same for every run of the same settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chatbench.core.records import Question
from chatbench.protocol.dialogue import MAX_USER_TURNS, Dialogue, dialogue
from chatbench.protocol.guards import Guard
from chatbench.protocol.styles import TWO_STEP, Style

BLOCK_SIZE = 512
"""Conversations that are held together where both speakers are reproducible."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One conversation to hold."""

    id: str
    question: Question
    assistant: str
    index: int


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """What the dialogue loop is told, the same for all conversations of a log; see `dialogue`."""

    seed: int = 0
    max_user_turns: int = MAX_USER_TURNS
    style: Style = TWO_STEP
    end_on: frozenset[Guard] = frozenset()

    def begin(self, planned: Planned) -> Dialogue:
        """The dialogue of a planned conversation, before its first request."""
        return dialogue(
            planned.question,
            planned.id,
            base_seed=self.seed,
            max_user_turns=self.max_user_turns,
            style=self.style,
            end_on=self.end_on,
        )


def plan(questions: Sequence[Question], assistant: str, conversations: int) -> list[Planned]:
    """All conversations with one assistant, by question, then by repetition."""
    return [
        Planned(f"{question.id}|{assistant}|{index}", question, assistant, index)
        for question in questions
        for index in range(conversations)
    ]


def is_reproducible(*identities: Mapping[str, object]) -> bool:
    """Whether all of these speakers say the same to the same request every time; an endpoint may not."""
    return all(bool(identity.get("reproducible", True)) for identity in identities)


def blocks(planned: Sequence[Planned], size: int = BLOCK_SIZE) -> list[Sequence[Planned]]:
    """The plan in pieces of a fixed size: what is held together must not depend on what is there already."""
    return [planned[start : start + size] for start in range(0, len(planned), size)]
