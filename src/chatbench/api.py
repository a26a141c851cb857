"""Python API: open a simulator and an assistant, and simulate chats between them.

    from chatbench.api import assistant, run, simulator

    records = run(simulator("iqa-eval:openai:gpt-4o"), assistant("openai:gpt-4o-mini"), "study", log="chats.jsonl")

These functions are what the command line runs, so the conversations and their logs are the same; docs/python-api.md has
examples. A simulator or an assistant may also be your own function: it takes a chat as a list of messages,
`[{"role": ..., "content": ...}, ...]`, and returns the next message. `run` also takes what these functions take.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Question, SimulatedConversation, Study
from chatbench.data.open_study import open_study
from chatbench.data.splits import question_set_sha256
from chatbench.data.workspace import Workspace
from chatbench.metrics.agreement import Undefined
from chatbench.protocol.dialogue import (
    MAX_USER_TURNS,
    AnyParticipant,
    FunctionParticipant,
    Reply,
    Request,
    function_identity,
)
from chatbench.protocol.prompt_styles import STYLES, StyleName, prompts_sha256
from chatbench.simulation.budget import Prices, Spending
from chatbench.simulation.judge import (
    MAX_TOKENS,
    Agreement,
    Checker,
    Judge,
    judge_answers,
    needs_judge,
    open_judge,
    peoples_answers,
    simulated_answers,
)
from chatbench.simulation.log import FIX, open_log, read_conversations
from chatbench.simulation.participants import (
    AssistantSpec,
    SimulatorSpec,
    active_at,
    open_assistant,
    open_simulator,
    read_simulator_spec,
    read_specs,
)
from chatbench.simulation.run import ConversationProgress, LoopSettings, Run, plan
from chatbench.simulation.simulate import ChatSettings
from chatbench.simulation.split_chats import settings_of

if TYPE_CHECKING:
    from chatbench.endpoints.address import EndpointOptions
    from chatbench.estimation.estimate import Estimate

__all__ = [
    "Assistant",
    "ChatbenchError",
    "Estimate",
    "Question",
    "SimulatedConversation",
    "Simulator",
    "Study",
    "Undefined",
    "assistant",
    "estimate",
    "judge",
    "open_study",
    "run",
    "simulator",
]

Says = Callable[[list[dict[str, str]]], str]
"""A function that takes a chat as `{"role": ..., "content": ...}` messages and returns the next message."""


@dataclass(frozen=True, slots=True)
class Simulator:
    """A participant in the user's role, its prompt style, and whether it states expected answers (probabilities)."""

    participant: AnyParticipant
    style: StyleName
    expected_answers: bool = False


@dataclass(frozen=True, slots=True)
class Assistant:
    """An assistant and its name in the records."""

    name: str
    participant: AnyParticipant


def simulator(
    source: str | Path | Says,
    *,
    style: StyleName | None = None,
    temperature: float = 1.0,
    max_tokens: int = 1000,
    reasoning_effort: str = "",
    expected_answers: bool = False,
    options: EndpointOptions | None = None,
) -> Simulator:
    """Open a simulator.

    Args:
        source: a model folder, a spec as after `chatbench simulate --simulator`, or a function.
        style: prompt style for a folder or a function, by default two-step; a spec includes its own.
        options: settings for requests to an endpoint.

    Raises:
        ChatbenchError: a number or the style is invalid, or the simulator cannot be read, loaded or reached.
    """
    ChatSettings(simulator_temperature=temperature, max_tokens=max_tokens)  # which refuses what cannot be
    if style not in (None, *STYLES):
        raise ChatbenchError(f"style {style!r}", expected=f"one of {', '.join(STYLES)}")
    if callable(source):
        if expected_answers:
            raise ChatbenchError(
                "expected answers of a function", expected="a model folder", fix="leave expected_answers out"
            )
        return Simulator(_spoken_by(source), style or "two-step")
    if isinstance(source, Path) or Path(source).is_dir():
        spec = SimulatorSpec(style or "two-step", "local", str(source))
    elif ":" not in source and source != "tuned":
        raise ChatbenchError(
            f"simulator {source!r}: no such folder", expected="a model's folder, or STYLE:KIND:ARGUMENT"
        )
    else:
        spec = read_simulator_spec(source)
        if style not in (None, spec.style):
            raise ChatbenchError(f"simulator {source!r} in the style {style}", fix=f"leave style={style!r} out")
    if spec.kind == "tuned":
        raise ChatbenchError(f"simulator {source!r}", expected="the folder of one model: results/models/MODEL/split_0")
    participant = open_simulator(
        spec, model="", workspace=Workspace(), split="", temperature=temperature, max_tokens=max_tokens,
        reasoning_effort=reasoning_effort, expected_answers=expected_answers, options=options,
    )  # fmt: skip
    return Simulator(participant, spec.style, expected_answers)


def assistant(
    source: str | Says,
    *,
    name: str | None = None,
    study: Study | str | Path | None = None,
    temperature: float = 0.7,
    max_tokens: int = 1000,
    reasoning_effort: str = "",
    options: EndpointOptions | None = None,
) -> Assistant:
    """Open an assistant.

    Args:
        source: a spec as after `chatbench simulate --assistant`, or a function.
        name: its name in the records, by default the spec's or the function's.
        study: the study whose recorded replies `replay:` repeats.

    Raises:
        ChatbenchError: a number is invalid, the assistant cannot be read, loaded or reached, or the spec names several.
    """
    ChatSettings(assistant_temperature=temperature, max_tokens=max_tokens)  # which refuses what cannot be
    if callable(source):
        participant = _spoken_by(source)
        return Assistant(name or str(participant.identity["name"]), participant)
    recorded = Study("", {}, (), ()) if study is None else _study(study)
    specs = read_specs([source], sorted({chat.assistant for chat in recorded.conversations}))
    if len(specs) > 1:
        raise ChatbenchError(f"assistant {source!r} names {len(specs)}", expected="one", fix="open each by itself")
    opened = open_assistant(
        specs[0], recorded, temperature=temperature, max_tokens=max_tokens, reasoning_effort=reasoning_effort,
        options=options,
    )  # fmt: skip
    return Assistant(name or specs[0].name, opened)


def run(
    user: Simulator | str | Path | Says,
    assistants: Assistant | str | Says | Sequence[Assistant | str | Says],
    questions: Study | str | Path | Question | Sequence[Question],
    *,
    conversations: int = 10,
    seed: int = 0,
    max_user_turns: int = MAX_USER_TURNS,
    end_on: Sequence[str] = (),
    log: str | Path | None = None,
    overwrite: bool = False,
    active: int = 64,
    console: Console | None = None,
) -> list[SimulatedConversation]:
    """Simulate `conversations` per question and assistant; return records by assistant, question, repetition.

    Args:
        user, assistants: opened ones, or what `simulator` and `assistant` take, opened with their defaults.
        questions: questions, or a study or its path for all of its questions.
        end_on: failure modes that end the free turns when detected.
        log: file to record conversations in; running again with the same log simulates only the missing ones.
        active: maximum concurrent conversations if a participant is not reproducible.
        console: where to show progress, by default nowhere.

    Raises:
        ChatbenchError: an argument is of another kind or out of range, two questions or assistants have the same name,
            a participant cannot be opened or continue, another process is writing the log, or the log has other
            settings.
    """
    settings = ChatSettings(conversations, seed, max_user_turns, end_on=_each(end_on))
    if not isinstance(active, int) or active < 1:
        raise ChatbenchError(f"active is {active!r}", expected="a whole number, at least 1")
    study = _study(questions) if isinstance(questions, Study | str | Path) else None
    asked = [*study.questions.values()] if study else _questions(questions)
    if not (isinstance(user, Simulator | str | Path) or callable(user)):
        _refuse("the simulator", user, "what simulator(...) returns, a spec, a model folder, or a function")
    user, others = user if isinstance(user, Simulator) else simulator(user), _participants(assistants, study)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(log or Path(folder) / "conversations.jsonl")
        identities = {name: participant.identity for name, participant in others.items()}
        agreed = {  # what must be equal for two runs to share a log
            "settings": {
                "questions_sha256": question_set_sha256(asked),
                "simulator": dict(user.participant.identity),
                "conversations": settings.conversations,
                "seed": settings.seed,
                "max_user_turns": settings.max_user_turns,
                "style": user.style,
                "prompts_sha256": prompts_sha256(STYLES[user.style]),
                "end_on": sorted(settings.failure_modes),
                "expected_answers": user.expected_answers,
                "block_size": settings.block_size,
            },
            "assistants": identities,
        }
        plans = {name: plan(asked, name, conversations) for name in others}
        planned = [one.id for each in plans.values() for one in each]
        loop = LoopSettings(seed, max_user_turns, STYLES[user.style], settings.failure_modes)
        with (
            _fixes_in_python(),
            open_log(path, agreed, overwrite=overwrite) as book,
            ConversationProgress(console or Console(quiet=True), len(set(planned) - book.recorded)) as progress,
        ):
            Run(book, user.participant, others, loop, progress, Spending(Prices()), active=active).simulate(plans)
        records = {record.id: record for record in read_conversations(path)}
    return [records[one] for one in planned]


def judge(
    model: str,
    checker: Checker | str,
    *,
    rubric: str | Path | None = None,
    max_tokens: int = MAX_TOKENS,
    reasoning_effort: str = "",
    data: str | Path = "data",
    results: str | Path = "results",
    options: EndpointOptions | None = None,
) -> Agreement:
    """Judge people's and then the model's simulated answers that comparison cannot; scoring uses the verdicts.

    These are answers of kind outcome, and texts that match no right answer.

    Args:
        model: as in `chatbench simulate`, which must have been run, with `--judge later` if there are outcomes.
        checker: a function of a `Question` and an answer that returns how correct it is (0 to 1, or a truth value); or
            a spec as after `--judge`, with a `rubric` file.
        max_tokens: room for a model's reasoning and its score; smaller values than the default count as the default.
        reasoning_effort: of a model, as after `--reasoning-effort`.

    Returns:
        The checker's agreement with the study on people's answers.

    Raises:
        ChatbenchError: no simulated chats, a score outside 0..1, or as `chatbench.simulation.judge.judge_answers`.
    """
    workspace = Workspace(Path(data), Path(results))
    study = workspace.study
    if callable(checker):
        opened = Judge(checker)
    else:
        opened = open_judge(
            checker, Path(rubric) if rubric else None, study, options, max_tokens=max_tokens,
            reasoning_effort=reasoning_effort,
        )  # fmt: skip
    logs = sorted(workspace.simulations(model).glob("*/conversations*.jsonl"))
    if not logs:
        fix = f"simulate first: chatbench simulate {model} --assistant SPEC --judge later"
        raise ChatbenchError(f"{workspace.simulations(model)}: no simulated chats of {model}", fix=fix)
    for log in logs:
        if settings_of(log)[0]["questions_sha256"] != workspace.manifest.questions_sha256:
            raise ChatbenchError(f"{log}: simulated on other questions than those prepared in {data}", fix=FIX)
    needs_judge([*study.questions.values()], "function", study)
    answers = list(peoples_answers(study))
    answers += [each for log in logs for each in simulated_answers(study, read_conversations(log))]
    return judge_answers(opened, answers, study, workspace, active=active_at((), options))


def estimate(
    model: str,
    assistant: str | Assistant,
    *,
    data: str | Path = "data",
    results: str | Path = "results",
    questions: str | Path | None = None,
    people: str | Path | None = None,
    conversations: int = 10,
    seed: int = 0,
    max_user_turns: int = MAX_USER_TURNS,
    max_tokens: int = 1000,
    assistant_max_tokens: int | None = None,
    simulator_temperature: float = 1.0,
    assistant_temperature: float = 0.7,
    end_on: Sequence[str] = (),
    expected_answers: bool = False,
    answer_model: bool = False,
    reasoning_effort: str = "",
    dtype: str = "auto",
    judge: str = "",
    rubric: str | Path | None = None,
    options: EndpointOptions | None = None,
) -> Estimate:
    """Estimate people's accuracy with a new assistant and store it, as `chatbench estimate` does.

    Args:
        model: the model that was fine-tuned on the splits in `data`.
        assistant: NAME=SPEC or an opened `Assistant`; it must not be in the study.
        people: real chats with the new assistant.
        conversations: this and what follows as in the `chatbench simulate` of the known assistants.

    Raises:
        ChatbenchError: as `chatbench.estimation.estimate.estimate`.
    """
    from chatbench.estimation.estimate import estimate as step

    settings = ChatSettings(
        conversations, seed, max_user_turns, max_tokens=max_tokens,
        assistant_max_tokens=assistant_max_tokens, simulator_temperature=simulator_temperature,
        assistant_temperature=assistant_temperature, end_on=_each(end_on), expected_answers=expected_answers,
        answer_model=answer_model, reasoning_effort=reasoning_effort, dtype=dtype, judge=judge,
        rubric=Path(rubric) if rubric else None,
    )  # fmt: skip
    new = (
        assistant if isinstance(assistant, str) else AssistantSpec(assistant.name, "opened", "", assistant.participant)
    )
    return step(
        model, assistant=new, workspace=Workspace(Path(data), Path(results)),
        questions=None if questions is None else Path(questions), people=None if people is None else Path(people),
        settings=settings, options=options, say=lambda _: None,
    )  # fmt: skip


def __getattr__(name: str) -> object:
    """`Estimate`, whose module adds a quarter to the time that importing this one takes."""
    if name == "Estimate":
        from chatbench.estimation.estimate import Estimate

        return Estimate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _refuse(what: str, given: object, expected: str) -> NoReturn:
    raise ChatbenchError(f"{what}: {given!r:.80} ({type(given).__name__})", expected=expected)


def _participants(given: object, study: Study | None) -> dict[str, AnyParticipant]:
    """The assistants by name, opened; those of a study can be replayed."""
    opened = []
    for one in [*given] if isinstance(given, Iterable) and not isinstance(given, str) else [given]:
        if not (isinstance(one, Assistant | str) or callable(one)):
            _refuse("an assistant", one, "what assistant(...) returns, a spec, or a function")
        opened.append(one if isinstance(one, Assistant) else assistant(one, study=study))
    if twice := [name for name, count in Counter(one.name for one in opened).items() if count > 1]:
        raise ChatbenchError(f"two assistants are called {twice[0]!r}", fix="name them: assistant(..., name=NAME)")
    return {one.name: one.participant for one in opened}


def _questions(given: object) -> list[Question]:
    asked: list[Any] = [*given] if isinstance(given, Iterable) else [given]
    for one in asked:
        if not isinstance(one, Question):
            _refuse("a question", one, "Question objects, or a study or its path")
    if twice := [name for name, count in Counter(one.id for one in asked).items() if count > 1]:
        raise ChatbenchError(f"two questions have the id {twice[0]!r}", fix="give each an id of its own")
    return asked


@contextmanager
def _fixes_in_python() -> Iterator[None]:
    """Name arguments in fixes that name options."""
    try:
        yield
    except ChatbenchError as error:
        fix = error.fix.replace("--overwrite", "overwrite=True").replace("another --results folder", "another log")
        fix = re.sub(r"--([a-z-]+) ([^\s,;]+)", lambda found: f"{found[1].replace('-', '_')}={found[2]}", fix)
        raise type(error)(error.found, expected=error.expected, fix=fix) from None


def _each(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _spoken_by(function: Says) -> FunctionParticipant:
    """Wrap a function as a participant, treated as not reproducible."""

    identity = function_identity(function)

    def reply(request: Request) -> Reply:
        said = function([message.as_dict() for message in request.messages])
        if not isinstance(said, str):
            raise ChatbenchError(f"{identity['name']} returned {said!r:.80}", expected="a text: what is said next")
        return Reply(said)

    return FunctionParticipant(reply, identity)


def _study(source: Study | str | Path) -> Study:
    return source if isinstance(source, Study) else open_study(Path(source))
