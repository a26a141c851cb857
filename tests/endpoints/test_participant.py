"""Models behind endpoints, against a server on this machine: what is sent, and what each fault becomes."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import pytest
from benchmarks.loopback_endpoint import Answer, LoopbackEndpoint, as_text, completion, error, running, said_to
from tests.support.clock import Clock

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Message, Turn
from chatbench.endpoints.address import EndpointAddress, EndpointOptions, read_address
from chatbench.endpoints.client import EndpointKind
from chatbench.endpoints.participant import EndpointParticipant, open_endpoint_participant
from chatbench.protocol.dialogue import Failure, ParticipantName, Reply, Request
from chatbench.protocol.prompts import FOUR_OPTIONS, prompt_text, simulator_messages

KEY = "very-secret-0123456789"
REQUEST = Request("assistant", (Message("system", "S"), Message("user", "hi")), "q", 2**40 + 7, "reply")
TURNS = (Turn("user", "one two"), Turn("assistant", "three four"), Turn("user", "five"), Turn("assistant", "six"))
ASKED = Request("simulator", simulator_messages("What is 2+2?", TURNS, asked_for=FOUR_OPTIONS), "q", 1, "turn")
QUICK = EndpointOptions(concurrency=8, timeout_seconds=5, max_tries=3, patience_seconds=60)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackEndpoint]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("TEST_KEY", KEY)
    one = LoopbackEndpoint(key=KEY)
    with running(one):
        yield one


def opened(
    server: LoopbackEndpoint, kind: EndpointKind = "chat", role: ParticipantName = "assistant", *, model: str = "m"
) -> EndpointParticipant:
    address = EndpointAddress(model, server.url, "TEST_KEY")
    options = replace(QUICK)  # of its own: nothing is known of the server
    return open_endpoint_participant(address, kind=kind, role=role, temperature=0.7, max_tokens=50, options=options)


def unhurried(
    server: LoopbackEndpoint, options: EndpointOptions = QUICK, **which: Any
) -> tuple[EndpointParticipant, Clock]:
    """A checked participant whose pauses take no time, and the clock that counts them."""
    clock = Clock()
    one = opened(server, **which)
    server.asked.clear()
    return EndpointParticipant(one._clients, one._role, options, clock=clock, sleep=clock.sleep), clock


def answered(participant: EndpointParticipant, request: Request = REQUEST) -> Reply:
    (reply,) = participant.reply_all([request])
    assert isinstance(reply, Reply)
    return reply


def error_of(server: LoopbackEndpoint, monkeypatch: pytest.MonkeyPatch, **which: Any) -> str:
    monkeypatch.setattr("chatbench.endpoints.errors.FIRST_PAUSE_SECONDS", 0)
    with pytest.raises(ChatbenchError) as caught:
        opened(server, **which)
    assert "secret" not in str(caught.value)
    return str(caught.value)


def test_a_reply_carries_text_usage_time_and_whether_it_stopped_by_itself(server: LoopbackEndpoint) -> None:
    participant, _ = unhurried(server)
    server.will(completion("4 5 6", "length"), completion("5"))

    cut, whole = answered(participant), answered(participant)

    assert (cut.text, cut.tokens, cut.prompt_tokens, cut.finish, cut.model) == ("4 5 6", 3, 1, "length", "m")
    assert (whole.text, whole.finish) == ("5", "stop")
    assert 0 < whole.seconds < 5
    assert server.asked[0] == {
        "path": "/v1/chat/completions",
        "model": "m",
        "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "hi"}],
        "temperature": 0.7,
        "max_tokens": 50,
        "seed": 7,
    }
    assert set(server.keys) == {f"Bearer {KEY}"}


def test_a_fine_tuned_model_is_asked_for_the_text_of_its_training(server: LoopbackEndpoint) -> None:
    # A prompt without its last space, or a chat request, would be a text that the model never saw.
    participant, _ = unhurried(server, kind="completions", role="simulator")
    server.will(completion(" what is it? [END] and more", chat=False))

    reply = answered(participant, ASKED)

    assert reply.text == "what is it?"
    asked = server.asked[0]
    assert asked["path"] == "/v1/completions"
    assert asked["prompt"] == prompt_text(ASKED.messages)
    assert asked["prompt"].endswith("\n\n[USER] ")
    assert (asked["stop"], asked["max_tokens"], asked["seed"]) == (["[END]"], 50, 1)


def test_a_simulator_that_says_nothing_has_said_nothing(server: LoopbackEndpoint) -> None:
    # Trying again would get the same from a server that heeds the seed; the dialogue ends such a chat.
    participant, _ = unhurried(server, kind="completions", role="simulator")
    server.will(completion("", chat=False))

    assert answered(participant, ASKED).text == ""
    assert len(server.asked) == 1


def test_busy_answers_and_lost_connections_are_tried_again_for_longer_than_bad_ones(server: LoopbackEndpoint) -> None:
    participant, clock = unhurried(server)
    server.will(*[error(429), error(503), Answer(act="reset"), Answer(act="cut")] * 2, completion("there"))

    assert answered(participant).text == "there"
    assert len(server.asked) == 9  # max_tries is 3
    assert all(later <= 20 for later in clock.slept)


def test_the_pauses_double_and_are_the_same_for_the_same_seed(server: LoopbackEndpoint) -> None:
    paused = []
    for _ in range(2):
        participant, clock = unhurried(server)
        server.will(*[error(503)] * 5, completion())
        participant.reply_all([REQUEST])
        paused.append(clock.slept)

    assert paused[0] == paused[1]
    assert all(0.25 * 2**n <= seconds <= 0.5 * 2**n for n, seconds in enumerate(paused[0]))


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("Thu, 01 Jan 2099 00:00:00 GMT", None)])
def test_retry_after_is_honoured_as_seconds_and_as_a_date(
    server: LoopbackEndpoint, header: str, seconds: float | None
) -> None:
    participant, clock = unhurried(server)
    server.will(error(429, headers={"retry-after": header}), completion())

    if seconds is None:  # a date far away: longer than the patience, so the run stops and says so
        with pytest.raises(ChatbenchError, match=r"asks to wait [\d,]{9,} s \(HTTP 429\)"):
            participant.reply_all([REQUEST])
    else:
        answered(participant)
        assert max(clock.slept) == seconds


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (error(500, "oops"), "endpoint: HTTP 500: oops"),
        (completion(""), "endpoint: an empty text"),
        (completion(None, "tool_calls"), "endpoint: a tool call instead of a text"),
        (Answer(body=b'{"choices": []}'), "endpoint: an answer without a choice"),
        (Answer(body=b'{"message": {"role": "assistant", "content": "7"}, "done": true}'),
         "endpoint: an answer without a choice (Ollama's own format? the base URL ends in /v1)"),
        (Answer(body=b'{"choices": [7]}'), "endpoint: an answer without a text"),
        (Answer(body=b"{"), "endpoint: unreadable answer"),
        (Answer(body=b"[" * 200_000), "endpoint: unreadable answer"),
        (Answer(body=b'{"n": ' + b"9" * 5000 + b"}"), "endpoint: unreadable answer"),
        (Answer(body=b"<html>", kind="text/html"), "endpoint: a web page"),
        (Answer(body=b"no upstream", kind="text/plain"), "endpoint: text instead of a completion: no upstream"),
        (Answer(body=b'data: {"choices": []}', kind="text/event-stream"),
         "endpoint: a stream of events, though none was requested (turn off streaming)"),
        (Answer(body=bytes(8_000_001)), "endpoint: a reply of more than 8,000,000 bytes"),
        (Answer(body=gzip.compress(bytes(8_000_001)), headers={"content-encoding": "gzip"}),
         "endpoint: a reply of more than 8,000,000 bytes when unpacked"),
    ],
)  # fmt: skip
def test_a_lasting_fault_is_a_failure_of_that_conversation_only(
    server: LoopbackEndpoint, answer: Answer, reason: str
) -> None:
    participant, _ = unhurried(server)
    server.will(*[answer] * 3, completion("next"))

    (failure,) = participant.reply_all([REQUEST])
    assert isinstance(failure, Failure)
    assert (failure.reason, failure.transient) == (reason, True)
    assert len(server.asked) == 3
    assert answered(participant).text == "next"


@pytest.mark.parametrize("role", ["assistant", "simulator"])
def test_a_text_that_the_token_limit_cut_off_before_it_began_is_paid_for_once(
    server: LoopbackEndpoint, monkeypatch: pytest.MonkeyPatch, role: ParticipantName
) -> None:
    # The model reasons, and its usage hides it: each of six tries would cost a whole limit.
    participant, _ = unhurried(server, role=role)
    server.will(*[completion("", "length")] * 4)

    (failure,) = participant.reply_all([replace(REQUEST, participant=role)])

    assert isinstance(failure, Failure)
    assert failure.reason == "endpoint: the token limit was reached before any text (raise --max-tokens)"
    assert len(server.asked) == 1
    assert "raise --max-tokens" in error_of(server, monkeypatch)


@pytest.mark.parametrize(
    ("answer", "found", "fix"),
    [
        (Answer(body=b"<html>Log in</html>"), "a web page", "check the base URL"),
        (completion(""), "an empty text", "why the model writes no text"),
        (completion(None, "tool_calls"), "a tool call instead of a text", "why the model writes no text"),
        (completion("", "length"), "the token limit was reached before any text", "raise --max-tokens"),
        (error(400, "max_tokens is too large: 50"), "HTTP 400: max_tokens is", "choose another --max-tokens"),
        # An account's error in words that nobody listed would else be recorded as the fault of every conversation.
        (error(400, "your plan ended"), "HTTP 400: your plan ended", "the same command continues"),
        (error(500, "oops"), "HTTP 500: oops", "check that the endpoint is up, then run the same command again: it"),
    ],
)
def test_a_run_in_which_many_requests_in_a_row_are_given_up_stops_and_names_the_fix(
    server: LoopbackEndpoint, answer: Answer, found: str, fix: str
) -> None:
    for patience_seconds in (60.0, 0.0):
        participant, _ = unhurried(server, replace(QUICK, patience_seconds=patience_seconds))
        server.will(*[answer] * 100)

        with pytest.raises(ChatbenchError) as caught:
            participant.reply_all([REQUEST] * 20)
        assert fix in caught.value.fix
        server.will()
        assert patience_seconds == 0 or f"8 requests in a row failed ({found}" in caught.value.found


@pytest.mark.parametrize(
    ("says", "where"),
    [
        ("System role not supported", {}),
        ("'messages[0].role' does not support 'system' with this model.", {"param": "messages[0].role"}),
        ("Conversation roles must alternate user/assistant/user/assistant/...", {}),
        ("Developer instruction is not enabled for models/gemma-3-1b-it", {}),
    ],
)
def test_a_model_without_a_system_role_gets_its_text_before_the_users(
    server: LoopbackEndpoint, monkeypatch: pytest.MonkeyPatch, says: str, where: dict[str, str]
) -> None:
    plain = server._answer
    monkeypatch.setattr(
        server,
        "_answer",
        lambda *asked: error(400, says, **where) if b'"system"' in asked[-1] else plain(*asked),
    )
    participant = opened(server)
    turns = (Message("user", "hi"), Message("assistant", "yes?"), Message("user", "so"))
    answered(participant, replace(REQUEST, messages=(Message("system", "S"), *turns)))
    answered(participant, replace(REQUEST, messages=(Message("system", "S"),)))

    assert participant.identity["left_out"] == ["system role"]
    long, lone = (asked["messages"] for asked in server.asked[-2:])
    assert long == [{"role": "user", "content": "S\n\nhi"}, *(turn.as_dict() for turn in turns[1:])]
    assert lone == [{"role": "user", "content": "S"}]
    assert "seed" in server.asked[-1]


def test_a_proxy_that_is_in_the_way_of_a_server_is_named_without_its_password(
    server: LoopbackEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://me:pass@127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://me:pass@127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")

    message = error_of(server, monkeypatch)

    assert "cannot connect through the proxy of HTTP_PROXY=http://***@127.0.0.1:9" in message
    assert "NO_PROXY=127.0.0.1" in message
    assert "pass@" not in message
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server.port = 9
    direct = error_of(server, monkeypatch)
    assert "cannot connect" in direct
    assert "proxy" not in direct


@pytest.mark.parametrize("act", ["hang", "drip"])
def test_a_slow_server_is_not_waited_for_for_ever(server: LoopbackEndpoint, act: Literal["hang", "drip"]) -> None:
    # The HTTP client's own limit is per piece of an answer: one that drips never meets it.
    participant, _ = unhurried(server)
    participant._clients[0].timeout_seconds = 1.0
    server.will(Answer(act=act), completion("woke up"))

    assert answered(participant).text == "woke up"


def test_a_request_that_the_server_refuses_is_not_tried_again_by_the_next_run(server: LoopbackEndpoint) -> None:
    participant, _ = unhurried(server)
    server.will(error(400, "content filter"))

    assert participant.reply_all([REQUEST]) == [Failure("endpoint: HTTP 400: content filter", transient=False)]
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        (completion(None, "content_filter"), False),
        (error(403, "not about this"), True),
        (error(400, "not about this"), False),
        (completion("<think>B?", "length"), True),
    ],
)
def test_one_question_that_is_never_answered_fails_alone(
    server: LoopbackEndpoint, monkeypatch: pytest.MonkeyPatch, answer: Answer, passes: bool
) -> None:
    # Its chats may be all that a second run has left to ask: stopping it would stop every run.
    participant, plain = unhurried(server)[0], server._answer
    monkeypatch.setattr(
        server,
        "_answer",
        lambda verb, path, headers, body: answer if b"poison" in body else plain(verb, path, headers, body),
    )
    poison = replace(REQUEST, messages=(Message("user", "poison?"),))

    first, again = participant.reply_all([*[poison] * 20, REQUEST]), participant.reply_all([poison] * 20)

    assert isinstance(first[-1], Reply)
    for found in [*first[:-1], *again]:
        assert isinstance(found, Failure)
        assert found.transient == passes
    small = sum(asked["messages"][-1]["content"] == "Reply with the word: ready" for asked in server.asked)
    assert (small > 0) == (answer.status != 200 or passes)  # a filter at work is no broken endpoint


def test_a_server_that_dies_is_waited_for_and_a_dead_one_stops_the_run(server: LoopbackEndpoint) -> None:
    participant, clock = unhurried(server)
    other = LoopbackEndpoint()
    with running(other) as run:
        participant._clients[0].address = EndpointAddress("m", other.url, "")
        port = other.port
        run(other.die())
        returns_at = [40.0]

        async def sleep(seconds: float) -> None:
            await clock.sleep(seconds)
            if returns_at and clock.now >= returns_at[0]:
                returns_at.clear()
                run(other.start(port))

        participant._patience._sleep = sleep
        answered(participant)
        assert clock.now >= 40
        run(other.die())
        with pytest.raises(ChatbenchError, match=r"no good answer for 60 s \(cannot connect\)\n.*it continues"):
            participant.reply_all([REQUEST] * 3)


@pytest.mark.parametrize("path", ["chat", "completions"])
def test_a_prompt_that_outgrew_the_context_loses_its_oldest_turns(server: LoopbackEndpoint, path: EndpointKind) -> None:
    participant, _ = unhurried(server, kind=path, role="simulator")
    whole = simulator_messages("What is 2+2?", TURNS, asked_for=FOUR_OPTIONS)
    sent = len((prompt_text(whole) if path == "completions" else as_text([m.as_dict() for m in whole])).split())
    server.room = sent - 2

    reply = answered(participant, ASKED)

    assert reply.turns_dropped == 2
    text = server.asked[-1]["prompt"] if path == "completions" else server.asked[-1]["messages"][1]["content"]
    assert "YOU: one two" not in text
    assert "YOU: five\n\nSYSTEM: six" in text


def test_an_assistant_loses_its_oldest_turns_too_and_says_when_nothing_is_left_to_lose(
    server: LoopbackEndpoint,
) -> None:
    participant, _ = unhurried(server)
    chat = [Message("system", "S"), *(Message(turn.role, turn.text) for turn in TURNS), Message("user", "and now")]
    request = Request("assistant", tuple(chat), "q", 1, "reply")
    server.room = len(as_text([message.as_dict() for message in chat]).split()) - 1

    first = participant.reply_all([request])[0]
    server.room = 3
    second = participant.reply_all([request])[0]

    assert isinstance(first, Reply)
    assert first.turns_dropped == 2
    assert isinstance(second, Failure)
    assert not second.transient
    assert "maximum context length is 3 tokens" in second.reason


@pytest.mark.parametrize(
    ("server_has", "which", "told"),
    [
        ({"room": 2}, {}, ["maximum context length is 2 tokens", "--max-tokens"]),
        ({"key": "another"}, {}, ["refuses the key in TEST_KEY (HTTP 401: Incorrect API key provided: Bearer ***)"]),
        (
            {"models": ("base", "tiny-split_0", "tiny-split_1")},
            {"kind": "completions", "role": "simulator", "model": "tiny-split_7"},
            ["no model or adapter 'tiny-split_7'", "one of base, tiny-split_0, tiny-split_1"],
        ),
    ],
)
def test_what_does_not_fit_is_told_before_the_run_with_what_would(
    server: LoopbackEndpoint, monkeypatch: pytest.MonkeyPatch, server_has: dict[str, Any], which: dict[str, Any],
    told: list[str],
) -> None:  # fmt: skip
    for name, value in server_has.items():
        setattr(server, name, value)

    message = error_of(server, monkeypatch, **which)

    assert [words for words in told if words not in message] == []
    assert len(server.asked) == 1


def test_a_key_that_is_withdrawn_in_mid_run_stops_it(server: LoopbackEndpoint) -> None:
    participant, _ = unhurried(server)
    server.key = "another"

    with pytest.raises(ChatbenchError, match="refuses the key in TEST_KEY"):
        participant.reply_all([REQUEST] * 3)


def test_an_account_without_credit_stops_the_run_although_it_is_told_as_busy(server: LoopbackEndpoint) -> None:
    # It comes as HTTP 429, which otherwise is waited for.
    participant, clock = unhurried(server)
    server.will(error(429, "You exceeded your current quota", code="insufficient_quota"))

    with pytest.raises(ChatbenchError, match="exceeded your current quota"):
        participant.reply_all([REQUEST])
    assert clock.slept == []


@pytest.mark.parametrize(
    "spelt",
    [KEY, base64.b64encode(f"u:{KEY}".encode()).decode(), KEY.encode().hex(), KEY.upper(), KEY[:16], KEY[-16:],
     "sk-somebody-else0123456"],
)  # fmt: skip
def test_a_key_is_shown_in_no_encoding(server: LoopbackEndpoint, monkeypatch: pytest.MonkeyPatch, spelt: str) -> None:
    server.will(*[error(422, f"you sent <{spelt}>")] * 9)

    message = error_of(server, monkeypatch)

    assert "you sent <" in message
    assert spelt[4:-4] not in message


@pytest.mark.parametrize("key", ["1234", "none", "token", "a/b+c/d+0123"])
def test_a_key_is_masked_in_texts_alone_and_a_placeholder_nowhere(
    server: LoopbackEndpoint, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    # Masked in the JSON, "token" makes prompt_***s of prompt_tokens, and a key that JSON escapes stays.
    monkeypatch.setenv("TEST_KEY", key)
    server.key = key
    participant, _ = unhurried(server)
    # JSON can spell a lone surrogate, and no UTF-8 file can hold it.
    said = Answer(body=completion(f"none of 1234 token {key} \ud83d").body.replace(b"/", b"\\/"))
    server.will(said, in_pieces({"content": f"it is {key}"}), error(400, f"said {key}"))
    shown = key if len(key) < 8 else "***"

    reply = answered(participant)
    assert (reply.text, reply.tokens, reply.prompt_tokens) == (f"none of 1234 token {shown} ?", 6, 1)
    assert listened(participant)[1][-1] == f"it is {shown}"
    assert participant.reply_all([REQUEST]) == [Failure(f"endpoint: HTTP 400: said {shown}")]


@pytest.mark.parametrize("proxy", ["socks5://me:password@h:1", "socks://me:password@h:1", "socks5://me:pass/word@h:1"])
def test_a_proxy_that_cannot_be_used_is_told_without_its_password(
    server: LoopbackEndpoint, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("ALL_PROXY", proxy)

    with pytest.raises(ChatbenchError, match=r"cannot be reached through .*ALL_PROXY=socks5?://\*\*\*@h:1") as caught:
        opened(server)
    assert "me:" not in str(caught.value)
    assert "word" not in str(caught.value)


def test_a_second_response_on_a_connection_is_never_the_reply_to_the_next_request(server: LoopbackEndpoint) -> None:
    # Kept open, the connection would hand the surplus to whoever asks next: another conversation.
    participant, _ = unhurried(server)
    surplus = completion("for nobody").body
    more = b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(surplus) + surplus
    first = completion("first").body
    server.will(Answer(body=first + more, headers={"Content-Length": str(len(first))}), completion("second"))

    assert [answered(participant).text for _ in range(2)] == ["first", "second"]


def test_a_redirect_is_not_followed_but_named(server: LoopbackEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    other = LoopbackEndpoint()
    with running(other):
        server.will(Answer(307, headers={"location": f"{other.url}/chat/completions"}))

        assert f"redirects to {other.url}/chat/completions" in error_of(server, monkeypatch)
        assert other.asked == []


def test_replies_in_vain_are_paid_for_as_far_as_is_known(server: LoopbackEndpoint) -> None:
    # A budget that counts good replies only is overrun by a server whose replies cannot be read.
    participant, _ = unhurried(server)
    server.will(Answer(body=b"x" * 400), completion("two words", prompt="a b c"))

    reply = answered(participant)

    assert (reply.tokens, reply.prompt_tokens) == (100 + 2, 3 + 0)  # "S" and "hi" are less than a token


def test_a_server_that_loads_its_model_is_waited_for_at_the_beginning_and_a_stray_fault_stops_nothing(
    server: LoopbackEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatbench.endpoints.errors.FIRST_PAUSE_SECONDS", 0)
    server.will(*[error(503, "Loading model")] * 20, error(500), Answer(act="reset"), Answer(body=b"{"), completion())
    identity = opened(server).identity
    assert len(server.asked) == 24
    assert (identity["name"], identity["reproducible"]) == ("m", False)
    assert "secret" not in str(identity)
    assert "TEST_KEY" not in str(identity)

    server.will(error(503, "Loading model", headers={"retry-after": "7200"}))
    assert "asks to wait 7,200 s (HTTP 503: Loading model)" in error_of(server, monkeypatch)


def test_one_reply_of_only_reasoning_at_the_beginning_is_bad_luck_and_three_are_not(
    server: LoopbackEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A run of ten splits sends it so often that one of a model's empty replies, 6 in 100, almost surely ended it.
    server.will(*[completion("", "length")] * 2)
    opened(server)
    assert len({each["seed"] for each in server.asked}) == len(server.asked) == 3  # not the same reply again

    server.will(*[completion("", "length")] * 3)
    assert "raise --max-tokens" in error_of(server, monkeypatch)


def test_what_the_server_takes_is_found_out_once_for_the_same_settings(server: LoopbackEndpoint) -> None:
    server.will(error(400, "use max_completion_tokens"), error(400), completion())
    address, options = EndpointAddress("m", server.url, "TEST_KEY"), replace(QUICK)
    given: dict[str, Any] = {"kind": "chat", "role": "assistant", "max_tokens": 50, "options": options}
    one = open_endpoint_participant(address, temperature=0.7, **given)
    assert len(server.asked) == 3
    assert set(server.asked[0]) == {"path", "model", "messages", "temperature", "max_tokens", "seed"}

    again = open_endpoint_participant(address, temperature=0.7, **given)

    assert len(server.asked) == 3
    assert again.identity == one.identity
    assert answered(again).text
    assert set(server.asked[-1]) == {"path", "model", "messages", "temperature", "max_completion_tokens"}
    open_endpoint_participant(address, temperature=1.0, **given)
    assert len(server.asked) == 5


def test_requests_run_together_but_never_more_than_allowed(server: LoopbackEndpoint) -> None:
    participant, _ = unhurried(server)
    server.most_together, server.all_here = 0, 8  # each waits until eight have asked: fewer at once would never end

    replies = participant.reply_all([REQUEST] * 30)

    asked = [message.as_dict() for message in REQUEST.messages]
    assert {reply.text for reply in replies if isinstance(reply, Reply)} == {said_to(asked)}
    assert len(replies) == 30
    assert server.most_together == 8


def test_a_key_that_is_not_set_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    with pytest.raises(ChatbenchError, match="environment variable OPENAI_API_KEY is not set"):
        read_address("gpt-4o").key()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpt-4o#MY_KEY", EndpointAddress("gpt-4o", "https://api.openai.com/v1", "MY_KEY")),
        ("a/b@c@http://host:1/v1/#K", EndpointAddress("a/b@c", "http://host:1/v1", "K")),
    ],
)
def test_an_address_is_model_then_url_then_name_of_the_key(text: str, expected: EndpointAddress) -> None:
    assert read_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        f"openia:m@http://user:{KEY}@h/v1",
        f"sk-{KEY}",
        f"m#{KEY}",
        f"m@https://user:{KEY}@host/v1",
        f"m@https://host/v1?key={KEY}",
        "",
        "#KEY",
    ],
)
def test_an_address_that_holds_a_key_or_no_model_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ChatbenchError) as caught:
        read_address(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://localhost:80a0/v1", "http://localhost:99999/v1"])
def test_an_address_with_a_port_that_is_none_is_refused(url: str) -> None:
    # The client's own error for it is no error of a connection, and would end in a traceback.
    with pytest.raises(ChatbenchError, match="unreadable base URL"):
        read_address(f"m@{url}")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("llama@localhost:8000/v1", "llama@http://localhost:8000/v1"),
        ("llama@10.0.0.7:8000", "llama@http://10.0.0.7:8000/v1"),
        ("llama@api.example.com", "llama@https://api.example.com/v1"),
        ("localhost:11434/v1", "MODEL@http://localhost:11434/v1"),
        ("m@http:/localhost/v1", "m@http://localhost/v1"),
        ("m@https://h/v1/chat/completions", "https://h/v1"),
        ("m@https://r.openai.azure.com/openai/deployments/m?api-version=2024-10-21", "r.openai.azure.com/openai/v1"),
    ],
)
def test_an_address_that_would_mean_another_service_is_refused_with_what_was_meant(text: str, meant: str) -> None:
    # Taken for the model's name, the address would send the request to OpenAI.
    with pytest.raises(ChatbenchError) as caught:
        read_address(text)
    assert meant in caught.value.fix


@pytest.mark.parametrize(
    "model", ["llama3.1:8b", "claude-3@20240620", "@cf/meta/llama-3", "model.gguf", "meta.llama3-70b-v1:0", "o/key-x"]
)
def test_names_of_models_with_odd_characters_are_names(model: str) -> None:
    assert read_address(model).model == model
    assert read_address(f"{model}@http://[::1]:80/v1").model == model


def test_options_that_would_ask_nobody_are_refused() -> None:
    with pytest.raises(ChatbenchError, match="--concurrency is 0"):
        EndpointOptions(concurrency=0)
    with pytest.raises(ChatbenchError, match="--timeout is 0"):
        EndpointOptions(timeout_seconds=0.0)


def in_pieces(*deltas: dict[str, object], finish: str = "stop", end: str = "data: [DONE]\n\n") -> Answer:
    """An answer as server-sent events."""
    events: list[dict[str, object]] = [{"choices": [{"delta": delta, "finish_reason": None}]} for delta in deltas]
    events += [{"choices": [{"delta": {}, "finish_reason": finish}]}] if finish else []
    events += [{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}, "model": "m-1"}] if end else []
    text = ": comment\r\n" + "".join(f"data: {json.dumps(event)}\r\n\r\n" for event in events) + end
    return Answer(body=text.encode(), kind="text/event-stream; charset=utf-8")


def listened(participant: EndpointParticipant) -> tuple[Reply | Failure, list[str]]:
    heard: list[str] = []

    async def ask() -> Reply | Failure:
        try:
            return await participant.reply_in_pieces(REQUEST, heard.append)
        finally:
            await participant.close()

    return asyncio.run(ask()), heard


def test_a_reply_in_pieces_is_heard_without_its_thoughts_and_read_as_one_in_one_piece(server: LoopbackEndpoint) -> None:
    participant, _ = unhurried(server)
    tags = in_pieces({"content": "<thi"}, {"content": "nk>hm"}, {"content": "</think>It is B."})
    server.will(
        in_pieces({"reasoning_content": "B?"}, {"content": "It is "}, {"content": f"<b>B</b>. {KEY}"}),
        replace(tags, kind="text/plain"),  # pieces are pieces whatever content type they are sent with
        in_pieces({"content": "secret thoughts"}, {"content": "</think>"}, {"content": "It is B."}),
    )
    reply, heard = listened(participant)
    assert isinstance(reply, Reply)
    assert (reply.text, reply.reasoning, reply.finish) == ("It is <b>B</b>. ***", "B?", "stop")
    assert (reply.prompt_tokens, reply.tokens, reply.model) == (7, 3, "m-1")
    assert list(dict.fromkeys(heard)) == ["", "It is ", reply.text]
    assert server.asked[-1]["stream"] is True
    for _ in range(2):  # once it has thought aloud, a closing tag without an opening one is waited for
        reply, heard = listened(participant)
        assert isinstance(reply, Reply)
        assert reply.text == "It is B."
        assert list(dict.fromkeys(heard)) == ["", "It is B."]


def test_a_server_without_pieces_is_asked_for_the_whole_from_then_on(server: LoopbackEndpoint) -> None:
    participant, _ = unhurried(server)
    server.will(error(400, "Unrecognized request argument supplied: stream_options"), completion("a"), completion("b"))

    found = [listened(participant) for _ in range(2)]

    assert [(reply.text, heard) for reply, heard in found if isinstance(reply, Reply)] == [("a", []), ("b", [])]
    assert ["stream" in asked for asked in server.asked] == [True, False, False]


def test_a_reply_that_breaks_off_is_asked_for_again_and_heard_anew(server: LoopbackEndpoint) -> None:
    participant, clock = unhurried(server)
    server.will(
        in_pieces({"content": "It"}, finish="", end=""),
        Answer(body=b"data: {\n\n", kind="text/event-stream"),
        in_pieces({"content": "All of it."}),
    )
    reply, heard = listened(participant)

    assert isinstance(reply, Reply)
    assert reply.text == "All of it."
    assert [text for text in dict.fromkeys(heard) if text] == ["It", "All of it."]
    assert len(clock.slept) == 2
