"""Every setting of a fine-tuning run, with one default each; a value outside its range is refused.

Where the values come from (recipe, overrides file, command line) is the matter of `resolved_settings`.

Settings as people write them, in a file or on the command line, turned into values of the right type.

A key that does not exist is refused with the nearest one that does.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, cast

from chatbench.core.errors import ChatbenchError

Method = Literal["full", "lora"]
Precision = Literal["auto", "bf16", "fp16", "fp32"]
Template = Literal["plain", "chat"]
LongExamples = Literal["leave_out", "drop_oldest_turns"]
Packing = Literal["none", "conversation", "question"]
PackedAttention = Literal["blocks", "flex"]

TRACKERS = ("tensorboard", "wandb", "trackio", "none")

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "method": ("full", "lora"),
    "precision": ("auto", "bf16", "fp16", "fp32"),
    "template": ("plain", "chat"),
    "long_examples": ("leave_out", "drop_oldest_turns"),
    "packing": ("none", "conversation", "question"),
    "packed_attention": ("blocks", "flex"),
    "train_sampling_strategy": ("random", "group_by_length"),
    "lr_scheduler_type": ("linear", "cosine", "constant", "constant_with_warmup"),
}
_POSITIVE = (
    "learning_rate", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "save_steps",
    "logging_steps", "lora_r", "lora_alpha",
)  # fmt: skip
_NOT_NEGATIVE = (
    "max_steps", "examples_per_step", "pack_tokens", "weight_decay", "warmup_steps", "max_grad_norm", "seed",
    "max_tokens", "validation_examples", "lora_dropout",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting of a fine-tuning run; names that the Trainer has too mean what they mean there.

    `template` is the form of an example: the protocol's plain text, or the tokenizer's own chat template.
    `max_steps` 0 means: as many as `num_train_epochs` says. `examples_per_step` 0 means: batch size times accumulation
    times processes. `packing` says which examples share a forward pass (and the tokens they have in common), at most
    `pack_tokens` tokens of it; 0 chooses. `packed_attention` is how; `flex` (FlexAttention) needs a CUDA GPU.
    `long_examples` says what becomes of examples that are longer than the context; nothing is cut silently.
    `warmup_steps` below 1 is a share of all steps. `max_tokens` 0 means the model's own context. `validation_examples`
    are taken from the split's test side, and only printed. `lora_targets` empty means the modules that peft picks for
    the architecture. `load_in_4bit` is nf4 with double quantisation.

    Raises:
        ChatbenchError: a value is outside its range, or two exclude each other.
    """

    method: Method = "full"
    template: Template = "plain"
    learning_rate: float = 5e-5
    num_train_epochs: float = 2.0
    max_steps: int = 0
    per_device_train_batch_size: int = 4
    gradient_accumulation_steps: int = 1
    examples_per_step: int = 0
    packing: Packing = "conversation"
    pack_tokens: int = 0
    packed_attention: PackedAttention = "blocks"
    long_examples: LongExamples = "leave_out"
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
    report_to: tuple[str, ...] = ("tensorboard",)
    lora_r: int = 8
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    lora_targets: tuple[str, ...] = ()
    load_in_8bit: bool = False
    load_in_4bit: bool = False

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
        if self.lora_dropout >= 1:
            raise ChatbenchError(f"lora_dropout = {self.lora_dropout}", expected="a share below 1")
        if self.save_total_limit < 2:
            # With one, a kill while it is being replaced would leave none.
            raise ChatbenchError(f"save_total_limit = {self.save_total_limit}", expected="2 or more")
        self._refuse_rivals()
        self._check_report_to()

    def _refuse_rivals(self) -> None:
        if self.packing != "none" and self.train_sampling_strategy == "group_by_length":
            raise ChatbenchError(
                f"packing = {self.packing!r} and train_sampling_strategy = 'group_by_length'",
                fix="choose one: packed examples are not padded, so there is nothing to group",
            )
        if self.load_in_8bit and self.load_in_4bit:
            raise ChatbenchError("both load_in_8bit and load_in_4bit", fix="choose one")

    def _check_report_to(self) -> None:
        unknown = [name for name in self.report_to if name not in TRACKERS]
        if unknown or not self.report_to:
            raise ChatbenchError(f"report_to = {list(self.report_to)}", expected=f"some of {', '.join(TRACKERS)}")
        if "none" in self.report_to and len(self.report_to) > 1:
            raise ChatbenchError(f"report_to = {list(self.report_to)}", fix="choose one: none, or the trackers")

    @property
    def quantised(self) -> bool:
        """Whether the base's weights are held in 8 or 4 bits."""
        return self.load_in_8bit or self.load_in_4bit


RENAMED = {
    "group_by_length": "train_sampling_strategy",
    "dropout": "lora_dropout",
    "epochs": "num_train_epochs",
    "batch_size": "per_device_train_batch_size",
    "lr": "learning_rate",
    "warmup_ratio": "warmup_steps",  # a share of the steps where it is below 1, as in transformers 5
    "quantization": "load_in_8bit",
    "target_modules": "lora_targets",
    "chat_template": "template",
    "max_length": "max_tokens",
    "max_seq_length": "max_tokens",
    "activation_checkpointing": "gradient_checkpointing",
}
"""Names that people know from elsewhere and that spelling alone would not lead to."""

_KIND = {bool: "true or false", tuple: "a list of names", float: "a number", int: "a whole number", str: "a word"}


def typed_values(layer: Mapping[str, object], source: str) -> dict[str, object]:
    """The values of one source by setting, with `bf16`/`fp16` read as precision, each of its setting's type.

    Raises:
        ChatbenchError: unknown key, value of the wrong type, or bf16, fp16 and precision contradict each other.
    """
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
    return {name: typed_value(name, value, source) for name, value in values.items()}


def typed_value(name: str, value: object, source: str) -> object:
    """One value, of its setting's type: a whole number may stand for a number, one name for a list of names.

    Raises:
        ChatbenchError: there is no such setting, or the value is of another type.
    """
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
        value = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else value
        fits = isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    elif isinstance(default, float):
        fits = isinstance(value, int | float)
        value = float(cast(float, value)) if fits else value
    else:
        fits = isinstance(value, type(default))
    if not fits:
        raise ChatbenchError(f"{source}: {name} = {value!r}", expected=_KIND[type(default)])
    return value


def _nearest_fix(name: str, known: list[str]) -> str:
    nearest = [RENAMED[name]] if name in RENAMED else difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"did you mean {nearest[0]!r}?" if nearest and nearest[0] in known else f"choose from {', '.join(known)}"
