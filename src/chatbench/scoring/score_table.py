"""The score table of one model: metrics of every split, their means, and the signature of what was scored.

A signature names the data, split seed, simulator, decoding, protocol, assistants, version and counts behind the scores.
Scores may be compared, and tables shown side by side (`comparable`), only if their signatures differ in nothing but the
simulator. A comparison can ignore other differences by name: a leaf, everything below a name (`assistants`), a pattern
(`assistants.*.temperature`), or a group of them.

A simulator's metrics have a floor, reached without fine-tuning, and a ceiling, reached by as many other people as there
are chats. A prediction without the sampling noise of chats can exceed that ceiling.

| metrics | floor | ceiling |
|---|---|---|
| agreement | the best of baselines and base model | human noise ceiling for its number of chats |
| overlap of first prompts | the base model | human prompts against human prompts |
| perplexity, bits per byte | the base model | unknown: nobody knows how predictable people are |

Bias has neither. Only a predictor of all pairs that the simulator is scored on can be the floor: fewer pairs may be
easier. The normalised score is (score - floor) / (ceiling - floor), defined if the ceiling is better than the floor.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Any, cast

from chatbench.core.configurations import Difference, differences, matches
from chatbench.core.errors import ChatbenchError
from chatbench.data.prepared import Manifest
from chatbench.metrics.agreement import CALIBRATION_BINS, Estimate, Undefined, Value, over_splits
from chatbench.metrics.names import (
    BASE_MODEL,
    EVERY_ASSISTANT,
    FINE_TUNED,
    MEAN_OF_ASSISTANTS,
    PEOPLE,
    TEXT_METRICS,
    WHOLE,
    MetricKey,
    Predictor,
    ceiling,
)
from chatbench.metrics.resampling import Resampling
from chatbench.metrics.text import BleuCounts, TokenizerName, sacrebleu_score
from chatbench.metrics.uncertainty import Uncertainty
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
    *(f"judge.{name}" for name in ("accuracy", "kappa", "answers", "unread", "failed", "reason", "missing")),
)
"""Entries that may differ between compared simulators, including resampling, which changes no metric, and what a judge
had done so far."""

GROUPS = {
    "decoding": ("temperature", "max_tokens"),
    "assistant_decoding": ("assistants.*.temperature", "assistants.*.max_tokens"),
}
PER_SPLIT = ("weights", "tokenizer")
"""Parts of a simulator's identity that may differ per split (a model trained from scratch has its own tokenizer)."""
PROMPTING = ("style", "prompts_sha256", "simulator_kind", "expected_answers")
"""Settings of a run that belong to its simulator, besides its identity (model, address, decoding). All others belong to
the protocol and may not differ between compared simulators."""
PER_RUN = ("simulator", "held_out_sha256", "questions_sha256", "seed", "block_size")

HIGHER_IS_BETTER = ("pearson", "spearman", *TEXT_METRICS, "sacrebleu")
BOUNDED_AGREEMENT = ("pearson", "spearman", "mae", "rmse", "ece")
SURPRISE = ("perplexity", "bits_per_byte")
MOST = 0.5
"""The score table begins with a warning if more than this share of chats has no answer."""


def incompatible(one: Mapping[str, object], other: Mapping[str, object]) -> list[Difference]:
    """Differences between two signatures other than the simulator itself."""
    return [each for each in differences(one, other) if not matches(each.name, OF_THE_SIMULATOR)]


def ignorable(name: str, ignore: Sequence[str]) -> bool:
    """Whether `ignore` (names, patterns, or names of `GROUPS`) covers a difference of that name."""
    return matches(name, [pattern for each in ignore for pattern in GROUPS.get(each, (each,))])


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


@dataclass(frozen=True, slots=True)
class Bounds:
    """Floor (and its predictor) and ceiling of one metric, and the score between them.

    All three are means over the same splits: those that have each of them that any split has. `partial` predictors
    cover too few pairs to be the floor.
    """

    floor: Value
    floor_predictor: Predictor | None
    ceiling: Value
    score: Value
    higher_is_better: bool
    partial: tuple[Predictor, ...] = ()

    @property
    def normalised(self) -> Value:
        """The normalised score: 0 at the floor, 1 at the ceiling."""
        for value in (self.score, self.floor, self.ceiling):
            if isinstance(value, Undefined):
                return value
        low, high, at = (cast(float, value) for value in (self.floor, self.ceiling, self.score))
        if (high > low) != self.higher_is_better or high == low:
            return Undefined("the ceiling is no better than the floor")
        return (at - low) / (high - low)


BySplit = Mapping[str, Value]
NO_COMMON_SPLIT = Undefined("no split has score, floor and ceiling")


def bounds(values: Mapping[MetricKey, BySplit], signature: Mapping[str, object]) -> dict[MetricKey, Bounds]:
    """Compute the floor and ceiling of every simulator metric that has them.

    Args:
        values: of one stratum, by split, including baselines and ceilings.
        signature: has the numbers of chats per pair.
    """
    # Chats per pair of every simulator in the table and of its variants.
    counts = {FINE_TUNED: signature.get("conversations"), BASE_MODEL: signature.get("base_conversations")}
    chats = {predictor: count for predictor, count in counts.items() if isinstance(count, int) and count > 0}
    if BASE_MODEL in chats:
        chats[replace(FINE_TUNED, chats=chats[BASE_MODEL])] = chats[BASE_MODEL]
    chats |= {replace(predictor, invalid="dropped"): count for predictor, count in chats.items()}
    found: dict[MetricKey, Bounds] = {}
    for row, score in values.items():
        assistant, predictor, metric = row
        if predictor not in chats:
            continue
        higher = metric in HIGHER_IS_BETTER
        if metric in BOUNDED_AGREEMENT:
            top = values.get((assistant, ceiling(chats[predictor]), metric), _no("it was not measured"))
            found[row] = _above_best_baseline(values, row, top)
        elif higher or metric.startswith(SURPRISE):
            itself, of_base = predictor == BASE_MODEL, (assistant, BASE_MODEL, metric)
            floor = values.get(of_base, _no("the base model was not measured"))
            top = values.get((assistant, PEOPLE, metric), _no("it was not measured"))
            (at, low, high), _ = _on_common_splits(
                score,
                _no("it is the floor itself") if itself else floor,
                top if higher else _no("nobody knows how predictable people are"),
            )
            found[row] = Bounds(low, BASE_MODEL if of_base in values and not itself else None, high, at, higher)
    return found


def _no(reason: str) -> BySplit:
    return {"": Undefined(reason)}


def _on_common_splits(*rows: BySplit) -> tuple[tuple[Value, ...], int]:
    """Mean of each row over the splits, and their number, in which all rows are defined that any split defines."""
    known = [{split: value for split, value in row.items() if not isinstance(value, Undefined)} for row in rows]
    common = set[str]().union(*known).intersection(*filter(None, known))
    return tuple(
        math.fsum(has[split] for split in common) / len(common)
        if has and common
        else NO_COMMON_SPLIT if has else next(iter(row.values()))
        for row, has in zip(rows, known, strict=True)
    ), len(common)  # fmt: skip


def _above_best_baseline(values: Mapping[MetricKey, BySplit], key: MetricKey, top: BySplit) -> Bounds:
    """Bounds of agreement; among baselines, those with a value in more splits come first.

    Baselines that do not cover all the simulator's pairs are `partial`.
    """
    assistant, predictor, metric = key
    simulator = replace(predictor, invalid="counted wrong")
    known = {
        other: row
        for (name, other, measured), row in values.items()
        if (name, measured) == (assistant, metric)
        and (other.is_baseline or other == BASE_MODEL)
        and other != simulator
        and not all(isinstance(value, Undefined) for value in row.values())
    }
    name = EVERY_ASSISTANT if assistant == MEAN_OF_ASSISTANTS else assistant
    wanted = values.get((name, simulator, "questions"))
    partial = tuple(other for other in known if values.get((name, other, "questions")) != wanted)
    sign = 1 if metric in HIGHER_IS_BETTER else -1
    best: Predictor | None = None
    reason = "no baseline covers all the simulator's pairs" if partial else "no baseline has a value"
    found, most = _on_common_splits(values[key], _no(reason), top)[0], (-1, 0.0)
    for other in (each for each in known if each not in partial):
        means, count = _on_common_splits(values[key], known[other], top)
        rank = count, sign * (0.0 if isinstance(means[1], Undefined) else means[1])
        if rank > most:
            found, most, best = means, rank, other if count else None
    at, low, high = found
    return Bounds(low, best, high, at, metric in HIGHER_IS_BETTER, partial)


@dataclass(frozen=True, slots=True)
class Score:
    """One metric of one split, on all its pairs or on a stratum (a condition or a subset)."""

    split: str
    assistant: str
    predictor: Predictor
    metric: str
    value: Value
    stratum: str = WHOLE


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """All metrics of one model over `splits`.

    `train_questions` and `test_questions` are means over the splits; `scored_questions` is the number of distinct
    questions behind the agreement metrics.
    """

    model: str
    splits: tuple[str, ...]
    train_questions: float
    test_questions: float
    scores: tuple[Score, ...]
    signature: Mapping[str, object]
    notes: tuple[str, ...] = ()
    uncertainty: Uncertainty = field(default_factory=Uncertainty)
    scored_questions: int = 0

    @property
    def signature_id(self) -> str:
        return signature_id(self.signature)

    @property
    def signature_with_splits(self) -> dict[str, object]:
        return {"splits": list(self.splits), **self.signature}

    @property
    def simulator(self) -> Predictor:
        """The scored simulator, including its name."""
        return next((score.predictor for score in self.scores if score.predictor == FINE_TUNED), FINE_TUNED)

    @property
    def warning(self) -> str:
        """Warning that most chats have no answer, with what helps; empty if most have one."""
        found = self.estimates().get((EVERY_ASSISTANT, self.simulator, "without_answer_share"))
        if found is None or isinstance(found.mean, Undefined) or found.mean <= MOST:
            return ""
        kind = cast(Mapping[str, object], self.signature.get("simulator", {})).get("simulator_kind", "tuned")
        tuned = "fine-tune it for more epochs (--num-train-epochs) or from a larger base"
        return (
            f"{self.model}: {found.mean:.0%} of the chats of {self.simulator} have no valid answer, so no score says "
            f"how well it predicts people; {tuned if kind == 'tuned' else 'choose another model or style'}; how the "
            f"chats end: chatbench export {self.model} --to chats.csv"
        )

    @property
    def strata(self) -> list[str]:
        """Names of the strata, beginning with `WHOLE`."""
        return list(dict.fromkeys((WHOLE, *(score.stratum for score in self.scores))))

    def values(self, stratum: str = WHOLE) -> dict[MetricKey, dict[str, Value]]:
        """Value per split of every row of a stratum, in the order of the scores."""
        rows: dict[MetricKey, dict[str, Value]] = {}
        for score in self.scores:
            if score.stratum == stratum:
                rows.setdefault((score.assistant, score.predictor, score.metric), {})[score.split] = score.value
        return rows

    def estimates(self, stratum: str = WHOLE) -> dict[MetricKey, Estimate]:
        """Mean and standard errors over splits of every row of a stratum."""
        return {
            row: over_splits(
                list(values.values()), train_questions=self.train_questions, test_questions=self.test_questions
            )
            for row, values in self.values(stratum).items()
        }

    def bounds(self, stratum: str = WHOLE) -> dict[MetricKey, Bounds]:
        """Floor and ceiling of the simulators' rows of a stratum."""
        return bounds(self.values(stratum), self.signature)


def signature_line(signature: Mapping[str, object]) -> str:
    """Format a signature on one line, with hashes cut to 12 digits and nested entries (per split, ...) omitted.

    >>> signature_line({"study": "sample", "split_seed": 0, "weights": {"split_0": "ab"}})
    'study:sample|split_seed:0'
    """
    simulator = signature.get("simulator")
    if isinstance(simulator, Mapping):
        signature = {**signature, **{f"simulator.{name}": value for name, value in simulator.items()}}
    strata = {name: value for name, value in signature.items() if not isinstance(value, dict | list)}
    return "|".join(f"{name}:{str(value)[:12] if name.endswith('sha256') else value}" for name, value in strata.items())


def comparable(tables: Sequence[ScoreTable]) -> None:
    """Check that score tables are of the same data, splits, protocol and assistants.

    Raises:
        ChatbenchError: the signatures differ in more than the simulator, or the scored splits differ.
    """
    first = tables[0]
    for other in tables[1:]:
        for found in incompatible(first.signature_with_splits, other.signature_with_splits):
            raise ChatbenchError(
                f"{first.model} and {other.model} differ in {found.name}: {found.one} and {found.other}",
                expected="scores of the same data, splits and protocol in one table",
                fix="score both on the same data, splits and settings, or show them in two tables: "
                f"chatbench show {first.model}; chatbench show {other.model}",
            )
