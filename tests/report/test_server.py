"""The page on a local server: it follows the files, and answers nobody but a reader on this machine."""

from __future__ import annotations

import http.client
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.browser import OpenPage
from tests.support.clock import Clock

from chatbench.core.errors import ChatbenchError
from chatbench.data.workspace import Workspace
from chatbench.report.report import Shown
from chatbench.report.server import LivePage, PageServer, files_version, live_page


@contextmanager
def serving(live: LivePage) -> Iterator[PageServer]:
    """A server in a thread."""
    with PageServer(live, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server: PageServer, path: str, *, method: str = "GET", host: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.putrequest(method, path, skip_host=True)
    if host != "":
        connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read()


def still(page: str = "page") -> LivePage:
    return LivePage(lambda version: f"{page} {version}", lambda: "v1")


# Who is answered


def test_only_the_page_and_its_version_are_there_and_a_taken_port_is_refused() -> None:
    with serving(still()) as server:
        assert ask(server, "/") == (200, b"page v1")
        assert ask(server, "/?x=1") == (200, b"page v1")
        assert ask(server, "/version") == (200, b"v1")
        assert ask(server, "/", method="HEAD") == (200, b"")
        for path in ("/../../etc/passwd", "//etc/passwd", "/%2e%2e/x", "/version/", "/report.html", "http://x/version"):
            assert ask(server, path)[0] == 404, path
        assert ask(server, "/", method="POST")[0] == 501
        assert server.server_address[0] == "127.0.0.1"  # this machine alone
        with pytest.raises(ChatbenchError, match="--port 0"):
            PageServer(still(), server.server_port)


@pytest.mark.parametrize(
    "host", ["evil.org", "evil.org:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1:{port}.evil.org", ""]
)
def test_a_request_that_names_another_host_is_refused(host: str) -> None:
    # DNS rebinding: a page of evil.org whose name leads to 127.0.0.1 could else read every chat.
    with serving(still()) as server:
        assert ask(server, "/", host=host.format(port=server.server_port))[0] in (400, 421)
        assert ask(server, "/", host=f"localhost:{server.server_port}")[0] == 200


def test_answers_may_be_neither_framed_nor_kept_nor_read_by_other_pages() -> None:
    with serving(still()) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
        connection.request("GET", "/")
        headers = connection.getresponse().headers

    names = ("Cache-Control", "X-Frame-Options", "Cross-Origin-Resource-Policy", "X-Content-Type-Options")
    assert [headers[name] for name in names] == ["no-store", "DENY", "same-origin", "nosniff"]
    assert "Python" not in headers["Server"]


# When it is built


def test_a_page_is_built_once_for_each_version_and_a_new_one_is_offered_after_a_pause() -> None:
    # A log grows with every chat: without the pause the reader's page would load itself anew all the time.
    clock, files, built = Clock(), ["v1"], list[str]()
    live = LivePage(lambda version: built.append(version) or version, lambda: files[0], clock)

    assert (live.page(), live.page(), built) == (b"v1", b"v1", ["v1"])
    files[0] = "v2"
    clock.now = 4.9
    assert live.version() == "v1"
    clock.now = 5.1
    assert live.version() == "v2"
    assert (live.page(), built) == (b"v2", ["v1", "v2"])
    files[0] = "v3"
    assert (live.page(), built) == (b"v2", ["v1", "v2"])  # two open tabs had it built in turn, without a pause


def test_results_that_cannot_be_shown_are_told_as_text_and_one_that_takes_long_is_offered_less_often() -> None:
    clock, files = Clock(), ["v1"]

    def build(version: str) -> str:
        if version == "v1":
            raise ChatbenchError("<script>alert(1)</script>", fix="wait")
        clock.now += 3
        return version

    live = LivePage(build, lambda: files[0], clock)
    assert b"&lt;script&gt;alert(1)&lt;/script&gt;" in live.page()
    assert b"<script" not in live.page()
    files[0] = "v2"
    clock.now = 5.1
    assert live.page() == b"v2"
    files[0] = "v3"
    clock.now = 5.1 + 3 + 29
    assert live.version() == "v2"
    clock.now = 5.1 + 3 + 31
    assert live.version() == "v3"


def test_the_version_changes_with_every_file_that_the_page_reads_and_with_no_checkpoint(copied: Workspace) -> None:
    results, before = copied.results, files_version(copied.results)

    checkpoint = results / "models" / "tiny" / "split_0" / "checkpoint-1" / "model.safetensors"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"weights")
    assert files_version(results) == before

    for path in ("scores/tiny.json", "simulations/tiny/split_0/conversations.jsonl", "ppl/tiny/split_0.json",
                 "models/tiny/split_0/trainer_log.jsonl", "estimates/tiny.json", "judge/verdicts.jsonl"):  # fmt: skip
        (results / path).parent.mkdir(exist_ok=True)
        with (results / path).open("a") as file:
            file.write("\n")
        assert files_version(results) != before, path
        before = files_version(results)
    (results / "scores" / "tiny.json").unlink()
    assert files_version(results) != before


# In a browser, and from the command line


def test_the_reader_sees_a_new_model_without_doing_anything(
    finished: Workspace, tmp_path: Path, open_page: OpenPage
) -> None:
    # A page that is only fetched again, or whose policy forbids to ask the server, would stay as it was.
    results = tmp_path / "results"
    shutil.copytree(finished.results, results, ignore=shutil.ignore_patterns("distilgpt2*"))
    clock = Clock()
    live = live_page(Shown(Workspace(finished.data, results)), clock)
    with serving(live) as server:
        address = "#/chat/people/elementary_mathematics-redux-0/gpt-4o/4?beside=1"
        page = open_page(f"{server.address}{address}", height=560)
        assert "distilgpt2" not in page.title()
        page.get_by_text("Live: follows the run.").wait_for()
        page.wait_for_selector("[aria-label=Simulated] .said")
        scrolled = "() => [...document.querySelectorAll('.chat-list, .reader')].map(each => each.scrollTop).join()"
        page.evaluate("[...document.querySelectorAll('.chat-list, .reader')].forEach(each => each.scrollTo(0, 90))")
        assert page.evaluate(scrolled) == "90,90"

        shutil.copytree(finished.results, results, dirs_exist_ok=True)
        clock.now = 1e6
        page.wait_for_function("() => document.title.includes('distilgpt2')", timeout=120_000)
        page.wait_for_function(f"() => ({scrolled})() === '90,90'")  # list and reader were at their tops
        assert page.evaluate("location.hash") == address
        page.goto("about:blank")


def test_ctrl_c_ends_the_server_with_exit_code_0(finished: Workspace) -> None:
    command = [sys.executable, "-m", "chatbench", "view", str(finished.results), "--port", "0", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        said = running.stdout.readline()
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=120)

    assert re.search(r"http://127\.0\.0\.1:\d+/", said)
    assert (running.returncode, out, err) == (0, "stopped\n", "")
