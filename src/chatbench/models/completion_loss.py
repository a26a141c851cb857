"""The loss of completions: one place for the mask, for training and scoring alike.

Two forms of a batch, one number: `PaddedBatch` is a rectangle padded on the right (no attention mask is passed: with
causal attention a real token cannot see the padding after it, and without a mask the fast kernels apply); `TreeBatch`
is a prefix tree. Either way vocabulary logits are computed only where a scored token is predicted: a hook hands the
output head those rows and no others, whatever the architecture. Where even these are too many for a large vocabulary,
they are taken in parts, and computed again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from chatbench.models.prefix_tree import PrefixTree, ScoredSequence
from chatbench.models.tree_attention import BLOCK_NODES, Kernel, TreePlan
from chatbench.protocol.transcript import EncodedExample

IGNORED = -100
"""Label of a token that carries no loss (the convention of torch and transformers)."""

LOGITS_AT_ONCE = 1 << 26
"""Most logits held at a time (256 MiB in float32; the backward pass needs about three times that)."""


class PaddedBatch(NamedTuple):
    """Token ids and labels, each of shape (examples, longest), padded on the right.

    `labels` holds the completion's tokens at their own positions and -100 everywhere else.
    """

    ids: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> PaddedBatch:
        return PaddedBatch(self.ids.to(device), self.labels.to(device))


class TreeBatch(NamedTuple):
    """A prefix tree on a device; `rows` are the distinct parents; each edge has its place in them, and a target."""

    plan: TreePlan
    rows: Tensor
    edge_rows: Tensor
    targets: Tensor


def padded_batch(examples: Sequence[EncodedExample], pad_id: int) -> PaddedBatch:
    """The rectangle of some examples; any `pad_id` does, since no real token sees it."""
    longest = max(example.tokens for example in examples)
    ids = torch.full((len(examples), longest), pad_id, dtype=torch.long)
    labels = torch.full((len(examples), longest), IGNORED, dtype=torch.long)
    for row, example in enumerate(examples):
        start, end = len(example.prompt), example.tokens
        ids[row, :end] = torch.tensor([*example.prompt, *example.completion])
        labels[row, start:end] = torch.tensor(example.completion)
    return PaddedBatch(ids, labels)


def tree_batch(
    tree: PrefixTree, device: torch.device, kernel: Kernel = "blocks", block_nodes: int = BLOCK_NODES
) -> TreeBatch:
    """The tree with everything that its forward pass needs on `device`."""
    rows, edge_rows = np.unique(tree.edge_parents, return_inverse=True)
    parts = (torch.from_numpy(part).to(device) for part in (rows, edge_rows, tree.edge_targets))
    return TreeBatch(TreePlan(tree, device, kernel, block_nodes), *parts)


def scored_sequence(example: EncodedExample) -> ScoredSequence:
    """The example as a sequence of which the completion is scored."""
    marks = [False] * len(example.prompt) + [True] * len(example.completion)
    return ScoredSequence([*example.prompt, *example.completion], marks)


def completion_nats(model: nn.Module, batch: PaddedBatch | TreeBatch, dtype: torch.dtype = torch.float32) -> Tensor:
    """-ln p of every scored token, shape (scored tokens,); differentiable.

    In the order of a padded batch's rows, or of a tree's edges. Logits are converted to `dtype` (and never from float64
    to less) before the softmax.
    """
    if isinstance(batch, TreeBatch):
        inputs = {"input_ids": batch.plan.tokens, "position_ids": batch.plan.depths, "tree_plan": batch.plan}
        return _nats(model, inputs, batch.rows, batch.edge_rows, batch.targets, dtype)
    following = batch.labels[:, 1:]  # position t predicts token t + 1
    rows = functional.pad(following != IGNORED, (0, 1)).flatten().nonzero().squeeze(1)
    targets = following[following != IGNORED]
    return _nats(model, {"input_ids": batch.ids}, rows, torch.arange(len(rows), device=rows.device), targets, dtype)


def _nats(
    model: nn.Module, inputs: dict[str, Any], rows: Tensor, edge_rows: Tensor, targets: Tensor, dtype: torch.dtype
) -> Tensor:
    head: Any = _head(model)
    vocabulary = int(getattr(head, "out_features", 0) or head.weight.shape[0])
    if len(rows) * vocabulary > LOGITS_AT_ONCE and _logits_are_the_heads_output(model):
        with _head_sees(head, rows, keep_back=True) as kept:
            model(**inputs, use_cache=False)
        hidden, precision = kept[0]
        with precision:
            return _nats_in_parts(head, hidden, edge_rows, targets, dtype, max(1, LOGITS_AT_ONCE // vocabulary))
    with _head_sees(head, rows):
        logits: Tensor = model(**inputs, use_cache=False).logits
    return _edge_nats(logits.flatten(0, 1), edge_rows, targets, dtype)


def _edge_nats(logits: Tensor, edge_rows: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
    """-ln p of each edge's target; several edges may share a row, and no row is without."""
    wide = logits if logits.dtype == torch.float64 else logits.to(dtype)
    if len(edge_rows) == len(wide):  # one edge a row: the fused function
        of_row = torch.empty_like(targets).scatter_(0, edge_rows, targets)
        return functional.cross_entropy(wide, of_row, reduction="none")[edge_rows]
    return wide.logsumexp(dim=-1)[edge_rows] - wide[edge_rows, targets]


def _nats_in_parts(
    head: nn.Module, hidden: Tensor, edge_rows: Tensor, targets: Tensor, dtype: torch.dtype, part_rows: int
) -> Tensor:
    """The same from the head's inputs, a part of the rows at a time; logits live only as long as their part."""
    nats = []
    order = edge_rows.argsort(stable=True)
    firsts = range(0, len(hidden), part_rows)
    borders = torch.searchsorted(edge_rows[order], torch.tensor([*firsts, len(hidden)], device=hidden.device)).tolist()

    def part_nats(part: Tensor, rows: Tensor, wanted: Tensor) -> Tensor:
        return _edge_nats(head(part), rows, wanted, dtype)

    for first, start, end in zip(firsts, borders, borders[1:], strict=False):
        edges = order[start:end]
        part = hidden[first : first + part_rows]
        nats.append(checkpoint(part_nats, part, edge_rows[edges] - first, targets[edges], use_reentrant=False))
    return torch.cat(nats)[order.argsort()]


@contextmanager
def _head_sees(
    head: nn.Module, rows: Tensor, *, keep_back: bool = False
) -> Iterator[list[tuple[Tensor, torch.autocast]]]:
    """Inside, the head gets the flattened hidden states at `rows` only.

    Kept back, it gets none, and they are yielded, with the precision in which it would have computed.
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


def _head(model: nn.Module) -> nn.Module:
    inner: Any = getattr(model, "module", model)  # DistributedDataParallel wraps the model
    head: nn.Module | None = inner.get_output_embeddings()
    if head is None:
        raise TypeError(f"{type(inner).__name__} has no output head")
    return head


_plain_heads: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def _logits_are_the_heads_output(model: nn.Module) -> bool:
    """Whether nothing (a cap, a scale) comes after the head, and it can be called alone; tried out once per model."""
    head = _head(model)
    if _is_sharded(model):
        return False
    if head not in _plain_heads:
        seen: list[Tensor] = []
        was_training = model.training
        model.eval()  # no dropout: a run that is resumed tries it out at another step
        hook = head.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        try:
            with torch.no_grad():
                logits = model(input_ids=torch.arange(8, device=next(head.parameters()).device)[None]).logits
        finally:
            hook.remove()
            model.train(was_training)
        _plain_heads[head] = bool(torch.equal(seen[0].to(logits.dtype), logits))
    return _plain_heads[head]


def _is_sharded(model: nn.Module) -> bool:
    """FullyShardedDataParallel holds a weight whole only during the forward pass of the module that owns it."""
    return any("FSDP" in type(module).__name__ or "FullySharded" in type(module).__name__ for module in model.modules())
