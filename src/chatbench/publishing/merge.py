"""Merge an adapter into its base as a plain model folder, for vLLM and other programs without adapter support.

The adapter's weight updates are computed in float32, added to the base weights and rounded once to the stored format.
The merged model must give the same logits as base and adapter, up to rounding, or nothing is written.

With a share below 1, the weights are interpolated between base and fine-tuned model, `base + share * update` (WiSE-FT;
Wortsman et al. 2022, arXiv 2109.01903), which keeps more of the base's abilities. This works for fully fine-tuned
models too.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import write_text
from chatbench.data.workspace import Workspace
from chatbench.models.loading import (
    Loaded,
    base_of_adapter,
    configuration,
    load,
    load_base,
    sample_without_filters,
    save_special_tokens,
    untie_where_adapted,
    weights_hash,
)
from chatbench.models.run_record import (
    LOG,
    LOSS_CURVE,
    RECORD,
    RESOLVED_SETTINGS,
    add_checksums,
    read_record,
    run_lock,
    unfinished,
    write_record,
)  # fmt: skip
from chatbench.publishing.model_card import CARD, base_name, model_card


def finished_model(model: str, *, workspace: Workspace, split: str) -> Path:
    """Return `model` if it is a finished run's or an adapter's folder, otherwise what was trained for it on `split`.

    Raises:
        ChatbenchError: there is no such model.
    """
    given = Path(model).expanduser()
    if any((given / name).is_file() for name in (RECORD, "adapter_config.json")):
        return given
    folder = workspace.model_folder(model, split)
    if not folder.is_dir():
        raise ChatbenchError(
            f"{folder}: {model} has not been fine-tuned on {split}",
            expected="a model that chatbench finetune has finished, or its folder",
            fix=f"fine-tune first: SPLIT_ID={split} chatbench finetune {model}",
        )
    return folder


MergeType = Literal["auto", "float32", "bfloat16", "float16"]

PROBE = "You are a human user interacting with an AI system. What is 6 x 7? A. 36 B. 42 C. 48 D. 67"
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Largest difference of logits, relative to the largest logit, that can be due to rounding."""


@dataclass(frozen=True, slots=True)
class Merged:
    """Result of a merge: both folders, the format of the weights, and the largest difference of a logit."""

    adapter: Path
    folder: Path
    dtype: str
    largest_difference: float

    def line(self) -> str:
        """Summary to print."""
        return (
            f"{self.adapter} merged -> {self.folder}, weights in {self.dtype}; "
            f"largest logit difference {self.largest_difference:.1g}"
        )


def merge_adapter(folder: Path, out: Path, *, dtype: MergeType = "auto", share: float = 1.0) -> Merged:
    """Merge the adapter in `folder` into its (unquantised) base and write `out` atomically.

    Args:
        dtype: format of the weights; `auto` is the format of the base.
        share: weight of the fine-tuned model in the interpolation, in 0..1; below 1, `folder` may hold a full model.

    Raises:
        ChatbenchError: a share outside 0..1, no adapter, a base other than in training or one that cannot be merged
            into, `out` is not empty, or another process is writing there.
    """
    if not 0 <= share <= 1:
        raise ChatbenchError(f"share = {share}", expected="0 (the base) to 1 (the fine-tuned model)")
    is_adapter = (folder / "adapter_config.json").is_file()
    if not is_adapter and (share == 1 or read_record(folder) is None):
        raise ChatbenchError(
            f"{folder}: no adapter",
            expected="a folder with adapter_config.json, or, with --share, a full model fine-tuned by chatbench",
            fix="a full model needs no merging",
        )
    with run_lock(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ChatbenchError(
                f"{out}: already exists and is not an empty folder", fix="choose another OUT, or remove it"
            )
        record = read_record(folder)
        stored = _stored_dtype(folder, record) if is_adapter else torch.float32
        target = stored if dtype == "auto" else cast(torch.dtype, getattr(torch, dtype))
        # To round to 16 bits only once, a base in another format is merged into in float32 first.
        held = target if target == stored else torch.float32
        loaded = load(str(folder), device="cpu", dtype=held, quantise=False, merge=False)
        if is_adapter:
            model, difference = _merged_model(loaded, target, folder, share)
        else:
            averaged: Any = _averaged(loaded.model, cast(dict[str, Any], record), share)
            model, difference = averaged.to(target), 0.0
        name = str(target).removeprefix("torch.")
        merged = {"adapter_weights": weights_hash(folder), "dtype": name, **({"share": share} if share < 1 else {})}
        extended = {**record, "merged": merged} if record else None
        _write(replace(loaded, model=model), out, folder, extended)
    return Merged(folder, out, name, difference)


def _stored_dtype(folder: Path, record: Mapping[str, Any] | None) -> torch.dtype:
    base, revision = base_of_adapter(folder, record or {})
    if base.startswith("random:"):
        return torch.float32
    described = configuration(base, revision=revision)
    if getattr(described, "quantization_config", None) is not None:
        raise ChatbenchError(
            f"{base}: its weights are stored quantised, so an adapter cannot be merged into them exactly",
            fix="fine-tune the unquantised model; load_in_8bit or load_in_4bit quantises it for training",
        )
    return described.dtype if isinstance(described.dtype, torch.dtype) else torch.float32


@torch.inference_mode()
def _merged_model(loaded: Loaded, target: torch.dtype, folder: Path, share: float) -> tuple[PreTrainedModel, float]:
    from peft.tuners.lora import LoraLayer

    ids = torch.tensor([loaded.tokenizer.encode(PROBE)])
    adapted: Any = loaded.model
    for module in adapted.modules():
        if isinstance(module, LoraLayer):
            module.scaling = {name: scaling * share for name, scaling in module.scaling.items()}
    before = adapted(input_ids=ids).logits.float()
    untie_where_adapted(adapted)
    # Not `safe_merge`, which rounds the update to 16 bits before adding it; the check below also finds NaN.
    model: Any = adapted.merge_and_unload().to(target)
    after = model(input_ids=ids).logits.float()
    difference = float((after - before).abs().max())
    if not difference <= _TOLERANCE[target] * float(before.abs().max()):  # `not <=` also catches NaN
        raise ChatbenchError(
            f"{folder}: the logits of the merged model differ by {difference:.3g}",
            expected="the same logits as base and adapter together, up to rounding",
            fix="merge with --dtype float32; if that is refused too, use the adapter as it is",
        )
    return cast(PreTrainedModel, model), difference


@torch.inference_mode()
def _averaged(tuned: PreTrainedModel, record: Mapping[str, Any], share: float) -> PreTrainedModel:
    """Interpolate all weights, in place, with those of the base.

    Raises:
        ChatbenchError: the base is not the one used in training.
    """
    revision = base_name(record).revision or None
    base = load_base(str(record["base"]), dtype=torch.float32, seed=int(record["settings"]["seed"]), revision=revision)
    if base.weights != record["base_weights"]:
        raise ChatbenchError(
            f"{record['base']}: not the base that this model was fine-tuned from",
            expected=str(record["base_weights"]),
            fix="restore the base",
        )
    of_base = dict(base.model.named_parameters())  # tied weights occur once
    for name, weight in tuned.named_parameters():
        weight.lerp_(of_base[name], 1 - share)
    return tuned


def _write(merged: Loaded, out: Path, adapter: Path, record: Mapping[str, Any] | None) -> None:
    work = unfinished(out)
    shutil.rmtree(work, ignore_errors=True)
    cast(Any, merged.model.config).use_cache = True
    sample_without_filters(merged.model)
    try:
        work.mkdir(parents=True)
        merged.model.save_pretrained(work)
        merged.tokenizer.save_pretrained(work)
        save_special_tokens(merged.tokenizer, work)
        for name in (RESOLVED_SETTINGS, LOG, LOSS_CURVE):  # the merged model comes from the same run
            if (adapter / name).is_file():
                shutil.copyfile(adapter / name, work / name)
        if record is not None:
            write_record(work, record)
            write_text(work / CARD, model_card(record, adapter=False))
        add_checksums(work, ignored=[CARD])
        if out.exists():
            out.rmdir()  # checked above to be empty
        work.rename(out)
    except (OSError, SafetensorError) as error:
        raise ChatbenchError(
            f"{out} cannot be written: {error}", fix="free up space there, or choose another OUT, and merge again"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)  # already renamed on success
