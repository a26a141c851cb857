"""One screen that tells whether a trained model is sane: a line per check, five first prompts, and the scores.

Each line says `ok`, `look` (it is there but not as it should be) or `missing`, with the command that makes it. Splits
that were not trained are no fault. Only what the other steps wrote is looked at, so the screen takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_jsonl
from chatbench.core.model_names import model_key
from chatbench.core.records import SimulatedConversation
from chatbench.protocol.prepared_data import MANIFEST, load_manifest, split_file
from chatbench.steps.finetune import model_folder
from chatbench.steps.perplexity_files import read_perplexity
from chatbench.steps.sanity_rules import (
    State,
    check_endings,
    check_losses,
    check_perplexity,
    check_scores,
    sampled_prompts,
)
from chatbench.steps.score_files import read_score_table
from chatbench.studies.simulations import has_chats, log_path, read_conversations

if TYPE_CHECKING:
    from rich.console import Console

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
SHOWN_SPLITS = 3
STATES: tuple[State, ...] = ("ok", "look", "missing")

Found = tuple[State, str]


@dataclass(frozen=True, slots=True)
class Check:
    """One line: what was looked at, its state, what was found, and the command that helps where it is not ok."""

    name: str
    state: State
    found: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class SanityReport:
    """All lines, and some first prompts as (question id, text)."""

    model: str
    checks: tuple[Check, ...]
    prompts: tuple[tuple[str, str], ...]

    @property
    def exit_code(self) -> int:
        """0 where every line is ok, else 1."""
        return 0 if all(check.state == "ok" for check in self.checks) else 1


def sanity(model: str, *, data: Path, results: Path, prompts: int = 5, seed: int = 0) -> SanityReport:
    """Looks at everything that lies there of a model; writes nothing.

    Raises:
        ChatbenchError: MODEL is no model's name. What is damaged or missing is a line of the report, not an error.
    """
    key = model_key(model)
    data_check, splits = _data(data)
    trained = [split_id for split_id in splits if model_folder(results, model, split_id).is_dir()]
    chats: list[SimulatedConversation] = []

    def losses(split_id: str) -> Found:
        path = model_folder(results, model, split_id) / "trainer_log.jsonl"
        return check_losses([row for _, row in read_jsonl(path)]) if path.exists() else ("missing", f"no {path.name}")

    def perplexity(split_id: str) -> Found:
        scored = read_perplexity(model, results, split_id)
        return check_perplexity(scored) if scored else ("missing", "not computed")

    def endings(split_id: str) -> Found:
        path = log_path(results, key, split_id)
        if not has_chats(path):
            return "missing", "not simulated"
        chats.extend(found := read_conversations(path))
        return check_endings(found)

    train = f"chatbench finetune {model}"
    checks = (
        data_check,
        _over_splits("model", trained, lambda s: _model_files(model_folder(results, model, s)), train),
        _over_splits("losses", trained, losses, train),
        _over_splits("perplexity", trained, perplexity, f"chatbench eval-ppl {model}"),
        _over_splits("chats", trained, endings, f"chatbench simulate {model} --assistant SPEC"),
        _scores(model, results),
    )
    return SanityReport(model, checks, sampled_prompts(chats, prompts, seed))


def _data(data: Path) -> tuple[Check, list[str]]:
    command = "chatbench prepare-splits --study STUDY"
    try:
        manifest = load_manifest(data)
        for split_id in manifest.split_ids:
            for name in ("train.jsonl", "test.jsonl", "split.jsonl"):
                split_file(data, split_id, name)
    except ChatbenchError as error:
        return Check("data", "look" if (data / MANIFEST).exists() else "missing", error.found, command), []
    counts = ", ".join(f"{number} {name}" for name, number in manifest.counts.items())
    return Check("data", "ok", f"{manifest.study_name}: {manifest.splits} splits of {counts}"), manifest.split_ids


def _over_splits(name: str, splits: Sequence[str], look: Callable[[str], Found], command: str) -> Check:
    """One line over all trained splits: the worst state, and what was found on the first splits that have it."""
    if not splits:
        return Check(name, "missing", "no split is fine-tuned", command)
    found = {split_id: _guarded(look, split_id) for split_id in splits}
    worst = max((state for state, _ in found.values()), key=STATES.index)
    chosen = {split_id: text for split_id, (state, text) in found.items() if state == worst}
    shown = [f"{split_id} {text}" for split_id, text in list(chosen.items())[:SHOWN_SPLITS]]
    more = [f"{len(chosen) - SHOWN_SPLITS} more alike"] if len(chosen) > SHOWN_SPLITS else []
    whose = [] if worst == "ok" else [f"{len(chosen)} of {len(found)} splits"]
    return Check(name, worst, "; ".join([*whose, *shown, *more]), f"{command} --split {next(iter(chosen))}")


def _guarded(look: Callable[[str], Found], split_id: str) -> Found:
    """What was found; a file that cannot be read is a finding too."""
    try:
        return look(split_id)
    except ChatbenchError as error:
        return "look", error.found


def _model_files(folder: Path) -> Found:
    missing = [
        what
        for what, names in {"weights": WEIGHTS, "tokenizer": TOKENIZERS, "record": ("chatbench.json",)}.items()
        if not any((folder / name).is_file() for name in names)
    ]
    if missing:
        return "missing", f"no {' and no '.join(missing)} in {folder}"
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    return "ok", f"{size / 1e6:.1f} MB"


def _scores(model: str, results: Path) -> Check:
    command = f"chatbench eval-chatbench {model}"
    folder, key = results / "scores", model_key(model)
    if not (folder / f"{key}.json").exists():
        return Check("scores", "missing", "not computed", command)
    try:
        return Check("scores", *check_scores(read_score_table(folder, key)), command)
    except ChatbenchError as error:
        return Check("scores", "look", error.found, command)


def print_sanity(report: SanityReport, console: Console | None = None) -> None:
    """Prints the screen; where a line is not ok, the command that helps follows it."""
    from rich.console import Console as RichConsole
    from rich.text import Text

    screen = console or RichConsole()
    style = {"ok": "green", "look": "yellow", "missing": "red"}
    width = max(len(check.name) for check in report.checks)
    for check in report.checks:
        line = Text(f"{check.state:<8}", style=style[check.state])
        screen.print(line.append(f"{check.name:<{width}}  {check.found}", style="default"))
        if check.state != "ok" and check.command:
            screen.print(Text(f"{'':<8}{'':<{width}}  -> {check.command}", style="dim"))
    for question_id, text in report.prompts:
        screen.print(Text(f"{'prompt':<8}{question_id}: {text}"))
