"""The ChatBench folder layout: reading (here) and writing (`chatbench_writer`).

    questions.csv   ai_alone_answers.csv   full_study/{user_answers.csv, user_answers_filtered.csv, conversations.json}
    pilot_1_no_incentives/, pilot_2_w_incentives_math/   (the same shapes as full_study)

The filtered answers are preferred where they are present, as in the paper: finished and approved, attention check
right, first assignment only. Column names that are not published are read in several spellings.

Source: dataset card of microsoft/ChatBench; Chang, Anderson, Hofman, ACL 2025 (see docs/protocol.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Answer, Conversation, Question, Study
from chatbench.studies.chatbench_answers import read_answers
from chatbench.studies.chatbench_chats import read_chats
from chatbench.studies.chatbench_questions import read_ai_alone, read_questions
from chatbench.studies.chatbench_writer import write_chatbench_folder
from chatbench.studies.intake import DUPLICATE_ANSWER, DUPLICATE_CONVERSATION, Intake, conversation_id

__all__ = ["read_chatbench_folder", "write_chatbench_folder"]

QUESTIONS = "questions.csv"
_DOWNLOAD = "check the path, or get the files with: chatbench download chatbench"


def read_chatbench_folder(folder: Path, *, skip_bad_records: bool = False, include_pilots: bool = False) -> Study:
    """The study in a folder of the ChatBench layout; its name is the folder's name.

    Args:
        include_pilots: also read the `pilot_*` folders.

    Raises:
        ChatbenchError: a file is missing, damaged or has other columns; or a record is bad and is not to be skipped.
    """
    intake = Intake(skip_bad_records=skip_bad_records)
    questions = read_questions(folder / QUESTIONS, intake)
    answers: list[Answer] = []
    conversations: list[Conversation] = []
    for part in _parts(folder, include_pilots):
        part_answers, part_conversations = _read_part(part, questions, intake)
        answers += part_answers
        conversations += part_conversations
    conversations = _first_conversations(conversations, intake)
    known = {conversation.id for conversation in conversations}
    return Study(
        name=folder.resolve().name,
        questions=questions,
        conversations=tuple(conversations),
        answers=tuple(_with_conversation(answer, known) for answer in _first_answers(answers, intake)),
        ai_alone=read_ai_alone(folder / "ai_alone_answers.csv", questions, intake),
        dropped=intake.dropped,
        notes=intake.notes,
    )


def _parts(folder: Path, include_pilots: bool) -> list[Path]:
    pilots = sorted(path for path in folder.glob("pilot*") if path.is_dir()) if include_pilots else []
    full_study = folder / "full_study"
    return [full_study if full_study.is_dir() else folder, *pilots]


def _read_part(
    folder: Path, questions: Mapping[str, Question], intake: Intake
) -> tuple[list[Answer], list[Conversation]]:
    """Answers and chats of the full study or of one pilot."""
    filtered, plain = folder / "user_answers_filtered.csv", folder / "user_answers.csv"
    if not filtered.exists() and not plain.exists():
        raise ChatbenchError(f"{folder}: no answers", expected=f"{filtered.name} or {plain.name}", fix=_DOWNLOAD)
    table = read_answers(filtered if filtered.exists() else plain, questions, intake)
    chats = read_chats(folder / "conversations.json", questions, table, intake, filtered=filtered.exists())
    return [*table.answers, *chats.answers], list(chats.conversations)


def _first_answers(answers: Sequence[Answer], intake: Intake) -> list[Answer]:
    """One answer per worker, question and kind, across the full study and the pilots: the first."""
    kept: dict[tuple[str, str, str], Answer] = {}
    for answer in answers:
        if kept.setdefault((answer.worker_id, answer.question_id, answer.kind), answer) is not answer:
            intake.drop(DUPLICATE_ANSWER)
    return list(kept.values())


def _first_conversations(conversations: Sequence[Conversation], intake: Intake) -> list[Conversation]:
    kept: dict[str, Conversation] = {}
    for conversation in conversations:
        if kept.setdefault(conversation.id, conversation) is not conversation:
            intake.drop(DUPLICATE_CONVERSATION)
    return list(kept.values())


def _with_conversation(answer: Answer, known: set[str]) -> Answer:
    """The answer with the id of its chat, where there is one."""
    chat = conversation_id(answer.question_id, answer.worker_id)
    return replace(answer, conversation_id=chat) if answer.kind == "user-AI" and chat in known else answer
