"""What this machine can and cannot do with chatbench, and why. Nothing is downloaded, and no secret is shown."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Literal

from chatbench.core.recipes import Recipe, recipes

State = Literal["ok", "note", "no"]

GIB = 2**30
NEEDED = {
    "tiny": 0.5, "tiny-random": 0.5, "distilgpt2": 3.0, "mistral-7b": 14.0, "llama3-8b": 18.0, "gemma3-1b": 9.0,
    "llama3.2-1b": 13.0, "qwen3-1.7b": 12.0, "qwen3-8b": 9.0,
}  # fmt: skip
"""GiB of GPU memory for fine-tuning by each recipe, unpacked; `chatbench finetune MODEL --dry-run` estimates a run."""

PACKAGES = ("chatbench", "torch", "transformers", "tokenizers", "peft", "accelerate", "bitsandbytes", "openai")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report: `ok`, `note` (works, with a difference) or `no` (does not work here)."""

    subject: str
    state: State
    text: str


def doctor(results: Path = Path("results")) -> list[Finding]:
    """All findings: versions, device, precision, 8-bit, token, disk, then each recipe."""
    device, memory_gib, findings = _device()
    eight_bit = _eight_bit(device)
    token = has_token()
    without = "not set: gated models (Llama, Gemma) and the full ChatBench data need it"
    findings += [
        eight_bit,
        Finding("HF_TOKEN", "ok", "set") if token else Finding("HF_TOKEN", "note", without),
        _disk(results),
    ]
    return [
        _versions(),
        *findings,
        *(_recipe(r, device, memory_gib, eight_bit, token=token) for r in recipes().values()),
    ]


def has_token() -> bool:
    """Whether a Hugging Face token is there, in the environment or stored by `hf auth login`."""
    if os.environ.get("HF_TOKEN"):
        return True
    from huggingface_hub import get_token

    return get_token() is not None


def _versions() -> Finding:
    shown = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            shown.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            shown.append(f"{name} missing")
    missing = any(entry.endswith("missing") for entry in shown)
    return Finding("versions", "note" if missing else "ok", ", ".join(shown))


def _device() -> tuple[str, float, list[Finding]]:
    """Device name, its memory in GiB, and what there is to say about it."""
    import torch

    from chatbench.models.loading import best_device
    from chatbench.models.precision import cpu_has_bf16

    device = best_device()
    if device == "cuda":
        return _cuda_device()
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    precision = "bf16" if device == "cpu" and cpu_has_bf16() else "float32 (no bf16 in hardware)"
    findings = [
        Finding(
            "device", "note", f"{device}: no CUDA GPU; {os.cpu_count()} processors, {torch.get_num_threads()} threads"
        ),
        Finding("memory", "ok", f"{ram:.0f} GiB"),
        Finding("precision", "ok", f"auto is {precision}; fp16 does not train on {device}"),
    ]
    return device, ram, findings


def _cuda_device() -> tuple[str, float, list[Finding]]:
    import torch

    findings, memory = [], 0.0
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        memory = max(memory, card.total_memory / GIB)
        findings.append(Finding(f"GPU {index}", "ok", f"{card.name}, {card.total_memory / GIB:.0f} GiB"))
    if len(findings) > 1:
        findings.append(Finding("GPUs", "note", "to train on all of them: accelerate launch src/finetune.py MODEL"))
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    text = "auto is bf16" if bf16 else "auto is fp16: the card has no bf16"
    findings.append(Finding("precision", "ok" if bf16 else "note", text))
    return "cuda", memory, findings


def _eight_bit(device: str) -> Finding:
    if util.find_spec("bitsandbytes") is None:
        return Finding("8-bit", "no", "needs bitsandbytes: pip install bitsandbytes")
    if device != "cuda":
        works = device == "cpu"
        text = "works on a processor, slowly" if works else "needs a CUDA GPU or a processor: add --no-load-in-8bit"
        return Finding("8-bit", "note" if works else "no", text)
    return Finding("8-bit", "ok", f"bitsandbytes {metadata.version('bitsandbytes')}")


def _disk(results: Path) -> Finding:
    existing = next(folder for folder in (results.absolute(), *results.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free / GIB
    return Finding("disk", "ok" if free > 5 else "note", f"{free:.0f} GiB free in {existing}")


def _recipe(recipe: Recipe, device: str, memory_gib: float, eight_bit: Finding, *, token: bool) -> Finding:
    subject = f"recipe {recipe.name}"
    if recipe.base.startswith("package:") and not _is_packaged(recipe.base):
        return Finding(subject, "no", "the tiny base is not in this installation")
    needed, adapted = NEEDED[recipe.name], recipe.values["method"] == "lora"
    quantised = any(recipe.values.get(name) for name in ("load_in_8bit", "load_in_4bit"))
    if quantised and eight_bit.state == "no":
        return Finding(subject, "no", f"it quantises its base, and that {eight_bit.text}")
    if adapted and device != "cuda":
        needed *= 1.5  # what is frozen and not quantised takes 4 bytes a weight in place of 2
    if memory_gib < needed:
        return Finding(subject, "no", f"needs about {needed:.0f} GiB of memory, {memory_gib:.0f} are here")
    there = _is_here(recipe.base)
    if not there and recipe.base.startswith(("meta-llama/", "google/gemma")) and not token:
        return Finding(subject, "no", "gated: accept its licence on the hub and put HF_TOKEN into .env")
    slow = "; on a processor it takes days" if adapted and device != "cuda" else ""
    text = recipe.summary + ("" if there else "; the base is downloaded at first use") + slow
    return Finding(subject, "ok" if there and not slow else "note", text)


def _is_packaged(base: str) -> bool:
    from importlib import resources

    return (resources.files("chatbench") / base.partition(":")[2] / "config.json").is_file()


def _is_here(base: str) -> bool:
    """Whether a base needs no download."""
    if base.startswith(("package:", "random:")):
        return True
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(base, "config.json"), str)


def print_doctor(findings: list[Finding], say: Callable[[str], None] = print) -> None:
    """Prints a line per finding."""
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        say(f"{finding.state:<5} {finding.subject:<{width}}  {finding.text}")
