r"""What scores are scores of: data, split seed, simulator, decoding, protocol, assistants, version, counts.

In what two signatures differ, the simulator itself left out: that is what a comparison is about.

A signature is a tree; its leaves have names such as `assistants.gpt-4o.temperature`. Whoever compares can let named
differences pass: a leaf, all below a name (`assistants`), a pattern (`assistants.*.temperature`), or a group of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import metadata
from typing import cast

from chatbench.core.errors import ChatbenchError
from chatbench.data.prepared import Manifest
from chatbench.metrics.agreement import CALIBRATION_BINS
from chatbench.metrics.names import BASE_MODEL, FINE_TUNED
from chatbench.metrics.overlap import BleuCounts, sacrebleu_score
from chatbench.metrics.resampling import Resampling
from chatbench.simulation.split_chats import SplitChats

OF_THE_SIMULATOR = (
    "model",
    "kind",
    "dtype",
    "form",
    "base_conversations",
    "base model",
    "by_split.*.*.weights",
    "by_split.*.*.tokenizer",
    "by_split.*.*.seed",
    "by_split.*.*.chats",
    "by_split.*.base model",
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


PER_SPLIT = ("weights", "name", "tokenizer")
"""Parts of a simulator's identity that may belong to one split; a model from nothing has its own tokenizer there."""
PER_RUN = ("simulator", "held_out_sha256", "questions_sha256", "seed", "block_size")


def signature(model: str, manifest: Manifest, chats: Sequence[SplitChats], told: Resampling) -> dict[str, object]:
    """The signature of a table; the same in every split but for weights, seeds and counts, which it lists by split.

    Raises:
        ChatbenchError: two splits were simulated with different settings or assistants.
    """
    shared = {source: _shared(source, chats) for source in (FINE_TUNED, BASE_MODEL)}
    fine_tuned, base_model = shared[FINE_TUNED], shared[BASE_MODEL]
    return {
        "chatbench": metadata.version("chatbench"),
        "study": manifest.study_name,
        "question_set_sha256": manifest.questions_sha256,
        "split_seed": manifest.seed,
        "train_share": manifest.train_share,
        "model": model,
        "protocol": fine_tuned.get("style", ""),
        **{name: value for name, value in fine_tuned.items() if name != "style"},
        "base_conversations": base_model.get("conversations", 0),
        "bleu": "evaluate, unsmoothed, 13a, 0..1",
        "rouge": "rouge-score, F, no stemmer",
        "sacrebleu": sacrebleu_score(BleuCounts())[1],
        "ece": f"{CALIBRATION_BINS} equally wide bins",
        "resampling": resampling_text(told),
        "assistants": _assistants(chats),
        "base model": base_model,
        "by_split": {entry.split.id: _of_split(entry) for entry in chats},
    }


def resampling_text(told: Resampling) -> str:
    """How intervals were made, in words.

    >>> resampling_text(Resampling(1000, 0.95, 0))
    '95 % confidence, 1000 resamples of questions and people, seed 0'
    """
    if not told.replicates:
        return "none"
    return (
        f"{100 * told.confidence:g} % confidence, {told.replicates} resamples of questions and people, seed {told.seed}"
    )


def _shared(source: str, chats: Sequence[SplitChats]) -> dict[str, object]:
    """Decoding, protocol and numbers of a source, which all splits must agree on; empty where no split has it."""
    having = [entry for entry in chats if source in entry.settings]
    found = [_shared_by_splits(entry.settings[source]) for entry in having]
    for entry, settings in zip(having, found, strict=True):
        for name in sorted(settings.keys() | found[0].keys()):
            _refuse_difference(
                f"the {source} simulator's {name}", having[0], found[0].get(name), entry, settings.get(name)
            )
    return found[0] if found else {}


def _shared_by_splits(settings: Mapping[str, object]) -> dict[str, object]:
    simulator = cast(Mapping[str, object], settings["simulator"])
    of_simulator = {name: value for name, value in simulator.items() if name not in PER_SPLIT}
    return {**{name: value for name, value in settings.items() if name not in PER_RUN}, **of_simulator}


def _assistants(chats: Sequence[SplitChats]) -> dict[str, object]:
    known: dict[str, object] = {}
    for entry in chats:
        for assistants in entry.assistants.values():
            for name, identity in assistants.items():
                _refuse_difference(f"assistant {name}", chats[0], known.setdefault(name, identity), entry, identity)
    return known


def _refuse_difference(what: str, first: SplitChats, before: object, other: SplitChats, now: object) -> None:
    if before != now:
        raise ChatbenchError(
            f"{what} differs: {before!r} in {first.split.id}, {now!r} in {other.split.id}",
            expected="splits simulated alike, to average over them",
            fix="simulate one of them again with --overwrite, or score a part: --split SPLIT",
        )


def _simulator(entry: SplitChats, source: str) -> Mapping[str, object]:
    return cast(Mapping[str, object], entry.settings[source]["simulator"])


def _of_split(entry: SplitChats) -> dict[str, object]:
    sources = {simulation.source: simulation for simulation in entry.simulations}
    return {
        source: {
            **{name: _simulator(entry, source).get(name) for name in ("weights", "tokenizer")},
            "seed": entry.settings[source].get("seed"),
            "held_out_sha256": entry.settings[source]["held_out_sha256"],
            "chats": len(simulation.chats),
        }
        for source, simulation in sources.items()
    }
