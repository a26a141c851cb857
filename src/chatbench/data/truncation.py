r"""Drop the oldest turns of the conversation inside a simulator's prompt.

A prompt that does not fit a model's context loses whole exchanges (a message of the person and its reply), the oldest
first; the question and the instructions around the conversation stay. Rows of a file hold only text, so the turns are
parsed back from it, between the separator lines of Task 2 or in the lines of a chat context. A reply that contains a
paragraph beginning with `YOU: ` is ambiguous, and parsed as two exchanges.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from chatbench.core.records import Message
from chatbench.data.examples import ExampleRow
from chatbench.protocol.plain_text import PROMPT_END, prompt_text
from chatbench.protocol.prompts import CONVERSATION_HEAD, FORCED_ANSWER, NEXT_TURN, SEPARATOR

TURNS_PER_EXCHANGE = 2

_HEAD, _, _FOOT = CONVERSATION_HEAD.replace("{separator}", SEPARATOR).partition("{conversation}")
_TASKS = "|".join(map(re.escape, (NEXT_TURN, FORCED_ANSWER))).replace(re.escape("{answer}"), r"[^\n]{1,200}")
_TAIL = re.compile(rf"{re.escape(_FOOT)}(?:{_TASKS})(?:{re.escape(PROMPT_END)})?\Z")
_CONTEXT_END = "\nuser:"


@dataclass(frozen=True, slots=True)
class History:
    """A prompt as `head`, the exchanges joined by `joint`, and `tail`; no exchanges if there is no conversation."""

    head: str
    exchanges: tuple[str, ...]
    joint: str
    tail: str

    def without_oldest(self, count: int) -> str:
        """The prompt without its `count` oldest exchanges."""
        return self.head + self.joint.join(self.exchanges[count:]) + self.tail


def read_history(prompt: str) -> History:
    r"""Parse the exchanges in a Task 2 message, in a plain-text prompt that holds one, or in a chat context.

    >>> read_history("S\nuser: Hi\nassistant: Hello\nuser:").exchanges
    ('\nuser: Hi\nassistant: Hello',)
    >>> read_history("Generate the first prompt you would say").exchanges
    ()
    """
    tail = _TAIL.search(prompt)
    if tail is not None and _HEAD in prompt:
        start, end = prompt.index(_HEAD) + len(_HEAD), tail.start()
        exchanges = _exchanges(prompt[start:end], "YOU: ", "SYSTEM: ", "\n\n")
        return History(prompt[:start], exchanges, "\n\n", tail[0])
    first = prompt.find("\nuser: ")
    if prompt.endswith(_CONTEXT_END) and first >= 0:
        exchanges = _exchanges(prompt[first + 1 : -len(_CONTEXT_END)], "user: ", "assistant: ", "\n")
        return History(prompt[:first], tuple("\n" + each for each in exchanges), "", _CONTEXT_END)
    return History(prompt, (), "", "")


def _exchanges(conversation: str, asks: str, replies: str, joint: str) -> tuple[str, ...]:
    """Split where a new message follows a reply; a marker inside the same participant's message is not a boundary."""
    if not conversation.startswith(asks):
        return (conversation,) if conversation else ()
    found: list[str] = []
    rest = conversation
    while True:
        reply = rest.find(joint + replies)
        following = rest.find(joint + asks, reply) if reply >= 0 else -1
        if following < 0:
            return (*found, rest)
        found.append(rest[:following])
        rest = rest[following + len(joint) :]


def exchanges_in(row: ExampleRow) -> int:
    """Number of exchanges in the conversation of a row's prompt; 0 for a first turn."""
    # Of messages, only the user message: the question in the system message may hold anything.
    return len(read_history(row.prompt if row.messages is None else row.messages[1].content).exchanges)


def without_oldest(row: ExampleRow, count: int) -> ExampleRow:
    """The row without the `count` oldest exchanges in its prompt."""
    if row.messages is None:
        return replace(row, prompt=read_history(row.prompt).without_oldest(count))
    messages = shorter_messages(row.messages, count)
    return replace(row, prompt=prompt_text(messages), messages=messages)


def shorter_messages(messages: Sequence[Message], count: int) -> tuple[Message, ...]:
    """A simulator's messages without the `count` oldest exchanges in the user message."""
    system, user, *rest = messages
    return system, Message(user.role, read_history(user.content).without_oldest(count)), *rest


def exchanges_asked_with(messages: Sequence[Message]) -> int:
    """Number of exchanges that can be dropped from a prompt of an assistant, or of a simulator of any style."""
    if len(messages) == 2:
        return len(read_history(messages[1].content).exchanges)
    if len(messages) == 1:
        return len(_iqa_history(messages[0].content).exchanges)
    return (len(messages) - 1) // TURNS_PER_EXCHANGE


def asked_without_oldest(messages: Sequence[Message], count: int) -> tuple[Message, ...]:
    """The prompt of an assistant, or of a simulator of any style, without the `count` oldest exchanges.

    The number of messages tells where the chat is: a two-step simulator has it in its user message, an IQA-EVAL one in
    its only message, and a UserLM or an assistant as messages.
    """
    if count == 0:
        return tuple(messages)
    if len(messages) == 2:
        return shorter_messages(messages, count)
    if len(messages) == 1:
        return (Message(messages[0].role, _iqa_history(messages[0].content).without_oldest(count)),)
    return messages[0], *messages[1 + TURNS_PER_EXCHANGE * count :]


def _iqa_history(prompt: str) -> History:
    head, joint, conversation = prompt.partition("\n\nYOU: ")
    if not joint:
        return History(prompt, (), "", "")
    return History(f"{head}\n\n", _exchanges(f"YOU: {conversation}", "YOU: ", "ASSISTANT: ", "\n\n"), "\n\n", "")
