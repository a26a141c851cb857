"""Small models with random weights in the three published architectures, with a tokenizer from given texts.

They stand in for pretrained bases where none can be had: what such a model shows after fine-tuning, it learned from the
study's chats alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, PreTrainedTokenizerFast

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


def make_scratch_base(
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
