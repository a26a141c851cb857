"""Writes the page: collects what is in the results folder and renders it into one file or a folder.

What does not exist yet is missing from the page, which says how to get it; only results that contradict each other
(scores of different data, chats of another study) are refused.
"""

from __future__ import annotations

import datetime
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import cast

from chatbench.core.configurations import differences
from chatbench.core.errors import ChatbenchError
from chatbench.core.files import write_text
from chatbench.core.records import Conversation, SimulatedConversation, Study
from chatbench.core.settings import model_key, recipes
from chatbench.data.download import CHATBENCH_DATASET, downloaded_from
from chatbench.data.prepared import Manifest
from chatbench.data.workspace import RESULT_FOLDERS, Workspace
from chatbench.metrics.baselines import published
from chatbench.metrics.names import FINE_TUNED
from chatbench.metrics.resampling import Resampling
from chatbench.report.estimate_table import assistant_line, read_estimates, undefined_parts
from chatbench.report.page import PageContent, render, render_folder
from chatbench.report.page_chats import RunChats, held_out_splits, report_chats, run_chats
from chatbench.report.page_data import (
    accuracy_values,
    answer_probabilities,
    calibration_values,
    chat_distributions,
    perplexities,
    question_values,
    run_scores,
    terminations,
    training_curves,
)
from chatbench.report.tables import comparison_json, comparison_notes
from chatbench.scoring.compare import compare
from chatbench.scoring.score_files import QuestionScores, read_question_files, read_score_table
from chatbench.scoring.score_table import ScoreTable, comparable, is_of_log, of_the_splits
from chatbench.simulation.judge import with_verdicts

Plain = dict[str, object]
_PART_FILE = re.compile(r"(chats|shades)-(index|\d+)\.js")
"""Files that a page in a folder writes; files with other names are left alone."""
PAGE_ENDINGS = (".html", ".htm")


@dataclass(frozen=True, slots=True)
class Shown:
    """What to show: the models of a workspace with these keys, or every model that has results.

    The page has the published scores beside those of ChatBench's own data, and with `published` beside all others.
    """

    workspace: Workspace
    keys: tuple[str, ...] = ()
    published: bool = False

    @property
    def models(self) -> tuple[str, ...]:
        """Keys of the models at this moment.

        Raises:
            ChatbenchError: there are no results.
        """
        return self.keys or tuple(self.workspace.found_models())


def shown_results(names: Sequence[str], *, results: Path, data: Path | None, published: bool = False) -> Shown:
    """Resolve names to one results folder (all models in it) or to models whose results are in `results`.

    Args:
        names: a results folder, or models; empty: everything in `results`.
        data: folder of prepared splits; None: `data` beside the results folder.
        published: as in `Shown`.

    Raises:
        ChatbenchError: a results folder was named together with other names.
    """
    known = recipes()
    named = [name for name in names if name not in known and not (Path(name).expanduser() / "config.json").exists()]
    folders = [name for name in named if any((Path(name).expanduser() / part).is_dir() for part in RESULT_FOLDERS)]
    if folders and len(names) > 1:
        raise ChatbenchError(
            f"{folders[0]} is a results folder, but {len(names) - 1} more were named",
            expected="one results folder, or models",
            fix=f"name only the models: --results {folders[0]} MODEL MODEL",
        )
    place = Path(folders[0]) if folders else results
    workspace = Workspace(data if data is not None else place.absolute().parent / "data", place)
    return Shown(workspace, () if folders else tuple(dict.fromkeys(map(model_key, names))), published)


@dataclass(frozen=True, slots=True)
class ReportResult:
    """What was written, and what the page could not show because it does not exist yet."""

    path: Path
    files: int
    size: int
    runs: tuple[str, ...]
    chats: int
    missing: tuple[str, ...]

    def lines(self) -> list[str]:
        """Lines to print."""
        more = f" and {self.files - 1} files of chats beside it" if self.files > 1 else ""
        return [
            f"{', '.join(self.runs)}: {self.chats} simulated chats -> {self.path}{more} ({self.size / 1e6:.1f} MB)",
            *(f"not in the page: {text}" for text in self.missing),
        ]


@dataclass(frozen=True, slots=True)
class Run:
    """The results of one model, by its key; `scores` and `table` are None if it was not scored."""

    key: str
    table: ScoreTable | None
    scores: QuestionScores | None
    chats: tuple[RunChats, ...]

    @property
    def name(self) -> str:
        """The name shown on the page."""
        return shown_name(self.key)


def report(shown: Shown, out: Path, *, folder: bool = False) -> ReportResult:
    """Write the page of one or more models.

    Args:
        shown: if no splits are prepared, the page shows neither questions nor people's chats.
        out: the HTML file; with `folder`, the folder for `index.html` and the chats in their own files.

    Raises:
        ChatbenchError: there are no results, results of one model contradict each other or those of another, or `out`
            is a folder instead of a file, or the reverse, or a file of another format.
    """
    if not folder and out.suffix.lower() not in PAGE_ENDINGS and not out.is_dir():
        fix = f"--out {shlex.quote(str(out.with_suffix('.html')))}"
        raise ChatbenchError(f"--out {out}", expected=f"a name that ends in {' or '.join(PAGE_ENDINGS)}", fix=fix)
    content = gather(shown)
    if folder:
        files = {out / name: text for name, text in render_folder(content).items()}
        for earlier in set((out / "parts").glob("*.js")) - set(files):
            if _PART_FILE.fullmatch(earlier.name):
                earlier.unlink()
    else:
        files = {out: render(content)}
    for path, text in files.items():
        write_text(path, text)
    size, names = sum(len(text.encode()) for text in files.values()), tuple(map(shown_name, shown.models))
    counts, missing = cast(Mapping[str, int], content.first["chats"]), cast(list[str], content.first["missing"])
    return ReportResult(list(files)[-1], len(files), size, names, counts["simulated"], tuple(missing))


def shown_name(key: str) -> str:
    """The name of a model on the page; a folder's path is left out, because pages get mailed.

    >>> shown_name("mistralai--Mistral-7B-v0.1")
    'mistralai/Mistral-7B-v0.1'
    """
    return key if key.startswith("folder--") else key.replace("--", "/", 1)  # a folder's name may contain more of them


def gather(shown: Shown) -> PageContent:
    """Collect the content of the page, with what was not found in `first["missing"]`; writes nothing.

    Raises:
        ChatbenchError: as `report`.
    """
    missing: list[str] = []
    workspace = shown.workspace
    manifest, study = _study(workspace, missing)
    runs = [_run(key, workspace, missing) for key in shown.models]
    if scored := [run.table for run in runs if run.table is not None]:
        comparable(scored)
        _refuse_other_data(scored[0], manifest, workspace)
    # The page covers the questions that are held out in a split with chats or scores.
    covered = {chat.question_id for run in runs for each in run.chats for chat in each.chats}
    for predictors in (each for run in runs if run.scores for each in run.scores.accuracies.values()):
        covered |= {question_id for pairs in predictors.values() for question_id, _ in pairs}
    if not covered and manifest is not None:
        covered = {question for split in manifest.split_ids for question in workspace.split(split).question_ids("test")}
    held_out = sorted(covered)
    known = {} if study is None else study.questions
    people = [] if study is None else [chat for chat in study.conversations if chat.question_id in covered]
    chats = report_chats(
        [each for run in runs for each in run.chats],
        study=study,
        held_out={} if manifest is None else held_out_splits(workspace),
        models=shown.models,
        workspace=workspace,
    )
    compared = None
    if len(scored) > 1:
        comparison = compare([run.name for run in runs if run.table], workspace=workspace, resampling=Resampling())
        compared = {**comparison_json(comparison), "notes": comparison_notes(comparison)}
    of_chatbench = manifest is not None and downloaded_from(manifest.study_path)[0] == CHATBENCH_DATASET
    reference = published() if of_chatbench or shown.published else None
    first: Plain = {
        "title": f"chatbench: {', '.join(run.name for run in runs)}",
        "study": "" if manifest is None else manifest.study_name,
        "made": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": metadata.version("chatbench"),
        "runs": [_run_values(run, people, study, workspace) for run in runs],
        "questions": [question_values(question_id, known.get(question_id)) for question_id in held_out],
        "accuracies": accuracy_values(
            {run.key: run.scores for run in runs if run.scores is not None},
            {question_id: number for number, question_id in enumerate(held_out)},
        ),
        "published": reference
        and {
            "source": reference.source,
            "assistants": list(reference.assistants),
            "rows": [
                {"method": row.method, "scores": {k: list(v) for k, v in row.metrics.items()}} for row in reference.rows
            ],
        },
        "comparison": compared,
        "estimates": [
            {**one, "assistant_line": assistant_line(one), "undefined_parts": undefined_parts(one)}
            for key in shown.models
            for one in read_estimates(workspace.estimate(key))
        ],
        "chats": dict(chats.first),
        "missing": missing,
    }
    return PageContent(str(first["title"]), first, chats.later)


def _study(workspace: Workspace, missing: list[str]) -> tuple[Manifest | None, Study | None]:
    """The prepared study; None for results that were copied from elsewhere."""
    if not workspace.is_prepared:
        missing.append(f"questions and people's chats: no prepared splits in {workspace.data.name} (--data FOLDER)")
        return None, None
    manifest = workspace.manifest
    if not manifest.study_path.exists():
        missing.append(f"questions and people's chats: the study {manifest.study_name} is no longer where it was")
        return manifest, None
    return manifest, with_verdicts(workspace.study, workspace)[0]


def _refuse_other_data(scored: ScoreTable, manifest: Manifest | None, workspace: Workspace) -> None:
    """Refuse scores of splits other than the prepared ones, since chats would be mixed up.

    Raises:
        ChatbenchError: the scores are of other splits.
    """
    if manifest is None:
        return
    prepared = {**of_the_splits(manifest), "train_share": manifest.train_share}
    for other in ("chatbench", "study"):
        del prepared[other]
    scores = {name: found for name in prepared if (found := scored.signature.get(name)) is not None}
    for each in differences(scores, {name: prepared[name] for name in scores}):
        raise ChatbenchError(
            f"{workspace.data}: prepared with {each.name} {each.other}",
            expected=f"{each.one}, as in the scores of {scored.model}",
            fix="pass the --data that was scored, or score again: chatbench eval-chatbench MODEL",
        )


def _run(key: str, workspace: Workspace, missing: list[str]) -> Run:
    name = shown_name(key)
    if key not in (there := workspace.found_models()):
        raise ChatbenchError(
            f"{workspace.results}: no results of {name}",
            expected=f"one of {', '.join(there)}",
            fix=f"chatbench finetune {name}",
        )
    table, scores = None, None
    if (path := workspace.scores(key)).exists():
        table = read_score_table(path.parent, key)
        scores = read_question_files(path.parent, key, table, f"chatbench eval-chatbench {name}")
    else:
        missing.append(f"scores of {name}: chatbench eval-chatbench {name}")
    chats = tuple(run_chats(key, workspace))
    missing += [] if table is None else outdated_scores(table, key, chats, workspace)
    if not chats:
        missing.append(f"simulated chats of {name}: chatbench simulate {name} --assistant SPEC")
    return Run(key, table, scores, chats)


def outdated_scores(table: ScoreTable, key: str, chats: Sequence[RunChats], workspace: Workspace) -> list[str]:
    """The command to score again if chats were simulated since: again, more of them, or on further splits."""
    prepared = workspace.manifest.split_ids if workspace.is_prepared else table.splits
    others = [
        each.split
        for each in chats
        if each.split in prepared
        and each.run
        and not is_of_log(table.signature, each.split, each.predictor, each.run, len(each.chats))
    ]
    name, splits = shown_name(key), ", ".join(dict.fromkeys(others))
    return [f"scores of today's chats of {name} ({splits}): chatbench eval-chatbench {name}"] if splits else []


def _run_values(run: Run, people: Sequence[Conversation], study: Study | None, workspace: Workspace) -> Plain:
    simulated: dict[str, list[SimulatedConversation]] = {}  # of all splits together, by simulator
    for each in run.chats:
        simulated.setdefault(each.predictor.label, []).extend(each.chats)
    beside_people = {who: chats if study is None else study.comparable(chats) for who, chats in simulated.items()}
    return {
        "key": run.key,
        "name": run.name,
        "simulator": next((e.predictor for e in run.chats if e.predictor == FINE_TUNED), FINE_TUNED).label,
        "scores": None if run.table is None else run_scores(run.table, workspace.scores(run.key)),
        "calibration": {} if run.scores is None else calibration_values(run.scores),
        "perplexity": [] if run.table is not None else perplexities(run.key, workspace),
        "curves": training_curves(run.key, workspace),
        "distributions": chat_distributions(people, beside_people) if simulated else None,
        "terminations": terminations(simulated),
        "probabilities": answer_probabilities(beside_people),
    }
