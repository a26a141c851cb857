"""Run units on a Ray cluster, which places them, retries those of lost nodes and, if asked, transfers their files.

All progress is in files, so a killed or interrupted driver can simply be restarted. Blocks of chats of one split go to
actors that keep its model loaded; an actor without further blocks ends. No more units are submitted at a time than the
cluster has CPUs, plus two. Connections are authenticated by token (`RAY_AUTH_MODE=token`, unless set otherwise).
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.table import Table
from rich.text import Text

from chatbench.core.errors import ChatbenchError, OccupiedError
from chatbench.core.files import file_error, write_bytes
from chatbench.core.settings import is_local
from chatbench.core.texts import printable
from chatbench.data.workspace import Workspace
from chatbench.simulation.judge import LATER
from chatbench.simulation.log import settings_path
from chatbench.simulation.participants import SPLIT_MARK
from chatbench.simulation.simulate import Opened, open_participants, task_of
from chatbench.training.finetune import OVERRIDES
from chatbench.workflow.units import RunSettings, Say, Unit, assistants_of, run_unit

RETRIES = 5
"""How often a unit is retried after its node or process is lost."""
LOCK_SECONDS = 120.0
"""How long a unit waits for a lock held by a process of a lost driver or node."""
RAY_INSTALL = "pip install 'chatbench[ray]'"


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker gets besides its unit: `folder`, the base of relative paths, and `files` to write on its node."""

    workspace: Workspace
    settings: RunSettings
    folder: str
    collect: bool
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a unit: `failure` is "" if it succeeded; `files` are those it wrote, to be sent back."""

    node: str
    seconds: float
    failure: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)


def do_unit(unit: Unit, order: Order, shared: Mapping[str, bytes], board: Any, opened: Opened | None = None) -> Outcome:
    """Execute a unit on this node."""
    import ray

    began, node = time.monotonic(), ray.util.get_node_ip_address()
    board.started.remote(unit.id, node)
    try:
        _arrive(order, shared)
        while True:
            try:
                run_unit(unit, order.workspace, order.settings, opened=opened)
                break
            except OccupiedError:
                if time.monotonic() - began > LOCK_SECONDS:
                    raise
                time.sleep(2)
    except (ChatbenchError, OSError) as error:
        told = error if isinstance(error, ChatbenchError) else file_error(error)
        return Outcome(node, time.monotonic() - began, told.found.splitlines()[-1])
    found = contents(written_by(unit, order.workspace)) if order.collect else {}
    new = {name: content for name, content in found.items() if order.files.get(name) != content}
    return Outcome(node, time.monotonic() - began, files=new)


def written_by(unit: Unit, workspace: Workspace) -> list[Path]:
    """Files and folders that a unit about one split writes."""
    if unit.stage == "finetune":
        return [workspace.model_folder(unit.model, unit.split), workspace.training_logs(unit.model, unit.split)]
    if unit.stage == "ppl":
        card = workspace.model_folder(unit.model, unit.split) / "README.md"
        return [card, *workspace.perplexity_folder(unit.model).glob(f"{unit.split}.*")]
    base = unit.stage == "base"
    log = workspace.conversations(unit.model, unit.split, base_model=base, block=unit.block)
    return [log, settings_path(log)]


def _arrive(order: Order, shared: Mapping[str, bytes]) -> None:
    """Change to the command's folder, and write the files that are missing or differ on this node."""
    if order.collect:
        Path(order.folder).mkdir(parents=True, exist_ok=True)
    os.chdir(order.folder)
    for name, content in {**shared, **order.files}.items():
        if not (path := Path(name)).is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, content)


def contents(paths: Iterable[Path]) -> dict[str, bytes]:
    """Read files into bytes by path; folders are read recursively, without lock files."""
    files = (each for path in paths for each in (sorted(path.rglob("*")) if path.is_dir() else [path]))
    return {str(each): each.read_bytes() for each in files if each.is_file() and each.suffix != ".lock"}


def local_files(specs: Iterable[str]) -> list[Path]:
    """Folders and files of the participants among `specs` that are not Hub ids."""
    found = (re.search(r"(?:^|[:=])local:([^#]+)", spec) for spec in specs)
    return [Path(each[1]).expanduser() for each in found if each]


class SimulatorActor:
    """Actor that simulates blocks of one split and opens the participants only once."""

    def __init__(self) -> None:
        self.opened: Opened | None = None

    def do(self, unit: Unit, order: Order, shared: Mapping[str, bytes], board: Any) -> Outcome:
        """Execute one block."""
        if self.opened is None:
            _arrive(order, shared)
            place, settings = order.workspace, order.settings
            chats = replace(settings.chats, conversations=settings.conversations(unit.stage))
            base = unit.stage == "base"
            task = task_of(
                unit.model, assistants_of(settings, place), workspace=place, split=unit.split, base_model=base
            )
            try:
                self.opened = open_participants(
                    unit.model, task, workspace=place, split=unit.split, settings=chats, simulator=settings.simulator,
                    base_model=base, options=settings.options,
                )  # fmt: skip
            except ChatbenchError as error:
                return Outcome("", 0.0, error.found)
        return do_unit(unit, order, shared, board, self.opened)


class Board:
    """Actor that records on which node each started unit runs."""

    def __init__(self) -> None:
        self.nodes: dict[str, str] = {}

    def started(self, unit: str, node: str) -> None:
        self.nodes[unit] = node

    def where(self) -> dict[str, str]:
        return self.nodes


class RayExecutor:
    """Executor of units on the cluster at `ray:ADDRESS`; plain `ray` uses or starts one on this machine.

    Args:
        gpus: GPUs of a unit that loads a model; None means one if the cluster has any.
        collect: nodes share no folder, so send each unit the files it reads and collect those it writes.

    Raises:
        ChatbenchError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(
        self, on: str, workspace: Workspace, settings: RunSettings, *, gpus: float | None, collect: bool, say: Say
    ) -> None:
        if collect and settings.chats.judge not in ("", LATER):
            fix = "use --judge later, and chatbench simulate with the judge afterwards; or share a folder"
            raise ChatbenchError("--collect with --judge: each node would write its own verdicts", fix=fix)
        kind, _, address = on.partition(":")
        if kind != "ray":
            raise ChatbenchError(f"--on {on}", expected="ray, or ray:ADDRESS such as ray:10.0.0.1:6379")
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        try:
            import ray
        except ImportError:
            raise ChatbenchError(f"--on {on}: Ray is not installed", fix=RAY_INSTALL) from None
        threads = {name: os.environ[name] for name in ("OMP_NUM_THREADS",) if name in os.environ}
        try:
            ray.init(
                address or None, log_to_driver=False, logging_level="ERROR", runtime_env={"env_vars": threads},
                include_dashboard=None if address else False,
            )  # fmt: skip
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise ChatbenchError(
                f"--on {on}: {str(error).splitlines()[0]}",
                expected="a reachable cluster, and its token in RAY_AUTH_TOKEN or ~/.ray/auth_token",
                fix="see docs/cluster.md",
            ) from error
        self._ray = ray
        if gpus is None:
            gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0
        self.settings = replace(settings, gpus=gpus)
        self.workspace = workspace
        self.collect = collect
        self.say = say

    def __call__(self, units: Sequence[Unit]) -> dict[str, str]:
        """Execute the units; return the reason for each failure by unit identifier.

        Raises:
            KeyboardInterrupt: interrupted; the message says what is done and how to continue.
        """
        ray, began = self._ray, time.monotonic()
        sweep = Sweep(units)
        place = Workspace(self.workspace.data, self.workspace.results)  # without a cached study, which would be sent
        self._order = Order(place, self.settings, str(Path.cwd()), self.collect)
        inputs = [place.data, self.workspace.manifest.study_path, self.settings.config or OVERRIDES]
        inputs += local_files(self.settings.assistants)
        self._shared = ray.put(contents(inputs) if self.collect else {})
        self._board = ray.remote(num_cpus=0, max_restarts=-1)(Board).remote()
        self._task = ray.remote(max_retries=RETRIES)(do_unit)
        self._actor = ray.remote(max_restarts=-1, max_task_retries=RETRIES)(SimulatorActor)
        running: dict[Any, tuple[Unit, Any]] = {}
        try:
            with Live(refresh_per_second=2, transient=True) as live:
                while True:
                    room = 2 + int(ray.cluster_resources().get("CPU", 1))
                    while len(running) < room and (unit := sweep.next()):
                        running |= self._begin(unit, None, sweep)
                    if not running:
                        break
                    for ref in ray.wait(list(running), timeout=1.0)[0]:
                        unit, actor = running.pop(ref)
                        self._end(unit, ref, sweep)
                        if actor and (following := sweep.next(like=unit)):
                            running |= self._begin(following, actor, sweep)
                        elif actor:
                            ray.kill(actor)
                    if live.console.is_terminal:
                        live.update(self._table(sweep, [unit for unit, _ in running.values()]))
        except KeyboardInterrupt:
            done = sum(not why for why in sweep.ended.values())
            raise KeyboardInterrupt(f"{done} of {len(units)} units are done; the same command continues") from None
        finally:
            ray.shutdown()
        self.say(f"{len(units)} units in {time.monotonic() - began:.1f} s")
        return {name: why for name, why in sweep.ended.items() if why}

    def _begin(self, unit: Unit, actor: Any, sweep: Sweep) -> dict[Any, tuple[Unit, Any]]:
        order, needs = self._order, {"num_cpus": 1, "num_gpus": unit.gpus}
        if self.collect:
            if unit.blocks or not unit.split:  # runs here, as it reads everything and loads no model
                try:
                    run_unit(unit, order.workspace, self.settings, say=lambda _: None)
                    sweep.end(unit, "")
                except ChatbenchError as error:
                    sweep.end(unit, error.found)
                return {}
            trained = order.workspace.model_folder(unit.model, unit.split)
            read = [trained, *written_by(unit, order.workspace)]
            read += [Path(unit.model).expanduser()] if is_local(unit.model, any_name=True) else []
            read += local_files([self.settings.simulator.text().replace(SPLIT_MARK, unit.split)])
            order = replace(order, files=contents(read))
        if unit.block is None:
            return {self._task.options(**needs).remote(unit, order, self._shared, self._board): (unit, None)}
        actor = actor or self._actor.options(**needs).remote()
        return {actor.do.remote(unit, order, self._shared, self._board): (unit, actor)}

    def _end(self, unit: Unit, ref: Any, sweep: Sweep) -> None:
        try:
            outcome: Outcome = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:  # lost too often, or a bug: the last line says which
            outcome = Outcome("", 0.0, str(error).strip().splitlines()[-1])
        for name, content in outcome.files.items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(Path(name), content)
        how = f"failed: {outcome.failure}" if outcome.failure else "done"
        self.say(f"{unit.id} {how} in {outcome.seconds:.1f} s on {outcome.node or 'a lost node'}")
        sweep.end(unit, outcome.failure)

    def _table(self, sweep: Sweep, running: Sequence[Unit]) -> Table:
        try:
            where: Mapping[str, str] = self._ray.get(self._board.where.remote(), timeout=1)
        except self._ray.exceptions.RayError:  # the board's node was lost; Ray restarts the actor
            where = {}
        table = Table(*("unit", "state", "node"), title=f"{len(sweep.ended)} of {len(sweep.units)} units ended")
        ended = Counter(sweep.units[name].stage for name in sweep.ended)
        rows: list[tuple[str, str, str]] = [(stage, f"{count} ended", "") for stage, count in ended.items()]
        rows += [(each.id, "running" if each.id in where else "queued", where.get(each.id, "")) for each in running]
        rows += [(name, f"failed: {why}", "") for name, why in [*sweep.ended.items()] if why][-10:]
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))  # as text: rich reads [brackets] as markup
        return table


class Sweep:
    """Scheduler of units by their dependencies; `ended` has the reason for each failure, "" for success."""

    def __init__(self, units: Sequence[Unit]) -> None:
        self.units = {unit.id: unit for unit in units}
        self.ended: dict[str, str] = {}
        self._ready: dict[tuple[str, ...], deque[Unit]] = {}
        self._order = TopologicalSorter(
            {unit.id: [name for name in (*unit.requires, *unit.after) if name in self.units] for unit in units}
        )
        self._order.prepare()
        self._queue()

    def _queue(self) -> None:
        """Queue the units that can start; those that require a failed one fail too."""
        while names := self._order.get_ready():
            for unit in (self.units[name] for name in names):
                if lost := [name for name in unit.requires if self.ended.get(name)]:
                    self.ended[unit.id] = f"needs {lost[0]}"
                    self._order.done(unit.id)
                else:
                    self._ready.setdefault(self._kind(unit), deque()).append(unit)

    @staticmethod
    def _kind(unit: Unit) -> tuple[str, ...]:
        """Key of units that the same actor can execute."""
        return (unit.id,) if unit.block is None else (unit.key, unit.split, unit.stage)

    def next(self, like: Unit | None = None) -> Unit | None:
        """Pop a unit that can start, or None; with `like`, one that needs the same model."""
        kind = self._kind(like) if like else next(iter(self._ready), None)
        if kind is None or kind not in self._ready:
            return None
        unit = self._ready[kind].popleft()
        if not self._ready[kind]:
            del self._ready[kind]
        return unit

    def end(self, unit: Unit, failure: str) -> None:
        """Record that a unit ended."""
        self.ended[unit.id] = failure
        self._order.done(unit.id)
        self._queue()
