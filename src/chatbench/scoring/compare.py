r"""Compare simulators on the same questions: differences with intervals and p-values, per assistant and pooled.

A run is what `eval-chatbench` scored: MODEL (in the results folder), FOLDER:MODEL, or the path of its JSON file, with
`#base` appended for the base model of that run. Only questions that all runs have are compared. Signatures may differ
in the simulator only, unless other differences are explicitly ignored; the table then lists them. A base model may
have another number of conversations than the run that it belongs to, as `chatbench run` has it; the table says so.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import cast

from chatbench.core.configurations import Difference, leaves
from chatbench.core.errors import ChatbenchError
from chatbench.data.workspace import Workspace
from chatbench.metrics.agreement import Value
from chatbench.metrics.names import BASE_MODEL, EVERY_ASSISTANT, FINE_TUNED, PEOPLE, TEXT_METRICS, Predictor
from chatbench.metrics.paired import PairedDifference, holm, mean_differences, paired_differences, paired_split
from chatbench.metrics.pairs import Predictions
from chatbench.metrics.resampling import LEAST_REPLICATES, Draws, Resampling
from chatbench.scoring.score_files import QuestionScores, read_question_files, read_score_file
from chatbench.scoring.score_table import ScoreTable, ignorable, incompatible

COMPARED_METRICS = ("pearson", "spearman", "mae", "rmse", "bias", "ece", *TEXT_METRICS)
BASE_MODEL_ENDING = "#base"


@dataclass(frozen=True, slots=True)
class Run:
    """A scored simulator: its score table, its scores per question, and whether it is the fine-tuned or base model."""

    name: str
    table: ScoreTable
    scores: QuestionScores
    predictor: Predictor

    @property
    def signature(self) -> dict[str, object]:
        """Signature of this simulator alone, including the scored splits."""
        signature = self.table.signature_with_splits
        if self.predictor == BASE_MODEL:
            signature |= cast(dict[str, object], signature["base model"])
        return signature

    def predicted(self, split: str) -> Predictions:
        """Its accuracies in a split; empty if it was not scored there."""
        return self.scores.accuracies.get(split, {}).get(self.predictor, {})


@dataclass(frozen=True, slots=True)
class ComparedMetric:
    """One metric compared between two runs; `holm_p` is corrected for the number of pairs of runs."""

    first: str
    second: str
    assistant: str
    metric: str
    found: PairedDifference
    holm_p: Value


@dataclass(frozen=True, slots=True)
class Comparison:
    """Comparison of all pairs of runs; `ignored` has the ignored signature differences of each pair."""

    runs: tuple[str, ...]
    metrics: tuple[ComparedMetric, ...]
    splits: tuple[str, ...]
    questions: int
    pairs_per_split: float
    ignored: Mapping[tuple[str, str], tuple[Difference, ...]]
    signature_ids: Mapping[str, str]
    resampling: Resampling


def compare(
    runs: Sequence[str], *, workspace: Workspace, ignore: Sequence[str] = (), resampling: Resampling
) -> Comparison:
    """Compare every pair of runs.

    Raises:
        ChatbenchError: fewer than two runs, a run that was not scored, incompatible signatures, a name to ignore that
            no signature has, or no common question.
    """
    if resampling.replicates < LEAST_REPLICATES:
        found = f"--bootstrap {resampling.replicates}"
        raise ChatbenchError(found, expected=f"{LEAST_REPLICATES} and more, for the p-values")
    resampling = resampling.checked()
    opened = [open_run(run, workspace) for run in runs]
    if len({(run.table.signature_id, run.predictor) for run in opened}) < max(2, len(runs)):
        raise ChatbenchError(f"runs to compare: {', '.join(runs)}", expected="two or more different runs")
    ignored = {(one.name, two.name): ignored_differences(one, two, ignore) for one, two in combinations(opened, 2)}
    known = {leaf for run in opened for leaf, _ in leaves(run.signature)}
    for name in ignore:
        if not any(ignorable(leaf, [name]) for leaf in known):
            raise ChatbenchError(
                f"--ignore {name}: no part of a signature has this name",
                expected=f"one of {', '.join(sorted({leaf.partition('.')[0] for leaf in known}))}, or a subkey",
            )
    human = common_pairs(opened)
    pairs = {(one.name, two.name): _compare_pair(one, two, human, resampling) for one, two in combinations(opened, 2)}
    return Comparison(
        runs=tuple(run.name for run in opened),
        metrics=tuple(with_holm(pairs)),
        splits=tuple(human),
        questions=len({question_id for accuracies in human.values() for question_id, _ in accuracies}),
        pairs_per_split=sum(map(len, human.values())) / len(human),
        ignored={pair: found for pair, found in ignored.items() if found},
        signature_ids={run.name: run.table.signature_id for run in opened},
        resampling=resampling,
    )


def open_run(run: str, workspace: Workspace) -> Run:
    """Read the run of that name (see the module docstring).

    Raises:
        ChatbenchError: there is no such run, or its files have different signatures.
    """
    spec, predictor = run.removesuffix(BASE_MODEL_ENDING), BASE_MODEL if run.endswith(BASE_MODEL_ENDING) else FINE_TUNED
    folder, colon, model = spec.rpartition(":")
    place = Workspace(workspace.data, Path(folder)) if colon else workspace
    path = Path(spec) if spec.endswith(".json") else place.scores(model)
    results = path.parent.parent
    fix = f"chatbench eval-chatbench {shlex.quote(path.stem)}"
    fix += f" --results {shlex.quote(str(results))}" * (results != Path("results"))
    table = read_score_file(path, fix)
    scores = read_question_files(path.parent, path.stem, table, fix)
    if not any(predictor in predictors for predictors in scores.accuracies.values()):
        raise ChatbenchError(f"{path}: no {predictor} simulator was scored", fix=fix)
    return Run(run, table, scores, predictor)


def ignored_differences(first: Run, second: Run, ignore: Sequence[str]) -> tuple[Difference, ...]:
    """Find the differences between two signatures, all of which must be in `ignore`; see the module.

    Raises:
        ChatbenchError: a difference is not ignored.
    """
    found = incompatible(first.signature, second.signature)
    one_run = first.table.signature_id == second.table.signature_id
    refused = [each for each in found if not ignorable(each.name, [*ignore, *["conversations"] * one_run])]
    if refused:
        raise ChatbenchError(
            f"{first.name} and {second.name} differ in {'; '.join(map(str, refused))}",
            expected="runs that differ only in the simulator",
            fix="compare runs with the same data and settings, or allow the differences, which the table will list: "
            + " ".join(f"--ignore {each.name}" for each in refused),
        )
    return tuple(found)


def common_pairs(runs: Sequence[Run]) -> dict[str, Predictions]:
    """Human accuracy per split of the pairs that all runs have.

    Raises:
        ChatbenchError: no pair is common to all runs, or they differ in human accuracy.
    """
    human: dict[str, Predictions] = {}
    first = runs[0]
    for split, predictors in first.scores.accuracies.items():
        shared = set(predictors.get(PEOPLE, {})).intersection(*(run.predicted(split) for run in runs))
        if shared:
            human[split] = {pair: predictors[PEOPLE][pair] for pair in sorted(shared)}
    if not human:
        raise ChatbenchError(
            f"{', '.join(run.name for run in runs)}: no (question, assistant) pair in common",
            expected="runs that simulated the same held-out questions",
        )
    for run in runs[1:]:
        for split, accuracies in human.items():
            if any(run.scores.accuracies[split][PEOPLE].get(pair) != person for pair, person in accuracies.items()):
                raise ChatbenchError(
                    f"{first.name} and {run.name}: human accuracy differs in {split}",
                    expected="scores of the same study",
                    fix="score both again: chatbench eval-chatbench MODEL",
                )
    return human


def _compare_pair(
    one: Run, two: Run, human: Mapping[str, Predictions], resampling: Resampling
) -> dict[tuple[str, str], PairedDifference]:
    splits = [paired_split(human[split], one.predicted(split), two.predicted(split)) for split in human]
    texts = {
        metric: [
            [run.scores.texts.get(split, {}).get((run.predictor, metric), {}) for split in human] for run in (one, two)
        ]
        for metric in TEXT_METRICS
    }
    held_out = {q for sides in texts.values() for side in sides for values in side for q in values}
    draws = Draws((pair for split in splits for pair in split.human), one.scores.answers, resampling, held_out)
    found = {row: each for row, each in paired_differences(draws, splits).items() if row[1] in COMPARED_METRICS}
    for metric, (first, second) in texts.items():
        if any(first) and any(second):
            found[EVERY_ASSISTANT, metric] = mean_differences(draws, list(zip(first, second, strict=True)))
    return found


def with_holm(pairs: Mapping[tuple[str, str], Mapping[tuple[str, str], PairedDifference]]) -> list[ComparedMetric]:
    """All compared metrics, with each metric's p-values corrected for the number of pairs of runs."""
    metrics = []
    for row in dict.fromkeys(row for found in pairs.values() for row in found):
        having = [(pair, found[row]) for pair, found in pairs.items() if row in found]
        corrected = holm([each.p for _, each in having])
        metrics += [ComparedMetric(*pair, *row, each, p) for (pair, each), p in zip(having, corrected, strict=True)]
    return metrics
