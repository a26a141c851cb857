"""How surprised a model is by held-out human turns: one summed loss per example.

The same tokens are scored as training learns from: the completion's, its end marker included. Examples are laid out as
prefix trees within a token budget, so that what they share is computed once; how they are grouped never changes the
numbers (beyond rounding in float32). A model that cannot read trees gets padded batches, of about equal lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chatbench.measures.perplexity import TokenLoss
from chatbench.models.completion_loss import completion_nats, padded_batch, scored_sequence, tree_batch
from chatbench.models.encoding import PLAIN, EncodedRows, TextForm, encode_rows
from chatbench.models.loading import context_length
from chatbench.models.prefix_tree import prefix_trees
from chatbench.models.tree_attention import attends_to_trees, why_not_trees
from chatbench.protocol.example_rows import ExampleRow
from chatbench.protocol.transcript import EncodedExample

BATCH_TOKENS = 4096
"""Tokens of one forward pass; about what fills a cache or a small GPU."""

Floats = NDArray[np.float64]
TokenNats = Callable[[int, Floats], None]
"""Told the place of an example and the nats of each token of its completion, in order; examples come in any order."""


def score_examples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[ExampleRow],
    *,
    batch_tokens: int = BATCH_TOKENS,
    max_tokens: int = 0,
    form: TextForm = PLAIN,
    progress: Callable[[int], None] | None = None,
) -> list[TokenLoss]:
    """The losses of the rows that fit the context (`max_tokens`, 0 for the model's own), in their order.

    Args:
        progress: told the number of examples after each batch.

    Raises:
        ChatbenchError: as `encode_rows`.
    """
    context = min(max_tokens or context_length(model), context_length(model))
    return score_rows(model, encode_rows(tokenizer, rows, context, form), batch_tokens=batch_tokens, progress=progress)


def score_rows(
    model: PreTrainedModel,
    encoded: EncodedRows,
    *,
    batch_tokens: int = BATCH_TOKENS,
    progress: Callable[[int], None] | None = None,
    each_token: TokenNats | None = None,
) -> list[TokenLoss]:
    """The loss of each completion given its prompt, in the order of `encoded.rows`.

    Bytes are those of the plain-text form whatever the template, so that bits per byte of the same rows compare.
    """
    nats = score_encoded(model, encoded.examples, batch_tokens=batch_tokens, progress=progress, each_token=each_token)
    return [
        TokenLoss(value, tokens, len(row.completion.encode("utf-8")))
        for (value, tokens), row in zip(nats, encoded.rows, strict=True)
    ]


def score_encoded(
    model: PreTrainedModel,
    examples: Sequence[EncodedExample],
    *,
    batch_tokens: int = BATCH_TOKENS,
    progress: Callable[[int], None] | None = None,
    each_token: TokenNats | None = None,
) -> list[tuple[float, int]]:
    """Pairs (nats, tokens) of encoded examples, in their order; the model's mode is left as it was."""
    was_training = model.training
    model.eval()  # type: ignore[no-untyped-call]  # torch has no types here
    try:
        with torch.inference_mode():
            score = _in_rows if why_not_trees(model) else _in_trees
            nats = score(model, examples, batch_tokens, progress or (lambda _count: None), each_token)
    finally:
        model.train(was_training)
    return [(float(total), len(example.completion)) for total, example in zip(nats, examples, strict=True)]


def _in_trees(
    model: PreTrainedModel,
    examples: Sequence[EncodedExample],
    batch_tokens: int,
    progress: Callable[[int], None],
    each_token: TokenNats | None,
) -> Floats:
    nats = np.zeros(len(examples))
    with attends_to_trees(model):
        for tree in prefix_trees([scored_sequence(example) for example in examples], batch_tokens).trees:
            edges = completion_nats(model, tree_batch(tree, model.device), _wide(model.device)).cpu().double().numpy()
            np.add.at(nats, tree.edge_sequences, edges)
            if each_token is not None:  # the edges of one sequence are together, in its order
                borders = np.flatnonzero(np.diff(tree.edge_sequences)) + 1
                for start, part in zip([0, *borders.tolist()], np.split(edges, borders), strict=True):
                    each_token(int(tree.edge_sequences[start]), part)
            progress(len(np.unique(tree.edge_sequences)))
    return nats


def _in_rows(
    model: PreTrainedModel,
    examples: Sequence[EncodedExample],
    batch_tokens: int,
    progress: Callable[[int], None],
    each_token: TokenNats | None,
) -> Floats:
    nats = np.zeros(len(examples))
    for batch in batches_by_tokens([example.tokens for example in examples], batch_tokens):
        padded = padded_batch([examples[index] for index in batch], pad_id=0).to(model.device)
        edges = completion_nats(model, padded, _wide(model.device)).cpu().double()
        parts = torch.split(edges, [len(examples[index].completion) for index in batch])
        nats[batch] = [float(part.sum()) for part in parts]
        if each_token is not None:
            for index, part in zip(batch, parts, strict=True):
                each_token(index, part.numpy())
        progress(len(batch))
    return nats


def _wide(device: torch.device) -> torch.dtype:
    """float64 where the device has it: a token of near-certainty would drown in float32's rounding."""
    return torch.float32 if device.type == "mps" else torch.float64


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
