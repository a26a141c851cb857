"""Verify simulated chats before they are scored, without generating anything.

A chat is verified if its participants match the run's settings, and parsing its final output again gives the recorded
termination and letters. If parsing differs, the new result is scored and the difference reported. (Checksums, checked
when a log is read, detect changed lines.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Question, SimulatedConversation
from chatbench.protocol.answers import FinalAnswer, lenient_letter
from chatbench.protocol.dialogue import expected_correct
from chatbench.protocol.prompt_styles import STYLES, Style
from chatbench.simulation.split_chats import SplitChats

READ_AGAIN = ("termination", "answer_text", "letter", "lenient_letter", "forced_text", "expected_correct")
"""Fields of a record that are derived from its texts, its probabilities and the question."""


def reread(chat: SimulatedConversation, style: Style, question: Question) -> SimulatedConversation:
    """Derive the fields in `READ_AGAIN` again from the final output; a failed conversation is returned unchanged."""
    if chat.termination == "failed":
        return chat
    forced = chat.forced_text is not None
    said = style.read(chat.final_output or "", chat.turns, forced=forced)
    answer = said if isinstance(said, FinalAnswer) else None
    message = answer.message if answer else said.text if not isinstance(said, FinalAnswer) else ""
    letter = question.read(answer.text) if answer else None
    last = chat.answer_probabilities[-1] if chat.answer_probabilities else None
    lenient_from = answer.text if answer else message
    return replace(
        chat,
        termination=("forced" if forced else "answered") if answer else "no_answer",
        answer_text=answer.text if answer else None,
        letter=letter,
        lenient_letter=lenient_letter(lenient_from, question.options) if lenient_from and letter is None else None,
        forced_text=message if forced else None,
        expected_correct=expected_correct(question, last) if answer else None,
    )


SHOWN = 10


@dataclass(slots=True)
class Verified:
    """Number of verified chats, and their differences from what was recorded."""

    chats: int = 0
    differences: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Lines to print."""
        if not self.differences:
            return [f"{self.chats:,} chats verified: all match what was recorded"]
        more = len(self.differences) - SHOWN
        return [
            f"{self.chats:,} chats verified, {len(self.differences)} differences; the values read now are scored:",
            *(f"  {difference}" for difference in self.differences[:SHOWN]),
            *([f"  and {more} more"] if more > 0 else []),
        ]

    def notes(self) -> list[str]:
        """Notes for the score table; empty if everything is as recorded."""
        count = len(self.differences)
        return [f"{count} values differ from what was recorded; eval-chatbench lists them"] if count else []


def verified_chats(chats: SplitChats, questions: Mapping[str, Question], verified: Verified) -> SplitChats:
    """Verify the chats and return them as parsed now; differences from the record are added to `verified`.

    Raises:
        ChatbenchError: a chat's participant, style or prompts differ from its run's settings, or its style is unknown.
    """
    styles = {style.name: style for style in STYLES.values()}
    simulations = []
    for simulation in chats.simulations:
        settings, assistants = chats.settings[simulation.predictor], chats.assistants[simulation.predictor]
        again = []
        for chat in simulation.chats:
            where = f"{chats.split.id}, {simulation.predictor}, chat {chat.id}"
            pairs = {
                "the simulator": (chat.simulator, settings["simulator"]),
                f"the assistant {chat.assistant}": (chat.assistant_identity, assistants.get(chat.assistant)),
                "the style": (chat.style, settings.get("style")),
                "the prompts' hash": (chat.prompts_sha256, settings.get("prompts_sha256")),
            }
            for what, (found, expected) in pairs.items():
                if found != expected:
                    raise ChatbenchError(
                        f"{where}: {what} is {found!r}",
                        expected=f"{expected!r}, as in the run's settings",
                        fix="remove the line from the log, then simulate again to replace the chat",
                    )
            if chat.style not in styles:
                raise ChatbenchError(f"{where}: style {chat.style!r}", expected=f"one of {', '.join(styles)}")
            now = reread(chat, styles[chat.style], questions[chat.question_id])
            verified.differences += [
                f"{where}: {name} recorded as {getattr(chat, name)!r}, now read as {getattr(now, name)!r}"
                for name in READ_AGAIN
                if getattr(chat, name) != getattr(now, name)
            ]
            again.append(now)
        verified.chats += len(again)
        simulations.append(replace(simulation, chats=tuple(again)))
    return replace(chats, simulations=tuple(simulations))
