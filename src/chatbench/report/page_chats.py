"""The chats of a page: people's about held-out questions, and every simulated one of the runs that it shows.

People are numbered within a question, not named. A simulated chat keeps its number, so that a link to it holds as long
as its simulation does.

The chats of a page as plain values: a short index of all of them, and their texts in parts that are read on demand.

A list of 20,000 chats needs one line of each and the text of none, so index and texts lie apart. Chats stand by
question, people's first, so that what is read together lies together, and what repeats is near and compresses well.

    chats-index         a column per property, in the order of the rows, and the tables that numbers point into
    chats-0, chats-1    the texts of some consecutive rows each; `starts` of the index says from which row on

The probabilities of scored tokens as parts of a page: what each token of a person's message cost a model.

A part holds some consecutive chats of one model and split, by row of the index of chats: per message, the lengths of
its tokens' texts in UTF-16 code units (as a browser counts) and their nats in hundredths.

    shades-0, shades-1    {"row": [[lengths, hundredths], [lengths, hundredths], ...], ...}; the answer's comes last
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from chatbench.core.recipes import model_key
from chatbench.core.records import AnswerProbabilities, Question, SimulatedConversation, Study, Turn
from chatbench.data.workspace import Workspace
from chatbench.protocol.prompts import ANSWER_PREFIX
from chatbench.report.page import packed
from chatbench.scoring.eval_ppl import read_perplexity, tokens_origin
from chatbench.scoring.scored_turns import ScoredTurn, holds_scored_turns, read_scored_turns, scored_turns_path
from chatbench.simulation.log import read_conversations

Participant = Literal["people", "fine-tuned", "base model"]
"""Who was in the user's place."""

PART_CHARACTERS = 400_000
"""Of a part of texts, before compression: one chat is opened in milliseconds, and all are read in a hundred parts."""
SNIPPET_CHARACTERS = 90
"""Of the first message, for the list."""
_PARTICIPANTS: tuple[Participant, ...] = ("people", "fine-tuned", "base model")


@dataclass(frozen=True, slots=True)
class PageChat:
    """One chat. `number` tells the chats of one participant, split, question and assistant apart.

    `model` and `split` are "" for people's chats: their question may be held out in several splits. `correct` is None
    where no answer was given or recorded; `termination` is "" for people. `more` is what else the reader shows.
    """

    question_id: str
    assistant: str
    participant: Participant
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
        place = "people" if self.participant == "people" else f"{self.model}/{self.participant}/{self.split}"
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
    people = sum(chat.participant == "people" for chat in rows)
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
        "participants": _table([row.participant for row in rows]),
        "models": _table([row.model for row in rows]),
        "splits": _table(
            [row.split for row in rows], also=[split for each in asked for split in held_out.get(each, ())]
        ),
        "terminations": _table([row.termination for row in rows]),
        "failures": _table([], also=[failure for row in rows for failure in row.observed]),
    }
    names = {name: table for name, (table, _) in tables.items()}
    place = {question_id: number for number, question_id in enumerate(asked)}
    failure = {name: number for number, name in enumerate(names["failures"])}
    return {
        **names,
        "questions": [_question(each, questions.get(each), held_out.get(each, ())) for each in asked],
        "rows": {
            "id": [row.id for row in rows],
            "question": [place[row.question_id] for row in rows],
            "assistant": tables["assistants"][1],
            "participant": tables["participants"][1],
            "model": tables["models"][1],
            "split": tables["splits"][1],
            "termination": tables["terminations"][1],
            "letter": [row.letter or "" for row in rows],
            "correct": [-1 if row.correct is None else int(row.correct) for row in rows],
            "observed": [[failure[name] for name in row.observed] for row in rows],
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


CHATS_PER_PART = 400
HUNDREDTHS = 100


@dataclass(frozen=True, slots=True)
class TokenCosts:
    """One scored message or answer: the texts of its tokens, and what they cost (nats)."""

    texts: Sequence[str]
    nats: Sequence[float]


@dataclass(frozen=True, slots=True)
class Shades:
    """What one model made of people's chats in one split: by row of the page, the costs by turn.

    The number after the last message's is the answer's.
    """

    model: str
    split: str
    rows: Mapping[int, Mapping[int, TokenCosts]]


def shade_parts(shades: Iterable[Shades]) -> tuple[list[dict[str, object]], dict[str, str]]:
    """What the page must know at once (model, split, the parts and their first rows), and the parts."""
    known: list[dict[str, object]] = []
    parts: dict[str, str] = {}
    for each in shades:
        rows = sorted(each.rows)
        starts = range(0, len(rows), CHATS_PER_PART)
        known.append(
            {
                "model": each.model,
                "split": each.split,
                "first_part": len(parts),
                "starts": [rows[start] for start in starts],
            }
        )
        for start in starts:
            some = {str(row): _turns(each.rows[row]) for row in rows[start : start + CHATS_PER_PART]}
            parts[f"shades-{len(parts)}"] = packed(some)
    return known, parts


def _turns(turns: Mapping[int, TokenCosts]) -> list[object]:
    """By turn; None where one was not scored, for example because it was longer than the model's context."""
    return [_costs_token_shades(turns[turn]) if turn in turns else None for turn in range(max(turns) + 1)]


def _costs_token_shades(costs: TokenCosts) -> list[list[int]]:
    return [[_units(text) for text in costs.texts], [round(HUNDREDTHS * nats) for nats in costs.nats]]


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def belongs_to(costs: TokenCosts, chat: PageChat, turn: int) -> bool:
    """Whether these are the tokens of that message of the chat: joined, they begin with what the person wrote.

    The turn after the last message is the answer, which is no message: any text will do.
    """
    messages = [each.text.strip() for each in chat.turns if each.role == "user"]
    return turn == len(messages) or (turn < len(messages) and "".join(costs.texts).startswith(messages[turn]))


DIGITS = 4
"""Of probabilities."""
_BASE_MODEL: Mapping[Participant, bool] = {"fine-tuned": False, "base model": True}


@dataclass(frozen=True, slots=True)
class RunChats:
    """The simulated chats of one model, by its key in the results folder, and one simulator of it in one split."""

    key: str
    split: str
    source: Participant
    chats: tuple[SimulatedConversation, ...]


def report_chats(
    runs: Sequence[RunChats],
    *,
    study: Study | None,
    held_out: Mapping[str, list[str]],
    models: Sequence[str],
    workspace: Workspace,
) -> PageChats:
    """The chats of some runs and people's, with what each token of people's messages cost where it is stored.

    Args:
        study: None where it cannot be opened: people's chats and the questions' texts are missing then.
        held_out: the splits in which each question is held out.
        models: whose costs of tokens are looked for in the results.

    Raises:
        ChatbenchError: a file is damaged, or is of other data.
    """
    questions = {} if study is None else study.questions
    people = [] if study is None else list(_peoples_chats(study, held_out))
    simulated = (each for run in runs for each in _simulated(run, questions))
    rows = in_page_order([*(each.chat for each in people), *simulated])
    chats = page_chats(rows, questions, held_out)
    place = {chat.id: row for row, chat in enumerate(rows)}
    row_of = {each.conversation_id: place[each.chat.id] for each in people}
    shades, parts = shade_parts(_shades(models, rows, row_of, workspace))
    return PageChats({**chats.first, "shades": shades}, {**chats.later, **parts})


def run_chats(model: str, workspace: Workspace) -> Iterator[RunChats]:
    """The simulated chats of a model that lie in the results, by split and simulator.

    Raises:
        ChatbenchError: a log is damaged.
    """
    key = model_key(model)
    folders = workspace.simulations(model).glob("split_*")
    for folder in sorted(folders, key=lambda path: (len(path.name), path.name)):  # split_10 after split_9
        for source in _BASE_MODEL:
            path = workspace.conversations(model, folder.name, base_model=_BASE_MODEL[source])
            if path.exists():
                yield RunChats(key, folder.name, source, tuple(read_conversations(path)))


def held_out_splits(workspace: Workspace) -> dict[str, list[str]]:
    """The splits in which each question is held out; one that is in every training set is missing."""
    found: dict[str, list[str]] = {}
    for split_id in workspace.manifest.split_ids:
        for question_id in workspace.split(split_id).question_ids("test"):
            found.setdefault(question_id, []).append(split_id)
    return found


@dataclass(frozen=True, slots=True)
class _PersonsChat:
    conversation_id: str
    chat: PageChat


def _peoples_chats(study: Study, held_out: Mapping[str, Sequence[str]]) -> Iterator[_PersonsChat]:
    answers = {answer.conversation_id: answer for answer in study.answers if answer.conversation_id}
    seen: Counter[tuple[str, str]] = Counter()
    for conversation in study.conversations:
        if conversation.question_id not in held_out:
            continue
        answer = answers.get(conversation.id)
        key = (conversation.question_id, conversation.assistant)
        chat = PageChat(
            question_id=conversation.question_id,
            assistant=conversation.assistant,
            participant="people",
            model="",
            split="",
            number=seen[key],
            turns=conversation.turns,
            letter=conversation.answer,
            correct=answer.correct
            if answer
            else _is_right(conversation.answer, study.questions.get(conversation.question_id)),
            more=_told({"condition": conversation.condition, "confidence": answer.confidence if answer else ""}),
        )
        seen[key] += 1
        yield _PersonsChat(conversation.id, chat)


def _is_right(letter: str | None, question: Question | None) -> bool | None:
    return None if letter is None or question is None else letter == question.answer


def _simulated(run: RunChats, questions: Mapping[str, Question]) -> Iterator[PageChat]:
    for each in run.chats:
        yield PageChat(
            question_id=each.question_id,
            assistant=each.assistant,
            participant=run.source,
            model=run.key,
            split=run.split,
            number=each.index,
            turns=each.turns,
            letter=each.letter,
            correct=_is_right(each.letter, questions.get(each.question_id)),
            termination=each.termination,
            observed=each.observed,
            more=_told(_more(each)),
        )


def _more(chat: SimulatedConversation) -> dict[str, object]:
    """What the reader shows below a simulated chat."""
    return {
        "written": None if chat.final_output == f"{ANSWER_PREFIX}{chat.letter}" else chat.final_output,
        "forced": None if chat.forced_text == chat.final_output else chat.forced_text,
        "reason": chat.reason,
        "lenient": chat.lenient_letter if chat.lenient_letter != chat.letter else None,
        "dropped": chat.turns_dropped,
        "seconds": round(chat.seconds, 2),
        "observed": dict(chat.observed),
        "tokens": {
            "simulator": [chat.usage.simulator_prompt_tokens, chat.usage.simulator_tokens],
            "assistant": [chat.usage.assistant_prompt_tokens, chat.usage.assistant_tokens],
        },
        "expected": None if chat.expected_correct is None else round(chat.expected_correct, DIGITS),
        "probabilities": [_probabilities(each) for each in chat.answer_probabilities],
    }


def _probabilities(of: AnswerProbabilities | None) -> list[float] | None:
    """Of an answer, then of each letter given one."""
    return None if of is None else [round(p, DIGITS) for p in (of.answering, *of.letters)]


def _told(more: Mapping[str, object]) -> dict[str, object]:
    """Without what says nothing; a probability of 0 does say something."""
    return {name: value for name, value in more.items() if value or (value == 0 and name == "expected")}


def _shades(
    models: Iterable[str], rows: Sequence[PageChat], row_of: Mapping[str, int], workspace: Workspace
) -> Iterator[Shades]:
    for model in models:
        key = model_key(model)
        for path in sorted(workspace.perplexity_folder(model).glob("split_*.json")):
            perplexity = read_perplexity(workspace, model, path.stem)
            origin = tokens_origin(perplexity.signature) if perplexity else {}
            if holds_scored_turns(scored_turns_path(path), origin):
                fix = f"chatbench eval-ppl {model} --split {path.stem}"
                turns = read_scored_turns(scored_turns_path(path), origin, fix)
                yield Shades(key, path.stem, _costs(turns, rows, row_of))


def _costs(
    turns: Iterable[ScoredTurn], rows: Sequence[PageChat], row_of: Mapping[str, int]
) -> dict[int, dict[int, TokenCosts]]:
    """By row and turn; turns of chats that the page does not show, or that are not what was scored, are left out."""
    costs: dict[int, dict[int, TokenCosts]] = {}
    for turn in turns:
        row, of_turn = row_of.get(turn.conversation_id), TokenCosts(turn.texts, turn.nats)
        if row is not None and belongs_to(of_turn, rows[row], turn.turn):
            costs.setdefault(row, {})[turn.turn] = of_turn
    return costs
