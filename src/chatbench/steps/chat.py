"""One chat in the terminal: the simulator is the user, and a person, or a model that the person watches, the assistant.

The loop, the prompts and the record are those of a simulation. The simulator was fine-tuned on a split, so a split is
taken in which the question was held out, if there is one. A chat that the person ends (Ctrl-D, Ctrl-C) is saved as
failed with that reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from rich.console import Console

from chatbench.core.append_log import AppendOnlyLog, read_log
from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Question, Study
from chatbench.protocol.dialogue import Dialogue, Outcome, Speaker, SpeakerName
from chatbench.protocol.driving import hold_together
from chatbench.protocol.prepared_data import Manifest, load_manifest, read_split
from chatbench.protocol.styles import STYLES, prompts_sha256
from chatbench.steps.assistants import open_assistant, read_specs
from chatbench.steps.chat_view import PERSON, ChatView, StoppedByPersonError
from chatbench.steps.eval_ppl import trained_splits
from chatbench.steps.simulate import ChatSettings, study_of
from chatbench.steps.simulation_plan import LoopSettings, Planned
from chatbench.steps.simulation_run import AnySpeaker, conversation_of
from chatbench.steps.simulators import TUNED, SimulatorSpec, open_simulator
from chatbench.studies.conversation_rows import Recorded, recorded_row

STOPPED = "stopped by the person"


def chat(
    model: str,
    question_id: str,
    *,
    data: Path,
    results: Path,
    assistant: str | None = None,
    simulator: SimulatorSpec = TUNED,
    settings: ChatSettings | None = None,
    untrained: bool = False,
    split: str | None = None,
    save: Path | None = None,
    console: Console | None = None,
) -> Outcome | None:
    """Holds the chat and shows it; None where the person ended it.

    Args:
        assistant: the spec of a model, None for the person.
        simulator: who plays the user; `untrained` and `split` say which of the tuned ones.
        settings: seed, turns, temperatures, guards and the longest message; what goes for many chats is not looked at.
        save: a log, to which the chat is appended.

    Raises:
        ChatbenchError: no such question or split, or a speaker cannot be opened.
    """
    told = settings or ChatSettings()
    manifest = load_manifest(data)
    study = study_of(manifest)
    question = _question(study, question_id)
    candidates = [split] if split else _splits(simulator, model, manifest, data, results, untrained=untrained)
    split_id, held_out = _split_for(question_id, candidates, data)
    user = open_simulator(
        simulator, model=model, results=results, split=split_id, untrained=untrained,
        temperature=told.simulator_temperature, max_tokens=told.max_tokens,
    )  # fmt: skip
    name, other = _assistant(assistant, told, study)
    view = ChatView(console or Console(), question, other)
    view.begin(
        str(user.identity.get("name", model)), name, seen=not held_out and simulator.trained_per_split and not untrained
    )
    loop = LoopSettings(told.seed, told.max_user_turns, STYLES[simulator.style], told.guards)
    index = sum(1 for _ in read_log(save)) if save else 0
    planned = Planned(f"{question.id}|{name}|{index}", question, name, index)
    outcome = _held(loop.begin(planned), view, user)
    view.end(outcome)
    if save:
        ended = conversation_of(planned, outcome or Outcome(tuple(view.turns), "failed", STOPPED), told.seed)
        record = Recorded(ended, user.identity, view.assistant().identity, loop.style.name, prompts_sha256(loop.style))
        AppendOnlyLog(save).append([recorded_row(record)])
        view.say(f"saved: {save}")
    return outcome


def _held(dialogue: Dialogue, view: ChatView, user: AnySpeaker) -> Outcome | None:
    speakers: dict[SpeakerName, Speaker] = {"simulator": view.simulator(user), "assistant": view.assistant()}
    try:
        (outcome,) = hold_together([dialogue], speakers)
    except (StoppedByPersonError, KeyboardInterrupt):  # the second while a model writes
        return None
    return outcome


def _question(study: Study, question_id: str) -> Question:
    if question_id not in study.questions:
        near = get_close_matches(question_id, study.questions, n=3) or sorted(study.questions)[:3]
        raise ChatbenchError(
            f"no question {question_id!r} in the study that was prepared",
            expected=f"one of its {len(study.questions)}, such as {', '.join(near)}",
        )
    return study.questions[question_id]


def _splits(
    simulator: SimulatorSpec, model: str, manifest: Manifest, data: Path, results: Path, *, untrained: bool
) -> Sequence[str]:
    """The splits whose simulator there is."""
    if simulator.trained_per_split and not untrained:
        return trained_splits(model, data, results)
    return manifest.split_ids


def _split_for(question_id: str, candidates: Sequence[str], data: Path) -> tuple[str, bool]:
    """The first split from which the question was held out, else the first; and whether it was."""
    held_out = [each for each in candidates if question_id in read_split(data, each).question_ids("test")]
    return (held_out or candidates)[0], bool(held_out)


def _assistant(spec: str | None, told: ChatSettings, study: Study) -> tuple[str, AnySpeaker | None]:
    """Name and speaker of the assistant; no speaker for the person."""
    if spec is None:
        return PERSON, None
    specs = read_specs([spec], sorted({conversation.assistant for conversation in study.conversations}))
    if len(specs) > 1:
        raise ChatbenchError(
            f"--assistant {spec}: a chat has one assistant", expected=f"one, such as {specs[0].kind}:{specs[0].name}"
        )
    speaker = open_assistant(specs[0], study, temperature=told.assistant_temperature, max_tokens=told.max_tokens)
    return specs[0].name, speaker
