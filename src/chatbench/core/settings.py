"""What a fine-tuning run is told, and where each value came from.

There is one list of settings, `Settings`, with one default each. A recipe (a TOML file in `recipes/`), the overrides
file (`configs/training_args.json`) and the command line replace values in that order, and every value keeps its
origin. A key that does not exist is refused with the nearest one that does; two values that exclude each other are
refused too.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Literal, cast

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json

Method = Literal["full", "lora"]
Precision = Literal["auto", "bf16", "fp16", "fp32"]

LORA_FROM_PARAMETERS = 1_000_000_000
"""Models without a recipe get LoRA from this size on: full fine-tuning needs 16 bytes a parameter."""

RENAMED = {
    "group_by_length": "train_sampling_strategy",
    "dropout": "lora_dropout",
    "epochs": "num_train_epochs",
    "batch_size": "per_device_train_batch_size",
    "lr": "learning_rate",
    "warmup_ratio": "warmup_steps",  # a share of the steps where it is below 1, as in transformers 5
    "quantization": "load_in_8bit",
    "target_modules": "lora_targets",
}
"""Names that people know from elsewhere and that spelling alone would not lead to."""

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "method": ("full", "lora"),
    "precision": ("auto", "bf16", "fp16", "fp32"),
    "train_sampling_strategy": ("random", "group_by_length"),
    "lr_scheduler_type": ("linear", "cosine", "constant", "constant_with_warmup"),
}
_POSITIVE = (
    "learning_rate", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "save_steps",
    "logging_steps", "lora_r", "lora_alpha",
)  # fmt: skip
_NOT_NEGATIVE = (
    "max_steps", "weight_decay", "warmup_steps", "max_grad_norm", "seed", "max_tokens",
    "validation_examples", "lora_dropout",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting of a fine-tuning run; names that the Trainer has too mean what they mean there.

    `lora_targets` empty means the modules that peft picks for the architecture. `max_steps` 0 means: as many as
    `num_train_epochs` says. `warmup_steps` below 1 is a share of all steps. `max_tokens` 0 means the model's own
    context. `validation_examples` are taken from the split's test side, and only printed.

    Raises:
        ChatbenchError: a value is outside its range.
    """

    method: Method = "full"
    learning_rate: float = 5e-5
    num_train_epochs: float = 2.0
    max_steps: int = 0
    per_device_train_batch_size: int = 4
    gradient_accumulation_steps: int = 1
    lr_scheduler_type: str = "linear"
    warmup_steps: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    precision: Precision = "auto"
    gradient_checkpointing: bool = False
    train_sampling_strategy: str = "random"
    seed: int = 0
    max_tokens: int = 0
    validation_examples: int = 200
    save_steps: int = 50
    save_total_limit: int = 2
    logging_steps: int = 10
    lora_r: int = 8
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    lora_targets: tuple[str, ...] = ()
    load_in_8bit: bool = False

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ChatbenchError(f"{name} = {getattr(self, name)!r}", expected=f"one of {', '.join(allowed)}")
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ChatbenchError(f"{name} = {getattr(self, name)}", expected="a number above 0")
        for name in _NOT_NEGATIVE:
            if not getattr(self, name) >= 0:
                raise ChatbenchError(f"{name} = {getattr(self, name)}", expected="0 or a number above 0")
        if self.save_total_limit < 2:
            # With one, a kill while it is being replaced would leave none.
            raise ChatbenchError(f"save_total_limit = {self.save_total_limit}", expected="2 or more")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A named base model with the settings that suit it; `sources` says where each value is from."""

    name: str
    base: str
    summary: str
    values: Mapping[str, object]
    sources: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Resolved:
    """The settings of one run: the base model, the values, and for each value who set it and why.

    `base` is a hub id, a folder, `package:NAME` (a model that comes with the package) or `random:NAME` (its shape with
    random weights). `explicit` names the values that the user set (file or flag), as against recipe and default.
    """

    model: str
    base: str
    recipe: str | None
    settings: Settings
    origins: Mapping[str, str]
    explicit: frozenset[str]

    @property
    def key(self) -> str:
        """Name of the folder of this model's results."""
        return model_key(self.model)

    @property
    def hash(self) -> str:
        """SHA-256 of base and settings, in hexadecimal: equal exactly when the same training is asked for.

        How often a line is printed or a checkpoint is written does not change the weights, so it is left out.
        """
        values = {name: value for name, value in asdict(self.settings).items() if name not in _ONLY_BOOKKEEPING}
        text = json.dumps({"base": self.base, **values}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def lines(self) -> list[str]:
        """One line per setting: name, value, origin."""
        rows = [(f.name, _shown(getattr(self.settings, f.name)), self.origins[f.name]) for f in fields(Settings)]
        return [f"{name:<28} {value:<18} {origin}" for name, value, origin in [("base", self.base, self.model), *rows]]


_ONLY_BOOKKEEPING = ("save_steps", "save_total_limit", "logging_steps", "validation_examples")


def recipes() -> dict[str, Recipe]:
    """All recipes by name, in alphabetical order."""
    folder = resources.files("chatbench.core.recipes")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda file: file.name)
    return {recipe.name: recipe for recipe in (_read_recipe(f.name, f.read_text(encoding="utf-8")) for f in files)}


def recipe_of(model: str) -> Recipe | None:
    """The recipe that `model` names, by its own name or by the hub id of its base; None for any other model."""
    known = recipes()
    by_base = {recipe.base: recipe for recipe in known.values()}
    return known.get(model) or by_base.get(model)


def model_key(model: str) -> str:
    """Name of the results folder of a model: the recipe, the hub id with `/` as `--`, or the folder's name.

    Raises:
        ChatbenchError: `model` is none of these.

    >>> model_key("mistralai/Mistral-7B-v0.1")
    'mistralai--Mistral-7B-v0.1'
    """
    if model in recipes():
        return model
    if is_folder(model):
        name = Path(model).expanduser().resolve().name
        return f"folder--{name}" if name in recipes() else name
    return model.replace("/", "--")


def is_folder(model: str) -> bool:
    """Whether MODEL means a local folder; a folder that exists wins over a hub id of the same name.

    Raises:
        ChatbenchError: it can only be a folder, and there is none.
    """
    if not model.strip():
        raise ChatbenchError("MODEL is empty", expected=f"a recipe ({', '.join(recipes())}), a hub id or a folder")
    if model in recipes():
        return False
    if Path(model).expanduser().is_dir():
        return True
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", model):
        return False
    raise ChatbenchError(
        f"{model}: no such folder, and neither a recipe nor a hub id",
        expected=f"a recipe ({', '.join(recipes())}), a hub id such as mistralai/Mistral-7B-v0.1, or a folder",
        fix="check the path",
    )


def resolve_settings(
    model: str,
    overrides_file: Path | None = None,
    flags: Mapping[str, object] | None = None,
    *,
    parameters: int | None = None,
) -> Resolved:
    """The settings of a run for MODEL: default, then recipe, then overrides file, then command line.

    Args:
        model: recipe name, hub id or local folder. A model without a recipe gets LoRA from a billion parameters on.
        flags: values of the command line by setting name; None stands for "not given".
        parameters: size of a model without a recipe, where it is known.

    Raises:
        ChatbenchError: unknown key, value of the wrong type or outside its range, or values that exclude each other.
    """
    recipe = recipe_of(model)
    base = recipe.base if recipe else str(Path(model).expanduser().resolve()) if is_folder(model) else model
    values: dict[str, object] = {}
    origins = {field.name: "default" for field in fields(Settings)}
    if recipe:
        values.update(recipe.values)
        origins.update({name: f"recipe {recipe.name}: {source}" for name, source in recipe.sources.items()})
    elif parameters is not None and parameters >= LORA_FROM_PARAMETERS:
        values["method"] = "lora"
        origins["method"] = f"default for {parameters / 1e9:.1f} billion parameters"

    explicit: dict[str, object] = {}
    for source, layer in _layers(overrides_file, flags or {}):
        checked = _checked(layer, source)
        _refuse_contradictions(checked, source)
        explicit = _without_rivals(explicit, checked) | checked
        origins.update({name: source if source != "flag" else "--" + name.replace("_", "-") for name in checked})
    values.update(explicit)
    settings = Settings(**values)  # type: ignore[arg-type]  # each value was checked against its field's type
    _refuse_unused(settings, explicit)
    return Resolved(model, base, recipe.name if recipe else None, settings, origins, frozenset(explicit))


def _layers(overrides_file: Path | None, flags: Mapping[str, object]) -> list[tuple[str, Mapping[str, object]]]:
    layers: list[tuple[str, Mapping[str, object]]] = []
    if overrides_file is not None:
        content = read_json(overrides_file, fix="give a JSON file of training arguments, or leave --config out")
        if not isinstance(content, dict):
            raise ChatbenchError(f"{overrides_file}: {type(content).__name__}", expected="a JSON object of settings")
        layers.append((str(overrides_file), content))
    layers.append(("flag", {name: value for name, value in flags.items() if value is not None}))
    return layers


def _checked(layer: Mapping[str, object], source: str) -> dict[str, object]:
    """The layer with `bf16`/`fp16` read as precision and every value converted to its field's type."""
    values = dict(layer)
    switches = [name for name in ("bf16", "fp16") if name in values]
    on = [name for name in switches if values[name] is True]
    if len(on) == 2 or (on and "precision" in values):
        raise ChatbenchError(
            f"{source}: {' and '.join([*on, *(['precision'] * ('precision' in values))])}", fix="choose one"
        )
    for name in switches:
        if not isinstance(values.pop(name), bool):
            raise ChatbenchError(f"{source}: {name} is not true or false", expected="true or false")
    if switches:
        values.setdefault("precision", on[0] if on else "fp32")
    return {name: _converted(name, value, source) for name, value in values.items()}


def _converted(name: str, value: object, source: str) -> object:
    known = {field.name: getattr(Settings(), field.name) for field in fields(Settings)}
    if name not in known:
        raise ChatbenchError(
            f"{source}: unknown setting {name!r}",
            expected="a setting of chatbench",
            fix=_nearest_fix(name, list(known)),
        )
    default = known[name]
    if isinstance(default, bool) or isinstance(value, bool):
        fits = isinstance(default, bool) and isinstance(value, bool)
    elif isinstance(default, tuple):
        value = tuple(value) if isinstance(value, list | tuple) else value
        fits = isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    elif isinstance(default, float):
        fits = isinstance(value, int | float)
        value = float(cast(float, value)) if fits else value
    else:
        fits = isinstance(value, type(default))
    if not fits:
        kind = {
            bool: "true or false",
            tuple: "a list of names",
            float: "a number",
            int: "a whole number",
            str: "a word",
        }
        raise ChatbenchError(f"{source}: {name} = {value!r}", expected=kind[type(default)])
    return value


def _nearest_fix(name: str, known: list[str]) -> str:
    nearest = [RENAMED[name]] if name in RENAMED else difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"did you mean {nearest[0]!r}?" if nearest and nearest[0] in known else f"choose from {', '.join(known)}"


def _refuse_contradictions(layer: Mapping[str, object], source: str) -> None:
    where = "command line" if source == "flag" else source
    if layer.get("max_steps") and "num_train_epochs" in layer:
        raise ChatbenchError(f"{where}: both max_steps and num_train_epochs say how long to train", fix="choose one")


def _without_rivals(earlier: Mapping[str, object], layer: Mapping[str, object]) -> dict[str, object]:
    """A later layer that says how long to train replaces an earlier one that says it the other way."""
    return {name: value for name, value in earlier.items() if not (name == "max_steps" and "num_train_epochs" in layer)}


def _refuse_unused(settings: Settings, explicit: Mapping[str, object]) -> None:
    """Full fine-tuning has no adapters and needs the weights themselves, so LoRA's settings contradict it."""
    if settings.method == "lora":
        return
    unused = sorted(
        name for name in explicit if name.startswith("lora_") or (name == "load_in_8bit" and explicit[name])
    )
    if unused:
        raise ChatbenchError(
            f"{', '.join(unused)} with method 'full'", fix='choose one: leave it out, or set "method": "lora"'
        )


def _read_recipe(file_name: str, text: str) -> Recipe:
    content = tomllib.loads(text)
    lines = cast(Mapping[str, Mapping[str, object]], content["settings"])
    values = {name: _converted(name, line["value"], file_name) for name, line in lines.items()}
    sources = {name: str(line["source"]) for name, line in lines.items()}
    return Recipe(file_name.removesuffix(".toml"), content["base"], content["summary"], values, sources)


def _shown(value: object) -> str:
    return ",".join(value) or "by architecture" if isinstance(value, tuple) else str(value)
