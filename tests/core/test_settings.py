"""Where a setting comes from, and which ones are refused."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from chatbench.core.errors import ChatbenchError
from chatbench.core.settings import Settings, model_key, resolve_settings, trainers_own


def overrides(tmp_path: Path, **values: object) -> Path:
    path = tmp_path / "training_args.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def test_flags_win_over_the_file_and_the_file_over_the_recipe(tmp_path: Path) -> None:
    path = overrides(tmp_path, learning_rate=1e-4, weight_decay=0.1)

    resolved = resolve_settings("distilgpt2", path, {"weight_decay": 0.2, "seed": None})

    assert (resolved.settings.learning_rate, resolved.settings.weight_decay) == (1e-4, 0.2)
    assert resolved.settings.num_train_epochs == 2
    assert resolved.origins["learning_rate"] == str(path)
    assert resolved.origins["weight_decay"] == "--weight-decay"
    assert resolved.origins["num_train_epochs"].startswith("recipe distilgpt2")
    assert resolved.origins["seed"] == "default"  # None means: not given
    assert resolved.explicit == {"learning_rate", "weight_decay"}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("learning_rat", "learning_rate"),
        ("per_device_batch_size", "per_device_train_batch_size"),
        ("lr", "learning_rate"),
        ("load_in_4bits", "load_in_4bit"),
        ("chat_template", "template"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest_known_one(tmp_path: Path, written: str, meant: str) -> None:
    with pytest.raises(ChatbenchError, match=f"did you mean '{meant}'"):
        resolve_settings("tiny", overrides(tmp_path, **{written: 1}))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("learning_rate", "high", "a number"),
        ("num_train_epochs", True, "a number"),  # bool is an int to Python
        ("max_steps", 1.5, "a whole number"),
        ("max_steps", 2**63, "a number below 2147483648"),
        ("num_train_epochs", 1e308, "a number below 1000000.0"),
        ("load_in_8bit", 1, "true or false"),
        ("load_in_4bit", "yes", "true or false"),
        ("template", "chatml", "one of 'plain' or 'chat'"),
        ("packing", True, "one of 'none', 'conversation' or 'question'"),
        ("packing", "conversations", "one of 'none', 'conversation' or 'question'"),
        ("long_examples", "cut", "one of 'leave_out' or 'drop_oldest_turns'"),
        ("examples_per_step", -1, "0 or more"),
        ("pack_tokens", -1, "0 or more"),
        ("report_to", ["tensorbord"], "one of 'tensorboard', 'wandb', 'trackio' or 'none'"),
        ("report_to", [], "a list of names"),
        ("lora_dropout", 1.0, "a number below 1"),
        ("lora_targets", [1], "a list of names"),
        ("learning_rate", -1, "above 0"),
        ("method", "fulll", "one of 'full' or 'lora'"),
        ("save_total_limit", 1, "2 or more"),
    ],
)
def test_a_value_that_is_no_value_is_refused(tmp_path: Path, name: str, value: object, expected: str) -> None:
    with pytest.raises(ChatbenchError, match=expected):
        resolve_settings("mistral-7b", overrides(tmp_path, **{name: value}))


@pytest.mark.parametrize(
    "values",
    [
        {"bf16": True, "fp16": True},
        {"bf16": True, "precision": "fp32"},
        {"max_steps": 10, "num_train_epochs": 2},
        {"lora_r": 4},  # distilgpt2 is trained whole
        {"load_in_8bit": True},
        {"load_in_4bit": True},
        {"load_in_8bit": True, "load_in_4bit": True, "method": "lora"},
        {"examples_per_step": 16, "gradient_accumulation_steps": 4},
        {"report_to": ["none", "wandb"]},
    ],
)
def test_values_that_exclude_each_other_are_refused(tmp_path: Path, values: dict[str, object]) -> None:
    with pytest.raises(ChatbenchError, match=r"choose one|use either"):
        resolve_settings("distilgpt2", overrides(tmp_path, **values))


@pytest.mark.parametrize(
    ("model", "file", "flags", "expected"),
    [
        ("tiny", {"bf16": True}, {}, {"precision": "bf16"}),
        ("tiny", {"bf16": False}, {}, {"precision": "fp32"}),
        # As the Trainer takes it; read letter by letter it would be a list of eleven.
        ("tiny", {"report_to": "tensorboard"}, {}, {"report_to": ("tensorboard",)}),
        ("tiny", {"max_steps": 5}, {"num_train_epochs": 3.0}, {"max_steps": 0, "num_train_epochs": 3.0}),
        # Refused as a contradiction, the likely mistake, no recipe could be changed but by naming what it says.
        ("mistral-7b", {"load_in_8bit": True}, {"load_in_4bit": True}, {"load_in_8bit": False, "load_in_4bit": True}),
        ("mistral-7b", {}, {"method": "full"}, {"quantised": False}),
        ("mistral-7b", {}, {"load_in_4bit": False}, {"load_in_8bit": True}),  # what is off rules nothing out
        ("qwen3-8b", {}, {"gradient_accumulation_steps": 2}, {"examples_per_step": 0}),
        ("tiny", {}, {"packing": "conversation"}, {"train_sampling_strategy": "random"}),
    ],
)
def test_later_values_replace_earlier_ones_and_those_that_they_rule_out(
    tmp_path: Path, model: str, file: dict[str, object], flags: dict[str, object], expected: dict[str, object]
) -> None:
    settings = resolve_settings(model, overrides(tmp_path, **file), flags).settings

    assert {name: getattr(settings, name) for name in expected} == expected


def test_what_is_ruled_out_and_what_is_switched_off_say_so(tmp_path: Path) -> None:
    four_bits = resolve_settings("mistral-7b", overrides(tmp_path, load_in_8bit=True), {"load_in_4bit": True})
    assert four_bits.origins["load_in_8bit"] == "default: load_in_4bit overrides the earlier value"
    assert four_bits.explicit == {"load_in_4bit"}
    unquantised = resolve_settings("mistral-7b", None, {"load_in_8bit": False})
    assert unquantised.origins["load_in_8bit"] == "--no-load-in-8bit"
    with pytest.raises(ChatbenchError, match="load_in_8bit with method 'full'"):  # not dropped silently
        resolve_settings("mistral-7b", overrides(tmp_path, load_in_8bit=True), {"method": "full"})


def test_a_broken_overrides_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "training_args.json"
    path.write_text('{\n"learning_rate": 1e-4,\n}', encoding="utf-8")

    with pytest.raises(ChatbenchError, match=r"training_args\.json, line 3"):
        resolve_settings("tiny", path)


def test_the_shipped_overrides_file_changes_nothing() -> None:
    shipped = Path(__file__).parents[2] / "configs" / "training_args.json"

    assert resolve_settings("tiny", shipped).settings == resolve_settings("tiny").settings


def test_a_hub_id_that_is_a_recipes_base_gets_that_recipe_and_others_adapters_from_a_billion_parameters_on() -> None:
    of_recipe = resolve_settings("mistralai/Mistral-7B-v0.1")
    assert (of_recipe.recipe, of_recipe.key) == ("mistral-7b", "mistralai--Mistral-7B-v0.1")
    assert resolve_settings("gpt2", parameters=124_000_000).settings.method == "full"
    assert resolve_settings("big/model", parameters=3_000_000_000).settings.method == "lora"
    assert resolve_settings("big/model", None, {"method": "full"}, parameters=3_000_000_000).settings.method == "full"
    assert resolve_settings("un/known").settings.method == "full"


def test_results_may_lie_under_any_name_that_is_no_path_but_only_a_model_can_be_trained(tmp_path: Path) -> None:
    # The name of an Ollama model is the natural one for a simulator behind an endpoint.
    assert model_key("llama3.1:8b").startswith("llama3.1_8b-")
    assert model_key("llama3.1:8b") == model_key(model_key("llama3.1:8b"))
    assert model_key("my model") != model_key("my_model")
    assert model_key("ünï") == "ünï"
    for name, key in (("mine", "mine"), ("tiny", "folder--tiny")):  # else it would share the recipe's results
        (tmp_path / name).mkdir()
        assert model_key(f"{tmp_path / name}/") == key
    for act, model, said in (
        (resolve_settings, "my model", "no such folder"),
        (model_key, "./nowhere/at/all", "no such folder"),
        (model_key, " ", "MODEL is empty"),
    ):
        with pytest.raises(ChatbenchError, match=said):
            act(model)


def test_the_hash_follows_what_is_learned_and_not_what_is_printed() -> None:
    plain = resolve_settings("tiny").hash

    assert resolve_settings("tiny", None, {"logging_steps": 1, "save_steps": 7, "report_to": ["none"]}).hash == plain
    assert resolve_settings("tiny", None, {"seed": 1}).hash != plain
    assert resolve_settings("tiny", None, {"answer_weight": 4}).hash != plain
    # That of the version before answer_weight: models trained then are still found.
    assert plain == "384f59c3fb8017b03808cbf745af034fec35719a1b2349e3f2a6ce93d4af3417"
    assert resolve_settings("tiny-random").hash != plain


def test_every_setting_is_shown_with_its_origin() -> None:
    lines = resolve_settings("tiny", None, {"seed": 7}).lines()

    assert len(lines) == 1 + len(Settings.__dataclass_fields__)
    assert any(line.split() == ["seed", "7", "--seed"] for line in lines)


def test_the_stored_settings_have_each_value_with_its_origin() -> None:
    stored = json.loads(json.dumps(resolve_settings("mistral-7b", None, {"seed": 7}).as_json()))

    assert (stored["model"], stored["recipe"], stored["base"]) == (
        "mistral-7b",
        "mistral-7b",
        "mistralai/Mistral-7B-v0.1",
    )
    assert stored["settings"].keys() == Settings.__dataclass_fields__.keys()
    assert stored["settings"]["seed"] == {"value": 7, "origin": "--seed"}
    assert stored["settings"]["lora_targets"]["value"] == ["q_proj", "v_proj"]
    assert stored["settings"]["lora_r"]["origin"] == "recipe mistral-7b: model card"
    assert stored["settings"]["weight_decay"] == {"value": 0.0, "origin": "default"}


def test_every_training_argument_is_a_setting_translated_or_refused_with_a_reason() -> None:
    from transformers import TrainingArguments

    translated = {"bf16", "fp16", "activation_checkpointing"}
    known = {field.name for field in fields(Settings)} | trainers_own().keys() | translated
    assert {field.name for field in fields(TrainingArguments)} <= known
    assert all(because for _, because in trainers_own().values())


def test_the_trainers_own_names_are_read_and_what_happens_anyway_may_be_said(tmp_path: Path) -> None:
    path = overrides(
        tmp_path, warmup_ratio=0.1, eval_strategy="no", group_by_length=True, activation_checkpointing=True,
        optim="adafactor", adam_beta2=0.95, do_train=True, save_strategy="steps", logging_dir=None, fp16=False,
    )  # fmt: skip

    settings = resolve_settings("distilgpt2", path).settings

    assert (settings.warmup_steps, settings.validation_examples) == (0.1, 0)
    assert (settings.train_sampling_strategy, settings.gradient_checkpointing) == ("group_by_length", True)
    assert (settings.optim, settings.adam_beta2, settings.precision) == ("adafactor", 0.95, "fp32")
    assert resolve_settings("tiny", overrides(tmp_path, evaluation_strategy="epoch")).settings.validation_examples > 0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"eval_strategy": "steps"}, "eval_strategy = 'steps': held-out examples are evaluated at the end"),
        ({"load_best_model_at_end": True}, "nothing is selected by held-out loss"),
        ({"output_dir": "out"}, "--results"),
        ({"deepspeed": "ds.json"}, "accelerate launch"),
        ({"warmup_ratio": 0.1, "warmup_steps": 5}, "both warmup_ratio and warmup_steps"),
        ({"warmup_ratio": 3}, "it must be a share of the steps"),
        ({"optim": "lion"}, "one of 'adamw_torch_fused'"),
    ],
)
def test_what_the_trainer_knows_and_chatbench_does_not_is_refused_with_the_reason(
    tmp_path: Path, values: dict[str, object], said: str
) -> None:
    with pytest.raises(ChatbenchError, match=said):
        resolve_settings("tiny", overrides(tmp_path, **values))
