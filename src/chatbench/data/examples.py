r"""From a human conversation to training examples, and those as lines of `train.jsonl` and `test.jsonl`.

k user turns give k+1 examples:

    1 x Task 1                                             -> the first message
    (k-1) x Task 2 with the conversation up to each reply  -> the next message
    1 x Task 2 with the whole conversation                 -> "Answer: {letter}", what the person chose, right or wrong

A person's messages lose their surrounding white space, as target and as history alike, because the simulation strips
what a simulator writes in the same way; the assistant's messages stay as they were. A line has one of three shapes:

    messages            {"messages": [system, user, assistant], ids}         chat fine-tuning (Azure, OpenAI, templates)
    prompt-completion   {"prompt": "[SYSTEM] ... [USER] ", "completion": "... [END]", ids}    base models, plain text
    context             {"prompt": "<full chat context>\nuser:", "completion": "<next user utterance>", ids}

where ids are `question_id`, `conversation_id` and `kind`. The chat context is the system message, then one line
`user: ...` or `assistant: ...` per turn. Whatever the shape, `read_examples` gives the plain text that a model is
trained and scored on; a context's completion gains the end marker there, so that a model learns where it ends.

Source: Chang, Anderson, Hofman, ACL 2025, section on fine-tuning (see docs/protocol.md, sections 3 and 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import Row, read_jsonl
from chatbench.core.records import Conversation, Example, ExampleKind, Message, MessageRole, Question, Turn
from chatbench.protocol.plain_text import completion_text, prompt_text
from chatbench.protocol.prompts import ANSWER_PREFIX, simulator_messages

RowFormat = Literal["messages", "prompt-completion", "context"]
ROW_FORMATS: tuple[RowFormat, ...] = get_args(RowFormat)
PREPARE_FIX = "make the file with: chatbench prepare-splits --study STUDY"
_KINDS: tuple[ExampleKind, ...] = get_args(ExampleKind)
_EXPECTED = "messages (system, user, assistant), or prompt and completion"


def examples_of(conversation: Conversation, question: Question) -> list[Example]:
    """The k+1 examples of a conversation in the order of its turns; k where no final letter was recorded.

    Raises:
        ValueError: the conversation is about another question.
    """
    if conversation.question_id != question.id:
        raise ValueError(f"conversation {conversation.id!r} is about {conversation.question_id!r}, not {question.id!r}")
    turns = seen_turns(conversation)
    examples = [
        _example(conversation, question, turns[:start], "first" if start == 0 else "follow_up", turns[start].text)
        for start in range(0, len(turns), 2)
    ]
    if conversation.answer is not None:
        examples.append(_example(conversation, question, turns, "answer", ANSWER_PREFIX + conversation.answer))
    return examples


def seen_turns(conversation: Conversation) -> tuple[Turn, ...]:
    """The turns as a simulator sees them: the person's without surrounding white space."""
    return tuple(Turn("user", t.text.strip()) if t.role == "user" else t for t in conversation.turns)


def _example(
    conversation: Conversation, question: Question, history: Sequence[Turn], kind: ExampleKind, target: str
) -> Example:
    system, user = simulator_messages(question.full_text, history)
    return Example(question.id, conversation.id, kind, system.content, user.content, target)


@dataclass(frozen=True, slots=True)
class ExampleRow:
    """One example as a model meets it: `prompt` is masked, only `completion` carries loss.

    `messages` is None for the shapes that hold plain text only.
    """

    prompt: str
    completion: str
    messages: tuple[Message, ...] | None
    question_id: str
    conversation_id: str
    kind: ExampleKind


def example_rows(conversation: Conversation, question: Question, row_format: RowFormat = "messages") -> list[Row]:
    """The lines of one conversation, in the order of its turns."""
    turns, rows = seen_turns(conversation), []
    for index, example in enumerate(examples_of(conversation, question)):
        row: Row = {"messages": [message.as_dict() for message in example.messages]}
        if row_format == "prompt-completion":
            row = {"prompt": prompt_text(example.messages), "completion": completion_text(example.target)}
        elif row_format == "context":
            row = {"prompt": context_prompt(example.system, turns[: 2 * index]), "completion": example.target}
        ids = {"question_id": example.question_id, "conversation_id": example.conversation_id, "kind": example.kind}
        rows.append(row | ids)
    return rows


def context_prompt(system: str, history: Sequence[Turn]) -> str:
    r"""The full chat context, ending where the user speaks next.

    >>> context_prompt("S", [Turn("user", "Hi"), Turn("assistant", "Hello")])
    'S\nuser: Hi\nassistant: Hello\nuser:'
    """
    return "\n".join([system, *(f"{turn.role}: {turn.text}" for turn in history), "user:"])


def read_examples(path: Path) -> list[ExampleRow]:
    """All examples of a file, whatever its shape.

    Raises:
        ChatbenchError: the file is missing or damaged, or a line is no example.
    """
    return [_read_row(f"{path}, line {number}", row) for number, row in read_jsonl(path, fix=PREPARE_FIX)]


def _read_row(where: str, row: Row) -> ExampleRow:
    kind, question_id, conversation_id = (_text(where, row, key) for key in ("kind", "question_id", "conversation_id"))
    if kind not in _KINDS:
        raise ChatbenchError(f"{where}, key 'kind': {kind!r}", expected=f"one of {', '.join(_KINDS)}", fix=PREPARE_FIX)
    messages = None
    if "messages" in row:
        roles: tuple[MessageRole, ...] = ("system", "user", "assistant")
        items = row["messages"] if isinstance(row["messages"], list) else []
        found = [item.get("role") if isinstance(item, dict) else None for item in items]
        if found != list(roles) or not all(isinstance(item.get("content"), str) for item in items):
            expected = "system, user, assistant, each with a content"
            raise ChatbenchError(f"{where}, key 'messages': roles {found}", expected=expected, fix=PREPARE_FIX)
        messages = tuple(Message(role, item["content"]) for role, item in zip(roles, items, strict=True))
        prompt, completion = prompt_text(messages), completion_text(messages[2].content)
    else:
        prompt, completion = _text(where, row, "prompt"), _text(where, row, "completion")
        if not prompt.startswith("[SYSTEM] "):
            completion = completion_text(completion)
    return ExampleRow(prompt, completion, messages, question_id, conversation_id, kind)


def _text(where: str, row: Row, key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value:
        found = "missing" if key not in row else repr(value)[:60]
        expected = f"text; an example has {_EXPECTED}"
        raise ChatbenchError(f"{where}, key {key!r}: {found}", expected=expected, fix=PREPARE_FIX)
    return value
