"""What the page's figures of training and of chats are drawn from, as plain values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from chatbench.core.files import read_jsonl
from chatbench.core.model_names import model_key
from chatbench.core.records import Conversation, SimulatedConversation
from chatbench.measures.figures import FINE_TUNED, PEOPLE, UNTRAINED
from chatbench.measures.word_order import words
from chatbench.steps.perplexity_files import read_perplexity

WORD_BINS = (0, 1, 2, 5, 10, 15, 20, 30, 40, 60, 80, 120, 160, 240, 480)
"""Lower ends of the bins of message lengths, the last one open: narrow where people write, wide where few do."""
MOST_TURNS = 15
"""Chats with more user turns are counted in the last bin."""
PROBABILITY_BINS = 20

Plain = dict[str, object]
ChatsBySource = Mapping[str, Sequence[SimulatedConversation]]


def training_curves(model: str, results: Path) -> list[Plain]:
    """The loss of each trained split, from its `trainer_log.jsonl`."""
    folder = results / "models" / model_key(model)
    logs = sorted(folder.glob("split_*/trainer_log.jsonl"), key=lambda path: _number(path.parent.name))
    return [{"split": path.parent.name, "points": [*_points(path)]} for path in logs]


def _number(split_id: str) -> int:
    ending = split_id.rpartition("_")[2]
    return int(ending) if ending.isdigit() else 0


def _points(path: Path) -> Iterable[Plain]:
    for _, row in read_jsonl(path, fix="fine-tune again"):
        point = {name: row[key] for key, name in _CURVE_FIELDS.items() if _is_finite(row.get(key))}
        if "step" in point and len(point) > 1:
            yield point


_CURVE_FIELDS = {
    "step": "step", "epoch": "epoch", "loss": "loss",
    "eval_loss": "heldOutLoss", "eval_perplexity": "heldOutPerplexity",
}  # fmt: skip


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def perplexities(model: str, results: Path) -> list[Plain]:
    """Perplexity and bits per byte of each split, for runs that have no table of scores yet."""
    folder = results / "ppl" / model_key(model)
    splits = sorted((path.stem for path in folder.glob("split_*.json")), key=_number)
    found = [read_perplexity(model, results, split) for split in splits]
    return [
        {"split": each.split, "source": source, "perplexity": side.perplexity, "bits_per_byte": side.bits_per_byte}
        for each in found
        if each is not None
        for source, side in ((FINE_TUNED, each.finetuned), (UNTRAINED, each.base))
    ]


def chat_distributions(people: Sequence[Conversation], simulated: ChatsBySource) -> Plain:
    """Shares of chats by user turns, and of messages by words: people's beside each simulator's; none that failed."""
    turns: dict[str, list[Sequence[str]]] = {PEOPLE: [_user_texts(chat) for chat in people]} if people else {}
    whole = {source: [chat for chat in chats if chat.termination != "failed"] for source, chats in simulated.items()}
    turns |= {source: [_user_texts(chat) for chat in chats] for source, chats in whole.items() if chats}
    return {
        "turns": {source: _shares(min(len(chat), MOST_TURNS) for chat in chats) for source, chats in turns.items()},
        "mostTurns": MOST_TURNS,
        "firstWords": {source: _word_shares(chat[:1] for chat in chats) for source, chats in turns.items()},
        "laterWords": {source: _word_shares(chat[1:] for chat in chats) for source, chats in turns.items()},
        "wordBins": list(WORD_BINS),
        "chats": {source: len(chats) for source, chats in turns.items()},
    }


def _user_texts(chat: Conversation | SimulatedConversation) -> list[str]:
    return [turn.text for turn in chat.turns if turn.role == "user"]


def _word_shares(chats: Iterable[Sequence[str]]) -> list[list[float]]:
    lengths = (len(words(text)) for chat in chats for text in chat)
    return _shares(max(at for at, lower in enumerate(WORD_BINS) if lower <= length) for length in lengths)


def _shares(numbers: Iterable[int]) -> list[list[float]]:
    """[number, share] of each that occurs, in order."""
    counts = Counter(numbers)
    whole = sum(counts.values())
    return [[number, round(count / whole, 5)] for number, count in sorted(counts.items())]


def terminations(simulated: ChatsBySource) -> list[Plain]:
    """How many chats of each simulator ended how, per assistant."""
    return [
        {"source": source, "assistant": assistant, "termination": termination, "chats": count}
        for source, chats in simulated.items()
        for (assistant, termination), count in sorted(Counter((c.assistant, c.termination) for c in chats).items())
    ]


def answer_probabilities(simulated: ChatsBySource) -> Plain:
    """Where the simulator's probability sat, of each source that recorded it.

    `answering`: per user turn, the mean probability that the turn is an answer. `right`: shares of chats by the
    probability of the right letter where they ended, in `PROBABILITY_BINS` bins.
    """
    found: Plain = {}
    for source, chats in simulated.items():
        answering: dict[int, list[float]] = {}
        for chat in chats:
            for turn, probabilities in enumerate(chat.answer_probabilities):
                if probabilities is not None:
                    answering.setdefault(turn, []).append(probabilities.answering)
        right = [chat.expected_correct for chat in chats if chat.expected_correct is not None]
        if answering or right:
            found[source] = {
                "answering": [[turn + 1, round(sum(p) / len(p), 5), len(p)] for turn, p in sorted(answering.items())],
                "right": _shares(min(PROBABILITY_BINS - 1, int(p * PROBABILITY_BINS)) for p in right),
                "chats": len(right),
            }
    return {"bins": PROBABILITY_BINS, "sources": found} if found else {}
