"""A finished run in small, made without a model: study, splits, chats of two models, perplexities, logs of training."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from tests.support.simulated_logs import always_wrong, people_like, prepared, study, write_log, write_perplexity

from chatbench.core.files import write_jsonl
from chatbench.core.records import Question, Study, Turn
from chatbench.data.workspace import Workspace
from chatbench.estimation.estimate import CURVE
from chatbench.metrics.resampling import Resampling
from chatbench.sample.study import write_chatbench_folder
from chatbench.scoring.eval_chatbench import eval_chatbench

HOSTILE = (
    "<script>document.title = 'taken'</script></textarea></script><img src=x onerror=\"document.title = 'taken'\">"
    "\u202egnp.exe\u202c \u2028 {{ 7 * 7 }} &amp; ]]> <!-- "
)
"""What a page must show as text."""
MODELS = ("tiny", "distilgpt2")
SPLITS = ("split_0", "split_1")


def finish(folder: Path) -> Workspace:
    """Writes study, data and results into a folder; takes about a second."""
    write_chatbench_folder(with_hostile_chats(study()), folder / "study")
    place = prepared(folder, splits=len(SPLITS))
    for model in MODELS:
        for split in SPLITS:
            write_log(place, split, people_like if model == "tiny" else mostly_b, model=model)
            write_log(place, split, always_wrong, model=model, base_model=True, conversations=1)
            write_perplexity(place, split, model=model)
            write_training_log(place, split, model)
        eval_chatbench(model, workspace=place, resampling=Resampling(replicates=100))
    return place


def finish_prompted(place: Workspace) -> Workspace:
    """Chats of a prompted model that plays the user, and their scores."""
    played = {"kind": "openai", "name": "gpt-4o-mini", "base_url": "http://127.0.0.1:1/v1", "temperature": 1.0}
    for split in SPLITS:
        write_log(place, split, model="alone", prompted=played)
    eval_chatbench("alone", workspace=place, resampling=Resampling(replicates=0))
    return place


def with_hostile_chats(original: Study) -> Study:
    """One person per question says `HOSTILE` in a second turn."""
    chats = [
        dataclasses.replace(chat, turns=(*chat.turns, Turn("user", HOSTILE), Turn("assistant", f"No: {HOSTILE}")))
        if chat.worker_id.endswith("4")
        else chat
        for chat in original.conversations
    ]
    return dataclasses.replace(original, conversations=tuple(chats))


def mostly_b(_question: Question, _assistant: str, index: int) -> str | None:
    """Right in three chats of five, wrong in one, silent in one."""
    return ("B", "B", "B", "A", None)[index % 5]


def write_training_log(place: Workspace, split: str, model: str) -> None:
    """Ten steps of training with two looks at held-out examples."""
    rows: list[dict[str, object]] = [
        {"step": step, "epoch": step / 5, "loss": 4 / step, "learning_rate": 1e-4} for step in range(1, 11)
    ]
    rows += [{"step": s, "epoch": s / 5, "eval_loss": 5 / s, "eval_perplexity": math.exp(5 / s)} for s in (5, 10)]
    write_jsonl(place.results / "models" / model / split / "trainer_log.jsonl", rows)


def stored_estimate(model: str, assistant: str = "vendor/new_model:1b") -> dict[str, object]:
    """An estimate as it is stored, of everything and of a subset that is too small."""
    real = {"value": 0.62, "standard_error": 0.04, "low": 0.55, "high": 0.69}
    people = {"rectified": real, "alone": real, "correlation": 0.31, "weight": 0.5, "answers": 200,
              "effective_answers": 240.6, "loses": True}  # fmt: skip
    predicted = {"estimate": {"value": 1 / 3, "standard_error": 0.1, "low": 0.1, "high": 0.6},
                 "variance_by_cause": {"people": 0.0004, "questions": 0.0012}}  # fmt: skip
    identity = {"kind": "openai", "name": "vendor/m", "temperature": 0.7, "base_url": "http://localhost:1/v1"}
    return {
        "model": model, "assistant": assistant, "notes": [], "correlation": 0.31,
        "subsets": [
            {"subset": "all", "questions": 30, "chats": 120, "simulated": 0.5, "predicted": predicted,
             "people": people},
            {"subset": "s", "questions": 1, "chats": 4, "simulated": 0.5, "predicted": {"undefined": "too few"},
             "people": {"undefined": "too few"}},
        ],
        "differences": [{"assistant": "a", "difference": {"undefined": "too few"}}], "correlation_from": "real chats",
        "held_out": [{"assistant": "a", "human": 0.5, "simulated": 0.4, "error": 0.1, "questions": 30, "answers": 90}],
        "answers_per_person": 5,
        "curve": [{"people": n, "alone": n**-0.5, "with_simulator": 0.8 * n**-0.5} for n in CURVE],
        "signature": {"id": "abc", "assistant": {"identity": identity}},
    }  # fmt: skip
