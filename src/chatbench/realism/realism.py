"""How realistic a model's simulated users are, per split and over splits: computed, written and shown.

Reads the stored chats and the study, and writes `results/realism/<model>/split_i.json` and `summary.json`. Nothing is
generated, except with `termination`, which queries the model. Files of the base model end in `_base`.

A mean over splits is shown with its standard error. Random splits share questions; the error corrected for that (Nadeau
and Bengio 2003) is in the file beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import write_json
from chatbench.core.progress import WorkProgress, tracked
from chatbench.core.records import Study
from chatbench.core.settings import name_in_tables
from chatbench.data.workspace import Workspace
from chatbench.metrics.agreement import Estimate, Undefined, Value, over_splits
from chatbench.metrics.names import BASE_MODEL, FINE_TUNED, Predictor
from chatbench.metrics.pairs import Simulation, grouped
from chatbench.metrics.resampling import Resampling
from chatbench.realism.chats import ChatTraits, on_common_cells, real_chats, simulated_chats, traits_of
from chatbench.realism.comparison import HALVINGS, Comparison, Realism
from chatbench.realism.comparison import realism as compare
from chatbench.realism.detectability import Detection
from chatbench.realism.termination import Termination, stored_termination, termination_of
from chatbench.report.grids import EMPTY, Grid, grids_of, number, percent
from chatbench.report.tables import cell_text
from chatbench.scoring.score_files import estimate_as_json, plain
from chatbench.scoring.score_table import signature, signature_id
from chatbench.simulation.split_chats import SplitChats, read_chats, simulated_splits

Say = Callable[[str], None]

OF_SCORES_ONLY = ("bleu", "rouge", "sacrebleu", "ece", "resampling")
"""Parts of the scores' signature that realism does not depend on."""
COLUMNS = ("simulated", "people", "apart", "people_apart")
TERMINATION_NAMES = {
    "f1": "F1 of ending",
    "f1_always": "floor: always ends",
    "f1_by_chance": "floor: by chance, as often as people after so many replies",
    "precision": "precision",
    "recall": "recall",
    "predicted_share": "simulator ends",
    "ended_share": "people end",
    "brier": "Brier score of the probability of ending",
    "brier_floor": "floor: people's share everywhere",
    "calibration_error": "calibration error of that probability",
}


@dataclass(frozen=True, slots=True)
class RealismTable:
    """Realism of one simulator on its splits; the two question counts are means over splits."""

    model: str
    source: str
    splits: Mapping[str, Realism]
    termination: Mapping[str, Termination]
    train_questions: float
    test_questions: float
    signature: Mapping[str, object]
    notes: tuple[str, ...] = ()

    @property
    def signature_id(self) -> str:
        return signature_id(self.signature)

    def mean(self, values: Sequence[Value]) -> Estimate:
        """Mean and standard errors over splits."""
        return over_splits(values, train_questions=self.train_questions, test_questions=self.test_questions)

    def measures(self) -> dict[str, list[Comparison]]:
        """The comparisons of each measure, one per split."""
        return grouped((each.measure, each) for realism in self.splits.values() for each in realism.comparisons)


def as_json(table: RealismTable) -> dict[str, dict[str, object]]:
    """Content of each file by name: one per split, and `summary`."""
    head = {name: plain(getattr(table, name)) for name in ("model", "source", "signature_id", "signature")}
    files = {split_id: {**head, "split": split_id, "realism": plain(one)} for split_id, one in table.splits.items()}
    for split_id, scores in table.termination.items():
        files[split_id]["termination"] = plain(scores)

    def averaged(values: Sequence[Value]) -> dict[str, object]:
        estimate = table.mean(values)
        return {**estimate_as_json(estimate), "splits": estimate.n}

    measures: list[dict[str, object]] = []
    for name, found in table.measures().items():
        columns = {column: [getattr(one, column) for one in found] for column in (*COLUMNS, "further")}
        estimates = {column: averaged(values) for column, values in columns.items() if None not in values}
        measures.append({"measure": name, "unit": found[0].unit, **estimates})
    stops = list(table.termination.values())
    termination = {name: averaged([getattr(scores, name) for scores in stops]) for name in TERMINATION_NAMES}
    summary = {**head, "splits": list(table.splits), "notes": list(table.notes), "measures": measures}
    return {**files, "summary": {**summary, "termination": termination if stops else {}}}


def realism_grids(table: RealismTable) -> list[Grid]:
    """Grids of all measures and, if computed, of termination; of the first split, its classes and top features."""
    rows = []
    for name, of_splits in table.measures().items():
        unit = of_splits[0].unit
        show = percent if unit == "share" else number
        columns = [_value(table, [getattr(one, column) for one in of_splits], show) for column in COLUMNS]
        further = [one.further for one in of_splits if one.further is not None]
        label = name if unit in ("share", "") else f"{name} ({unit})"
        rows.append((label, *columns, percent(table.mean(further).mean) if further else EMPTY))
    stops = list(table.termination.values())
    points = sum(one.decisions for one in stops) / max(1, len(stops))
    split_id, first = next(iter(table.splits.items()))
    found = first.detected if isinstance(first.detected, Detection) else None
    return grids_of([
        (f"Realism of {table.model}, {table.source} ({table.test_questions:.4g} held-out questions per split)",
         ("", "simulated", "people", "apart", "people apart", "further"), rows),
        (f"Does it stop where people stop? ({points:.0f} points of real chats per split)", ("", table.source),
         ((label, _value(table, [getattr(one, name) for one in stops], number))
          for name, label in TERMINATION_NAMES.items() if stops)),
        (f"Classes of behaviour, by what sets them apart ({split_id})", ("", "simulated", "people"),
         ((one.name, percent(one.simulated), percent(one.people)) for one in first.classes)),
        (f"What the classifier goes by ({split_id}; permutation p {found.p_value if found else 1:.3f})",
         ("speaks for simulated", "weight", "speaks for a person", "weight"),
         ((one.feature, f"{one.weight:+.2f}", other.feature, f"{other.weight:+.2f}")
          for one, other in (zip(found.telling_second, found.telling_first, strict=True) if found else ()))),
    ])  # fmt: skip


def _value(table: RealismTable, values: Sequence[Value | None], show: Callable[[Value | None], str]) -> str:
    known = [value for value in values if value is not None]
    return cell_text(replace(table.mean(known), undefined=0) if known else None, show)


def realism_footnotes(table: RealismTable) -> list[str]:
    """What the table covers, how to read it, and what is missing."""
    people, simulated, persons = (
        sum(getattr(one, name) for one in table.splits.values()) / len(table.splits)
        for name in ("chats", "simulated_chats", "people")
    )
    detected = next(iter(table.splits.values())).detected
    missing = [f"classifier: {detected}"] if isinstance(detected, Undefined) else []
    chats = f"{people:.0f} of {persons:.0f} people, {simulated:.0f} simulated"
    return [
        f"splits: {len(table.splits)}; chats per split: {chats}",
        "apart: distance from the simulated chats to half of the people; people apart: from the other half to the "
        "same half, with equally many chats; further: share of random halvings in which the simulated chats are "
        "further away, ties counting half",
        *missing,
        *table.notes,
        f"signature {table.signature_id}",
    ]


class UnknownAssistantsError(ChatbenchError):
    """People worked with none of the simulated assistants."""


@dataclass(frozen=True, slots=True)
class RealismSettings:
    """`base_model`: compare the base model's chats instead; `termination`: query the model at every stopping point."""

    base_model: bool = False
    termination: bool = False
    seed: int = 0

    @property
    def predictor(self) -> Predictor:
        return BASE_MODEL if self.base_model else FINE_TUNED


def realism(
    model: str,
    *,
    workspace: Workspace,
    splits: Sequence[str] | None = None,
    settings: RealismSettings | None = None,
    say: Say = print,
) -> RealismTable:
    """Compare simulated chats of the given splits (None: all that have some) with people's, and write the files.

    Raises:
        UnknownAssistantsError: as named.
        ChatbenchError: no chats, chats of other data, or none with an assistant that people worked with.
    """
    settings, given, model = settings or RealismSettings(), model, name_in_tables(model)
    study = workspace.study
    chosen, notes = simulated_splits(workspace, model, splits)
    chats = [read_chats(workspace, model, split_id) for split_id in chosen]
    lacking = [entry.split.id for entry in chats if settings.predictor not in entry.settings]
    simulate = f"chatbench simulate {model} --assistant SPEC --base"
    if lacking and (splits is not None or len(lacking) == len(chats)):
        raise ChatbenchError(
            f"{', '.join(lacking)}: no chats of the {settings.predictor}", fix=f"{simulate} --split {lacking[0]}"
        )
    notes += [f"{s}: no chats of the {settings.predictor}, left out; {simulate} --split {s}" for s in lacking]
    chats = [entry for entry in chats if entry.split.id not in lacking]
    folder, ending = workspace.realism(model), "_base" if settings.base_model else ""
    everyone = real_chats(study.conversations, study.questions)
    people = [traits_of(chat) for chat in tracked(everyone, "people's chats", "chats")]
    found: dict[str, Realism] = {}
    stops: dict[str, Termination] = {}
    base_model = settings.base_model
    for entry in chats:
        found[entry.split.id] = of_split(study, people, entry, settings)
        stop = stored_termination(workspace, model, entry, base_model=base_model)
        if stop is None and settings.termination:
            stop = termination_of(workspace, given, entry, base_model=base_model, say=say)
        if stop is not None:
            stops[entry.split.id] = stop
    of_scores = signature(model, workspace.manifest, chats, Resampling(replicates=0))
    sizes = {part: [len(entry.split.question_ids(part)) for entry in chats] for part in ("train", "test")}
    table = RealismTable(
        model=model,
        source=_simulation(chats[0], settings).predictor.label,
        splits=found,
        termination=stops,
        train_questions=sum(sizes["train"]) / len(chats),
        test_questions=sum(sizes["test"]) / len(chats),
        signature={
            **{name: value for name, value in of_scores.items() if name not in OF_SCORES_ONLY},
            "halvings": HALVINGS,
            "realism_seed": settings.seed,
            **{name: metadata.version(name) for name in ("scikit-learn", "scipy")},
        },
        notes=tuple(notes),
    )
    for name, content in as_json(table).items():
        write_json(folder / f"{name}{ending}.json", content)
    return table


def of_split(study: Study, people: Sequence[ChatTraits], entry: SplitChats, settings: RealismSettings) -> Realism:
    """Compare one split; `people` are the traits of the study's chats, in their order.

    Raises:
        ChatbenchError: all of this simulator's chats failed, or are with assistants that people did not work with.
    """
    simulation = _simulation(entry, settings)
    sides = grouped(zip(map(entry.split.part_of, study.conversations), people, strict=True))
    chats = simulated_chats(simulation.chats, study.questions)
    of_simulator = map(traits_of, tracked(chats, f"{entry.split.id}, simulated chats", "chats"))
    real, simulated = on_common_cells(sides.get("test", []), of_simulator)
    failures = Counter(chat.reason for chat in simulation.chats if chat.termination == "failed")
    if failures and failures.total() == len(simulation.chats):
        raise ChatbenchError(
            f"{entry.split.id}, {simulation.predictor}: all {failures.total()} chats failed "
            f"(most common reason: {failures.most_common(1)[0][0]})",
            fix="remove the cause, then simulate again with --overwrite",
        )
    if not real:
        strangers = {chat.assistant for chat in simulation.chats}.isdisjoint(study.assistants)
        raise (UnknownAssistantsError if strangers else ChatbenchError)(
            f"{entry.split.id}, {simulation.predictor}: no question on which people had the same assistant",
            expected=f"chats with {', '.join(study.assistants) or 'an assistant'}, as people did",
            fix="simulate with these assistants",
        )
    with WorkProgress(f"{entry.split.id}, realism", "measures") as progress:
        return compare(real, simulated, sides.get("train", []), settings.seed, progress)


def _simulation(entry: SplitChats, settings: RealismSettings) -> Simulation:
    """The chats to compare; their predictor names a simulator that was not fine-tuned here."""
    return next(one for one in entry.simulations if one.predictor == settings.predictor)
