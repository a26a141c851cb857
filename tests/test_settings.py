"""Where a setting comes from, and which ones are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatbench.core.errors import ChatbenchError
from chatbench.core.settings import Settings, model_key, recipe_of, recipes, resolve_settings


def overrides(tmp_path: Path, **values: object) -> Path:
    path = tmp_path / "training_args.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


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


def test_every_value_of_every_recipe_says_where_it_is_from() -> None:
    assert set(recipes()) == {"tiny", "tiny-random", "distilgpt2", "mistral-7b", "llama3-8b"}
    for recipe in recipes().values():
        assert recipe.values.keys() == recipe.sources.keys()
        assert all(recipe.sources.values())


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
        ("group_by_length", "train_sampling_strategy"),
        ("lr", "learning_rate"),
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
        ("load_in_8bit", 1, "true or false"),
        ("lora_targets", [1], "a list of names"),
        ("learning_rate", -1, "above 0"),
        ("method", "fulll", "one of full, lora"),
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
    ],
)
def test_values_that_exclude_each_other_are_refused(tmp_path: Path, values: dict[str, object]) -> None:
    with pytest.raises(ChatbenchError, match="choose one"):
        resolve_settings("distilgpt2", overrides(tmp_path, **values))


def test_bf16_and_fp16_are_read_as_the_trainer_writes_them(tmp_path: Path) -> None:
    assert resolve_settings("tiny", overrides(tmp_path, bf16=True)).settings.precision == "bf16"
    assert resolve_settings("tiny", overrides(tmp_path, bf16=False)).settings.precision == "fp32"


def test_a_flag_for_epochs_replaces_the_files_number_of_steps(tmp_path: Path) -> None:
    resolved = resolve_settings("tiny", overrides(tmp_path, max_steps=5), {"num_train_epochs": 3.0})

    assert (resolved.settings.max_steps, resolved.settings.num_train_epochs) == (0, 3.0)


def test_a_broken_overrides_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "training_args.json"
    path.write_text('{\n"learning_rate": 1e-4,\n}', encoding="utf-8")

    with pytest.raises(ChatbenchError, match=r"training_args\.json, line 3"):
        resolve_settings("tiny", path)


def test_the_shipped_overrides_file_changes_nothing() -> None:
    shipped = Path(__file__).parents[1] / "configs" / "training_args.json"

    assert resolve_settings("tiny", shipped).settings == resolve_settings("tiny").settings


def test_a_hub_id_that_is_a_recipes_base_gets_that_recipe_under_its_own_name() -> None:
    recipe = recipe_of("mistralai/Mistral-7B-v0.1")

    assert recipe is not None
    assert recipe.name == "mistral-7b"
    assert model_key("mistralai/Mistral-7B-v0.1") == "mistralai--Mistral-7B-v0.1"


def test_models_without_a_recipe_get_adapters_from_a_billion_parameters_on() -> None:
    assert resolve_settings("gpt2", parameters=124_000_000).settings.method == "full"
    assert resolve_settings("big/model", parameters=3_000_000_000).settings.method == "lora"
    assert resolve_settings("big/model", None, {"method": "full"}, parameters=3_000_000_000).settings.method == "full"
    assert resolve_settings("un/known").settings.method == "full"


def test_a_folder_is_known_by_its_name_even_where_a_recipe_has_it(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "tiny").mkdir()

    assert model_key(str(tmp_path / "mine") + "/") == "mine"
    assert model_key(str(tmp_path / "tiny")) == "folder--tiny"  # else it would share the recipe's results


def test_a_path_that_leads_nowhere_is_neither_recipe_nor_hub_id() -> None:
    with pytest.raises(ChatbenchError, match="no such folder"):
        model_key("./nowhere/at/all")
    with pytest.raises(ChatbenchError, match="MODEL is empty"):
        model_key(" ")


def test_the_hash_follows_what_is_learned_and_not_what_is_printed() -> None:
    plain = resolve_settings("tiny").hash

    assert resolve_settings("tiny", None, {"logging_steps": 1, "save_steps": 7}).hash == plain
    assert resolve_settings("tiny", None, {"seed": 1}).hash != plain
    assert resolve_settings("tiny-random").hash != plain


def test_every_setting_is_shown_with_its_origin() -> None:
    lines = resolve_settings("tiny", None, {"seed": 7}).lines()

    assert len(lines) == 1 + len(Settings.__dataclass_fields__)
    assert any(line.split() == ["seed", "7", "--seed"] for line in lines)
