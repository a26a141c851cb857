"""Real and simulated chats in one form, so that every measure is computed in the same way on both.

Compared are the chats of the *cells* (question, assistant) on which both sides have some: what people say depends on
the question and, from the second message on, on the assistant. Lost chats (an endpoint that broke down) are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from chatbench.core.records import Conversation, Question, SimulatedConversation
from chatbench.measures.accuracies import Cell, is_lost


class OfCell(Protocol):
    """A chat, or what was measured on one."""

    @property
    def cell(self) -> Cell:
        """Question id and assistant."""
        ...


Chat = TypeVar("Chat", bound=OfCell)


@dataclass(frozen=True, slots=True)
class SpokenChat:
    """A chat about `question`: the user's messages without surrounding white space, the replies, the chosen letter.

    `person` tells the people of a study apart; each simulated chat is a person of its own. `said` is empty where a
    simulator had nothing to say.
    """

    question: Question
    assistant: str
    person: str
    said: tuple[str, ...]
    replies: tuple[str, ...]
    answer: str | None

    @property
    def cell(self) -> Cell:
        return self.question.id, self.assistant


def real_chats(conversations: Iterable[Conversation], questions: Mapping[str, Question]) -> list[SpokenChat]:
    """People's chats; where a study has no worker ids, each chat counts as a person of its own."""
    return [
        SpokenChat(
            questions[chat.question_id],
            chat.assistant,
            chat.worker_id or chat.id,
            tuple(turn.text.strip() for turn in chat.turns if turn.role == "user"),
            tuple(turn.text for turn in chat.turns if turn.role == "assistant"),
            chat.answer,
        )
        for chat in conversations
    ]


def simulated_chats(chats: Iterable[SimulatedConversation], questions: Mapping[str, Question]) -> list[SpokenChat]:
    """Simulated chats that are not lost."""
    return [
        SpokenChat(
            questions[chat.question_id],
            chat.assistant,
            chat.id,
            tuple(turn.text.strip() for turn in chat.turns if turn.role == "user"),
            tuple(turn.text for turn in chat.turns if turn.role == "assistant"),
            chat.letter,
        )
        for chat in chats
        if not is_lost(chat)
    ]


def on_common_cells(real: Iterable[Chat], simulated: Iterable[Chat]) -> tuple[list[Chat], list[Chat]]:
    """Both sides, reduced to the cells that both have."""
    people, simulators = list(real), list(simulated)
    common = {chat.cell for chat in people} & {chat.cell for chat in simulators}
    return [chat for chat in people if chat.cell in common], [chat for chat in simulators if chat.cell in common]
