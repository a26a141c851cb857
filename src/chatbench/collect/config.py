"""Configuration of a study to be collected, and the steps of one person in it.

The configuration is `study.toml` in the study's folder, with the questions and texts beside it. An unknown key or a
wrong value is reported with what was expected. The file holds no secrets: assistants' API keys, and a database address
with a password, are given by the names of environment variables.

A person's steps are drawn once, when they join:

    instructions, phase 1: questions of other batches alone, attention check, phase 2: the batch's questions

In phase 2 a question is answered with the assistant (direct-to-AI), alone and then with it (answer-first), or alone
(user-alone). The order within each phase is random. Source: Chang, Anderson, Hofman, ACL 2025.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib import import_module, resources
from inspect import iscoroutinefunction
from pathlib import Path
from random import Random
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chatbench.core.answer_kinds import Choice, Number, Text
from chatbench.core.errors import ChatbenchError, first_problem
from chatbench.core.files import read_jsonl, read_text, write_jsonl, write_text
from chatbench.core.records import Question
from chatbench.data.own_chats import read_question_lines
from chatbench.simulation.budget import Price, read_price
from chatbench.simulation.participants import read_specs, refuse_missing

FILE = "study.toml"
QUESTIONS = "questions.jsonl"
Condition = Literal["direct-to-AI", "answer-first", "user-alone"]
ASKED_KINDS = ("choice", "number", "text")
POSTGRES_PARAMETERS = ("host", "ssl", "sslmode")
ALONE: Condition = "user-alone"
"""The condition in which people get no assistant."""
INSTRUCTIONS, ATTENTION, CHAT = "instructions", "attention", "chat"
"""Kinds of steps; those in which a question is answered alone are `alone` (phase 1), `first` and `second`."""
Moderate = Callable[[str], str]
"""Returns the reason for which a text is refused, or ""."""

_Count = Annotated[int, Field(ge=0)]
_CountAbove0 = Annotated[int, Field(ge=1)]
_Text = Annotated[str, Field(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AssistantConfig(_Section):
    """An assistant to chat with; `price` is dollars per million input and output tokens, as in 2.50/10."""

    spec: _Text
    price: str = ""
    temperature: Annotated[float, Field(ge=0)] = 0.7
    max_tokens: _CountAbove0 = 1000


class AttentionCheck(_Section):
    """A question between the two phases that anyone who reads it gets right."""

    text: str = "To show that you read carefully, please choose the option “blue”."
    options: tuple[_Text, _Text, _Text, _Text] = ("red", "green", "blue", "yellow")
    answer: Literal["A", "B", "C", "D"] = "C"


class Texts(_Section):
    """Markdown files in the study's folder."""

    consent: _Text = "consent.md"
    instructions: _Text = "instructions.md"
    debriefing: _Text = "debriefing.md"


class Recruiting(_Section):
    """How people arrive and leave: the URL parameter with their id, and the code or redirect that they finish with."""

    id_parameter: _Text = "PROLIFIC_PID"
    id_required: bool = True
    completion_code: str = ""
    redirect: str = ""


class Limits(_Section):
    """Limits of a study; 0 tokens or dollars mean none. `minutes` is how long one person may take."""

    turns: _CountAbove0 = 10
    minutes: Annotated[float, Field(gt=0)] = 60
    characters: Annotated[int, Field(ge=1, le=7000)] = 4000  # a form has up to 9 bytes for each, and at most 64 KiB
    tokens: _Count = 0
    usd: Annotated[float, Field(ge=0)] = 0
    requests_per_minute: _CountAbove0 = 120
    joins_per_minute: _CountAbove0 = 30

    @property
    def oldest(self) -> float:
        """The time before which a session began that is out of time."""
        return time.time() - 60 * self.minutes


class StudyConfig(_Section):
    """`study.toml`; `id` identifies its database, `people` is the target per batch, assistant and condition."""

    id: _Text
    title: _Text
    conditions: tuple[Condition, ...] = Field(min_length=1)
    people: _CountAbove0
    batch_size: _CountAbove0
    phase_1_questions: _Count = 0
    confidence: bool = True
    needs_message: bool = True
    moderation: str = ""
    database: str = ""
    assistants: tuple[AssistantConfig, ...] = ()
    attention: AttentionCheck | None = None
    texts: Texts = Texts()
    recruiting: Recruiting = Recruiting()
    limits: Limits = Limits()


class Cell(_Section):
    """What a person can be assigned to; `assistant` is "" in the condition without one."""

    batch: int
    assistant: str
    condition: Condition

    @property
    def key(self) -> tuple[int, str, str]:
        """The cell as a tuple."""
        return self.batch, self.assistant, self.condition


class CollectedStudy:
    """A study's folder, loaded and checked."""

    def __init__(
        self, folder: Path, new: Mapping[str, str] | None = None, questions: Sequence[Question] = ()
    ) -> None:  # fmt: skip
        """Load the folder, with the `new` files (text by name) and questions that are yet to be written to it.

        Raises:
            ChatbenchError: a file is missing, or a value is wrong or contradicts another.
        """
        self.folder, new = folder, new or {}
        path = folder / FILE
        try:
            settings = new.get(FILE) or path.read_text(encoding="utf-8-sig")
            self.config = StudyConfig.model_validate(tomllib.loads(settings))
        except OSError:
            raise ChatbenchError(f"{path}: no such file", fix="create it: chatbench collect init STUDY_DIR") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ChatbenchError(f"{path}: {error}", expected="TOML") from None
        except ValidationError as error:
            key, found, expected = first_problem(error)
            raise ChatbenchError(
                f"{path}: {key}: {found}", expected=expected, fix="docs/collect.md lists the keys"
            ) from None
        asked = {each.id: each for each in questions} or read_question_lines(folder / QUESTIONS)
        self.questions = _asked(asked, folder / QUESTIONS)
        self.specs = read_specs([each.spec for each in self.config.assistants], ()) if self.config.assistants else []
        self.texts: dict[str, str] = {
            name: new.get(file) or read_text(folder / file, fix="write the Markdown file that [texts] names")
            for name, file in self.config.texts.model_dump().items()
        }
        self._check()

    def _check(self) -> None:
        config, where = self.config, self.folder / FILE
        chats = [condition for condition in config.conditions if condition != ALONE]
        if len(set(config.conditions)) < len(config.conditions):
            raise ChatbenchError(f"{where}: conditions lists a condition twice", fix="list each once")
        if chats and not self.specs:
            raise ChatbenchError(f"{where}: {chats[0]} needs an assistant", fix="add [[assistants]] with a spec")
        if len(self.specs) != len(config.assistants):
            raise ChatbenchError(f"{where}: a spec stands for several assistants", fix="use one [[assistants]] each")
        for spec in self.specs:
            if spec.kind == "replay":
                raise ChatbenchError(
                    f"{where}: assistant {spec.name!r} is a recording", expected="an assistant that can reply"
                )
        largest = max(map(len, self.batches))
        if config.phase_1_questions > len(self.questions) - largest:
            raise ChatbenchError(
                f"{where}: phase_1_questions = {config.phase_1_questions}, and the largest batch has {largest}",
                expected=f"at most {len(self.questions)} questions together, since phase 1 and 2 ask different ones",
            )
        redirect = urlsplit(config.recruiting.redirect)
        if config.recruiting.redirect and (redirect.scheme != "https" or not redirect.hostname):
            raise ChatbenchError(
                f"{where}: recruiting.redirect is not an https address", expected="an address that begins with https://"
            )
        if config.limits.usd and not all(each.price for each in config.assistants):
            raise ChatbenchError(
                f"{where}: limits.usd is set, but an assistant has no price", fix='add a price: price = "2.50/10"'
            )
        _ = self.prices, self.moderate, self.database_address

    @cached_property
    def batches(self) -> list[list[Question]]:
        """Batches of `batch_size` questions at most that keep subsets together; sizes differ by one at most."""
        ordered = sorted(self.questions.values(), key=lambda question: question.subset)
        count = math.ceil(len(ordered) / self.config.batch_size)
        return [ordered[len(ordered) * i // count : len(ordered) * (i + 1) // count] for i in range(count)]

    @cached_property
    def cells(self) -> list[Cell]:
        """Every batch with each assistant and condition; user-alone has no assistant."""
        return [
            Cell(batch=batch, assistant=name, condition=condition)
            for batch in range(len(self.batches))
            for condition in self.config.conditions
            for name in ([""] if condition == ALONE else [spec.name for spec in self.specs])
        ]

    @cached_property
    def design(self) -> str:
        """SHA-256 of what people's places and steps refer to: it must not change once somebody has joined."""
        batches = [sorted(question.id for question in batch) for batch in self.batches]
        names, conditions = sorted(spec.name for spec in self.specs), sorted(self.config.conditions)
        fixed = batches, self.config.attention is not None, names, conditions
        return hashlib.sha256(json.dumps(fixed).encode()).hexdigest()

    @cached_property
    def prices(self) -> dict[str, Price]:
        """Price by assistant; without a price it is 0."""
        return {
            spec.name: read_price(f"{FILE}: price of {spec.name}", each.price or "0/0")
            for spec, each in zip(self.specs, self.config.assistants, strict=True)
        }

    def usd(self, tokens: Mapping[str, tuple[int, int]]) -> float:
        """Cost in dollars of (input, output) tokens by assistant; those of earlier assistants cost nothing."""
        return sum(self.prices[name].usd(*used) for name, used in tokens.items() if name in self.prices)

    @cached_property
    def consent_version(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of the text that people consent to."""
        return hashlib.sha256(self.texts["consent"].encode()).hexdigest()[:12]

    @cached_property
    def moderate(self) -> Moderate:
        """The hook that `moderation` names, installed or in the study's folder; without one, nothing is refused."""
        module, _, name = self.config.moderation.partition(":")
        if not module:
            return lambda _text: ""
        if (folder := str(self.folder.resolve())) not in sys.path:
            sys.path.append(folder)
        try:
            hook: Moderate = getattr(import_module(module), name)
        except Exception as error:  # whatever the module raises
            raise ChatbenchError(
                f"{FILE}: moderation: {error}", expected="module:function that can be imported"
            ) from None
        if not callable(hook) or iscoroutinefunction(hook):
            raise ChatbenchError(
                f"{FILE}: moderation: {self.config.moderation} is no plain function", expected="def, not async def"
            )
        return hook

    @cached_property
    def database_address(self) -> str:
        """The database URL for SQLAlchemy; "" for SQLite in the folder."""
        text = self.config.database
        if text.startswith("$"):
            if not (text := os.environ.get(text[1:], "")):
                raise ChatbenchError(
                    f"{FILE}: the environment variable {self.config.database[1:]} is not set",
                    fix="set it, or put it into .env",
                )
        elif urlsplit(text).password:
            raise ChatbenchError(
                f"{FILE}: database contains a password", fix='write database = "$NAME", and set NAME in the environment'
            )
        if not text:
            return ""
        scheme, found, _ = text.partition("://")
        if not found or scheme.partition("+")[0] not in ("postgresql", "postgres"):
            raise ChatbenchError(
                f"{FILE}: database is not a PostgreSQL address",
                expected="postgresql://..., or nothing for SQLite in the folder",
            )
        from sqlalchemy import exc, make_url  # not needed without such an address

        try:
            url = make_url(text)
        except (exc.ArgumentError, ValueError):  # their messages may contain the password
            raise ChatbenchError(
                f"{FILE}: database: the address cannot be read", expected="postgresql://USER:PASSWORD@HOST:PORT/NAME"
            ) from None
        if unknown := url.query.keys() - POSTGRES_PARAMETERS:
            raise ChatbenchError(
                f"{FILE}: database: unknown parameter {', '.join(sorted(unknown))}",
                expected=f"only {', '.join(POSTGRES_PARAMETERS)}",
            )
        # The driver calls libpq's sslmode "ssl".
        query = {"ssl" if name == "sslmode" else name: value for name, value in url.query.items()}
        return url.set(drivername="postgresql+asyncpg", query=query).render_as_string(hide_password=False)


def _asked(questions: dict[str, Question], path: Path) -> dict[str, Question]:
    for question in questions.values():
        if question.kind.name not in ASKED_KINDS:
            found = f"{path}: question {question.id!r} has answer_kind {question.kind.name}"
            raise ChatbenchError(found, expected=f"one of {', '.join(ASKED_KINDS)}, which a page can ask for")
    return questions


def questions_from(path: Path) -> Sequence[Question]:
    """Load questions from a `questions.csv`, a file like `questions.jsonl`, or a study of any format.

    Raises:
        ChatbenchError: it cannot be read.
    """
    if path.suffix == ".csv" and path.name != "event_blocks.csv":
        from chatbench.data.chatbench_format import read_questions
        from chatbench.data.tables import Intake

        return list(read_questions(path, Intake(skip_bad_records=False)).values())
    if path.suffix == ".jsonl" and "kind" not in next((row for _, row in read_jsonl(path)), {"kind": ""}):
        return list(read_question_lines(path).values())
    from chatbench.data.open_study import open_study

    return list(open_study(path).questions.values())


def init_study(
    folder: Path,
    questions: Path,
    assistants: Sequence[str],
    *,
    conditions: Sequence[str],
    people: int,
    batch_size: int,
    phase_1_questions: int,
) -> CollectedStudy:
    """Check a new study, then write what its folder lacks; texts that are there are kept.

    Raises:
        ChatbenchError: the folder already holds a study or other questions, or the new one would be invalid.
    """
    if (folder / FILE).exists():
        raise ChatbenchError(f"{folder / FILE} already exists", fix="edit it, or choose another folder")
    chosen, asked = questions_from(questions), folder / QUESTIONS
    rows = [question_row(question) for question in chosen]
    if asked.exists() and [question_row(each) for each in read_question_lines(asked).values()] != rows:
        fix = f"--questions {asked} asks these; or choose another folder"
        raise ChatbenchError(f"{asked} already exists", expected=f"the questions of {questions}", fix=fix)
    filled: Mapping[str, object] = {
        "id": secrets.token_hex(6), "title": "A study with an AI assistant", "conditions": list(conditions),
        "people": people, "batch_size": batch_size, "phase_1_questions": phase_1_questions,
    }  # fmt: skip
    texts = resources.files("chatbench.collect") / "texts"
    template = (texts / FILE).read_text(encoding="utf-8")
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in filled.items()]
    # Tables come last in TOML: keys after one would belong to it.
    specs = [f"[[assistants]]\nspec = {json.dumps(spec)}\n" for spec in assistants]
    missing = [name for name in Texts().model_dump().values() if not (folder / name).exists()]
    new = {name: (texts / name).read_text(encoding="utf-8") for name in missing}
    new[FILE] = template.replace("# VALUES\n", "\n".join(lines) + "\n") + "\n" + "\n".join(specs)
    study = CollectedStudy(folder, new, chosen)
    refuse_missing(study.specs)
    if not asked.exists():
        write_jsonl(asked, rows)
    for name, text in new.items():  # study.toml last: until then, the command can be run again
        write_text(folder / name, text)
    return study


def question_row(question: Question) -> dict[str, object]:
    """A question as a row of `questions.jsonl` and of own studies (docs/own-study.md)."""
    row: dict[str, object] = {"id": question.id, "subset": question.subset, "text": question.text}
    match question.kind:
        case Choice(ordered=ordered):
            row |= {"options": list(question.options), "answer": question.answer} | (
                {"ordered": True} if ordered else {}
            )
        case Number(tolerance=tolerance, relative=relative, unit=unit):
            row |= {"answer_kind": "number", "answer": question.answer, "tolerance": tolerance, "relative": relative}
            row |= {"unit": unit}
        case kind:
            answers = [question.answer, *kind.also] if isinstance(kind, Text) else None
            row |= {"answer_kind": kind.name, "answer": answers}
    return row


def draw_plan(study: CollectedStudy, cell: Cell, chance: Random) -> list[str]:
    """Draw the steps `kind:question`; kind is `alone` in phase 1, `first` and `chat`, or `second` in phase 2."""
    batch = [question.id for question in study.batches[cell.batch]]
    others = [question for question in study.questions if question not in batch]
    chance.shuffle(batch)
    alone = chance.sample(others, study.config.phase_1_questions)
    plan = [INSTRUCTIONS, *(f"alone:{question}" for question in alone)]
    plan += [ATTENTION] if study.config.attention else []
    for question in batch:
        plan += [f"first:{question}"] if cell.condition == "answer-first" else []
        plan.append(f"second:{question}" if cell.condition == ALONE else f"{CHAT}:{question}")
    return plan


def parts(step: str) -> tuple[str, str]:
    """Split a step into kind and question, which is "" for steps without one."""
    kind, _, question = step.partition(":")
    return kind, question
