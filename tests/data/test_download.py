"""Downloads, against a server on this machine that can cut a connection, and MMLU's CSV files without a header."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.support.study_files import shared_data

from chatbench.core.errors import ChatbenchError
from chatbench.data.download import (
    HALIE_COMMIT,
    download,
    download_chatbench,
    download_halie,
    fetch,
    few_shot_examples,
    read_mmlu,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HALIE_URL = f"/stanford-crfm/halie/{HALIE_COMMIT}/data/std/question/event_blocks.csv"


@dataclass
class Server:
    """Files by path; `cuts` says after how many bytes the next answers with content break off."""

    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    commit: str = COMMIT
    status: int = 200
    knows_ranges: bool = True
    url: str = ""

    def hub_answer(self, path: str) -> bytes | None:
        """The hub's JSON: the commit of a branch, or the list of a data set's files."""
        if path.startswith("/api/datasets/microsoft/ChatBench/revision/"):
            return json.dumps({"id": "microsoft/ChatBench", "sha": self.commit, "siblings": []}).encode()
        if path.startswith(f"/api/datasets/microsoft/ChatBench/tree/{self.commit}"):
            sizes = {path.partition(f"/{self.commit}/")[2]: len(content) for path, content in self.files.items()}
            return json.dumps([{"type": "file", "path": n, "size": s, "oid": n} for n, s in sizes.items()]).encode()
        return None


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:  # the name that http.server calls
            self.answer(with_body=False)

        def do_GET(self) -> None:  # the name that http.server calls
            self.answer(with_body=True)

        def answer(self, *, with_body: bool) -> None:
            server.tokens.add(self.headers.get("Authorization"))
            body = server.hub_answer(self.path) or server.files.get(self.path)
            if body is None or server.status != 200:
                self.send_error(404 if body is None else server.status)
                return
            wanted = self.headers.get("Range") if server.knows_ranges else None
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.end_headers()
                return
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", str(len(body) - start))
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", server.commit)
            self.end_headers()
            if with_body:
                is_file = self.path in server.files
                if is_file:
                    server.ranges.append(wanted)
                self.wfile.write(body[start : start + server.cuts.pop(0)] if is_file and server.cuts else body[start:])

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
            pass

    return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler(state))
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}"
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)


def no_pause(_seconds: float) -> None:
    pass


CONTENT = bytes(range(256)) * 1000


def test_a_cut_connection_is_continued_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.files["/file"] = CONTENT
    server.cuts = [1000, 5000]
    fetch(f"{server.url}/file", tmp_path / "file", pause=no_pause)

    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-", "bytes=6000-"]
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("have", "knows_ranges", "ranges"),
    [
        (200_000, True, ["bytes=200000-"]),
        # Appending the full answer to the part would give a file that is too long: the likely mistake.
        (1000, False, [None]),
        (len(CONTENT), True, []),  # complete already
    ],
)
def test_a_part_of_an_earlier_run_is_continued(
    server: Server, tmp_path: Path, have: int, knows_ranges: bool, ranges: list[str | None]
) -> None:
    server.files["/file"], server.knows_ranges = CONTENT, knows_ranges
    (tmp_path / "file.part").write_bytes(CONTENT[:have])
    fetch(f"{server.url}/file", tmp_path / "file", pause=no_pause)

    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.ranges == ranges


def test_after_five_attempts_without_a_byte_the_part_stays_and_the_error_says_what_to_do(
    server: Server, tmp_path: Path
) -> None:
    server.files["/file"] = CONTENT
    server.cuts = [1000, 0, 0, 0, 0, 0]
    waits: list[float] = []
    with pytest.raises(ChatbenchError, match="RemoteProtocolError after 1000 bytes") as caught:
        fetch(f"{server.url}/file", tmp_path / "file", pause=waits.append)

    assert "run the same command again" in caught.value.fix
    assert (tmp_path / "file.part").stat().st_size == 1000
    assert not (tmp_path / "file").exists()
    assert waits == [1, 2, 4, 8]


def test_what_cannot_be_downloaded_is_an_error_for_people(server: Server, tmp_path: Path) -> None:
    dead = "http://127.0.0.1:9"  # discard: nobody listens
    with pytest.raises(ChatbenchError, match="HTTP 404"):
        fetch(f"{server.url}/nothing", tmp_path / "file", pause=no_pause)
    with pytest.raises(ChatbenchError, match="ConnectError"):
        fetch(f"{dead}/file", tmp_path / "file", pause=no_pause)
    with pytest.raises(ChatbenchError, match=r"127\.0\.0\.1:9"):
        download_chatbench(tmp_path, endpoint=dead)
    with pytest.raises(ChatbenchError, match="no such study to download: mmlu"):
        download("mmlu", tmp_path)


def test_halie_is_recorded_at_first_and_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    server.files[HALIE_URL] = CONTENT
    got = download_halie(tmp_path / "halie", base_url=server.url, pause=no_pause)
    again = download_halie(tmp_path / "halie", base_url=server.url, pause=no_pause)

    assert got == again
    assert len(server.ranges) == 1
    assert got.files == {"event_blocks.csv": hashlib.sha256(CONTENT).hexdigest()}
    assert sorted(p.name for p in (tmp_path / "halie").iterdir()) == ["download.json", "event_blocks.csv"]
    assert HALIE_COMMIT in got.text
    (tmp_path / "halie" / "event_blocks.csv").write_bytes(b"half")  # damaged on disk: fetched again
    download_halie(tmp_path / "halie", base_url=server.url, pause=no_pause)
    assert (tmp_path / "halie" / "event_blocks.csv").read_bytes() == CONTENT


def test_other_bytes_than_at_the_first_download_are_refused_unless_expected(server: Server, tmp_path: Path) -> None:
    server.files[HALIE_URL] = CONTENT
    download_halie(tmp_path, base_url=server.url, pause=no_pause)
    (tmp_path / "event_blocks.csv").unlink()
    server.files[HALIE_URL] = b"changed"

    with pytest.raises(ChatbenchError, match="differs from what was downloaded before") as caught:
        download_halie(tmp_path, base_url=server.url, pause=no_pause)
    assert "--allow-other-checksum" in caught.value.fix
    assert not (tmp_path / "event_blocks.csv").exists()
    download_halie(tmp_path, base_url=server.url, pause=no_pause, allow_other_checksum=True)
    assert (tmp_path / "event_blocks.csv").read_bytes() == b"changed"


def chatbench_files(server: Server) -> None:
    for name in ("questions.csv", "full_study/conversations.json", ".gitattributes"):
        server.files[f"/datasets/microsoft/ChatBench/resolve/{server.commit}/{name}"] = name.encode() * 50


def test_chatbench_comes_from_the_hub_with_its_commit_recorded(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chatbench_files(server)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    got = download_chatbench(tmp_path, endpoint=server.url)
    record = json.loads((tmp_path / "download.json").read_text())

    assert (tmp_path / "full_study" / "conversations.json").read_bytes() == b"full_study/conversations.json" * 50
    assert sorted(got.files) == ["full_study/conversations.json", "questions.csv"]
    assert record["revision"] == COMMIT
    assert record["sha256"] == got.files
    assert server.tokens == {"Bearer hf_secret"}
    assert "hf_secret" not in got.text + json.dumps(record)
    assert not (tmp_path / ".incoming").exists()


def test_a_silent_change_of_the_data_set_is_refused(server: Server, tmp_path: Path) -> None:
    chatbench_files(server)
    download_chatbench(tmp_path, endpoint=server.url)
    server.files.clear()
    server.commit = COMMIT[::-1]
    chatbench_files(server)
    server.files[f"/datasets/microsoft/ChatBench/resolve/{server.commit}/questions.csv"] = b"other questions"

    with pytest.raises(ChatbenchError, match=r"questions.csv differs from what was downloaded before"):
        download_chatbench(tmp_path, endpoint=server.url)
    assert (tmp_path / "questions.csv").read_bytes() == b"questions.csv" * 50


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_of_the_hub_says_where_the_token_goes(server: Server, tmp_path: Path, status: int) -> None:
    chatbench_files(server)
    server.status = status

    with pytest.raises(ChatbenchError) as caught:
        download_chatbench(tmp_path, endpoint=server.url)
    assert caught.value.fix
    assert "microsoft/ChatBench" in str(caught.value)


def mmlu(folder: Path, text: str, part: str = "test") -> Path:
    (folder / part).mkdir()
    (folder / part / f"numbers_{part}.csv").write_text(text)
    return folder


def test_rows_of_mmlu_are_questions_numbered_from_0_and_cells_may_hold_line_breaks(tmp_path: Path) -> None:
    questions = read_mmlu(mmlu(tmp_path, '"1\n+ 1?",1,2,3,4,B\n2?,1,2,3,4,A\n'), "numbers")

    assert [q.id for q in questions] == ["numbers-test-0", "numbers-test-1"]
    assert questions[0].full_text == "1\n+ 1?\nA. 1\nB. 2\nC. 3\nD. 4"


@pytest.mark.parametrize(
    ("row", "problem"),
    [("1?,1,2,3,B", "row 2: 5 cells"), ("1?,1,2,3,4,E", "row 2, column 6: 'E'"), ("1?,1,,3,4,A", "row 2: a blank")],
)
def test_a_bad_row_or_file_of_mmlu_is_named(tmp_path: Path, row: str, problem: str) -> None:
    with pytest.raises(ChatbenchError, match=problem):
        read_mmlu(mmlu(tmp_path, f"0?,1,2,3,4,A\n{row}\n"), "numbers")
    with pytest.raises(ChatbenchError, match="1 examples"):
        few_shot_examples(mmlu(tmp_path, "0?,1,2,3,4,A\n", "dev"), "numbers")
    with pytest.raises(ChatbenchError, match=r"letters_test\.csv: no such file"):
        read_mmlu(tmp_path, "letters")


def test_the_real_mmlu_holds_five_examples_and_1878_test_questions() -> None:
    # The sizes that the MMLU paper's archive lists for these subsets.
    sizes = {"college_mathematics": 100, "conceptual_physics": 235, "elementary_mathematics": 378,
             "high_school_mathematics": 270, "moral_scenarios": 895}  # fmt: skip
    folder = shared_data("mmlu")

    assert {subset: len(read_mmlu(folder, subset)) for subset in sizes} == sizes
    assert {len(few_shot_examples(folder, subset)) for subset in sizes} == {5}
