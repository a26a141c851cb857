"""What servers answer, and what becomes of it: as a simulator, as an assistant, and as an assistant alone.

A line of `CASES` is one behaviour of one server: its answer (status and body as JSON), then what is expected. To add
one, add a line. `SERVERS` are the ways in which good servers speak, which docs/endpoints.md lists.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from benchmarks.loopback_endpoint import Answer, LoopbackEndpoint, completion, running

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Message
from chatbench.endpoints.address import EndpointAddress, EndpointOptions
from chatbench.endpoints.errors import fault_of, wordings
from chatbench.endpoints.participant import EndpointParticipant, open_endpoint_participant
from chatbench.protocol.dialogue import Failure, ParticipantName, Reply, Request

ROLES: tuple[ParticipantName, ...] = ("simulator", "assistant")
CHAT = (Message("system", "S"), Message("user", "hi"))
ALONE = Request(
    "assistant", (Message("system", "S"), Message("user", "Answer with a letter")), "q", 3, "reply", "q|0|reply"
)


@dataclass(frozen=True)
class Told:
    """What is expected: a text that is said, or part of the reason of a failure, or of the error that stops the run."""

    said: str = ""
    failed: str = ""
    stops: str = ""
    passes: bool = True


def reply(content: object, finish: str = "stop", **more: object) -> tuple[int, object]:
    return 200, {"choices": [{"finish_reason": finish, "message": {"role": "assistant", "content": content, **more}}]}


def refusal(status: int, message: str, **more: object) -> tuple[int, object]:
    return status, {"error": {"message": message, **more}}


THOUGHT = [{"type": "thinking", "thinking": [{"type": "text", "text": "B?"}]}, {"type": "text", "text": "Seven"}]
CASES: dict[str, tuple[tuple[int, object], Told]] = {
    "tags of reasoning": (reply("<think>\nB?\n</think>\n\nSeven"), Told(said="Seven")),
    "the closing tag alone": (reply("it is B\n</think>\nSeven"), Told(said="Seven")),
    "tags in brackets": (reply("[THINK]B?[/THINK]Seven"), Told(said="Seven")),
    "reasoning_content": (reply("Seven", reasoning_content="B?"), Told(said="Seven")),
    "reasoning": (reply("Seven", reasoning="B?"), Told(said="Seven")),
    "parts": (reply(THOUGHT), Told(said="Seven")),
    "a refusal in words": (reply(None, refusal="I cannot"), Told(said="I cannot")),
    "only thought, in a field": (reply("", "length", reasoning_content="B"), Told(failed="raise --max-tokens")),
    "only thought, in an open tag": (reply("<think>so", "length"), Told(failed="raise --max-tokens")),
    "broken off": (reply("Sev", "error"), Told(failed="the model broke off")),
    "an error beside the choice": (
        (200, {"choices": [{"message": {"content": "S"}, "error": {"code": 502, "message": "upstream died"}}]}),
        Told(failed="HTTP 502: upstream died"),
    ),
    "a key error in a good status": ((200, {"error": {"message": "No auth", "code": 401}}), Told(stops="No auth")),
    "a busy error in a good status": ((200, {"error": {"message": "wait", "code": 429}}), Told(stops="HTTP 429: wait")),
    "a list": ((400, [{"error": {"code": 400, "message": "API key not valid. Please"}}]), Told(stops="not valid")),
    "a validator's list": (
        (422, {"detail": [{"loc": ["body", "messages"], "msg": "field required"}]}),
        Told(failed="body.messages: field required", passes=False),
    ),
    "a plain string": ((500, "upstream connect error"), Told(failed="upstream connect error")),
    "no credit, 402": (refusal(402, "Insufficient Balance"), Told(stops="add credit")),
    "no credit, 400": (refusal(400, "Your credit balance is too low to access"), Told(stops="add credit")),
    "no credit, 403": (refusal(403, "Key limit exceeded (total limit)"), Told(stops="add credit")),
    "no credit, 429": (refusal(429, "x", code="insufficient_quota"), Told(stops="add credit")),
    "a revoked key": (refusal(401, "revoked"), Told(stops="valid key")),
    "a token that is invalid": (refusal(498, "Invalid token"), Told(stops="valid key")),
    "no capacity": (refusal(498, "Flex tier capacity exceeded"), Told(stops="no good answer for 1 s")),
    "too early": (refusal(425, "Too Early"), Told(stops="no good answer for 1 s")),
    "a filter": (refusal(400, "triggering Azure's content management policy"), Told(failed="policy", passes=False)),
    "forbidden": (refusal(403, "not for you"), Told(failed="not for you")),
    "too large a body": (refusal(413, "Payload Too Large"), Told(failed="Payload Too Large", passes=False)),
    "llama.cpp's overflow": (
        refusal(500, "x", type="exceed_context_size_error", n_prompt_tokens=9, n_ctx=4),
        Told(failed="a prompt of 9 tokens in a context of 4", passes=False),
    ),
}  # fmt: skip


class Clock:
    """Time that passes only where somebody sleeps."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackEndpoint]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    one = LoopbackEndpoint()
    with running(one):
        yield one


def opened(server: LoopbackEndpoint, role: ParticipantName = "assistant", **more: Any) -> EndpointParticipant:
    address = EndpointAddress("m", server.url, "")
    return open_endpoint_participant(address, kind="chat", role=role, temperature=0.7, max_tokens=50, **more)


def requests(role: ParticipantName) -> list[Request]:
    return (
        [ALONE, Request(role, CHAT, "q", 1, "reply")] if role == "assistant" else [Request(role, CHAT, "q", 1, "turn")]
    )


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", CASES)
def test_what_a_server_answers_becomes_what_it_means(
    server: LoopbackEndpoint, name: str, role: ParticipantName
) -> None:
    (status, body), told = CASES[name]
    answer = Answer(status, (body if isinstance(body, str) else json.dumps(body)).encode())
    checked, clock = opened(server, role), Clock()
    options = EndpointOptions(max_tries=2, patience_seconds=1)
    one = EndpointParticipant(checked._client, role, options, clock=clock, sleep=clock.sleep)
    for request in requests(role):
        server.will(*[answer] * 20)
        if told.stops:
            with pytest.raises(ChatbenchError) as caught:
                one.reply_all([request])
            assert told.stops in str(caught.value)
            continue
        (found,) = one.reply_all([request])
        if isinstance(found, Reply):
            assert found.text == told.said != ""
            assert found.reasoning in ("", "B?", "it is B")
            assert bool(found.reasoning) == (name != "a refusal in words")
        else:
            assert told.failed
            assert told.failed in found.reason
            assert found.transient == told.passes


@pytest.mark.parametrize("name", CASES)
def test_before_the_run_the_servers_own_words_reach_the_user(
    server: LoopbackEndpoint, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("chatbench.endpoints.retry.FIRST_PAUSE_SECONDS", 0)
    (status, body), told = CASES[name]
    server.will(*[Answer(status, (body if isinstance(body, str) else json.dumps(body)).encode())] * 20_000)
    options = EndpointOptions(max_tries=2, patience_seconds=1)
    if told.said:
        opened(server, options=options)
        return
    with pytest.raises(ChatbenchError) as caught:
        opened(server, options=options)
    words = f"HTTP {status}" if "no good answer" in told.stops else told.stops or told.failed
    if name == "forbidden":
        words = "valid key"  # where nothing has been let through yet, it is the key
    assert words in str(caught.value)
    assert "check the base URL" not in str(caught.value)


@pytest.mark.parametrize("entry", [entry for _, _, entry in wordings()], ids=lambda entry: str(entry["server"]))
def test_every_wording_is_classified_as_what_it_means(entry: dict[str, Any]) -> None:
    body = {"error": {"message": entry["says"], "code": "whatever"}}

    assert fault_of(entry["status"], body, {}, key="", now=0).kind == entry["kind"]
    # Its own pattern reads it too, so that an entry does not live on another's.
    assert any(pattern.search(entry["says"]) for _, pattern, each in wordings() if each is entry)


@pytest.mark.parametrize(
    ("status", "says", "kind"),
    [
        (
            429,
            "Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000, Used 29000. Try again in 2s",
            "busy",
        ),
        (429, "You exceeded your current quota, please check your plan. Please retry in 36.4s.", "busy"),
        (400, "Invalid value: max_tokens must be positive", "refused"),
        (400, "'messages' must not be empty", "refused"),
        (404, "The model `context-7b` does not exist", "missing"),
        (500, "The server had an error while processing your request", "broken"),
        (503, "Service Unavailable", "busy"),
    ],
)
def test_words_that_mean_something_else_are_not_taken_for_an_overflow_or_an_account(
    status: int, says: str, kind: str
) -> None:
    assert fault_of(status, {"error": {"message": says}}, {}, key="", now=0).kind == kind


def refuses(*names: str) -> Any:
    """How a server that takes none of these parameters answers, as OpenAI words it."""

    def answer(asked: dict[str, Any]) -> Answer | None:
        for name in names:
            if name in asked:
                words = f"Unsupported parameter: '{name}' is not supported with this model."
                return Answer(400, json.dumps({"error": {"message": words, "param": name}}).encode())
        return None

    return answer


SERVERS: dict[str, tuple[Any, dict[str, object]]] = {
    "OpenAI chat": (refuses(), {"temperature": 0.7}),
    "OpenAI reasoning": (refuses("max_tokens", "temperature"), {"temperature": None, "left_out": ["temperature"]}),
    "Azure": (refuses("max_tokens"), {"temperature": 0.7}),
    "vLLM, SGLang": (refuses("reasoning_effort"), {"reasoning_effort": None, "left_out": ["reasoning_effort"]}),
    "llama.cpp, Ollama, LM Studio": (refuses(), {"temperature": 0.7}),
    "Anthropic-compatible": (refuses("seed"), {"left_out": ["seed"]}),
    "Gemini-compatible": (refuses("seed", "reasoning_effort"), {"left_out": ["reasoning_effort", "seed"]}),
}


@pytest.mark.parametrize("name", SERVERS)
def test_parameters_are_negotiated_and_the_identity_says_what_is_sent(
    server: LoopbackEndpoint, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    refusing, expected = SERVERS[name]
    plain = server._answer

    def answered(verb: str, path: str, headers: Any, body: bytes) -> Answer:
        good = plain(verb, path, headers, body)
        return refusing(json.loads(body or b"{}")) or good

    monkeypatch.setattr(server, "_answer", answered)
    one = opened(server, reasoning_effort="low")
    (found,) = one.reply_all([ALONE])

    assert isinstance(found, Reply)
    assert {key: one.identity[key] for key in expected} == expected
    sent = server.asked[-1]
    assert ("temperature" in sent) == (one.identity["temperature"] is not None)
    assert sent.get("max_tokens", sent.get("max_completion_tokens")) == 50
    assert ("reasoning_effort" in sent) == (one.identity["reasoning_effort"] == "low")


def test_usage_counts_reasoning_once_and_says_what_was_cached(server: LoopbackEndpoint) -> None:
    # One server has reasoning in completion_tokens, another beside it: both wrote 30 tokens.
    one = opened(server)
    body = json.loads(completion("Seven", finish="content_filter").body)
    details = {"completion_tokens_details": {"reasoning_tokens": 25}, "prompt_tokens_details": {"cached_tokens": 8}}
    for written in (30, 5):
        usage = {"prompt_tokens": 10, "completion_tokens": written, "total_tokens": 40, **details}
        server.will(Answer(body=json.dumps({**body, "usage": usage, "model": "m-2024"}).encode()))
        (found,) = one.reply_all([ALONE])
        assert isinstance(found, Reply)
        assert (found.tokens, found.prompt_tokens, found.reasoning_tokens, found.cached_tokens) == (30, 10, 25, 8)
        assert (found.finish, found.model) == ("content_filter", "m-2024")
    server.will(
        Answer(body=json.dumps({**body, "usage": {"prompt_tokens": 10**400, "completion_tokens": True}}).encode())
    )
    (found,) = one.reply_all([ALONE])
    assert isinstance(found, Reply)
    assert (found.tokens, found.prompt_tokens) == (0, 0)
    assert not isinstance(found, Failure)
