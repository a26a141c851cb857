"""The tiny base: its tokenizer and pretraining, and the packaged folder."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib import resources
from itertools import islice
from pathlib import Path

import pytest
from pretraining import PRETRAINING_HABITS, documents
from tests.support.study_files import REPOSITORY
from tools.tiny_base import make as tiny_base
from tools.tiny_base.make import TinyBaseSettings, make_tiny_base, make_tokenizer, protocol_phrases, skill

from chatbench.models.loading import load
from chatbench.protocol.prompts import END
from chatbench.sample.participants import STUDY_HABITS

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
        fresh = list(islice(documents(1, stage, 0.5), 20))
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


def test_the_packaged_base_is_small_and_has_a_card() -> None:
    folder = resources.files("chatbench") / "tiny_base"
    assert sum(len(file.read_bytes()) for file in folder.iterdir() if file.is_file()) < 10_000_000
    assert "how it was made" in (folder / "README.md").read_text(encoding="utf-8").lower()


def test_pretraining_shares_no_phrase_with_the_study_people() -> None:
    # The base must learn the study's people from the study, or its perplexity before fine-tuning would mean nothing.
    study, base = STUDY_HABITS.phrases, PRETRAINING_HABITS.phrases
    for name in ("rephrase", "terse_join", "inform", "add_catch", "check", "options"):
        assert not set(getattr(study, name)) & set(getattr(base, name)), name
    for stage in ("copy", "practice", "chat", "ask", "prompt", "end"):
        stream = documents(0, stage, 0.0)
        learned = "".join(segment.text for _ in range(200) for segment in next(stream) if segment.weight)
        assert "Answer: " not in learned
        assert ("[END]" in learned) == (stage == "end")


def test_the_script_runs_outside_the_tests() -> None:
    script = [sys.executable, str(REPOSITORY / "tools" / "tiny_base" / "make.py"), "--help"]
    assert "CPU threads" in subprocess.run(script, check=True, capture_output=True, text=True).stdout
