"""The demo, and `sanity`: whether a trained model looks sane.

The demo is the whole pipeline on the sample study with the tiny model, sized for a laptop. It ends with what is only
possible on the sample study: it checks first prompts against the true problem, and whether the simulator meets the
requirements for a good one. Failed checks are shown as such.

`sanity` shows on one screen whether any trained model looks sane: one line per check, then five first prompts. Each
line says `ok`, `warning` (present but not as expected) or `missing`, with a command to fix it: for a trained model,
training with other settings. Untrained splits are not reported. Only files that other steps wrote are read, so this
takes seconds. Sane means: losses fall, perplexity is below the base model's, chats end, and errors are below those of
baselines.
"""

from __future__ import annotations

import math
import random
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Literal, NamedTuple

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_jsonl
from chatbench.core.records import SimulatedConversation, Study, first_prompts
from chatbench.core.texts import printable
from chatbench.data.open_study import summary_text
from chatbench.data.workspace import Workspace
from chatbench.metrics.agreement import Undefined
from chatbench.metrics.names import (
    BASE_MODEL,
    EVERY_ASSISTANT,
    FINE_TUNED,
    MEAN_OF_ASSISTANTS,
    PEOPLE,
    REGRESSION,
    USER_ALONE,
    Predictor,
)
from chatbench.report.report import Shown
from chatbench.report.report import report as write_page
from chatbench.report.tables import print_tables
from chatbench.sample.study import SampleSettings, StatedFacts, stated_facts, write_sample
from chatbench.scoring.eval_ppl import SplitPerplexity, current_perplexity
from chatbench.scoring.score_files import read_score_table
from chatbench.scoring.score_table import ScoreTable
from chatbench.simulation.log import has_chats, read_conversations
from chatbench.simulation.simulate import ChatSettings
from chatbench.workflow.run_all import RunReport, run_all
from chatbench.workflow.units import RunSettings

if TYPE_CHECKING:
    from rich.console import Console

Shares = Mapping[str, float]
State = Literal["ok", "warning", "missing"]
STATES: tuple[State, ...] = ("ok", "warning", "missing")

TRAIN_MORE = "finetune MODEL --overwrite --num-train-epochs MORE"
TRAIN_LESS = "finetune MODEL --overwrite --num-train-epochs FEWER"
"""Fixes for an already trained model, which the same command would skip."""

ANSWERED_SHARE = 0.9
"""Minimum share of chats that end with an answer: a simulator trained on people ends most; people always do."""
PROMPT_CHARACTERS = 160
SHOWN_SPLITS = 3
NEEDED_FILES = {
    "weights": ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"),
    "tokenizer": ("tokenizer.json", "tokenizer.model", "vocab.json"),
    "record": ("chatbench.json",),
}
"""Files needed in a model folder: one of each kind."""
CHATS = 20
"""Chats per question and assistant: these are cheap, and the noise of the usual ten costs 0.01 of the error."""
TEMPERATURE = 0.7
"""Of the simulator. At the published 1.0, the tiny model writes a wrong number in every fifth first message."""
BASE_MODEL_CHATS = 1
"""Base model chats per question and assistant: it never stops by itself, so each takes as long as ten others."""
MAX_TOKENS = 100
"""Messages of the sample study have at most 90 tokens; the base model would write up to any limit."""


class Found(NamedTuple):
    """Result of one check, and the command (of MODEL) to fix it."""

    state: State
    text: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class SanityReport:
    """Results by check, with commands to copy, and first prompts as (question id, text)."""

    checks: Mapping[str, Found]
    prompts: tuple[tuple[str, str], ...]

    @property
    def exit_code(self) -> int:
        """0 if every line is ok, else 1."""
        return 0 if all(found.state == "ok" for found in self.checks.values()) else 1


def sanity(model: str, *, workspace: Workspace) -> SanityReport:
    """Check everything that exists for a model, without writing anything.

    Raises:
        ChatbenchError: MODEL is not a valid name. Damaged or missing files are lines of the report, not errors.
    """
    data_check, splits = _data(workspace)
    trained = [split_id for split_id in splits if workspace.model_folder(model, split_id).is_dir()]
    chats: list[SimulatedConversation] = []

    def losses(split_id: str) -> Found:
        path = workspace.model_folder(model, split_id) / "trainer_log.jsonl"
        if not path.exists():
            return Found("missing", f"no {path.name}", "finetune MODEL --overwrite")
        return check_losses([row for _, row in read_jsonl(path)])

    def perplexity(split_id: str) -> Found:
        scored = current_perplexity(workspace, model, split_id)
        return check_perplexity(scored) if scored else Found("missing", "not computed", "eval-ppl MODEL")

    def endings(split_id: str) -> Found:
        path = workspace.conversations(model, split_id)
        found = read_conversations(path) if has_chats(path) else []
        chats.extend(found)
        return check_endings(found)

    def scores(_: str) -> Found:
        path = workspace.scores(model)
        if not path.exists():
            return Found("missing", "not computed", "eval-chatbench MODEL")
        return check_scores(read_score_table(path.parent, path.stem))

    def ready(found: Found, split_id: str = "") -> Found:
        return found._replace(fix=_command(found.fix, model, workspace, split_id))

    def over_splits(check: Callable[[str], Found]) -> Found:
        """Summarise all trained splits in one line: the worst state, and the results of the first splits in it."""
        if not trained:
            return ready(Found("missing", "no split is fine-tuned", "finetune MODEL"))
        found = {split_id: _readable(check, split_id) for split_id in trained}
        worst = max((each.state for each in found.values()), key=STATES.index)
        chosen = {split_id: each for split_id, each in found.items() if each.state == worst}
        shown = [f"{split_id} {each.text}" for split_id, each in list(chosen.items())[:SHOWN_SPLITS]]
        more = [f"{len(chosen) - SHOWN_SPLITS} more like these"] if len(chosen) > SHOWN_SPLITS else []
        whose = [] if worst == "ok" else [f"{len(chosen)} of {len(found)} splits"]
        split_id, first = next(iter(chosen.items()))
        return ready(Found(worst, "; ".join([*whose, *shown, *more]), first.fix), split_id)

    checks = {
        "data": ready(data_check),
        "model": over_splits(lambda split_id: _files(workspace.model_folder(model, split_id))),
        "losses": over_splits(losses),
        "perplexity": over_splits(perplexity),
        "chats": over_splits(endings),
        "scores": ready(_readable(scores, "")),
    }
    return SanityReport(checks, sampled_prompts(chats))


def _command(fix: str, model: str, workspace: Workspace, split_id: str) -> str:
    """Complete a command to copy, with the split and any folders other than the defaults."""
    if not fix or fix.startswith("prepare-splits"):
        return f"chatbench {fix}" if fix else ""
    folders = {"data": workspace.data, "results": workspace.results}
    options = [f"--{name} {shlex.quote(str(path))}" for name, path in folders.items() if str(path) != name]
    split = [f"--split {split_id}"] if split_id else []
    return " ".join(["chatbench", fix.replace("MODEL", model), *split, *options])


def _data(workspace: Workspace) -> tuple[Found, list[str]]:
    study, out = "STUDY", "" if str(workspace.data) == "data" else f" --out {shlex.quote(str(workspace.data))}"
    try:
        manifest = workspace.manifest
        study = shlex.quote(str(manifest.study_path))
        for split_id in manifest.split_ids:
            for name in ("train.jsonl", "test.jsonl", "split.jsonl"):
                workspace.split_file(split_id, name)
    except ChatbenchError as error:
        state: State = "warning" if workspace.is_prepared else "missing"
        return Found(state, error.found, f"prepare-splits --study {study}{out}"), []
    counts = ", ".join(f"{number} {name}" for name, number in manifest.counts.items())
    return Found("ok", f"{manifest.study_name}: {manifest.splits} splits of {counts}"), manifest.split_ids


def _readable(check: Callable[[str], Found], split_id: str) -> Found:
    """Run a check; an unreadable file is a warning, with the command that recreates it from the error's fix."""
    try:
        return check(split_id)
    except ChatbenchError as error:
        return Found("warning", error.found, error.fix.partition("chatbench ")[2].partition(" --split")[0])


def _files(folder: Path) -> Found:
    missing = [what for what, names in NEEDED_FILES.items() if not any((folder / name).is_file() for name in names)]
    if missing:
        return Found("missing", f"no {' and no '.join(missing)} in {folder}", "finetune MODEL --overwrite")
    return Found("ok", f"{sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) / 1e6:.1f} MB")


def check_losses(lines: Sequence[Mapping[str, object]]) -> Found:
    """Check that training loss fell from its first to its last tenth, and that held-out loss did not rise overall.

    Args:
        lines: rows of `trainer_log.jsonl`, with `loss` or `eval_loss`.
    """
    losses, held_out = (
        [float(value) for line in lines if isinstance(value := line.get(name), int | float)]
        for name in ("loss", "eval_loss")
    )
    if len(losses) < 2:
        return Found("warning", f"{len(losses)} logged losses, too few to tell", TRAIN_MORE)
    if not all(map(math.isfinite, losses)):
        return Found("warning", "a loss is not finite", "finetune MODEL --overwrite --learning-rate LOWER")
    tenth = max(1, len(losses) // 10)
    first, last = math.fsum(losses[:tenth]) / tenth, math.fsum(losses[-tenth:]) / tenth
    found = f"loss {first:.3f} -> {last:.3f}"
    if held_out:
        found += f", held out {held_out[0]:.3f} -> {held_out[-1]:.3f}"
    overfitted = len(held_out) > 1 and held_out[-1] > held_out[0]
    if overfitted:
        return Found("warning", found, TRAIN_LESS)
    return Found("ok", found) if last < first else Found("warning", found, TRAIN_MORE)


def check_perplexity(scored: SplitPerplexity) -> Found:
    """Check that the fine-tuned model has a lower perplexity on people's turns than its base."""
    tuned, base = scored.finetuned.perplexity, scored.base.perplexity
    found = f"{tuned:.2f} (base {base:.2f})"
    return Found("ok", found) if tuned < base else Found("warning", found, TRAIN_MORE)


def check_endings(chats: Sequence[SimulatedConversation]) -> Found:
    """Check that the simulator ends its chats by itself, and that no chat failed."""
    if not chats:
        return Found("missing", "not simulated", "simulate MODEL --assistant SPEC")
    endings = Counter(chat.termination for chat in chats)
    shown = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in sorted(endings.items()))
    found = f"{len(chats)} chats: {shown}"
    if endings["failed"]:
        return Found("warning", found, "simulate MODEL --assistant SPEC --overwrite")
    if endings["answered"] < ANSWERED_SHARE * len(chats):
        return Found("warning", found, TRAIN_MORE)
    return Found("ok", found)


def check_scores(table: ScoreTable) -> Found:
    """Check that the simulator has a smaller error and a higher correlation than every baseline.

    A base model with fewer chats is compared with as many of the fine-tuned model's first chats. A baseline without a
    correlation (the constant) is compared by error only. One that needs people's answers to the same questions is named
    if it wins, but causes no warning.
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
        return Found("warning", "no question could be scored", "simulate MODEL --assistant SPEC --overwrite")
    few = next((p for p in errors if p.kind == FINE_TUNED.kind and p.chats is not None), FINE_TUNED)
    baselines = [p for p in errors if p.is_baseline or p == BASE_MODEL]
    lost: dict[str, Predictor] = {}
    for baseline in baselines:
        mine = few if baseline == BASE_MODEL else FINE_TUNED
        if errors[mine] >= errors[baseline]:
            lost[f"{baseline} has error {errors[baseline]:.3f}, {mine} {errors[mine]:.3f}"] = baseline
        if baseline in correlations and correlations.get(mine, -1.0) <= correlations[baseline]:
            found = f"{correlations[mine]:.3f}" if mine in correlations else "none"
            lost[f"{baseline} has correlation {correlations[baseline]:.3f}, {mine} {found}"] = baseline
    own = f"error {errors[FINE_TUNED]:.3f}"
    if FINE_TUNED in correlations:
        own += f", correlation {correlations[FINE_TUNED]:.3f}"
    compared = f"{own}; compared with {len(baselines)} baseline{'s' * (len(baselines) != 1)}"
    text = "; ".join([compared, *(f"{each}{needs_people(baseline)}" for each, baseline in lost.items())])
    unfit = [baseline for baseline in lost.values() if not needs_people(baseline)]
    return Found("warning", text, TRAIN_MORE) if unfit else Found("ok", text)


def needs_people(baseline: Predictor) -> str:
    """Remark on a baseline that needs people's own answers to the held-out questions, else an empty string."""
    return " (needs people's answers to these questions)" if baseline in (USER_ALONE, REGRESSION) else ""


def sampled_prompts(
    chats: Sequence[SimulatedConversation], count: int = 5, seed: int = 0
) -> tuple[tuple[str, str], ...]:
    """Draw `count` first prompts at random by seed, as (question id, text)."""
    begun = [chat for chat in chats if chat.turns]
    drawn = random.Random(seed).sample(begun, min(count, len(begun)))
    return tuple((chat.question_id, chat.turns[0].text) for chat in drawn)


def print_sanity(report: SanityReport, console: Console | None = None) -> None:
    """Print the report; a line that is not ok is followed by the command to fix it."""
    from rich.console import Console as RichConsole
    from rich.text import Text

    screen = console or RichConsole()
    style = {"ok": "green", "warning": "yellow", "missing": "red"}
    width = max(map(len, report.checks))
    for name, found in report.checks.items():
        line = Text(f"{found.state:<8}", style=style[found.state])
        screen.print(line.append(printable(f"{name:<{width}}  {found.text}"), style="default"))
        if found.state != "ok" and found.fix:
            screen.print(Text(printable(f"{'':<8}{'':<{width}}  -> {found.fix}"), style="dim"))
    for question_id, text in report.prompts:
        shown = text[:PROMPT_CHARACTERS].replace("\n", "\\n") + "…" * (len(text) > PROMPT_CHARACTERS)
        screen.print(Text(printable(f"{'prompt':<8}{question_id}: {shown}")))


@dataclass(frozen=True, slots=True)
class Check:
    """One requirement: what is asked, what was found, and whether it is met."""

    asked: str
    found: str
    passed: bool


def demo(out: Path, *, splits: int, say: Callable[[str], None]) -> RunReport:
    """Run the whole pipeline, from sample study to results page, in `out`; rerunning resumes it."""
    workspace = Workspace(out / "data", out / "results")
    sample = write_sample(out / "sample", SampleSettings())
    say(summary_text(sample.study))
    chats = ChatSettings(CHATS, max_tokens=MAX_TOKENS, simulator_temperature=TEMPERATURE)
    settings = RunSettings(splits=splits, base_conversations=BASE_MODEL_CHATS, chats=chats)
    report = run_all("tiny", study=out / "sample", workspace=workspace, settings=settings, say=say)
    if report.table:
        print_tables([report.table])
        shares = shares_stated("tiny", sample.study, workspace)
        say("\n".join(truth_lines(shares, checks(report.table, shares))))
    say(f"\nHow realistic its chats are: chatbench realism tiny --data {workspace.data} --results {workspace.results}")
    say("\n" + "\n".join(report.lines()))
    page = write_page(Shown(workspace, ("tiny",)), out / "report.html")
    say(f"\nScores, figures and all {page.chats:,} chats: {page.path}")
    return report


def shares_stated(model: str, study: Study, workspace: Workspace) -> dict[Predictor, Shares]:
    """Shares of `StatedFacts` for people, the fine-tuned and the base model, averaged over the simulated splits."""
    per_split: dict[Predictor, list[Shares]] = {}
    for split_id in workspace.manifest.split_ids:
        held_out = set(workspace.split(split_id).question_ids("test"))
        prompts = {PEOPLE: first_prompts([chat for chat in study.conversations if chat.question_id in held_out])}
        for source in (FINE_TUNED, BASE_MODEL):
            path = workspace.conversations(model, split_id, base_model=source == BASE_MODEL)
            for chat in read_conversations(path) if has_chats(path) else ():
                if chat.turns:
                    prompts.setdefault(source, {}).setdefault(chat.question_id, []).append(chat.turns[0].text)
        for source, by_question in prompts.items():
            counts = (stated_facts(messages, study.questions[question]) for question, messages in by_question.items())
            per_split.setdefault(source, []).append(sum(counts, StatedFacts()).shares())
    return {
        source: {name: fmean(each.get(name, 0.0) for each in shares) for name in shares[0]}
        for source, shares in per_split.items()
    }


def checks(table: ScoreTable, stated: Mapping[Predictor, Shares]) -> list[Check]:
    """Check the requirements for a simulator of the sample study, with means over splits by question."""
    tuned, base = (_mean(table, EVERY_ASSISTANT, source, "perplexity") for source in (FINE_TUNED, BASE_MODEL))
    answered = _mean(table, EVERY_ASSISTANT, FINE_TUNED, "answered_share")
    right = stated.get(FINE_TUNED, {}).get("numbers right")
    halved = tuned is not None and base is not None and tuned <= base / 2
    return [
        Check("perplexity at most half of the base's", f"{_shown(tuned)} and {_shown(base)}", halved),
        Check("at least 90 % of chats answered unforced", _shown(answered), answered is not None and answered >= 0.9),
        Check("at least 90 % of first prompts with right numbers", _shown(right), right is not None and right >= 0.9),
        _beats(table, "pearson", "correlation above every baseline's", higher=True),
        _beats(table, "mae", "mean absolute error below every baseline's", higher=False),
    ]


def _beats(table: ScoreTable, metric: str, asked: str, *, higher: bool) -> Check:
    """Check that the simulator beats every baseline and the base model, listed from best to worst."""
    values = {
        source: _mean(table, assistant, source, metric)
        for assistant, source, of in table.estimates()
        if (assistant, of) == (MEAN_OF_ASSISTANTS, metric) and (source.is_baseline or source == BASE_MODEL)
    }
    own, sign = _mean(table, MEAN_OF_ASSISTANTS, FINE_TUNED, metric), 1 if higher else -1
    known = {source: value for source, value in values.items() if value is not None}
    ranked = sorted(values, key=lambda source: -sign * known.get(source, -sign * math.inf))
    lines = [f"{_shown(values[source]):>11}  {source}{needs_people(source)}" for source in ranked]
    passed = own is not None and bool(known) and all(sign * own > sign * value for value in known.values())
    return Check(asked, "\n".join([_shown(own), *lines]), passed)


def _mean(table: ScoreTable, assistant: str, source: Predictor, metric: str) -> float | None:
    estimate = table.estimates().get((assistant, source, metric))
    return None if estimate is None or isinstance(estimate.mean, Undefined) else estimate.mean


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3g}"


def truth_lines(stated: Mapping[Predictor, Shares], found: Iterable[Check]) -> list[str]:
    """Lines to print: shares by predictor, then the checks."""
    names = list(next(iter(stated.values())))
    lines = ["First prompts against the truth of the sample study", " " * 14 + "".join(f"{name:>16}" for name in names)]
    lines += [
        f"  {source.label:<12}" + "".join(f"{100 * shares[name]:>14.1f} %" for name in names)
        for source, shares in stated.items()
    ]
    lines += ["", "Is the simulator good enough? (held-out questions, means over splits)"]
    return lines + [f"  {'yes' if check.passed else 'NO ':<4} {check.asked}: {check.found}" for check in found]
