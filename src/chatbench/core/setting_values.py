"""Settings as people write them, in a file or on the command line, turned into values of the right type.

A key that does not exist is refused with the nearest one that does.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import cast

from chatbench.core.errors import ChatbenchError
from chatbench.core.settings import Settings

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
