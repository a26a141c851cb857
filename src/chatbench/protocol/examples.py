"""From a human conversation to training examples: k user turns give k+1 of them.

    1 x Task 1                                             -> the first message
    (k-1) x Task 2 with the conversation up to each reply  -> the next message
    1 x Task 2 with the whole conversation                 -> "Answer: {letter}", what the person chose, right or wrong

A person's messages lose their surrounding white space, as target and as history alike, because the simulation strips
what a simulator writes in the same way; the assistant's messages stay as they were.

Source: Chang, Anderson, Hofman, ACL 2025, section on fine-tuning (see docs/protocol.md, sections 3 and 4).
"""

from __future__ import annotations

from collections.abc import Sequence

from chatbench.core.records import Conversation, Example, ExampleKind, Question, Turn
from chatbench.protocol.prompts import ANSWER_PREFIX, simulator_messages


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
