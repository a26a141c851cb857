"""MMLU's CSV files without a header."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.study_files import shared_data

from chatbench.core.errors import ChatbenchError
from chatbench.data.download import few_shot_examples, mmlu_subsets, read_mmlu


def write(folder: Path, text: str, part: str = "test") -> Path:
    (folder / part).mkdir()
    (folder / part / f"numbers_{part}.csv").write_text(text)
    return folder


def test_rows_are_questions_numbered_from_0_and_cells_may_hold_line_breaks(tmp_path: Path) -> None:
    questions = read_mmlu(write(tmp_path, '"1\n+ 1?",1,2,3,4,B\n2?,1,2,3,4,A\n'), "numbers")

    assert [q.id for q in questions] == ["numbers-test-0", "numbers-test-1"]
    assert questions[0].full_text == "1\n+ 1?\nA. 1\nB. 2\nC. 3\nD. 4"


@pytest.mark.parametrize(
    ("row", "problem"),
    [("1?,1,2,3,B", "row 2: 5 cells"), ("1?,1,2,3,4,E", "row 2, column 6: 'E'"), ("1?,1,,3,4,A", "row 2: a blank")],
)
def test_a_bad_row_is_named(tmp_path: Path, row: str, problem: str) -> None:
    with pytest.raises(ChatbenchError, match=problem):
        read_mmlu(write(tmp_path, f"0?,1,2,3,4,A\n{row}\n"), "numbers")


def test_few_shot_examples_must_be_five(tmp_path: Path) -> None:
    with pytest.raises(ChatbenchError, match="1 examples"):
        few_shot_examples(write(tmp_path, "0?,1,2,3,4,A\n", "dev"), "numbers")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ChatbenchError, match=r"numbers_test\.csv: no such file"):
        read_mmlu(tmp_path, "numbers")


def test_the_real_files_hold_five_examples_and_1878_test_questions() -> None:
    # 100 + 235 + 378 + 270 + 895: the sizes that the MMLU paper's archive lists for these subsets.
    folder = shared_data("mmlu")
    sizes = {subset: len(read_mmlu(folder, subset)) for subset in mmlu_subsets(folder)}

    assert sizes == {
        "college_mathematics": 100,
        "conceptual_physics": 235,
        "elementary_mathematics": 378,
        "high_school_mathematics": 270,
        "moral_scenarios": 895,
    }
    assert {len(few_shot_examples(folder, subset)) for subset in sizes} == {5}
