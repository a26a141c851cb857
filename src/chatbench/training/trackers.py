"""Where a run's curves go while it trains: TensorBoard, Weights & Biases, trackio, or nowhere.

The setting `report_to` names them. A run is called `MODEL/SPLIT` in the project `chatbench`; a tracker's own variables
(WANDB_PROJECT, WANDB_MODE, TRACKIO_SPACE_ID...) keep their meaning. Only the first process reports. What a tracker
begins is ended here, so that the next split of the same process gets a run of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module, util
from pathlib import Path
from typing import Any, cast

from transformers import TrainerCallback, TrainingArguments

from chatbench.core.errors import ChatbenchError
from chatbench.training.gpu_watch import Reader, gpu_watch, nvidia_reader
from chatbench.training.job import TrainingJob

PROJECT = "chatbench"
_OPTIONAL = ("wandb", "trackio")


def refuse_missing_trackers(report_to: Sequence[str]) -> None:
    """Checks that each tracker is installed.

    Raises:
        ChatbenchError: one is not.
    """
    for name in _OPTIONAL:
        if name in report_to and util.find_spec(name) is None:
            raise ChatbenchError(
                f"report_to has {name}, which is not installed",
                fix=f"pip install {name}, or leave it out of report_to",
            )


@contextmanager
def tracked(
    job: TrainingJob, arguments: TrainingArguments, resume_from: str | None, *, read_gpus: Reader | None = None
) -> Iterator[list[TrainerCallback]]:
    """The callbacks that report a run, for the time of the block; and the GPUs are watched in it.

    That the trackers are installed is checked before, by `refuse_missing_trackers`.

    Args:
        arguments: tell which process this is; trackio reads the run's name in them.
        resume_from: the checkpoint that the run continues from, None for a new one.
        read_gpus: asked for GPU readings in place of the driver.

    Raises:
        ChatbenchError: a tracker refuses the run.
    """
    names = job.resolved.settings.report_to
    if arguments.process_index != 0 or "none" in names:
        yield []
        return
    run_name = f"{job.resolved.key}/{job.split}"
    with ExitStack() as ended:
        callbacks: list[TrainerCallback] = []
        if "tensorboard" in names:
            callbacks.append(_tensorboard(job.logs, resume_from, ended))
        if "wandb" in names:
            callbacks.append(_wandb(job, run_name, ended))
        if "trackio" in names:
            # It goes on with any run of the same name, so that of other settings must be called otherwise.
            arguments.run_name, arguments.project = f"{run_name} {job.resolved.hash[:8]}", PROJECT
            callbacks.append(_trackio(ended))
        read = read_gpus or nvidia_reader()
        # Curves of their own: their steps are readings, which a resumed run's purge must not take for training steps.
        curves = _summary_writer(job.logs / "gpu", None, ended) if read and "tensorboard" in names else None
        ended.enter_context(gpu_watch(job.logs, read, scalar=curves and curves.add_scalar))
        yield callbacks


def _tensorboard(folder: Path, resume_from: str | None, ended: ExitStack) -> TrainerCallback:
    from transformers.integrations.integration_utils import TensorBoardCallback

    # What a killed run drew after its last checkpoint is drawn again.
    purge = int(resume_from.rpartition("-")[2]) + 1 if resume_from else None
    callback: Any = TensorBoardCallback
    return cast(TrainerCallback, callback(_summary_writer(folder, purge, ended)))


def _summary_writer(folder: Path, purge_step: int | None, ended: ExitStack) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    made: Any = SummaryWriter
    writer = made(str(folder), purge_step=purge_step)
    ended.callback(writer.close)
    return writer


def _wandb(job: TrainingJob, run_name: str, ended: ExitStack) -> TrainerCallback:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # nothing is told to anybody who was not asked to listen
    wandb: Any = import_module("wandb")
    from transformers.integrations.integration_utils import WandbCallback

    job.logs.mkdir(parents=True, exist_ok=True)
    try:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run_name,
            group=job.resolved.key,
            dir=os.environ.get("WANDB_DIR", str(job.logs)),
        )
    except wandb.errors.Error as error:
        raise ChatbenchError(
            f"wandb: {str(error).splitlines()[0]}",
            fix="wandb login, or WANDB_API_KEY in .env, or WANDB_MODE=offline, or leave it out of report_to",
        ) from error
    ended.push(lambda kind, *_: run.finish(exit_code=1 if kind else 0) and None)
    made: Any = WandbCallback
    return cast(TrainerCallback, made())  # goes on with the run that there is


def _trackio(ended: ExitStack) -> TrainerCallback:
    trackio: Any = import_module("trackio")
    from transformers.integrations.integration_utils import TrackioCallback

    @ended.callback
    def finish() -> None:
        if trackio.context_vars.current_run.get() is not None:  # a run that failed; others the callback has finished
            trackio.finish()

    made: Any = TrackioCallback
    return cast(TrainerCallback, made())
