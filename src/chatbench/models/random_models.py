"""The tiny base's shape with random weights, and a tokenizer that knows every byte: to test the machinery with.

Random weights depend on the seed alone, not on what was drawn before, and leave the global generators untouched.

Small models with random weights in the three published architectures, with a tokenizer from given texts.

They stand in for pretrained bases where none can be had: what such a model shows after fine-tuning, it learned from the
study's chats alone.

A base for fine-tuning from nothing: random weights, and a tokenizer from a split's training side only.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers import PreTrainedTokenizerBase as TokenizerBase

from chatbench.core.errors import ChatbenchError
from chatbench.data.examples import read_examples

Shape = Literal["gpt2", "mistral", "llama"]
SHAPES: tuple[Shape, ...] = get_args(Shape)
END_OF_TEXT = "<|end|>"


def scratch_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer in GPT-2's manner, trained on `texts`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

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
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers has no types here
        tokenizer_object=backend, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )


def scratch_config(shape: Shape, vocabulary: int, *, width: int, layers: int, context: int) -> Any:
    """The configuration of a small model: heads of 32, untied embeddings, no dropout; Mistral and Llama share heads."""
    heads = width // 32
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


def write_scratch_base(
    shape: Shape,
    texts: Iterable[str],
    out: Path,
    *,
    vocabulary: int = 4000,
    width: int = 128,
    layers: int = 4,
    context: int = 1024,
    seed: int = 0,
) -> int:
    """Writes the model as an ordinary Hugging Face folder and returns its number of parameters."""
    import torch

    tokenizer = scratch_tokenizer(texts, vocabulary)
    config = scratch_config(shape, len(tokenizer), width=width, layers=layers, context=context)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]  # untyped
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return int(model.num_parameters())


def make_scratch_base(
    shape: str, out: Path, *, train: Path, vocabulary: int, width: int, layers: int, seed: int
) -> str:
    """Writes the base to `out` and says what it is.

    Raises:
        ChatbenchError: no such shape, or `train` is no file of examples.
    """
    write = write_scratch_base

    known = next((name for name in SHAPES if name == shape), None)
    if known is None:
        raise ChatbenchError(f"shape {shape!r}", expected=f"one of {', '.join(SHAPES)}")
    if width < 32 or width % 32:
        raise ChatbenchError(f"--width {width}", expected="a multiple of 32")
    texts = [row.prompt + row.completion for row in read_examples(train)]
    parameters = write(known, texts, out, vocabulary=vocabulary, width=width, layers=layers, seed=seed)
    return f"{out}: {shape} shape, {parameters:,} random parameters, tokenizer from {len(texts):,} examples"


def random_model(shape: Path | None, tokenizer: TokenizerBase, seed: int) -> PreTrainedModel:
    """A model with random weights; `shape` is a folder with a config.json, None for a default of 1 million weights."""
    config = AutoConfig.from_pretrained(str(shape)) if shape else default_shape(len(tokenizer))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]  # untyped
        return cast(PreTrainedModel, model)


def default_shape(vocabulary: int) -> LlamaConfig:
    """Llama shape, width 128, 4 layers, untied embeddings (tied ones do not learn to copy at this size)."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )


def byte_level_tokenizer() -> TokenizerBase:
    """A tokenizer of 256 bytes and one end token: any text passes, one token a byte."""
    alphabet = [END_OF_TEXT, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers has no types here
        tokenizer_object=backend, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, split_special_tokens=True
    )
