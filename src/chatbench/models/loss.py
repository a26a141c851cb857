"""The loss on completions: one mask for training and scoring, so both count the same tokens.

Two forms of a batch give the same number: `PaddedBatch` is a rectangle padded on the right (no attention mask: with
causal attention a real token cannot see the padding after it, and without a mask the fast kernels apply); `TreeBatch`
is a prefix tree. Either way, logits are computed only where a scored token is predicted: a hook passes the output head
only those rows, whatever the architecture. If even these are too many for a large vocabulary, they are
computed in chunks, and again in the backward pass.

`score_encoded` sums the loss of each example. What examples share is computed once (prefix trees within a token
budget; padded batches of about equal lengths for a model that cannot read trees); how they are grouped never changes
the numbers, up to rounding in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from chatbench.core.progress import Advanced, unobserved
from chatbench.metrics.text import TokenLoss
from chatbench.models.encoding import EncodedRows
from chatbench.models.prefix_tree import (
    BLOCK_NODES,
    Integers,
    Kernel,
    PrefixTree,
    ScoredSequence,
    TreePlan,
    attends_to_trees,
    prefix_trees,
    transformers_model,
    why_not_trees,
)  # fmt: skip
from chatbench.protocol.prompts import EncodedExample

IGNORED = -100
"""Label of a token that carries no loss (the convention of torch and transformers)."""

LOGITS_AT_ONCE = 1 << 26
"""Most logits held at a time (256 MiB in float32; the backward pass needs about three times that)."""

BATCH_TOKENS = 4096
"""Tokens per forward pass in scoring; about what fills a cache or a small GPU."""

Floats = NDArray[np.float64]
TokenNats = Callable[[int, Floats], None]
"""Called with an example's index and the nats of each token of its completion, in order; examples come in any order."""


class PaddedBatch(NamedTuple):
    """Token ids and labels, each of shape (examples, longest), padded on the right.

    `labels` holds the completion's tokens at their own positions and -100 everywhere else.
    """

    ids: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> PaddedBatch:
        return PaddedBatch(self.ids.to(device), self.labels.to(device))


class TreeBatch(NamedTuple):
    """A prefix tree on a device; `rows` are the distinct parents; each edge has an index into them, and a target."""

    plan: TreePlan
    rows: Tensor
    edge_rows: Tensor
    targets: Tensor


def padded_batch(examples: Sequence[EncodedExample], pad_id: int) -> PaddedBatch:
    """The examples as a rectangle; any `pad_id` does, since no real token sees it."""
    ids = [torch.tensor([*each.prompt, *each.completion]) for each in examples]
    labels = [torch.tensor([*[IGNORED] * len(each.prompt), *each.completion]) for each in examples]
    return PaddedBatch(
        pad_sequence(ids, batch_first=True, padding_value=pad_id),
        pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    )


def tree_batch(
    tree: PrefixTree, device: torch.device, kernel: Kernel = "blocks", block_nodes: int = BLOCK_NODES
) -> TreeBatch:
    """The tree, with everything that its forward pass needs, on `device`."""
    rows, edge_rows = np.unique(tree.edge_parents, return_inverse=True)
    parts = (torch.from_numpy(part).to(device) for part in (rows, edge_rows, tree.edge_targets))
    return TreeBatch(TreePlan(tree, device, kernel, block_nodes), *parts)


def scored_sequence(example: EncodedExample) -> ScoredSequence:
    """The example as a sequence whose completion is scored."""
    marks = [False] * len(example.prompt) + [True] * len(example.completion)
    return ScoredSequence([*example.prompt, *example.completion], marks)


def completion_nats(model: nn.Module, batch: PaddedBatch | TreeBatch, dtype: torch.dtype = torch.float32) -> Tensor:
    """-ln p of every scored token, shape (scored tokens,); differentiable.

    In the order of a padded batch's rows, or of a tree's edges. Logits are converted to `dtype` (but never from float64
    to less) before the softmax.
    """
    inputs: dict[str, Any]
    if isinstance(batch, TreeBatch):
        inputs = {"input_ids": batch.plan.tokens, "position_ids": batch.plan.depths, "tree_plan": batch.plan}
        rows, edge_rows, targets = batch.rows, batch.edge_rows, batch.targets
    else:
        inputs = {"input_ids": batch.ids}
        following = batch.labels[:, 1:]  # position t predicts token t + 1
        rows = functional.pad(following != IGNORED, (0, 1)).flatten().nonzero().squeeze(1)
        edge_rows, targets = torch.arange(len(rows), device=rows.device), following[following != IGNORED]
    head: Any = cast(Any, transformers_model(model)).get_output_embeddings()
    vocabulary = int(getattr(head, "out_features", 0) or head.weight.shape[0])
    if len(rows) * vocabulary > LOGITS_AT_ONCE and _logits_are_the_heads_output(model, head):
        with _head_sees(head, rows, keep_back=True) as kept:
            model(**inputs, use_cache=False)
        hidden, precision = kept[0]
        with precision:
            return _nats_in_chunks(head, hidden, edge_rows, targets, dtype, max(1, LOGITS_AT_ONCE // vocabulary))
    with _head_sees(head, rows):
        logits: Tensor = model(**inputs, use_cache=False).logits
    return _edge_nats(logits.flatten(0, 1), edge_rows, targets, dtype)


def _edge_nats(logits: Tensor, edge_rows: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
    """-ln p of each edge's target; several edges may share a row, and every row has one."""
    wide = logits if logits.dtype == torch.float64 else logits.to(dtype)
    if len(edge_rows) == len(wide):  # one edge per row: the fused function
        of_row = torch.empty_like(targets).scatter_(0, edge_rows, targets)
        return functional.cross_entropy(wide, of_row, reduction="none")[edge_rows]
    return wide.logsumexp(dim=-1)[edge_rows] - wide[edge_rows, targets]


def _nats_in_chunks(
    head: nn.Module, hidden: Tensor, edge_rows: Tensor, targets: Tensor, dtype: torch.dtype, chunk_rows: int
) -> Tensor:
    """The same from the head's inputs, one chunk of rows at a time; logits live only as long as their chunk."""
    nats = []
    order = edge_rows.argsort(stable=True)
    firsts = range(0, len(hidden), chunk_rows)
    borders = torch.searchsorted(edge_rows[order], torch.tensor([*firsts, len(hidden)], device=hidden.device)).tolist()

    def chunk_nats(chunk: Tensor, rows: Tensor, wanted: Tensor) -> Tensor:
        return _edge_nats(head(chunk), rows, wanted, dtype)

    for first, start, end in zip(firsts, borders, borders[1:], strict=False):
        edges = order[start:end]
        chunk = hidden[first : first + chunk_rows]
        nats.append(checkpoint(chunk_nats, chunk, edge_rows[edges] - first, targets[edges], use_reentrant=False))
    return torch.cat(nats)[order.argsort()]


@contextmanager
def _head_sees(
    head: nn.Module, rows: Tensor, *, keep_back: bool = False
) -> Iterator[list[tuple[Tensor, torch.autocast]]]:
    """Inside, the head gets the flattened hidden states at `rows` only.

    If they are kept back, it gets none, and they are yielded, with the precision that it would have computed in.
    """
    kept: list[tuple[Tensor, torch.autocast]] = []

    def pick(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        picked = inputs[0].flatten(0, 1).index_select(0, rows)
        if keep_back:
            device = picked.device.type
            enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
            kept.append((picked, torch.autocast(device, dtype=dtype, enabled=enabled)))
            picked = picked[:0]
        return (picked.unsqueeze(0), *inputs[1:])

    hook = head.register_forward_pre_hook(pick)
    try:
        yield kept
    finally:
        hook.remove()


_plain_heads: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def _logits_are_the_heads_output(model: nn.Module, head: nn.Module) -> bool:
    """Whether the head can be called alone, with nothing (a cap, a scale) after it; tested once per model."""
    # FullyShardedDataParallel holds a full weight only during the forward pass of the module that owns it.
    if any("FSDP" in type(module).__name__ or "FullySharded" in type(module).__name__ for module in model.modules()):
        return False
    if head not in _plain_heads:
        seen: list[Tensor] = []
        was_training = model.training
        model.eval()  # no dropout: a resumed run makes this test at another step
        hook = head.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        try:
            with torch.no_grad():
                logits = model(input_ids=torch.arange(8, device=next(head.parameters()).device)[None]).logits
        finally:
            hook.remove()
            model.train(was_training)
        _plain_heads[head] = bool(torch.equal(seen[0].to(logits.dtype), logits))
    return _plain_heads[head]


def score_rows(
    model: PreTrainedModel,
    encoded: EncodedRows,
    *,
    batch_tokens: int = BATCH_TOKENS,
    each_token: TokenNats | None = None,
    advanced: Advanced = unobserved,
) -> list[TokenLoss]:
    """The loss of each completion given its prompt, in the order of `encoded.rows`; see `score_encoded`.

    Bytes are those of the plain-text form, whatever the template, so bits per byte of the same rows are comparable.
    """
    nats = score_encoded(model, encoded.examples, batch_tokens=batch_tokens, each_token=each_token, advanced=advanced)
    return [
        TokenLoss(value, tokens, len(row.completion.encode("utf-8")))
        for (value, tokens), row in zip(nats, encoded.rows, strict=True)
    ]


def score_encoded(
    model: PreTrainedModel,
    examples: Sequence[EncodedExample],
    *,
    batch_tokens: int = BATCH_TOKENS,
    each_token: TokenNats | None = None,
    advanced: Advanced = unobserved,
) -> list[tuple[float, int]]:
    """Pairs (nats, tokens) of encoded examples, in their order; the model's mode is left as it was.

    `advanced` is called after each batch with the tokens of the examples that are done, prompts included.
    """
    nats = np.zeros(len(examples))
    done, total = 0, sum(example.tokens for example in examples)
    trees = not why_not_trees(model)
    was_training = model.training
    model.eval()  # type: ignore[no-untyped-call]  # torch has no types here
    try:
        with torch.inference_mode(), attends_to_trees(model) if trees else nullcontext():
            for indices, edges in _batch_nats(model, examples, batch_tokens, trees):
                np.add.at(nats, indices, edges)
                if each_token is not None:  # the tokens of one example are together, in its order
                    borders = np.flatnonzero(np.diff(indices)) + 1
                    for start, of_tokens in zip([0, *borders.tolist()], np.split(edges, borders), strict=True):
                        each_token(int(indices[start]), of_tokens)
                done += sum(examples[index].tokens for index in np.unique(indices))
                advanced(done, total)
    finally:
        model.train(was_training)
    return [(float(total), len(example.completion)) for total, example in zip(nats, examples, strict=True)]


def _batch_nats(
    model: PreTrainedModel, examples: Sequence[EncodedExample], batch_tokens: int, trees: bool
) -> Iterator[tuple[Integers, Floats]]:
    """For all scored tokens of each batch: the index of the token's example, and the token's nats."""
    # The loss of a near-certain token would be lost in float32's rounding; MPS has no float64.
    dtype = torch.float32 if model.device.type == "mps" else torch.float64
    if trees:
        for tree in prefix_trees([scored_sequence(example) for example in examples], batch_tokens):
            edges = completion_nats(model, tree_batch(tree, model.device), dtype)
            yield tree.edge_sequences, edges.cpu().double().numpy()
        return
    for batch in batches_by_tokens([example.tokens for example in examples], batch_tokens):
        padded = padded_batch([examples[index] for index in batch], pad_id=0).to(model.device)
        edges = completion_nats(model, padded, dtype)
        yield np.repeat(batch, [len(examples[index].completion) for index in batch]), edges.cpu().double().numpy()


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
