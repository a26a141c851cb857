"""The tiny base's shape with random weights, and a tokenizer that knows every byte: to test the machinery with.

Random weights depend on the seed alone, not on what was drawn before, and leave the global generators untouched.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers import PreTrainedTokenizerBase as TokenizerBase

END_OF_TEXT = "<|end|>"


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
