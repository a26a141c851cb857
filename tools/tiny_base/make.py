"""Makes the base of the `tiny` recipe: `python tools/tiny_base/make.py OUT`, 45 to 75 minutes on one CPU core.

A small Llama-shaped model that can copy, look up and follow a chat, pretrained from random weights on generated text.

Its embeddings are untied and its training starts with dense copying and looking up: with either left out, a model of
this size does not learn to copy numbers in reasonable time (see docs/sample-study.md for what was measured).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, get_args

from pretraining import Document, Stage, documents

from chatbench.core.files import write_json, write_text
from chatbench.protocol import prompts
from chatbench.protocol.prompts import END

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

END_OF_TEXT = "<|end|>"
STRETCH = 50
"""Steps between checkpoints; the stages of a run are multiples of it."""
WORDS = r"\d{1,3}| ?[^\s\d]+ (?=\d)| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+"
"""How text is cut before byte-pair merging: the space before a number belongs to the word before it ("has |12| boxes").

So a number is the same single token wherever it stands, and no token stands between it and the word that it follows;
a token for the space alone would hide the word from it (docs/sample-study.md).
"""


@dataclass(frozen=True, slots=True)
class TinyBaseSettings:
    """Shape of the tiny base, and its training in six stages: copying, copying and looking up, and four of chats.

    In the first two a step reads `practice_rows` documents, one a row; later, `rows` rows of `row_tokens` packed with
    documents. In the last three most chats end in a request for the person's next message, in the last two mostly in
    the protocol's words, in the last with its end marker; each of the three starts anew with half the learning rate.
    """

    width: int = 128
    layers: int = 4
    heads: int = 4
    context: int = 1024
    vocabulary: int = 2816
    rows: int = 12
    row_tokens: int = 384
    practice_rows: int = 160
    copy_steps: int = 600
    practice_steps: int = 300
    chat_steps: int = 4500
    ask_steps: int = 2400
    prompt_steps: int = 800
    end_steps: int = 500
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    weight_decay: float = 0.01
    seed: int = 0

    @property
    def stages(self) -> dict[Stage, int]:
        """Steps of each stage, in order."""
        return {
            "copy": self.copy_steps, "practice": self.practice_steps, "chat": self.chat_steps,
            "ask": self.ask_steps, "prompt": self.prompt_steps, "end": self.end_steps,
        }  # fmt: skip

    def stage_at(self, step: int) -> tuple[Stage, float]:
        """The stage of a step and how far it has come, in 0..1."""
        for stage, steps in self.stages.items():
            if step < steps:
                return stage, step / steps
            step -= steps
        return "end", 1.0


def train_tokenizer(texts: Iterable[str], vocabulary: int, phrases: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: any text passes, every number below 1000 is one token wherever it stands.

    `phrases` (the fixed sentences of the prompts) become single tokens, which halves the length of an example.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(phrases), special_tokens=[END_OF_TEXT], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    numbers = [" ".join(str(number) for number in range(1000))] * 50
    tokenizer.train_from_iterator([*texts, *numbers], trainer)
    tokenizer.add_tokens([AddedToken(phrase, special=False, normalized=False) for phrase in phrases])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers has no types here
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )


def build_model(settings: TinyBaseSettings, vocabulary: int) -> LlamaForCausalLM:
    """The model with random weights from `settings.seed`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(settings.seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=settings.width, intermediate_size=3 * settings.width,
        num_hidden_layers=settings.layers, num_attention_heads=settings.heads, num_key_value_heads=settings.heads,
        max_position_embeddings=settings.context, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=0, pad_token_id=0, rms_norm_eps=1e-5,
    )  # fmt: skip
    return LlamaForCausalLM(config)


Row = tuple[list[int], list[float]]
"""Token ids of a row and the loss weight of each."""


def _encode(document: Document, tokenizer: PreTrainedTokenizerFast) -> Row:
    """A document's ids and weights, with the end of text, which is worth knowing, behind it."""
    encoded = tokenizer([text for text, _ in document], add_special_tokens=False)["input_ids"]
    ids = [token for piece in encoded for token in piece]
    weights = [weight for piece, (_, weight) in zip(encoded, document, strict=True) for _ in piece]
    return [*ids, 0], [*weights, 1.0]


def packed_rows(documents: Iterator[Document], tokenizer: PreTrainedTokenizerFast, row_tokens: int) -> Iterator[Row]:
    """Documents one behind the other in rows of `row_tokens`; a document may run across rows."""
    ids: list[int] = []
    weights: list[float] = []
    for document in documents:
        more_ids, more_weights = _encode(document, tokenizer)
        ids += more_ids
        weights += more_weights
        while len(ids) >= row_tokens:
            yield ids[:row_tokens], weights[:row_tokens]
            ids, weights = ids[row_tokens:], weights[row_tokens:]


def batches(
    documents: Iterator[Document], tokenizer: PreTrainedTokenizerFast, settings: TinyBaseSettings, stage: Stage
) -> Iterator[list[Row]]:
    """Batches of rows of equal length: packed in the chat stage, else one document a row, padded without weight."""
    if stage not in ("copy", "practice"):
        rows = packed_rows(documents, tokenizer, settings.row_tokens)
        while True:
            yield [next(rows) for _ in range(settings.rows)]
    while True:
        single = [_encode(next(documents), tokenizer) for _ in range(settings.practice_rows)]
        longest = max(len(ids) for ids, _ in single)
        yield [(i + [0] * (longest - len(i)), w + [0.0] * (longest - len(i))) for i, w in single]


def learning_rate_at(step: int, settings: TinyBaseSettings) -> float:
    """Linear warm-up, constant, linear decay to zero over the last third; four such cycles, three of them halved."""
    cycle = settings.copy_steps + settings.practice_steps + settings.chat_steps
    done, share = step, 1.0
    for following in (settings.ask_steps, settings.prompt_steps, settings.end_steps):
        if done >= cycle:
            done, cycle, share = done - cycle, following, 0.5
    warm = min(1.0, (done + 1) / settings.warmup_steps)
    cool = min(1.0, 3 * (cycle - done) / cycle)
    return settings.learning_rate * warm * cool * share


def pretrain(
    settings: TinyBaseSettings, tokenizer: PreTrainedTokenizerFast, folder: Path, report: Callable[[str], None]
) -> tuple[LlamaForCausalLM, float]:
    """Trains the base and returns the seconds that it took; a killed run goes on from its last checkpoint in `folder`.

    Each stretch of steps has its own seed, so a continued run sees the same text as an undisturbed one.
    """
    import torch

    model = build_model(settings, len(tokenizer))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay
    )
    checkpoint = folder / "checkpoint.pt"
    first, seconds = _restore(checkpoint, model, optimizer, settings)
    steps = sum(settings.stages.values())
    for start in range(first, steps, STRETCH):
        stage, progress = settings.stage_at(start)
        stream = batches(documents(settings.seed * 1_000_003 + start, stage, progress), tokenizer, settings, stage)
        began, total, tokens = time.monotonic(), 0.0, 0
        end = min(start + STRETCH, steps)
        for step in range(start, end):
            batch = next(stream)
            tokens += sum(len(ids) for ids, _ in batch)
            total += _step(model, optimizer, batch, learning_rate_at(step, settings))
        took = time.monotonic() - began
        seconds += took
        report(f"step {end}/{steps}  {stage}  loss {total / (end - start):.4f}  {tokens / took:,.0f} tokens/s")
        _save(checkpoint, model, optimizer, settings, Progress(end, seconds))
    return model, seconds


class Progress(NamedTuple):
    """How far a run has come: steps, and the seconds that they took."""

    step: int
    seconds: float


def _step(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, batch: list[Row], rate: float) -> float:
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
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves backward untyped
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


def _save(
    path: Path,
    model: LlamaForCausalLM,
    optimizer: torch.optim.Optimizer,
    settings: TinyBaseSettings,
    progress: Progress,
) -> None:
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": progress.step,
        "seconds": progress.seconds,
        "settings": json.dumps(asdict(settings)),
    }
    torch.save(state, part)
    part.replace(path)


def _restore(
    path: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, settings: TinyBaseSettings
) -> Progress:
    """How far the run has come: nowhere if there is no checkpoint of these settings."""
    import torch

    if not path.exists():
        return Progress(0, 0.0)
    state = torch.load(path, weights_only=True)
    if state["settings"] != json.dumps(asdict(settings)):
        return Progress(0, 0.0)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return Progress(int(state["step"]), float(state["seconds"]))


@dataclass(frozen=True, slots=True)
class Skill:
    """How a base does on fresh documents: share of the counted tokens that are its first guess, and perplexity."""

    first_guess: float
    perplexity: float


def skill(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, documents: Sequence[Document]) -> Skill:
    """The base's skill on the fully weighted tokens of `documents`, given what stands before them."""
    import torch

    right, nats, tokens = 0, 0.0, 0
    for document in documents:
        ids, weights = _encode(document, tokenizer)
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, :-1].float()
        counted = torch.tensor(weights[1:]) == 1.0
        counted[-1] = False  # the end of the text
        targets = torch.tensor(ids[1:])[counted]
        right += int((logits[counted].argmax(-1) == targets).sum())
        nats += float(torch.nn.functional.cross_entropy(logits[counted], targets, reduction="sum"))
        tokens += len(targets)
    return Skill(right / tokens, math.exp(nats / tokens))


def protocol_phrases() -> list[str]:
    """The fixed texts of the protocol's prompts, each one token of the tiny base's vocabulary."""
    head, _, tail = prompts.CONVERSATION_HEAD.replace("{separator}", prompts.SEPARATOR).partition("{conversation}")
    return [
        "[SYSTEM] " + prompts.SYSTEM.removesuffix("{question}"),
        prompts.FIRST_TURN,
        prompts.FIRST_TURN_PROBLEM,
        head,
        tail,
        prompts.NEXT_TURN.replace("{answer}", prompts.FOUR_OPTIONS),
        prompts.FORCED_ANSWER.replace("{answer}", prompts.FOUR_OPTIONS),
        "\n\n[USER] ",
        "YOU: ",
        "\n\nSYSTEM: ",
        "\n\nYOU: ",
        END,
    ]


def make_tokenizer(settings: TinyBaseSettings) -> PreTrainedTokenizerFast:
    """The tokenizer, trained on 6,000 generated documents and the words of the prompts."""
    chats = islice(documents(10**9 + settings.seed, "chat", 0.0), 6000)
    texts = ["".join(text for text, _ in document) for document in chats]
    return train_tokenizer([*texts, *(protocol_phrases() * 20)], settings.vocabulary, protocol_phrases())


def make_tiny_base(out: Path, settings: TinyBaseSettings, *, threads: int, report: Callable[[str], None]) -> None:
    """Trains the base and writes it to `out` (bfloat16 safetensors, tokenizer, settings, card).

    A killed run goes on from `out/checkpoint.pt`.
    """
    import torch

    torch.set_num_threads(threads)
    tokenizer = make_tokenizer(settings)
    model, seconds = pretrain(settings, tokenizer, out, report)
    torch.nn.Module.to(model, torch.bfloat16)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    write_json(out / "pretraining.json", asdict(settings))
    torch.nn.Module.to(model, torch.float32)  # the stored weights, in a type that scoring does not round
    unread = 2 * 10**9 + settings.seed
    scores = {s: skill(model, tokenizer, list(islice(documents(unread, s, 1.0), 200))) for s in get_args(Stage)}
    write_text(out / "README.md", card(settings, model.num_parameters(), seconds, threads, scores))


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
`python tools/tiny_base/make.py OUT`: pretrained from random weights on text that the package generates, with seeds,
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


def main() -> None:
    parser = argparse.ArgumentParser(description="Pretrains the base of the tiny recipe on generated text.")
    parser.add_argument("out", type=Path, help="folder to write; also holds the checkpoint of a run that was killed")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; the packaged base was made with one")
    options = parser.parse_args()
    make_tiny_base(options.out, TinyBaseSettings(), threads=options.threads, report=print)


if __name__ == "__main__":
    main()
