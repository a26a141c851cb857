"""Compute the perplexity of held-out human turns under the fine-tuned model and its base model.

One file per split, `results/ppl/MODEL/split_i.json`, with the signature of everything its numbers depend on; a split is
recomputed only if its signature changed, and the fine-tuned model is not scored again if a run was stopped while its
base was. `summary.json` has the means over splits. A file of other held-out examples than the prepared ones, or of a
model that was trained again since, is not used.

`split_i.tokens.jsonl`, beside it, has the loss of each token under the fine-tuned model. Its first line identifies the
model and the examples; then follows one scored turn per line. The texts of a turn's tokens, joined, are what the person
wrote followed by the end marker.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import TypeAdapter, ValidationError

from chatbench.core.configurations import differences
from chatbench.core.errors import ChatbenchError, first_problem
from chatbench.core.files import parse_json, read_json, read_jsonl, sha256_of, write_json, write_jsonl
from chatbench.core.progress import WorkProgress, telling_what_is_kept
from chatbench.core.settings import base_of
from chatbench.data.examples import ExampleRow
from chatbench.data.workspace import Workspace
from chatbench.metrics.agreement import over_splits
from chatbench.metrics.names import BASE_MODEL, EVERY_ASSISTANT, FINE_TUNED, MetricValue
from chatbench.metrics.text import Perplexity, TunedAndBase, perplexity_by_kind, summarise
from chatbench.models.run_record import refuse_other_data
from chatbench.publishing.model_card import update_card

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from chatbench.models.encoding import EncodedRows, TextForm

Say = Callable[[str], None]

DECIMALS = 3
"""Decimals of nats: enough for a probability to 0.1 %."""
PROTOCOL = "completion tokens with the end marker; exp(sum nats / sum tokens)"
_METRICS = ("perplexity", "bits_per_byte")


@dataclass(frozen=True, slots=True)
class ScoredTurn:
    """One scored turn: `texts[i]` has a loss of `nats[i]`; the end marker is last.

    `turn` counts the person's messages from 0; the final answer comes after the last message.
    """

    conversation_id: str
    turn: int
    texts: tuple[str, ...]
    nats: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.nats):
            raise ValueError("as many texts as nats")


_TURN = TypeAdapter(ScoredTurn)


def scored_turns_path(perplexity_file: Path) -> Path:
    """Path of the scored turns that belong to a perplexity file."""
    return perplexity_file.with_suffix(".tokens.jsonl")


def write_scored_turns(path: Path, origin: Mapping[str, object], turns: Iterable[ScoredTurn]) -> None:
    """Write the turns of one model and split; `origin` identifies the model and examples."""
    rows = ({**asdict(turn), "nats": [round(value, DECIMALS) for value in turn.nats]} for turn in turns)
    write_jsonl(path, chain([{"origin": dict(origin)}], rows))


def holds_scored_turns(path: Path, origin: Mapping[str, object]) -> bool:
    """Whether the file exists and has turns of that origin."""
    try:
        with path.open(encoding="utf-8") as file:
            return bool(parse_json(file.readline()) == {"origin": dict(origin)})
    except (FileNotFoundError, ValueError):
        return False


def read_scored_turns(path: Path, origin: Mapping[str, object], fix: str) -> Iterator[ScoredTurn]:
    """Read the turns, in the order of the file.

    Raises:
        ChatbenchError: the file is missing or damaged, or of another model or other examples than `origin`.
    """
    lines = read_jsonl(path, fix=fix)
    _, head = next(lines, (0, {}))
    found = head.get("origin")
    if not isinstance(found, Mapping) or differences(found, origin):
        raise ChatbenchError(f"{path}: scored turns of {found}", expected=f"{dict(origin)}", fix=fix)
    for number, row in lines:
        try:
            yield _TURN.validate_python(row)
        except ValidationError as error:
            key, what, wanted = first_problem(error)
            where = f"{path}, line {number}, key {key!r}"
            raise ChatbenchError(f"{where}: {what}", expected=f"a scored turn with {wanted}", fix=fix) from error


def scored_turns(
    rows: Sequence[ExampleRow],
    encoded: EncodedRows,
    nats: Mapping[int, Sequence[float]],
    tokenizer: PreTrainedTokenizerBase,
) -> Iterator[ScoredTurn]:
    """Yield the scored turns.

    Args:
        rows: all held-out examples, in the order of the file, including those that did not fit the context.
        encoded: the rows that fit.
        nats: loss per token, by index in `encoded`.
    """
    from chatbench.models.encoding import TokenPieces

    pieces = TokenPieces(tokenizer)
    seen: Counter[str] = Counter()  # examples so far, by conversation
    fitting = deque(zip(encoded.rows, encoded.examples, range(len(encoded.rows)), strict=True))
    for row in rows:
        turn = seen[row.conversation_id]
        seen[row.conversation_id] += 1
        if fitting and _key(fitting[0][0]) == _key(row):
            _, example, place = fitting.popleft()
            scored = pieces.scored(example.completion, nats[place], row.completion)
            yield ScoredTurn(row.conversation_id, turn, scored.texts, scored.nats)


def _key(row: ExampleRow) -> tuple[str, str, str]:
    """The fields of a row that do not change when its oldest turns are dropped."""
    return row.conversation_id, row.kind, row.completion


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitPerplexity:
    """Perplexity on one split, as stored in its file; `by_kind` per kind of turn, `base` for the base model.

    `examples_left_out`, `examples_shortened` and `turns_dropped` count the effects of the context length on held-out
    examples; examples that were left out are not scored.
    """

    split: str
    examples_left_out: int = 0
    examples_shortened: int = 0
    turns_dropped: int = 0
    finetuned: Perplexity
    base: Perplexity
    by_kind: Mapping[str, TunedAndBase]
    signature: Mapping[str, object]

    @property
    def by_turns(self) -> dict[str, TunedAndBase]:
        """Perplexity of all turns ("all"), then of each kind."""
        return {"all": TunedAndBase(self.finetuned, self.base), **self.by_kind}

    def line(self) -> str:
        """Format the perplexities as one line."""
        kinds = ", ".join(f"{kind} {each.finetuned.perplexity:.3f}" for kind, each in self.by_kind.items())
        return (
            f"{self.split}: perplexity {self.finetuned.perplexity:.3f} (base {self.base.perplexity:.3f}); {kinds}; "
            f"{self.finetuned.bits_per_byte:.3f} bits per byte (base {self.base.bits_per_byte:.3f}); "
            f"{self.finetuned.tokens:,} tokens"
            + (f"; {self.examples_left_out:,} examples left out as too long" if self.examples_left_out else "")
            + (f"; {self.examples_shortened:,} examples without their oldest turns" if self.examples_shortened else "")
        )


def eval_ppl(model: str, *, workspace: Workspace, split: str | None = None, say: Say = print) -> list[SplitPerplexity]:
    """Compute the perplexities of a split (None: all trained splits), in the order of the splits.

    Raises:
        ChatbenchError: MODEL is not fine-tuned on that split, or on any; or it was, but on other data.
    """
    splits = [split] if split is not None else workspace.trained_splits(model)
    scored: list[SplitPerplexity] = []
    folder = workspace.perplexity_folder(model)
    with telling_what_is_kept(lambda: f"{len(scored)} of {len(splits)} splits are kept in {folder}"):
        scored.extend(_one_split(model, each, workspace, say) for each in splits)
    write_summary(model, workspace)
    return scored


def write_summary(model: str, workspace: Workspace) -> None:
    """Write the means over the stored splits; call it again after scoring splits in parallel."""
    folder, summary = workspace.perplexity_folder(model), summary_of(stored_perplexities(workspace, model), workspace)
    for path in (folder / "summary.json", folder.with_name(f"val_ppl_{folder.name}.json")):  # the latter: its old name
        write_json(path, {"model": model, **summary})


def _one_split(model: str, split: str, workspace: Workspace, say: Say) -> SplitPerplexity:
    test_file, train_file = (workspace.split_file(split, name) for name in ("test.jsonl", "train.jsonl"))
    folder, path = workspace.model_folder(model, split), workspace.perplexity(model, split)
    again = f"SPLIT_ID={split} chatbench finetune {model}"
    if not folder.is_dir():
        raise ChatbenchError(f"{folder}: {model} is not fine-tuned on {split}", fix=f"fine-tune first: {again}")
    record = cast(dict[str, Any], read_json(folder / "chatbench.json", fix=f"{again} --overwrite"))
    refuse_other_data(folder, record, train_file)
    rows = workspace.examples(split, "test")
    from chatbench.models import loading
    from chatbench.models.encoding import form_of
    from chatbench.models.run_record import run_lock

    base_source = base_of(model, record)
    loading.refuse_other_base(base_source, record)
    source = record["base"] if (folder / "adapter_config.json").is_file() else str(folder)
    tokenizer, form = loading.load_tokenizer(str(folder)), form_of(record)
    signature: dict[str, object] = {
        "protocol": PROTOCOL,
        "form": form.describe(tokenizer),
        "test_sha256": sha256_of(test_file),
        "examples": len(rows),
        "weights": loading.weights_hash(folder),
        "base_weights": record["base_weights"],
        "tokenizer": loading.tokenizer_hash(tokenizer),
        "dtype": str(loading.inference_dtype(source, loading.best_device())).removeprefix("torch."),
        "version": metadata.version("chatbench"),
    }
    tokens_path, origin = scored_turns_path(path), tokens_origin(signature)
    if holds_scored_turns(tokens_path, origin):
        stored = read_perplexity(workspace, model, split)
        if stored is not None and not differences(stored.signature, signature):
            update_card(folder, stored.by_turns)
            say(f"{stored.line()} (as before)")
            return stored
    with run_lock(path):
        partial = path.with_suffix(".partial")  # the fine-tuned model's part, until its base is scored too
        if tuned := _read_part(partial, signature) if holds_scored_turns(tokens_path, origin) else None:
            say(f"{split}, fine-tuned: as before, in {partial}")
        else:
            tuned, turns = _scores(f"{split}, fine-tuned", str(folder), rows, form, signature)
            write_scored_turns(tokens_path, origin, turns)
            write_json(partial, asdict(tuned))
        base, _ = _scores(f"{split}, base model", base_source, rows, form, signature, record)
        by_kind = {kind: TunedAndBase(each, base.by_kind[kind]) for kind, each in tuned.by_kind.items()}
        result = SplitPerplexity(
            split=split, finetuned=tuned.corpus, base=base.corpus, by_kind=by_kind, signature=signature,
            **tuned.counts,
        )  # fmt: skip
        write_json(path, asdict(result))
        partial.unlink(missing_ok=True)
        update_card(folder, result.by_turns)
        say(result.line())
        return result


def tokens_origin(signature: Mapping[str, object]) -> dict[str, object]:
    """The part of a split's signature that its scored tokens depend on."""
    return {name: signature[name] for name in ("weights", "test_sha256", "form")}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What a split's file needs of one model: perplexity of the rows that fit its context, overall and per kind."""

    corpus: Perplexity
    by_kind: Mapping[str, Perplexity]
    counts: Mapping[str, int]
    signature: Mapping[str, object]


def _read_part(path: Path, signature: Mapping[str, object]) -> _Part | None:
    """A part of this signature that an earlier run, stopped before the end, has left; anything else is scored again."""
    try:
        part = TypeAdapter(_Part).validate_python(read_json(path))
    except (ChatbenchError, ValidationError):
        return None
    return None if differences(part.signature, signature) else part


def _scores(
    what: str, source: str, rows: Sequence[ExampleRow], form: TextForm, signature: Mapping[str, object],
    base_of_run: Mapping[str, Any] | None = None,
) -> tuple[_Part, Iterator[ScoredTurn]]:  # fmt: skip
    """Score one model on all rows; the model is freed on return, before the next is loaded."""
    from chatbench.models.encoding import encode_rows
    from chatbench.models.loading import context_length, load, load_base_of
    from chatbench.models.loss import Floats, score_rows

    loaded = load(source) if base_of_run is None else load_base_of(source, base_of_run)
    encoded = encode_rows(loaded.tokenizer, rows, context_length(loaded.model), form)
    nats: dict[int, Sequence[float]] = {}

    def keep(place: int, tokens: Floats) -> None:
        nats[place] = tokens.tolist()

    with WorkProgress(what, "tokens") as progress:
        losses = score_rows(loaded.model, encoded, each_token=keep, advanced=progress)
    by_kind = perplexity_by_kind(zip((row.kind for row in encoded.rows), losses, strict=True))
    part = _Part(corpus=summarise(losses), by_kind=by_kind, counts=encoded.counts(), signature=signature)
    return part, scored_turns(rows, encoded, nats, loaded.tokenizer)


def summary_of(splits: Sequence[SplitPerplexity], workspace: Workspace) -> dict[str, object]:
    """Means and standard errors over splits of both models' perplexity and bits per byte, overall and per kind.

    `corrected_error` accounts for the overlap of random splits (Nadeau and Bengio 2003).
    """
    if not splits:
        return {"splits": [], "by_kind": {}}
    divided = [workspace.split(each.split) for each in splits]
    train, test = (sum(len(each.question_ids(part)) for each in divided) / len(divided) for part in ("train", "test"))

    def mean(values: list[float]) -> dict[str, object]:
        found = over_splits(values, train_questions=train, test_questions=test)
        errors = {"standard_error": found.standard_error, "corrected_error": found.corrected_error}
        defined = {name: error if isinstance(error, float) else None for name, error in errors.items()}
        return {"mean": found.mean, **defined, "splits": found.n}

    def metrics(groups: Sequence[TunedAndBase]) -> dict[str, object]:
        return {
            side: {name: mean([getattr(getattr(group, side), name) for group in groups]) for name in _METRICS}
            for side in ("finetuned", "base")
        }

    turns = dict.fromkeys(kind for each in splits for kind in each.by_turns)
    of_turns = {kind: metrics([each.by_turns[kind] for each in splits if kind in each.by_turns]) for kind in turns}
    of_all = of_turns.pop("all")
    return {"splits": [each.split for each in splits], **of_all, "by_kind": of_turns}


def stored_perplexities(workspace: Workspace, model: str) -> list[SplitPerplexity]:
    """Read the stored perplexities of the prepared splits and of today's models, in the order of the splits.

    If nothing is prepared (results from elsewhere), all that are stored.
    """
    names = [path.stem for path in workspace.perplexity_folder(model).glob("split_*.json")]
    found = (current_perplexity(workspace, model, split) for split in sorted(names, key=lambda name: (len(name), name)))
    return [each for each in found if each is not None]


def current_perplexity(workspace: Workspace, model: str, split: str) -> SplitPerplexity | None:
    """Read the stored perplexities of a split; None unless they are of the prepared examples and of today's model."""
    scored = read_perplexity(workspace, model, split)
    if scored is None or not is_of_prepared(scored, workspace):
        return None
    folder = workspace.model_folder(model, split)
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.glob("*.safetensors")]
    return scored if not files or scored.signature.get("weights") == _weights(folder, (*sorted(files),)) else None


def is_of_prepared(scored: SplitPerplexity, workspace: Workspace) -> bool:
    """Whether a stored perplexity is of the prepared held-out examples of its split; True if nothing is prepared."""
    name = f"{scored.split}/test.jsonl"
    return not workspace.is_prepared or scored.signature.get("test_sha256") == workspace.manifest.files.get(name)


@cache
def _weights(folder: Path, _files: tuple[tuple[str, int, int], ...]) -> str:
    """The hash of a model's weights, read again only when its files change: a live page asks every few seconds."""
    from chatbench.models.loading import weights_hash

    return weights_hash(folder)


def read_perplexity(workspace: Workspace, model: str, split_id: str) -> SplitPerplexity | None:
    """Read the stored perplexities of a split; None if they were not computed.

    Raises:
        ChatbenchError: the file exists but is not a perplexity file of this version.
    """
    path = workspace.perplexity(model, split_id)
    if not path.exists():
        return None
    fix = f"delete it, then: chatbench eval-ppl {model} --split {split_id}"
    try:
        return TypeAdapter(SplitPerplexity).validate_python(read_json(path, fix=fix))
    except ValidationError as error:
        key, found, _ = first_problem(error)
        raise ChatbenchError(
            f"{path}, key {key!r}: {found}", expected="a perplexity file of this version", fix=fix
        ) from error


def perplexity_metrics(scored: SplitPerplexity) -> Iterator[MetricValue]:
    """Perplexity and bits per byte of the model and its base, over all turns and per kind (`perplexity_first`...)."""
    for predictor, side in ((FINE_TUNED, "finetuned"), (BASE_MODEL, "base")):
        for kind, group in scored.by_turns.items():
            for name in _METRICS:
                metric = name if kind == "all" else f"{name}_{kind}"
                yield MetricValue(EVERY_ASSISTANT, predictor, metric, getattr(getattr(group, side), name))


def refuse_other_weights(model: str, scored: SplitPerplexity, simulator: Mapping[str, object]) -> None:
    """Check that the perplexity and the chats of a split are from the same weights.

    Raises:
        ChatbenchError: they are not, because the model was retrained in between.
    """
    measured, spoke = str(scored.signature.get("weights", "")), str(simulator.get("weights", ""))
    if spoke.partition(" on ")[0] != measured:  # for an adapter: "HASH on BASE"
        raise ChatbenchError(
            f"{model}, {scored.split}: perplexity from weights {measured[:12]}, chats from weights {spoke[:12]}",
            expected="both from the same fine-tuned model",
            fix=f"chatbench eval-ppl {model} --split {scored.split}; or simulate that split again with --overwrite",
        )
