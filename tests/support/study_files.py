"""Tiny studies for tests, built by hand or where the real data lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chatbench.core.records import AiAloneScore, Answer, Conversation, Question, Study, Turn
from chatbench.data.tables import conversation_id
from chatbench.sample.study import write_chatbench_folder

REPOSITORY = Path(__file__).resolve().parents[2]


def shared_data(name: str) -> Path:
    """The real data's folder `name`; skips the test with the reason where it is absent."""
    path = Path(os.environ.get("CHATBENCH_SHARED_DATA", REPOSITORY.parent / "shared" / "data")) / name
    if not path.exists():
        pytest.skip(f"the real data is not here: {path} (set CHATBENCH_SHARED_DATA)")
    return path


def question(number: int, subset: str = "college_mathematics", answer: str = "B") -> Question:
    """A question whose text is like no other: each subset and number gives other words."""
    words = " ".join(f"{subset}{number}x{place}" for place in range(8))
    return Question(
        f"{subset}-redux-{number}", subset, f"What about {words}?", ("one", "two, too", 'three "3"', "four\n4"), answer
    )


def chat(
    of: Question, worker: str, *, user_turns: int = 1, answer: str | None = "B", assistant: str = "gpt-4o"
) -> Conversation:
    """k turns `ask 0`, `reply 0`, `ask 1`, ..."""
    turns = [turn for n in range(user_turns) for turn in (Turn("user", f"ask {n}"), Turn("assistant", f"reply {n}"))]
    return Conversation(conversation_id(of.id, worker), of.id, worker, assistant, "answer-first", tuple(turns), answer)


def tiny_study(name: str = "tiny") -> Study:
    """Two subsets of five questions; each question has a chat with 1 + (number % 3) user turns, and an answer alone."""
    questions = [question(n, subset) for subset in ("college_mathematics", "moral_scenarios") for n in range(5)]
    chats = [chat(q, f"w{i}", user_turns=1 + i % 3, answer="ABCD"[i % 4]) for i, q in enumerate(questions)]
    answers = []
    for q, c in zip(questions, chats, strict=True):
        answers.append(Answer(q.id, c.worker_id, "user-alone", "gpt-4o", "answer-first", "B", True, "not-confident"))
        answers.append(
            Answer(q.id, c.worker_id, "user-AI", "gpt-4o", "answer-first", c.answer, c.answer == "B", "", c.id)
        )
    scores = [
        AiAloneScore(q.id, "gpt-4o", method, 50, 0.38, 3)
        for q in questions
        for method in ("letter_only_zero_shot", "free_text")
    ]
    return Study(name, {q.id: q for q in questions}, tuple(chats), tuple(answers), tuple(scores))


def tiny_folder(folder: Path) -> Path:
    """`tiny_study` in the ChatBench layout."""
    write_chatbench_folder(tiny_study(folder.name), folder)
    return folder
