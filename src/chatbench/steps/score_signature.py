"""What scores are scores of: data, split seed, simulator, decoding, protocol, assistants, version, counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import cast

from chatbench.core.errors import ChatbenchError
from chatbench.measures.agreement import CALIBRATION_BINS
from chatbench.measures.figures import FINE_TUNED, UNTRAINED
from chatbench.measures.overlap import BleuCounts, sacrebleu_score
from chatbench.measures.resampling import Resampling
from chatbench.protocol.prepared_data import Manifest
from chatbench.steps.simulation_files import SplitChats

PER_SPLIT = ("weights", "name", "tokenizer")
"""Parts of a simulator's identity that may belong to one split; a model from nothing has its own tokenizer there."""
PER_RUN = ("simulator", "held_out_sha256", "questions_sha256", "seed", "block_size")


def signature(model: str, manifest: Manifest, chats: Sequence[SplitChats], told: Resampling) -> dict[str, object]:
    """The signature of a table; the same in every split but for weights, seeds and counts, which it lists by split.

    Raises:
        ChatbenchError: two splits were simulated with different settings or assistants.
    """
    shared = {source: _shared(source, chats) for source in (FINE_TUNED, UNTRAINED)}
    fine_tuned, untrained = shared[FINE_TUNED], shared[UNTRAINED]
    return {
        "chatbench": metadata.version("chatbench"),
        "study": manifest.study_name,
        "question_set_sha256": manifest.questions_sha256,
        "split_seed": manifest.seed,
        "train_share": manifest.train_share,
        "model": model,
        "protocol": fine_tuned.get("style", ""),
        **{name: value for name, value in fine_tuned.items() if name != "style"},
        "conversations_untrained": untrained.get("conversations", 0),
        "bleu": "evaluate, unsmoothed, 13a, 0..1",
        "rouge": "rouge-score, F, no stemmer",
        "sacrebleu": sacrebleu_score(BleuCounts())[1],
        "ece": f"{CALIBRATION_BINS} equally wide bins",
        "resampling": resampling_text(told),
        "assistants": _assistants(chats),
        "untrained": untrained,
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
