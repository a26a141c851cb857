"""A study's folder: checked before anything is written, the researcher's files kept, as many questions as it says."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

import pytest
from tests.support.collected import QUESTIONS, small_study

from chatbench.cli import main
from chatbench.collect.config import CollectedStudy, draw_plan
from chatbench.core.errors import ChatbenchError
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


@pytest.mark.parametrize(
    ("line", "value", "message"),
    [
        ("people", "0", "people"),
        ("title", '"x"\npeple = 1', "peple"),
        ("redirect", '"javascript:alert(1)"', "https"),
        ("database", '"postgresql://u:secret@h/d"', "password"),
        ("database", '"postgresql://h/d?password=secret"', "unknown parameter password"),
        ("characters", "7001", "7000 or less"),
        ("moderation", '"no_such:thing"', "moderation"),
        ("moderation", '"asyncio:sleep"', "no plain function"),
        ("moderation", '"json:__name__"', "no plain function"),
        ("consent", '"gone.md"', "gone.md"),
        ("usd", "1", "price"),
        ("phase_1_questions", "5", "together"),
    ],
)
def test_a_wrong_study_is_refused_with_what_is_wrong(tmp_path: Path, line: str, value: str, message: str) -> None:
    with pytest.raises(ChatbenchError, match=message) as error:
        small_study(tmp_path, **{line: value})
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("count", range(2, 31))
def test_batches_have_at_most_batch_size_questions_and_phase_1_as_many_as_it_says(tmp_path: Path, count: int) -> None:
    # Rounding made one batch of 8 out of 8 questions at batch_size 6, and left nothing for phase 1.
    folder = small_study(tmp_path, phase_1=0).folder
    write_jsonl(folder / "questions.jsonl", [{**QUESTIONS[0], "id": f"q{number}"} for number in range(count)])
    settings = (folder / "study.toml").read_text()
    for size in {1, 2, 5, 6, 7, count - 1, count, count + 5} - {0}:
        largest = next(most for most in range(1, count + 1) if most * -(-count // size) >= count)
        for alone in {0, 1, 3, count - largest, count - largest + 1}:
            changed = settings.replace("batch_size = 2", f"batch_size = {size}")
            (folder / "study.toml").write_text(changed.replace("phase_1_questions = 0", f"phase_1_questions = {alone}"))
            if alone + largest > count:
                with pytest.raises(ChatbenchError, match=f"phase_1_questions = {alone}, .* batch has {largest}\n"):
                    CollectedStudy(folder)
                continue
            study = CollectedStudy(folder)
            sizes = [len(batch) for batch in study.batches]
            assert max(sizes) == largest <= size
            assert max(sizes) - min(sizes) <= 1
            assert [question.id for batch in study.batches for question in batch] == list(study.questions)
            for cell in study.cells[:: len(study.config.conditions)]:
                steps = [step.split(":") for step in draw_plan(study, cell, Random(0)) if ":" in step]
                asked = [question for kind, question in steps if kind != "first"]
                assert sum(kind == "alone" for kind, _ in steps) == alone
                assert len(asked) == len(set(asked)) == alone + sizes[cell.batch]
