"""The core data types: frozen dataclasses that check their invariants on construction.

A `Study` is everything that was recorded: questions, chats with an assistant, answers alone and with the assistant, and
the assistants' accuracy alone. Every reader returns one, and every later step takes one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from chatbench.core.answer_kinds import CHOICE, LETTERS, Kind, NoAnswer, Outcome, Text

RIGHT_FROM = 0.5
"""The lowest score that counts as right where only right and wrong are distinguished."""
FOUR_LETTERS = LETTERS[:4]
"""Letters of a question with four options, as in the files of ChatBench, HALIE and MMLU."""
Role = Literal["user", "assistant"]
MessageRole = Literal["system", "user", "assistant"]
AnswerKind = Literal["user-alone", "user-AI"]
ExampleKind = Literal["first", "follow_up", "answer"]
Part = Literal["train", "test"]
Side = Literal["train", "test", "both"]
Unit = Literal["question", "assistant", "subset", "person"]
"""What a split holds out."""
Termination = Literal["answered", "forced", "no_answer", "failed"]
"""How a simulated chat ended: answered unprompted, only when forced, not even then, or because a participant failed."""
EMPTY_TURN = "the simulator said nothing"
"""Why a chat failed if its simulator wrote an empty message. Unlike other failures, this one is the simulator's own."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question or a task; `kind` says what its answers are, and `answer` is the right one.

    A choice has options and a letter as its answer; the other kinds have no options. For kinds outcome and none,
    `answer` is "".
    """

    id: str
    subset: str
    text: str
    options: tuple[str, ...]
    answer: str
    kind: Kind = CHOICE

    def __post_init__(self) -> None:
        if not self.id or not self.text.strip():
            raise ValueError(f"question {self.id!r}: id and text must not be empty")
        if problem := self.kind.problem(self.options, self.answer):
            raise ValueError(f"question {self.id!r}: {problem}")

    @property
    def letters(self) -> tuple[str, ...]:
        """The letters of the options."""
        return LETTERS[: len(self.options)]

    @property
    def full_text(self) -> str:
        r"""`{Q}` of the protocol: the question, then one line per option (`\nA. ...`)."""
        return self.text + "".join(
            f"\n{letter}. {option}" for letter, option in zip(self.letters, self.options, strict=True)
        )

    @property
    def judged(self) -> bool:
        """Whether answers are scored by comparison with `answer`; if not, only a checker can score them, or nothing."""
        return not isinstance(self.kind, Outcome | NoAnswer)

    @property
    def checkable(self) -> bool:
        """Whether a checker may score answers: those of kind outcome, and texts, which can be right in other words."""
        return isinstance(self.kind, Outcome | Text)

    def is_for_checker(self, given: str) -> bool:
        """Whether a checker scores this answer, if there is one: it is no right answer by comparison."""
        return self.checkable and not self.is_right(given)

    @property
    def asked_for(self) -> str:
        """How the prompts describe a valid answer: `A, B, C, or D`."""
        return self.kind.asked_for(self.options)

    def read(self, text: str) -> str | None:
        """Parse the answer from a text; None if it is invalid."""
        return self.kind.read(text, self.options)

    def is_right(self, given: str | None) -> bool | None:
        """Whether an answer is right, a missing one being wrong; None if comparison cannot tell."""
        if isinstance(self.kind, Outcome | NoAnswer):
            return None
        return given is not None and self.kind.is_right(given, self.answer)


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a chat between a person (`user`) and an AI (`assistant`)."""

    role: Role
    text: str


class Context(NamedTuple):
    """What the assistant saw before a turn and the person did not: a system message, the result of a tool.

    It is never part of a simulator's prompt.
    """

    turn: int
    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """One person's chat about one question, and the final answer: a letter, a number or a text.

    The chat starts with the user, alternates and ends with the assistant; it has at least one user turn. `answer` is
    None if the study recorded none; such a chat yields no answer example.
    """

    id: str
    question_id: str
    worker_id: str
    assistant: str
    condition: str
    turns: tuple[Turn, ...]
    answer: str | None
    context: tuple[Context, ...] = ()

    def __post_init__(self) -> None:
        if not self.turns:
            raise ValueError(f"conversation {self.id!r} is empty")
        for index, turn in enumerate(self.turns):
            expected = "user" if index % 2 == 0 else "assistant"
            if turn.role != expected:
                raise ValueError(f"conversation {self.id!r}: turn {index} is by {turn.role}, expected {expected}")
        if self.turns[-1].role != "assistant":
            raise ValueError(f"conversation {self.id!r} ends with the user, expected the assistant")
        if self.answer == "":
            raise ValueError(f"conversation {self.id!r}: a blank answer, expected None where there is none")

    @property
    def user_turns(self) -> int:
        """Number of messages that the person wrote (k of the protocol)."""
        return len(self.turns) // 2


@dataclass(frozen=True, slots=True)
class Answer:
    """One person's answer to one question, alone or with an assistant.

    `correct` is what the study recorded (ChatBench's `acc`): right or wrong; for an outcome, possibly a score in 0..1.
    `letter` is None if the study did not record it; `assistant` is "" for an answer given alone by a person who was
    assigned no assistant. `conversation_id` is "" if there is no chat: a person may answer without asking anything.
    """

    question_id: str
    worker_id: str
    kind: AnswerKind
    assistant: str
    condition: str
    letter: str | None
    correct: float
    confidence: str = ""
    conversation_id: str = ""
    by_rule: bool = False
    """The study recorded no `correct`; it is the result of comparing texts or numbers."""


@dataclass(frozen=True, slots=True)
class AiAloneScore:
    """Accuracy of an assistant alone on one question, by one method (`letter_only_zero_shot`, `free_text`...).

    `accuracy` is a fraction (0..1) of `count` samples, invalid ones counted wrong.
    """

    question_id: str
    assistant: str
    method: str
    count: int
    accuracy: float
    invalid: int = 0


@dataclass(frozen=True, slots=True)
class Study:
    """Everything that was recorded, and the number of records left out, by reason."""

    name: str
    questions: Mapping[str, Question]
    conversations: tuple[Conversation, ...]
    answers: tuple[Answer, ...]
    ai_alone: tuple[AiAloneScore, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    verdicts: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Scores (0..1) from a checker, by (question id, answer); see simulation/judge.py."""

    def score(self, question_id: str, answer: str | None) -> float | None:
        """Score of a simulated answer (0..1), a missing one being wrong; None if nothing can score it.

        A text without a verdict is right or wrong by comparison: leaving it out would leave only right ones.
        """
        question = self.questions[question_id]
        if isinstance(question.kind, Outcome) and self.verdicts and answer is None:
            return 0.0
        right = question.is_right(answer)
        return right or self.verdicts.get((question_id, answer or ""), right)

    @property
    def assistants(self) -> tuple[str, ...]:
        """The assistants that people worked with, in alphabetical order."""
        answered = {a.assistant for a in self.answers if a.kind == "user-AI"}
        return tuple(sorted(answered or {chat.assistant for chat in self.conversations}))

    def comparable(self, chats: Iterable[SimulatedConversation]) -> list[SimulatedConversation]:
        """The chats with assistants that people worked with; the others have no human chats to compare with."""
        worked_with = self.assistants
        return [chat for chat in chats if not worked_with or chat.assistant in worked_with]

    @property
    def questions_per_subset(self) -> dict[str, int]:
        """Number of questions per subset, in alphabetical order."""
        return dict(sorted(Counter(question.subset for question in self.questions.values()).items()))


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message as a model sees it."""

    role: MessageRole
    content: str

    def as_dict(self) -> dict[str, str]:
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True, slots=True)
class Example:
    """One training example: the context and the human turn to predict (`target`)."""

    question_id: str
    conversation_id: str
    kind: ExampleKind
    system: str
    user: str
    target: str

    @property
    def messages(self) -> tuple[Message, Message, Message]:
        return (Message("system", self.system), Message("user", self.user), Message("assistant", self.target))


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens used by one chat, per participant: read (prompts, summed over its replies) and written.

    0 if a participant does not count them. Tokens written include reasoning; tokens read include cached ones.
    """

    simulator_prompt_tokens: int = 0
    simulator_tokens: int = 0
    assistant_prompt_tokens: int = 0
    assistant_tokens: int = 0
    simulator_reasoning_tokens: int = 0
    simulator_cached_tokens: int = 0
    assistant_reasoning_tokens: int = 0
    assistant_cached_tokens: int = 0

    @property
    def read(self) -> int:
        """Tokens read by both sides."""
        return self.simulator_prompt_tokens + self.assistant_prompt_tokens

    @property
    def written(self) -> int:
        """Tokens written by both sides."""
        return self.simulator_tokens + self.assistant_tokens


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A participant's reasoning before a message, hidden from the other side; `turn` is the index of the message.

    A final answer has the index of the turn that it replaced.
    """

    participant: str
    turn: int
    text: str


@dataclass(frozen=True, slots=True)
class AnswerProbabilities:
    """Probabilities (0..1) that one turn of a simulator was an answer, and which one.

    `answering` is the probability that the turn begins with the answer prefix; `letters` are the probabilities of the
    option letters given that it does (a model gives A to Z; a chat keeps one per option). The rest up to 1 is the
    probability of an invalid answer.
    """

    answering: float
    letters: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SimulatedConversation:
    """One simulated chat; the fields, in their order, are the keys of its line in a log (docs/files.md).

    `index` numbers the repetitions of one (question, assistant) pair. `simulator` and `assistant_identity` describe the
    two participants (weights, decoding; no secrets), `style` and `prompts_sha256` how the simulator was prompted.
    `turns` hold neither the final answer nor `forced_text` (the simulator's reply when it was forced to answer).
    `reason` says why a chat failed; the next run retries a `transient` failure. `answer_text` is the text after
    `Answer: `, valid or not. `letter` is the answer parsed from it (a letter, or a number or text if the question asks
    for one), None if it is invalid (counted wrong) or missing; `lenient_letter` is then the result of lenient answer
    extraction. All are parsed from `final_output`, the simulator's last output (None if the chat failed).
    `turns_dropped` is how many of the oldest turns did not fit a participant's context at the end. `observed` counts
    detected failure modes. `seconds` is the sum of the replies' latencies. `answer_probabilities` has one entry per
    simulator reply, None if that reply has none, and is empty if no reply has any; `expected_correct` is the
    probability of the right letter if the chat ended with an answer.

    By side (`simulator`, `assistant`): `finish_reasons` counts replies that were cut short ("length",
    "content_filter") or refused ("refusal"), `served_models` names the models that replied, if the endpoint does, and
    `prompts_truncated` counts prompts of which the endpoint read no more tokens than of an earlier, much shorter one.
    """

    id: str
    question_id: str
    assistant: str
    index: int
    style: str = field(default="", kw_only=True)
    prompts_sha256: str = field(default="", kw_only=True)
    simulator: Mapping[str, object] = field(default_factory=dict, kw_only=True)
    assistant_identity: Mapping[str, object] = field(default_factory=dict, kw_only=True)
    seed: int = field(default=0, kw_only=True)
    turns: tuple[Turn, ...]
    termination: Termination
    reason: str = ""
    transient: bool = False
    answer_text: str | None = None
    letter: str | None = None
    lenient_letter: str | None = None
    forced_text: str | None = None
    final_output: str | None = None
    turns_dropped: int = 0
    observed: Mapping[str, int] = field(default_factory=dict)
    usage: Usage = Usage()
    seconds: float = 0.0
    answer_probabilities: tuple[AnswerProbabilities | None, ...] = ()
    expected_correct: float | None = None
    reasoning: tuple[Reasoning, ...] = ()
    finish_reasons: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    served_models: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    prompts_truncated: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for letter in (self.letter, self.lenient_letter):
            if letter == "":
                raise ValueError(f"chat {self.id!r}: a blank letter, expected None where there is none")
        if self.expected_correct is not None and not 0 <= self.expected_correct <= 1:
            raise ValueError(f"chat {self.id!r}: expected_correct {self.expected_correct!r}, expected 0..1")
        if self.letter is not None and self.termination not in ("answered", "forced"):
            raise ValueError(f"chat {self.id!r}: {self.termination}, yet it has the answer {self.letter!r}")


@dataclass(frozen=True, slots=True)
class Split:
    """One train/test split of a study; `part` maps question ids to sides (`both` in splits by assistant or person).

    `held_out` are the assistants (`by` is assistant), subsets or people that only the test side has.
    """

    id: str
    seed: int
    part: Mapping[str, Side]
    by: Unit = "question"
    held_out: frozenset[str] = frozenset()

    def question_ids(self, part: Part) -> list[str]:
        """Ids of the questions on one side, sorted."""
        return sorted(question_id for question_id, side in self.part.items() if side in (part, "both"))

    def part_of(self, record: Conversation | Answer) -> Part | None:
        """The side of a chat or an answer; None if it is on neither."""
        side = self.part.get(record.question_id)
        if self.by in ("question", "subset"):
            return side if side != "both" else None
        unit = record.assistant if self.by == "assistant" else record.worker_id
        wanted: Part = "test" if unit in self.held_out else "train"
        return wanted if side in (wanted, "both") else None

    def held_out_records(self, study: Study) -> Study:
        """The study with only the test side's chats and answers; unchanged for a split by question or subset.

        Answers given alone stay: they are not trained on.
        """
        if self.by in ("question", "subset"):
            return study
        return replace(
            study,
            conversations=tuple(chat for chat in study.conversations if self.part_of(chat) == "test"),
            answers=tuple(a for a in study.answers if a.kind == "user-alone" or self.part_of(a) == "test"),
        )


def joined_id(*parts: object) -> str:
    r"""Join parts into an id that no other parts give: a `|` or backslash inside a part is escaped with a backslash.

    >>> joined_id("q1", "w7"), joined_id("q|1", 7)
    ('q1|w7', 'q\\|1|7')
    """
    return "|".join(str(part).replace("\\", "\\\\").replace("|", "\\|") for part in parts)


def first_prompts(conversations: Sequence[Conversation]) -> dict[str, list[str]]:
    """First message of each conversation, grouped by question id, in the given order."""
    prompts: dict[str, list[str]] = {}
    for conversation in conversations:
        prompts.setdefault(conversation.question_id, []).append(conversation.turns[0].text)
    return prompts
