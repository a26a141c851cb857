"""Chats for the tests of realism, made from a few words."""

from __future__ import annotations

from collections.abc import Sequence

from chatbench.core.records import Question
from chatbench.realism.chats import ChatTraits, SpokenChat, traits_of

TRAINS = Question(
    "trains",
    "physics",
    "A train travels 120 miles in 3 hours. How many miles does it travel in 5 hours?",
    ("180", "200", "220", "600"),
    "B",
)
CELLS = Question(
    "cells",
    "biology",
    "Which part of a living cell turns sugar into energy?",
    ("the nucleus", "the mitochondrion", "the cell wall", "the ribosome"),
    "B",
)


def chat(
    said: Sequence[str],
    *,
    replies: Sequence[str] = (),
    question: Question = TRAINS,
    person: str = "w1",
    assistant: str = "gpt-4o",
    answer: str | None = "B",
) -> ChatTraits:
    """The traits of a chat; a missing reply is `I see.`."""
    heard = [*replies, *["I see."] * (len(said) - len(replies))]
    return traits_of(SpokenChat(question, assistant, person, tuple(said), tuple(heard), answer))
