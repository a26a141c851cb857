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

from pathlib import Path

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Part, Split, Study
from chatbench.core.settings import model_key
from chatbench.data.examples import ExampleRow, read_examples
from chatbench.data.open_study import study_of
from chatbench.data.prepared import MANIFEST, Manifest, load_manifest, prepared_file, split_in

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
            ChatbenchError: it cannot be opened, or its questions have changed since the splits were made.
        """
        manifest = self.manifest
        if self._study is None or self._study[0] is not manifest:
            self._study = manifest, study_of(manifest)
        return self._study[1]

    def split_file(self, split: str, name: str) -> Path:
        """Path of `train.jsonl`, `test.jsonl` or `split.jsonl` of a split, checked against the manifest.

        Raises:
            ChatbenchError: there is no such split, or the file is missing or has changed.
        """
        return prepared_file(self.data, self.manifest, split, name, self._verified)

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
        return split_in(self.split_file(split, "split.jsonl"), split, self.manifest)

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
