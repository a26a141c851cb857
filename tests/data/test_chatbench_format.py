"""The ChatBench layout: what is written is read back, variants are understood, and bad files say where and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd  # type: ignore[import-untyped]
import pytest
from tests.support.study_files import chat, question, tiny_folder, tiny_study

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import AiAloneScore, Answer, Study
from chatbench.data.chatbench_format import CONFIDENCE_AGAIN, CONFIDENCE_ALONE, FILTERED_OUT, read_chatbench_folder
from chatbench.data.prepare_splits import prepare_splits
from chatbench.data.tables import ATTENTION_CHECK, DUPLICATE_ANSWER
from chatbench.data.workspace import Workspace
from chatbench.sample.study import write_chatbench_folder

Record = dict[str, object]


def edit(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(path, index=False)


def edit_answers(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame], files: str = "user_answers*") -> None:
    for path in (folder / "full_study").glob(f"{files}.csv"):
        edit(path, change)


def set_cell(table: pd.DataFrame, row: int, column: str, value: str) -> pd.DataFrame:
    """`row` as a spreadsheet counts: the header is row 1."""
    table.loc[row - 2, column] = value
    return table


def edit_chats(folder: Path, change: Callable[[list[Record]], object]) -> None:
    path = folder / "full_study" / "conversations.json"
    records = json.loads(path.read_text())
    change(records)
    path.write_text(json.dumps(records))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_folder(tmp_path / "tiny")


def test_the_written_files_have_the_names_and_columns_of_the_published_layout(folder: Path) -> None:
    names = ("conversations.json", "user_answers.csv", "user_answers_filtered.csv")
    header = (folder / "full_study" / "user_answers.csv").read_text().splitlines()[0].split(",")
    first = json.loads((folder / "full_study" / "conversations.json").read_text())[0]

    assert {str(path.relative_to(folder)) for path in folder.rglob("*.*")} == {
        "ai_alone_answers.csv", "questions.csv", *(f"full_study/{name}" for name in names)
    }  # fmt: skip
    assert header[:6] == ["question_id", "worker_id", "model", "condition", "subject", "batch"]
    assert first["subject"] == "math"
    assert first["chat_history"][0] == {"role": "user", "content": "ask 0"}
    # 38 % of 50 are 19 right; without the 3 invalid ones that is 19/47.
    assert pd.read_csv(folder / "ai_alone_answers.csv").free_text_acc_valid[0] == pytest.approx(19 / 47)


def test_what_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    study = tiny_study()
    twice = Study("x", study.questions, study.conversations, (*study.answers, study.answers[0]))
    lonely = Study("x", study.questions, study.conversations, ())

    with pytest.raises(ValueError, match="share worker, question and kind"):
        write_chatbench_folder(twice, tmp_path)
    with pytest.raises(ValueError, match="without a user-AI answer"):
        write_chatbench_folder(lonely, tmp_path)
    assert not list(tmp_path.iterdir())


def rename(folder: Path, file: str, *pairs: str) -> None:
    """Rename columns; one of a new name makes way."""
    names = dict(pair.split("=") for pair in pairs)
    for path in folder.rglob(f"{file}*.csv"):
        edit(path, lambda table: table.drop(columns=[*names.values()], errors="ignore").rename(columns=names))


def save_as_spreadsheets_do(folder: Path) -> None:
    for path in (folder / "questions.csv", *(folder / "full_study").glob("*.csv")):
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        table.loc[len(table)], table.loc[len(table) + 1] = "", " "
        table.to_csv(path, index=False, sep=";", encoding="utf-8-sig")


def rename_roles(folder: Path, *roles: str) -> None:
    def change(records: list[Record]) -> None:
        for record in records:
            record["chatHistory"] = [{**each, "role": roles[at % 2]} for at, each in enumerate(history(record))]
            del record["chat_history"]
            record["questionID"], record["selectedAnswer"] = record.pop("question_id"), record.pop("selected_answer")

    edit_chats(folder, change)


def remove_keys(folder: Path, *keys: str) -> None:
    edit_chats(folder, lambda records: [record.pop(key) for record in records for key in keys])


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (rename, "ai_alone model=assistant"),
        (save_as_spreadsheets_do, ""),
        (rename, "questions question_id=questionID question=question_text answer=correct_answer"),
        (rename, "questions question_id=id choice_a=A choice_b=B choice_c=C choice_d=D"),
        (rename, "questions choice_a=option_a choice_b=option_b choice_c=option_c choice_d=option_d answer=gold"),
        (rename, "user_answers answer_type=type selected_answer=answer question_id=questionID"),
        (rename, "user_answers answer_type=kind selected_answer=selectedAnswer acc=correct"),
        (rename, "user_answers answer_type=phase"),  # in place of the number of the phase
        (rename_roles, "You Bot"),
        (rename_roles, "User AI"),
        (rename_roles, "human assistant"),
        (remove_keys, "question_id model condition selected_answer"),  # found by the place in the session
    ],
)
def test_a_written_study_is_read_back_equal_though_names_and_forms_vary(
    folder: Path, change: Callable[..., object], names: str
) -> None:
    change(folder, *names.split())

    assert read_chatbench_folder(folder) == tiny_study()


CHOICES = [f"choice_{letter}" for letter in "abcd"]


@pytest.mark.parametrize("as_list", [json.dumps, repr])
def test_options_may_be_one_list(folder: Path, as_list: Callable[[list[str]], str]) -> None:
    edit(
        folder / "questions.csv",
        lambda table: table.assign(choices=[*map(as_list, table[CHOICES].values.tolist())]).drop(columns=CHOICES),
    )

    assert read_chatbench_folder(folder).questions == tiny_study().questions


def set_keys(folder: Path, keys: str, options: tuple[str, ...] | None = None) -> None:
    """Answers of questions.csv, the last one again where there are too few, and the options of the first questions."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        table["answer"] = (keys.split() if " " in keys else [*keys.ljust(len(table), keys[-1])])[: len(table)]
        if options:
            table[CHOICES] = [*options]
        return table

    edit(folder / "questions.csv", change)


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
    numbers = {letter: str(number) for number, letter in enumerate("ABCD", 1)}
    edit_answers(folder, lambda table: table.replace({"selected_answer": numbers}))
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
    edit(folder / name, lambda table: set_cell(table, 3, column, value))

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

    def internal(table: pd.DataFrame) -> pd.DataFrame:
        events = [f"pretest_{place}_{kinds[kind]}_answer" for place, kind in enumerate(table.answer_type)]
        table = table.assign(event=events, condition="answerFirst_allowCopy").drop(columns="answer_type")
        return table.rename(columns={"question_id": "questionID", "position": "question_position"})

    edit_answers(folder, internal)
    edit_chats(folder, lambda records: [record.update(condition="answerFirst") for record in records])
    edit(
        folder / "ai_alone_answers.csv",
        lambda table: table.rename(
            columns=lambda name: name.replace("_acc", "_mean").replace("free_text", "copy_and_paste")
        ),
    )
    study, tiny = read_chatbench_folder(folder), tiny_study()

    assert (study.answers, study.conversations) == (tiny.answers, tiny.conversations)
    assert {(s.question_id, s.method, s.accuracy, s.count) for s in study.ai_alone} == {
        (s.question_id, s.method, s.accuracy, s.count) for s in tiny.ai_alone
    }
    assert "20 x rows of condition 'answerFirst_allowCopy', which is answer-first" in study.notes
    edit_chats(folder, lambda records: [record.update(condition="onlyAI_allowCopy") for record in records])
    assert {chat.condition for chat in read_chatbench_folder(folder).conversations} == {"direct-to-AI"}


def test_an_unknown_word_is_shown_with_all_words_of_its_column_and_settled_by_map(folder: Path) -> None:
    edit_answers(folder, lambda table: table.replace({"answer_type": {"user-AI": "mit KI"}}))
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
    pairs = [("a|b", "c"), ("a", "b|c"), ("a\\|b", "c"), ("é", "W"), ("e\u0301", "w"), ("é", "w"), ("=1", "-w")]
    pairs += [("É" * 300, "/../x")]
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


def test_two_columns_of_one_name_are_refused(folder: Path) -> None:
    text = (folder / "questions.csv").read_text()
    (folder / "questions.csv").write_text(text.replace("subject,subset", "Answer,subset", 1))

    assert "row 1: more than one column 'answer'" in message_of(folder).replace("'Answer'", "'answer'")


RIGHT = [None, "B", None, None, None, "B", None, None, None, "B"]
"""Letters that follow from acc: chosen were A B C D A B C D A B, and B is right everywhere."""


def test_a_letter_that_was_not_recorded_is_the_right_one_where_acc_is_1_and_unknown_otherwise(folder: Path) -> None:
    edit_answers(folder, lambda table: table.drop(columns="selected_answer"))
    remove_keys(folder, "selected_answer")
    study = read_chatbench_folder(folder)

    assert [c.answer for c in study.conversations] == RIGHT
    assert "7 x conversations whose final letter was not recorded: they yield no answer example" in study.notes


@pytest.mark.parametrize(
    ("files", "change", "dropped", "kept"),
    [
        ("user_answers*", lambda table: set_cell(table, 2, "question_id", "example-1"), ATTENTION_CHECK, (19, 10)),
        # The filtered answers are preferred: here without the last person's two.
        ("user_answers_filtered", lambda table: table[:-2], FILTERED_OUT, (18, 9)),
        (
            "user_answers*",
            lambda table: pd.concat([table, table[:1].assign(selected_answer="C", acc="0")]),
            DUPLICATE_ANSWER,
            (20, 10),
        ),
    ],
)
def test_what_the_protocol_leaves_out_is_counted(
    folder: Path, files: str, change: Callable[[pd.DataFrame], pd.DataFrame], dropped: str, kept: tuple[int, int]
) -> None:
    edit_answers(folder, change, files)
    study = read_chatbench_folder(folder)

    assert study.dropped == {dropped: 1}
    assert (len(study.answers), len(study.conversations)) == kept
    assert {*study.answers} <= {*tiny_study().answers}  # of a repeated answer, the first


def test_answers_missing_from_the_unfiltered_table_are_taken_from_the_chats(folder: Path) -> None:
    (folder / "full_study" / "user_answers_filtered.csv").unlink()
    edit_answers(folder, lambda table: table[table.answer_type == "user-alone"])
    study = read_chatbench_folder(folder)

    assert sorted(study.answers, key=repr) == sorted(tiny_study().answers, key=repr)
    assert study.notes[0].startswith("10 x answers taken from conversations.json")
    remove_keys(folder, "selected_answer")  # where acc is 1, the letter is the right one
    assert [c.answer for c in read_chatbench_folder(folder).conversations] == RIGHT


def test_confidence_joins_its_answer_and_is_counted_where_it_belongs_to_none_or_comes_again(folder: Path) -> None:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table["confidence"] = ""
        rated = table[:1].assign(answer_type="confidence", selected_answer="very-confident", acc="")
        again, stranger = rated.assign(selected_answer="unsure"), rated.assign(worker_id="nobody")
        return pd.concat([rated, again, stranger, rated.assign(question_id="unknown-redux-9"), table])

    edit_answers(folder, change)
    study = read_chatbench_folder(folder)

    assert study.answers[0].confidence == "very-confident"
    assert len(study.answers) == 20
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


def test_a_table_without_a_column_says_which_and_what_there_is(folder: Path) -> None:
    rename(folder, "questions", "question=wording")
    columns = "question_id, subject, subset, wording"

    assert f"questions.csv, row 1: no column for the question's text; columns are {columns}" in message_of(folder)
    assert "expected: a column named question or question_text or text" in message_of(folder)


@pytest.mark.parametrize(
    ("name", "end", "problem"),
    [
        ("full_study/conversations.json", b"}", "expected: JSON"),
        ("full_study/user_answers_filtered.csv", b",", "cells"),
        ("questions.csv", b'three ""3', "closed quotes"),
    ],
)
def test_a_half_written_file_is_recognised(folder: Path, name: str, end: bytes, problem: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: content.rfind(end)])

    assert name in message_of(folder)
    assert problem in message_of(folder)


ANSWERS = "full_study/user_answers_filtered.csv"
BAD_CELLS = [
    ("questions.csv", "answer", "E", "right answer outside A-D"),
    ("questions.csv", "question", "", "blank question"),
    ("questions.csv", "choice_c", "", "question without four options"),
    ("questions.csv", "question_id", "college_mathematics-redux-1", "duplicate question id"),
    ("ai_alone_answers.csv", "question_id", "nobody-knows-1", "AI-alone row for an unknown question"),
    ("ai_alone_answers.csv", "free_text_acc", "38 %", "not a number"),
    (ANSWERS, "question_id", "nobody-knows-1", "answer to an unknown question"),
    (ANSWERS, "answer_type", "guess", "unknown kind of answer"),
    (ANSWERS, "selected_answer", "E", "letter outside A-D"),
    (ANSWERS, "acc", "maybe", "acc that is neither 0 nor 1"),
    (ANSWERS, "worker_id", "", "blank worker_id"),
]


@pytest.mark.parametrize(("name", "column", "value", "reason"), BAD_CELLS)
def test_a_bad_cell_is_named_with_file_row_and_column_or_left_out_and_counted(
    folder: Path, name: str, column: str, value: str, reason: str
) -> None:
    edit(folder / name, lambda table: set_cell(table, 2, column, value))
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
    (lambda r: history(r)[0].update(role="moderator"), "unknown role", "'chat_history[0]': role 'moderator'"),
    (lambda r: history(r).clear(), "empty conversation", "'chat_history': no message"),
    (lambda r: r.update(selected_answer="E"), "letter outside A-D", "'selected_answer': 'E'"),
    (lambda r: history(r).pop(), "turns out of order", "'chat_history': "),
    (lambda r: history(r).pop(0), "turns out of order", "'chat_history': "),
    (lambda r: history(r)[0].update(content="  "), "empty user message", "'chat_history[0]': no text"),
    (lambda r: history(r)[1].update(content=None), "message without text", "'chat_history[1]': content None"),
    (lambda r: r.pop("chat_history"), "no chat history", "'chat_history': NoneType"),
    (lambda r: r.pop("worker_id"), "conversation without a worker", "'worker_id': missing"),
]


@pytest.mark.parametrize(("spoil", "reason", "place"), BAD_CHATS)
def test_a_bad_chat_is_named_with_file_and_record_or_left_out_and_counted(
    folder: Path, spoil: Callable[[Record], object], reason: str, place: str
) -> None:
    edit_chats(folder, lambda records: spoil(records[2]))

    assert f"conversations.json, record 3, key {place}" in message_of(folder)
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
