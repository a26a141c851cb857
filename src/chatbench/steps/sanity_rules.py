"""What counts as sane: falling losses, perplexity below the base's, chats that end, errors below the baselines'."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from chatbench.core.records import SimulatedConversation
from chatbench.measures.agreement import Undefined
from chatbench.measures.figures import AI_ALONE, CONSTANT, EVERY_ASSISTANT, FINE_TUNED, MEAN_OF_ASSISTANTS, UNTRAINED
from chatbench.steps.eval_ppl import SplitPerplexity
from chatbench.steps.score_table import ScoreTable

State = Literal["ok", "look", "missing"]

ANSWERED_SHARE = 0.9
"""A simulator that was trained on people ends most chats by itself; people always do."""
PROMPT_CHARACTERS = 160


def printable(text: str, limit: int = PROMPT_CHARACTERS) -> str:
    r"""A model's text for a terminal: control characters escaped, cut after `limit` characters.

    >>> print(printable("two\nlines\x1b[31m"))
    two\nlines\x1b[31m
    """
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return escaped if len(escaped) <= limit else escaped[: limit - 1] + "…"


def check_losses(lines: Sequence[Mapping[str, object]]) -> tuple[State, str]:
    """Whether training loss fell from its first to its last tenth, and the held-out loss from its first to its best.

    Args:
        lines: `trainer_log.jsonl`, with `loss` or `eval_loss`.
    """
    losses, held_out = _numbers(lines, "loss"), _numbers(lines, "eval_loss")
    if len(losses) < 2:
        return "look", f"{len(losses)} logged losses, too few to tell"
    if not all(map(math.isfinite, losses)):
        return "look", "a loss is not finite"
    tenth = max(1, len(losses) // 10)
    first, last = math.fsum(losses[:tenth]) / tenth, math.fsum(losses[-tenth:]) / tenth
    found = f"loss {first:.3f} -> {last:.3f}"
    if held_out:
        found += f", held out {held_out[0]:.3f} -> {held_out[-1]:.3f}"
    overfitted = len(held_out) > 1 and held_out[-1] > held_out[0]
    return ("ok" if last < first and not overfitted else "look"), found


def _numbers(lines: Sequence[Mapping[str, object]], name: str) -> list[float]:
    return [float(value) for line in lines if isinstance(value := line.get(name), int | float)]


def check_perplexity(scored: SplitPerplexity) -> tuple[State, str]:
    """Whether the fine-tuned model is less surprised by people's turns than its base."""
    tuned, base = scored.finetuned.perplexity, scored.base.perplexity
    return ("ok" if tuned < base else "look"), f"{tuned:.2f} (base {base:.2f})"


def check_endings(chats: Sequence[SimulatedConversation]) -> tuple[State, str]:
    """Whether the simulator ends its chats by itself, and whether any chat failed."""
    if not chats:
        return "missing", "no chat yet"
    endings = Counter(chat.termination for chat in chats)
    found = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in sorted(endings.items()))
    sane = endings["answered"] >= ANSWERED_SHARE * len(chats) and not endings["failed"]
    return ("ok" if sane else "look"), f"{len(chats)} chats: {found}"


def check_scores(table: ScoreTable) -> tuple[State, str]:
    """Whether the simulator has a smaller error and a higher correlation than every rival.

    Rivals are the constant, the AI-alone columns, and the untrained simulator, which is compared with the fine-tuned
    one's first few chats where it has fewer itself. A rival without a correlation (the constant) cannot win by it.
    """
    errors, correlations = _over_assistants(table, "mae"), _over_assistants(table, "pearson")
    if FINE_TUNED not in errors:
        return "look", "no question could be scored"
    few = next((source for source in errors if source.startswith(f"{FINE_TUNED}, first ")), FINE_TUNED)
    rivals = [source for source in errors if source in (CONSTANT, UNTRAINED) or source.startswith(AI_ALONE)]
    lost = []
    for rival in rivals:
        mine = few if rival == UNTRAINED else FINE_TUNED
        if errors[mine] >= errors[rival]:
            lost.append(f"{rival} has error {errors[rival]:.3f}, {mine} {errors[mine]:.3f}")
        if rival in correlations and correlations.get(mine, -1.0) <= correlations[rival]:
            found = f"{correlations[mine]:.3f}" if mine in correlations else "none"
            lost.append(f"{rival} has correlation {correlations[rival]:.3f}, {mine} {found}")
    own = f"error {errors[FINE_TUNED]:.3f}"
    if FINE_TUNED in correlations:
        own += f", correlation {correlations[FINE_TUNED]:.3f}"
    return ("look" if lost else "ok"), "; ".join(
        [f"{own}; compared with {len(rivals)} rival{'s' * (len(rivals) != 1)}", *lost]
    )


def _over_assistants(table: ScoreTable, metric: str) -> dict[str, float]:
    """Mean over assistants per source, where it exists; of a single assistant, its own value."""
    estimates = table.estimates()
    several = any(row[0] == MEAN_OF_ASSISTANTS for row in estimates)
    return {
        source: estimate.mean
        for (assistant, source, name), estimate in estimates.items()
        if name == metric
        and assistant == (MEAN_OF_ASSISTANTS if several else EVERY_ASSISTANT)
        and not isinstance(estimate.mean, Undefined)
    }


def sampled_prompts(
    chats: Sequence[SimulatedConversation], count: int = 5, seed: int = 0
) -> tuple[tuple[str, str], ...]:
    """`count` first prompts, drawn by seed, as (question id, printable text)."""
    spoken = [chat for chat in chats if chat.turns]
    drawn = random.Random(seed).sample(spoken, min(count, len(spoken)))
    return tuple((chat.question_id, printable(chat.turns[0].text)) for chat in drawn)
