r"""Training examples made from human conversations, their lines in files, and how they are cut to a model's context.

k user turns give k+1 examples:

    1 x Task 1                                             -> the first message
    (k-1) x Task 2 with the conversation up to each reply  -> the next message
    1 x Task 2 with the whole conversation                 -> "Answer: {letter}", the person's choice, right or wrong

A person's messages are stripped of surrounding white space, both as target and as history, because the simulation
strips a simulator's output in the same way; the assistant's messages are unchanged. A line of `train.jsonl` or
`test.jsonl` has one of three formats:

    messages            {"messages": [system, user, assistant], ids}         chat fine-tuning (Azure, OpenAI, templates)
    prompt-completion   {"prompt": "[SYSTEM] ... [USER] ", "completion": "... [END]", ids}    base models, plain text
    context             {"prompt": "<full chat context>\nuser:", "completion": "<next user utterance>", ids}

where ids are `question_id`, `conversation_id` and `kind`. The chat context is the system message, then one line
`user: ...` or `assistant: ...` per turn. For every format, `read_examples` returns the plain text that a model is
trained and scored on; it adds the end marker to a context's completion, so that a model learns where it ends.

A prompt that does not fit a model's context loses whole exchanges (a message of the person and its reply), the oldest
first; the question and the instructions around the conversation stay. Rows of a file hold only text, so the turns are
parsed back from it, between the separator lines of Task 2 or in the lines of a chat context. A reply that contains a
paragraph beginning with `YOU: ` is ambiguous, and parsed as two exchanges.

Source: Chang, Anderson, Hofman, ACL 2025, section on fine-tuning (see docs/protocol.md, sections 3 and 4).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import Row, read_jsonl
from chatbench.core.records import Conversation, Example, ExampleKind, Message, MessageRole, Question, Turn, joined_id
from chatbench.protocol.prompts import (
    ANSWER_PREFIX,
    CONVERSATION_HEAD,
    FIRST_TURN,
    FORCED_ANSWER,
    NEXT_TURN,
    PROMPT_END,
    SEPARATOR,
    SYSTEM,
    completion_text,
    prompt_text,
    simulator_messages,
)

RowFormat = Literal["messages", "prompt-completion", "context"]
ROW_FORMATS: tuple[RowFormat, ...] = get_args(RowFormat)
PREPARE_FIX = "make the file with: chatbench prepare-splits --study STUDY"
KINDS: tuple[ExampleKind, ...] = get_args(ExampleKind)
TURNS_PER_EXCHANGE = 2
_QUESTION_HEAD = SYSTEM.partition("{question}")[0][-len("following question:\n\n") :]
_HISTORY_MARKS = (CONVERSATION_HEAD.partition("\n")[0], "\nassistant: ")
"""Strings that occur only in prompts with a conversation."""
_CONTEXT_END = "\nuser:"
_QUESTION_ENDS = (f"\n\n{FIRST_TURN[:30]}", f"\n\n{_HISTORY_MARKS[0]}", _CONTEXT_END, PROMPT_END)
_EXPECTED = "messages (system, user, assistant), or prompt and completion"
_HEAD, _, _FOOT = CONVERSATION_HEAD.replace("{separator}", SEPARATOR).partition("{conversation}")
_TASKS = "|".join(map(re.escape, (NEXT_TURN, FORCED_ANSWER))).replace(re.escape("{answer}"), r"[^\n]{1,200}")
_TAIL = re.compile(rf"{re.escape(_FOOT)}(?:{_TASKS})(?:{re.escape(PROMPT_END)})?\Z")


def examples_of(conversation: Conversation, question: Question) -> list[Example]:
    """The k+1 examples of a conversation in the order of its turns; k if no final answer was recorded.

    Raises:
        ValueError: the conversation is about another question.
    """
    if conversation.question_id != question.id:
        raise ValueError(f"conversation {conversation.id!r} is about {conversation.question_id!r}, not {question.id!r}")
    turns = seen_turns(conversation)
    targets = [turn.text for turn in turns[::2]]
    if conversation.answer is not None:
        targets.append(ANSWER_PREFIX + conversation.answer)
    examples = []
    for number, target in enumerate(targets):
        start = TURNS_PER_EXCHANGE * number
        kind: ExampleKind = "first" if start == 0 else "answer" if start == len(turns) else "follow_up"
        system, user = simulator_messages(question.full_text, turns[:start], asked_for=question.asked_for)
        examples.append(Example(question.id, conversation.id, kind, system.content, user.content, target))
    return examples


def seen_turns(conversation: Conversation) -> tuple[Turn, ...]:
    """The turns as a simulator sees them: the person's are stripped of surrounding white space."""
    return tuple(Turn("user", t.text.strip()) if t.role == "user" else t for t in conversation.turns)


@dataclass(frozen=True, slots=True)
class ExampleRow:
    """One example as a model sees it: `prompt` is masked, only `completion` carries loss.

    `messages` is None for the plain-text formats.
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
    """Read all examples of a file in any format, including files that a user made without ids.

    Raises:
        ChatbenchError: the file is missing or damaged, or a line is not an example.
    """
    return [example for example, _ in numbered_examples(path)]


def numbered_examples(path: Path) -> Iterator[tuple[ExampleRow, Row]]:
    """Yield each example with the line that it was read from.

    A line without ids gets them from its text: the question id is a hash of the question in its system message, the
    kind follows from prompt and completion, and each first turn begins a conversation.

    Raises:
        ChatbenchError: as `read_examples`.
    """
    chats: Counter[str] = Counter()
    for number, row in read_jsonl(path, fix=PREPARE_FIX):
        where = f"{path}, line {number}"
        if not {"kind", "question_id", "conversation_id"} & row.keys():
            example = _read_row(where, {**row, "kind": "first", "question_id": "?", "conversation_id": "?"})
            if not (question := question_in(example).strip()):
                found, head = f"{where}: no question in the prompt", _QUESTION_HEAD.strip()[-40:]
                expected = f"a prompt with the question after {head!r}, or the keys in docs/files.md"
                raise ChatbenchError(found, expected=expected, fix="add question_id to each line")
            asked = example.messages[1].content if example.messages else example.prompt
            kind: ExampleKind = "follow_up" if any(mark in asked for mark in _HISTORY_MARKS) else "first"
            if example.completion.startswith(ANSWER_PREFIX):
                kind = "answer"
            question_id = f"question-{hashlib.sha256(question.encode()).hexdigest()[:16]}"
            chats[question_id] += kind == "first"
            ids = {"question_id": question_id, "conversation_id": joined_id(question_id, chats[question_id])}
            row = {**row, **ids, "kind": kind}  # the same line, with ids
        yield _read_row(where, row), row


def question_in(row: ExampleRow) -> str:
    """The question with its options, taken from an example's prompt; "" if there is none."""
    text = row.messages[0].content if row.messages else row.prompt
    before, head, rest = text.partition(_QUESTION_HEAD)
    if row.messages:
        return rest if head else before
    text = rest if head else before
    ends = [text.find(end) for end in _QUESTION_ENDS if end in text]
    return text[: min(ends)] if ends and not text.startswith("user:") else ""


def _read_row(where: str, row: Row) -> ExampleRow:
    kind, question_id, conversation_id = (_text(where, row, key) for key in ("kind", "question_id", "conversation_id"))
    if kind not in KINDS:
        raise ChatbenchError(f"{where}, key 'kind': {kind!r}", expected=f"one of {', '.join(KINDS)}", fix=PREPARE_FIX)
    messages = None
    if "messages" in row:
        roles: tuple[MessageRole, ...] = ("system", "user", "assistant")
        items = row["messages"] if isinstance(row["messages"], list) else []
        found = [item.get("role") if isinstance(item, dict) else None for item in items]
        if found != list(roles) or not all(isinstance(item.get("content"), str) for item in items):
            expected = "a system, a user and an assistant message, each with content"
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
    messages = (*asked_without_oldest(row.messages[:2], count), *row.messages[2:])
    return replace(row, prompt=prompt_text(messages), messages=messages)


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
    if len(messages) <= 2:
        *system, asked = messages
        history = read_history(asked.content) if system else _iqa_history(asked.content)
        return *system, Message(asked.role, history.without_oldest(count))
    return messages[0], *messages[1 + TURNS_PER_EXCHANGE * count :]


def _iqa_history(prompt: str) -> History:
    head, joint, conversation = prompt.partition("\n\nYOU: ")
    if not joint:
        return History(prompt, (), "", "")
    return History(f"{head}\n\n", _exchanges(f"YOU: {conversation}", "YOU: ", "ASSISTANT: ", "\n\n"), "\n\n", "")
