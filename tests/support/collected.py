"""A study that is served on this machine while a test runs, with assistants that the test chooses."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import httpx
import sqlalchemy as sql
import uvicorn

from chatbench.collect.config import CollectedStudy, init_study
from chatbench.collect.rehearse import Fields
from chatbench.collect.server import make_app
from chatbench.collect.store import SESSIONS, Store, Visit
from chatbench.core.files import write_jsonl
from chatbench.protocol.dialogue import FunctionParticipant, Heard, Reply, Request

QUESTIONS: list[dict[str, object]] = [
    {
        "id": f"adding-{i}",
        "subset": "adding",
        "text": f"What is {i} + 1?",
        "options": [str(i), str(i + 1), "0", "99"],
        "answer": "B",
    }
    for i in range(6)
]
OTHER_KINDS: list[dict[str, object]] = [
    {"id": "two", "subset": "kinds", "text": "Is 4 even?", "options": ["no", "yes"], "answer": "B"},
    {"id": "six", "subset": "kinds", "text": "Six?", "options": [*"abcdef"], "answer": "F", "ordered": True},
    {
        "id": "number", "subset": "kinds", "text": "How far?", "answer_kind": "number", "answer": 10, "tolerance": 0.5,
        "unit": "km",
    },
    {"id": "text", "subset": "kinds", "text": "Which city?", "answer_kind": "text", "answer": ["Paris", "paris"]},
]  # fmt: skip


def small_study(
    folder: Path,
    *,
    conditions: tuple[str, ...] = ("direct-to-AI", "answer-first"),
    people: int = 3,
    phase_1: int = 1,
    questions: list[dict[str, object]] = QUESTIONS,
    **change: str,
) -> CollectedStudy:
    """Six questions in two or three batches; `change` replaces lines of study.toml by their beginning."""
    write_jsonl(folder / "q.jsonl", questions)
    init_study(
        folder / "study", folder / "q.jsonl", ["scripted:strong"], conditions=conditions, people=people, batch_size=2,
        phase_1_questions=phase_1,
    )  # fmt: skip
    path = folder / "study" / "study.toml"
    lines = [
        next((f"{k} = {v}" for k, v in change.items() if line.startswith(f"{k} =")), line)
        for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join(lines))
    return CollectedStudy(folder / "study")


@dataclass
class Served:
    """Where it is served, and how to look into its database."""

    study: CollectedStudy
    url: str
    key: str

    def stored(self, kind: str = "person") -> list[Visit]:
        return self.ask(lambda store: store.visits(kind))  # type: ignore[arg-type]

    def person(self, step: str = "", name: str = "p1") -> Person:
        """Somebody who has joined, and gone on to a step of this kind."""
        person = Person(self.url, name)
        person.join()
        person.go_to(step)
        return person

    def noted(self, what: str) -> int:
        """Number of incidents that say this."""
        return sum(what in told for _, told, _ in self.ask(lambda store: store.incidents()))

    def grow_old(self, minutes: float) -> None:
        """All sessions began this much earlier."""
        earlier = sql.update(SESSIONS).values(began=SESSIONS.c.began - 60 * minutes)
        self.ask(lambda store: store.write(lambda connection: connection.execute(earlier)))

    def ask(self, work: Callable[[Store], Any]) -> Any:
        async def run() -> Any:
            async with Store(self.study) as store:
                return await work(store)

        return in_thread(run)


def in_thread(work: Callable[[], Any]) -> Any:
    """Runs a coroutine where no loop runs: beside a browser there is one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(work())).result()


@contextmanager
def served(study: CollectedStudy, participants: Mapping[str, Any] | None = None) -> Iterator[Served]:
    """The study on a free port of this machine."""
    store = Store(study)
    assistants = participants or {"scripted-strong": saying("The answer is B.")}
    server = uvicorn.Server(uvicorn.Config(make_app(study, store, assistants), access_log=False, log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.02)
        try:
            yield Served(study, f"http://127.0.0.1:{listening.getsockname()[1]}", store.settings["token"])
        finally:
            server.should_exit = True
            thread.join()


def saying(text: str) -> FunctionParticipant:
    """An assistant that always says the same."""
    return FunctionParticipant(lambda _: Reply(text, tokens=5, prompt_tokens=10), {"kind": "fake"})


class SpeakingInPieces:
    """An assistant whose reply the test lets grow, piece by piece; the last one is the reply."""

    identity: ClassVar[dict[str, object]] = {}

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces, self._go = pieces, threading.Semaphore(0)

    def say_next(self) -> None:
        """The next piece, and after the last one the end."""
        self._go.release()

    async def reply_in_pieces(self, _request: Request, heard: Heard) -> Reply:
        for text in self.pieces:
            await asyncio.to_thread(self._go.acquire)
            heard(text)
        await asyncio.to_thread(self._go.acquire)
        return Reply(self.pieces[-1], tokens=5, prompt_tokens=10)

    async def reply(self, request: Request) -> Reply:
        return await self.reply_in_pieces(request, lambda _text: None)

    async def close(self) -> None:
        """Nothing is open."""


class Person:
    """A person's browser without the browser."""

    def __init__(self, url: str, name: str = "p1") -> None:
        self.http = httpx.Client(base_url=url, follow_redirects=True, timeout=60, trust_env=False)
        self.name = name
        self.page = self.http.get("/", params={"PROLIFIC_PID": name})

    @property
    def fields(self) -> dict[str, str]:
        return Fields(self.page.text).hidden

    @property
    def step(self) -> str:
        return self.fields.get("step", "")

    def open(self, **parameters: str) -> httpx.Response:
        """Follows a link in this browser."""
        self.page = self.http.get("/", params=parameters)
        return self.page

    def join(self, **other: str) -> httpx.Response:
        return self._send("/join", {"agree": "yes", **other})

    def answer(self, letter: str = "B", **other: str) -> httpx.Response:
        return self._send("/answer", {"letter": letter, "confidence": "very-confident", **other})

    def _send(self, path: str, filled: dict[str, str]) -> httpx.Response:
        """Sends the form of the page; what comes is the next page, unless it is a refusal."""
        page = self.http.post(path, data={**self.fields, **filled})
        if page.status_code == 200:
            self.page = page
        return page

    def say(self, text: str, turn: int = 0, **other: str) -> httpx.Response:
        return self.http.post("/message", data={**self.fields, "text": text, "turn": str(turn), **other})

    def go_to(self, kind: str) -> None:
        """Answers until a step of this kind is shown."""
        while not self.step.startswith(kind):
            assert self.step, f"no step {kind}"
            self.act()

    def act(self) -> None:
        if self.step.startswith("chat"):
            self.say("what is it?")
        self.answer("C" if self.step == "attention" else "B")

    def finish(self) -> None:
        while self.step:
            self.act()
