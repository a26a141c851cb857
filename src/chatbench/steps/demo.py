"""The demo: the whole pipeline on the sample study with the tiny model, sized for a laptop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from chatbench.steps.check_study import summarise, summary_text
from chatbench.steps.report import report as write_page
from chatbench.steps.results_table import print_tables
from chatbench.steps.run_all import RunReport, RunSettings, run_all
from chatbench.steps.sample_truth import checks, tellings, truth_lines
from chatbench.studies.sample.study import SampleSettings, write_sample

UNTRAINED_CHATS = 1
"""Chats per question and assistant with the base: it never stops by itself, so each takes as long as ten others."""

MAX_TOKENS = 100
"""A message of the sample study has at most 90 tokens; the untrained base would fill any room."""


def demo(out: Path, *, splits: int, say: Callable[[str], None]) -> RunReport:
    """Study, splits, fine-tuning, perplexity, simulated chats, scores and page in `out`; run again, it continues."""
    sample = write_sample(out / "sample", SampleSettings())
    say(summary_text(summarise(sample.study)))
    settings = RunSettings(splits=splits, untrained_conversations=UNTRAINED_CHATS, max_tokens=MAX_TOKENS)
    report = run_all(
        "tiny", study=out / "sample", data=out / "data", results=out / "results", settings=settings, say=say
    )
    if report.table:
        print_tables([report.table])
        told = tellings("tiny", sample.study, data=out / "data", results=out / "results")
        say("\n".join(truth_lines(told, checks(report.table, told))))
    say(f"\nHow like people's its chats are: chatbench realism tiny --data {out / 'data'} --results {out / 'results'}")
    say("\n" + "\n".join(report.lines()))
    page = write_page(["tiny"], data=out / "data", results=out / "results", out=out / "report.html")
    say(f"\nThe scores, figures and all {page.chats:,} chats to look at: {page.path}")
    return report
