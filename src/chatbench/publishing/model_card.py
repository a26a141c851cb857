"""The README.md of a fine-tuned folder: what it was made of, how good it is, and how to load it again.

A card is made of the run's record (`chatbench.json`) alone. It holds no path of the machine that trained. Names that
others chose (a folder, a study) stand as code, where Markdown and HTML mean nothing. A person may edit a card: later
changes touch one marked section or one line of it, and nothing where these are gone.

Its Python loads the model and lets it say a first turn, and needs nothing of chatbench, except where the base comes
with chatbench. The folder stands alone on a line, so that publishing can put the hub id in its place; a test runs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

from chatbench.core.files import write_text
from chatbench.metrics.perplexity import Perplexity
from chatbench.protocol.plain_text import END, prompt_text
from chatbench.protocol.prompts import simulator_messages

Kind = Literal["hub", "chatbench", "folder"]


@dataclass(frozen=True, slots=True)
class BaseName:
    """`name` is fit to be published; `revision` is a hub commit, empty where it is unknown or means nothing.

    `chatbench` bases (`package:NAME`, `random:NAME`) come with this package; a `folder` is known to one machine only.
    """

    kind: Kind
    name: str
    revision: str = ""


def base_name(record: Mapping[str, Any]) -> BaseName:
    """The base that a run's record names.

    >>> base_name({"base": "org/model", "base_weights": "org/model@5c1e"})
    BaseName(kind='hub', name='org/model', revision='5c1e')
    >>> base_name({"base": "/home/me/bases/small", "base_weights": "sha256:00"}).name
    'small'
    """
    base, weights = str(record["base"]), str(record.get("base_weights", ""))
    if base.startswith(("package:", "random:")):
        return BaseName("chatbench", base)
    if is_local_path(base):
        return BaseName("folder", last_name(base))
    revision = weights.partition("@")[2]
    return BaseName("hub", base, "" if revision == "unknown" else revision)


def is_local_path(text: str) -> bool:
    """Whether a text can only be a path of somebody's machine.

    >>> [is_local_path(text) for text in ("/data/x", "~/x", "../x", "C:\\\\x", "org/model", "tiny")]
    [True, True, True, True, False, False]
    """
    return (
        PurePosixPath(text).is_absolute()
        or PureWindowsPath(text).is_absolute()
        or text.startswith(("~", "./", "../", ".\\", "..\\"))
    )


def last_name(path: str) -> str:
    """The last part of a path, whichever system it is of."""
    return PurePosixPath(PureWindowsPath(path).as_posix()).name or "folder"


FOLDER_LINE = 'folder = "."  # the folder of this file; from elsewhere, the path to it'

_QUANTISED = {
    "load_in_8bit": "BitsAndBytesConfig(load_in_8bit=True)",
    "load_in_4bit": (
        'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, '
        'bnb_4bit_compute_dtype="bfloat16")'
    ),
}
"""The base as it was held while the adapter was trained, by setting."""

QUESTION = "What is 6 x 7?\nA. 36\nB. 42\nC. 48\nD. 67"
"""The question of the example."""


def reload_snippet(record: Mapping[str, Any], *, adapter: bool) -> str:
    """Python for a model folder with this record; `adapter` says whether it holds an adapter only."""
    chat = record["settings"].get("template") == "chat"
    turn = _first_turn(record["chat_template"] if chat else None)
    return "\n".join([*_loading(record, adapter), "", *turn]) + "\n"


def with_folder(text: str, repo_id: str, revision: str = "main") -> str:
    """A card whose example loads from the hub in place of its own folder; as it was where the line was edited."""
    lines = [f"folder = {repo_id!r}"]
    if revision != "main":
        lines = [
            "from huggingface_hub import snapshot_download",
            f"folder = snapshot_download({repo_id!r}, revision={revision!r})",
        ]
    return text.replace(FOLDER_LINE, "\n".join(lines))


def _loading(record: Mapping[str, Any], adapter: bool) -> list[str]:
    tokenizer = "tokenizer = AutoTokenizer.from_pretrained(folder)"
    base = base_name(record)
    quantised = next((made for name, made in _QUANTISED.items() if record["settings"].get(name)), None)
    option = f", quantization_config={quantised}" if quantised else ""
    names = "AutoModelForCausalLM, AutoTokenizer" + (", BitsAndBytesConfig" if quantised else "")
    if not adapter:
        return [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            FOLDER_LINE,
            tokenizer,
            "model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)",
        ]
    if base.kind == "chatbench":
        return [
            f"from chatbench.models.loading import load  # the base, {base.name}, comes with chatbench",
            "",
            FOLDER_LINE,
            "loaded = load(folder)",
            "tokenizer, model = loaded.tokenizer, loaded.model",
        ]
    if base.kind == "folder":
        return [
            "from peft import AutoPeftModelForCausalLM",
            f"from transformers import {names.removeprefix('AutoModelForCausalLM, ')}",
            "",
            FOLDER_LINE,
            tokenizer,
            "# The base is a folder of the machine that trained; adapter_config.json says where it lies.",
            f"model = AutoPeftModelForCausalLM.from_pretrained(folder, use_safetensors=True{option})",
        ]
    option += f", revision={base.revision!r}" if base.revision else ""
    return [
        "from peft import PeftModel",
        f"from transformers import {names}",
        "",
        FOLDER_LINE,
        tokenizer,
        f"base = AutoModelForCausalLM.from_pretrained({base.name!r}, use_safetensors=True{option})",
        "model = PeftModel.from_pretrained(base, folder)",
    ]


def _first_turn(use: Mapping[str, Any] | None) -> list[str]:
    """`use` is how chatbench applies this tokenizer's chat template (the record's `chat_template`), None for none."""
    system, user = simulator_messages(QUESTION, ())
    said = 'said = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)'
    if use is None:
        inputs = [
            f"prompt = {prompt_text([system, user])!r}",
            'inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False).to(model.device)',
        ]
        stop = f"stop_strings=[{END.strip()!r}], tokenizer=tokenizer"
        turn = f"said.partition({END.strip()!r})[0].strip()"
    else:
        rows = [system.as_dict(), user.as_dict()]
        if use["merges_system"]:
            rows = [{"role": "user", "content": f"{system.content}\n\n{user.content}"}]
        options = "".join(f", {name}={value!r}" for name, value in use["options"].items())
        inputs = [
            "messages = [",
            *(f"    {row!r}," for row in rows),
            "]",
            "inputs = tokenizer.apply_chat_template(",
            f'    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"{options}',
            ").to(model.device)",
        ]
        stop = f"eos_token_id=tokenizer.convert_tokens_to_ids({use['end']!r})"
        turn = "said.strip()"
    sampling = "    **inputs, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=200,"
    return [*inputs, "output = model.generate(", sampling, f"    {stop},", ")", said, f"print({turn})"]


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
    from huggingface_hub import ModelCardData  # late: takes a second

    base, settings = base_name(record), record["settings"]
    chat = settings.get("template") == "chat"
    comes = {"hub": "", "chatbench": " (comes with chatbench)", "folder": " (a folder of the machine that trained)"}
    revision = f" at revision {code(base.revision)}" if base.revision else ""
    dataset = record.get("data", {}).get("hub_dataset")
    # No licence: that of the base is not known here, and the hub shows what is missing.
    metadata = ModelCardData(
        base_model=base.name if base.kind == "hub" else None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["chatbench", "user-simulator", *(["lora"] if adapter else [])],
        datasets=[dataset] if dataset else None,
    ).to_yaml()
    return _CARD.format(
        metadata=metadata,
        title=", ".join(code(text) for text in (_public(str(record["model"])), record.get("split", "")) if text),
        base=f"{code(base.name)}{revision}{comes[base.kind]}",
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
    """Writes held-out perplexities into a folder's card, in one step; False where it has no place for them."""
    path = folder / CARD
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    before, begin, rest = old.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        return False
    lines = [
        "| turns | examples | scored tokens | perplexity per token | of the base | bits per byte | of the base |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {each.turns} | {each.tuned.examples:,} | {each.tuned.tokens:,} | {each.tuned.perplexity:.3f} "
            f"| {each.base.perplexity:.3f} | {each.tuned.bits_per_byte:.4f} | {each.base.bits_per_byte:.4f} |"
            for each in measured
        ),
        "",
        "Values per token compare only between models of one tokenizer.",
    ]
    new = "\n".join([before + begin, *lines, end + after])
    if new != old:
        write_text(path, new)
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


def _setting_rows(record: Mapping[str, Any]) -> Iterator[str]:
    for name, value in record["settings"].items():
        origin = str(record.get("origins", {})[name])
        if origin.startswith("recipe "):
            set_by = code(origin)
        elif origin.startswith("--"):
            set_by = "command line"
        else:  # without the name of a file of somebody's machine
            set_by = "default" if origin.startswith("default") else "overrides file"
        shown = ", ".join(map(str, value)) or "by architecture" if isinstance(value, list | tuple) else str(value)
        # A bar divides cells even inside code.
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in (name, code(shown), set_by)) + " |"


def _public(name: str) -> str:
    return last_name(name) if is_local_path(name) else name
