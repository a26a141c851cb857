"""One chat in the terminal: the simulator is the user, and a person, or a model that the person watches, the assistant.

The loop, the prompts and the record are those of a simulation. The simulator was fine-tuned on a split, so a split is
taken in which the question was held out, if there is one. A chat that the person ends (Ctrl-D, Ctrl-C) is saved as
failed with that reason.

A chat as it is shown in the terminal, turn by turn, and what the person types into it.

What a model wrote is shown as text: no markup, and no control characters, which could rewrite what is on the screen.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from unicodedata import category

from rich.console import Console
from rich.text import Text

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Question, Study, Turn
from chatbench.data.workspace import Workspace
from chatbench.protocol.dialogue import (
    ConcurrentParticipant,
    Dialogue,
    Failure,
    FunctionParticipant,
    Outcome,
    Participant,
    ParticipantName,
    Reply,
    Request,
)
from chatbench.protocol.dialogue_runner import hold_together, run_to_end
from chatbench.protocol.prompt_styles import STYLES, prompts_sha256
from chatbench.simulation.log import AppendOnlyLog, Recorded, read_log, recorded_row
from chatbench.simulation.participants import TUNED, SimulatorSpec, open_assistant, open_simulator, read_specs
from chatbench.simulation.run import AnyParticipant, LoopSettings, Planned, conversation_of
from chatbench.simulation.simulate import ChatSettings

PERSON = "person"
_MORE = "\\"
_ACTS = ("Cc", "Cf")
"""Unicode's control and format characters: escape sequences begin with the first, the second can reverse a line."""
_HELP = f"You are the assistant. End a line with {_MORE} to go on in the next one; Ctrl-D ends the chat."


class StoppedByPersonError(Exception):
    """The person ended the chat."""


class ChatView:
    """Shows one chat about a question; where there is no model for the assistant, the person is asked."""

    def __init__(self, console: Console, question: Question, model: Participant | ConcurrentParticipant | None) -> None:
        self._console = console
        self._question = question
        self._model = model
        self.turns: list[Turn] = []

    def begin(self, simulator: str, assistant: str, *, seen: bool) -> None:
        """Who speaks, and the user's question; `seen` where the simulator was fine-tuned on chats about it."""
        self.say(f"user: {simulator}    assistant: {assistant}")
        if seen:
            self.say("note: the simulator was fine-tuned on people's chats about this question")
        self._show("question", self._question.full_text, "cyan")
        if self._model is None:
            self.say(_HELP)

    def end(self, outcome: Outcome | None) -> None:
        """How the chat ended, and what the guards saw."""
        if outcome is None:
            self.say("\nended by you")
            return
        if outcome.termination == "failed":
            self._show("failed", outcome.reason, "red")
        elif outcome.termination == "no_answer":
            self._show("no answer even when forced", outcome.forced_text or "", "red")
        else:
            verdict = "right" if outcome.letter == self._question.answer else f"wrong, it is {self._question.answer}"
            head = "answer" if outcome.termination == "answered" else "answer when forced"
            self._show(f"{head} ({verdict})", outcome.answer_text or "", "magenta")
        if outcome.lenient_letter:
            self.say(f"a lenient reader takes that for {outcome.lenient_letter}")
        if outcome.observed:
            self.say("guards saw: " + ", ".join(f"{name} {count}" for name, count in sorted(outcome.observed.items())))

    def simulator(self, participant: Participant | ConcurrentParticipant) -> FunctionParticipant:
        """The simulator, one request at a time."""
        return FunctionParticipant(lambda request: self._asked(participant, request), participant.identity)

    def assistant(self) -> FunctionParticipant:
        """The assistant, whose turns, and the user's before them, are shown."""
        identity = self._model.identity if self._model else {"kind": PERSON, "name": PERSON, "reproducible": False}
        return FunctionParticipant(self._replied, identity)

    def say(self, line: str) -> None:
        """A line of our own."""
        self._console.print(Text(plain_text(line)), soft_wrap=True)

    def _replied(self, request: Request) -> Reply | Failure:
        said = request.messages[-1].content
        self.turns.append(Turn("user", said))
        self._show("user", said, "yellow")
        reply = Reply(self._typed()) if self._model is None else self._asked(self._model, request)
        if isinstance(reply, Reply):
            self.turns.append(Turn("assistant", reply.text))
            if self._model is not None:
                self._show("assistant", reply.text, "green")
        return reply

    def _asked(self, participant: Participant | ConcurrentParticipant, request: Request) -> Reply | Failure:
        """One request to one participant of either kind; until it is answered a terminal shows who writes."""
        with self._console.status(f"the {'user' if request.participant == 'simulator' else 'assistant'} is writing"):
            if not isinstance(participant, ConcurrentParticipant):
                return participant.reply_all([request])[0]
            return run_to_end(_reply_and_close(participant, request))

    def _show(self, participant: str, text: str, colour: str) -> None:
        self._console.print(Text(f"\n{participant}", style=f"bold {colour}"))
        self._console.print(Text(plain_text(text)), soft_wrap=True)

    def _typed(self) -> str:
        """What the person types: at least one word."""
        lines: list[str] = []
        try:
            while True:
                lines.append(self._console.input("  > " if lines else "\n[bold green]assistant[/] > "))
                if lines[-1].endswith(_MORE):
                    lines[-1] = lines[-1].removesuffix(_MORE)
                elif "".join(lines).strip():
                    return "\n".join(lines).strip()
                else:
                    lines.clear()
        except (EOFError, KeyboardInterrupt):
            raise StoppedByPersonError from None


def plain_text(text: str) -> str:
    r"""A text without characters that a terminal acts on.

    >>> plain_text("red: \x1b[31m, back: \r, line\nand tab\t")
    'red: \ufffd[31m, back: \ufffd, line\nand tab\t'
    """
    return "".join("\ufffd" if category(each) in _ACTS and each not in "\n\t" else each for each in text)


async def _reply_and_close(participant: ConcurrentParticipant, request: Request) -> Reply | Failure:
    try:
        return await participant.reply(request)
    finally:
        await participant.close()


STOPPED = "stopped by the person"


def chat(
    model: str,
    question_id: str,
    *,
    workspace: Workspace,
    assistant: str | None = None,
    simulator: SimulatorSpec = TUNED,
    settings: ChatSettings | None = None,
    base_model: bool = False,
    split: str | None = None,
    save: Path | None = None,
    console: Console | None = None,
) -> Outcome | None:
    """Holds the chat and shows it; None where the person ended it.

    Args:
        assistant: the spec of a model, None for the person.
        simulator: who plays the user; `base model` and `split` say which of the tuned ones.
        settings: seed, turns, temperatures, guards and the longest message; what goes for many chats is not looked at.
        save: a log, to which the chat is appended.

    Raises:
        ChatbenchError: no such question or split, or a participant cannot be opened.
    """
    told = settings or ChatSettings()
    study = workspace.study
    question = _question(study, question_id)
    candidates = [split] if split else _splits(simulator, model, workspace, base_model=base_model)
    split_id, held_out = _split_for(question_id, candidates, workspace)
    user = open_simulator(
        simulator, model=model, workspace=workspace, split=split_id, base_model=base_model,
        temperature=told.simulator_temperature, max_tokens=told.max_tokens,
    )  # fmt: skip
    name, other = _assistant(assistant, told, study)
    view = ChatView(console or Console(), question, other)
    view.begin(
        str(user.identity.get("name", model)),
        name,
        seen=not held_out and simulator.trained_per_split and not base_model,
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


def _held(dialogue: Dialogue, view: ChatView, user: AnyParticipant) -> Outcome | None:
    participants: dict[ParticipantName, Participant] = {
        "simulator": view.simulator(user),
        "assistant": view.assistant(),
    }
    try:
        (outcome,) = hold_together([dialogue], participants)
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


def _splits(simulator: SimulatorSpec, model: str, workspace: Workspace, *, base_model: bool) -> Sequence[str]:
    """The splits whose simulator there is."""
    if simulator.trained_per_split and not base_model:
        return workspace.trained_splits(model)
    return workspace.manifest.split_ids


def _split_for(question_id: str, candidates: Sequence[str], workspace: Workspace) -> tuple[str, bool]:
    """The first split from which the question was held out, else the first; and whether it was."""
    held_out = [each for each in candidates if question_id in workspace.split(each).question_ids("test")]
    return (held_out or candidates)[0], bool(held_out)


def _assistant(spec: str | None, told: ChatSettings, study: Study) -> tuple[str, AnyParticipant | None]:
    """Name and participant of the assistant; no participant for the person."""
    if spec is None:
        return PERSON, None
    specs = read_specs([spec], sorted({conversation.assistant for conversation in study.conversations}))
    if len(specs) > 1:
        raise ChatbenchError(
            f"--assistant {spec}: a chat has one assistant", expected=f"one, such as {specs[0].kind}:{specs[0].name}"
        )
    participant = open_assistant(specs[0], study, temperature=told.assistant_temperature, max_tokens=told.max_tokens)
    return specs[0].name, participant
