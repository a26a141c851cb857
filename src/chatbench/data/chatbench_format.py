"""The ChatBench folder layout: reading (here) and writing (`chatbench_writer`).

    questions.csv   ai_alone_answers.csv   full_study/{user_answers.csv, user_answers_filtered.csv, conversations.json}
    pilot_1_no_incentives/, pilot_2_w_incentives_math/   (the same shapes as full_study)

The filtered answers are preferred where they are present, as in the paper: finished and approved, attention check
right, first assignment only. Column names that are not published are read in several spellings.

Source: dataset card of microsoft/ChatBench; Chang, Anderson, Hofman, ACL 2025 (see docs/protocol.md).

The two tables at the root of a ChatBench folder: the questions, and how the assistants answer them alone.

The table of people's answers in a ChatBench folder (`user_answers.csv` or `user_answers_filtered.csv`).

The chats of a ChatBench folder (`conversations.json`), joined with the people's answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json
from chatbench.core.records import LETTERS, AiAloneScore, Answer, AnswerKind, Conversation, Question, Study, Turn
from chatbench.data.tables import (
    ATTENTION_CHECK,
    DUPLICATE_ANSWER,
    DUPLICATE_CONVERSATION,
    EXPECTED_KINDS,
    EXPECTED_ROLES,
    BadRecord,
    Intake,
    Options,
    Row,
    Table,
    conversation_id,
    correct_of,
    four_options,
    holds_indices,
    is_blank,
    kind_of,
    letter_of,
    literal_list,
    number_key,
    plain_name,
    read_table,
    role_of,
)

ATTENTION_CHECK_ID = "example-1"
QUESTION_ID_NAMES = ("question_id", "questionID", "qid", "id")
MODEL_NAMES = ("model", "assistant", "model_name")
_TEXT_NAMES = ("question", "question_text", "text")
_CHOICES_NAMES = ("choices", "options", "answer_choices")
_CHOICE_PREFIXES = ("choice_", "option_", "answer_", "")
_GOLD_NAMES = ("answer", "correct_answer", "gold", "gold_answer", "answer_letter", "correct_letter", "label")


def read_questions(path: Path, intake: Intake) -> dict[str, Question]:
    """Questions by id from `questions.csv`.

    Raises:
        ChatbenchError: the file or one of its columns is missing.
        BadRecord: a row is not a question (blank cell, answer that is no option, an id that was used before).
    """
    table = read_table(path, intake)
    id_column = table.need("the question's id", QUESTION_ID_NAMES)
    text_column = table.need("the question's text", _TEXT_NAMES)
    gold_column = table.need("the right answer", _GOLD_NAMES)
    option_columns = _option_columns(table)
    indices = holds_indices(table.texts(gold_column))
    questions: dict[str, Question] = {}
    for row in table.rows:
        with intake.record():
            question_id = row.needed(id_column)
            if question_id == ATTENTION_CHECK_ID:
                intake.drop(ATTENTION_CHECK)
                continue
            if question_id in questions:
                raise BadRecord(
                    "duplicate question id",
                    f"{row.where(id_column)}: {question_id!r} again",
                    expected="ids that differ",
                )
            options = _options(row, option_columns)
            questions[question_id] = Question(
                question_id,
                _subset(row, table, question_id),
                row.needed(text_column),
                options,
                _gold(row, gold_column, options, indices),
            )
    if not questions:
        raise ChatbenchError(f"{path}: no question", expected="one row per question", fix="download the study again")
    return questions


def _option_columns(table: Table) -> tuple[str, ...]:
    """One column with a list of options, or four columns with one each."""
    choices = table.find(_CHOICES_NAMES)
    if choices is not None:
        return (choices,)
    for prefix in _CHOICE_PREFIXES:
        columns = [table.find([prefix + letter]) for letter in LETTERS]
        if all(columns):
            return tuple(column for column in columns if column is not None)
    raise table.lacks("the options", ("choices", "choice_a ... choice_d", "option_a ... option_d", "A ... D"))


def _options(row: Row, columns: Sequence[str]) -> Options:
    values: Sequence[object] = [row.cells[column] for column in columns]
    if len(columns) == 1:
        values = literal_list(row.cells[columns[0]]) or []
    options = four_options(values)
    if options is None:
        column = next((column for column in columns if not row.text(column)), columns[0])
        raise BadRecord(
            "question without four options", f"{row.where(column)}: {row.cells[column]!r}", expected="four options"
        )
    return options


def _gold(row: Row, column: str, options: Options, indices: bool) -> str:
    letter = letter_of(row.needed(column), options, indices=indices)
    if letter is None:
        raise BadRecord(
            "right answer outside A-D",
            f"{row.where(column)}: {row.cells[column]!r}",
            expected="a letter A-D, an index 0-3, or the text of one option",
        )
    return letter


def _subset(row: Row, table: Table, question_id: str) -> str:
    """The question's subset: its own column, else the id before `-redux-{i}`, else the subject."""
    subset = row.text(table.find(("subset", "mmlu_subset")))
    if subset:
        return subset
    match = re.fullmatch(r"(.+?)(-redux)?-\d+", question_id)
    if match:
        return match.group(1)
    subject = row.text(table.find(("subject", "category", "topic")))
    if not subject:
        raise BadRecord(
            "question without a subset",
            f"{row.where()}: id {question_id!r}",
            expected="an id such as conceptual_physics-redux-7",
        )
    return subject


def read_ai_alone(path: Path, questions: Mapping[str, Question], intake: Intake) -> tuple[AiAloneScore, ...]:
    """Scores from the wide table `ai_alone_answers.csv`: `{method}_count`, `{method}_acc`, `{method}_invalid`.

    A method whose cells are blank in a row was not measured there.

    Raises:
        ChatbenchError: the file or one of its columns is missing.
        BadRecord: a row names an unknown question or holds something that is not a number.
    """
    table = read_table(path, intake)
    id_column = table.need("the question's id", QUESTION_ID_NAMES)
    model_column = table.need("the assistant", MODEL_NAMES)
    methods = [
        c.removesuffix("_count")
        for c in table.columns
        if c.endswith("_count") and f"{c.removesuffix('_count')}_acc" in table.columns
    ]
    if table.rows and not methods:
        raise table.lacks("a method", ("{method}_count with {method}_acc",))
    scores: list[AiAloneScore] = []
    seen: set[tuple[str, str]] = set()
    for row in table.rows:
        with intake.record():
            question_id, model = row.needed(id_column), row.needed(model_column)
            if question_id == ATTENTION_CHECK_ID:
                intake.drop(ATTENTION_CHECK)
                continue
            if question_id not in questions:
                raise BadRecord(
                    "AI-alone row for an unknown question",
                    f"{row.where(id_column)}: {question_id!r}",
                    expected="an id of questions.csv",
                )
            if (question_id, model) in seen:
                raise BadRecord(
                    "duplicate AI-alone row",
                    f"{row.where()}: {question_id!r} and {model!r} again",
                    expected="one row each",
                )
            scores.extend(_scores(row, question_id, model, methods))
            seen.add((question_id, model))
    return tuple(scores)


def _scores(row: Row, question_id: str, model: str, methods: Sequence[str]) -> list[AiAloneScore]:
    scores = []
    for method in methods:
        if not row.text(f"{method}_count") or not row.text(f"{method}_acc"):
            continue
        count, accuracy = _number(row, f"{method}_count"), _number(row, f"{method}_acc")
        if accuracy > 1:
            raise BadRecord("share above 1", f"{row.where(f'{method}_acc')}: {accuracy}", expected="a share in 0..1")
        invalid_column = f"{method}_invalid"
        invalid = _number(row, invalid_column) if row.cells.get(invalid_column, "").strip() else 0
        scores.append(AiAloneScore(question_id, model, method, int(count), accuracy, int(invalid)))
    return scores


def _number(row: Row, column: str) -> float:
    """A finite number that is not negative."""
    try:
        value = float(row.text(column) or "0")
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise BadRecord(
            "not a number", f"{row.where(column)}: {row.cells[column]!r}", expected="a number of at least 0"
        )
    return value


Place = tuple[str, str, str]
"""Worker, batch and position: where in a person's session a question stood."""

SELECTED_NAMES = ("selected_answer", "selectedAnswer", "answer", "user_answer", "letter")
_KIND_NAMES = ("answer_type", "type", "kind", "phase")


@dataclass(frozen=True, slots=True)
class AnswerTable:
    """The answers in file order, and which question stood at which place of a session with the AI."""

    answers: tuple[Answer, ...]
    questions_at: dict[Place, set[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Columns:
    """The names that this file uses; None where it has no such column."""

    question: str
    worker: str
    kind: str
    model: str | None
    condition: str | None
    selected: str | None
    correct: str | None
    confidence: str | None
    batch: str | None
    position: str | None
    indices: bool


def read_answers(path: Path, questions: Mapping[str, Question], intake: Intake) -> AnswerTable:
    """Reads every answer; the attention check and repeated answers are left out and counted.

    Rows of type `confidence` belong to the same person's answer to the same question and are joined to it.

    Raises:
        ChatbenchError: the file or one of its columns is missing.
        BadRecord: a row is not an answer (unknown question or kind, a letter outside A-D, neither letter nor `acc`).
    """
    table = read_table(path, intake)
    columns = _columns(table)
    answers: dict[tuple[str, str, AnswerKind], Answer] = {}
    confidences: dict[tuple[str, str], str] = {}
    questions_at: dict[Place, set[str]] = {}
    for row in table.rows:
        with intake.record():
            question_id, worker_id = row.needed(columns.question), row.needed(columns.worker)
            if question_id == ATTENTION_CHECK_ID:
                intake.drop(ATTENTION_CHECK)
                continue
            if "confiden" in plain_name(row.text(columns.kind)):
                confidences.setdefault(
                    (question_id, worker_id), row.text(columns.selected) or row.text(columns.confidence)
                )
                continue
            answer = _answer(row, columns, questions, intake)
            if answer.kind == "user-AI" and columns.batch is not None and columns.position is not None:
                place = (worker_id, number_key(row.text(columns.batch)), number_key(row.text(columns.position)))
                questions_at.setdefault(place, set()).add(question_id)
            if (question_id, worker_id, answer.kind) in answers:
                intake.drop(DUPLICATE_ANSWER)
            else:
                answers[question_id, worker_id, answer.kind] = answer
    _join_confidences(answers, confidences)
    return AnswerTable(tuple(answers.values()), questions_at)


def _columns(table: Table) -> _Columns:
    selected = table.find(SELECTED_NAMES)
    correct = table.find(("acc", "correct", "is_correct"))
    if correct is None:
        selected = table.need("what was answered", (*SELECTED_NAMES, "acc"))
    return _Columns(
        question=table.need("the question's id", QUESTION_ID_NAMES),
        worker=table.need("the person's id", ("worker_id", "worker", "participant_id", "user_id")),
        kind=table.need("the kind of answer", _KIND_NAMES),
        model=table.find(MODEL_NAMES),
        condition=table.find(("condition",)),
        selected=selected,
        correct=correct,
        confidence=table.find(("confidence",)),
        batch=table.find(("batch",)),
        position=table.find(("position",)),
        indices=selected is not None
        and holds_indices([t for t in table.texts(selected) if not t.endswith("confident")]),
    )


def _answer(row: Row, columns: _Columns, questions: Mapping[str, Question], intake: Intake) -> Answer:
    question_id = row.needed(columns.question)
    question = questions.get(question_id)
    if question is None:
        raise BadRecord(
            "answer to an unknown question",
            f"{row.where(columns.question)}: {question_id!r}",
            expected="an id of questions.csv",
        )
    kind = kind_of(row.text(columns.kind))
    if kind is None:
        raise BadRecord(
            "unknown kind of answer", f"{row.where(columns.kind)}: {row.cells[columns.kind]!r}", expected=EXPECTED_KINDS
        )
    assistant = row.text(columns.model)
    if kind == "user-AI" and not assistant:
        raise BadRecord(
            "answer with no assistant named", f"{row.where(columns.model)}: no model", expected="the assistant's name"
        )
    letter = _letter(row, columns, question)
    correct = _correct(row, columns, question, letter)
    if letter is not None and (letter == question.answer) != correct:
        intake.note("answers whose letter and acc disagree: acc was taken")
    if letter is None and correct:
        letter = question.answer
    elif letter is None:
        intake.note("wrong answers whose letter was not recorded")
    return Answer(
        question_id=question_id,
        worker_id=row.needed(columns.worker),
        kind=kind,
        assistant=assistant,
        condition=row.text(columns.condition),
        letter=letter,
        correct=correct,
        confidence=row.text(columns.confidence),
    )


def _letter(row: Row, columns: _Columns, question: Question) -> str | None:
    if columns.selected is None or is_blank(row.cells[columns.selected]):
        return None
    letter = letter_of(row.cells[columns.selected], question.options, indices=columns.indices)
    if letter is None:
        raise BadRecord(
            "letter outside A-D",
            f"{row.where(columns.selected)}: {row.cells[columns.selected]!r}",
            expected="A, B, C or D",
        )
    return letter


def _correct(row: Row, columns: _Columns, question: Question, letter: str | None) -> bool:
    """What `acc` says; where it is blank, whether the letter is the right one."""
    if columns.correct is not None and row.text(columns.correct):
        correct = correct_of(row.text(columns.correct))
        if correct is None:
            raise BadRecord(
                "acc that is neither 0 nor 1",
                f"{row.where(columns.correct)}: {row.cells[columns.correct]!r}",
                expected="0 or 1",
            )
        return correct
    if letter is None:
        raise BadRecord(
            "answer without letter and acc",
            f"{row.where(columns.selected)}: blank, and no acc",
            expected="a letter or acc",
        )
    return letter == question.answer


def _join_confidences(
    answers: dict[tuple[str, str, AnswerKind], Answer], confidences: Mapping[tuple[str, str], str]
) -> None:
    """Gives each confidence to the answer it stands before: the one given alone, else the one given with the AI."""
    kinds: tuple[AnswerKind, AnswerKind] = ("user-alone", "user-AI")
    for (question_id, worker_id), confidence in confidences.items():
        key = next(
            ((question_id, worker_id, kind) for kind in kinds if (question_id, worker_id, kind) in answers), None
        )
        if key is not None and not answers[key].confidence:
            answers[key] = replace(answers[key], confidence=confidence)


FILTERED_OUT = "conversation of an answer that user_answers_filtered.csv leaves out"
_QUESTION_NAMES = ("question_id", "questionID", "qid")  # not "id", which may be the chat's own
_HISTORY_NAMES = ("chat_history", "chatHistory", "messages", "conversation")


@dataclass(frozen=True, slots=True)
class ChatRecord:
    """One record of the list, its keys spelled plainly (`chatHistory` and `chat_history` are one)."""

    file: Path
    number: int
    fields: Mapping[str, object]

    def where(self, key: str = "") -> str:
        """The place as an error names it; records count from 1."""
        return f"{self.file}, record {self.number}" + (f", {key}" if key else "")

    def value(self, names: Sequence[str]) -> object:
        """The value of the first key with one of the names, or None."""
        return next((self.fields[plain_name(n)] for n in names if self.fields.get(plain_name(n)) is not None), None)

    def text(self, names: Sequence[str]) -> str:
        """The same as text; "" where nothing was recorded."""
        value = self.value(names)
        text = "" if value is None else str(value).strip()
        return "" if is_blank(text) else text


@dataclass(frozen=True, slots=True)
class Chats:
    """The conversations in file order, and the answers that only the conversations record."""

    conversations: tuple[Conversation, ...]
    answers: tuple[Answer, ...]


def read_chats(
    path: Path, questions: Mapping[str, Question], table: AnswerTable, intake: Intake, *, filtered: bool
) -> Chats:
    """Reads every chat. Where a record lacks the question, its place in the person's session tells it.

    Args:
        filtered: the answers come from the filtered file, so a chat without an answer there is left out and counted.

    Raises:
        ChatbenchError: the file is missing, half-written, or not a list of records.
        BadRecord: a record is not a chat (unknown role or question, empty, letter outside A-D).
    """
    records = _records(path, intake)
    indices = holds_indices([record.text(SELECTED_NAMES) for record in records])
    given = {(a.question_id, a.worker_id): a for a in table.answers if a.kind == "user-AI"}
    conversations: dict[str, Conversation] = {}
    extra: list[Answer] = []
    for record in records:
        with intake.record():
            worker_id = record.text(("worker_id",))
            if not worker_id:
                raise BadRecord(
                    "conversation without a worker", f"{record.where('worker_id')}: missing", expected="the person's id"
                )
            question_id = _question_id(record, table, may_be_filtered=filtered and bool(given))
            if question_id == ATTENTION_CHECK_ID:
                intake.drop(ATTENTION_CHECK)
                continue
            answer = given.get((question_id, worker_id))
            if filtered and given and answer is None:
                intake.drop(FILTERED_OUT)
                continue
            conversation = _conversation(record, question_id, questions, answer, indices, intake)
            if conversation.id in conversations:
                intake.drop(DUPLICATE_CONVERSATION)
                continue
            if answer is None:
                extra.extend(_answer_of(record, conversation, questions[question_id], intake))
            conversations[conversation.id] = conversation
    return Chats(tuple(conversations.values()), tuple(extra))


def _records(path: Path, intake: Intake) -> list[ChatRecord]:
    content = read_json(path, fix="download the study again; the file is missing or half-written")
    if not isinstance(content, list):
        raise ChatbenchError(
            f"{path}: a {type(content).__name__}",
            expected="a JSON list of conversations",
            fix="download the study again",
        )
    records = []
    for number, item in enumerate(content, start=1):
        with intake.record():
            if not isinstance(item, dict):
                raise BadRecord(
                    "not a record", f"{path}, record {number}: {type(item).__name__}", expected="a JSON object"
                )
            records.append(ChatRecord(path, number, {plain_name(key): value for key, value in item.items()}))
    return records


def _question_id(record: ChatRecord, table: AnswerTable, *, may_be_filtered: bool) -> str:
    """The question's id, or "" for a chat that no answer of the filtered file belongs to."""
    question_id = record.text(_QUESTION_NAMES)
    if question_id:
        return question_id
    place = (record.text(("worker_id",)), number_key(record.value(("batch",))), number_key(record.value(("position",))))
    found = table.questions_at.get(place, set())
    if not found and may_be_filtered:
        return ""
    if len(found) != 1:
        problem = "no user-AI answer" if not found else f"{len(found)} questions"
        raise BadRecord(
            "conversation whose question is not known",
            f"{record.where()}: no question_id, and {problem} at worker, batch, position {', '.join(place)}",
            expected="a question_id, or one row of the answers with the same worker_id, batch and position",
        )
    return next(iter(found))


def _conversation(
    record: ChatRecord,
    question_id: str,
    questions: Mapping[str, Question],
    answer: Answer | None,
    indices: bool,
    intake: Intake,
) -> Conversation:
    question = questions.get(question_id)
    if question is None:
        raise BadRecord(
            "conversation about an unknown question",
            f"{record.where('question_id')}: {question_id!r}",
            expected="an id of questions.csv",
        )
    assistant = record.text(MODEL_NAMES) or (answer.assistant if answer else "")
    if not assistant:
        raise BadRecord(
            "conversation with no assistant named", f"{record.where('model')}: missing", expected="the assistant's name"
        )
    worker_id = record.text(("worker_id",))
    letter = _letter_chatbench_chats(record, question, answer, indices)
    if letter is None:
        intake.note("conversations whose final letter was not recorded: they yield no answer example")
    try:
        return Conversation(
            id=conversation_id(question_id, worker_id),
            question_id=question_id,
            worker_id=worker_id,
            assistant=assistant,
            condition=record.text(("condition",)) or (answer.condition if answer else ""),
            turns=_turns(record, intake),
            answer=letter,
        )
    except ValueError as error:
        raise BadRecord(
            "turns out of order",
            f"{record.where('chat_history')}: {error}",
            expected="a chat that starts with the user, alternates and ends with the assistant",
        ) from error


def _letter_chatbench_chats(record: ChatRecord, question: Question, answer: Answer | None, indices: bool) -> str | None:
    """The letter in the record, else in the answers, else the right one where `acc` is 1, else None."""
    selected = record.text(SELECTED_NAMES)
    if selected:
        letter = letter_of(selected, question.options, indices=indices)
        if letter is None:
            raise BadRecord(
                "letter outside A-D", f"{record.where('selected_answer')}: {selected!r}", expected="A, B, C or D"
            )
        return letter
    if answer is not None:
        return answer.letter
    return question.answer if correct_of(record.text(("acc",))) else None


def _turns(record: ChatRecord, intake: Intake) -> tuple[Turn, ...]:
    history = record.value(_HISTORY_NAMES)
    if isinstance(history, str):
        try:
            history = json.loads(history)
        except json.JSONDecodeError:
            history = None
    if not isinstance(history, list):
        raise BadRecord(
            "no chat history",
            f"{record.where('chat_history')}: {type(history).__name__}",
            expected="a list of {role, content}",
        )
    if history and _role_name(history[0]) == "system":
        history = history[1:]
        intake.note("conversations led by a system message, which is no turn of the chat")
    if not history:
        raise BadRecord(
            "empty conversation",
            f"{record.where('chat_history')}: no message",
            expected="at least one message and its reply",
        )
    return tuple(_turn(record, index, item, intake) for index, item in enumerate(history))


def _role_name(item: object) -> str:
    return str(item.get("role", "")) if isinstance(item, dict) else ""


def _turn(record: ChatRecord, index: int, item: object, intake: Intake) -> Turn:
    where = record.where(f"chat_history[{index}]")
    role = role_of(_role_name(item))
    if role is None:
        raise BadRecord("unknown role", f"{where}: role {_role_name(item)!r}", expected=EXPECTED_ROLES)
    content = (
        next((item[k] for k in ("content", "text", "message") if k in item), None) if isinstance(item, dict) else None
    )
    if not isinstance(content, str):
        raise BadRecord("message without text", f"{where}: content {content!r}", expected="text")
    if not content.strip():
        if role == "user":
            raise BadRecord("empty user message", f"{where}: no text", expected="what the user wrote")
        intake.note("empty assistant messages, kept as they were")
    return Turn(role, content)


def _answer_of(record: ChatRecord, conversation: Conversation, question: Question, intake: Intake) -> list[Answer]:
    """The final answer as the chat's own record states it, for a chat that the answers' table does not hold."""
    correct = correct_of(record.text(("acc",)))
    if correct is None and conversation.answer is None:
        intake.note("conversations without a recorded answer")
        return []
    intake.note("answers taken from conversations.json, because the answers' table has no row for them")
    right = conversation.answer == question.answer if correct is None else correct
    return [
        Answer(
            conversation.question_id,
            conversation.worker_id,
            "user-AI",
            conversation.assistant,
            conversation.condition,
            conversation.answer,
            right,
        )
    ]


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
