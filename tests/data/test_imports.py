"""Files of other programs become studies: each shape, what becomes of every row, and what damaged files give."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pandas as pd  # type: ignore[import-untyped]
import pytest
from benchmarks.import_fuzz import fuzz
from tests.support.study_files import REPOSITORY, shared_data

from chatbench.cli import main
from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Study, Turn
from chatbench.data.imports import NO_STATEMENT, draft, import_study, read_map
from chatbench.data.open_study import open_study
from chatbench.data.tables import DUPLICATE_ANSWER

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


def imported(folder: Path, name: str, content: bytes, mapping: str = "") -> tuple[Study, list[dict[str, str]]]:
    """The study that comes of a file, and the report's rows."""
    (folder / name).write_bytes(content)
    (folder / "map.toml").write_text(mapping)
    import_study([folder / name], folder / "out.jsonl", folder / "map.toml" if mapping else None)
    with (folder / "out.rows.csv").open(newline="") as file:
        return open_study(folder / "out.jsonl"), list(csv.DictReader(file))


@pytest.mark.parametrize("row", [OPENAI, SHAREGPT, WILDCHAT])
def test_known_shapes_need_no_mapping(row: dict[str, object], tmp_path: Path) -> None:
    bad = {**row, next(key for key in row if key.startswith(("messages", "conversation"))): 7}
    lines = "".join(json.dumps(each) + "\n" for each in (row, row, bad))
    study, rows = imported(tmp_path, "chats.jsonl", lines.encode())

    assert [chat.turns for chat in study.conversations] == [(Turn("user", "hi"), Turn("assistant", "yes"))] * 2
    assert len({chat.id for chat in study.conversations}) == 2  # of one person about one question, they are numbered
    assert [question.text for question in study.questions.values()] == [NO_STATEMENT]
    assert [each["done"] for each in rows] == (["changed"] if row is OPENAI else ["kept"]) * 2 + ["dropped"]
    assert "no list of messages" in rows[2]["why"]
    assert "chats.jsonl, line 3" in rows[2]["row"]


def test_parquet_is_read_as_the_same_rows(tmp_path: Path) -> None:
    pd.DataFrame([WILDCHAT, WILDCHAT]).to_parquet(tmp_path / "a.parquet")
    study, rows = imported(tmp_path, "b.parquet", (tmp_path / "a.parquet").read_bytes())

    assert [chat.assistant for chat in study.conversations] == ["gpt-4"] * 2
    assert [each["done"] for each in rows] == ["kept"] * 2


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
        ("dropped", "answer that is no option, or could be two")
    ]


def test_a_text_that_is_a_letter_too_must_be_told(tmp_path: Path) -> None:
    texts, _ = imported(tmp_path, "t.csv", TABLE.encode(), MAP.replace('"letters"', '"texts"'))
    assert [(answer.letter, answer.correct) for answer in texts.answers] == [("B", False), ("A", True)]

    with pytest.raises(ChatbenchError, match="no row could be imported; the first: answer that is no option, or could"):
        imported(tmp_path, "t.csv", TABLE.encode(), MAP.replace('answers = "letters"\n', ""))


@pytest.mark.parametrize(
    ("name", "content", "mapping", "said"),
    [
        ("t.csv", b"a,b\n1\n", "", "row 2: 1 cells"),
        ("t.csv", b"a,b\n1,2\n", "", "expected: one of the columns messages"),
        ("t.csv", b"a,a\n1,2\n", "", "more than one column 'a'"),
        ("t.csv", b"\xff\xfea", "", "not UTF-16"),
        ("t.csv", b"caf\xe9", "", "not UTF-8"),
        ("t.csv", b"a,b\n1,2\n", 'messages = "c"', "no column 'c'; it has a, b"),
        ("t.csv", b"a,b\n1,2\n", 'mesages = "c"', "key 'mesages'"),
        ("t.csv", b"a,b\n1,2\n", "messages = ", "not TOML"),
        ("t.csv", b"a,b\n1,2\n", "messages = " + "[" * 3000, "not TOML"),
        ("t.csv", b"id,role,text\n1,a,b\n", 'chat = "id"', "no column 'content'"),
        ("t.csv", LONG.encode(), LONG_MAP + 'turns = ["text"]', "choose one"),
        ("t.csv", LONG.partition("c1")[0].encode() + b"c1,x,human,hi,", LONG_MAP, "row 2, column 'turn': 'x'"),
        ("t.csv", TABLE.encode(), MAP.replace('"second"', '"Second"'), "t.csv: no column 'Second'; it has"),
        ("t.csv", TABLE.encode(), "header_rows = 0\n" + MAP, "key 'header_rows': 0\n  expected: 1 or more"),
        ("t.csv", TABLE.encode(), MAP + 'model = "m"', "key 'constants.model': 'm'\n  expected: one of worker_id, "),
        ("t.csv", TABLE.encode(), MAP + 'sheet = "a"', "fix: write it above [constants]"),
        ("t.csv", TABLE.encode(), MAP + 'condition = "person"', "condition is 'person' in [constants], and that is a"),
        ("t.parquet", b"PAR1", "", "cannot be read as .parquet"),
        ("t.xlsx", b"PK", "", "t.xlsx: "),
        ("t.json", b"[7]", "", "record 1: not an object"),
        ("t.doc", b"", "", "unknown file format"),
    ],
)
def test_what_is_wrong_is_told_with_its_place_and_nothing_is_written(
    name: str, content: bytes, mapping: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "map.toml").write_text(mapping)
    option = ["--map", str(tmp_path / "map.toml")] if mapping else []

    assert main(["import", str(tmp_path / name), "--out", str(tmp_path / "out.jsonl"), *option]) == 2
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
        ("answer_kind", 'options = ["right", "c"]\nanswer_kind', "tasks.csv: no column 'c'"),
        ("[statements]", '[constants]\nsubset = "text"\n[statements]', "subset is 'text' in [constants]"),
        ("", "", ""),
    ],
)
def test_the_columns_of_the_second_table_are_checked_like_those_of_the_first(
    old: str, new: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "tasks.csv").write_text("id,text,right\nt1,What is 2 + 3?,5\nt1,What is 2 + 3?,5\n")
    mapping, table = OF_STATEMENTS.replace(old, new, 1), b"task,p,r,said\nt1,hi,yo,5\n"
    if said:
        with pytest.raises(ChatbenchError) as caught:
            imported(tmp_path, "t.csv", table, mapping)
        assert said in str(caught.value)
        return
    study, _ = imported(tmp_path, "t.csv", table, mapping)
    assert [(question.text, question.answer) for question in study.questions.values()] == [("What is 2 + 3?", "5")]
    (tmp_path / "tasks.csv").write_text("id,text,right\nt1,What is 2 + 3?,5\nt1,What is 2 + 4?,6\n")
    with pytest.raises(ChatbenchError, match=r"tasks.csv, row 3, column 'id': 't1' again, with different cells"):
        imported(tmp_path, "t.csv", table, mapping)


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
    content = _written(Path(name), json.dumps(OPENAI) + "\n" if name.endswith("l") else TABLE).read_text()
    _written(Path("map.toml"), MAP if name.endswith("csv") else 'messages = "messages"\n')

    assert main(["import", name, "--map", "map.toml", *option]) == 2
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
        _written(tmp_path / f"{name}.csv", f"chat,role,text\n1,user,hello {name}\n1,bot,yes\n")
    mapping = _written(tmp_path / "map.toml", 'chat = "chat"\ncontent = "text"\n')
    import_study([tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "out.jsonl", mapping)

    study = open_study(tmp_path / "out.jsonl")
    assert [chat.turns[0].text for chat in study.conversations] == ["hello a", "hello b"]


def test_what_is_not_recorded_is_no_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The text "nan" would be one person, whose second chat would be another's.
    rows = [{**OPENAI, "user_id": float("nan"), "model": None}, {**OPENAI, "user_id": 7.0, "model": "m"}]
    study, _ = imported(tmp_path, "t.jsonl", "".join(json.dumps(row) + "\n" for row in [OPENAI, *rows]).encode())

    assert [chat.assistant for chat in study.conversations] == ["unknown", "unknown", "m"]
    assert [chat.worker_id.partition("-")[0] for chat in study.conversations] == ["row", "row", "7"]
    # A cell #N/A of Excel is NaN to pandas, whatever its options.
    sheet = pd.DataFrame([["who", "p", "r"], ["w1", "hi", "yo"], [float("nan"), "hi", "yo"]], dtype=object)
    monkeypatch.setattr(pd, "read_excel", lambda *_, **__: sheet)
    study, _ = imported(tmp_path, "t.xlsx", b"", 'worker_id = "who"\nturns = ["p", "r"]\n')
    assert [chat.worker_id.partition("-")[0] for chat in study.conversations] == ["w1", "row"]


def test_a_second_chat_about_a_question_stays_though_its_answer_does_not_count(tmp_path: Path) -> None:
    rows = [{**OPENAI, "user_id": "u", "ok": at % 2} for at in range(3)]
    mapping = 'messages = "messages"\nworker_id = "user_id"\nanswer_kind = "outcome"\ncorrect = "ok"\n'
    study, report = imported(tmp_path, "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode(), mapping)

    assert ([answer.correct for answer in study.answers], len(study.conversations)) == ([False], 3)
    assert [row["done"] for row in report] == ["changed"] * 3
    assert [DUPLICATE_ANSWER in row["why"] for row in report] == [False, True, True]
    again = import_study([tmp_path / "t.jsonl"], tmp_path / "out.jsonl", tmp_path / "map.toml")
    assert f"  2 x changed: {DUPLICATE_ANSWER}" in again.lines()  # a reason with a semicolon is one reason


def test_an_answer_without_messages_is_one_without_asking(tmp_path: Path) -> None:
    table = TABLE.replace("p2,t1,Is B right?,B,A,B,hi,yes,", "p2,t1,Is B right?,B,A,B,,,")
    study, report = imported(tmp_path, "t.csv", table.encode(), MAP)

    assert [(answer.worker_id, bool(answer.conversation_id)) for answer in study.answers] == [
        ("p1", True),
        ("p2", False),
    ]
    assert report[1]["why"] == "user-AI answers without asking (turns is null)"


def test_a_draft_names_what_it_found_and_what_it_did_not(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("Participant ID,Model,conversations\np1,m,\"[{'from': 'human', 'value': 'hi'}]\"\n")
    text = draft(tmp_path / "t.csv")
    (tmp_path / "map.toml").write_text(text)
    mapping = read_map(tmp_path / "map.toml")

    assert (mapping.worker_id, mapping.assistant, mapping.messages) == ("Participant ID", "Model", "conversations")
    assert (mapping.role, mapping.content) == ("from", "value")
    assert '# question_id = ""  # no matching column' in text
    below = text.replace("# [constants]", "[constants]") + 'reply = "Reply"\n'
    with pytest.raises(ChatbenchError, match=r"key 'constants.reply'(.|\n)*write it above \[constants\]"):
        read_map(_written(tmp_path / "map.toml", below))


def test_a_table_with_one_message_per_row_becomes_chats_in_the_order_that_a_column_tells(tmp_path: Path) -> None:
    # The order of the rows, or of texts ("10" before "9"), is the likely mistake.
    rating = '[constants]\nassistant = "m"\n'
    study, rows = imported(tmp_path, "t.csv", LONG.encode(), LONG_MAP + rating)

    assert [[(turn.role, turn.text) for turn in chat.turns] for chat in study.conversations] == [
        [("user", "hi"), ("assistant", "yes")], [("user", "first\nsecond"), ("assistant", "so")]
    ]  # fmt: skip
    assert [row["done"] for row in rows] == ["dropped", *["kept"] * 2, *["changed"] * 3]
    assert rows[0]["why"] == "no chat's id"
    # A value that all rows of a chat share may stand in one of them; two are one too many.
    study, rows = imported(tmp_path, "t.csv", LONG.encode(), LONG_MAP + 'confidence = "rating"\n')
    assert len(study.conversations) == 1
    assert {row["why"]: row["found"] for row in rows}["two values in one chat"].endswith("'4'")
    drafted = read_map(_written(tmp_path / "draft.toml", draft(tmp_path / "t.csv")))
    assert (drafted.chat, drafted.order, drafted.role, drafted.content) == (
        "conversation_id", "turn", "sender", "text"
    )  # fmt: skip


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


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
    # 403 chats: no other row of the same programmer, task and model goes on with them (counted with pandas).
    file, mapping = shared_data("realhumaneval") / "chat_data.csv", REPOSITORY / "docs/examples/realhumaneval.toml"
    result = import_study([file], tmp_path / "out.jsonl", mapping)
    study = open_study(tmp_path / "out.jsonl")

    assert (len(result.rows), len(result.records), len(study.questions)) == (1055, 403, 17)
    assert len(study.conversations) == 401  # two programmers wrote nothing
    assert len(study.assistants) == 4
