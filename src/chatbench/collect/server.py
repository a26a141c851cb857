"""The study's pages over HTTP: joins, steps, chats, and the researcher's dashboard.

A browser holds one random cookie; forms carry its HMAC (against CSRF) and the step that they answer. A form for a
finished step changes nothing and leads to the current one (double click, second tab, back button); any other form that
is not for the current step is refused and noted. A message to an assistant carries its number in the chat: sent again,
it gets its existing reply or waits for the one in progress. Everything is in the database before it is shown.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import jinja2
import sqlalchemy as sql
import uvicorn
from markdown_it import MarkdownIt
from starlette.applications import Starlette
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatbench.collect.config import ATTENTION, CHAT, INSTRUCTIONS, CollectedStudy, draw_plan, parts
from chatbench.collect.replies import Assistants, open_assistants
from chatbench.collect.results import figures
from chatbench.collect.store import SessionKind, Store, Visit
from chatbench.core.answer_kinds import LETTERS, Number
from chatbench.core.errors import ChatbenchError
from chatbench.core.records import FOUR_LETTERS
from chatbench.endpoints.errors import masked
from chatbench.protocol.dialogue import AnyParticipant, Failure

HERE = Path(__file__).parent
COOKIE, KEY_COOKIE = "chatbench_study", "chatbench_dashboard"
LONGEST_ANSWER = 300
"""Maximum characters of a free-form answer."""
CONFIDENCES = ("not-confident", "somewhat-confident", "very-confident")
LARGEST_BODY = 64 * 1024
JSON_LINES = "application/x-ndjson"
HEARTBEAT_SECONDS = 10.0
"""Proxies close connections that are idle for long."""
PIECE_SECONDS = 0.05
"""Least time between two pieces of a reply: shorter is invisible, and each is work for server and browser."""
NOTES_PER_MINUTE = 60
"""Refusals kept for the dashboard; any more are only logged, so that nobody can fill the disk with them."""
HOOKS_AT_ONCE = 32
"""Texts that the moderation hook is called with at the same time."""
HEADINGS = {ATTENTION: "A question in between", CHAT: "Answer with the assistant"}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
log = logging.getLogger("chatbench.collect")
T = TypeVar("T")


class Refused(Exception):  # noqa: N818  # an answer to the browser
    """A request that is refused, and what its sender is told; `goes_on` if it may go on with this browser's session."""

    def __init__(
        self, status: int, text: str, *, title: str = "That did not work", note: str = "", goes_on: bool = True
    ) -> None:
        super().__init__(text)
        self.status, self.text, self.title, self.note, self.goes_on = status, text, title, note, goes_on


class Shield:
    """Middleware: security headers on every response, and no request body above `LARGEST_BODY`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        read, secure = 0, scope["scheme"] == "https"

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > LARGEST_BODY:
                raise Refused(413, "What you sent is too long.", note="body too large")
            return message

        async def shielded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = {**HEADERS, **({"Strict-Transport-Security": "max-age=31536000"} if secure else {})}
                message["headers"] = [
                    *message["headers"],
                    *((name.lower().encode(), value.encode()) for name, value in headers.items()),
                ]
            await send(message)

        await self._app(scope, limited, shielded)


class Rate:
    """Rate limit per key, in requests per minute (token bucket)."""

    def __init__(self, per_minute: int) -> None:
        self._most = float(per_minute)
        self._left: dict[str, tuple[float, float]] = {}

    def exceeded(self, key: str) -> bool:
        """Count a request; return whether it was one too many."""
        now = time.monotonic()
        if len(self._left) > 100_000:  # full buckets need no entry
            self._left = {each: pair for each, pair in self._left.items() if now - pair[1] < 60}
        left, before = self._left.get(key, (self._most, now))
        left = min(self._most, left + (now - before) * self._most / 60)
        self._left[key] = (left - 1 if left >= 1 else left, now)
        return left < 1


class Pages:
    """Handlers of the routes, for one study."""

    def __init__(self, study: CollectedStudy, store: Store, participants: Mapping[str, AnyParticipant]) -> None:
        self.study, self.store = study, store
        self.assistants = Assistants(study, participants, {})
        # Threads of their own: a slow hook must not keep the database waiting.
        self._hooks = ThreadPoolExecutor(HOOKS_AT_ONCE, "moderation")
        self._under_way: dict[tuple[str, str, int], _ReplyUnderWay] = {}
        self._requests = Rate(study.config.limits.requests_per_minute)
        self._joins = Rate(study.config.limits.joins_per_minute)
        self.notes = Rate(NOTES_PER_MINUTE)
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"), autoescape=True, undefined=jinja2.StrictUndefined,
            trim_blocks=True, lstrip_blocks=True, auto_reload=False,
        )  # fmt: skip
        markdown = MarkdownIt("commonmark", {"html": False})
        self._texts = {name: markdown.render(text) for name, text in study.texts.items()}

    # Authentication

    def _csrf(self, cookie: str) -> str:
        return hmac.new(self.store.settings["secret"].encode(), cookie.encode(), hashlib.sha256).hexdigest()

    def _is_key(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self.store.settings["token"].encode())

    async def _form(self, request: Request, cookie: str) -> FormData:
        """The form, if it came from a page of this server."""
        form = await request.form(max_files=0, max_fields=20, max_part_size=LARGEST_BODY)
        if not cookie or not hmac.compare_digest(_text(form, "csrf").encode(), self._csrf(cookie).encode()):
            raise Refused(
                403,
                "Please open the link to the study again. Your browser must accept its cookie.",
                note="form without its token",
            )
        return form

    def _cookie(self, request: Request) -> str:
        cookie = request.cookies.get(COOKIE, "")
        if cookie and self._requests.exceeded(cookie):
            raise Refused(429, "Too many requests. Please wait a minute, then reload the page.")
        return cookie

    # Pages

    def _page(self, name: str, status: int = 200, **values: object) -> HTMLResponse:
        template = self._templates.get_template(name)
        return HTMLResponse(template.render(title=self.study.config.title, **values), status)

    def notice(self, heading: str, text: str, status: int = 200, *, goes_on: bool = True) -> HTMLResponse:
        return self._page("notice.html", status, heading=heading, text=text, goes_on=goes_on)

    async def refused(self, request: Request, error: Exception) -> Response:
        """The answer to a request that is refused, or that cannot be stored: the disk is full, or the database away."""
        if not isinstance(error, Refused):
            log.error("not stored: %s", str(error).partition("\n")[0])
            error = Refused(500, "This could not be stored. Please wait a moment, then go back and send it again.")
        elif error.note:
            log.warning("refused: %s", error.note)
            if not self.notes.exceeded(""):
                await self.store.note(f"refused: {error.note}")  # if it fails, Starlette asks this handler again
        if request.url.path == "/message":
            return Response(json.dumps({"error": error.text}) + "\n", error.status, media_type=JSON_LINES)
        return self.notice(error.title, error.text, error.status, goes_on=error.goes_on)

    async def welcome(self, request: Request) -> Response:
        """Consent page; stores nothing, so that link checkers take nobody's place."""
        cookie = self._cookie(request)
        recruiting = self.study.config.recruiting
        person = request.query_params.get(recruiting.id_parameter, "").strip()
        key = request.query_params.get("preview", "") or request.query_params.get("rehearsal", "")
        held = await self.store.visit(cookie, lambda visit: visit) if cookie else None
        if held and held.kind == "person" and not key:
            if not person or held.person == self.store.hashed(person):
                return _to("/study")
            if held.state == "active" and held.began >= self.study.config.limits.oldest:
                text = "Someone else's participation is under way in this browser. Please use another browser."
                raise Refused(409, text, goes_on=False)
        if len(person) > 200 or (recruiting.id_required and not person and not self._is_key(key)):
            raise Refused(400, "Please use the link from the service that invited you: this address lacks your ID.")
        # A new cookie, unless this browser has an unused one: nobody must be able to choose another person's cookie.
        made = secrets.token_urlsafe(32) if key or held or not cookie else cookie
        kind = "preview" if "preview" in request.query_params else "rehearsal" if key else "person"
        response = self._page(
            "consent.html", text=self._texts["consent"], csrf=self._csrf(made), person=person, key=key, kind=kind,
            version=self.study.consent_version,
        )  # fmt: skip
        response.set_cookie(
            COOKIE, made, max_age=30 * 24 * 3600, httponly=True, samesite="lax", secure=request.url.scheme == "https"
        )
        return response

    async def join(self, request: Request) -> Response:
        """Assign a place, after consent."""
        cookie = self._cookie(request)
        form = await self._form(request, cookie)
        kind: SessionKind = "person"
        if _text(form, "kind") in ("preview", "rehearsal"):
            if not self._is_key(_text(form, "key")):
                raise Refused(403, "The preview key is wrong.", note="preview with a wrong key")
            kind = "preview" if _text(form, "kind") == "preview" else "rehearsal"
        elif self._joins.exceeded(request.client.host if request.client else ""):
            raise Refused(429, "Many people are joining right now. Please wait a minute, then try again.")
        if _text(form, "agree") != "yes" or _text(form, "version") != self.study.consent_version:
            raise Refused(409, "Please read the current consent text and agree to it first.")
        given = _text(form, "person").strip()
        if kind == "person" and self.study.config.recruiting.id_required and not given:
            raise Refused(400, "Please use the link from the service that invited you: this address lacks your ID.")
        chance = Random(secrets.randbits(64))
        refusal = await self.store.join(
            cookie, self.store.hashed(given or cookie) if kind != "preview" else cookie[:12], kind,
            cells=self.study.cells,
            people=0 if kind == "person" and self.assistants.exhausted else self.study.config.people,
            plan=lambda cell: draw_plan(self.study, cell, chance),
            consent=self.study.consent_version, oldest=self.study.config.limits.oldest,
        )  # fmt: skip
        if refusal == "other":
            text = "Someone else has begun the study in this browser. Please open your own link again."
            raise Refused(409, text, goes_on=False)
        if refusal == "again":
            raise Refused(
                409,
                "The study was already started with this ID in another browser. Please continue there.",
                note="second assignment refused",
            )
        if refusal:
            text = {"full": "All places are taken.", "paused": "The study is not open at the moment."}[refusal]
            raise Refused(
                503,
                f"{text} Please return your place to the service that invited you.",
                title="Thank you for your interest",
            )
        return _to("/study")

    async def _visit(self, cookie: str, work: Callable[[Visit], T]) -> T:
        """What `work` returns for the session of this browser, which first ends if it is out of time."""

        def visited(visit: Visit | None) -> T | Refused:
            if visit is None:
                text = "You have not begun the study in this browser. Please open the link in your invitation."
                raise Refused(404, text)
            if visit.state == "active" and visit.began < self.study.config.limits.oldest:
                visit.end("left", time.time())
            try:
                return work(visit)
            except Refused as refused:  # raised here, it would take the end back
                return refused

        found = await self.store.visit(cookie, visited)
        if isinstance(found, Refused):
            raise found
        return found

    async def step(self, request: Request) -> Response:
        """The page of the current step."""

        def look(visit: Visit) -> Visit:
            step, shown = visit.step, {event.step for event in visit.events if event.kind == "shown"}
            if visit.state == "active" and visit.study_state != "stopped" and step not in shown:
                visit.add("shown", step, once=f"shown:{step}")
            return visit

        cookie = self._cookie(request)
        visit = await self._visit(cookie, look)
        if visit.state == "finished":
            recruiting = self.study.config.recruiting
            return self._page(
                "end.html",
                text=self._texts["debriefing"],
                code=recruiting.completion_code,
                redirect=recruiting.redirect,
            )
        if visit.state == "left":
            return self.notice("Your participation has ended", "You left, or your time ran out. Your answers are kept.")
        if visit.study_state == "stopped":
            return self.notice("The study has ended", "Thank you. Your answers are kept. Please return your place.")
        kind, question_id = parts(visit.step)
        shared: dict[str, Any] = {
            "csrf": self._csrf(cookie), "step": visit.step, "preview": visit.kind == "preview",
            "number": visit.plan.index(visit.step), "of": len(visit.plan) - 1,
        }  # fmt: skip
        if kind == INSTRUCTIONS:
            return self._page("instructions.html", text=self._texts["instructions"], **shared)
        config = self.study.config
        check = config.attention if kind == ATTENTION else None
        question = None if check else self.study.questions[question_id]
        asked = check or question
        assert asked is not None
        turns = visit.turns(visit.step)
        failed = bool(turns) and turns[-1][1] is None
        before = f"first:{question_id}"
        return self._page(
            "question.html", heading=HEADINGS.get(kind, "Answer alone"), question=asked.text, turns=turns,
            options=list(zip(LETTERS, asked.options, strict=False)), chats=kind == CHAT, longest=LONGEST_ANSWER,
            unanswered=failed, left=config.limits.turns - len(turns), characters=config.limits.characters,
            first=next((str(e.body["letter"]) for e in visit.events if e.kind == "answer" and e.step == before), ""),
            unit=question.kind.unit if question and isinstance(question.kind, Number) else None,
            confidences=CONFIDENCES if config.confidence and not check else (),
            must_chat=kind == CHAT and not self._may_answer(visit), **shared,
        )  # fmt: skip

    def _may_answer(self, visit: Visit) -> bool:
        """Whether the person has chatted enough to answer; not required if the assistant failed."""
        return (
            not self.study.config.needs_message
            or any(reply is not None for _, reply in visit.turns(visit.step))
            or any(event.kind == "failure" and event.step == visit.step for event in visit.events)
            or self.assistants.exhausted
        )

    # Actions of participants

    async def answer(self, request: Request) -> Response:
        """Store the answer to the current step."""
        cookie = self._cookie(request)
        form = await self._form(request, cookie)
        step = _text(form, "step")

        def keep(visit: Visit) -> None:
            if visit.study_state == "stopped" or any(e.kind == "answer" and e.step == step for e in visit.events):
                return  # sent twice: the first counts
            if visit.state != "active" or step != visit.step:
                text = "That is not the page you are on. Please continue from here."
                raise Refused(409, text, note="answer out of order or after the end")
            visit.add("answer", step, self._answer_of(visit, form), once=f"answer:{step}")
            if not visit.step:
                visit.end("finished", time.time())

        await self._visit(cookie, keep)
        return _to("/study")

    def _answer_of(self, visit: Visit, form: FormData) -> dict[str, object]:
        kind, question_id = parts(visit.step)
        if kind == INSTRUCTIONS:
            return {}
        letter, confidence = _text(form, "letter").strip(), _text(form, "confidence")
        if kind == ATTENTION:
            check = self.study.config.attention
            if letter not in FOUR_LETTERS:
                raise Refused(400, "Please choose one of the options.")
            return {"letter": letter, "right": check is not None and letter == check.answer}
        question = self.study.questions[question_id]
        if question.options and letter not in question.letters:
            raise Refused(400, "Please choose one of the options.")
        if len(letter) > LONGEST_ANSWER or "\x00" in letter or question.read(letter) is None:
            asked_for = question.asked_for.replace("<", "a ", 1).replace("> ", " in ", 1).replace(">", "", 1)
            raise Refused(400, f"Please give {asked_for}, in at most {LONGEST_ANSWER} characters.")
        if self.study.config.confidence and confidence not in CONFIDENCES:
            raise Refused(400, "Please say how confident you are.")
        if kind == CHAT and not self._may_answer(visit):
            raise Refused(400, "Please write to the assistant at least once before you answer.")
        pasted = _text(form, "pasted")
        return {
            "letter": letter,
            "confidence": confidence,
            "pasted": int(pasted) if pasted.isdecimal() and len(pasted) < 5 else 0,
        }

    async def _moderated(self, text: str) -> str | Failure:
        """Why the hook refuses a text, "" if it does not; a failure if the hook itself fails."""
        try:
            loop = asyncio.get_running_loop()
            return str(await loop.run_in_executor(self._hooks, self.study.moderate, text) or "")
        except Exception as error:
            log.exception("moderation")
            return Failure(masked(f"moderation: {type(error).__name__}: {error}", "")[:300])

    async def message(self, request: Request) -> Response:
        """Store a message and stream the reply: lines of JSON, `text` pieces, then `done`, or `error`."""
        cookie = self._cookie(request)
        form = await self._form(request, cookie)
        step, text, turn = _text(form, "step"), _text(form, "text").strip().replace("\r\n", "\n"), _text(form, "turn")
        limits = self.study.config.limits
        if not text or len(text) > limits.characters or "\x00" in text:
            raise Refused(400, f"Please write a message of at most {limits.characters} characters.")
        reason = await self._moderated(text)

        def keep(visit: Visit) -> tuple[Visit, int, str | None]:
            number, old = self._place_of(visit, step, turn, text)
            if isinstance(reason, Failure):
                visit.add("failure", step, {"turn": number, "reason": reason.reason, "shown": ""})
            elif reason:
                visit.add("flag", step, {"moderated": reason, "turn": number})
            elif old is None:
                visit.add("message", step, {"turn": number, "text": text}, once=f"message:{step}:{number}")
            return visit, number, old and old[1]

        visit, number, reply = await self._visit(cookie, keep)
        if isinstance(reason, Failure):
            await self.store.note(reason.reason, visit.id)
            raise Refused(503, "Your message was not sent. You can send it again, or answer without the assistant.")
        if reason:
            text = "Please write something else: this message cannot be sent."
            raise Refused(400, text, note="message refused by moderation")
        if reply is not None:
            return StreamingResponse([json.dumps({"text": reply, "done": True}) + "\n"], media_type=JSON_LINES)
        key = (visit.id, step, number)
        if key not in self._under_way:
            under_way = self._under_way[key] = _ReplyUnderWay()
            # A separate task: it continues if the browser disconnects, and the reply is there at the next visit.
            under_way.task = asyncio.create_task(self._ask(cookie, visit, step, number, under_way))
            under_way.task.add_done_callback(partial(self._over, key))
        pieces = self._under_way[key].pieces()
        return StreamingResponse((json.dumps(piece) + "\n" async for piece in pieces), media_type=JSON_LINES)

    def _over(self, key: tuple[str, str, int], task: asyncio.Task[str | None]) -> None:
        self._under_way.pop(key).changed()
        if not task.cancelled() and (error := task.exception()):
            log.error("a reply was lost", exc_info=error)

    def _place_of(self, visit: Visit, step: str, turn: str, text: str) -> tuple[int, tuple[str, str | None] | None]:
        """The number of a message in the current chat, and the stored message and reply if it is a repetition."""
        if visit.study_state == "stopped":
            raise Refused(409, "The study has ended.")
        turns = visit.turns(step)
        if visit.state != "active" or step != visit.step or parts(step)[0] != CHAT or not turn.isdecimal():
            note = "message out of order or after the end"
            raise Refused(409, "That is not the chat you are in. Please reload the page.", note=note)
        number = int(turn[:6])
        old = turns[number] if number < len(turns) else None
        unanswered = bool(turns) and number == len(turns) and turns[-1][1] is None
        if (old and old[0] != text) or number > len(turns) or unanswered:
            note = "message at another turn"
            raise Refused(409, "The chat continued in another tab. Please reload the page.", note=note)
        if old is None and number >= self.study.config.limits.turns:
            raise Refused(409, "You have no messages left for this question. Please answer it.")
        return number, old

    async def _ask(
        self, cookie: str, visit: Visit, step: str, number: int, under_way: _ReplyUnderWay
    ) -> str | None:  # fmt: skip
        """Get the reply and store it; None if there is none."""
        said = [each for pair in visit.turns(step) for each in pair if each is not None]
        # A moderated reply is not shown before it is complete.
        heard = None if self.study.config.moderation else under_way.heard
        reply = await self.assistants.reply(visit.cell.assistant, visit.id, parts(step)[1], said, heard)
        tokens = reply.prompt_tokens, reply.tokens
        text = "" if isinstance(reply, Failure) else reply.text.replace("\x00", "")
        seconds = 0.0 if isinstance(reply, Failure) else reply.seconds
        checked = reply if isinstance(reply, Failure) else await self._moderated(text)
        why = checked.reason if isinstance(checked, Failure) else checked

        def keep(found: Visit | None) -> bool:
            if found is None:
                return False
            if why:
                body = {"turn": number, "reason": why[:300], "shown": under_way.text}
                found.add("failure", step, body, tokens=tokens)
            elif found.turns(step)[number][1] is None:
                body = {"turn": number, "text": text, "seconds": round(seconds, 3)}
                found.add("reply", step, body, once=f"reply:{step}:{number}", tokens=tokens)
            return True

        if not await self.store.visit(cookie, keep):  # removed in the meantime
            await self.store.spend(visit.cell.assistant, tokens)
            return None
        if why:
            await self.store.note(f"assistant {visit.cell.assistant}: {why}", visit.id)
        return None if why else text

    async def leave(self, request: Request) -> Response:
        """End the session early: answers are kept, and the place becomes free."""
        cookie = self._cookie(request)
        await self._form(request, cookie)

        def keep(visit: Visit) -> None:
            if visit.state == "active":
                visit.add("leave", visit.step, once="leave")
                visit.end("left", time.time())

        await self._visit(cookie, keep)
        return _to("/study")

    # Dashboard

    async def dashboard(self, request: Request) -> Response:
        """Progress of the study, for holders of the key."""
        if key := request.query_params.get("key", ""):
            response = _to("/dashboard")  # so that the key does not stay in the address
            response.set_cookie(KEY_COOKIE, key, httponly=True, samesite="strict", secure=request.url.scheme == "https")
            return response
        key = request.cookies.get(KEY_COOKIE, "")
        if not self._is_key(key):
            raise Refused(
                403, "Open the address that chatbench collect serve printed.", note="dashboard without its key"
            )
        if request.method == "POST":
            form = await self._form(request, key)
            state = _text(form, "state")
            if state in ("open", "paused", "stopped"):
                await self.store.set_state(state)  # type: ignore[arg-type]  # one of the three
            return _to("/dashboard")
        kind: SessionKind = "rehearsal" if request.query_params.get("of") == "rehearsal" else "person"
        shown = await figures(self.study, self.store, kind)
        return self._page("dashboard.html", shown=shown, csrf=self._csrf(key), kind=kind, key=key)


def _text(form: FormData, name: str) -> str:
    value = form.get(name, "")
    return value if isinstance(value, str) else ""


def _to(path: str) -> RedirectResponse:
    return RedirectResponse(path, 303)


class _ReplyUnderWay:
    """A reply in progress: the text so far, for all tabs that wait for it."""

    task: asyncio.Task[str | None]

    def __init__(self) -> None:
        self.text, self._more = "", asyncio.Event()

    def heard(self, text: str) -> None:
        """Receive the reply so far."""
        self.text = text
        self.changed()

    def changed(self) -> None:
        """Wake all waiting tabs."""
        self._more.set()
        self._more = asyncio.Event()

    async def pieces(self) -> AsyncIterator[dict[str, object]]:
        """Yield new text; `again` means it starts over, as after a lost connection to the assistant."""
        sent = ""
        while True:
            more, over, text = self._more, self.task.done(), self.text
            if over:
                lost = self.task.cancelled() or self.task.exception() or self.task.result() is None
                text = "" if lost else str(self.task.result())
                if lost:
                    yield {"error": "The assistant did not reply. You can ask it again, or answer without it."}
                    return
            if text != sent:
                again = not text.startswith(sent)
                yield {"again": again, "text": text if again else text[len(sent) :]}
                sent = text
            if over:
                yield {"done": True}
                return
            try:
                await asyncio.wait_for(more.wait(), HEARTBEAT_SECONDS)
                await asyncio.sleep(0 if self.task.done() else PIECE_SECONDS)
            except TimeoutError:
                yield {"waiting": True}


def make_app(
    study: CollectedStudy, store: Store, participants: Mapping[str, AnyParticipant],
    opened: Callable[[], None] = lambda: None,
) -> ASGIApp:  # fmt: skip
    """The application; its lifespan opens the store, calls `opened`, and closes the store at the end."""
    pages = Pages(study, store, participants)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with store:
            pages.assistants.spent = await store.tokens()
            opened()
            yield
            await pages.assistants.close()

    async def health(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    return Shield(
        Starlette(
            routes=[
                Route("/", pages.welcome),
                Route("/join", pages.join, methods=["POST"]),
                Route("/study", pages.step),
                Route("/answer", pages.answer, methods=["POST"]),
                Route("/message", pages.message, methods=["POST"]),
                Route("/leave", pages.leave, methods=["POST"]),
                Route("/dashboard", pages.dashboard, methods=["GET", "POST"]),
                Route("/health", health),
                Mount("/assets", StaticFiles(directory=HERE / "assets")),
            ],
            exception_handlers=dict.fromkeys((Refused, sql.exc.SQLAlchemyError, OSError), pages.refused),
            lifespan=lifespan,
        )
    )


def serve(study: CollectedStudy, *, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve the study until Ctrl-C or SIGTERM.

    Raises:
        ChatbenchError: the database or an assistant cannot be used, people joined another design of this study, or the
            port is taken.
    """

    async def checked() -> None:
        async with Store(study) as store:
            await store.keep_design()

    asyncio.run(checked())  # reports database errors as ours, before the server starts
    store, participants = Store(study), open_assistants(study)
    try:
        listening = socket.create_server((host, port), backlog=2048)
    except OSError as error:
        raise ChatbenchError(f"{host}:{port}: {error}", fix="--port 0 picks a free one") from error

    def opened() -> None:
        address = f"http://{host}:{listening.getsockname()[1]}"
        say(f"study      {address}/?{study.config.recruiting.id_parameter}=ID")
        say(f"preview    {address}/?preview={store.settings['token']}")
        say(f"dashboard  {address}/dashboard?key={store.settings['token']}")

    with listening:
        # No access log: URLs contain people's ids. Proxy headers are trusted from this machine only.
        app = make_app(study, store, participants, opened)
        uvicorn.Server(
            uvicorn.Config(
                app, access_log=False, log_level="warning", server_header=False, timeout_graceful_shutdown=10,
                timeout_keep_alive=30,
            )
        ).run(sockets=[listening])  # fmt: skip
