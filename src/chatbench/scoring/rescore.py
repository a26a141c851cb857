"""Scores from the records and the study alone: each record verified, each end read again, nothing generated.

Verified is that a line is as it was written (its checksum), that its participants are those of the run's settings, and
that its last words, read again, give the termination and the letters that were recorded. Where they do not, what was
read now is scored, and the difference is told.

Reads a recorded conversation's end again, from the simulator's last words as they came.

So a score can be recomputed from texts alone, by today's reader, and a record whose letter is not what its text says is
found.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import LETTERS, Question, SimulatedConversation
from chatbench.data.workspace import Workspace
from chatbench.metrics.names import BASE_MODEL
from chatbench.metrics.pairs import Simulation
from chatbench.metrics.resampling import Resampling
from chatbench.protocol.answers import FinalAnswer, lenient_letter
from chatbench.protocol.prompt_styles import STYLES, Style
from chatbench.scoring.eval_chatbench import eval_chatbench
from chatbench.scoring.score_files import as_csv
from chatbench.scoring.score_table import ScoreTable
from chatbench.simulation.log import read_recorded
from chatbench.simulation.split_chats import SplitChats, read_chats

READ_AGAIN = ("termination", "answer_text", "letter", "lenient_letter", "forced_text", "expected_correct")
"""What of a record follows from its texts, its probabilities and the question."""


def reread(chat: SimulatedConversation, style: Style, question: Question) -> SimulatedConversation:
    """The conversation with everything in `READ_AGAIN` as its last words say; a failed one has none, and stays."""
    if chat.termination == "failed":
        return chat
    forced = chat.forced_text is not None
    said = style.read(chat.final_output or "", chat.turns, forced=forced)
    answer = said if isinstance(said, FinalAnswer) else None
    message = answer.message if answer else said.text if not isinstance(said, FinalAnswer) else ""
    letter = answer.letter if answer else None
    lenient_from = answer.text if answer else message
    return replace(
        chat,
        termination=("forced" if forced else "answered") if answer else "no_answer",
        answer_text=answer.text if answer else None,
        letter=letter,
        lenient_letter=lenient_letter(lenient_from, question.options) if lenient_from and letter is None else None,
        forced_text=message if forced else None,
        expected_correct=_expected_correct(chat, question) if answer else None,
    )


def _expected_correct(chat: SimulatedConversation, question: Question) -> float | None:
    last = chat.answer_probabilities[-1] if chat.answer_probabilities else None
    return None if last is None else last.letters[LETTERS.index(question.answer)]


SHOWN = 10
Say = Callable[[str], None]
Figures = Mapping[tuple[str, ...], str]


@dataclass(slots=True)
class Verified:
    """How many records were verified, and what differs from what was recorded."""

    records: int = 0
    differences: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """What to print."""
        if not self.differences:
            return [f"{self.records:,} records verified: each is as it was written and reads as it was recorded"]
        shown = self.differences[:SHOWN]
        more = len(self.differences) - len(shown)
        return [
            f"{self.records:,} records verified, {len(self.differences)} differences:",
            *(f"  {difference}" for difference in shown),
            *([f"  and {more} more"] if more else []),
        ]


@dataclass(frozen=True, slots=True)
class Rescored:
    """The recomputed scores, what the records showed, and how many figures are not as they were stored.

    `changed` is None where no scores were stored.
    """

    table: ScoreTable
    verified: Verified
    changed: int | None

    def lines(self) -> list[str]:
        """What to print."""
        count = len(self.table.scores)
        if self.changed is None:
            return [*self.verified.lines(), f"{count:,} figures computed; there were no stored scores to compare with"]
        same = "as they were stored" if not self.changed else f"{self.changed:,} not as they were stored"
        return [*self.verified.lines(), f"{count:,} figures computed again: {same}"]


def rescore(
    model: str,
    *,
    workspace: Workspace,
    splits: Sequence[str] | None = None,
    resampling: Resampling | None = None,
) -> Rescored:
    """Verifies the records of a model, scores them again, and writes the scores' files.

    Raises:
        ChatbenchError: a record is not as it was written, names another participant than its run or an unknown style,
            or as `eval_chatbench`.
    """
    stored = workspace.scores(model, ".csv")
    before = _figures(stored.read_text(encoding="utf-8")) if stored.exists() else None
    verified = Verified()

    def read(workspace: Workspace, model: str, split_id: str) -> SplitChats:
        return _read_again(read_chats(workspace, model, split_id), workspace, model, verified)

    table = eval_chatbench(model, workspace=workspace, splits=splits, resampling=resampling, read=read)
    return Rescored(table, verified, None if before is None else _changed(before, _figures(as_csv(table))))


def _read_again(chats: SplitChats, workspace: Workspace, model: str, verified: Verified) -> SplitChats:
    simulations = []
    for simulation in chats.simulations:
        log = workspace.conversations(model, chats.split.id, base_model=simulation.predictor == BASE_MODEL)
        settings, assistants = chats.settings[simulation.predictor], chats.assistants[simulation.predictor]
        by_id: dict[str, SimulatedConversation] = {}
        for number, recorded in read_recorded(log):
            where = f"{log}, line {number}"
            _refuse_strangers(recorded, settings, assistants, where)
            now = reread(recorded, _style(recorded, where), workspace.study.questions[recorded.question_id])
            verified.records += 1
            verified.differences += _differences(recorded, now, where)
            by_id[now.id] = now
        simulations.append(Simulation(simulation.predictor, tuple(by_id.values()), simulation.conversations))
    return replace(chats, simulations=tuple(simulations))


def _refuse_strangers(
    recorded: SimulatedConversation, settings: Mapping[str, object], assistants: Mapping[str, object], where: str
) -> None:
    name = recorded.assistant
    pairs = {
        "the simulator": (recorded.simulator, settings["simulator"]),
        f"the assistant {name}": (recorded.assistant_identity, assistants.get(name)),
        "the style": (recorded.style, settings.get("style")),
        "the prompts' hash": (recorded.prompts_sha256, settings.get("prompts_sha256")),
    }
    for what, (found, expected) in pairs.items():
        if found != expected:
            raise ChatbenchError(
                f"{where}: {what} is {found!r}",
                expected=f"{expected!r}, as the run's settings say",
                fix="take the line out of the file and simulate again: what is missing is held anew",
            )


def _style(recorded: SimulatedConversation, where: str) -> Style:
    style = next((style for style in STYLES.values() if style.name == recorded.style), None)
    if style is None:
        raise ChatbenchError(f"{where}: style {recorded.style!r}", expected=f"one of {', '.join(STYLES)}")
    return style


def _differences(before: SimulatedConversation, now: SimulatedConversation, where: str) -> list[str]:
    changed = [name for name in READ_AGAIN if getattr(before, name) != getattr(now, name)]
    return [f"{where}: {name} {getattr(before, name)!r}, read again {getattr(now, name)!r}" for name in changed]


def _figures(text: str) -> Figures:
    """Values by everything that names a figure."""
    rows = csv.DictReader(io.StringIO(text))
    names = ("split", "assistant", "source", "metric", "part")
    return {tuple(row[name] for name in names): row["value"] for row in rows}


def _changed(before: Figures, now: Figures) -> int:
    return sum(before.get(name) != now.get(name) for name in before.keys() | now.keys())
