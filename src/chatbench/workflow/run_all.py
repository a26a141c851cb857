"""The whole pipeline for one model: splits; fine-tuning, perplexity and simulated chats of each split; scores.

Every step continues or skips what it did before, so the same command, run again after a kill, finishes the rest. Steps
are called in this process, one after another; time is told per step, memory as the peak of the whole run.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Study
from chatbench.data.examples import RowFormat
from chatbench.data.prepare_splits import prepare_splits
from chatbench.data.prepared import Manifest
from chatbench.data.workspace import Workspace
from chatbench.protocol.dialogue import MAX_USER_TURNS
from chatbench.realism.realism import realism
from chatbench.realism.table import RealismTable
from chatbench.report.tables import write_markdown
from chatbench.scoring.eval_chatbench import eval_chatbench
from chatbench.scoring.eval_ppl import eval_ppl
from chatbench.scoring.score_table import ScoreTable
from chatbench.simulation.participants import SCRIPTED
from chatbench.simulation.simulate import ChatSettings, simulate
from chatbench.training.finetune import finetune

Say = Callable[[str], None]
StepName = Literal["prepare", "finetune", "ppl", "simulate", "base", "scores", "realism"]
STEPS: tuple[StepName, ...] = get_args(StepName)


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What a run is told; `assistants` empty means those of the study (`default_assistants`), `only` empty every split.

    `conversations` and `base_conversations` are chats per held-out question and assistant: the base model only
    stands beside the fine-tuned one, so it gets fewer. `flags` are settings of fine-tuning by name.
    """

    splits: int = 10
    only: tuple[str, ...] = ()
    train_share: float = 0.6
    seed: int = 0
    row_format: RowFormat = "messages"
    skip_bad_records: bool = False
    include_pilots: bool = False
    assistants: tuple[str, ...] = ()
    conversations: int = 10
    base_conversations: int = 3
    max_user_turns: int = MAX_USER_TURNS
    max_tokens: int = 1000
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
        names = [name for name in STEPS if any(one.step == name for one in self.times)]
        sums = {name: [one.seconds for one in self.times if one.step == name] for name in names}
        lines = [
            f"{name:<10} {sum(seconds):8.1f} s" + (f"  ({len(seconds)} splits)" if len(seconds) > 1 else "")
            for name, seconds in sums.items()
        ]
        return [*lines, f"{'total':<10} {self.seconds:8.1f} s, peak memory {self.peak_bytes / 1e9:.2f} GB"]


def run_all(
    model: str,
    *,
    study: Path | None,
    workspace: Workspace,
    settings: RunSettings | None = None,
    steps: Sequence[str] = STEPS,
    say: Say = print,
) -> RunReport:
    """Runs the named steps for all splits; see the module.

    Args:
        study: what to prepare; None takes the splits that lie in `data`.
        steps: some of `STEPS`, in any order.

    Raises:
        ChatbenchError: an unknown step, other splits in `data`, or whatever a step raises.
    """
    asked, told = _known_steps(steps), settings or RunSettings()
    _refuse_several_processes()
    clock = Clock(say)
    manifest = _prepared(study, workspace, told, clock, may_prepare="prepare" in asked)
    assistants = told.assistants
    if not assistants and asked & {"simulate", "base"}:
        assistants = default_assistants(workspace.study)
    run = SplitRun(model, workspace, told, assistants, clock)
    for split_id in _chosen(manifest, told.only):
        run.all_steps(split_id, asked)
    table = None
    if "scores" in asked:
        with clock.step("scores"):
            table = eval_chatbench(model, workspace=workspace)
            write_markdown(table, workspace)
    compared = None
    if "realism" in asked:
        with clock.step("realism"):
            compared = realism(model, workspace=workspace, say=say)
    return RunReport(tuple(clock.times), clock.seconds(), peak_memory_bytes(), table, compared)


@dataclass(frozen=True, slots=True)
class SplitRun:
    """What the steps of every split have in common."""

    model: str
    workspace: Workspace
    told: RunSettings
    assistants: tuple[str, ...]
    clock: Clock

    def all_steps(self, split_id: str, asked: frozenset[str]) -> None:
        """The asked steps of one split, in the order of `STEPS`."""
        model, workspace, told, say = self.model, self.workspace, self.told, self.clock.say
        if "finetune" in asked:
            with self.clock.step("finetune", split_id):
                finetune(model, workspace=workspace, split=split_id, config=told.config, flags=told.flags, say=say)
        if "ppl" in asked:
            with self.clock.step("ppl", split_id):
                eval_ppl(model, workspace=workspace, split=split_id, say=say)
        if "simulate" in asked:
            self._simulate(split_id, told.conversations, base_model=False)
        if "base" in asked and told.base_conversations:
            self._simulate(split_id, told.base_conversations, base_model=True)

    def _simulate(self, split_id: str, conversations: int, *, base_model: bool) -> None:
        with self.clock.step("base" if base_model else "simulate", split_id):
            result = simulate(
                self.model,
                assistants=self.assistants,
                workspace=self.workspace,
                split=split_id,
                settings=ChatSettings(
                    conversations=conversations,
                    seed=self.told.seed,
                    max_user_turns=self.told.max_user_turns,
                    max_tokens=self.told.max_tokens,
                ),
                base_model=base_model,
            )
        for line in result.lines():
            self.clock.say(line)


class Clock:
    """Times steps and says where the run is."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.times: list[StepTime] = []
        self._began = time.monotonic()

    @contextmanager
    def step(self, step: StepName, split: str = "") -> Iterator[None]:
        """Times what happens inside; a step that raises is not timed."""
        began = time.monotonic()
        self.say(f"== {step} {split}".rstrip())
        yield
        self.times.append(StepTime(step, split, time.monotonic() - began))

    def seconds(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._began


def _known_steps(steps: Sequence[str]) -> frozenset[str]:
    unknown = [name for name in steps if name not in STEPS]
    if unknown or not steps:
        raise ChatbenchError(f"steps {', '.join(steps) or 'none'}", expected=f"some of {', '.join(STEPS)}")
    return frozenset(steps)


def _chosen(manifest: Manifest, only: Sequence[str]) -> Sequence[str]:
    unknown = [split_id for split_id in only if split_id not in manifest.split_ids]
    if unknown:
        raise ChatbenchError(
            f"no such split: {', '.join(unknown)}", expected=f"some of {', '.join(manifest.split_ids)}"
        )
    return only or manifest.split_ids


def _refuse_several_processes() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ChatbenchError(
            "the whole pipeline in several processes",
            expected="one process; only fine-tuning is shared",
            fix="accelerate launch src/finetune.py MODEL for each split, then chatbench run without accelerate",
        )


def _prepared(
    study: Path | None, workspace: Workspace, told: RunSettings, clock: Clock, *, may_prepare: bool
) -> Manifest:
    """The manifest of the splits, which are made where there are none yet.

    Raises:
        ChatbenchError: `data` holds other splits than these settings make.
    """
    if workspace.is_prepared or study is None or not may_prepare:
        manifest = workspace.manifest
        _refuse_other_splits(manifest, study, workspace.data, told)
        clock.say(f"splits of {manifest.study_name} in {workspace.data}: as before")
        return manifest
    with clock.step("prepare"):
        prepared = prepare_splits(
            study,
            workspace.data,
            splits=told.splits,
            train_share=told.train_share,
            seed=told.seed,
            format=told.row_format,
            skip_bad_records=told.skip_bad_records,
            include_pilots=told.include_pilots,
        )
    clock.say(prepared.audit)
    return prepared.manifest


def _refuse_other_splits(manifest: Manifest, study: Path | None, data: Path, told: RunSettings) -> None:
    """What was trained and simulated belongs to the splits that are there: others do not replace them unasked."""
    if study is None:
        return
    wanted = {
        "study_resolved": str(study.resolve()),
        "splits": told.splits,
        "train_share": told.train_share,
        "seed": told.seed,
        "format": told.row_format,
        "skip_bad_records": told.skip_bad_records,
        "include_pilots": told.include_pilots,
    }
    for name, value in wanted.items():
        found = getattr(manifest, name)
        if found != value:
            raise ChatbenchError(
                f"{data} holds splits with {name} {found}",
                expected=f"{name} {value}, as this run has it",
                fix="give another --data and --results, or make the splits anew with: chatbench prepare-splits",
            )


def default_assistants(study: Study) -> tuple[str, ...]:
    """The scripted assistants where the study's people worked with them, else the recorded ones.

    Raises:
        ChatbenchError: the study has no chats.
    """
    names = sorted({conversation.assistant for conversation in study.conversations})
    if not names:
        raise ChatbenchError(f"study {study.name}: no chats", fix="name an assistant: --assistant SPEC")
    if set(names) <= set(SCRIPTED):
        return tuple(f"scripted:{name.removeprefix('scripted-')}" for name in names)
    return ("replay:all",)


def peak_memory_bytes() -> int:
    """Largest resident memory that this process, or one of its children, had so far."""
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return unit * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
