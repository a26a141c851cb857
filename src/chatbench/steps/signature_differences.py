r"""In what two signatures differ, the simulator itself left out: that is what a comparison is about.

A signature is a tree; its leaves have names such as `assistants.gpt-4o.temperature`. Whoever compares can let named
differences pass: a leaf, all below a name (`assistants`), a pattern (`assistants.*.temperature`), or a group of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

OF_THE_SIMULATOR = (
    "model",
    "kind",
    "dtype",
    "form",
    "conversations_untrained",
    "untrained",
    "by_split.*.*.weights",
    "by_split.*.*.tokenizer",
    "by_split.*.*.seed",
    "by_split.*.*.chats",
    "by_split.*.untrained",
    "resampling",
)
"""What may differ between two simulators that are compared; and resampling, which changes no figure."""

GROUPS = {
    "decoding": ("temperature", "max_tokens"),
    "assistant_decoding": ("assistants.*.temperature", "assistants.*.max_tokens"),
}


@dataclass(frozen=True, slots=True)
class Difference:
    """A leaf that two signatures do not share; None where one of them lacks it."""

    name: str
    first: object
    second: object

    def __str__(self) -> str:
        return f"{self.name}: {_shown(self.first)} and {_shown(self.second)}"


def _shown(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."


def differences(first: Mapping[str, object], second: Mapping[str, object]) -> list[Difference]:
    """Every leaf that differs, in the order of the first signature, without what belongs to the simulator.

    >>> [str(each) for each in differences({"model": "a", "x": {"y": 1}}, {"model": "b", "x": {}})]
    ['x.y: 1 and nothing']
    """
    mine, theirs = dict(leaves(first)), dict(leaves(second))
    return [
        Difference(name, mine.get(name), theirs.get(name))
        for name in dict.fromkeys((*mine, *theirs))
        if mine.get(name) != theirs.get(name) and not named(name, OF_THE_SIMULATOR)
    ]


def leaves(signature: Mapping[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    """(name, value) of every part that has no parts of its own."""
    for name, value in signature.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{above}{name}.")
        else:
            yield above + name, value


def named(leaf: str, patterns: Sequence[str]) -> bool:
    """Whether a leaf is one of those named: itself, something above it, a pattern of either, or a group.

    >>> named("assistants.gpt.temperature", ["assistants"]), named("assistants.gpt.name", ["assistant_decoding"])
    (True, False)
    """
    spelt_out = [each for pattern in patterns for each in GROUPS.get(pattern, (pattern,))]
    return any(fnmatchcase(leaf, pattern) or fnmatchcase(leaf, f"{pattern}.*") for pattern in spelt_out)
