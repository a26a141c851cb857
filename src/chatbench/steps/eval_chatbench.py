"""The ChatBench metrics of one model: what was simulated against what people did, per split and over splits.

Reads the study, the splits and the stored chats, computes, and writes the files of `results/scores/`; nothing is
generated, so it can be repeated at any time. A split whose simulation is unfinished is scored over the questions that
are complete, and a note says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import write_text_whole
from chatbench.core.model_names import model_key
from chatbench.core.records import Conversation, Split, Study
from chatbench.measures.figures import FINE_TUNED, UNTRAINED
from chatbench.measures.first_prompts import human_overlap
from chatbench.measures.overlap import Overlap
from chatbench.measures.resampling import Resampling
from chatbench.measures.score_uncertainty import score_uncertainty
from chatbench.measures.split_cells import scored_cells
from chatbench.measures.split_figures import SplitMeasures, split_measures
from chatbench.protocol.prepared_data import Manifest, load_manifest, read_split
from chatbench.steps.perplexity_files import perplexity_figures, read_perplexity, refuse_other_weights
from chatbench.steps.question_files import write_question_files
from chatbench.steps.results_table import as_markdown
from chatbench.steps.score_files import write_score_table
from chatbench.steps.score_signature import signature
from chatbench.steps.score_table import Score, ScoreTable
from chatbench.steps.simulate import study_of
from chatbench.steps.simulation_files import SplitChats, read_chats
from chatbench.studies.ai_alone_log import with_measured_here
from chatbench.studies.simulations import has_chats, log_path

ReadChats = Callable[[str, Study, Manifest, Split, Path], SplitChats]

LEAST_REPLICATES = 100
"""Fewer resamples say little about the ends of an interval."""


def eval_chatbench(
    model: str,
    *,
    data: Path,
    results: Path,
    splits: Sequence[str] | None = None,
    resampling: Resampling | None = None,
    read: ReadChats = read_chats,
) -> ScoreTable:
    """Scores a model on the splits that have simulated chats (or on those named) and writes the scores' files.

    Args:
        model: recipe, hub id or folder.
        data: folder of prepared splits.
        splits: ids such as `split_0`; None takes every prepared split that has chats.
        resampling: how intervals are made; 0 replicates leaves them out.
        read: how the chats of a split are read.

    Raises:
        ChatbenchError: no chats yet, chats of other data or of different settings, or a study that changed.
    """
    told = checked_resampling(resampling or Resampling())
    manifest = load_manifest(data)
    study, measured_here = with_measured_here(study_of(manifest), results, manifest.questions_sha256)
    chosen, skipped = simulated_splits(model, manifest, results, splits)
    chats = [read(model, study, manifest, read_split(data, split_id), results) for split_id in chosen]
    measures = measure_splits(study, chats)
    table = score_splits(model, study, manifest, chats, measures, results, told, notes=[*skipped, *measured_here])
    folder, key = results / "scores", model_key(model)
    write_score_table(folder, key, table)
    write_question_files(folder, key, study, measures, table.signature_id)
    write_text_whole(folder / f"{key}.md", f"# Scores of {model}\n\n{as_markdown([table])}")
    return table


def checked_resampling(told: Resampling) -> Resampling:
    """The same, once it is sure that it makes sense.

    Raises:
        ChatbenchError: it does not.
    """
    if told.replicates < 0 or 0 < told.replicates < LEAST_REPLICATES:
        raise ChatbenchError(f"--bootstrap {told.replicates}", expected=f"0, or {LEAST_REPLICATES} and more")
    if not 0 < told.confidence < 1:
        raise ChatbenchError(f"--confidence {told.confidence}", expected="a share between 0 and 1, such as 0.95")
    return told


def simulated_splits(
    model: str, manifest: Manifest, results: Path, splits: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """Ids of the splits to score, and a note on each prepared split that has no chats yet.

    Raises:
        ChatbenchError: there are none.
    """
    if splits is not None:
        return list(splits), []
    found = [s for s in manifest.split_ids if has_chats(log_path(results, model_key(model), s))]
    if not found:
        raise ChatbenchError(
            f"{results / 'simulations' / model_key(model)}: no simulated chats of {model}",
            expected="conversations.jsonl in a folder per split",
            fix=f"simulate first: chatbench simulate {model} --assistant SPEC",
        )
    missing = [split_id for split_id in manifest.split_ids if split_id not in found]
    command = f"chatbench simulate {model} --assistant SPEC"
    return found, [f"{s}: not simulated yet, left out; {command} --split {s}" for s in missing]


def measure_splits(study: Study, chats: Sequence[SplitChats]) -> dict[str, SplitMeasures]:
    """Everything about each split but its perplexity, by split id."""
    by_question = _conversations_by_question(study)
    overlaps: dict[str, Overlap | None] = {}  # people against people is the same in every split, so it is made once
    measures = {}
    for entry in chats:
        train, test = (set(entry.split.question_ids(part)) for part in ("train", "test"))
        for question_id in sorted(test - overlaps.keys()):
            overlaps[question_id] = human_overlap(by_question.get(question_id, []))
        measures[entry.split.id] = split_measures(study, train, test, entry.simulations, overlaps)
    return measures


def score_splits(
    model: str,
    study: Study,
    manifest: Manifest,
    chats: Sequence[SplitChats],
    measures: Mapping[str, SplitMeasures],
    results: Path,
    told: Resampling,
    *,
    notes: Sequence[str] = (),
) -> ScoreTable:
    """The table of the given splits; writes nothing."""
    scores: list[Score] = []
    notes = list(notes)
    for entry in chats:
        figures = list(measures[entry.split.id].figures)
        if (perplexity := read_perplexity(model, results, entry.split.id)) is not None:
            refuse_other_weights(model, perplexity, entry.simulator)
            figures += perplexity_figures(perplexity)
        scores += [Score(entry.split.id, f.assistant, f.source, f.metric, f.value, f.part) for f in figures]
        notes += _incomplete(model, study, entry, set(entry.split.question_ids("test")))
    notes += sorted({note for entry in chats for note in _not_fine_tuned(entry)})
    sizes = {part: [len(entry.split.question_ids(part)) for entry in chats] for part in ("train", "test")}
    return ScoreTable(
        model=model,
        splits=tuple(entry.split.id for entry in chats),
        train_questions=sum(sizes["train"]) / len(chats),
        test_questions=sum(sizes["test"]) / len(chats),
        scores=tuple(scores),
        signature=signature(model, manifest, chats, told),
        notes=tuple(notes),
        uncertainty=score_uncertainty(list(measures.values()), study.answers, told),
    )


def _conversations_by_question(study: Study) -> dict[str, list[Conversation]]:
    groups: dict[str, list[Conversation]] = {}
    for conversation in study.conversations:
        groups.setdefault(conversation.question_id, []).append(conversation)
    return groups


def _not_fine_tuned(entry: SplitChats) -> list[str]:
    """A note where something other than the model that `finetune` made of the split has played the user."""
    told = entry.settings[FINE_TUNED]
    if told.get("simulator_kind", "tuned") == "tuned":
        return []
    kind = f"{told['style']}:{told['simulator_kind']}"
    return [f'rows "{FINE_TUNED}" are of a simulator {kind}; whether it was trained on these splits is not known here']


def _incomplete(model: str, study: Study, entry: SplitChats, test: set[str]) -> list[str]:
    """Notes on what the scores of a split leave out: unfinished cells, and assistants that people did not work with."""
    notes = []
    known = set(study.assistants)
    for simulation in entry.simulations:
        asked = set(entry.assistants[simulation.source])
        for name in sorted(asked - known):
            notes.append(f"{entry.split.id}: people of this study did not work with {name}, so it has no accuracy here")
        wanted, scored = len(test) * len(asked & known), len(scored_cells(study, test, simulation))
        if scored < wanted:
            untrained = " --untrained" if simulation.source == UNTRAINED else ""
            notes.append(
                f"{entry.split.id}: {scored} of {wanted} pairs (question, assistant) of the {simulation.source} "
                f"simulator are complete and have human answers; to continue: "
                f"chatbench simulate {model} --assistant SPEC --split {entry.split.id}{untrained}"
            )
    return notes
