"""How chats go: how many user turns, how they end, how often the answer is no letter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from chatbench.core.records import Conversation, SimulatedConversation
from chatbench.measures.accuracies import is_lost
from chatbench.measures.agreement import Undefined
from chatbench.measures.figures import EVERY_ASSISTANT, PEOPLE, TERMINATIONS, Figure, share

Chat = TypeVar("Chat")


def people_figures(conversations: Sequence[Conversation]) -> Iterator[Figure]:
    """Number of real chats and mean number of user turns, per assistant and together."""
    for name, group in _by_assistant(conversations, lambda chat: chat.assistant):
        turns = [chat.user_turns for chat in group]
        yield Figure(name, PEOPLE, "conversations", float(len(group)))
        yield Figure(name, PEOPLE, "user_turns", sum(turns) / len(turns))


def chat_figures(chats: Sequence[SimulatedConversation], source: str) -> Iterator[Figure]:
    """Number of chats, share of each ending, mean user turns (of chats that did not fail), share of invalid answers."""
    for name, group in _by_assistant(chats, lambda chat: chat.assistant):
        endings: Counter[str] = Counter(chat.termination for chat in group)
        yield Figure(name, source, "conversations", float(len(group)))
        for ending in TERMINATIONS:
            yield Figure(name, source, f"{ending}_share", endings[ending] / len(group))
        turns = [sum(turn.role == "user" for turn in chat.turns) for chat in group if chat.termination != "failed"]
        yield Figure(name, source, "user_turns", sum(turns) / len(turns) if turns else Undefined("every chat failed"))
        kept = [chat for chat in group if not is_lost(chat)]
        invalid = sum(chat.letter is None for chat in kept)
        yield Figure(name, source, "invalid_share", share(invalid, len(kept), "every chat failed"))


def _by_assistant(chats: Sequence[Chat], assistant_of: Callable[[Chat], str]) -> Iterator[tuple[str, Sequence[Chat]]]:
    groups: dict[str, list[Chat]] = {}
    for chat in chats:
        groups.setdefault(assistant_of(chat), []).append(chat)
    yield from sorted(groups.items())
    if chats:
        yield EVERY_ASSISTANT, chats
