"""Plan a run as units of work with dependencies, execute single units, and format the plan.

A unit (model, split, stage) is the smallest independent piece of work: `run` executes all units in order, while
`run --on ray` and Slurm array jobs distribute them, with the same code. A unit resumes or skips earlier work, writes
files that no other unit writes, and reads the files of the units that it waits for. Its identifier describes it:
`tiny/split_0/finetune`, `tiny/split_0/simulate-003`, `tiny/scores`.

With `in_blocks`, the chats of a split are simulated in several units, one per block of `simulation.run.blocks`, each
with its own log. A last unit joins these logs into one that is byte-identical to that of an uninterrupted run. A split
that already has a log is continued by a single unit.

A plan is shown as a table, as JSON, or as Slurm array jobs.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from math import ceil
from pathlib import Path
from typing import Literal, get_args

from chatbench.core.errors import ChatbenchError, StoppedError
from chatbench.core.progress import StopRequest
from chatbench.core.records import Study
from chatbench.core.settings import model_key, recipe_of
from chatbench.data.workspace import Workspace
from chatbench.endpoints.address import EndpointOptions
from chatbench.realism.realism import UnknownAssistantsError, realism
from chatbench.report.grids import EMPTY, Grid
from chatbench.report.tables import write_markdown
from chatbench.scoring.eval_chatbench import eval_chatbench
from chatbench.scoring.eval_ppl import eval_ppl, write_summary
from chatbench.simulation.budget import Prices, Spending
from chatbench.simulation.log import has_chats, join_logs, read_log, refuse_other_settings
from chatbench.simulation.participants import TUNED, SimulatorSpec, is_scripted
from chatbench.simulation.simulate import (
    ENDPOINTS,
    ChatSettings,
    Opened,
    Simulations,
    settings_known_before,
    simulate,
    simulate_splits,
    task_of,
)
from chatbench.training.finetune import finetune

Say = Callable[[str], None]
StepName = Literal["prepare", "finetune", "ppl", "simulate", "base", "scores", "realism"]
STEPS: tuple[StepName, ...] = get_args(StepName)


@dataclass(frozen=True, slots=True)
class RunSettings:
    """Settings of a run; without `assistants` use the study's (`default_assistants`), without `only` use all splits.

    `base_conversations` is the number of chats per held-out question and assistant with the base model, a reference
    that needs fewer than `chats` asks for; 0 omits it. A `simulator` that is not fine-tuned needs neither training nor
    the base model, and these steps are skipped. `flags` are fine-tuning settings by name. `gpus` is for a unit that
    loads a model: a fraction shares a GPU between small models; from 2 on, fine-tuning uses one process per GPU.
    """

    splits: int = 10
    only: tuple[str, ...] = ()
    train_share: float = 0.6
    seed: int = 0
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
    gpus: float = 0.0

    def conversations(self, stage: StepName) -> int:
        """Chats per held-out question and assistant in a stage: with the base model or with the simulator."""
        return self.base_conversations if stage == "base" else self.chats.conversations


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit of work; `key` is the model's name in file names, `split` is "" if the unit is about all splits.

    It can start once all units in `requires` have succeeded and all in `after` have ended, successfully or not.
    `block` is the number of a block of chats; `blocks` is how many blocks a unit joins, else 0.
    """

    model: str
    key: str
    split: str
    stage: StepName
    requires: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    block: int | None = None
    blocks: int = 0
    gpus: float = 0.0
    servers: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """MODEL/SPLIT/STAGE, with a block's number appended."""
        name = self.stage if self.block is None else f"{self.stage}-{self.block:03d}"
        return "/".join(filter(None, (self.key, self.split, name)))


def units_of(
    models: Mapping[str, str],
    blocks_of: Callable[[str, str, StepName], int],
    splits: Sequence[str],
    steps: Sequence[str],
    settings: RunSettings,
) -> Iterator[Unit]:
    """Yield the units in the order in which one machine executes them.

    Args:
        models: models by their keys in file names.
        blocks_of: number of blocks for a model key, split and stage; 1 if one unit writes the split's log.
    """
    kinds = [spec.partition(":")[0].rpartition("=")[2] for spec in settings.assistants]  # of [NAME=]KIND:ARGUMENT
    servers = (settings.simulator.text(),) * (settings.simulator.kind in ENDPOINTS)
    servers += tuple(spec for spec, kind in zip(settings.assistants, kinds, strict=True) if kind in ENDPOINTS)
    local = "local" in kinds or settings.simulator.kind not in ENDPOINTS
    for key, model in models.items():
        ended: list[str] = []
        for split in splits:
            tuned: tuple[str, ...] = ()
            for stage in (each for each in STEPS if each in steps and each not in ("prepare", "scores", "realism")):
                simulating = stage in ("simulate", "base")
                if simulating and not settings.conversations(stage):
                    continue
                count = blocks_of(key, split, stage) if simulating else 1
                unit = Unit(model, key, split, stage, tuned, gpus=settings.gpus if local or not simulating else 0.0)
                if simulating:
                    unit = replace(unit, servers=servers)
                if count > 1:
                    parts = [replace(unit, block=number) for number in range(count)]
                    yield from parts
                    unit = Unit(model, key, split, stage, tuple(part.id for part in parts), blocks=count)
                if stage == "finetune":
                    tuned = (unit.id,)
                ended.append(unit.id)
                yield unit
        for stage in (each for each in STEPS if each in steps and each in ("scores", "realism")):
            yield Unit(model, key, "", stage, after=tuple(ended))


def plan(
    models: Sequence[str], workspace: Workspace, settings: RunSettings, steps: Sequence[str], *, in_blocks: bool
) -> list[Unit]:
    """List the units of a run on the prepared splits: without `finetune`, on those trained on, if there are any.

    Raises:
        ChatbenchError: two models would share a results folder, or a split is not prepared.
    """
    keys = {model_key(model): model for model in models}
    if len(keys) < len(models):
        raise ChatbenchError(
            f"{', '.join(models)}: two of these would share one name in the results",
            expected="each model once",
            fix="rename one of the folders",
        )
    prepared = workspace.manifest.split_ids
    if unknown := set(settings.only) - set(prepared):
        fix = "--splits N says how many there are, --split NAME which of them to run"
        expected = f"some of {', '.join(prepared)}"
        raise ChatbenchError(f"no such split: {', '.join(sorted(unknown))}", expected=expected, fix=fix)

    @cache
    def held_out(split: str) -> int:
        return len(workspace.split(split).question_ids("test"))

    def blocks_of(key: str, split: str, stage: StepName) -> int:
        paths = [
            workspace.conversations(keys[key], split, base_model=stage == "base", block=each) for each in (None, 0)
        ]
        if not (paths[1].parent.is_dir() or (in_blocks and not has_chats(paths[0]))):
            return 1
        return -(-held_out(split) * settings.conversations(stage) // settings.chats.block_size)

    def splits_of(model: str) -> Sequence[str]:
        trained = [split for split in prepared if workspace.model_folder(model, split).is_dir()]
        tuned = settings.simulator.kind == "tuned" and not {"ppl", "simulate"}.isdisjoint(steps)
        return settings.only or (tuned and "finetune" not in steps and trained) or prepared

    by_model = [units_of({key: keys[key]}, blocks_of, splits_of(keys[key]), steps, settings) for key in keys]
    return [unit for units in by_model for unit in units]


def run_unit(
    unit: Unit,
    workspace: Workspace,
    settings: RunSettings,
    *,
    spending: Spending | None = None,
    say: Say = print,
    opened: Opened | None = None,
    told: set[tuple[str, ...]] | None = None,
) -> None:
    """Execute one unit, or what is missing of it.

    Args:
        told: as in `finetune`, shared by the units of a run.
        opened: participants already opened for another block of the same split.

    Raises:
        ChatbenchError: any error of its step.
    """
    model, split, spending = unit.model, unit.split, spending or Spending(Prices())
    if unit.stage == "finetune" and unit.gpus > 1:
        _finetune_in_processes(unit, workspace, settings)
    elif unit.stage == "finetune":
        flags = settings.flags
        finetune(model, workspace=workspace, split=split, config=settings.config, flags=flags, told=told, say=say)
    elif unit.stage == "ppl":
        eval_ppl(model, workspace=workspace, split=split, say=say)
    elif unit.stage == "scores":
        if workspace.perplexity_folder(model).is_dir():
            write_summary(model, workspace)  # concurrent units did not see each other's split
        write_markdown(eval_chatbench(model, workspace=workspace), workspace)
    elif unit.stage == "realism":
        _realism(model, workspace, say)
    elif (unit.blocks or unit.block is not None) and is_done(unit, workspace, settings):
        say(f"{unit.id}: already done")
    elif unit.blocks:
        log, *parts = (_log(unit, workspace, each) for each in (None, *range(unit.blocks)))
        say(f"{unit.id}: {join_logs(log, parts, planned_ids(unit, workspace, settings)):,} chats joined into {log}")
    else:
        asked = Simulations(
            model, assistants_of(settings, workspace), workspace,
            replace(settings.chats, conversations=settings.conversations(unit.stage)),
            split, settings.simulator, unit.stage == "base",
        )  # fmt: skip
        if unit.block is None:
            simulate_splits(asked, spending, say, options=settings.options)
            return
        result = simulate(
            model, assistants=asked.assistants, workspace=workspace, split=split, settings=asked.settings,
            simulator=asked.simulator, base_model=asked.base_model, options=settings.options, spending=spending,
            block=unit.block, opened=opened,
        )  # fmt: skip
        say(f"{unit.id}: " + "\n".join(result.lines()))


def _realism(model: str, workspace: Workspace, say: Say) -> None:
    """Measure realism; if people used none of the assistants, a run leaves it out instead of failing at its end."""
    try:
        realism(model, workspace=workspace, say=say)
    except UnknownAssistantsError as error:
        say(f"realism left out: {error.found}")


def _finetune_in_processes(unit: Unit, workspace: Workspace, settings: RunSettings) -> None:
    """Start one process per GPU with torchrun: without GPUs, accelerate launch would silently start only one."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={int(unit.gpus)}"]
    command += ["-m", "chatbench", "finetune", unit.model, "--data", str(workspace.data)]
    command += ["--split", unit.split, "--results", str(workspace.results)]
    command += ["--config", str(settings.config)] if settings.config else []
    if settings.flags:
        raise ChatbenchError(
            f"{unit.id}: fine-tuning flags cannot be passed to several processes", fix="put them into --config"
        )
    errors, pipe = None, subprocess.PIPE
    with StopRequest() as stop, subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as started:
        try:
            while errors is None and not stop.asked:
                with suppress(subprocess.TimeoutExpired):
                    errors = started.communicate(timeout=0.5)[1]
        finally:
            started.terminate()  # torchrun stops its processes, which save first; no effect once it has ended
        errors = started.communicate()[1] if errors is None else errors
    if stop.asked:
        raise StoppedError(f"{unit.id}: stopped by SIGTERM", fix="run the same command again: it continues")
    if started.returncode:
        told = [line for line in errors.splitlines() if line.startswith("chatbench")] or [errors[-300:]]
        raise ChatbenchError(f"{unit.id}: {told[0]}", fix=shlex.join(command[1:]))


def _log(unit: Unit, workspace: Workspace, block: int | None) -> Path:
    return workspace.conversations(unit.model, unit.split, base_model=unit.stage == "base", block=block)


def unit_called(name: str, units: Sequence[Unit]) -> Unit:
    """Find a unit by its identifier; a block can still be named after its split was joined.

    Raises:
        ChatbenchError: there is no such unit.
    """
    found = {unit.id: unit for unit in units}
    whole, mark, number = name.rpartition("-")
    if name not in found and mark and number.isdecimal() and whole in found:
        return replace(found[whole], requires=(), block=int(number), blocks=0)
    if name not in found:
        raise ChatbenchError(
            f"no unit {name}",
            expected=f"one of {len(found)}, such as {units[0].id}",
            fix="chatbench plan lists them; those of a split without a model appear once it is fine-tuned",
        )
    return found[name]


def planned_ids(unit: Unit, workspace: Workspace, settings: RunSettings) -> dict[str, list[str]]:
    """Identifiers of the chats that a unit's log should hold when it ends, by assistant.

    Raises:
        ChatbenchError: no such block, or the split's log has other settings.
    """
    task = task_of(
        unit.model, assistants_of(settings, workspace), workspace=workspace, split=unit.split,
        base_model=unit.stage == "base",
    )  # fmt: skip
    chats = replace(settings.chats, conversations=settings.conversations(unit.stage))
    for block in {None, unit.block}:
        known = settings_known_before(task, chats, settings.simulator)
        refuse_other_settings(_log(unit, workspace, block), known, asdict(chats))
    return {name: [one.id for one in each] for name, each in task.plans(chats, unit.block).items()}


def is_done(unit: Unit, workspace: Workspace, settings: RunSettings) -> bool:
    """Whether a unit's results exist; scores and realism never count as done, as they are quick to repeat.

    Raises:
        ChatbenchError: a log is damaged or has other settings.
    """
    if unit.stage == "finetune":
        return workspace.model_folder(unit.model, unit.split).is_dir()
    if unit.stage == "ppl":
        return workspace.perplexity(unit.model, unit.split).is_file()
    if not unit.split:
        return False
    logs = {_log(unit, workspace, None), _log(unit, workspace, unit.block)}
    if unit.blocks and _log(unit, workspace, 0).parent.is_dir():
        return False
    recorded = {row["id"] for log in logs for _, row in read_log(log) if not row.get("transient")}
    return all(recorded.issuperset(ids) for ids in planned_ids(unit, workspace, settings).values())


def memory_of(models: Sequence[str], *, on_gpu: bool) -> dict[str, float]:
    """Peak bytes of fine-tuning for those models that have a recipe, estimated as by `finetune --dry-run`."""
    from chatbench.training.dry_run import estimated_bytes

    found = {model: recipe_of(model) for model in models}
    return {model: estimated_bytes(recipe, on_gpu=on_gpu) for model, recipe in found.items() if recipe}


def assistants_of(settings: RunSettings, workspace: Workspace) -> tuple[str, ...]:
    """The assistants in the settings, or else the study's."""
    return settings.assistants or default_assistants(workspace.study)


def default_assistants(study: Study) -> tuple[str, ...]:
    """The scripted assistants if those are the study's, otherwise its recorded replies.

    Raises:
        ChatbenchError: the study has no chats.
    """
    names = sorted({conversation.assistant for conversation in study.conversations})
    if not names:
        raise ChatbenchError(f"study {study.name}: no chats", fix="name an assistant: --assistant SPEC")
    if all(map(is_scripted, names)):
        return tuple(f"scripted:{name.removeprefix('scripted-')}" for name in names)
    return ("replay:all",)


def plan_grid(units: Sequence[Unit], workspace: Workspace, settings: RunSettings) -> Grid:
    """Table with a row per model, split and stage; a simulation's blocks and the unit that joins them share a row."""
    memory = memory_of(sorted({unit.model for unit in units}), on_gpu=bool(settings.gpus))
    rows: dict[tuple[str, str, str], list[Unit]] = {}
    for unit in units:
        rows.setdefault((unit.key, unit.split, unit.stage), []).append(unit)
    lines = []
    for name, group in rows.items():
        first, done = group[0], sum(is_done(unit, workspace, settings) for unit in group)
        size = memory.get(first.model) if first.stage == "finetune" else None
        waits = {f"{each.rpartition('/')[2]}" for each in first.requires} | ({"its splits"} if first.after else set())
        lines.append((
            "/".join(filter(None, name)), str(len(group)), str(done), f"{first.gpus:g}",
            f"{size / 1e9:.1f} GB" if size else EMPTY, ", ".join(first.servers) or EMPTY,
            ", ".join(sorted(waits)) or EMPTY,
        ))  # fmt: skip
    total = f"{len(units)} units"
    return Grid(total, ("unit", "units", "done", "GPUs", "memory", "server", "waits for"), tuple(lines))


def plan_json(units: Sequence[Unit], workspace: Workspace, settings: RunSettings) -> str:
    """All units as JSON; `memory_bytes` is a recipe's peak memory in fine-tuning, null if unknown."""
    memory = memory_of(sorted({unit.model for unit in units}), on_gpu=bool(settings.gpus))
    rows = [
        {
            "id": unit.id,
            **asdict(unit),
            "memory_bytes": round(memory[unit.model]) if unit.stage == "finetune" and unit.model in memory else None,
            "done": is_done(unit, workspace, settings),
        }
        for unit in units
    ]
    return json.dumps(rows, indent=1)


def array_jobs(units: Sequence[Unit], given: Sequence[str]) -> str:
    """Shell script that submits the plan and is also what each array task runs; `given` are the run's options.

    A task waits for that of the same model and split (`aftercorr`), so a failure stops only its own split. Slurm does
    not share GPUs: fractions are rounded up.
    """
    groups: dict[tuple[tuple[str, int, str], ...], list[str]] = {}
    splits: dict[str, list[Unit]] = {}
    for unit in units:
        splits.setdefault("/".join(filter(None, (unit.key, unit.split))), []).append(unit)
    for name, each in splits.items():
        stages = {
            unit.stage: (unit.stage, unit.blocks, f"{ceil(next(u for u in each if u.stage == unit.stage).gpus) or ''}")
            for unit in each
        }
        groups.setdefault(tuple(stages.values()), []).append(name)
    from jinja2 import Environment, PackageLoader, StrictUndefined  # late: slow to import

    shell = Environment(loader=PackageLoader("chatbench.workflow"), undefined=StrictUndefined, trim_blocks=True)
    ordered = sorted(groups.items(), key=lambda group: "/" not in group[1][0])  # those about all splits come last
    return shell.get_template("array_jobs.sh.j2").render(
        units=len(units), given=shlex.join(given),
        groups=[(stages, shlex.quote(" ".join(names)), "/" in names[0]) for stages, names in ordered],
    )  # fmt: skip
