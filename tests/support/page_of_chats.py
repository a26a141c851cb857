"""A page of few chats, some of them hostile, for tests in a browser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chatbench.core.files import write_text
from chatbench.core.records import Question, Turn
from chatbench.report.page import PageContent, render, render_folder
from chatbench.report.page_chats import PageChat, PageChats, Shades, in_page_order, page_chats, shade_parts
from chatbench.scoring.eval_ppl import ScoredTurn

QUESTIONS = {
    "sums-1": Question("sums-1", "sums", "What is 2 + 2?", ("3", "4", "5", "6"), "B"),
    "sums-2": Question("sums-2", "sums", "What is 3 + 3?", ("3", "4", "5", "6"), "D"),
    "cats-1": Question("cats-1", "cats", "Do cats <b>purr</b>?", ("yes", "no", "some", "never"), "A"),
}
HELD_OUT = {"sums-1": ["split_0", "split_1"], "sums-2": ["split_0"], "cats-1": ["split_1"]}
HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">",
    "</script></textarea></title><h1>not a heading</h1>",
    "safe \u202egnp.exe\u202c after \u2066isolated\u2069 nul \x00 end \ud800 tag",
    "x" * 1_000_000,
)


def turns(*texts: str) -> tuple[Turn, ...]:
    return tuple(Turn("assistant" if place % 2 else "user", text) for place, text in enumerate(texts))


def person(question_id: str, number: int, letter: str | None, *texts: str) -> PageChat:
    correct = None if letter is None else letter == QUESTIONS[question_id].answer
    return PageChat(question_id, "gpt-4o", "people", "", "", number, turns(*texts), letter, correct)


def simulated(question_id: str, number: int, letter: str | None, *texts: str, split: str = "split_0") -> PageChat:
    return PageChat(
        question_id, "gpt-4o", "fine-tuned", "tiny", split, number, turns(*texts), letter,
        None if letter is None else letter == QUESTIONS[question_id].answer,
        termination="answered" if letter else "no_answer",
        observed={"role_flip": 2} if number else {},
        more={"expected": 0.25, "probabilities": [None, [0.5, 0.1, 0.2, 0.3, 0.4]]},
    )  # fmt: skip


def chats() -> list[PageChat]:
    """Seven chats, in the order of the page: cats-1, sums-1 (two people, two simulated), sums-2."""
    return in_page_order(
        [
            person("cats-1", 0, None, HOSTILE[0], HOSTILE[1], HOSTILE[2], HOSTILE[3]),
            person("sums-1", 0, "B", "two and two?", "That is four."),
            person("sums-1", 1, "C", "hello there", "Hello!", "is it five", "It is not."),
            simulated("sums-1", 0, "B", "what are two and two", "Four."),
            simulated("sums-1", 1, None, "no idea", "Nor have I, but Paris is a town."),
            simulated("sums-2", 0, "D", "three and three", "Six, as in paris."),
            person("sums-2", 0, "A", "three?", "What about it?"),
        ]
    )


def shades(rows: Sequence[PageChat]) -> Shades:
    """Of the first person's chat about sums-1: each token of "two and two?", the end marker, and the answer."""
    row = next(place for place, chat in enumerate(rows) if chat.id == "people/sums-1/gpt-4o/0")
    message = scored_turn(["two", " and", " two", "?", " [END]"], [0.0, 0.6931, 4.6052, 0.1, 0.0])
    return Shades("tiny", "split_1", {row: {0: message, 1: scored_turn(["Answer", ": B", " [END]"], [0.1, 0.2, 0.3])}})


def scored_turn(texts: Sequence[str], nats: Sequence[float], turn: int = 0) -> ScoredTurn:
    return ScoredTurn("c", turn, tuple(texts), tuple(nats))


def content(rows: Sequence[PageChat], *, with_shades: bool = True) -> PageContent:
    """The content of a page that holds these chats and nothing else."""
    made: PageChats = page_chats(rows, QUESTIONS, HELD_OUT)
    known, parts = shade_parts([shades(rows)] if with_shades else [])
    first = {
        "title": "chats", "made": "today", "version": "0", "questions": [], "accuracies": [], "missing": [],
        "estimates": [],
        "runs": [{"key": "tiny", "name": "tiny", "scores": None}], "chats": {**made.first, "shades": known},
    }  # fmt: skip
    return PageContent("chats", first, {**made.later, **parts})


def write_page(folder: Path, rows: Sequence[PageChat], *, with_shades: bool = True) -> Path:
    """The page as one file."""
    path = folder / "page.html"
    write_text(path, render(content(rows, with_shades=with_shades)))
    return path


def write_folder(folder: Path, rows: Sequence[PageChat]) -> Path:
    """The page as a folder; gives its first file."""
    for name, text in render_folder(content(rows)).items():
        write_text(folder / name, text)
    return folder / "index.html"
