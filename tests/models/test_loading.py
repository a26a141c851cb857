"""Quantised bases and adapters are loaded as they were trained, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support.tiny_models import save_tiny_model, tiny_model, tiny_tokenizer

from chatbench.core.errors import ChatbenchError
from chatbench.core.settings import Settings
from chatbench.models.loading import load, load_base
from chatbench.models.precision import Bits, refuse_unless_possible
from chatbench.training.run import with_adapters


@pytest.mark.parametrize(
    ("bits", "device", "source", "said"),
    [
        (8, "mps", "org/model", "load_in_8bit on mps"),
        (4, "mps:0", "org/model", "--no-load-in-4bit"),
        (8, "cpu", "random:tiny_base", "random weights"),
    ],
)
def test_what_cannot_be_quantised_is_refused_before_it_is_loaded(
    bits: Bits, device: str, source: str, said: str
) -> None:
    with pytest.raises(ChatbenchError, match=said):
        load_base(source, dtype=torch.float32, bits=bits, device=device)


def test_without_bitsandbytes_the_package_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatbench.models.precision.util.find_spec", lambda _name: None)

    with pytest.raises(ChatbenchError, match="pip install bitsandbytes"):
        refuse_unless_possible(8, "cuda:0", "org/model")


def adapter_without_record(folder: Path, base: Path) -> Path:
    """An adapter for a model of two layers, as other programs leave it: nothing tells which base it belongs to."""
    model: Any = with_adapters(tiny_model("llama"), Settings(method="lora"))
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    described = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(described | {"base_model_name_or_path": str(base)}))
    return folder


def test_an_adapter_on_a_base_of_another_shape_is_refused(tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "base")
    adapter = adapter_without_record(tmp_path / "adapter", base)
    assert load(str(adapter), device="cpu").weights.startswith("sha256:")
    stored = load_file(adapter / "adapter_model.safetensors")

    wider = {name: torch.cat([tensor, tensor], dim=int("lora_A" in name)) for name, tensor in stored.items()}
    save_file(wider, adapter / "adapter_model.safetensors")

    with pytest.raises(ChatbenchError, match="does not fit"):
        load(str(adapter), device="cpu")


def test_an_adapter_that_lacks_a_layer_of_the_base_is_refused(tmp_path: Path) -> None:
    # Peft only warns, and the model would be scored with half its adapter.
    adapter = adapter_without_record(tmp_path / "adapter", save_tiny_model(tmp_path / "base"))
    stored = load_file(adapter / "adapter_model.safetensors")
    save_file({n: t for n, t in stored.items() if ".layers.0." in n}, adapter / "adapter_model.safetensors")

    with pytest.raises(ChatbenchError, match="4 of its parts are missing"):
        load(str(adapter), device="cpu")


def test_an_adapter_on_another_architecture_is_refused(tmp_path: Path) -> None:
    adapter = adapter_without_record(tmp_path / "adapter", save_tiny_model(tmp_path / "base", "gpt2"))

    with pytest.raises(ChatbenchError, match="does not fit"):
        load(str(adapter), device="cpu")
