"""Settings of a fine-tuning run: what there is, the recipes, and where each value of a run comes from.

Each setting has a default, and a type and range that pydantic checks. An unknown key is an error that names the closest
known one.

MODEL can be a recipe, a hub id, a folder or a GGUF file; its results folder is named after it. A recipe is a base model
with the settings that suit it, one TOML file each, with the source of every value.

A recipe, the overrides file (`configs/training_args.json`) and the command line override the defaults in that order,
and every value keeps its origin. Mutually exclusive values from one source are an error; between sources, the later one
wins.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from chatbench.core.errors import ChatbenchError, expected_by
from chatbench.core.files import read_object

Method = Literal["full", "lora"]
Precision = Literal["auto", "bf16", "fp16", "fp32"]
Template = Literal["plain", "chat"]
LongExamples = Literal["leave_out", "drop_oldest_turns"]
Packing = Literal["none", "conversation", "question"]
PackedAttention = Literal["blocks", "flex"]
Tracker = Literal["tensorboard", "wandb", "trackio", "none"]
Scheduler = Literal[
    "linear", "cosine", "constant", "constant_with_warmup", "cosine_with_restarts", "polynomial", "inverse_sqrt"
]
Optimizer = Literal[
    "adamw_torch_fused", "adamw_torch", "adafactor", "sgd", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit"
]
SamplingStrategy = Literal["random", "group_by_length"]

OPTIMIZER_BYTES: dict[Optimizer, float] = {
    "adamw_torch_fused": 8, "adamw_torch": 8, "paged_adamw_32bit": 8, "adamw_8bit": 2.03, "paged_adamw_8bit": 2.03,
    "adafactor": 0.02, "sgd": 0,
}  # fmt: skip
"""Optimizer state in bytes per trained parameter: two moments in fp32, or in 8 bits with one scale per 256 values;
Adafactor keeps one value per row and column, SGD without momentum nothing."""

_NumberAbove0 = Annotated[float, Field(gt=0)]
_Number = Annotated[float, Field(ge=0)]
_Share = Annotated[float, Field(ge=0, lt=1)]
_CountAbove0 = Annotated[int, Field(gt=0, lt=2**31)]
_Count = Annotated[int, Field(ge=0, lt=2**31)]
_OneOrMany = BeforeValidator(
    lambda value: (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value
)


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting of a fine-tuning run; names shared with the Trainer have the same meaning.

    `template` is the format of an example: the protocol's plain text, or the tokenizer's own chat template.
    `max_steps` 0 means as many as `num_train_epochs` takes. `examples_per_step` 0 means batch size times accumulation
    steps times processes. `packing` says which examples share a forward pass (and the tokens they have in common), of
    at most `pack_tokens` tokens (0: automatic). `packed_attention` is the implementation; `flex` (FlexAttention) needs
    a CUDA GPU. `long_examples` says what happens to examples longer than the context; nothing is truncated silently.
    `answer_weight` is the loss weight of the letter of an answer; every other token has weight 1. `warmup_steps` below
    1 is a fraction of all steps. `max_tokens` 0 means the model's own context. `validation_examples` are taken from the
    split's test side; their loss is only reported. Empty `lora_targets` means the modules that peft picks for the
    architecture. `load_in_4bit` is nf4 with double quantisation.

    Raises:
        ChatbenchError: a value is outside its range, or two are mutually exclusive.
    """

    method: Method = "full"
    template: Template = "plain"
    learning_rate: _NumberAbove0 = 5e-5
    num_train_epochs: Annotated[float, Field(gt=0, lt=1e6)] = 2.0
    max_steps: _Count = 0
    per_device_train_batch_size: _CountAbove0 = 4
    gradient_accumulation_steps: _CountAbove0 = 1
    examples_per_step: _Count = 0
    packing: Packing = "conversation"
    pack_tokens: _Count = 0
    packed_attention: PackedAttention = "blocks"
    long_examples: LongExamples = "leave_out"
    answer_weight: _NumberAbove0 = 1.0
    lr_scheduler_type: Scheduler = "linear"
    warmup_steps: _Number = 0.0
    weight_decay: _Number = 0.0
    max_grad_norm: _Number = 1.0
    optim: Optimizer = "adamw_torch_fused"
    adam_beta1: _Share = 0.9
    adam_beta2: _Share = 0.999
    adam_epsilon: _NumberAbove0 = 1e-8
    precision: Precision = "auto"
    gradient_checkpointing: bool = False
    train_sampling_strategy: SamplingStrategy = "random"
    seed: _Count = 0
    max_tokens: _Count = 0
    validation_examples: _Count = 200
    save_steps: _CountAbove0 = 50
    save_total_limit: Annotated[int, Field(ge=2)] = 2  # with one, a kill during its replacement would leave none
    logging_steps: _CountAbove0 = 10
    logging_first_step: bool = False
    report_to: Annotated[tuple[Tracker, ...], _OneOrMany, Field(min_length=1)] = ("tensorboard",)
    lora_r: _CountAbove0 = 8
    lora_alpha: _CountAbove0 = 32
    lora_dropout: _Share = 0.05
    lora_targets: Annotated[tuple[str, ...], _OneOrMany] = ()
    load_in_8bit: bool = False
    load_in_4bit: bool = False

    def __post_init__(self) -> None:
        for name in _types():
            typed_value(name, getattr(self, name))
        if self.packing != "none" and self.train_sampling_strategy == "group_by_length":
            raise ChatbenchError(
                f"packing = {self.packing!r} and train_sampling_strategy = 'group_by_length'",
                fix="choose one: packed examples are not padded, so there is nothing to group",
            )
        if self.load_in_8bit and self.load_in_4bit:
            raise ChatbenchError("both load_in_8bit and load_in_4bit", fix="choose one")
        if "none" in self.report_to and len(self.report_to) > 1:
            raise ChatbenchError(f"report_to = {list(self.report_to)}", fix="use either none or the trackers")

    @property
    def quantised(self) -> bool:
        """Whether the base's weights are loaded in 8 or 4 bits."""
        return self.load_in_8bit or self.load_in_4bit


@cache
def _types() -> dict[str, TypeAdapter[object]]:
    """Validator of each setting; strict, so that neither text nor true passes as a number."""
    hints = get_type_hints(Settings, include_extras=True)
    return {
        name: TypeAdapter(hint, config=ConfigDict(strict=True, allow_inf_nan=False)) for name, hint in hints.items()
    }


RENAMED = {
    "dropout": "lora_dropout",
    "epochs": "num_train_epochs",
    "batch_size": "per_device_train_batch_size",
    "lr": "learning_rate",
    "quantization": "load_in_8bit",
    "target_modules": "lora_targets",
    "chat_template": "template",
    "max_length": "max_tokens",
    "max_seq_length": "max_tokens",
}
"""Names from other libraries that similar spelling alone would not match."""


def typed_values(layer: Mapping[str, object], source: str) -> dict[str, object]:
    """Convert the values of one source to the types of their settings; `bf16` and `fp16` become `precision`.

    Raises:
        ChatbenchError: unknown key, value of the wrong type, or conflicting bf16, fp16 and precision.
    """
    values = _without_trainers_own(layer, source)
    switches = {name: values.pop(name) for name in ("bf16", "fp16") if name in values}
    on = [name for name, value in switches.items() if value is True]
    if len(on) == 2 or (on and "precision" in values):
        raise ChatbenchError(f"{source}: {' and '.join(on if len(on) == 2 else [*on, 'precision'])}", fix="choose one")
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise ChatbenchError(f"{source}: {name} = {value!r}", expected="true or false")
    if switches:
        values.setdefault("precision", on[0] if on else "fp32")
    return {name: typed_value(name, value, source) for name, value in values.items()}


def _without_trainers_own(layer: Mapping[str, object], source: str) -> dict[str, object]:
    """Translate the Trainer's own names in one source, and drop arguments that request what happens anyway.

    Raises:
        ChatbenchError: an argument requests something else, or contradicts a setting of the same source.
    """
    values = dict(layer)
    for name, value in layer.items():
        setting, meant = name, value
        if name == "warmup_ratio" and isinstance(value, int | float) and 0 <= value < 1:
            setting = "warmup_steps"
        elif name == "group_by_length" and isinstance(value, bool):
            setting, meant = "train_sampling_strategy", "group_by_length" if value else "random"
        elif name in ("eval_strategy", "evaluation_strategy") and value == "no":
            setting, meant = "validation_examples", 0
        elif name == "activation_checkpointing":
            setting = "gradient_checkpointing"
        if setting != name:
            if layer.get(setting):
                raise ChatbenchError(f"{source}: both {name} and {setting}", fix="choose one")
            del values[name]
            values[setting] = meant
        elif name in trainers_own():
            same, because = trainers_own()[name]
            if value is not None and value not in same:
                expected = ", ".join(map(repr, same))
                raise ChatbenchError(f"{source}: {name} = {value!r}: {because}", expected=expected, fix="omit it")
            del values[name]
    return values


@cache
def trainers_own() -> dict[str, tuple[tuple[object, ...], str]]:
    """TrainingArguments that are not settings: the values that are accepted (no effect), and why others are refused."""
    text = (resources.files("chatbench.core") / "trainer_arguments.toml").read_text("utf-8")
    arguments = tomllib.loads(text)["argument"]
    return {name: (tuple(each.get("is", ())), each["because"]) for each in arguments for name in each["names"]}


def typed_value(name: str, value: object, source: str = "") -> object:
    """Convert one value to its setting's type: an int is accepted for a float, one name for a list of names.

    Raises:
        ChatbenchError: there is no such setting, or the value is of another type or outside its range.
    """
    where, known = f"{source}: " if source else "", _types()
    if name not in known:
        nearest = [RENAMED[name]] if name in RENAMED else difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        fix = f"did you mean {nearest[0]!r}?" if nearest else f"choose from {', '.join(known)}"
        raise ChatbenchError(f"{where}unknown setting {name!r}", expected="a chatbench setting", fix=fix)
    try:
        return known[name].validate_python(value)
    except ValidationError as error:
        expected = expected_by(error.errors(include_url=False)[0])
        lists = name in ("report_to", "lora_targets") and not expected.startswith("one of")
        raise ChatbenchError(f"{where}{name} = {value!r}", expected="a list of names" if lists else expected) from None


_GGUF_OF_BASE = re.compile(r"(?P<base>.+)[.-](?:I?Q\d\w*|B?F16|F32)\.gguf", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A named base model with the settings that suit it; `sources` says where each value comes from."""

    name: str
    base: str
    summary: str
    values: Mapping[str, object]
    sources: Mapping[str, str]


def recipes() -> dict[str, Recipe]:
    """All recipes by name, in alphabetical order."""
    folder = resources.files("chatbench.core") / "recipe_files"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda file: file.name)
    found = {}
    for file in files:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        lines: Mapping[str, Mapping[str, object]] = content["settings"]
        values = {name: typed_value(name, line["value"], file.name) for name, line in lines.items()}
        sources = {name: str(line["source"]) for name, line in lines.items()}
        name = file.name.removesuffix(".toml")
        found[name] = Recipe(name, content["base"], content["summary"], values, sources)
    return found


def recipe_of(model: str) -> Recipe | None:
    """The recipe that `model` names, by its own name or by the hub id of its base; None for any other model.

    GGUF files of a recipe's base match too, if named as llama.cpp names them (`SmolLM2-135M-Instruct.Q4_1.gguf`).
    """
    known = recipes()
    by_base = {recipe.base: recipe for recipe in known.values()}
    file = _GGUF_OF_BASE.fullmatch(Path(model).name)
    by_file = {recipe.base.rpartition("/")[2].lower(): recipe for recipe in known.values()} if file else {}
    return known.get(model) or by_base.get(model) or by_file.get(file["base"].lower() if file else "")


def model_key(model: str) -> str:
    """Name of a model's results folder: the recipe, the hub id with `/` as `--`, or the folder or file name.

    A simulator that is not fine-tuned may have any name without `/`.

    Raises:
        ChatbenchError: `model` is none of these.

    >>> model_key("mistralai/Mistral-7B-v0.1")
    'mistralai--Mistral-7B-v0.1'
    """
    if model in recipes():
        return model
    if is_local(model, any_name=True):
        # Later commands (chatbench report) are given the key itself, and no folder of that name has to exist then.
        written = re.sub(r"\.gguf$", "", Path(model).expanduser().resolve().name, flags=re.IGNORECASE)
        name = _typed(written)
        return f"folder--{name}" if name in recipes() or "--" in name else name
    return _typed(model.replace("/", "--"))


def _typed(written: str) -> str:
    """A name that can be typed as a folder: other characters become `_`, and a hash keeps two such names apart."""
    name = re.sub(r"[^\w.-]+", "_", written)
    return name if name == written else f"{name}-{hashlib.sha256(written.encode()).hexdigest()[:8]}"


def name_in_tables(model: str) -> str:
    """MODEL as given, but a folder or file by its results folder: tables and pages are passed on, and need no path."""
    return model_key(model) if is_local(model, any_name=True) else model


def is_local(model: str, *, any_name: bool = False) -> bool:
    """Whether MODEL is a local folder or GGUF file; an existing one takes precedence over a hub id of the same name.

    Args:
        any_name: results may be stored under this name, even if no model has it.

    Raises:
        ChatbenchError: MODEL is empty, or can only be local and does not exist.
    """
    expected = f"a recipe ({', '.join(recipes())}), a hub id such as mistralai/Mistral-7B-v0.1, a folder or a GGUF file"
    if not model.strip():
        raise ChatbenchError("MODEL is empty", expected=expected)
    if model in recipes():
        return False
    path = Path(model).expanduser()
    if path.is_dir() or (path.suffix.lower() == ".gguf" and path.is_file()):
        return True
    if path.suffix.lower() != ".gguf" and re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", model):
        return False
    if any_name and path.suffix.lower() != ".gguf" and not set(model) & set("/\\~"):
        return False
    raise ChatbenchError(
        f"{model}: no such folder or file, and neither a recipe nor a hub id", expected=expected, fix="check the path"
    )


def recipe_lines() -> list[str]:
    """One line per recipe, in aligned columns: name, base and summary."""
    rows = [(recipe.name, recipe.base, recipe.summary) for recipe in recipes().values()]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"{name:<{widths[0]}}  {base:<{widths[1]}}  {summary}" for name, base, summary in rows]


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

        Of a base on this machine the path does not count, since it may be moved: records have a hash of its weights.
        Settings that do not affect the weights, such as logging and checkpoint intervals, are left out. So is a setting
        that earlier versions lacked, at the value that matches their behaviour.
        """
        values = {name: value for name, value in asdict(self.settings).items() if name not in _ONLY_BOOKKEEPING}
        values = {name: value for name, value in values.items() if (name, value) not in _NEW_DEFAULTS}
        base = "" if Path(self.base).expanduser().exists() else self.base
        return hashlib.sha256(json.dumps({"base": base, **values}, sort_keys=True).encode()).hexdigest()

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


def base_of(model: str, record: Mapping[str, Any] | None) -> str:
    """The base of MODEL; that of its fine-tuning record, if there is one and MODEL is no existing path.

    MODEL may then be the name of its results folder, which identifies no base, or that of a merged model.
    """
    if record and ("merged" in record or not is_local(model, any_name=True)):
        return str(record["base"])
    return resolve_settings(model).base


def _layers(overrides_file: Path | None, flags: Mapping[str, object]) -> list[tuple[str, Mapping[str, object]]]:
    layers: list[tuple[str, Mapping[str, object]]] = []
    if overrides_file is not None:
        fix = "give a JSON file of training arguments, or omit --config"
        layers.append((str(overrides_file), read_object(overrides_file, fix=fix)))
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
