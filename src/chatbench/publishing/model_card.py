"""The README.md of a fine-tuned folder: what it was made of, how good it is, and how to load it again.

A card is made of the run's record (`chatbench.json`) alone. It holds no path of the machine that trained. Names that
others chose (a folder, a study) stand as code, where Markdown and HTML mean nothing. A person may edit a card: later
changes touch one marked section or one line of it, and nothing where these are gone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatbench.core.files import write_text_whole
from chatbench.measures.perplexity import Perplexity
from chatbench.publishing.base_names import BaseName, base_name, is_local_path, last_name
from chatbench.publishing.reload_snippet import reload_snippet

CARD = "README.md"

_BEGIN, _END = "<!-- held-out perplexity -->", "<!-- end of held-out perplexity -->"

_CARD = """\
---
{metadata}
---
# User simulator {title}

{base}, fine-tuned ({method}) to write what a person writes to an AI assistant while solving a multiple-choice question:
the first message, each message after a reply, and in the end the answer.
It only works with the prompts of the ChatBench protocol, {form}.
{notes}
## Load it again
```python
{snippet}```
In chatbench, the folder belongs at {place}; then `chatbench simulate` and `chatbench eval-ppl` find it.

## Data
{data}

## Training
{training}

| setting | value | set by |
|---|---|---|
{settings}

## Held-out perplexity
{perplexity}

## Use and limits
For research on how people use AI assistants: a stand-in for people like those of the study, on questions like its
questions. It imitates their mistakes too, and knows nothing of other people, tasks or languages. Do not pass its text
off as a person's, and do not judge a person by it.

## Licence
No licence is stated here. That of the base ({base}) goes with every model that is made from it, and the study's
conditions apply to what was learned from it: look at both before passing this model on.
"""


def model_card(record: Mapping[str, Any], *, adapter: bool) -> str:
    """The card in Markdown, with the metadata header that the hub reads.

    Args:
        record: content of the folder's `chatbench.json`.
        adapter: whether the folder holds an adapter, not a whole model.
    """
    base, settings = base_name(record), record["settings"]
    chat = settings.get("template") == "chat"
    return _CARD.format(
        metadata=_metadata(record, base, adapter),
        title=", ".join(code(text) for text in (_public(str(record["model"])), record.get("split", "")) if text),
        base=_described(base),
        method="a LoRA adapter" if settings["method"] == "lora" else "all weights",
        form="through its chat template" if chat else r"in their plain-text form (`[SYSTEM] ... [USER] ... [END]`)",
        notes="".join(f"\n{note}\n" for note in _notes(record, adapter)),
        snippet=reload_snippet(record, adapter=adapter),
        place=code(f"results/models/NAME/{record.get('split', 'split_0')}"),
        data=_data(record),
        training=_training(record),
        settings="\n".join(_setting_rows(record)),
        perplexity=f"{_BEGIN}\nNot measured yet; `chatbench eval-ppl` measures it and writes it here.\n{_END}",
    )


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Perplexity of a kind of held-out turns: of the model, and of its base before fine-tuning."""

    turns: str
    tuned: Perplexity
    base: Perplexity


def update_card(folder: Path, measured: Sequence[HeldOut]) -> bool:
    """Writes held-out perplexities into a folder's card, whole or not at all; False where it has no place for them."""
    path = folder / CARD
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    before, begin, rest = old.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        return False
    new = f"{before}{begin}\n{_perplexity_table(measured)}\n{end}{after}"
    if new != old:
        write_text_whole(path, new)
    return True


def code(text: str) -> str:
    """Text as Markdown code, which shows what it says and means nothing.

    >>> code("a`b") + " " + code("two" + chr(10) + "lines")
    '``a`b`` `two lines`'
    """
    flat = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in " ".join(text.split()))
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", flat)), default=0))
    pad = " " if not flat or flat.startswith("`") or flat.endswith("`") else ""
    return f"{ticks}{pad}{flat}{pad}{ticks}"


def _metadata(record: Mapping[str, Any], base: BaseName, adapter: bool) -> str:
    from huggingface_hub import ModelCardData  # late: takes a second

    # No licence: that of the base is not known here, and the hub shows what is missing.
    dataset = record.get("data", {}).get("hub_dataset")
    return ModelCardData(
        base_model=base.name if base.kind == "hub" else None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["chatbench", "user-simulator", *(["lora"] if adapter else [])],
        datasets=[dataset] if dataset else None,
    ).to_yaml()


def _described(base: BaseName) -> str:
    comes = {"hub": "", "chatbench": " (comes with chatbench)", "folder": " (a folder of the machine that trained)"}
    revision = f" at revision {code(base.revision)}" if base.revision else ""
    return f"{code(base.name)}{revision}{comes[base.kind]}"


def _notes(record: Mapping[str, Any], adapter: bool) -> list[str]:
    settings, merged = record["settings"], record.get("merged")
    bits = "8-bit" if settings.get("load_in_8bit") else "4-bit" if settings.get("load_in_4bit") else ""
    notes = []
    if merged:
        notes.append(f"The adapter is merged into the base's weights, which are stored in {code(merged['dtype'])}.")
    trained = f"The adapter was trained on a base held in {bits} weights."
    if bits and merged:
        notes.append(f"{trained} Here the base is unquantised, so this model differs a little from adapter and base.")
    elif bits and adapter:
        notes.append(f"{trained} The lines below load it so again; on the unquantised base the model differs a little.")
    return notes


def _data(record: Mapping[str, Any]) -> str:
    data = record.get("data")
    lines = [f"- Split {code(str(record.get('split', 'unknown')))}; people's conversations, cut into examples"]
    if data:
        source = (
            f", downloaded from {code(data['hub_dataset'])} at {code(data['revision'])}" if data["hub_dataset"] else ""
        )
        lines += [
            f"- Study {code(data['study'])}{source}",
            f"- Questions: {data['train_questions']:,} for training, {data['held_out_questions']:,} held out",
            f"- SHA-256 of the set of questions {code(data['questions_sha256'])}",
        ]
    if "examples" in record:
        left_out = record.get("outcome", {}).get("examples_left_out", 0)
        too_long = f", of which {left_out:,} are longer than the context and were left out" if left_out else ""
        lines.append(f"- Training examples: {record['examples']:,}{too_long}")
    lines.append(f"- SHA-256 of the training file {code(record['train_sha256'])}")
    return "\n".join(lines)


def _training(record: Mapping[str, Any]) -> str:
    outcome = record.get("outcome", {})
    recipe = f"Recipe {code(record['recipe'])}" if record.get("recipe") else "No recipe"
    lines = [
        f"- {recipe}; base weights {code(_public(str(record['base_weights'])))}",
        f"- {record.get('processes', 1)} process(es), arithmetic in {code(str(record.get('precision')))}",
    ]
    if "steps" in outcome:
        lines.append(
            f"- {outcome['steps']:,} steps; training loss {outcome['first_loss']:.4f} at first, "
            f"{outcome['last_loss']:.4f} at last, in nats per scored token (`trainer_log.jsonl`, `loss_curve.png`)"
        )
    versions = ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
    lines.append(
        f"- Made with {code(versions)}; everything above is in `chatbench.json` and `resolved_settings.json` too"
    )
    return "\n".join(lines)


def _setting_rows(record: Mapping[str, Any]) -> list[str]:
    origins = record.get("origins", {})
    rows = [(name, code(_shown(value)), _origin(str(origins[name]))) for name, value in record["settings"].items()]
    # A bar divides cells even inside code.
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) or "by architecture" if isinstance(value, list | tuple) else str(value)


def _origin(origin: str) -> str:
    """Who set a value, without the name of a file of somebody's machine."""
    if origin.startswith("recipe "):
        return code(origin)
    if origin.startswith("--"):
        return "command line"
    return "default" if origin.startswith("default") else "overrides file"


def _public(name: str) -> str:
    return last_name(name) if is_local_path(name) else name


def _perplexity_table(measured: Sequence[HeldOut]) -> str:
    rows = [
        f"| {each.turns} | {each.tuned.examples:,} | {each.tuned.tokens:,} | {each.tuned.perplexity:.3f} "
        f"| {each.base.perplexity:.3f} | {each.tuned.bits_per_byte:.4f} | {each.base.bits_per_byte:.4f} |"
        for each in measured
    ]
    return "\n".join(
        [
            "| turns | examples | scored tokens | perplexity per token | of the base | bits per byte | of the base |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            "Values per token compare only between models of one tokenizer.",
        ]
    )
