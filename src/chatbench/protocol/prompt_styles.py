"""Simulator styles: how each kind of simulator is prompted, and how its output is parsed.

A style is a small class with one method for each. `messages` builds the prompt after some turns of the chat (`question`
and `asked_for` are the question's `full_text` and `asked_for`); `read` parses the output: a message to the assistant
(`Said`), perhaps the last one, or the answer that ends the chat (`FinalAnswer`). `opening` is a style's first message,
if that is fixed. The loop in `dialogue.py` and every participant handle all styles the same way.

    two-step            the paper's: Task 1 for the first turn, Task 2 after that; ends when an output begins with
                        `Answer: `, which has no meaning in the first turn
    two-step-problem    the same, asked to include the problem statement in the first prompt
    two-step-help       the same, with the paper's fixed first message
    iqa-eval            one system message with the question and the chat so far; ends when `So, the answer is: `
                        occurs, even in the first turn (Li et al. 2024)
    userlm              UserLM-8b (arXiv 2510.06552) and similar models, which write the user's side of a chat: the
                        intent as system message, the roles as in the chat; an end-of-conversation token ends it

A UserLM only continues a chat and ends it; it does not pick an answer. After it has ended its chat or used up its
turns, it is prompted once more with the protocol's wording for a forced answer, placed after the intent: the only place
where such a model takes instructions. So its conversations end as `forced` or `no_answer`, never as `answered`. The
intent is this project's wording, modelled on the model card: no intents for these questions were published.

Source: Chang, Anderson, Hofman, ACL 2025 (arXiv 2504.07114); Naous et al. 2025 (arXiv 2510.06552) and the card of
microsoft/UserLM-8b.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from chatbench.core.records import Message, Turn
from chatbench.protocol.answers import FinalAnswer, Said, clean_output, read_answer, read_iqa_answer
from chatbench.protocol.prompts import (
    FIRST_TURN_HELP,
    FORCED_ANSWER,
    FOUR_OPTIONS,
    IQA_EVAL,
    IQA_EVAL_FORCED,
    USERLM_END,
    USERLM_INTENT,
    PromptVariant,
    conversation_text,
    filled,
    simulator_messages,
)

StyleName = Literal["two-step", "two-step-problem", "two-step-help", "iqa-eval", "userlm"]


@dataclass(frozen=True, slots=True)
class TwoStep:
    """The paper's simulator; its three variants differ only in the first turn."""

    name: PromptVariant = "two-step"

    @property
    def opening(self) -> str | None:
        return FIRST_TURN_HELP if self.name == "two-step-help" else None

    def messages(
        self, question: str, turns: Sequence[Turn], *, asked_for: str, forced: bool = False
    ) -> tuple[Message, ...]:
        return simulator_messages(question, turns, forced=forced, variant=self.name, asked_for=asked_for)

    def read(self, output: str, turns: Sequence[Turn], *, forced: bool = False) -> Said | FinalAnswer:  # noqa: ARG002  (a forced answer is read as a free one)
        message = clean_output(output)
        return (read_answer(message) if turns else None) or Said(message)


@dataclass(frozen=True, slots=True)
class IqaEval:
    """The baseline of Li et al. 2024, which may answer without having asked anything."""

    name: Literal["iqa-eval"] = "iqa-eval"
    opening: None = None

    def messages(
        self, question: str, turns: Sequence[Turn], *, asked_for: str, forced: bool = False
    ) -> tuple[Message, ...]:
        system = filled(IQA_EVAL_FORCED if forced else IQA_EVAL, answer=asked_for, question=question)
        return (Message("system", f"{system}\n\n{conversation_text(turns, 'ASSISTANT')}" if turns else system),)

    def read(self, output: str, turns: Sequence[Turn], *, forced: bool = False) -> Said | FinalAnswer:  # noqa: ARG002  (all turns are read alike)
        return read_iqa_answer(output) or Said(clean_output(output))


@dataclass(frozen=True, slots=True)
class UserLm:
    """A model of the user's side of a chat.

    Text before the end-of-conversation token is sent as the last message: it was meant for the assistant. An empty
    output ends the chat too, because a server that strips special tokens sends nothing in their place.
    """

    name: Literal["userlm"] = "userlm"
    opening: None = None

    def messages(
        self, question: str, turns: Sequence[Turn], *, asked_for: str, forced: bool = False
    ) -> tuple[Message, ...]:
        template = f"{USERLM_INTENT}\n\n{FORCED_ANSWER}" if forced else USERLM_INTENT
        system = filled(template, question=question, answer=asked_for)
        return (Message("system", system), *(Message(turn.role, turn.text) for turn in turns))

    def read(self, output: str, turns: Sequence[Turn], *, forced: bool = False) -> Said | FinalAnswer:  # noqa: ARG002  (all turns are read alike)
        text, end, _ = output.partition(USERLM_END)
        message = clean_output(text)
        return (read_answer(message) if forced else None) or Said(message, last=bool(end) or not message)


Style = TwoStep | IqaEval | UserLm
TWO_STEP = TwoStep()
STYLES: dict[StyleName, Style] = {
    style.name: style
    for style in (TWO_STEP, TwoStep("two-step-problem"), TwoStep("two-step-help"), IqaEval(), UserLm())
}


def prompts_sha256(style: Style) -> str:
    """SHA-256 of a style's prompts, filled in with a fixed question and chat, so that it changes with any word."""
    chat = (Turn("user", "u1"), Turn("assistant", "a1"), Turn("user", "u2"), Turn("assistant", "a2"))
    asked = [
        style.messages("Q", turns, asked_for=FOUR_OPTIONS, forced=forced)
        for turns in ((), chat[:2], chat)
        for forced in (False, True)
    ]
    said = [[message.as_dict() for message in messages] for messages in asked]
    return hashlib.sha256(json.dumps([style.opening, said]).encode()).hexdigest()
