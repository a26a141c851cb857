"""Which number format this machine computes in, and why another one is refused."""

from __future__ import annotations

from typing import Literal

import torch

from chatbench.core.errors import ChatbenchError
from chatbench.core.settings import Precision

Format = Literal["bf16", "fp16", "fp32"]


def resolve_precision(wanted: Precision, device: str) -> Format:
    """The format of matrix products in training; weights and sums stay in float32.

    `auto` is bf16 where the hardware has it, else fp16 on a GPU and float32 on a processor.

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
    """Whether the processor multiplies bf16 itself; where it does not, bf16 works but is slower than float32."""
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in checks if check is not None)
