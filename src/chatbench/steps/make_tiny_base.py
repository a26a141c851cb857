"""Makes the base of the `tiny` recipe: tokenizer, pretraining, and an ordinary Hugging Face folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from chatbench.core.files import write_json_whole, write_text_whole
from chatbench.models.tiny_base import Skill, TinyBaseSettings, pretrain, skill, train_tokenizer
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
    """Trains the base and writes it to `out` (bfloat16 safetensors, tokenizer, settings, card).

    A killed run goes on from `out/checkpoint.pt`.
    """
    import torch

    torch.set_num_threads(threads)
    tokenizer = make_tokenizer(settings)
    model, seconds = pretrain(settings, tokenizer, _pieces, out, report)
    torch.nn.Module.to(model, torch.bfloat16)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    write_json_whole(out / "pretraining.json", asdict(settings))
    torch.nn.Module.to(model, torch.float32)  # the stored weights, in a type that scoring does not round
    scores = {stage: skill(model, tokenizer, _fresh(settings, stage)) for stage in STAGES}
    write_text_whole(out / "README.md", card(settings, model.num_parameters(), seconds, threads, scores))


def _fresh(settings: TinyBaseSettings, stage: Stage) -> list[list[tuple[str, float]]]:
    """200 documents of a stage that pretraining did not read."""
    return list(islice(_pieces(2 * 10**9 + settings.seed, stage, 1.0), 200))


def card(
    settings: TinyBaseSettings, parameters: int, seconds: float, threads: int, scores: Mapping[Stage, Skill]
) -> str:
    """The model card: what the base is, how it was made, how long it took, how it scores."""
    lines = [
        f"| {stage} | {100 * score.first_guess:.1f} % | {score.perplexity:.3f} |" for stage, score in scores.items()
    ]
    return CARD.format(
        parameters=f"{parameters:,}", layers=settings.layers, width=settings.width, context=f"{settings.context:,}",
        copy=settings.copy_steps, practice=settings.practice_steps, chat=settings.chat_steps,
        ask=settings.ask_steps, prompt=settings.prompt_steps, end=settings.end_steps,
        minutes=f"{seconds / 60:.0f}", threads=threads, scores="\n".join(lines),
    )  # fmt: skip


STAGES: tuple[Stage, ...] = ("copy", "practice", "chat", "ask", "prompt", "end")
CARD = """\
---
license: mit
library_name: transformers
tags: [chatbench, user-simulator]
---
# The tiny base of chatbench

A language model of {parameters} parameters (Llama shape, {layers} layers of width {width}, untied embeddings,
context of {context} tokens, bfloat16) that can copy, look up and follow a chat about generated word problems.
It is the base of the `tiny` recipe, for demos and tests; it knows nothing else.

## How it was made
`chatbench make-tiny-base OUT`: pretrained from random weights on text that the package generates, with seeds,
people, phrases and layouts that no study of the package shares: {copy} steps of copying, {practice} of copying
and looking up, {chat} of chats, {ask} of chats that ask for the next message, {prompt} of chats that mostly ask
for it in the protocol's words, {end} of the same with the end marker. It took {minutes} minutes on {threads} CPU
thread(s).
`pretraining.json` has every setting.

## How it scores
200 fresh documents of each kind; only what a copy repeats, what a look-up asks for, and what a person says is
counted. In chats the wording is the person's choice, so not every token can be guessed.

| documents | counted tokens that are its first guess | their perplexity |
|---|---|---|
{scores}
"""
