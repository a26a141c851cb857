"""`chatbench estimate`: estimate user-AI accuracy with a new assistant from simulated and, optionally, real chats.

The simulators of all splits chat with the new assistant, and their answers are pooled by question. Their error on an
assistant not seen in training is estimated from splits by assistant, by comparing human with simulated chats
(`chatbench simulate`) for each held-out assistant. Real chats with the new assistant rectify the simulation. Results go
into one JSON file per model, with one entry per new assistant; a rerun simulates only what is missing.
"""

from __future__ import annotations

import hashlib
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from chatbench.core.configurations import differences
from chatbench.core.errors import BudgetSpentError, ChatbenchError
from chatbench.core.files import read_json, read_object, write_json
from chatbench.core.records import Answer, Question, SimulatedConversation, Study
from chatbench.core.settings import name_in_tables
from chatbench.data.open_study import open_study
from chatbench.data.own_chats import read_question_lines
from chatbench.data.splits import FEWEST_ASSISTANTS, question_set_sha256
from chatbench.data.workspace import Workspace
from chatbench.estimation.new_assistant import (
    HeldOut,
    MeanEstimate,
    Predicted,
    RealAnswers,
    Rectified,
    predict,
    predict_difference,
    rectified,
    variance_of_chats,
    variance_of_people,
)
from chatbench.estimation.study_plan import Components, Design, components_of
from chatbench.metrics.agreement import Outcomes, Undefined, Value, agreement, mean_value
from chatbench.metrics.names import FINE_TUNED, apart_from_all
from chatbench.metrics.pairs import Simulation, add_up, human_outcomes, is_lost, predictions, scored_pairs
from chatbench.protocol.dialogue import AnyParticipant
from chatbench.scoring.score_files import plain
from chatbench.scoring.score_table import MOST, of_the_splits, signature_id
from chatbench.simulation.budget import Prices, Spending
from chatbench.simulation.judge import Agreement, needs_judge, with_verdicts
from chatbench.simulation.log import (
    failure_lines,
    has_chats,
    options_to_continue,
    read_conversations,
    read_recorded,
    settings_path,
)
from chatbench.simulation.participants import TUNED, AssistantSpec
from chatbench.simulation.simulate import (
    ChatSettings,
    Simulations,
    settings_known_before,
    simulate_splits,
    task_of,
)
from chatbench.simulation.simulate import dry_run as dry_run_of_chats
from chatbench.simulation.split_chats import read_chats, settings_of

if TYPE_CHECKING:
    from chatbench.endpoints.address import EndpointOptions

Say = Callable[[str], None]
EVERY_SUBSET = "all"
CURVE = (25, 50, 100, 200, 400, 800, 1600)
"""Numbers of people for which half-widths are reported."""
OF_THE_QUESTIONS = ("questions_sha256", "held_out_sha256", "conversations", "seed", "block_size")
"""Settings of a log that do not change the simulators' error."""


@dataclass(frozen=True, slots=True)
class KnownAssistant:
    """A held-out assistant: accuracy of people and of a simulator not trained on it, and their difference."""

    assistant: str
    split: str
    human: float
    simulated: float
    error: float
    questions: int
    answers: int


@dataclass(frozen=True, slots=True)
class SubsetEstimate:
    """The estimate for all questions (`all`) or a subset; `people` is None if no real chats were given."""

    subset: str
    questions: int
    chats: int
    simulated: Value
    predicted: Predicted | Undefined
    people: Rectified | Undefined | None


@dataclass(frozen=True, slots=True)
class Difference:
    """Accuracy with the new assistant minus that with a known one."""

    assistant: str
    difference: MeanEstimate | Undefined


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Half-width of the 95 % interval for a number of people, without and with the simulator."""

    people: int
    alone: float
    with_simulator: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """All results for one new assistant; `correlation` is the PPI correlation, measured on `correlation_from`.

    `warning` says that most simulated chats have no answer; empty if most have one. It is also the first of the notes.
    """

    model: str
    assistant: str
    subsets: tuple[SubsetEstimate, ...]
    differences: tuple[Difference, ...]
    held_out: tuple[KnownAssistant, ...]
    correlation: Value
    correlation_from: str
    components: Components | Undefined
    answers_per_person: int
    curve: tuple[CurvePoint, ...]
    signature: Mapping[str, object]
    notes: tuple[str, ...]
    warning: str = ""


def estimate(
    model: str,
    *,
    assistant: str | AssistantSpec,
    workspace: Workspace,
    questions: Path | None = None,
    people: Path | None = None,
    settings: ChatSettings | None = None,
    options: EndpointOptions | None = None,
    spending: Spending | None = None,
    skip_bad_records: bool = False,
    maps: Sequence[str] = (),
    say: Say = print,
) -> Estimate:
    """Simulate missing chats, compute the estimate, and write it to `results/estimates/MODEL.json`.

    Args:
        assistant: NAME=SPEC as in `chatbench simulate --assistant`, or an `AssistantSpec`; not one of the study's.
        questions: a JSON Lines file of questions to estimate for, instead of the study's.
        people: real chats with the new assistant, in a format that `open_study` reads.
        settings: of the chats, as in `chatbench simulate` of the held-out assistants, including the judge.
        skip_bad_records, maps: how `people` is read.

    Raises:
        ChatbenchError: nothing is trained, the assistant is in the study, a file does not fit the study, the held-out
            assistants were simulated with other settings, or too few were and there are no `people`; or as `simulate`.
        BudgetSpentError: the budget was spent before all chats were simulated.
    """
    asked = _asked(model, assistant, workspace, questions, people, settings, skip_bad_records, maps)
    model, name, tasks, whole = asked.chats.model, asked.name, asked.chats.tasks, asked.study
    splits, spending, notes = [*tasks], spending or Spending(Prices()), [*asked.notes]
    before = spending.left
    simulate_splits(asked.chats, spending, say, options=options, accept=partial(_refuse_other_settings, asked.chats))
    if left := spending.left - before:
        raise BudgetSpentError(
            f"the budget is spent, and {left:,} conversations with {name} are missing: there is no estimate yet",
            fix="run again with a larger budget: it continues",
        )
    logs = [log for split in splits for log in (tasks[split].log, workspace.conversations(model, split))]
    chats = (chat for log in dict.fromkeys(logs) if has_chats(log) for chat in read_conversations(log))
    (whole, judge), count = with_verdicts(whole, workspace, chats), len(workspace.study.answers)
    study, answers = replace(whole, answers=whole.answers[:count]), whole.answers[count:]
    notes += [judge.text()] if judge else []
    chats_of = {split: _chats_with(name, tasks[split].log, study) for split in splits}
    own = [chat for split in splits for chat in chats_of[split]]
    simulated = {name: Counter(chat.letter is None for chat in own)}
    failures = Counter((chat.reason, chat.transient) for chat in own if is_lost(chat))
    by_split = {split: _outcomes(chats_of[split], study) for split in splits}
    found = add_up(each for outcomes in by_split.values() for each in outcomes.items())
    if missing := (count := len(asked.questions)) - len(found):
        notes.append(
            f"{missing} of {count} questions were not simulated: no split holds them out, chats failed, "
            "nothing can score their answers, or the study has no chats about them to replay"
        )
    if failures:
        reasons = "; ".join(failure_lines(failures))
        notes.append(f"{failures.total()} of {len(own)} chats with {name} are missing from the estimate: {reasons}")
    held_out = held_out_assistants(workspace, model, splits, study, notes, asked.chats.settings)
    compared = []  # with each held-out assistant, both simulated by the simulator of its split
    for split, one in held_out.items():
        own = _chats_with(one.assistant, workspace.conversations(model, split), study)
        simulated[one.assistant] = Counter(chat.letter is None for chat in own)
        both = _shares(by_split[split]), _shares(_outcomes(own, study))
        compared.append(Difference(one.assistant, predict_difference(*both, list(held_out.values()))))
    warning = _warning(model, simulated)
    correlation, origin = _correlation(answers, found, held_out, study)
    per_person = Counter(answer.worker_id for answer in study.answers if answer.kind == "user-AI")
    components, answers_per_person = components_of(study), max(1, round(per_person.total() / max(1, len(per_person))))
    names = sorted({apart_from_all(question.subset) for question in asked.questions.values()})
    subsets = [EVERY_SUBSET, *(names if max(len(names), len(study.questions_per_subset)) > 1 else [])]
    made = Estimate(
        model,
        name,
        tuple(_subset(subset, asked, found, held_out.values(), answers) for subset in subsets),
        tuple(compared),
        tuple(
            KnownAssistant(
                one.assistant, split, float(one.human.mean()), float(one.simulated.mean()), one.error,
                len(one.questions), one.answers,
            )
            for split, one in held_out.items()
        ),
        correlation,
        origin,
        components,
        answers_per_person,
        _curve(components, correlation, len(found), answers_per_person),
        _signature(asked, judge),
        (*filter(None, [warning]), *notes),
        warning,
    )  # fmt: skip
    path = workspace.estimate(model)
    write_json(path, {**_earlier(path), name: plain(made)})
    return made


def _earlier(path: Path) -> dict[str, Any]:
    return read_object(path, fix=f"restore {path}, or move it away") if path.exists() else {}


def dry_run(model: str, *, spending: Spending, say: Say = print, **given: Any) -> None:
    """Print what `estimate` would simulate and cost; `given` are its arguments about the chats.

    Raises:
        ChatbenchError: as `estimate`.
    """
    dry_run_of_chats(_asked(model, **given).chats, spending, say)


@dataclass(frozen=True, slots=True)
class _Asked:
    """The chats to simulate, the questions that they are about, and the study with the real answers added to it.

    `people` is the file of real chats; `notes` say what it holds besides those answers.
    """

    chats: Simulations
    name: str
    questions: Mapping[str, Question]
    people: Path | None
    study: Study
    notes: Sequence[str]


def _asked(
    model: str, assistant: str | AssistantSpec, workspace: Workspace, questions: Path | None, people: Path | None,
    settings: ChatSettings | None, skip_bad_records: bool, maps: Sequence[str],
) -> _Asked:  # fmt: skip
    """Read what is asked, and refuse what can be refused before the new assistant is asked anything."""
    settings, given = settings or ChatSettings(), model
    model = name_in_tables(model)
    _earlier(workspace.estimate(model))
    splits, study = workspace.trained_splits(model), workspace.study
    tasks = {split: task_of(model, [assistant], workspace=workspace, split=split) for split in splits}
    name = _new_name(tasks[splits[0]].assistants, study)
    asked = read_question_lines(questions, least=2) if questions else dict(study.questions)
    for one, known in ((asked[each], study.questions[each]) for each in asked if each in study.questions):
        if (one.full_text, one.answer, one.kind) != (known.full_text, known.answer, known.kind):
            raise ChatbenchError(
                f"{questions}: question {one.id!r} differs from the study's question with this id",
                expected="ids that are not the study's, or the study's questions word for word",
                fix=f"give the question another id in {questions}",
            )
    answers, notes = list[Answer](), list[str]()
    if people is not None:
        real = open_study(people, skip_bad_records=skip_bad_records, maps=maps)
        answers, notes = people_in(real, people, name, asked, study)
    else:
        _refuse_unknown_error(given, workspace, splits, settings)
    whole = replace(study, questions={**study.questions, **asked}, answers=(*study.answers, *answers))
    needs_judge([*asked.values()], settings.judge, whole)
    for split in splits:
        tasks[split] = replace(tasks[split], study=whole)
        if questions is not None:
            digest = question_set_sha256(asked.values())[:12]
            log = workspace.estimate(model).with_suffix("") / split / f"questions_{digest}.jsonl"
            tasks[split] = replace(tasks[split], questions=tuple(asked.values()), log=log)
    chats = Simulations(model, [assistant], workspace, settings, tasks=tasks)
    for split in splits:
        _refuse_other_settings(chats, split)
    return _Asked(chats, name, asked, people, whole, notes)


def _refuse_unknown_error(model: str, workspace: Workspace, splits: Sequence[str], settings: ChatSettings) -> None:
    """Refuse an estimate without real chats if too few held-out assistants were simulated to know the error.

    Raises:
        ChatbenchError: the next command is said.
    """
    manifest, otherwise = workspace.manifest, "or give real chats with the new assistant: --people FILE"
    if manifest.by != "assistant":
        raise ChatbenchError(
            f"{workspace.data}: splits by {manifest.by}: the simulators' error on a new assistant is unknown",
            expected="splits by assistant",
            fix=f"chatbench prepare-splits --study {shlex.quote(manifest.study)} --by assistant --out FOLDER, then "
            f"finetune and simulate with --data FOLDER and other --results; {otherwise}",
        )
    steps, simulated = [], 0
    for split in manifest.split_ids:
        (held_out,) = workspace.split(split).held_out
        chats = (chat for _, chat in read_recorded(workspace.conversations(model, split)))
        if split in splits and any(chat.assistant == held_out and chat.termination != "failed" for chat in chats):
            simulated += 1
            continue
        first = f"SPLIT_ID={split} chatbench finetune {shlex.quote(model)}, then " * (split not in splits)
        steps.append(first + _next_command(model, held_out, split, settings))
    if simulated < FEWEST_ASSISTANTS:
        enough = len(manifest.split_ids) >= FEWEST_ASSISTANTS
        raise ChatbenchError(
            f"{simulated} of the study's {len(manifest.split_ids)} assistants were held out and simulated: the "
            "simulators' error on a new assistant is unknown",
            expected=f"{FEWEST_ASSISTANTS} or more",
            fix="; ".join([*steps[: FEWEST_ASSISTANTS - simulated] * enough, otherwise]).removeprefix("or "),
        )


def _next_command(model: str, held_out: str, split: str, settings: ChatSettings) -> str:
    name = shlex.quote(f"{held_out}=SPEC")
    return f"chatbench simulate {shlex.quote(model)} --assistant {name} --split {split} {settings.options()}".rstrip()


def _new_name(specs: Sequence[AssistantSpec], study: Study) -> str:
    name = specs[0].name
    if len(specs) > 1:
        names = ", ".join(spec.name for spec in specs)
        raise ChatbenchError(f"--assistant names {len(specs)} assistants: {names}", expected="one new assistant")
    if name in study.assistants:
        raise ChatbenchError(
            f"--assistant {name}: the study already has this assistant",
            expected="an assistant that is not in the study",
            fix="see its measured accuracy (chatbench study), or give a new assistant another name: NEW=SPEC",
        )
    return name


def people_in(
    real: Study, path: Path, assistant: str, asked: Mapping[str, Question], study: Study
) -> tuple[list[Answer], list[str]]:
    """Human answers with the new assistant, of a file of real chats, and notes on the records that are none.

    Raises:
        ChatbenchError: there are none, a question is unknown or has another text, or a person is also in the study.
    """
    answers = [answer for answer in real.answers if answer.kind == "user-AI" and answer.assistant == assistant]
    if not answers:
        raise ChatbenchError(
            f"{path}: no human answers with {assistant}; it has {', '.join(real.assistants) or 'no assistant'}",
            expected=f"records with the assistant {assistant!r}",
        )
    for answer in answers:
        if asked.get(answer.question_id) != real.questions[answer.question_id]:
            what = "which is unknown" if answer.question_id not in asked else "whose text differs from that simulated"
            raise ChatbenchError(
                f"{path}: a chat about question {answer.question_id!r}, {what}",
                expected="chats about the study's questions, or those of --questions",
            )
    if both := sorted({answer.worker_id for answer in answers} & {answer.worker_id for answer in study.answers}):
        raise ChatbenchError(
            f"{path}: {len(both)} of the people also took part in the study, such as {both[0]!r}",
            expected="people whose chats the simulators were not trained on, since they correct the simulators",
            fix="leave out their chats, or give different people different ids",
        )
    notes = [f"{path}: left out: {count} x {reason}" for reason, count in real.dropped.items()]
    others = Counter(a.assistant for a in real.answers if a.kind == "user-AI" and a.assistant != assistant)
    if others:
        names = ", ".join(f"{count} with {name!r}" for name, count in others.items())
        notes.append(f"{path}: answers with other assistants than {assistant!r} are not used: {names}")
    return answers, notes


def _refuse_other_settings(asked: Simulations, split: str, simulator: AnyParticipant | None = None) -> None:
    """Refuses chats with other settings than those of the held-out assistants, from which the error is known.

    Before the `simulator` is loaded, only the settings that are known by then are compared.

    Raises:
        ChatbenchError: the settings differ from those of a log that exists.
    """
    task, held_out = asked.tasks[split], asked.workspace.conversations(asked.model, split)
    wanted = {**settings_known_before(task, asked.settings, TUNED)}
    wanted |= {"simulator": dict(simulator.identity)} if simulator else {}
    for log in (log for log in (held_out, task.log) if settings_path(log).exists()):
        settings, assistants = settings_of(log)
        names = [name for name in wanted if log == task.log or name not in OF_THE_QUESTIONS]
        before, now = ({name: each[name] for name in names if name in each} for each in (settings, wanted))
        made = {"settings": {**before, "simulator": settings["simulator"]}, "assistants": assistants}
        given = {**asdict(asked.settings), "assistant_max_tokens": None}  # the new assistant's may be another
        use = options_to_continue({"settings": before}, {"settings": now}, made, given)
        again = f"remove {log} and {settings_path(log).name}"
        if log == held_out:
            again = "lose those chats: chatbench simulate MODEL ... --overwrite"
        for each in differences(before, now):
            raise ChatbenchError(
                f"{log}: made with {each.name} {each.one!r}",
                expected=f"{each.other!r}, as in this run: the error is known for the settings of those chats only",
                fix=f"estimate with the settings of those chats{f', {use}' if use else ''}, or {again}",
            )


def _chats_with(assistant: str, log: Path, study: Study) -> list[SimulatedConversation]:
    chats = read_conversations(log)
    return [chat for chat in chats if chat.assistant == assistant and chat.question_id in study.questions]


def _outcomes(chats: Sequence[SimulatedConversation], study: Study) -> dict[str, Outcomes]:
    """Answers by question, of chats with one assistant."""
    outcomes = Simulation(FINE_TUNED, tuple(chats), 1).outcomes(study)
    return {question: each for (question, _), each in outcomes.items()}


def _warning(model: str, simulated: Mapping[str, Counter[bool]]) -> str:
    """Like `ScoreTable.warning`, from the numbers of chats without (True) and with an answer by assistant."""
    shares = {name: found[True] / max(1, found.total()) for name, found in simulated.items()}
    found = ", ".join(f"{share:.0%} with {name}" for name, share in shares.items() if share > MOST)
    return found and (
        f"{model}: most simulated chats have no valid answer ({found}), so the estimate says little about people; "
        "fine-tune it for more epochs (--num-train-epochs) or from a larger base; "
        f"how the chats end: chatbench export {model} --to chats.csv"
    )


def _shares(outcomes: Mapping[str, Outcomes]) -> dict[str, float]:
    shares = {question: each.accuracy("counted wrong") for question, each in outcomes.items()}
    return {question: share for question, share in shares.items() if share is not None}


def held_out_assistants(
    workspace: Workspace,
    model: str,
    splits: Sequence[str],
    study: Study,
    notes: list[str],
    settings: ChatSettings | None = None,
) -> dict[str, HeldOut]:
    """The held-out assistants that were simulated, by split; `notes` gains a line for each that was not."""
    found: dict[str, HeldOut] = {}
    if workspace.manifest.by != "assistant":
        notes.append(
            f"the splits hold out a {workspace.manifest.by}, not an assistant, so the simulators' error on a new one "
            "is unknown; run chatbench prepare-splits --by assistant, then finetune and simulate"
        )
        return {}
    for split_id in splits:
        split = workspace.split(split_id)
        (assistant,) = split.held_out
        command = _next_command(model, assistant, split_id, settings or ChatSettings())
        chats = read_chats(workspace, model, split_id) if has_chats(workspace.conversations(model, split_id)) else None
        real = split.held_out_records(study)
        test = set(split.question_ids("test"))
        simulation = chats.simulations[0] if chats else Simulation(FINE_TUNED, (), 1)
        pairs = [pair for pair in sorted(scored_pairs(real, test, simulation)) if pair[1] == assistant]
        if not pairs:
            notes.append(f"{split_id}: {assistant} was not simulated, so its error is unknown; run {command}")
            continue
        people, outcomes = predictions(human_outcomes(real, test)), simulation.outcomes(study)
        simulated = predictions({pair: outcomes[pair] for pair in pairs})
        ids = {question for question, _ in pairs}
        answers = [a for a in real.answers if a.kind == "user-AI" and a.question_id in ids]
        found[split_id] = HeldOut(
            assistant,
            tuple(question for question, _ in pairs),
            np.array([people[pair].accuracy for pair in pairs]),
            np.array([simulated[pair].accuracy for pair in pairs]),
            len(answers),
            variance_of_people(answers),
            variance_of_chats(outcomes[pair] for pair in pairs),
        )
    return found


def _subset(
    subset: str, asked: _Asked, found: Mapping[str, Outcomes], held_out: Iterable[HeldOut], answers: Sequence[Answer]
) -> SubsetEstimate:
    """Estimate on the questions of a subset, with errors from the same subset if the study has it, else from all."""

    def inside(questions: Mapping[str, Question]) -> set[str]:
        return {q for q, each in questions.items() if subset in (EVERY_SUBSET, apart_from_all(each.subset))}

    wanted, known = inside(asked.questions), asked.chats.workspace.study.questions
    kept = {question: each for question, each in found.items() if question in wanted}
    shares = _shares(kept)
    parts = [_part(each, inside(known) or known.keys()) for each in held_out]
    return SubsetEstimate(
        subset,
        len(shares),
        sum(each.count("counted wrong") for each in kept.values()),
        mean_value(list(shares.values())),
        predict(shares, [part for part in parts if part.questions], chats_variance=variance_of_chats(kept.values())),
        None if asked.people is None else rectified_answers(answers, shares),
    )


def _part(one: HeldOut, among: AbstractSet[str]) -> HeldOut:
    kept = np.array([question in among for question in one.questions], dtype=bool)
    questions = tuple(question for question in one.questions if question in among)
    scale = len(one.questions) / max(1, len(questions))  # variance of a mean over fewer questions
    return replace(
        one,
        questions=questions,
        human=one.human[kept],
        simulated=one.simulated[kept],
        people_variance=one.people_variance * scale,
        chats_variance=one.chats_variance * scale,
    )


def rectified_answers(answers: Sequence[Answer], shares: Mapping[str, float]) -> Rectified | Undefined:
    place = {question: at for at, question in enumerate(shares)}
    both = [answer for answer in answers if answer.question_id in place]
    if not both:
        return Undefined("no question has both real and simulated chats with this assistant")
    workers = [answer.worker_id or f"nobody {number}" for number, answer in enumerate(both)]
    person = np.unique(workers, return_inverse=True)[1]
    real = RealAnswers(
        np.array([float(answer.correct) for answer in both]),
        np.array([place[answer.question_id] for answer in both], dtype=np.int64),
        np.asarray(person, dtype=np.int64),
    )
    return rectified(real, np.array(list(shares.values())))


def _correlation(
    answers: Sequence[Answer], found: Mapping[str, Outcomes], held_out: Mapping[str, HeldOut], study: Study
) -> tuple[Value, str]:
    """PPI correlation of single answers with the simulated accuracy of their question, and where it was measured.

    Measured on the new assistant if it has human answers, else the mean over the held-out assistants.
    """
    if (own := _pearson(answers, _shares(found))) is not None:
        return own, "real chats with the new assistant"
    values = [
        _pearson(
            [a for a in study.answers if (a.kind, a.assistant) == ("user-AI", one.assistant)],
            dict(zip(one.questions, one.simulated.tolist(), strict=True)),
        )
        for one in held_out.values()
    ]
    return mean_value([value for value in values if value is not None]), "the held-out assistants, mean"


def _pearson(answers: Sequence[Answer], simulated: Mapping[str, float]) -> Value | None:
    both = [answer for answer in answers if answer.question_id in simulated]
    right, expected = [float(one.correct) for one in both], [simulated[one.question_id] for one in both]
    return agreement(right, expected)["pearson"] if both else None


def _curve(
    components: Components | Undefined, correlation: Value, questions: int, answers_per_person: int
) -> tuple[CurvePoint, ...]:
    if isinstance(components, Undefined) or isinstance(correlation, Undefined) or questions < 2:
        return ()
    alone = Design(components, questions, min(questions, answers_per_person))
    both = replace(alone, correlation=min(1.0, max(0.0, correlation)))
    return tuple(CurvePoint(n, alone.half_width(n), both.half_width(n)) for n in CURVE)


def _signature(asked: _Asked, judge: Agreement | None) -> dict[str, object]:
    chats, people = asked.chats, asked.people
    log = next(iter(chats.tasks.values())).log
    run = cast(Mapping[str, Mapping[str, object]], read_json(settings_path(log)))
    files = sorted(each for each in people.rglob("*") if each.is_file()) if people and people.is_dir() else [people]
    read = b"".join(each.read_bytes() for each in files if each)
    content: dict[str, object] = {
        **of_the_splits(chats.workspace.manifest),
        "question_set_sha256": question_set_sha256(asked.questions.values()),
        "splits": list(chats.tasks),
        "model": chats.model,
        "assistant": {"name": asked.name, "identity": run["assistants"][asked.name]},
        "people_sha256": hashlib.sha256(read).hexdigest() if people else "",
        "simulation": run["settings"],
        **({"judge": judge.judge, "rubric_sha256": judge.rubric_sha256} if judge else {}),
    }
    return {**content, "id": signature_id(content)}
