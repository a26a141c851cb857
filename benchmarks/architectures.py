"""Which architectures of transformers read prefix trees and can be sampled, and whether their numbers are right.

    python benchmarks/architectures.py                  about five minutes
    python benchmarks/architectures.py gpt2 qwen2_moe gemma2

Each causal language model of transformers is built small, with random weights and a sliding window of 8 tokens if its
configuration has one. Its losses on examples that share beginnings, and the logits of its steps of generation (prompts
read in two pieces, then token by token), are compared with plain forward passes. The exit code is 1 if any that is
accepted differs by more than 1e-3.
"""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from chatbench.models.kv_cache import Piece, RadixCache, Shape, Slab, Step
from chatbench.models.loss import score_encoded
from chatbench.models.prefix_tree import attends_to_trees, why_not_trees
from chatbench.protocol.prompts import EncodedExample

SMALL: dict[str, object] = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "bos_token_id": 0, "eos_token_id": 1,
    "pad_token_id": 0, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "n_embd": 32, "n_layer": 4, "n_head": 4,
    "n_positions": 256, "d_model": 32, "ffn_dim": 64, "attention_heads": 4, "num_layers": 4, "decoder_layers": 4,
    "decoder_attention_heads": 4, "decoder_ffn_dim": 64, "encoder_layers": 1, "encoder_attention_heads": 4,
    "rotary_dim": 8, "is_decoder": True, "word_embed_proj_dim": 32, "embedding_size": 32, "kv_lora_rank": 16,
    "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 320,
    **dict.fromkeys(("hidden_dropout", "attention_dropout", "dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
}  # fmt: skip
WINDOW = {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 2}
MOST_PARAMETERS = 30_000_000
WRONG = 1e-3
WRITTEN = 10
"""Tokens of each example that are read one by one, as in generation."""


def built(kind: str) -> PreTrainedModel:
    """A small model of this kind, with a window if its configuration accepts one.

    Raises:
        ValueError: it cannot be built small.
    """
    default = AutoConfig.for_model(kind)
    known = {*default.to_dict(), *getattr(type(default), "attribute_map", {}), "bos_token_id", "eos_token_id"}
    for values in ({**SMALL, **WINDOW}, SMALL):
        try:
            config = type(default)(**{name: value for name, value in values.items() if name in known})
            with torch.device("meta"):
                size = sum(one.numel() for one in AutoModelForCausalLM.from_config(config).parameters())
        except Exception as error:  # configurations refuse shapes in many ways
            reason = f"{type(error).__name__}: {error}".split("\n")[0]
            continue
        if size > MOST_PARAMETERS:
            raise ValueError(f"{size:,} parameters")
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval().float()
        with torch.no_grad():
            for name, values_of in model.named_parameters():
                if values_of.dim() >= 2 or ("bias" not in name and not values_of.any()):
                    values_of.normal_(0, 0.2)
        return model
    raise ValueError(reason)


def examples() -> list[EncodedExample]:
    """Six examples of 17 to 44 tokens that part from one another at several places."""
    drawn = torch.Generator().manual_seed(1)
    base = torch.randint(5, 300, (30,), generator=drawn).tolist()
    found = [EncodedExample(base[:16], base[16:])]
    for cut in (6, 20, 20, 28, 30):
        tokens = base[:cut] + torch.randint(5, 300, (14,), generator=drawn).tolist()
        found.append(EncodedExample(tokens[:-6], tokens[-6:]))
    return found


@torch.no_grad()
def loss_off(model: PreTrainedModel, some: list[EncodedExample]) -> float:
    """The largest difference of an example's loss from the plain one, in nats."""
    worst = 0.0
    for example, (nats, _) in zip(some, score_encoded(model, some, batch_tokens=100), strict=True):
        ids = torch.tensor([[*example.prompt, *example.completion]])
        logits = model(input_ids=ids, use_cache=False).logits[0].double().log_softmax(-1)
        places = range(len(example.prompt), ids.shape[1])
        worst = max(worst, abs(nats + sum(float(logits[at - 1, ids[0, at]]) for at in places)))
    return worst


@torch.no_grad()
def logits_off(model: PreTrainedModel, some: list[EncodedExample]) -> float:
    """The largest difference of a logit in steps of generation from the plain one."""
    texts = [[*example.prompt, *example.completion] for example in some]
    plain = [model(input_ids=torch.tensor([text]), use_cache=False).logits[0] for text in texts]
    cache, worst = RadixCache(Shape.of(model), 1 << 30), 0.0
    buffers = [cache.shape.empty(cache.shape.heads, len(text)) for text in texts]

    def read(step: Step, tokens: list[int], wanted: list[torch.Tensor]) -> None:
        nonlocal worst
        found = model(
            input_ids=torch.tensor([tokens]), position_ids=torch.tensor([step.positions]), tree_plan=step,
            use_cache=False, logits_to_keep=torch.arange(len(tokens)),
        ).logits[0]  # fmt: skip
        worst = max(worst, float((found - torch.stack(wanted)).abs().max()))

    halves = [(len(text) - WRITTEN) // 2 for text in texts]
    ends = [len(text) - WRITTEN for text in texts]
    with attends_to_trees(model):
        for starts, stops in (([0] * len(texts), halves), (halves, ends)):
            spans = list(zip(buffers, starts, stops, strict=True))
            tokens = [t for text, (_, a, b) in zip(texts, spans, strict=True) for t in text[a:b]]
            wanted = [each[at] for each, (_, a, b) in zip(plain, spans, strict=True) for at in range(a, b)]
            read(Step([], [Piece(buffer, a, b - a) for buffer, a, b in spans]), tokens, wanted)
        slab = Slab(cache, max(map(len, texts)), 256)
        for buffer, end in zip(buffers, ends, strict=True):
            slab.append(buffer, end)
        for count in range(WRITTEN):
            at = [end + count for end in ends]
            here = [text[place] for text, place in zip(texts, at, strict=True)]
            read(Step([slab], []), here, [each[place] for each, place in zip(plain, at, strict=True)])
            slab.lengths = [length + 1 for length in slab.lengths]
    return worst


def main(kinds: list[str]) -> int:
    """Prints a row for each kind; returns the exit code."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    transformers_logging.set_verbosity_error()
    some, wrong = examples(), []
    for kind in kinds or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        row: Any
        try:
            model = built(kind)
            reason, refused = why_not_trees(model), why_not_trees(model, capped=True)
            off = [loss_off(model, some), 0.0 if refused else logits_off(model, some)]
            row = f"loss {off[0]:.0e}  " + (f"not sampled: {refused}" if refused else f"sampled {off[1]:.0e}")
            row += f"  (no trees: {reason})" if reason and not refused else ""
            wrong += [kind] * (max(off) > WRONG and not (reason and refused))
        except Exception as error:  # one kind that fails is no reason to leave out the others
            row = f"not compared: {type(error).__name__}: {error}".split("\n")[0][:110]
        print(f"{kind:<28} {row}", flush=True)
    print(f"accepted, but wrong: {', '.join(wrong) or 'none'}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
