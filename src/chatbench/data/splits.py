"""Train/test splits of a study: by question (random, stratified by subset), by assistant, by subset or by person.

Splits by question are the published ones, and measure how a simulator generalises to unseen questions. By assistant and
by subset, each one is held out in turn; by person, people are held out at random. With `also_questions`, the chats of
the test side are about unseen questions too, and chats on neither side are left out. By subset, a question in another
subset that is a near duplicate of a held-out one is left out. The rest of this text is about splits by question.

The order comes from SHA-256 of seed, split and question, so the same seed gives the same splits on any machine and with
any library version. Near duplicates stay on one side; the train share of each subset is still met as closely as the
group sizes allow.

Source: 237 = 57 + 57 + 23 + 50 + 50 train questions of ChatBench's 396, which is 60 % of each subset, rounded
(inferred; see docs/protocol.md, section 4).

Near duplicates: two texts are compared by their token trigrams, each weighted by its rarity: w = ln((N + 1) / questions
that contain it), similarity = weight of the intersection / weight of the union (weighted Jaccard, 0..1). So wording
that a whole subset shares (the preamble of every moral_scenarios question) has almost no weight.

Questions with the same numbers are near duplicates from 0.5 on. With different numbers they are different questions,
even from one template, unless the texts are almost identical: from 0.8 on. On the five MMLU test files of ChatBench's
subsets (1,878 questions) this joins 16 pairs, all of them the same question to a reader except two of stock phrases
("Which statement is true?") and one that asks for another number of the same event; "Write the prime factorization of
77" and "... of 48" stay apart.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from decimal import ROUND_HALF_UP, Decimal
from typing import NamedTuple

from chatbench.core.answer_kinds import CHOICE
from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Answer, Part, Question, Side, Split, Study, Unit

SAME_NUMBERS_THRESHOLD = 0.5
OTHER_NUMBERS_THRESHOLD = 0.8
RUN = 3
NO_STATEMENT = "(what the person wants is not recorded)"
"""The text of an imported question without one, which is like no other."""
FEWEST_QUESTIONS = 100
"""Minimum of N in the weights: among five questions, being shared by two says nothing about rarity."""

_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+|[^\w\s]")
_NUMBER_WORDS = re.compile(
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(thir|four|fif|six|seven|eigh|nine)teen|"
    "(twen|thir|for|fif|six|seven|eigh|nine)ty|hundred|thousand|million"
)

MOST_SPLITS = 1000

Group = tuple[str, ...]
"""Ids of questions that must stay together."""


class AskedQuestion(NamedTuple):
    """A question of which only this is known: its text is taken from a prompt."""

    id: str
    subset: str
    text: str


Asked = Question | AskedQuestion


def near_duplicate_groups(questions: Collection[Asked]) -> list[tuple[str, ...]]:
    """Group near duplicates: sorted question ids per group, ordered by first id; all other questions are groups of one.

    Similarity is transitive: if a is like b and b is like c, the three are one group. Questions without a statement
    (`NO_STATEMENT`) are like no other.
    """
    ordered = sorted(questions, key=lambda question: question.id)
    group = [[index] for index in range(len(ordered))]
    told = [index for index, question in enumerate(ordered) if not question.text.startswith(NO_STATEMENT)]
    for left, right in _similar_pairs([ordered[index].text for index in told]):
        first, second = sorted((group[told[left]], group[told[right]]))
        if first is not second:
            first += second
            for index in second:
                group[index] = first
    once = {members[0]: members for members in group}
    return [tuple(ordered[index].id for index in sorted(members)) for members in once.values()]


def _similar_pairs(texts: list[str]) -> Iterator[tuple[int, int]]:
    """Yield index pairs of near-duplicate texts.

    Prefix filtering: two texts of similarity t share a run among the rarest of either, those without which less than t
    of its weight is left; only texts that share such a run are compared.
    """
    tokens = [_TOKEN.findall(text.lower()) for text in texts]
    numbers = [
        Counter(token for token in words if token[0].isdigit() or _NUMBER_WORDS.fullmatch(token)) for words in tokens
    ]
    # All token trigrams; a shorter text is one run.
    runs = [{tuple(words[start : start + RUN]) for start in range(max(1, len(words) - RUN + 1))} for words in tokens]
    holders = Counter(run for of_text in runs for run in of_text)
    total = max(FEWEST_QUESTIONS, len(texts)) + 1
    weights = {run: math.log(total / count) for run, count in holders.items()}
    rarest_first = [sorted(of_text, key=lambda run: (holders[run], run)) for of_text in runs]
    sums = [math.fsum(weights[run] for run in of_text) for of_text in rarest_first]
    seen: dict[tuple[str, ...], list[int]] = {}
    for index, of_text in enumerate(rarest_first):
        candidates: set[int] = set()
        left = sums[index]
        for run in of_text:
            if left < SAME_NUMBERS_THRESHOLD * sums[index]:
                break
            candidates.update(seen.get(run, ()))
            seen.setdefault(run, []).append(index)
            left -= weights[run]
        for other in sorted(candidates):
            shared = math.fsum(weights[run] for run in runs[index] & runs[other])
            threshold = SAME_NUMBERS_THRESHOLD if numbers[index] == numbers[other] else OTHER_NUMBERS_THRESHOLD
            if shared >= threshold * (sums[index] + sums[other] - shared):
                yield other, index


def make_splits(
    questions: Collection[Asked], *, splits: int = 10, train_share: float = 0.6, seed: int = 0
) -> list[Split]:
    """Split the questions into `split_0`, `split_1`, ..., stratified by subset.

    Args:
        train_share: fraction of each subset's questions on the train side, between 0 and 1 (exclusive).

    Raises:
        ChatbenchError: a number is out of range, or one side of a split would be empty.
    """
    _refuse_numbers(splits, train_share)
    subsets = {question.id: question.subset for question in questions}
    groups = near_duplicate_groups(questions)
    wanted = {subset: train_size(count, train_share) for subset, count in Counter(subsets.values()).items()}
    made = [_split(f"split_{number}", seed, train_share, groups, subsets, wanted) for number in range(splits)]
    for split in made:
        if len(set(split.part.values())) < 2:
            side = "test" if "train" in split.part.values() else "train"
            sizes = Counter(subsets.values())
            largest = max(sizes.values(), default=0)
            of_study = all(isinstance(question, Question) for question in questions)  # not of a file of examples
            otherwise = "split by person: --by person" if of_study else "import logged chats: chatbench import FILE"
            together = f" ({len(groups)} groups of near duplicates)" if len(groups) < len(subsets) else ""
            raise ChatbenchError(
                f"no questions are left for the {side} side of {split.id}: {len(subsets)} questions{together}, in "
                f"{len(sizes)} subsets of at most {largest}, are split subset by subset, with a share of "
                f"{train_share:g} of each going to train",
                expected="a subset large enough to leave questions on both sides after rounding",
                fix="use fewer, larger subsets (for example, one for all questions), more questions, or another "
                f"--train-share; or {otherwise}",
            )
    return made


def _refuse_numbers(splits: int, train_share: float) -> None:
    if not 1 <= splits <= MOST_SPLITS:
        raise ChatbenchError(f"{splits} splits", expected=f"1 to {MOST_SPLITS}", fix="use --splits 10")
    if not 0 < train_share < 1:
        raise ChatbenchError(f"train share {train_share}", expected="between 0 and 1", fix="use --train-share 0.6")


DEFAULT_SPLITS = 10
FEWEST_ASSISTANTS = 3
"""Fewest held-out assistants that show how much the error of a simulator on a new one varies."""


def splits_of(
    study: Study,
    by: Unit = "question",
    *,
    splits: int | None = None,
    train_share: float = 0.6,
    seed: int = 0,
    also_questions: bool = False,
) -> list[Split]:
    """Split a study by question, assistant, subset or person.

    Args:
        splits: how many, ten by default. By assistant and subset there is one for each, in alphabetical order.
        train_share: fraction of questions (and, by person, of people) on the train side.
        also_questions: by assistant and person: the questions of the test side are unseen too.

    Raises:
        ChatbenchError: as `make_splits`, or there are fewer than two units to hold out, or options conflict.
    """
    if also_questions and by in ("question", "subset"):
        raise ChatbenchError(f"--also-questions with --by {by}", expected="--by assistant or person")
    questions = study.questions.values()
    if by == "question":
        count = DEFAULT_SPLITS if splits is None else splits
        return make_splits(questions, splits=count, train_share=train_share, seed=seed)
    units = sorted(
        study.questions_per_subset
        if by == "subset"
        else {chat.assistant if by == "assistant" else chat.worker_id for chat in study.conversations}
    )
    if len(units) < 2:
        raise ChatbenchError(
            f"{len(units)} {by} in the study", expected="at least 2: one is held out", fix="use --by question"
        )
    if by != "person" and splits not in (None, len(units)):
        raise ChatbenchError(
            f"--splits {splits} --by {by}", expected=f"one per {by}: {len(units)}", fix="omit --splits"
        )
    count = splits if splits is not None else DEFAULT_SPLITS if by == "person" else len(units)
    both: Mapping[str, Side] = dict.fromkeys(sorted(study.questions), "both")
    _refuse_numbers(count, train_share)
    parts = [both] * count
    if also_questions:
        parts = [split.part for split in make_splits(questions, splits=count, train_share=train_share, seed=seed)]
    made = []
    for number in range(count):
        split_id = f"split_{number}"
        held_out = frozenset(units[number : number + 1])
        if by == "person":
            order = {each: hashlib.sha256(json.dumps([seed, split_id, each]).encode()).digest() for each in units}
            trained = min(len(units) - 1, max(1, train_size(len(units), train_share)))
            held_out = frozenset(sorted(units, key=order.__getitem__)[trained:])
        part = _parts_by_subset(study, held_out) if by == "subset" else parts[number]
        made.append(Split(split_id, seed, part, by, held_out))
    return made


def _parts_by_subset(study: Study, held_out: frozenset[str]) -> Mapping[str, Side]:
    subset = {question.id: question.subset for question in study.questions.values()}
    part: dict[str, Side] = {}
    for group in near_duplicate_groups(study.questions.values()):
        apart = any(subset[question_id] in held_out for question_id in group)
        for question_id in group:
            if subset[question_id] in held_out or not apart:
                part[question_id] = "test" if apart else "train"
    return dict(sorted(part.items()))


def train_size(count: int, train_share: float) -> int:
    """Number of train questions of a subset: share x count, halves rounded up.

    >>> [train_size(count, 0.6) for count in (95, 95, 38, 84, 84)]
    [57, 57, 23, 50, 50]
    """
    return int((Decimal(str(train_share)) * count).to_integral_value(ROUND_HALF_UP))


def question_set_sha256(questions: Collection[Question]) -> str:
    """SHA-256 over ids, subsets, texts, options, answers and answer kinds, independent of the order of questions."""
    lines = sorted(
        json.dumps([q.id, q.subset, q.text, q.options, q.answer, *([asdict(q.kind)] if q.kind != CHOICE else [])])
        for q in questions
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def answers_sha256(answers: Iterable[Answer]) -> str:
    """SHA-256 over questions, people, assistants and whether they were right, independent of the order of answers."""
    lines = sorted(json.dumps([a.question_id, a.worker_id, a.kind, a.assistant, a.correct]) for a in answers)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _split(
    split_id: str,
    seed: int,
    train_share: float,
    groups: Sequence[Group],
    subsets: Mapping[str, str],
    wanted: Mapping[str, int],
) -> Split:
    def digest(group: Group, *purpose: str) -> bytes:
        return hashlib.sha256(json.dumps([seed, split_id, group[0], *purpose]).encode()).digest()

    within: dict[str, list[Group]] = {subset: [] for subset in sorted(wanted)}
    left = dict(wanted)
    train: set[str] = set()
    for group in sorted(groups, key=digest):
        sizes = Counter(subsets[question_id] for question_id in group)
        if len(sizes) == 1:
            within[subsets[group[0]]].append(group)
            continue
        # A group that spans subsets is assigned on its own, by a hash other than the one that orders it, before the
        # subsets are filled to their sizes.
        draw = int.from_bytes(digest(group, "side")[:8], "big")
        if draw < train_share * 2**64 and all(left[subset] >= size for subset, size in sizes.items()):
            train.update(group)
            left = {subset: left[subset] - sizes[subset] for subset in left}
    for subset, members in within.items():
        train.update(question_id for group in _first_of_size(members, left[subset]) for question_id in group)
    part: dict[str, Part] = {
        question_id: "train" if question_id in train else "test" for question_id in sorted(subsets)
    }
    return Split(split_id, seed, part)


def _first_of_size(groups: Sequence[Group], size: int) -> list[Group]:
    """Pick groups whose sizes add up as close to `size` as possible, preferring those that come first.

    Bit i of `reachable[k]` says whether groups from k on can add up to i. Of two equally close sums, the larger is
    taken.
    """
    reachable = [1]
    for group in reversed(groups):
        reachable.append(reachable[-1] | reachable[-1] << len(group))
    reachable.reverse()
    sums = [total for total in range(reachable[0].bit_length()) if reachable[0] >> total & 1]
    rest = min(sums, key=lambda total: (abs(total - size), -total))
    taken = []
    for index, group in enumerate(groups):
        if rest >= len(group) and reachable[index + 1] >> (rest - len(group)) & 1:
            taken.append(group)
            rest -= len(group)
    return taken
