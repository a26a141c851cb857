"""Run the whole pipeline: splits; then fine-tuning, perplexity and simulated chats for each split; then scores.

Every step resumes or skips earlier work, so rerunning the command after a kill finishes the rest. By default, steps run
in this process, one after another. Time is measured per step, memory as the peak of the whole run.
"""

from __future__ import annotations

import resource
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatbench.core.configurations import differences
from chatbench.core.errors import ChatbenchError, StoppedError, process_count
from chatbench.data.prepare_splits import prepare_splits
from chatbench.data.workspace import Workspace
from chatbench.endpoints.address import read_addresses
from chatbench.report.report import Shown
from chatbench.report.report import report as write_page
from chatbench.scoring.score_files import read_score_table
from chatbench.scoring.score_table import ScoreTable
from chatbench.simulation.budget import Prices, Spending
from chatbench.simulation.judge import LATER, judge_spec, needs_judge, read_rubric
from chatbench.simulation.log import count_earlier
from chatbench.simulation.participants import refuse_impossible, refuse_missing
from chatbench.simulation.simulate import check_endpoints, endpoints_of, specs_in
from chatbench.workflow.units import STEPS, RunSettings, Say, StepName, Unit, assistants_of, is_done, plan, run_unit

Execute = Callable[[Sequence[Unit]], Mapping[str, str]]
"""A function that executes units and returns the reason for each failure by unit identifier."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """Wall-clock seconds of one step; `split` is "" if the step is not about one split."""

    step: StepName
    split: str
    seconds: float


@dataclass(frozen=True, slots=True)
class RunReport:
    """Times of a run, the scores of each scored model, and in `failed` why a unit, or `page`, failed."""

    times: tuple[StepTime, ...]
    seconds: float
    peak_bytes: int
    tables: tuple[ScoreTable, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    page: Path | None = None

    @property
    def table(self) -> ScoreTable | None:
        """Scores of the first scored model."""
        return self.tables[0] if self.tables else None

    def lines(self) -> list[str]:
        """Failed units, seconds per step (summed over splits), total time and peak memory, as lines to print."""
        seconds = {name: [one.seconds for one in self.times if one.step == name] for name in STEPS}
        return [
            *(f"missing: {unit}: {reason}" for unit, reason in self.failed.items()),
            *([f"all models on one page: {self.page}"] if self.page else []),
            *(
                f"{name:<10} {sum(each):8.1f} s" + (f"  ({len(each)} splits)" if len(each) > 1 else "")
                for name, each in seconds.items()
                if each
            ),
            f"{'total':<10} {self.seconds:8.1f} s, peak memory {self.peak_bytes / 1e9:.2f} GB",
        ]


class Clock:
    """Timer of steps that announces each one."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.times: list[StepTime] = []
        self.began = time.monotonic()

    @contextmanager
    def step(self, step: StepName, split: str = "", model: str = "") -> Iterator[None]:
        """Time the block; a step that raises is not recorded."""
        began = time.monotonic()
        self.say(" ".join(filter(None, ("==", model, step, split))))
        yield
        self.times.append(StepTime(step, split, time.monotonic() - began))


def run_all(
    model: str | Sequence[str],
    *,
    study: Path | None,
    workspace: Workspace,
    settings: RunSettings | None = None,
    steps: Sequence[str] = STEPS,
    spending: Spending | None = None,
    execute: Execute | None = None,
    say: Say = print,
) -> RunReport:
    """Run the named steps for all splits of one or several models.

    With several models, or with `execute`, a failed unit is recorded and the others continue. So is a failure of
    realism, the last step, which does not change the scores.

    Args:
        study: study to prepare; None uses the splits that are already prepared.
        steps: any of `STEPS`, in any order.
        spending: prices and one budget for the chats of all splits, including those recorded by earlier runs.
        execute: runs the units instead of this process, with chats in blocks.

    Raises:
        ChatbenchError: an unknown step or split, splits prepared with other settings, or any error of a step.
    """
    models = [model] if isinstance(model, str) else list(model)
    settings, clock, spending = settings or RunSettings(), Clock(say), spending or Spending(Prices())
    units = planned_units(models, study, workspace, settings, steps, clock, in_blocks=execute is not None)
    if execute:
        failed = dict(execute(units))
    else:
        if any(unit.stage in ("simulate", "base") for unit in units):
            names = {spec.name for spec in specs_in(workspace.study, assistants_of(settings, workspace))}
            for each in models:
                for split in workspace.manifest.split_ids:
                    for base in (False, True):
                        count_earlier(spending, workspace.conversations(each, split, base_model=base), names)
            to_train = {u.id for u in units if u.stage == "finetune" and not is_done(u, workspace, settings)}
            waits = any(unit.stage in ("simulate", "base") and to_train & {*unit.requires} for unit in units)
            if waits and spending.leaves_room():
                check_endpoints(assistants_of(settings, workspace), workspace.study, settings.chats, settings.options)
        failed = _run_here(units, workspace, settings, spending, clock, keep_going=len(models) > 1)
    keys = [unit.key for unit in units if unit.stage == "scores" and unit.id not in failed]
    tables = tuple(read_score_table(workspace.results / "scores", key) for key in keys)
    page = None
    if len(models) > 1 and keys:
        try:
            page = write_page(Shown(workspace, tuple(keys)), workspace.results / "report.html").path
        except ChatbenchError as error:  # such as a split that one model lost: the tables are still worth having
            failed["page"] = error.found
    unit_bytes = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return RunReport(tuple(clock.times), time.monotonic() - clock.began, unit_bytes * peak, tables, failed, page)


def planned_units(
    models: Sequence[str],
    study: Path | None,
    workspace: Workspace,
    settings: RunSettings,
    steps: Sequence[str],
    clock: Clock,
    *,
    in_blocks: bool,
    shown: bool = False,
) -> list[Unit]:
    """Plan the units of a run, after preparing the splits if there are none, as the plan depends on them.

    A plan that is only `shown` may have what a run on this machine could do, but not units one by one.

    Existing splits are never replaced, as trained models and simulated chats belong to them.

    Raises:
        ChatbenchError: an unknown step or split, splits prepared otherwise, or chats that no unit could simulate.
    """
    if not steps or not set(steps) <= set(STEPS):
        raise ChatbenchError(f"steps {', '.join(steps) or 'none'}", expected=f"some of {', '.join(STEPS)}")
    if process_count() > 1:
        raise ChatbenchError(
            "the whole pipeline was started in several processes",
            expected="one process; only fine-tuning can use several",
            fix="accelerate launch src/finetune.py MODEL for each split, then chatbench run without accelerate",
        )
    of_tuned = ("finetune", "ppl", "base")
    if settings.simulator.kind != "tuned" and (needless := [step for step in steps if step in of_tuned]):
        clock.say(f"skipped, as {settings.simulator.text()} is not fine-tuned: {', '.join(needless)}")
        steps = [step for step in steps if step not in needless]
    chosen: dict[str, Any] = {
        "by": "question",
        "splits": settings.splits,
        "train_share": settings.train_share,
        "seed": settings.seed,
        "format": "messages",
        "skip_bad_records": settings.skip_bad_records,
        "include_pilots": settings.include_pilots,
        "maps": list(settings.maps),
    }
    if workspace.is_prepared or study is None or "prepare" not in steps:
        manifest = workspace.manifest
        found = {name: getattr(manifest, name) for name in chosen} | {"study": str(manifest.study_path.resolve())}
        wanted = found if study is None else {"study": str(study.resolve()), **chosen}
        if found == wanted and study is not None and "answers" in manifest.counts:
            found = {name: manifest.counts[name] for name in ("conversations", "answers")}
            wanted = {name: len(getattr(workspace.study, name)) for name in found}
        for each in differences(found, wanted):
            raise ChatbenchError(
                f"{workspace.data} holds splits with {each.name} {each.one}",
                expected=f"{each.name} {each.other}, as in {'this run' if 'seed' in found else 'the study now'}",
                fix="choose another --data and --results, or omit --study to use these splits, or prepare again: "
                f"chatbench prepare-splits --study {shlex.quote(str(study))} --out {shlex.quote(str(workspace.data))}, "
                "with your other options",
            )
        clock.say(f"using the existing splits of {manifest.study_name} in {workspace.data}")
    else:
        with clock.step("prepare"):
            prepared = prepare_splits(study, workspace.data, **chosen)
        clock.say(prepared.audit)
    units = plan(models, workspace, settings, steps, in_blocks=in_blocks)
    if not {"simulate", "base"}.isdisjoint(steps) or settings.assistants or settings.chats.judge:
        _refuse_unusable(units, workspace, settings, keys=not in_blocks, shown=shown)
    for model in models:
        planned = {unit.split for unit in units if unit.model == model and unit.split}
        left_out = [each for each in settings.only or workspace.manifest.split_ids if each not in planned]
        if planned and left_out:
            clock.say(f"left out, as {model} is not fine-tuned on them: {', '.join(left_out)}")
    return units


def _refuse_unusable(
    units: Sequence[Unit], workspace: Workspace, settings: RunSettings, *, keys: bool, shown: bool
) -> None:
    """Check what is said about the chats, and `keys` of endpoints, before any unit and before a plan is `shown`.

    Raises:
        ChatbenchError: a participant or judge cannot be read or is missing, or cannot do what is asked.
    """
    study, chats = workspace.study, settings.chats
    splits = {unit.split for unit in units if unit.stage in ("simulate", "base")}
    specs = specs_in(study, assistants_of(settings, workspace))
    if chats.judge not in ("", LATER):
        specs.append(judge_spec(chats.judge))
        read_rubric(chats.judge, chats.rubric)
    refuse_missing(specs)
    asked = {each for split in splits for each in workspace.split(split).question_ids("test")}
    judged = needs_judge([study.questions[each] for each in asked], chats.judge, study)
    if judged and not shown and any(unit.block is not None for unit in units):
        raise ChatbenchError("--judge with chats in blocks", fix="use --judge later, then simulate with the judge")
    refuse_impossible(
        settings.simulator, base_model=False, expected_answers=chats.expected_answers, answer_model=chats.answer_model
    )
    addresses = endpoints_of(settings.simulator, splits, specs if splits else ())
    for place in (place for address in addresses * keys for place in read_addresses(address)):
        place.key()


def _run_here(
    units: Sequence[Unit],
    workspace: Workspace,
    settings: RunSettings,
    spending: Spending,
    clock: Clock,
    *,
    keep_going: bool,
) -> dict[str, str]:
    """Run units one after another; with `keep_going`, return the reason for each failure instead of raising.

    That of realism is always returned.
    """
    failed: dict[str, str] = {}
    told = set[tuple[str, ...]]()
    for unit in units:
        if lost := [each for each in unit.requires if each in failed]:
            failed[unit.id] = f"needs {lost[0]}"
            continue
        try:
            with clock.step(unit.stage, unit.split, unit.key if keep_going else ""):
                run_unit(unit, workspace, settings, spending=spending, told=told, say=clock.say)
        except ChatbenchError as error:
            if not (keep_going or unit.stage == "realism") or isinstance(error, StoppedError):
                raise
            clock.say(f"{unit.id} failed: {error}")
            failed[unit.id] = error.found
    return failed
