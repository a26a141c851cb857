"""The whole pipeline for one model: splits; fine-tuning, perplexity and simulated chats of each split; scores.

Every step continues or skips what it did before, so the same command, run again after a kill, finishes the rest. Steps
run in this process, one after another; time is measured per step, memory as the peak of the whole run.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from chatbench.core.configurations import differences
from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Study
from chatbench.data.examples import RowFormat
from chatbench.data.prepare_splits import prepare_splits
from chatbench.data.prepared import Manifest
from chatbench.data.workspace import Workspace
from chatbench.endpoints.address import EndpointOptions
from chatbench.realism.realism import realism
from chatbench.realism.table import RealismTable
from chatbench.report.tables import write_markdown
from chatbench.scoring.eval_chatbench import eval_chatbench
from chatbench.scoring.eval_ppl import eval_ppl
from chatbench.scoring.score_table import ScoreTable
from chatbench.simulation.budget import Prices, Spending
from chatbench.simulation.participants import TUNED, SimulatorSpec, is_scripted
from chatbench.simulation.simulate import ChatSettings
from chatbench.simulation.simulate_splits import Simulations, simulate_splits
from chatbench.simulation.summary import count_earlier
from chatbench.training.finetune import finetune

Say = Callable[[str], None]
StepName = Literal["prepare", "finetune", "ppl", "simulate", "base", "scores", "realism"]
STEPS: tuple[StepName, ...] = get_args(StepName)


@dataclass(frozen=True, slots=True)
class RunSettings:
    """Settings of a run; no `assistants` means those of the study (`default_assistants`), no `only` every split.

    `base_conversations` are chats per held-out question and assistant: the base model only stands beside the fine-tuned
    one, so it gets fewer than `chats` asks for; 0 leaves it out. A `simulator` that is not fine-tuned needs neither the
    base model nor training, and those steps are left out. `flags` are settings of fine-tuning by name.
    """

    splits: int = 10
    only: tuple[str, ...] = ()
    train_share: float = 0.6
    seed: int = 0
    row_format: RowFormat = "messages"
    skip_bad_records: bool = False
    include_pilots: bool = False
    maps: tuple[str, ...] = ()
    assistants: tuple[str, ...] = ()
    chats: ChatSettings = field(default_factory=ChatSettings)
    base_conversations: int = 3
    simulator: SimulatorSpec = TUNED
    options: EndpointOptions = field(default_factory=EndpointOptions)
    config: Path | None = None
    flags: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepTime:
    """Wall-clock seconds of one step; `split` is "" for a step of the whole run."""

    step: StepName
    split: str
    seconds: float


@dataclass(frozen=True, slots=True)
class RunReport:
    """How a run went, its scores and its realism (None where that step was not asked for)."""

    times: tuple[StepTime, ...]
    seconds: float
    peak_bytes: int
    table: ScoreTable | None
    realism: RealismTable | None = None

    def lines(self) -> list[str]:
        """Seconds per step (summed over splits), total time and peak memory."""
        seconds = {name: [one.seconds for one in self.times if one.step == name] for name in STEPS}
        lines = [
            f"{name:<10} {sum(each):8.1f} s" + (f"  ({len(each)} splits)" if len(each) > 1 else "")
            for name, each in seconds.items()
            if each
        ]
        return [*lines, f"{'total':<10} {self.seconds:8.1f} s, peak memory {self.peak_bytes / 1e9:.2f} GB"]


class Clock:
    """Times steps and says which one runs."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.times: list[StepTime] = []
        self.began = time.monotonic()

    @contextmanager
    def step(self, step: StepName, split: str = "") -> Iterator[None]:
        """Times what happens inside; a step that raises is not timed."""
        began = time.monotonic()
        self.say(f"== {step} {split}".rstrip())
        yield
        self.times.append(StepTime(step, split, time.monotonic() - began))


def run_all(
    model: str,
    *,
    study: Path | None,
    workspace: Workspace,
    settings: RunSettings | None = None,
    steps: Sequence[str] = STEPS,
    spending: Spending | None = None,
    say: Say = print,
) -> RunReport:
    """Runs the named steps for all splits.

    Args:
        study: what to prepare; None takes the splits that are prepared.
        steps: some of `STEPS`, in any order.
        spending: prices and one budget for the chats of all splits; what earlier runs recorded counts.

    Raises:
        ChatbenchError: an unknown step or split, other splits than these, or whatever a step raises.
    """
    settings, clock, spending = settings or RunSettings(), Clock(say), spending or Spending(Prices())
    if not steps or not set(steps) <= set(STEPS):
        raise ChatbenchError(f"steps {', '.join(steps) or 'none'}", expected=f"some of {', '.join(STEPS)}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ChatbenchError(
            "the whole pipeline in several processes",
            expected="one process; only fine-tuning is shared",
            fix="accelerate launch src/finetune.py MODEL for each split, then chatbench run without accelerate",
        )
    if settings.simulator != TUNED and (needless := [step for step in steps if step in ("finetune", "ppl", "base")]):
        say(f"left out, as {settings.simulator.text()} is not fine-tuned: {', '.join(needless)}")
        steps = [step for step in steps if step not in needless]
    manifest = _prepared(study, workspace, settings, clock, may_prepare="prepare" in steps)
    _run_splits(model, manifest.split_ids, workspace, settings, steps, spending, clock)
    table, compared = None, None
    if "scores" in steps:
        with clock.step("scores"):
            table = eval_chatbench(model, workspace=workspace)
            write_markdown(table, workspace)
    if "realism" in steps:
        with clock.step("realism"):
            compared = realism(model, workspace=workspace, say=say)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    peak = unit * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return RunReport(tuple(clock.times), time.monotonic() - clock.began, peak, table, compared)


def _run_splits(
    model: str,
    prepared: Sequence[str],
    workspace: Workspace,
    settings: RunSettings,
    steps: Sequence[str],
    spending: Spending,
    clock: Clock,
) -> None:
    """The steps of each split, in the order of `STEPS`.

    Raises:
        ChatbenchError: a split that is not prepared, or whatever a step raises.
    """
    if unknown := set(settings.only) - set(prepared):
        raise ChatbenchError(f"no such split: {', '.join(sorted(unknown))}", expected=f"some of {', '.join(prepared)}")
    assistants = settings.assistants
    if not assistants and {"simulate", "base"} & set(steps):
        assistants = default_assistants(workspace.study)
    for split in prepared:
        for base_model in (False, True):
            count_earlier(spending, workspace.conversations(model, split, base_model=base_model))
    simulations: list[tuple[StepName, int]] = [
        ("simulate", settings.chats.conversations), ("base", settings.base_conversations)
    ]  # fmt: skip
    for split in settings.only or prepared:
        if "finetune" in steps:
            with clock.step("finetune", split):
                flags = settings.flags
                finetune(model, workspace=workspace, split=split, config=settings.config, flags=flags, say=clock.say)
        if "ppl" in steps:
            with clock.step("ppl", split):
                eval_ppl(model, workspace=workspace, split=split, say=clock.say)
        for step, conversations in simulations:
            if step in steps and conversations:
                with clock.step(step, split):
                    chats, simulator = replace(settings.chats, conversations=conversations), settings.simulator
                    asked = Simulations(model, assistants, workspace, chats, split, simulator, step == "base")
                    simulate_splits(asked, spending, clock.say, options=settings.options)


def _prepared(
    study: Path | None, workspace: Workspace, settings: RunSettings, clock: Clock, *, may_prepare: bool
) -> Manifest:
    """The manifest of the splits, which are made where there are none yet.

    What was trained and simulated belongs to the splits that are there: others do not replace them unasked.

    Raises:
        ChatbenchError: the folder holds other splits than these settings make.
    """
    chosen: dict[str, Any] = {
        "by": "question",
        "splits": settings.splits,
        "train_share": settings.train_share,
        "seed": settings.seed,
        "format": settings.row_format,
        "skip_bad_records": settings.skip_bad_records,
        "include_pilots": settings.include_pilots,
        "maps": list(settings.maps),
    }
    if workspace.is_prepared or study is None or not may_prepare:
        manifest = workspace.manifest
        wanted = {} if study is None else {"study_resolved": str(study.resolve()), **chosen}
        for each in differences({name: getattr(manifest, name) for name in wanted}, wanted):
            raise ChatbenchError(
                f"{workspace.data} holds splits with {each.name} {each.one}",
                expected=f"{each.name} {each.other}, as this run has it",
                fix="give another --data and --results, or make the splits again with: chatbench prepare-splits",
            )
        clock.say(f"splits of {manifest.study_name} in {workspace.data}: as before")
        return manifest
    with clock.step("prepare"):
        prepared = prepare_splits(study, workspace.data, **chosen)
    clock.say(prepared.audit)
    return prepared.manifest


def default_assistants(study: Study) -> tuple[str, ...]:
    """The scripted assistants where the study's people worked with them, else the recorded ones.

    Raises:
        ChatbenchError: the study has no chats.
    """
    names = sorted({conversation.assistant for conversation in study.conversations})
    if not names:
        raise ChatbenchError(f"study {study.name}: no chats", fix="name an assistant: --assistant SPEC")
    if all(map(is_scripted, names)):
        return tuple(f"scripted:{name.removeprefix('scripted-')}" for name in names)
    return ("replay:all",)
