"""The published results, as reference rows for tables; they live in `published.toml` with their source."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One method with its (Pearson correlation, mean absolute error) per assistant."""

    method: str
    figures: dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Published:
    """All reference rows and where they stand."""

    source: str
    assistants: tuple[str, ...]
    rows: tuple[PublishedRow, ...]


@cache
def published() -> Published:
    """The published table.

    >>> published().rows[-1].figures["gpt-4o"]
    (0.63, 0.15)
    """
    content = tomllib.loads(resources.files("chatbench.measures").joinpath("published.toml").read_text("utf-8"))
    assistants = tuple(content["assistants"])
    rows = tuple(
        PublishedRow(row["method"], dict(zip(assistants, zip(row["pearson"], row["mae"], strict=True), strict=True)))
        for row in content["row"]
    )
    return Published(content["source"], assistants, rows)
