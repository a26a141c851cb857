"""Client for single requests to an OpenAI-compatible endpoint: chat completions, or completions of plain text.

Plain text has the format of protocol/prompts.py: a model fine-tuned on it and served at `/v1/completions` gets
exactly the text of its training. The server tokenises the prompt separately from the completion and prepends the
tokenizer's leading special token (usually BOS), as training does.

Each request has its own connection: on a kept-alive one, anything sent after a reply would be read as the reply to the
next request. Redirects are not followed, the size of a reply is limited, and nothing is retried here.

With a `heard` callback the reply is streamed (server-sent events). The events are assembled into the answer that an
unstreamed request would get, and parsed as such. A server that cannot stream sends the answer whole.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Message
from chatbench.endpoints.address import SYSTEM_ROLE, EndpointAddress
from chatbench.endpoints.errors import CANNOT_CONNECT, SHORTEST_KEY, Fault, fault_of, masked
from chatbench.protocol.answers import split_reasoning
from chatbench.protocol.dialogue import Heard, Reply
from chatbench.protocol.prompts import END, prompt_text, read_completion

EndpointKind = Literal["chat", "completions"]
LIMITS = ("max_tokens", "max_completion_tokens")
"""Names of the token limit, most common first."""
MOST_BYTES = 8_000_000
"""Limit on one uncompressed reply, about a hundred times the longest real ones."""
CHARACTERS_PER_TOKEN = 4
CONNECT_SECONDS = 20.0
"""A reachable server accepts a connection sooner, however long its answer takes."""
_NO_TEXT_FIX = "see the server's log for why the model writes no text, or choose another; the same command continues"
_NO_SYSTEM = re.compile(
    r"(system|developer)\W? (role|message|prompt|instruction)|\brole\b.{0,60}\bsystem\b|roles must alternate",
    re.IGNORECASE,
)
_EVENTS = re.compile(r"\s*(?:(?:data|event): ?|: )")
_IN_PIECES = {"stream": True, "stream_options": {"include_usage": True}}
_CUT_TAG = re.compile(r"(?:[<◁]|\[/?T)[^>▷\]\s]{0,20}\Z")
_SEEDS = 2**31
"""Some servers keep the seed in 32 bits."""
_MOST_TOKENS = 2**31
REFUSAL = "refusal"
"""How a reply ended that has a refusal in place of a text."""
_FINISH = {
    "eos": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "safety": "content_filter",
}


@dataclass
class EndpointClient:
    """One model at one address, with its decoding parameters; `left_out` lists those that `adapt` dropped."""

    address: EndpointAddress
    kind: EndpointKind
    temperature: float
    max_tokens: int
    timeout_seconds: float
    reasoning_effort: str = ""

    def __post_init__(self) -> None:
        self._key = self.address.key()
        self._client: httpx.AsyncClient | None = None
        self.parameters: dict[str, object] = {"temperature": self.temperature, LIMITS[0]: self.max_tokens, "seed": 0}
        if self.kind == "completions":
            self.parameters["stop"] = [END.strip()]
        if self.reasoning_effort:
            self.parameters["reasoning_effort"] = self.reasoning_effort
        self.left_out: list[str] = []
        self._limits_refused: set[str] = set()
        self._streams, self._thinks_aloud = True, False

    def at(self, address: EndpointAddress) -> EndpointClient:
        """A client for the same model at another address; what either address refuses is dropped for both."""
        other = replace(self, address=address)
        other.parameters, other.left_out, other._limits_refused = self.parameters, self.left_out, self._limits_refused
        return other

    def adapt(self, refused: Fault) -> bool:
        """Drop or rename what the server refused: the system role or a parameter; return whether to send it again.

        If the server names none, try the seed and the name of the token limit, which old servers do not know.
        """
        no_system = refused.parameter.endswith("role") or _NO_SYSTEM.search(refused.reason)
        if no_system and self.kind == "chat" and SYSTEM_ROLE not in self.left_out:
            self.left_out.append(SYSTEM_ROLE)
            return True
        limit = next(name for name in LIMITS if name in self.parameters)
        other = LIMITS[1 - LIMITS.index(limit)]
        words = set(re.findall(r"\w+", refused.reason))
        known = [*self.parameters, other]
        named = refused.parameter if refused.parameter in known else next(filter(words.__contains__, known), None)
        if named is None:
            named = "seed" if "seed" in self.parameters else limit
        if named not in LIMITS:
            del self.parameters[named]
            self.left_out.append(named)
        elif limit in self._limits_refused or other in self._limits_refused:
            return False
        else:
            self._limits_refused.add(limit)
            self.parameters[other] = self.parameters.pop(limit)
        return True

    async def complete(
        self, messages: Sequence[Message], seed: int, *, may_be_empty: bool, heard: Heard | None = None
    ) -> Reply | Fault:
        """Send one request; return the reply or a fault. Unless `may_be_empty`, a reply without text is a fault.

        `heard` is called with the reply so far, without its reasoning.
        """
        body = {"model": self.address.model, **self.parameters}
        body |= {"seed": seed % _SEEDS} if "seed" in body else {}
        path = "/chat/completions" if self.kind == "chat" else "/completions"
        if self.kind == "completions":
            body["prompt"] = prompt_text(messages)
        elif SYSTEM_ROLE in self.left_out and messages[0].role == "system":
            head = "\n\n".join(each.content for each in messages[:2])  # a system message may come alone
            body["messages"] = [each.as_dict() for each in (Message("user", head), *messages[2:])]
        else:
            body["messages"] = [each.as_dict() for each in messages]
        began = time.monotonic()
        streams = heard if self.kind == "chat" and self._streams else None
        found = await self._asked("POST", path, body | _IN_PIECES if streams else body, streams)
        if streams and isinstance(found, Fault) and found.kind == "refused":
            found = await self._asked("POST", path, body)
            self._streams = isinstance(found, Fault)  # still refused: streaming was not the reason
        if isinstance(found, Fault):
            return found
        text, answer = found
        reply = self._read(answer)
        if isinstance(reply, Reply) and (may_be_empty or reply.text.strip()):
            return replace(reply, seconds=time.monotonic() - began)
        fault = Fault("unreadable", "an empty text", fix=_NO_TEXT_FIX) if isinstance(reply, Reply) else reply
        if fault.kind != "unreadable":
            return fault
        usage, asked = _object(answer, "usage"), sum(len(message.content) for message in messages)
        return replace(
            fault,
            reason=masked(fault.reason, self._key),
            tokens=_count(usage, "completion_tokens") or len(text) // CHARACTERS_PER_TOKEN,
            prompt_tokens=_count(usage, "prompt_tokens") or asked // CHARACTERS_PER_TOKEN,
        )

    async def served(self) -> tuple[str, ...]:
        """Names of the models that the endpoint lists; empty if it lists none."""
        found = await self._asked("GET", "/models")
        listed = None if isinstance(found, Fault) else _object(found[1]).get("data")
        names = [_object(model).get("id") for model in listed] if isinstance(listed, list) else []
        return tuple(self._clean(name) for name in names if isinstance(name, str))

    async def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        client, self._client = self._client, None
        if client:
            await client.aclose()

    async def _asked(
        self, method: str, path: str, body: Mapping[str, object] | None = None, heard: Heard | None = None
    ) -> tuple[str, object] | Fault:
        """Send one HTTP request; return the response as text and as JSON."""
        if self._client is None:
            self._client = self._opened()
        pieces = _Pieces()
        try:
            async with (
                asyncio.timeout(self.timeout_seconds),  # httpx's own timeout only limits the wait for each chunk
                self._client.stream(method, self.address.base_url + path, json=body) as response,
            ):
                raw = await self._received(response, pieces, heard if response.is_success else None)
            if len(raw) > MOST_BYTES:
                return Fault("unreadable", f"a reply of more than {MOST_BYTES:,} bytes")
        except httpx.ConnectTimeout:
            return self._through_proxy(Fault("down", CANNOT_CONNECT))
        except (TimeoutError, httpx.TimeoutException):
            fix = "check that the endpoint is up, or give it more time with --timeout; the same command continues"
            return Fault("broken", f"no answer within {self.timeout_seconds:g} s", fix=fix)
        except httpx.ConnectError as error:
            return self._not_connected(str(error))
        except (httpx.HTTPError, httpx.InvalidURL, OSError):
            return self._through_proxy(Fault("down", "connection lost"))
        content = _unpacked(raw, response.headers.get("content-encoding", ""))
        return content if isinstance(content, Fault) else self._parsed(response, content, pieces if heard else None)

    def _parsed(self, response: httpx.Response, content: bytes, pieces: _Pieces | None) -> tuple[str, object] | Fault:
        status, kind, answer = response.status_code, response.headers.get("content-type", ""), None
        try:
            text = content.decode("utf-8-sig", "strict" if status < 300 else "replace")
            if pieces and status < 300 and ("event-stream" in kind or _EVENTS.match(text)):
                if isinstance(assembled := pieces.answer(), Fault):
                    return assembled
                text = json.dumps(assembled)
            answer = json.loads(text)
        except (ValueError, RecursionError):  # not UTF-8, not JSON, nested too deeply, an endless number
            text = content.decode("utf-8", "replace")
        answer = text if answer is None else answer
        if 200 <= status < 300:
            return text, answer
        fault = fault_of(status, answer, response.headers, key=self._key, now=time.time())
        return self._through_proxy(fault) if status in (502, 503, 504) else fault

    def _not_connected(self, why: str) -> Fault:
        if "CERTIFICATE_VERIFY_FAILED" in why:
            return Fault("certificate", why)
        return self._through_proxy(Fault("down", f"{CANNOT_CONNECT} ({why})" if "SSL" in why else CANNOT_CONNECT))

    def _through_proxy(self, fault: Fault) -> Fault:
        """The fault, naming the proxy that the environment sets for this address, if any: it may be the proxy's."""
        url, proxies = urlsplit(self.address.base_url), _proxies()
        proxy = proxies.get(url.scheme) or proxies.get("all")
        if not proxy or proxy_bypass(url.netloc):
            return fault
        fix = f"check the endpoint and the proxy, or go without it: NO_PROXY={url.hostname}; the same command continues"
        return replace(fault, reason=f"{fault.reason} through the proxy of {proxy}", fix=fix)

    def _opened(self) -> httpx.AsyncClient:
        headers = {"connection": "close", "accept-encoding": "identity", "accept": "application/json"}
        headers |= {"authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx.Limits(max_keepalive_connections=0)
        timeout = httpx.Timeout(self.timeout_seconds, connect=min(CONNECT_SECONDS, self.timeout_seconds))
        try:
            return httpx.AsyncClient(headers=headers, timeout=timeout, limits=limits)
        except (ImportError, ValueError, httpx.InvalidURL):  # a proxy of the environment
            raise ChatbenchError(
                f"{self.address.base_url}: cannot be reached through {', '.join(_proxies().values())}",
                expected="proxies at http:// or https:// addresses; with httpx[socks] also at socks5:// and socks5h://",
                fix="correct or unset the variable, set NO_PROXY='*' to use no proxy, or pip install 'httpx[socks]'",
            ) from None

    async def _received(self, response: httpx.Response, pieces: _Pieces, heard: Heard | None) -> bytes:
        """Read the body up to about `MOST_BYTES`; call `heard`, if given, with the text so far after each event.

        It hears only what can be shown of an unfinished text: neither reasoning nor an incomplete tag.
        """
        raw = bytearray()
        async for part in response.aiter_raw():
            raw += part
            if len(raw) > MOST_BYTES:
                break
            if heard:
                for text in pieces.add(part):
                    thoughts, said = split_reasoning(_CUT_TAG.sub("", text))
                    # The opening tag may be in the prompt: then everything up to the closing tag is reasoning.
                    heard(self._clean(said) if thoughts or not self._thinks_aloud else "")
        return bytes(raw)

    def _clean(self, text: str) -> str:
        """A server's text without the key, which it may echo, and without what no file can hold."""
        text = text.replace(self._key, "***") if len(self._key) >= SHORTEST_KEY else text
        return text.encode("utf-8", "replace").decode()  # a lone surrogate

    def _read(self, answer: object) -> Reply | Fault:
        """Parse the server's answer into a reply; a server may send anything, so nothing is taken for granted."""
        if not isinstance(answer, dict):
            return Fault("unreadable", _no_completion(answer))
        choices = answer.get("choices")
        choice = _object(choices[0]) if isinstance(choices, list) and choices else {}
        error, finish = answer.get("error") or choice.get("error"), choice.get("finish_reason")
        native = _object(answer, "message")
        if error or finish == "error" or (not (choices or native) and (answer.get("detail") or answer.get("message"))):
            code = str(_object(error).get("code") or answer.get("code"))
            status = int(code) if re.fullmatch(r"[45]\d\d", code, re.ASCII) else 200
            told: object = {"error": error or "the model broke off"} if error or finish == "error" else answer
            return fault_of(status, told, {}, key=self._key, now=time.time())
        if not choices:
            hint = " (Ollama's own format? the base URL ends in /v1)" if native else ""
            return Fault("unreadable", f"an answer without a choice{hint}")
        message = _object(choice, "message") or _object(choice, "delta")
        if not message and not isinstance(choice.get("text"), str):
            return Fault("unreadable", "an answer without a text")
        text, thoughts = _parts(message.get("content") or message.get("refusal"))
        refused = bool(text.strip() and message.get("refusal") and not message.get("content"))
        if self.kind == "completions" or not message:
            text = read_completion(str(choice.get("text") or ""))[0]
        inner = next(filter(None, map(message.get, ("reasoning_content", "reasoning", "thinking"))), "")
        self._thinks_aloud |= bool(split_reasoning(text)[0])
        usage = _object(answer, "usage")
        written, read, total = (_count(usage, f"{each}_tokens") for each in ("completion", "prompt", "total"))
        finish = finish.lower()[:40] if isinstance(finish, str) else ""
        finish = REFUSAL if refused else _FINISH.get(finish, finish)
        model = answer.get("model")
        reply = Reply(
            self._clean(text),
            tokens=max(written, total - read if read else 0),  # some servers omit reasoning from one of the two
            finish=finish or "stop",
            prompt_tokens=read,
            reasoning=self._clean("\n".join(filter(None, (thoughts, "\n".join(_parts(inner)).strip())))),
            reasoning_tokens=_count(usage, "completion_tokens_details", "reasoning_tokens")
            or _count(usage, "reasoning_tokens"),
            cached_tokens=_count(usage, "prompt_tokens_details", "cached_tokens")
            or _count(usage, "prompt_cache_hit_tokens"),
            model=self._clean(model)[:200] if isinstance(model, str) else "",
        )
        # Without a text that is withheld or cut off, nobody decided to say nothing.
        silent, fault = not reply.text.strip(), partial(Fault, tokens=reply.tokens, prompt_tokens=reply.prompt_tokens)
        if silent and finish == "content_filter":
            return fault("filtered", "the reply was stopped by a content filter")
        if silent and finish != "stop" and (reply.reasoning or reply.reasoning_tokens):
            return fault("thinking", "nothing but reasoning came (raise --max-tokens, or lower --reasoning-effort)")
        if silent and finish == "length" and self.kind == "chat":
            return fault("thinking", "the token limit was reached before any text (raise --max-tokens)")
        if silent and (finish == "tool_calls" or message.get("tool_calls")):
            return Fault("unreadable", "a tool call instead of a text", fix=_NO_TEXT_FIX)
        return reply


def _proxies() -> dict[str, str]:
    """The environment's proxies by scheme, as KIND_PROXY=URL without passwords."""
    hidden = {kind: re.sub(r"(\w+://)?.*@", r"\1***@", url) for kind, url in getproxies().items()}
    return {kind: f"{kind.upper()}_PROXY={url}" for kind, url in hidden.items()}


class _Pieces:
    """Assembles the server-sent events of one chat completion (OpenAI's API reference, "Streaming")."""

    def __init__(self) -> None:
        self.text, self._reasoning, self._rest, self._over = "", "", b"", False
        self._answer: dict[str, object] = {}
        self._finish: object = None

    def add(self, piece: bytes) -> Iterator[str]:
        """Parse the next bytes; yield the text so far after each event."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            name, _, value = line.strip().partition(b":")
            if name == b"data":
                self._add_event(value.strip())
                yield self.text

    def _add_event(self, event: bytes) -> None:
        if event == b"[DONE]":
            self._over = True
            return
        try:
            part = _object(json.loads(event))
        except (ValueError, RecursionError):
            self._answer["error"] = "a piece that is not JSON"
            return
        self._answer |= {name: part[name] for name in ("model", "usage", "error") if part.get(name)}
        choices = part.get("choices")
        choice = _object(choices[0]) if isinstance(choices, list) and choices else {}
        self._finish = choice.get("finish_reason") or self._finish
        delta = _object(choice, "delta")
        said, thoughts = _parts(delta.get("content") or delta.get("refusal"))
        inner = next(filter(None, map(delta.get, ("reasoning_content", "reasoning", "thinking"))), "")
        self.text, self._reasoning = self.text + said, self._reasoning + thoughts + "".join(_parts(inner))

    def answer(self) -> dict[str, object] | Fault:
        """The answer as it would have come without streaming, or a fault if the stream broke off."""
        if not (self._over or self._finish or "error" in self._answer):
            return Fault("unreadable", "a reply that broke off")
        message = {"content": self.text, "reasoning_content": self._reasoning}
        return {**self._answer, "choices": [{"message": message, "finish_reason": self._finish}]}


def _unpacked(content: bytes, encoding: str) -> bytes | Fault:
    if encoding.lower() in ("", "identity"):
        return content
    try:
        content = zlib.decompressobj(47).decompress(content, MOST_BYTES + 1)  # gzip or zlib, by its header
    except zlib.error:
        return Fault("unreadable", f"a reply with content encoding {encoding[:20]!r}, which was not requested")
    if len(content) > MOST_BYTES:
        return Fault("unreadable", f"a reply of more than {MOST_BYTES:,} bytes when unpacked")
    return content


def _no_completion(answer: object) -> str:
    """Describe what was sent in place of a completion."""
    said = " ".join(answer.split()) if isinstance(answer, str) else ""
    if _EVENTS.match(said):
        words = re.findall(r'"(?:message|error)": ?"([^"]{1,200})', said)
        return "a stream of events, though none was requested (turn off streaming)" + "".join(
            f": {w}" for w in words[:1]
        )
    if not said or said.startswith("<") or said[:1] in "{[":
        return "a web page" if said.startswith("<") else "unreadable answer"
    return f"text instead of a completion: {said[:200]}"


def _parts(content: object) -> tuple[str, str]:
    """Split a message's content, which is a text or a list of parts, into (text, reasoning)."""
    said, thoughts = [], []
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            said.append(part)
            continue
        kind = str(_object(part).get("type", "text"))
        words = next(filter(None, map(_object(part).get, ("text", "thinking", "reasoning", "summary"))), "")
        if "think" in kind or "reason" in kind:
            thoughts.append("".join(_parts(words)) if isinstance(words, list | str) else "")
        elif kind in ("text", "output_text") and isinstance(words, str):
            said.append(words)
    return "".join(said), "\n".join(thoughts)


def _object(content: object, *path: str) -> Mapping[str, object]:
    """The object at a path of keys; an empty one if there is none."""
    for name in path:
        content = content.get(name) if isinstance(content, dict) else None
    return content if isinstance(content, dict) else {}


def _count(usage: object, *path: str) -> int:
    """The token count at a path of keys; 0 if it is missing or implausible."""
    tokens = _object(usage, *path[:-1]).get(path[-1])
    if isinstance(tokens, bool) or not isinstance(tokens, int | float) or not 0 < tokens < _MOST_TOKENS or tokens % 1:
        return 0
    return int(tokens)  # some servers send 12.0
