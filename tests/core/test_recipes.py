"""Recipes: what each one sets, and that what it sets suits the architecture that it names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM as AnyModel
from transformers import Gemma3TextConfig, LlamaConfig, Qwen3Config

from chatbench.cli import main
from chatbench.core.settings import recipes, resolve_settings
from chatbench.training.run import with_adapters

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def test_the_three_published_recipes_are_those_of_the_paper() -> None:
    # protocol.md section 5.
    gpt2 = resolve_settings("distilgpt2")
    assert gpt2.base == "distilbert/distilgpt2"
    assert (gpt2.settings.method, gpt2.settings.per_device_train_batch_size) == ("full", 4)
    for name, base in (("mistral-7b", "mistralai/Mistral-7B-v0.1"), ("llama3-8b", "meta-llama/Meta-Llama-3-8B")):
        resolved = resolve_settings(name)
        lora = resolved.settings
        assert resolved.base == base
        assert (lora.method, lora.lora_r, lora.lora_alpha, lora.lora_dropout) == ("lora", 8, 32, 0.05)
        assert (lora.lora_targets, lora.load_in_8bit) == (("q_proj", "v_proj"), True)
        assert lora.per_device_train_batch_size == 1
    for name in ("distilgpt2", "mistral-7b", "llama3-8b"):
        all_three = resolve_settings(name).settings
        assert (all_three.learning_rate, all_three.num_train_epochs) == (5e-5, 2.0)
        assert (all_three.precision, all_three.save_steps) == ("auto", 50)
        assert (all_three.template, all_three.load_in_4bit) == ("plain", False)


def test_every_value_of_every_recipe_says_where_it_is_from_and_none_depends_on_the_number_of_gpus() -> None:
    current = {"qwen3-1.7b", "qwen3-8b", "llama3.2-1b", "gemma3-1b", "smollm2-135m", "smollm2-360m"}
    assert set(recipes()) == {"tiny", "tiny-random", "distilgpt2", "mistral-7b", "llama3-8b"} | current
    for name, recipe in recipes().items():
        assert recipe.values.keys() == recipe.sources.keys()
        assert all(recipe.sources.values())
        if name in current:
            assert {"template", "examples_per_step", "lora_targets", "learning_rate"} <= recipe.values.keys()


@pytest.mark.parametrize(
    ("name", "made", "extra"),
    [
        ("qwen3-1.7b", Qwen3Config, {}),
        ("qwen3-8b", Qwen3Config, {}),
        ("llama3.2-1b", LlamaConfig, {}),
        ("smollm2-135m", LlamaConfig, {}),
        ("gemma3-1b", Gemma3TextConfig, {"sliding_window": 64}),
    ],
)
def test_the_adapters_of_a_recipe_reach_every_linear_layer_of_its_architecture(
    name: str, made: Any, extra: dict[str, int]
) -> None:
    # A name that the architecture lacks would go unnoticed: peft only asks that one of them is there.
    config = made(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, bos_token_id=0, eos_token_id=0, pad_token_id=0, **extra,
    )  # fmt: skip
    settings = resolve_settings(name).settings
    assert settings.lora_targets == LINEAR

    with torch.device("meta"):
        model = AnyModel.from_config(config)
        inside = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and ".layers." in n}
        adapted: Any = with_adapters(model, settings)

    reached = {n.removesuffix(".lora_A") for n, _ in adapted.named_modules() if n.endswith(".lora_A")}
    assert {n.removeprefix("base_model.model.") for n in reached} == inside


def test_the_command_lists_every_recipe_with_its_base(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(recipes())
    for recipe in recipes().values():
        (line,) = (line for line in lines if line.split()[0] == recipe.name)
        assert line.split()[1] == recipe.base
        assert line.endswith(recipe.summary)


@pytest.mark.slow
def test_the_benchmark_of_recipes_runs_on_any_machine(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "recipes_gpu.py"
    wanted = ["--tiny", "--recipe", "mistral-7b", "--packing", "conversation", "--out", str(tmp_path / "table.md")]

    subprocess.run(
        [sys.executable, script, *wanted, "--folder", str(tmp_path)], check=True, capture_output=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip

    *_, head, _line, row = (tmp_path / "table.md").read_text().splitlines()
    cells = dict(zip(head.strip("| ").split(" | "), row.strip("| ").split(" | "), strict=True))
    assert (cells["recipe"], cells["packing"]) == ("mistral-7b", "conversation")
    assert cells["weights, arithmetic"].startswith("8-bit")
    assert float(cells["tokens/s"].replace(",", "")) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["table.md"]  # the random model is gone
