"""The demo: the whole pipeline on the sample study with the tiny model, sized for a laptop.

It ends with what only the sample study allows: first prompts judged against the problem, and the checks that a good
simulator of this study should pass; a check that is not passed is shown as such.
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
from chatbench.workflow.run_all import RunReport, RunSettings, run_all
from chatbench.workflow.sanity import needs_people

Shares = Mapping[str, float]

BASE_MODEL_CHATS = 1
"""Chats per question and assistant with the base: it never stops by itself, so each takes as long as ten others."""
MAX_TOKENS = 100
"""A message of the sample study has at most 90 tokens; the base model would write up to any limit."""


@dataclass(frozen=True, slots=True)
class Check:
    """One requirement: what is asked, what was found, and whether that suffices."""

    asked: str
    found: str
    passed: bool


def demo(out: Path, *, splits: int, say: Callable[[str], None]) -> RunReport:
    """Study, splits, fine-tuning, perplexity, simulated chats, scores and page in `out`; run again, it continues."""
    workspace = Workspace(out / "data", out / "results")
    sample = write_sample(out / "sample", SampleSettings())
    say(summary_text(sample.study))
    settings = RunSettings(
        splits=splits, base_conversations=BASE_MODEL_CHATS, chats=ChatSettings(max_tokens=MAX_TOKENS)
    )
