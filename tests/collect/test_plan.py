"""How many questions a person gets: what study.toml says, or it is refused."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from tests.support.collected import QUESTIONS, small_study

from chatbench.collect.config import CollectedStudy, draw_plan
from chatbench.core.errors import ChatbenchError
from chatbench.core.files import write_jsonl


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
