"""How simulated chats differ from people's, by classes of behaviour and by what a classifier can tell apart.

*Behaviour classes* are clusters of people's training-side chats, to which held-out chats are assigned. A chat is
described by the features in `FEATURES`, standardised on the training-side people, and clustered by k-means. A
divergence measures how much the class frequencies of two sides differ: *forward* (people || simulated) is large if the
simulator lacks what people do, *backward* (simulated || people) if it does what people hardly do.

*Detection* is whether a linear classifier can tell two groups of chats apart: accuracy, area under the curve, top
features. A chat is represented by word 1-2-grams and character 2-4-grams of the user's messages (digits masked, since
numbers belong to the question) and the same `FEATURES`. Logistic regression is fitted to the chats of four fifths of
the questions and tested on the rest, so that no chat is recognised by its question. Chance is 0.5, since both
groups hold equally many chats of each question. Even two groups of real people can be told apart a little, by
personal writing habits: the reference is the same classifier on two halves of the people.

Sources: forward and backward divergence over behaviour clusters, and a linear classifier on real and simulated users,
as in arXiv 2605.07847; classifier two-sample tests, Lopez-Paz and Oquab 2017 (arXiv 1610.06545). The features are this
project's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatbench.metrics.agreement import Undefined
from chatbench.metrics.resampling import LOST_SHARE
from chatbench.realism.chats import SHORT_MESSAGE, ChatTraits
from chatbench.realism.measures import NOTHING_TO_COMPARE

Floats = NDArray[np.float64]

CLASSES = 8
FEWEST_CHATS_PER_CLASS = 25
"""There are fewer classes if the training side has fewer chats per class than this."""
FOLDS = 5
FEWEST_QUESTIONS = 5
FEWEST_CHATS = 40
"""Of both groups together; with fewer, a fold has only a handful."""
RESAMPLES = 1000
PERMUTATIONS = 999
TELLING = 8
"""Number of features reported per direction."""
LEAST_CHATS_PER_GRAM = 5
"""Rarer n-grams are dropped, and so are those in chats about fewer questions than this."""
MOST_GRAMS = 10_000


def _of_follow_ups(count: int, chat: ChatTraits) -> float:
    return count / max(1, len(chat.follow_up_words))


FEATURES: dict[str, Callable[[ChatTraits], float]] = {
    "words in the first message (log2)": lambda chat: math.log2(1 + chat.first_words),
    "question copied": lambda chat: chat.copied,
    "numbers told at first": lambda chat: 1.0 if chat.at_first.numbers is None else chat.at_first.numbers,
    "content words told at first": lambda chat: 1.0 if chat.at_first.words is None else chat.at_first.words,
    "options told": lambda chat: float(chat.options_told),
    "user turns (log2)": lambda chat: math.log2(1 + chat.turns),
    "words per follow-up (log2)": lambda chat: math.log2(1 + _of_follow_ups(sum(chat.follow_up_words), chat)),
    "short follow-ups": lambda chat: _of_follow_ups(sum(n <= SHORT_MESSAGE for n in chat.follow_up_words), chat),
    "follow-ups that ask": lambda chat: _of_follow_ups(chat.asking, chat),
    "follow-ups that repeat": lambda chat: _of_follow_ups(chat.repeats, chat),
    "a number from nowhere": lambda chat: float(chat.foreign_numbers),
    "polite words": lambda chat: float(chat.polite),
}
"""Interpretable features of one chat; shares and yes/no features are in 0..1."""


@dataclass(frozen=True, slots=True)
class BehaviourClasses:
    """Class centres, shape (classes, features), in features standardised by `centre` (mean) and `scale` (deviation)."""

    centres: Floats
    centre: Floats
    scale: Floats

    def classes_of(self, chats: Sequence[ChatTraits]) -> list[int]:
        """The class of each chat: the one with the nearest centre."""
        scaled = (feature_rows(chats) - self.centre) / self.scale
        distances = ((scaled[:, None, :] - self.centres[None, :, :]) ** 2).sum(-1)
        return [int(place) for place in distances.argmin(1)]

    def names(self) -> list[str]:
        """Name each class by the two features in which it deviates most from the average person, with direction."""
        features = list(FEATURES)
        return [
            ", ".join(
                f"{'much' if centre[place] > 0 else 'little'}: {features[place]}"
                for place in np.argsort(-np.abs(centre), kind="stable")[:2]
            )
            for centre in self.centres
        ]


def feature_rows(chats: Sequence[ChatTraits]) -> Floats:
    """Features of the chats, shape (chats, features), in the order of `FEATURES`."""
    rows = [[feature(chat) for feature in FEATURES.values()] for chat in chats]
    return np.asarray(rows, dtype=np.float64).reshape(len(chats), len(FEATURES))


def behaviour_classes(training: Sequence[ChatTraits], seed: int) -> BehaviourClasses | Undefined:
    """Cluster people's training-side chats into up to `CLASSES` classes, largest first."""
    rows = feature_rows(training)
    distinct = len(np.unique(rows, axis=0))
    classes = min(CLASSES, len(training) // FEWEST_CHATS_PER_CLASS, distinct)
    if classes < 2:
        return Undefined(
            f"{len(training)} training-side chats of people, {2 * FEWEST_CHATS_PER_CLASS} that differ are needed"
        )
    from sklearn.cluster import KMeans  # type: ignore[import-untyped]  # late: it takes a second; has no types

    centre, spread = rows.mean(0), rows.std(0)
    scale = np.where(spread > 0, spread, 1.0)
    found = KMeans(n_clusters=classes, n_init=10, random_state=seed).fit((rows - centre) / scale)
    sizes = np.bincount(found.labels_, minlength=classes)
    order = np.argsort(-sizes, kind="stable")
    return BehaviourClasses(found.cluster_centers_[order], centre, scale)


@dataclass(frozen=True, slots=True)
class Telling:
    """A feature and its weight: positive speaks for the second group."""

    feature: str
    weight: float


@dataclass(frozen=True, slots=True)
class Detection:
    """How well the groups are told apart, on questions that the classifier did not see.

    Intervals are 95 % percentiles of a bootstrap over questions, without draws that hold one group only. `p_value`:
    share of random relabellings within questions with an accuracy at least as high, given the same out-of-fold scores.
    """

    chats: int
    accuracy: float
    accuracy_interval: tuple[float, float] | Undefined
    auc: float
    auc_interval: tuple[float, float] | Undefined
    p_value: float
    telling_first: tuple[Telling, ...]
    telling_second: tuple[Telling, ...]


def detection(first: Sequence[ChatTraits], second: Sequence[ChatTraits], seed: int) -> Detection | Undefined:
    """Cross-validate a classifier of `first` against `second`; both must hold equally many chats per question."""
    chats = [*first, *second]
    labels = np.repeat([0, 1], [len(first), len(second)])
    _, questions = np.unique([chat.cell[0] for chat in chats], return_inverse=True)
    if not len(first) or not len(second):
        return NOTHING_TO_COMPARE
    if questions.max() + 1 < FEWEST_QUESTIONS or len(chats) < FEWEST_CHATS:
        needed = f"{FEWEST_QUESTIONS} questions and {FEWEST_CHATS} chats are needed"
        return Undefined(f"{questions.max() + 1} questions and {len(chats)} chats; {needed}")
    names, rows = _features(chats, questions)
    scores = out_of_fold_scores(rows, labels, questions)
    if scores is None:
        return Undefined("one side has chats on too few questions")
    rng = np.random.default_rng(seed)
    of_question = [np.flatnonzero(questions == question) for question in range(int(questions.max()) + 1)]
    accuracies, areas = [], []
    for _ in range(RESAMPLES):
        draw = rng.integers(len(of_question), size=len(of_question))
        drawn = np.concatenate([of_question[question] for question in draw])
        if len(set(labels[drawn])) == 2:
            accuracies.append(_accuracy(labels[drawn], scores[drawn]))
            areas.append(area_under_curve(labels[drawn], scores[drawn]))
    # Permutation test: labels are shuffled within questions, against the same out-of-fold scores.
    accuracy, by_question = _accuracy(labels, scores), np.argsort(questions, kind="stable")
    sorted_questions, sorted_scores, sorted_labels = questions[by_question], scores[by_question], labels[by_question]
    higher = 0
    for _ in range(PERMUTATIONS):
        shuffled = np.lexsort((rng.random(len(labels)), sorted_questions))
        higher += _accuracy(sorted_labels[shuffled], sorted_scores) >= accuracy
    weights = _classifier().fit(rows, labels).coef_[0]
    order = np.argsort(weights, kind="stable")
    return Detection(
        chats=len(chats),
        accuracy=accuracy,
        accuracy_interval=_interval(accuracies),
        auc=area_under_curve(labels, scores),
        auc_interval=_interval(areas),
        p_value=(1 + higher) / (1 + PERMUTATIONS),
        telling_first=tuple(Telling(names[n], float(weights[n])) for n in order[:TELLING]),
        telling_second=tuple(Telling(names[n], float(weights[n])) for n in order[::-1][:TELLING]),
    )


def area_under_curve(labels: NDArray[np.int64], scores: Floats) -> float:
    """Probability that a chat of the second group scores higher than one of the first, ties counting half; 0..1."""
    from scipy.stats import rankdata  # type: ignore[import-untyped]  # late, and has no types

    positives = labels == 1
    count, others = int(positives.sum()), int((~positives).sum())
    return float((rankdata(scores)[positives].sum() - count * (count + 1) / 2) / (count * others))


def _classifier() -> Any:  # scikit-learn has no types
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]  # late, and has no types

    return LogisticRegression(C=1.0, solver="liblinear")


def _features(chats: Sequence[ChatTraits], questions: NDArray[np.int64]) -> tuple[list[str], Any]:
    """Names of the features and their sparse matrix; n-grams are selected without looking at the labels."""
    from scipy.sparse import csr_matrix, hstack  # type: ignore[import-untyped]  # late, and has no types
    from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]  # late, no types

    texts = [re.sub(r"\d", "0", "\n".join(chat.chat.messages)) for chat in chats]
    shared = {"min_df": LEAST_CHATS_PER_GRAM, "max_features": MOST_GRAMS, "sublinear_tf": True}
    kinds = {
        "word": TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), **shared),
        "characters": TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), lowercase=False, **shared),
    }
    of_question = csr_matrix((np.ones(len(chats)), (questions, np.arange(len(chats)))))
    names, blocks = [], []
    for kind, vectorizer in kinds.items():
        try:
            block = vectorizer.fit_transform(texts)
        except ValueError:  # every text is empty, or no n-gram is common enough: no features of this kind
            continue
        spread_wide = np.asarray(((of_question @ block) > 0).sum(0)).ravel() >= LEAST_CHATS_PER_GRAM
        blocks.append(block[:, spread_wide])
        names += [f"{kind} {gram!r}" for gram in vectorizer.get_feature_names_out()[spread_wide]]
    raw = feature_rows(chats)
    spread = raw.std(0)
    blocks.append(csr_matrix((raw - raw.mean(0)) / np.where(spread > 0, spread, 1.0)))
    return [*names, *FEATURES], hstack(blocks, format="csr")


def out_of_fold_scores(rows: Any, labels: NDArray[np.int64], questions: NDArray[np.int64]) -> Floats | None:
    """Each chat's score (log-odds of the second group) from a classifier that saw no chats of its question.

    None if a classifier would be trained on one group only.
    """
    from sklearn.model_selection import GroupKFold, cross_val_predict  # type: ignore[import-untyped]  # late, no types

    folds = list(GroupKFold(FOLDS).split(rows, labels, questions))
    if any(len(set(labels[seen])) < 2 for seen, _ in folds):
        return None
    return np.asarray(cross_val_predict(_classifier(), rows, labels, cv=folds, method="decision_function"))


def _accuracy(labels: NDArray[np.int64], scores: Floats) -> float:
    return float(((scores > 0) == (labels == 1)).mean())


def _interval(values: Sequence[float]) -> tuple[float, float] | Undefined:
    if (lost := RESAMPLES - len(values)) > LOST_SHARE * RESAMPLES:
        return Undefined(f"{lost} of {RESAMPLES} resamples hold chats of one side only")
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
