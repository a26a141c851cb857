"""One model at several addresses, against two servers on this machine: who is asked, and what a death costs."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks.loopback_endpoint import Answer, LoopbackEndpoint, error, running
from tests.support.clock import Clock
from tests.support.simulated_logs import prepared

from chatbench.cli import main
from chatbench.core.configurations import differences
from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Message
from chatbench.endpoints.address import EndpointAddress, EndpointOptions, read_addresses
from chatbench.endpoints.participant import EndpointParticipant, open_endpoint_participant, refuse_missing_adapters
from chatbench.protocol.dialogue import Failure, Reply, Request
from chatbench.simulation.log import read_recorded
from chatbench.simulation.participants import notes_on

REQUEST = Request("assistant", (Message("user", "hi"),), "q", 7, "reply")
QUICK = EndpointOptions(concurrency=8, timeout_seconds=5, max_tries=3, patience_seconds=60)
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


class Eventful(LoopbackEndpoint):
    """Something happens when it has answered so many requests."""

    def __init__(self) -> None:
        super().__init__(latency_seconds=lambda _: 0.002)
        self.events: dict[int, Callable[[], Coroutine[Any, Any, None]]] = {}
        self._happening: list[asyncio.Task[None]] = []

    def _answer(self, verb: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        answer = super()._answer(verb, path, headers, body)
        if event := self.events.pop(self.counts["answer"], None):
            self._happening.append(asyncio.ensure_future(event()))
        return answer


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Eventful, Eventful, Callable[[Any], Any]]]:
    """Two servers in one thread, and what runs a coroutine there."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    one, two = Eventful(), Eventful()
    with running(one) as run:
        run(two.start())
        yield one, two, run
        run(two.die())


def opened(*servers: LoopbackEndpoint, model: str = "m") -> EndpointParticipant:
    address = f"{model}@{','.join(each.url for each in servers)}"
    options = {"kind": "chat", "role": "assistant", "temperature": 0.7, "max_tokens": 50, "options": replace(QUICK)}
    return open_endpoint_participant(address, **options)  # type: ignore[arg-type]


def unhurried(*servers: LoopbackEndpoint) -> tuple[EndpointParticipant, Clock]:
    """A checked participant whose pauses take no time, and the clock that counts them."""
    clock, checked = Clock(), opened(*servers)
    for each in servers:
        each.asked.clear()
    return EndpointParticipant(checked._clients, "assistant", QUICK, clock=clock, sleep=clock.sleep), clock


def answered(participant: EndpointParticipant) -> str:
    """The address that replied to one request."""
    (reply,) = participant.reply_all([REQUEST])
    assert isinstance(reply, Reply)
    return reply.model.partition("@")[2]


def test_a_death_in_mid_run_loses_no_chat_and_doubles_none_and_who_returns_is_asked_again(
    servers: tuple[Eventful, Eventful, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one, two, _ = servers
    monkeypatch.setattr("chatbench.endpoints.errors.FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("chatbench.endpoints.errors.LONGEST_PAUSE_SECONDS", 0.05)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    faults: Any = importlib.import_module("endpoint_faults")
    place = prepared(tmp_path, splits=1)
    one.events = {30: one.die}
    two.events = {90: one.start, 140: two.die}  # from then on nobody answers but the one that was dead
    urls = f"{two.url},{one.url}"
    line = ["simulate", "u", "--split", "split_0", "--conversations", "15", "--concurrency", "8"]
    line += ["--simulator", f"two-step:completions:m@{urls}", "--assistant", f"bot=openai:m@{urls}"]
    line += ["--data", str(place.data), "--results", str(place.results)]

    assert main(line) == 0

    chats = [chat for _, chat in read_recorded(place.conversations("u", "split_0"))]
    assert len({chat.id for chat in chats}) == len(chats) == 60
    assert not any(faults.corrupted(chat, place.study.questions[chat.question_id]) for chat in chats)
    assert not one.events
    assert not two.events
    assert one.counts["answer"] > 30 + 30
    assert max(one.most_together, two.most_together) <= 16  # eight of each side
    by = Counter(name for chat in chats for names in chat.served_models.values() for name in names)
    assert set(by) == {f"m@{one.url}", f"m@{two.url}"}
    printed = capsys.readouterr().out
    assert f"the simulator: m was requested; models that answered (conversations): m@{two.url} in" in printed


def test_a_request_goes_to_the_least_loaded_address(servers: tuple[Eventful, Eventful, Any]) -> None:
    one, two, _ = servers
    participant, _ = unhurried(one, two)
    one.all_here = two.all_here = 4  # neither answers before four of the eight requests are with it

    replies = participant.reply_all([REQUEST] * 8)

    assert Counter(reply.model for reply in replies if isinstance(reply, Reply)) == {
        f"m@{one.url}": 4,
        f"m@{two.url}": 4,
    }


@pytest.mark.parametrize(
    "answer", [Answer(act="reset"), Answer(act="cut"), error(503), error(500), Answer(body=b"<p>")]
)
def test_a_fault_is_answered_by_the_other_address_without_a_pause(
    servers: tuple[Eventful, Eventful, Any], answer: Answer
) -> None:
    one, two, _ = servers
    participant, clock = unhurried(one, two)
    one.will(answer)

    assert [answered(participant) for _ in range(2)] == [two.url] * 2
    assert (len(one.asked), clock.slept) == (1, [])
    clock.now += 1.0
    assert answered(participant) == one.url


def test_both_dead_are_one_dead_endpoint(servers: tuple[Eventful, Eventful, Any]) -> None:
    one, two, run = servers
    participant, clock = unhurried(one, two)
    run(one.die())
    run(two.die())

    with pytest.raises(ChatbenchError, match=r"no good answer for 60 s \(cannot connect\)\n.*it continues") as caught:
        participant.reply_all([REQUEST] * 3)

    assert caught.value.found.startswith(f"{one.url}, {two.url}: ")
    assert 60 <= clock.now < 3 * 60 + 20


def test_an_address_that_comes_back_with_another_model_gets_no_chat(servers: tuple[Eventful, Eventful, Any]) -> None:
    one, two, _ = servers
    participant, clock = unhurried(one, two)
    one.will(Answer(act="reset"))
    answered(participant)
    one.models = ("another",)
    clock.now += 30

    assert answered(participant) == two.url
    assert [each["messages"][-1]["content"] for each in one.asked] == ["hi", "Reply with the word: ready"]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_an_hour_that_one_address_asks_to_wait_stops_nobody(
    servers: tuple[Eventful, Eventful, Any], order: tuple[int, int]
) -> None:
    asks, other = servers[order[0]], servers[order[1]]
    participant, clock = unhurried(*servers[:2])
    asks.will(error(429, headers={"retry-after": "3600"}))
    other.will(error(500))

    assert answered(participant) == other.url
    assert clock.now < 2
    clock.now = 3602.0
    assert answered(participant) == servers[0].url


def test_addresses_where_nobody_listens_at_the_beginning_are_told_and_left_out(
    servers: tuple[Eventful, Eventful, Any],
) -> None:
    one, two, run = servers
    run(two.die())
    participant = opened(one, two)

    assert notes_on([participant]) == [f"{two.url}: cannot connect; not used until it answers"]
    assert answered(participant) == one.url
    run(one.die())
    with pytest.raises(ChatbenchError, match="cannot connect"):
        opened(one, two)


def test_what_is_wrong_with_the_second_address_is_told_as_such(servers: tuple[Eventful, Eventful, Any]) -> None:
    one, two, _ = servers
    two.models = ("n",)
    with pytest.raises(ChatbenchError, match="no model or adapter 'm'") as caught:
        opened(one, two)
    assert caught.value.found.startswith(f"{two.url}: ")
    assert caught.value.expected == "one of n"

    one.models = ("m-0", "m-1")
    two.models = ("m-0",)
    with pytest.raises(ChatbenchError, match=f"{two.url} does not serve m-1"):
        refuse_missing_adapters([f"m-{split}@{one.url},{two.url}" for split in (0, 1)])
    two.models = ("whatever",)  # llama.cpp answers to any name, and lists its file
    refuse_missing_adapters([f"m-{split}@{one.url},{two.url}" for split in (0, 1)])


def test_what_one_address_refuses_none_is_sent(servers: tuple[Eventful, Eventful, Any]) -> None:
    one, two, _ = servers
    two.will(error(400, "unknown field: seed"))
    participant = opened(one, two)

    answered(participant)
    assert "seed" not in one.asked[-1]
    assert participant.identity["left_out"] == ["seed"]


def test_a_request_that_fails_names_its_own_fault_and_not_another_ones(servers: tuple[Eventful, Eventful, Any]) -> None:
    one, two, _ = servers
    participant, _ = unhurried(one, two)
    one.will(Answer(act="reset"))
    two.will(error(401, "withdrawn"))

    with pytest.raises(ChatbenchError, match="withdrawn") as caught:
        participant.reply_all([REQUEST])
    assert caught.value.found.startswith(f"{two.url} refuses")
    two.will(error(400, "not this"))
    (failed,) = participant.reply_all([REQUEST])
    assert failed == Failure("endpoint: HTTP 400: not this")


def test_other_addresses_are_one_difference_and_their_order_is_none(servers: tuple[Eventful, Eventful, Any]) -> None:
    one, two, _ = servers
    alone, both, turned = opened(one).identity, opened(one, two).identity, opened(two, one).identity

    assert both == turned
    assert [each.name for each in differences(alone, both)] == ["base_url"]
    assert both["base_url"] == ",".join(sorted((one.url, two.url)))
    assert "127.0.0.1" in json.dumps(both)


def test_each_address_has_the_key_that_it_would_have_alone() -> None:
    ours = "https://api.openai.com/v1"
    assert read_addresses(f"a,b@{ours},http://h:1/v1/") == (
        EndpointAddress("a,b", ours, "OPENAI_API_KEY"),
        EndpointAddress("a,b", "http://h:1/v1", ""),
    )
    assert {each.key_name for each in read_addresses(f"m@{ours},http://h/v1#K")} == {"K"}
    assert read_addresses("m") == (EndpointAddress("m", ours, "OPENAI_API_KEY"),)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("m@http://a/v1,", "address 2 of 2, '', does not start with http:// or https://"),
        ("m@http://a/v1,b:8000/v1", "address 2 of 2, 'b:8000/v1', does not start"),
        ("m@http://a/v1,http://b/v1,b", "address 3 of 3, 'b', does not start"),
        ("m@http://a/v1,http://a/v1/", "http://a/v1 is given twice"),
        ("m@http://a/v1,https://user:secret@b/v1", "a user name, a password or a query"),
        ("m@http://a/v1,http://b:99999/v1", "unreadable base URL"),
        ("m@http://a/v1#K,http://b/v1#K", "not the name of an environment variable"),
    ],
)
def test_a_list_with_an_address_that_is_none_is_refused(text: str, found: str) -> None:
    # Read as a model's name, `m@b` would be sent to OpenAI.
    with pytest.raises(ChatbenchError) as caught:
        read_addresses(text)
    assert found in caught.value.found
    assert "secret" not in str(caught.value)
