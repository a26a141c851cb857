"""Small models with random weights, of the published shapes."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import write_jsonl
from chatbench.models.loading import load
from chatbench.models.weights import make_scratch_base


@pytest.mark.parametrize("shape", ["gpt2", "mistral", "llama"])
def test_a_scratch_base_is_an_ordinary_folder_of_that_architecture(shape: str, tmp_path: Path) -> None:
    train = tmp_path / "train.jsonl"
    row = {"prompt": "[SYSTEM] x\n\ny\n\n[USER] ", "completion": "what is heat [END]", "question_id": "q",
           "conversation_id": "c", "kind": "first"}  # fmt: skip
    write_jsonl(train, [row] * 3)
    said = make_scratch_base(shape, tmp_path / shape, train=train, vocabulary=300, width=32, layers=1, seed=0)
    loaded = load(str(tmp_path / shape))
    assert loaded.model.config.model_type == shape
    assert f"{shape} shape" in said

    before = {each: each.read_bytes() for each in (tmp_path / shape).iterdir()}
    with pytest.raises(ChatbenchError, match="already exists and is not an empty folder"):
        make_scratch_base("gpt2", tmp_path / shape, train=train, vocabulary=300, width=64, layers=1, seed=0)
    assert before == {each: each.read_bytes() for each in (tmp_path / shape).iterdir()}


def test_an_unknown_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ChatbenchError, match="shape 'bert'"):
        make_scratch_base("bert", tmp_path, train=tmp_path, vocabulary=300, width=32, layers=1, seed=0)
