"""Weights in special forms: number formats, random weights, GGUF files.

Number formats are the precision that this machine computes in, and base weights in 8 or 4 bits; what does not work here
is refused, with the reason. 8 bits is LLM.int8() (Dettmers et al. 2022), 4 bits is nf4 with double quantisation (QLoRA,
Dettmers et al. 2023), both by bitsandbytes. Quantised weights are frozen: adapters train on top of them, and an adapter
is scored and sampled on the weights that it was trained on, quantised the same way. Linear layers are quantised;
embeddings, norms and the output head are not.

Random weights are for tests and for fine-tuning small models from scratch. They depend only on the seed, not on what
was drawn before, and leave the global generators untouched. `make_scratch_base` writes one of the three published
architectures, with a tokenizer from a split's training side only, for use where no pretrained base is available: what
such a model shows after fine-tuning, it learned from the study's chats alone.

A GGUF file (llama.cpp's format) is converted once to an ordinary folder, which is then loaded. transformers reads the
weights, dequantises them and builds the tokenizer, with the file's chat template. The values are kept exactly, so the
weights are stored in float32: four bytes per parameter. The folder is in a cache, under the file's SHA-256: a moved
file is found again, and a changed one is another model.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from functools import lru_cache
from importlib import util
from pathlib import Path
from typing import Any, Literal, NoReturn, cast, get_args

import torch
from filelock import FileLock
from gguf import GGUFReader, LlamaFileType
from safetensors import SafetensorError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import file_error, sha256_of, write_json
from chatbench.core.settings import Precision
from chatbench.data.examples import read_examples
from chatbench.models.run_record import new_folder

Bits = Literal[8, 4]
Format = Literal["bf16", "fp16", "fp32"]


def quantised_bits(settings: Mapping[str, Any]) -> Bits | None:
    """Bits of a run's base weights, from its settings by name; None if they are not quantised."""
    if settings.get("load_in_4bit"):
        return 4
    return 8 if settings.get("load_in_8bit") else None


def refuse_unless_possible(bits: Bits, device: str, source: str) -> None:
    """Checks that weights of `source` can be quantised on `device`: CUDA GPUs and CPUs only.

    Raises:
        ChatbenchError: they cannot.
    """
    without = f"turn it off (--no-load-in-{bits}bit)"
    if not device.startswith(("cuda", "cpu")):
        raise ChatbenchError(f"load_in_{bits}bit on {device}", expected="a CUDA GPU or a CPU", fix=without)
    if source.startswith("random:"):
        raise ChatbenchError(
            f"load_in_{bits}bit with random weights", expected="weights from a folder or the hub", fix=without
        )
    if util.find_spec("bitsandbytes") is None:
        raise ChatbenchError(f"load_in_{bits}bit without bitsandbytes", fix=f"pip install bitsandbytes, or {without}")


def quantisation_config(bits: Bits, dtype: torch.dtype) -> object:
    """The configuration for transformers; `dtype` is that of products with 4-bit weights."""
    made: Any = BitsAndBytesConfig
    return made(
        load_in_8bit=bits == 8, load_in_4bit=bits == 4, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )  # fmt: skip


def hold_as_trained(model: torch.nn.Module) -> None:
    """Keeps bitsandbytes from rearranging 4-bit weights on a CPU when they are first used without gradients.

    That rounds the scales to bf16, so the weights would change at the first validation and differ from one
    CPU to another; it also fails for widths that are not multiples of 64.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]  # a module's attribute to mypy


def resolve_precision(wanted: Precision, device: str) -> Format:
    """The format of matrix products in training; weights and sums stay in float32.

    `auto` is bf16 if the hardware has it, else fp16 on a GPU and float32 on a CPU.

    Raises:
        ChatbenchError: the format does not work on this device.
    """
    if device.startswith("cuda"):
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        if wanted == "bf16" and not has_bf16:
            raise ChatbenchError("precision = 'bf16', which this GPU lacks", fix="use precision auto or fp16")
        return ("bf16" if has_bf16 else "fp16") if wanted == "auto" else wanted
    if wanted == "fp16":
        raise ChatbenchError(
            f"precision = 'fp16' on {device}", expected="a CUDA GPU for fp16", fix="use precision auto, bf16 or fp32"
        )
    if wanted == "auto":
        return "bf16" if device == "cpu" and cpu_has_bf16() else "fp32"
    return wanted


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 in hardware; without that, bf16 works but is slower than float32."""
    checks = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return any(check() for check in checks if check)


Shape = Literal["gpt2", "mistral", "llama"]
SHAPES: tuple[Shape, ...] = get_args(Shape)
END_OF_TEXT = "<|end|>"


def make_scratch_base(
    shape: str, out: Path, *, train: Path, vocabulary: int, width: int, layers: int, seed: int
) -> str:
    """Writes the base to `out`, an ordinary Hugging Face folder, and returns a description of it.

    Its tokenizer is byte-level BPE like GPT-2's, trained on the examples of `train`. The model has heads of 32, a
    context of 1,024 tokens and no dropout; in Mistral and Llama two heads share keys and values.

    Raises:
        ChatbenchError: no such shape or width, `train` is not a file of examples, or there is something at `out`.
    """
    if shape not in SHAPES:
        raise ChatbenchError(f"shape {shape!r}", expected=f"one of {', '.join(SHAPES)}")
    if width < 32 or width % 32:
        raise ChatbenchError(f"--width {width}", expected="a multiple of 32")
    texts = [row.prompt + row.completion for row in read_examples(train)]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT)  # type: ignore[no-untyped-call]  # untyped
    heads, context = width // 32, 1024
    own: dict[str, object] = {"intermediate_size": 3 * width, "num_key_value_heads": max(1, heads // 2)}
    if shape == "gpt2":
        own = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    elif shape == "mistral":
        own["sliding_window"] = context
    config = AutoConfig.for_model(
        shape, vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        max_position_embeddings=context, bos_token_id=None, eos_token_id=0, pad_token_id=0,
        tie_word_embeddings=False,  # tied embeddings do not learn to copy at this size
        **own,
    )  # fmt: skip
    model: Any = random_model(config, seed)
    with new_folder(out) as work:
        model.save_pretrained(work)
        tokenizer.save_pretrained(work)
    return f"{out}: {shape} shape, {model.num_parameters():,} random parameters, tokenizer from {len(texts):,} examples"


def random_model(config: Any, seed: int) -> PreTrainedModel:
    """A model with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]  # untyped
        return cast(PreTrainedModel, model)


GGUF_RECORD = "gguf.json"
"""In a folder made from a GGUF file: which file that was."""
_SCALED = {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}
_SCALING = ("rope.scaling.type", "rope.scaling.factor", "rope.scale_linear")
"""Tensors and fields that scale positions (RoPE)."""
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)


def is_gguf(source: str) -> bool:
    return source.lower().endswith(".gguf")


def gguf_folder(path: Path) -> Path:
    """The model folder of a GGUF file, made on first use; in `$XDG_CACHE_HOME/chatbench/gguf`.

    Processes that need the same file wait for the one that writes. A folder exists completely or not at all.

    Raises:
        ChatbenchError: not a GGUF file, an incomplete one or a part of a split one, an architecture or a tokenizer
            that transformers cannot read, scaled positions, or the folder cannot be written.
    """
    if _PART.search(path.name):
        _refuse_part(path)
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "chatbench" / "gguf"
    try:
        stat = path.stat()
        folder /= _sha256(path.resolve(), (stat.st_size, stat.st_mtime_ns))
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_suffix(".lock")):
                if not folder.is_dir():  # no other process wrote it meanwhile
                    _convert(path, folder)
    except OSError as error:
        raise file_error(error) from error
    except SafetensorError as error:
        raise ChatbenchError(f"{folder} cannot be written: {error}", fix="free up space there") from error
    return folder


@lru_cache
def _sha256(path: Path, _state: tuple[int, int]) -> str:
    return sha256_of(path)


def _convert(path: Path, folder: Path) -> None:
    fields, tensors = _contents(path)
    architecture = str(fields.get("general.architecture"))
    if int(fields.get("split.count", 1)) > 1:
        _refuse_part(path)
    values = ((name, fields.get(f"{architecture}.{name}", "none")) for name in _SCALING)
    scaled = sorted(_SCALED & tensors) + [f"{name} = {value}" for name, value in values if value not in ("none", 0, 1)]
    if scaled and architecture != "gpt-oss":
        raise ChatbenchError(
            f"{path}: its positions are scaled ({', '.join(scaled)}), which transformers would ignore",
            expected="a model without RoPE scaling: ignoring it gives another model",
            fix="use the model's own safetensors: its hub id, or a folder",
        )
    place: dict[str, Any] = {"gguf_file": path.name, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(str(path.parent), **place)
    except Exception as error:  # transformers' readers of the many architectures can raise anything
        raise ChatbenchError(
            f"{path}: transformers cannot read the architecture {architecture!r} from a GGUF file: {_line(error)}",
            expected="a language model such as llama, qwen2, qwen3, gemma2, gemma3, phi3 or gpt2",
            fix="use the model's own safetensors: its hub id, or a folder",
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path.parent), **place)
        tokenizer("a")
    except Exception as error:  # as above
        raise ChatbenchError(
            f"{path}: transformers cannot build its tokenizer ({fields.get('tokenizer.ggml.model')}): {_line(error)}",
            expected="a tokenizer of the kind gpt2 or llama, with all its tokens and merges",
            fix="use the model's own safetensors and tokenizer: its hub id, or a folder",
        ) from error
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        str(path.parent), **place, dtype=torch.float32, output_loading_info=True
    )
    model, info = loaded
    if lacking := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
        raise ChatbenchError(
            f"{path}: {len(lacking)} tensors are missing or have another shape, such as {lacking[0]}",
            expected=f"all weights of a model of the architecture {architecture}",
            fix="download it again, or use the model's own safetensors",
        )
    # A model read from GGUF counts as quantised and refuses to be saved; one made from its configuration does not.
    with torch.device("meta"):
        plain: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]  # transformers
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a killed run
    plain.save_pretrained(unfinished, state_dict=model.state_dict())
    tokenizer.save_pretrained(unfinished)
    kind = fields.get("general.file_type")
    quantisation = LlamaFileType(kind).name.partition("_")[2] if kind in list(LlamaFileType) else "unknown"
    record = {"sha256": folder.name, "quantisation": quantisation, "architecture": architecture, "file": path.name}
    write_json(unfinished / GGUF_RECORD, record)
    unfinished.rename(folder)


def _contents(path: Path) -> tuple[dict[str, Any], set[str]]:
    """The scalar metadata of a GGUF file and the names of its tensors, after checking that they are all there."""
    with path.open("rb") as opened:
        if opened.read(4) != b"GGUF":
            raise ChatbenchError(f"{path}: not a GGUF file", expected="a llama.cpp model file", fix="download it again")
    try:
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items() if len(field.types) == 1}
        return fields, {tensor.name for tensor in reader.tensors}
    except Exception as error:  # whatever the missing bytes lead to
        raise ChatbenchError(
            f"{path}: cut off or damaged after {path.stat().st_size:,} bytes: {_line(error)}",
            expected="all tensors that its header lists",
            fix="download it again",
        ) from error


def _refuse_part(path: Path) -> NoReturn:
    raise ChatbenchError(
        f"{path}: one part of a model that was split into several files",
        expected="the whole model in one file",
        fix="join the parts: llama-gguf-split --merge FIRST_PART OUT.gguf",
    )


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".split("\n")[0][:200]
