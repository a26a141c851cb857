"""Realism of a model's simulated users, per split and over splits.

Reads the stored chats and the study, and writes `results/realism/<model>/split_i.json` and `summary.json`. Nothing is
generated, except with `termination`, which queries the model. Files of the base model end in `_base`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import write_json
from chatbench.core.progress import WorkProgress, tracked
from chatbench.core.records import Study
from chatbench.data.workspace import Workspace
from chatbench.metrics.names import BASE_MODEL, FINE_TUNED, Predictor
from chatbench.metrics.pairs import Simulation
from chatbench.metrics.resampling import Resampling
from chatbench.realism.chats import ChatTraits, on_common_cells, real_chats, simulated_chats, traits_of
from chatbench.realism.comparison import HALVINGS, Realism
from chatbench.realism.comparison import realism as compare
from chatbench.realism.table import RealismTable, as_json
from chatbench.realism.termination import Termination, stored_termination, termination_of
from chatbench.scoring.signature import signature
from chatbench.simulation.split_chats import SplitChats, read_chats, simulated_splits

Say = Callable[[str], None]

OF_SCORES_ONLY = ("bleu", "rouge", "sacrebleu", "ece", "resampling")
"""Parts of the scores' signature that realism does not depend on."""


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
    settings = settings or RealismSettings()
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
    for entry in chats:
        found[entry.split.id] = of_split(study, people, entry, settings)
        base_model = settings.base_model
        stop = stored_termination(workspace, model, entry, base_model=base_model)
        if stop is None and settings.termination:
            stop = termination_of(workspace, model, entry, base_model=base_model, say=say)
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
        ChatbenchError: this simulator has only chats with assistants that people did not work with.
    """
    simulation = _simulation(entry, settings)
    sides: dict[str | None, list[ChatTraits]] = {"train": [], "test": []}
    for chat, traits in zip(study.conversations, people, strict=True):
        sides.setdefault(entry.split.part_of(chat), []).append(traits)
    chats = simulated_chats(simulation.chats, study.questions)
    of_simulator = map(traits_of, tracked(chats, f"{entry.split.id}, simulated chats", "chats"))
    real, simulated = on_common_cells(sides["test"], of_simulator)
    if not real:
        strangers = {chat.assistant for chat in simulation.chats}.isdisjoint(study.assistants)
        raise (UnknownAssistantsError if strangers else ChatbenchError)(
            f"{entry.split.id}, {simulation.predictor}: no question on which people had the same assistant",
            expected=f"chats with {', '.join(study.assistants) or 'an assistant'}, as people did",
            fix="simulate with these assistants",
        )
    with WorkProgress(f"{entry.split.id}, realism", "measures") as progress:
        return compare(real, simulated, sides["train"], settings.seed, progress)


def _simulation(entry: SplitChats, settings: RealismSettings) -> Simulation:
    """The chats to compare; their predictor names a simulator that was not fine-tuned here."""
    return next(one for one in entry.simulations if one.predictor == settings.predictor)
