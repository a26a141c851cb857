r"""All metrics of one split, from human and simulated chats about the same held-out questions.

Agreement is measured on the scored (question, assistant) pairs: those with human answers and a full set of simulated
chats. Baselines predict those of them that the study has data for; each row's `questions` says how many, and the floor
is taken only from predictors of all of them. Text overlap and behaviour (turns, endings, numbers) are computed from the
chats themselves.

A *gap* is how much more often people are right with one assistant than with another. Benchmarks are run to find such
gaps, so a simulator should preserve them. A gap is the mean difference in accuracy over the questions scored with both
assistants; its error is the predictor's gap minus the human gap.

Source: ChatBench (arXiv 2504.07114), evaluation of simulators; docs/protocol.md section 9.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from itertools import combinations

from chatbench.core.progress import Advanced, unobserved
from chatbench.core.records import Study, first_prompts
from chatbench.metrics.agreement import METRICS, TREATMENTS, Outcomes, Undefined, Value, agreement, mean_value
from chatbench.metrics.baselines import baseline_predictions, ceilings
from chatbench.metrics.first_prompts import (
    chat_metrics,
    level_metrics,
    number_metrics,
    overlap_metrics,
    overlap_values,
    people_metrics,
    simulated_first_prompts,
)
from chatbench.metrics.names import (
    CONDITION,
    CONSTANT,
    EVERY_ASSISTANT,
    MEAN_OF_ASSISTANTS,
    PEOPLE,
    QUESTION_COPIED,
    SUBSET,
    WHOLE,
    MetricKey,
    MetricValue,
    Predictor,
    ceiling,
)
from chatbench.metrics.pairs import (
    Pair,
    Prediction,
    Predictions,
    Simulation,
    SplitPairs,
    assistants_of,
    expected_predictions,
    human_outcomes,
    pair_up,
    predictions,
    scored_pairs,
)
from chatbench.metrics.text import Overlap, TokenizerName, overlap

NO_HUMAN_ACCURACY = Undefined("people did not work with this assistant")
QuestionValues = Mapping[str, float]
"""Value by question id."""


@dataclass(frozen=True, slots=True)
class SplitMetrics:
    """The metrics of one split, and the data that their uncertainty is computed from.

    `strata` are the pairs of each condition and subset. `question_values` has the per-question values of metrics that
    are means over questions. `without_people` has the simulated accuracies with assistants that no person worked with,
    which no other row includes.
    """

    metrics: tuple[MetricValue, ...]
    pairs: SplitPairs
    strata: Mapping[str, SplitPairs]
    question_values: Mapping[MetricKey, QuestionValues]
    without_people: Mapping[MetricKey, QuestionValues] = field(default_factory=dict)


def split_metrics(
    study: Study,
    train: AbstractSet[str],
    test: AbstractSet[str],
    simulations: Sequence[Simulation],
    human_overlaps: Mapping[str, Overlap | None],
    tokenizer: TokenizerName = "published",
    advanced: Advanced = unobserved,
) -> SplitMetrics:
    """Compute all metrics of one split.

    Args:
        train, test: question ids of the two sides.
        simulations: the scored simulator first, then those to compare it with, on the test questions only.
        human_overlaps: `human_overlap` of each test question, precomputed because it does not depend on the split.
        tokenizer: of BLEU and ROUGE.
        advanced: progress callback, called after each question whose first prompts were compared.
    """
    worked_with = set(study.assistants) or {chat.assistant for each in simulations for chat in each.chats}
    alone = [each.with_assistants(worked_with, others=True) for each in simulations]
    simulations = [each.with_assistants(worked_with) for each in simulations]
    pairs = split_pairs(study, train, test, simulations)
    strata = stratum_pairs(study, test, pairs)
    chats = [simulation.conversations for simulation in simulations]
    real = [chat for chat in study.conversations if chat.question_id in test]
    simulated_with = {chat.assistant for chat in simulations[0].chats} or worked_with
    prompts = first_prompts(real)
    simulated = {each.predictor: simulated_first_prompts(each.chats) for each in simulations}
    overlaps: dict[Predictor, dict[str, Overlap]] = {
        PEOPLE: {q: known for q in sorted(test) if (known := human_overlaps.get(q))}
    }
    # The question's own text: the score of a simulator that just copies it.
    compared: dict[Predictor, Mapping[str, Sequence[str]]] = {
        QUESTION_COPIED: {q: [study.questions[q].text] for q in prompts},
        **simulated,
    }
    overlaps |= {predictor: {} for predictor in compared}
    pending = [(p, q) for p, prompted in compared.items() for q in sorted(prompted.keys() & prompts.keys())]
    for done, (predictor, q) in enumerate(pending, 1):
        overlaps[predictor][q] = overlap(compared[predictor][q], prompts[q], tokenizer=tokenizer)
        advanced(done, len(pending))
    gaps = dict(gap_values(pairs))
    metrics = [
        *(each for p, predicted in pairs.predictors.items() for each in agreement_metrics(pairs.human, predicted, p)),
        *_people_accuracy(pairs.human, WHOLE),
        *ceiling_metrics(pairs, chats, WHOLE),
        *(MetricValue(*key, mean_value(list(values.values()))) for key, values in gaps.items()),
        *(each for predictor, found in overlaps.items() for each in overlap_metrics(found, predictor)),
        *people_metrics([chat for chat in real if chat.assistant in simulated_with]),
        *number_metrics(study, prompts, PEOPLE),
        *level_metrics(
            ((a.assistant, a.question_id, a.letter) for a in study.answers
             if a.kind == "user-AI" and a.question_id in test and a.assistant in simulated_with),
            study.questions, PEOPLE,
        ),
    ]  # fmt: skip
    for simulation in simulations:
        answered = [(chat.assistant, chat.question_id, chat.letter) for chat in simulation.chats]
        metrics += level_metrics(answered, study.questions, simulation.predictor)
        metrics += number_metrics(study, simulated[simulation.predictor], simulation.predictor)
        metrics += chat_metrics(simulation.chats, simulation.predictor)
    without_people: dict[MetricKey, QuestionValues] = {}
    for simulation in alone:
        predictor = simulation.predictor
        metrics += [each for each in chat_metrics(simulation.chats, predictor) if each.assistant != EVERY_ASSISTANT]
        by_question = predictions(_complete_outcomes(study, simulation))
        for name in assistants_of(by_question):
            values = {question_id: found.accuracy for (question_id, _), found in _with(by_question, name).items()}
            without_people[name, predictor, "accuracy"] = values
            metrics += [
                MetricValue(name, PEOPLE, "accuracy", NO_HUMAN_ACCURACY),
                MetricValue(name, predictor, "accuracy", mean_value([*values.values()])),
                MetricValue(name, predictor, "questions", len(values)),
            ]
    # On a stratum only the simulators, the constant and the ceiling are scored.
    simulators = [p for s in simulations for p in (s.predictor, replace(s.predictor, invalid="dropped"))]
    for stratum, within in strata.items():
        for predictor in (each for each in (*simulators, CONSTANT) if each in within.predictors):
            metrics += agreement_metrics(within.human, within.predictors[predictor], predictor, stratum)
        metrics += [*_people_accuracy(within.human, stratum), *ceiling_metrics(within, chats, stratum)]
    texts: dict[MetricKey, QuestionValues] = {
        (EVERY_ASSISTANT, predictor, metric): values
        for predictor, found in overlaps.items()
        for metric, values in overlap_values(found).items()
        if values
    }
    return SplitMetrics(tuple(dict.fromkeys(metrics)), pairs, strata, {**texts, **gaps}, without_people)


def split_pairs(
    study: Study, train: AbstractSet[str], test: AbstractSet[str], simulations: Sequence[Simulation]
) -> SplitPairs:
    """Collect the accuracies of all predictors on the scored pairs, which the first simulation determines.

    Each simulator appears twice, with invalid answers counted wrong and dropped, and a third time by answer
    probabilities if these were recorded. If another simulator has fewer chats, the first one also appears with its
    first few chats only, for a fair comparison.
    """
    scored, *others = simulations
    people = predictions(human_outcomes(study, test))
    human = {pair: people[pair] for pair in sorted(scored_pairs(study, test, scored))}
    predictors: dict[Predictor, Predictions] = {}
    for simulation in simulations:
        outcomes = _complete_outcomes(study, simulation)
        for treatment in TREATMENTS:
            predictors[replace(simulation.predictor, invalid=treatment)] = predictions(outcomes, treatment)
        if any(chat.expected_correct is not None for chat in simulation.chats):
            by_probability = expected_predictions(simulation.chats, outcomes.keys())
            predictors[replace(simulation.predictor, expected=True)] = by_probability
    for conversations in sorted({o.conversations for o in others if o.conversations < scored.conversations}):
        first = scored.first_chats(conversations)
        predictors[first.predictor] = predictions(_complete_outcomes(study, first))
    predictors |= baseline_predictions(study, train, human.keys())
    return SplitPairs(human, {predictor: found for predictor, found in predictors.items() if found})


def _complete_outcomes(study: Study, simulation: Simulation) -> dict[Pair, Outcomes]:
    complete = simulation.complete_pairs()
    return {pair: outcomes for pair, outcomes in simulation.outcomes(study).items() if pair in complete}


def stratum_pairs(study: Study, test: AbstractSet[str], pairs: SplitPairs) -> dict[str, SplitPairs]:
    """Restrict the scored pairs to each condition (its answers only) and each subset, if there are several."""
    strata: dict[str, SplitPairs] = {}
    conditions = sorted({answer.condition for answer in study.answers if answer.kind == "user-AI"})
    for condition in conditions if len(conditions) > 1 else []:
        strata[CONDITION + condition] = pairs.among(predictions(human_outcomes(study, test, condition)))
    subset_of = {question_id: study.questions[question_id].subset for question_id, _ in pairs.human}
    subsets = sorted(set(subset_of.values()))
    for subset in subsets if len(subsets) > 1 else []:
        strata[SUBSET + subset] = pairs.among({c: p for c, p in pairs.human.items() if subset_of[c[0]] == subset})
    return {stratum: within for stratum, within in strata.items() if within.human}


def agreement_metrics(
    human: Predictions, predicted: Predictions, predictor: Predictor, stratum: str = WHOLE
) -> Iterator[MetricValue]:
    """Agreement per assistant, pooled, and as mean of assistants, over the pairs that both sides have."""
    rows: dict[str, dict[str, Value]] = {}
    for name in (*assistants_of(human), EVERY_ASSISTANT):
        both = pair_up(_with(human, name), predicted)
        scores = agreement([pair.human for pair in both], [pair.simulated for pair in both])
        rows[name] = {"questions": len(both), **scores}
    yield from _metric_values(rows, predictor, stratum, METRICS)


def ceiling_metrics(pairs: SplitPairs, conversations: Sequence[int], stratum: str) -> Iterator[MetricValue]:
    """Human noise ceilings per assistant, pooled, and as mean of assistants, by number of chats per pair."""
    chats: list[int | None] = [*dict.fromkeys(conversations), None]
    by_assistant = {
        name: ceilings(_with(pairs.human, name), chats, seed=0) for name in (*pairs.assistants, EVERY_ASSISTANT)
    }
    for place, count in enumerate(chats):
        rows = {name: found[place] for name, found in by_assistant.items()}
        yield from _metric_values(rows, ceiling(count), stratum, rows[EVERY_ASSISTANT])


def _metric_values(
    rows: dict[str, dict[str, Value]], predictor: Predictor, stratum: str, averaged: Iterable[str]
) -> Iterator[MetricValue]:
    """Yield `rows` (each assistant and pooled), and the mean of assistants if there are several."""
    assistants = [name for name in rows if name != EVERY_ASSISTANT]
    if len(assistants) > 1:
        mean = {metric: mean_value([rows[name][metric] for name in assistants]) for metric in averaged}
        rows = {**rows, MEAN_OF_ASSISTANTS: mean}
    for name, values in rows.items():
        yield from (MetricValue(name, predictor, metric, value, stratum) for metric, value in values.items())


def _with(human: Predictions, assistant: str) -> dict[Pair, Prediction]:
    return {pair: person for pair, person in human.items() if assistant in (EVERY_ASSISTANT, pair[1])}


def _people_accuracy(human: Predictions, stratum: str) -> Iterator[MetricValue]:
    for name in (*assistants_of(human), EVERY_ASSISTANT):
        people: list[Value] = [person.accuracy for person in _with(human, name).values()]
        yield MetricValue(name, PEOPLE, "accuracy", mean_value(people), stratum)


def gap_values(pairs: SplitPairs) -> Iterator[tuple[MetricKey, QuestionValues]]:
    """Yield (key, value per question) of gaps and gap errors, for every two assistants that share a question."""
    for first, second in combinations(pairs.assistants, 2):
        name = f"{first} minus {second}"
        people = _differences(pairs.human, first, second)
        if people:
            yield (name, PEOPLE, "gap"), people
        for predictor, predicted in pairs.predictors.items():
            found = {q: value for q, value in _differences(predicted, first, second).items() if q in people}
            if found:
                yield (name, predictor, "gap"), found
                yield (name, predictor, "gap_error"), {q: value - people[q] for q, value in found.items()}


def _differences(accuracies: Predictions, first: str, second: str) -> QuestionValues:
    return {
        question_id: accuracies[question_id, first].accuracy - accuracies[question_id, second].accuracy
        for question_id, assistant in accuracies
        if assistant == first and (question_id, second) in accuracies
    }
