"""MMLU as CSV files without a header: `{dev,val,test}/{subset}_{part}.csv`, columns question, A, B, C, D, answer.

The five rows of a subset's `dev` file are the examples of the few-shot letter-only method.

Source: Hendrycks et al. 2021; repository hendrycks/test, MIT.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_csv
from chatbench.core.records import FOUR_LETTERS, Question
from chatbench.data.tables import four_options

MmluPart = Literal["dev", "val", "test"]
_FIX = "check the folder; it should hold dev/, val/ and test/ as in the MMLU archive"


def mmlu_subsets(folder: Path, part: MmluPart = "test") -> list[str]:
    """Names of the subsets that have a file, in alphabetical order."""
    return sorted(path.name.removesuffix(f"_{part}.csv") for path in (folder / part).glob(f"*_{part}.csv"))


def read_mmlu(folder: Path, subset: str, part: MmluPart = "test") -> list[Question]:
    """Read the questions of one file in order; ids are `{subset}-{part}-{i}`, i from 0.

    Raises:
        ChatbenchError: the file is missing or damaged; or a row does not have six cells and an answer in A-D.
    """
    path = folder / part / f"{subset}_{part}.csv"
    questions = []
    for index, record in enumerate(read_csv(path, fix=_FIX)):
        where = f"{path}, row {index + 1}"
        if len(record) != 2 + len(FOUR_LETTERS):
            raise ChatbenchError(f"{where}: {len(record)} cells", expected="6 cells", fix=_FIX)
        text, *choices, answer = (cell.strip() for cell in record)
        options = four_options(choices)
        if not text or options is None:
            found, expected = f"{where}: a blank question or option", "a question and four options"
            raise ChatbenchError(found, expected=expected, fix=_FIX)
        if answer not in FOUR_LETTERS:
            found = f"{where}, column 6: {answer!r}"
            raise ChatbenchError(found, expected="A, B, C or D", fix=_FIX)
        questions.append(Question(f"{subset}-{part}-{index}", subset, text, options, answer))
    return questions


def few_shot_examples(folder: Path, subset: str) -> list[Question]:
    """Read the five few-shot examples of a subset.

    Raises:
        ChatbenchError: the dev file does not hold five questions.
    """
    examples = read_mmlu(folder, subset, "dev")
    if len(examples) != 5:  # what the protocol's few-shot prompt shows
        raise ChatbenchError(f"{folder / 'dev'}: {len(examples)} examples of {subset}", expected="5 examples", fix=_FIX)
    return examples
