"""Files: written whole or not at all, to where they were named; read within bounds, with a place for what is wrong."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from chatbench.cli import main
from chatbench.core.errors import ChatbenchError
from chatbench.core.files import (
    file_error,
    keep_inputs,
    parse_json,
    read_csv,
    read_json,
    read_jsonl,
    write_bytes,
    write_json,
    write_text,
)
from chatbench.core.texts import as_it_was, csv_text, harmless, printable


def test_a_pipe_and_a_device_are_written_to_and_stay(tmp_path: Path) -> None:
    # Replaced, the likely mistake, the reader of the pipe would wait for ever, and /dev/null would be a file.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_text(pipe, "all of it")
    reader.join(60)
    write_text(Path("/dev/null"), "nothing")

    assert read == [b"all of it"]
    assert pipe.is_fifo()
    assert Path("/dev/null").is_char_device()


def test_standard_output_named_as_a_file_gets_the_text_in_its_place(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; from chatbench.core.files import write_text; print('before');"
        "write_text(Path('/dev/stdout'), 'text\\n'); print('after')"
    )
    with (tmp_path / "out").open("w") as out:
        subprocess.run([sys.executable, "-c", script], stdout=out, check=True)

    assert (tmp_path / "out").read_text() == "before\ntext\nafter\n"


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "results").symlink_to(tmp_path / "disk")
    (tmp_path / "link.json").symlink_to("disk/real.json")
    write_json(tmp_path / "link.json", 1)
    write_json(tmp_path / "results" / "other.json", 2)

    assert (tmp_path / "link.json").is_symlink()
    assert (read_json(tmp_path / "disk" / "real.json"), read_json(tmp_path / "disk" / "other.json")) == (1, 2)


@pytest.mark.parametrize("name", ["itself", "there"])
def test_a_link_without_an_end_is_refused_and_stays(tmp_path: Path, name: str) -> None:
    for one, other in (("itself", "itself"), ("there", "back"), ("back", "there")):
        (tmp_path / one).symlink_to(other)

    with pytest.raises(ChatbenchError, match=f"{name}: a symbolic link that points back to itself"):
        write_json(tmp_path / name, 1)
    assert (tmp_path / name).is_symlink()


def test_a_new_file_has_what_the_umask_leaves_and_an_old_one_what_it_had(tmp_path: Path) -> None:
    # With the longest name that a disk allows: a temporary name made of the whole of it would be too long.
    new, old = tmp_path / ("n" * 255), tmp_path / "old"
    before = os.umask(0o027)
    try:
        write_text(new, "")
        write_text(old, "")
        old.chmod(0o600)
        write_text(old, "again")
    finally:
        os.umask(before)

    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {new.name: 0o640, "old": 0o600}


def test_what_a_killed_write_left_is_removed_by_the_next_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    script = (
        "import os, signal; from pathlib import Path; from chatbench.core.files import replacing\n"
        f"with replacing(Path({str(tmp_path / 'file')!r})): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    (left,) = tmp_path.iterdir()
    mine = tmp_path / left.name.replace(left.name.rpartition("-")[0].rpartition("-")[2], str(os.getpid()))
    mine.touch()
    write_text(tmp_path / "file", "whole")

    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([mine.name, "file"])


@pytest.mark.parametrize(
    ("make", "name", "said"),
    [
        (lambda folder: (folder / "in").write_text(""), "in/file", "part of this path is a file, not a folder"),
        (lambda folder: (folder / "in").mkdir(), "in", "is a folder, not a file"),
        (lambda _: None, "x" * 300, "the name is too long"),
        (lambda _: None, "y" * 300 + "/file", "the name is too long"),
    ],
)
def test_what_the_system_refuses_is_an_error_with_the_path(
    tmp_path: Path, make: Callable[[Path], object], name: str, said: str
) -> None:
    make(tmp_path)

    with pytest.raises(ChatbenchError, match=said) as caught:
        write_text(tmp_path / name, "")
    assert name in caught.value.found
    assert caught.value.fix


@pytest.mark.parametrize(
    ("number", "said", "fails"),
    [
        (errno.ENOSPC, "the disk is full", ["os.fsync"]),
        (errno.EACCES, "permission denied", ["os.fsync"]),
        (errno.EROFS, "the file system is read-only", ["os.open", "pathlib.Path.unlink"]),
    ],
)
def test_a_disk_that_refuses_leaves_the_old_file_and_ends_a_command_with_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    said: str,
    fails: list[str],
) -> None:
    target = tmp_path / "recipe.json"
    write_text(target, "old")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "some temporary file")

    with monkeypatch.context() as patched:
        for name in fails:
            patched.setattr(name, refuse)
        with pytest.raises(ChatbenchError, match=rf"recipe\.json: {said}"):
            write_bytes(target, b"new")
    monkeypatch.setattr("chatbench.core.settings.recipe_lines", refuse)  # an error from anywhere, not only from writing

    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
    assert main(["recipes"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[" * 100_000, "nested"),
        ("[" * 150 + "]" * 150, "nested"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "nested"),
        ("[1" + "0" * 400 + "]", "a number of 401 digits"),
        ("[1" + "0" * 5000 + "]", "a number of 5001 digits"),
        ("[1e999]", "out of range"),
        ('["a\nb"]', "Invalid control character"),
    ],
)
def test_json_without_bounds_is_an_error_with_file_and_line(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "x.json").write_text("\n" + content)
    (tmp_path / "x.jsonl").write_text("{}\n" + content.replace("\n", "\t"))

    with pytest.raises(ChatbenchError, match=rf"x\.json, line [12]: .*{said}"):
        read_json(tmp_path / "x.json")
    with pytest.raises(ChatbenchError, match=rf"x\.jsonl, line 2: .*{said}"):
        list(read_jsonl(tmp_path / "x.jsonl"))


def test_half_a_character_is_replaced_and_told_and_a_whole_one_stays() -> None:
    told: list[int] = []

    assert parse_json(r'{"\ud83d": "\ude00 \ud83d\ude00 \\ud83d"}', told.append) == {"\ufffd": "\ufffd 😀 \\ud83d"}
    assert told == [2]
    parse_json(r'"\ud83d\ude00"', told.append)
    assert told == [2]


def test_a_byte_order_mark_is_read_over_and_other_encodings_are_told_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(path) == {"a": 1}
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        path.write_bytes('{"a": 1}'.encode(encoding))
        with pytest.raises(ChatbenchError, match="UTF-16") as caught:
            read_json(path)
        assert "save it as UTF-8" in caught.value.fix
    path.write_bytes('{"a":\n "é"}'.encode("cp1252"))
    with pytest.raises(ChatbenchError, match=r"x\.json, line 2: not UTF-8 \(byte 0xE9, as in Windows-1252\)"):
        read_json(path)


TWO_COLUMNS = [["a", "b"], ["1,5", "2"]]
BOOK = "word " * 40_000


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a;b\r\n1,5;2\r\n", TWO_COLUMNS),
        ("sep=;\r\na;b\r\n1,5;2\r\n", TWO_COLUMNS),
        ("a\tb\n1,5\t2\n", TWO_COLUMNS),
        ('\ufeffa,b\n"1,5",2\n', TWO_COLUMNS),
        ("sep=;\na,b\n1,2\n", [["a,b"], ["1,2"]]),  # one column, as the file says
        (f'a\n"{BOOK}"\n', [["a"], [BOOK]]),  # not half-written
    ],
    ids=range(6),
)
def test_a_csv_is_read_as_spreadsheets_write_it(tmp_path: Path, text: str, rows: list[list[str]]) -> None:
    (tmp_path / "x.csv").write_bytes(text.encode())

    assert read_csv(tmp_path / "x.csv") == rows


@pytest.mark.parametrize("mark", [";", "\t"])
def test_a_comma_in_the_header_is_not_taken_for_the_separator(tmp_path: Path, mark: str) -> None:
    # Divided by commas, the header and the row have two cells each: fewer, but as many.
    rows = [["who", "What, and why?", "reply"], ["w1", "hi", "yo, you"]]
    for quote in ("", '"'):
        (tmp_path / "x.csv").write_text("\n" + "\n".join(mark.join(f"{quote}{c}{quote}" for c in row) for row in rows))
        assert [row for row in read_csv(tmp_path / "x.csv") if row] == rows


def test_no_cell_is_a_formula_or_breaks_its_row_and_all_cells_come_back(tmp_path: Path) -> None:
    cells = ["=1+1", "+1", "-1", "@a", "\tx", "'=1", "'", "a\rb", "\r", 'plain, "quoted"\nline', "1-2", ""]
    write_text(tmp_path / "x.csv", csv_text(["text"], [[cell] for cell in cells]))
    rows = read_csv(tmp_path / "x.csv")[1:]

    assert not [row for row in rows if row[0].startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert [as_it_was(row[0]) for row in rows] == cells
    assert harmless(-0.5) == -0.5


def test_what_is_printed_cannot_act_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        printable("a\x1b[2J\u202eb\u2028c\ud800 naïve 数 👩\u200d🔬\n\t")
        == "a\ufffd[2J\ufffdb\ufffdc\ufffd naïve 数 👩\ufffd🔬\n\t"
    )
    assert main(["check-study", "no\x1b[2Jwhere"]) == 2
    assert "no\ufffd[2Jwhere" in capsys.readouterr().err


def test_an_environment_file_in_another_encoding_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_bytes("NAME=José".encode("cp1252"))

    assert main(["recipes"]) == 2
    assert ".env, line 1: not UTF-8" in capsys.readouterr().err


def test_a_key_that_an_object_has_twice_is_an_error_of_that_line(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text('{"answer": "A"}\n{"answer": "A", "deep": {"answer": "B", "answer": "C"}}\n')

    with pytest.raises(ChatbenchError, match=r"line 2: not JSON \(key 'answer' twice in an object\)"):
        list(read_jsonl(path))
    assert parse_json('{"answer": "A", "answer": "B"}') == {"answer": "B"}  # of a model's reply, as json.loads


def test_an_output_is_neither_an_input_nor_a_file_of_a_folder_of_inputs(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    inside, beside = tmp_path / "study" / "questions.csv", tmp_path / "scores.csv"
    inside.write_text("q")
    beside.write_text("s")

    keep_inputs([beside, tmp_path / "study" / "new.csv"], [tmp_path / "study"])
    for read in (tmp_path / "study", inside):
        with pytest.raises(ChatbenchError, match="is read, and would be overwritten"):
            keep_inputs([inside], [read])


def test_a_full_folder_for_temporary_files_is_not_called_a_missing_file() -> None:
    told = file_error(FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"))

    assert str(told).startswith("temporary files: No usable temporary directory")
    assert "TMPDIR" in told.fix
