"""Bases in 8 and 4 bits: adapters learn on them, with checkpointing and autocast too, and come back on the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support.prepared_files import sums
from tests.support.tiny_models import (
    ARCHITECTURES,
    Architecture,
    save_tiny_model,
    score_examples,
    tiny_model,
    tiny_tokenizer,
)

from chatbench.core.errors import ChatbenchError
from chatbench.core.resolved_settings import resolve_settings
from chatbench.core.settings import Settings
from chatbench.models.encoding import encode_rows
from chatbench.models.loading import load, load_base
from chatbench.models.loss import completion_nats, padded_batch
from chatbench.models.precision import Bits, refuse_unless_possible
from chatbench.training import trainer as completion_trainer
from chatbench.training.checkpoints import seal
from chatbench.training.job import TrainingJob
from chatbench.training.run import TrainingOutcome, train, with_adapters


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: save_tiny_model(folder / name, name) for name in ARCHITECTURES}


def run(base: Path, folder: Path, **flags: object) -> TrainingOutcome:
    """Six steps of LoRA, a checkpoint after every second."""
    defaults = {
        "method": "lora", "lora_dropout": 0.1, "learning_rate": 1e-2, "precision": "fp32", "save_steps": 2,
        "per_device_train_batch_size": 4, "num_train_epochs": 2.0, "logging_steps": 1,
    }  # fmt: skip
    job = TrainingJob(
        resolved=resolve_settings(str(base), None, defaults | flags), train=sums(12), validation=sums(4, 50),
        train_sha256="0" * 64, folder=folder / "split_0", logs=folder / "logs", split="split_0",
    )  # fmt: skip
    return train(job, say=lambda _line: None)


def held_out_nats(folder: Path, *, quantise: bool = True) -> float:
    loaded = load(str(folder), device="cpu", quantise=quantise)
    losses = score_examples(loaded.model, loaded.tokenizer, sums(4, 50))
    return sum(loss.nats for loss in losses) / sum(loss.tokens for loss in losses)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_adapter_learns_on_quantised_weights_and_is_scored_on_the_same(
    bases: dict[str, Path], tmp_path: Path, architecture: Architecture, bits: Bits
) -> None:
    # Scored on the unquantised base, the likely mistake, the adapter has another loss than training saw.
    outcome = run(bases[architecture], tmp_path, **{f"load_in_{bits}bit": True})
    folder = tmp_path / "split_0"

    assert outcome.last_loss < 0.95 * outcome.first_loss
    loaded = load(str(folder), device="cpu")
    kinds = {parameter.dtype for parameter in loaded.model.parameters()}
    assert kinds == {torch.float32, torch.int8 if bits == 8 else torch.uint8}
    assert loaded.weights.endswith(f"in {bits} bits")
    trained_loss = outcome.validation[-1][1]
    assert held_out_nats(folder) == pytest.approx(trained_loss, rel=1e-5)
    assert held_out_nats(folder, quantise=False) != pytest.approx(trained_loss, rel=1e-5)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_killed_run_on_quantised_weights_ends_in_the_weights_of_an_undisturbed_one(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: Bits
) -> None:
    flags = {f"load_in_{bits}bit": True, "validation_examples": 0}
    run(bases["llama"], tmp_path / "undisturbed", **flags)
    sealed: list[Path] = []

    def killing_seal(checkpoint: Path) -> None:
        sealed.append(checkpoint)
        if len(sealed) == 2:
            raise KeyboardInterrupt
        seal(checkpoint)

    with monkeypatch.context() as patched:
        patched.setattr(completion_trainer, "seal", killing_seal)
        with pytest.raises(KeyboardInterrupt):
            run(bases["llama"], tmp_path / "killed", **flags)

    assert run(bases["llama"], tmp_path / "killed", **flags).status == "resumed"
    one, other = (
        (tmp_path / name / "split_0" / "adapter_model.safetensors").read_bytes() for name in ("undisturbed", "killed")
    )
    assert one == other


def test_bf16_autocast_trains_float32_adapters_on_quantised_weights(bases: dict[str, Path], tmp_path: Path) -> None:
    outcome = run(bases["mistral"], tmp_path, load_in_4bit=True, precision="bf16", gradient_checkpointing=True)

    assert outcome.last_loss < outcome.first_loss
    stored = load_file(tmp_path / "split_0" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}


def gradients(base: Path, settings: Settings, bits: Bits | None) -> tuple[float, dict[str, torch.Tensor], int]:
    """Loss and gradients of one batch, and how many tensors the backward pass kept."""
    torch.manual_seed(0)
    model: Any = load_base(str(base), dtype=torch.float32, bits=bits).model.train()
    if settings.method == "lora":
        model = with_adapters(model, settings)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at first, which would leave lora_A without gradients
                torch.nn.init.normal_(parameter, std=0.1)
    if settings.gradient_checkpointing:
        model.activation_checkpointing_enable()
    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += 1
        return tensor

    batch = padded_batch(encode_rows(tiny_tokenizer(), sums(4), 256).examples, 0)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = completion_nats(model, batch).mean()
    loss.backward()
    learned = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return float(loss), learned, kept


@pytest.mark.parametrize(("method", "bits"), [("full", None), ("lora", None), ("lora", 8), ("lora", 4)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradient_checkpointing_changes_neither_loss_nor_gradients(
    bases: dict[str, Path], architecture: Architecture, method: str, bits: Bits | None
) -> None:
    # With frozen embeddings and a reentrant checkpoint, the likely mistake, no gradient would arrive at all.
    plain, checkpointed = (
        gradients(bases[architecture], Settings(method=method, lora_dropout=0.0, gradient_checkpointing=on), bits)  # type: ignore[arg-type]
        for on in (False, True)
    )

    assert checkpointed[0] == plain[0]
    assert checkpointed[1].keys() == plain[1].keys() != set()
    for name, gradient in plain[1].items():
        assert torch.allclose(checkpointed[1][name], gradient, rtol=1e-5, atol=1e-7), name
        assert gradient.abs().max() > 0, name
    assert checkpointed[2] < plain[2] / 2  # else it was not on


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
