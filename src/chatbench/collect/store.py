"""Database of a study, SQLite or PostgreSQL: people's sessions and what happened in them.

A session's events are append-only. Every decision (who is assigned where, which answer counts) is a *job*: a function
of one connection that reads, decides and appends in one transaction; its caller continues, and shows something, once
that transaction is on disk. An event that may happen only once has a key, which is unique in its session.

SQLite has one writer. Jobs that arrive during a commit share the next one, each behind a savepoint, so that many people
wait for one fsync together. They run in the event loop's thread, because SQLite answers from memory in less time than a
thread switch takes; only the commit, which waits for the disk, runs in another thread. PostgreSQL uses one transaction
per job, which locks the session's row, and for assignments one row shared by all.

No IP address is stored, and a person's id only as its HMAC with the study's salt.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, TypeAlias, TypeVar

import sqlalchemy as sql
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from chatbench.collect.config import FILE, Cell, CollectedStudy
from chatbench.core.errors import ChatbenchError

SessionKind = Literal["person", "preview", "rehearsal"]
SessionState = Literal["active", "finished", "left"]
StudyState = Literal["open", "paused", "stopped"]
Refusal = Literal["full", "paused", "again", "other"]
T = TypeVar("T")
Job: TypeAlias = Callable[[sql.Connection], T]
MOST_JOBS = 100
"""In one transaction; afterwards another program that wants to write (`collect set`) gets its turn."""
SEEN_SECONDS = 30.0
"""Precision of the time at which somebody was last seen: not every page view is a write."""
POSTGRES_CONNECTIONS = 20

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
SPENT = sql.Table(  # on sessions that were deleted
    "spent",
    TABLES,
    sql.Column("assistant", sql.Text, nullable=False),
    sql.Column("read_tokens", sql.Integer, nullable=False),
    sql.Column("written_tokens", sql.Integer, nullable=False),
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
    """One session within a job: no one else changes it until the job's transaction ends."""

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
    study_state: StudyState = "open"
    _connection: sql.Connection | None = field(default=None, repr=False)

    def add(
        self, kind: str, step: str, body: Mapping[str, Any] | None = None, *, once: str = "",
        tokens: tuple[int, int] = (0, 0),
    ) -> None:  # fmt: skip
        """Append an event; `once` is its key if it may happen only once, `tokens` are (input, output) tokens."""
        event = Event(kind, step, dict(body or {}), time.time())
        self._execute(
            _NEW_EVENT, session=self.id, kind=kind, step=step, key=once or None, body=event.body, at=event.at,
            read_tokens=tokens[0], written_tokens=tokens[1],
        )  # fmt: skip
        self.events.append(event)

    def end(self, state: SessionState, at: float) -> None:
        """End the session."""
        self._execute(sql.update(SESSIONS).where(SESSIONS.c.id == self.id).values(state=state, ended=at))
        self.state, self.ended = state, at

    def _execute(self, statement: sql.Executable, **values: object) -> None:
        assert self._connection is not None
        self._connection.execute(statement, values or None)

    @property
    def step(self) -> str:
        """The first step of the plan that is not done; "" if all are."""
        done = {event.step for event in self.events if event.kind == "answer"}
        return next((step for step in self.plan if step not in done), "")

    def turns(self, step: str) -> list[tuple[str, str | None]]:
        """(message, reply) pairs of one chat; a reply is None if it has not come."""
        of_step = [event for event in self.events if event.step == step]
        replies = {event.body["turn"]: event.body["text"] for event in of_step if event.kind == "reply"}
        return [(event.body["text"], replies.get(event.body["turn"])) for event in of_step if event.kind == "message"]


def session_id(cookie: str) -> str:
    """Session id of a cookie; the cookie cannot be derived from it by someone who reads the database."""
    return hashlib.sha256(cookie.encode()).hexdigest()[:32]


class Store:
    """The database of one study; `async with Store(...)`, in one event loop."""

    def __init__(self, study: CollectedStudy) -> None:
        self._study, address = study, study.database_address
        self.settings: dict[str, str] = {}
        self._waiting: list[tuple[Job[Any], asyncio.Future[Any]]] = []
        self._committing: asyncio.Task[None] | None = None
        self._sqlite: sql.Engine | None = None
        self._postgres: AsyncEngine | None = None
        if not address:
            path = study.folder.resolve() / "study.db"  # not as text, in which ? would begin the parameters
            self._sqlite = sql.create_engine(
                sql.URL.create("sqlite", database=str(path)), hide_parameters=True,
                connect_args={"check_same_thread": False},
            )  # fmt: skip  # one thread after the other
            sql.event.listen(self._sqlite, "connect", _prepare_sqlite)
            sql.event.listen(self._sqlite, "begin", _begin_sqlite)
        else:
            self._postgres = create_async_engine(
                address, hide_parameters=True, pool_size=POSTGRES_CONNECTIONS, max_overflow=0
            )  # fmt: skip

    async def __aenter__(self) -> Store:
        def opened(connection: sql.Connection) -> dict[str, str]:
            if self._postgres:  # two servers starting at once would both create the tables
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(18)")
            TABLES.create_all(connection)
            found = {row.name for row in connection.execute(sql.select(SETTINGS))}
            new = {
                "state": "open",
                "study": self._study.config.id,
                **{name: secrets.token_urlsafe(24) for name in ("salt", "secret", "token")},
            }
            for name in new.keys() - found:
                connection.execute(sql.insert(SETTINGS).values(name=name, value=new[name]))
            return {row.name: row.value for row in connection.execute(sql.select(SETTINGS))}

        try:
            self.settings = await self.write(opened)
        except (sql.exc.SQLAlchemyError, OSError) as error:  # the driver's own message follows SQLAlchemy's
            where = f"{self._study.folder / FILE}: its database cannot be opened"
            raise ChatbenchError(
                f"{where}: {str(error).splitlines()[0]}", fix="check that it is running and accessible"
            ) from None
        if self.settings["study"] != self._study.config.id:
            await self.__aexit__()
            raise ChatbenchError(
                f"{self._study.folder / FILE}: its database holds another study, {self.settings['study']}",
                expected=f"that of this study, {self._study.config.id}",
                fix="give each study its own database, and do not change its id",
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._committing:
            await self._committing
        if self._sqlite:
            self._sqlite.dispose()
        if self._postgres:
            await self._postgres.dispose()

    async def keep_design(self) -> None:
        """Record the study's design.

        Raises:
            ChatbenchError: people joined while it was another.
        """
        design, named = self._study.design, SETTINGS.c.name == "design"

        def kept(connection: sql.Connection) -> None:
            found = connection.execute(sql.select(SETTINGS.c.value).where(named)).scalar()
            people = sql.select(SESSIONS.c.id).where(SESSIONS.c.kind == "person").limit(1)
            if found not in (None, design) and connection.execute(people).first():
                raise ChatbenchError(
                    f"{self._study.folder / FILE}: people have joined this study, and it has changed since",
                    expected="the same question ids, batches, conditions and assistants, an attention check as before",
                    fix="undo the change, or give the changed study a new id and database",
                )
            connection.execute(sql.delete(SETTINGS).where(named))
            connection.execute(sql.insert(SETTINGS).values(name="design", value=design))

        await self.write(kept)

    async def write(self, job: Job[T]) -> T:
        """Run a job; return its result once its transaction is on disk. If it raises, nothing of it is kept.

        If the connection to PostgreSQL is lost, the job runs once more. The first run may have been committed, so a
        job must detect what it already did, for example by the keys of events.
        """
        if self._postgres:
            return await self._on_postgres(self._postgres, job)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((job, future))
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit_all())
        return await future

    async def _on_postgres(self, engine: AsyncEngine, job: Job[T], *, again: bool = True) -> T:
        try:
            async with engine.begin() as connection:
                return await connection.run_sync(job)
        except sql.exc.DBAPIError as error:
            if not (error.connection_invalidated and again):
                raise
        return await self._on_postgres(engine, job, again=False)  # on a new connection: the pool drops the old ones too

    async def read(self, job: Job[T]) -> T:
        """Run a job that changes nothing and may take long; it blocks no one, and sees one state of the database."""
        if self._postgres:
            return await self._on_postgres(self._postgres.execution_options(isolation_level="REPEATABLE READ"), job)
        assert self._sqlite is not None
        engine = self._sqlite.execution_options(reads_only=True)

        def run() -> T:
            with engine.connect() as connection:
                return job(connection)

        return await asyncio.to_thread(run)

    async def _commit_all(self) -> None:
        """Run and commit waiting jobs, including those that arrive meanwhile."""
        assert self._sqlite is not None
        while self._waiting:
            jobs, self._waiting = self._waiting[:MOST_JOBS], self._waiting[MOST_JOBS:]
            try:
                with self._sqlite.connect() as connection:
                    outcomes = [_outcome(job, connection) for job, _ in jobs]
                    await asyncio.to_thread(connection.commit)
            except (sql.exc.SQLAlchemyError, OSError) as error:  # the disk is full, or another program writes
                outcomes = [(None, error)] * len(jobs)
            for (_, future), (value, failure) in zip(jobs, outcomes, strict=True):
                if future.done():  # its request was cancelled
                    continue
                if failure:
                    future.set_exception(failure)
                else:
                    future.set_result(value)

    def hashed(self, person: str) -> str:
        """A person's id in its stored form (HMAC)."""
        return hmac.new(self.settings["salt"].encode(), person.encode(), hashlib.sha256).hexdigest()

    async def set_state(self, state: StudyState) -> None:
        """Open, pause or stop the study."""
        changed = sql.update(SETTINGS).where(SETTINGS.c.name == "state").values(value=state)
        await self.write(lambda connection: connection.execute(changed))

    async def join(
        self, cookie: str, person: str, kind: SessionKind, *, cells: Sequence[Cell], people: int,
        plan: Callable[[Cell], Sequence[str]], consent: str, oldest: float,
    ) -> Refusal | None:  # fmt: skip
        """Assign a person to one of the least-filled cells; return None, or the reason for refusal.

        Args:
            cookie: of the browser; joining again with the same cookie changes nothing, and as someone else is refused.
            person: the hashed id.
            people: places per cell.
            plan: draws the steps of a cell.
            consent: version of the text that was consented to.
            oldest: sessions that began earlier are out of time: their places are free again.
        """
        now, session = time.time(), session_id(cookie)

        def assigned(connection: sql.Connection) -> Refusal | None:
            # For update: one assignment at a time, in PostgreSQL too.
            state = connection.execute(STATE.with_for_update()).scalar_one()
            held = sql.select(SESSIONS.c.kind, SESSIONS.c.person).where(SESSIONS.c.id == session)
            if (found := connection.execute(held).first()) is not None:
                return None if tuple(found) == (kind, person) else "other"
            if state != "open":
                return "paused"
            mine = sql.select(SESSIONS.c.id).where(SESSIONS.c.kind == kind, SESSIONS.c.person == person)
            if connection.execute(mine).first():
                return "again"
            overdue = SESSIONS.c.state == "active", SESSIONS.c.began < oldest
            connection.execute(sql.update(SESSIONS).where(*overdue).values(state="left", ended=now))
            # The places of people who left are free.
            columns = SESSIONS.c.batch, SESSIONS.c.assistant, SESSIONS.c.condition
            staying = sql.select(*columns, sql.func.count()).where(SESSIONS.c.kind == kind, SESSIONS.c.state != "left")
            rows = connection.execute(staying.group_by(*columns))
            taken = Counter({Cell(batch=row[0], assistant=row[1], condition=row[2]): row[3] for row in rows})
            open_cells = [cell for cell in cells if taken[cell] < people]
            if not open_cells and kind != "preview":
                return "full"
            least = min((taken[cell] for cell in open_cells), default=0)
            cell = Random(session).choice([one for one in open_cells if taken[one] == least] or list(cells))
            connection.execute(
                sql.insert(SESSIONS).values(
                    id=session, kind=kind, person=person, state="active", batch=cell.batch, assistant=cell.assistant,
                    condition=cell.condition, plan=list(plan(cell)), began=now, seen=now,
                )
            )  # fmt: skip
            consented = {"session": session, "kind": "consent", "step": "", "key": "consent", "at": now}
            connection.execute(sql.insert(EVENTS).values(**consented, body={"version": consent}))
            return None

        return await self.write(assigned)

    async def visit(self, cookie: str, work: Callable[[Visit | None], T]) -> T:
        """Return what `work` returns for the session of a cookie (None if there is none), once its events are kept."""

        def visited(connection: sql.Connection) -> T:
            row = connection.execute(_SESSION, {"of": session_id(cookie)}).mappings().first()
            if row is None:
                return work(None)
            visit = _visit(row, [Event(*each) for each in connection.execute(_EVENTS_OF, {"of": row["id"]})])
            visit.study_state, visit._connection = row["study_state"], connection
            if (now := time.time()) - visit.seen > SEEN_SECONDS:
                connection.execute(sql.update(SESSIONS).where(SESSIONS.c.id == visit.id).values(seen=now))
            return work(visit)

        return await self.write(visited)

    async def visits(self, kind: SessionKind) -> list[Visit]:
        """All sessions of a kind with their events, in the order in which they began."""
        of_kind = sql.select(EVENTS.c.session, *_EVENT_COLUMNS).join(SESSIONS).where(SESSIONS.c.kind == kind)

        def listed(connection: sql.Connection) -> list[Visit]:
            sessions = sql.select(SESSIONS).where(SESSIONS.c.kind == kind).order_by(SESSIONS.c.began)
            rows = connection.execute(sessions).mappings().all()
            events: dict[str, list[Event]] = {row["id"]: [] for row in rows}
            for session, *event in connection.execute(of_kind.order_by(EVENTS.c.id)):
                events[session].append(Event(*event))
            return [_visit(row, events[row["id"]]) for row in rows]

        return await self.read(listed)

    async def tokens(self) -> dict[str, tuple[int, int]]:
        """Input and output tokens so far by assistant, rehearsals and deleted people included: all cost money."""
        both = _by_assistant(sql.union_all(_USED, sql.select(SPENT)))
        rows = await self.read(lambda connection: connection.execute(both).all())
        return {name: (int(read or 0), int(written or 0)) for name, read, written in rows}

    async def spend(self, assistant: str, tokens: tuple[int, int]) -> None:
        """Record the (input, output) tokens of a reply whose session was deleted meanwhile."""
        row = sql.insert(SPENT).values((assistant, *tokens))
        await self.write(lambda connection: connection.execute(row))

    async def note(self, what: str, session: str = "") -> None:
        """Record a refusal or failure for the dashboard."""
        row = sql.insert(INCIDENTS).values(what=what[:300], session=session[:8], at=time.time())
        await self.write(lambda connection: connection.execute(row))

    async def incidents(self, limit: int = 20) -> list[tuple[float, str, str]]:
        """The latest incidents: time, description, and the start of the session's id."""
        latest = sql.select(INCIDENTS).order_by(INCIDENTS.c.id.desc()).limit(limit)
        rows = await self.read(lambda connection: connection.execute(latest).all())
        return [(row.at, row.what, row.session) for row in rows]

    async def remove(self, person: str) -> int:
        """Delete everything of the person with this id, including rehearsals; return the number of sessions.

        What their replies cost stays counted.
        """

        def removed(connection: sql.Connection) -> int:
            # For update: a reply that comes now is counted either here or by `spend`.
            theirs = sql.select(SESSIONS.c.id).where(SESSIONS.c.person == self.hashed(person)).with_for_update()
            ids = list(connection.execute(theirs).scalars())
            used = _by_assistant(_USED.where(SESSIONS.c.id.in_(ids)))
            connection.execute(sql.insert(SPENT).from_select(SPENT.columns.keys(), used))
            connection.execute(sql.delete(INCIDENTS).where(INCIDENTS.c.session.in_([each[:8] for each in ids])))
            connection.execute(sql.delete(SESSIONS).where(SESSIONS.c.id.in_(ids)))  # events are deleted by cascade
            return len(ids)

        count = await self.write(removed)
        if self._sqlite:  # otherwise the write-ahead log would still hold it for a while
            with self._sqlite.connect() as connection:
                connection.connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return count


STATE = sql.select(SETTINGS.c.value).where(SETTINGS.c.name == "state")
_SESSION = (
    sql.select(SESSIONS, STATE.scalar_subquery().label("study_state"))
    .where(SESSIONS.c.id == sql.bindparam("of"))
    .with_for_update(of=SESSIONS)
)
_NEW_EVENT = sql.insert(EVENTS)
_USED = sql.select(SESSIONS.c.assistant, EVENTS.c.read_tokens, EVENTS.c.written_tokens).join(SESSIONS)
_EVENT_COLUMNS = EVENTS.c.kind, EVENTS.c.step, EVENTS.c.body, EVENTS.c.at
_EVENTS_OF = sql.select(*_EVENT_COLUMNS).where(EVENTS.c.session == sql.bindparam("of")).order_by(EVENTS.c.id)


def _outcome(job: Job[T], connection: sql.Connection) -> tuple[T | None, Exception | None]:
    """What a job returns or raises; if it raises, its own writes are rolled back, those of other jobs are not."""
    connection.exec_driver_sql("SAVEPOINT job")
    value, failure = None, None
    try:
        value = job(connection)
    except Exception as error:  # goes to its caller
        if not connection.connection.in_transaction:  # a full disk has ended it for all
            raise
        connection.exec_driver_sql("ROLLBACK TO job")
        failure = error
    connection.exec_driver_sql("RELEASE job")
    return value, failure


def _by_assistant(used: sql.Select[Any] | sql.CompoundSelect[Any]) -> sql.Select[Any]:
    """Sums of the tokens that `used` selects."""
    of = used.subquery().c
    return sql.select(of.assistant, sql.func.sum(of.read_tokens), sql.func.sum(of.written_tokens)).group_by(
        of.assistant
    )


def _visit(row: Mapping[Any, Any], events: list[Event]) -> Visit:
    cell = Cell(batch=row["batch"], assistant=row["assistant"], condition=row["condition"])
    fields = {name: row[name] for name in ("id", "kind", "person", "state", "began", "seen", "ended")}
    return Visit(**fields, cell=cell, plan=tuple(row["plan"]), events=events)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # otherwise the driver begins transactions itself, and late
    cursor = connection.cursor()
    # synchronous=FULL: a commit that has returned is on disk, even after a power failure.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000", "secure_delete=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Any) -> None:
    # Immediate: a transaction that reads before it writes could otherwise be refused midway.
    reads_only = connection.get_execution_options().get("reads_only")
    connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")
