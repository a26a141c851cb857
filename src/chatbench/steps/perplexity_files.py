"""Perplexity of one split, as `eval_ppl` stored it, as figures of the scores table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json
from chatbench.core.model_names import model_key
from chatbench.measures.figures import EVERY_ASSISTANT, FINE_TUNED, UNTRAINED, Figure
from chatbench.measures.perplexity import Perplexity
from chatbench.steps.eval_ppl import SplitPerplexity


def read_perplexity(model: str, results: Path, split_id: str) -> SplitPerplexity | None:
    """The stored perplexities of a split, None where they were not computed.

    Raises:
        ChatbenchError: the file is there but is not one of perplexities.
    """
    path = results / "ppl" / model_key(model) / f"{split_id}.json"
    if not path.exists():
        return None
    fix = f"delete it, then: chatbench eval-ppl {model} --split {split_id}"
    content = read_json(path, fix=fix)
    try:
        return SplitPerplexity.from_json(cast(Mapping[str, object], content))
    except (KeyError, TypeError, AttributeError) as error:
        raise ChatbenchError(f"{path}: {error!r}", expected="perplexities of this version", fix=fix) from error


def perplexity_figures(scored: SplitPerplexity) -> Iterator[Figure]:
    """Perplexity and bits per byte, over all turns and per kind (`perplexity_first`...), of the model and its base."""
    sides = {
        FINE_TUNED: (scored.finetuned, scored.finetuned_by_kind),
        UNTRAINED: (scored.base, scored.base_by_kind),
    }
    for source, (corpus, by_kind) in sides.items():
        yield from _figures(source, corpus, "")
        for kind, part in by_kind.items():
            yield from _figures(source, part, f"_{kind}")


def _figures(source: str, scored: Perplexity, ending: str) -> Iterator[Figure]:
    yield Figure(EVERY_ASSISTANT, source, f"perplexity{ending}", scored.perplexity)
    yield Figure(EVERY_ASSISTANT, source, f"bits_per_byte{ending}", scored.bits_per_byte)


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
