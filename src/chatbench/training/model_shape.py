"""The sizes of a model that decide what training it costs, read off its modules without weights.

They are exact for decoders in the manner of GPT-2 and Llama; of another architecture, what is not found counts as 0, so
that its estimates are low.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from chatbench.core.settings import Settings


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Counts of parameters, and widths (features a token) in one decoder layer.

    Attributes:
        parameters: all of them; embeddings that serve as the output head too count once.
        layer_matrices: those of linear layers inside the decoder layers. These are what is quantised.
        largest_matrix: the largest of these matrices.
        query_width, key_width: heads times head size, of queries and of keys.
        mlp_width: what the layer widens to. A `gated` layer does so twice, and multiplies.
        norm_width: summed over the layer's norms.
        adapters: parameters of the adapters that the settings ask for, whether or not they are used.
        adapted_width: summed over the inputs of the layer's adapted modules.
    """

    parameters: int
    layer_matrices: int
    largest_matrix: int
    layers: int
    width: int
    query_width: int
    key_width: int
    mlp_width: int
    gated: bool
    norm_width: int
    vocabulary: int
    adapters: int
    adapted_width: int

    @property
    def head(self) -> int:
        """Parameters of the output head."""
        return self.vocabulary * self.width


def model_shape(model: PreTrainedModel, settings: Settings) -> ModelShape:
    """The shape of a model, whose parameters may lie on the meta device, with the adapters of the settings."""
    config: Any = model.config.get_text_config()
    width, heads = int(config.hidden_size), int(getattr(config, "num_attention_heads", None) or 1)
    head_width = int(getattr(config, "head_dim", None) or width // heads)
    query, key = heads * head_width, int(getattr(config, "num_key_value_heads", None) or heads) * head_width
    blocks = _decoder_layers(model)
    inside = [matrix for block in blocks for matrix in _matrices(block)]
    adapted = set(settings.lora_targets or _peft_targets(str(config.model_type)))
    sizes = [matrix.inputs * matrix.outputs for matrix in inside]
    return ModelShape(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        layer_matrices=sum(sizes),
        largest_matrix=max(sizes, default=0),
        layers=len(blocks),
        width=width,
        query_width=query,
        key_width=key,
        mlp_width=_mlp_width(config, width),
        gated=any("gate" in matrix.name for matrix in _matrices(blocks[0])),
        norm_width=sum(_norm_widths(blocks[0], {"q_norm": query, "k_norm": key}, width)),
        vocabulary=int(config.vocab_size),
        adapters=sum(settings.lora_r * (m.inputs + m.outputs) for m in _matrices(model) if m.name in adapted),
        adapted_width=sum(matrix.inputs for matrix in _matrices(blocks[0]) if matrix.name in adapted),
    )


@dataclass(frozen=True, slots=True)
class _Matrix:
    name: str
    inputs: int
    outputs: int


def _matrices(module: nn.Module) -> Iterator[_Matrix]:
    """Linear layers by the last part of their names, GPT-2's transposed ones (`Conv1D`) among them."""
    for name, each in module.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(each, nn.Linear):
            yield _Matrix(last, each.in_features, each.out_features)
        elif type(each).__name__ == "Conv1D":
            weight: Any = each.weight
            yield _Matrix(last, int(weight.shape[0]), int(weight.shape[1]))


def _decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The longest list of modules; the model itself where it has none."""
    lists = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=[model])


def _mlp_width(config: Any, width: int) -> int:
    told = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * width
    return max(told) if isinstance(told, list | tuple) else int(told)


def _norm_widths(block: nn.Module, of_heads: dict[str, int], width: int) -> Iterator[int]:
    for name, module in block.named_modules():
        if "norm" in type(module).__name__.lower():
            yield of_heads.get(name.rpartition(".")[2], width)


def _peft_targets(model_type: str) -> list[str]:
    """The modules that peft adapts where none are named; none for an architecture that it does not know."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    return list(KNOWN.get(model_type, ()))
