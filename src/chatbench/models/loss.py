"""The loss of completions: one place for the mask, for training and scoring alike.

Two forms of a batch, one number: `PaddedBatch` is a rectangle padded on the right (no attention mask is passed: with
causal attention a real token cannot see the padding after it, and without a mask the fast kernels apply); `TreeBatch`
is a prefix tree. Either way vocabulary logits are computed only where a scored token is predicted: a hook hands the
output head those rows and no others, whatever the architecture. Where even these are too many for a large vocabulary,
they are taken in parts, and computed again in the backward pass.

How surprised a model is by held-out human turns: one summed loss per example.

The same tokens are scored as training learns from: the completion's, its end marker included. Examples are laid out as
prefix trees within a token budget, so that what they share is computed once; how they are grouped never changes the
numbers (beyond rounding in float32). A model that cannot read trees gets padded batches, of about equal lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chatbench.data.examples import ExampleRow
from chatbench.metrics.perplexity import TokenLoss
from chatbench.models.encoding import PLAIN, EncodedRows, TextForm, encode_rows
from chatbench.models.loading import context_length
from chatbench.models.prefix_tree import PrefixTree, ScoredSequence, prefix_trees
from chatbench.models.tree_attention import BLOCK_NODES, Kernel, TreePlan, attends_to_trees, why_not_trees
from chatbench.protocol.plain_text import EncodedExample

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
