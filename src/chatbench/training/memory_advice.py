"""Whether a run fits a device, and what would make it fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from chatbench.core.errors import ChatbenchError
from chatbench.core.settings import Settings
from chatbench.models.precision import Format
from chatbench.training.device_limits import DeviceMemory
from chatbench.training.memory import GIB, ForwardPass, Memory, training_memory
from chatbench.training.model_shape import ModelShape

ROOM = 0.9
"""Share of the free memory that an estimate may take; the rest is for what the estimate does not know."""

_METHOD = ("--method lora", {"method": "lora"})
_CHECKPOINTING = ("--gradient-checkpointing", {"gradient_checkpointing": True})
_EIGHT_BITS = ("--load-in-8bit", {"load_in_8bit": True, "load_in_4bit": False})
_FOUR_BITS = ("--load-in-4bit", {"load_in_4bit": True, "load_in_8bit": False})
_TRIED = (
    (_CHECKPOINTING,), (_METHOD,), (_METHOD, _EIGHT_BITS), (_METHOD, _FOUR_BITS),
    (_METHOD, _FOUR_BITS, _CHECKPOINTING),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Option:
    """A way to run, by the flags to add to what was asked for, and what it needs."""

    flags: str
    memory: Memory


def cheaper_options(
    shape: ModelShape, settings: Settings, largest: ForwardPass, *, precision: Format, on_gpu: bool
) -> list[Option]:
    """What needs less memory than what was asked for, the mildest change first."""

    def option(flags: str, changed: Settings, passed: ForwardPass = largest) -> Option:
        return Option(flags, training_memory(shape, changed, passed, precision=precision, on_gpu=on_gpu))

    asked = option("", settings).memory.total
    half = ForwardPass(largest.tokens // 2, largest.scored_rows // 2)
    options = []
    if settings.packing != "none":
        options.append(option(f"--pack-tokens {half.tokens}", settings, half))
    elif (examples := settings.per_device_train_batch_size // 2) > 0:
        flags = f"--per-device-train-batch-size {examples}"
        if not settings.examples_per_step:  # the step is to stay what it is
            flags += f" --gradient-accumulation-steps {2 * settings.gradient_accumulation_steps}"
        options.append(option(flags, settings, half))
    for parts in _TRIED:
        new = [part for part in parts if any(getattr(settings, name) != value for name, value in part[1].items())]
        values: Mapping[str, Any] = {name: value for part in new for name, value in part[1].items()}
        options.append(option(" ".join(flag for flag, _ in new), replace(settings, **values)))
    distinct = {each.flags: each for each in options if each.flags and each.memory.total < asked}
    return list(distinct.values())


def tokens_that_fit(
    shape: ModelShape, settings: Settings, device: DeviceMemory, *, precision: Format, on_gpu: bool, scored_share: float
) -> int:
    """The largest batch, in tokens, whose estimate leaves some of the free memory free; 0 if there is none.

    `scored_share` is the share of tokens for which logits are computed.
    """

    def needed(tokens: int) -> float:
        batch = ForwardPass(tokens, round(tokens * scored_share))
        return training_memory(shape, settings, batch, precision=precision, on_gpu=on_gpu).total

    fitting, too_many = 0, 1 << 20
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        fitting, too_many = (middle, too_many) if needed(middle) <= ROOM * device.free else (fitting, middle)
    return fitting


def refuse_if_too_small(
    shape: ModelShape, settings: Settings, device: DeviceMemory, *, precision: Format, on_gpu: bool
) -> None:
    """Stops a run whose weights, gradients and optimizer alone are more than all the memory of the device.

    Raises:
        ChatbenchError: with the estimate, and with what would fit.
    """
    nothing = ForwardPass(0, 0)
    needed = training_memory(shape, settings, nothing, precision=precision, on_gpu=on_gpu).state
    if needed <= device.total:
        return
    options = cheaper_options(shape, settings, nothing, precision=precision, on_gpu=on_gpu)
    fitting = [f"{each.flags} ({_gib(each.memory.state)})" for each in options if each.memory.state <= device.total]
    larger = "use a larger GPU, several with FSDP, or a smaller model"
    raise ChatbenchError(
        f"weights, gradients and optimizer need {_gib(needed)}, and {device.name} has {_gib(device.total)}",
        expected="room for them and for the activations (--dry-run tells how much)",
        fix=f"choose one: {'; '.join(fitting)}" if fitting else larger,
    )


def advice(
    shape: ModelShape,
    settings: Settings,
    largest: ForwardPass,
    device: DeviceMemory,
    *,
    precision: Format,
    on_gpu: bool,
) -> list[str]:
    """One line that says whether the run fits; where it does not, one for each way to need less."""
    needed = training_memory(shape, settings, largest, precision=precision, on_gpu=on_gpu).total
    has = f"{_gib(device.free)} of {_gib(device.total)} are free on {device.name}"
    if needed <= ROOM * device.free:
        return [f"fits: {has}"]
    lines = [f"is likely not to fit: {has}"]
    for each in cheaper_options(shape, settings, largest, precision=precision, on_gpu=on_gpu):
        verdict = "fits" if each.memory.total <= ROOM * device.free else "does not fit either"
        lines.append(f"{verdict} with {each.flags}: {_gib(each.memory.total)}")
    return lines


def _gib(count: float) -> str:
    return f"{count / GIB:.1f} GiB"
