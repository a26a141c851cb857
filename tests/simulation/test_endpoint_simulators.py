"""Simulators behind endpoints: what each style and kind sends, against a server on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.loopback_endpoint import LoopbackEndpoint, completion, running

from chatbench.api import assistant, run, simulator
from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Question, Turn
from chatbench.data.workspace import Workspace
from chatbench.endpoints.participant import EndpointParticipant
from chatbench.protocol.dialogue import Reply, Request
from chatbench.protocol.plain_text import prompt_text
from chatbench.protocol.prompt_styles import STYLES, StyleName
from chatbench.protocol.prompts import USERLM_END
from chatbench.simulation.participants import open_simulator, read_simulator_spec

QUESTION = Question("q1", "maths", "What is 2+2?", ("3", "4", "5", "6"), "B")
TURNS = (Turn("user", "what is 2+2"), Turn("assistant", "It is 4."))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackEndpoint]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    one = LoopbackEndpoint(models=("m", "tiny-split_0", "tiny-split_3"))
    with running(one):
        yield one


def opened(server: LoopbackEndpoint, style: StyleName, kind: str, model: str = "m") -> EndpointParticipant:
    spec = read_simulator_spec(f"{style}:{kind}:{model}@{server.url}")
    participant = open_simulator(
        spec, model="any", workspace=Workspace(results=Path("none")), split="split_3", max_tokens=9
    )
    assert isinstance(participant, EndpointParticipant)
    server.asked.clear()
    return participant


def asked(participant: EndpointParticipant, style: StyleName) -> Reply:
    messages = STYLES[style].messages(QUESTION.full_text, TURNS)
    (reply,) = participant.reply_all([Request("simulator", messages, QUESTION.id, 1, "turn")])
    assert isinstance(reply, Reply)
    return reply


@pytest.mark.parametrize("style", ["two-step", "iqa-eval"])
def test_each_split_is_simulated_by_its_own_adapter_in_the_form_of_training(
    server: LoopbackEndpoint, style: StyleName
) -> None:
    asked(opened(server, style, "completions", "tiny-{split}"), style)

    (body,) = server.asked
    assert body["model"] == "tiny-split_3"
    assert body["prompt"] == prompt_text(STYLES[style].messages(QUESTION.full_text, TURNS))
    assert body["stop"] == ["[END]"]


@pytest.mark.parametrize(
    ("style", "roles"),
    [("two-step", ["system", "user"]), ("iqa-eval", ["system"]), ("userlm", ["system", "user", "assistant"])],
)
def test_a_chat_endpoint_gets_the_messages_of_the_style(
    server: LoopbackEndpoint, style: StyleName, roles: list[str]
) -> None:
    asked(opened(server, style, "openai"), style)

    (body,) = server.asked
    assert [message["role"] for message in body["messages"]] == roles


def test_an_adapter_that_the_server_does_not_have_is_told_before_the_run(server: LoopbackEndpoint) -> None:
    with pytest.raises(ChatbenchError, match="other-split_3"):
        opened(server, "two-step", "completions", "other-{split}")


@pytest.mark.parametrize("end", [USERLM_END, ""])
def test_a_userlm_behind_a_server_ends_its_chat_whether_or_not_the_token_is_written(
    server: LoopbackEndpoint, end: str
) -> None:
    user = simulator(f"userlm:openai:m@{server.url}")
    server.script = [completion("what is 2+2"), completion(end), completion("Answer: B")]

    (record,) = run(user, assistant("scripted:strong"), [QUESTION], conversations=1)

    assert (record.termination, record.letter, len(record.turns)) == ("forced", "B", 2)
    assert record.usage.simulator_tokens > 0
