"""The text on which the tiny base is pretrained: generated, and disjoint from every study.

Three kinds of documents: dense copying (a sequence, a gap, the same again), dense look-ups (labelled values, then
queries), and chats about word problems. The chats come from other people than a study's: their habits and phrases are
other ones, the layout is not the protocol's, and the random seeds carry another name. So the base can copy, look up
and follow a chat, but how the people of a study behave it has to learn from the study.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Literal, NamedTuple

from chatbench.core.records import FOUR_LETTERS
from chatbench.protocol.prompts import END, prompt_text, simulator_messages
from chatbench.sample.participants import STRENGTHS, Chat, Habits, Phrases, chat, draw_person
from chatbench.sample.problems import NAMES, WORLDS, Template, all_templates, draw_problem

PRETRAINING_HABITS = Habits(
    styles=(0.2, 0.2, 0.2, 0.2, 0.2),
    misses_catch=0.5,
    misses_flagged_catch=0.5,
    adds_catch=0.3,
    checks=0.1,
    gives_options=0.5,
    trusts=0.97,
    phrases=Phrases(
        lead_ins=("", "hello, ", "I need this: ", "my homework says: ", "quick one: ", "who can tell me: "),
        rephrase_join=("; ", " with ", ", then ", ". "),
        rephrase=(
            "given {facts}: {ask}",
            "I have {facts}. now {ask}",
            "so {facts} - {ask}?",
            "what I know is {facts}, and I wonder {ask}",
        ),
        terse_join=(" / ", "; ", " - "),
        inform=("that would be {}", "oh, {}", "let me see: {}", "the text says {}"),
        add_catch=("wait, {}", "it also says {}", "do not forget {}"),
        check=("really?", "please do it once more", "is this right?"),
        options=("the choices:\n{}", "I can pick from\n{}", "pick one of these:\n{}"),
    ),
)

ROLES = (
    ("Me", "Helper"),
    ("Student", "Tutor"),
    ("Q", "A"),
    ("Customer", "Agent"),
    ("Pupil", "Teacher"),
    ("Asker", "Bot"),
)
CHOICES = ("I choose {}", "my pick is {}", "so it is option {}", "I take {}", "final choice: {}", "done: {}")
TITLES = ("Task: ", "The exercise: ", "Problem sheet\n", "", "To solve: ", "Read this:\n")
BEFORE_NUMBERS = "has holds at of for and are to over away are in costs takes = * + - / A. B. C. D. it".split()
OTHER_WORDS = (
    "has how many each for and at is in not more gives away total rows red blue green dollars meters hours long wide "
    "liters minute kilometers an hour friends there are of them empty broken takes on Monday Tuesday fair pay"
).split()
PROMPTS = ("What is said next?", "Write the next message.", "Continue.", "What would you say now?", "Your turn.")


class Segment(NamedTuple):
    """A piece of text and the weight of its tokens in the loss."""

    text: str
    weight: float


Document = list[Segment]
Stage = Literal["copy", "practice", "chat", "ask", "prompt", "end"]
CHAT_SHARES = {"chat": (0.4, 0.0), "ask": (0.7, 0.0), "prompt": (0.6, 0.6), "end": (0.6, 0.8)}
"""Shares of chats that end in a request for the next message: in some words (of those left), in the protocol's."""

CONTEXT_WEIGHT = 0.15
"""Loss weight of text that is not the user's: a little, so that the base knows the language of the problems."""


def copy_document(vocabulary: list[str], rng: Random, longest: int) -> Document:
    """Random words, a gap, the same words again; only the repetition counts."""
    words = random_words(vocabulary, rng.randint(3, longest), rng)
    gap = random_words(vocabulary, rng.randint(0, longest // 4), rng) + "\n" if longest > 12 else ""
    return [Segment(words + "\n" + gap, 0.0), Segment(words + "\n", 1.0)]


def random_words(vocabulary: list[str], count: int, rng: Random) -> str:
    """`count` random words, a third of them a number behind a word that numbers follow ("has 12")."""
    items = [
        f"{rng.choice(BEFORE_NUMBERS)} {rng.randint(1, 999)}" if rng.random() < 0.33 else rng.choice(vocabulary)
        for _ in range(count)
    ]
    return " ".join(items)


def lookup_document(vocabulary: list[str], rng: Random) -> Document:
    """Four labelled numbers, noise, and queries for the letter of a number or the number of a letter."""
    numbers = [str(number) for number in rng.sample(range(1, 1000), 4)]
    lines = [f"{letter}. {number}" for letter, number in zip(FOUR_LETTERS, numbers, strict=True)]
    noise = random_words(vocabulary, rng.randint(0, 14), rng)
    document = [Segment(rng.choice(("\n", " ")).join(lines) + "\n" + noise + "\n", 0.0)]
    for _ in range(4):
        index = rng.randrange(4)
        if rng.random() < 0.75:
            document += [Segment(f"{rng.choice(('it is ', 'answer ', 'so ', 'I see '))}{numbers[index]}. ", 0.0),
                         Segment(f"{rng.choice(('', 'option '))}{FOUR_LETTERS[index]}\n", 1.0)]  # fmt: skip
        else:
            document += [Segment(f"{FOUR_LETTERS[index]}? ", 0.0), Segment(f"{numbers[index]}\n", 1.0)]
    return document


def labelled_document(rng: Random) -> Document:
    """Numbers of things, then queries by the thing: "there are 12 boxes" ... "boxes? 12"."""
    things = rng.sample(
        [world["items"] for world in WORLDS["items"]] + [world["boxes"] for world in WORLDS["packed"]], 5
    )
    numbers = rng.sample(range(2, 1000), 5)
    told = [f"{number} {thing}" for number, thing in zip(numbers, things, strict=True)]
    document = [Segment(rng.choice((", ", ". ", " and ")).join(told) + "\n", 0.0)]
    for _ in range(4):
        index = rng.randrange(5)
        document += [
            Segment(f"how many {things[index]}? ", 0.0),
            Segment(rng.choice(("", "there are ")) + told[index] + "\n", 1.0),
        ]
    return document


def chat_document(template: Template, rng: Random, asked: float, prompted: float = 0.0, end: str = "") -> Document:
    """A chat about a fresh problem; what the person says counts fully.

    `asked` and `prompted` are the shares that end in a request for the person's next message or choice: in some words
    (`asked`, of those left) or in those of the protocol, where `end` follows the message and `Answer: ` never occurs.
    """
    problem = draw_problem(template, "pretraining", rng)
    habits = replace(PRETRAINING_HABITS, misses_catch=rng.random(), misses_flagged_catch=rng.random())
    talk = chat(draw_person("", habits, rng), problem, rng.choice(tuple(STRENGTHS)), habits, rng)
    said = [turn.text for turn in talk.turns if turn.role == "user"]
    if prompted and rng.random() < prompted:
        said.append(rng.choice(CHOICES).format(talk.letter))
        point = rng.randrange(len(said))
        prompt = prompt_text(
            simulator_messages(
                problem.question.full_text, talk.turns[: 2 * point], asked_for=problem.question.asked_for
            )
        )
        return [Segment(prompt, 0.0), Segment(said[point] + end, 1.0)]
    title = rng.choice(TITLES) + problem.question.full_text
    if rng.random() < asked:
        person, helper = rng.choice(ROLES)
        said.append(rng.choice(CHOICES).format(talk.letter))
        point = rng.randrange(len(said))
        names = {"user": person, "assistant": helper}
        so_far = "\n\n".join(f"{names[turn.role]}: {turn.text}" for turn in talk.turns[: 2 * point])
        prompt = f"{title}\n\n{so_far}\n\n{rng.choice(PROMPTS)}\n\n> "
        return [Segment(prompt, 0.0), Segment(said[point], 1.0)]
    return _script(title, talk, rng)


def _script(title: str, talk: Chat, rng: Random) -> Document:
    """The whole chat in a row, as a script with roles."""
    person, helper = rng.choice(ROLES)
    document = [Segment(title, CONTEXT_WEIGHT)]
    for turn in talk.turns:
        if turn.role == "user":
            document += [Segment(f"\n\n{person}: ", 0.0), Segment(turn.text, 1.0)]
        else:
            document.append(Segment(f"\n\n{helper}: {turn.text}", CONTEXT_WEIGHT))
    return [*document, Segment(f"\n\n{person}: ", 0.0), Segment(rng.choice(CHOICES).format(talk.letter), 1.0)]


def plain_words() -> list[str]:
    """The words of the generated worlds and some more: what copying is practised on."""
    nouns = {word for group in WORLDS.values() for world in group for word in world.values()}
    return sorted(nouns) + OTHER_WORDS + list(NAMES)


def practice_document(vocabulary: list[str], rng: Random) -> Document:
    """Copying (half of the time) or looking up."""
    kind = rng.random()
    if kind < 0.5:
        return copy_document(vocabulary, rng, longest=26)
    return lookup_document(vocabulary, rng) if kind < 0.85 else labelled_document(rng)


def documents(seed: int, stage: Stage, progress: float) -> Iterator[Document]:
    """Endless documents of a stage; `progress` in 0..1 says how far the stage has come.

    The first stage copies short sequences that grow: a model that starts with long ones does not find out how to copy.
    """
    rng = Random(f"tiny base pretraining {seed}")
    vocabulary, templates = plain_words(), list(all_templates())
    while True:
        if stage == "copy":
            yield copy_document(vocabulary, rng, longest=6 + round(20 * progress))
        elif stage == "practice" or rng.random() < 0.12:
            yield practice_document(vocabulary, rng)
        else:
            asked, prompted = CHAT_SHARES[stage]
            yield chat_document(rng.choice(templates), rng, asked, prompted, END if stage == "end" else "")
