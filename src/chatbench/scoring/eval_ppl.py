"""Perplexity of a split's held-out human turns, for the fine-tuned model and, beside it, its base.

One file a split, `results/ppl/MODEL/split_i.json`, with the signature of everything its numbers depend on; a file whose
signature still holds is not computed again. `split_i.tokens.jsonl` beside it says what each token cost the fine-tuned
model. `summary.json` has the means over the splits.

Perplexity of one split, as `eval_ppl` stored it, as metrics of the scores table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from chatbench.core.configurations import differences
from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json, sha256_of, write_json
from chatbench.core.resolved_settings import resolve_settings
from chatbench.data.examples import ExampleRow
from chatbench.data.workspace import Workspace
from chatbench.metrics.estimates import over_splits
from chatbench.metrics.names import BASE_MODEL, EVERY_ASSISTANT, FINE_TUNED, MetricValue
from chatbench.metrics.perplexity import Perplexity, perplexity_by_kind, summarise
from chatbench.publishing.model_card import HeldOut, update_card
from chatbench.scoring.scored_turns import holds_scored_turns, scored_turns, scored_turns_path, write_scored_turns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from chatbench.models.encoding import EncodedRows, TextForm
    from chatbench.models.loading import Loaded

Say = Callable[[str], None]

PROTOCOL = "completion tokens with the end marker; exp(sum nats / sum tokens)"


@dataclass(frozen=True, slots=True)
class SplitPerplexity:
    """Perplexity on one split; `by_kind` per kind of turn. `base` is the model before fine-tuning.

    `examples_left_out`, `examples_shortened` and `turns_dropped` say what the context did to the held-out examples; the
    perplexity is of the others.
    """

    split: str
    finetuned: Perplexity
    base: Perplexity
    finetuned_by_kind: Mapping[str, Perplexity]
    base_by_kind: Mapping[str, Perplexity]
    signature: Mapping[str, object]
    examples_left_out: int = 0
    examples_shortened: int = 0
    turns_dropped: int = 0

    def as_json(self) -> dict[str, object]:
        return {
            "split": self.split,
            "examples_left_out": self.examples_left_out,
            "examples_shortened": self.examples_shortened,
            "turns_dropped": self.turns_dropped,
            "finetuned": asdict(self.finetuned),
            "base": asdict(self.base),
            "by_kind": {
                kind: {"finetuned": asdict(self.finetuned_by_kind[kind]), "base": asdict(self.base_by_kind[kind])}
                for kind in self.finetuned_by_kind
            },
            "signature": dict(self.signature),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SplitPerplexity:
        kinds = content["by_kind"]
        return cls(
            content["split"],
            Perplexity(**content["finetuned"]),
            Perplexity(**content["base"]),
            {kind: Perplexity(**kinds[kind]["finetuned"]) for kind in kinds},
            {kind: Perplexity(**kinds[kind]["base"]) for kind in kinds},
            content["signature"],
            *(content.get(name, 0) for name in ("examples_left_out", "examples_shortened", "turns_dropped")),
        )

    def held_out(self) -> list[HeldOut]:
        """What the model card tells: all turns, then each kind."""
        kinds = [HeldOut(kind, tuned, self.base_by_kind[kind]) for kind, tuned in self.finetuned_by_kind.items()]
        return [HeldOut("all", self.finetuned, self.base), *kinds]

    def line(self) -> str:
        """One line to print."""
        kinds = ", ".join(f"{kind} {value.perplexity:.3f}" for kind, value in self.finetuned_by_kind.items())
        return (
            f"{self.split}: perplexity {self.finetuned.perplexity:.3f} (base {self.base.perplexity:.3f}); {kinds}; "
            f"{self.finetuned.bits_per_byte:.3f} bits per byte (base {self.base.bits_per_byte:.3f}); "
            f"{self.finetuned.tokens:,} tokens"
            + (f"; {self.examples_left_out:,} examples too long, left out" if self.examples_left_out else "")
            + (f"; {self.examples_shortened:,} examples without their oldest turns" if self.examples_shortened else "")
        )


def eval_ppl(model: str, *, workspace: Workspace, split: str | None = None, say: Say = print) -> list[SplitPerplexity]:
    """Perplexities of the fine-tuned splits (`split` None: all that are trained), in the order of the splits.

    Raises:
        ChatbenchError: MODEL is not fine-tuned on that split, or on any; or it was, but on other data.
    """
    splits = [split] if split is not None else workspace.trained_splits(model)
    scored = [_one_split(model, each, workspace, say) for each in splits]
    summary = summary_of([_stored(path) for path in _files(workspace, model)], workspace)
    folder = workspace.perplexity_folder(model)
    for path in (folder / "summary.json", folder.with_name(f"val_ppl_{folder.name}.json")):  # the latter: its old name
        write_json(path, {"model": model, **summary})
    return scored


def _one_split(model: str, split: str, workspace: Workspace, say: Say) -> SplitPerplexity:
    test_file = workspace.split_file(split, "test.jsonl")
    folder = workspace.model_folder(model, split)
    record = _run_record(model, split, folder, workspace.split_file(split, "train.jsonl"))
    path = workspace.perplexity(model, split)
    rows = workspace.examples(split, "test")
    signature = _signature(folder, record, rows, sha256_of(test_file))
    tokens_path, origin = scored_turns_path(path), tokens_origin(signature)
    if path.is_file() and holds_scored_turns(tokens_path, origin):
        stored = _stored(path)
        if not differences(stored.signature, signature):
            update_card(folder, stored.held_out())
            say(f"{stored.line()} (as before)")
            return stored
    from chatbench.models.encoding import form_of

    form = form_of(record)
    tuned = _scores(str(folder), rows, 0, form)
    # A merged model goes by a name of its own, which says nothing of its base.
    base_source = str(record["base"]) if "merged" in record else resolve_settings(model).base
    base_seed = int(record["settings"]["seed"])
    base = _scores(base_source, rows, base_seed, form, expected=record["base_weights"])
    result = SplitPerplexity(
        split, tuned.corpus, base.corpus, tuned.by_kind, base.by_kind, signature, **tuned.context_counts
    )
    write_scored_turns(tokens_path, origin, scored_turns(rows, tuned.encoded, tuned.nats, tuned.tokenizer))
    write_json(path, result.as_json())
    update_card(folder, result.held_out())
    say(result.line())
    return result


def tokens_origin(signature: Mapping[str, object]) -> dict[str, object]:
    """What the scored tokens of a split are of: the part of its signature that they depend on."""
    return {name: signature[name] for name in ("weights", "test_sha256", "form")}


def _run_record(model: str, split: str, folder: Path, train_file: Path) -> dict[str, Any]:
    """The training record of a folder, which must be of this split's data: other data could hold the test questions."""
    again = f"SPLIT_ID={split} chatbench finetune {model}"
    if not folder.is_dir():
        raise ChatbenchError(f"{folder}: {model} is not fine-tuned on {split}", fix=f"fine-tune first: {again}")
    record = cast(dict[str, Any], read_json(folder / "chatbench.json", fix=f"{again} --overwrite"))
    if record["train_sha256"] != sha256_of(train_file):
        raise ChatbenchError(
            f"{folder}: trained on other data than {train_file} holds now",
            expected="a model that has not seen the held-out questions",
            fix=f"{again} --overwrite",
        )
    return record


def _signature(
    folder: Path, record: Mapping[str, Any], rows: Sequence[ExampleRow], test_sha256: str
) -> dict[str, object]:
    from chatbench.models.encoding import form_of
    from chatbench.models.loading import best_device, inference_dtype, load_tokenizer, tokenizer_hash, weights_hash

    base = record["base"] if (folder / "adapter_config.json").is_file() else str(folder)
    tokenizer = load_tokenizer(str(folder))
    return {
        "protocol": PROTOCOL,
        "form": form_of(record).describe(tokenizer),
        "test_sha256": test_sha256,
        "examples": len(rows),
        "weights": weights_hash(folder),
        "base_weights": record["base_weights"],
        "tokenizer": tokenizer_hash(tokenizer),
        "dtype": str(inference_dtype(base, best_device())).removeprefix("torch."),
        "version": metadata.version("chatbench"),
    }


@dataclass(frozen=True, slots=True)
class _Scored:
    """One model's perplexity over the rows that fit its context and per kind, and the count of those that did not.

    `nats` are those of each token of the row at that place in `encoded`.
    """

    corpus: Perplexity
    by_kind: dict[str, Perplexity]
    context_counts: dict[str, int]
    encoded: EncodedRows
    nats: Mapping[int, Sequence[float]]
    tokenizer: PreTrainedTokenizerBase


def _scores(source: str, rows: Sequence[ExampleRow], seed: int, form: TextForm, expected: str = "") -> _Scored:
    """Perplexity of one model over all rows, and per kind; the model is let go before the next is loaded."""
    from chatbench.models.encoding import encode_rows
    from chatbench.models.loading import context_length, load
    from chatbench.models.loss import Floats, score_rows

    loaded: Loaded = load(source, seed=seed, revision=_revision(expected))
    if expected not in ("", loaded.weights) and not expected.endswith("@unknown"):
        raise ChatbenchError(
            f"{source}: its weights are not those that were fine-tuned", expected=expected, fix="fine-tune again"
        )
    encoded = encode_rows(loaded.tokenizer, rows, context_length(loaded.model), form)
    nats: dict[int, Sequence[float]] = {}

    def keep(place: int, tokens: Floats) -> None:
        nats[place] = tokens.tolist()

    losses = score_rows(loaded.model, encoded, each_token=keep)
    pairs = zip((row.kind for row in encoded.rows), losses, strict=True)
    by_kind = perplexity_by_kind(pairs)
    return _Scored(summarise(losses), by_kind, encoded.counts(), encoded, nats, loaded.tokenizer)


def _revision(base_weights: str) -> str | None:
    """The hub commit in `ID@COMMIT`, None for anything else."""
    commit = base_weights.partition("@")[2]
    return commit if commit not in ("", "unknown") else None


def _files(workspace: Workspace, model: str) -> list[Path]:
    folder = workspace.perplexity_folder(model)
    return sorted(folder.glob("split_*.json"), key=lambda path: int(path.stem.rpartition("_")[2]))


def _stored(path: Path) -> SplitPerplexity:
    return SplitPerplexity.from_json(cast(dict[str, Any], read_json(path, fix=f"delete {path} and run again")))


def summary_of(splits: Sequence[SplitPerplexity], workspace: Workspace) -> dict[str, object]:
    """Means and standard errors over splits, of perplexity and bits per byte, for both sides, over all and per kind.

    `corrected_error` allows for the overlap of random splits (Nadeau and Bengio 2003).
    """
    sizes = [_question_counts(workspace, each.split) for each in splits]
    train, test = (sum(size[part] for size in sizes) / len(sizes) for part in (0, 1))

    def mean(values: list[float]) -> dict[str, object]:
        estimate = asdict(over_splits(values, train_questions=train, test_questions=test))
        stored = {"standard_error": estimate["standard_error"], "corrected_error": estimate["corrected_error"]}
        undefined = {name: None for name, value in stored.items() if not isinstance(value, float)}
        return {"mean": estimate["mean"], **stored, **undefined, "splits": estimate["n"]}

    def metrics(groups: list[Perplexity]) -> dict[str, object]:
        return {
            "perplexity": mean([group.perplexity for group in groups]),
            "bits_per_byte": mean([group.bits_per_byte for group in groups]),
        }

    kinds = dict.fromkeys(kind for each in splits for kind in each.finetuned_by_kind)
    return {
        "splits": [each.split for each in splits],
        "finetuned": metrics([each.finetuned for each in splits]),
        "base": metrics([each.base for each in splits]),
        "by_kind": {
            kind: {
                "finetuned": metrics(
                    [each.finetuned_by_kind[kind] for each in splits if kind in each.finetuned_by_kind]
                ),
                "base": metrics([each.base_by_kind[kind] for each in splits if kind in each.base_by_kind]),
            }
            for kind in kinds
        },
    }


def _question_counts(workspace: Workspace, split: str) -> tuple[int, int]:
    divided = workspace.split(split)
    return len(divided.question_ids("train")), len(divided.question_ids("test"))


def read_perplexity(workspace: Workspace, model: str, split_id: str) -> SplitPerplexity | None:
    """The stored perplexities of a split, None where they were not computed.

    Raises:
        ChatbenchError: the file is there but is not one of perplexities.
    """
    path = workspace.perplexity(model, split_id)
    if not path.exists():
        return None
    fix = f"delete it, then: chatbench eval-ppl {model} --split {split_id}"
    content = read_json(path, fix=fix)
    try:
        return SplitPerplexity.from_json(cast(Mapping[str, object], content))
    except (KeyError, TypeError, AttributeError) as error:
        raise ChatbenchError(f"{path}: {error!r}", expected="perplexities of this version", fix=fix) from error


def perplexity_metrics(scored: SplitPerplexity) -> Iterator[MetricValue]:
    """Perplexity and bits per byte, over all turns and per kind (`perplexity_first`...), of the model and its base."""
    sides = {
        FINE_TUNED: (scored.finetuned, scored.finetuned_by_kind),
        BASE_MODEL: (scored.base, scored.base_by_kind),
    }
    for predictor, (corpus, by_kind) in sides.items():
        for ending, group in {"": corpus, **{f"_{kind}": each for kind, each in by_kind.items()}}.items():
            yield MetricValue(EVERY_ASSISTANT, predictor, f"perplexity{ending}", group.perplexity)
            yield MetricValue(EVERY_ASSISTANT, predictor, f"bits_per_byte{ending}", group.bits_per_byte)


def refuse_other_weights(model: str, scored: SplitPerplexity, simulator: Mapping[str, object]) -> None:
    """Makes sure that the perplexity and the chats of a split are of the same weights.

    Raises:
        ChatbenchError: they are not: the model was trained again in between.
    """
    measured, spoke = str(scored.signature.get("weights", "")), str(simulator.get("weights", ""))
    if spoke.partition(" on ")[0] != measured:  # of an adapter, the simulator names the base too: HASH on BASE
        raise ChatbenchError(
            f"{model}, {scored.split}: perplexity of weights {measured[:12]}, chats of weights {spoke[:12]}",
            expected="both of the same fine-tuned model",
            fix=f"chatbench eval-ppl {model} --split {scored.split}; or simulate that split again with --overwrite",
        )
