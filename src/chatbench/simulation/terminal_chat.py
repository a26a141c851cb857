"""One chat in the terminal: the simulator is the user; the assistant is a person, or a model that the person watches.

Loop, prompts and record are those of a simulation. The simulator was fine-tuned on a split, so a split that holds the
question out is used, if there is one. A chat that the person ends (Ctrl-D, Ctrl-C) is saved as failed with that reason.
Model output is shown as plain text: no markup, and no control characters, which could rewrite the screen.
"""

from __future__ import annotations

from collections.abc import Container
from contextlib import suppress
from dataclasses import asdict, replace
from difflib import get_close_matches
from itertools import count
from pathlib import Path

from rich.console import Console
from rich.text import Text

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Question, SimulatedConversation, Turn, joined_id
from chatbench.core.texts import printable
from chatbench.data.workspace import Workspace
from chatbench.endpoints.address import EndpointOptions, without_secrets
from chatbench.protocol.dialogue import (
    AnyParticipant,
    ConcurrentParticipant,
    Failure,
    FunctionParticipant,
    Reply,
    Request,
)
from chatbench.protocol.dialogue_runner import run_to_end, run_together
from chatbench.protocol.prompt_styles import STYLES
from chatbench.simulation.log import open_log, read_log
from chatbench.simulation.participants import TUNED, SimulatorSpec, notes_on
from chatbench.simulation.run import LoopSettings, Planned, finished
from chatbench.simulation.simulate import ChatSettings, Task, open_participants, specs_in

PERSON = "person"
STOPPED = "stopped by the person"
_MORE = "\\"
_HELP = f"You are the assistant. End a line with {_MORE} to continue on the next; Ctrl-D ends the chat."


class ChatView:
    """Shows one chat about a question; without a model for the assistant, the person is asked."""

    def __init__(self, console: Console, question: Question, model: AnyParticipant | None) -> None:
        self._console = console
        self._question = question
        self._model = model
        self.turns: list[Turn] = []

    def begin(self, simulator: str, assistant: str, *, seen: bool) -> None:
        """Who takes part, and the user's question; `seen` if the simulator was fine-tuned on chats about it."""
        self.say(f"user: {simulator}    assistant: {assistant}")
        if seen:
            self.say("note: the simulator was fine-tuned on people's chats about this question")
        self._show("question", self._question.full_text, "cyan")
        if self._model is None:
            self.say(_HELP)

    def end(self, ended: SimulatedConversation | None) -> None:
        """How the chat ended, and what the failure detectors saw."""
        if ended is None:
            self.say("\nyou ended the chat")
            return
        if ended.termination == "failed":
            self._show("failed", ended.reason, "red")
        elif ended.termination == "no_answer":
            self._show("no answer even when forced", ended.forced_text or "", "red")
        else:
            wrong = f"wrong, it is {self._question.answer}"
            verdict = {True: "right", False: wrong, None: "not judged"}[self._question.is_right(ended.letter)]
            head = "answer" if ended.termination == "answered" else "answer when forced"
            self._show(f"{head} ({verdict})", ended.answer_text or "", "magenta")
        if ended.lenient_letter:
            self.say(f"lenient answer extraction reads that as {ended.lenient_letter}")
        if ended.observed:
            self.say(
                "failure detectors saw: "
                + ", ".join(f"{name} {count}" for name, count in sorted(ended.observed.items()))
            )

    def simulator(self, participant: AnyParticipant) -> FunctionParticipant:
        """The simulator, one request at a time."""
        return FunctionParticipant(lambda request: self._asked(participant, request), participant.identity)

    def assistant(self) -> FunctionParticipant:
        """The assistant; shows its turns, and the user's turns before them."""
        identity = self._model.identity if self._model else {"kind": PERSON, "name": PERSON, "reproducible": False}
        return FunctionParticipant(self._replied, identity)

    def say(self, line: str) -> None:
        """Prints a line that is not part of the chat."""
        self._console.print(Text(printable(line)), soft_wrap=True)

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

    def _asked(self, participant: AnyParticipant, request: Request) -> Reply | Failure:
        """Sends one request to a participant of either kind; until the reply comes, a terminal shows who is writing."""
        with self._console.status(f"the {'user' if request.participant == 'simulator' else 'assistant'} is writing"):
            if not isinstance(participant, ConcurrentParticipant):
                return participant.reply_all([request])[0]

            async def reply_and_close() -> Reply | Failure:
                try:
                    return await participant.reply(request)
                finally:
                    await participant.close()

            return run_to_end(reply_and_close())

    def _show(self, participant: str, text: str, colour: str) -> None:
        self._console.print(Text(f"\n{participant}", style=f"bold {colour}"))
        self._console.print(Text(printable(text)), soft_wrap=True)

    def _typed(self) -> str:
        """What the person types: at least one word."""
        lines: list[str] = []
        while True:
            lines.append(self._console.input("  > " if lines else "\n[bold green]assistant[/] > "))
            if lines[-1].endswith(_MORE):
                lines[-1] = lines[-1].removesuffix(_MORE)
            elif "".join(lines).strip():
                return "\n".join(lines).strip()
            else:
                lines.clear()


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
    options: EndpointOptions | None = None,
    console: Console | None = None,
) -> SimulatedConversation | None:
    """Runs and shows the chat; None if the person ended it.

    Args:
        assistant: the spec of a model; None for the person.
        simulator: what plays the user; `base_model` and `split` say which of the tuned ones.
        settings: seed, turns, temperatures, failure modes and message limit; settings for many chats are ignored.
        save: a log to append the chat to.
        options: timeout and patience of endpoints.

    Raises:
        ChatbenchError: no such question or split, or a participant cannot be opened.
    """
    settings, study = settings or ChatSettings(), workspace.study
    if question_id not in study.questions:
        near = get_close_matches(question_id, study.questions, n=3) or sorted(study.questions)[:3]
        raise ChatbenchError(
            f"no question {question_id!r} in the prepared study",
            expected=f"one of its {len(study.questions)}, such as {', '.join(near)}",
        )
    question = study.questions[question_id]
    per_split = simulator.kind == "tuned" and not base_model
    candidates = [split] if split else workspace.trained_splits(model) if per_split else workspace.manifest.split_ids
    held_out = [each for each in candidates if question_id in workspace.split(each).question_ids("test")]
    specs = [] if assistant is None else specs_in(study, [assistant])
    if len(specs) > 1:
        raise ChatbenchError(
            f"--assistant {without_secrets(str(assistant))}: a chat has one assistant",
            expected=f"one, such as {specs[0].kind}:{specs[0].name}",
        )
    user, opened = open_participants(
        model, Task(workspace.manifest, study, (question,), tuple(specs), save or Path()), workspace=workspace,
        split=(held_out or candidates)[0], settings=settings, simulator=simulator, base_model=base_model,
        options=options,
    )  # fmt: skip
    name, other = next(iter(opened.items()), (PERSON, None))
    view = ChatView(console or Console(), question, other)
    for note in notes_on(filter(None, (user, other))):
        view.say(note)
    view.begin(str(user.identity.get("name", model)), name, seen=per_split and not held_out)
    loop = LoopSettings(settings.seed, settings.max_user_turns, STYLES[simulator.style], settings.failure_modes)
    planned = _next(question, name, {str(row["id"]) for _, row in read_log(save)} if save else ())
    user_side, other_side = view.simulator(user), view.assistant()
    ended: SimulatedConversation | None = None
    with suppress(EOFError, KeyboardInterrupt):  # Ctrl-D, or Ctrl-C, perhaps while a model writes
        (ended,) = run_together([loop.begin(planned)], {"simulator": user_side, "assistant": other_side})
    view.end(ended)
    if save:
        record = ended or SimulatedConversation(
            planned.id, question.id, name, planned.index, tuple(view.turns), "failed", STOPPED, style=simulator.style,
            seed=settings.seed,
        )  # fmt: skip
        with open_log(save) as log:
            if planned.id in log.recorded:  # by a chat that was saved meanwhile
                planned = _next(question, name, log.recorded)
                record = replace(record, id=planned.id)
            log.append([asdict(finished(record, planned, user.identity, other_side.identity, loop.style))])
        view.say(f"saved: {save}")
    return ended


def _next(question: Question, assistant: str, recorded: Container[str]) -> Planned:
    """The chat with the lowest index that is not recorded."""
    index = next(each for each in count() if joined_id(question.id, assistant, each) not in recorded)
    return Planned(joined_id(question.id, assistant, index), question, assistant, index)
