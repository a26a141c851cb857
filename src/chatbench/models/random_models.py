"""Small models with random weights, for tests and for fine-tuning from scratch.

Random weights depend only on the seed, not on what was drawn before, and leave the global generators untouched.

`random_model` has the shape of a packaged model. `make_scratch_base` writes one of the three published
architectures, with a tokenizer from a split's training side only, for use where no pretrained base is available: what
such a model shows after fine-tuning, it learned from the study's chats alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from chatbench.core.errors import ChatbenchError
from chatbench.data.examples import read_examples

Shape = Literal["gpt2", "mistral", "llama"]
SHAPES: tuple[Shape, ...] = get_args(Shape)
END_OF_TEXT = "<|end|>"


def make_scratch_base(
    shape: str, out: Path, *, train: Path, vocabulary: int, width: int, layers: int, seed: int
) -> str:
    """Writes the base to `out`, an ordinary Hugging Face folder, and returns a description of it.

    Its tokenizer is byte-level BPE like GPT-2's, trained on the examples of `train`.

    Raises:
        ChatbenchError: no such shape or width, or `train` is not a file of examples.
    """
    if shape not in SHAPES:
        raise ChatbenchError(f"shape {shape!r}", expected=f"one of {', '.join(SHAPES)}")
    if width < 32 or width % 32:
        raise ChatbenchError(f"--width {width}", expected="a multiple of 32")
    texts = [row.prompt + row.completion for row in read_examples(train)]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT)  # type: ignore[no-untyped-call]  # untyped
    model: Any = _drawn(_scratch_config(shape, len(tokenizer), width, layers), seed)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return f"{out}: {shape} shape, {model.num_parameters():,} random parameters, tokenizer from {len(texts):,} examples"


def _scratch_config(shape: str, vocabulary: int, width: int, layers: int) -> Any:
    """Heads of 32, a context of 1,024 tokens, no dropout; in Mistral and Llama two heads share keys and values."""
    heads, context = width // 32, 1024
    # Tied embeddings do not learn to copy at this size.
    ends: dict[str, Any] = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0, "tie_word_embeddings": False}
    if shape == "gpt2":
        return GPT2Config(
            vocab_size=vocabulary, n_embd=width, n_layer=layers, n_head=heads, n_positions=context, resid_pdrop=0.0,
            embd_pdrop=0.0, attn_pdrop=0.0, **ends,
        )  # fmt: skip
    common = {
        "vocab_size": vocabulary, "hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": max(1, heads // 2), "max_position_embeddings": context,
        **ends,
    }  # fmt: skip
    return MistralConfig(**common, sliding_window=context) if shape == "mistral" else LlamaConfig(**common)


def random_model(shape: Path, seed: int) -> PreTrainedModel:
    """A model with random weights; `shape` is a folder with its config.json."""
    return _drawn(AutoConfig.from_pretrained(str(shape)), seed)


def _drawn(config: Any, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]  # untyped
        return cast(PreTrainedModel, model)
