"""Base weights in 8 or 4 bits, by bitsandbytes: what a run asks for, and where it works.

8 bits is LLM.int8() (Dettmers et al. 2022), 4 bits is nf4 with double quantisation (QLoRA, Dettmers et al. 2023).
Quantised weights are frozen: adapters learn on top of them, and an adapter is scored and sampled on the weights that it
was trained on, quantised the same way. Linear layers are quantised; embeddings, norms and the output head are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import util
from typing import Any, Literal

import torch

from chatbench.core.errors import ChatbenchError

Bits = Literal[8, 4]


def quantised_bits(settings: Mapping[str, Any]) -> Bits | None:
    """Bits of a run's base weights, from its settings by name; None where they are not quantised."""
    if settings.get("load_in_4bit"):
        return 4
    return 8 if settings.get("load_in_8bit") else None


def refuse_unless_possible(bits: Bits, device: str, source: str) -> None:
    """Checks that weights of `source` can be quantised on `device`: CUDA GPUs and processors can, nothing else here.

    Raises:
        ChatbenchError: they cannot.
    """
    without = f"leave it out (--no-load-in-{bits}bit)"
    if not device.startswith(("cuda", "cpu")):
        raise ChatbenchError(f"load_in_{bits}bit on {device}", expected="a CUDA GPU or a processor", fix=without)
    if source.startswith("random:"):
        raise ChatbenchError(
            f"load_in_{bits}bit with random weights", expected="weights that lie in a folder or on the hub", fix=without
        )
    if util.find_spec("bitsandbytes") is None:
        raise ChatbenchError(f"load_in_{bits}bit without bitsandbytes", fix=f"pip install bitsandbytes, or {without}")


def quantisation_config(bits: Bits, dtype: torch.dtype) -> object:
    """What transformers is told; `dtype` is that of the products of 4-bit weights."""
    from transformers import BitsAndBytesConfig

    made: Any = BitsAndBytesConfig
    if bits == 8:
        return made(load_in_8bit=True)
    return made(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def hold_as_trained(model: torch.nn.Module) -> None:
    """Keeps bitsandbytes from rearranging 4-bit weights on a processor when they are first used without gradients.

    Its arrangement rounds the scales to bf16, so the weights would be others from the first validation on, and others
    on another processor; and it fails where a width is no multiple of 64.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]  # a module's attribute to mypy
