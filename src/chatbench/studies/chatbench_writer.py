"""Writes a study in the ChatBench folder layout, so that what reads the published data reads it too.

Every file is written whole or not at all, and `questions.csv`, by which a reader knows the folder, comes last. Reading
the folder gives the same study again, provided that its conversation ids are those of `intake.conversation_id`, texts
carry no surrounding white space, and the folder has the study's name.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from chatbench.core.files import write_json_whole, write_text_whole
from chatbench.core.records import LETTERS, AiAloneScore, Answer, Question, Study

QUESTIONS_PER_BATCH = 12
_ANSWER_COLUMNS = (
    "question_id", "worker_id", "model", "condition", "subject", "batch", "position", "phase", "answer_type",
    "selected_answer", "acc", "confidence",
)  # fmt: skip

SubjectOf = Callable[[Question], str]


def chatbench_subject(question: Question) -> str:
    """`math`, `physics` or `moral`, as ChatBench groups the MMLU subsets; any other subset is its own subject."""
    words = {"mathematics": "math", "physics": "physics", "moral": "moral"}
    return next((subject for word, subject in words.items() if word in question.subset), question.subset)


def write_chatbench_folder(study: Study, folder: Path, *, subject_of: SubjectOf = chatbench_subject) -> None:
    """Writes questions, AI-alone table, answers (plain and filtered alike) and conversations.

    A batch holds the questions of one subject by twelves, in the study's order; a position is an answer's rank in its
    person's session, and an answer alone and one with the AI about one question share it.

    Raises:
        ValueError: two answers share worker, question and kind, or a conversation has no user-AI answer: such a study
            would not be read back as it is.
    """
    _check(study)
    batches, positions = _batches(study, subject_of), _positions(study.answers)
    rows = [_answer_row(answer, study, subject_of, batches, positions) for answer in study.answers]
    answers = _csv(_ANSWER_COLUMNS, rows)
    write_text_whole(folder / "full_study" / "user_answers.csv", answers)
    write_text_whole(folder / "full_study" / "user_answers_filtered.csv", answers)
    write_json_whole(
        folder / "full_study" / "conversations.json", _conversations(study, subject_of, batches, positions)
    )
    write_text_whole(folder / "ai_alone_answers.csv", ai_alone_table(study.ai_alone))
    write_text_whole(folder / "questions.csv", _questions(study, subject_of))


def _check(study: Study) -> None:
    keys = Counter((answer.worker_id, answer.question_id, answer.kind) for answer in study.answers)
    repeated = [key for key, count in keys.items() if count > 1]
    if repeated:
        raise ValueError(f"answers that share worker, question and kind: {repeated[:3]}")
    lonely = [c.id for c in study.conversations if (c.worker_id, c.question_id, "user-AI") not in keys]
    if lonely:
        raise ValueError(f"conversations without a user-AI answer: {lonely[:3]}")


def _batches(study: Study, subject_of: SubjectOf) -> dict[str, int]:
    """Batch number of each question, counted within its subject."""
    seen: Counter[str] = Counter()
    batches = {}
    for question in study.questions.values():
        batches[question.id] = seen[subject_of(question)] // QUESTIONS_PER_BATCH
        seen[subject_of(question)] += 1
    return batches


def _positions(answers: Sequence[Answer]) -> dict[tuple[str, str], int]:
    """Rank of each question in a person's session, by (worker, question)."""
    positions: dict[tuple[str, str], int] = {}
    sessions: Counter[str] = Counter()
    for answer in answers:
        key = (answer.worker_id, answer.question_id)
        if key not in positions:
            positions[key] = sessions[answer.worker_id]
            sessions[answer.worker_id] += 1
    return positions


def _answer_row(
    answer: Answer,
    study: Study,
    subject_of: SubjectOf,
    batches: Mapping[str, int],
    positions: Mapping[tuple[str, str], int],
) -> list[object]:
    return [
        answer.question_id,
        answer.worker_id,
        answer.assistant,
        answer.condition,
        subject_of(study.questions[answer.question_id]),
        batches[answer.question_id],
        positions[answer.worker_id, answer.question_id],
        1 if answer.kind == "user-alone" else 2,
        answer.kind,
        answer.letter or "",
        int(answer.correct),
        answer.confidence,
    ]


def _conversations(
    study: Study, subject_of: SubjectOf, batches: Mapping[str, int], positions: Mapping[tuple[str, str], int]
) -> list[dict[str, object]]:
    correct = {(a.worker_id, a.question_id): a.correct for a in study.answers if a.kind == "user-AI"}
    return [
        {
            "worker_id": chat.worker_id,
            "batch": batches[chat.question_id],
            "position": positions[chat.worker_id, chat.question_id],
            "subject": subject_of(study.questions[chat.question_id]),
            "acc": int(correct[chat.worker_id, chat.question_id]),
            "question_id": chat.question_id,
            "model": chat.assistant,
            "condition": chat.condition,
            "selected_answer": chat.answer,
            "chat_history": [{"role": turn.role, "content": turn.text} for turn in chat.turns],
        }
        for chat in study.conversations
    ]


def ai_alone_table(scores: Sequence[AiAloneScore]) -> str:
    """The wide table `ai_alone_answers.csv`: one row per question and model, four columns per method."""
    methods = list(dict.fromkeys(score.method for score in scores))
    cells = {(score.question_id, score.assistant, score.method): score for score in scores}
    rows = []
    for question_id, model in dict.fromkeys((score.question_id, score.assistant) for score in scores):
        row: list[object] = [question_id, model]
        for method in methods:
            score = cells.get((question_id, model, method))
            if score is None:
                row += ["", "", "", ""]
                continue
            valid = score.count - score.invalid
            row += [score.count, score.accuracy, score.invalid, score.accuracy * score.count / valid if valid else ""]
        rows.append(row)
    suffixes = ("count", "acc", "invalid", "acc_valid")
    return _csv(["question_id", "model", *(f"{method}_{suffix}" for method in methods for suffix in suffixes)], rows)


def _questions(study: Study, subject_of: SubjectOf) -> str:
    header = [
        "question_id",
        "subject",
        "subset",
        "question",
        *(f"choice_{letter.lower()}" for letter in LETTERS),
        "answer",
    ]
    return _csv(
        header, [[q.id, subject_of(q), q.subset, q.text, *q.options, q.answer] for q in study.questions.values()]
    )


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)  # its "\r\n" makes it quote a lone "\r" inside a cell, too
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
