"""The scores of one run as plain values for the page: every figure that it shows, and the signature in words.

What the page's figures of training and of chats are drawn from, as plain values.

The questions of a page as plain values: their texts, and how often who was right about each.

Accuracies come from the scores' files per question, pooled over splits (each answer or chat weighs the same), so that
nothing is scored a second time here. The texts come from the study, and are empty where it cannot be opened.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from chatbench.core.files import read_jsonl
from chatbench.core.records import Conversation, Question, SimulatedConversation
from chatbench.data.workspace import Workspace
from chatbench.metrics.accuracies import Cell, Prediction
from chatbench.metrics.agreement import CALIBRATION_BINS, Undefined, Value, calibration_bin
from chatbench.metrics.estimates import wilson_interval
from chatbench.metrics.first_prompts import words
from chatbench.metrics.intervals import Bound
from chatbench.metrics.names import (
    AI_ALONE,
    BASE_MODEL,
    CONDITION,
    FINE_TUNED,
    PEOPLE,
    REGRESSION,
    SUBSET,
    USER_ALONE,
    WHOLE,
)
from chatbench.report.tables import comparison_notes, footnotes, kind_of
from chatbench.scoring.compare import Comparison
from chatbench.scoring.eval_ppl import read_perplexity
from chatbench.scoring.score_files import QuestionScores
from chatbench.scoring.score_table import ScoreTable, signature_line

WORD_BINS = (0, 1, 2, 5, 10, 15, 20, 30, 40, 60, 80, 120, 160, 240, 480)
"""Lower ends of the bins of message lengths, the last one open: narrow where people write, wide where few do."""
MOST_TURNS = 15
"""Chats with more user turns are counted in the last bin."""
PROBABILITY_BINS = 20

Plain = dict[str, object]
ChatsBySource = Mapping[str, Sequence[SimulatedConversation]]


def training_curves(model: str, workspace: Workspace) -> list[Plain]:
    """The loss of each trained split, from its `trainer_log.jsonl`."""
    folder = workspace.models(model)
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


def perplexities(model: str, workspace: Workspace) -> list[Plain]:
    """Perplexity and bits per byte of each split, for runs that have no table of scores yet."""
    folder = workspace.perplexity_folder(model)
    splits = sorted((path.stem for path in folder.glob("split_*.json")), key=_number)
    found = [read_perplexity(workspace, model, split) for split in splits]
    return [
        {"split": each.split, "source": source, "perplexity": side.perplexity, "bits_per_byte": side.bits_per_byte}
        for each in found
        if each is not None
        for source, side in ((FINE_TUNED, each.finetuned), (BASE_MODEL, each.base))
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


SIMULATORS = (FINE_TUNED, BASE_MODEL)
SHARED_SOURCES = (PEOPLE, USER_ALONE, REGRESSION)
"""What does not depend on the run; of these, and of AI alone, only the first run's are shown."""
ACCURACY_DIGITS = 4


@dataclass(frozen=True, slots=True)
class RunScores:
    """The accuracies per question of one run."""

    key: str
    scores: QuestionScores


def question_values(questions: Mapping[str, Question], shown: Iterable[str]) -> list[Plain]:
    """The questions in the order of `shown`; one that the study does not have is known by its id only."""
    return [_question(questions.get(question_id), question_id) for question_id in shown]


def _question(question: Question | None, question_id: str) -> Plain:
    if question is None:
        return {"id": question_id, "subset": "", "text": "", "options": [], "answer": ""}
    return {
        "id": question.id,
        "subset": question.subset,
        "text": question.text,
        "options": list(question.options),
        "answer": question.answer,
    }


def cell_values(runs: Sequence[RunScores], place: Mapping[str, int]) -> list[Plain]:
    """Every source with its accuracy per question and assistant, as columns of equal length.

    Args:
        place: question id -> its number in `question_values`.
    """
    groups: list[Plain] = []
    for number, run in enumerate(runs):
        for source, pooled in pooled_accuracies(run.scores).items():
            own = source in SIMULATORS
            if own or (number == 0 and (source in SHARED_SOURCES or source.startswith(AI_ALONE))):
                groups.append(_columns(source, run.key if own else "", "", pooled, place))
    if runs:
        groups += [
            _columns(PEOPLE, "", condition, pooled, place) for condition, pooled in _conditions(runs[0].scores).items()
        ]
    return groups


def _columns(
    source: str, run: str, condition: str, cells: Mapping[Cell, Prediction], place: Mapping[str, int]
) -> Plain:
    known = {cell: found for cell, found in cells.items() if cell[0] in place}
    ends = [wilson_interval(found.accuracy, found.count) if found.count else (0.0, 1.0) for found in known.values()]
    return {
        "source": source,
        "run": run,
        "condition": condition,
        "question": [place[question_id] for question_id, _ in known],
        "assistant": [assistant for _, assistant in known],
        "accuracy": [round(found.accuracy, ACCURACY_DIGITS) for found in known.values()],
        "count": [found.count for found in known.values()],
        "low": [round(low, ACCURACY_DIGITS) for low, _ in ends],
        "high": [round(high, ACCURACY_DIGITS) for _, high in ends],
    }


def pooled_accuracies(scores: QuestionScores) -> dict[str, dict[Cell, Prediction]]:
    """Accuracy per source and cell over all splits.

    People, their answers alone and AI alone are the same in every split and are not added up; a simulator is another
    model in each split, and its chats are.
    """
    pooled: dict[str, dict[Cell, Prediction]] = {}
    for sources in scores.accuracies.values():
        for source, cells in sources.items():
            of_source = pooled.setdefault(source, {})
            for cell, found in cells.items():
                before = of_source.get(cell)
                of_source[cell] = found if before is None or source not in SIMULATORS else _both(before, found)
    return pooled


def _both(first: Prediction, second: Prediction) -> Prediction:
    count = first.count + second.count
    right = first.accuracy * first.count + second.accuracy * second.count
    return Prediction(min(1.0, right / count), count) if count else first


def _conditions(scores: QuestionScores) -> dict[str, dict[Cell, Prediction]]:
    """People's accuracy per condition; nothing where all were in the same one."""
    right: dict[str, dict[Cell, list[bool]]] = {}
    for answer in scores.answers:
        cell = (answer.question_id, answer.assistant)
        right.setdefault(answer.condition, {}).setdefault(cell, []).append(answer.correct)
    if len(right) < 2:
        return {}
    return {
        condition: {cell: Prediction(sum(found) / len(found), len(found)) for cell, found in cells.items()}
        for condition, cells in sorted(right.items())
    }


def calibration_values(scores: QuestionScores) -> Plain:
    """Per source: how often people were right where the source said they would be, in bins of predicted accuracy.

    A cell counts once per split in which it is held out. The interval of a bin is of its mean over questions, the
    spread between them being the larger part: mean +- 1.96 standard errors, none where a bin has one question.
    """
    bins: dict[str, dict[int, list[tuple[str, float, float]]]] = {}
    for sources in scores.accuracies.values():
        people = sources.get(PEOPLE, {})
        for source, cells in sources.items():
            if source in (*SIMULATORS, REGRESSION) or source.startswith(AI_ALONE):
                for cell, found in cells.items():
                    if cell in people:
                        point = (cell[0], found.accuracy, people[cell].accuracy)
                        bins.setdefault(source, {}).setdefault(calibration_bin(found.accuracy), []).append(point)
    return {source: list(_calibration_bins(found)) for source, found in bins.items()}


def _calibration_bins(bins: Mapping[int, Sequence[tuple[str, float, float]]]) -> Iterator[Plain]:
    for number, points in sorted(bins.items()):
        by_question: dict[str, list[float]] = {}
        for question_id, _, person in points:
            by_question.setdefault(question_id, []).append(person)
        human = sum(person for _, _, person in points) / len(points)
        value: Plain = {
            "from": number / CALIBRATION_BINS,
            "to": (number + 1) / CALIBRATION_BINS,
            "predicted": round(sum(predicted for _, predicted, _ in points) / len(points), ACCURACY_DIGITS),
            "people": round(human, ACCURACY_DIGITS),
            "cells": len(points),
            "questions": len(by_question),
        }
        if len(by_question) > 1:
            half = 1.96 * _standard_error([sum(each) / len(each) for each in by_question.values()])
            value |= {
                "low": round(max(0.0, human - half), ACCURACY_DIGITS),
                "high": round(min(1.0, human + half), ACCURACY_DIGITS),
            }
        yield value


def _standard_error(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return float((sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)) ** 0.5)


PART_METRICS = ("pearson", "mae", "accuracy", "questions")
PART_SOURCES = (PEOPLE, FINE_TUNED, BASE_MODEL)
DIGITS = 6
"""Significant digits of what is drawn: more than can be seen, and half the size of all of them."""


def run_scores(table: ScoreTable) -> Plain:
    """What the page knows of one model's scores."""
    return {
        "signature": table.signature_id,
        "line": signature_line(table.signature),
        "facts": [list(fact) for fact in signature_words(table)],
        "notes": [note for note in footnotes(table) if not note.startswith("signature ")],
        "splits": list(table.splits),
        "chats": table.signature.get("conversations"),
        "figures": [figure for part in table.parts for figure in _figures(table, part)],
        "parts": [_part(part) for part in table.parts if part != WHOLE],
    }


def _part(part: str) -> Plain:
    kind = "condition" if part.startswith(CONDITION) else "subset"
    return {"name": part, "kind": kind, "label": part.removeprefix(CONDITION).removeprefix(SUBSET)}


def _figures(table: ScoreTable, part: str) -> Iterator[Plain]:
    """Every row; of a condition or subset only agreement. What a row does not have is not mentioned."""
    estimates, bounds = table.estimates(part), table.bounds(part)
    intervals = table.uncertainty.intervals.get(part, {})
    for row, per_split in table.values(part).items():
        assistant, source, metric = row
        if part != WHOLE and (metric not in PART_METRICS or source not in PART_SOURCES):
            continue
        estimate = estimates[row]
        figure: Plain = {"assistant": assistant, "source": source, "kind": kind_of(source), "metric": metric}
        if part != WHOLE:
            figure["part"] = part
        figure["mean"] = short(estimate.mean)
        if isinstance(estimate.mean, Undefined):
            figure["why"] = estimate.mean.reason
        if not isinstance(estimate.standard_error, Undefined):
            figure["error"] = short(estimate.standard_error)
        figure["perSplit"] = [short(per_split.get(split)) for split in table.splits]
        figure.update(_ends(intervals.get(row)))
        if row in bounds:
            bound = bounds[row]
            figure["floor"], figure["floorSource"] = short(bound.floor), bound.floor_source
            figure["ceiling"], figure["way"] = short(bound.ceiling), short(bound.way(estimate.mean))
        yield figure


def _ends(bound: Bound | None) -> Plain:
    if bound is None or isinstance(bound, Undefined):
        return {}
    return {"low": short(bound.low), "high": short(bound.high)}


def short(value: Value | None) -> float | None:
    """To six significant digits; None where there is no value."""
    return None if value is None or isinstance(value, Undefined) else float(f"{value:.{DIGITS}g}")


def signature_words(table: ScoreTable) -> Iterator[tuple[str, str]]:
    """What the scores are scores of, as (label, sentence)."""
    told = table.signature
    splits = len(table.splits)
    share = told.get("train_share")
    yield "Study", f"{told.get('study')}; question set {str(told.get('question_set_sha256'))[:12]}"
    yield (
        "Splits",
        f"{splits} random split{'s' * (splits != 1)} of the questions, "
        + (f"{100 * share:g} % to train on, " if isinstance(share, float) else "")
        + f"{table.test_questions:g} held out on average (seed {told.get('split_seed')})",
    )
    yield "Simulator", _simulator_words(told)
    yield (
        "Chats",
        f"{told.get('conversations')} per held-out question and assistant, at most {told.get('max_user_turns')} user "
        f"turns, protocol {told.get('protocol')}"
        + (f"; base model: {told['base_conversations']}" if told.get("base_conversations") else ""),
    )
    yield (
        "Assistants",
        ", ".join(_assistant_words(cast(Mapping[str, Mapping[str, object]], told.get("assistants", {})))),
    )
    yield "Overlap", f"BLEU: {told.get('bleu')}; ROUGE: {told.get('rouge')}"
    if told.get("resampling") not in (None, "none"):
        yield "Intervals", str(told["resampling"])
    yield "Version", f"chatbench {told.get('chatbench')}"


def _simulator_words(told: Mapping[str, object]) -> str:
    more = [str(told[name]) for name in ("kind", "dtype", "form") if told.get(name)]
    more += [f"temperature {told['temperature']:g}"] if isinstance(told.get("temperature"), int | float) else []
    return ", ".join([str(told.get("model")), *more])


def _assistant_words(assistants: Mapping[str, Mapping[str, object]]) -> Sequence[str]:
    return [name if identity.get("kind") in (None, name) else f"{name} ({identity['kind']})"
            for name, identity in assistants.items()]  # fmt: skip


def comparison_values(found: Comparison) -> Plain:
    """Paired differences of every two runs, first minus second."""
    return {
        "runs": list(found.runs),
        "notes": comparison_notes(found),
        "figures": [
            {
                "first": each.first,
                "second": each.second,
                "assistant": each.assistant,
                "metric": each.metric,
                "values": [short(each.found.first), short(each.found.second)],
                "difference": short(each.found.difference),
                **_ends(each.found.interval),
                "p": short(each.found.p),
                "holm": short(each.holm_p),
            }
            for each in found.figures
        ],
    }
