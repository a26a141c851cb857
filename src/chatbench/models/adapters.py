"""The base in the form in which it trains: whole in float32, or frozen (quantised where asked) with adapters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from transformers import PreTrainedModel, TrainingArguments, set_seed

from chatbench.core.errors import ChatbenchError
from chatbench.core.settings import Resolved, Settings
from chatbench.models.loading import Loaded, half_dtype, load_base
from chatbench.models.precision import Format
from chatbench.models.training_watch import Say


def trainable_base(resolved: Resolved, precision: Format, arguments: TrainingArguments, say: Say) -> Loaded:
    """The base in training form: whole in float32, or frozen (8-bit where asked and possible) with fresh adapters."""
    settings = resolved.settings
    on_cuda = arguments.device.type == "cuda"
    in_8bit = settings.load_in_8bit and on_cuda
    if settings.load_in_8bit and not on_cuda:
        if "load_in_8bit" in resolved.explicit:
            raise ChatbenchError("load_in_8bit without a CUDA GPU", fix="set load_in_8bit to false, or use a CUDA GPU")
        say("8-bit weights need a CUDA GPU: the base is loaded unquantised, in 4 bytes a parameter")
    dtype = half_dtype() if settings.method == "lora" and on_cuda else torch.float32
    set_seed(settings.seed)
    loaded = load_base(
        resolved.base, dtype=dtype, seed=settings.seed, in_8bit_on=str(arguments.device) if in_8bit else None
    )
    if settings.method == "lora":
        loaded = replace(loaded, model=_with_adapters(loaded.model, settings, in_8bit=in_8bit))
    cast(Any, loaded.model.config).use_cache = False
    trainable = sum(p.numel() for p in loaded.model.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in loaded.model.parameters())
    say(f"training {trainable:,} of {everything:,} parameters in {precision} on {arguments.device}")
    return loaded


def _with_adapters(model: PreTrainedModel, settings: Settings, *, in_8bit: bool) -> PreTrainedModel:
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if in_8bit:
        prepare: Any = prepare_model_for_kbit_training
        model = prepare(model, use_gradient_checkpointing=settings.gradient_checkpointing)
    elif settings.gradient_checkpointing:
        cast(Any, model).enable_input_require_grads()
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=list(settings.lora_targets) or None,
    )
    try:
        return cast(PreTrainedModel, get_peft_model(model, config))
    except ValueError as error:
        linear = sorted(
            {name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
        )
        raise ChatbenchError(
            f"lora_targets = {list(settings.lora_targets) or 'by architecture'}: {str(error).split('.')[0]}",
            expected=f"some of {', '.join(linear)}",
            fix="set lora_targets in the overrides file",
        ) from error
