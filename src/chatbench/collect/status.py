"""Progress of a study, for `chatbench collect status` and the dashboard, counted within the database."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from dataclasses import dataclass

import sqlalchemy as sql

from chatbench.collect.config import CollectedStudy
from chatbench.collect.plan import ATTENTION
from chatbench.collect.store import EVENTS, SESSIONS, STATE, SessionKind, Store, StudyState

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
        rows = [f"{name:<28}{value}" for name, value in self.facts]
        heads = f"{'batch':>5}  {'assistant':<24}{'condition':<16}{'finished':>8}{'active':>8}{'left':>6}{'wanted':>8}"
        rows += ["", heads] + [
            f"{c.batch:>5}  {c.assistant or '-':<24}{c.condition:<16}"
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
    usd = sum(study.prices[name].usd(*used) for name, used in tokens.items() if name in study.prices)
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
        "cost so far": f"${usd:,.2f}",
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
