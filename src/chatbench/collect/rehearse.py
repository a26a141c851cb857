"""A pilot with simulated people, who go through the study's pages like browsers, to find faults before people do.

They are scripted (they copy or shorten the question, sometimes ask again, and mostly believe the assistant), or a
simulator as in `chatbench simulate` writes their messages. A page that does not arrive, or is a server error, is
requested again, as a person would reload it, so a rehearsal survives a restart of the server. Rehearsals are stored and
counted apart from people.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from random import Random

import httpx

from chatbench.collect.config import ATTENTION, CHAT, CollectedStudy, parts
from chatbench.core.errors import ChatbenchError
from chatbench.core.records import FOUR_LETTERS, Question, Turn
from chatbench.protocol.answers import FinalAnswer, Said, lenient_letter
from chatbench.protocol.dialogue import AnyParticipant, ConcurrentParticipant, Reply, Request, derive_seed
from chatbench.protocol.prompt_styles import STYLES, StyleName

TRIES = 60
"""Of one request, with a pause after each: at least a minute in which a server can come back."""
SLOW_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Habits:
    """Behaviour of rehearsing people: mean seconds between two actions, and probabilities."""

    pause: float = 0.0
    knows: float = 0.5
    trusts: float = 0.9
    asks_again: float = 0.2
    inattentive: float = 0.05
    leaves: float = 0.02


@dataclass(slots=True)
class Pilot:
    """What a rehearsal recorded: how many people ended how, seconds per page, and what was acknowledged."""

    ended: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    again: Counter[str] = field(default_factory=Counter)
    acknowledged: list[tuple[str, str, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Lines to print."""
        ordered = sorted(self.seconds)
        p50, p95 = (
            ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000 if ordered else 0 for share in (0.5, 0.95)
        )
        return [
            "people      " + (", ".join(f"{name} {count}" for name, count in sorted(self.ended.items())) or "none"),
            f"pages       {len(ordered):,}; median {p50:.0f} ms, p95 {p95:.0f} ms",
            f"kept        {len(self.acknowledged):,} answers and messages acknowledged",
            "retried     " + (", ".join(f"{name} {count}" for name, count in sorted(self.again.items())) or "nothing"),
            *(f"fault       {each}" for each in dict.fromkeys(self.faults)),
        ]


class Fields(HTMLParser):
    """The hidden form fields of a page, by name."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.hidden: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "input" and found.get("type") == "hidden":
            self.hidden[str(found["name"])] = found.get("value") or ""


class Simulator:
    """Writes people's messages with a simulator; a local one is prompted by one person at a time."""

    def __init__(self, style: StyleName, participant: AnyParticipant) -> None:
        self._style, self._participant, self._lock = STYLES[style], participant, asyncio.Lock()

    async def said(self, question: Question, turns: Sequence[Turn], person: str) -> Said | FinalAnswer:
        """The next message, or the final answer."""
        if not turns and self._style.opening:
            return Said(self._style.opening)
        asked = self._style.messages(question.full_text, turns, asked_for=question.asked_for)
        seed = derive_seed(0, f"{person}|{question.id}", len(turns), "simulator")
        request = Request("simulator", tuple(asked), question.id, seed, "turn", f"{person}|{question.id}")
        if isinstance(self._participant, ConcurrentParticipant):
            reply = await self._participant.reply(request)
        else:
            async with self._lock:
                (reply,) = await asyncio.to_thread(self._participant.reply_all, [request])
        return self._style.read(reply.text, turns) if isinstance(reply, Reply) else Said("")


class _Person:
    """One rehearsing person, with their own browser session."""

    def __init__(
        self,
        name: str,
        study: CollectedStudy,
        client: httpx.AsyncClient,
        pilot: Pilot,
        habits: Habits,
        simulator: Simulator | None,
    ) -> None:
        self.name, self.study, self.client, self.pilot = name, study, client, pilot
        self.habits, self.simulator, self.chance = habits, simulator, Random(name)

    async def take_part(self, key: str) -> str:
        """Go through the study; return how it ended."""
        parameter = self.study.config.recruiting.id_parameter
        page = await self._page("GET", "/", params={parameter: self.name, "rehearsal": key})
        await self._pause()
        page = await self._page("POST", "/join", data={**Fields(page.text).hidden, "agree": "yes"})
        while True:
            if page.status_code >= 400:
                return "turned away" if page.status_code == 503 else self._fault(page)
            fields = Fields(page.text)
            step = fields.hidden.get("step")
            if step is None:
                return "finished" if page.url.path == "/study" else self._fault(page)
            await self._pause()
            if self.chance.random() < self.habits.leaves / 10:  # on each page
                await self._page("POST", "/leave", data=fields.hidden)
                return "left"
            kind, question_id = parts(step)
            question = self.study.questions.get(question_id)
            letter = ""
            if question is not None:
                guess = self.chance.choice(question.letters or ("0",))
                letter = question.answer if self.chance.random() < self.habits.knows else guess
            if kind == CHAT and question is not None:
                letter = await self._chat(question, fields, letter)
            if kind == ATTENTION and self.study.config.attention:
                right = self.study.config.attention.answer
                wrong = next(each for each in FOUR_LETTERS if each != right)
                letter = wrong if self.chance.random() < self.habits.inattentive else right
            filled = {"letter": letter, "confidence": self.chance.choice(("not", "somewhat", "very")) + "-confident"}
            page = await self._page("POST", "/answer", data={**fields.hidden, **filled})
            if page.status_code < 400 and letter:
                self.pilot.acknowledged.append((self.name, step, letter))

    def _fault(self, page: httpx.Response) -> str:
        self.pilot.faults.append(f"{page.request.method} {page.url.path}: {page.status_code}")
        return "failed"

    async def _chat(self, question: Question, fields: Fields, letter: str) -> str:
        """Chat about a question; return the letter chosen at the end."""
        turns: list[Turn] = []
        for turn in range(self.study.config.limits.turns):
            if self.simulator:
                said = await self.simulator.said(question, turns, self.name)
                if isinstance(said, FinalAnswer) or not said.text.strip():
                    return (question.read(said.text) if isinstance(said, FinalAnswer) else None) or letter
                text = said.text
            elif not turns:
                lead_in = self.chance.choice(("", "", "i have a question: ", "answer this: "))
                text = lead_in + self.chance.choice((question.full_text, question.text))
            elif len(turns) == 2 and self.chance.random() < self.habits.asks_again:
                text = "is that the answer? " + " ".join(question.full_text.splitlines()[1:])
            else:
                break
            text = text.strip()[: self.study.config.limits.characters]
            reply = await self._send(fields, turn, text)
            if reply is None:
                return letter
            turns += [Turn("user", text), Turn("assistant", reply)]
            self.pilot.acknowledged.append((self.name, f"{fields.hidden['step']}#{turn}", text))
            await self._pause()
        last = turns[-1].text
        read = lenient_letter(last, question.options) if question.options else question.read(last)
        return read if read and self.chance.random() < self.habits.trusts else letter

    async def _send(self, fields: Fields, turn: int, text: str) -> str | None:
        """Send a message; return the reply, None if there is none."""
        form = {"csrf": fields.hidden["csrf"], "step": fields.hidden["step"], "turn": str(turn), "text": text}
        for _ in range(3):
            page = await self._page("POST", "/message", data=form)
            try:
                parts_ = [json.loads(line) for line in page.text.splitlines()]
            except json.JSONDecodeError:  # cut off when the server was killed
                continue
            if parts_ and parts_[-1].get("done"):
                return "".join(part.get("text", "") for part in parts_)
            if page.status_code >= 400:
                self._fault(page)
                return None
            await asyncio.sleep(0.5)
        return None

    async def _pause(self) -> None:
        await asyncio.sleep(self.chance.expovariate(1 / self.habits.pause) if self.habits.pause else 0)

    async def _page(self, method: str, path: str, **given: dict[str, str]) -> httpx.Response:
        """Load a page, again while the server is away, overloaded, or failing."""
        for _ in range(TRIES):
            began = time.perf_counter()
            try:
                page = await self.client.request(method, path, **given)  # type: ignore[arg-type]  # params or data
            except httpx.TransportError as error:
                self.pilot.again[type(error).__name__] += 1
            else:
                if page.status_code not in (429, 500, 502, 504):
                    # The reply to a form is a redirect to a page: two pages.
                    self.pilot.seconds += [each.elapsed.total_seconds() for each in (*page.history, page)]
                    return page
                self.pilot.again[str(page.status_code)] += 1
            await asyncio.sleep(self.chance.uniform(0.5, 1.5) if time.perf_counter() - began < SLOW_SECONDS else 0)
        raise ChatbenchError(
            f"{self.client.base_url}{path}: no answer", fix="start the server: chatbench collect serve STUDY_DIR"
        )


async def rehearse_async(
    study: CollectedStudy, url: str, key: str, *, people: int, habits: Habits, simulator: Simulator | None = None,
    prefix: str = "", say: Callable[[str], None] = lambda _: None,
) -> Pilot:  # fmt: skip
    """Send `people` through the study at once; `key` is the dashboard's, `prefix` starts this rehearsal's ids."""
    pilot = Pilot()
    prefix = prefix or f"rehearsal-{time.time_ns()}"

    async def one(number: int) -> None:
        await asyncio.sleep(number / people * habits.pause)  # so that they do not arrive all at once
        name = f"{prefix}-{number}"
        # One connection pool each, like separate browsers; proxy settings in the environment are not meant for us.
        async with httpx.AsyncClient(
            base_url=url, timeout=120, follow_redirects=True, trust_env=False, verify=url.startswith("https")
        ) as client:
            pilot.ended[await _Person(name, study, client, pilot, habits, simulator).take_part(key)] += 1
        if sum(pilot.ended.values()) % 50 == 0:
            say(f"{sum(pilot.ended.values())} of {people}")

    await asyncio.gather(*(one(number) for number in range(people)))
    return pilot
