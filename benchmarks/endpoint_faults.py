r"""Nothing is lost: `chatbench simulate` against an endpoint full of faults, killed again and again.

A server on this machine plays simulator and assistant. One request in ten meets a fault (HTTP 429 and 500, a reset, a
hang, garbage, a web page, an answer without a choice, an answer cut off), the server itself is killed twice and comes
back, and the client is killed outright (SIGKILL) ten times, each time started again with the same command. In the end
every conversation must be recorded once, and be word for word what the server says to those words.

    python benchmarks/endpoint_faults.py                                  # 5,000 conversations, 10 kills
    python benchmarks/endpoint_faults.py --conversations 150 --kills 3    # a look

Prints records, duplicates, corrupted ones, faults that were met, and the peak memory of each life of the client. Ends
with 1 where a record is missing, duplicate or corrupted.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chatbench.core.records import Question, SimulatedConversation, Turn
from chatbench.data.open_study import open_study
from chatbench.data.prepared import load_manifest
from chatbench.data.workspace import Workspace
from chatbench.protocol.answers import clean_output, read_answer
from chatbench.protocol.prompts import ASSISTANT_SYSTEM, prompt_text, simulator_messages
from chatbench.simulation.log import read_recorded
from loopback_endpoint import said_to, simulated

SERVER = Path(__file__).with_name("loopback_endpoint.py")
HELD_OUT_SHARE = 0.4
SERVER_AWAY_SECONDS = 2.0
LOOK_EVERY_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Found:
    """What lay in the log in the end; `peaks_mb` is the client's peak memory, one per life."""

    conversations: int
    records: int
    duplicates: int
    corrupted: int
    failed: int
    kills: int
    server_deaths: int
    peaks_mb: tuple[float, ...]
    seconds: float

    @property
    def whole(self) -> bool:
        return self.records == self.conversations and not self.duplicates and not self.corrupted

    def lines(self) -> list[str]:
        return [
            f"{self.records} records of {self.conversations} conversations, {self.duplicates} duplicates, "
            f"{self.corrupted} corrupted, {self.failed} failed",
            f"{self.kills} kills of the client, {self.server_deaths} deaths of the server, {self.seconds:.0f} s",
            f"peak memory of the client's lives, MB: {', '.join(f'{peak:.0f}' for peak in self.peaks_mb)}",
        ]


@dataclass(slots=True)
class Server:
    """The server's process, which can die and come back at the same address."""

    options: list[str]
    process: subprocess.Popen[str] | None = None
    url: str = ""

    def start(self) -> None:
        port = self.url.partition("127.0.0.1:")[2].partition("/")[0] or "0"
        command = [sys.executable, str(SERVER), "--port", port, *self.options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    def die(self) -> None:
        if self.process:
            self.process.kill()
            self.process.communicate()


@dataclass(slots=True)
class Run:
    """The client, started again and again until it gets through."""

    command: Sequence[str]
    log: Path
    server: Server
    peaks_mb: list[float] = field(default_factory=list)
    kills: int = 0
    deaths: int = 0

    def until_done(self, plans: list[tuple[int, str]], chance: random.Random) -> None:
        """`plans` are pairs of a number of records and who is killed once there are so many, the client or the server.

        A client that begins while the server is away says so and ends; then it is started again, as it asks for.

        Raises:
            RuntimeError: the client ended with an error of its own.
        """
        while True:
            client = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            peak = 0.0
            while client.poll() is None:
                time.sleep(LOOK_EVERY_SECONDS)
                peak = max(peak, _peak_mb(client.pid))
                if plans and self._records() >= plans[0][0]:
                    time.sleep(chance.uniform(0, 0.3))  # so that the kill may meet any byte
                    self._carry_out(plans.pop(0)[1], client)
            _, said = client.communicate()
            self.peaks_mb.append(peak)
            if client.returncode == 0:
                return
            if client.returncode != -signal.SIGKILL and "start the endpoint" not in said:
                raise RuntimeError(f"the client ended with {client.returncode}: {said}")

    def _records(self) -> int:
        return self.log.read_bytes().count(b"\n") if self.log.exists() else 0

    def _carry_out(self, who: str, client: subprocess.Popen[str]) -> None:
        if who == "client":
            client.kill()
            self.kills += 1
        else:
            self.server.die()
            time.sleep(SERVER_AWAY_SECONDS)
            self.server.start()
            self.deaths += 1


def _peak_mb(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    line = next((line for line in status.splitlines() if line.startswith("VmHWM")), "VmHWM: 0 kB")
    return int(line.split()[1]) / 1000


def prepare(folder: Path, held_out: int) -> None:
    """Writes the sample study and one split of it with `held_out` held-out questions."""
    questions = str(round(held_out / HELD_OUT_SHARE))
    for step in (
        ["sample", str(folder / "study"), "--questions", questions],
        ["prepare-splits", "--study", str(folder / "study"), "--out", str(folder / "data"), "--splits", "1"],
    ):
        subprocess.run([sys.executable, "-m", "chatbench", *step], check=True, stdout=subprocess.DEVNULL)


def simulate_command(folder: Path, url: str, repetitions: int, options: argparse.Namespace) -> list[str]:
    """The command line of the client; the same in each of its lives."""
    return [
        sys.executable, "-m", "chatbench", "simulate", "faulty", "--split", "split_0",
        "--simulator", f"two-step:completions:m@{url}", "--assistant", f"bot=openai:m@{url}",
        "--conversations", str(repetitions), "--data", str(folder / "data"), "--results", str(folder / "results"),
        "--concurrency", str(options.concurrency), "--timeout", str(options.timeout), "--patience", "60",
    ]  # fmt: skip


def corrupted(chat: SimulatedConversation, question: Question) -> bool:
    """Whether a record holds anything else than what the server says to exactly these words."""
    turns = chat.turns

    def prompt(seen: Sequence[Turn]) -> str:
        return prompt_text(simulator_messages(question.full_text, seen, asked_for=question.asked_for))

    for place, turn in enumerate(turns):
        before = turns[:place]
        if turn.role == "user":
            expected = clean_output(simulated(prompt(before)))
        else:
            asked = [{"role": "system", "content": ASSISTANT_SYSTEM}]
            expected = said_to([*asked, *({"role": one.role, "content": one.text} for one in before)])
        if turn.text != expected:
            return True
    if chat.termination != "answered":
        return chat.termination == "no_answer"  # this server answers when it is forced, or fails
    last = clean_output(simulated(prompt(turns)))
    answer = read_answer(last)
    return answer is None or (answer.text, question.read(answer.text)) != (chat.answer_text, chat.letter)


def found_in(log: Path, planned: Callable[[str], Question], conversations: int) -> tuple[int, int, int, int]:
    """Records, duplicates, corrupted and failed ones; a failure that passes and its repetition are one record."""
    lines: Counter[str] = Counter()
    final: dict[str, SimulatedConversation] = {}
    for _, chat in read_recorded(log):  # raises where a line is not what was written
        lines[chat.id] += not chat.transient
        final[chat.id] = chat
    duplicates = sum(count - 1 for count in lines.values() if count > 1)
    wrong = sum(corrupted(chat, planned(chat.question_id)) for chat in final.values() if chat.termination != "failed")
    assert len(final) <= conversations
    return len(final), duplicates, wrong, sum(chat.termination == "failed" for chat in final.values())


def measure(options: argparse.Namespace, folder: Path) -> Found:
    """Runs it all in a folder."""
    chance = random.Random(options.seed)
    held_out = options.held_out
    repetitions, rest = divmod(options.conversations, held_out)
    if rest:
        raise SystemExit(f"--conversations must be a multiple of {held_out}")
    prepare(folder, held_out)
    manifest = load_manifest(folder / "data")
    if (there := len(Workspace(folder / "data").split("split_0").question_ids("test"))) != held_out:
        raise SystemExit(f"a split of the sample study has {there} held-out questions: give that as --held-out")
    questions = open_study(Path(manifest.study_resolved)).questions
    server = Server(["--faults", str(options.faults), "--latency-ms", str(options.latency_ms)])
    began = time.monotonic()
    try:
        server.start()
        log = Workspace(results=folder / "results").conversations("faulty", "split_0")
        run = Run(simulate_command(folder, server.url, repetitions, options), log, server)
        run.until_done(_plans(options), chance)
    finally:
        server.die()
    records, duplicates, wrong, failed = found_in(log, questions.__getitem__, options.conversations)
    return Found(
        options.conversations, records, duplicates, wrong, failed,
        run.kills, run.deaths, tuple(run.peaks_mb), time.monotonic() - began,
    )  # fmt: skip


def _plans(options: argparse.Namespace) -> list[tuple[int, str]]:
    """Kills spread evenly over the run."""
    every = options.conversations
    kills = [(round(every * (n + 0.5) / options.kills), "client") for n in range(options.kills)]
    deaths = [(every * (n + 1) // (options.server_deaths + 1), "server") for n in range(options.server_deaths)]
    return sorted(kills + deaths)


def main(arguments: list[str]) -> Found:
    """Prints what was found, and gives it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--conversations", type=int, default=5000)
    parser.add_argument("--held-out", type=int, default=40, help="questions; more conversations are repetitions")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--server-deaths", type=int, default=2)
    parser.add_argument("--faults", type=float, default=0.1, help="share of requests")
    parser.add_argument("--latency-ms", type=float, default=30.0)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds; a hang costs so long")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    os.environ["NO_PROXY"] = "127.0.0.1"
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, Path(folder))
    print("\n".join(found.lines()))
    return found


if __name__ == "__main__":
    raise SystemExit(0 if main(sys.argv[1:]).whole else 1)
