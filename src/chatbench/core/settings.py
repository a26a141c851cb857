"""Every setting of a fine-tuning run, each with a default and a type and range that pydantic checks.

`resolved_settings` collects the values (recipe, overrides file, command line). An unknown key is an error that names
the closest known one.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Annotated, Literal, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from chatbench.core.errors import ChatbenchError, expected_by

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
        setting, meant = _translated(name, value)
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


def _translated(name: str, value: object) -> tuple[str, object]:
    """Translate one of the Trainer's own names and its value to the equivalent setting; others are unchanged."""
    if name == "warmup_ratio" and isinstance(value, int | float) and 0 <= value < 1:
        return "warmup_steps", value
    if name == "group_by_length" and isinstance(value, bool):
        return "train_sampling_strategy", "group_by_length" if value else "random"
    if name in ("eval_strategy", "evaluation_strategy") and value == "no":
        return "validation_examples", 0
    return "gradient_checkpointing" if name == "activation_checkpointing" else name, value


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
