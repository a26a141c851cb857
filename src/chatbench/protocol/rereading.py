"""Reads a recorded conversation's end again, from the simulator's last words as they came.

So a score can be recomputed from texts alone, by today's reader, and a record whose letter is not what its text says is
found.
"""

from __future__ import annotations

from dataclasses import replace

from chatbench.core.records import LETTERS, Question, SimulatedConversation
from chatbench.protocol.answers import FinalAnswer
from chatbench.protocol.lenient import lenient_letter
from chatbench.protocol.styles import Style

READ_AGAIN = ("termination", "answer_text", "letter", "lenient_letter", "forced_text", "expected_correct")
"""What of a record follows from its texts, its probabilities and the question."""


def reread(chat: SimulatedConversation, style: Style, question: Question) -> SimulatedConversation:
    """The conversation with everything in `READ_AGAIN` as its last words say; a failed one has none, and stays."""
    if chat.termination == "failed":
        return chat
    forced = chat.forced_text is not None
    said = style.read(chat.final_output or "", chat.turns, forced=forced)
    answer = said if isinstance(said, FinalAnswer) else None
    message = answer.message if answer else said.text if not isinstance(said, FinalAnswer) else ""
    letter = answer.letter if answer else None
    lenient_from = answer.text if answer else message
    return replace(
        chat,
        termination=("forced" if forced else "answered") if answer else "no_answer",
        answer_text=answer.text if answer else None,
        letter=letter,
        lenient_letter=lenient_letter(lenient_from, question.options) if lenient_from and letter is None else None,
        forced_text=message if forced else None,
        expected_correct=_expected_correct(chat, question) if answer else None,
    )


def _expected_correct(chat: SimulatedConversation, question: Question) -> float | None:
    last = chat.answer_probabilities[-1] if chat.answer_probabilities else None
    return None if last is None else last.letters[LETTERS.index(question.answer)]
