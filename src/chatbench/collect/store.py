"""What is kept of a study: sessions of people and what happened in them, in SQLite or PostgreSQL.

A session's events are only appended, each in the transaction that decides on it, before anything of it is shown. An
event that may happen once has a key, which is unique in its session: of two that come at once, one is kept. Everything
that decides (who is assigned where, which answer counts) holds a lock: SQLite has one writer; in PostgreSQL it is the
session's row, and for assignments one row for all.

No address of a computer is kept, and a person's id only as its HMAC under the study's salt.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

import sqlalchemy as sql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from chatbench.collect.config import Cell

SessionKind = Literal["person", "preview", "rehearsal"]
SessionState = Literal["active", "finished", "left"]
StudyState = Literal["open", "paused", "stopped"]
Refusal = Literal["full", "paused", "again"]

TABLES = sql.MetaData()
SETTINGS = sql.Table(
    "settings", TABLES, sql.Column("name", sql.Text, primary_key=True), sql.Column("value", sql.Text, nullable=False)
)
SESSIONS = sql.Table(
    "sessions",
    TABLES,
    sql.Column("id", sql.Text, primary_key=True),
    sql.Column("kind", sql.Text, nullable=False),
    sql.Column("person", sql.Text, nullable=False),
    sql.Column("state", sql.Text, nullable=False),
    sql.Column("batch", sql.Integer, nullable=False),
    sql.Column("assistant", sql.Text, nullable=False),
    sql.Column("condition", sql.Text, nullable=False),
    sql.Column("plan", sql.JSON, nullable=False),
    sql.Column("began", sql.Float, nullable=False),
    sql.Column("seen", sql.Float, nullable=False),
    sql.Column("ended", sql.Float),
    sql.UniqueConstraint("kind", "person"),
    sql.Index("sessions_by_cell", "kind", "state"),
)
EVENTS = sql.Table(
    "events",
    TABLES,
    sql.Column("id", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("session", sql.Text, sql.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    sql.Column("kind", sql.Text, nullable=False),
    sql.Column("step", sql.Text, nullable=False),
    sql.Column("key", sql.Text),
    sql.Column("body", sql.JSON, nullable=False),
    sql.Column("read_tokens", sql.Integer, nullable=False, default=0),
    sql.Column("written_tokens", sql.Integer, nullable=False, default=0),
    sql.Column("at", sql.Float, nullable=False),
    sql.UniqueConstraint("session", "key"),
)
INCIDENTS = sql.Table(
    "incidents",
    TABLES,
    sql.Column("id", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("what", sql.Text, nullable=False),
    sql.Column("session", sql.Text, nullable=False),
    sql.Column("at", sql.Float, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a session: `shown`, `answer`, `message`, `reply`, `failure`, `flag`, `leave`."""

    kind: str
    step: str
    body: Mapping[str, Any]
    at: float


@dataclass(slots=True)
class Visit:
    """One session, held: nobody else changes it until the block ends."""

    id: str
    kind: SessionKind
    person: str
    state: SessionState
    cell: Cell
    plan: tuple[str, ...]
    began: float
    seen: float
    ended: float | None
    events: list[Event]
    _connection: AsyncConnection | None = field(default=None, repr=False)

    async def add(
        self,
        kind: str,
        step: str,
        body: Mapping[str, Any] | None = None,
        *,
        once: str = "",
        tokens: tuple[int, int] = (0, 0),
    ) -> None:
        """Appends an event; `once` is its key where it may happen only once."""
        assert self._connection is not None
        event = Event(kind, step, dict(body or {}), time.time())
        row = {"session": self.id, "kind": kind, "step": step, "key": once or None, "body": event.body, "at": event.at}
        row |= {"read_tokens": tokens[0], "written_tokens": tokens[1]}
        await self._connection.execute(sql.insert(EVENTS).values(**row))
        self.events.append(event)

    async def end(self, state: SessionState, at: float) -> None:
        """The session is over."""
        assert self._connection is not None
        await self._connection.execute(
            sql.update(SESSIONS).where(SESSIONS.c.id == self.id).values(state=state, ended=at)
        )
        self.state, self.ended = state, at

    @property
    def step(self) -> str:
        """The first step of the plan that is not done; "" where all are."""
        done = {event.step for event in self.events if event.kind == "answer"}
        return next((step for step in self.plan if step not in done), "")

    def turns(self, step: str) -> list[tuple[str, str | None]]:
        """Pairs of message and reply of one chat; the last reply is None where it has not come."""
        replies = {
            event.body["turn"]: event.body["text"]
            for event in self.events
            if (event.kind, event.step) == ("reply", step)
        }
        messages = [event for event in self.events if (event.kind, event.step) == ("message", step)]
        return [(event.body["text"], replies.get(event.body["turn"])) for event in messages]


def session_id(cookie: str) -> str:
    """The session of a cookie: who reads the database cannot make the cookie from it."""
    return hashlib.sha256(cookie.encode()).hexdigest()[:32]


class Store:
    """The database of one study; `async with Store(...)`."""

    def __init__(self, address: str) -> None:
        self._sqlite = address.startswith("sqlite")
        options: dict[str, Any] = {} if self._sqlite else {"pool_size": 20, "pool_pre_ping": True}
        self.engine: AsyncEngine = create_async_engine(address, hide_parameters=True, **options)
        self._writer = asyncio.Lock()
        self.settings: dict[str, str] = {}
        if self._sqlite:
            sql.event.listen(self.engine.sync_engine, "connect", _prepare_sqlite)
            sql.event.listen(self.engine.sync_engine, "begin", _begin_sqlite)

    async def __aenter__(self) -> Store:
        async with self._write() as connection:
            if not self._sqlite:  # two that start at once would both make the tables
                await connection.exec_driver_sql("SELECT pg_advisory_xact_lock(18)")
            await connection.run_sync(TABLES.create_all)
            found = {row.name for row in await connection.execute(sql.select(SETTINGS.c.name))}
            new = {"state": "open", **{name: secrets.token_urlsafe(24) for name in ("salt", "secret", "token")}}
            for name, value in new.items():
                if name not in found:
                    await connection.execute(sql.insert(SETTINGS).values(name=name, value=value))
            self.settings = {row.name: row.value for row in await connection.execute(sql.select(SETTINGS))}
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.engine.dispose()

    @asynccontextmanager
    async def _write(self) -> AsyncIterator[AsyncConnection]:
        if not self._sqlite:
            async with self.engine.begin() as connection:
                yield connection
            return
        async with self._writer, self.engine.begin() as connection:  # waiting here costs no polling
            yield connection

    @asynccontextmanager
    async def _read(self) -> AsyncIterator[AsyncConnection]:
        async with self.engine.connect() as connection:
            yield await connection.execution_options(reads_only=True)

    def hashed(self, person: str) -> str:
        """A person's id as it is stored."""
        return hmac.new(self.settings["salt"].encode(), person.encode(), hashlib.sha256).hexdigest()

    async def state(self) -> StudyState:
        """Whether the study is open, paused (nobody joins) or stopped (nobody answers)."""
        async with self._read() as connection:
            return (await connection.execute(_STATE)).scalar_one()  # type: ignore[no-any-return]

    async def set_state(self, state: StudyState) -> None:
        """Opens, pauses or stops the study."""
        async with self._write() as connection:
            await connection.execute(sql.update(SETTINGS).where(SETTINGS.c.name == "state").values(value=state))

    async def join(
        self, cookie: str, person: str, kind: SessionKind, *, cells: Sequence[Cell], people: int,
        plan: Mapping[Cell, Sequence[str]], consent: str, oldest: float,
    ) -> Refusal | None:  # fmt: skip
        """Assigns a person to one of the least-filled cells; None, or why not.

        Args:
            cookie: of the browser; the same cookie that comes twice changes nothing.
            person: the id, hashed.
            people: places of a cell.
            plan: the steps of each cell.
            consent: version of the text that was consented to.
            oldest: sessions that began before have run out of time: their places are free again.
        """
        now, session = time.time(), session_id(cookie)
        async with self._write() as connection:
            # For update: one assignment at a time, also in PostgreSQL.
            if (await connection.execute(_STATE.with_for_update())).scalar_one() != "open":
                return "paused"
            mine = sql.select(SESSIONS.c.id).where(SESSIONS.c.kind == kind, SESSIONS.c.person == person)
            if (found := (await connection.execute(mine)).scalar()) is not None:
                return None if found == session else "again"
            overdue = SESSIONS.c.state == "active", SESSIONS.c.began < oldest
            await connection.execute(sql.update(SESSIONS).where(*overdue).values(state="left", ended=now))
            taken = await _taken(connection, kind)
            open_cells = [cell for cell in cells if taken[_key(cell)] < people]
            if not open_cells and kind != "preview":
                return "full"
            least = min((taken[_key(cell)] for cell in open_cells), default=0)
            chance = Random(session)
            cell = chance.choice([one for one in open_cells if taken[_key(one)] == least] or list(cells))
            await connection.execute(
                sql.insert(SESSIONS).values(
                    id=session, kind=kind, person=person, state="active", batch=cell.batch, assistant=cell.assistant,
                    condition=cell.condition, plan=list(plan[cell]), began=now, seen=now,
                )
            )  # fmt: skip
            await connection.execute(
                sql.insert(EVENTS).values(
                    session=session, kind="consent", step="", key="consent", body={"version": consent}, at=now
                )
            )
        return None

    @asynccontextmanager
    async def visit(self, cookie: str) -> AsyncIterator[Visit | None]:
        """The session of a cookie, held until the block ends; None where there is none. What it adds is then kept."""
        async with self._write() as connection:
            chosen = sql.select(SESSIONS).where(SESSIONS.c.id == session_id(cookie)).with_for_update()
            row = (await connection.execute(chosen)).mappings().first()
            if row is None:
                yield None
                return
            visit = _visit(row, await self._events(connection, [row["id"]]))
            visit._connection = connection
            await connection.execute(sql.update(SESSIONS).where(SESSIONS.c.id == visit.id).values(seen=time.time()))
            yield visit

    async def visits(self, kind: SessionKind) -> list[Visit]:
        """All sessions of a kind with their events, in the order in which they began."""
        async with self._read() as connection:
            rows = (
                await connection.execute(sql.select(SESSIONS).where(SESSIONS.c.kind == kind).order_by(SESSIONS.c.began))
            ).mappings().all()  # fmt: skip
            events: dict[str, list[Event]] = {}
            of_kind = (
                sql.select(EVENTS).join(SESSIONS, SESSIONS.c.id == EVENTS.c.session).where(SESSIONS.c.kind == kind)
            )
            for row in (await connection.execute(of_kind.order_by(EVENTS.c.id))).mappings():
                events.setdefault(row["session"], []).append(_event(row))
        return [_visit(row, events.get(row["id"], [])) for row in rows]

    async def _events(self, connection: AsyncConnection, sessions: Sequence[str]) -> list[Event]:
        chosen = sql.select(EVENTS).where(EVENTS.c.session.in_(sessions)).order_by(EVENTS.c.id)
        return [_event(row) for row in (await connection.execute(chosen)).mappings()]

    async def tokens(self) -> dict[str, tuple[int, int]]:
        """Tokens read and written so far by assistant, by people and in rehearsals alike: all cost money."""
        sums = sql.select(
            SESSIONS.c.assistant, sql.func.sum(EVENTS.c.read_tokens), sql.func.sum(EVENTS.c.written_tokens)
        ).join(SESSIONS, SESSIONS.c.id == EVENTS.c.session)
        async with self._read() as connection:
            rows = await connection.execute(sums.group_by(SESSIONS.c.assistant))
            return {name: (int(read or 0), int(written or 0)) for name, read, written in rows}

    async def note(self, what: str, session: str = "") -> None:
        """Keeps that something was refused or failed, for the dashboard."""
        async with self._write() as connection:
            await connection.execute(sql.insert(INCIDENTS).values(what=what[:300], session=session[:8], at=time.time()))

    async def incidents(self, limit: int = 20) -> list[tuple[float, str, str]]:
        """The latest: time, what, and the beginning of the session's id."""
        async with self._read() as connection:
            chosen = sql.select(INCIDENTS).order_by(INCIDENTS.c.id.desc()).limit(limit)
            return [(row.at, row.what, row.session) for row in await connection.execute(chosen)]

    async def remove(self, person: str) -> int:
        """Deletes everything of the person with this id, also their rehearsals; how many sessions that were."""
        async with self._write() as connection:
            mine = sql.select(SESSIONS.c.id).where(SESSIONS.c.person == self.hashed(person))
            ids = list((await connection.execute(mine)).scalars())
            await connection.execute(sql.delete(EVENTS).where(EVENTS.c.session.in_(ids)))
            await connection.execute(sql.delete(INCIDENTS).where(INCIDENTS.c.session.in_([each[:8] for each in ids])))
            await connection.execute(sql.delete(SESSIONS).where(SESSIONS.c.id.in_(ids)))
        return len(ids)


_STATE = sql.select(SETTINGS.c.value).where(SETTINGS.c.name == "state")


async def _taken(connection: AsyncConnection, kind: SessionKind) -> Counter[tuple[int, str, str]]:
    """Places taken by cell: those who left have given theirs back."""
    columns = (SESSIONS.c.batch, SESSIONS.c.assistant, SESSIONS.c.condition)
    chosen = sql.select(*columns, sql.func.count()).where(SESSIONS.c.kind == kind, SESSIONS.c.state != "left")
    return Counter(
        {
            (batch, name, condition): n
            for batch, name, condition, n in await connection.execute(chosen.group_by(*columns))
        }
    )


def _key(cell: Cell) -> tuple[int, str, str]:
    return cell.batch, cell.assistant, cell.condition


def _event(row: Mapping[Any, Any]) -> Event:
    return Event(row["kind"], row["step"], row["body"], row["at"])


def _visit(row: Mapping[Any, Any], events: list[Event]) -> Visit:
    cell = Cell(batch=row["batch"], assistant=row["assistant"], condition=row["condition"])
    fields = {name: row[name] for name in ("id", "kind", "person", "state", "began", "seen", "ended")}
    return Visit(**fields, cell=cell, plan=tuple(row["plan"]), events=events)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # else the driver begins transactions by itself, and late
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000", "secure_delete=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Any) -> None:
    # Immediate: a transaction that reads before it writes could otherwise be refused in the middle.
    reads_only = connection.get_execution_options().get("reads_only")
    connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")
