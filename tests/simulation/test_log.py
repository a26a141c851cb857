"""Logs: what a kill leaves, who may write, what is refused, and that a record survives the file."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import AnswerProbabilities, SimulatedConversation, Turn, Usage
from chatbench.simulation.budget import replies_otherwise
from chatbench.simulation.log import (
    checksummed_line,
    open_log,
    other_place,
    read_conversations,
    read_log,
    read_recorded,
    settings_path,
)

ROWS = [
    {"id": f"r{n}", "text": text}
    for n, text in enumerate(['quote " here', "line\u2028end", "é\n", "", '"}\n, "sha256"'])
]
MISSING = object()
CHAT = SimulatedConversation(
    id="q|b|1", question_id="q", assistant="b", index=1, style="two-step", prompts_sha256="abc",
    simulator={"name": "s"}, assistant_identity={"name": "a"}, seed=7,
    turns=(Turn("user", "hi\u2028"), Turn("assistant", "ho")), termination="forced", answer_text="(B)",
    lenient_letter="B", forced_text="Answer: (B)", final_output=' "Answer: (B)"', turns_dropped=2,
    observed={"role_flip": 2}, usage=Usage(1, 2, 3, 4), seconds=1.25,
    answer_probabilities=(None, AnswerProbabilities(0.5, (0.1, 0.2, 0.3, 0.4))), expected_correct=0.2,
)  # fmt: skip


def test_an_overwritten_log_comes_back_if_nothing_replaces_it(tmp_path: Path) -> None:
    path, old, new = tmp_path / "log.jsonl", {"settings": {"seed": 1}}, {"settings": {"seed": 2}}
    with open_log(path, old) as log:
        log.append([ROWS[0]])
    before = path.read_bytes(), settings_path(path).read_bytes()
    with pytest.raises(RuntimeError), open_log(path, new, overwrite=True):
        raise RuntimeError  # no memory, say, for the new run's first chat
    assert (path.read_bytes(), settings_path(path).read_bytes()) == before

    killed = "import os, sys; from pathlib import Path; from chatbench.simulation.log import open_log\n"
    killed += "with open_log(Path(sys.argv[1]), {'settings': {'seed': 2}}, overwrite=True): os._exit(9)"
    assert subprocess.run([sys.executable, "-c", killed, str(path)], check=False).returncode == 9
    with open_log(path, old):
        pass
    assert (path.read_bytes(), settings_path(path).read_bytes()) == before

    with open_log(path, new, overwrite=True):  # killed, or the disk full, within its first line
        path.write_bytes(checksummed_line(ROWS[1])[:20])
    assert (path.read_bytes(), settings_path(path).read_bytes()) == before

    with open_log(path, new, overwrite=True) as log:
        log.append([ROWS[1]])
    assert [row["id"] for _, row in read_log(path)] == ["r1"]
    assert not [each for each in tmp_path.iterdir() if each.name.endswith(".replaced")]


@pytest.mark.parametrize(
    ("log", "fix"),
    [
        ("results/simulations/tiny/split_1/conversations.jsonl", "chatbench simulate tiny --split split_1 --overwrite"),
        ("simulations/tiny/split_1/conversations_base.jsonl", "tiny --split split_1 --base --overwrite"),
        (
            "r/simulations/tiny/split_1/conversations.blocks/000.jsonl",
            "remove r/simulations/tiny/split_1/conversations.blocks",
        ),
        ("ai_alone/gpt.jsonl", "add --overwrite to start gpt.jsonl over"),
    ],
)
def test_a_log_of_other_settings_is_started_over_by_a_command_that_can(log: str, fix: str) -> None:
    # `run` said "add --overwrite", an option that it does not have.
    assert fix in other_place(Path(log))


def rows_in(path: Path) -> list[dict[str, object]]:
    return [row for _, row in read_log(path)]


def append(path: Path, rows: Sequence[dict[str, object]]) -> int:
    with open_log(path) as log:
        return log.append(rows)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "log.jsonl"


# ---- lines ----


def test_cut_at_every_byte_the_log_goes_on_with_every_complete_line(path: Path) -> None:
    # Appending behind an incomplete line would glue two records into one: the likely mistake.
    append(path, ROWS)
    complete = path.read_bytes()

    for length in range(len(complete)):
        path.write_bytes(complete[:length])
        kept = complete[:length].count(b"\n")
        assert rows_in(path) == ROWS[:kept]
        assert path.stat().st_size == length  # a reader repairs nothing
        assert append(path, ROWS) == len(ROWS) - kept
        assert path.read_bytes() == complete


def test_a_long_incomplete_line_is_cut_off(path: Path) -> None:
    append(path, ROWS[:1])
    with path.open("ab") as file:
        file.write(b"x" * 150_000)

    assert append(path, ROWS) == len(ROWS) - 1
    assert path.read_bytes() == b"".join(map(checksummed_line, ROWS))  # writing over it would leave its rest


def test_only_a_transient_record_is_followed_by_another_of_its_id(path: Path) -> None:
    transient, final = {"id": "a", "transient": True}, {"id": "a", "transient": False}

    with open_log(path) as log:
        assert [log.append([row]) for row in (transient, transient, final, transient, final)] == [1, 1, 1, 0, 0]
        assert log.append([*ROWS, *ROWS]) == len(ROWS)
    with open_log(path) as log:
        assert log.recorded == {"a", *(row["id"] for row in ROWS)}


@given(line=st.integers(0, len(ROWS) - 1), share=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
@examples(deadline=None, max_examples=200)
def test_a_line_with_any_other_byte_is_named(
    tmp_path_factory: pytest.TempPathFactory, line: int, share: float, byte: int
) -> None:
    lines = [checksummed_line(row) for row in ROWS]
    place = int(share * (len(lines[line]) - 1))  # not the line end
    if lines[line][place] == byte or byte == ord("\n"):
        return
    lines[line] = lines[line][:place] + bytes([byte]) + lines[line][place + 1 :]
    path = tmp_path_factory.mktemp("damaged") / "log.jsonl"
    path.write_bytes(b"".join(lines))

    with pytest.raises(ChatbenchError, match=f"log.jsonl, line {line + 1}: .*\n.*\n.*fix: "):
        rows_in(path)
    with pytest.raises(ChatbenchError, match=f"line {line + 1}:"):
        append(path, ROWS)


def test_half_a_character_is_recorded_as_a_question_mark(path: Path) -> None:
    append(path, [{"id": "a", "text": "\ud83d and \U0001f600"}])

    assert rows_in(path) == [{"id": "a", "text": "? and \U0001f600"}]


def test_a_full_disk_is_told_and_leaves_a_log_that_goes_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite

    def half(descriptor: int, content: bytes, position: int) -> int:
        real(descriptor, content[: len(content) // 2], position)
        raise OSError(errno.ENOSPC, "No space left on device")

    with open_log(path) as log:
        monkeypatch.setattr(os, "pwrite", half)
        with pytest.raises(ChatbenchError, match=r"log\.jsonl: No space left"):
            log.append(ROWS)
        monkeypatch.undo()
        log.append(ROWS[1:])

    assert rows_in(path) == ROWS[1:]


def test_all_records_are_on_the_disk_at_the_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.fstat(descriptor).st_size))
    with open_log(path) as log:
        for row in ROWS:
            log.append([row])

    assert flushed[-1] == path.stat().st_size


@pytest.mark.parametrize(
    ("asked", "answered", "told"),
    [
        ("gpt-4o", "gpt-4o-2024-08-06", False), ("gpt-4", "gpt-4-0613", False), ("m-latest", "m-2409", False),
        ("org/M", "m", False), ("m", "m:latest", False), ("gpt-4o", "gpt-4o-mini", True), ("gpt-4", "gpt-4.1", True),
        ("o1", "o1-mini", True), ("m", "other", True), ("claude-3", "claude-3-5-sonnet", True),
    ],
)  # fmt: skip
def test_another_model_is_told_and_a_version_of_the_same_is_not(asked: str, answered: str, told: bool) -> None:
    assert bool(replies_otherwise({}, {("assistant", asked): Counter([answered])}, "chats")) is told
    assert replies_otherwise({}, {("assistant", asked): Counter()}, "chats") == []


# ---- the one writer ----


def test_a_second_writer_is_refused_and_told_who_writes_until_the_first_has_ended(path: Path) -> None:
    with open_log(path) as log:
        log.append(ROWS[:1])
        for overwrite in (False, True):
            with (
                pytest.raises(ChatbenchError, match=rf"log\.jsonl: process {os.getpid()} on .* is writing to it"),
                open_log(path, overwrite=overwrite),
            ):
                pass
        log.append(ROWS[1:])

    assert rows_in(path) == ROWS  # the refused writer has emptied nothing
    assert append(path, ROWS) == 0
    assert [each.name for each in path.parent.iterdir()] == ["log.jsonl"]


def test_a_lock_that_a_killed_process_left_behind_stops_nobody(path: Path) -> None:
    path.parent.mkdir()
    path.with_name("log.jsonl.lock").write_text("process 1 on here")

    assert append(path, ROWS) == len(ROWS)


KILLED = """
import errno, fcntl, os, signal, sys
from pathlib import Path
from chatbench.simulation.log import open_log
def missing(*_): raise OSError(errno.ENOSYS, "no flock")
fcntl.flock = missing
with open_log(Path(sys.argv[1])) as log:
    log.append([{"id": "r0"}])
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.filterwarnings("ignore:flock not supported")
def test_where_a_lock_is_a_file_it_keeps_a_second_writer_out_but_not_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # There filelock writes into the lock who holds it, and looks whether that process still runs.
    def missing(*_: object) -> None:
        raise OSError(errno.ENOSYS, "no flock")

    assert subprocess.run([sys.executable, "-W", "ignore", "-c", KILLED, path], check=False).returncode == -9
    monkeypatch.setattr(fcntl, "flock", missing)

    with open_log(path) as log:
        with pytest.raises(ChatbenchError, match=f"process {os.getpid()} on"), open_log(path):
            pass
        log.append([{"id": "r1"}])
    assert [row["id"] for row in rows_in(path)] == ["r0", "r1"]


def test_where_the_file_system_knows_no_locks_the_log_is_written_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", no_locks)

    assert append(path, ROWS) == len(ROWS)


# ---- settings ----


def agree(path: Path, settings: dict[str, object], assistants: dict[str, object] | None = None) -> None:
    with open_log(path, {"settings": settings, "assistants": assistants or {}}):
        pass


def test_other_settings_are_refused_and_another_assistant_is_welcome(path: Path) -> None:
    same = {"seed": 0, "simulator": {"weights": "a"}, "end_on": ("role_flip",)}  # JSON gives a list back for a tuple
    agree(path, same, {"bot": {"kind": "replay"}})
    agree(path, same, {"new": {"kind": "local"}})

    assert set(json.loads(settings_path(path).read_text())["assistants"]) == {"bot", "new"}
    for settings, assistants, found in (
        ({**same, "seed": 1}, {}, "seed 0"),
        ({**same, "simulator": {"weights": "b"}}, {}, "simulator.weights 'a'"),
        ({"seed": 0, "end_on": same["end_on"]}, {}, "simulator.weights 'a'"),
        (same, {"bot": {"kind": "openai"}}, "kind 'replay'"),
    ):
        with pytest.raises(ChatbenchError, match="--overwrite") as caught:
            agree(path, settings, assistants)  # type: ignore[arg-type]
        assert found in str(caught.value)
    with open_log(path, {"settings": {"seed": 1}}, overwrite=True):
        assert json.loads(settings_path(path).read_text()) == {"settings": {"seed": 1}}


def test_a_log_without_its_settings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "conversations.jsonl").write_text("{}\n")

    with pytest.raises(ChatbenchError, match="settings are missing"):
        agree(tmp_path / "conversations.jsonl", {})


# ---- the record ----


def test_everything_in_a_record_survives_the_file_under_its_documented_keys(path: Path) -> None:
    append(path, [asdict(CHAT)])

    assert list(json.loads(path.read_text())) == [
        "id", "question_id", "assistant", "index", "style", "prompts_sha256", "simulator", "assistant_identity", "seed",
        "turns", "termination", "reason", "transient", "answer_text", "letter", "lenient_letter", "forced_text",
        "final_output", "turns_dropped", "observed", "usage", "seconds", "answer_probabilities", "expected_correct",
        "reasoning", "finish_reasons", "served_models", "prompts_truncated", "sha256",
    ]  # fmt: skip
    assert list(read_recorded(path)) == [(1, CHAT)]
    assert read_conversations(path) == [CHAT]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"termination": "bored"}, "termination 'bored'"),
        ({"letter": ""}, "a blank letter"),
        ({"turns": [{"role": "user"}]}, "turns.0.text"),
        ({"turns": [{"role": "system", "text": "hi"}]}, "turns.0.role 'system'"),
        ({"termination": "no_answer", "letter": "A"}, "yet it has the answer"),
        ({"expected_correct": 1.5}, "expected 0..1"),
        # A line of another version; taking the default in place of a missing key is the likely mistake.
        ({"turns": MISSING}, "no 'turns'"),
        ({"style": MISSING}, "no 'style'"),
        ({"expected_correct": MISSING}, "no 'expected_correct'"),
    ],
)
def test_a_line_that_is_no_conversation_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    row = asdict(CHAT)
    other = {name: value for name, value in {**row, **change}.items() if value is not MISSING}
    (tmp_path / "a.jsonl").write_bytes(checksummed_line(row) + checksummed_line(other))

    with pytest.raises(ChatbenchError, match="line 2") as caught:
        read_conversations(tmp_path / "a.jsonl")
    assert message in str(caught.value)
    assert "simulate again with --overwrite" in str(caught.value)
