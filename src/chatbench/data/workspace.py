"""One object that knows the paths below `data/` and `results/`, and reads what was prepared.

    data/manifest.json, data/split_i/{train,test,split}.jsonl       prepared by prepare-splits
    results/models/MODEL/split_i/                                   a fine-tuned model
    results/logs/MODEL/split_i/                                     its training curves
    results/ppl/MODEL/split_i.json, split_i.tokens.jsonl, summary.json; results/ppl/val_ppl_MODEL.json
    results/simulations/MODEL/split_i/conversations[_base].jsonl, conversations[_base].blocks/ until joined
    results/scores/MODEL.json, .csv, .questions.csv, .answers.csv, .md
    results/estimates/MODEL.json
    results/realism/MODEL/
    results/ai_alone/
    results/judge/                                                  see simulation/judge.py

The manifest and the study are cached until the manifest file changes, and a prepared file is hashed again only if it
changes. MODEL is the key of a model (`core.settings.model_key`).
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import cast

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_jsonl, sha256_of
from chatbench.core.records import Part, Side, Split, Study
from chatbench.core.settings import model_key
from chatbench.data.examples import PREPARE_FIX, ExampleRow, read_examples
from chatbench.data.open_study import open_study
from chatbench.data.prepared import MANIFEST, Manifest, load_manifest
from chatbench.data.splits import question_set_sha256

BY_MODEL = ("models", "ppl", "realism", "simulations")
"""Subfolders of a results folder that have one folder per model."""
RESULT_FOLDERS = (*BY_MODEL, "scores", "estimates")
"""Subfolders of a results folder; a folder with any of them is one."""


class Workspace:
    """A folder of prepared splits and a folder of results; neither has to exist until something is written."""

    def __init__(self, data: Path = Path("data"), results: Path = Path("results")) -> None:
        self.data = data
        self.results = results
        self._manifest: tuple[tuple[int, int], Manifest] | None = None
        self._study: tuple[Manifest, Study] | None = None
        self._verified: dict[Path, tuple[int, int, str]] = {}
        """Modification time (ns), size (bytes) and SHA-256 of each file that was hashed."""

    def inputs(self) -> list[Path]:
        """What commands read and no free output path may replace: the study, the prepared splits, results by model."""
        if not self.is_prepared:
            return [self.results / part for part in RESULT_FOLDERS]
        splits = [self.data / split for split in self.manifest.split_ids]
        study = Path(self.manifest.study)
        return [study, self.data / MANIFEST, *splits, *(self.results / part for part in RESULT_FOLDERS)]

    # ---- data/ ----

    @property
    def is_prepared(self) -> bool:
        """Whether prepare-splits has finished in the data folder."""
        return (self.data / MANIFEST).is_file()

    @property
    def manifest(self) -> Manifest:
        """The manifest of the prepared data.

        Raises:
            ChatbenchError: nothing was prepared, or the manifest is damaged.
        """
        path = self.data / MANIFEST
        state = (path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else (0, 0)
        if self._manifest is None or self._manifest[0] != state:
            self._manifest = state, load_manifest(self.data)
        return self._manifest[1]

    @property
    def study(self) -> Study:
        """The study that the splits were prepared from.

        Raises:
            ChatbenchError: it is gone or cannot be opened, its questions have changed, or the splits were made by hand.
        """
        manifest = self.manifest
        if self._study is not None and self._study[0] is manifest:
            return self._study[1]
        again = f"prepare again: chatbench prepare-splits --study {shlex.quote(manifest.study)}"
        if manifest.adopted:
            fix = "prepare splits of a study: chatbench prepare-splits --study STUDY"
            found, expected = f"{manifest.study}: its splits were made by hand", "splits prepared from a study"
            raise ChatbenchError(found, expected=expected, fix=fix)
        skip_bad_records, include_pilots = manifest.skip_bad_records, manifest.include_pilots
        path = manifest.study_path
        if not path.exists():
            found, expected = f"{path}: no such file or folder", f"the study, there or at {manifest.study_resolved}"
            raise ChatbenchError(found, expected=expected, fix=f"put it back, or {again}")
        study = open_study(path, skip_bad_records=skip_bad_records, include_pilots=include_pilots, maps=manifest.maps)
        if question_set_sha256(study.questions.values()) != manifest.questions_sha256:
            raise ChatbenchError(f"{path}: its questions have changed since the splits were made", fix=again)
        self._study = manifest, study
        return study

    def split_file(self, split: str, name: str) -> Path:
        """Path of `train.jsonl`, `test.jsonl` or `split.jsonl` of a split, checked against the manifest.

        Raises:
            ChatbenchError: there is no such split, or the file is missing or has changed.
        """
        manifest, path = self.manifest, self.data / split / name
        if split not in manifest.split_ids:
            last, study = f"..{manifest.split_ids[-1]}" * (manifest.splits > 1), shlex.quote(manifest.study)
            raise ChatbenchError(
                f"no such split: {split}; {self.data} has {manifest.split_ids[0]}{last}",
                fix=f"choose one of them, or prepare more: chatbench prepare-splits --study {study} --splits N",
            )
        if not path.exists():
            raise ChatbenchError(f"{path}: no such file", expected="the file that the manifest lists", fix=PREPARE_FIX)
        state = (path.stat().st_mtime_ns, path.stat().st_size)
        if path not in self._verified or self._verified[path][:2] != state:
            self._verified[path] = (*state, sha256_of(path))
        if self._verified[path][2] != manifest.files.get(f"{split}/{name}"):
            found = f"{path}: changed since it was prepared, or the preparation was stopped"
            raise ChatbenchError(found, expected="the SHA-256 in the manifest", fix=PREPARE_FIX)
        return path

    def examples(self, split: str, part: Part) -> list[ExampleRow]:
        """The examples on one side of a split.

        Raises:
            ChatbenchError: as `split_file`, or a line is not an example.
        """
        return read_examples(self.split_file(split, f"{part}.jsonl"))

    def split(self, split: str) -> Split:
        """Which question is on which side.

        Raises:
            ChatbenchError: as `split_file`, or a line does not assign a question to a side.
        """
        path, manifest, part = self.split_file(split, "split.jsonl"), self.manifest, dict[str, Side]()
        for number, row in read_jsonl(path, fix=PREPARE_FIX):
            if row.get("part") not in ("train", "test", "both") or "question_id" not in row:
                found = f"{path}, line {number}: part {row.get('part')!r} of question {row.get('question_id')!r}"
                raise ChatbenchError(found, expected="a question_id, and train, test or both", fix=PREPARE_FIX)
            part[str(row["question_id"])] = cast(Side, row["part"])
        return Split(split, manifest.seed, part, manifest.by, frozenset(manifest.held_out.get(split, ())))

    # ---- results/ ----

    def models(self, model: str) -> Path:
        """Folder of a model's fine-tuned splits."""
        return self.results / "models" / model_key(model)

    def model_folder(self, model: str, split: str) -> Path:
        """Folder of the model fine-tuned on a split."""
        return self.models(model) / split

    def training_logs(self, model: str, split: str) -> Path:
        """Folder of a run's training curves."""
        return self.results / "logs" / model_key(model) / split

    def perplexity_folder(self, model: str) -> Path:
        return self.results / "ppl" / model_key(model)

    def perplexity(self, model: str, split: str) -> Path:
        """File of a split's perplexity."""
        return self.perplexity_folder(model) / f"{split}.json"

    def simulations(self, model: str) -> Path:
        """Folder of a model's simulated chats, with one folder per split."""
        return self.results / "simulations" / model_key(model)

    def conversations(self, model: str, split: str, *, base_model: bool = False, block: int | None = None) -> Path:
        """Log of a simulator's chats on one split; `base_model`: of its base; `block`: of one block, until joined."""
        log = self.simulations(model) / split / f"conversations{'_base' if base_model else ''}.jsonl"
        return log if block is None else log.with_suffix(".blocks") / f"{block:03d}.jsonl"

    def scores(self, model: str, ending: str = ".json") -> Path:
        """File of a model's scores."""
        return self.results / "scores" / f"{model_key(model)}{ending}"

    def estimate(self, model: str) -> Path:
        """File of a model's estimates for new assistants."""
        return self.results / "estimates" / f"{model_key(model)}.json"

    def realism(self, model: str) -> Path:
        return self.results / "realism" / model_key(model)

    @property
    def ai_alone(self) -> Path:
        """Folder of AI-alone answers that were measured here."""
        return self.results / "ai_alone"

    def trained_splits(self, model: str) -> list[str]:
        """The prepared splits that MODEL was fine-tuned on.

        Raises:
            ChatbenchError: there is none.
        """
        prepared = self.manifest.split_ids
        trained = [split for split in prepared if self.model_folder(model, split).is_dir()]
        if not trained:
            raise ChatbenchError(
                f"{self.models(model)}: {model} is not fine-tuned yet",
                fix=f"fine-tune first: SPLIT_ID={prepared[0]} chatbench finetune {model}",
            )
        return trained

    def found_models(self) -> list[str]:
        """Keys of the models that have any results here, sorted.

        Raises:
            ChatbenchError: there is none.
        """
        names = {path.stem for path in (self.results / "scores").glob("*.json")}
        names |= {path.name for kind in BY_MODEL for path in (self.results / kind).glob("*") if path.is_dir()}
        if not names:
            raise ChatbenchError(
                f"{self.results}: no results",
                expected="a folder with chatbench results",
                fix="create some with: chatbench demo; or point to them: --results FOLDER",
            )
        return sorted(names)
