"""Files of other programs become studies: each shape, what becomes of every row, and what damaged files give."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pandas as pd  # type: ignore[import-untyped]
import pytest
from tests.support.study_files import REPOSITORY, shared_data

from chatbench.cli import main
from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Study, Turn
from chatbench.data.imports import NO_STATEMENT, draft, import_study, read_map
from chatbench.data.open_study import open_study

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
        ("t.csv", b"a,b\n1,2\n", "", "expected: a column called messages"),
        ("t.csv", b"a,a\n1,2\n", "", "more than one column 'a'"),
        ("t.csv", b"\xff\xfea", "", "not UTF-16"),
        ("t.csv", b"caf\xe9", "", "not UTF-8"),
        ("t.csv", b"a,b\n1,2\n", 'messages = "c"', "no column 'c'; it has a, b"),
        ("t.csv", b"a,b\n1,2\n", 'mesages = "c"', "key 'mesages'"),
        ("t.csv", b"a,b\n1,2\n", "messages = ", "not TOML"),
        ("t.parquet", b"PAR1", "", "not read as .parquet"),
        ("t.xlsx", b"PK", "", "t.xlsx: "),
        ("t.json", b"[7]", "", "record 1: no object"),
        ("t.doc", b"", "", "unknown kind of file"),
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


def test_a_draft_names_what_it_found_and_what_it_did_not(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("Participant ID,Model,conversations\np1,m,\"[{'from': 'human', 'value': 'hi'}]\"\n")
    text = draft(tmp_path / "t.csv")
    (tmp_path / "map.toml").write_text(text)
    mapping = read_map(tmp_path / "map.toml")

    assert (mapping.worker_id, mapping.assistant, mapping.messages) == ("Participant ID", "Model", "conversations")
    assert (mapping.role, mapping.content) == ("from", "value")
    assert '# question_id = ""  # no column looks like it' in text


def damaged(content: bytes, chance: random.Random) -> bytes:
    """A file with bytes changed, left out and put in, cut somewhere, or with a cell's value replaced."""
    made = bytearray(content)
    for _ in range(chance.randrange(1, 3)):
        at = chance.randrange(len(made) + 1)
        piece = chance.choice(
            [b"", bytes([chance.randrange(256)]), b'"', b"\n", b"null", b"[[", b"{}", b"\\ud83d", b"9" * 99]
        )
        made[at : at + chance.randrange(4)] = piece
    return bytes(made[: chance.randrange(len(made) + 1)] if chance.random() < 0.2 else made)


def fuzz(folder: Path, seeds: range) -> int:
    """Imports damaged files of each shape; how many were refused. Anything else than our error escapes."""
    shapes = [
        *(
            (f"{n}.jsonl", (json.dumps(row) + "\n").encode() * 2, "")
            for n, row in enumerate((OPENAI, SHAREGPT, WILDCHAT))
        ),
        ("t.csv", TABLE.encode(), MAP),
        ("u.csv", TABLE.encode("utf-16"), MAP),
        ("v.json", json.dumps([OPENAI]).encode(), ""),
    ]
    refused, out = 0, folder / "out.jsonl"
    for seed in seeds:
        name, content, mapping = shapes[seed % len(shapes)]
        (folder / name).write_bytes(damaged(content, random.Random(seed)))
        (folder / "map.toml").write_text(mapping)
        try:
            import_study([folder / name], out, folder / "map.toml" if mapping else None)
            open_study(out)  # what was written is a study
        except ChatbenchError:
            refused += 1
        assert not [*folder.glob(".*")]  # nothing by halves
    return refused


def test_damaged_files_are_refused_or_give_a_study(tmp_path: Path) -> None:
    refused = fuzz(tmp_path, range(1200))
    assert 300 < refused < 1150


def test_realhumaneval_is_imported_by_the_mapping_that_ships(tmp_path: Path) -> None:
    # 403 chats: no other row of the same programmer, task and model goes on with them (counted with pandas).
    file, mapping = shared_data("realhumaneval") / "chat_data.csv", REPOSITORY / "docs/examples/realhumaneval.toml"
    result = import_study([file], tmp_path / "out.jsonl", mapping)
    study = open_study(tmp_path / "out.jsonl")

    assert (len(result.rows), len(result.records), len(study.questions)) == (1055, 403, 17)
    assert len(study.conversations) == 401  # two programmers wrote nothing
    assert len(study.assistants) == 4
