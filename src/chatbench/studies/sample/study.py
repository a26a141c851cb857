"""Puts the sample study together: problems, participants, chats, answers alone, and the assistants alone.

The truth is known: given a problem, an assistant and the habits, every probability follows from `people` and
`assistants`. `true_accuracy` computes the per-question accuracy that infinitely many people would reach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import AiAloneScore, Answer, Conversation, Question, Study
from chatbench.studies.chatbench_writer import write_chatbench_folder
from chatbench.studies.intake import conversation_id
from chatbench.studies.sample.assistants import STRENGTHS, reply_to
from chatbench.studies.sample.people import STUDY_HABITS, Chat, Person, answer_alone, chance_alone, chat, draw_person
from chatbench.studies.sample.problems import Problem, Template, all_templates, draw_problem
from chatbench.studies.sample.schemas import SUBSETS

NAME = "sample"
QUESTIONS_PER_PERSON = 12
AI_ALONE_SAMPLES = 50
SUBJECTS = {"sample_motion": "physics", "sample_fairness": "moral"}


@dataclass(frozen=True, slots=True)
class SampleSettings:
    """`chats` is the number of conversations per question and assistant (ChatBench has about nine)."""

    questions: int = 120
    chats: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if not 4 <= self.questions <= len(list(all_templates())):
            raise ChatbenchError(
                f"--questions {self.questions}", expected=f"4 to {len(list(all_templates()))}, one for each template",
            )  # fmt: skip
        if self.chats < 1:
            raise ChatbenchError(f"--chats {self.chats}", expected="at least 1")


@dataclass(frozen=True, slots=True)
class SampleStudy:
    """The study with the truth behind it: the problem of each question and the person of each worker id."""

    study: Study
    problems: Mapping[str, Problem]
    people: Mapping[str, Person]


def subject_of(question: Question) -> str:
    """The ChatBench subject under which a sample question is filed."""
    return SUBJECTS.get(question.subset, "math")


def write_sample(folder: Path, settings: SampleSettings) -> SampleStudy:
    """Generates the study and writes it in the ChatBench layout."""
    sample = make_sample(settings)
    write_chatbench_folder(sample.study, folder, subject_of=subject_of)
    return sample


def make_sample(settings: SampleSettings) -> SampleStudy:
    """The study of these settings; equal settings give an equal study on any machine."""
    problems = draw_problems(settings)
    people: dict[str, Person] = {}
    answers: list[Answer] = []
    conversations: list[Conversation] = []
    for assistant in STRENGTHS:
        rng = Random(f"sample study {settings.seed} people of {assistant}")
        for round_number in range(settings.chats):
            condition = "answer-first" if round_number % 2 else "direct-to-AI"
            for batch in _batches(problems, rng):
                person = draw_person(_worker_id(rng), STUDY_HABITS, rng)
                people[person.id] = person
                session = _Session(person, assistant, condition, rng)
                answers += session.work(batch, problems)
                conversations += session.conversations
    study = Study(
        name=NAME,
        questions={problem.question.id: problem.question for problem in problems},
        conversations=tuple(conversations),
        answers=tuple(answers),
        ai_alone=tuple(_ai_alone(problems, settings)),
    )
    return SampleStudy(study, {problem.question.id: problem for problem in problems}, people)


def draw_problems(settings: SampleSettings) -> list[Problem]:
    """Problems from distinct templates, subsets equally large up to one."""
    rng = Random(f"sample study {settings.seed} questions")
    pools = {subset: _shuffled_templates(subset, rng) for subset in SUBSETS}
    problems: list[Problem] = []
    while len(problems) < settings.questions:
        for subset in SUBSETS:
            if pools[subset] and len(problems) < settings.questions:
                number = sum(problem.question.subset == subset for problem in problems)
                problems.append(draw_problem(pools[subset].pop(), f"{subset}-redux-{number}", rng))
    return sorted(problems, key=lambda problem: SUBSETS.index(problem.question.subset))


def _shuffled_templates(subset: str, rng: Random) -> list[Template]:
    templates = [template for template in all_templates() if template.schema.subset == subset]
    rng.shuffle(templates)
    return templates


def _batches(problems: Sequence[Problem], rng: Random) -> list[list[Problem]]:
    order = list(problems)
    rng.shuffle(order)
    return [order[start : start + QUESTIONS_PER_PERSON] for start in range(0, len(order), QUESTIONS_PER_PERSON)]


def _worker_id(rng: Random) -> str:
    return "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=10))


class _Session:
    """One person's work: answers alone first where the condition says so, then chats."""

    def __init__(self, person: Person, assistant: str, condition: str, rng: Random) -> None:
        self.person, self.assistant, self.condition, self.rng = person, assistant, condition, rng
        self.conversations: list[Conversation] = []

    def work(self, batch: Sequence[Problem], problems: Sequence[Problem]) -> list[Answer]:
        # Phase 1, alone: the same questions where the answer comes first, else a few that are not in the batch.
        ids = {problem.question.id for problem in batch}
        others = [problem for problem in problems if problem.question.id not in ids]
        alone = batch if self.condition == "answer-first" else self.rng.sample(others, min(6, len(others)))
        own = {problem.question.id: answer_alone(self.person, problem, self.rng) for problem in alone}
        answers = [self._answer(problem, own[problem.question.id], alone=True) for problem in alone]
        for problem in batch:
            talk = chat(self.person, problem, self.assistant, STUDY_HABITS, self.rng, own.get(problem.question.id))
            answers.append(self._answer(problem, talk.letter, alone=False))
            self.conversations.append(self._conversation(problem, talk))
        return answers

    def _answer(self, problem: Problem, letter: str, *, alone: bool) -> Answer:
        sure = chance_alone(self.person, problem) + self.rng.gauss(0.0, 0.2) + (0.0 if alone else 0.2)
        return Answer(
            question_id=problem.question.id,
            worker_id=self.person.id,
            kind="user-alone" if alone else "user-AI",
            assistant=self.assistant,
            condition=self.condition,
            letter=letter,
            correct=letter == problem.question.answer,
            confidence=("not" if sure < 0.4 else "somewhat" if sure < 0.75 else "very") + "-confident",
            conversation_id="" if alone else self._id(problem),
        )

    def _id(self, problem: Problem) -> str:
        return conversation_id(problem.question.id, self.person.id)

    def _conversation(self, problem: Problem, talk: Chat) -> Conversation:
        return Conversation(
            self._id(problem),
            problem.question.id,
            self.person.id,
            self.assistant,
            self.condition,
            talk.turns,
            talk.letter,
        )


def _ai_alone(problems: Sequence[Problem], settings: SampleSettings) -> list[AiAloneScore]:
    rng = Random(f"sample study {settings.seed} assistants alone")
    return [
        AiAloneScore(problem.question.id, assistant, method, AI_ALONE_SAMPLES, correct / AI_ALONE_SAMPLES, invalid)
        for problem in problems
        for assistant in STRENGTHS
        for method in ("letter_only_zero_shot", "letter_only_few_shot", "free_text")
        for correct, invalid in [_samples(problem, assistant, method, rng)]
    ]


def letter_only_chance(problem: Problem, assistant: str, method: str) -> float:
    """Probability of the right letter without working: falls with steps, size and negation; four shots add 0.06."""
    strong = assistant == "scripted-strong"
    chance = (0.82 if strong else 0.60) + (0.06 if method.endswith("few_shot") else 0.0)
    chance -= 0.16 * (problem.steps - 1) + 0.18 * (problem.size > 100) + 0.15 * problem.template.ask.negated
    return min(0.98, max(0.12, chance))


def _samples(problem: Problem, assistant: str, method: str, rng: Random) -> tuple[int, int]:
    """Right and invalid ones of `AI_ALONE_SAMPLES` samples; free text solves the problem's own words."""
    if method == "free_text":
        replies = [reply_to(assistant, [problem.question.full_text], rng) for _ in range(AI_ALONE_SAMPLES)]
        return sum(reply.value == problem.value for reply in replies), 0
    invalid = sum(rng.random() < 0.02 for _ in range(AI_ALONE_SAMPLES))
    chance = letter_only_chance(problem, assistant, method)
    return sum(rng.random() < chance for _ in range(AI_ALONE_SAMPLES - invalid)), invalid


def true_accuracy(problem: Problem, assistant: str, *, people: int, rng: Random) -> float:
    """User-AI accuracy of one question as the mean over `people` fresh people, in 0..1."""
    correct = 0
    for _ in range(people):
        person = draw_person("", STUDY_HABITS, rng)
        correct += chat(person, problem, assistant, STUDY_HABITS, rng).letter == problem.question.answer
    return correct / people
