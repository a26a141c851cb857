r"""Signature of scores: data, split seed, simulator, decoding, protocol, assistants, version and counts behind them.

Scores are compatible if their signatures differ in the simulator only. A comparison can ignore other differences by
name: a leaf, everything below a name (`assistants`), a pattern (`assistants.*.temperature`), or a group of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, cast

from chatbench.core.configurations import Difference, differences, matches
from chatbench.core.errors import ChatbenchError
from chatbench.data.prepared import Manifest
from chatbench.metrics.agreement import CALIBRATION_BINS
from chatbench.metrics.names import BASE_MODEL, FINE_TUNED, Predictor
from chatbench.metrics.overlap import BleuCounts, TokenizerName, sacrebleu_score
from chatbench.metrics.resampling import Resampling
from chatbench.simulation.participants import SPLIT_MARK
from chatbench.simulation.split_chats import SplitChats

OF_THE_SIMULATOR = (
    "model",
    "simulator",
    "base_conversations",
    "base model",
    "by_split.*.*.weights",
    "by_split.*.*.tokenizer",
    "by_split.*.*.seed",
    "by_split.*.*.chats",
    "by_split.*.base model",
    "resampling",
)
"""Entries that may differ between compared simulators, including resampling, which changes no metric."""

GROUPS = {
    "decoding": ("temperature", "max_tokens"),
    "assistant_decoding": ("assistants.*.temperature", "assistants.*.max_tokens"),
}


def incompatible(one: Mapping[str, object], other: Mapping[str, object]) -> list[Difference]:
    """Differences between two signatures other than the simulator itself."""
    return [each for each in differences(one, other) if not matches(each.name, OF_THE_SIMULATOR)]


def ignorable(name: str, ignore: Sequence[str]) -> bool:
    """Whether `ignore` (names, patterns, or names of `GROUPS`) covers a difference of that name."""
    return matches(name, [pattern for each in ignore for pattern in GROUPS.get(each, (each,))])


PER_SPLIT = ("weights", "tokenizer")
"""Parts of a simulator's identity that may differ per split (a model trained from scratch has its own tokenizer)."""
PROMPTING = ("style", "prompts_sha256", "simulator_kind", "expected_answers")
"""Settings of a run that belong to its simulator, besides its identity (model, address, decoding). All others belong to
the protocol and may not differ between compared simulators."""
PER_RUN = ("simulator", "held_out_sha256", "questions_sha256", "seed", "block_size")


def signature(
    model: str,
    manifest: Manifest,
    chats: Sequence[SplitChats],
    resampling: Resampling,
    tokenizer: TokenizerName = "published",
) -> dict[str, object]:
    """Build the signature of a score table; weights, seeds and counts, which may differ between splits, are by split.

    Raises:
        ChatbenchError: two splits were simulated with different settings or assistants.
    """
    simulators, assistants = _shared(chats)
    scored, base_model = (simulators.get(predictor, {}) for predictor in (FINE_TUNED, BASE_MODEL))
    return {
        **of_the_splits(manifest),
        "train_share": manifest.train_share,
        "model": model,
        **scored,
        "base_conversations": base_model.get("conversations", 0),
        "bleu": f"evaluate, unsmoothed, {'13a' if tokenizer == 'published' else tokenizer}, 0..1",
        "rouge": "rouge-score, F, no stemmer" + ("" if tokenizer == "published" else f", {tokenizer}"),
        "sacrebleu": sacrebleu_score(BleuCounts(), tokenizer)[1],
        "ece": f"{CALIBRATION_BINS} equally wide bins",
        "resampling": resampling_text(resampling),
        "assistants": assistants,
        "base model": base_model,
        "by_split": {
            entry.split.id: {
                _key(one.predictor): _of_chats(entry.settings[one.predictor], len(one.chats))
                for one in entry.simulations
            }
            for entry in chats
        },
    }


def of_the_splits(manifest: Manifest) -> dict[str, object]:
    """The entries that every signature begins with: version, study, and how it was split."""
    return {
        "chatbench": metadata.version("chatbench"),
        "study": manifest.study_name,
        "question_set_sha256": manifest.questions_sha256,
        "split_by": manifest.by + (", also questions" if manifest.also_questions else ""),
        "split_seed": manifest.seed,
    }


def signature_id(signature: Mapping[str, object]) -> str:
    """First 12 hexadecimal digits of the SHA-256 of a signature."""
    text = json.dumps(signature, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def resampling_text(resampling: Resampling) -> str:
    """Describe how intervals were computed.

    >>> resampling_text(Resampling(1000, 0.95, 0))
    '95 % confidence, 1000 resamples of questions and people, seed 0'
    """
    if not resampling.replicates:
        return "none"
    return (
        f"{100 * resampling.confidence:g} % confidence, {resampling.replicates} resamples of questions and people, "
        f"seed {resampling.seed}"
    )


def _shared(chats: Sequence[SplitChats]) -> tuple[dict[Predictor, dict[str, object]], dict[str, object]]:
    """Collect the settings of each simulator and assistant; raise ChatbenchError if they differ between splits."""
    simulators: dict[Predictor, dict[str, object]] = {}
    assistants: dict[str, object] = {}
    first: dict[str, tuple[str, Mapping[str, object]]] = {}  # the split where each was first seen, and its value there

    def refuse_others(what: str, found: Mapping[str, object], split: str) -> None:
        split_before, before = first.setdefault(what, (split, found))
        for each in differences(before, found):
            raise ChatbenchError(
                f"{what}: {each.name} differs: {each.one!r} in {split_before}, {each.other!r} in {split}",
                expected="the same settings in all splits, since scores are averaged over them",
                fix="simulate one of them again with --overwrite, or score only some splits: --split SPLIT",
            )

    for entry in chats:
        for predictor, settings in entry.settings.items():
            found = _of_run(settings, entry.split.id)
            refuse_others("the base model" if predictor == BASE_MODEL else "the simulator", found, entry.split.id)
            simulators.setdefault(predictor, found)
            for name, assistant in entry.assistants[predictor].items():
                refuse_others(f"assistant {name}", cast(Mapping[str, object], assistant), entry.split.id)
                assistants.setdefault(name, assistant)
    return simulators, assistants


def _of_run(settings: Mapping[str, object], split_id: str) -> dict[str, object]:
    """The settings of a simulator's run that are the same in all splits."""
    simulator = cast(Mapping[str, object], settings["simulator"])
    identity = {name: value for name, value in simulator.items() if name not in PER_SPLIT}
    if isinstance(model := identity.get("name"), str):
        identity["name"] = model.replace(split_id, SPLIT_MARK)
    found: dict[str, object] = {n: value for n, value in settings.items() if n not in (*PER_RUN, *PROMPTING)}
    found["simulator"] = {**{name: settings.get(name) for name in PROMPTING}, **identity}
    return found


def _key(predictor: Predictor) -> str:
    return BASE_MODEL.kind if predictor == BASE_MODEL else "simulator"


def _of_chats(settings: Mapping[str, object], chats: int) -> dict[str, object]:
    simulator = cast(Mapping[str, object], settings["simulator"])
    return {
        **{name: simulator.get(name) for name in PER_SPLIT},
        "seed": settings.get("seed"),
        "held_out_sha256": settings["held_out_sha256"],
        "chats": chats,
    }


def is_of_log(
    signature: Mapping[str, Any],
    split_id: str,
    predictor: Predictor,
    run: tuple[Mapping[str, object], Mapping[str, object]],
    chats: int,
) -> bool:
    """Whether scores with this signature are of a log's chats: so many, by a run with these settings and assistants."""
    settings, assistants = run
    of_splits, is_base = signature["by_split"], predictor == BASE_MODEL
    scored = of_splits.get(split_id, {}).get(_key(predictor))
    if scored is None:  # fine if there is nothing to score: a base model is scored beside the simulator only
        return not chats or (is_base and split_id not in of_splits)
    of_run, known = _of_run(settings, split_id), signature[BASE_MODEL.kind] if is_base else signature
    before = {**scored, **{name: known.get(name) for name in of_run}}
    before["assistants"] = {name: signature["assistants"].get(name) for name in assistants}
    return not differences(before, {**_of_chats(settings, chats), **of_run, "assistants": assistants})
