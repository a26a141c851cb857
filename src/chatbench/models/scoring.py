"""How surprised a model is by held-out human turns: one summed loss per example.

The same tokens are scored as training learns from: the completion's, its end marker included. Examples are sorted by
length and grouped by a token budget; sorting and grouping change the padding, never the numbers (beyond rounding in
float32).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chatbench.measures.perplexity import TokenLoss
from chatbench.models.completion_loss import padded_batch, scored_logits
from chatbench.models.encoding import encode_rows
from chatbench.models.loading import context_length
from chatbench.protocol.example_rows import ExampleRow
from chatbench.protocol.transcript import EncodedExample

BATCH_TOKENS = 4096
"""Tokens a batch, padding included; about what fills a cache or a small GPU."""


def score_examples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[ExampleRow],
    *,
    batch_tokens: int = BATCH_TOKENS,
    max_tokens: int = 0,
    progress: Callable[[int], None] | None = None,
) -> list[TokenLoss]:
    """The loss of each row's completion given its prompt, in the rows' order.

    A prompt that does not fit the context (`max_tokens`, 0 for the model's own) is cut from the left.

    Args:
        progress: told the number of examples after each batch.

    Raises:
        ChatbenchError: a completion alone is longer than the context.
    """
    context = min(max_tokens or context_length(model), context_length(model))
    nats = score_encoded(model, encode_rows(tokenizer, rows, context), batch_tokens=batch_tokens, progress=progress)
    return [
        TokenLoss(value, tokens, len(row.completion.encode("utf-8")))
        for (value, tokens), row in zip(nats, rows, strict=True)
    ]


def score_encoded(
    model: PreTrainedModel,
    examples: Sequence[EncodedExample],
    *,
    batch_tokens: int = BATCH_TOKENS,
    progress: Callable[[int], None] | None = None,
) -> list[tuple[float, int]]:
    """Pairs (nats, tokens) of encoded examples, in their order; the model's mode is left as it was."""
    results = [(0.0, 0)] * len(examples)
    was_training = model.training
    model.eval()  # type: ignore[no-untyped-call]  # torch has no types here
    try:
        for batch in batches_by_tokens([len(e.prompt) + len(e.completion) for e in examples], batch_tokens):
            for index, nats in zip(batch, _batch_nats(model, [examples[i] for i in batch]), strict=True):
                results[index] = (nats, len(examples[index].completion))
            if progress is not None:
                progress(len(batch))
    finally:
        model.train(was_training)
    return results


@torch.inference_mode()
def _batch_nats(model: PreTrainedModel, examples: Sequence[EncodedExample]) -> list[float]:
    batch = padded_batch(examples, pad_id=0)  # any id: no real token sees the padding
    device = model.device
    logits, tokens = scored_logits(model, batch["input_ids"].to(device), batch["labels"].to(device))
    # Sums in float64 (where the device has it): a token of near-certainty would drown in float32's rounding.
    wide = torch.float32 if device.type == "mps" else torch.float64
    nats = functional.cross_entropy(logits.to(wide), tokens, reduction="none")
    counts = [len(example.completion) for example in examples]
    return [float(part.sum()) for part in torch.split(nats.cpu().double(), counts)]


def batches_by_tokens(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices in batches of about equal length, longest first, each at most `batch_tokens` with its padding.

    An example longer than the budget is a batch of its own.

    >>> list(batches_by_tokens([3, 9, 4, 2], batch_tokens=10))
    [[1], [2, 0], [3]]
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    starts = [0]
    for place, _ in enumerate(order):
        # The first of a batch is its longest, so it sets the width of all.
        if (place - starts[-1] + 1) * lengths[order[starts[-1]]] > batch_tokens and place > starts[-1]:
            starts.append(place)
    return (order[start:end] for start, end in pairwise([*starts, len(order)]) if end > start)
