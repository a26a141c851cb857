"""Simulates conversations of a model, in the user's place, with assistants, about the held-out questions of a split.

The plan (assistants in the order given, questions by id, repetitions) is cut into fixed blocks of one assistant each.
The conversations of a block are held together, so that local models work in batches, and are appended to the log in the
order of the plan when the block ends. A run that was killed continues: a block that is not wholly in the log is held
again in the same composition, and only what is missing is appended, so the file ends up as that of an undisturbed run.
An assistant that may answer differently each time (an endpoint) is asked only for the missing conversations, for
nothing would be gained by paying twice.

A conversation that failed for a passing reason is tried again by the next run; one that failed for good is not.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import AppendOnlyLog
from chatbench.core.model_names import model_key
from chatbench.core.records import Question, SimulatedConversation, Study
from chatbench.core.resolved_settings import resolve_settings
from chatbench.protocol.dialogue import MAX_USER_TURNS, Outcome, Speaker, dialogue
from chatbench.protocol.driving import hold_together
from chatbench.protocol.prepared_data import Manifest, load_manifest, read_split
from chatbench.protocol.prompts import PromptVariant
from chatbench.protocol.splits import question_set_sha256
from chatbench.steps.assistants import open_assistant, read_specs
from chatbench.steps.progress import ConversationProgress
from chatbench.studies.reader import open_study
from chatbench.studies.simulations import (
    agree_on_settings,
    conversation_row,
    log_path,
    read_conversations,
    recorded_conversations,
    settings_path,
)

if TYPE_CHECKING:
    from chatbench.models.encoding import TextForm
    from chatbench.models.loading import Loaded

__all__ = ["SimulateResult", "read_conversations", "simulate"]

BLOCK_SIZE = 256
ENDPOINT_BLOCK_SIZE = 32
"""Blocks with an assistant that is not reproducible are small: what a kill throws away was paid for."""


@dataclass(frozen=True, slots=True)
class SimulateResult:
    """What lies in the log after the run, and how this run went.

    `terminations` counts the conversations of this run's plan; `simulated` of them are new. `conversations_shortened`
    outgrew a speaker's context, which in the end did not see `turns_dropped` turns of theirs.
    """

    path: Path
    terminations: Mapping[str, int]
    conversations: int
    simulated: int
    seconds: float
    conversations_shortened: int = 0
    turns_dropped: int = 0

    def lines(self) -> list[str]:
        """What to print: counts by termination, and conversations per second."""
        counts = ", ".join(f"{name} {count}" for name, count in self.terminations.items())
        rate = f", {self.simulated / self.seconds:.1f} conversations/s" if self.simulated else ""
        lines = [
            f"{self.conversations} conversations: {counts}",
            f"{self.simulated} new in {self.seconds:.1f} s{rate} -> {self.path}",
        ]
        if self.conversations_shortened:
            lines.append(
                f"{self.conversations_shortened} conversations outgrew a speaker's context: "
                f"{self.turns_dropped} oldest turns were out of its sight"
            )
        return lines


@dataclass(frozen=True, slots=True)
class Planned:
    """One conversation to hold."""

    id: str
    question: Question
    assistant: str
    index: int


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """What the dialogue loop is told, the same for all conversations of a log."""

    seed: int
    max_user_turns: int
    variant: PromptVariant


def simulate(
    model: str,
    *,
    assistants: Sequence[str],
    data: Path,
    results: Path,
    split: str,
    conversations: int = 10,
    untrained: bool = False,
    seed: int = 0,
    max_user_turns: int = MAX_USER_TURNS,
    simulator_temperature: float = 1.0,
    assistant_temperature: float = 0.7,
    max_tokens: int = 1000,
    block_size: int | None = None,
    variant: PromptVariant = "two-step",
    overwrite: bool = False,
    console: Console | None = None,
) -> SimulateResult:
    """Simulates what is missing of `conversations` per held-out question and assistant; see the module.

    Raises:
        ChatbenchError: nothing is prepared or trained, an assistant cannot be used, or the log has other settings.
    """
    _refuse_out_of_range(conversations, max_user_turns, max_tokens, block_size)
    manifest = load_manifest(data)
    held_out = read_split(data, split).question_ids("test")
    study = study_of(manifest)
    specs = read_specs(assistants, sorted({conversation.assistant for conversation in study.conversations}))
    simulator = open_simulator(
        model, results, split, untrained=untrained, temperature=simulator_temperature, max_tokens=max_tokens
    )
    speakers = {
        spec.name: open_assistant(spec, study, temperature=assistant_temperature, max_tokens=max_tokens)
        for spec in specs
    }
    questions = [study.questions[question_id] for question_id in held_out]
    loop = LoopSettings(seed, max_user_turns, variant)
    settings = {
        "questions_sha256": manifest.questions_sha256,
        "held_out_sha256": question_set_sha256(questions),
        "simulator": simulator.identity,
        "conversations": conversations,
        "seed": seed,
        "max_user_turns": max_user_turns,
        "prompt_protocol": variant,
        "block_size": block_size or BLOCK_SIZE,
    }
    log = _open_log(log_path(results, model_key(model), split, untrained=untrained), overwrite=overwrite)
    agree_on_settings(log.path, settings, {name: speaker.identity for name, speaker in speakers.items()})
    began = time.monotonic()
    plans = {name: plan(questions, name, conversations) for name in speakers}
    simulated = hold_plans(log, plans, simulator, speakers, loop, block_size, console or Console())
    planned = {one.id for each in plans.values() for one in each}
    recorded = [one for one in recorded_conversations(log) if one.id in planned]
    ends = Counter(one.termination for one in recorded)
    return SimulateResult(
        path=log.path,
        terminations={name: ends[name] for name in ("answered", "forced", "no_answer", "failed")},
        conversations=sum(ends.values()),
        simulated=simulated,
        seconds=time.monotonic() - began,
        conversations_shortened=sum(one.turns_dropped > 0 for one in recorded),
        turns_dropped=sum(one.turns_dropped for one in recorded),
    )


def study_of(manifest: Manifest) -> Study:
    """The study that was prepared.

    Raises:
        ChatbenchError: it cannot be opened, or its questions are no longer those that were split.
    """
    study = open_study(
        Path(manifest.study_resolved),
        skip_bad_records=manifest.skip_bad_records,
        include_pilots=manifest.include_pilots,
    )
    if question_set_sha256(study.questions.values()) != manifest.questions_sha256:
        raise ChatbenchError(
            f"{manifest.study_resolved}: its questions changed since the splits were made",
            fix=f"prepare again: chatbench prepare-splits --study {manifest.study}",
        )
    return study


def open_simulator(
    model: str, results: Path, split: str, *, untrained: bool, temperature: float, max_tokens: int
) -> Speaker:
    """The simulator of `load_simulator`, ready to speak."""
    from chatbench.models.speakers import LocalSimulator

    loaded, form = load_simulator(model, results, split, untrained=untrained)
    name = f"{model_key(model)} untrained" if untrained else f"{model_key(model)} {split}"
    return LocalSimulator(loaded, name, temperature=temperature, max_tokens=max_tokens, template=form.template)


def load_simulator(model: str, results: Path, split: str, *, untrained: bool) -> tuple[Loaded, TextForm]:
    """The fine-tuned model of a split, or the base it starts from, in the form of the fine-tuned one's training.

    Before there is a fine-tuned model, the base speaks in the form that its recipe names.

    Raises:
        ChatbenchError: the model was not fine-tuned on this split, or cannot be loaded.
    """
    folder = results / "models" / model_key(model) / split
    if not untrained and not folder.is_dir():
        raise ChatbenchError(
            f"{folder}: no model fine-tuned on {split}",
            fix=f"fine-tune first: SPLIT_ID={split} chatbench finetune {model}; or simulate the base with --untrained",
        )
    from chatbench.models.encoding import TextForm, form_of
    from chatbench.models.loading import load
    from chatbench.models.run_record import read_record

    record = read_record(folder)
    form = form_of(record or {})
    if untrained:
        resolved = resolve_settings(model)
        loaded = load(resolved.base, seed=resolved.settings.seed)
        form = form if record else TextForm(resolved.settings.template)
    else:
        loaded = load(str(folder))
    return loaded, form


def plan(questions: Sequence[Question], assistant: str, conversations: int) -> list[Planned]:
    """All conversations with one assistant, in the order of the log."""
    return [
        Planned(f"{question.id}|{assistant}|{index}", question, assistant, index)
        for question in questions
        for index in range(conversations)
    ]


def hold_plans(
    log: AppendOnlyLog,
    plans: Mapping[str, Sequence[Planned]],
    simulator: Speaker,
    assistants: Mapping[str, Speaker],
    loop: LoopSettings,
    block_size: int | None,
    console: Console,
) -> int:
    """Holds what is missing, block by block, and gives how many conversations that were."""
    missing = {one.id for each in plans.values() for one in each} - {
        one.id for one in recorded_conversations(log) if not one.transient
    }
    simulated = 0
    with ConversationProgress(console, len(missing)) as progress:
        for name, planned in plans.items():
            whole = bool(assistants[name].identity.get("reproducible", True))
            size = block_size or (BLOCK_SIZE if whole else ENDPOINT_BLOCK_SIZE)
            for start in range(0, len(planned), size):
                block = planned[start : start + size]
                wanted = [one for one in block if one.id in missing]
                if wanted:
                    progress.begin(name, len(wanted))
                    held = block if whole else wanted
                    rows = hold_block(held, simulator, assistants[name], loop, progress.ended)
                    log.append([row for one, row in zip(held, rows, strict=True) if one.id in missing])
                    progress.finish()
                    simulated += len(wanted)
    return simulated


def hold_block(
    block: Sequence[Planned],
    simulator: Speaker,
    assistant: Speaker,
    loop: LoopSettings,
    ended: Callable[[int], None] | None = None,
) -> list[dict[str, object]]:
    """Holds the conversations of a block together; one line of the log for each."""
    dialogues = [
        dialogue(one.question, one.id, base_seed=loop.seed, max_user_turns=loop.max_user_turns, variant=loop.variant)
        for one in block
    ]
    outcomes = hold_together(dialogues, {"simulator": simulator, "assistant": assistant}, ended)
    return [
        conversation_row(
            _record(one, outcome, loop.seed),
            simulator=simulator.identity,
            assistant_identity=assistant.identity,
            prompt_protocol=loop.variant,
            usage={"simulator_tokens": outcome.simulator_tokens, "assistant_tokens": outcome.assistant_tokens},
        )
        for one, outcome in zip(block, outcomes, strict=True)
    ]


def _record(planned: Planned, outcome: Outcome, seed: int) -> SimulatedConversation:
    return SimulatedConversation(
        id=planned.id,
        question_id=planned.question.id,
        assistant=planned.assistant,
        index=planned.index,
        turns=outcome.turns,
        termination=outcome.termination,
        reason=outcome.reason,
        answer_text=outcome.answer_text,
        letter=outcome.letter,
        forced_text=outcome.forced_text,
        seed=seed,
        transient=outcome.transient,
        turns_dropped=outcome.turns_dropped,
    )


def _open_log(path: Path, *, overwrite: bool) -> AppendOnlyLog:
    if overwrite:
        path.unlink(missing_ok=True)  # first: a log without settings is refused, settings without a log are not
        settings_path(path).unlink(missing_ok=True)
    return AppendOnlyLog(path)


def _refuse_out_of_range(conversations: int, max_user_turns: int, max_tokens: int, block_size: int | None) -> None:
    values = {"conversations": conversations, "max_user_turns": max_user_turns, "max_tokens": max_tokens}
    for name, value in {**values, "block_size": 1 if block_size is None else block_size}.items():
        if value < 1:
            raise ChatbenchError(f"{name} is {value}", expected="at least 1")
