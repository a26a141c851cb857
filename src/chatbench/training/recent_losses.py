"""The losses of the last steps with the examples behind them, so that one that is not finite can be named.

Reading a loss waits for the GPU. So the losses stay on the device and are looked at where the run waits anyway: when a
line is logged, and always before a checkpoint is written, which therefore never holds weights that are not finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chatbench.core.errors import ChatbenchError
from chatbench.protocol.example_rows import ExampleRow


@dataclass(frozen=True, slots=True, order=True)
class BadStep:
    """The first step whose loss was not finite in one process, and the examples of that step."""

    step: int
    process: int
    examples: tuple[str, ...]

    def error(self, processes: int, learning_rate: float) -> ChatbenchError:
        where = f" in process {self.process} of {processes}" if processes > 1 else ""
        return ChatbenchError(
            f"the loss is not finite at step {self.step}{where}; its examples: {', '.join(self.examples)}",
            expected="a number at every step",
            fix=f"look at these examples; if they are fine, lower learning_rate ({learning_rate}) and add --overwrite",
        )


class RecentLosses:
    """Losses of one process since the last look; `rows[i]` is the example with index i."""

    def __init__(self, rows: Sequence[ExampleRow], process: int) -> None:
        self._rows = rows
        self._process = process
        self._seen: list[tuple[int, Tensor, Sequence[int]]] = []

    def add(self, step: int, loss: Tensor, examples: Sequence[int]) -> None:
        """Keeps the loss of a step, a scalar on its device, with the indices of the step's examples."""
        self._seen.append((step, loss.detach(), examples))

    def look(self) -> BadStep | None:
        """The first step whose loss is not finite, if there is one; the others are forgotten."""
        seen, self._seen = self._seen, []
        if not seen:
            return None
        finite = torch.stack([loss for _, loss, _ in seen]).isfinite().tolist()
        for (step, _, examples), is_finite in zip(seen, finite, strict=True):
            if not is_finite:
                return BadStep(step, self._process, tuple(self._name(index) for index in examples))
        return None

    def _name(self, index: int) -> str:
        row = self._rows[index]
        return f"{row.conversation_id} ({row.kind})"
