"""The ChatBench layout: what is written is read back, variants are understood, and bad files say where and why."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.study_files import chat, question, tiny_folder, tiny_study

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import AiAloneScore, Answer, Study
from chatbench.data.chatbench_format import CONFIDENCE_AGAIN, CONFIDENCE_ALONE, read_chatbench_folder
from chatbench.data.prepare_splits import prepare_splits
from chatbench.data.workspace import Workspace
from chatbench.sample.study import write_chatbench_folder

Record = dict[str, object]


def edit_table(path: Path, change: Callable[[list[dict[str, str]]], list[dict[str, str]]]) -> None:
    with path.open(newline="") as file:
        rows = change(list(csv.DictReader(file)))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def rename(path: Path, names: dict[str, str]) -> None:
    edit_table(path, lambda rows: [{names.get(key, key): value for key, value in row.items()} for row in rows])


def set_cell(path: Path, row: int, column: str, value: str) -> None:
    """`row` as a spreadsheet counts: the header is row 1."""

    def change(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        rows[row - 2][column] = value
        return rows

    edit_table(path, change)


def edit_chats(folder: Path, change: Callable[[list[Record]], object]) -> None:
    path = folder / "full_study" / "conversations.json"
    records = json.loads(path.read_text())
    change(records)
    path.write_text(json.dumps(records))


def both_answer_files(folder: Path) -> list[Path]:
    return [folder / "full_study" / name for name in ("user_answers.csv", "user_answers_filtered.csv")]


def edit_answers(folder: Path, change: Callable[[list[dict[str, str]]], list[dict[str, str]]]) -> None:
    for path in both_answer_files(folder):
        edit_table(path, change)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_folder(tmp_path / "tiny")


def test_a_written_study_is_read_back_equal(folder: Path) -> None:
    assert read_chatbench_folder(folder) == tiny_study()


def test_the_written_files_have_the_names_and_columns_of_the_published_layout(folder: Path) -> None:
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    header = (folder / "full_study" / "user_answers.csv").read_text().splitlines()[0].split(",")
    first = json.loads((folder / "full_study" / "conversations.json").read_text())[0]

    assert files == [
        "ai_alone_answers.csv",
        "full_study/conversations.json",
        "full_study/user_answers.csv",
        "full_study/user_answers_filtered.csv",
        "questions.csv",
    ]
    assert header[:6] == ["question_id", "worker_id", "model", "condition", "subject", "batch"]
    assert first["subject"] == "math"
    assert first["chat_history"][0] == {"role": "user", "content": "ask 0"}


def test_valid_accuracy_leaves_the_invalid_samples_out(folder: Path) -> None:
    # 38 % of 50 are 19 right; without the 3 invalid ones that is 19/47.
    with (folder / "ai_alone_answers.csv").open(newline="") as file:
        row = next(csv.DictReader(file))

    assert float(row["free_text_acc_valid"]) == pytest.approx(19 / 47)


def test_what_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    study = tiny_study()
    twice = Study("x", study.questions, study.conversations, (*study.answers, study.answers[0]))
    lonely = Study("x", study.questions, study.conversations, ())

    with pytest.raises(ValueError, match="share worker, question and kind"):
        write_chatbench_folder(twice, tmp_path)
    with pytest.raises(ValueError, match="without a user-AI answer"):
        write_chatbench_folder(lonely, tmp_path)
    assert not list(tmp_path.iterdir())


LETTERED = {f"choice_{letter}": f"option_{letter}" for letter in "abcd"}


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("questions.csv", {"question_id": "questionID", "question": "question_text", "answer": "correct_answer"}),
        ("questions.csv", {"question_id": "id", **{f"choice_{letter}": letter.upper() for letter in "abcd"}}),
        ("questions.csv", {**LETTERED, "answer": "gold"}),
        ("answers", {"answer_type": "type", "selected_answer": "answer", "question_id": "questionID"}),
        ("answers", {"answer_type": "kind", "selected_answer": "selectedAnswer", "acc": "correct"}),
    ],
)
def test_column_names_may_vary(folder: Path, file: str, names: dict[str, str]) -> None:
    for path in both_answer_files(folder) if file == "answers" else [folder / file]:
        rename(path, names)

    assert read_chatbench_folder(folder) == tiny_study()


@pytest.mark.parametrize("as_list", [json.dumps, repr])
def test_options_may_be_one_list(folder: Path, as_list: Callable[[list[str]], str]) -> None:
    def change(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        for row in rows:
            row["choices"] = as_list([row.pop(f"choice_{letter}") for letter in "abcd"])
        return rows

    edit_table(folder / "questions.csv", change)

    assert read_chatbench_folder(folder).questions == tiny_study().questions


def set_keys(folder: Path, keys: str, options: tuple[str, ...] | None = None) -> None:
    """Answers of questions.csv, one character a question from the first on, "B" where there is none."""

    def change(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        for row, key in zip(rows, keys.split() if " " in keys else keys.ljust(len(rows), keys[-1]), strict=False):
            row["answer"] = key
            row |= dict(zip(("choice_a", "choice_b", "choice_c", "choice_d"), options or (), strict=False))
        return rows

    edit_table(folder / "questions.csv", change)


@pytest.mark.parametrize(
    ("keys", "options", "letters"),
    [
        ("0123012301", None, "ABCDABCDAB"),
        ("1234123412", None, "ABCDABCDAB"),
        ("1.0 2.0 3.0 4.0 1.0 2.0 3.0 4.0 1.0 2.0", None, "ABCDABCDAB"),
        ("2 30 30 30 30 30 30 30 30 30", ("17", "30", "41", "2"), "DBBBBBBBBB"),  # texts of options
        ("1234123412", ("1", "2", "3", "4"), "ABCDABCDAB"),  # text and number give the same letters
        ("abcdABCDab", None, "ABCDABCDAB"),
    ],
)
def test_what_numbers_mean_is_told_by_the_whole_column(
    folder: Path, keys: str, options: tuple[str, ...] | None, letters: str
) -> None:
    set_keys(folder, keys, options)
    study = read_chatbench_folder(folder)

    assert "".join(question.answer for question in study.questions.values()) == letters
    assert any("counted from 1 (1 is A)" in note for note in study.notes) == (keys[0] == "1" and options is None)


@pytest.mark.parametrize(
    ("keys", "options"),
    [
        ("1231231231", None),  # from 0 or from 1
        ("0123401234", None),  # neither
        ("1321321321", ("2", "1", "3", "4")),  # a place, or the text of an option
        ("1239", None),  # a bad cell makes nothing clear
    ],
)
def test_numbers_that_could_mean_two_things_are_refused_whatever_is_skipped(
    folder: Path, keys: str, options: tuple[str, ...] | None
) -> None:
    set_keys(folder, keys, options)

    with pytest.raises(ChatbenchError, match=r"questions\.csv, column 'answer': numbers .* it holds \d+ x '"):
        read_chatbench_folder(folder, skip_bad_records=True)
    maps = [f"answer.{number}={letter}" for number, letter in zip("123", "ABC", strict=True)]
    if keys == "1231231231":
        questions = read_chatbench_folder(folder, maps=maps).questions
        assert "".join(question.answer for question in questions.values()) == "ABCABCABCA"


def test_a_number_beyond_the_options_is_a_bad_record_of_a_clear_column(folder: Path) -> None:
    set_keys(folder, "0123012309")

    assert "row 11, column 'answer': '9'" in message_of(folder)
    kept = read_chatbench_folder(folder, skip_bad_records=True).questions
    assert "".join(question.answer for question in kept.values()) == "ABCDABCDA"


def test_chosen_answers_that_are_numbers_are_read_as_carefully(folder: Path) -> None:
    def number(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        return [{**row, "selected_answer": str("ABCD".index(row["selected_answer"]) + 1)} for row in rows]

    edit_answers(folder, number)
    assert read_chatbench_folder(folder).answers == tiny_study().answers
    edit_chats(folder, lambda records: [record.update(selected_answer=2) for record in records])

    assert "conversations.json, key 'selected_answer': numbers that could mean more than one" in message_of(folder)


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("full_study/user_answers_filtered.csv", "acc", "2"),  # with 1: right or wrong
        ("ai_alone_answers.csv", "free_text_acc", "38"),  # a percentage: then 1 is one
    ],
)
def test_a_number_that_gives_the_others_another_meaning_is_refused_whatever_is_skipped(
    folder: Path, name: str, column: str, value: str
) -> None:
    set_cell(folder / name, 3, column, value)

    with pytest.raises(ChatbenchError, match=rf"column '{column}': '{value}'; it holds"):
        read_chatbench_folder(folder, skip_bad_records=True)


def test_values_can_be_exchanged_by_map(folder: Path) -> None:
    # Mapped one after the other, both would be the same.
    maps = ["acc.0=1", "acc.1=0"]

    assert [a.correct for a in read_chatbench_folder(folder, maps=maps).answers] == [
        not a.correct for a in tiny_study().answers
    ]


def test_the_words_of_the_authors_own_files_are_understood(folder: Path) -> None:
    kinds = {"user-alone": "userAnswer", "user-AI": "userAIAnswer"}

    def internal(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        return [
            {
                **{key: value for key, value in row.items() if key not in ("answer_type", "question_id", "position")},
                "questionID": row["question_id"],
                "question_position": row["position"],
                "event": f"pretest_{place}_{kinds[row['answer_type']]}_answer",
                "condition": "answerFirst_allowCopy",
            }
            for place, row in enumerate(rows)
        ]

    edit_answers(folder, internal)
    edit_chats(folder, lambda records: [record.update(condition="answerFirst") for record in records])
    alone = {
        f"{method}_{new}": f"{method}_{old}"
        for method in ("letter_only_zero_shot", "free_text")
        for new, old in (("mean", "acc"), ("count", "count"))
    }
    edit_table(
        folder / "ai_alone_answers.csv",
        lambda rows: [
            {"questionID": row["question_id"], "model": row["model"], "dataset": "x"}
            | {new.replace("free_text", "copy_and_paste"): row[old] for new, old in alone.items()}
            for row in rows
        ],
    )
    study, tiny = read_chatbench_folder(folder), tiny_study()

    assert (study.answers, study.conversations) == (tiny.answers, tiny.conversations)
    assert [(s.method, s.accuracy, s.count) for s in study.ai_alone] == [
        (s.method, s.accuracy, s.count) for s in tiny.ai_alone
    ]
    assert "20 x rows of condition 'answerFirst_allowCopy', which is answer-first" in study.notes
    edit_chats(folder, lambda records: [record.update(condition="onlyAI_allowCopy") for record in records])
    assert {chat.condition for chat in read_chatbench_folder(folder).conversations} == {"direct-to-AI"}


def test_an_unknown_word_is_shown_with_all_words_of_its_column_and_settled_by_map(folder: Path) -> None:
    edit_answers(
        folder, lambda rows: [{**row, "answer_type": row["answer_type"].replace("user-AI", "mit KI")} for row in rows]
    )
    message = message_of(folder)

    assert "row 3, column 'answer_type': 'mit KI'; the column holds 10 x 'user-alone', 10 x 'mit KI'" in message
    assert "--map 'answer_type.mit KI=" in message
    maps = ["answer_type.mit KI=user-AI"]
    assert read_chatbench_folder(folder, maps=maps) == tiny_study()
    edit_chats(folder, lambda records: [history(record)[1].update(role="Llama") for record in records])
    with pytest.raises(ChatbenchError, match=r"record 1, key 'chat_history\[1\]': role 'Llama'.* 10 x 'Llama'"):
        read_chatbench_folder(folder, maps=maps)
    assert read_chatbench_folder(folder, maps=[*maps, "role.Llama=assistant"]) == tiny_study()


@pytest.mark.parametrize("text", ["answer_type.guess=user-AI", "answer_type", "x=y"])
def test_a_map_that_maps_nothing_is_refused(folder: Path, text: str) -> None:
    with pytest.raises(ChatbenchError, match="--map"):
        read_chatbench_folder(folder, maps=[text])


def test_ids_may_hold_and_differ_in_anything(tmp_path: Path) -> None:
    # Joined by "|" without a care, ("a|b", "c") and ("a", "b|c") would be one chat; é is written in two ways.
    pairs = [
        ("a|b", "c"),
        ("a", "b|c"),
        ("a\\|b", "c"),
        ("é", "W"),
        ("e\u0301", "w"),
        ("é", "w"),
        ("=1", "-w"),
        ("É" * 300, "/../x"),
    ]
    questions = {q: replace(question(n), id=q) for n, q in enumerate(dict.fromkeys(q for q, _ in pairs))}
    chats = tuple(chat(questions[q], worker) for q, worker in pairs)
    answers = [Answer(c.question_id, c.worker_id, "user-AI", "gpt-4o", c.condition, "B", True, "", c.id) for c in chats]
    scores = [AiAloneScore(q, "=m", "free_text", 50, 0.5) for q in questions]
    study = Study("ids", questions, chats, tuple(answers), tuple(scores))
    write_chatbench_folder(study, tmp_path / "ids")
    prepare_splits(tmp_path / "ids", tmp_path / "data", splits=1)
    place = Workspace(tmp_path / "data")

    assert place.study == study
    assert len({chat.id for chat in study.conversations}) == 8
    rows = [*place.examples("split_0", "train"), *place.examples("split_0", "test")]
    assert {row.conversation_id for row in rows} == {chat.id for chat in study.conversations}


def test_half_a_character_is_replaced_and_noted(folder: Path) -> None:
    edit_chats(folder, lambda records: history(records[0])[0].update(content="hm \ud83d"))
    study = read_chatbench_folder(folder)

    assert study.conversations[0].turns[0].text == "hm \ufffd"
    assert study.notes == ("1 x half characters (lone surrogates), replaced by U+FFFD",)


def test_what_spreadsheets_make_of_a_table_is_read(folder: Path) -> None:
    for path in (folder / "questions.csv", *both_answer_files(folder)):
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            csv.writer(file, delimiter=";").writerows([*rows, [""] * len(rows[0]), [" "] * len(rows[0])])

    assert read_chatbench_folder(folder) == tiny_study()


def test_two_columns_of_one_name_are_refused(folder: Path) -> None:
    text = (folder / "questions.csv").read_text()
    (folder / "questions.csv").write_text(text.replace("subject,subset", "Answer,subset", 1))

    assert "row 1: more than one column 'answer'" in message_of(folder).replace("'Answer'", "'answer'")


def test_the_kind_of_answer_may_stand_under_phase(folder: Path) -> None:
    def change(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        return [{**{k: v for k, v in row.items() if k != "answer_type"}, "phase": row["answer_type"]} for row in rows]

    edit_answers(folder, change)

    assert read_chatbench_folder(folder).answers == tiny_study().answers


@pytest.mark.parametrize("roles", [("You", "Bot"), ("User", "AI"), ("human", "assistant")])
def test_roles_and_keys_of_conversations_may_vary(folder: Path, roles: tuple[str, str]) -> None:
    def change(records: list[Record]) -> None:
        for record in records:
            history = record.pop("chat_history")
            assert isinstance(history, list)
            record["chatHistory"] = [{"role": roles[i % 2], "content": m["content"]} for i, m in enumerate(history)]
            record["questionID"], record["selectedAnswer"] = record.pop("question_id"), record.pop("selected_answer")

    edit_chats(folder, change)

    assert read_chatbench_folder(folder) == tiny_study()


def test_a_chat_without_question_model_and_letter_finds_them_at_its_place_in_the_session(folder: Path) -> None:
    def change(records: list[Record]) -> None:
        for record in records:
            for key in ("question_id", "model", "condition", "selected_answer"):
                del record[key]

    edit_chats(folder, change)

    assert read_chatbench_folder(folder) == tiny_study()


def test_a_letter_that_was_not_recorded_is_the_right_one_where_acc_is_1_and_unknown_otherwise(folder: Path) -> None:
    edit_answers(folder, lambda rows: [{k: v for k, v in row.items() if k != "selected_answer"} for row in rows])
    edit_chats(folder, lambda records: [record.pop("selected_answer") for record in records])
    study = read_chatbench_folder(folder)

    # Chosen were A B C D A B C D A B and B is right everywhere: three right, seven unknown.
    assert [c.answer for c in study.conversations] == [None, "B", None, None, None, "B", None, None, None, "B"]
    assert "7 x conversations whose final letter was not recorded: they yield no answer example" in study.notes


def test_the_attention_check_is_left_out_and_counted(folder: Path) -> None:
    for path in both_answer_files(folder):
        set_cell(path, 2, "question_id", "example-1")
    study = read_chatbench_folder(folder)

    assert study.dropped == {"attention check": 1}
    assert len(study.answers) == 19


def test_the_filtered_answers_are_preferred_and_the_chats_of_the_others_are_counted(folder: Path) -> None:
    edit_table(
        folder / "full_study" / "user_answers_filtered.csv", lambda rows: rows[:-2]
    )  # the last person's two answers
    study = read_chatbench_folder(folder)

    assert len(study.answers) == 18
    assert len(study.conversations) == 9
    assert study.dropped == {"conversation of an answer that user_answers_filtered.csv leaves out": 1}


def test_a_repeated_answer_is_counted_and_the_first_is_kept(folder: Path) -> None:
    edit_answers(folder, lambda rows: [*rows, {**rows[0], "selected_answer": "C", "acc": "0"}])
    study = read_chatbench_folder(folder)

    assert study.answers == tiny_study().answers
    assert sum(study.dropped.values()) == 1


def test_answers_missing_from_the_unfiltered_table_are_taken_from_the_chats(folder: Path) -> None:
    filtered = folder / "full_study" / "user_answers_filtered.csv"
    filtered.unlink()
    edit_table(
        folder / "full_study" / "user_answers.csv", lambda rows: [r for r in rows if r["answer_type"] == "user-alone"]
    )
    study = read_chatbench_folder(folder)

    assert sorted(study.answers, key=repr) == sorted(tiny_study().answers, key=repr)
    assert study.notes[0].startswith("10 x answers taken from conversations.json")


def test_confidence_rows_join_the_answer_they_stand_before(folder: Path) -> None:
    def change(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        rows = [{**row, "confidence": ""} for row in rows]
        return [{**rows[0], "answer_type": "confidence", "selected_answer": "very-confident", "acc": ""}, *rows]

    edit_answers(folder, change)

    assert read_chatbench_folder(folder).answers[0].confidence == "very-confident"
    assert len(read_chatbench_folder(folder).answers) == 20


def test_confidence_that_belongs_to_no_answer_or_comes_again_is_counted(folder: Path) -> None:
    def change(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        rows = [{**row, "confidence": ""} for row in rows]
        rated = {**rows[0], "answer_type": "confidence", "selected_answer": "very-confident", "acc": ""}
        again, stranger = {**rated, "selected_answer": "unsure"}, {**rated, "worker_id": "nobody"}
        return [rated, again, stranger, {**rated, "question_id": "unknown-redux-9"}, *rows]

    edit_answers(folder, change)
    study = read_chatbench_folder(folder)

    assert study.answers[0].confidence == "very-confident"
    assert dict(study.dropped) == {CONFIDENCE_ALONE: 2, CONFIDENCE_AGAIN: 1}


def test_a_chat_whose_letter_is_not_that_of_the_answers_is_noted(folder: Path) -> None:
    first = tiny_study().conversations[0]
    assert first.answer != "D"
    edit_chats(folder, lambda records: records[0].update(selected_answer="D"))
    study = read_chatbench_folder(folder)

    assert study.conversations[0].answer == "D"
    assert study.answers == tiny_study().answers
    assert study.notes == (
        "1 x chats whose letter is not that of the answers' table: the chat's is trained on, the table's scored",
    )


def test_pilots_are_read_only_when_asked_for(folder: Path) -> None:
    of = question(0)
    pilot_chat = chat(of, "pilot-worker")
    answer = Answer(of.id, "pilot-worker", "user-AI", "gpt-4o", "answer-first", "B", True, "", pilot_chat.id)
    write_chatbench_folder(Study("p", {of.id: of}, (pilot_chat,), (answer,)), folder.parent / "p")
    (folder.parent / "p" / "full_study").rename(folder / "pilot_1_no_incentives")

    assert len(read_chatbench_folder(folder).conversations) == 10
    assert len(read_chatbench_folder(folder, include_pilots=True).conversations) == 11


def message_of(folder: Path) -> str:
    with pytest.raises(ChatbenchError) as caught:
        read_chatbench_folder(folder)
    assert caught.value.fix
    return str(caught.value)


@pytest.mark.parametrize("name", ["questions.csv", "ai_alone_answers.csv", "full_study/conversations.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()

    assert name in message_of(folder)


def test_a_table_without_a_column_says_which_and_what_there_is(folder: Path) -> None:
    rename(folder / "questions.csv", {"question": "wording"})
    message = message_of(folder)

    assert (
        "questions.csv, row 1: no column for the question's text; columns are question_id, subject, subset, wording"
        in message
    )
    assert "expected: a column named question or question_text or text" in message


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("full_study/conversations.json", "expected: JSON"),
        ("full_study/user_answers_filtered.csv", "cells"),
        ("questions.csv", "closed quotes"),
    ],
)
def test_a_half_written_file_is_recognised(folder: Path, name: str, problem: str) -> None:
    path = folder / name
    text = path.read_bytes()
    cut = text.rfind(b'three ""3') if name == "questions.csv" else len(text) - 20
    path.write_bytes(text[:cut])
    message = message_of(folder)

    assert name in message
    assert problem in message


BAD_CELLS = [
    ("questions.csv", "answer", "E", "right answer outside A-D"),
    ("questions.csv", "question", "", "blank question"),
    ("questions.csv", "choice_c", "", "question without four options"),
    ("questions.csv", "question_id", "college_mathematics-redux-1", "duplicate question id"),
    ("ai_alone_answers.csv", "question_id", "nobody-knows-1", "AI-alone row for an unknown question"),
    ("ai_alone_answers.csv", "free_text_acc", "38 %", "not a number"),
    ("full_study/user_answers_filtered.csv", "question_id", "nobody-knows-1", "answer to an unknown question"),
    ("full_study/user_answers_filtered.csv", "answer_type", "guess", "unknown kind of answer"),
    ("full_study/user_answers_filtered.csv", "selected_answer", "E", "letter outside A-D"),
    ("full_study/user_answers_filtered.csv", "acc", "maybe", "acc that is neither 0 nor 1"),
    ("full_study/user_answers_filtered.csv", "worker_id", "", "blank worker_id"),
]


@pytest.mark.parametrize(("name", "column", "value", "reason"), BAD_CELLS)
def test_a_bad_cell_is_named_with_file_row_and_column_or_left_out_and_counted(
    folder: Path, name: str, column: str, value: str, reason: str
) -> None:
    set_cell(folder / name, 2, column, value)
    message = message_of(folder)

    # A repeated id is found where it comes the second time, in row 3.
    assert f"{name}, row {3 if reason == 'duplicate question id' else 2}, column '{column}'" in message
    assert "--skip-bad-records" in message
    assert read_chatbench_folder(folder, skip_bad_records=True).dropped[reason] == 1


def history(record: Record) -> list[dict[str, object]]:
    value = record["chat_history"]
    assert isinstance(value, list)
    return value


BAD_CHATS: list[tuple[Callable[[Record], object], str, str]] = [
    (
        lambda r: history(r)[0].update(role="moderator"),
        "unknown role",
        "record 3, key 'chat_history[0]': role 'moderator'",
    ),
    (lambda r: history(r).clear(), "empty conversation", "record 3, key 'chat_history': no message"),
    (lambda r: r.update(selected_answer="E"), "letter outside A-D", "record 3, key 'selected_answer': 'E'"),
    (lambda r: history(r).pop(), "turns out of order", "record 3, key 'chat_history': "),
    (lambda r: history(r).pop(0), "turns out of order", "record 3, key 'chat_history': "),
    (lambda r: history(r)[0].update(content="  "), "empty user message", "record 3, key 'chat_history[0]': no text"),
    (
        lambda r: history(r)[1].update(content=None),
        "message without text",
        "record 3, key 'chat_history[1]': content None",
    ),
    (lambda r: r.pop("chat_history"), "no chat history", "record 3, key 'chat_history': NoneType"),
    (lambda r: r.pop("worker_id"), "conversation without a worker", "record 3, key 'worker_id': missing"),
]


@pytest.mark.parametrize(("spoil", "reason", "place"), BAD_CHATS)
def test_a_bad_chat_is_named_with_file_and_record_or_left_out_and_counted(
    folder: Path, spoil: Callable[[Record], object], reason: str, place: str
) -> None:
    edit_chats(folder, lambda records: spoil(records[2]))

    assert f"conversations.json, {place}" in message_of(folder)
    study = read_chatbench_folder(folder, skip_bad_records=True)
    assert study.dropped == {reason: 1}
    assert len(study.conversations) == 9


def test_a_chat_about_an_unknown_question_is_named_where_the_answers_are_not_filtered(folder: Path) -> None:
    (folder / "full_study" / "user_answers_filtered.csv").unlink()
    edit_chats(folder, lambda records: records[2].update(question_id="nobody-knows-1"))

    assert "record 3, key 'question_id': 'nobody-knows-1'" in message_of(folder)


def test_an_answer_is_given_its_chat_only_where_there_is_one(folder: Path) -> None:
    edit_chats(folder, lambda records: records.pop(0))
    ids = {a.question_id: a.conversation_id for a in read_chatbench_folder(folder).answers if a.kind == "user-AI"}

    assert ids["college_mathematics-redux-0"] == ""
    assert ids["college_mathematics-redux-1"] == "college_mathematics-redux-1|w1"
