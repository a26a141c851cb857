"""Tiny random models of the three true architectures, as ordinary model folders, for the tests.

The tokenizer is byte-level and trained on a few sentences, so that tokens span bytes as in real ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from chatbench.data.examples import ExampleRow
from chatbench.metrics.text import TokenLoss
from chatbench.models.encoding import encode_rows
from chatbench.models.loading import context_length
from chatbench.models.loss import score_rows

Architecture = Literal["gpt2", "mistral", "llama"]
ARCHITECTURES: tuple[Architecture, ...] = ("gpt2", "mistral", "llama")

SENTENCES = (
    "[SYSTEM] You are a human user interacting with an AI system, and you are trying to answer the following question:",
    "What is 12 + 30? A. 42 B. 41 C. 7 D. 12 [USER] what is 12 plus 30 [END]",
    "Generate the first prompt you would say to the system to get started with your question. Answer: A [END]",
)


def tiny_tokenizer(vocabulary: int = 320) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on `SENTENCES`; it has an end token and, like GPT-2's, no padding token."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")


def tiny_model(
    architecture: Architecture, *, seed: int = 0, vocabulary: int = 320, context: int = 256
) -> PreTrainedModel:
    """Random weights, width 32, 2 layers, no dropout; Mistral has grouped heads and a window of half the context.

    Weights are drawn wide (standard deviation 0.2), so that losses differ from token to token.
    """
    torch.manual_seed(seed)
    if architecture == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=4, n_positions=context, initializer_range=0.2,
                resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
            )
        )  # fmt: skip
    shape = {
        "vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": context,
        "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip
    if architecture == "mistral":
        return MistralForCausalLM(MistralConfig(**shape, sliding_window=context // 2))
    return LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=False))


SMALL: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "initializer_range": 0.2,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
LAYERS: dict[str, Any] = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
LATENT: dict[str, Any] = {
    "head_dim": None, "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 12, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1, "moe_intermediate_size": 16, "first_k_dense_replace": 1,
}  # fmt: skip
"""DeepSeek-V3's attention: keys of 16, values of 12."""
SEES: dict[str, Any] = {
    "text_config": {**SMALL, **LAYERS}, "mm_tokens_per_image": 4,
    "vision_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
                      "image_size": 28, "patch_size": 14},
}  # fmt: skip
"""Gemma 3 with a vision tower."""


def other_model(kind: str, **shape: Any) -> PreTrainedModel:
    """A model of another architecture, by its name in transformers, with random weights."""
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape))
    return model


def save_tiny_model(folder: Path, architecture: Architecture = "llama", *, seed: int = 0, context: int = 256) -> Path:
    """Saves model and tokenizer as an ordinary model folder; gives the folder back."""
    tokenizer = tiny_tokenizer()
    tiny_model(architecture, seed=seed, vocabulary=len(tokenizer), context=context).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def score_examples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[ExampleRow],
    batch_tokens: int = 4096,
) -> list[TokenLoss]:
    """The losses of the rows that fit the model's context, in plain text, in their order."""
    return score_rows(model, encode_rows(tokenizer, rows, context_length(model)), batch_tokens=batch_tokens)


class Reciting(LlamaForCausalLM):
    """A model that writes `script` after any prompt, by looking at the position only."""

    script: list[int]
    prompt_tokens: int

    def forward(self, **inputs: torch.Tensor) -> object:  # type: ignore[override]
        output = super().forward(**inputs)  # type: ignore[misc,arg-type]
        positions = inputs["position_ids"][0, inputs["logits_to_keep"]] - self.prompt_tokens + 1
        output.logits.fill_(0.0)
        for column, position in enumerate(positions.tolist()):
            output.logits[0, column, self.script[min(max(position, 0), len(self.script) - 1)]] = 100.0
        return output


def reciting(script: list[int], prompt_tokens: int) -> Reciting:
    model = tiny_model("llama", vocabulary=len(tiny_tokenizer()))
    model.__class__ = Reciting
    assert isinstance(model, Reciting)
    model.script, model.prompt_tokens = script, prompt_tokens
    return model
