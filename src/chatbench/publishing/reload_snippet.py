"""The Python text of a model card that loads the model and lets it say a first turn; a test runs it.

It needs nothing of chatbench, except where the base comes with chatbench. The folder stands alone on a line of its own,
so that publishing can put the hub id in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chatbench.protocol.prompts import simulator_messages
from chatbench.protocol.transcript import END, prompt_text
from chatbench.publishing.base_names import base_name

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
    return (
        "\n".join([*_loading(record, adapter), "", *(_chat_turn(record["chat_template"]) if chat else _plain_turn())])
        + "\n"
    )


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


def _plain_turn() -> list[str]:
    prompt = prompt_text(simulator_messages(QUESTION, ()))
    return [
        f"prompt = {prompt!r}",
        'inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False).to(model.device)',
        "output = model.generate(",
        "    **inputs, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=200,",
        f"    stop_strings=[{END.strip()!r}], tokenizer=tokenizer,",
        ")",
        'said = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)',
        f"print(said.partition({END.strip()!r})[0].strip())",
    ]


def _chat_turn(use: Mapping[str, Any]) -> list[str]:
    """`use` as `training_result` writes it down: how chatbench applies this tokenizer's template."""
    system, user = simulator_messages(QUESTION, ())
    rows = [system.as_dict(), user.as_dict()]
    if use["merges_system"]:
        rows = [{"role": "user", "content": f"{system.content}\n\n{user.content}"}]
    options = "".join(f", {name}={value!r}" for name, value in use["options"].items())
    return [
        "messages = [",
        *(f"    {row!r}," for row in rows),
        "]",
        "inputs = tokenizer.apply_chat_template(",
        f'    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"{options}',
        ").to(model.device)",
        "output = model.generate(",
        "    **inputs, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=200,",
        f"    eos_token_id=tokenizer.convert_tokens_to_ids({use['end']!r}),",
        ")",
        'said = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)',
        "print(said.strip())",
    ]
