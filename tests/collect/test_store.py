"""The database of a study: SQLite and PostgreSQL do the same, and hold one study."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
import sqlalchemy as sql
from tests.support.collected import in_thread, small_study
from tests.test_benchmarks import BENCHMARKS

from chatbench.collect.config import CollectedStudy
from chatbench.collect.server import serve
from chatbench.collect.store import SESSIONS, SETTINGS, Store, Visit
from chatbench.core.errors import ChatbenchError


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The address of a server; each test has it as it left it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(BENCHMARKS))
        loopback = import_module("loopback_postgres")
    if loopback.postgres_programs() is None:
        pytest.skip(loopback.MISSING)
    with loopback.running_postgres() as address:
        yield address


@pytest.fixture(params=["sqlite", "postgres"])
def make(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], CollectedStudy]:
    """Makes studies, with SQLite each in its own folder, with PostgreSQL in one empty database."""
    change = {}
    if request.param == "postgres":
        address = request.getfixturevalue("postgres")
        asyncio.run(_emptied(address))
        monkeypatch.setenv("STUDY_DATABASE", address)
        change = {"database": '"$STUDY_DATABASE"'}
    return lambda: small_study(tmp_path / str(len(list(tmp_path.iterdir()))), **change)


async def _emptied(address: str) -> None:
    engine = sql.ext.asyncio.create_async_engine(address.replace("postgresql", "postgresql+asyncpg", 1))
    async with engine.begin() as connection:
        for statement in ("DROP SCHEMA public CASCADE", "CREATE SCHEMA public"):
            await connection.exec_driver_sql(statement)
    await engine.dispose()


async def _joined(store: Store, study: CollectedStudy, cookie: str) -> str | None:
    return await store.join(
        cookie, store.hashed(cookie), "person", cells=study.cells, people=3, plan=lambda _: ["a", "b"], consent="1",
        oldest=0,
    )  # fmt: skip


def _answer(visit: Visit | None) -> None:
    assert visit is not None
    if visit.step == "a":
        visit.add("answer", "a", {"letter": "B"}, once="answer:a")


def test_a_job_that_fails_leaves_nothing_and_those_beside_it_are_kept(make: Callable[[], CollectedStudy]) -> None:
    # Jobs that share a commit: a failure that took the whole of it back would lose the others' answers.
    study = make()

    def failing(visit: Visit | None) -> None:
        _answer(visit)
        raise ZeroDivisionError

    async def run() -> list[Visit]:
        async with Store(study) as store:
            assert [await _joined(store, study, cookie) for cookie in ("x", "y", "x")] == [None] * 3
            outcomes = await asyncio.gather(
                store.visit("x", failing), store.visit("y", _answer), return_exceptions=True
            )
            assert isinstance(outcomes[0], ZeroDivisionError)
            return await store.visits("person")

    visits = asyncio.run(run())
    assert [visit.step for visit in visits] == ["a", "b"]


def test_a_lost_connection_to_postgresql_costs_nobody_an_answer(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As when it is restarted while people are under way: each of the pool's connections is dead.
    asyncio.run(_emptied(postgres))
    monkeypatch.setenv("STUDY_DATABASE", postgres)
    study = small_study(tmp_path, database='"$STUDY_DATABASE"')
    others = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"
    )

    async def run() -> list[Visit]:
        async with Store(study) as store:
            await asyncio.gather(*(_joined(store, study, cookie) for cookie in ("x", "y")))
            async with Store(study) as other:
                await other.write(lambda connection: connection.exec_driver_sql(others))
            await asyncio.gather(*(store.visit(cookie, _answer) for cookie in ("x", "y", "x")))
            return await store.visits("person")

    visits = asyncio.run(run())
    assert [[event.step for event in visit.events if event.kind == "answer"] for visit in visits] == [["a"], ["a"]]


def test_a_database_holds_one_study(make: Callable[[], CollectedStudy]) -> None:
    # Two in one database would share places, people and exports.
    study, other = make(), make()

    async def run(one: CollectedStudy) -> None:
        async with Store(one) as store:
            await store.write(lambda connection: connection.execute(sql.select(SETTINGS)).all())

    asyncio.run(run(study))
    asyncio.run(run(study))
    if other.config.database:
        with pytest.raises(ChatbenchError, match=f"holds another study, {study.config.id}"):
            asyncio.run(run(other))
    else:
        asyncio.run(run(other))


def test_a_study_that_people_have_joined_is_not_served_with_another_design(make: Callable[[], CollectedStudy]) -> None:
    # Their steps would name questions that are gone, and their cells would be other ones.
    study = make()
    settings, questions = (study.folder / name for name in ("study.toml", "questions.jsonl"))
    check = settings.read_text().partition("[attention]")[2].partition("[recruiting]")[0]

    def edited(path: Path, old: str, new: str) -> CollectedStudy:
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
        return CollectedStudy(study.folder)

    async def served(one: CollectedStudy, *people: str) -> int:
        async with Store(one) as store:
            await store.keep_design()
            for person in people:
                await _joined(store, one, person)
            return len(await store.visits("person"))

    assert asyncio.run(served(study)) == 0
    assert asyncio.run(served(edited(settings, "batch_size = 2", "batch_size = 3"), "x")) == 1  # nobody was there yet
    assert asyncio.run(served(edited(questions, "What is 1 + 1?", "What is one and one?"))) == 1
    for path, old, new in (
        (settings, "batch_size = 3", "batch_size = 2"),
        (settings, f"[attention]{check}", ""),
        (settings, "scripted:strong", "scripted:weak"),
        (settings, '"answer-first"', '"user-alone"'),
        (questions, "adding-1", "adding-one"),
    ):
        before = path.read_text()
        changed = edited(path, old, new)
        # At a taken port, so that one that is not refused ends, too.
        with pytest.raises(ChatbenchError, match="people have joined"), socket.create_server(("127.0.0.1", 0)) as taken:
            serve(changed, host="127.0.0.1", port=taken.getsockname()[1], say=print)
        path.write_text(before)
    assert asyncio.run(served(CollectedStudy(study.folder))) == 1


@pytest.mark.parametrize("name", ["why?", "why?mode=memory", "no. #1", "100%", "a%20b", "a b"])
def test_the_database_is_in_the_folder_whatever_its_name(tmp_path: Path, name: str) -> None:
    # As part of a URL, the name ended at the question mark: studies shared a file beside their folders.
    study = small_study(tmp_path / name)
    database = study.folder / "study.db"

    async def run() -> None:
        async with Store(study):
            pass

    asyncio.run(run())
    assert [path for path in tmp_path.rglob("*") if path.is_file() and "db" in path.name] == [database]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_full_disk_fails_each_job_by_its_name_and_the_next_ones_are_kept(tmp_path: Path) -> None:
    # SQLite takes the whole transaction back: each who waits for it must be told, and of the disk, not a savepoint.
    study = small_study(tmp_path)

    def long_answer(visit: Visit | None) -> None:
        assert visit is not None
        visit.add("answer", "a", {"letter": "B" * 100_000}, once="answer:a")

    def limit(pages: int) -> Callable[[sql.Connection], object]:
        return lambda connection: connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}").scalar()

    async def run() -> tuple[list[BaseException | None], list[Visit]]:
        async with Store(study) as store:
            for cookie in "xy":
                await _joined(store, study, cookie)
            await store.write(limit(1))  # no more than there are
            jobs = (store.visit(cookie, work) for cookie, work in (("x", _answer), ("y", long_answer)))
            failures = await asyncio.gather(*jobs, return_exceptions=True)
            await store.write(limit(100_000))
            await store.visit("x", _answer)
            return failures, await store.visits("person")

    failures, visits = asyncio.run(run())
    assert ["disk is full" in str(failure) for failure in failures] == [True, True]
    assert [visit.step for visit in visits] == ["b", "a"]


def test_a_read_sees_one_state_of_the_database(make: Callable[[], CollectedStudy]) -> None:
    # With PostgreSQL, somebody who joined between the two queries of `visits` made it fail.
    study = make()
    count = sql.select(sql.func.count()).select_from(SESSIONS)

    async def joined() -> None:
        async with Store(study) as store:
            assert await _joined(store, study, "x") is None

    def counted_twice(connection: sql.Connection) -> tuple[int, int]:
        before = connection.execute(count).scalar_one()
        in_thread(joined)
        return before, connection.execute(count).scalar_one()

    async def run() -> tuple[tuple[int, int], int]:
        async with Store(study) as store:
            return await store.read(counted_twice), len(await store.visits("person"))

    assert asyncio.run(run()) == ((0, 0), 1)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("postgresql://u:secret@/d?host={folder}", "cannot be opened"),
        ("postgresql://u:secret@/d?host={folder}&sslmode=require", "cannot be opened"),
        ("postgresql://u:secret@/d?host={folder}&sslmode=maybe", "cannot be opened"),
        ("postgresql://u:secret@h/d?channel_binding=require", "unknown parameter channel_binding"),
        ("postgresql://u:secret@h:port/d", "cannot be read"),
        ("mysql://u:secret@h/d", "not a PostgreSQL address"),
    ],
)
def test_an_address_as_hosts_give_it_is_understood_or_refused_before_anything_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, message: str
) -> None:
    monkeypatch.setenv("STUDY_DATABASE", address.format(folder=tmp_path))

    with pytest.raises(ChatbenchError, match=message) as told:
        serve(small_study(tmp_path, database='"$STUDY_DATABASE"'), host="127.0.0.1", port=0, say=print)
    assert "secret" not in str(told.value)
