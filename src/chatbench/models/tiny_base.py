"""The tiny base: a small Llama-shaped model that can copy, look up and follow a chat, made from nothing.

Its embeddings are untied and its training starts with dense copying and looking up: with either left out, a model of
this size does not learn to copy numbers in reasonable time (see docs/tiny-base.md for what was measured).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

END_OF_TEXT = "<|end|>"
Pieces = Sequence[tuple[str, float]]
"""A document: texts with the loss weight of their tokens."""


@dataclass(frozen=True, slots=True)
class TinyBaseSettings:
    """Shape and training of the tiny base. `practice_share` of the steps come first and see only copies and look-ups."""

    width: int = 128
    layers: int = 4
    heads: int = 4
    context: int = 1024
    vocabulary: int = 2816
    rows: int = 12
    row_tokens: int = 384
    steps: int = 9000
    practice_share: float = 0.3
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    weight_decay: float = 0.05
    seed: int = 0


def train_tokenizer(texts: Iterable[str], vocabulary: int, phrases: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: any text passes, every number below 1000 is one token wherever it stands.

    `phrases` (the fixed sentences of the prompts) become single tokens, which halves the length of an example.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\d{1,3}"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(phrases), special_tokens=[END_OF_TEXT], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    numbers = [" ".join(str(number) for number in range(1000))] * 50
    tokenizer.train_from_iterator([*texts, *numbers], trainer)
    tokenizer.add_tokens([AddedToken(phrase, special=False, normalized=False) for phrase in phrases])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT)


def build_model(settings: TinyBaseSettings, vocabulary: int) -> LlamaForCausalLM:
    """The model with random weights from `settings.seed`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(settings.seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=settings.width, intermediate_size=3 * settings.width,
        num_hidden_layers=settings.layers, num_attention_heads=settings.heads, num_key_value_heads=settings.heads,
        max_position_embeddings=settings.context, tie_word_embeddings=False, bos_token_id=None, eos_token_id=0, pad_token_id=0,
        rms_norm_eps=1e-5,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def rows_of(
    documents: Iterator[Pieces], tokenizer: PreTrainedTokenizerFast, row_tokens: int
) -> Iterator[tuple[list[int], list[float]]]:
    """Packs documents one behind the other into rows of `row_tokens` ids with weights; a document may run across rows."""
    ids: list[int] = []
    weights: list[float] = []
    for document in documents:
        encoded = tokenizer([text for text, _ in document], add_special_tokens=False)["input_ids"]
        for piece, (_, weight) in zip(encoded, document, strict=True):
            ids += piece
            weights += [weight] * len(piece)
        ids.append(0)
        weights.append(1.0)  # the end of a text is worth knowing
        while len(ids) >= row_tokens:
            yield ids[:row_tokens], weights[:row_tokens]
            ids, weights = ids[row_tokens:], weights[row_tokens:]


def learning_rate_at(step: int, settings: TinyBaseSettings) -> float:
    """Linear warm-up, then constant, then linear decay to zero over the last third."""
    warm = min(1.0, (step + 1) / settings.warmup_steps)
    cool = min(1.0, 3 * (settings.steps - step) / settings.steps)
    return settings.learning_rate * warm * cool


def pretrain(
    settings: TinyBaseSettings,
    tokenizer: PreTrainedTokenizerFast,
    documents: Callable[[int, float], Iterator[Pieces]],
    folder: Path,
    report: Callable[[str], None],
) -> LlamaForCausalLM:
    """Trains the base; a killed run goes on from its last checkpoint in `folder`.

    `documents(seed, practice)` streams documents; each stretch of 250 steps has its own seed, so a continued run sees
    the same text as an undisturbed one.
    """
    import torch

    model = build_model(settings, len(tokenizer))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay
    )
    checkpoint = folder / "checkpoint.pt"
    first = _restore(checkpoint, model, optimizer, settings)
    stretch = 250
    for start in range(first, settings.steps, stretch):
        practice = 1.0 if start < settings.practice_share * settings.steps else 0.1
        rows = rows_of(documents(settings.seed * 1_000_003 + start, practice), tokenizer, settings.row_tokens)
        began, total = time.monotonic(), 0.0
        for step in range(start, min(start + stretch, settings.steps)):
            batch = [next(rows) for _ in range(settings.rows)]
            total += _step(model, optimizer, batch, learning_rate_at(step, settings))
        rate = stretch * settings.rows * settings.row_tokens / (time.monotonic() - began)
        report(f"step {start + stretch}/{settings.steps}  loss {total / stretch:.4f}  {rate:,.0f} tokens/s  practice {practice}")
        _save(checkpoint, model, optimizer, settings, start + stretch)
    return model


def _step(
    model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, batch: list[tuple[list[int], list[float]]], rate: float
) -> float:
    import torch

    ids = torch.tensor([row for row, _ in batch])
    weights = torch.tensor([row for _, row in batch])[:, 1:]
    for group in optimizer.param_groups:
        group["lr"] = rate
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
        counted = weights > 0
        logits = model.lm_head(hidden[counted])
    losses = torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][counted], reduction="none")
    loss = (losses * weights[counted]).sum() / weights.sum()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


def _save(path: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, settings: TinyBaseSettings, step: int) -> None:
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "settings": json.dumps(asdict(settings))}
    torch.save(state, part)
    part.replace(path)


def _restore(path: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, settings: TinyBaseSettings) -> int:
    """Step to go on from: 0 where there is no checkpoint of these settings."""
    import torch

    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    if state["settings"] != json.dumps(asdict(settings)):
        return 0
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def expected_tokens(settings: TinyBaseSettings) -> int:
    """Tokens that a whole run reads."""
    return math.prod((settings.steps, settings.rows, settings.row_tokens))
