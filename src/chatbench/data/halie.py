"""HALIE's question-answering study (`event_blocks.csv`): people answered MMLU questions alone or with a language model.

A row is one question in one person's session: `ctrl` (alone), `lm` (with the model) or `attn` (attention check, left
out and counted). It differs from ChatBench in four ways:

- letters are lower case;
- the models complete text and do not see earlier turns, so some replies are empty: kept as they were, and counted;
- a person may answer an `lm` question without asking: an answer without a conversation, counted in the notes;
- a blank query is not a message: it and its reply are left out of the chat, and counted in the notes.

Source: Lee et al. 2022, arXiv 2212.09746; repository stanford-crfm/halie, `data/std/question/`, Apache-2.0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from chatbench.core.errors import ChatbenchError
from chatbench.core.progress import tracked
from chatbench.core.records import FOUR_LETTERS, Answer, AnswerKind, Question, Study, Turn
from chatbench.data.tables import ATTENTION_CHECK, Intake, LeftOut, Row, correct_of, literal_list, read_table

FILE_NAME = "event_blocks.csv"
CONDITION = "direct-to-AI"
_COLUMNS = (
    "worker_id", "model", "question_id", "question_type", "question_category", "question_text",
    "choice_a", "choice_b", "choice_c", "choice_d", "answer", "lm_used", "user_queries", "lm_responses",
    "user_answer", "user_correct",
)  # fmt: skip
_KINDS: dict[str, AnswerKind] = {"ctrl": "user-alone", "lm": "user-AI"}


def read_halie(path: Path, *, skip_bad_records: bool = False, maps: Sequence[str] = ()) -> Study:
    """Read the study in `event_blocks.csv` (or in the folder that holds it).

    Raises:
        ChatbenchError: the file is missing, damaged or lacks columns; or a row is bad and bad ones are not skipped.
    """
    file = path / FILE_NAME if path.is_dir() else path
    intake = Intake(skip_bad_records=skip_bad_records, maps=maps)
    spellings = {column: (column,) for column in _COLUMNS}
    table = read_table(file, intake, spellings, fix="get the file with: chatbench download halie")
    table.require(**{column: column.replace("_", " ") for column in _COLUMNS})
    for row in tracked(table.rows, f"reading {file.name}", "rows"):
        with intake.record():
            _read_row(row, intake)
    if not intake.questions:
        raise ChatbenchError(f"{file}: no questions", expected="rows of type ctrl or lm", fix="download the file again")
    return intake.study("halie")


def _read_row(row: Row, intake: Intake) -> None:
    kind_name = row.needed("question_type")
    if kind_name == "attn":
        raise LeftOut(ATTENTION_CHECK)
    if kind_name not in _KINDS:
        raise row.unknown("unknown kind of answer", "question_type", expected="ctrl, lm or attn")
    kind = _KINDS[kind_name]
    subset = re.sub(r"[^a-z0-9]+", "_", row.needed("question_category").lower()).strip("_")
    a, b, c, d = (row.needed(f"choice_{letter}") for letter in "abcd")
    question_id = f"{subset}-halie-{row.needed('question_id')}"
    question = Question(question_id, subset, row.needed("question_text"), (a, b, c, d), _letter(row, "answer"))
    if intake.questions.get(question_id, question) != question:
        found = f"{question_id!r} with different text"
        raise row.bad("duplicate question id", "question_id", found=found, expected="one text per id")
    correct = correct_of(row.needed("user_correct"))
    if correct is None:
        raise row.bad("user_correct that is neither 0 nor 1", "user_correct", expected="0 or 1")
    worker_id, assistant, letter = row.needed("worker_id"), row.needed("model"), _letter(row, "user_answer")
    turns = _turns(row, intake)
    if kind == "user-alone" and turns:
        intake.note("answers alone whose row holds queries: kept as answers alone, the queries left out")
    elif kind == "user-AI" and not turns and row.text("lm_used") == "1":
        intake.note("answers with lm_used=1 but no query: no conversation")
    elif kind == "user-AI" and not turns:
        intake.note("user-AI answers without asking (lm_used=0)")
    answer = Answer(question_id, worker_id, kind, assistant, CONDITION, letter, correct)
    intake.add_answer(answer)
    intake.questions[question_id] = question
    if kind == "user-AI" and turns:
        intake.add_conversation(row.conversation("user_queries", turns, answer))


def _letter(row: Row, column: str) -> str:
    letter = row.needed(column).upper()
    if letter not in FOUR_LETTERS:
        raise row.bad("letter outside A-D", column, expected="a, b, c or d")
    return letter


def _turns(row: Row, intake: Intake) -> tuple[Turn, ...]:
    """Parse the turns: each query is a user turn, each response an assistant turn."""
    texts: dict[str, list[str]] = {}
    for column in ("user_queries", "lm_responses"):
        values = literal_list(str(row.value(column)))
        if values is None or not all(isinstance(value, str) for value in values):
            raise row.bad("not a list of texts", column, expected="a Python list of strings")
        texts[column] = [str(value) for value in values]
    queries, responses = texts.values()
    if len(queries) != len(responses):
        found = f"{len(responses)} responses to {len(queries)} queries"
        reason = "queries and responses of unequal number"
        raise row.bad(reason, "lm_responses", found=found, expected="one response per query")
    turns: list[Turn] = []
    for query, response in zip(queries, responses, strict=True):
        if not query.strip():
            intake.note("blank queries, left out with their replies")
            continue
        if not response.strip():
            intake.note("empty assistant messages, kept as they were")
        turns += [Turn("user", query), Turn("assistant", response)]
    return tuple(turns)
