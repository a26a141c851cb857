"""The runs of tests/training/test_run.py that are killed outright, again and again, until one gets through.

    python tests/support/killed_runs.py BASE FOLDER

Each try is a fork of this process, which has imported everything and computed nothing, and sends itself SIGKILL at a
drawn moment: when a step begins, a file is flushed, a tensor file is written or a folder is renamed.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers.modeling_utils
from tests.support.tiny_runs import KILLED, run_tiny, tiny_job

from chatbench.training.trainer import CompletionTrainer

MOST_TRIES = 25


def kill_at(moment: int) -> None:
    """From now on, the `moment`-th of the moments that count is this process's last."""
    left = [moment]

    def killing(act: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return act(*arguments, **named)

        return counted

    CompletionTrainer.training_step = killing(CompletionTrainer.training_step)  # type: ignore[method-assign]
    transformers.modeling_utils.safe_save_file = killing(transformers.modeling_utils.safe_save_file)
    torch.save = killing(torch.save)
    os.fsync = killing(os.fsync)
    Path.rename = killing(Path.rename)  # type: ignore[method-assign]


def tried(base: Path, folder: Path, flags: dict[str, object], moment: int) -> bool:
    """Whether the run got to its end, in a process of its own."""
    child = os.fork()
    if child == 0:
        kill_at(moment)
        run_tiny(tiny_job(base, folder, **flags))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, os.WTERMSIG(status)
        return False
    assert os.WEXITSTATUS(status) == 0, "a run failed by itself"
    return True


if __name__ == "__main__":
    drawn = random.Random(0)
    for name, flags in KILLED.items():
        kills = 0
        while not tried(Path(sys.argv[1]), Path(sys.argv[2]) / name, flags, drawn.randint(3, 40)):
            kills += 1
            assert kills < MOST_TRIES, "it never gets through"
        print(name, kills)
