"""A value as it stands in a table: a number, a percentage, `undefined`, or a dash where there is none."""

from __future__ import annotations

from chatbench.measures.agreement import Undefined, Value
from chatbench.steps.grids import EMPTY


def number(value: Value | None, digits: int = 3) -> str:
    """A value with so many decimals."""
    if value is None:
        return EMPTY
    return "undefined" if isinstance(value, Undefined) else f"{value:.{digits}f}"


def percent(value: Value | None) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * value:.1f} %" if isinstance(value, float | int) else number(value)
