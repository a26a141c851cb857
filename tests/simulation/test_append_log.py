"""The append-only log: what a kill leaves, what two writers do to each other, and what a changed line is told."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatbench.core.errors import ChatbenchError
from chatbench.simulation.log import AppendOnlyLog, checked_line, read_log

ROWS = [
    {"id": f"r{n}", "text": text}
    for n, text in enumerate(['quote " here', "line\u2028end", "é\n", "", '"}\n, "sha256"'])
]
ROOT = Path(__file__).parents[2]


def rows_in(path: Path) -> list[dict[str, object]]:
    return [row for _, row in read_log(path)]


def log_of(path: Path) -> AppendOnlyLog:
    log = AppendOnlyLog(path)
    log.catch_up()
    return log


def test_cut_at_every_byte_the_log_goes_on_with_every_whole_line(tmp_path: Path) -> None:
    # Appending behind a torn tail would glue two records into one line: the likely mistake.
    path = tmp_path / "log.jsonl"
    AppendOnlyLog(path).append(ROWS)
    whole = path.read_bytes()

    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        kept = whole[:length].count(b"\n")
        assert rows_in(path) == ROWS[:kept]
        assert path.stat().st_size == length  # a reader repairs nothing
        assert log_of(path).append(ROWS) == len(ROWS) - kept
        assert path.read_bytes() == whole


def test_an_open_log_cuts_the_tail_that_another_writer_tore(tmp_path: Path) -> None:
    # Repairing only when the log is opened is not enough: this one was opened before the other writer was killed.
    path = tmp_path / "log.jsonl"
    mine = AppendOnlyLog(path)
    mine.append(ROWS[:1])
    with path.open("ab") as other:
        other.write(checked_line(ROWS[1])[:-7])

    mine.append(ROWS[2:3])

    assert rows_in(path) == [ROWS[0], ROWS[2]]


def test_what_others_recorded_meanwhile_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    mine, other = AppendOnlyLog(path), AppendOnlyLog(path)
    mine.append(ROWS[:2])
    assert other.append(ROWS[:3]) == 1
    assert mine.append([*ROWS, *ROWS]) == 2

    assert rows_in(path) == ROWS
    other.catch_up()
    assert other.settled == {row["id"] for row in ROWS}


def test_a_record_that_settles_nothing_is_followed_by_another_and_never_follows_a_settled_one(tmp_path: Path) -> None:
    log = AppendOnlyLog(tmp_path / "log.jsonl", settles=lambda row: not row["again"])
    passing, final = {"id": "a", "again": True}, {"id": "a", "again": False}

    assert [log.append([row]) for row in (passing, passing, final, passing, final)] == [1, 1, 1, 0, 0]


@given(line=st.integers(0, len(ROWS) - 1), share=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
@settings(deadline=None, max_examples=200)
def test_a_line_with_any_other_byte_is_named(
    tmp_path_factory: pytest.TempPathFactory, line: int, share: float, byte: int
) -> None:
    lines = [checked_line(row) for row in ROWS]
    place = int(share * (len(lines[line]) - 1))  # not the line end
    if lines[line][place] == byte or byte == ord("\n"):
        return
    lines[line] = lines[line][:place] + bytes([byte]) + lines[line][place + 1 :]
    path = tmp_path_factory.mktemp("damaged") / "log.jsonl"
    path.write_bytes(b"".join(lines))

    with pytest.raises(ChatbenchError, match=f"log.jsonl, line {line + 1}: .*\n.*\n.*fix: "):
        rows_in(path)
    with pytest.raises(ChatbenchError, match=f"line {line + 1}:"):
        AppendOnlyLog(path).append(ROWS)


def test_a_line_without_a_checksum_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"id": "a"}\n')

    with pytest.raises(ChatbenchError, match="line 1: no checksum"):
        rows_in(tmp_path / "log.jsonl")


def test_a_log_that_was_emptied_or_edited_under_a_writer_is_not_written_on(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    mine = AppendOnlyLog(path)
    mine.append(ROWS[:2])
    other = log_of(path)
    other.clear()
    other.append(ROWS[2:])

    with pytest.raises(ChatbenchError, match="changed or emptied"):
        mine.append(ROWS[:1])
    assert rows_in(path) == ROWS[2:]


def test_a_full_disk_is_told_and_leaves_a_log_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.jsonl"
    log = AppendOnlyLog(path)
    real = os.pwrite

    def half(descriptor: int, content: bytes, position: int) -> int:
        real(descriptor, content[: len(content) // 2], position)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", half)
    with pytest.raises(ChatbenchError, match=r"log\.jsonl: No space left"):
        log.append(ROWS)
    monkeypatch.undo()
    log.append(ROWS)

    assert rows_in(path) == ROWS


def test_a_long_torn_line_is_found(tmp_path: Path) -> None:
    # The end is searched for in blocks of 64 KiB: the torn line is longer than two.
    path = tmp_path / "log.jsonl"
    AppendOnlyLog(path).append(ROWS[:1])
    with path.open("ab") as file:
        file.write(b"x" * 150_000)

    assert log_of(path).append(ROWS) == len(ROWS) - 1
    assert rows_in(path) == ROWS
    assert path.read_bytes() == b"".join(map(checked_line, ROWS))  # writing over it would leave its rest


def test_half_a_character_is_recorded_as_a_question_mark(tmp_path: Path) -> None:
    AppendOnlyLog(tmp_path / "log.jsonl").append([{"id": "a", "text": "\ud83d and \U0001f600"}])

    assert rows_in(tmp_path / "log.jsonl") == [{"id": "a", "text": "? and \U0001f600"}]


# ---- real processes ----

WRITER = """
import os, random, signal, sys
from pathlib import Path
from chatbench.simulation.log import AppendOnlyLog
path, seed, bytes_left = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
real = os.pwrite
def write_until_killed(descriptor, content, position):
    global bytes_left
    written = real(descriptor, content[:bytes_left], position)
    bytes_left -= written
    if not bytes_left:
        os.kill(os.getpid(), signal.SIGKILL)
    return written
os.pwrite = write_until_killed
draw = random.Random(seed)
log = AppendOnlyLog(path)
log.catch_up()
wanted = [n for n in range(60) if f"r{n}" not in log.settled]
while wanted:
    count = draw.randint(1, 4)
    log.append([{"id": f"r{n}", "by": seed, "text": "x" * draw.randint(0, 300)} for n in wanted[:count]])
    wanted = [n for n in wanted[count:] if f"r{n}" not in log.settled]
"""
NEVER = 10**9


def writer(path: Path, seed: int, killed_after: int) -> subprocess.Popen[bytes]:
    """A process that writes sixty records, or is killed after so many bytes of them."""
    command = [sys.executable, "-c", WRITER, str(path), str(seed), str(killed_after)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT / "src")})


def test_two_processes_writing_the_same_records_at_once_write_each_once(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    both = [writer(path, seed, NEVER) for seed in (1, 2)]
    assert [one.wait() for one in both] == [0, 0]

    assert sorted(str(row["id"]) for row in rows_in(path)) == sorted(f"r{n}" for n in range(60))


def test_killed_at_any_byte_beside_another_writer_the_log_ends_with_every_record_once(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    draw = random.Random(0)
    for turn in range(10):
        killed = [writer(path, 2 * turn + which, draw.randrange(1, 500)) for which in (0, 1)]
        assert {one.wait() for one in killed} == {-signal.SIGKILL}
        ids = [row["id"] for row in rows_in(path)]
        assert len(set(ids)) == len(ids)
    assert writer(path, 99, NEVER).wait() == 0

    assert sorted(str(row["id"]) for row in rows_in(path)) == sorted(f"r{n}" for n in range(60))
