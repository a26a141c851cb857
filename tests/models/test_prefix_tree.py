"""Prefix trees: nothing shared is laid out twice, nothing is lost, every branch has its own target, and packed trees
compute what the examples one by one compute: every loss, every gradient, every architecture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from tests.support.tiny_models import (
    ARCHITECTURES,
    LAYERS,
    SMALL,
    Architecture,
    other_model,
    tiny_model,
    tiny_tokenizer,
)
from torch import Tensor, nn

from chatbench.core.errors import ChatbenchError
from chatbench.models import loss as completion_loss
from chatbench.models.generation import Decoding, LocalGenerator
from chatbench.models.loss import completion_nats, padded_batch, score_encoded, scored_sequence, tree_batch
from chatbench.models.prefix_tree import (
    Kernel,
    PrefixTree,
    ScoredSequence,
    attends_to_trees,
    block_mask,
    prefix_tree,
    prefix_trees,
    refuse_unsuited,
    tree_blocks,
    why_not_trees,
)
from chatbench.protocol.prompts import EncodedExample


def sequence(tokens: str) -> ScoredSequence:
    """Letters as tokens; capitals and stops are scored."""
    return ScoredSequence([ord(each) for each in tokens], [each.isupper() or each == "." for each in tokens])


@st.composite
def scored_sequences(draw: st.DrawFn) -> list[ScoredSequence]:
    # Three tokens only, so that sequences share prefixes, branch, and repeat each other.
    tokens = draw(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=12))
    return [
        ScoredSequence(each, [False, *draw(st.lists(st.booleans(), min_size=len(each) - 1, max_size=len(each) - 1))])
        for each in tokens
    ]


def path(tree: PrefixTree, node: int) -> list[int]:
    """Tokens from the root to a node, by the rule that says who descends from whom."""
    return [int(tree.tokens[j]) for j in range(node + 1) if node < tree.ends[j]]


def edges_of(trees: list[PrefixTree]) -> list[tuple[int, tuple[int, ...], int]]:
    """(sequence, what comes before, target) of every edge."""
    return sorted(
        (int(which), tuple(path(tree, int(parent))), int(target))
        for tree in trees
        for which, parent, target in zip(tree.edge_sequences, tree.edge_parents, tree.edge_targets, strict=True)
    )


def expected_edges(sequences: list[ScoredSequence]) -> list[tuple[int, tuple[int, ...], int]]:
    """The same, one sequence at a time."""
    return sorted(
        (which, tuple(each.tokens[:place]), each.tokens[place])
        for which, each in enumerate(sequences)
        for place, scored in enumerate(each.scored)
        if scored
    )


def inputs_of(each: ScoredSequence) -> list[int]:
    """What a model must read to score a sequence: all before its last scored token."""
    last = max((place for place, scored in enumerate(each.scored) if scored), default=0)
    return list(each.tokens[:last])


def test_the_drawn_example_is_laid_out_as_drawn() -> None:
    tree = prefix_tree([sequence("abcX."), sequence("abcYZ."), sequence("abdW")])

    assert "".join(map(chr, tree.tokens)) == "abcXYZd"
    assert tree.depths.tolist() == [0, 1, 2, 3, 3, 4, 2]
    assert tree.ends.tolist() == [7, 7, 6, 4, 6, 6, 7]
    # A branch point has a target for every branch: a row of shifted labels would lose one of X and Y.
    edges = zip(tree.edge_parents.tolist(), map(chr, tree.edge_targets), strict=True)
    assert list(edges) == [(2, "X"), (3, "."), (2, "Y"), (4, "Z"), (5, "."), (6, "W")]


@given(scored_sequences())
def test_every_distinct_prefix_is_one_node_and_edges_are_those_of_the_sequences_one_by_one(
    sequences: list[ScoredSequence],
) -> None:
    distinct = {tuple(inputs_of(each)[:end]) for each in sequences for end in range(1, len(inputs_of(each)) + 1)}

    tree = prefix_tree(sequences)

    assert edges_of([tree]) == expected_edges(sequences)
    assert {tuple(path(tree, node)) for node in range(len(tree))} == distinct
    assert len(tree) == len(distinct)
    assert all(tree.depths[node] == len(path(tree, node)) - 1 for node in range(len(tree)))


@given(scored_sequences(), st.integers(1, 12))
def test_a_budget_cuts_but_loses_nothing(sequences: list[ScoredSequence], budget: int) -> None:
    trees = prefix_trees(sequences, budget)

    assert edges_of(trees) == expected_edges(sequences)
    for tree in trees:
        longest = max(len(inputs_of(sequences[which])) for which in set(tree.edge_sequences.tolist()))
        assert len(tree) <= max(budget, longest)


def test_the_cut_is_where_the_least_is_repeated() -> None:
    # Greedy filling would put the first three together and cut where eight tokens are shared.
    apart = sequence("qX")
    family = [sequence(f"abcdefgh{each}X") for each in "ijk"]

    assert sorted(map(len, prefix_trees([*family, apart], budget=11))) == [1, 11]
    # A sequence longer than the budget is a tree of its own.
    assert sorted(map(len, prefix_trees([sequence("abcdefX"), sequence("aY")], budget=3))) == [1, 6]
    # One without a scored token needs no nodes.
    assert prefix_trees([sequence("abc")], budget=5) == []
    assert len(prefix_tree([sequence("abc")])) == 0


@pytest.mark.parametrize(
    ("tokens", "scored", "message"), [([1, 2], [False], "2 tokens, but 1"), ([1, 2], [True, True], "the first token")]
)
def test_sequences_that_cannot_be_scored_are_refused(tokens: list[int], scored: list[bool], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScoredSequence(tokens, scored)


@given(scored_sequences(), st.integers(1, 12), st.sampled_from([None, 1, 2, 4]))
def test_blocks_let_every_node_see_its_ancestors_and_nobody_else(
    sequences: list[ScoredSequence], limit: int, window: int | None
) -> None:
    tree = prefix_tree(sequences)
    blocks = tree_blocks(tree, limit)

    seen = np.zeros((len(tree), len(tree)), dtype=bool)
    for index, block in enumerate(blocks):
        columns = [node for each in (*block.context, index) for node in range(blocks[each].start, blocks[each].stop)]
        seen[block.start : block.stop, columns] = block_mask(tree, blocks, index, window)

    for node in range(len(tree)):
        ancestors = [j for j in range(node + 1) if node < tree.ends[j]]
        reach = ancestors if window is None else [j for j in ancestors if tree.depths[node] - tree.depths[j] < window]
        assert np.flatnonzero(seen[node]).tolist() == reach
    assert [place for block in blocks for place in range(block.start, block.stop)] == list(range(len(tree)))
    assert all(len(block) <= limit for block in blocks)


def test_blocks_cost_what_the_tree_needs_and_not_the_square_of_its_nodes() -> None:
    stem = list(range(100))
    tree = prefix_tree([ScoredSequence([*stem, *([200 + chat] * 51)], [False] * 150 + [True]) for chat in range(10)])
    needed = 100 * 101 // 2 + 10 * (50 * 100 + 50 * 51 // 2)

    assert len(tree) == 600
    blocks = tree_blocks(tree, 64)
    products = sum(len(block) * (len(block) + sum(len(blocks[i]) for i in block.context)) for block in blocks)
    assert needed <= products < 1.3 * needed < 0.25 * 600 * 600


CPU = torch.device("cpu")


def conversation_like(seed: int = 0) -> list[EncodedExample]:
    """Twelve examples that share prompts as conversations do, some of them equal up to the completion."""
    rng = np.random.default_rng(seed)
    history = rng.integers(1, 300, 60).tolist()
    examples = []
    for kept in (20, 20, 20, 35, 35, 50, 50, 60, 60, 7, 7, 44):
        tail = [] if kept % 4 else rng.integers(1, 300, 4).tolist()
        completion = rng.integers(1, 300, int(rng.integers(1, 9))).tolist()
        examples.append(EncodedExample([*history[:kept], *tail], completion))
    return examples


def one_by_one(model: nn.Module, examples: list[EncodedExample]) -> Tensor:
    """The summed loss, by the model's own logits, without any code of ours."""
    total = torch.zeros((), dtype=torch.float64)
    for example in examples:
        logits = model(input_ids=torch.tensor([[*example.prompt, *example.completion]])).logits[0]
        start = len(example.prompt)
        own = logits[start - 1 : -1].log_softmax(-1)
        total = total - own[torch.arange(len(example.completion)), torch.tensor(example.completion)].sum().double()
    return total


def packed(model: nn.Module, examples: list[EncodedExample], budget: int, kernel: Kernel = "blocks") -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for tree in prefix_trees([scored_sequence(example) for example in examples], budget):
        total = total + completion_nats(model, tree_batch(tree, CPU, kernel)).sum().double()
    return total


def loss_and_gradients(model: nn.Module, loss: Callable[[], Tensor]) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    value = loss()
    value.backward()
    found = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    return float(value), found


def in_float64(model: nn.Module) -> nn.Module:
    """The model in float64 throughout: the norms of Llama and its kin compute in float32 whatever they are given."""

    class Norm(nn.Module):
        def __init__(self, weight: Tensor, epsilon: float) -> None:
            super().__init__()
            self.weight = nn.Parameter(weight)
            self.epsilon = epsilon

        def forward(self, hidden: Tensor) -> Tensor:
            return self.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.epsilon)

    model = model.double()
    for name, module in list(model.named_modules()):
        if type(module).__name__ in ("LlamaRMSNorm", "MistralRMSNorm"):
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], Norm(module.weight.data, module.variance_epsilon))
    return model


def assert_equal(model: nn.Module, tolerance: float, budget: int = 70) -> None:
    examples = conversation_like()
    plain, plain_gradients = loss_and_gradients(model, lambda: one_by_one(model, examples))
    with attends_to_trees(model):
        tree, tree_gradients = loss_and_gradients(model, lambda: packed(model, examples, budget))

    assert tree == pytest.approx(plain, rel=tolerance)
    assert tree_gradients.keys() == plain_gradients.keys()
    for name, gradient in plain_gradients.items():
        difference = (tree_gradients[name] - gradient).abs().max() / gradient.abs().max().clamp_min(1e-30)
        assert difference < tolerance, f"{name}: {difference}"


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_and_gradients_equal_the_plain_computation(architecture: Architecture, lora: bool) -> None:
    # Mistral's window of 32 is shorter than the examples: a window counted in the packed row, not on the path, fails.
    for convert, tolerance in ((in_float64, 1e-9), (nn.Module.float, 1e-5)):
        model: nn.Module = tiny_model(architecture, context=64 if architecture == "mistral" else 256)
        if lora:
            targets = ["c_attn"] if architecture == "gpt2" else ["q_proj", "v_proj"]
            model = get_peft_model(model, LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
        assert_equal(convert(model), tolerance)


def test_the_size_of_blocks_does_not_change_the_loss_and_the_model_attends_as_before_in_the_end() -> None:
    model = in_float64(tiny_model("llama"))
    examples, before = conversation_like(), model.config._attn_implementation
    plain = float(one_by_one(model, examples).detach())
    tree = prefix_tree([scored_sequence(each) for each in examples])

    with attends_to_trees(model), torch.no_grad():
        for block_nodes in (1, 5, 1000):
            nats = completion_nats(model, tree_batch(tree, CPU, block_nodes=block_nodes))
            assert float(nats.sum()) == pytest.approx(plain, rel=1e-12)

    assert model.config._attn_implementation == before


def test_other_architectures_read_trees_too() -> None:
    # Of Gemma's, layers with a sliding window of 16 and layers without one, in turn.
    for kind, shape in (("qwen3", SMALL), ("gemma3_text", {**SMALL, **LAYERS})):
        assert_equal(other_model(kind, **shape), 2e-5)


def test_what_cannot_be_trained_on_trees_is_refused_with_the_reason() -> None:
    with pytest.raises(ChatbenchError, match="caps its attention scores"):
        refuse_unsuited(other_model("gemma2", **SMALL), "blocks", "cpu")
    with pytest.raises(ChatbenchError, match="packed_attention = 'flex' on cpu"):
        refuse_unsuited(tiny_model("llama"), "flex", "cpu")


MOE = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
       "shared_expert_intermediate_size": 16}  # fmt: skip
FEW = {name: value for name, value in SMALL.items() if name not in ("head_dim", "num_key_value_heads")}


@pytest.mark.parametrize(
    ("kind", "shape", "reason"),
    [
        # They do not pass on keyword arguments, or have attention of their own: every row would see all others.
        ("falcon", FEW, "not all of its layers pass the tree on"),
        ("stablelm", SMALL, "not all of its layers pass the tree on"),
        ("nemotron", SMALL, "not all of its layers pass the tree on"),
        ("doge", SMALL, "a mask of their own"),
        (
            "qwen2_moe",
            {**SMALL, **MOE, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
            "window",
        ),
        ("phimoe", {**SMALL, **MOE, "sliding_window": 8}, "window"),
        (
            "mbart",
            {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 64},
            "positions",
        ),
        ("roberta", {**FEW, "is_decoder": True}, "positions"),
    ],
)
def test_what_keeps_a_tree_from_a_models_attention_is_found_and_the_model_scored_without(
    kind: str, shape: dict[str, object], reason: str
) -> None:
    # Losses were off by up to 6 nats, without an error.
    model, examples = other_model(kind, **{**shape, "pad_token_id": 0}).eval(), conversation_like()

    with pytest.raises(ChatbenchError, match=reason):
        refuse_unsuited(model, "blocks", "cpu")
    with pytest.raises(ChatbenchError, match=f"cannot be sampled from here: .*{reason}"):
        LocalGenerator(model, tiny_tokenizer(), Decoding())
    alone = [score_encoded(model, [example])[0] for example in examples]
    assert [nats for nats, _ in score_encoded(model, examples)] == pytest.approx([n for n, _ in alone], rel=1e-5)


def test_a_layer_that_attends_twice_cannot_be_sampled_from() -> None:
    model = other_model("diffllama", **SMALL)

    assert why_not_trees(model) == ""
    assert "attend twice" in why_not_trees(model, capped=True)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("opt", {**FEW, "ffn_dim": 64, "word_embed_proj_dim": 32}), ("gpt_neox", FEW), ("phi3", SMALL),
        ("gemma3_text", {**SMALL, **LAYERS}), ("mixtral", {**SMALL, "num_local_experts": 4}),
        ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "pad_token_id": 0}),  # as the Trainer leaves it
    ],
)  # fmt: skip
def test_layers_that_pass_a_tree_on_are_told_from_those_that_do_not_and_no_number_is_drawn(
    kind: str, shape: dict[str, object]
) -> None:
    model = other_model(kind, **shape)
    before = torch.get_rng_state()

    assert why_not_trees(model) == ""

    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_flex_attention_sees_the_same(architecture: Architecture) -> None:
    # On a CPU FlexAttention has no backward pass; its mask is what is tested.
    model = tiny_model(architecture, context=64 if architecture == "mistral" else 256).eval()
    examples = conversation_like()

    with torch.no_grad(), attends_to_trees(model):
        assert float(packed(model, examples, 1000, "flex")) == pytest.approx(
            float(packed(model, examples, 1000)), rel=1e-5
        )


def test_gradient_checkpointing_sees_the_tree_again_in_the_backward_pass() -> None:
    model = tiny_model("llama")
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()

    assert_equal(model, 1e-5)


@pytest.mark.parametrize("form", ["tree", "padded"])
def test_a_large_vocabulary_is_taken_in_parts_with_equal_loss_and_gradients(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = in_float64(tiny_model("gpt2"))  # its head is its embedding: both gradients meet in one weight
    examples = conversation_like()
    batch = tree_batch(prefix_tree([scored_sequence(each) for each in examples]), CPU)
    whole_batch = batch if form == "tree" else padded_batch(examples, 0)
    sizes = []
    model.get_output_embeddings().register_forward_hook(lambda _module, _inputs, output: sizes.append(output.numel()))

    with attends_to_trees(model):
        nats, gradients = loss_and_gradients(model, lambda: completion_nats(model, whole_batch).sum())
        monkeypatch.setattr(completion_loss, "LOGITS_AT_ONCE", 320 * 5)
        sizes.clear()
        parts, parts_gradients = loss_and_gradients(model, lambda: completion_nats(model, whole_batch).sum())

    assert parts == pytest.approx(nats, rel=1e-12)
    assert all(torch.allclose(parts_gradients[name], gradients[name], rtol=1e-9, atol=1e-12) for name in gradients)
    assert max(sizes[1:]) == 320 * 5  # the first call only tries the head out


def test_what_follows_the_head_is_not_passed_over_when_logits_are_taken_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Gemma caps its logits after the head, so the head alone would give others.
    model = other_model("gemma3_text", **SMALL, final_logit_softcapping=1.0, sliding_window=16)
    examples = conversation_like()
    whole = completion_nats(model, padded_batch(examples, 0)).sum()
    monkeypatch.setattr(completion_loss, "LOGITS_AT_ONCE", 320 * 5)

    assert float(completion_nats(model, padded_batch(examples, 0)).sum()) == pytest.approx(float(whole), rel=1e-6)
