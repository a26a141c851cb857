"""Losses of held-out turns, against a computation that shares nothing with ours but the model."""

from __future__ import annotations

import math
import random

import pytest
import torch
from tests.support.tiny_models import (
    ARCHITECTURES,
    Architecture,
    score_examples,
    tiny_model,
    tiny_tokenizer,
)

from chatbench.data.examples import ExampleRow
from chatbench.metrics.text import summarise
from chatbench.models import loss
from chatbench.models.encoding import encode_rows
from chatbench.models.loss import padded_batch, score_rows
from chatbench.protocol.prompts import EncodedExample


def example(prompt: str, completion: str) -> ExampleRow:
    return ExampleRow(prompt, completion, messages=None, question_id="q", conversation_id="c", kind="first")


def varied_examples(count: int) -> list[ExampleRow]:
    rng = random.Random(1)
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
def test_losses_equal_a_slow_computation_token_by_token_whatever_their_order_and_batch(
    architecture: Architecture,
) -> None:
    tokenizer, rows = tiny_tokenizer(), varied_examples(9)
    model = tiny_model(architecture).eval()

    losses = score_examples(model, tokenizer, rows, batch_tokens=300)

    slow = [slow_nats(model, tokenizer.encode(row.prompt), tokenizer.encode(row.completion)) for row in rows]
    assert [loss.nats for loss in losses] == pytest.approx(slow, rel=1e-6)
    for order, batch_tokens in ((1, 1), (1, 100_000), (-1, 500)):
        others = score_examples(model, tokenizer, rows[::order], batch_tokens=batch_tokens)[::order]
        assert [loss.nats for loss in others] == pytest.approx(slow, rel=1e-6)
    tokens = sum(len(tokenizer.encode(row.completion)) for row in rows)
    assert sum(loss.tokens for loss in losses) == tokens
    assert summarise(losses).perplexity == pytest.approx(math.exp(sum(slow) / tokens), rel=1e-6)
    assert [loss.utf8_bytes for loss in losses] == [len(row.completion.encode()) for row in rows]


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


def test_labels_cover_the_completion_exactly() -> None:
    batch = padded_batch([EncodedExample([5, 6, 7], [8, 9]), EncodedExample([5], [8])], pad_id=1)

    assert batch.ids.tolist() == [[5, 6, 7, 8, 9], [5, 8, 1, 1, 1]]
    assert batch.labels.tolist() == [[-100, -100, -100, 8, 9], [-100, 8, -100, -100, -100]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("trees", [True, False])
def test_progress_counts_the_tokens_of_every_example_once_and_ends_with_all(
    architecture: Architecture, trees: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tokens of a tree are fewer than those of its examples: what is left would never get to 0.
    tokenizer, rows = tiny_tokenizer(), [*varied_examples(9), example("[SYSTEM] again ", "7 [END]")] * 2
    told: list[tuple[int, int]] = []
    if not trees:
        monkeypatch.setattr(loss, "why_not_trees", lambda _model: "no")
    encoded = encode_rows(tokenizer, rows, 256)

    score_rows(tiny_model(architecture), encoded, batch_tokens=100, advanced=lambda *done: told.append(done))

    total = sum(each.tokens for each in encoded.examples)
    assert len(told) > 3
    assert told[-1] == (total, total)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
