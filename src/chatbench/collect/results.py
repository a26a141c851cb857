"""What a collected study has: its progress so far, and its export.

Progress, for `chatbench collect status` and the dashboard, is counted within the database.

The export has the ChatBench layout, and the format of own studies. `user_answers.csv` has everybody's answers,
`user_answers_filtered.csv` and `study.jsonl` those of people who finished and passed the attention check; joining
already ensures one assignment per person. Previews are never exported, rehearsals only by themselves. People get new
random ids with each export: neither their own ids, nor the stored ones, nor the order in which they came can be derived
from the files.
"""

from __future__ import annotations

import secrets
import shlex
import shutil
import statistics
import string
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import sqlalchemy as sql

from chatbench.collect.config import ATTENTION, CHAT, CollectedStudy, parts, question_row
from chatbench.collect.store import EVENTS, SESSIONS, STATE, SessionKind, Store, StudyState, Visit
from chatbench.core.answer_kinds import CHOICE
from chatbench.core.errors import ChatbenchError
from chatbench.core.files import write_json, write_jsonl
from chatbench.core.records import FOUR_LETTERS, Answer, AnswerKind, Conversation, Study, Turn
from chatbench.data.tables import conversation_id
from chatbench.sample.study import write_chatbench_folder

ACTIVE_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class CellCount:
    """How many people are active in, have finished, and have left one cell."""

    batch: int
    assistant: str
    condition: str
    finished: int
    active: int
    left: int
    wanted: int


@dataclass(frozen=True, slots=True)
class Figures:
    """Progress of a study at one moment; `facts` are (name, value) pairs, `incidents` lines, latest first."""

    state: StudyState
    facts: tuple[tuple[str, str], ...]
    cells: tuple[CellCount, ...]
    incidents: tuple[str, ...]

    def lines(self) -> list[str]:
        """Lines to print."""
        label = max(len(name) for name, _ in self.facts)
        wide = max(22, *(len(cell.assistant) for cell in self.cells))
        rows = [f"{name:<{label}}  {value}" for name, value in self.facts]
        heads = f"{'batch':>5}  {'assistant':<{wide}}  {'condition':<16}"
        rows += ["", f"{heads}{'finished':>8}{'active':>8}{'left':>6}{'wanted':>8}"] + [
            f"{c.batch:>5}  {c.assistant or '-':<{wide}}  {c.condition:<16}"
            f"{c.finished:>8}{c.active:>8}{c.left:>6}{c.wanted:>8}"
            for c in self.cells
        ]
        return [*rows, *(["", "latest incidents"] if self.incidents else []), *self.incidents]


async def figures(study: CollectedStudy, store: Store, kind: SessionKind) -> Figures:
    """Progress of people, or of rehearsals; tokens and cost are of both together."""
    oldest = study.config.limits.oldest
    found = await store.read(lambda connection: _counts(connection, kind, oldest))
    counts, recent, minutes, answers, checks, state = found
    tokens = await store.tokens()
    states = {
        each: sum(n for (*_, found), n in counts.items() if found == each) for each in ("finished", "active", "left")
    }
    facts = {
        "study": study.config.title,
        "state": state,
        "finished": states["finished"],
        "in progress": states["active"],
        "active in the last 5 minutes": recent,
        "left or ran out of time": states["left"],
        "median minutes to finish": f"{statistics.median(minutes):.1f}" if minutes else "-",
        "attention checks passed": f"{checks[True]} of {checks.total()}",
        "answers": answers,
        "tokens read and written": " and ".join(f"{sum(side):,}" for side in zip(*tokens.values(), strict=True)) or "0",
        "cost so far": f"${study.usd(tokens):,.2f}",
    }
    cells = []
    for cell in study.cells:
        finished, active, left = (counts[*cell.key, each] for each in ("finished", "active", "left"))
        cells.append(CellCount(*cell.key, finished, active, left, study.config.people))
    incidents = tuple(
        f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(at))} UTC  {what}"
        + (f"  (session {session})" if session else "")
        for at, what, session in await store.incidents()
    )
    return Figures(state, tuple((name, str(value)) for name, value in facts.items()), tuple(cells), incidents)


def _counts(
    connection: sql.Connection, kind: SessionKind, oldest: float
) -> tuple[Counter[tuple[int, str, str, str]], int, list[float], int, Counter[bool], StudyState]:
    """Sessions by cell and state; recently active ones; minutes of each finished one; answers; checks; study state.

    Active sessions that began before `oldest` count as left: the next one who joins ends them.
    """
    ours, number = SESSIONS.c.kind == kind, sql.func.count()
    active = (SESSIONS.c.state == "active") & (SESSIONS.c.began >= oldest)
    state_now = sql.case((active | (SESSIONS.c.state == "finished"), SESSIONS.c.state), else_="left")
    each = sql.select(SESSIONS.c.batch, SESSIONS.c.assistant, SESSIONS.c.condition, state_now.label("state"))
    by = each.where(ours).subquery().c
    sessions = sql.select(*by, number).group_by(*by)
    counts = Counter({(row[0], row[1], row[2], row[3]): row[4] for row in connection.execute(sessions)})
    seen = SESSIONS.c.seen > time.time() - ACTIVE_SECONDS
    recent = connection.execute(sql.select(number).select_from(SESSIONS).where(ours, active, seen)).scalar_one()
    took = sql.select((SESSIONS.c.ended - SESSIONS.c.began) / 60).where(ours, SESSIONS.c.state == "finished")
    minutes = [float(each) for each in connection.execute(took).scalars()]
    answered = sql.select(number).select_from(EVENTS.join(SESSIONS)).where(ours, EVENTS.c.kind == "answer")
    answers = connection.execute(answered.where(EVENTS.c.step.like("%:%"))).scalar_one()
    attention = sql.select(EVENTS.c.body).join(SESSIONS).where(ours, EVENTS.c.kind == "answer")
    rights = connection.execute(attention.where(EVENTS.c.step == ATTENTION)).scalars()
    checks = Counter(bool(body["right"]) for body in rights)
    state: StudyState = connection.execute(STATE).scalar_one()
    return counts, recent, minutes, answers, checks, state


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
            f"{_people(self.people)}; {self.kept} finished and passed the attention check: "
            f"{self.answers:,} answers, {self.conversations:,} chats -> {folder}",
            *(f"left out of the filtered files: {_people(n)}, {reason}" for reason, n in self.left_out.items()),
            *(f"note: {count} x {what}" for what, count in self.notes.items()),
            f"next: chatbench check-study {shlex.quote(str(folder))}",
        ]


def _people(count: int) -> str:
    return "1 person" if count == 1 else f"{count} people"


async def export(study: CollectedStudy, store: Store, folder: Path, kind: SessionKind) -> Exported:
    """Write the files into a new folder.

    Raises:
        ChatbenchError: the folder is not empty, or nobody can be exported.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ChatbenchError(f"{folder} is not empty", fix="choose a new folder: each export gives people new ids")
    visits = await store.visits(kind)
    wrong: Counter[str] = Counter()
    kept_ids = set()
    for visit in visits:
        checks = [event.body["right"] for event in visit.events if (event.kind, event.step) == ("answer", ATTENTION)]
        if visit.state != "finished":
            wrong["did not finish"] += 1
        elif ATTENTION in visit.plan and checks != [True]:
            wrong["attention check wrong"] += 1
        else:
            kept_ids.add(visit.id)
    if not kept_ids:
        reasons = ", ".join(f"{count} {reason}" for reason, count in wrong.items())
        raise ChatbenchError(
            f"nobody to export among {_people(len(visits))}" + (f": {reasons}" if reasons else ""),
            fix="--rehearsed exports a rehearsal" if kind == "person" else "chatbench collect rehearse STUDY_DIR",
        )
    alphabet = string.ascii_uppercase + string.digits
    names = {visit.id: "".join(secrets.choice(alphabet) for _ in range(10)) for visit in visits}
    notes: Counter[str] = Counter()
    rows = [
        (visit, *_records(study, visit, names[visit.id], notes)) for visit in sorted(visits, key=lambda v: names[v.id])
    ]
    everybody = _study(study, folder.name, [row[1:] for row in rows])
    filtered = _study(study, folder.name, [row[1:] for row in rows if row[0].id in kept_ids])
    others = sum(len(q.options) != len(FOUR_LETTERS) or q.kind != CHOICE for q in study.questions.values())
    if not others:
        with tempfile.TemporaryDirectory() as other:
            write_chatbench_folder(filtered, Path(other))
            write_chatbench_folder(everybody, folder)
            name = Path("full_study") / "user_answers_filtered.csv"
            shutil.copyfile(Path(other) / name, folder / name)
    else:
        note = "questions without four unordered options: no files in the ChatBench layout, which has no others"
        notes[note] = others
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
