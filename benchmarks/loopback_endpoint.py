"""A small server on this machine that speaks the completions, chat and models parts of OpenAI's API, and its faults.

What it says depends on nothing but what it was asked, so that a record can be checked turn by turn (`said_to`). Faults
are written into a script, answered in order, or drawn by a seed. It uses the standard library only and runs in a thread
(tests) or as a process of its own (benchmarks):

    python benchmarks/loopback_endpoint.py --port 8123 --faults 0.1 --latency-ms 30
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import random
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

Act = Literal["answer", "reset", "hang", "drip", "cut"]
FAULTS = ("429", "500", "reset", "hang", "garbage", "html", "no choice", "cut")
CONTEXT_WORDS = "This model's maximum context length is {room} tokens. However, you requested {asked} tokens."


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a script; `act` may be something else than to answer."""

    status: int = 200
    body: bytes = b"{}"
    kind: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    act: Act = "answer"


def error(status: int, message: str = "", headers: Mapping[str, str] | None = None, **more: object) -> Answer:
    """An error as OpenAI words it."""
    return Answer(status, json.dumps({"error": {"message": message, **more}}).encode(), headers=headers or {})


def completion(text: str | None = "hello", finish: str = "stop", *, chat: bool = True, prompt: str = "ab") -> Answer:
    """A good answer with the text."""
    said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    tokens = len((text or "").split())
    usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": tokens, "total_tokens": 0}
    choice = {"index": 0, "finish_reason": finish, "logprobs": None, **said}
    name = "chat.completion" if chat else "text_completion"
    body = {"id": "x", "object": name, "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return Answer(body=json.dumps(body).encode())


FAULTY: Mapping[str, Answer] = {
    "429": error(429, "slow down", {"retry-after-ms": "20"}),
    "500": error(500, "oops"),
    "reset": Answer(act="reset"),
    "hang": Answer(act="hang"),
    "garbage": Answer(body=b'{"choices": [{"mess\xff'),
    "html": Answer(body=b"<html>Welcome</html>", kind="text/html"),
    "no choice": Answer(body=b'{"choices": [], "usage": null}'),
    "cut": Answer(act="cut"),
}


def said_to(asked: str | Sequence[Mapping[str, str]]) -> str:
    """What the server says to a prompt or to the messages of a chat: a few words that only go with it."""
    asked = asked if isinstance(asked, str) else as_text(asked)
    digest = hashlib.sha256(asked.encode()).hexdigest()
    return f"reply {digest[:16]} of {len(asked)} characters"


def as_text(messages: Sequence[Mapping[str, str]]) -> str:
    """A chat as one text."""
    return json.dumps(list(messages), ensure_ascii=False, sort_keys=True)


def simulated(asked: str) -> str:
    """What it says in the user's place: a message, or in two of three cases of a chat under way an answer."""
    digest = int(hashlib.sha256(asked.encode()).hexdigest(), 16)
    begun = "Here is your conversation so far" in asked
    return f"Answer: {'ABCDE'[digest % 5]}" if begun and digest % 3 else said_to(asked)


class LoopbackEndpoint:
    """The server; all its attributes may be changed between requests.

    `script` is answered first, then faults are drawn with probability `faults`, then it answers. It counts what it did
    (`counts`) and how many requests were with it at once (`most_together`), and keeps the last thousand it was asked.
    With `slots` it works on so many requests at once, and the others wait, as with a full batch of a model.
    """

    def __init__(
        self,
        *,
        faults: float = 0.0,
        seed: int = 0,
        latency_seconds: Callable[[random.Random], float] | None = None,
        models: Sequence[str] = ("m",),
        key: str = "",
        room: int | None = None,
        slots: int | None = None,
    ) -> None:
        self.faults, self.models, self.key, self.room = faults, tuple(models), key, room
        self.script: list[Answer] = []
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.counts: Counter[str] = Counter()
        self.together = self.most_together = 0
        self.all_here: int | None = None
        self.port = 0
        self.tls: ssl.SSLContext | None = None
        self._latency = latency_seconds
        self._slots = asyncio.Semaphore(slots) if slots else nullcontext()
        self._chance = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._gathered = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}/v1"

    def will(self, *answers: Answer) -> None:
        """From now on, these answers first."""
        self.script[:] = answers

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port or self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def die(self) -> None:
        """Stops listening and resets all connections, as a killed server does."""
        if self._server:
            self._server.close()
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while await self._one(reader, writer):
                    pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection can take another."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        verb, path, _ = head.split(" ", 2)
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        headers = {name.lower(): value for name, value in fields.items()}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.together += 1
        self.most_together = max(self.most_together, self.together)
        try:
            answer = self._answer(verb, path, headers, body)
            await self._take_time()
            return await self._send(answer, reader, writer)
        finally:
            self.together -= 1

    async def _take_time(self) -> None:
        if self.all_here:  # nobody is answered before so many have asked
            if self.together >= self.all_here:
                self._gathered.set()
            await asyncio.wait_for(self._gathered.wait(), 10)
        if self._latency:
            async with self._slots:
                await asyncio.sleep(self._latency(self._chance))

    async def _send(self, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if answer.act == "reset":
            writer.transport.abort()
            return False
        if answer.act == "hang":
            await reader.read(1)  # until the client has had enough and closes
            return False
        if answer.act == "drip":
            writer.write(b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n")
            while not writer.is_closing():
                writer.write(b" ")
                await asyncio.sleep(0.05)
            return False
        cut = answer.act == "cut"
        lines = [f"HTTP/1.1 {answer.status} X", f"content-type: {answer.kind}"]
        fields = {"content-length": str(len(answer.body) + 100 * cut)} | {
            k.lower(): v for k, v in answer.headers.items()
        }
        lines += [f"{name}: {value}" for name, value in fields.items()]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + answer.body)
        await writer.drain()
        return not cut

    def _answer(self, verb: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if verb == "GET" and path.endswith("/models"):
            return Answer(body=json.dumps({"object": "list", "data": [{"id": name} for name in self.models]}).encode())
        asked = json.loads(body)
        self.asked = [*self.asked[-999:], {"path": path, **asked}]
        self.keys = [*self.keys[-999:], headers.get("authorization", "")]
        if self.script:
            return self.script.pop(0)
        if self.key and headers.get("authorization") != f"Bearer {self.key}":
            return error(401, f"Incorrect API key provided: {headers.get('authorization')}")
        if asked["model"] not in self.models:
            return error(404, f"The model `{asked['model']}` does not exist.")
        chat = path.endswith("/chat/completions")
        prompt = as_text(asked["messages"]) if chat else asked["prompt"]
        if self.room is not None and len(prompt.split()) > self.room:
            return error(400, CONTEXT_WORDS.format(room=self.room, asked=len(prompt.split())))
        if self._chance.random() < self.faults:
            fault = self._chance.choice(FAULTS)
            self.counts[fault] += 1
            return FAULTY[fault]
        self.counts["answer"] += 1
        return completion(said_to(prompt) if chat else simulated(prompt), chat=chat, prompt=prompt)


@contextmanager
def running(server: LoopbackEndpoint) -> Iterator[Callable[[Any], Any]]:
    """Runs the server in a thread; yields what runs one of its coroutines there and waits for it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(10)

    run(server.start())
    try:
        yield run
    finally:
        run(_ended(server))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _ended(server: LoopbackEndpoint) -> None:
    await server.die()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def log_normal(median_seconds: float, spread: float = 0.5) -> Callable[[random.Random], float]:
    """Latencies around a median with the long tail of real servers; `spread` is the standard deviation of their log."""
    return lambda chance: chance.lognormvariate(math.log(median_seconds), spread)


async def _serve_for_ever(options: argparse.Namespace) -> None:
    latency = log_normal(options.latency_ms / 1000) if options.latency_ms else None
    server = LoopbackEndpoint(
        faults=options.faults, seed=options.seed, latency_seconds=latency, models=options.models.split(","),
        slots=options.slots,
    )  # fmt: skip
    if options.certificate:
        server.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server.tls.load_cert_chain(options.certificate)
    await server.start(options.port)
    print(server.url, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--port", type=int, default=0)
    arguments.add_argument("--faults", type=float, default=0.0)
    arguments.add_argument("--latency-ms", type=float, default=0.0)
    arguments.add_argument("--slots", type=int, help="requests that it works on at once")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--models", default="m")
    arguments.add_argument("--certificate", help="a file with key and certificate: TLS")
    asyncio.run(_serve_for_ever(arguments.parse_args()))
