"""The sample study: problems, participants, chats, user-alone answers and AI-alone scores, generated.

The ground truth is known: given a problem, an assistant and the habits, every probability follows from `participants`.
`true_accuracy` estimates the per-question accuracy of infinitely many people by simulation.

The study is written in the ChatBench folder layout, so that readers of the published data can read it too. Every file
is written atomically, and `questions.csv`, by which readers recognise the folder, comes last. Reading the folder gives
the same study again if its conversation ids are those of `tables.conversation_id`, texts have no surrounding white
space, and the folder has the study's name.

`stated_facts` checks what a first message about a sample problem states against the problem itself. A message *states*
a clause if it contains one of the clause's wordings, with any number in it; each number of a stated clause should then
be the problem's. People of the sample study state some clauses and leave out others, but never change a number, so
their share of right messages is 1 by construction.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import count
from operator import add
from pathlib import Path
from random import Random

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_text, write_json, write_jsonl, write_text
from chatbench.core.records import FOUR_LETTERS, AiAloneScore, Answer, AnswerKind, Conversation, Question, Study
from chatbench.core.texts import csv_text
from chatbench.data.tables import conversation_id
from chatbench.sample.participants import (
    STRENGTHS,
    STUDY_HABITS,
    Person,
    answer_alone,
    chance_alone,
    chat,
    draw_person,
    reply_to,
    share_of,
    understand,
)
from chatbench.sample.problems import (
    NAMES,
    SUBSETS,
    Clause,
    Problem,
    all_templates,
    draw_problem,
    fill,
    without_options,
)

NAME = "sample"
QUESTIONS_PER_PERSON = 12
AI_ALONE_SAMPLES = 50
QUESTIONS_PER_BATCH = 12
SUBJECTS = {"mathematics": "math", "physics": "physics", "motion": "physics", "moral": "moral", "fairness": "moral"}
_ANSWER_COLUMNS = (
    "question_id", "worker_id", "model", "condition", "subject", "batch", "position", "phase", "answer_type",
    "selected_answer", "acc", "confidence",
)  # fmt: skip
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class SampleSettings:
    """Settings of the generator; `chats` is per question and assistant (ChatBench has about nine).

    `answer_kinds`: half of the questions ask for a number, half for one of five levels, none has four options.
    """

    questions: int = 120
    chats: int = 10
    seed: int = 0
    assistants: tuple[str, ...] = tuple(STRENGTHS)
    answer_kinds: bool = False

    def __post_init__(self) -> None:
        if not 4 <= self.questions <= len(list(all_templates())):
            raise ChatbenchError(
                f"--questions {self.questions}", expected=f"4 to {len(list(all_templates()))}, one for each template",
            )  # fmt: skip
        if self.chats < 1:
            raise ChatbenchError(f"--chats {self.chats}", expected="at least 1")
        if not self.assistants or len(set(self.assistants)) < len(self.assistants):
            raise ChatbenchError(f"--assistants {', '.join(self.assistants)}", expected="distinct assistants")
        for name in self.assistants:
            share_of(name)


@dataclass(frozen=True, slots=True)
class SampleStudy:
    """The study with its ground truth: the problem of each question and the person of each worker id."""

    study: Study
    problems: Mapping[str, Problem]
    people: Mapping[str, Person]


def make_sample(settings: SampleSettings) -> SampleStudy:
    """Generate the study; equal settings give an equal study on any machine."""
    problems = draw_problems(settings)
    people: dict[str, Person] = {}
    answers: list[Answer] = []
    conversations: list[Conversation] = []
    for assistant in settings.assistants:
        rng = Random(f"sample study {settings.seed} people of {assistant}")
        for round_number in range(settings.chats):
            condition = "answer-first" if round_number % 2 else "direct-to-AI"
            order = list(problems)
            rng.shuffle(order)
            for start in range(0, len(order), QUESTIONS_PER_PERSON):
                worker_id = "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=10))
                person = draw_person(worker_id, STUDY_HABITS, rng)
                people[person.id] = person
                batch = order[start : start + QUESTIONS_PER_PERSON]
                of_session = _session(person, assistant, condition, batch, problems, rng)
                answers += of_session[0]
                conversations += of_session[1]
    rng = Random(f"sample study {settings.seed} assistants alone")
    ai_alone = [
        AiAloneScore(problem.question.id, assistant, method, AI_ALONE_SAMPLES, correct / AI_ALONE_SAMPLES, invalid)
        for problem in problems
        for assistant in settings.assistants
        for method in ("letter_only_zero_shot", "letter_only_few_shot", "free_text")[2 * settings.answer_kinds :]
        for correct, invalid in [_samples(problem, assistant, method, rng)]
    ]
    study = Study(
        name=NAME,
        questions={problem.question.id: problem.question for problem in problems},
        conversations=tuple(conversations),
        answers=tuple(answers),
        ai_alone=tuple(ai_alone),
    )
    return SampleStudy(study, {problem.question.id: problem for problem in problems}, people)


def draw_problems(settings: SampleSettings) -> list[Problem]:
    """Draw problems from distinct templates, with equally large subsets, up to one problem."""
    rng = Random(f"sample study {settings.seed} questions")
    pools = {subset: [each for each in all_templates() if each.schema.subset == subset] for subset in SUBSETS}
    for pool in pools.values():
        rng.shuffle(pool)
    problems: list[Problem] = []
    while len(problems) < settings.questions:
        for subset in SUBSETS:
            if pools[subset] and len(problems) < settings.questions:
                number = sum(problem.question.subset == subset for problem in problems)
                problems.append(draw_problem(pools[subset].pop(), f"{subset}-redux-{number}", rng))
    problems.sort(key=lambda problem: SUBSETS.index(problem.question.subset))
    if settings.answer_kinds:
        return [without_options(problem, levels=bool(number % 2)) for number, problem in enumerate(problems)]
    return problems


def _session(
    person: Person, assistant: str, condition: str, batch: Sequence[Problem], problems: Sequence[Problem], rng: Random
) -> tuple[list[Answer], list[Conversation]]:
    """One person's work: user-alone answers first, then chats."""

    def answer(problem: Problem, letter: str, kind: AnswerKind, chat_id: str = "") -> Answer:
        sure = chance_alone(person, problem) + rng.gauss(0.0, 0.2) + (0.2 if chat_id else 0.0)
        confidence = ("not" if sure < 0.4 else "somewhat" if sure < 0.75 else "very") + "-confident"
        right = letter == problem.question.answer
        who = problem.question.id, person.id, kind, assistant, condition
        return Answer(*who, letter, right, confidence, chat_id)

    # Phase 1, alone: the same questions if the condition is answer-first, else a few that are not in the batch.
    ids = {problem.question.id for problem in batch}
    others = [problem for problem in problems if problem.question.id not in ids]
    alone = batch if condition == "answer-first" else rng.sample(others, min(6, len(others)))
    own = {problem.question.id: answer_alone(person, problem, rng) for problem in alone}
    answers = [answer(problem, own[problem.question.id], "user-alone") for problem in alone]
    conversations = []
    for problem in batch:
        question_id = problem.question.id
        talk = chat(person, problem, assistant, STUDY_HABITS, rng, own.get(question_id))
        chat_id = conversation_id(question_id, person.id)
        answers.append(answer(problem, talk.letter, "user-AI", chat_id))
        who = question_id, person.id, assistant, condition
        conversations.append(Conversation(chat_id, *who, talk.turns, talk.letter))
    return answers, conversations


def letter_only_chance(problem: Problem, assistant: str, method: str) -> float:
    """Probability of the right letter without working: falls with steps, size and negation; few-shot adds 0.06."""
    share = share_of(assistant)
    chance = 0.82 * share + 0.60 * (1 - share) + (0.06 if method.endswith("few_shot") else 0.0)
    chance -= 0.16 * (problem.steps - 1) + 0.18 * (problem.size > 100) + 0.15 * bool(problem.template.ask.negates)
    return min(0.98, max(0.12, chance))


def _samples(problem: Problem, assistant: str, method: str, rng: Random) -> tuple[int, int]:
    """(right, invalid) counts of `AI_ALONE_SAMPLES` samples; free text solves the problem from its full text."""
    if method == "free_text":
        replies = [reply_to(assistant, [problem.question.full_text], rng) for _ in range(AI_ALONE_SAMPLES)]
        right = problem.question.answer
        return sum(reply.value is not None and problem.option_of(reply.value) == right for reply in replies), 0
    invalid = sum(rng.random() < 0.02 for _ in range(AI_ALONE_SAMPLES))
    chance = letter_only_chance(problem, assistant, method)
    return sum(rng.random() < chance for _ in range(AI_ALONE_SAMPLES - invalid)), invalid


def true_accuracy(problem: Problem, assistant: str, *, people: int, rng: Random) -> float:
    """User-AI accuracy on one question, in 0..1, as the mean over `people` newly drawn people."""
    correct = 0
    for _ in range(people):
        person = draw_person("", STUDY_HABITS, rng)
        correct += chat(person, problem, assistant, STUDY_HABITS, rng).letter == problem.question.answer
    return correct / people


def write_sample(folder: Path, settings: SampleSettings) -> SampleStudy:
    """Generate the study and write it in the ChatBench layout or, with `answer_kinds`, as a file of own chats.

    Raises:
        ChatbenchError: `folder` holds another study, or lacks .jsonl although `answer_kinds` is set, or the reverse.
    """
    if settings.answer_kinds != (folder.suffix == ".jsonl"):
        expected = "a file that ends in .jsonl with --answer-kinds, a folder without"
        raise ChatbenchError(f"{folder}", expected=expected, fix="example: chatbench sample kinds.jsonl --answer-kinds")
    answers = folder if settings.answer_kinds else folder / "full_study" / "user_answers.csv"
    if folder.is_file() or (folder / "questions.csv").is_file() or answers.is_file():
        start = read_text(answers)[:2000] if answers.is_file() else ""
        if not ("sample_" in start and "scripted-" in start):  # its questions and assistants
            raise ChatbenchError(f"{folder}: holds another study", expected="a sample", fix="choose another name")
    sample = make_sample(settings)
    if settings.answer_kinds:
        from chatbench.data.own_chats import rows_of  # late, for pydantic

        write_jsonl(folder, rows_of(sample.study))
    else:
        write_chatbench_folder(sample.study, folder)
    return sample


def subject_of(question: Question) -> str:
    """`math`, `physics` or `moral`, by a word of the subset; else math for sample subsets, the subset for others."""
    named = next((subject for word, subject in SUBJECTS.items() if word in question.subset), None)
    return named or ("math" if question.subset.startswith("sample_") else question.subset)


def write_chatbench_folder(study: Study, folder: Path) -> None:
    """Write questions, AI-alone table, answers (plain and filtered are the same) and conversations.

    A batch holds twelve questions of one subject, in the study's order. A position is an answer's rank in its person's
    session; a user-alone and a user-AI answer to one question share it.

    Raises:
        ValueError: two answers share worker, question and kind, or a conversation has no user-AI answer: such a study
            could not be read back unchanged.
    """
    keys = Counter((answer.worker_id, answer.question_id, answer.kind) for answer in study.answers)
    repeated = [key for key, count in keys.items() if count > 1]
    if repeated:
        raise ValueError(f"answers that share worker, question and kind: {repeated[:3]}")
    lonely = [c.id for c in study.conversations if (c.worker_id, c.question_id, "user-AI") not in keys]
    if lonely:
        raise ValueError(f"conversations without a user-AI answer: {lonely[:3]}")
    subjects = {question.id: subject_of(question) for question in study.questions.values()}
    of_subject, of_person = defaultdict[str, Iterator[int]](count), defaultdict[str, Iterator[int]](count)
    batches = {question: next(of_subject[subject]) // QUESTIONS_PER_BATCH for question, subject in subjects.items()}
    asked = dict.fromkeys((a.worker_id, a.question_id) for a in study.answers)
    positions = {(worker, question): next(of_person[worker]) for worker, question in asked}
    answers = csv_text(_ANSWER_COLUMNS, [
        [a.question_id, a.worker_id, a.assistant, a.condition, subjects[a.question_id], batches[a.question_id],
         positions[a.worker_id, a.question_id], 1 if a.kind == "user-alone" else 2, a.kind, a.letter or "",
         int(a.correct), a.confidence]
        for a in study.answers
    ])  # fmt: skip
    write_text(folder / "full_study" / "user_answers.csv", answers)
    write_text(folder / "full_study" / "user_answers_filtered.csv", answers)
    correct = {(a.worker_id, a.question_id): a.correct for a in study.answers if a.kind == "user-AI"}
    chats = [
        {
            "worker_id": chat.worker_id,
            "batch": batches[chat.question_id],
            "position": positions[chat.worker_id, chat.question_id],
            "subject": subjects[chat.question_id],
            "acc": int(correct[chat.worker_id, chat.question_id]),
            "question_id": chat.question_id,
            "model": chat.assistant,
            "condition": chat.condition,
            "selected_answer": chat.answer,
            "chat_history": [{"role": turn.role, "content": turn.text} for turn in chat.turns],
        }
        for chat in study.conversations
    ]
    write_json(folder / "full_study" / "conversations.json", chats)
    write_text(folder / "ai_alone_answers.csv", ai_alone_table(study.ai_alone))
    choices = [f"choice_{letter.lower()}" for letter in FOUR_LETTERS]
    rows = [[q.id, subjects[q.id], q.subset, q.text, *q.options, q.answer] for q in study.questions.values()]
    questions = csv_text(["question_id", "subject", "subset", "question", *choices, "answer"], rows)
    write_text(folder / "questions.csv", questions)


def ai_alone_table(scores: Sequence[AiAloneScore]) -> str:
    """Format the wide table `ai_alone_answers.csv`: one row per question and model, four columns per method."""
    methods = list(dict.fromkeys(score.method for score in scores))
    cells = {(score.question_id, score.assistant, score.method): score for score in scores}
    rows = []
    for question_id, model in dict.fromkeys((score.question_id, score.assistant) for score in scores):
        row: list[object] = [question_id, model]
        for method in methods:
            score = cells.get((question_id, model, method))
            if score is None:
                row += ["", "", "", ""]
                continue
            valid = score.count - score.invalid
            row += [score.count, score.accuracy, score.invalid, score.accuracy * score.count / valid if valid else ""]
        rows.append(row)
    columns = [f"{method}_{suffix}" for method in methods for suffix in ("count", "acc", "invalid", "acc_valid")]
    return csv_text(["question_id", "model", *columns], rows)


@dataclass(frozen=True, slots=True)
class StatedFacts:
    """Counts over messages, which can be added up.

    `right`: messages that state at least one clause and contain only the right numbers, in the right places. `facts`:
    clauses with numbers that the problem has, `stated`: those that were stated; `catches` and `stated_catches`: the
    same for catches alone.
    """

    messages: int = 0
    right: int = 0
    facts: int = 0
    stated: int = 0
    catches: int = 0
    stated_catches: int = 0

    def __add__(self, other: StatedFacts) -> StatedFacts:
        return StatedFacts(*map(add, astuple(self), astuple(other)))

    def shares(self) -> dict[str, float]:
        """The shares in 0..1 by name; those with a denominator of 0 are left out."""
        pairs = {
            "numbers right": (self.right, self.messages),
            "facts stated": (self.stated, self.facts),
            "catches stated": (self.stated_catches, self.catches),
        }
        return {name: count / of for name, (count, of) in pairs.items() if of}


def stated_facts(messages: Iterable[str], question: Question) -> StatedFacts:
    """Counts for the first messages about one question of the sample study.

    Raises:
        ValueError: the question is not one of the sample study's.
    """
    reading = understand(question.full_text)
    if reading is None:
        raise ValueError(f"{question.id} is not a question of the sample study")
    slots = {**reading.template.world, **{name: str(number) for name, number in reading.facts.items()}}
    catches = [reading.catch] if reading.catch else []
    allowed = set(_NUMBER.findall(question.full_text))
    total = StatedFacts()
    for message in messages:
        of_catches = [_states(message, clause, slots) for clause in catches]
        every = [_states(message, clause, slots) for clause in reading.template.required] + of_catches
        numbers = set(_NUMBER.findall(message)) <= allowed
        total += StatedFacts(
            messages=1,
            right=numbers and any(every) and False not in every,
            facts=len(every),
            stated=sum(each is not None for each in every),
            catches=len(of_catches),
            stated_catches=sum(each is not None for each in of_catches),
        )
    return total


def _states(message: str, clause: Clause, slots: dict[str, str]) -> bool | None:
    """True: stated with the right numbers; False: with wrong ones; None: not stated."""
    masked, stated = _NUMBER.sub("#", message), False
    for wording in (*clause.full, *clause.short):
        # A person may have any name of the study: names are not checked.
        for name in [name for name in NAMES if name in message] if "{P}" in wording else [""]:
            text = fill(wording, {**slots, "P": name})
            if _occurs(text, message):
                return True
            stated = stated or _occurs(_NUMBER.sub("#", text), masked)
    return False if stated else None


def _occurs(text: str, message: str) -> bool:
    """Whether the text occurs in the message, not as part of a longer number or word."""
    return re.search(rf"(?<!\w){re.escape(text)}(?!\w)", message) is not None
