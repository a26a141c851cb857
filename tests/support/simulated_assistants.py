"""A study with several assistants, splits by assistant, and simulated chats of each held-out one, without a model."""

from __future__ import annotations

from pathlib import Path
from random import Random

from tests.support.study_files import question

from chatbench.core.files import write_json, write_jsonl
from chatbench.core.records import Answer, Conversation, Question, Study, Turn
from chatbench.data.prepare_splits import prepare_splits
from chatbench.data.workspace import Workspace
from chatbench.protocol.dialogue import FunctionParticipant, Reply, Request
from chatbench.sample.study import write_chatbench_folder

LEVELS = {"a": 0.4, "b": 0.5, "c": 0.6, "d": 0.7}
"""Accuracy of people with each assistant on the easiest half of the questions; 0.3 less on the other."""
QUESTIONS = [question(n, subset) for subset in ("college_mathematics", "moral_scenarios") for n in range(15)]


def chance(of: Question, level: float) -> float:
    return level + (0.15 if int(of.id.rpartition("-")[2]) % 2 else -0.15)


def people(assistant: str, level: float, count: int, rng: Random, prefix: str = "w") -> list[Answer]:
    """`count` people who answer five questions each; right is B."""
    answers = []
    for person in range(count):
        for of in rng.sample(QUESTIONS, 5):
            right = rng.random() < chance(of, level)
            worker, letter = f"{prefix}{assistant}{person}", "B" if right else "C"
            chat = f"{of.id}|{worker}"
            answers.append(Answer(of.id, worker, "user-AI", assistant, "direct-to-AI", letter, right, "", chat))
    return answers


def study(levels: dict[str, float] | None = None) -> Study:
    rng = Random(0)
    answers = [a for name, level in (levels or LEVELS).items() for a in people(name, level, 40, rng)]
    turns = (Turn("user", "help"), Turn("assistant", "yes"))
    chats = [
        Conversation(a.conversation_id, a.question_id, a.worker_id, a.assistant, a.condition, turns, a.letter)
        for a in answers
    ]
    return Study("several", {q.id: q for q in QUESTIONS}, tuple(chats), tuple(answers))


def by_assistant(folder: Path, *, by: str = "assistant", levels: dict[str, float] | None = None) -> Workspace:
    """The prepared study, with folders as if a model had been trained on each split."""
    place = Workspace(folder / "data", folder / "results")
    write_chatbench_folder(study(levels), folder / "study")
    prepare_splits(folder / "study", place.data, by=by, splits=None)  # type: ignore[arg-type]  # one of the literals
    for split in place.manifest.split_ids:
        place.model_folder("tiny", split).mkdir(parents=True)
        write_json(place.model_folder("tiny", split) / "chatbench.json", {})
    return place


def simulated_user(levels: dict[str, float], error: float) -> FunctionParticipant:
    """Answers at once after one message, right as often as people, plus an error that differs by assistant."""

    def reply(request: Request) -> Reply:
        text = request.messages[-1].content
        if "reply of " not in text:
            return Reply("help")
        name = text.partition("reply of ")[2].partition(".")[0]
        of = next(q for q in QUESTIONS if q.text in "".join(m.content for m in request.messages))
        shift = error + 0.05 * (ord(name[0]) % 3 - 1)
        right = Random(request.seed).random() < chance(of, levels[name]) + shift
        return Reply(f"Answer: {'B' if right else 'C'}")

    return FunctionParticipant(reply, {"kind": "local", "name": "scripted user", "weights": "w", "tokenizer": "t"})


def said_by(name: str) -> FunctionParticipant:
    return FunctionParticipant(lambda _: Reply(f"reply of {name}."), {"kind": "scripted", "name": name})


def people_file(path: Path, answers: list[Answer]) -> Path:
    """Answers in the format of one's own chats."""
    by_id = {q.id: q for q in QUESTIONS}
    rows: list[dict[str, object]] = []
    for answer in answers:
        of = by_id[answer.question_id]
        asked = {"id": of.id, "subset": of.subset, "text": of.text, "options": list(of.options), "answer": of.answer}
        turns = [{"role": "user", "text": "help"}, {"role": "assistant", "text": "yes"}]
        rows.append(
            {"kind": "user-AI", "question": asked, "worker_id": answer.worker_id, "assistant": answer.assistant,
             "turns": turns, "answer": answer.letter}
        )  # fmt: skip
    write_jsonl(path, rows)
    return path


def question_file(path: Path, count: int) -> Path:
    """Questions that are like those of the study, with other texts."""
    shared = {"subset": "college_mathematics", "options": ["1", "2", "3", "4"], "answer": "B"}
    write_jsonl(path, [{"id": f"new-{n}", "text": QUESTIONS[n].text, **shared} for n in range(count)])
    return path
