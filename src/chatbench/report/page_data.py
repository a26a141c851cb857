"""Scores, questions, training curves and chat statistics for the page, as plain values.

Scores are the unchanged rows of the scores file. Accuracies come from its per-question files, pooled over splits (each
answer or chat weighs the same), so that nothing is scored twice. Question texts come from the study, and are empty if
it cannot be opened.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from chatbench.core.answer_kinds import Number, Text
from chatbench.core.files import read_json, read_jsonl
from chatbench.core.records import Answer, Conversation, Question, SimulatedConversation
from chatbench.data.workspace import Workspace
from chatbench.metrics.agreement import CALIBRATION_BINS, calibration_bin, wilson_interval
from chatbench.metrics.first_prompts import words
from chatbench.metrics.names import BASE_MODEL, FINE_TUNED, PEOPLE, REGRESSION, SIMULATORS, USER_ALONE, Predictor
from chatbench.metrics.pairs import Pair, Prediction
from chatbench.report.tables import footnotes
from chatbench.scoring.eval_ppl import stored_perplexities
from chatbench.scoring.score_files import QuestionScores
from chatbench.scoring.score_table import ScoreTable, signature_line

WORD_BINS = (0, 1, 2, 5, 10, 15, 20, 30, 40, 60, 80, 120, 160, 240, 480)
"""Lower ends of the bins of message lengths, the last one open: narrow where people's messages are dense."""
MOST_TURNS = 10
"""Chats with more user turns are counted in the last bin, on the page and in the terminal."""
PROBABILITY_BINS = 20
SHARED = (PEOPLE, USER_ALONE, REGRESSION)
"""Predictors that do not depend on the run; these, and AI alone, are shown for the first run only."""
ACCURACY_DIGITS = 4
STRATUM_METRICS = ("pearson", "mae", "accuracy", "questions")
"""Metrics shown for single conditions and subsets, of people and simulators only, so that the page opens at once."""

Plain = dict[str, object]
ChatsByPredictor = Mapping[str, Sequence[SimulatedConversation]]


# Scores


def run_scores(table: ScoreTable, path: Path) -> Plain:
    """The rows of a scores file with its signature and notes in words; nothing else, since pages get mailed."""
    content = cast(dict[str, Any], read_json(path))
    shown = {predictor.label for predictor in (PEOPLE, table.simulator, BASE_MODEL)}
    strata = {
        name: [row for row in rows if row["metric"] in STRATUM_METRICS and row["source"] in shown]
        for name, rows in content["parts"].items()
    }
    return {
        "signature": table.signature_id,
        "line": signature_line(table.signature),
        "facts": [list(fact) for fact in signature_words(table)],
        "warning": table.warning,
        "notes": [note for note in footnotes(table) if note != table.warning and not note.startswith("signature ")],
        "splits": content["splits"],
        "chats": table.signature.get("conversations"),
        "rows": content["figures"],
        "strata": strata,
    }


def signature_words(table: ScoreTable) -> Iterator[tuple[str, str]]:
    """Describe what was scored, as (label, sentence)."""
    signed = table.signature
    splits, share = len(table.splits), signed.get("train_share")
    trained = f"{100 * share:g} % to train on, " if isinstance(share, float) else ""
    yield "Study", f"{signed.get('study')}; question set {str(signed.get('question_set_sha256'))[:12]}"
    yield (
        "Splits",
        f"{splits} random split{'s' * (splits != 1)} of the questions, {trained}"
        f"{table.test_questions:g} held out on average (seed {signed.get('split_seed')})",
    )
    played = cast(Mapping[str, object], signed.get("simulator", {}))
    parts = ("kind", "dtype", "form", "base_url") if not table.simulator.name else ("kind", "base_url")
    name = table.simulator.name or str(signed.get("model"))
    simulator = [name, *(str(played[k]) for k in parts if played.get(k))]
    if isinstance(temperature := played.get("temperature"), int | float):
        simulator.append(f"temperature {temperature:g}")
    yield "Simulator", ", ".join(simulator)
    base = f"; base model: {signed['base_conversations']}" if signed.get("base_conversations") else ""
    yield (
        "Chats",
        f"{signed.get('conversations')} per held-out question and assistant, at most {signed.get('max_user_turns')} "
        f"user turns, protocol {played.get('style')}{base}",
    )
    assistants = cast(Mapping[str, Mapping[str, object]], signed.get("assistants", {}))
    kinds = {name: identity.get("kind") for name, identity in assistants.items()}
    yield "Assistants", ", ".join(f"{name} ({k})" if k not in (None, name) else name for name, k in kinds.items())
    yield "Overlap", f"BLEU: {signed.get('bleu')}; ROUGE: {signed.get('rouge')}"
    if signed.get("resampling") not in (None, "none"):
        yield "Intervals", str(signed["resampling"])
    yield "Version", f"chatbench {signed.get('chatbench')}"


def perplexities(model: str, workspace: Workspace) -> list[Plain]:
    """Perplexity and bits per byte of each split, for runs that have no scores yet."""
    return [
        {"split": each.split, "predictor": p.label, "perplexity": side.perplexity, "bits_per_byte": side.bits_per_byte}
        for each in stored_perplexities(workspace, model)
        for p, side in ((FINE_TUNED, each.finetuned), (BASE_MODEL, each.base))
    ]


# Questions, and each predictor's accuracy on them


def question_values(question_id: str, question: Question | None) -> Plain:
    """A question as plain values; if the study does not have it, only its id is known."""
    if question is None:
        return {"id": question_id, "subset": "", "text": "", "options": [], "answer": "", "kind": "", "right": []}
    right: list[str] = []  # without options, all right answers as they are shown
    match question.kind:
        case Number(tolerance=tolerance, relative=relative, unit=unit):
            within = f" (± {100 * tolerance:.12g} % of it)" if relative else f" (± {tolerance:.12g})"
            right = [f"{question.answer} {unit}".rstrip() + (within if tolerance else "")]
        case Text(also=also):
            right = [question.answer, *also]
    return {**asdict(question), "options": list(question.options), "kind": question.kind.name, "right": right}


def accuracy_values(runs: Mapping[str, QuestionScores], place: Mapping[str, int]) -> list[Plain]:
    """Accuracy of every predictor per question and assistant, as columns of equal length.

    Args:
        runs: by key of the run.
        place: question id -> its number in the page.
    """
    groups: list[Plain] = []
    for number, (key, scores) in enumerate(runs.items()):
        for predictor, pooled in pooled_accuracies(scores).items():
            own = predictor in SIMULATORS
            if own or (number == 0 and (predictor in SHARED or predictor.kind == "AI alone")):
                groups.append(_columns(predictor, key if own else "", "", pooled, place))
    answers = next((scores.answers for scores in runs.values()), ())
    conditions = sorted({answer.condition for answer in answers})
    for condition in conditions if len(conditions) > 1 else ():
        people = _people(answer for answer in answers if answer.condition == condition)
        groups.append(_columns(PEOPLE, "", condition, people, place))
    return groups


def _columns(
    predictor: Predictor, run: str, condition: str, pairs: Mapping[Pair, Prediction], place: Mapping[str, int]
) -> Plain:
    known = {pair: found for pair, found in pairs.items() if pair[0] in place}
    ends = [wilson_interval(found.accuracy, found.count) if found.count else (0.0, 1.0) for found in known.values()]
    return {
        "predictor": predictor.label,
        "run": run,
        "condition": condition,
        "question": [place[question_id] for question_id, _ in known],
        "assistant": [assistant for _, assistant in known],
        "accuracy": [round(found.accuracy, ACCURACY_DIGITS) for found in known.values()],
        "count": [found.count for found in known.values()],
        "low": [round(low, ACCURACY_DIGITS) for low, _ in ends],
        "high": [round(high, ACCURACY_DIGITS) for _, high in ends],
    }


def pooled_accuracies(scores: QuestionScores) -> dict[Predictor, dict[Pair, Prediction]]:
    """Accuracy per predictor and (question, assistant) pair over all splits.

    Simulators, a different model in each split, are pooled. People are everybody in the study, each counted once,
    although a split by person scores only those it holds out; user alone and AI alone are the same in every split.
    """
    pooled: dict[Predictor, dict[Pair, Prediction]] = {}
    for predictors in scores.accuracies.values():
        for predictor, pairs in predictors.items():
            of_predictor = pooled.setdefault(predictor, {})
            for pair, found in pairs.items():
                before = of_predictor.get(pair)
                if before is not None and predictor in SIMULATORS and (count := before.count + found.count):
                    right = before.accuracy * before.count + found.accuracy * found.count
                    found = Prediction(min(1.0, right / count), count)
                of_predictor[pair] = found
    pooled.get(PEOPLE, {}).update(_people(scores.answers))
    return pooled


def _people(answers: Iterable[Answer]) -> dict[Pair, Prediction]:
    right: dict[Pair, list[float]] = {}
    for answer in answers:
        right.setdefault((answer.question_id, answer.assistant), []).append(answer.correct)
    return {pair: Prediction(sum(found) / len(found), len(found)) for pair, found in right.items()}


def calibration_values(scores: QuestionScores) -> Plain:
    """People's accuracy against each predictor's, in bins of predicted accuracy.

    A pair counts once per split in which it is held out. The interval of a bin is that of its mean over questions,
    whose spread is the larger part: mean +- 1.96 standard errors; none if a bin has one question.
    """
    bins: dict[Predictor, dict[int, list[tuple[str, float, float]]]] = {}
    for predictors in scores.accuracies.values():
        people = predictors.get(PEOPLE, {})
        for predictor, pairs in predictors.items():
            if predictor not in (*SIMULATORS, REGRESSION) and predictor.kind != "AI alone":
                continue
            for pair in (each for each in pairs if each in people):
                predicted = pairs[pair].accuracy
                points = bins.setdefault(predictor, {}).setdefault(int(calibration_bin(predicted)), [])
                points.append((pair[0], predicted, people[pair].accuracy))
    return {
        predictor.label: [_calibration_bin(number, points) for number, points in sorted(found.items())]
        for predictor, found in bins.items()
    }


def _calibration_bin(number: int, points: Sequence[tuple[str, float, float]]) -> Plain:
    by_question: dict[str, list[float]] = {}
    for question_id, _, person in points:
        by_question.setdefault(question_id, []).append(person)
    human = sum(person for _, _, person in points) / len(points)
    value: Plain = {
        "from": number / CALIBRATION_BINS,
        "to": (number + 1) / CALIBRATION_BINS,
        "predicted": round(sum(predicted for _, predicted, _ in points) / len(points), ACCURACY_DIGITS),
        "people": round(human, ACCURACY_DIGITS),
        "pairs": len(points),
        "questions": len(by_question),
    }
    if (count := len(by_question)) > 1:
        means = [sum(each) / len(each) for each in by_question.values()]
        centre = sum(means) / count
        half = 1.96 * math.sqrt(sum((mean - centre) ** 2 for mean in means) / (count - 1) / count)
        value["low"] = round(max(0.0, human - half), ACCURACY_DIGITS)
        value["high"] = round(min(1.0, human + half), ACCURACY_DIGITS)
    return value


# Training and chats


def training_curves(model: str, workspace: Workspace) -> list[Plain]:
    """Loss curve of each trained split, from its `trainer_log.jsonl`; finite numbers only, since JSON has no NaN."""
    logs = workspace.models(model).glob("split_*/trainer_log.jsonl")
    curves: list[Plain] = []
    for path in sorted(logs, key=lambda path: (len(path.parent.name), path)):  # split_10 after split_9
        points = []
        for _, row in read_jsonl(path, fix="fine-tune again"):
            names = ("step", "epoch", "loss", "eval_loss", "eval_perplexity")
            point = {n: row[n] for n in names if isinstance(v := row.get(n), int | float) and math.isfinite(v)}
            if "step" in point and len(point) > 1:
                points.append(point)
        curves.append({"split": path.parent.name, "points": points})
    return curves


def chat_distributions(people: Sequence[Conversation], simulated: ChatsByPredictor) -> Plain:
    """Shares of chats by user turns, and of messages by words, for people and each simulator; failed chats excluded."""
    texts = {PEOPLE.label: [_user_texts(chat) for chat in people]}
    for predictor, chats in simulated.items():
        texts[predictor] = [_user_texts(chat) for chat in chats if chat.termination != "failed"]
    turns = {predictor: chats for predictor, chats in texts.items() if chats}
    return {
        "turns": {name: _shares(min(len(chat), MOST_TURNS) for chat in chats) for name, chats in turns.items()},
        "mostTurns": MOST_TURNS,
        "firstWords": {predictor: _word_shares(chat[:1] for chat in chats) for predictor, chats in turns.items()},
        "laterWords": {predictor: _word_shares(chat[1:] for chat in chats) for predictor, chats in turns.items()},
        "wordBins": list(WORD_BINS),
        "chats": {predictor: len(chats) for predictor, chats in turns.items()},
    }


def _user_texts(chat: Conversation | SimulatedConversation) -> list[str]:
    return [turn.text for turn in chat.turns if turn.role == "user"]


def _word_shares(chats: Iterable[Sequence[str]]) -> list[list[float]]:
    lengths = (len(words(text)) for chat in chats for text in chat)
    return _shares(max(at for at, lower in enumerate(WORD_BINS) if lower <= length) for length in lengths)


def _shares(numbers: Iterable[int]) -> list[list[float]]:
    """[number, share] of each number that occurs, in order."""
    counts = Counter(numbers)
    total = sum(counts.values())
    return [[number, round(count / total, 5)] for number, count in sorted(counts.items())]


def terminations(simulated: ChatsByPredictor) -> list[Plain]:
    """Number of chats by simulator, assistant and termination."""
    return [
        {"predictor": predictor, "assistant": assistant, "termination": termination, "chats": count}
        for predictor, chats in simulated.items()
        for (assistant, termination), count in sorted(Counter((c.assistant, c.termination) for c in chats).items())
    ]


def answer_probabilities(simulated: ChatsByPredictor) -> Plain:
    """Answer probabilities of each simulator that recorded them.

    `answering`: per user turn, the mean probability that the turn is an answer. `right`: shares of chats by the
    probability of the right letter at their end, in `PROBABILITY_BINS` bins.
    """
    found: Plain = {}
    for predictor, chats in simulated.items():
        answering: dict[int, list[float]] = {}
        for chat in chats:
            for turn, probabilities in enumerate(chat.answer_probabilities):
                if probabilities is not None:
                    answering.setdefault(turn, []).append(probabilities.answering)
        right = [chat.expected_correct for chat in chats if chat.expected_correct is not None]
        if answering or right:
            found[predictor] = {
                "answering": [[turn + 1, round(sum(p) / len(p), 5), len(p)] for turn, p in sorted(answering.items())],
                "right": _shares(min(PROBABILITY_BINS - 1, int(p * PROBABILITY_BINS)) for p in right),
                "chats": len(right),
            }
    return {"bins": PROBABILITY_BINS, "predictors": found} if found else {}
