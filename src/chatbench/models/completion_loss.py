"""The loss of completions: one place for the mask, for training and scoring alike.

A batch is padded on the right and no attention mask is passed: with causal attention a real token cannot see the
padding after it, and without a mask the fast attention kernels apply. Vocabulary logits are computed only where a
scored token is predicted, which is one position in ten: a hook hands the output head those rows and no others, whatever
the architecture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from chatbench.protocol.transcript import EncodedExample

IGNORED = -100
"""Label of a token that carries no loss (the convention of torch and transformers)."""


def padded_batch(examples: Sequence[EncodedExample], pad_id: int) -> dict[str, Tensor]:
    """Token ids and labels of a batch, each of shape (examples, longest), padded on the right.

    `labels` holds the completion's tokens at their own positions and -100 everywhere else.
    """
    longest = max(len(example.prompt) + len(example.completion) for example in examples)
    ids = torch.full((len(examples), longest), pad_id, dtype=torch.long)
    labels = torch.full((len(examples), longest), IGNORED, dtype=torch.long)
    for row, example in enumerate(examples):
        start, end = len(example.prompt), len(example.prompt) + len(example.completion)
        ids[row, :end] = torch.tensor(example.prompt + example.completion)
        labels[row, start:end] = torch.tensor(example.completion)
    return {"input_ids": ids, "labels": labels}


def scored_logits(model: torch.nn.Module, ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (scored tokens, vocabulary) in float32, and the scored tokens themselves, row by row of the batch."""
    following = labels[:, 1:]  # position t predicts token t + 1
    positions = functional.pad(following != IGNORED, (0, 1)).flatten().nonzero().squeeze(1)
    with _head_sees_only(model, positions) as applied:
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    rows = logits.flatten(0, 1) if applied else logits.flatten(0, 1).index_select(0, positions)
    return rows.float(), following[following != IGNORED]


def completion_nats(model: torch.nn.Module, ids: Tensor, labels: Tensor) -> Tensor:
    """-ln p of every scored token, shape (scored tokens,), row by row of the batch; differentiable."""
    logits, tokens = scored_logits(model, ids, labels)
    return functional.cross_entropy(logits, tokens, reduction="none")


@contextmanager
def _head_sees_only(model: torch.nn.Module, positions: Tensor) -> Iterator[bool]:
    """Inside, the output head gets the flattened hidden states at `positions` only; False where no head is known."""
    inner: Any = getattr(model, "module", model)  # DistributedDataParallel wraps the model
    head = inner.get_output_embeddings()
    if head is None:
        yield False
        return

    def pick(_module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].flatten(0, 1).index_select(0, positions).unsqueeze(0), *inputs[1:])

    hook = head.register_forward_pre_hook(pick)
    try:
        yield True
    finally:
        hook.remove()
