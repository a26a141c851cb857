"""GGUF files: read once, exactly; what is wrong with one is said."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tests.support.tiny_models import tiny_model, tiny_tokenizer

from chatbench.core.errors import ChatbenchError
from chatbench.core.settings import model_key, resolve_settings
from chatbench.models.loading import empty_model, known_weights, load, load_tokenizer
from chatbench.models.weights import gguf_folder

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "model.layers": "blk",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "post_attention_layernorm": "ffn_norm", "input_layernorm": "attn_norm",
}  # fmt: skip
"""What llama.cpp calls the tensors of a Llama, by our name for them."""


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_gguf(
    path: Path,
    *,
    architecture: str = "llama",
    tokenizer: str = "gpt2",
    parts: int = 1,
    quantised: bool = True,
    scaled: str = "",
) -> Path:
    """The tiny Llama as a GGUF file: matrices in Q8_0 (its rows are one block long), or all of it in float32."""
    model, vocabulary = tiny_model("llama"), tiny_tokenizer()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(2)
    writer.add_context_length(256)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(320)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if quantised else gguf.LlamaFileType.ALL_F32)
    if scaled == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    elif scaled:
        writer.add_tensor(scaled, np.ones(4, dtype=np.float32))
    if parts > 1:
        writer.add_uint16("split.count", parts)
    writer.add_tokenizer_model(tokenizer)
    tokens = vocabulary.convert_ids_to_tokens(list(range(len(vocabulary))))
    writer.add_token_list(tokens + [f"<unused{n}>" for n in range(320 - len(tokens))])
    merges = json.loads(vocabulary.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_token_types([3, *[1] * 319])
    writer.add_eos_token_id(0)
    writer.add_chat_template(TEMPLATE)
    for name, tensor in model.state_dict().items():
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        values = tensor.numpy()
        if "attn_q" in name or "attn_k" in name:  # llama.cpp interleaves the halves of each head
            heads = 4 if "attn_q" in name else 2
            values = values.reshape(heads, 2, 4, 32).swapaxes(1, 2).reshape(values.shape)
        if quantised and values.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_file_gives_the_models_own_logits_and_tokens(tmp_path: Path) -> None:
    # The likely mistake: heads left interleaved, as llama.cpp stores them.
    file = write_gguf(tmp_path / "tiny.F32.gguf", quantised=False)

    loaded = load(str(file), device="cpu")

    text = "What is 12 + 30? Answer: A [END]"
    ids = torch.tensor([tiny_tokenizer().encode(text)])
    assert loaded.tokenizer.encode(text) == ids[0].tolist()
    assert loaded.tokenizer.chat_template == TEMPLATE
    with torch.no_grad():
        assert torch.allclose(loaded.model(ids).logits, tiny_model("llama").eval()(ids).logits, atol=1e-5)


def test_a_file_is_converted_once_wherever_it_lies(tmp_path: Path) -> None:
    first = gguf_folder(write_gguf(tmp_path / "one.gguf"))
    (first / "mark").touch()

    moved = (tmp_path / "one.gguf").rename(tmp_path / "two.gguf")

    assert (gguf_folder(moved) / "mark").exists()
    assert gguf_folder(write_gguf(tmp_path / "other.gguf", quantised=False)) != first


def test_nothing_is_left_of_a_conversion_that_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    with monkeypatch.context() as patched:
        patched.setattr("chatbench.models.weights.write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            gguf_folder(file)
    assert not [path for path in (tmp_path / "cache/chatbench/gguf").iterdir() if path.suffix == ""]

    assert load(str(file), device="cpu").weights.endswith("Q8_0")


def test_a_file_whose_shape_alone_is_asked_for_first_gets_its_weights_all_the_same(tmp_path: Path) -> None:
    # As by `finetune --dry-run`: the empty model's device is no place for what is converted.
    file = write_gguf(tmp_path / "tiny.gguf")

    assert {each.device.type for each in empty_model(str(file)).parameters()} == {"meta"}
    weights = load(str(file), device="cpu").weights
    assert weights == f"gguf sha256:{hashlib.sha256(file.read_bytes()).hexdigest()} Q8_0" == known_weights(str(file), 0)


def test_a_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    whole = file.read_bytes()
    for share in (0.1, 0.6, 0.99):  # within its metadata, its tensors, the last of them
        file.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ChatbenchError, match="cut off or damaged"):
            load(str(file))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("a.gguf", {"architecture": "perceiver"}, "architecture 'perceiver'"),
        ("a.gguf", {"tokenizer": "runes"}, r"cannot build its tokenizer \(runes\)"),
        ("a.gguf", {"scaled": "yarn"}, r"positions are scaled \(rope.scaling.type = yarn\)"),
        ("a.gguf", {"scaled": "rope_freqs.weight"}, r"positions are scaled \(rope_freqs.weight\)"),  # Llama 3.1
        ("a.gguf", {"parts": 2}, "one part of a model"),
        ("a-00001-of-00002.gguf", {}, "one part of a model"),
    ],
)
def test_what_cannot_be_read_is_named(name: str, options: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(ChatbenchError, match=said):
        load_tokenizer(str(write_gguf(tmp_path / name, **options)))  # type: ignore[arg-type]


def test_another_file_of_that_name_is_no_gguf_file(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_text("<html>not found</html>")

    with pytest.raises(ChatbenchError, match="not a GGUF file"):
        load(str(tmp_path / "a.gguf"))


def test_model_may_be_a_gguf_file_and_has_the_recipe_of_its_base(tmp_path: Path) -> None:
    file = tmp_path / "Mistral-7B-v0.1.Q4_K_M.gguf"
    file.touch()
    other = tmp_path / "Mistral-7B-v0.1-chatty.Q4_K_M.gguf"
    other.touch()

    resolved = resolve_settings(str(file))

    assert (resolved.base, resolved.recipe, resolved.key) == (str(file), "mistral-7b", "Mistral-7B-v0.1.Q4_K_M")
    assert resolve_settings(str(other)).recipe is None
    assert model_key(str(other)) == "Mistral-7B-v0.1-chatty.Q4_K_M"
    with pytest.raises(ChatbenchError, match="no such folder or file"):
        resolve_settings(str(tmp_path / "missing.gguf"))
