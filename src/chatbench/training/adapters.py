"""The base in the form in which it trains: whole in float32, or frozen (quantised where asked) with adapters.

A frozen base is held in 16 bits on a GPU and in float32 on a processor, whatever is quantised in 8 or 4. Adapters are
float32. Peft's `prepare_model_for_kbit_training` is not used: it would hold the output head and the embeddings in
float32 (2 GB more for Llama 3 8B), and the model would then be scored in another form than it was trained in.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, cast

import torch
from transformers import PreTrainedModel, TrainingArguments, set_seed

from chatbench.core.errors import ChatbenchError
from chatbench.core.resolved_settings import Resolved
from chatbench.core.settings import Settings
from chatbench.models.loading import Loaded, empty_model, half_dtype, load_base
from chatbench.models.precision import Format
from chatbench.models.quantisation import quantised_bits
from chatbench.training.device_limits import device_memory
from chatbench.training.memory_advice import refuse_if_too_small
from chatbench.training.model_shape import model_shape
from chatbench.training.processes import fsdp_asked
from chatbench.training.watch import Say


def trainable_base(resolved: Resolved, precision: Format, arguments: TrainingArguments, say: Say) -> Loaded:
    """The base in training form: whole in float32, or frozen with fresh adapters on it.

    Raises:
        ChatbenchError: no such model, more than the device can hold, weights that cannot be quantised here, or adapters
            for modules that it has not.
    """
    settings = resolved.settings
    bits = quantised_bits(asdict(settings))
    on_cuda = arguments.device.type == "cuda"
    if not fsdp_asked():  # a shard may fit where the whole does not
        shape = model_shape(empty_model(resolved.base), settings)
        room = device_memory(str(arguments.device))
        refuse_if_too_small(shape, settings, room, precision=precision, on_gpu=on_cuda)
    dtype = half_dtype() if settings.method == "lora" and on_cuda else torch.float32
    set_seed(settings.seed)
    loaded = load_base(resolved.base, dtype=dtype, seed=settings.seed, bits=bits, device=str(arguments.device))
    if settings.method == "lora":
        loaded = replace(loaded, model=with_adapters(loaded.model, settings))
    cast(Any, loaded.model.config).use_cache = False
    trainable, everything = _parameters(loaded.model)
    held = f", the base in {bits} bits" if bits else ""
    say(f"training {trainable:,} of {everything:,} parameters in {precision} on {arguments.device}{held}")
    return loaded


def with_adapters(model: PreTrainedModel, settings: Settings) -> PreTrainedModel:
    """The model, frozen, with fresh float32 adapters on the modules that the settings name.

    Raises:
        ChatbenchError: it has no such modules.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=list(settings.lora_targets) or None,
    )
    if settings.gradient_checkpointing:
        cast(Any, model).enable_input_require_grads()  # else nothing that is frozen is worth computing again
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


def _parameters(model: PreTrainedModel) -> tuple[int, int]:
    """How many parameters learn, and how many there are; two 4-bit weights that share a byte are two."""
    count: Any = getattr(model, "get_nb_trainable_parameters", None)
    if count is not None:
        trainable, everything = count()
        return int(trainable), int(everything)
    numbers = [(parameter.requires_grad, parameter.numel()) for parameter in model.parameters()]
    return sum(number for learns, number in numbers if learns), sum(number for _, number in numbers)
