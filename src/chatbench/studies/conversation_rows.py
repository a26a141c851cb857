"""A simulated conversation as one line of a log, and back: everything that a result needs lies in the line itself.

The identities of both speakers are repeated in every line although the file of settings has them too. That costs about
600 bytes a conversation, and buys that a line can be checked, moved and read alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import cast, get_args

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import Row
from chatbench.core.records import AnswerProbabilities, Role, SimulatedConversation, Termination, Turn, Usage

Identity = Mapping[str, object]
FIX = "simulate again with --overwrite"


@dataclass(frozen=True, slots=True)
class Recorded:
    """A conversation, and what it depends on: who spoke (weights, decoding; no secret), and in which style.

    `prompts_sha256` is the hash of everything that the style says, so that two versions of a prompt are told apart.
    """

    chat: SimulatedConversation
    simulator: Identity
    assistant_identity: Identity
    style: str
    prompts_sha256: str


def conversation_row(chat: SimulatedConversation, **more: object) -> Row:
    """The line of a conversation, with `more` between its ids and its turns."""
    return {
        "id": chat.id,
        "question_id": chat.question_id,
        "assistant": chat.assistant,
        "index": chat.index,
        **more,
        "seed": chat.seed,
        "turns": [{"role": turn.role, "text": turn.text} for turn in chat.turns],
        "termination": chat.termination,
        "reason": chat.reason,
        "transient": chat.transient,
        "answer_text": chat.answer_text,
        "letter": chat.letter,
        "lenient_letter": chat.lenient_letter,
        "forced_text": chat.forced_text,
        "final_output": chat.final_output,
        "turns_dropped": chat.turns_dropped,
        "observed": dict(chat.observed),
        "usage": asdict(chat.usage),
        "seconds": round(chat.seconds, 3),
        "answer_probabilities": [None if one is None else asdict(one) for one in chat.answer_probabilities],
        "expected_correct": chat.expected_correct,
    }


def recorded_row(recorded: Recorded) -> Row:
    """The line of a conversation with all that it depends on."""
    return conversation_row(
        recorded.chat,
        style=recorded.style,
        prompts_sha256=recorded.prompts_sha256,
        simulator=dict(recorded.simulator),
        assistant_identity=dict(recorded.assistant_identity),
    )


def settles(row: Mapping[str, object]) -> bool:
    """Whether a line is the last one of its id: only a failure that may pass is followed by another try."""
    return not row.get("transient", False)


def chat_in(row: Row, where: str) -> SimulatedConversation:
    """The conversation in a line.

    Args:
        where: file and line, for the message.

    Raises:
        ChatbenchError: it is no simulated conversation, and why.
    """
    try:
        return _chat(row)
    except KeyError as missing:
        raise ChatbenchError(f"{where}: no {missing}", expected="a simulated conversation", fix=FIX) from None
    except (TypeError, ValueError, AttributeError) as error:
        raise ChatbenchError(f"{where}: {error}", expected="a simulated conversation", fix=FIX) from None


def recorded_in(row: Row, where: str) -> Recorded:
    """The conversation in a line with all that it depends on.

    Raises:
        ChatbenchError: as `chat_in`, or it does not say what it depends on.
    """
    chat = chat_in(row, where)
    try:
        simulator, assistant = cast(Identity, row["simulator"]), cast(Identity, row["assistant_identity"])
        return Recorded(chat, simulator, assistant, str(row["style"]), str(row["prompts_sha256"]))
    except KeyError as missing:
        raise ChatbenchError(f"{where}: no {missing}", expected="a conversation with its speakers", fix=FIX) from None


def _chat(row: Row) -> SimulatedConversation:
    if row["termination"] not in get_args(Termination):
        raise ValueError(f"termination {row['termination']!r}, expected one of {', '.join(get_args(Termination))}")
    turns = cast(list[dict[str, str]], row["turns"])
    probabilities = cast("list[dict[str, object] | None]", row["answer_probabilities"])
    return SimulatedConversation(
        id=str(row["id"]),
        question_id=str(row["question_id"]),
        assistant=str(row["assistant"]),
        index=int(cast(int, row["index"])),
        turns=tuple(Turn(cast(Role, turn["role"]), turn["text"]) for turn in turns),
        termination=cast(Termination, row["termination"]),
        reason=str(row["reason"]),
        answer_text=cast("str | None", row["answer_text"]),
        letter=cast("str | None", row["letter"]),
        forced_text=cast("str | None", row["forced_text"]),
        final_output=cast("str | None", row["final_output"]),
        seed=int(cast(int, row["seed"])),
        transient=bool(row["transient"]),
        turns_dropped=int(cast(int, row["turns_dropped"])),
        lenient_letter=cast("str | None", row["lenient_letter"]),
        observed=dict(cast(Mapping[str, int], row["observed"])),
        usage=Usage(**cast(dict[str, int], row["usage"])),
        seconds=float(cast(float, row["seconds"])),
        answer_probabilities=tuple(_probabilities(one) for one in probabilities),
        expected_correct=cast("float | None", row["expected_correct"]),
    )


def _probabilities(row: Mapping[str, object] | None) -> AnswerProbabilities | None:
    if row is None:
        return None
    first, second, third, fourth = cast(list[float], row["letters"])
    return AnswerProbabilities(cast(float, row["answering"]), (first, second, third, fourth))
