"""Models from folders: what identifies them, what is refused, and bases that were quantised in training."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support.tiny_models import (
    ARCHITECTURES,
    SMALL,
    Architecture,
    other_model,
    save_tiny_model,
    tiny_model,
    tiny_tokenizer,
)

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import write_jsonl
from chatbench.core.settings import Settings
from chatbench.models.loading import (
    context_length,
    empty_model,
    known_weights,
    load,
    load_base,
    load_tokenizer,
    parameter_count,
)  # fmt: skip
from chatbench.models.loss import score_encoded
from chatbench.models.weights import Bits, make_scratch_base, resolve_precision
from chatbench.protocol.prompts import EncodedExample
from chatbench.training.run import with_adapters


def test_a_saved_folder_loads_and_says_what_it_is(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "m", "gpt2")

    loaded = load(str(folder), device="cpu")

    assert context_length(loaded.model) == 256
    assert parameter_count(str(folder)) == sum(p.numel() for p in loaded.model.parameters())
    assert loaded.weights.startswith("sha256:")
    assert loaded.tokenizer.pad_token == loaded.tokenizer.eos_token  # GPT-2 has no padding token


def test_the_context_of_a_longrope_model_ends_before_a_long_text_would_change_the_short_ones() -> None:
    rope = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [9.0] * 4}
    model = other_model("phi3", **SMALL, rope_scaling=rope, original_max_position_embeddings=64)
    short, fits, longer = (
        EncodedExample([first, *[5] * (count - 3)], [6, 7, 8]) for first, count in ((1, 60), (2, 64), (3, 70))
    )
    (alone,) = score_encoded(model, [short])

    assert context_length(model) == 64
    assert score_encoded(model, [short, fits])[0] == pytest.approx(alone, rel=1e-6)
    assert score_encoded(model, [short, longer])[0] != pytest.approx(alone, rel=1e-5)


def test_special_tokens_written_in_a_chat_are_only_text(tmp_path: Path) -> None:
    # As a special token it would end the sequence in the middle of what a person wrote.
    tokenizer = load_tokenizer(str(save_tiny_model(tmp_path / "m")))

    assert len(tokenizer.encode("<|endoftext|>")) > 1
    assert tokenizer.decode(tokenizer.encode("<|endoftext|>")) == "<|endoftext|>"


def test_the_same_weights_under_another_configuration_are_another_model(tmp_path: Path) -> None:
    # Llama and Mistral of one seed have equal tensors; the sliding window makes them two models.
    llama, mistral = (load(str(save_tiny_model(tmp_path / name, name)), device="cpu") for name in ARCHITECTURES[1:])

    assert llama.weights != mistral.weights


def test_random_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = load("random:tiny_base", seed=3, device="cpu")
    torch.rand(7)
    second, other = load("random:tiny_base", seed=3, device="cpu"), load("random:tiny_base", seed=4, device="cpu")

    weights = [next(each.model.parameters()) for each in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    torch.manual_seed(5)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("file", "renamed", "reason"),
    [
        ("tokenizer.json", "other.json", "without a tokenizer"),
        ("model.safetensors", "pytorch_model.bin", "pickle"),
        ("model.safetensors", "other", "no weights"),
        ("config.json", "other.json", "not a model folder"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused_with_what_it_lacks(
    file: str, renamed: str, reason: str, tmp_path: Path
) -> None:
    folder = save_tiny_model(tmp_path / "m")
    (folder / file).rename(folder / renamed)

    with pytest.raises(ChatbenchError, match=reason):
        load(str(folder))


def test_half_written_weights_are_refused(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "m")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for damaged in (b"", whole[:5], whole[:100], whole[:-1], whole[: len(whole) // 2], whole + b"0"):
        weights.write_bytes(damaged)
        with pytest.raises(ChatbenchError, match="incomplete or damaged"):
            load(str(folder))


MISSING = dict.fromkeys(
    ("/nowhere", "./nowhere", "~/nowhere/at/all", "bases/nope", "bases/nope/nope"), "no such folder or file"
)


@pytest.mark.parametrize(("source", "said"), [*MISSING.items(), ("nobody/has-this-model", "the hub cannot be reached")])
def test_a_mistyped_folder_is_said_to_be_missing_and_not_to_be_a_bad_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bases").mkdir()

    with pytest.raises(ChatbenchError, match=f"^{source}: {said}"):
        load(source)


@pytest.mark.parametrize(
    ("bits", "device", "source", "said"),
    [
        (8, "mps", "org/model", "load_in_8bit on mps"),
        (4, "mps:0", "org/model", "--no-load-in-4bit"),
        (8, "cpu", "random:tiny_base", "random weights"),
        (8, "cuda:0", "org/model", "pip install bitsandbytes"),
    ],
)
def test_what_cannot_be_quantised_is_refused_before_it_is_loaded(
    monkeypatch: pytest.MonkeyPatch, bits: Bits, device: str, source: str, said: str
) -> None:
    monkeypatch.setattr("chatbench.models.weights.util.find_spec", lambda _name: None)  # bitsandbytes is not there
    with pytest.raises(ChatbenchError, match=said):
        load_base(source, dtype=torch.float32, bits=bits, device=device)


def test_half_precision_that_a_processor_cannot_train_in_is_refused() -> None:
    assert resolve_precision("bf16", "cpu") == "bf16"
    assert resolve_precision("auto", "mps") == "fp32"
    with pytest.raises(ChatbenchError, match="fp16"):
        resolve_precision("fp16", "cpu")


def adapter_without_record(folder: Path, base: Path) -> Path:
    """An adapter for a model of two layers, as other programs leave it: nothing tells which base it belongs to."""
    model: Any = with_adapters(tiny_model("llama"), Settings(method="lora"))
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    described = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(described | {"base_model_name_or_path": str(base)}))
    return folder


Tensors = dict[str, torch.Tensor]


@pytest.mark.parametrize(
    ("base", "changed", "said"),
    [
        ("llama", lambda stored: {n: torch.cat([t, t], dim=int("lora_A" in n)) for n, t in stored.items()}, ""),
        ("gpt2", lambda stored: stored, ""),
        # Peft only warns, and the model would be scored with half its adapter.
        ("llama", lambda stored: {n: t for n, t in stored.items() if ".layers.0." in n}, "4 tensors are missing"),
    ],
)
def test_an_adapter_that_does_not_fit_its_base_is_refused(
    tmp_path: Path, base: Architecture, changed: Callable[[Tensors], Tensors], said: str
) -> None:
    adapter = adapter_without_record(tmp_path / "adapter", save_tiny_model(tmp_path / "base", base))
    save_file(changed(load_file(adapter / "adapter_model.safetensors")), adapter / "adapter_model.safetensors")

    with pytest.raises(ChatbenchError, match=f"does not fit .*{said}"):
        load(str(adapter), device="cpu")


def test_an_adapter_is_merged_in_float32_before_the_weights_are_rounded(tmp_path: Path) -> None:
    adapter = adapter_without_record(tmp_path / "adapter", save_tiny_model(tmp_path / "base"))
    stored = load_file(adapter / "adapter_model.safetensors")
    save_file({n: torch.full_like(t, 0.01) for n, t in stored.items()}, adapter / "adapter_model.safetensors")
    exact = dict(load(str(adapter), device="cpu").model.named_parameters())
    rounded = dict(load(str(adapter), device="cpu", dtype=torch.bfloat16).model.named_parameters())

    assert exact.keys() == rounded.keys()
    assert all(torch.equal(rounded[name], exact[name].to(torch.bfloat16)) for name in exact)


def test_an_adapter_in_place_of_a_whole_model_is_named_with_the_command_that_merges_it(tmp_path: Path) -> None:
    adapter = adapter_without_record(tmp_path / "adapter", save_tiny_model(tmp_path / "base"))

    for act in (empty_model, partial(load_base, dtype=torch.float32)):
        with pytest.raises(ChatbenchError, match="adapter: an adapter") as refused:
            act(str(adapter))
        assert f"chatbench merge {adapter} OUT" in refused.value.fix


@pytest.mark.parametrize("special", [True, False])
def test_a_token_beyond_the_embeddings_is_refused_unless_nothing_writes_it(tmp_path: Path, special: bool) -> None:
    # A model is trained with such a padding token, which no real token sees, and then can never be loaded.
    folder = save_tiny_model(tmp_path / "m")
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})  # as Gemma 3's: nothing writes it
    tokenizer.save_pretrained(folder)
    assert load(str(folder), device="cpu").tokenizer.convert_tokens_to_ids("<image>") == 320

    if special:
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
    else:
        tokenizer.add_tokens(["<pad>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ChatbenchError, match=r"token 321, '<pad>', .* beyond the 320 embeddings") as refused:
        load(str(folder), device="cpu")
    assert str(folder) in refused.value.found
    assert "resize_token_embeddings" in refused.value.fix


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "[]"),
        ("config.json", DEEP),
        ("config.json", '{"model_type": ["llama"]}'),
        ("config.json", '{"model_type": "llama", "hidden_size": -1}'),
        ("config.json", '{"model_type": "llama", "hidden_size": "wide", "vocab_size": null}'),
        ("config.json", '{"model_type": "llama", "num_hidden_layers": 1e400}'),
        ("config.json", '{"model_type": "llama", "rope_scaling": 7, "num_attention_heads": 0}'),
        ("config.json", '{"model_type": "bert"}'),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", DEEP),
        ("tokenizer.json", '{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": [["b", "c"]]}}'),
        ("tokenizer_config.json", "[1, 2]"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": 1}, "chat_template": 5}'),
        ("generation_config.json", '{"eos_token_id": {"a": 1}, "max_length": "x"}'),
        ("model.safetensors.index.json", "[]"),
        ("model.safetensors.index.json", '{"weight_map": 5}'),
        ("adapter_config.json", "[]"),
        ("adapter_config.json", '{"peft_type": "NOTHING", "base_model_name_or_path": "BASE"}'),
        ("adapter_config.json", '{"peft_type": "LORA", "base_model_name_or_path": "BASE", "r": "x"}'),
        ("adapter_config.json", '{"peft_type": "LORA", "base_model_name_or_path": "BASE", "megatron_config": {"a": 1}, '
         '"megatron_core": "os.path", "target_modules": ["q_proj"]}'),
        ("chatbench.json", "[]"),
    ],
)  # fmt: skip
def test_whatever_is_wrong_with_a_folder_is_one_error_with_its_name_or_harmless(
    tmp_path: Path, file: str, content: str
) -> None:
    folder = save_tiny_model(tmp_path / "m")
    (folder / file).write_text(content.replace("BASE", str(save_tiny_model(tmp_path / "base"))))
    harmless = file in ("generation_config.json", "tokenizer_config.json", "chatbench.json")

    said = error_of(lambda: load(str(folder), device="cpu"))

    assert str(folder) in said or (harmless and not said)
    weights = error_of(lambda: known_weights(str(folder), 0))  # reads less, so less can be wrong
    assert not weights or str(folder) in weights


def error_of(act: Callable[[], object]) -> str:
    try:
        act()
    except ChatbenchError as error:
        return str(error)
    return ""


def test_attention_code_from_the_hub_is_refused(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attn_implementation": "somebody/attention"}))

    for act in (load, empty_model):
        with pytest.raises(ChatbenchError, match="attention code from the hub: 'somebody/attention'"):
            act(str(folder))


@pytest.mark.parametrize("shape", ["gpt2", "mistral", "llama"])
def test_a_scratch_base_is_an_ordinary_folder_of_that_architecture(shape: str, tmp_path: Path) -> None:
    train = tmp_path / "train.jsonl"
    row = {"prompt": "[SYSTEM] x\n\ny\n\n[USER] ", "completion": "what is heat [END]", "question_id": "q",
           "conversation_id": "c", "kind": "first"}  # fmt: skip
    write_jsonl(train, [row] * 3)
    said = make_scratch_base(shape, tmp_path / shape, train=train, vocabulary=300, width=32, layers=1, seed=0)
    loaded = load(str(tmp_path / shape))
    assert loaded.model.config.model_type == shape
    assert f"{shape} shape" in said

    before = {each: each.read_bytes() for each in (tmp_path / shape).iterdir()}
    for other, wrong in (("gpt2", "already exists and is not an empty folder"), ("bert", "shape 'bert'")):
        with pytest.raises(ChatbenchError, match=wrong):
            make_scratch_base(other, tmp_path / shape, train=train, vocabulary=300, width=64, layers=1, seed=0)
    assert before == {each: each.read_bytes() for each in (tmp_path / shape).iterdir()}
