"""The steps of one person in the study, drawn once, when they join.

    instructions, phase 1: questions of other batches alone, attention check, phase 2: the batch's questions

In phase 2 a question is answered with the assistant (direct-to-AI), alone and then with it (answer-first), or alone
(user-alone). The order within each phase is random. Source: Chang, Anderson, Hofman, ACL 2025.
"""

from __future__ import annotations

from random import Random

from chatbench.collect.config import ALONE, Cell, CollectedStudy

INSTRUCTIONS = "instructions"
ATTENTION = "attention"
CHAT = "chat"


def draw_plan(study: CollectedStudy, cell: Cell, chance: Random) -> list[str]:
    """Draw the steps `kind:question`; kind is `alone` in phase 1, `first` and `chat`, or `second` in phase 2."""
    batch = [question.id for question in study.batches[cell.batch]]
    others = [question for question in study.questions if question not in batch]
    chance.shuffle(batch)
    alone = chance.sample(others, study.config.phase_1_questions)
    plan = [INSTRUCTIONS, *(f"alone:{question}" for question in alone)]
    plan += [ATTENTION] if study.config.attention else []
    for question in batch:
        plan += [f"first:{question}"] if cell.condition == "answer-first" else []
        plan.append(f"second:{question}" if cell.condition == ALONE else f"{CHAT}:{question}")
    return plan


def parts(step: str) -> tuple[str, str]:
    """Split a step into kind and question, which is "" for steps without one."""
    kind, _, question = step.partition(":")
    return kind, question
