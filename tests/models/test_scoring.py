"""Losses of held-out turns, against a computation that shares nothing with ours but the model."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch
from tests.support.tiny_models import (
    ARCHITECTURES,
    Architecture,
    save_tiny_model,
    score_examples,
    tiny_model,
    tiny_tokenizer,
)

from chatbench.core.errors import ChatbenchError
from chatbench.data.examples import ExampleRow
from chatbench.metrics.perplexity import corpus_perplexity
from chatbench.models.loading import context_length, load, load_tokenizer, parameter_count


def example(prompt: str, completion: str, kind: str = "first") -> ExampleRow:
    return ExampleRow(
        prompt=prompt, completion=completion, messages=None, question_id="q", conversation_id="c", kind=kind  # type: ignore[arg-type]
    )  # fmt: skip


def varied_examples(count: int = 23, seed: int = 1) -> list[ExampleRow]:
    rng = random.Random(seed)
    words = ["what", "is", "twelve", "plus", "30", "the question", "Answer:", "A", "é", "数", "\n"]
    return [
        example(
            "[SYSTEM] " + " ".join(rng.choices(words, k=rng.randint(1, 40))) + "\n\n[USER] ",
            " ".join(rng.choices(words, k=rng.randint(1, 12))) + " [END]",
        )
        for _ in range(count)
    ]


def slow_nats(model: torch.nn.Module, prompt: list[int], completion: list[int]) -> float:
    """One example, one token at a time, in float64, with no batch, no padding, no mask and no hook."""
    total = 0.0
    for place, token in enumerate(completion):
        with torch.no_grad():
            last = model(torch.tensor([prompt + completion[:place]])).logits[0, -1].double()
        total -= float(last[token] - torch.logsumexp(last, 0))
    return total


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_losses_equal_a_slow_computation_token_by_token(architecture: Architecture) -> None:
    tokenizer, rows = tiny_tokenizer(), varied_examples(9)
    model = tiny_model(architecture).eval()

    losses = score_examples(model, tokenizer, rows, batch_tokens=300)

    slow = [slow_nats(model, tokenizer.encode(row.prompt), tokenizer.encode(row.completion)) for row in rows]
    assert [loss.nats for loss in losses] == pytest.approx(slow, rel=1e-6)
    tokens = sum(len(tokenizer.encode(row.completion)) for row in rows)
    assert sum(loss.tokens for loss in losses) == tokens
    assert corpus_perplexity(losses) == pytest.approx(math.exp(sum(slow) / tokens), rel=1e-6)
    assert [loss.utf8_bytes for loss in losses] == [len(row.completion.encode()) for row in rows]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_neither_order_nor_batch_size_changes_a_loss(architecture: Architecture) -> None:
    tokenizer, rows = tiny_tokenizer(), varied_examples()
    model = tiny_model(architecture)

    alone = [loss.nats for loss in score_examples(model, tokenizer, rows, batch_tokens=1)]
    together = [loss.nats for loss in score_examples(model, tokenizer, rows, batch_tokens=100_000)]
    backwards = [loss.nats for loss in score_examples(model, tokenizer, rows[::-1], batch_tokens=500)]

    assert together == pytest.approx(alone, rel=1e-6)
    assert backwards[::-1] == pytest.approx(alone, rel=1e-6)


def test_scoring_leaves_dropout_off_and_the_model_as_it_was() -> None:
    model = tiny_model("gpt2").train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5

    first, second = (score_examples(model, tiny_tokenizer(), varied_examples(3)) for _ in range(2))

    assert first == second
    assert model.training


def test_an_example_longer_than_the_context_is_not_scored_and_never_cut() -> None:
    tokenizer, model = tiny_tokenizer(), tiny_model("llama", context=32).eval()
    short, long = example("yz", "ab [END]"), example("x" * 100 + "yz", "ab [END]")

    losses = score_examples(model, tokenizer, [long, short, long])

    expected = slow_nats(model, tokenizer.encode("yz"), tokenizer.encode("ab [END]"))
    assert [loss.nats for loss in losses] == [pytest.approx(expected, rel=1e-6)]


def test_a_context_that_no_example_fits_is_told_how_much_they_need() -> None:
    row = example("p", "far too long for it [END]")
    needed = len(tiny_tokenizer().encode(row.prompt)) + len(tiny_tokenizer().encode(row.completion))

    with pytest.raises(ChatbenchError, match="none of 1 examples fits a context of 4 tokens") as refused:
        score_examples(tiny_model("llama", context=4), tiny_tokenizer(), [row])
    assert str(needed) in refused.value.expected


def test_a_saved_folder_loads_and_says_what_it_is(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "m", "gpt2")

    loaded = load(str(folder), device="cpu")

    assert context_length(loaded.model) == 256
    assert parameter_count(str(folder)) == sum(p.numel() for p in loaded.model.parameters())
    assert loaded.weights.startswith("sha256:")
    assert loaded.tokenizer.pad_token == loaded.tokenizer.eos_token  # GPT-2 has no padding token


def test_special_tokens_written_in_a_chat_are_only_text(tmp_path: Path) -> None:
    # As a special token it would end the sequence in the middle of what a person wrote.
    tokenizer = load_tokenizer(str(save_tiny_model(tmp_path / "m")))

    assert len(tokenizer.encode("<|endoftext|>")) > 1
    assert tokenizer.decode(tokenizer.encode("<|endoftext|>")) == "<|endoftext|>"


def test_the_same_weights_under_another_configuration_are_another_model(tmp_path: Path) -> None:
    # Llama and Mistral of one seed have equal tensors; the sliding window makes them two models.
    llama, mistral = (load(str(save_tiny_model(tmp_path / name, name)), device="cpu") for name in ARCHITECTURES[1:])

    assert llama.weights != mistral.weights


def test_random_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = load("random:tiny_base", seed=3, device="cpu")
    torch.rand(7)
    second, other = load("random:tiny_base", seed=3, device="cpu"), load("random:tiny_base", seed=4, device="cpu")

    weights = [next(each.model.parameters()) for each in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    torch.manual_seed(5)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "m")
    (folder / "tokenizer.json").unlink()

    with pytest.raises(ChatbenchError, match="without a tokenizer"):
        load(str(folder))


def test_half_written_weights_are_refused(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "m")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    load(str(folder))
    for damaged in (b"", whole[:5], whole[:100], whole[:-1], whole[: len(whole) // 2], whole + b"0"):
        weights.write_bytes(damaged)
        with pytest.raises(ChatbenchError, match="half-written"):
            load(str(folder))


def test_pickled_weights_are_refused_unread(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    with pytest.raises(ChatbenchError, match="pickle"):
        load(str(folder))


def test_a_folder_with_no_model_is_named(tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)

    with pytest.raises(ChatbenchError, match="not a model folder"):
        load(str(tmp_path))


def test_a_hub_that_cannot_be_reached_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(ChatbenchError, match="hub cannot be reached"):
        load("nobody/has-this-model")
