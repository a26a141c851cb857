"""Number formats: the precision that this machine computes in, base weights in 8 or 4 bits, and why others are refused.

8 bits is LLM.int8() (Dettmers et al. 2022), 4 bits is nf4 with double quantisation (QLoRA, Dettmers et al. 2023), both
by bitsandbytes. Quantised weights are frozen: adapters train on top of them, and an adapter is scored and sampled on
the weights that it was trained on, quantised the same way. Linear layers are quantised; embeddings, norms and the
output head are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import util
from typing import Any, Literal

import torch

from chatbench.core.errors import ChatbenchError
from chatbench.core.settings import Precision

Bits = Literal[8, 4]
Format = Literal["bf16", "fp16", "fp32"]


def quantised_bits(settings: Mapping[str, Any]) -> Bits | None:
    """Bits of a run's base weights, from its settings by name; None if they are not quantised."""
    if settings.get("load_in_4bit"):
        return 4
    return 8 if settings.get("load_in_8bit") else None


def refuse_unless_possible(bits: Bits, device: str, source: str) -> None:
    """Checks that weights of `source` can be quantised on `device`: CUDA GPUs and CPUs only.

    Raises:
        ChatbenchError: they cannot.
    """
    without = f"turn it off (--no-load-in-{bits}bit)"
    if not device.startswith(("cuda", "cpu")):
        raise ChatbenchError(f"load_in_{bits}bit on {device}", expected="a CUDA GPU or a CPU", fix=without)
    if source.startswith("random:"):
        raise ChatbenchError(
            f"load_in_{bits}bit with random weights", expected="weights from a folder or the hub", fix=without
        )
    if util.find_spec("bitsandbytes") is None:
        raise ChatbenchError(f"load_in_{bits}bit without bitsandbytes", fix=f"pip install bitsandbytes, or {without}")


def quantisation_config(bits: Bits, dtype: torch.dtype) -> object:
    """The configuration for transformers; `dtype` is that of products with 4-bit weights."""
    from transformers import BitsAndBytesConfig

    made: Any = BitsAndBytesConfig
    if bits == 8:
        return made(load_in_8bit=True)
    return made(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def hold_as_trained(model: torch.nn.Module) -> None:
    """Keeps bitsandbytes from rearranging 4-bit weights on a CPU when they are first used without gradients.

    That rounds the scales to bf16, so the weights would change at the first validation and differ from one
    CPU to another; it also fails for widths that are not multiples of 64.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]  # a module's attribute to mypy


def resolve_precision(wanted: Precision, device: str) -> Format:
    """The format of matrix products in training; weights and sums stay in float32.

    `auto` is bf16 if the hardware has it, else fp16 on a GPU and float32 on a CPU.

    Raises:
        ChatbenchError: the format does not work on this device.
    """
    if device.startswith("cuda"):
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        if wanted == "bf16" and not has_bf16:
            raise ChatbenchError("precision = 'bf16', which this GPU lacks", fix="use precision auto or fp16")
        return ("bf16" if has_bf16 else "fp16") if wanted == "auto" else wanted
    if wanted == "fp16":
        raise ChatbenchError(
            f"precision = 'fp16' on {device}", expected="a CUDA GPU for fp16", fix="use precision auto, bf16 or fp32"
        )
    if wanted == "auto":
        return "bf16" if device == "cpu" and cpu_has_bf16() else "fp32"
    return wanted


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 in hardware; without that, bf16 works but is slower than float32."""
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in checks if check is not None)
