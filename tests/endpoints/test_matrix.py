"""What servers answer, and what becomes of it: as a simulator and as an assistant.

A line of `CASES` is one behaviour of one server: its answer (status and body as JSON), then what is expected. To add
one, add a line. An entry of `SERVERS` speaks as one family of docs/endpoints.md does: which parameters it refuses, its
replies, and its errors.
"""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from benchmarks.loopback_endpoint import Answer, LoopbackEndpoint, completion, running
from tests.support.clock import Clock

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Message
from chatbench.endpoints.address import EndpointAddress, EndpointOptions
from chatbench.endpoints.client import REFUSAL
from chatbench.endpoints.errors import fault_of, wordings
from chatbench.endpoints.participant import EndpointParticipant, open_endpoint_participant
from chatbench.protocol.dialogue import Failure, ParticipantName, Reply, Request

ROLES: tuple[ParticipantName, ...] = ("simulator", "assistant")
CHAT = (Message("system", "S"), Message("user", "hi"))
HELLO = Request("assistant", CHAT, "q", 1, "reply")


@dataclass(frozen=True)
class Told:
    """What is expected: a text that is said, or part of the reason of a failure, or of the error that stops the run."""

    said: str = ""
    failed: str = ""
    stops: str = ""
    passes: bool = True


def reply(content: object, finish: str | None = "stop", **more: object) -> tuple[int, object]:
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
    "only thought, without an end": (reply(None, None, reasoning_content="B"), Told(failed="raise --max-tokens")),
    "withheld by a filter": (reply(None, "content_filter"), Told(failed="a content filter", passes=False)),
    "broken off": (reply("Sev", "error"), Told(failed="the model broke off")),
    "an error beside the choice": (
        (200, {"choices": [{"message": {"content": "S"}, "error": {"code": 502, "message": "upstream died"}}]}),
        Told(failed="HTTP 502: upstream died"),
    ),
    "vLLM's error in a good status": (
        (200, {"object": "error", "message": "bad thing", "code": 400}),
        Told(failed="HTTP 400: bad thing", passes=False),
    ),
    "words in a good status": ((200, {"detail": "worker died"}), Told(failed="HTTP 200: worker died")),
    "a key error in a good status": ((200, {"error": {"message": "No auth", "code": 401}}), Told(stops="No auth")),
    "a busy error in a good status": ((200, {"error": {"message": "wait", "code": 429}}), Told(stops="HTTP 429: wait")),
    "a list": ((400, [{"error": {"code": 400, "message": "API key not valid. Please"}}]), Told(stops="not valid")),
    "a validator's list": (
        (422, {"detail": [{"loc": ["body", "messages"], "msg": "field required"}]}),
        Told(failed="body.messages: field required", passes=False),
    ),
    "a plain string": ((500, "upstream connect error"), Told(failed="upstream connect error")),
    "a router's provider": (
        refusal(400, "Provider returned error", code=400, metadata={
            "provider_name": "X", "raw": json.dumps({"error": {"message": "n", "code": "context_length_exceeded"}})
        }),
        Told(failed="HTTP 400: n", passes=False),
    ),
    "a router's provider, in words": (
        refusal(429, "Provider returned error", metadata={"raw": "x is rate-limited upstream"}),
        Told(stops="x is rate-limited upstream"),
    ),
    "no credit, 402": (refusal(402, "Insufficient Balance"), Told(stops="add credit")),
    "no credit, 400": (refusal(400, "Your credit balance is too low to access"), Told(stops="add credit")),
    "no credit, 403": (refusal(403, "Key limit exceeded (total limit)"), Told(stops="add credit")),
    "no credit, 429": (refusal(429, "x", code="insufficient_quota"), Told(stops="add credit")),
    "a revoked key": (refusal(401, "revoked"), Told(stops="valid key")),
    "a token that is invalid": (refusal(498, "Invalid token"), Told(stops="valid key")),
    "a key in another header": (
        refusal(401, "Access denied due to missing subscription key."), Told(stops="missing subscription key")
    ),
    "nothing but streams": (
        refusal(400, "This model only supports streaming; set stream=true", code="stream_required"),
        Told(stops="a proxy before it that collects the stream"),
    ),
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


def opened(server: LoopbackEndpoint, role: ParticipantName = "assistant", **more: Any) -> EndpointParticipant:
    address = EndpointAddress("m", server.url, "")
    return open_endpoint_participant(address, kind="chat", role=role, temperature=0.7, max_tokens=50, **more)


def answered(body: object, status: int = 200) -> Answer:
    return Answer(status, (body if isinstance(body, str) else json.dumps(body)).encode())


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", CASES)
def test_what_a_server_answers_becomes_what_it_means(
    server: LoopbackEndpoint, name: str, role: ParticipantName
) -> None:
    (status, body), told = CASES[name]
    checked, clock = opened(server, role), Clock()
    options = EndpointOptions(max_tries=2, patience_seconds=1)
    one = EndpointParticipant(checked._clients, role, options, clock=clock, sleep=clock.sleep)
    server.will(*[answered(body, status)] * 20)
    request = Request(role, CHAT, "q", 1, "reply" if role == "assistant" else "turn")
    if told.stops:
        with pytest.raises(ChatbenchError) as caught:
            one.reply_all([request])
        assert told.stops in str(caught.value)
        return
    (found,) = one.reply_all([request])
    if isinstance(found, Reply):
        assert found.text == told.said != ""
        assert (found.finish == REFUSAL) == (name == "a refusal in words")
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
    monkeypatch.setattr("chatbench.endpoints.errors.FIRST_PAUSE_SECONDS", 0)
    (status, body), told = CASES[name]
    server.will(*[answered(body, status)] * 20_000)
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
        (401, "Access denied due to invalid subscription key or wrong API endpoint.", "key"),
        (400, "Requests with max_tokens > 4096 must have stream=true", "refused"),
    ],
)
def test_words_that_mean_something_else_are_not_taken_for_an_overflow_or_an_account(
    status: int, says: str, kind: str
) -> None:
    assert fault_of(status, {"error": {"message": says}}, {}, key="", now=0).kind == kind


def test_another_header_is_named_only_where_a_key_was_sent(
    server: LoopbackEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_KEY", "sk-test-1234567890")
    for name, fix in (("GATEWAY_KEY", "Authorization: Bearer"), ("", "openai:MODEL@URL#NAME")):
        server.will(*[answered({"message": "Access denied due to missing subscription key."}, 401)])
        with pytest.raises(ChatbenchError) as caught:
            open_endpoint_participant(
                EndpointAddress("m", server.url, name), kind="chat", role="assistant", temperature=0.7, max_tokens=50
            )
        assert fix in caught.value.fix


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")
@pytest.mark.parametrize("urls", [1, 2])
def test_a_certificate_that_nobody_vouches_for_names_the_variable_that_does(
    server: LoopbackEndpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, urls: int
) -> None:
    pem = tmp_path / "cert.pem"
    words = "openssl req -x509 -nodes -newkey rsa:2048 -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*words.split(), "-keyout", str(pem), "-out", str(tmp_path / "c")], check=True, capture_output=True)
    pem.write_text(pem.read_text() + (tmp_path / "c").read_text())
    other = LoopbackEndpoint()
    other.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    other.tls.load_cert_chain(pem)
    with running(other):
        address = f"m@{','.join([other.url, server.url][:urls])}"
        given: Any = {"kind": "chat", "role": "assistant", "temperature": 0.7, "max_tokens": 50}
        with pytest.raises(ChatbenchError, match="CERTIFICATE_VERIFY_FAILED") as caught:
            open_endpoint_participant(address, **given)
        assert "SSL_CERT_FILE=FILE.pem" in caught.value.fix
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "c"))
        open_endpoint_participant(address, **given)


OPENAI_OVERFLOW = "This model's maximum context length is 8192 tokens. However, your messages resulted in 9031 tokens."


def openai_refuses(name: str) -> tuple[int, object]:
    return refusal(400, f"Unsupported parameter: '{name}' is not supported with this model.", param=name)


@dataclass(frozen=True)
class Server:
    """How one family speaks: what it refuses, and how; its replies to a model that thinks; its errors.

    `missing` is empty where the server answers whatever model is named. `identity` is what a run is to record.
    """

    overflow: tuple[int, object]
    missing: tuple[int, object] | None
    refuses: tuple[str, ...] = ()
    thinking: Mapping[str, object] = field(default_factory=dict)
    more: Mapping[str, object] = field(default_factory=dict)
    identity: Mapping[str, object] = field(default_factory=dict)
    refusing: Any = openai_refuses


NOT_FOUND = "The model `m` does not exist or you do not have access to it."
SERVERS: dict[str, Server] = {
    "OpenAI": Server(refusal(400, OPENAI_OVERFLOW, code="context_length_exceeded"), refusal(404, NOT_FOUND)),
    "OpenAI, reasoning": Server(
        refusal(400, OPENAI_OVERFLOW, code="context_length_exceeded"), refusal(404, NOT_FOUND),
        ("max_tokens", "temperature"), identity={"temperature": None, "left_out": ["temperature"]},
    ),
    "Azure": Server(
        refusal(400, OPENAI_OVERFLOW, code="context_length_exceeded"),
        refusal(404, "The API deployment for this resource does not exist.", code="DeploymentNotFound"),
        ("max_tokens",),
        more={"prompt_filter_results": [], "content_filter_results": {}},
    ),
    "vLLM": Server(
        (400, {"object": "error", "message": OPENAI_OVERFLOW, "type": "BadRequestError", "param": None, "code": 400}),
        (404, {"object": "error", "message": "The model `m` does not exist.", "type": "NotFoundError", "code": 404}),
        thinking={"reasoning": "B?", "reasoning_content": "B?"}, more={"stop_reason": None},
    ),
    "SGLang": Server(
        (400, {
            "object": "error", "message": "The input (9 tokens) is longer than the model's context length (4 tokens).",
            "type": "BadRequestError", "param": None, "code": 400,
        }),
        None, thinking={"reasoning_content": "B?"}, more={"matched_stop": 2},
    ),
    "llama.cpp": Server(
        refusal(400, "the request exceeds the available context size", code=400, type="exceed_context_size_error",
                n_prompt_tokens=9000, n_ctx=4096),
        None, thinking={"reasoning_content": "B?"},
    ),
    "Ollama": Server(
        refusal(500, "the input length exceeds the context length", type="api_error"),
        refusal(404, 'model "m" not found, try pulling it first', type="api_error"), thinking={"reasoning": "B?"},
    ),
    "LM Studio": Server(
        (400, {"error": "Trying to keep the first 9000 tokens when context the overflows. However, the model is loaded "
                        "with context length of only 4096 tokens, which is not enough."}),
        (404, {"error": {"message": 'Model "m" not found. Please specify a valid model.', "param": "model",
                         "type": "invalid_request_error", "code": "model_not_found"}}),
        thinking={"reasoning_content": "B?"},
    ),
    "OpenRouter": Server(
        refusal(400, "Provider returned error", code=400, metadata={
            "provider_name": "X", "raw": json.dumps({"error": {"message": OPENAI_OVERFLOW, "code": None}})}),
        refusal(400, "m is not a valid model ID", code=400), ("seed",),
        thinking={"reasoning": "B?", "reasoning_details": [{"type": "reasoning.text", "text": "B?"}]},
        more={"native_finish_reason": "STOP"}, identity={"left_out": ["seed"]},
        refusing=lambda name: refusal(400, "Provider returned error", code=400, metadata={
            "raw": json.dumps({"error": {"message": f"Unknown name: {name}", "param": name}})}),
    ),
    "Anthropic": Server(
        refusal(400, "prompt is too long: 205000 tokens > 200000 maximum", type="invalid_request_error"),
        refusal(404, "model: m", type="not_found_error"), ("seed", "reasoning_effort"),
        identity={"left_out": ["reasoning_effort", "seed"], "reasoning_effort": None},
    ),
    "Gemini": Server(
        (400, [{"error": {"message": "The input token count (12) exceeds the maximum number of tokens (9)."}}]),
        (404, [{"error": {"code": 404, "message": "models/m is not found for API version v1", "status": "NOT_FOUND"}}]),
        ("seed",), identity={"left_out": ["seed"]},
        refusing=lambda name: (400, [{"error": {"code": 400, "message": f'Invalid payload. Unknown name "{name}"'}}]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SERVERS)
def test_each_family_is_spoken_to_as_it_wants_and_understood(
    server: LoopbackEndpoint, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    family, plain = SERVERS[name], server._answer

    def answer(verb: str, path: str, headers: Any, body: bytes) -> Answer:
        good, asked = plain(verb, path, headers, body), json.loads(body or b"{}")
        refused = next((each for each in family.refuses if each in asked), None)
        if refused:
            status, told = family.refusing(refused)
            return answered(told, status)
        if "model" not in asked:
            return good
        content = json.loads(good.body)
        [choice] = content["choices"]
        choice |= {"finish_reason": "length", **family.more}
        choice["message"] |= {"content": "Seven", **family.thinking}
        return answered({**content, "model": "m-served"})

    monkeypatch.setattr(server, "_answer", answer)
    one = opened(server, reasoning_effort="low")
    (found,) = one.reply_all([HELLO])

    assert isinstance(found, Reply)
    assert (found.text, found.reasoning) == ("Seven", "B?" if family.thinking else "")
    assert (found.finish, found.model) == ("length", "m-served")
    expected = {"temperature": 0.7, "reasoning_effort": "low", **family.identity}
    assert {key: one.identity.get(key) for key in expected} == expected
    sent = server.asked[-1]
    assert sent.get("max_tokens", sent.get("max_completion_tokens")) == 50
    assert [each for each in ("temperature", "reasoning_effort", "seed") if each not in sent] == [
        each for each in ("temperature", "reasoning_effort", "seed") if each in family.refuses
    ]
    monkeypatch.setattr(server, "_answer", plain)
    status, body = family.overflow
    server.will(answered(body, status))
    (failed,) = one.reply_all([HELLO])
    assert isinstance(failed, Failure)
    assert not failed.transient  # an overflow, of which no turn can be left out
    assert fault_of(status, body, {}, key="", now=0).kind == "overflow"
    if family.missing:
        status, body = family.missing
        server.will(answered(body, status))
        with pytest.raises(ChatbenchError, match=r"no model or adapter 'm'[\s\S]*one of m"):
            opened(server)


def test_usage_counts_reasoning_once_and_says_what_was_cached(server: LoopbackEndpoint) -> None:
    # One server has reasoning in completion_tokens, another beside it: both wrote 30 tokens.
    one = opened(server)
    body = json.loads(completion("Seven", finish="content_filter").body)
    details = {"completion_tokens_details": {"reasoning_tokens": 25}, "prompt_tokens_details": {"cached_tokens": 8}}
    for written in (30, 5, 30.0):
        usage = {"prompt_tokens": 10, "completion_tokens": written, "total_tokens": 40, **details}
        server.will(Answer(body=json.dumps({**body, "usage": usage, "model": "m-2024"}).encode()))
        (found,) = one.reply_all([HELLO])
        assert isinstance(found, Reply)
        assert (found.tokens, found.prompt_tokens, found.reasoning_tokens, found.cached_tokens) == (30, 10, 25, 8)
        assert (found.finish, found.model) == ("content_filter", "m-2024")
    server.will(
        Answer(body=json.dumps({**body, "usage": {"prompt_tokens": 10**400, "completion_tokens": True}}).encode())
    )
    (found,) = one.reply_all([HELLO])
    assert isinstance(found, Reply)
    assert (found.tokens, found.prompt_tokens) == (0, 0)
    assert not isinstance(found, Failure)
