"""One screen that tells whether a trained model is sane: a line per check, five first prompts, and the scores.

Each line says `ok`, `warning` (it is there but not as it should be) or `missing`, with the command that helps. Splits
that were not trained are no fault. Only what the other steps wrote is read, so the screen takes seconds.

What counts as sane: falling losses, perplexity below the base's, chats that end, errors below the baselines'.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_jsonl
from chatbench.core.records import SimulatedConversation
from chatbench.data.workspace import Workspace
from chatbench.metrics.agreement import Undefined
from chatbench.metrics.names import BASE_MODEL, CONSTANT, EVERY_ASSISTANT, FINE_TUNED, MEAN_OF_ASSISTANTS
from chatbench.scoring.eval_ppl import SplitPerplexity, read_perplexity
from chatbench.scoring.score_files import read_score_table
from chatbench.scoring.score_table import ScoreTable
from chatbench.simulation.log import has_chats, read_conversations

if TYPE_CHECKING:
    from rich.console import Console

State = Literal["ok", "warning", "missing"]
STATES: tuple[State, ...] = ("ok", "warning", "missing")
Found = tuple[State, str]

ANSWERED_SHARE = 0.9
"""A simulator that was trained on people ends most chats by itself; people always do."""
PROMPT_CHARACTERS = 160
SHOWN_SPLITS = 3
NEEDED_FILES = {
    "weights": ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"),
    "tokenizer": ("tokenizer.json", "tokenizer.model", "vocab.json"),
    "record": ("chatbench.json",),
}
"""Of a model's folder: one file of each kind."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line: what was checked, its state, what was found, and the command that helps where it is not ok."""

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


def sanity(model: str, *, workspace: Workspace, prompts: int = 5, seed: int = 0) -> SanityReport:
    """Checks everything that lies there of a model; writes nothing.

    Raises:
        ChatbenchError: MODEL is no model's name. What is damaged or missing is a line of the report, not an error.
    """
    data_check, splits = _data(workspace)
    trained = [split_id for split_id in splits if workspace.model_folder(model, split_id).is_dir()]
    chats: list[SimulatedConversation] = []

    def losses(split_id: str) -> Found:
        path = workspace.model_folder(model, split_id) / "trainer_log.jsonl"
        return check_losses([row for _, row in read_jsonl(path)]) if path.exists() else ("missing", f"no {path.name}")

    def perplexity(split_id: str) -> Found:
        scored = read_perplexity(workspace, model, split_id)
        return check_perplexity(scored) if scored else ("missing", "not computed")

    def endings(split_id: str) -> Found:
        path = workspace.conversations(model, split_id)
        if not has_chats(path):
            return "missing", "not simulated"
        chats.extend(found := read_conversations(path))
        return check_endings(found)

    def scores(_: str) -> Found:
        path = workspace.scores(model)
        return check_scores(read_score_table(path.parent, path.stem)) if path.exists() else ("missing", "not computed")

    train, score = f"chatbench finetune {model}", f"chatbench eval-chatbench {model}"
    checks = (
        data_check,
        _over_splits("model", trained, lambda split_id: _files(workspace.model_folder(model, split_id)), train),
        _over_splits("losses", trained, losses, train),
        _over_splits("perplexity", trained, perplexity, f"chatbench eval-ppl {model}"),
        _over_splits("chats", trained, endings, f"chatbench simulate {model} --assistant SPEC"),
        Check("scores", *_readable(scores, ""), score),
    )
    return SanityReport(model, checks, sampled_prompts(chats, prompts, seed))


def _data(workspace: Workspace) -> tuple[Check, list[str]]:
    command = "chatbench prepare-splits --study STUDY"
    try:
        manifest = workspace.manifest
        for split_id in manifest.split_ids:
            for name in ("train.jsonl", "test.jsonl", "split.jsonl"):
                workspace.split_file(split_id, name)
    except ChatbenchError as error:
        return Check("data", "warning" if workspace.is_prepared else "missing", error.found, command), []
    counts = ", ".join(f"{number} {name}" for name, number in manifest.counts.items())
    return Check("data", "ok", f"{manifest.study_name}: {manifest.splits} splits of {counts}"), manifest.split_ids


def _over_splits(name: str, splits: Sequence[str], check: Callable[[str], Found], command: str) -> Check:
    """One line over all trained splits: the worst state, and what was found on the first splits that have it."""
    if not splits:
        return Check(name, "missing", "no split is fine-tuned", command)
    found = {split_id: _readable(check, split_id) for split_id in splits}
    worst = max((state for state, _ in found.values()), key=STATES.index)
    chosen = {split_id: text for split_id, (state, text) in found.items() if state == worst}
    shown = [f"{split_id} {text}" for split_id, text in list(chosen.items())[:SHOWN_SPLITS]]
    more = [f"{len(chosen) - SHOWN_SPLITS} more alike"] if len(chosen) > SHOWN_SPLITS else []
    whose = [] if worst == "ok" else [f"{len(chosen)} of {len(found)} splits"]
    return Check(name, worst, "; ".join([*whose, *shown, *more]), f"{command} --split {next(iter(chosen))}")


def _readable(check: Callable[[str], Found], split_id: str) -> Found:
    """What was found; a file that cannot be read is a finding too."""
    try:
        return check(split_id)
    except ChatbenchError as error:
        return "warning", error.found


def _files(folder: Path) -> Found:
    missing = [what for what, names in NEEDED_FILES.items() if not any((folder / name).is_file() for name in names)]
    if missing:
        return "missing", f"no {' and no '.join(missing)} in {folder}"
    return "ok", f"{sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) / 1e6:.1f} MB"


def check_losses(lines: Sequence[Mapping[str, object]]) -> Found:
    """Whether training loss fell from its first to its last tenth, and the held-out loss from its first to its last.

    Args:
        lines: `trainer_log.jsonl`, with `loss` or `eval_loss`.
    """
    losses, held_out = (
        [float(value) for line in lines if isinstance(value := line.get(name), int | float)]
        for name in ("loss", "eval_loss")
    )
    if len(losses) < 2:
        return "warning", f"{len(losses)} logged losses, too few to tell"
    if not all(map(math.isfinite, losses)):
        return "warning", "a loss is not finite"
    tenth = max(1, len(losses) // 10)
    first, last = math.fsum(losses[:tenth]) / tenth, math.fsum(losses[-tenth:]) / tenth
    found = f"loss {first:.3f} -> {last:.3f}"
    if held_out:
        found += f", held out {held_out[0]:.3f} -> {held_out[-1]:.3f}"
    overfitted = len(held_out) > 1 and held_out[-1] > held_out[0]
    return ("ok" if last < first and not overfitted else "warning"), found


def check_perplexity(scored: SplitPerplexity) -> Found:
    """Whether the fine-tuned model is less surprised by people's turns than its base."""
    tuned, base = scored.finetuned.perplexity, scored.base.perplexity
    return ("ok" if tuned < base else "warning"), f"{tuned:.2f} (base {base:.2f})"


def check_endings(chats: Sequence[SimulatedConversation]) -> Found:
    """Whether the simulator ends its chats by itself, and whether any chat failed."""
    if not chats:
        return "missing", "no chat yet"
    endings = Counter(chat.termination for chat in chats)
    found = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in sorted(endings.items()))
    sane = endings["answered"] >= ANSWERED_SHARE * len(chats) and not endings["failed"]
    return ("ok" if sane else "warning"), f"{len(chats)} chats: {found}"


def check_scores(table: ScoreTable) -> Found:
    """Whether the simulator has a smaller error and a higher correlation than every baseline.

    Baselines are the constant, the AI-alone columns, and the base model, which is compared with the fine-tuned
    one's first few chats where it has fewer itself. A baseline without a correlation (the constant) cannot win by it.
    """
    estimates = table.estimates()
    whose = MEAN_OF_ASSISTANTS if any(row[0] == MEAN_OF_ASSISTANTS for row in estimates) else EVERY_ASSISTANT
    errors, correlations = (
        {
            source: estimate.mean
            for (assistant, source, name), estimate in estimates.items()
            if (assistant, name) == (whose, metric) and not isinstance(estimate.mean, Undefined)
        }
        for metric in ("mae", "pearson")
    )
    if FINE_TUNED not in errors:
        return "warning", "no question could be scored"
    few = next((p for p in errors if p.kind == FINE_TUNED.kind and p.chats is not None), FINE_TUNED)
    baselines = [p for p in errors if p in (CONSTANT, BASE_MODEL) or p.kind == "AI alone"]
    lost = []
    for baseline in baselines:
        mine = few if baseline == BASE_MODEL else FINE_TUNED
        if errors[mine] >= errors[baseline]:
            lost.append(f"{baseline} has error {errors[baseline]:.3f}, {mine} {errors[mine]:.3f}")
        if baseline in correlations and correlations.get(mine, -1.0) <= correlations[baseline]:
            found = f"{correlations[mine]:.3f}" if mine in correlations else "none"
            lost.append(f"{baseline} has correlation {correlations[baseline]:.3f}, {mine} {found}")
    own = f"error {errors[FINE_TUNED]:.3f}"
    if FINE_TUNED in correlations:
        own += f", correlation {correlations[FINE_TUNED]:.3f}"
    compared = f"{own}; compared with {len(baselines)} baseline{'s' * (len(baselines) != 1)}"
    return ("warning" if lost else "ok"), "; ".join([compared, *lost])


def sampled_prompts(
    chats: Sequence[SimulatedConversation], count: int = 5, seed: int = 0
) -> tuple[tuple[str, str], ...]:
    """`count` first prompts, drawn by seed, as (question id, printable text)."""
    begun = [chat for chat in chats if chat.turns]
    drawn = random.Random(seed).sample(begun, min(count, len(begun)))
    return tuple((chat.question_id, printable(chat.turns[0].text)) for chat in drawn)


def printable(text: str, limit: int = PROMPT_CHARACTERS) -> str:
    r"""A model's text for a terminal: control characters escaped, cut after `limit` characters.

    >>> print(printable("two\nlines\x1b[31m"))
    two\nlines\x1b[31m
    """
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return escaped if len(escaped) <= limit else escaped[: limit - 1] + "…"


def print_sanity(report: SanityReport, console: Console | None = None) -> None:
    """Prints the screen; where a line is not ok, the command that helps follows it."""
    from rich.console import Console as RichConsole
    from rich.text import Text

    screen = console or RichConsole()
    style = {"ok": "green", "warning": "yellow", "missing": "red"}
    width = max(len(check.name) for check in report.checks)
    for check in report.checks:
        line = Text(f"{check.state:<8}", style=style[check.state])
        screen.print(line.append(f"{check.name:<{width}}  {check.found}", style="default"))
        if check.state != "ok" and check.command:
            screen.print(Text(f"{'':<8}{'':<{width}}  -> {check.command}", style="dim"))
    for question_id, text in report.prompts:
        screen.print(Text(f"{'prompt':<8}{question_id}: {text}"))
