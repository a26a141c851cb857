"""How large and how fast the page is with very many chats: built, opened in a real browser, filtered, searched, read.

    python benchmarks/page.py --chats 20000

Makes up a study with the shape of ChatBench's (396 questions, 18 or 19 chats each, lengths as its chats have) and the
simulated chats that are missing to the number asked for, all of them words without meaning; prepares, scores and
reports it with the package's own steps; then opens both forms of the page, one file and a folder, in headless Chromium
and times what a reader waits for. Every time is the median of some repetitions in a new window each.

First view: from the start of loading until the frame with the first view's heading has been painted.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chatbench.core.files import write_json
from chatbench.core.records import Answer, Conversation, Question, SimulatedConversation, Study, Turn
from chatbench.data.prepare_splits import prepare_splits
from chatbench.data.prepared import load_manifest
from chatbench.data.splits import question_set_sha256
from chatbench.data.workspace import Workspace
from chatbench.metrics.resampling import Resampling
from chatbench.report.report import Shown, report
from chatbench.sample.study import write_chatbench_folder
from chatbench.scoring.eval_chatbench import eval_chatbench
from chatbench.simulation.log import open_log, settings_path

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SUBSETS = {
    "elementary_mathematics": 95, "high_school_mathematics": 95, "college_mathematics": 38,
    "conceptual_physics": 84, "moral_scenarios": 84,
}  # fmt: skip
ASSISTANTS = ("gpt-4o", "llama-3.1-8b")
CHATS_PER_QUESTION = 18.5
REPETITIONS = 10
"""Simulated chats of a question and assistant."""
WORDS = {"question": 60, "option": 8, "first": 35, "follow_up": 14, "assistant": 170}
"""Means; a chat comes to about 1,700 characters, and with its record to what ChatBench has (13.9 MB of 7,336 chats)."""
SYLLABLES = "ba de fi go lu ma ne pi ro su ta ve wi xo zu cha bre sti plo gru".split()  # noqa: SIM905  # easier to read
MODEL = "tiny"


class Writer:
    """Draws texts of 4,000 made-up words, a few of them frequent, as words are."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._words = ["".join(self._rng.choice(SYLLABLES, size=self._rng.integers(1, 4))) for _ in range(4000)]

    def text(self, mean: int) -> str:
        count = max(1, round(float(self._rng.lognormal(np.log(mean) - 0.18, 0.6))))
        return " ".join(self._words[place % 4000] for place in self._rng.zipf(1.25, size=count)) + "."

    def question(self, subset: str, number: int) -> Question:
        options = tuple(f"{place} {self.text(WORDS['option'])}" for place in range(4))
        text = f"{number} {self.text(WORDS['question'])}"
        return Question(f"{subset}-redux-{number}", subset, text, options, self.letter())  # type: ignore[arg-type]  # four

    def letter(self) -> str:
        return str(self._rng.choice(list("ABCD")))

    def turns(self) -> tuple[Turn, ...]:
        turns = [Turn("user", self.text(WORDS["first"])), Turn("assistant", self.text(WORDS["assistant"]))]
        for _ in range(int(self._rng.geometric(1 / 1.8)) - 1):
            turns += [Turn("user", self.text(WORDS["follow_up"])), Turn("assistant", self.text(WORDS["assistant"]))]
        return tuple(turns)


def study(writer: Writer, people: int) -> Study:
    """A study with `people` chats, spread over all questions and assistants."""
    questions = [writer.question(subset, number) for subset, count in SUBSETS.items() for number in range(count)]
    chats, answers = [], []
    for number in range(people):
        question, assistant = questions[number % len(questions)], ASSISTANTS[number // len(questions) % 2]
        worker, letter = f"w{number}", writer.letter()
        chat = Conversation(
            f"{question.id}|{worker}", question.id, worker, assistant, "direct-to-AI", writer.turns(), letter
        )
        chats.append(chat)
        right = letter == question.answer
        answers.append(Answer(question.id, worker, "user-AI", assistant, "direct-to-AI", letter, right, "", chat.id))
    return Study("made up", {question.id: question for question in questions}, tuple(chats), tuple(answers))


def simulate(writer: Writer, place: Path, chats: int) -> int:
    """Writes simulated chats split by split until there are `chats` of them; how many splits that took."""
    manifest = load_manifest(place / "data")
    known = Workspace(place / "data").study.questions
    for number, split_id in enumerate(manifest.split_ids):
        held_out = [known[each] for each in Workspace(place / "data").split(split_id).question_ids("test")]
        rows = [
            asdict(_simulated(writer, question, assistant, index))
            for assistant in ASSISTANTS
            for question in held_out
            for index in range(REPETITIONS)
        ][:chats]
        path = Workspace(results=place / "results").conversations(MODEL, split_id)
        with open_log(path) as log:
            log.append(rows)
        write_json(settings_path(path), _settings(known, held_out, split_id))
        chats -= len(rows)
        if not chats:
            return number + 1
    raise SystemExit(f"{chats} chats too many for {manifest.splits} splits")


def _simulated(writer: Writer, question: Question, assistant: str, index: int) -> SimulatedConversation:
    letter = writer.letter()
    return SimulatedConversation(
        id=f"{question.id}|{assistant}|{index}",
        question_id=question.id,
        assistant=assistant,
        index=index,
        turns=writer.turns(),
        termination="answered",
        answer_text=letter,
        letter=letter,
        expected_correct=0.5,
    )


def _settings(known: Mapping[str, Question], held_out: list[Question], split_id: str) -> dict[str, object]:
    return {
        "settings": {
            "questions_sha256": question_set_sha256(known.values()),
            "held_out_sha256": question_set_sha256(held_out),
            "simulator": {"kind": "local", "name": split_id, "weights": f"hash of {split_id}", "temperature": 1.0},
            "conversations": REPETITIONS,
            "seed": 0,
            "max_user_turns": 10,
            "style": "two-step",
            "prompt_protocol": "two-step",
        },
        "assistants": {name: {"kind": "scripted", "name": name} for name in ASSISTANTS},
    }


def make_results(place: Path, chats: int, *, scores: bool) -> None:
    """A folder with a study, prepared splits and `chats` chats, two of five people's."""
    writer = Writer(0)
    people = min(round(CHATS_PER_QUESTION * sum(SUBSETS.values())), round(chats * 0.4))
    write_chatbench_folder(study(writer, people), place / "study")
    prepare_splits(place / "study", place / "data", splits=10)
    splits = simulate(writer, place, chats - people)
    print(f"made {people:,} chats of people and {chats - people:,} simulated ones in {splits} splits", flush=True)
    if scores:
        eval_chatbench(
            MODEL, workspace=Workspace(place / "data", place / "results"), resampling=Resampling(replicates=0)
        )


@dataclass(frozen=True, slots=True)
class Built:
    """One form of the page."""

    name: str
    path: Path
    size: int
    seconds: float


def build(place: Path) -> Iterator[Built]:
    for name, out, folder in (("one file", place / "report.html", False), ("folder", place / "report", True)):
        began = time.perf_counter()
        written = report(Shown(Workspace(place / "data", place / "results"), (MODEL,)), out, folder=folder)
        yield Built(name, written.path, written.size, time.perf_counter() - began)


def waits(page: Page, path: Path) -> dict[str, float]:
    """Seconds of each thing that a reader waits for, in one new window."""
    taken = {}

    def timed(name: str, act: Callable[[], object]) -> None:
        began = time.perf_counter()
        act()
        taken[name] = time.perf_counter() - began

    page.add_init_script(_WATCH)
    page.goto(path.as_uri(), wait_until="commit")
    taken["first view"] = float(page.wait_for_function("() => window.firstView").json_value()) / 1000
    timed("open the list", lambda: _click(page, "nav >> text=Chats", ".chat-row"))
    timed("filter", lambda: _filter(page))
    timed("open a chat", lambda: _click(page, ".chat-row >> nth=2", ".reader .said"))
    timed("search, first", lambda: _search(page, "badefi"))
    timed("search, again", lambda: _search(page, "plo gru"))
    timed("next chat (j)", lambda: _next(page))
    link = page.url.split("?")[0]
    page.goto("about:blank")  # another address of the same page would not load it again
    timed("a link to a chat", lambda: (page.goto(link, wait_until="commit"), page.wait_for_selector(".reader .said")))
    return taken


def _click(page: Page, what: str, then: str) -> None:
    page.click(what)
    page.wait_for_selector(then)


_WATCH = """new MutationObserver((_, observer) => {
    if (!document.querySelector('main h1')) return;
    observer.disconnect();
    requestAnimationFrame(() => setTimeout(() => { window.firstView = performance.now(); }));
}).observe(document, {childList: true, subtree: true})"""
"""Notes when the first view has been painted: after the frame in which its heading is there."""
_TOLD = "() => document.querySelector('.told').textContent"


def _filter(page: Page) -> None:
    before = page.evaluate(_TOLD)
    page.select_option("select[name=answer]", "wrong")
    page.wait_for_function(f"(before) => ({_TOLD})() !== before", arg=before)


def _search(page: Page, query: str) -> None:
    page.fill("input[name=q]", query)
    page.wait_for_function("(query) => new URLSearchParams(location.hash.split('?')[1]).get('q') === query", arg=query)
    page.wait_for_function(f"() => /^[0-9,]+ of|^Nothing/.test(({_TOLD})())")


def _next(page: Page) -> None:
    before = page.evaluate("location.hash")
    page.locator(".chat-list").focus()
    page.keyboard.press("j")
    page.wait_for_function("(before) => location.hash !== before", arg=before)


def measure(browser: Browser, built: Built, repetitions: int) -> dict[str, float]:
    """Medians over new windows."""
    runs = []
    for _ in range(repetitions):
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        page = context.new_page()
        page.set_default_timeout(60_000)
        runs.append(waits(page, built.path))
        context.close()
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--chats", type=int, default=20_000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--no-scores", action="store_true", help="leave the scores out (they take a minute to compute)")
    parser.add_argument("--keep", type=Path, help="where the folder is made, and found again by the next run")
    told = parser.parse_args()
    place = told.keep or Path(tempfile.mkdtemp(prefix="chatbench-page-"))
    try:
        if not (place / "results").exists():
            make_results(place, told.chats, scores=not told.no_scores)
        run(place, told.repetitions)
    finally:
        if told.keep is None:
            shutil.rmtree(place)


def run(place: Path, repetitions: int) -> None:
    from playwright.sync_api import sync_playwright

    chromium = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)
    if chromium is None:
        sys.exit("no Chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for built in build(place):
            print(f"\n{built.name}: {built.size / 1e6:.1f} MB, built in {built.seconds:.1f} s", flush=True)
            for name, seconds in measure(browser, built, repetitions).items():
                print(f"  {name:<16}{1000 * seconds:8.0f} ms", flush=True)
        browser.close()


if __name__ == "__main__":
    main()
