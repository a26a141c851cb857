"""Bases made from nothing: the tiny base's tokenizer and pretraining, and small models of the published shapes."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources
from itertools import islice
from pathlib import Path

import pytest
from tools.tiny_base import make as tiny_base
from tools.tiny_base.make import TinyBaseSettings, make_tiny_base, make_tokenizer, protocol_phrases, skill
from tools.tiny_base.pretraining import documents

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import write_jsonl
from chatbench.models.loading import load
from chatbench.models.random_models import make_scratch_base
from chatbench.protocol.plain_text import END

SMALL = TinyBaseSettings(
    width=32, layers=1, heads=1, rows=2, row_tokens=64, practice_rows=4, copy_steps=4, practice_steps=4, chat_steps=4
)


@pytest.fixture(scope="module")
def tokenizer() -> object:
    return make_tokenizer(TinyBaseSettings())


def test_every_number_is_one_token_wherever_it_stands(tokenizer) -> None:  # type: ignore[no-untyped-def]
    for text in ("has 248 boxes", "248 boxes", "A. 248\n", "6 * 4 = 248, so"):
        assert "248" in tokenizer.tokenize(text), text


def test_a_phrase_of_the_prompts_is_one_token_and_any_text_comes_back(tokenizer) -> None:  # type: ignore[no-untyped-def]
    for phrase in protocol_phrases():
        assert len(tokenizer.encode(phrase)) == 1
    for text in ("möchte 12345 ß\t  \n\n x 😀", "Answer: B" + END, "</s><|end"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_packaged_tokenizer_is_the_one_that_the_code_makes(tokenizer) -> None:  # type: ignore[no-untyped-def]
    packaged = load("package:tiny_base").tokenizer
    text = "Ada has 17 boxes. [SYSTEM] Each box holds 3 pencils.\nA. 51" + END
    assert packaged.encode(text) == tokenizer.encode(text)


def test_the_packaged_base_copies_and_looks_up() -> None:
    # What it was pretrained for; random weights, or a tokenizer that does not belong to them, fail at once.
    loaded = load("package:tiny_base")
    for stage in ("copy", "practice"):
        fresh = [[(s.text, s.weight) for s in document] for document in islice(documents(1, stage, 0.5), 20)]
        assert skill(loaded.model, loaded.tokenizer, fresh).first_guess > 0.85  # type: ignore[arg-type]


def test_a_killed_pretraining_ends_in_the_weights_of_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_base, "STRETCH", 4)
    said: list[str] = []
    make_tiny_base(tmp_path / "whole", SMALL, threads=1, report=said.append)

    def report_and_die(line: str) -> None:
        if line.startswith("step 8/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_tiny_base(tmp_path / "killed", SMALL, threads=1, report=report_and_die)
    make_tiny_base(tmp_path / "killed", SMALL, threads=1, report=said.append)

    whole, killed = (tmp_path / name / "model.safetensors" for name in ("whole", "killed"))
    assert whole.read_bytes() == killed.read_bytes()
    assert [line.split()[2] for line in said[:3]] == ["copy", "practice", "chat"]


def test_the_stages_follow_one_another() -> None:
    settings = replace(SMALL, copy_steps=10, practice_steps=20, chat_steps=40)
    assert [settings.stage_at(step) for step in (0, 5, 10, 30, 50)] == [
        ("copy", 0.0), ("copy", 0.5), ("practice", 0.0), ("chat", 0.0), ("chat", 0.5),
    ]  # fmt: skip


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


def test_an_unknown_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ChatbenchError, match="shape 'bert'"):
        make_scratch_base("bert", tmp_path, train=tmp_path, vocabulary=300, width=32, layers=1, seed=0)


def test_the_packaged_base_is_small_and_has_a_card() -> None:
    folder = resources.files("chatbench") / "tiny_base"
    assert sum(len(file.read_bytes()) for file in folder.iterdir() if file.is_file()) < 10_000_000
    assert "how it was made" in (folder / "README.md").read_text(encoding="utf-8").lower()
