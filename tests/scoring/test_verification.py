"""Chats verified before they are scored, their ends read again; and chats as tables for other programs."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from tests.support.fake_participants import QUESTIONS
from tests.support.simulated_logs import endpoint, prepared, rewrite_log, write_log

from chatbench.cli import main
from chatbench.core.errors import ChatbenchError
from chatbench.core.records import AnswerProbabilities, Question, SimulatedConversation
from chatbench.data.workspace import Workspace
from chatbench.metrics.resampling import Resampling
from chatbench.protocol.dialogue import Failure, Reply, dialogue
from chatbench.protocol.prompt_styles import STYLES, Style
from chatbench.scoring.eval_chatbench import Verified, eval_chatbench, reread
from chatbench.scoring.score_table import ScoreTable
from chatbench.simulation.run import Planned, finished
from chatbench.simulation.split_chats import CONVERSATION, TURN, export_chats

NO_INTERVALS = Resampling(0, 0.95, 0)


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    place = prepared(tmp_path, splits=2)
    for split in ("split_0", "split_1"):
        write_log(place, split)
    write_log(place, "split_0", base_model=True)
    return place


def log_of(place: Workspace, split: str = "split_0") -> Path:
    return place.results / "simulations" / "tiny" / split / "conversations.jsonl"


# ---- reading an end again ----


def played(
    question: Question, style: Style, max_user_turns: int, reply: Callable[[str], Reply | Failure]
) -> SimulatedConversation:
    """The record of a dialogue whose replies are `reply` of the participant asked."""
    running = dialogue(question, "id", base_seed=0, max_user_turns=max_user_turns, style=style)
    said: Reply | Failure | None = None
    while True:
        try:
            said = reply(running.send(said).participant)  # type: ignore[arg-type]
        except StopIteration as stop:
            return finished(stop.value, Planned("id", question, "bot", 0), {}, {}, style)


SAID = st.sampled_from(
    ["Answer: B", ' "Answer: C"', "Answer: (A)", "Answer: d", 'YOU: "Answer: B"', "So, the answer is: D.", "hello", ""]
)
PROBABILITIES = st.sampled_from([None, AnswerProbabilities(0.5, (0.1, 0.2, 0.3, 0.25))])


@given(
    style=st.sampled_from(list(STYLES.values())),
    said=st.lists(st.tuples(SAID, PROBABILITIES), min_size=4, max_size=4),
    lost=st.sampled_from([None, 1, 2]),
)
@settings(deadline=None, max_examples=300)
def test_what_a_dialogue_recorded_is_what_its_last_words_say_again(
    style: Style, said: list[tuple[str, AnswerProbabilities | None]], lost: int | None
) -> None:
    # Reading the cleaned text again would find the answer in 'YOU: "Answer: B"', which the first reading did not.
    words, replies = iter(said), count(1)

    def reply(asked: str) -> Reply | Failure:
        if asked == "simulator":
            text, answer = next(words)
            return Reply(text, answer=answer)
        return Failure("lost") if next(replies) == lost else Reply("reply")

    chat = played(QUESTIONS[0], style, 3, reply)
    assert reread(chat, style, QUESTIONS[0]) == chat


def test_a_question_is_all_that_an_end_is_judged_by() -> None:
    # The lenient reader looks at the options' texts, so another question gives another letter.
    question = Question("q", "s", "t", ("four", "five", "six", "seven"), "B")
    words = iter(("hi", "Answer: five"))
    chat = played(question, STYLES["two-step"], 1, lambda asked: Reply(next(words) if asked == "simulator" else "ho"))

    assert (chat.letter, chat.lenient_letter) == (None, "B")
    assert reread(chat, STYLES["two-step"], question) == chat


# ---- scores ----


def scored(place: Workspace) -> tuple[ScoreTable, Verified]:
    verified = Verified()
    return eval_chatbench("tiny", workspace=place, resampling=NO_INTERVALS, verified=verified), verified


def test_every_chat_is_verified_and_where_the_text_says_another_letter_the_text_is_scored(place: Workspace) -> None:
    # Trusting the recorded letters is the likely mistake: then nothing is recomputed.
    before, verified = scored(place)
    assert verified.differences == []
    assert verified.chats == sum(path.read_bytes().count(b"\n") for path in place.results.rglob("*.jsonl")) == 120
    rewrite_log(log_of(place), lambda row: {**row, "letter": "A", "answer_text": "A"} if row["index"] == 0 else row)

    after, verified = scored(place)

    assert after.scores == before.scores
    assert after.notes[-1].startswith("16 values differ from what was recorded")
    assert len(verified.differences) == 2 * 8  # the letter and its text in one chat of 4 questions and 2 assistants
    assert "answer_text recorded as 'A', now read as 'B'" in "\n".join(verified.lines())
    assert verified.lines()[-1] == "  and 6 more"


def test_a_damaged_record_and_one_of_another_participant_are_named(place: Workspace) -> None:
    log = log_of(place)
    complete = log.read_bytes()
    log.write_bytes(complete.replace(b"Let me see.", b"Let me sea.", 1))
    with pytest.raises(ChatbenchError, match=r"conversations.jsonl, line 1: checksum mismatch"):
        scored(place)
    log.write_bytes(complete)
    rewrite_log(log, lambda row: {**row, "simulator": {"kind": "local", "name": "another"}})
    with pytest.raises(ChatbenchError, match=r"split_0, fine-tuned, chat .*: the simulator is .*another"):
        scored(place)


# ---- tables ----


def as_csv(place: Workspace, **options: object) -> list[dict[str, str]]:
    to = place.results / "chats.csv"
    export_chats("tiny", workspace=place, to=to, **options)  # type: ignore[arg-type]
    with to.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_a_conversation_says_everything_in_csv_and_parquet(place: Workspace) -> None:
    rows = as_csv(place)
    to = place.results / "chats.parquet"
    written = export_chats("tiny", workspace=place, to=to)
    table = parquet.read_table(to).to_pylist()

    assert len(rows) == written == len(table) == 120
    assert list(rows[0]) == list(table[0]) == list(CONVERSATION)
    assert {(row["split"], row["source"]) for row in rows} == {
        ("split_0", "fine-tuned"), ("split_0", "base model"), ("split_1", "fine-tuned"),
    }  # fmt: skip
    for text, row in zip(rows, table, strict=True):
        assert row["correct"] is (row["letter"] == row["right_letter"])
        assert text["correct"] == str(row["correct"])
        assert json.loads(text["turns"]) == json.loads(row["turns"])
    assert [turn["role"] for turn in json.loads(table[0]["turns"])] == ["user", "assistant"]
    log = log_of(place)
    whole = log.read_bytes()
    rewrite_log(log, lambda row: {**row, "termination": "failed", "letter": None, "transient": True, "reason": "503"})
    log.write_bytes(log.read_bytes() + whole)  # of several tries the last counts
    assert {row["termination"] for row in as_csv(place, splits=["split_0"])} == {"answered"}


def test_a_prompted_simulator_goes_by_its_name_in_the_export_and_a_turn_can_be_a_row(place: Workspace) -> None:
    write_log(place, "split_1", prompted=endpoint())
    assert {row["source"] for row in as_csv(place, splits=["split_1"])} == {"simulator gpt-4o (two-step)"}

    rows = as_csv(place, turns=True, splits=["split_1"])
    assert list(rows[0]) == list(TURN)
    assert [(row["turn"], row["role"]) for row in rows[:2]] == [("0", "user"), ("1", "assistant")]
    assert len(rows) == 2 * 40


def test_no_cell_of_a_csv_is_a_formula_and_all_texts_come_back(place: Workspace) -> None:
    # A writer whose lines end in "\\n" does not quote a bare carriage return, and readers take it for a line end.
    formulas = ["=1+1", "+1", "-1", "@A1", "\tx"]
    texts = ["'=1", 'plain, "quoted"\nline', "1-2", "one\rtwo", "\tx"]
    rewrite_log(
        log_of(place), lambda row: {**row, "reason": formulas[row["index"]], "final_output": texts[row["index"]]}
    )
    rows = as_csv(place, splits=["split_0"])[:5]

    assert [row["reason"] for row in rows] == [f"'{text}" for text in formulas]
    assert [row["final_output"].removeprefix("'") for row in rows] == texts
    assert not any(row["final_output"].startswith(("=", "+", "-", "@", "\t")) for row in rows)


def test_an_export_that_cannot_be_leaves_what_was_there(place: Workspace) -> None:
    for name in ("chats.xlsx", "chats"):
        with pytest.raises(ChatbenchError, match=r"\.csv or \.parquet"):
            export_chats("tiny", workspace=place, to=place.results / name)
        assert not (place.results / name).exists()
    to = place.results / "chats.csv"
    to.write_text("before")
    log = log_of(place)
    log.write_bytes(log.read_bytes().replace(b"Let me see.", b"Let me sea."))
    for model, split, said in (
        ("tiny", "split_9", "split_9"), ("nobody", "split_0", "missing or empty"), ("tiny", "split_0", "checksum"),
    ):  # fmt: skip
        with pytest.raises(ChatbenchError, match=said):
            export_chats(model, workspace=place, to=to, splits=[split])
    assert to.read_text() == "before"
    assert not list(place.results.glob(".*"))


def test_the_commands_say_what_they_found_and_end_with_1_where_a_record_differs(
    place: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPLIT_ID", raising=False)
    folders = ["--data", str(place.data), "--results", str(place.results)]

    assert main(["eval-chatbench", "tiny", "--bootstrap", "0", *folders]) == 0
    assert "120 chats verified: all match what was recorded" in capsys.readouterr().out
    rewrite_log(log_of(place), lambda row: {**row, "letter": "A"})
    assert main(["eval-chatbench", "tiny", "--bootstrap", "0", *folders]) == 1
    assert "differences; the values read now are scored:" in capsys.readouterr().out
    assert main(["export", "tiny", "--to", str(place.results / "chats.csv"), *folders]) == 0
    assert "120 rows" in (told := capsys.readouterr().out)
    assert "apostrophe" in told
