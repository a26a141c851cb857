"""The chat endpoint against a server on this machine: what it sends, and what each fault becomes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Message
from chatbench.models.endpoint import ChatEndpoint, EndpointAddress, read_address
from chatbench.models.speakers import EndpointAssistant
from chatbench.protocol.dialogue import Failure, Reply, Request

KEY = "sk-very-secret-0123456789"
REQUEST = Request("assistant", (Message("system", "S"), Message("user", "hi")), "q", 2**40 + 7, "reply")


def completion(text: str | None = "hello", finish: str = "stop") -> bytes:
    message = {"role": "assistant", "content": text}
    return json.dumps(
        {
            "id": "x", "object": "chat.completion", "created": 0, "model": "m",
            "choices": [{"index": 0, "finish_reason": finish, "message": message}],
            "usage": {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5},
        }
    ).encode()  # fmt: skip


class Server(ThreadingHTTPServer):
    """Answers with the next of `answers` (status, content type, body), the last one for ever; keeps what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, str, bytes]] = [(200, "application/json", completion())]
        self.asked: list[dict[str, object]] = []
        self.keys: list[str | None] = []
        self.together = self.most_together = 0
        self.lock = threading.Lock()
        self.barrier: threading.Barrier | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def will(self, *answers: tuple[int, bytes]) -> None:
        self.answers = [(status, "application/json", body) for status, body in answers]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.asked.append(body)
            self.server.keys.append(self.headers["authorization"])
            status, kind, answer = self.server.answers[0]
            if len(self.server.answers) > 1:
                self.server.answers.pop(0)
            self.server.together += 1
            self.server.most_together = max(self.server.most_together, self.server.together)
        if self.server.barrier:
            self.server.barrier.wait(5)
        with self.server.lock:
            self.server.together -= 1
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(answer)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("TEST_KEY", KEY)
    one = Server()
    thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield one
    one.shutdown()
    thread.join()
    one.server_close()


def endpoint(server: Server, *, max_retries: int = 2, concurrency: int = 8) -> ChatEndpoint:
    address = EndpointAddress("m", server.url, "TEST_KEY")
    return ChatEndpoint(address, temperature=0.7, max_tokens=50, max_retries=max_retries, concurrency=concurrency)


def error_of(one: ChatEndpoint) -> str:
    with pytest.raises(ChatbenchError) as caught:
        one.check()
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__
    return str(caught.value)


def test_a_reply_carries_text_tokens_and_whether_it_stopped_by_itself(server: Server) -> None:
    server.will((200, completion("4", "length")), (200, completion("5")))

    assert endpoint(server).complete_all([REQUEST]) == [Reply("4", 3, False)]
    assert endpoint(server).complete_all([REQUEST]) == [Reply("5", 3, True)]
    assert server.asked[0] == {
        "model": "m",
        "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "hi"}],
        "temperature": 0.7,
        "max_tokens": 50,
        "seed": 7,
    }
    assert server.keys[0] == f"Bearer {KEY}"


def test_busy_answers_are_tried_again(server: Server) -> None:
    server.will((429, b"{}"), (503, b"{}"), (200, completion()))

    assert endpoint(server).complete_all([REQUEST]) == [Reply("hello", 3)]
    assert len(server.asked) == 3


def test_a_lasting_fault_is_a_failure_of_that_conversation_only(server: Server) -> None:
    server.will((503, b"{}"), (200, completion()))

    assert endpoint(server, max_retries=0, concurrency=1).complete_all([REQUEST] * 2) == [
        Failure("endpoint: HTTP 503", transient=True),
        Reply("hello", 3),
    ]


def test_a_request_that_the_server_refuses_is_not_tried_again_by_the_next_run(server: Server) -> None:
    server.will((400, b'{"error": {"message": "content filter"}}'))

    assert endpoint(server).complete_all([REQUEST]) == [Failure("endpoint: HTTP 400", transient=False)]
    assert len(server.asked) == 1


def test_when_a_whole_round_fails_the_run_stops(server: Server) -> None:
    server.will((500, b"{}"))

    with pytest.raises(ChatbenchError, match=r"all of 4 requests failed \(endpoint: HTTP 500\)"):
        endpoint(server, max_retries=0).complete_all([REQUEST] * 4)


@pytest.mark.parametrize("content", ["", None, "  \n"])
def test_an_empty_text_is_a_failure_and_no_message(server: Server, content: str | None) -> None:
    server.will((200, completion(content)))

    assert endpoint(server).complete_all([REQUEST]) == [Failure("endpoint: an empty text", transient=True)]
    assert "an empty text" in error_of(endpoint(server))


def test_an_answer_without_a_choice_is_named(server: Server) -> None:
    body = json.loads(completion())
    server.will((200, json.dumps({**body, "choices": []}).encode()))

    assert "an answer without a choice" in error_of(endpoint(server))


def test_a_wrong_key_is_named_by_its_variable_and_never_shown(server: Server) -> None:
    server.will((401, f'{{"error": {{"message": "Incorrect API key provided: {KEY}"}}}}'.encode()))

    message = error_of(endpoint(server))

    assert "refuses the key in TEST_KEY (HTTP 401)" in message


def test_a_wrong_model_is_named_with_the_way_to_list_them(server: Server) -> None:
    server.will((404, b'{"error": {"message": "no such model"}}'))

    assert f"{server.url}/models" in error_of(endpoint(server))


def test_a_web_page_is_recognised(server: Server) -> None:
    server.answers = [(200, "text/html", b"<html>Welcome</html>")]

    assert "a web page" in error_of(endpoint(server))
    assert endpoint(server).complete_all([REQUEST])[0] == Failure(
        "endpoint: a web page or other text in place of a chat completion", transient=True
    )


def test_text_that_claims_to_be_json_is_recognised(server: Server) -> None:
    server.answers = [(200, "application/json", b"<html>")]

    assert "127.0.0.1" in error_of(endpoint(server))


def test_a_server_that_echoes_the_key_is_not_quoted_with_it(server: Server) -> None:
    server.will((500, f'{{"error": {{"message": "bad header Bearer {KEY}"}}}}'.encode()))

    assert "Bearer ***" in error_of(endpoint(server, max_retries=0))


def test_an_endpoint_that_is_down_is_said_to_be(server: Server) -> None:
    one = endpoint(server, max_retries=0)
    one._client = one._client.with_options(base_url="http://127.0.0.1:9/v1")  # the discard port: nobody listens

    assert "cannot connect" in error_of(one)
    assert one.complete_all([REQUEST]) == [Failure("endpoint: no connection", transient=True)]


def test_the_check_finds_the_dialect(server: Server) -> None:
    server.will((400, b'{"error": {"message": "use max_completion_tokens"}}'), (400, b"{}"), (200, completion()))
    one = endpoint(server)

    one.check()
    one.complete_all([REQUEST])

    assert set(server.asked[0]) == {"model", "messages", "temperature", "max_tokens", "seed"}
    assert set(server.asked[-1]) == {"model", "messages", "temperature", "max_completion_tokens"}


def test_requests_run_together_but_never_more_than_allowed(server: Server) -> None:
    server.barrier = threading.Barrier(3)  # each waits for two others: fewer at once would time out

    replies = endpoint(server, concurrency=3).complete_all([REQUEST] * 9)

    assert replies == [Reply("hello", 3)] * 9
    assert server.most_together == 3


def test_the_identity_of_an_endpoint_holds_no_secret(server: Server) -> None:
    identity = EndpointAssistant(endpoint(server)).identity

    assert identity["name"] == "m"
    assert identity["reproducible"] is False
    assert "secret" not in json.dumps(identity)
    assert "TEST_KEY" not in json.dumps(identity)


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
    "text", [f"m#{KEY}", f"m@https://user:{KEY}@host/v1", f"m@https://host/v1?key={KEY}", "", "#KEY"]
)
def test_an_address_that_holds_a_key_or_no_model_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ChatbenchError) as caught:
        read_address(text)
    assert "secret" not in str(caught.value)
