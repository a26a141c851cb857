"""Format a plan of units as a table, as JSON, or as Slurm array jobs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from math import ceil

from chatbench.data.workspace import Workspace
from chatbench.report.grids import EMPTY, Grid
from chatbench.workflow.units import RunSettings, Unit, is_done, memory_of


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


_HEAD = """\
#!/bin/bash
# {units} units as array jobs, one task for each model and split; written by chatbench plan --slurm.
# Start it with: bash FILE. Started again, it continues: finished tasks end at once. Edit this for your site:
#SBATCH --output=slurm-%x-%A_%a.out
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
set -euo pipefail

given=({given})

if [ -n "${{SLURM_ARRAY_TASK_ID-}}" ]; then # a task: UNITS is a list of MODEL/SPLIT, $1 the stage
  read -ra units <<< "$UNITS"
  exec chatbench run-unit "${{units[$SLURM_ARRAY_TASK_ID]}}/$1" "${{given[@]}}"
fi

submit() {{ # STAGE GPUS DEPENDENCY: an array of that stage of all UNITS; prints the number of its job
  read -ra units <<< "$UNITS"
  sbatch --parsable --export=ALL --job-name="$1" --array="0-$((${{#units[@]}} - 1))" --kill-on-invalid-dep=yes \\
    ${{2:+--gres=gpu:$2}} ${{3:+--dependency=$3}} "$0" "$1"
}}

ended=
"""


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
    lines = [_HEAD.format(units=len(units), given=shlex.join(given))]
    for stages_of, names in sorted(groups.items(), key=lambda group: "/" not in group[1][0]):
        by_split = "/" in names[0]
        lines.append(f"export UNITS={shlex.quote(' '.join(names))}\n{'tuned=' if by_split else ''}")
        for stage, blocks, gpus in stages_of:
            waits = "${tuned:+aftercorr:$tuned}" if by_split else "${ended:+afterany$ended}"
            if blocks:
                lines += [
                    "parts=aftercorr",
                    f"for block in $(seq -f %03g 0 {blocks - 1}); do",
                    f'  parts+=:$(submit "{stage}-$block" "{gpus}" "{waits}")',
                    "done",
                ]
                gpus, waits = "", "$parts"
            lines += [f'job=$(submit {stage} "{gpus}" "{waits}")', "ended+=:$job" if by_split else ""]
            lines += ["tuned=$job"] if stage == "finetune" else []
            lines.append(f'echo "{stage}: job $job"\n')
    return "\n".join(lines)
