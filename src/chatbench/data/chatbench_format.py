"""Read a study in the ChatBench folder layout (`sample.study` writes it).

    questions.csv   ai_alone_answers.csv   full_study/{user_answers.csv, user_answers_filtered.csv, conversations.json}
    pilot_1_no_incentives/, pilot_2_w_incentives_math/   (the same shapes as full_study)

The filtered answers are preferred if present, as in the paper: finished and approved, attention check passed, first
assignment only. Column names that are not published are accepted in several spellings.

Source: dataset card of microsoft/ChatBench; Chang, Anderson, Hofman, ACL 2025 (see docs/protocol.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json
from chatbench.core.progress import tracked
from chatbench.core.records import FOUR_LETTERS, AiAloneScore, Answer, AnswerKind, Question, Study, Turn
from chatbench.data.tables import (
    ATTENTION_CHECK,
    EXPECTED_KINDS,
    KIND_NAMES,
    BadRecord,
    Intake,
    LeftOut,
    Options,
    Reading,
    Row,
    Table,
    correct_of,
    find_column,
    four_options,
    letter_of,
    literal_list,
    plain_name,
    read_table,
    role_of,
)

QUESTIONS = "questions.csv"
ATTENTION_CHECK_ID = "example-1"
CONFIDENCE_ALONE = "confidence without an answer of this worker to this question"
CONFIDENCE_AGAIN = "further confidence in one answer (the first is kept)"
FILTERED_OUT = "conversation of an answer that user_answers_filtered.csv leaves out"

_ID = ("question_id", "questionID", "qid")
_MODEL = ("model", "assistant", "model_name")
_QUESTION_COLUMNS: Mapping[str, Sequence[str]] = {
    "question_id": (*_ID, "id"),
    "question": ("question", "question_text", "text"),
    "answer": ("answer", "correct_answer", "gold", "gold_answer", "answer_letter", "correct_letter", "label"),
    "choices": ("choices", "options", "answer_choices"),
    "subset": ("subset", "mmlu_subset", "ds", "dataset"),
    "subject": ("subject", "category", "topic"),
}
_CHOICE_PREFIXES = ("choice_", "option_", "answer_", "")
_ANSWER_COLUMNS: Mapping[str, Sequence[str]] = {
    "question_id": (*_ID, "id"),
    "worker_id": ("worker_id", "worker", "participant_id", "user_id"),
    "model": _MODEL,
    "selected_answer": ("selected_answer", "selectedAnswer", "answer", "user_answer", "letter"),
    "answer_type": ("answer_type", "type", "kind", "event", "phase"),
    "acc": ("acc", "correct", "is_correct"),
    "position": ("position", "question_position"),
    **{name: (name,) for name in ("condition", "confidence", "batch")},
}
_CONDITIONS = {"onlyai": "direct-to-AI", "answerfirst": "answer-first"}
"""The data card's names of the conditions, by the beginning of their names in the authors' internal files."""
_TRUTHS = "0 (wrong) or 1 (right)"
_CHAT_KEYS: Mapping[str, Sequence[str]] = {
    **_ANSWER_COLUMNS,
    "question_id": _ID,  # not "id", which may be the chat's own
    "chat_history": ("chat_history", "chatHistory", "messages", "conversation"),
}


def read_chatbench_folder(
    folder: Path, *, skip_bad_records: bool = False, include_pilots: bool = False, maps: Sequence[str] = ()
) -> Study:
    """Read the study in a folder of the ChatBench layout; its name is the folder's name.

    Args:
        include_pilots: also read the `pilot_*` folders.

    Raises:
        ChatbenchError: a file is missing, damaged or lacks columns; or a record is bad and bad ones are not skipped.
    """
    intake = Intake(skip_bad_records=skip_bad_records, maps=maps)
    intake.questions = read_questions(folder / QUESTIONS, intake)
    pilots = sorted(path for path in folder.glob("pilot*") if path.is_dir()) if include_pilots else []
    full_study = folder / "full_study"
    for part in (full_study if full_study.is_dir() else folder, *pilots):
        filtered, plain = part / "user_answers_filtered.csv", part / "user_answers.csv"
        if not filtered.exists() and not plain.exists():
            raise ChatbenchError(
                f"{part}: no answers",
                expected=f"{filtered.name} or {plain.name}",
                fix="check the path, or get the files with: chatbench download chatbench",
            )
        answers = _read_answers(filtered if filtered.exists() else plain, intake)
        _read_chats(part / "conversations.json", answers, intake, filtered=filtered.exists())
    ai_alone = read_ai_alone(folder / "ai_alone_answers.csv", intake.questions, intake)
    return intake.study(folder.resolve().name, ai_alone)


def read_questions(path: Path, intake: Intake) -> dict[str, Question]:
    """Read the questions of `questions.csv`, by id.

    Raises:
        ChatbenchError: the file or one of its columns is missing.
        BadRecord: a row is not a question (blank cell, answer that is not an option, duplicate id).
    """
    table = read_table(path, intake, _QUESTION_COLUMNS)
    table.require(question_id="the question's id", question="the question's text", answer="the right answer")
    columns = _option_columns(table)
    reading = intake.reading("answer", table.rows, lambda row: _options(row, columns))
    questions: dict[str, Question] = {}
    for row in table.rows:
        with intake.record():
            question_id = _question_id(row)
            if question_id in questions:
                raise row.bad(
                    "duplicate question id", "question_id", found=f"{question_id!r} again", expected="unique ids"
                )
            options = _options(row, columns)
            if options is None:
                blank = next((column for column in columns if not row.text(column)), columns[0])
                raise row.bad("question without four options", blank, expected="four options")
            letter = letter_of(row.needed("answer"), options, reading)
            if letter is None:
                expected = "a letter A-D, the text of one option"
                expected += "" if "texts" in reading else f", or numbers {reading}"
                raise row.bad("right answer outside A-D", "answer", expected=expected)
            # The subset has a column of its own, or is the part of the id before `-redux-{i}`, or is the subject.
            before_number = re.fullmatch(r"(.+?)(-redux)?-\d+", question_id)
            subset = row.text("subset") or (before_number[1] if before_number else row.text("subject"))
            if not subset:
                expected = "an id such as conceptual_physics-redux-7"
                raise row.bad("question without a subset", found=f"id {question_id!r}", expected=expected)
            questions[question_id] = Question(question_id, subset, row.needed("question"), options, letter)
    if not questions:
        raise ChatbenchError(f"{path}: no questions", expected="one row per question", fix="download the study again")
    return questions


def _question_id(row: Row) -> str:
    question_id = row.needed("question_id")
    if question_id == ATTENTION_CHECK_ID:
        raise LeftOut(ATTENTION_CHECK)
    return question_id


def _option_columns(table: Table) -> Sequence[str]:
    """The columns with the options: one that holds a list, or four that hold one each."""
    if "choices" in table.names:
        return ("choices",)
    for prefix in _CHOICE_PREFIXES:
        columns = [find_column(table.columns, [prefix + letter]) for letter in FOUR_LETTERS]
        if all(columns):
            return [column for column in columns if column is not None]
    raise table.lacks("the options", ("choices", "choice_a ... choice_d", "option_a ... option_d", "A ... D"))


def _options(row: Row, columns: Sequence[str]) -> Options | None:
    values = [row.value(column) for column in columns]
    return four_options(values if len(values) > 1 else literal_list(str(values[0])) or [])


def read_ai_alone(path: Path, questions: Mapping[str, Question], intake: Intake) -> tuple[AiAloneScore, ...]:
    """Read the scores in the wide table `ai_alone_answers.csv`: `{method}_count`, `{method}_acc`, `{method}_invalid`.

    The authors' `{method}_mean` is `{method}_acc`, and their `copy_and_paste` is `free_text`. A method whose cells are
    blank in a row was not measured there.

    Raises:
        ChatbenchError: the file or one of its columns is missing.
        BadRecord: a row names an unknown question or holds something that is not a number.
    """
    table = read_table(path, intake, {"question_id": (*_ID, "id"), "model": _MODEL})
    table.require(question_id="the question's id", model="the assistant")
    counted = [column.removesuffix("_count") for column in table.columns if column.endswith("_count")]
    accuracy_of = {
        method: column
        for method in counted
        for column in (f"{method}_mean", f"{method}_acc")  # if there are both, the second is taken
        if column in table.columns
    }
    if table.rows and not accuracy_of:
        raise table.lacks("a method", ("{method}_count with {method}_acc", "{method}_mean"))
    if {"copy_and_paste", "free_text"} <= accuracy_of.keys():
        found, fix = f"{path}, row 1: both copy_and_paste and free_text", "remove the columns of one"
        raise ChatbenchError(found, expected="only one: they are two names for the same method", fix=fix)
    for accuracy in accuracy_of.values():
        intake.check_numbers(accuracy, table.rows, lambda number: 0 <= number <= 1, "shares in 0..1, not percentages")
    scores: list[AiAloneScore] = []
    seen: set[tuple[str, str]] = set()
    for row in table.rows:
        with intake.record():
            question_id, model = _question_id(row), row.needed("model")
            if question_id not in questions:
                raise row.bad("AI-alone row for an unknown question", "question_id", expected="an id in questions.csv")
            if (question_id, model) in seen:
                raise row.bad(
                    "duplicate AI-alone row", found=f"{question_id!r} and {model!r} again", expected="one row each"
                )
            scores += [
                _ai_alone_score(row, question_id, model, method, accuracy)
                for method, accuracy in accuracy_of.items()
                if row.text(f"{method}_count") and row.text(accuracy)
            ]
            seen.add((question_id, model))
    return tuple(scores)


def _ai_alone_score(row: Row, question_id: str, model: str, method: str, accuracy_column: str) -> AiAloneScore:
    numbers = []
    for column in (f"{method}_count", accuracy_column, f"{method}_invalid"):
        try:
            numbers.append(float(row.text(column) or "0"))
        except ValueError:
            numbers.append(-1.0)
        if not 0 <= numbers[-1] < float("inf"):
            raise row.bad("not a number", column, expected="a number of at least 0")
    count, accuracy, invalid = numbers
    name = "free_text" if method == "copy_and_paste" else method
    return AiAloneScore(question_id, model, name, int(count), accuracy, int(invalid))


Place = tuple[str, str, str]
"""(worker, batch, position): where in a person's session a question was asked."""


class _GivenAnswers(NamedTuple):
    """Answers given with an assistant by (question, worker), and the questions at each place of a session."""

    by_person: dict[tuple[str, str], Answer]
    questions_at: dict[Place, set[str]]


def _place(row: Row) -> Place:
    batch, position = (row.text(name).removesuffix(".0") for name in ("batch", "position"))
    return row.text("worker_id"), batch, position


def _read_answers(path: Path, intake: Intake) -> _GivenAnswers:
    """Read every answer; the attention check and repeated answers are left out and counted.

    Rows of type `confidence` are merged into the same person's answer to the same question: the one given alone, else
    the one given with the AI. Those without an answer, and further ones, are left out and counted too.

    Raises:
        ChatbenchError: the file or one of its columns is missing.
        BadRecord: a row is not an answer (unknown question or kind, a letter outside A-D, neither letter nor `acc`).
    """
    table = read_table(path, intake, _ANSWER_COLUMNS)
    table.require(question_id="the question's id", worker_id="the person's id", answer_type="the kind of answer")
    if "acc" not in table.names and "selected_answer" not in table.names:
        raise table.lacks("what was answered", (*_ANSWER_COLUMNS["selected_answer"], "acc"))
    intake.check_numbers("acc", table.rows, lambda number: number in (0, 1), _TRUTHS)
    rated, of_questions = list[Row](), list[Row]()
    for row in table.rows:
        (rated if "confiden" in plain_name(row.text("answer_type")) else of_questions).append(row)
    reading = intake.reading("selected_answer", of_questions, lambda row: _options_asked(row, intake))
    part = Intake(skip_bad_records=intake.skip_bad_records)
    questions_at: dict[Place, set[str]] = {}
    for row in tracked(of_questions, f"reading {path.name}", "rows"):
        with intake.record():
            answer = _answer(row, _question_id(row), reading, intake)
            if answer.kind == "user-AI":
                questions_at.setdefault(_place(row), set()).add(answer.question_id)
            part.add_answer(answer)
    seen: set[tuple[str, str]] = set()
    for row in rated:
        with intake.record():
            question_id, worker_id = _question_id(row), row.needed("worker_id")
            confidence = row.text("selected_answer") or row.text("confidence")
            if (worker_id, question_id) in seen:
                raise LeftOut(CONFIDENCE_AGAIN)
            seen.add((worker_id, question_id))
            kinds: tuple[AnswerKind, AnswerKind] = ("user-alone", "user-AI")
            key = next((key for kind in kinds if (key := (worker_id, question_id, kind)) in part.answers), None)
            if key is None:
                raise LeftOut(CONFIDENCE_ALONE)
            if part.answers[key].confidence not in ("", confidence):
                raise LeftOut(CONFIDENCE_AGAIN)
            part.answers[key] = replace(part.answers[key], confidence=confidence)
    for answer in part.answers.values():
        with intake.record():
            intake.add_answer(answer)
    by_person = {(a.question_id, a.worker_id): a for a in part.answers.values() if a.kind == "user-AI"}
    return _GivenAnswers(by_person, questions_at)


def _answer(row: Row, question_id: str, reading: Reading, intake: Intake) -> Answer:
    question = intake.questions.get(question_id)
    if question is None:
        raise row.bad("answer to an unknown question", "question_id", expected="an id in questions.csv")
    # Event names such as pretest_3_userAnswer_answer contain the kind.
    event = re.search(r"_(userAnswer|userAIAnswer)(_|$)", row.text("answer_type"))
    kind = KIND_NAMES.get(plain_name(event[1] if event else row.text("answer_type")))
    if kind is None:
        raise row.unknown("unknown kind of answer", "answer_type", expected=EXPECTED_KINDS)
    assistant = row.text("model")
    if kind == "user-AI" and not assistant:
        raise row.bad("answer with no assistant named", "model", found="no model", expected="the assistant's name")
    letter = _letter(row, question, reading)
    correct = correct_of(row.text("acc"))
    if correct is None and row.text("acc"):
        raise row.bad("acc that is neither 0 nor 1", "acc", expected="0 or 1")
    if correct is None:
        if letter is None:
            found, expected = "blank, and no acc", "a letter or acc"
            raise row.bad("answer without letter and acc", "selected_answer", found=found, expected=expected)
        correct = letter == question.answer
    if letter is not None and (letter == question.answer) != correct:
        intake.note("answers whose letter and acc disagree: acc was taken")
    if letter is None and correct:
        letter = question.answer
    elif letter is None:
        intake.note("wrong answers whose letter was not recorded")
    condition, confidence = _condition(row, intake), row.text("confidence")
    return Answer(question_id, row.needed("worker_id"), kind, assistant, condition, letter, correct, confidence)


def _condition(row: Row, intake: Intake) -> str:
    """The condition by its name in the data card, translated if the row has that of the authors' internal files."""
    written = row.text("condition")
    word = next((word for start, word in _CONDITIONS.items() if plain_name(written).startswith(start)), written)
    if word != written:
        intake.note(f"rows of condition {written!r}, which is {word}")
    return word


def _options_asked(row: Row, intake: Intake) -> Options | None:
    question = intake.questions.get(row.text("question_id"))
    return question.options if question else None


def _letter(row: Row, question: Question, reading: Reading) -> str | None:
    """The chosen letter, or None if none was recorded."""
    if not row.text("selected_answer"):
        return None
    letter = letter_of(row.text("selected_answer"), question.options, reading)
    if letter is None:
        raise row.bad("letter outside A-D", "selected_answer", expected="A, B, C or D")
    return letter


def _read_chats(path: Path, given: _GivenAnswers, intake: Intake, *, filtered: bool) -> None:
    """Read every chat of `conversations.json`, and the answers that only the chats record.

    If a record lacks the question, it is found by its place in the person's session.

    Args:
        filtered: the answers come from the filtered file, so a chat without an answer there is left out and counted.

    Raises:
        ChatbenchError: the file is missing, half-written, or not a list of records.
        BadRecord: a record is not a chat (unknown role or question, empty, letter outside A-D).
    """
    rows = _chat_rows(path, intake)
    reading = intake.reading("selected_answer", rows, lambda row: _options_asked(row, intake))
    intake.check_numbers("acc", rows, lambda number: number in (0, 1), _TRUTHS)
    filtered = filtered and bool(given.by_person)
    for row in tracked(rows, f"reading {path.name}", "chats"):
        with intake.record():
            if not row.text("worker_id"):
                expected = "the person's id"
                raise row.bad("conversation without a worker", "worker_id", found="missing", expected=expected)
            question_id = row.text("question_id") or _question_at_place(row, given, filtered)
            if question_id == ATTENTION_CHECK_ID:
                raise LeftOut(ATTENTION_CHECK)
            answer = given.by_person.get((question_id, row.text("worker_id")))
            if filtered and answer is None:
                raise LeftOut(FILTERED_OUT)
            if question_id not in intake.questions:
                reason, expected = "conversation about an unknown question", "an id in questions.csv"
                raise row.bad(reason, "question_id", found=repr(question_id), expected=expected)
            _read_chat(row, intake.questions[question_id], answer, reading, intake)


def _read_chat(row: Row, question: Question, answer: Answer | None, reading: Reading, intake: Intake) -> None:
    """Read one chat; its answer too, if the answers' table does not have it."""
    assistant = row.text("model") or (answer.assistant if answer else "")
    if not assistant:
        expected = "the assistant's name"
        raise row.bad("conversation with no assistant named", "model", found="missing", expected=expected)
    letter, acc = _letter(row, question, reading), correct_of(row.text("acc"))
    if letter and answer and answer.letter not in (None, letter):
        intake.note(
            "chats whose letter is not that of the answers' table: the chat's is trained on, the table's scored"
        )
    letter = letter or (answer.letter if answer else question.answer if acc else None)
    if letter is None:
        intake.note("conversations whose final letter was not recorded: they yield no answer example")
    condition = _condition(row, intake) or (answer.condition if answer else "")
    right = letter == question.answer if acc is None else acc
    given = Answer(question.id, row.text("worker_id"), "user-AI", assistant, condition, letter, right)
    intake.add_conversation(row.conversation("chat_history", _turns(row, intake), given))
    if answer is None and acc is None and letter is None:
        intake.note("conversations without a recorded answer")
    elif answer is None:
        intake.note("answers taken from conversations.json, because the answers' table has no row for them")
        intake.add_answer(given)


def _chat_rows(path: Path, intake: Intake) -> list[Row]:
    fix = "download the study again; the file is missing or half-written"
    content = read_json(path, fix=fix, replaced=intake.half_characters)
    if not isinstance(content, list):
        raise ChatbenchError(f"{path}: a {type(content).__name__}", expected="a JSON list of conversations", fix=fix)
    rows: list[Row] = []
    for number, item in enumerate(content, start=1):
        with intake.record():
            place = f"{path}, record {number}"
            if not isinstance(item, dict):
                raise BadRecord("not a record", f"{place}: {type(item).__name__}", expected="a JSON object")
            recorded = {key: value for key, value in item.items() if value is not None}
            keys = {name: find_column([*recorded], spellings) for name, spellings in _CHAT_KEYS.items()}
            cells = {name: recorded[key] for name, key in keys.items() if key}
            rows.append(intake.row(place, cells, {}, unit="key", others=rows))
    return rows


def _question_at_place(row: Row, given: _GivenAnswers, filtered: bool) -> str:
    """The question id by its place in the session; "" for a chat whose answer was filtered out."""
    found = given.questions_at.get(_place(row), set()) if all(_place(row)) else set()
    if not found and filtered:
        return ""
    if len(found) != 1:
        problem = "no user-AI answer" if not found else f"{len(found)} questions"
        raise row.bad(
            "conversation whose question is not known",
            found=f"no question_id, and {problem} at worker, batch, position {', '.join(_place(row))}",
            expected="a question_id, or one row of the answers with the same worker_id, batch and position",
        )
    return next(iter(found))


def _turns(row: Row, intake: Intake) -> tuple[Turn, ...]:
    history = row.value("chat_history")
    if isinstance(history, str):
        history = literal_list(history)
    if not isinstance(history, list):
        found, expected = type(history).__name__, "a list of {role, content}"
        raise row.bad("no chat history", "chat_history", found=found, expected=expected)
    messages = [item if isinstance(item, dict) else {} for item in history]
    if messages and messages[0].get("role") == "system":
        messages = messages[1:]
        intake.note("conversations led by a system message, which is no turn of the chat")
    if not messages:
        expected = "at least one message and its reply"
        raise row.bad("empty conversation", "chat_history", found="no message", expected=expected)
    turns = []
    for index, message in enumerate(messages):
        name, role_name = f"chat_history[{index}]", str(intake.mapped(message.get("role", ""), "role"))
        role = role_of(role_name)
        if role is None:
            others = (other.value("chat_history") for other in row.others)
            chats = (chat for chat in others if isinstance(chat, list))
            roles = ([str(item.get("role", "")) for item in chat if isinstance(item, dict)] for chat in chats)
            raise row.unknown_role(role_name, name, roles)
        content = next((message[key] for key in ("content", "text", "message") if key in message), None)
        if not isinstance(content, str):
            raise row.bad("message without text", name, found=f"content {content!r}", expected="text")
        if role == "user" and not content.strip():
            raise row.bad("empty user message", name, found="no text", expected="what the user wrote")
        if not content.strip():
            intake.note("empty assistant messages, kept as they were")
        turns.append(Turn(role, content))
    return tuple(turns)
