"""Demo: the whole pipeline on the sample study with the tiny model, sized for a laptop.

It ends with what is only possible on the sample study: it checks first prompts against the true problem, and whether
the simulator meets the requirements for a good one. Failed checks are shown as such.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from chatbench.core.records import Study, first_prompts
from chatbench.data.open_study import summary_text
from chatbench.data.workspace import Workspace
from chatbench.metrics.agreement import Undefined
from chatbench.metrics.names import (
    BASE_MODEL,
    EVERY_ASSISTANT,
    FINE_TUNED,
    MEAN_OF_ASSISTANTS,
    PEOPLE,
    Predictor,
)
from chatbench.report.report import Shown
from chatbench.report.report import report as write_page
from chatbench.report.tables import print_tables
from chatbench.sample.study import SampleSettings, write_sample
from chatbench.sample.truth import StatedFacts, stated_facts
from chatbench.scoring.score_table import ScoreTable
from chatbench.simulation.log import has_chats, read_conversations
from chatbench.simulation.simulate import ChatSettings
from chatbench.workflow.run_all import RunReport, run_all
from chatbench.workflow.sanity import needs_people
from chatbench.workflow.units import RunSettings

Shares = Mapping[str, float]

BASE_MODEL_CHATS = 1
"""Base model chats per question and assistant: it never stops by itself, so each takes as long as ten others."""
MAX_TOKENS = 100
"""Messages of the sample study have at most 90 tokens; the base model would write up to any limit."""


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
    settings = RunSettings(
        splits=splits, base_conversations=BASE_MODEL_CHATS, chats=ChatSettings(max_tokens=MAX_TOKENS)
    )
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
