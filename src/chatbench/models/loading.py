"""Loads models and tokenizers from a recipe's base, the Hub or a folder; identifies them, and reports what is wrong.

A *source* is a Hub id, a folder (a model, or an adapter that names its base), a GGUF file (`models/weights.py`),
`package:NAME` (a model that comes with the package) or `random:NAME` (that model's shape with random weights). Other
weights are read from safetensors only, and code that comes with a model is never run. Whatever transformers, peft,
safetensors and the Hub raise, for a user's mistake or a damaged or hostile folder, becomes one clear error with the
source's name (`_errors_named`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from importlib import resources
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)  # fmt: skip
from transformers.activations import NewGELUActivation
from transformers.utils.logging import disable_progress_bar

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_object, sha256_of, write_json
from chatbench.models.run_record import read_record
from chatbench.models.weights import (
    GGUF_RECORD,
    Bits,
    gguf_folder,
    hold_as_trained,
    is_gguf,
    quantisation_config,
    quantised_bits,
    random_model,
    refuse_unless_possible,
)  # fmt: skip

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
FULL_PRECISION_BELOW = 1_000_000_000
"""Models with fewer parameters are scored and sampled in float32 on a GPU too; larger ones in 16 bits."""
FALLBACK_CONTEXT = 2048
"""Context in tokens of a model whose configuration states none."""
Options = ParamSpec("Options")
Result = TypeVar("Result")
_NOT_OF_THE_MODEL = ("_name_or_path", "transformers_version", "peft_version", "base_model_name_or_path", "use_cache")
_OFFLINE = {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError", "ConnectTimeout", "ConnectionError"}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model with its tokenizer, ready for use.

    `weights` identifies the weights: `ID@COMMIT` for a Hub model, a SHA-256 for a folder, a GGUF file's SHA-256 and its
    quantisation, the seed for a random model; for an adapter, its own and its base's, and the base's bits where it is
    quantised.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str
    weights: str


def _errors_named(act: Callable[Options, Result]) -> Callable[Options, Result]:
    """Turns whatever a function raises into one clear error with its first argument, a source or a folder.

    Errors that already say what to do pass unchanged.
    """

    @wraps(act)
    def named(*arguments: Options.args, **options: Options.kwargs) -> Result:
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        try:
            return act(*arguments, **options)
        except (ChatbenchError, MemoryError, torch.OutOfMemoryError):
            raise
        except BaseException as error:  # a damaged folder can make these libraries raise anything, a panic of Rust too
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise _explained(str(arguments[0]), error) from error

    return named


def _explained(source: str, error: BaseException) -> ChatbenchError:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    names = {type(cause).__name__ for cause in chain}
    if "GatedRepoError" in names:
        return ChatbenchError(
            f"{source}: this model is gated: the hub requires that you accept its licence",
            fix=f"accept it at https://huggingface.co/{source} and put HF_TOKEN into .env",
        )
    inside, _, name = source.partition("/")
    local = source.startswith(("/", ".", "~/")) or (name and Path(inside).is_dir())
    if local and not Path(source).expanduser().exists():
        return ChatbenchError(
            f"{source}: no such folder or file",
            expected="a model folder, a GGUF file or a hub id",
            fix="check the path",
        )
    if "RepositoryNotFoundError" in names:
        return ChatbenchError(
            f"{source}: no such model on the hub, or it is private",
            expected="a recipe, a hub id, a local folder or a GGUF file",
            fix="check the name; for a private model put HF_TOKEN into .env",
        )
    if names & _OFFLINE or "couldn't connect" in str(error):
        return ChatbenchError(
            f"{source}: the hub cannot be reached, and the model is not on this machine",
            expected="a network connection, or a folder with the model",
            fix="connect to the network, or download the model elsewhere and pass its folder as MODEL",
        )
    first_line = f"{type(error).__name__}: {error}".strip().split("\n")[0][:300]
    return ChatbenchError(
        f"{source}: cannot be loaded: {first_line}",
        expected="a complete causal language model in safetensors format, with its tokenizer",
        fix="copy or download it again",
    )


@_errors_named
def load(
    source: str,
    *,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    seed: int = 0,
    revision: str | None = None,
    quantise: bool = True,
    merge: bool = True,
) -> Loaded:
    """Loads a model for scoring and generation: in evaluation mode, on `device` (default: a GPU if there is one).

    An adapter's base is loaded first, quantised as in training unless `quantise` is off. An adapter on float32
    weights is merged into them unless `merge` is off: up to rounding (1e-6) the model is the same, with fewer products
    to compute. `dtype` defaults to `inference_dtype`. `seed` matters only for random weights.

    Raises:
        ChatbenchError: no such model, no tokenizer, a damaged file, or the Hub cannot be reached.
    """
    device = device or best_device()
    folder = local_folder(source)
    if folder is not None and (folder / "adapter_config.json").is_file():
        loaded = _load_adapter(folder, device, dtype, quantise=quantise, merge=merge)
    else:
        loaded = load_base(source, dtype=dtype or inference_dtype(source, device), seed=seed, revision=revision)
    model: Any = loaded.model
    if not (getattr(model, "is_quantized", False) or getattr(model, "hf_device_map", None)):
        model = model.to(device)
    return Loaded(model.eval(), loaded.tokenizer, source, loaded.weights)


def load_base_of(
    source: str, record: Mapping[str, Any], *, dtype: torch.dtype | None = None, device: str | None = None
) -> Loaded:
    """Loads the base of a fine-tuning run as recorded: with its seed and, from the Hub, at its commit.

    Raises:
        ChatbenchError: as in `load`, or its weights are not those that were fine-tuned.
    """
    expected = str(record["base_weights"])
    commit = expected.partition("@")[2]  # of a hub model
    revision = None if commit in ("", "unknown") else commit
    loaded = load(source, device=device, dtype=dtype, seed=int(record["settings"]["seed"]), revision=revision)
    if loaded.weights != expected and commit != "unknown":
        raise _other_base(source, loaded.weights, record)
    return loaded


def refuse_other_base(source: str, record: Mapping[str, Any]) -> None:
    """Refuses a folder or GGUF file of the same name as the base of a run, but with other weights.

    Raises:
        ChatbenchError: it is one.
    """
    if source == record["base"]:  # may have changed since, as far as the fine-tuned weights are concerned
        return
    weights = known_weights(source, int(record["settings"]["seed"]))
    if weights not in (None, record["base_weights"]):
        raise _other_base(source, weights, record)


def _other_base(source: str, weights: str, record: Mapping[str, Any]) -> ChatbenchError:
    base = str(record["base"])
    return ChatbenchError(
        f"{source}: its weights ({weights}) differ from those that were fine-tuned under this name",
        expected=f"{record['base_weights']}, of {base}",
        fix="fine-tune again" if source == base else f"pass {base}, or rename {source} and fine-tune that",
    )


@_errors_named
def load_base(
    source: str,
    *,
    dtype: torch.dtype,
    seed: int = 0,
    revision: str | None = None,
    bits: Bits | None = None,
    device: str = "cpu",
) -> Loaded:
    """Loads a model that is not an adapter, with its tokenizer; on `device` if quantised to `bits`, else on the CPU.

    Raises:
        ChatbenchError: as in `load`; or these weights cannot be quantised on this device.
    """
    if bits is not None:
        refuse_unless_possible(bits, device, source)
    disable_progress_bar()  # type: ignore[no-untyped-call]  # of shards; untyped
    tokenizer = load_tokenizer(source, revision=revision)
    if source.startswith("random:"):
        drawn: Any = random_model(configuration(source), seed)
        return Loaded(fuse_activations(drawn.to(dtype)), tokenizer, source, f"{source}#{seed}")
    folder = local_folder(source)
    if folder is not None:
        check_model_folder(folder)
    config = configuration(source, revision=revision)
    options: dict[str, Any] = {"config": config, "dtype": dtype, "use_safetensors": True, "trust_remote_code": False}
    if bits is not None:
        options |= {"quantization_config": quantisation_config(bits, dtype), "device_map": {"": device}}
    options["output_loading_info"] = True
    found: Any = AutoModelForCausalLM.from_pretrained(str(folder or source), revision=revision, **options)
    model, info = found
    if lacking := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):  # they would be random
        raise ChatbenchError(
            f"{source}: {len(lacking)} tensors of its weights are missing or have another shape, such as {lacking[0]}",
            expected="the weights that its config.json describes",
            fix="copy or download the model again",
        )
    check_vocabulary(model, tokenizer, source)
    if bits is not None:
        hold_as_trained(model)
    commit = getattr(model.config, "_commit_hash", None) or "unknown"
    weights = known_weights(source, seed) or f"{source}@{commit}"
    return Loaded(fuse_activations(model), tokenizer, source, weights)


@_errors_named
def load_tokenizer(source: str, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a source; the end-of-sequence token serves as padding token if there is none.

    Text stays text: `</s>` in a chat is encoded as characters, not as the token that ends a sequence.

    Raises:
        ChatbenchError: the source has no tokenizer.
    """
    folder = _configured_in(source)
    if folder is not None and not any((folder / file).is_file() for file in TOKENIZER_FILES):
        raise ChatbenchError(
            f"{folder}: a model folder without a tokenizer",
            expected=f"one of {', '.join(TOKENIZER_FILES)}",
            fix="copy the tokenizer files of the model's base into the folder",
        )
    path = str(folder or source)
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, use_fast=True, revision=revision)
    tokenizer("a", add_special_tokens=False)  # some defects show only now
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    tokenizer.split_special_tokens = True
    return cast(PreTrainedTokenizerBase, tokenizer)


def _load_adapter(folder: Path, device: str, dtype: torch.dtype | None, *, quantise: bool, merge: bool) -> Loaded:
    from peft import PeftModel, get_peft_model_state_dict

    check_model_folder(folder)
    run = read_record(folder) or {}
    settings = run.get("settings", {})
    name, revision = base_of_adapter(folder, run)
    bits = quantised_bits(settings) if quantise else None
    wanted = dtype or inference_dtype(name, device)
    held = torch.float32 if merge and bits is None and is_small(name) else wanted  # to merge before it is rounded
    base = load_base(
        name,
        dtype=held,
        seed=int(settings.get("seed", 0)),
        revision=revision,
        bits=bits,
        device=device,
    )
    if run.get("base_weights") not in (None, base.weights):
        raise ChatbenchError(
            f"{folder}: its adapter was trained on other weights of {name} than the current ones",
            expected=str(run["base_weights"]),
            fix="restore the base, or fine-tune again",
        )
    try:
        model: Any = PeftModel.from_pretrained(cast(Any, base.model), str(folder), use_safetensors=True)
        stored = {tensor for file in folder.glob("*.safetensors") for tensor in _checked_tensor_names(file)}
        differing = sorted(stored ^ set(get_peft_model_state_dict(model)))
        if differing:  # peft only mentions it, and applies the adapter to the other layers alone
            raise ValueError(f"{len(differing)} tensors are missing or unexpected, such as {differing[0]}")
    except (RuntimeError, ValueError) as error:  # tensors of another shape, or modules that the base lacks
        raise ChatbenchError(
            f"{folder}: its adapter does not fit {name}: {str(error).strip().splitlines()[-1].strip()}",
            expected="the base that it was trained on",
            fix="correct base_model_name_or_path in its adapter_config.json",
        ) from error
    if merge and bits is None and base.model.dtype == torch.float32:
        untie_where_adapted(model)
        model = model.merge_and_unload().to(wanted)
    weights = f"{weights_hash(folder)} on {base.weights}" + (f" in {bits} bits" if bits else "")
    tokenizer = load_tokenizer(str(folder))
    check_vocabulary(base.model, tokenizer, str(folder))
    return Loaded(cast(PreTrainedModel, model), tokenizer, str(folder), weights)


def untie_where_adapted(adapted: Any) -> None:
    """Unties input and output embeddings if an adapter changes one of a tied pair.

    Merged into the shared matrix, the change would affect the other too.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = adapted.get_base_model()
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    if not any(isinstance(end, BaseTunerLayer) for end in ends):
        return
    inner, outer = (cast(Any, end.get_base_layer()) if isinstance(end, BaseTunerLayer) else end for end in ends)
    if inner.weight is outer.weight:
        outer.weight = nn.Parameter(outer.weight.clone())
        base.config.tie_word_embeddings = False


def base_of_adapter(folder: Path, run: Mapping[str, Any]) -> tuple[str, str | None]:
    """Name, and on the Hub the commit if it is known, of the base that an adapter was trained on."""
    config = read_object(folder / "adapter_config.json", fix="train the model again")
    revision = run.get("base_weights", "").partition("@")[2] or config.get("revision")
    name = str(run.get("base") or config.get("base_model_name_or_path"))
    return name, None if revision == "unknown" else revision


def save_special_tokens(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes `special_tokens_map.json`, which transformers 5 no longer does and older programs read."""
    write_json(folder / "special_tokens_map.json", tokenizer.special_tokens_map)


def fuse_activations(model: PreTrainedModel) -> PreTrainedModel:
    """The model itself, with its `gelu_new` activations replaced by torch's tanh form of GELU.

    transformers computes `gelu_new` (GPT-2) in seven steps, each of which reads and writes the widest tensor of the
    layer; torch has the same function as one kernel. Up to rounding (1e-7 in float32) nothing changes, and since
    activations have no weights, neither does what is saved.
    """
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))
    return model


def sample_without_filters(model: PreTrainedModel) -> None:
    """Replaces the base's generation settings, which other programs apply unasked, by those of simulation.

    The ids of special tokens stay. Some bases have settings that transformers refuses to save.
    """
    settings: Any = GenerationConfig
    ids = {name: getattr(model.generation_config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = settings(**ids, do_sample=True, temperature=1.0, top_k=0, top_p=1.0)


def context_length(model: PreTrainedModel) -> int:
    """The longest input in tokens that the model's configuration allows (2,048 if it states none).

    With "longrope" (Phi-3-mini-128k), that before its extension: a longer text would change all others of its batch.
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    most = rope.get("original_max_position_embeddings") if rope.get("rope_type") == "longrope" else None
    for name in ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return min(value, int(most or value))
    return FALLBACK_CONTEXT


def parameter_count(source: str) -> int:
    """Number of parameters, counted on `empty_model`."""
    return sum(parameter.numel() for parameter in empty_model(source).parameters())


@_errors_named
def empty_model(source: str) -> PreTrainedModel:
    """The modules of a model without their weights (on the meta device), from its configuration alone.

    Raises:
        ChatbenchError: there is no such model, or it is not a causal language model.
    """
    config = configuration(source)  # may convert a GGUF file, whose weights are real
    with torch.device("meta"):
        return cast(PreTrainedModel, AutoModelForCausalLM.from_config(config, trust_remote_code=False))  # type: ignore[no-untyped-call]  # transformers


@_errors_named
def configuration(source: str, *, revision: str | None = None) -> PretrainedConfig:
    """The configuration of a model that is not an adapter.

    Raises:
        ChatbenchError: no such model, an adapter, or a model that asks for third-party attention code, which
            transformers would fetch from the Hub and run.
    """
    folder = _configured_in(source)
    if folder is not None and (folder / "adapter_config.json").is_file():
        raise ChatbenchError(
            f"{source}: an adapter, which has only part of a model's weights",
            expected="a whole model",
            fix=f"merge it into its base with chatbench merge {source} OUT, and use OUT",
        )
    path = str(folder or source)
    config = AutoConfig.from_pretrained(path, trust_remote_code=False, revision=revision)
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        asked = str(getattr(part, "_attn_implementation", None) or "")
        if "/" in asked:
            raise ChatbenchError(
                f"{source}: its config.json requests attention code from the hub: {asked[:100]!r}",
                expected="an attention implementation built into transformers",
                fix="remove attn_implementation from its config.json",
            )
    return cast(PretrainedConfig, config)


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: str) -> None:
    """Checks that the model has an embedding for every token that a text, a template or padding can need.

    Special tokens that nothing writes may lie beyond, such as the image token of Gemma 3's tokenizer.

    Raises:
        ChatbenchError: one is missing: training would fail, or give a model that cannot be loaded again.
    """
    size = int(cast(Any, model.get_input_embeddings()).weight.shape[0])
    template, special = str(tokenizer.chat_template or ""), tokenizer.added_tokens_decoder
    needed = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
    for token, index in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        unused = index in special and special[index].special and index not in needed and token not in template
        if index >= size and not unused:
            raise ChatbenchError(
                f"{source}: token {index}, {token!r}, of its tokenizer is beyond the {size:,} embeddings of the model",
                expected=f"embeddings for all {len(tokenizer):,} tokens",
                fix="call model.resize_token_embeddings(len(tokenizer)) in Python and save it, or remove the token",
            )


def best_device() -> str:
    """The fastest available device: `cuda`, `mps` or `cpu`."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def free_bytes(device: torch.device) -> int:
    """Memory that is free now: the GPU's, else this machine's, with file caches counted as free."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def inference_dtype(source: str, device: str) -> torch.dtype:
    """float32; for models of a billion parameters or more on a GPU bfloat16, or float16 if the card lacks it."""
    if not device.startswith("cuda") or is_small(source):
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def is_small(source: str) -> bool:
    """Whether a model has fewer than a billion parameters."""
    return source.startswith(("package:", "random:")) or parameter_count(source) < FULL_PRECISION_BELOW


def named_dtype(name: str) -> torch.dtype | None:
    """The data type of this name, such as "bfloat16"; None for "auto"."""
    return None if name == "auto" else cast(torch.dtype, getattr(torch, name))


def local_folder(source: str) -> Path | None:
    """The folder of a source; None for a Hub id or random weights.

    Raises:
        ChatbenchError: a packaged model that this installation does not have.
    """
    return None if source.startswith("random:") else _configured_in(source)


def _configured_in(source: str) -> Path | None:
    """As `local_folder`, but for random weights the packaged folder with their shape and tokenizer."""
    kind, _, name = source.partition(":")
    if kind not in ("package", "random"):
        path = Path(source).expanduser()
        if is_gguf(source) and path.is_file():
            return gguf_folder(path)
        return path if path.is_dir() else None
    folder = Path(str(resources.files("chatbench") / name))
    if not (folder / "config.json").is_file():
        raise ChatbenchError(f"the package has no model {name!r}", fix="reinstall chatbench")
    return folder


@_errors_named
def known_weights(source: str, seed: int) -> str | None:
    """What `Loaded.weights` will be, without loading; None for a Hub model, whose commit only the Hub knows."""
    if source.startswith("random:"):
        return f"{source}#{seed}"
    folder = local_folder(source)
    if folder is None:
        return None
    if is_gguf(source) and not Path(source).is_dir():
        file = read_object(folder / GGUF_RECORD)
        return f"gguf sha256:{file['sha256']} {file['quantisation']}"
    return weights_hash(folder)


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 over what determines a text's ids: the backend's rules, or the vocabulary of a slow tokenizer."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return "sha256:" + hashlib.sha256(f"{rules}\n{tokenizer.bos_token_id}".encode()).hexdigest()


@_errors_named
def weights_hash(folder: Path) -> str:
    """SHA-256 over the configuration and the weight files of a model folder: `sha256:...`."""
    digest = hashlib.sha256()
    for file in (folder / "config.json", folder / "adapter_config.json"):
        if file.is_file():
            # The same weights with another configuration are another model; paths and versions do not count.
            own = {name: value for name, value in read_object(file).items() if name not in _NOT_OF_THE_MODEL}
            digest.update(f"{file.name}:{json.dumps(own, sort_keys=True)}\n".encode())
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(f"{file.name}:{sha256_of(file)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


@_errors_named
def check_model_folder(folder: Path) -> None:
    """Refuses a folder that holds no model, or one whose weights are damaged or pickled.

    Raises:
        ChatbenchError: names the file and what is wrong with it.
    """
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ChatbenchError(f"{folder}: not a model folder", expected="config.json or adapter_config.json")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = any(folder.glob("*.bin"))
        raise ChatbenchError(
            f"{folder}: {'weights only as a pickle file' if pickled else 'no weights'}",
            expected="model.safetensors or adapter_model.safetensors",
            fix="save the model with safe_serialization" if pickled else "train or copy the model again",
        )
    for index in folder.glob("*.safetensors.index.json"):
        missing = sorted({*read_object(index)["weight_map"].values()} - {file.name for file in files})
        if missing:
            raise ChatbenchError(f"{folder}: {missing[0]} is missing", fix="copy or download the model again")
    for file in files:
        _checked_tensor_names(file)


def _checked_tensor_names(file: Path) -> list[str]:
    """Names of the tensors in a safetensors file, which is refused unless it is as long as its header says."""
    try:
        with safe_open(str(file), framework="pt") as opened:
            return list(opened.keys())
    except SafetensorError as error:
        raise ChatbenchError(
            f"{file}: incomplete or damaged weights", fix="train, copy or download the model again"
        ) from error
