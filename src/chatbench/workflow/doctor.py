"""Report what works on this machine and what does not, and why. Downloads nothing and shows no secrets."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata, resources, util
from pathlib import Path
from typing import Literal

from chatbench.core.settings import Recipe, recipes

State = Literal["ok", "note", "no"]

GIB = 2**30
PACKAGES = ("chatbench", "torch", "transformers", "tokenizers", "peft", "accelerate", "bitsandbytes")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report: `ok`, `note` (works with a limitation) or `no` (does not work here)."""

    subject: str
    state: State
    text: str


def doctor(results: Path = Path("results")) -> list[Finding]:
    """Collect all findings: versions, device, precision, 8-bit, token, disk, then each recipe."""
    from huggingface_hub import get_token

    versions = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{name} missing")
    complete = not any(each.endswith("missing") for each in versions)
    device, memory_gib, findings = _device()
    eight_bit = _eight_bit(device)
    token = bool(os.environ.get("HF_TOKEN")) or get_token() is not None  # the latter as `hf auth login` stores it
    without = "not set: gated models (Llama, Gemma) and the full ChatBench data need it"
    existing = next(folder for folder in (results.absolute(), *results.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free / GIB
    return [
        Finding("versions", "ok" if complete else "note", ", ".join(versions)),
        *findings,
        eight_bit,
        Finding("HF_TOKEN", "ok", "set") if token else Finding("HF_TOKEN", "note", without),
        Finding("disk", "ok" if free > 5 else "note", f"{free:.0f} GiB free in {existing}"),
        *(_recipe(recipe, device, memory_gib, eight_bit, token=token) for recipe in recipes().values()),
    ]


def _device() -> tuple[str, float, list[Finding]]:
    """Name of the device, its memory in GiB, and findings about it."""
    import torch

    from chatbench.models.loading import best_device
    from chatbench.models.weights import cpu_has_bf16

    device = best_device()
    if device != "cuda":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
        precision = "bf16" if device == "cpu" and cpu_has_bf16() else "float32 (no bf16 in hardware)"
        cores = f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads"
        return device, memory, [
            Finding("device", "note", f"{device}: no CUDA GPU; {cores}"),
            Finding("memory", "ok", f"{memory:.0f} GiB"),
            Finding("precision", "ok", f"auto is {precision}; fp16 training is not available on {device}"),
        ]  # fmt: skip
    cards = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    findings = [
        Finding(f"GPU {index}", "ok", f"{card.name}, {card.total_memory / GIB:.0f} GiB")
        for index, card in enumerate(cards)
    ]
    if len(cards) > 1:
        findings.append(Finding("GPUs", "note", "to train on all GPUs: accelerate launch src/finetune.py MODEL"))
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    text = "auto is bf16" if bf16 else "auto is fp16: the card has no bf16"
    findings.append(Finding("precision", "ok" if bf16 else "note", text))
    return device, max((card.total_memory / GIB for card in cards), default=0.0), findings


def _eight_bit(device: str) -> Finding:
    if util.find_spec("bitsandbytes") is None:
        return Finding("8-bit", "no", "needs bitsandbytes: pip install bitsandbytes")
    if device == "cuda":
        return Finding("8-bit", "ok", f"bitsandbytes {metadata.version('bitsandbytes')}")
    if device == "cpu":
        return Finding("8-bit", "note", "works on a CPU, slowly")
    return Finding("8-bit", "no", "needs a CUDA GPU or a CPU: add --no-load-in-8bit")


def _recipe(recipe: Recipe, device: str, memory_gib: float, eight_bit: Finding, *, token: bool) -> Finding:
    """Check whether a recipe can be fine-tuned here, with the memory estimate of the dry run."""
    from huggingface_hub import try_to_load_from_cache

    from chatbench.training.dry_run import estimated_bytes

    subject, base = f"recipe {recipe.name}", recipe.base
    kind, _, place = base.partition(":")
    if kind == "package" and not (resources.files("chatbench") / place / "config.json").is_file():
        return Finding(subject, "no", "the tiny base is missing from this installation")
    quantised = any(recipe.values.get(name) for name in ("load_in_8bit", "load_in_4bit"))
    if quantised and eight_bit.state == "no":
        return Finding(subject, "no", f"it quantises its base, which {eight_bit.text}")
    needed = estimated_bytes(recipe, on_gpu=device == "cuda") / GIB
    if memory_gib < needed:
        digits = next((n for n in (0, 1) if round(needed, n) > round(memory_gib, n)), 2)
        sizes = f"needs about {needed:.{digits}f} GiB of memory, but the device has {memory_gib:.{digits}f}"
        return Finding(subject, "no", sizes)
    there = kind in ("package", "random") or isinstance(try_to_load_from_cache(base, "config.json"), str)
    if not there and base.startswith(("meta-llama/", "google/gemma")) and not token:
        return Finding(subject, "no", "gated: accept its licence on the hub and put HF_TOKEN into .env")
    # LoRA recipes are for models with billions of parameters, except for those in fp32, which are made for CPUs.
    large = recipe.values["method"] == "lora" and recipe.values.get("precision") != "fp32"
    slow = "; takes days on a CPU" if large and device != "cuda" else ""
    text = recipe.summary + ("" if there else "; the base is downloaded on first use") + slow
    return Finding(subject, "ok" if there and not slow else "note", text)


def print_doctor(findings: list[Finding], say: Callable[[str], None] = print) -> None:
    """Print one line per finding."""
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        say(f"{finding.state:<5} {finding.subject:<{width}}  {finding.text}")
