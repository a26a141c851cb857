"""Export of a collected study: the ChatBench layout, and the format of own studies.

`user_answers.csv` has everybody's answers, `user_answers_filtered.csv` and `study.jsonl` those of people who finished
and passed the attention check; joining already ensures one assignment per person. Previews are never exported,
rehearsals only by themselves. People get new random ids with each export: neither their own ids, nor the stored ones,
nor the order in which they came can be derived from the files.
"""

from __future__ import annotations

import secrets
import shutil
import string
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from chatbench.collect.config import CollectedStudy, question_row
from chatbench.collect.plan import CHAT, parts
from chatbench.collect.store import SessionKind, Store, Visit
from chatbench.core.errors import ChatbenchError
from chatbench.core.files import write_json, write_jsonl
from chatbench.core.records import FOUR_LETTERS, Answer, AnswerKind, Conversation, Study, Turn
from chatbench.data.tables import conversation_id
from chatbench.sample.study import write_chatbench_folder

FINISHED, ATTENTIVE = "did not finish", "attention check wrong"


@dataclass(frozen=True, slots=True)
class Exported:
    """Counts of what was exported; `left_out` counts people by reason."""

    people: int
    kept: int
    answers: int
    conversations: int
    left_out: Mapping[str, int]
    notes: Mapping[str, int]

    def lines(self, folder: Path) -> list[str]:
        """Lines to print."""
        return [
            f"{self.people} people; {self.kept} finished and passed the attention check: "
            f"{self.answers:,} answers, {self.conversations:,} chats -> {folder}",
            *(f"left out of the filtered files: {count} people, {reason}" for reason, count in self.left_out.items()),
            *(f"note: {count} {what}" for what, count in self.notes.items()),
        ]


async def export(study: CollectedStudy, store: Store, folder: Path, kind: SessionKind) -> Exported:
    """Write the files into a new folder.

    Raises:
        ChatbenchError: the folder is not empty, or nobody can be exported.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ChatbenchError(f"{folder} is not empty", fix="choose a new folder: each export gives people new ids")
    visits = await store.visits(kind)
    wrong = Counter(reason for visit in visits if (reason := _why_not(study, visit)))
    kept_ids = {visit.id for visit in visits if not _why_not(study, visit)}
    if not kept_ids:
        raise ChatbenchError(
            f"nobody to export among {len(visits)} people: {dict(wrong)}",
            fix="--rehearsed exports a rehearsal" if kind == "person" else "chatbench collect rehearse STUDY_DIR",
        )
    names = {visit.id: _random_id() for visit in visits}
    notes: Counter[str] = Counter()
    rows = [
        (visit, *_records(study, visit, names[visit.id], notes)) for visit in sorted(visits, key=lambda v: names[v.id])
    ]
    everybody = _study(study, folder.name, [row[1:] for row in rows])
    filtered = _study(study, folder.name, [row[1:] for row in rows if row[0].id in kept_ids])
    if all(len(question.options) == len(FOUR_LETTERS) for question in study.questions.values()):
        with tempfile.TemporaryDirectory() as other:
            write_chatbench_folder(filtered, Path(other))
            write_chatbench_folder(everybody, folder)
            name = Path("full_study") / "user_answers_filtered.csv"
            shutil.copyfile(Path(other) / name, folder / name)
    else:
        notes["question or more without four options: no files in the ChatBench layout, which requires four"] = 1
    write_jsonl(folder / "study.jsonl", _own_rows(filtered))
    found = Exported(
        len(visits), len(kept_ids), len(filtered.answers), len(filtered.conversations), dict(wrong), dict(notes)
    )
    consents = {str(event.body["version"]) for visit in visits for event in visit.events if event.kind == "consent"}
    kept = [event for visit in visits if visit.id in kept_ids for event in visit.events if event.kind == "answer"]
    stated = {
        "title": study.config.title,
        "consent_versions": sorted(consents),
        "filters": ["finished", "attention check right", "first assignment"],
        "rehearsed": kind == "rehearsal",
        "people": found.people,
        "kept": found.kept,
        "left_out": found.left_out,
        "notes": found.notes,
        "answers_with_pasted_text": sum(int(event.body.get("pasted", 0)) > 0 for event in kept),
    }
    write_json(folder / "export.json", stated)
    return found


def _why_not(study: CollectedStudy, visit: Visit) -> str:
    if visit.state != "finished":
        return FINISHED
    checks = [event.body["right"] for event in visit.events if (event.kind, event.step) == ("answer", "attention")]
    return ATTENTIVE if study.config.attention and checks != [True] else ""


def _random_id() -> str:
    return "".join(secrets.choice(string.ascii_uppercase + string.digits) for _ in range(10))


def _records(
    study: CollectedStudy, visit: Visit, name: str, notes: Counter[str]
) -> tuple[list[Answer], list[Conversation]]:
    """Answers and chats of one person, in order."""
    answers: list[Answer] = []
    chats: list[Conversation] = []
    for place, event in enumerate(visit.events):
        step_kind, question_id = parts(event.step)
        question = study.questions.get(question_id)
        if event.kind != "answer" or not question_id:
            continue
        if question is None:
            notes["answers to questions that the study no longer has: left out"] += 1
            continue
        kind: AnswerKind = "user-AI" if step_kind == CHAT else "user-alone"
        turns = [
            turn
            for message, reply in replace(visit, events=visit.events[:place]).turns(event.step)  # before the answer
            if reply is not None
            for turn in (Turn("user", message), Turn("assistant", reply))
        ]
        replies = [reply for _, reply in visit.turns(event.step) if reply is not None]
        if unanswered := len(visit.turns(event.step)) - len(replies):
            notes["messages without a reply: left out"] += unanswered
        if late := len(replies) - len(turns) // 2:
            notes["replies that were complete only after the answer: left out"] += late
        letter, cell = question.read(str(event.body["letter"])), visit.cell
        chat_id = conversation_id(question_id, name) if turns else ""
        shared = question_id, name, kind, cell.assistant, cell.condition, letter, bool(question.is_right(letter))
        answers.append(Answer(*shared, str(event.body.get("confidence", "")), chat_id))
        if turns:
            chats.append(Conversation(chat_id, question_id, name, cell.assistant, cell.condition, tuple(turns), letter))
        elif kind == "user-AI":
            notes["answers with an assistant, but without a chat"] += 1
    unfinished = {event.step for event in visit.events if event.kind == "message"} - {
        event.step for event in visit.events if event.kind == "answer"
    }
    if unfinished:
        notes["chats without a final answer: left out"] += len(unfinished)
    return answers, chats


def _study(study: CollectedStudy, name: str, records: Sequence[tuple[list[Answer], list[Conversation]]]) -> Study:
    return Study(
        name, study.questions, tuple(chat for _, chats in records for chat in chats),
        tuple(answer for answers, _ in records for answer in answers), (),
    )  # fmt: skip


def _own_rows(study: Study) -> list[dict[str, object]]:
    """Records in the format of docs/own-study.md: a question in full at its first occurrence, then by id."""
    chats = {chat.id: chat for chat in study.conversations}
    seen: set[str] = set()
    rows = []
    for answer in study.answers:
        q = study.questions[answer.question_id]
        row: dict[str, object] = {"kind": answer.kind, "question": q.id if q.id in seen else question_row(q)}
        seen.add(q.id)
        row |= {"worker_id": answer.worker_id, "assistant": answer.assistant, "condition": answer.condition}
        row |= {"answer": answer.letter, "confidence": answer.confidence}
        if answer.kind == "user-AI":
            chat = chats.get(answer.conversation_id)
            row["turns"] = [{"role": turn.role, "text": turn.text} for turn in chat.turns] if chat else None
        rows.append(row)
    return rows
