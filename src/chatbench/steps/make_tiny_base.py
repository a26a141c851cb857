"""Makes the base of the `tiny` recipe: tokenizer, pretraining, and an ordinary Hugging Face folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from chatbench.core.files import write_json_whole
from chatbench.models.tiny_base import TinyBaseSettings, pretrain, train_tokenizer
from chatbench.protocol import prompts
from chatbench.protocol.transcript import END
from chatbench.studies.sample.pretraining import Stage, documents

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def protocol_phrases() -> list[str]:
    """The fixed texts of the protocol's prompts, each one token of the tiny base's vocabulary."""
    head, _, tail = prompts.CONVERSATION_HEAD.replace("{separator}", prompts.SEPARATOR).partition("{conversation}")
    return [
        "[SYSTEM] " + prompts.SYSTEM.removesuffix("{question}"),
        prompts.FIRST_TURN,
        prompts.FIRST_TURN_PROBLEM,
        head,
        tail,
        prompts.NEXT_TURN,
        prompts.FORCED_ANSWER,
        "\n\n[USER] ",
        "YOU: ",
        "\n\nSYSTEM: ",
        "\n\nYOU: ",
        END,
    ]


def _pieces(seed: int, stage: Stage, progress: float) -> Iterator[list[tuple[str, float]]]:
    for document in documents(seed, stage, progress):
        yield [(segment.text, segment.weight) for segment in document]


def make_tokenizer(settings: TinyBaseSettings) -> PreTrainedTokenizerFast:
    """The tokenizer, trained on 6,000 generated documents and the words of the prompts."""
    texts = [
        "".join(text for text, _ in document) for document in islice(_pieces(10**9 + settings.seed, "chat", 0.0), 6000)
    ]
    return train_tokenizer([*texts, *(protocol_phrases() * 20)], settings.vocabulary, protocol_phrases())


def make_tiny_base(out: Path, settings: TinyBaseSettings, *, threads: int, report: Callable[[str], None]) -> None:
    """Trains the base and writes it to `out` (bfloat16 safetensors, tokenizer, settings); continues a killed run."""
    import torch

    torch.set_num_threads(threads)
    tokenizer = make_tokenizer(settings)
    model = pretrain(settings, tokenizer, _pieces, out, report)
    model.bfloat16().save_pretrained(out)
    tokenizer.save_pretrained(out)
    write_json_whole(out / "pretraining.json", asdict(settings))
