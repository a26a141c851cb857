"""A small study in the ChatBench layout with prepared splits and hand-made simulation logs, for the tests of scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from chatbench.core.files import write_json
from chatbench.core.records import Answer, Conversation, Question, SimulatedConversation, Study, Turn
from chatbench.data.prepare_splits import prepare_splits
from chatbench.data.splits import question_set_sha256
from chatbench.data.workspace import Workspace
from chatbench.metrics.text import TokenLoss, TunedAndBase, summarise
from chatbench.protocol.prompt_styles import TWO_STEP, prompts_sha256
from chatbench.sample.study import write_chatbench_folder
from chatbench.scoring.eval_ppl import SplitPerplexity
from chatbench.simulation.log import checksummed_line, open_log, read_log

ASSISTANTS = ("gpt-4o", "llama-3.1-8b")
NOUNS = ("apples", "books", "chairs", "ducks", "eggs", "forks", "goats", "hats", "inks", "jars")
PLACES = ("market", "library", "school", "pond", "kitchen", "diner", "farm", "shop", "office", "cellar")


def questions() -> list[Question]:
    """Ten questions, right answer B, that share hardly a word."""
    return [
        Question(
            f"elementary_mathematics-redux-{i}",
            "elementary_mathematics",
            f"{11 * (i + 1)} {NOUNS[i]} near the {PLACES[i]}; {13 * (i + 1)} more {NOUNS[i]} come. Total {NOUNS[i]}?",
            (str(i), str(24 * (i + 1)), str(i + 100), str(i + 200)),
            "B",
        )
        for i in range(10)
    ]


def study() -> Study:
    """Per question and assistant five people, of whom 0..4 are right: more for later questions and for gpt-4o."""
    answers, chats = [], []
    for number, question in enumerate(questions()):
        for assistant in ASSISTANTS:
            right = min(4, number // 2 + (assistant == "gpt-4o"))
            for person in range(5):
                worker = f"w{number}{assistant[0]}{person}"
                letter = "B" if person < right else "C"
                chat_id = f"{question.id}|{worker}"
                turns = (Turn("user", question.text), Turn("assistant", "Let me see."))
                chats.append(Conversation(chat_id, question.id, worker, assistant, "direct-to-AI", turns, letter))
                answers.append(
                    Answer(
                        question.id, worker, "user-AI", assistant, "direct-to-AI", letter, letter == "B", "", chat_id
                    )
                )
    return Study("by-hand", {q.id: q for q in questions()}, tuple(chats), tuple(answers))


def study_folder(place: Workspace) -> Path:
    """Where `prepared` wrote the study."""
    return place.data.parent / "study"


def prepared(folder: Path, *, splits: int = 2, seed: int = 0) -> Workspace:
    """Writes the study, and splits it 6 : 4."""
    place = Workspace(folder / "data", folder / "results")
    if not study_folder(place).exists():
        write_chatbench_folder(study(), study_folder(place))
    prepare_splits(study_folder(place), place.data, splits=splits, seed=seed)
    return place


def people_like(question: Question, assistant: str, index: int) -> str | None:
    """Letters of five chats that are right as often as people are."""
    number = int(question.id.rpartition("-")[2])
    return "B" if index < min(4, number // 2 + (assistant == "gpt-4o")) else "D"


def always_wrong(_question: Question, _assistant: str, _index: int) -> str | None:
    return "A"


def write_log(
    place: Workspace,
    split_id: str,
    letter: Callable[[Question, str, int], str | None] = people_like,
    *,
    model: str = "tiny",
    conversations: int = 5,
    leave_out: int = 0,
    base_model: bool = False,
    temperature: float = 1.0,
    prompted: Mapping[str, object] | None = None,
    assistants: Sequence[str] = ASSISTANTS,
    of: Sequence[Question] = (),
) -> Path:
    """Writes a finished log of first prompts that copy the question; the last `leave_out` chats are missing.

    `prompted`: the identity of a chat model behind an endpoint that played the user, in place of the fine-tuned one.
    `of`: the questions, where it is not `study()`'s chats.
    """
    by_id = {question.id: question for question in of or questions()}
    held_out = [by_id[question_id] for question_id in place.split(split_id).question_ids("test")]
    tuned = {"kind": "local", "name": split_id, "weights": f"hash of {split_id}", "temperature": temperature}
    simulator = dict(prompted or tuned)
    prompts = prompts_sha256(TWO_STEP)
    rows = []
    for assistant in assistants:
        for question in held_out:
            for index in range(conversations):
                chosen = letter(question, assistant, index)
                record = SimulatedConversation(
                    id=f"{question.id}|{assistant}|{index}",
                    question_id=question.id,
                    assistant=assistant,
                    index=index,
                    style="two-step",
                    prompts_sha256=prompts,
                    simulator=simulator,
                    assistant_identity=_identity(assistant),
                    turns=(Turn("user", question.text), Turn("assistant", "Let me see.")),
                    termination="answered",
                    answer_text=chosen or "(B)",
                    letter=chosen,
                    lenient_letter=None if chosen else "B",
                    final_output=f"Answer: {chosen or '(B)'}",
                )
                rows.append(asdict(record))
    path = place.conversations(model, split_id, base_model=base_model)
    settings = {
        "questions_sha256": question_set_sha256(by_id.values()),
        "held_out_sha256": question_set_sha256(held_out),
        "simulator": simulator,
        "conversations": conversations,
        "seed": 0,
        "max_user_turns": 10,
        "simulator_kind": "openai" if prompted else "tuned",
        "style": "two-step",
        "prompts_sha256": prompts,
        "end_on": [],
        "expected_answers": False,
        "block_size": 256,
    }
    identities = {name: _identity(name) for name in assistants}
    with open_log(path, {"settings": settings, "assistants": identities}, overwrite=True) as log:
        log.append(rows[: len(rows) - leave_out])
    return path


def write_perplexity(
    place: Workspace, split: str, *, model: str = "tiny", tuned: float = 3.0, base: float = 50.0, **signature: object
) -> dict[str, object]:
    """Stores perplexities of a split, over one scored token of four bytes; its signature."""
    one, other = (summarise([TokenLoss(math.log(value), 1, 4)]) for value in (tuned, base))
    test_sha256 = place.manifest.files[f"{split}/test.jsonl"]
    signature = {"weights": f"hash of {split}", "test_sha256": test_sha256, "form": "plain text", **signature}
    scored = SplitPerplexity(
        split=split, finetuned=one, base=other, by_kind={"first": TunedAndBase(one, other)}, signature=signature
    )
    write_json(place.perplexity(model, split), asdict(scored))
    return signature


def endpoint(**other: object) -> dict[str, object]:
    """The identity of GPT-4o behind an endpoint, or of one that differs."""
    return {
        "kind": "openai", "name": "gpt-4o", "base_url": "https://api.example/v1", "temperature": 1.0,
        "max_tokens": 1000, "reproducible": False, **other,
    }  # fmt: skip


def _identity(assistant: str) -> dict[str, object]:
    return {"kind": "scripted", "name": assistant}


def rewrite_log(path: Path, change: Callable[[dict[str, object]], dict[str, object]]) -> None:
    """Changes every record of a log as if it had been written so."""
    path.write_bytes(b"".join(checksummed_line(change(row)) for _, row in list(read_log(path))))
