r"""Many people at once: `chatbench collect serve` under rehearsing people, and killed outright (SIGKILL) meanwhile.

A study with scripted assistants is served by a process of its own; another one plays the people, each with a browser's
cookie and connection, who do something every `--pause` seconds on average (people who read take ten and more). First
nobody is killed, and the time of each page is measured, where the people are; then the same again with kills. In the
end the database must hold each answer and message that was acknowledged, word for word and once, and no cell may have
two people more than another.

    python benchmarks/collect.py                              # 500 people, 5 kills, SQLite
    python benchmarks/collect.py --postgres                   # the same on a PostgreSQL server that it starts
    python benchmarks/collect.py --people 50 --kills 1 --pause 1

Ends with 1 where an answer is lost or doubled, a person did not come to the end, or cells are not balanced.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from chatbench.collect.config import CollectedStudy, init_study
from chatbench.collect.rehearse import Habits, Pilot, rehearse_async
from chatbench.collect.store import Store, Visit
from chatbench.sample.study import SampleSettings, write_sample
from loopback_postgres import running_postgres

DATABASE = "COLLECT_BENCHMARK_DATABASE"


class Server:
    """`chatbench collect serve` in a process of its own, at the same port after each kill."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._process, self.url = folder, None, ""

    def start(self) -> None:
        """Starts it, and waits until it says where it is."""
        port = self.url.rpartition(":")[2] or "0"
        command = [sys.executable, "-m", "chatbench", "collect", "serve", str(self._folder), "--port", port]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self._process.stdout.readline()
        self.url = line.split()[1].partition("/?")[0]

    def stop(self, how: signal.Signals) -> None:
        """Ends it."""
        self._process.send_signal(how)
        self._process.wait()


@contextmanager
def killed(server: Server, kills: int, every: float) -> Iterator[list[float]]:
    """Kills and starts the server again meanwhile; the list has how long each start took."""
    starts: list[float] = []
    over = threading.Event()

    def kill() -> None:
        while len(starts) < kills and not over.wait(every):
            server.stop(signal.SIGKILL)
            began = time.monotonic()
            server.start()
            starts.append(time.monotonic() - began)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield starts
    finally:
        over.set()
        thread.join()


def study_in(folder: Path, people: int, *, postgres: bool) -> CollectedStudy:
    """36 questions in six batches, two assistants, three conditions: 30 cells, with places for all."""
    write_sample(folder / "sample", SampleSettings(questions=36, chats=1))
    init_study(
        folder / "study", folder / "sample", ["scripted:strong", "scripted:weak"],
        conditions=["direct-to-AI", "answer-first", "user-alone"], people=people // 30 + 1, batch_size=6,
        phase_1_questions=3,
    )  # fmt: skip
    path = folder / "study" / "study.toml"
    text = path.read_text().replace("requests_per_minute = 120", "requests_per_minute = 100000")
    path.write_text(text.replace('database = ""', f'database = "${DATABASE}"') if postgres else text)
    return CollectedStudy(folder / "study")


async def stored(study: CollectedStudy) -> tuple[str, list[Visit], Store]:
    """The key, and the rehearsals that the database holds."""
    async with Store(study) as store:
        return store.settings["token"], await store.visits("rehearsal"), store


def faults(pilot: Pilot, visits: list[Visit], store: Store, people: int, prefix: str) -> list[str]:
    """What is wrong: the database against what the people saw acknowledged."""
    ids = {store.hashed(f"{prefix}-{number}"): f"{prefix}-{number}" for number in range(people)}
    kept = Counter(
        (ids[visit.person], event.step if event.kind == "answer" else f"{event.step}#{event.body['turn']}", said)
        for visit in visits
        if visit.person in ids
        for event in visit.events
        if event.kind in ("answer", "message") and (said := event.body.get("letter") or event.body.get("text"))
    )
    acknowledged = Counter(pilot.acknowledged)
    cells = Counter(visit.cell for visit in visits if visit.person in ids)
    found = {
        "lost": (acknowledged - kept).total(),
        "doubled": sum(count - 1 for count in kept.values()),
        "not at the end": people - pilot.ended["finished"],
        "cells uneven": int(max(cells.values()) - min(cells.values()) > 1),
        "faults": len(pilot.faults),
    }
    print(f"database     {kept.total():,} answers and messages, {acknowledged.total():,} acknowledged")
    print(f"cells        {len(cells)}, with {min(cells.values())} to {max(cells.values())} people")
    return [f"{name}: {count}" for name, count in found.items() if count]


def cpu_of_ended() -> float:
    """CPU seconds of the servers that have ended; PostgreSQL's are not among them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(folder: Path, arguments: argparse.Namespace, kills: int) -> list[str]:
    """One rehearsal of all; what is wrong afterwards."""
    folder.mkdir()
    study = study_in(folder, arguments.people, postgres=arguments.postgres)
    server, prefix = Server(study.folder), f"kills{kills}"
    server.start()
    key, _, _ = asyncio.run(stored(study))
    began, used = time.monotonic(), cpu_of_ended()
    with killed(server, kills, arguments.every) as starts:
        pilot = asyncio.run(
            rehearse_async(
                study, server.url, key, people=arguments.people, habits=Habits(pause=arguments.pause, leaves=0.0),
                prefix=prefix,
            )
        )  # fmt: skip
    seconds = time.monotonic() - began
    server.stop(signal.SIGTERM)
    _, visits, store = asyncio.run(stored(study))
    print(f"\n{arguments.people} people, mean pause {arguments.pause:g} s, kills {len(starts)}")
    print(f"rate         {len(pilot.seconds) / seconds:.0f} pages per second for {seconds:.0f} s")
    print(f"server       {1000 * (cpu_of_ended() - used) / len(pilot.seconds):.1f} ms of CPU per page, starts included")
    print(f"started in   {', '.join(f'{each:.1f} s' for each in starts) or '-'}")
    print("\n".join(pilot.lines()))
    return faults(pilot, visits, store, arguments.people, prefix) + (
        ["fewer kills than wanted: the people were through"] if len(starts) < kills else []
    )


def main(given: list[str] | None = None) -> int:
    """Measures, and prints what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=500)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--every", type=float, default=10.0, help="seconds from one kill to the next")
    parser.add_argument("--pause", type=float, default=4.0, help="mean seconds between two actions of one person")
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--only-killed", action="store_true", help="without the rehearsal in which nobody is killed")
    arguments = parser.parse_args(given)
    wrong = []
    for kills in ([] if arguments.only_killed else [0]) + ([arguments.kills] if arguments.kills else []):
        with (
            tempfile.TemporaryDirectory() as name,
            running_postgres() if arguments.postgres else nullcontext("") as os.environ[DATABASE],
        ):
            wrong += measure(Path(name) / "study", arguments, kills)
    print("\n" + ("\n".join(wrong) or "nothing lost, nothing doubled, cells balanced"))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
