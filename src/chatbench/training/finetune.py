"""Fine-tune a simulator on one split, from settings and a workspace to a model folder; show what it is trained on.

`show_mask` shows the exact text of one training example, with the tokens that carry loss in colour. Text and mask come
from the same code as in training, so what is shown is what is trained on. Control characters are shown as symbols, so a
file cannot send control sequences to the terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import sha256_of
from chatbench.core.settings import Resolved, Template, recipe_of, resolve_settings
from chatbench.data.download import CHATBENCH_DATASET, downloaded_from
from chatbench.data.examples import ExampleRow, read_examples
from chatbench.data.workspace import Workspace

if TYPE_CHECKING:
    from rich.text import Text

    from chatbench.training.dry_run import RunPlan
    from chatbench.training.run import DataOrigin, TrainingOutcome


Say = Callable[[str], None]
OVERRIDES = Path("configs/training_args.json")
"""Overrides file, relative to the working directory, that is read by default if it exists."""
SCORED_STYLES = ("black on green", "black on bright_green")
"""Alternating shades that show token borders; the tokens of one character share a shade."""


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """The folder of the fine-tuned model and the outcome of its training."""

    model: str
    split: str
    folder: Path
    outcome: TrainingOutcome

    def lines(self) -> list[str]:
        """Summary to print at the end."""
        done = self.outcome
        if done.status == "already trained":
            return [f"{self.folder}: already trained with these settings; finetune --overwrite trains again"]
        losses = f"loss {done.first_loss:.3f}"
        if done.last_loss != done.first_loss:  # else only one was logged
            losses += f" -> {done.last_loss:.3f}"
        if done.validation:
            losses += f", held out {done.validation[-1][1]:.3f} nats per token"
        return [f"{done.status} {done.steps:,} steps in {done.seconds:.0f} s, {losses} -> {self.folder}"]


def finetune(
    model: str,
    *,
    workspace: Workspace,
    split: str = "split_0",
    config: Path | None = None,
    flags: Mapping[str, object] | None = None,
    resume: bool = True,
    overwrite: bool = False,
    told: set[tuple[str, ...]] | None = None,
    say: Say = print,
) -> FinetuneResult:
    """Fine-tune MODEL on the training side of a split; resume a killed run and skip a finished one.

    Args:
        flags: settings from the command line, by name; None means "not given".
        told: the tables of settings that were printed before, and are not again; this one is added.

    Raises:
        ChatbenchError: no such split or model, unknown or contradictory settings, another run is active in the folder,
            or the device is too small.
    """
    train_file = workspace.split_file(split, "train.jsonl")
    resolved = _resolved(model, config, flags or {})
    import torch

    from chatbench.training.distributed import process_rank
    from chatbench.training.run import TrainingJob, train

    say = say if process_rank() == 0 else lambda _line: None
    say(f"fine-tuning {model} on {split}")
    told, table = set() if told is None else told, tuple(resolved.lines())
    for line in ("settings as above",) if table in told else table:
        say(f"  {line}")
    told.add(table)
    job = TrainingJob(
        resolved=resolved,
        train=workspace.examples(split, "train"),
        validation=spread(workspace.examples(split, "test"), resolved.settings.validation_examples),
        train_sha256=sha256_of(train_file),
        folder=workspace.model_folder(model, split),
        logs=workspace.training_logs(model, split),
        split=split,
        data=_data_origin(workspace, split),
    )
    try:
        outcome = train(job, resume=resume, overwrite=overwrite, say=say)
    except torch.OutOfMemoryError as error:
        raise ChatbenchError(
            f"out of memory: {str(error).splitlines()[0]}",
            expected="enough memory for the largest batch",
            fix=f"chatbench finetune {model} --dry-run shows what would fit",
        ) from error
    result = FinetuneResult(model, split, job.folder, outcome)
    for line in result.lines():
        say(line)
    return result


def plan_finetune(
    model: str,
    *,
    workspace: Workspace,
    split: str = "split_0",
    config: Path | None = None,
    flags: Mapping[str, object] | None = None,
    overwrite: bool = False,
    say: Say = print,
) -> RunPlan:
    """Report what `finetune` would do with these arguments, or that it would stop, and its cost; load no weights.

    Raises:
        ChatbenchError: as `finetune`, except for errors that only occur during training.
    """
    resolved = _resolved(model, config, flags or {})
    train, test = (workspace.examples(split, side) for side in ("train", "test"))
    from chatbench.models.loading import known_weights
    from chatbench.models.run_record import finished_run
    from chatbench.training.dry_run import plan_run

    say(f"plan for fine-tuning {model} on {split}")
    for line in resolved.lines():
        say(f"  {line}")
    plan = plan_run(resolved, train, spread(test, resolved.settings.validation_examples))
    for line in plan.lines():
        say(line)
    folder, train_sha256 = workspace.model_folder(model, split), sha256_of(workspace.split_file(split, "train.jsonl"))
    weights = known_weights(resolved.base, resolved.settings.seed)
    try:
        identity = {"base_weights": weights} if weights else {}
        finished_run(folder, resolved, train_sha256, identity=identity, overwrite=overwrite)
    except ChatbenchError as error:
        say(f"the run itself would stop: {error}")
    return plan


def spread(rows: Sequence[ExampleRow], count: int) -> list[ExampleRow]:
    """Select at most `count` evenly spaced rows.

    >>> spread(["a", "b", "c", "d", "e"], 2)
    ['a', 'c']
    """
    if count >= len(rows):
        return list(rows)
    return [rows[place * len(rows) // count] for place in range(count)]


def _resolved(model: str, config: Path | None, flags: Mapping[str, object]) -> Resolved:
    """Resolve the settings; without a recipe, the model's size decides between full fine-tuning and LoRA.

    Without `config`, `OVERRIDES` is read if it exists.
    """
    config = config or (OVERRIDES if OVERRIDES.is_file() else None)
    resolved = resolve_settings(model, config, flags)  # before looking for the model: settings errors show at once
    if recipe_of(model) is not None or "method" in resolved.explicit:
        return resolved
    from chatbench.models.loading import parameter_count

    return resolve_settings(model, config, flags, parameters=parameter_count(resolved.base))


def _data_origin(workspace: Workspace, split: str) -> DataOrigin:
    from chatbench.training.run import DataOrigin

    manifest, divided = workspace.manifest, workspace.split(split)
    source, revision = downloaded_from(manifest.study_path)
    from_hub = source == CHATBENCH_DATASET  # the other source is a GitHub repository, not a hub dataset
    return DataOrigin(
        study=manifest.study_name,
        questions_sha256=manifest.questions_sha256,
        train_questions=len(divided.question_ids("train")),
        held_out_questions=len(divided.question_ids("test")),
        hub_dataset=source if from_hub else "",
        revision=revision if from_hub else "",
    )


def show_mask(path: Path, row: int, model: str = "tiny", template: Template | None = None) -> Text:
    """Render the example on line `row` (from 1, not counting blank lines) as MODEL's tokenizer encodes it.

    Args:
        template: the example's template; None is that of MODEL's recipe.

    Raises:
        ChatbenchError: no such file, line or model, or a chat template that cannot be masked exactly.
    """
    rows = read_examples(path)
    if not 1 <= row <= len(rows):
        raise ChatbenchError(f"{path}: no row {row}", expected=f"1 to {len(rows)}")
    from rich.text import Text

    from chatbench.models.encoding import TokenPieces, encoder
    from chatbench.models.loading import load_tokenizer

    resolved = resolve_settings(model)
    tokenizer = load_tokenizer(resolved.base)
    form = encoder(tokenizer, template or resolved.settings.template)
    example = rows[row - 1]
    (encoded,) = form.encode([example])
    shown = str(tokenizer.decode(encoded.prompt, clean_up_tokenization_spaces=False))
    text = Text(visible(shown), style="dim")
    whole = str(tokenizer.decode(encoded.completion, clean_up_tokenization_spaces=False))
    pieces = TokenPieces(tokenizer).scored(encoded.completion, [0.0] * len(encoded.completion), whole).texts
    for index, piece in enumerate(pieces):
        text.append(visible(piece), style=SCORED_STYLES[index % 2])
    text.append(
        f"\n\n{path}, row {row}: {example.kind} turn of {visible(example.conversation_id)}; {form.name}; "
        f"{len(encoded.prompt):,} tokens of prompt (dim, no loss), {len(encoded.completion):,} scored (coloured)"
    )
    for note in form.notes:
        text.append(f"\n{note}")
    return text


def visible(text: str) -> str:
    r"""Mark white space and replace every control character with a symbol.

    >>> visible("two\nlines\x1b[31m\x00")
    'two↵\nlines␛[31m␀'
    """
    symbols = {code: chr(0x2400 + code) for code in range(0x20)}  # the block "Control Pictures"
    symbols |= {ord("\n"): "↵\n", ord("\t"): "→\t", 0x7F: "␡"}
    # C1 controls, and characters that change the direction of text or separate lines; a plain space is printable.
    hidden = {ord(each): f"<U+{ord(each):04X}>" for each in text if not each.isprintable()}
    return text.translate(hidden | symbols)
