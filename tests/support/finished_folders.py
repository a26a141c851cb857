"""Model folders as a finished run leaves them, without training: adapters with random weights, and their records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from chatbench.core.files import write_text
from chatbench.core.settings import resolve_settings
from chatbench.models.loading import weights_hash
from chatbench.models.run_record import record_of, write_record
from chatbench.publishing.model_card import CARD, model_card

DATA = {
    "study": "sums", "questions_sha256": "1" * 64, "train_questions": 12, "held_out_questions": 4,
    "hub_dataset": "", "revision": "",
}  # fmt: skip


def run_record(base: Path, **flags: object) -> dict[str, Any]:
    """The record of a run on a base folder, as training writes it."""
    record = record_of(
        resolve_settings(str(base), None, flags),
        {"base_weights": weights_hash(base), "tokenizer": "sha256:0", "text_form": "plain text"},
        train_sha256="0" * 64,
        precision="fp32",
        processes=1,
    )
    outcome = {"steps": 6, "first_loss": 6.0, "last_loss": 5.5, "validation": [], "trained_tokens": 99}
    return {**record, "split": "split_0", "examples": 12, "data": DATA, "outcome": outcome}


def save_adapter(folder: Path, base: Path, targets: list[str], **flags: object) -> Path:
    """An adapter on a base folder, with weights far from zero, its record and its card; gives the folder back."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=targets))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    record = run_record(base, method="lora", lora_targets=targets, **flags)
    write_text(folder / CARD, model_card(record, adapter=True))
    write_record(folder, record)
    return folder
