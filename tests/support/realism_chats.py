"""Chats for the tests of realism, made from a few words."""

from __future__ import annotations

from collections.abc import Sequence

from chatbench.core.records import Question
from chatbench.realism.chats import ChatTraits, UserChat, traits_of

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
    messages: Sequence[str],
    *,
    replies: Sequence[str] = (),
    question: Question = TRAINS,
    person: str = "w1",
    assistant: str = "gpt-4o",
    answer: str | None = "B",
) -> ChatTraits:
    """The traits of a chat; a missing reply is `I see.`."""
    all_replies = [*replies, *["I see."] * (len(messages) - len(replies))]
    return traits_of(UserChat(question, assistant, person, tuple(messages), tuple(all_replies), answer))
