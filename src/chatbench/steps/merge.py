"""Merges a finished adapter into its base: a folder of its own, for vLLM and others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from chatbench.steps.finished_model import finished_model

if TYPE_CHECKING:
    from chatbench.publishing.merging import MergeType


def merge(model: str, out: Path, *, results: Path, split: str, dtype: MergeType = "auto") -> str:
    """Writes the merged model to `out`; gives what to print.

    Raises:
        ChatbenchError: no such adapter, or it cannot be merged; see `models.merging`.
    """
    folder = finished_model(model, results=results, split=split)
    from chatbench.publishing.merging import merge_adapter

    merged = merge_adapter(folder, out, dtype=dtype)
    return (
        f"{folder} merged -> {merged.folder}, weights in {merged.dtype}; "
        f"largest difference of a logit {merged.largest_difference:.1g}"
    )
