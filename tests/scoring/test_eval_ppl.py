"""Perplexity of fine-tuned splits beside their base: what is written, kept, and refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.support.prepared_files import sums, write_prepared
from tests.support.tiny_models import save_tiny_model, score_examples

from chatbench.core.errors import ChatbenchError
from chatbench.data.workspace import Workspace
from chatbench.metrics.text import summarise
from chatbench.models.loading import load
from chatbench.models.run_record import run_lock
from chatbench.scoring import eval_ppl as eval_ppl_module
from chatbench.scoring.eval_ppl import (
    Say,
    SplitPerplexity,
    eval_ppl,
    read_scored_turns,
    scored_turns_path,
    tokens_origin,
    write_summary,
)
from chatbench.training.finetune import finetune

FLAGS = {"max_steps": 8, "precision": "fp32", "learning_rate": 5e-3, "validation_examples": 0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, data of two splits, and results of fine-tuning on both."""
    root = tmp_path_factory.mktemp("ppl")
    save_tiny_model(root / "small")
    write_prepared(root / "data", splits=2)
    for split in ("split_0", "split_1"):
        finetune(str(root / "small"), workspace=workspace(root), split=split, flags=FLAGS, say=lambda _: None)
    return root


@pytest.fixture(scope="module")
def scored(trained: Path) -> list[SplitPerplexity]:
    """Both splits, scored once."""
    return perplexities(trained)


@pytest.fixture
def root(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may change, not scored yet; the base keeps its path."""
    shutil.copytree(trained, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "results" / "ppl", ignore_errors=True)
    return tmp_path / "copy"


def workspace(root: Path) -> Workspace:
    return Workspace(root / "data", root / "results")


def train_again(root: Path) -> None:
    flags = FLAGS | {"seed": 1}
    finetune(str(root / "small"), workspace=workspace(root), flags=flags, overwrite=True, say=lambda _: None)


def perplexities(root: Path, split: str | None = None, say: Say = lambda _: None) -> list[SplitPerplexity]:
    return eval_ppl(str(root / "small"), workspace=workspace(root), split=split, say=say)


def test_the_file_holds_both_models_and_each_kind_of_turn(trained: Path, scored: list[SplitPerplexity]) -> None:
    assert [each.split for each in scored] == ["split_0", "split_1"]
    rows = Workspace(trained / "data").examples("split_1", "test")
    for source, found in (("small", scored[1].base), ("results/models/small/split_1", scored[1].finetuned)):
        loaded = load(str(trained / source), device="cpu")
        expected = summarise(score_examples(loaded.model, loaded.tokenizer, rows))
        assert found.perplexity == pytest.approx(expected.perplexity)
    assert scored[1].finetuned.perplexity < scored[1].base.perplexity
    content = json.loads((trained / "results/ppl/small/split_1.json").read_text())
    assert list(content["by_kind"]) == ["first", "follow_up", "answer"]
    assert sum(kind["base"]["tokens"] for kind in content["by_kind"].values()) == content["base"]["tokens"]
    summary = json.loads((trained / "results/ppl/small/summary.json").read_text())
    first, second = (each.finetuned.perplexity for each in scored)
    estimate = summary["finetuned"]["perplexity"]
    assert estimate["mean"] == pytest.approx((first + second) / 2)
    assert estimate["standard_error"] == pytest.approx(abs(first - second) / 2)  # sd / sqrt(2), with n - 1 below


def test_what_was_scored_is_not_scored_again_unless_something_is_missing_or_it_depends_on_changed(root: Path) -> None:
    said: list[str] = []
    perplexities(root, "split_0", said.append)
    estimate = json.loads((root / "results/ppl/small/summary.json").read_text())["base"]["perplexity"]
    assert (estimate["splits"], estimate["standard_error"], estimate["corrected_error"]) == (1, None, None)
    stored, tokens = (root / "results/ppl/small" / f"split_0.{ending}" for ending in ("json", "tokens.jsonl"))
    before = stored.read_text(), tokens.read_text()
    perplexities(root, "split_0", said.append)
    tokens.unlink()  # results of an earlier version have perplexities only, which still hold
    perplexities(root, "split_0", said.append)
    assert (stored.read_text(), tokens.read_text()) == before
    train_again(root)
    perplexities(root, "split_0", said.append)

    assert ["as before" in line for line in said] == [False, True, False, False]


def test_what_cannot_be_scored_is_refused_before_it_is(trained: Path, root: Path) -> None:
    with pytest.raises(ChatbenchError) as nothing:
        eval_ppl("tiny-random", workspace=workspace(trained))
    assert "SPLIT_ID=split_0 chatbench finetune tiny-random" in nothing.value.fix
    with pytest.raises(ChatbenchError, match="no such split: split_9"):
        perplexities(trained, "split_9")
    lock = run_lock(workspace(root).perplexity(str(root / "small"), "split_0"))
    with lock, pytest.raises(ChatbenchError, match="is writing there now"):
        perplexities(root, "split_0")
    write_prepared(root / "data", splits=2, train=11)  # its training questions could be this split's held-out ones
    with pytest.raises(ChatbenchError, match="trained on data that differs from"):
        perplexities(root, "split_0")


def test_a_run_stopped_at_the_base_keeps_the_fine_tuned_part(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = perplexities(root, "split_0")
    shutil.rmtree(root / "results/ppl")
    scores, called = eval_ppl_module._scores, list[str]()

    def stopping(what: str, *arguments: Any, **more: Any) -> Any:
        called.append(what)
        if len(called) == 2:
            raise KeyboardInterrupt
        return scores(what, *arguments, **more)

    monkeypatch.setattr(eval_ppl_module, "_scores", stopping)
    with pytest.raises(KeyboardInterrupt):
        perplexities(root, "split_0")

    assert perplexities(root, "split_0") == expected
    assert called == ["split_0, fine-tuned", "split_0, base model", "split_0, base model"]
    assert not list((root / "results").rglob("*.partial"))


def test_the_summary_holds_prepared_splits_and_the_models_of_today_only(root: Path) -> None:
    # Fewer splits ended every later eval-ppl; another seed or a model trained again was averaged in silently.
    def summarised(splits: int, test: int = 6) -> list[str]:
        write_prepared(root / "data", splits=splits, test=test)
        write_summary("small", workspace(root))
        found: list[str] = json.loads((root / "results/ppl/small/summary.json").read_text())["splits"]
        return found

    perplexities(root)
    assert [summarised(1), summarised(2)] == [["split_0"], ["split_0", "split_1"]]
    train_again(root)
    assert summarised(2) == ["split_1"]
    assert summarised(2, test=7) == []


def test_what_each_token_cost_is_kept_for_its_model(trained: Path, scored: list[SplitPerplexity]) -> None:
    path, one = scored_turns_path(workspace(trained).perplexity("small", "split_0")), scored[0]

    turns = list(read_scored_turns(path, tokens_origin(one.signature), fix=""))

    assert ["".join(turn.texts) for turn in turns] == [row.completion for row in sums(6, 50)]
    total = math.fsum(value for turn in turns for value in turn.nats)
    assert total == pytest.approx(one.finetuned.nats, abs=0.0005 * one.finetuned.tokens)
    with pytest.raises(ChatbenchError, match="tokens"):
        list(read_scored_turns(path, {"weights": "other"}, fix="chatbench eval-ppl small"))


def test_the_name_of_the_results_is_enough_and_another_folder_of_that_name_is_refused_at_once(root: Path) -> None:
    (scored,) = eval_ppl("small", workspace=workspace(root), split="split_0", say=lambda _: None)
    assert scored == perplexities(root, "split_0")[0]
    shutil.rmtree(root / "results/ppl")
    other = save_tiny_model(root / "other/small", seed=2)

    with pytest.raises(ChatbenchError, match=r"other/small: its weights .* differ"):
        eval_ppl(str(other), workspace=workspace(root), split="split_0", say=lambda _: None)

    assert not (root / "results/ppl").exists()  # nothing of the fine-tuned half
