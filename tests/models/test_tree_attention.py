"""Packed trees compute what the examples one by one compute: every loss, every gradient, every architecture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.support.tiny_models import ARCHITECTURES, Architecture, tiny_model
from torch import Tensor, nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from chatbench.core.errors import ChatbenchError
from chatbench.models import loss as completion_loss
from chatbench.models.loss import completion_nats, padded_batch, scored_sequence, tree_batch
from chatbench.models.prefix_tree import Kernel, attends_to_trees, prefix_tree, prefix_trees, refuse_unsuited
from chatbench.protocol.plain_text import EncodedExample

CPU = torch.device("cpu")
SMALL = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "initializer_range": 0.2,
}  # fmt: skip


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


@pytest.mark.parametrize("block_nodes", [1, 5, 1000])
def test_the_size_of_blocks_does_not_change_the_loss(block_nodes: int) -> None:
    model = in_float64(tiny_model("llama"))
    examples = conversation_like()
    plain = float(one_by_one(model, examples).detach())
    tree = prefix_tree([scored_sequence(each) for each in examples])

    with attends_to_trees(model), torch.no_grad():
        nats = completion_nats(model, tree_batch(tree, CPU, block_nodes=block_nodes))

    assert float(nats.sum()) == pytest.approx(plain, rel=1e-12)


def test_other_architectures_read_trees_too() -> None:
    torch.manual_seed(0)
    qwen = Qwen3ForCausalLM(Qwen3Config(**SMALL))
    # Layers with a sliding window of 16 and layers without one, in turn.
    kinds = ["sliding_attention", "full_attention"]
    gemma = Gemma3ForCausalLM(Gemma3TextConfig(**SMALL, sliding_window=16, layer_types=kinds))

    for model in (qwen, gemma):
        assert_equal(model, 2e-5)


def test_what_cannot_be_trained_on_trees_is_refused_with_the_reason() -> None:
    with pytest.raises(ChatbenchError, match="caps its attention scores"):
        refuse_unsuited(Gemma2ForCausalLM(Gemma2Config(**SMALL)), "blocks")
    with pytest.raises(ChatbenchError, match="packed_attention = 'flex' on cpu"):
        refuse_unsuited(tiny_model("llama"), "flex")


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
    torch.manual_seed(0)
    model = Gemma3ForCausalLM(Gemma3TextConfig(**SMALL, final_logit_softcapping=1.0, sliding_window=16))
    examples = conversation_like()
    whole = completion_nats(model, padded_batch(examples, 0)).sum()
    monkeypatch.setattr(completion_loss, "LOGITS_AT_ONCE", 320 * 5)

    assert float(completion_nats(model, padded_batch(examples, 0)).sum()) == pytest.approx(float(whole), rel=1e-6)


def test_the_model_attends_as_before_once_the_trees_are_done() -> None:
    model = tiny_model("llama")
    before = model.config._attn_implementation

    with attends_to_trees(model):
        assert model.config._attn_implementation != before

    assert model.config._attn_implementation == before
