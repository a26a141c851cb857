"""Open a study in any known format, and summarise it; the reader of HALIE's question-answering study.

HALIE (`event_blocks.csv`): people answered MMLU questions alone or with a language model. A row is one question in one
person's session: `ctrl` (alone), `lm` (with the model) or `attn` (attention check, left out and counted). It differs
from ChatBench in four ways:

- letters are lower case;
- the models complete text and do not see earlier turns, so some replies are empty: kept as they were, and counted;
- a person may answer an `lm` question without asking: an answer without a conversation, counted in the notes;
- a blank query is not a message: it and its reply are left out of the chat, and counted in the notes.

Source: Lee et al. 2022, arXiv 2212.09746; repository stanford-crfm/halie, `data/std/question/`, Apache-2.0.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from chatbench.core.answer_kinds import Text
from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_jsonl
from chatbench.core.progress import tracked
from chatbench.core.records import FOUR_LETTERS, Answer, AnswerKind, Question, Study, Turn
from chatbench.data import chatbench_format as chatbench
from chatbench.data.tables import ATTENTION_CHECK, Intake, LeftOut, Row, correct_of, literal_list, read_table
from chatbench.metrics.names import EVERY_ASSISTANT, MEAN_OF_ASSISTANTS

_EXPECTED = "a folder with questions.csv (ChatBench layout), event_blocks.csv (HALIE), or a .jsonl of your own chats"
_HALIE_FILE = "event_blocks.csv"
NO_ENDS = (
    "no answer to learn from: simulators will not end chats by themselves; record what people handed in as their answer"
)
_OWN_FILE = "study.jsonl"
_HALIE_CONDITION = "direct-to-AI"
_HALIE_COLUMNS = (
    "worker_id", "model", "question_id", "question_type", "question_category", "question_text",
    "choice_a", "choice_b", "choice_c", "choice_d", "answer", "lm_used", "user_queries", "lm_responses",
    "user_answer", "user_correct",
)  # fmt: skip
_HALIE_KINDS: dict[str, AnswerKind] = {"ctrl": "user-alone", "lm": "user-AI"}


def open_study(
    path: Path, *, skip_bad_records: bool = False, include_pilots: bool = False, maps: Sequence[str] = ()
) -> Study:
    """Open the study at `path`, whose format is detected from its files.

    Args:
        skip_bad_records: leave bad records out and count them by reason in `Study.dropped`, instead of stopping.
        include_pilots: also read the pilots of a ChatBench folder; other formats have none.
        maps: what values mean, as in `answer_type.userAnswer=user-alone`: column, value, meaning.

    Raises:
        ChatbenchError: the path does not exist, is not a study in a known format, or has damaged files.
    """
    if not path.exists():
        fix = "check the path, or make a study with: chatbench sample STUDY"
        raise ChatbenchError(f"{path}: no such file or folder", expected=_EXPECTED, fix=fix)
    study = _read(_own_file(path), skip_bad_records=skip_bad_records, include_pilots=include_pilots, maps=maps)
    if taken := sorted({EVERY_ASSISTANT, MEAN_OF_ASSISTANTS} & {*study.assistants}):
        raise ChatbenchError(f"{path}: an assistant is called {taken[0]!r}, as totals are", fix="give it another name")
    return study


def _read(path: Path, *, skip_bad_records: bool, include_pilots: bool, maps: Sequence[str]) -> Study:
    importing = f"chatbench import {shlex.quote(str(path)) if path.is_file() else 'FILE'}"
    if (path / chatbench.QUESTIONS).is_file():
        return chatbench.read_chatbench_folder(
            path, skip_bad_records=skip_bad_records, include_pilots=include_pilots, maps=maps
        )
    if path.name == _HALIE_FILE or (path / _HALIE_FILE).is_file():
        return read_halie(path, skip_bad_records=skip_bad_records, maps=maps)
    if holds_examples(path):
        fix = "split them with: chatbench prepare-splits; finetune and eval-ppl need nothing else"
        fix += f"; or, if they are chats of another program, import them: {importing}"
        raise ChatbenchError(f"{path}: holds training examples, not people's answers", expected=_EXPECTED, fix=fix)
    if path.suffix == ".jsonl":
        from chatbench.data.own_chats import read_chat_jsonl  # lazy: imports pydantic

        return read_chat_jsonl(path, skip_bad_records=skip_bad_records, maps=maps)
    fix = f"check the path; or import a file of another program: {importing}"
    raise ChatbenchError(f"{path}: not a study in a known format", expected=_EXPECTED, fix=fix)


def find_study(folder: Path) -> Path:
    """Find the one study in a folder's `data/` or `studies/`: the subfolder itself, or something in it.

    Raises:
        ChatbenchError: there is none, or more than one.
    """
    places = [folder / name for name in ("data", "studies")]
    paths = (_own_file(each) for place in places for each in (place, *sorted(place.glob("*"))))
    found = [each for each in dict.fromkeys(paths) if _is_study(each)]
    found = [each for each in found if each.parent not in found]  # not the file that makes its folder a study
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(str(path) for path in found)
        raise ChatbenchError(f"{len(found)} studies: {shown}", expected="one", fix="name it: --study STUDY")
    raise ChatbenchError(
        f"no study in {places[0]} or {places[1]}",
        expected=_EXPECTED,
        fix="get one: chatbench download chatbench (or: chatbench sample studies/sample); or name yours: --study STUDY",
    )


def _own_file(path: Path) -> Path:
    """`study.jsonl` in a folder without any other study file, as `collect export` may write it; else the path."""
    if any((path / name).is_file() for name in (chatbench.QUESTIONS, _HALIE_FILE)):
        return path
    return path / _OWN_FILE if [each.name for each in path.glob("*.jsonl")] == [_OWN_FILE] else path


def _is_study(path: Path) -> bool:
    if path.suffix == ".jsonl" and path.is_file():
        first = next(read_jsonl(path), (0, {}))[1]
        return bool({"messages", "prompt", "kind"} & first.keys())
    return any((path / name).is_file() for name in (chatbench.QUESTIONS, _HALIE_FILE)) or path.name == _HALIE_FILE


def holds_examples(path: Path) -> bool:
    """Whether a file holds training examples instead of study records.

    Raises:
        ChatbenchError: it holds chats of another program, which `import` reads.
    """
    first = next(read_jsonl(path), (0, {}))[1] if path.suffix == ".jsonl" and path.is_file() else {}
    logged = next((first[key] for key in ("messages", "conversations", "conversation") if key in first), None)
    if isinstance(logged, list) and "kind" not in first:
        roles = [message.get("role") if isinstance(message, dict) else None for message in logged]
        if roles != ["system", "user", "assistant"] or "messages" not in first:
            found, fix = f"{path}: holds chats of another program", f"chatbench import {shlex.quote(str(path))}"
            raise ChatbenchError(found, expected=_EXPECTED, fix=f"import them: {fix}")
    return bool({"messages", "prompt"} & first.keys())


def summary_text(study: Study) -> str:
    """Summarise a study as a plain-text table, one fact per line."""
    turns = [conversation.user_turns for conversation in study.conversations] or [0]
    chats = (f"{c.assistant}, {c.condition}" if c.condition else c.assistant for c in study.conversations)
    sections: list[tuple[str, Sequence[tuple[str, str]]]] = [
        ("questions", _lines(q.subset for q in study.questions.values())),
        ("conversations", _lines(chats)),
        ("user turns", [("mean", f"{sum(turns) / len(turns):.2f}"), ("max", str(max(turns)))]),
        ("answers", _lines(answer.kind for answer in study.answers)),
        ("accuracy", _accuracies(study.answers)),
        ("unmatched texts", _other_texts(study)),
        ("AI-alone scores", _lines(score.method for score in study.ai_alone)),
        ("left out", _lines(Counter(study.dropped).elements()) or [("nothing", "0")]),
    ]
    filled = [(title, lines) for title, lines in sections if lines]
    label_width = max(len(label) for _, lines in filled for label, _ in lines)
    value_width = max(len(value) for _, lines in filled for _, value in lines)
    rows = [f"study {study.name}"]
    for title, lines in filled:
        for index, (label, value) in enumerate(lines):
            rows.append(f"  {title if index == 0 else '':<15}  {label:<{label_width}}  {value:>{value_width}}")
    endless = bool(study.conversations) and all(chat.answer is None for chat in study.conversations)
    rows += [f"  note: {note}" for note in (*study.notes, *[NO_ENDS] * endless)]
    return "\n".join(rows)


def _lines(values: Iterable[str]) -> list[tuple[str, str]]:
    """One line per value with its count, after the total if there are several values."""
    counts = dict(sorted(Counter(values).items()))
    total = [("all", str(sum(counts.values())))] if len(counts) > 1 else []
    return [*total, *((label, str(count)) for label, count in counts.items())]


def _accuracies(answers: Iterable[Answer]) -> list[tuple[str, str]]:
    """One line per assistant with the share of people's answers that are right, and one for people alone."""
    scores: dict[str, list[float]] = {}
    for answer in answers:
        scores.setdefault(answer.assistant if answer.kind == "user-AI" else answer.kind, []).append(answer.correct)
    return [(name, f"{100 * sum(each) / len(each):.1f} % of {len(each)}") for name, each in sorted(scores.items())]


def _other_texts(study: Study) -> list[tuple[str, str]]:
    """The most frequent texts that match no right answer; a wrong mapping shows here."""
    questions = ((answer.letter, study.questions[answer.question_id]) for answer in study.answers)
    texts = [
        (given, q.answer) for given, q in questions if given and isinstance(q.kind, Text) and not q.is_right(given)
    ]
    most = Counter(texts).most_common(3)
    return [(f"{given!r:.40} for {right!r:.40}", str(count)) for (given, right), count in most]


def read_halie(path: Path, *, skip_bad_records: bool = False, maps: Sequence[str] = ()) -> Study:
    """Read the study in `event_blocks.csv` (or in the folder that holds it).

    Raises:
        ChatbenchError: the file is missing, damaged or lacks columns; or a row is bad and bad ones are not skipped.
    """
    file = path / _HALIE_FILE if path.is_dir() else path
    intake = Intake(skip_bad_records=skip_bad_records, maps=maps)
    spellings = {column: (column,) for column in _HALIE_COLUMNS}
    table = read_table(file, intake, spellings, fix="get the file with: chatbench download halie")
    table.require(**{column: column.replace("_", " ") for column in _HALIE_COLUMNS})
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
    if kind_name not in _HALIE_KINDS:
        raise row.unknown("unknown kind of answer", "question_type", expected="ctrl, lm or attn")
    kind = _HALIE_KINDS[kind_name]
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
    answer = Answer(question_id, worker_id, kind, assistant, _HALIE_CONDITION, letter, correct)
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
