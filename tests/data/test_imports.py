"""Files of other programs become studies: each shape, what becomes of every row, and what damaged files give."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, time
from pathlib import Path
from zipfile import ZipFile

import openpyxl  # type: ignore[import-untyped]
import pandas as pd  # type: ignore[import-untyped]
import pytest
from benchmarks.import_fuzz import fuzz
from tests.support.study_files import REPOSITORY, shared_data

from chatbench.cli import main
from chatbench.core.answer_kinds import Number
from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Study, Turn
from chatbench.data.imports import _LISTED, Imported, ImportMap, draft, import_study, read_map, read_rows
from chatbench.data.open_study import open_study
from chatbench.data.splits import NO_STATEMENT
from chatbench.data.tables import DUPLICATE_ANSWER, HALF_CHARACTERS

Sheets = Mapping[str, Sequence[Sequence[object]]]
OPENAI = {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"},
                       {"role": "assistant", "content": "yes"}]}  # fmt: skip
SHAREGPT = {"id": "p1", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]}
WILDCHAT = {"hashed_ip": "p1", "model": "gpt-4", "conversation": [{"role": "user", "content": "hi", "country": "FI"},
                                                                  {"role": "assistant", "content": "yes"}]}  # fmt: skip
TABLE = """\
person,task,text,first,second,right,prompt 1,reply 1,prompt 2,reply 2,chosen
p1,t1,Is B right?,B,A,B,hi,yes,why,so,A
p2,t1,Is B right?,B,A,B,hi,yes,,,B
p3,t1,Is B right?,B,A,B,hi,yes,,,C
"""
MAP = """\
worker_id = "person"
question_id = "task"
question_text = "text"
options = ["first", "second"]
right_answer = "right"
answer = "chosen"
answers = "letters"
answer_kind = "choice"
turns = ["prompt 1", "reply 1", "prompt 2", "reply 2"]
[constants]
assistant = "gpt-4o"
"""


PROMPT_REPLY = 'turns = ["p", "r"]\n'
STATEMENTS = '[statements]\ntable = "t.csv"\nkey = "p"\n'
LONG = """\
conversation_id,turn,sender,text,rating
c1,2,bot,yes,
c2,2026-11-01T10:00:00Z,human,second,
c1,1,human,hi,9
,1,human,lost,
c2,2026-11-01 09:00,human,first,3
c2,2026-11-01T11:00:00,bot,so,4
"""
LONG_MAP = """\
chat = "conversation_id"
order = "turn"
role = "sender"
content = "text"
"""


def workbook(sheets: Sheets, merged: str = "") -> bytes:
    """An Excel file; `merged` is a range of its sheet "Data"."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    if merged:
        book["Data"].merge_cells(merged)
    book.save(content := io.BytesIO())
    return content.getvalue()


def jsonl(*rows: Mapping[str, object]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def imported(folder: Path, name: str, content: str | bytes, mapping: str = "") -> tuple[Study, list[dict[str, str]]]:
    """The study that comes of a file, and the report's rows."""
    written(folder / name, content)
    (folder / "map.toml").write_text(mapping)
    import_study([folder / name], folder / "out.jsonl", folder / "map.toml" if mapping else None)
    with (folder / "out.rows.csv").open(newline="") as file:
        return open_study(folder / "out.jsonl"), list(csv.DictReader(file))


def imported_again(folder: Path, name: str) -> Imported:
    return import_study([folder / name], folder / "out.jsonl", folder / "map.toml")


def said_in(study: Study) -> list[list[str]]:
    """The texts of each chat."""
    return [[turn.text for turn in chat.turns] for chat in study.conversations]


@pytest.mark.parametrize("row", [OPENAI, SHAREGPT, WILDCHAT])
def test_known_shapes_need_no_mapping(row: dict[str, object], tmp_path: Path) -> None:
    bad = {**row, next(key for key in row if key.startswith(("messages", "conversation"))): 7}
    study, rows = imported(tmp_path, "chats.jsonl", jsonl(row, row, bad))

    assert [chat.turns for chat in study.conversations] == [(Turn("user", "hi"), Turn("assistant", "yes"))] * 2
    assert len({chat.id for chat in study.conversations}) == 2  # of one person about one question, they are numbered
    assert [question.text for question in study.questions.values()] == [NO_STATEMENT]
    assert [each["done"] for each in rows] == (["changed"] if row is OPENAI else ["kept"]) * 2 + ["dropped"]
    assert "no list of messages" in rows[2]["why"]
    assert "chats.jsonl, line 3" in rows[2]["row"]


ENCODED = {
    "comma": TABLE.encode(),
    "semicolon, BOM": TABLE.replace(",", ";").encode("utf-8-sig"),
    "tabs, UTF-16": TABLE.replace(",", "\t").encode("utf-16"),
    "three header rows": TABLE.replace("chosen\n", "chosen\n" + 2 * (",".join(map(str, range(11))) + "\n"), 1).encode(),
}


@pytest.mark.parametrize("form", ENCODED)
def test_tables_are_read_in_any_form_of_spreadsheets_and_survey_tools(form: str, tmp_path: Path) -> None:
    # Reading the option's text "B" of option A as letter B, where letters were said to stand, or the other way round:
    # the likely mistake.
    study, rows = imported(tmp_path, "t.csv", ENCODED[form], ("header_rows = 3\n" if "three" in form else "") + MAP)

    assert study.questions["t1"].options == ("B", "A")
    assert [(answer.letter, answer.correct) for answer in study.answers] == [("A", False), ("B", True)]
    assert [chat.user_turns for chat in study.conversations] == [2, 1]
    assert [(each["done"], each["why"]) for each in rows[2:]] == [
        ("dropped", "column 'chosen': answer that is no option, or could be two")
    ]


TWO_SHEETS: dict[str, Sequence[Sequence[object]]] = {
    "Read me": [["Notes"], ["of 2026"]], "Data": [["who", "p", "r"], ["w1", "hi", "yo"], [None, "so", "ok"]]
}  # fmt: skip
FORMULA = [["p", "r"], ["=2+2", "yo"]]
DATA_SHEET = 'sheet = "Data"\n' + PROMPT_REPLY
NUMBERS = PROMPT_REPLY + 'question_id = "p"\nright_answer = "ok"\nanswer = "ok"\nanswer_kind = "number"\n'


@pytest.mark.parametrize(
    ("name", "content", "mapping", "said"),
    [
        ("t.csv", b"a,b\n1\n", "", "row 2: 1 cells"),
        ("t.csv", b"Study\na,b\n1,2\n", "", "1 cells, as in the header, whose names are read from the first row: del"),
        ("t.csv", b"Study,\na,b\n1,2\n", 'messages = "b"', "Study\n  expected: every column named in the mapping, w"),
        ("t.csv", b"a,b\n1,2\n", "", "expected: one of the columns messages"),
        ("t.csv", b"a,a\n1,2\n", "", "more than one column 'a'"),
        ("t.csv", b"\xff\xfea", "", "not UTF-16"),
        ("t.csv", b"caf\xe9", "", "not UTF-8"),
        ("t.csv", b"a,b\n1,2\n", 'messages = "c"', "no column 'c'; it has a, b"),
        ("t.csv", b"a,b\n1,2\n", 'mesages = "c"', "key 'mesages'"),
        ("t.csv", b"a,b\n1,2\n", "messages = ", "not TOML"),
        ("t.csv", b"a,b\n1,2\n", "messages = " + "[" * 3000, "not TOML"),
        ("t.csv", b"id,role,text\n1,a,b\n", 'chat = "id"', "no column 'content'"),
        ("t.csv", LONG, LONG_MAP + 'turns = ["text"]', "choose one"),
        ("t.csv", LONG.partition("c1")[0] + "c1,x,human,hi,", LONG_MAP, "row 2: no order: column 'turn': 'x'"),
        ("t.csv", TABLE, MAP.replace('"second"', '"Second"'), "t.csv: no column 'Second'; it has"),
        ("t.csv", TABLE, "header_rows = 0\n" + MAP, "key 'header_rows': 0\n  expected: 1 or more"),
        ("t.csv", TABLE, MAP + 'model = "m"', "key 'constants.model': 'm'\n  expected: one of worker_id, "),
        ("t.csv", TABLE, MAP + 'sheet = "a"', "key 'constants.sheet': write it above [constants]"),
        ("t.csv", TABLE, MAP + 'condition = "person"', "condition is 'person' in [constants], and that is a"),
        ("t.parquet", b"PAR1", "", "cannot be read as .parquet"),
        ("t.xlsx", b"PK", "", "t.xlsx: "),
        ("t.json", b"[7]", "", "record 1: not an object"),
        ("t.doc", b"", "", "unknown file format"),
        # An option's text that is a letter: it must be told which of the two is meant.
        ("t.csv", TABLE, MAP.replace('answers = "letters"\n', ""), "row 2: column 'right': answer that is no option"),
        ("t.csv", "p,r,ok\na,yo,5\n", NUMBERS + "[constants]\nrelative = true\n", "sets relative without tolerance"),
        ("t.csv", "p,r,ok\na,yo,5\n", NUMBERS + "tolerance = 0.01\n", "a value for all rows belongs in [constants]"),
        ("t.xlsx", workbook(TWO_SHEETS), 'sheet = "data"\n', "no sheet 'data'; it has 'Read me', 'Data'"),
        ("t.xlsx", workbook(TWO_SHEETS, merged="A2:B3"), DATA_SHEET, "the cells A2:B3 are merged across columns"),
        ("t.xlsx", workbook({"a": [["messages"], ["=[]"]]}), "", "2, column 'messages': a formula without its value"),
        ("t.xlsx", workbook({"Data": FORMULA}), DATA_SHEET, "row 2, column 'p': a formula without its value"),
        ("t.jsonl", jsonl(OPENAI), PROMPT_REPLY + "header_rows = 2\n", "it has no rows above the data"),
        ("t.csv", b"p,r\nhi,ho\n", PROMPT_REPLY + "header_rows = 9\n", "expected: 9 rows above the data"),
        ("t.csv", b"p,r\nhi,ho\n", PROMPT_REPLY + STATEMENTS, "reads no column of that table"),
    ],
)
def test_what_is_wrong_is_told_with_its_place_and_nothing_is_written(
    name: str, content: str | bytes, mapping: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, option = written(tmp_path / name, content), ["--map", str(written(tmp_path / "map.toml", mapping))]

    assert main(["import", str(file), "--out", str(tmp_path / "out.jsonl"), *(option if mapping else [])]) == 2
    assert said in capsys.readouterr().err
    assert not [*tmp_path.glob("out*")]


OF_STATEMENTS = """\
turns = ["p", "r"]
question_id = "task"
question_text = "text"
right_answer = "right"
answer = "said"
answer_kind = "number"
[statements]
table = "tasks.csv"
key = "id"
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"text"', '"txt"', "tasks.csv: no column 'txt'; it has id, right, text"),
        ('"id"', '"ID"', "tasks.csv: no column 'ID'"),
        ('"number"', '"choice"\noptions = ["right", "c"]', "tasks.csv: no column 'c'"),
        ("[statements]", '[constants]\nsubset = "text"\n[statements]', "subset is 'text' in [constants]"),
        ("", "", "tasks.csv, row 3, column 'id': 't1' again, with different cells"),
    ],
)
def test_the_columns_of_the_second_table_are_checked_like_those_of_the_first(
    old: str, new: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "tasks.csv").write_text("id,text,right\nt1,What is 2 + 3?,5\nt1,What is 2 + 3?,5\n")
    table = b"task,p,r,said\nt1,hi,yo,5\n"
    study, _ = imported(tmp_path, "t.csv", table, OF_STATEMENTS)
    assert [(question.text, question.answer) for question in study.questions.values()] == [("What is 2 + 3?", "5")]
    if not old:
        (tmp_path / "tasks.csv").write_text("id,text,right\nt1,What is 2 + 3?,5\nt1,What is 2 + 4?,6\n")
    with pytest.raises(ChatbenchError) as caught:
        imported(tmp_path, "t.csv", table, OF_STATEMENTS.replace(old, new, 1))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "option", "said"),
    [
        ("study.jsonl", [], "study.jsonl: is read, and would be overwritten"),  # the default name
        ("out.rows.csv", ["--out", "out.jsonl"], "out.rows.csv: is read"),
        ("in.jsonl", ["--out", "map.toml"], "map.toml: not a name that ends in .jsonl"),
        ("in.jsonl", ["--draft", "./in.jsonl"], "in.jsonl: is read"),
    ],
)
def test_no_file_that_is_read_is_overwritten(
    name: str,
    option: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    content = written(Path(name), jsonl(OPENAI) if name.endswith("l") else TABLE).read_text()
    written(Path("map.toml"), MAP if name.endswith("csv") else 'messages = "messages"\n')

    assert main(["import", name, *([] if "--draft" in option else ["--map", "map.toml"]), *option]) == 2
    assert said in capsys.readouterr().err
    assert Path(name).read_text() == content
    assert {path.name for path in tmp_path.iterdir()} == {name, "map.toml"}


def test_a_value_for_all_rows_stands_in_wherever_a_row_has_none(tmp_path: Path) -> None:
    constants = 'worker_id = "me"\nquestion_id = "t7"\nquestion_text = "Well?"\nanswer = "code"\ncorrect = "1"\n'
    mapping = f'turns = ["p", "r"]\nanswer_kind = "outcome"\n[constants]\n{constants}'
    study, _ = imported(tmp_path, "t.csv", b"p,r\nhi,yo\n", mapping)

    (answer,) = study.answers
    assert (answer.worker_id, answer.question_id, answer.letter, answer.correct) == ("me", "t7", "code", True)


def test_chats_of_two_files_with_the_same_id_are_two(tmp_path: Path) -> None:
    for name in "ab":
        written(tmp_path / f"{name}.csv", f"chat,role,text\n1,user,hello {name}\n1,bot,yes\n")
    mapping = written(tmp_path / "map.toml", 'chat = "chat"\ncontent = "text"\n')
    import_study([tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "out.jsonl", mapping)

    study = open_study(tmp_path / "out.jsonl")
    assert [chat.turns[0].text for chat in study.conversations] == ["hello a", "hello b"]


def test_what_is_not_recorded_is_no_value(tmp_path: Path) -> None:
    # The text "nan" would be one person, whose second chat would be another's.
    rows = [{**OPENAI, "user_id": float("nan"), "model": None}, {**OPENAI, "user_id": 7.0, "model": "m"}]
    study, _ = imported(tmp_path, "t.jsonl", jsonl(OPENAI, *rows))

    assert [chat.assistant for chat in study.conversations] == ["unknown", "unknown", "m"]
    assert [chat.worker_id.partition("-")[0] for chat in study.conversations] == ["row", "row", "7"]
    sheet = workbook({"a": [["who", "p", "r"], ["w1", "hi", "yo"], [7.0, "hi", "yo"], ["#N/A", "hi", "yo"]]})
    study, _ = imported(tmp_path, "t.xlsx", sheet, 'worker_id = "who"\nturns = ["p", "r"]\n')
    assert [chat.worker_id.partition("-")[0] for chat in study.conversations] == ["w1", "7", "row"]


def test_a_second_chat_about_a_question_stays_though_its_answer_does_not_count(tmp_path: Path) -> None:
    rows = [{**OPENAI, "user_id": "u", "ok": at % 2} for at in range(3)]
    mapping = 'messages = "messages"\nworker_id = "user_id"\nanswer_kind = "outcome"\ncorrect = "ok"\n'
    study, report = imported(tmp_path, "t.jsonl", jsonl(*rows), mapping)

    assert ([answer.correct for answer in study.answers], len(study.conversations)) == ([False], 3)
    assert [row["done"] for row in report] == ["changed"] * 3
    assert [DUPLICATE_ANSWER in row["why"] for row in report] == [False, True, True]
    lines = imported_again(tmp_path, "t.jsonl").lines()
    assert f"  2 x changed: {DUPLICATE_ANSWER}" in lines  # a reason with a semicolon is one reason


def test_an_answer_without_messages_is_one_without_asking(tmp_path: Path) -> None:
    table = TABLE.replace("p2,t1,Is B right?,B,A,B,hi,yes,", "p2,t1,Is B right?,B,A,B,,,")
    study, report = imported(tmp_path, "t.csv", table, MAP)

    assert [(each.worker_id, bool(each.conversation_id)) for each in study.answers] == [("p1", True), ("p2", False)]
    assert report[1]["why"] == "user-AI answers without asking (turns is null)"


def test_a_table_with_one_message_per_row_becomes_chats_in_the_order_that_a_column_tells(tmp_path: Path) -> None:
    # The order of the rows, or of texts ("10" before "9"), is the likely mistake.
    rating = '[constants]\nassistant = "m"\n'
    study, rows = imported(tmp_path, "t.csv", LONG, LONG_MAP + rating)

    assert [[(turn.role, turn.text) for turn in chat.turns] for chat in study.conversations] == [
        [("user", "hi"), ("assistant", "yes")], [("user", "first\nsecond"), ("assistant", "so")]
    ]  # fmt: skip
    assert [row["done"] for row in rows] == ["dropped", *["kept"] * 2, *["changed"] * 3]
    assert rows[0]["why"] == "no chat's id"
    # A value that all rows of a chat share may stand in one of them; two are one too many.
    study, rows = imported(tmp_path, "t.csv", LONG, LONG_MAP + 'confidence = "rating"\n')
    assert len(study.conversations) == 1
    assert {row["why"]: row["found"] for row in rows}["two values in one chat"].endswith(
        "'4' (expected: '3', as an earlier row has it)"
    )


LOG = {"user": {"id": "u1", "plan": "pro"}, **OPENAI, "meta": {"task_id": "t", "ref": ["5"], "at": {"day": 1}},
       "got": {"answer": "5"}, "empty": {}, "none": None}  # fmt: skip
NESTED = LOG | {"meta": {"task_id": "t", "task": "5?", "reference": "5"}}
ANNA = [["who", "chat", "tags", "log 7"], ["w0", "", "[1]", ""], ["w", "a text", '[{"a": 1}]', ""]]
PER_ROW = """\
session,pid,item,item_text,truth,tol,unit,speaker,message,timestamp,final_choice
1,w,i,5?,5,0.1,m,user,hi,1,5
"""


def drafted(folder: Path, name: str, content: str | bytes) -> ImportMap:
    """The draft of a file, which must be a mapping."""
    return read_map(written(folder / "draft.toml", draft(written(folder / name, content))))


@pytest.mark.parametrize(
    ("name", "content", "found", "lines"),
    [
        (
            "t.csv", "Participant ID,Model,conversations\np1,m,\"[{'from': 'human', 'value': 'hi'}]\"\n",
            {"worker_id": "Participant ID", "assistant": "Model", "messages": "conversations", "role": "from",
             "content": "value"}, ['# question_id = ""  # no matching column'],
        ),
        ("t.csv", LONG, {"chat": "conversation_id", "order": "turn", "role": "sender", "content": "text"}, []),
        # `reply` was written without `messages`, so that no chat was left.
        ("t.csv", "participant_id,prompt,response,answer,correct\n,hi,hi,hi,hi\n",
         {"turns": ("prompt", "response"), "messages": "", "reply": ""}, []),
        ("t.csv", "user_id,chat,reply\nhi,hi,hi\n", {"turns": ("chat", "reply"), "messages": ""}, []),  # texts
        ("t.csv", "user_id,response\nhi,hi\n", {"turns": (), "messages": "", "reply": ""}, []),
        ("t.jsonl", jsonl(NESTED), {"messages": "messages", "worker_id": "user.id", "question_id": "meta.task_id",
         "question_text": "meta.task", "right_answer": "meta.reference", "answer": "got.answer"}, []),
        # `session` and `pid` were not known, and then none of the keys of a message per row was offered.
        (
            "t.csv", PER_ROW, {"chat": "session", "order": "timestamp", "role": "speaker", "content": "message",
            "worker_id": "pid", "question_text": "item_text", "answer": "final_choice"},
            ['# tolerance = "tol"  # with answer_kind number', '# unit = "unit"  # with answer_kind number',
             '# answer_kind = ""'],
        ),
        *(
            ("t.xlsx", workbook({"Data": [*ANNA, ["w", "", "", json.dumps([{"at": 1, role: "Anna", content: "hi"}])]]}),
             {"messages": "log 7", "role": role, "content": content}, ['# "Anna" = "..."  # 1 messages'])
            for role, content in (("role", "content"), ("from", "value"), ("speaker", "utterance"))
        ),
        (
            "t.csv", "who,chat,dialogue,speaker,answer\nw,hi,c,user,5\n",
            {"messages": "", "turns": (), "chat": "", "answer": "answer"},
            [f"# {line}" for line in ("messages = ", "turns = [", 'chat = ""', 'order = ""', 'role = "speaker"',
                                      'content = ""')],
        ),
    ],
)  # fmt: skip
def test_a_draft_is_a_mapping_that_names_what_it_found_and_what_it_did_not(
    name: str, content: str | bytes, found: dict[str, object], lines: list[str], tmp_path: Path
) -> None:
    mapping = drafted(tmp_path, name, content)

    assert {key: getattr(mapping, key) for key in found} == found
    assert not [line for line in lines if f"\n{line}" not in (tmp_path / "draft.toml").read_text()]


WIDE = [
    ["StartDate", "ResponseId", "1_chat", "1_ans", "1_conf", "2_chat", "2_ans", "2_conf"],
    ["Start Date", "Response ID", "Chat - Is it?", "Is it?", "Sure?", "Chat - Was it?", "Was it?", "Sure?"],
]
IDS = [f'{{"ImportId":"{name}"}}' for name in WIDE[0]]
SAID = json.dumps(OPENAI["messages"])
PEOPLE = [["now", "R_1", SAID, "yes", "very", None, None, None], ["now", "R_2", SAID, "no", "no", None, "yes", "no"]]


@pytest.mark.parametrize("ending", ["csv", "xlsx", "two sheets", "no questions"])
def test_a_draft_recognises_the_header_of_qualtrics(ending: str, tmp_path: Path) -> None:
    rows: list[Sequence[object]] = [*WIDE[: 1 if ending == "no questions" else 2], IDS, *PEOPLE]
    csv.writer(table := io.StringIO()).writerows(rows)
    book = workbook({"Read me": [["Notes"]], "Data": rows} if ending == "two sheets" else {"Data": rows})
    excel = ending in ("xlsx", "two sheets")
    mapping = drafted(tmp_path, "t.xlsx" if excel else "t.csv", book if excel else table.getvalue())

    assert mapping.header_rows == (2 if ending == "no questions" else 3)
    assert (mapping.worker_id, mapping.messages) == ("ResponseId", "1_chat")
    text = (tmp_path / "draft.toml").read_text()
    assert ": 2 rows with the columns" in text
    assert "# '1_chat' to '2_chat', '1_ans' to '2_ans', '1_conf' to '2_conf': if a row has several chats" in text
    plain = drafted(tmp_path, "u.csv", "p,r,option_1,option_2\nhi,yo,a,b\n")
    assert plain.header_rows == 1
    assert "several chats" not in (tmp_path / "draft.toml").read_text()  # options are one thing with numbers


def test_one_row_per_person_becomes_one_per_chat_as_the_documentation_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wide.xlsx").write_bytes(workbook({"Data": [*WIDE, IDS, *PEOPLE]}))
    page = (REPOSITORY / "docs" / "own-study.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    exec(code, {})
    keys = ("question_id", "messages", "answer", "confidence")
    mapping = "".join(f"{key} = {re.search(f'`{key} = (.*?)`', page)[1]}\n" for key in keys)  # type: ignore[index]
    mapping += 'worker_id = "ResponseId"\nright_answer = "right"\nanswer_kind = "text"\n'
    Path("q.csv").write_text("id,right\n1,yes\n2,yes\n")
    mapping += '[statements]\ntable = "q.csv"\nkey = "id"\n[constants]\nquestion_text = "Is it?"\n'
    study, _ = imported(tmp_path, "long.csv", Path("long.csv").read_bytes(), mapping)

    assert [(answer.worker_id, answer.question_id, answer.correct, answer.confidence) for answer in study.answers] == [
        ("R_1", "1", True, "very"), ("R_2", "1", False, "no"), ("R_2", "2", True, "no")
    ]  # fmt: skip
    assert len(study.conversations) == 2  # R_2 answered the second question without asking


def test_cells_that_the_mapping_calls_missing_are_blank(tmp_path: Path) -> None:
    # The texts "NA" that R writes were messages, and one person who said them all.
    table = b"who,p1,r1,p2,r2,sure\nNA,hi,yo,NA,NA,NA\nNA,NA is what?,NULL,NA,NA,high\n"
    (tmp_path / "t.csv").write_bytes(table)
    (drafted,) = (line for line in draft(tmp_path / "t.csv").splitlines() if "missing = " in line)
    mapping = 'worker_id = "who"\nturns = ["p1", "r1", "p2", "r2"]\nconfidence = "sure"\n' + drafted.removeprefix("# ")
    study, _ = imported(tmp_path, "t.csv", table, mapping)

    where = '"who", "r1", "p2", "r2", "sure"'
    assert drafted == f'# missing = ["NA", "NULL"]  # uncomment to read as blank: 8 cells in {where}'
    assert said_in(study) == [["hi", "yo"], ["NA is what?", ""]]
    assert len({chat.worker_id for chat in study.conversations}) == 2
    assert '"NA"' not in (tmp_path / "out.jsonl").read_text()


def test_what_people_and_assistants_said_is_not_called_missing_by_a_draft(tmp_path: Path) -> None:
    # In chats about programs None and null are messages and options: a draft was to lose them.
    table = "group,option_a,o2,right,prompt,reply,Prompt 2,model_response\nNaN,None,None,None,null,None,NULL,None\n"
    drafted = draft(written(tmp_path / "t.csv", table))
    assert '# missing = ["NaN"]  # uncomment to read as blank: 1 cells in "group"\n' in drafted
    assert not read_map(written(tmp_path / "map.toml", drafted)).missing
    assert "missing" not in draft(written(tmp_path / "t.csv", table.replace("NaN", "a")))


OF_LOG = """\
messages = "messages"
worker_id = "user.id"
question_id = "meta.task_id"
right_answer = "meta.ref"
answer = "got.answer"
answer_kind = "text"
missing = ["u2"]
"""


def test_what_an_import_leaves_unread_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # "2 rows: 0 kept, 2 changed" was all: question, person and answer were lost.
    rows = [LOG, LOG | {"user": {"id": 7}}, LOG | {f"key{at}\n": at for at in range(9)}]
    path = written(tmp_path / "my log.jsonl", jsonl(*rows))
    assert main(["import", str(path), "--out", str(tmp_path / "out.jsonl")]) == 0
    _, _, *told = capsys.readouterr().out.splitlines()
    names = "'user.plan', 'meta.task_id', 'meta.ref', 'meta.at.day', 'got.answer', "
    names += ", ".join(f"'key{at}\\n'" for at in range(7))
    assert told == [
        "  2 people, 1 question (no question_id), no answers",
        f"  not read: {names} and 2 more; to use them: chatbench import '{path}' --draft map.toml",
    ]
    mapping = written(tmp_path / "map.toml", OF_LOG)
    assert import_study([path], tmp_path / "out.jsonl", mapping).notes[0] == "2 people, 1 question, 2 answers"
    table = written(tmp_path / "t.csv", "p,r,\nhi,yo,7\n")
    mapping.write_text('turns = ["p", "r"]\n')
    told = import_study([table], tmp_path / "out.jsonl", mapping).notes
    assert told == ["1 person (no worker_id), 1 question (no question_id), no answers"]


@pytest.mark.parametrize("name", ["t.jsonl", "t.json", "t.parquet"])
def test_nested_keys_are_named_by_their_path(name: str, tmp_path: Path) -> None:
    rows = [LOG, {**LOG, "user": {"id": "u2"}}]
    pd.DataFrame([{**row, "empty": 1} for row in rows]).to_parquet(tmp_path / "t.parquet")
    content = {"t.jsonl": jsonl(*rows), "t.json": json.dumps(rows).encode()}
    study, _ = imported(tmp_path, name, content.get(name) or (tmp_path / name).read_bytes(), OF_LOG)

    assert [answer.worker_id[:4] for answer in study.answers] == ["u1", "row-"]
    assert [(answer.letter, answer.correct) for answer in study.answers] == [("5", True)] * 2
    assert [*study.questions] == ["t"]
    with pytest.raises(ChatbenchError, match=r"no column 'user.name'; it has .*user.id, user.plan"):
        imported(tmp_path, name, (tmp_path / name).read_bytes(), OF_LOG.replace("user.id", "user.name"))


def test_a_key_that_is_called_like_a_path_is_that_key(tmp_path: Path) -> None:
    for row in ({"user.id": "w", **LOG}, {**LOG, "user.id": "w"}):
        study, _ = imported(tmp_path, "t.jsonl", json.dumps(row), OF_LOG)
        assert [answer.worker_id for answer in study.answers] == ["w"]
    # One message per row, too.
    lines = [{"c": {"id": 1}, "by": {"role": role}, "text": role} for role in ("user", "bot")]
    mapping = 'chat = "c.id"\nrole = "by.role"\ncontent = "text"\n'
    study, _ = imported(tmp_path, "t.json", json.dumps(lines), mapping)
    assert said_in(study) == [["user", "bot"]]


@pytest.mark.parametrize("where", ["columns", "statements", "constants"])
@pytest.mark.parametrize("close", [True, False])
def test_numbers_have_their_tolerance_and_unit(where: str, close: bool, tmp_path: Path) -> None:
    # Without these keys 3.14 was wrong where 3.14159 was asked for within 1 %, and nothing said so.
    mapping, _, of_statements = OF_STATEMENTS.partition("[statements]")
    keys = {"constants": "[constants]\ntolerance = 0.01\nrelative = true\nunit = 'm'\n"}
    mapping += keys.get(where, 'tolerance = "tol"\nrelative = "rel"\nunit = "u"\n') * close
    mapping += f"[statements]{of_statements}" * (where == "statements")
    (tmp_path / "tasks.csv").write_text("id,text,right,tol,rel,u\nt1,Pi?,3.14159,1 %,yes,m\n")
    table = 'task,p,r,said,text,right,tol,rel,u\nt1,hi,yo,3.14,Pi?,3.14159,"0,01",yes,m\n'
    study, _ = imported(tmp_path, "t.csv", table, mapping)

    assert study.questions["t1"].kind == (Number(0.01, True, "m") if close else Number())
    assert [answer.correct for answer in study.answers] == [close]
    told = "  1 right answers such as '3.14159' have no tolerance: only exactly that number is right"
    assert (told in imported_again(tmp_path, "t.csv").lines()) != close


def test_a_tolerance_that_cannot_be_read_is_told_and_whole_numbers_need_none(tmp_path: Path) -> None:
    table = "p,r,ok,t\na,yo,5.0,\nb,yo,7,0\n" + "".join(f"{bad},yo,7,{bad}\n" for bad in ("5 %", "-1", "1e999"))
    study, rows = imported(tmp_path, "t.csv", table, NUMBERS + 'tolerance = "t"\n')
    assert ({*study.questions}, [row["why"] for row in rows[2:]]) == ({"a", "b"}, ["bad value of tolerance"] * 3)
    assert "'5 %' (expected: a number such as 0.5; with relative, 0.05 for 5 %)" in rows[2]["found"]
    assert imported_again(tmp_path, "t.csv").notes == ["2 people (no worker_id), 2 questions, 2 answers"]


def test_bytes_in_parquet_are_their_text_and_other_bytes_drop_the_row(tmp_path: Path) -> None:
    table = pd.DataFrame({"p": ["a", "b", "c"], "r": [b"ho", b"\xff", b"ho"], "w": [b"1", b"2", b"\xff"]})
    table.to_parquet(tmp_path / "a.parquet")
    mapping = 'turns = ["p", "r"]\nquestion_id = "p"\nworker_id = "w"\n'
    study, rows = imported(tmp_path, "t.parquet", (tmp_path / "a.parquet").read_bytes(), mapping)

    assert [(chat.worker_id, chat.turns[1].text) for chat in study.conversations] == [("1", "ho")]
    assert [row["why"] for row in rows] == ["", "bad message", "worker_id is no text"]


def test_messages_in_parts_are_read_and_what_is_no_text_is_not_turned_into_one(tmp_path: Path) -> None:
    mapping = 'messages = "m"\nreply = "r"\nworker_id = "w"\nanswer = "a"\nanswer_kind = "text"\nright_answer = "ok"\n'
    log = [
        {"m": [{"role": "user", "content": "hi"}], "r": reply, "w": worker, "a": answer, "ok": "5"}
        for reply, worker, answer in (
            ([{"type": "text", "text": "ho"}], "1", "5"), ({"role": "assistant", "content": "ho"}, "2", "5"),
            (["ho"], "3", "5"), ({"x": 1}, "4", "5"), ("ho", {"x": 1}, "5"), ("ho", "6", ["5"]),
        )
    ]  # fmt: skip
    study, rows = imported(tmp_path, "t.jsonl", jsonl(*log), mapping)

    assert [chat.turns[1].text for chat in study.conversations] == ["ho"] * 3
    assert [row["why"] for row in rows] == ["", "", "", "bad message", "worker_id is no text", "answer is no text"]


@pytest.mark.parametrize("lists", [True, False])
def test_several_accepted_texts_may_stand_in_a_cell(lists: bool, tmp_path: Path) -> None:
    right = ["Paris", " Ville de Paris", ""]
    row = OPENAI | {"gold": right if lists else json.dumps(right), "said": "ville de paris"}
    mapping = 'messages = "messages"\nright_answer = "gold"\nanswer = "said"\nanswer_kind = "text"\n'
    study, rows = imported(tmp_path, "t.jsonl", jsonl(row), mapping)

    assert [answer.correct for answer in study.answers] == [True]
    record = json.loads((tmp_path / "out.jsonl").read_text())
    assert record["question"]["answer"] == ["Paris", "Ville de Paris", *([] if lists else [json.dumps(right)])]
    assert (_LISTED in rows[0]["why"]) != lists
    # A program's output may be a list: the cell's own text was wrong.
    listed = jsonl(row | {"gold": "['a', 'b']", "said": "['a', 'b']"})
    assert [answer.correct for answer in imported(tmp_path, "t.jsonl", listed, mapping)[0].answers] == [True]
    code, _ = imported(tmp_path, "t.jsonl", jsonl(row | {"gold": "[1, 2]"}), mapping)
    assert [question.answer for question in code.questions.values()] == ["[1, 2]"]  # the text of a list of numbers


def test_the_columns_of_every_file_are_checked_but_logs_may_lack_those_of_which_nothing_is_recorded(
    tmp_path: Path,
) -> None:
    # In their union, Worker and worker were both there, and each row of the second file was a person of its own; and a
    # file of a known format without the model was refused if another had it.
    out, mapping = tmp_path / "out.jsonl", tmp_path / "map.toml"
    logs = [written(tmp_path / "a.jsonl", jsonl({**OPENAI, "user_id": "a", "model": "gpt"}))]
    logs.append(written(tmp_path / "b.jsonl", jsonl({**OPENAI, "user_id": "b"})))
    tables = [written(tmp_path / "a.csv", "worker,p,r,model\nw1,hi a,yo,gpt\n")]
    tables.append(written(tmp_path / "b.csv", "Worker,p,r\nw1,hi b,yo\n"))
    import_study(logs, out)
    assert [chat.assistant for chat in open_study(out).conversations] == ["gpt", "unknown"]

    for files, content, said in (
        (tables, PROMPT_REPLY + 'worker_id = "worker"\n', r"b.csv: no column 'worker'; it has Worker, p, r"),
        (tables, PROMPT_REPLY + 'assistant = "model"\n', r"b.csv: no column 'model'"),
        (logs, 'messages = "messages"\nassistant = "modell"\n', r"a.jsonl: no column 'modell'"),
    ):
        with pytest.raises(ChatbenchError, match=said):
            import_study(files, out, written(mapping, content))
    written(logs[1], jsonl(OPENAI))
    with pytest.raises(ChatbenchError, match=r"b.jsonl: no column 'user_id'") as caught:
        import_study(logs, out)
    assert caught.value.fix.startswith("import each file on its own")


def test_half_characters_that_reading_replaced_are_counted_where_they_were(tmp_path: Path) -> None:
    broken = json.loads(json.dumps(OPENAI).replace('"hi"', r'"hi \ud83d"'))
    for name, content in (("t.jsonl", jsonl(OPENAI, broken)), ("t.json", json.dumps([OPENAI, broken]))):
        study, rows = imported(tmp_path, name, content)
        assert study.conversations[1].turns[0].text == "hi \ufffd"
        assert [HALF_CHARACTERS in row["why"] for row in rows] == [False, True]


@pytest.mark.parametrize("index", ["", " ", "Unnamed: 0", "Unnamed: 0.1"])
def test_a_column_without_a_name_is_no_value_of_any_field(index: str, tmp_path: Path) -> None:
    # Reading it for every key that the mapping leaves out: the number 7 as worker, confidence and answer.
    (tmp_path / "tasks.csv").write_text(f"{index},id,text,right\n0,t1,What is 2 + 3?,5\n1,t1,What is 2 + 3?,5\n")
    study, _ = imported(tmp_path, "t.csv", f"{index},task,p,r,said\n7,t1,hi,yo,5\n", OF_STATEMENTS)

    (answer,) = study.answers
    assert (answer.worker_id[:4], answer.assistant, answer.condition, answer.confidence, answer.correct) == (
        "row-", "unknown", "direct-to-AI", "", True
    )  # fmt: skip
    assert imported(tmp_path, "t.jsonl", jsonl(OPENAI | {"": "7"}))[0].conversations[0].worker_id.startswith("row-")


def test_neither_a_corrected_draft_nor_a_study_of_another_origin_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    written(Path("in.jsonl"), jsonl(OPENAI))
    mine = [written(Path("map.toml"), "mine"), written(Path("study.jsonl"), "mine")]
    for option in (["--draft", "map.toml"], []):
        assert main(["import", "in.jsonl", *option]) == 2
        assert "or remove it" in capsys.readouterr().err
    assert [path.read_text() for path in mine] == ["mine"] * 2

    written(Path("study.rows.csv"), "")  # an import leaves it, so the study can be imported again
    assert main(["import", "in.jsonl"]) == 0
    assert len(open_study(Path("study.jsonl")).conversations) == 1


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('"person"', '"persn"', "worker_id"),
        ('"prompt 2", ', '"prompt 3", ', "turns"),
        ('"letters"', '"letter"', "answers"),
        ("[constants]", '[roles]\nMe = "human"\n[constants]', "roles.Me"),
        ('"gpt-4o"', '"task"', "constants.assistant"),
        ('answer = "chosen"', 'answer = "text"', "answer' or 'answers"),
        ('"choice"', '"number"', "answer_kind"),
        ("turns", 'chat = "task"\nturns', "chat"),
        ('worker_id = "person"', "cumulative = true", "worker_id"),
        ("turns =", 'chat = "person"\ncontent = "text"\nrole = "task"\n#', "roles"),
        ('turns = ["prompt 1", "reply 1", "prompt 2", "reply 2"]', 'messages = "text"', "messages"),
        # Keys that were accepted and ignored, so that replies, or all chats, were lost.
        ('"choice"', '"choice"\nreply = "reply 2"', "reply"),
        ('"choice"', '"choice"\nmessages = "text"', "turns"),
        ('"choice"', '"choice"\norder = "nowhere"', "order"),
        ('"choice"', '"choice"\ncontent = "text"', "content"),
        ('"choice"', '"choice"\nsheet = "Data"', "sheet"),
        ('"choice"', '"choice"\ntolerance = 0.01', "tolerance"),
        ("[constants]", '[statements]\ntable = "t.csv"\nkey = "task"\nsheet = "Data"\n[constants]', "statements.sheet"),
        ('turns = ["prompt 1", "reply 1", "prompt 2", "reply 2"]', "", "messages"),
    ],
)
def test_what_is_wrong_with_a_mapping_is_corrected_in_it_not_drafted_again(
    old: str, new: str, key: str, tmp_path: Path
) -> None:
    with pytest.raises(ChatbenchError) as caught:
        imported(tmp_path, "t.csv", TABLE, MAP.replace(old, new))

    assert caught.value.fix.startswith(f"correct {tmp_path / 'map.toml'}, key '{key}'")
    assert "--draft" not in str(caught.value)


def test_roles_of_common_names_are_known_and_a_mapping_says_what_others_mean(tmp_path: Path) -> None:
    mapping = 'chat = "chat"\ncontent = "text"\n'
    table = b"chat,role,text\n1,Participant,hi\n1,ChatBot,yes\n2,customer,hi\n2,LLM,yes\n3,Respondent,hi\n3,KI,yes\n"
    study, _ = imported(tmp_path, "t.csv", table, mapping)
    assert [[turn.role for turn in chat.turns] for chat in study.conversations] == [["user", "assistant"]] * 3

    other = b"chat_id,role,text\n1,Alice,hi\n1,agent,why\n1,SAM,yes\n"
    with pytest.raises(ChatbenchError, match="unknown role: message 0: role 'Alice'") as caught:
        imported(tmp_path, "u.csv", other, mapping.replace('"chat"', '"chat_id"'))
    assert caught.value.fix.endswith("""key 'roles': say who it is, as in "Alice" = "user\"""")
    drafted = draft(tmp_path / "u.csv")
    assert all(line in drafted for line in ("[roles]", '# "Alice" = ', '# "SAM" = '))
    assert '"agent" = ' not in drafted
    # What the mapping says goes before what is known.
    for role, meant in (("Alice", "user"), ("SAM", "assistant")):
        drafted = drafted.replace(f'# "{role}" = "..."', f'"{role.lower()}" = "{meant}"')
    study, _ = imported(tmp_path, "u.csv", other, drafted.replace("[roles]", '[roles]\nAgent = "user"'))
    assert study.conversations[0].turns == (Turn("user", "hi\nwhy"), Turn("assistant", "yes"))


@pytest.mark.parametrize(
    ("given", "letter"),
    [(each, "A") for each in ("A", "a", "A)", "(a)", "A.", "[A]", "Yes", "yes", " YES ", "Yes.", "A) yes", "a. Yes!")]
    + [(each, "B") for each in ("(B).", "B: No, never", "no, NEVER")]
    + [(each, "") for each in ("I think B", "A) No, never", "E", "AB", "No", "maybe", "C) ?")],
)
def test_an_answer_is_an_option_in_whichever_form_it_is_written(given: str, letter: str, tmp_path: Path) -> None:
    # Comparing texts exactly loses those who wrote "yes"; taking the first letter takes "AB" for A.
    mapping = 'turns = ["p", "r"]\nanswer = "said"\nright_answer = "ok"\nanswer_kind = "choice"\n'
    mapping += 'options = ["a", "b", "c", "d"]\n'
    table = 'p,r,a,b,c,d,ok,said\nhi,yo,Yes,"No, never",Maybe,MAYBE,b,A\nhi,yo,Yes,"No, never",Maybe,MAYBE,b,{}\n'
    study, rows = imported(tmp_path, "t.csv", table.format(f'"{given}"'), mapping)

    assert [answer.letter for answer in study.answers] == ["A", letter] if letter else ["A"]
    if not letter:
        assert rows[1]["why"] == "column 'said': answer that is no option, or could be two"
        assert f"{given!r} (expected: the letter or the text of one of A) Yes, B) No, never" in rows[1]["found"]


@pytest.mark.parametrize(
    ("right", "answers", "letter"), [("y", "letters", "B"), ("b", "texts", "B"), ("A", "texts", "C")]
)
def test_the_right_answer_may_be_written_otherwise_than_peoples(
    right: str, answers: str, letter: str, tmp_path: Path
) -> None:
    mapping = MAP.replace('"letters"', f'"{answers}"').replace('"second"', '"second", "third"')
    table = "person,task,text,first,second,third,right,prompt 1,reply 1,prompt 2,reply 2,chosen\n"
    said = "A" if answers == "letters" else "x"
    study, _ = imported(tmp_path, "t.csv", f"{table}p,t1,Well?,x,y,A,{right},hi,yo,,,{said}\n", mapping)

    assert (study.questions["t1"].answer, study.answers[0].letter) == (letter, "A")


@pytest.mark.parametrize(
    ("kind", "key"),
    [("none", "answer"), ("none", "correct"), ("none", "right_answer"), ("number", "options"), ("text", "answers"),
     ("outcome", "right_answer"), ("none", "constants.answer"), ("text", "unit"), ("choice", "constants.tolerance")],
)  # fmt: skip
def test_keys_that_the_kind_of_answer_does_not_use_are_refused(kind: str, key: str, tmp_path: Path) -> None:
    table, _, name = key.rpartition(".")
    value = {"options": '["p", "r"]', "answers": '"texts"'}.get(name, '"c"' if table else '"said"')
    mapping = f'turns = ["p", "r"]\nanswer_kind = "{kind}"\n' + f"[{table}]\n" * bool(table) + f"{name} = {value}\n"
    with pytest.raises(ChatbenchError, match=f"sets {name}, which answer_kind '{kind}' does not use") as caught:
        imported(tmp_path, "t.csv", b"p,r,said\nhi,yo,5\n", mapping)
    assert f"remove {name}" in caught.value.fix


def test_a_draft_leaves_the_kind_of_answer_open_and_is_refused_until_it_is_told(tmp_path: Path) -> None:
    table = jsonl(OPENAI | {"answer": "5", "gold": 5})
    drafted = draft(written(tmp_path / "t.jsonl", table))
    with pytest.raises(ChatbenchError, match="the mapping sets answer, which answer_kind 'none' does not use"):
        imported(tmp_path, "t.jsonl", table, drafted)

    study, _ = imported(tmp_path, "t.jsonl", table, drafted.replace('# answer_kind = ""', 'answer_kind = "number"'))
    assert [answer.correct for answer in study.answers] == [True]


CUMULATIVE = """\
who,p,r,p2,r2,said,ok
w,hi,yo,,,a,1
w,hi,yo,why,so,b,0
w,hi,yo,why,so,c,0
w,hi,yo,why,so,c,0
,hi,yo,,,d,1
,hi,yo,why,so,e,1
"""


def test_only_rows_of_one_person_go_on_and_none_with_another_answer(tmp_path: Path) -> None:
    mapping = 'cumulative = true\nturns = ["p", "r", "p2", "r2"]\nanswer_kind = "outcome"\nworker_id = "who"\n'
    study, rows = imported(tmp_path, "t.csv", CUMULATIVE, mapping + 'answer = "said"\ncorrect = "ok"\n')

    assert [row["done"] for row in rows] == ["dropped", "kept", "dropped", "changed", "kept", "kept"]
    assert rows[3]["why"] == DUPLICATE_ANSWER
    assert [answer.letter for answer in study.answers] == ["b", "d", "e"]


def test_sheets_are_named_where_one_must_be_chosen(tmp_path: Path) -> None:
    drafted = draft(written(tmp_path / "t.xlsx", book := workbook(TWO_SHEETS)))
    assert "sheet = \"Data\"  # of the sheets 'Read me', 'Data'" in drafted
    study, _ = imported(tmp_path, "t.xlsx", book, 'turns = ["p", "r"]\n' + drafted)
    assert len(study.conversations) == 2

    of_questions = 'turns = ["p", "r"]\nsheet = "Data"\nquestion_id = "who"\nquestion_text = "text"\n'
    of_questions += '[statements]\ntable = "t.xlsx"\n'
    book = workbook(TWO_SHEETS | {"Questions": [["id", "text"], ["w1", "Is it?"]]})
    study, _ = imported(tmp_path, "t.xlsx", book, of_questions + 'key = "id"\nsheet = "Questions"\n')
    assert [question.text for question in study.questions.values()] == ["Is it?"]
    chats = [["session", "role", "message"], [1, "user", "hi"]]
    questions = [["id", "text"], [1, "Is it?"]]
    (tmp_path / "t.xlsx").write_bytes(workbook({"Questions": questions, "Chats": chats, "More": chats}))
    assert 'sheet = "Chats"' in draft(tmp_path / "t.xlsx")
    (tmp_path / "empty.xlsx").write_bytes(workbook({"a": [["Notes"]], "b": [[None]]}))
    with pytest.raises(ChatbenchError, match="no table in the sheets 'a', 'b'"):
        draft(tmp_path / "empty.xlsx")


def test_merged_cells_have_their_value_in_every_row(tmp_path: Path) -> None:
    mapping = 'worker_id = "who"\n' + DATA_SHEET
    study, _ = imported(tmp_path, "t.xlsx", workbook(TWO_SHEETS, merged="A2:A3"), mapping)
    assert [chat.worker_id for chat in study.conversations] == ["w1", "w1"]

    titled: Sheets = {"Data": [["who", "p", "r"], ["People", None, None], ["w1", "hi", "yo"]]}
    study, _ = imported(tmp_path, "t.xlsx", workbook(titled, merged="A2:C2"), "header_rows = 2\n" + mapping)
    assert len(study.conversations) == 1  # a line of the header may be merged


def test_cells_are_read_as_the_spreadsheet_shows_them_or_the_summary_says_otherwise(tmp_path: Path) -> None:
    # '1989-11-09 00:00:00', '10:30:00', 'True' and 0.25 for 25 %, which no answer matched.
    typed = [datetime(1989, 11, 9), datetime(1989, 11, 9, 10, 5), time(10, 30), True]
    texts = ["1989-11-09", "1989-11-09 10:05:00", "10:30", "TRUE", "25%", "7.5 %", "0.25", "x"]
    values = [*typed, 0.25, 0.075, 0.25, "x"]
    rows = [[f"q{at}", "yo", value, "x"] for at, value in enumerate(values)]
    content = workbook({"Data": [["p", "r", "right", "said"], *rows]})
    book = openpyxl.load_workbook(io.BytesIO(content))
    for cell, form in (("C6", "0%"), ("C7", "0.0 %"), ("C8", '0.00" % "')):
        book["Data"][cell].number_format = form
    book.save(content := io.BytesIO())
    mapping = 'turns = ["p", "r"]\nquestion_text = "p"\nanswer_kind = "text"\nanswer = "said"\nright_answer = "right"\n'
    study, _ = imported(tmp_path, "t.xlsx", content.getvalue(), mapping)
    assert [question.answer for question in study.questions.values()] == texts
    assert imported_again(tmp_path, "t.xlsx").notes[1:] == [
        "column 'right': 4 cells are dates, times, TRUE or FALSE, read as '1989-11-09' is; the spreadsheet may show "
        "them otherwise: to get that, save it as CSV"
    ]
    pd.DataFrame({"at": typed[:1], "time": typed[2]}).to_parquet(tmp_path / "t.parquet")
    assert read_rows(tmp_path / "t.parquet")[0][1] == {"at": texts[0], "time": texts[2]}


@pytest.mark.parametrize(
    ("others", "told"), [(["1.591,35"], True), (["3,5"], True), (["1.234.567"], True), (["1,500", "3.5"], False)]
)
@pytest.mark.parametrize("tolerance", ["", "tolerance = 1\n"])
def test_one_point_in_a_column_of_decimal_commas_is_told(
    others: list[str], told: bool, tolerance: str, tmp_path: Path
) -> None:
    # 86.400 meant thousands, and was read as 86.4.
    lines = "".join(f'"q{n}",yo,"{n}"\n' for n in ["86.400", "about 12.500 m", *others])
    mapping = 'turns = ["p", "r"]\nquestion_text = "p"\nanswer_kind = "number"\nanswer = "a"\nright_answer = "a"\n'
    imported(tmp_path, "t.csv", ("p,r,a\n" + lines), mapping + "[constants]\n" * bool(tolerance) + tolerance)
    notes = imported_again(tmp_path, "t.csv").notes
    note = f"column 'a': 2 cells such as '86.400' read as 86.4, though others such as {others[0]!r} have decimal commas"
    assert (f"{note}: remove points of thousands" in notes) == told


def test_a_formula_without_its_value_is_refused_and_escapes_are_resolved(tmp_path: Path) -> None:
    # openpyxl and pandas write text that begins with = as a formula without a value: the message was lost.
    other = {"Sums": [["=1+1"]], "Data": [["p", "r"], ["one_x000D_\ntwo _x005F_x000D_", "yo"]]}
    study, _ = imported(tmp_path, "t.xlsx", workbook(other), DATA_SHEET)
    assert study.conversations[0].turns[0].text == "one\r\ntwo _x000D_"

    # One in a column that nobody reads refused the workbook, and a draft took the next sheet.
    data = [["who", "p", "r", "note"], ["w", "hi", "yo", "=1+1"]]
    unread: Sheets = {"Data": data, "Codes": [["name", "code"], ["w", 1]]}
    study, _ = imported(tmp_path, "t.xlsx", workbook(unread), DATA_SHEET)
    assert len(study.conversations) == 1
    assert 'sheet = "Data"' in draft(tmp_path / "t.xlsx")
    written(tmp_path / "t.xlsx", workbook({"Data": FORMULA}))
    with ZipFile(tmp_path / "t.xlsx") as book:
        parts = {name: book.read(name).decode() for name in book.namelist()}
    for value, shown in (("<v>4</v>", "4"), ("<v></v>", "")):  # the value that a spreadsheet program saves: 4, no text
        kind = ' t="str"' if not shown else ""
        with ZipFile(tmp_path / "t.xlsx", "w") as book:
            for name, text in parts.items():
                text = re.sub(r'<c r="A2"[^>]*>(<f>.*?</f>).*?</c>', rf'<c r="A2"{kind}>\1{value}</c>', text)
                book.writestr(name, text)
        assert [cells["p"] for _, cells in read_rows(tmp_path / "t.xlsx")] == [shown]


@pytest.mark.parametrize(
    ("cell", "correct"),
    [("1", 1), ("0", 0), ("1.0", 1), ("0,5", 0.5), (".25", 0.25), ("1,0", 1), ("Yes", 1), ("NO", 0), ("True", 1),
     ("FALSE", 0), ("ja", 1), ("Nein", 0), ("WAHR", 1), ("falsch", 0), ("Right", 1), ("wrong", 0), ("Correct", 1),
     ("incorrect", 0), ("50%", 0.5), ("2 %", 0.02), ("", None), ("5/5", None),
     ("0.3333333333333333", 1 / 3), ("0.30000000000000004", 0.1 + 0.2), ("1e-05", 1e-05),
     ("1e999", None), ("nan", None), ("0_1", None)],
)  # fmt: skip
def test_an_outcome_is_a_number_or_a_word(cell: str, correct: float | None, tmp_path: Path) -> None:
    mapping = 'turns = ["p", "r"]\nanswer_kind = "outcome"\ncorrect = "ok"\n'
    study, rows = imported(tmp_path, "t.csv", f'p,r,ok\nhi,yo,1\nhi,yo,"{cell}"\n', mapping)

    assert [answer.correct for answer in study.answers[1:]] == ([] if correct is None else [correct])
    assert rows[1]["why"] == ("correct that is neither a number from 0 to 1 nor yes or no" if correct is None else "")


@pytest.mark.parametrize("kind", ["outcome", "text"])
@pytest.mark.parametrize(
    ("worst", "best"), [("1", "5"), ("0", "100"), ("-1", "1"), ("1", "1,5"), ("1", "1e5"), ("1", "150 %")]
)
def test_a_column_on_another_scale_is_refused_as_a_whole(worst: str, best: str, kind: str, tmp_path: Path) -> None:
    # Cell by cell, the rating 1 of 5 was right and all better ones were dropped.
    mapping = f'turns = ["p", "r"]\nanswer_kind = "{kind}"\ncorrect = "ok"\n'
    table = f'p,r,ok\nhi,yo,"{worst}"\nhi,yo,yes\nhi,yo,"{best}"\n'.encode()
    with pytest.raises(ChatbenchError, match=rf"column 'ok': .*; its numbers are from {worst} to {best}\n") as caught:
        imported(tmp_path, "t.csv", table, mapping)
    assert "(x - 1) / 4 for 1 to 5" in caught.value.fix
    if kind == "outcome":
        missing = f'missing = ["{worst}", "{best}"]\n'
        assert len(imported(tmp_path, "t.csv", table, missing + mapping)[0].answers) == 1


def test_where_correct_is_blank_the_rule_of_the_kind_decides(tmp_path: Path) -> None:
    mapping = PROMPT_REPLY + 'answer_kind = "number"\nanswer = "a"\nright_answer = "right"\ncorrect = "ok"\n'
    study, _ = imported(tmp_path, "t.csv", b"p,r,a,right,ok\nhi,yo,7,7,\nhi,yo,8,7,\nhi,yo,8,7,1\n", mapping)

    assert [answer.correct for answer in study.answers] == [True, False, True]


def test_a_row_that_adds_neither_a_chat_nor_an_answer_is_dropped(tmp_path: Path) -> None:
    empty = {"messages": OPENAI["messages"][::2]}  # the person says nothing
    study, rows = imported(tmp_path, "t.jsonl", jsonl(empty, OPENAI))

    assert (rows[0]["done"], rows[0]["why"]) == ("dropped", "chats without a message of the person: left out")
    assert (len((tmp_path / "out.jsonl").read_text().splitlines()), len(study.conversations)) == (1, 1)


def test_damaged_files_are_refused_or_give_a_study(tmp_path: Path) -> None:
    # The second range has Parquet files at which pandas' to_json ended the process.
    for numbers in (range(500), range(17_425, 17_525)):
        counts = fuzz(numbers, tmp_path / str(numbers.start), say=lambda _line: None)
        assert counts["failed"] == 0, (tmp_path / str(numbers.start) / "failures.jsonl").read_text()
        assert min(counts["read"], counts["refused"]) > len(numbers) / 10


def test_a_fuzzed_reader_that_breaks_is_told_with_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Counting every exception as a refusal is the likely mistake; and a run that was stopped begins after what it did.
    monkeypatch.setattr("benchmarks.import_fuzz.import_study", lambda *_: [][0])
    counts = fuzz(range(20), tmp_path, say=lambda _line: None)

    failures = [json.loads(line) for line in (tmp_path / "failures.jsonl").read_text().splitlines()]
    assert len(failures) == counts["failed"] > 5
    assert all("IndexError" in each["why"] and each["number"] < 20 for each in failures)
    assert fuzz(range(20), tmp_path, say=lambda _line: None) == counts


def test_times_and_what_is_no_number_in_a_parquet_file_are_read(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hi", "at": pd.Timestamp("2026-11-01"), "score": float("nan")}]
    pd.DataFrame({"conversation": [messages], "model": ["m"], "when": [pd.Timestamp("2026-11-01")]}).to_parquet(
        tmp_path / "t.parquet"
    )
    import_study([tmp_path / "t.parquet"], tmp_path / "out.jsonl")

    assert [chat.turns[0].text for chat in open_study(tmp_path / "out.jsonl").conversations] == ["hi"]


def test_realhumaneval_is_imported_by_the_mapping_that_ships(tmp_path: Path) -> None:
    # 403 chats: no other row of the same programmer, task and model goes on with them (counted with pandas). In two of
    # them the programmer wrote nothing.
    file, mapping = shared_data("realhumaneval") / "chat_data.csv", REPOSITORY / "docs/examples/realhumaneval.toml"
    result = import_study([file], tmp_path / "out.jsonl", mapping)
    study = open_study(tmp_path / "out.jsonl")

    assert (len(result.rows), len(result.records), len(study.questions)) == (1055, 401, 17)
    assert len(study.conversations) == 401
    assert len(study.assistants) == 4
