"""The chats of a page as plain values: a short index of all of them, and their texts in parts that are read on demand.

A list of 20,000 chats needs one line of each and the text of none, so index and texts lie apart. Chats stand by
question, people's first, so that what is read together lies together, and what repeats is near and compresses well.

    chats-index         a column per property, in the order of the rows, and the tables that numbers point into
    chats-0, chats-1    the texts of some consecutive rows each; `starts` of the index says from which row on
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from chatbench.core.records import Question, Turn
from chatbench.page.packing import packed

Speaker = Literal["people", "fine-tuned", "untrained"]
"""Who was in the user's place."""

PART_CHARACTERS = 400_000
"""Of a part of texts, before compression: one chat is opened in milliseconds, and all are read in a hundred parts."""
SNIPPET_CHARACTERS = 90
"""Of the first message, for the list."""
_SPEAKERS: tuple[Speaker, ...] = ("people", "fine-tuned", "untrained")


@dataclass(frozen=True, slots=True)
class PageChat:
    """One chat. `number` tells the chats of one speaker, split, question and assistant apart.

    `model` and `split` are "" for people's chats: their question may be held out in several splits. `correct` is None
    where no answer was given or recorded; `termination` is "" for people. `more` is what else the reader shows.
    """

    question_id: str
    assistant: str
    speaker: Speaker
    model: str
    split: str
    number: int
    turns: tuple[Turn, ...]
    letter: str | None
    correct: bool | None
    termination: str = ""
    observed: Mapping[str, int] = field(default_factory=dict)
    more: Mapping[str, object] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """What a link names; the same as long as study and simulations are."""
        place = "people" if self.speaker == "people" else f"{self.model}/{self.speaker}/{self.split}"
        return f"{place}/{self.question_id}/{self.assistant}/{self.number}"


@dataclass(frozen=True, slots=True)
class PageChats:
    """`first` is small enough to be read as the page opens; each of `later` is read when it is needed."""

    first: Mapping[str, object]
    later: Mapping[str, str]


def in_page_order(chats: Iterable[PageChat]) -> list[PageChat]:
    """By question, people's first.

    Raises:
        ValueError: two chats have the same id, so that a link would mean both.
    """
    rows = sorted(
        chats, key=lambda c: (c.question_id, _SPEAKERS.index(c.speaker), c.model, c.split, c.assistant, c.number)
    )
    for one, other in pairwise(rows):
        if one.id == other.id:
            raise ValueError(f"two chats have the id {one.id!r}")
    return rows


def page_chats(
    rows: Sequence[PageChat], questions: Mapping[str, Question], held_out: Mapping[str, Sequence[str]]
) -> PageChats:
    """The chats as parts of a page.

    Args:
        rows: in the order of `in_page_order`.
        questions: by id; of one that is missing, the page knows the id only.
        held_out: the splits in which a question is held out, by question id.
    """
    if not rows:
        return PageChats({"chats": 0, "people": 0, "simulated": 0}, {})
    starts = _starts([sum(len(turn.text) for turn in chat.turns) for chat in rows])
    parts = {
        f"chats-{number}": packed([_text(chat) for chat in rows[start:end]])
        for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(rows)], strict=True))
    }
    people = sum(chat.speaker == "people" for chat in rows)
    first = {"chats": len(rows), "people": people, "simulated": len(rows) - people}
    index = {**_index(rows, questions, held_out), "starts": starts}
    return PageChats(first, {"chats-index": packed(index), **parts})


def _starts(sizes: Sequence[int]) -> list[int]:
    """Where parts of about `PART_CHARACTERS` begin.

    >>> _starts([300_000, 200_000, 5, 400_000, 1])
    [0, 2, 4]
    """
    starts: list[int] = []
    held = PART_CHARACTERS
    for row, size in enumerate(sizes):
        if held >= PART_CHARACTERS:
            starts.append(row)
            held = 0
        held += size
    return starts


def _text(chat: PageChat) -> dict[str, object]:
    roles = "".join(turn.role[0] for turn in chat.turns)  # "uaua"
    return {"roles": roles, "turns": [turn.text for turn in chat.turns], **chat.more}


def _index(
    rows: Sequence[PageChat], questions: Mapping[str, Question], held_out: Mapping[str, Sequence[str]]
) -> dict[str, object]:
    asked = list(dict.fromkeys(row.question_id for row in rows))
    tables: dict[str, tuple[list[str], list[int]]] = {
        "assistants": _table([row.assistant for row in rows]),
        "speakers": _table([row.speaker for row in rows]),
        "models": _table([row.model for row in rows]),
        "splits": _table(
            [row.split for row in rows], also=[split for each in asked for split in held_out.get(each, ())]
        ),
        "terminations": _table([row.termination for row in rows]),
        "guards": _table([], also=[guard for row in rows for guard in row.observed]),
    }
    names = {name: table for name, (table, _) in tables.items()}
    place = {question_id: number for number, question_id in enumerate(asked)}
    guard = {name: number for number, name in enumerate(names["guards"])}
    return {
        **names,
        "questions": [_question(each, questions.get(each), held_out.get(each, ())) for each in asked],
        "rows": {
            "id": [row.id for row in rows],
            "question": [place[row.question_id] for row in rows],
            "assistant": tables["assistants"][1],
            "speaker": tables["speakers"][1],
            "model": tables["models"][1],
            "split": tables["splits"][1],
            "termination": tables["terminations"][1],
            "letter": [row.letter or "" for row in rows],
            "correct": [-1 if row.correct is None else int(row.correct) for row in rows],
            "observed": [[guard[name] for name in row.observed] for row in rows],
            "turns": [sum(turn.role == "user" for turn in row.turns) for row in rows],
            "characters": [sum(len(turn.text) for turn in row.turns) for row in rows],
            "snippet": [_snippet(row) for row in rows],
        },
    }


def _question(question_id: str, question: Question | None, splits: Sequence[str]) -> dict[str, object]:
    return {
        "id": question_id,
        "subset": question.subset if question else "",
        "text": question.text if question else "",
        "options": list(question.options) if question else [],
        "answer": question.answer if question else "",
        "splits": list(splits),
    }


def _table(values: Sequence[str], also: Iterable[str] = ()) -> tuple[list[str], list[int]]:
    """The distinct values, sorted, and the place of each value among them.

    >>> _table(["b", "a", "b"], also=["c"])
    (['a', 'b', 'c'], [1, 0, 1])
    """
    names = sorted({*values, *also})
    place = {name: number for number, name in enumerate(names)}
    return names, [place[value] for value in values]


def _snippet(chat: PageChat) -> str:
    """How the chat begins, on one line."""
    return " ".join(chat.turns[0].text[: 4 * SNIPPET_CHARACTERS].split())[:SNIPPET_CHARACTERS] if chat.turns else ""
