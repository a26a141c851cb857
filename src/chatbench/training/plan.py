"""What a run will do and cost, in figures: steps, tokens, arithmetic, time. Plain arithmetic on plain numbers.

Arithmetic, in operations (a multiplication and an addition are two), with M the parameters of the layers' matrices, A
those of the adapters, H those of the output head:

    forward     2 M a token read, 2 H a scored row, 4 x query width x layers an attended pair (token, earlier token)
    backward    twice the forward where the base learns; where it is frozen, once (no gradients of its weights), but
                twice for attention; adapters cost 6 A a token
    gradient checkpointing computes the layers' forward once more

This is the count that model FLOPs utilisation is stated in (PaLM, appendix B), but with the output head on scored rows
only and with the pairs that causal attention needs, which is what this package computes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from chatbench.core.settings import Settings
from chatbench.training.model_shape import ModelShape


@dataclass(frozen=True, slots=True)
class Work:
    """What some forward passes read: tokens (padding included), rows with logits, and attended pairs of tokens."""

    tokens: int
    scored_rows: int
    attended_pairs: int


def training_operations(shape: ModelShape, settings: Settings, work: Work) -> float:
    """Operations of the forward and backward passes over `work`."""
    layers = 2.0 * shape.layer_matrices * work.tokens
    attention = 4.0 * shape.query_width * shape.layers * work.attended_pairs
    head = 2.0 * shape.head * work.scored_rows
    if settings.method == "full":
        operations = 3 * (layers + attention + head)
    else:
        operations = 2 * (layers + head) + 3 * attention + 6.0 * shape.adapters * work.tokens
    return operations + (layers + attention if settings.gradient_checkpointing else 0)


def optimizer_steps(settings: Settings, steps_an_epoch: int) -> int:
    """Steps of the whole run: `max_steps`, or as many as the epochs hold.

    >>> optimizer_steps(Settings(num_train_epochs=1.5), 101)
    152
    """
    return settings.max_steps or math.ceil(settings.num_train_epochs * steps_an_epoch)


def in_words(seconds: float) -> str:
    """A duration to about two digits.

    >>> [in_words(seconds) for seconds in (7, 110, 6000, 200_000)]
    ['7 s', '2 min', '1 h 40 min', '56 h']
    """
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 24 * 60 else f"{minutes / 60:.0f} h"
