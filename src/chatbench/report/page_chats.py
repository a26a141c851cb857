"""The chats of a page: people's about held-out questions, and all simulated ones of the runs that it shows.

People are numbered within a question, not named. A simulated chat keeps its number, so that a link to it is valid as
long as its simulation exists. A list of 20,000 chats needs one line of each and no text, so a short index is stored
apart from the texts. Chats are ordered by question, people's first, so that what is read together is stored together.

    chats-index           a column per property, in row order, and the tables that numbers point into
    chats-0, chats-1      the texts of some consecutive rows each; `starts` of the index has the first row of each
    shades-0, shades-1    the loss of each token of people's messages under one model in one split:
                          {"row": [turn, ...]}, the answer last; a turn is the lengths of its tokens in UTF-16 code
                          units (as browsers count) and their losses in hundredths of a nat
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, get_args

from chatbench.core.records import RIGHT_FROM, Question, SimulatedConversation, Study, Turn
from chatbench.data.workspace import Workspace
from chatbench.metrics.names import BASE_MODEL, FINE_TUNED, Predictor
from chatbench.protocol.prompts import ANSWER_PREFIX
from chatbench.report.page import packed
from chatbench.report.page_data import question_values
from chatbench.scoring.eval_ppl import (
    ScoredTurn,
    holds_scored_turns,
    read_scored_turns,
    scored_turns_path,
    stored_perplexities,
    tokens_origin,
)
from chatbench.simulation.log import read_conversations, settings_path
from chatbench.simulation.split_chats import called, settings_of

Participant = Literal["people", "fine-tuned", "base model"]
"""Who was the user of a chat."""

PART_CHARACTERS = 400_000
"""Size of a part of texts before compression: one chat opens in milliseconds, and all are in about a hundred parts."""
SNIPPET_CHARACTERS = 90
"""Length of the excerpt of the first message in the list."""
_PARTICIPANTS: tuple[Participant, ...] = get_args(Participant)


@dataclass(frozen=True, slots=True)
class PageChat:
    """One chat; `number` distinguishes those with the same participant, split, question and assistant.

    `model` and `split` are "" for people's chats, whose question may be held out in several splits. `correct` is None
    if no answer was given or recorded; `termination` is "" for people. `more` is what else the reader view shows.
    """

    question_id: str
    assistant: str
    participant: Participant
    model: str
    split: str
    number: int
    turns: tuple[Turn, ...]
    letter: str | None
    correct: float | None
    termination: str = ""
    observed: Mapping[str, int] = field(default_factory=dict)
    more: Mapping[str, object] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The id in links; stable as long as the study and the simulations are."""
        place = "people" if self.participant == "people" else f"{self.model}/{self.participant}/{self.split}"
        return f"{place}/{self.question_id}/{self.assistant}/{self.number}"


@dataclass(frozen=True, slots=True)
class PageChats:
    """Parts of a page: `first` is small and read as the page opens; each of `later` is read when needed."""

    first: Mapping[str, object]
    later: Mapping[str, str]


def in_page_order(chats: Iterable[PageChat]) -> list[PageChat]:
    """Sort chats by question, people's first.

    Raises:
        ValueError: two chats have the same id, which would make links ambiguous.
    """
    rows = sorted(
        chats,
        key=lambda c: (c.question_id, _PARTICIPANTS.index(c.participant), c.model, c.split, c.assistant, c.number),
    )
    for one, other in pairwise(rows):
        if one.id == other.id:
            raise ValueError(f"two chats have the id {one.id!r}")
    return rows


def page_chats(
    rows: Sequence[PageChat], questions: Mapping[str, Question], held_out: Mapping[str, Sequence[str]]
) -> PageChats:
    """Pack the chats into parts of a page.

    Args:
        rows: in the order of `in_page_order`.
        questions: by id; if one is missing, the page shows only its id.
        held_out: the splits in which a question is held out, by question id.
    """
    if not rows:
        return PageChats({"chats": 0, "people": 0, "simulated": 0}, {})
    texts = [
        {"roles": "".join(t.role[0] for t in chat.turns), "turns": [t.text for t in chat.turns], **chat.more}
        for chat in rows
    ]
    starts = _starts([sum(len(turn.text) for turn in chat.turns) for chat in rows])
    bounds = enumerate(pairwise([*starts, len(rows)]))
    parts = {f"chats-{number}": packed(texts[start:end]) for number, (start, end) in bounds}
    people = sum(chat.participant == "people" for chat in rows)
    first = {"chats": len(rows), "people": people, "simulated": len(rows) - people}
    index = {**_index(rows, questions, held_out), "starts": starts}
    return PageChats(first, {"chats-index": packed(index), **parts})


def _starts(sizes: Sequence[int]) -> list[int]:
    """First rows of parts of about `PART_CHARACTERS` each.

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


def _index(
    rows: Sequence[PageChat], questions: Mapping[str, Question], held_out: Mapping[str, Sequence[str]]
) -> dict[str, object]:
    asked = list(dict.fromkeys(row.question_id for row in rows))
    splits = [split for each in asked for split in held_out.get(each, ())]
    values = {
        name: [str(getattr(row, name)) for row in rows]
        for name in ("assistant", "participant", "model", "split", "termination")
    }
    names = {f"{name}s": sorted({*each, *(splits if name == "split" else ())}) for name, each in values.items()}
    names["failures"] = sorted({failure for row in rows for failure in row.observed})
    place = {name: {value: number for number, value in enumerate(each)} for name, each in names.items()}
    question = {question_id: number for number, question_id in enumerate(asked)}
    return {
        **names,
        "questions": [
            {**question_values(each, questions.get(each)), "splits": list(held_out.get(each, ()))} for each in asked
        ],
        "rows": {
            "id": [row.id for row in rows],
            "question": [question[row.question_id] for row in rows],
            **{name: [place[f"{name}s"][value] for value in each] for name, each in values.items()},
            "letter": [row.letter or "" for row in rows],
            "correct": [-1 if row.correct is None else int(row.correct >= RIGHT_FROM) for row in rows],
            "observed": [[place["failures"][name] for name in row.observed] for row in rows],
            "turns": [sum(turn.role == "user" for turn in row.turns) for row in rows],
            "characters": [sum(len(turn.text) for turn in row.turns) for row in rows],
            "snippet": [  # how the chat begins, on one line
                " ".join(row.turns[0].text[: 4 * SNIPPET_CHARACTERS].split())[:SNIPPET_CHARACTERS] if row.turns else ""
                for row in rows
            ],
        },
    }


CHATS_PER_PART = 400


@dataclass(frozen=True, slots=True)
class Shades:
    """Token losses of people's chats under one model in one split, by row of the page and turn.

    The turn after the last message is the answer.
    """

    model: str
    split: str
    rows: Mapping[int, Mapping[int, ScoredTurn]]


def shade_parts(shades: Iterable[Shades]) -> tuple[list[dict[str, object]], dict[str, str]]:
    """Index entries to load at once (model, split, parts and their first rows), and the parts by name."""
    known: list[dict[str, object]] = []
    parts: dict[str, str] = {}
    for each in shades:
        rows = sorted(each.rows)
        starts = range(0, len(rows), CHATS_PER_PART)
        first_rows = [rows[start] for start in starts]
        known.append({"model": each.model, "split": each.split, "first_part": len(parts), "starts": first_rows})
        for start in starts:
            some = {
                str(row): [_costs(each.rows[row].get(turn)) for turn in range(max(each.rows[row]) + 1)]
                for row in rows[start : start + CHATS_PER_PART]
            }
            parts[f"shades-{len(parts)}"] = packed(some)
    return known, parts


def _costs(scored: ScoredTurn | None) -> list[list[int]] | None:
    if scored is None:  # for example because it was longer than the model's context
        return None
    lengths = [len(text.encode("utf-16-le", "surrogatepass")) // 2 for text in scored.texts]
    return [lengths, [round(100 * nats) for nats in scored.nats]]


def belongs_to(scored: ScoredTurn, chat: PageChat) -> bool:
    """Whether this is a turn of the chat: its tokens, joined, must start with what the person wrote there.

    The turn after the last message is the answer, which is not a message: it matches any text.
    """
    messages = [each.text.strip() for each in chat.turns if each.role == "user"]
    if scored.turn < len(messages):
        return "".join(scored.texts).startswith(messages[scored.turn])
    return scored.turn == len(messages)


DIGITS = 4
"""Decimals of probabilities."""


@dataclass(frozen=True, slots=True)
class RunChats:
    """Simulated chats of one model, by its key in the results folder, from one of its simulators in one split.

    `predictor` has the simulator's name if it was not fine-tuned here; `run` the settings and the assistants of the
    run, None if they are not beside the log.
    """

    key: str
    split: str
    source: Participant
    chats: tuple[SimulatedConversation, ...]
    predictor: Predictor = FINE_TUNED
    run: tuple[Mapping[str, object], Mapping[str, object]] | None = None


def report_chats(
    runs: Sequence[RunChats],
    *,
    study: Study | None,
    held_out: Mapping[str, list[str]],
    models: Sequence[str],
    workspace: Workspace,
) -> PageChats:
    """The chats of some runs and people's, with the token losses of people's messages if they are stored.

    Args:
        study: None if it cannot be opened: people's chats and the questions' texts are missing then.
        held_out: the splits in which each question is held out.
        models: keys of the models whose token losses are looked up in the results.

    Raises:
        ChatbenchError: a file is damaged or belongs to other data.
    """
    questions = {} if study is None else study.questions
    people = {} if study is None else _peoples_chats(study, held_out)
    simulated = (_simulated(run, chat, study) for run in runs for chat in run.chats)
    rows = in_page_order([*people.values(), *simulated])
    chats = page_chats(rows, questions, held_out)
    place = {chat.id: row for row, chat in enumerate(rows)}
    row_of = {conversation_id: place[chat.id] for conversation_id, chat in people.items()}
    shades, parts = shade_parts(_shades(models, rows, row_of, workspace))
    return PageChats({**chats.first, "shades": shades}, {**chats.later, **parts})


def run_chats(key: str, workspace: Workspace) -> Iterator[RunChats]:
    """Yield the stored simulated chats of a model (by its key), by split and simulator.

    Raises:
        ChatbenchError: a log is damaged.
    """
    folders = workspace.simulations(key).glob("split_*")
    for folder in sorted(folders, key=lambda path: (len(path.name), path.name)):  # split_10 after split_9
        for source in _PARTICIPANTS[1:]:
            path = workspace.conversations(key, folder.name, base_model=source == "base model")
            if path.exists():
                predictor = BASE_MODEL if source == "base model" else FINE_TUNED
                run = settings_of(path) if settings_path(path).exists() else None
                predictor = called(predictor, run[0], folder.name) if run else predictor
                yield RunChats(key, folder.name, source, tuple(read_conversations(path)), predictor, run)


def held_out_splits(workspace: Workspace) -> dict[str, list[str]]:
    """The splits in which each question is held out; questions in every training set are missing."""
    found: dict[str, list[str]] = {}
    for split_id in workspace.manifest.split_ids:
        for question_id in workspace.split(split_id).question_ids("test"):
            found.setdefault(question_id, []).append(split_id)
    return found


def _peoples_chats(study: Study, held_out: Mapping[str, Sequence[str]]) -> dict[str, PageChat]:
    """People's chats by conversation id, which the page does not contain."""
    answers = {answer.conversation_id: answer for answer in study.answers if answer.conversation_id}
    seen: Counter[tuple[str, str]] = Counter()
    found = {}
    for chat in study.conversations:
        if chat.question_id not in held_out:
            continue
        answer, key = answers.get(chat.id), (chat.question_id, chat.assistant)
        correct = answer.correct if answer else _score(study, chat.question_id, chat.answer)
        more = _saying({"condition": chat.condition, "confidence": answer.confidence if answer else ""})
        found[chat.id] = PageChat(*key, "people", "", "", seen[key], chat.turns, chat.answer, correct, more=more)
        seen[key] += 1
    return found


def _score(study: Study | None, question_id: str, answer: str | None) -> float | None:
    if study is None or answer is None or question_id not in study.questions:
        return None
    return study.score(question_id, answer)


def _simulated(run: RunChats, chat: SimulatedConversation, study: Study | None) -> PageChat:
    usage = chat.usage
    below = {  # what the reader shows below the chat
        "written": None if chat.final_output == f"{ANSWER_PREFIX}{chat.letter}" else chat.final_output,
        "forced": None if chat.forced_text == chat.final_output else chat.forced_text,
        "reason": chat.reason,
        "lenient": chat.lenient_letter if chat.lenient_letter != chat.letter else None,
        "dropped": chat.turns_dropped,
        "seconds": round(chat.seconds, 2),
        "observed": dict(chat.observed),
        "tokens": {
            "simulator": [usage.simulator_prompt_tokens, usage.simulator_tokens],
            "assistant": [usage.assistant_prompt_tokens, usage.assistant_tokens],
        },
        "expected": None if chat.expected_correct is None else round(chat.expected_correct, DIGITS),
        "probabilities": [  # of answering, then of each letter given an answer
            None if each is None else [round(p, DIGITS) for p in (each.answering, *each.letters)]
            for each in chat.answer_probabilities
        ],
    }
    correct = _score(study, chat.question_id, chat.letter)
    return PageChat(
        chat.question_id, chat.assistant, run.source, run.key, run.split, chat.index, chat.turns, chat.letter, correct,
        chat.termination, chat.observed, _saying(below),
    )  # fmt: skip


def _saying(more: Mapping[str, object]) -> dict[str, object]:
    """Drop empty values; an expected accuracy of 0 is not empty."""
    return {name: value for name, value in more.items() if value or (value == 0 and name == "expected")}


def _shades(
    models: Iterable[str], rows: Sequence[PageChat], row_of: Mapping[str, int], workspace: Workspace
) -> Iterator[Shades]:
    """Stored token losses; turns of chats that the page does not show, or with other text than scored, are omitted."""
    for model in models:
        for stored in stored_perplexities(workspace, model):
            origin = tokens_origin(stored.signature)
            path = scored_turns_path(workspace.perplexity(model, stored.split))
            if not holds_scored_turns(path, origin):
                continue
            costs: dict[int, dict[int, ScoredTurn]] = {}
            for turn in read_scored_turns(path, origin, f"chatbench eval-ppl {model} --split {stored.split}"):
                row = row_of.get(turn.conversation_id)
                if row is not None and belongs_to(turn, rows[row]):
                    costs.setdefault(row, {})[turn.turn] = turn
            yield Shades(model, stored.split, costs)
