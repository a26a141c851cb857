"""Comparison of configurations: the settings in which two nested configurations differ, by dotted name.

Whether a log can be continued, a model is the one that was trained, splits can be averaged, or two scores belong in one
table: each is decided by the differences between two configurations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

SHOWN = 24
"""Longer values, such as hashes, are shortened in messages."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that differs, such as `assistants.gpt-4o.temperature`; None if one configuration lacks it."""

    name: str
    one: object
    other: object

    def __str__(self) -> str:
        return f"{self.name}: {_shown(self.one)} and {_shown(self.other)}"


def _shown(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= SHOWN else f"{text[:12]}..."


def differences(one: Mapping[str, object], other: Mapping[str, object]) -> list[Difference]:
    """List every leaf that differs, in the first configuration's order; a tuple equals the list it becomes in JSON.

    >>> [str(each) for each in differences({"seed": 0, "x": {"y": 1}}, {"seed": 0, "x": {}})]
    ['x.y: 1 and nothing']
    """
    mine, theirs = dict(leaves(one)), dict(leaves(other))
    return [
        Difference(name, mine.get(name), theirs.get(name))
        for name in dict.fromkeys((*mine, *theirs))
        if mine.get(name) != theirs.get(name)
    ]


def leaves(configuration: Mapping[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    """Yield (dotted name, value) of every setting that is not itself a mapping."""
    for name, value in configuration.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{above}{name}.")
        else:
            yield above + name, list(value) if isinstance(value, tuple) else value


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a dotted name, or a parent of it, matches one of the patterns.

    >>> matches("assistants.gpt.temperature", ["assistants"]), matches("assistants.gpt.name", ["assistants.*.seed"])
    (True, False)
    """
    return any(fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*") for pattern in patterns)
