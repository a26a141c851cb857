"""The chats of a page: people's about held-out questions, and every simulated one of the runs that it shows.

People are numbered within a question, not named. A simulated chat keeps its number, so that a link to it holds as long
as its simulation does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chatbench.core.model_names import model_key
from chatbench.core.records import AnswerProbabilities, Question, SimulatedConversation, Study
from chatbench.page.chats import PageChat, PageChats, Speaker, in_page_order, page_chats
from chatbench.page.token_shades import Shades, TokenCosts, belongs_to, shade_parts
from chatbench.protocol.prepared_data import load_manifest, read_split
from chatbench.protocol.prompts import ANSWER_PREFIX
from chatbench.steps.eval_ppl import tokens_origin
from chatbench.steps.perplexity_files import read_perplexity
from chatbench.studies.scored_turns import ScoredTurn, holds_scored_turns, read_scored_turns, scored_turns_path
from chatbench.studies.simulations import log_path, read_conversations

DIGITS = 4
"""Of probabilities."""
_UNTRAINED: Mapping[Speaker, bool] = {"fine-tuned": False, "untrained": True}


@dataclass(frozen=True, slots=True)
class RunChats:
    """The simulated chats of one model, by its key in the results folder, and one simulator of it in one split."""

    key: str
    split: str
    source: Speaker
    chats: tuple[SimulatedConversation, ...]


def report_chats(
    runs: Sequence[RunChats], *, study: Study | None, data: Path | None, models: Sequence[str], results: Path
) -> PageChats:
    """The chats of some runs and people's, with what each token of people's messages cost where it is stored.

    Args:
        study: None where it cannot be opened: people's chats and the questions' texts are missing then.
        data: the prepared splits, None where there are none.
        models: whose costs of tokens are looked for in `results`.

    Raises:
        ChatbenchError: a file is damaged, or is of other data.
    """
    questions = {} if study is None else study.questions
    held_out = {} if data is None else held_out_splits(data)
    people = [] if study is None else list(_peoples_chats(study, held_out))
    simulated = (each for run in runs for each in _simulated(run, questions))
    rows = in_page_order([*(each.chat for each in people), *simulated])
    chats = page_chats(rows, questions, held_out)
    place = {chat.id: row for row, chat in enumerate(rows)}
    row_of = {each.conversation_id: place[each.chat.id] for each in people}
    shades, parts = shade_parts(_shades(models, rows, row_of, results))
    return PageChats({**chats.first, "shades": shades}, {**chats.later, **parts})


def run_chats(model: str, results: Path) -> Iterator[RunChats]:
    """The simulated chats of a model that lie in the results, by split and simulator.

    Raises:
        ChatbenchError: a log is damaged.
    """
    key = model_key(model)
    folders = (results / "simulations" / key).glob("split_*")
    for folder in sorted(folders, key=lambda path: (len(path.name), path.name)):  # split_10 after split_9
        for source in _UNTRAINED:
            path = log_path(results, key, folder.name, untrained=_UNTRAINED[source])
            if path.exists():
                yield RunChats(key, folder.name, source, tuple(read_conversations(path)))


def held_out_splits(data: Path) -> dict[str, list[str]]:
    """The splits in which each question is held out; one that is in every training set is missing."""
    found: dict[str, list[str]] = {}
    for split_id in load_manifest(data).split_ids:
        for question_id in read_split(data, split_id).question_ids("test"):
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
            speaker="people",
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
            speaker=run.source,
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
    models: Iterable[str], rows: Sequence[PageChat], row_of: Mapping[str, int], results: Path
) -> Iterator[Shades]:
    for model in models:
        key = model_key(model)
        for path in sorted((results / "ppl" / key).glob("split_*.json")):
            perplexity = read_perplexity(model, results, path.stem)
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
