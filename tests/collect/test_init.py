"""A study's folder is checked before anything is written to it, and what the researcher wrote is kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.support.collected import QUESTIONS

from chatbench.cli import main
from chatbench.collect.config import CollectedStudy
from chatbench.core.files import write_jsonl


def init(folder: Path, *more: str, questions: str = "q.jsonl") -> int:
    write_jsonl(folder / "q.jsonl", QUESTIONS)
    few = ["--batch-size", "2", "--phase-1-questions", "1", "--condition", "direct-to-AI"]
    begin = ["collect", "init", str(folder / "study"), "--questions", str(folder / questions)]
    return main([*begin, "--assistant", "scripted:strong", *few, *more])


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "study").glob("*")}


def test_texts_of_the_researcher_are_kept_and_the_rest_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # They were overwritten with the examples.
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "consent.md").write_text("Mine.")

    assert init(tmp_path) == 0
    assert "kept as found: consent.md\n" in capsys.readouterr().out
    assert files(tmp_path)["consent.md"] == b"Mine."
    assert set(files(tmp_path)) == {"study.toml", "questions.jsonl", "consent.md", "instructions.md", "debriefing.md"}


def test_questions_that_are_there_are_kept_if_they_are_those_asked_and_else_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study").mkdir()
    there = tmp_path / "study" / "questions.jsonl"
    write_jsonl(there, QUESTIONS[:5])
    before = files(tmp_path)
    assert init(tmp_path) == 2
    assert "questions.jsonl already exists" in capsys.readouterr().err
    assert files(tmp_path) == before
    spaced = (tmp_path / "q.jsonl").read_text().replace(", ", ",  ")
    there.write_text(spaced)
    assert init(tmp_path) == 0
    assert there.read_text() == spaced
    shutil.move(tmp_path / "study" / "study.toml", tmp_path / "old.toml")
    assert init(tmp_path, questions="study/questions.jsonl") == 0


@pytest.mark.parametrize(
    "wrong",
    [
        ("--phase-1-questions", "9"), ("--assistant", "scripted:strong"), ("--assistant", "local:./no-model"),
        ("--people", "0"),
    ],
)  # fmt: skip
def test_what_is_refused_writes_nothing(tmp_path: Path, wrong: tuple[str, str]) -> None:
    # Texts and questions stayed behind; nor is a folder made.
    assert init(tmp_path, *wrong) == 2
    assert not (tmp_path / "study").exists()


def test_a_study_saved_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    assert init(tmp_path) == 0
    path = tmp_path / "study" / "study.toml"
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")

    assert CollectedStudy(tmp_path / "study").config.people == 5


def test_a_text_in_another_encoding_is_refused_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "consent.md").write_bytes("Einverständnis".encode("latin-1"))
    before = files(tmp_path)

    assert init(tmp_path) == 2
    assert "consent.md, line 1: not UTF-8" in capsys.readouterr().err
    assert files(tmp_path) == before
