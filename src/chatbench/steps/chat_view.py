"""A chat as it is shown in the terminal, turn by turn, and what the person types into it.

What a model wrote is shown as text: no markup, and no control characters, which could rewrite what is on the screen.
"""

from __future__ import annotations

from unicodedata import category

from rich.console import Console
from rich.text import Text

from chatbench.core.records import Question, Turn
from chatbench.protocol.dialogue import ConcurrentSpeaker, Failure, FunctionSpeaker, Outcome, Reply, Request, Speaker
from chatbench.protocol.driving import run_to_end

PERSON = "person"
_MORE = "\\"
_ACTS = ("Cc", "Cf")
"""Unicode's control and format characters: escape sequences begin with the first, the second can reverse a line."""
_HELP = f"You are the assistant. End a line with {_MORE} to go on in the next one; Ctrl-D ends the chat."


class StoppedByPersonError(Exception):
    """The person ended the chat."""


class ChatView:
    """Shows one chat about a question; where there is no model for the assistant, the person is asked."""

    def __init__(self, console: Console, question: Question, model: Speaker | ConcurrentSpeaker | None) -> None:
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

    def simulator(self, speaker: Speaker | ConcurrentSpeaker) -> FunctionSpeaker:
        """The simulator, one request at a time."""
        return FunctionSpeaker(lambda request: self._asked(speaker, request), speaker.identity)

    def assistant(self) -> FunctionSpeaker:
        """The assistant, whose turns, and the user's before them, are shown."""
        identity = self._model.identity if self._model else {"kind": PERSON, "name": PERSON, "reproducible": False}
        return FunctionSpeaker(self._replied, identity)

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

    def _asked(self, speaker: Speaker | ConcurrentSpeaker, request: Request) -> Reply | Failure:
        """One request to one speaker of either kind; until it is answered a terminal shows who writes."""
        with self._console.status(f"the {'user' if request.speaker == 'simulator' else 'assistant'} is writing"):
            if not isinstance(speaker, ConcurrentSpeaker):
                return speaker.reply_all([request])[0]
            return run_to_end(_reply_and_close(speaker, request))

    def _show(self, speaker: str, text: str, colour: str) -> None:
        self._console.print(Text(f"\n{speaker}", style=f"bold {colour}"))
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


async def _reply_and_close(speaker: ConcurrentSpeaker, request: Request) -> Reply | Failure:
    try:
        return await speaker.reply(request)
    finally:
        await speaker.close()
