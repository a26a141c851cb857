"""The settings of one run, and where each value came from.

A recipe, the overrides file (`configs/training_args.json`) and the command line override the defaults in that order,
and every value keeps its origin. Mutually exclusive values from one source are an error; between sources, the later one
wins.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json
from chatbench.core.recipes import is_local, model_key, recipe_of
from chatbench.core.settings import Settings, typed_values

LORA_FROM_PARAMETERS = 1_000_000_000
"""Models without a recipe get LoRA from this size on: full fine-tuning needs 16 bytes per parameter."""

_EXCLUSIVE: Mapping[str, tuple[str, str]] = {
    "how long to train": ("max_steps", "num_train_epochs"),
    "how many examples make a step": ("examples_per_step", "gradient_accumulation_steps"),
    "how the base is quantised": ("load_in_8bit", "load_in_4bit"),
}
_ONLY_BOOKKEEPING = (
    "save_steps", "save_total_limit", "logging_steps", "logging_first_step", "validation_examples", "report_to",
)  # fmt: skip
_NEW_DEFAULTS = (("answer_weight", 1.0),)


@dataclass(frozen=True, slots=True)
class Resolved:
    """The settings of one run: the base model, the values, and the origin of each value.

    `base` is a hub id, a folder, a GGUF file, `package:NAME` (a model that comes with the package) or `random:NAME`
    (the same architecture with random weights). `explicit` names the values that the user set (file or flag), as
    opposed to those of recipe and default.
    """

    model: str
    base: str
    recipe: str | None
    settings: Settings
    origins: Mapping[str, str]
    explicit: frozenset[str]

    @property
    def key(self) -> str:
        """Name of this model's results folder."""
        return model_key(self.model)

    @property
    def hash(self) -> str:
        """SHA-256 of base and settings, in hexadecimal: equal exactly if the same training is requested.

        Settings that do not affect the weights, such as logging and checkpoint intervals, are left out. So is a setting
        that earlier versions lacked, at the value that matches their behaviour.
        """
        values = {name: value for name, value in asdict(self.settings).items() if name not in _ONLY_BOOKKEEPING}
        values = {name: value for name, value in values.items() if (name, value) not in _NEW_DEFAULTS}
        text = json.dumps({"base": self.base, **values}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def lines(self) -> list[str]:
        """One line per setting: name, value, origin."""
        rows = [("base", self.base, self.model)]
        for name, value in asdict(self.settings).items():
            shown = (",".join(value) or "by architecture") if isinstance(value, tuple) else str(value)
            rows.append((name, shown, self.origins[name]))
        return [f"{name:<28} {value:<18} {origin}" for name, value, origin in rows]

    def as_json(self) -> dict[str, object]:
        """The content of `resolved_settings.json`: model, base, recipe, and per setting its value and origin."""
        settings = {
            name: {"value": list(value) if isinstance(value, tuple) else value, "origin": self.origins[name]}
            for name, value in asdict(self.settings).items()
        }
        return {"model": self.model, "base": self.base, "recipe": self.recipe, "settings": settings}


def resolve_settings(
    model: str,
    overrides_file: Path | None = None,
    flags: Mapping[str, object] | None = None,
    *,
    parameters: int | None = None,
) -> Resolved:
    """Resolve the settings of a run for MODEL: default, then recipe, then overrides file, then command line.

    Args:
        model: recipe name, hub id, local folder or GGUF file. A model without a recipe gets LoRA from a billion
            parameters on.
        flags: command-line values by setting name; None means "not given".
        parameters: size of a model without a recipe, if known.

    Raises:
        ChatbenchError: unknown key, value of the wrong type or outside its range, or mutually exclusive values.
    """
    recipe = recipe_of(model)
    if recipe and not model.lower().endswith(".gguf"):
        base = recipe.base
    else:
        base = str(Path(model).expanduser().resolve()) if is_local(model) else model
    values: dict[str, object] = {}
    origins = {field.name: "default" for field in fields(Settings)}
    if recipe:
        values.update(recipe.values)
        origins.update({name: f"recipe {recipe.name}: {source}" for name, source in recipe.sources.items()})
    elif parameters is not None and parameters >= LORA_FROM_PARAMETERS:
        values["method"] = "lora"
        origins["method"] = f"default for {parameters / 1e9:.1f} billion parameters"

    explicit: set[str] = set()
    for source, layer in _layers(overrides_file, flags or {}):
        typed = typed_values(layer, source)
        for name, later in _overridden(typed, values, explicit).items():
            del values[name]
            explicit.discard(name)
            origins[name] = f"default: {later} overrides the earlier value"
        values.update(typed)
        explicit.update(typed)
        for name, value in typed.items():
            flag = ("--no-" if value is False else "--") + name.replace("_", "-")
            origins[name] = flag if source == "command line" else source
    if values.get("train_sampling_strategy") == "group_by_length" and "packing" not in values:
        values["packing"] = "none"
        origins["packing"] = "default where examples are grouped by length"
    settings = Settings(**values)  # type: ignore[arg-type]  # each value was checked against its field's type
    # Full fine-tuning has no adapters and needs the weights themselves, so LoRA's settings contradict it.
    unused = [name for name in explicit if name.startswith("lora_")]
    unused += [name for name in ("load_in_8bit", "load_in_4bit") if getattr(settings, name)]
    if settings.method == "full" and unused:
        fix = 'choose one: omit it, or set "method": "lora"'
        raise ChatbenchError(f"{', '.join(sorted(unused))} with method 'full'", fix=fix)
    return Resolved(model, base, recipe.name if recipe else None, settings, origins, frozenset(explicit))


def _layers(overrides_file: Path | None, flags: Mapping[str, object]) -> list[tuple[str, Mapping[str, object]]]:
    layers: list[tuple[str, Mapping[str, object]]] = []
    if overrides_file is not None:
        content = read_json(overrides_file, fix="give a JSON file of training arguments, or omit --config")
        if not isinstance(content, dict):
            raise ChatbenchError(f"{overrides_file}: {type(content).__name__}", expected="a JSON object of settings")
        layers.append((str(overrides_file), content))
    layers.append(("command line", {name: value for name, value in flags.items() if value is not None}))
    for source, layer in layers:
        for subject, (one, other) in _EXCLUSIVE.items():
            if layer.get(one) and layer.get(other):
                raise ChatbenchError(f"{source}: both {one} and {other} determine {subject}", fix="choose one")
    return layers


def _overridden(layer: Mapping[str, object], earlier: Mapping[str, object], explicit: set[str]) -> dict[str, str]:
    """Earlier values that a later layer excludes, each with the setting that excludes it.

    They include a recipe's grouping by length if examples are to be packed, and its quantisation if all weights are
    trained.
    """
    overridden = {}
    for pair in _EXCLUSIVE.values():
        for name, other in (pair, pair[::-1]):
            if layer.get(name) and other not in layer and other in earlier:
                overridden[other] = name
    recipes_own = earlier.keys() - explicit - layer.keys()
    if layer.get("packing", "none") != "none" and "train_sampling_strategy" in recipes_own:
        overridden["train_sampling_strategy"] = "packing"
    if layer.get("method") == "full":
        overridden |= {name: "method 'full'" for name in ("load_in_8bit", "load_in_4bit") if name in recipes_own}
    return overridden
