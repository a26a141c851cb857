"""Merging an adapter into its base: the same logits from one ordinary folder, or a refusal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.finished_folders import run_record, save_adapter
from tests.support.prepared_files import write_prepared
from tests.support.tiny_models import Architecture, save_tiny_model, tiny_tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)

from chatbench.cli import main
from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json, write_json
from chatbench.data.workspace import Workspace
from chatbench.models import loading
from chatbench.models.loading import Loaded, load
from chatbench.models.run_record import differing_file, run_lock, write_record
from chatbench.publishing import upload as merging
from chatbench.publishing.upload import MergeType, finished_model, merge_adapter
from chatbench.scoring.eval_ppl import eval_ppl
from chatbench.training.finetune import finetune

IDS = torch.arange(5, 45)[None]
TARGETS = {"gpt2": ["c_attn", "attn.c_proj"], "mistral": ["q_proj", "v_proj"], "llama": ["q_proj", "v_proj"]}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_tiny_model(tmp_path / "base")


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return save_adapter(tmp_path / "adapter", base, ["q_proj"])


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=IDS).logits.float()


def jitter(module: torch.nn.Module) -> None:
    for weight in module.parameters(recurse=False):
        weight.data += 0.1 * torch.randn_like(weight)


def save_tied_llama(folder: Path) -> Path:
    """A tiny Llama whose input and output embeddings are one matrix."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.2, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_the_base_is_looked_up_at_the_commit_that_was_trained_on(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without it, a base that was stored otherwise since, or of which only that commit is on this disk, goes wrong.
    write_json(adapter / "adapter_config.json", {**read_json(adapter / "adapter_config.json"), "revision": "5c1e"})
    tuned = save_tiny_model(tmp_path / "tuned", seed=3)
    write_record(tuned, {**run_record(base), "base": "org/base", "base_weights": "org/base@5c1e"})
    asked, load_base = [], loading.load_base

    def configuration(source: str, *, revision: str | None = None) -> PretrainedConfig:
        asked.append((source, revision))
        return AutoConfig.from_pretrained(base)

    def at_commit(source: str, *, revision: str | None, **options: Any) -> Loaded:
        asked.append((source, revision))
        return replace(load_base(str(base), **options), weights="org/base@5c1e")

    with monkeypatch.context() as patched:
        patched.setattr(merging, "configuration", configuration)
        merge_adapter(adapter, tmp_path / "merged")
    monkeypatch.setattr(loading, "load_base", at_commit)
    merge_adapter(tuned, tmp_path / "average", share=0.5)
    assert asked == [(str(base), "5c1e"), (str(tuned), None), ("org/base", "5c1e")]


@pytest.mark.parametrize("architecture", ["gpt2", "mistral", "llama"])
def test_a_merged_folder_gives_the_logits_of_base_and_adapter_in_plain_transformers(
    tmp_path: Path, architecture: Architecture
) -> None:
    # GPT-2's Conv1D holds its matrix the other way round: a merge that forgets it fits attn.c_proj, which is square,
    # and gives other logits. transformers would not even save the base's settings: a temperature without do_sample.
    base = save_tiny_model(tmp_path / "base", architecture)
    own = {"temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.2, "eos_token_id": [0, 7]}
    write_json(base / "generation_config.json", own)
    adapter = save_adapter(tmp_path / "adapter", base, TARGETS[architecture])
    expected = logits(load(str(adapter), device="cpu", merge=False).model)
    assert (expected - logits(load(str(base), device="cpu").model)).abs().max() > 0.1  # the adapter does something

    merged = merge_adapter(adapter, tmp_path / "merged")

    model = AutoModelForCausalLM.from_pretrained(merged.folder)
    assert (logits(model) - expected).abs().max() < 1e-5
    assert (merged.dtype, model.dtype) == ("float32", torch.float32)
    assert differing_file(merged.folder) is None  # synced, and its files listed
    assert AutoTokenizer.from_pretrained(merged.folder).encode("what is 12") == tiny_tokenizer().encode("what is 12")
    sampled = read_json(merged.folder / "generation_config.json")  # as in simulation
    assert [sampled.get(name) for name in ("do_sample", "top_k", *own)] == [True, 0, 1.0, 1.0, None, [0, 7]]
    names = {path.name for path in merged.folder.iterdir()}
    assert names >= {"config.json", "generation_config.json", "model.safetensors", "README.md", "chatbench.json"}
    assert not any(name.startswith("adapter") for name in names)


@pytest.mark.parametrize("targets", [["q_proj"], ["lm_head"], ["embed_tokens"]])
def test_tied_embeddings_part_where_only_one_of_them_is_adapted(tmp_path: Path, targets: list[str]) -> None:
    # Merged into the one matrix that both share, a change of the output head reaches the input embeddings too.
    base = save_tied_llama(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", base, targets)
    expected = logits(load(str(adapter), device="cpu", merge=False).model)

    merge_adapter(adapter, tmp_path / "merged")

    in_memory = load(str(adapter), device="cpu").model
    assert not any("lora" in name for name, _ in in_memory.named_parameters())
    assert (logits(in_memory) - expected).abs().max() < 1e-5
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert (logits(model) - expected).abs().max() < 1e-5
    assert model.config.tie_word_embeddings is (targets == ["q_proj"])


@pytest.mark.parametrize("whole", [False, True])
def test_a_share_averages_the_weights_of_base_and_fine_tuned_model(tmp_path: Path, whole: bool) -> None:
    # The likely mistakes: the base's share and the model's exchanged, and an adapter's change counted twice.
    base, tuned = save_tied_llama(tmp_path / "base"), tmp_path / "tuned"
    if whole:
        save_tiny_model(tuned, seed=3)
        AutoModelForCausalLM.from_pretrained(base).apply(jitter).save_pretrained(tuned)
        write_record(tuned, run_record(base, method="full"))
    else:
        merge_adapter(save_adapter(tmp_path / "adapter", base, ["q_proj", "v_proj"]), tuned)

    merged = merge_adapter(tuned if whole else tmp_path / "adapter", tmp_path / "average", share=0.25)

    of_base, of_tuned, averaged = (
        dict(AutoModelForCausalLM.from_pretrained(folder).named_parameters()) for folder in (base, tuned, merged.folder)
    )
    assert any(not torch.equal(of_base[name], of_tuned[name]) for name in of_base)
    for name, weight in averaged.items():
        assert torch.allclose(weight, 0.75 * of_base[name] + 0.25 * of_tuned[name], atol=1e-6)
    assert read_json(merged.folder / "chatbench.json")["merged"]["share"] == 0.25
    card = (merged.folder / "README.md").read_text()
    assert "an average, 0.25 of the fine-tuned model and 0.75 of the base, and are stored in `float32`" in card
    assert "adapter is merged" not in card


def test_a_share_needs_to_be_one_and_a_whole_model_its_own_base(tmp_path: Path) -> None:
    base = save_tied_llama(tmp_path / "base")
    save_tiny_model(tmp_path / "tuned")
    write_record(tmp_path / "tuned", {**run_record(base), "base_weights": "sha256:others"})

    with pytest.raises(ChatbenchError, match=r"share = 1\.5"):
        merge_adapter(tmp_path / "tuned", tmp_path / "out", share=1.5)
    with pytest.raises(ChatbenchError, match="differ from those that were fine-tuned under this name"):
        merge_adapter(tmp_path / "tuned", tmp_path / "out", share=0.5)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("stored", "asked"), [(torch.float32, "bfloat16"), (torch.bfloat16, "auto")])
def test_half_precision_rounds_the_merged_weights_once_and_auto_is_the_format_of_the_base(
    base: Path, tmp_path: Path, stored: torch.dtype, asked: MergeType
) -> None:
    # peft's safe merge would round the adapter's change before it is added.
    AutoModelForCausalLM.from_pretrained(base).to(stored).save_pretrained(base)
    adapter = save_adapter(tmp_path / "adapter", base, ["q_proj", "v_proj"])

    merge_adapter(adapter, tmp_path / "exact", dtype="float32")
    merged = merge_adapter(adapter, tmp_path / "half", dtype=asked)

    exact, half = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("exact", "half"))
    assert (merged.dtype, half.dtype) == ("bfloat16", torch.bfloat16)
    assert all(map(torch.equal, (one.to(torch.bfloat16) for one in exact.parameters()), half.parameters()))


def test_the_record_says_what_was_merged_and_lets_chatbench_use_the_folder(adapter: Path, tmp_path: Path) -> None:
    merge_adapter(adapter, tmp_path / "merged")

    record = json.loads((tmp_path / "merged" / "chatbench.json").read_text())
    before = json.loads((adapter / "chatbench.json").read_text())
    assert {name: record[name] for name in before} == before
    assert record["merged"]["dtype"] == "float32"
    assert record["merged"]["adapter_weights"].startswith("sha256:")
    loaded = load(str(tmp_path / "merged"), device="cpu")
    assert (logits(loaded.model) - logits(load(str(adapter), device="cpu").model)).abs().max() < 1e-5
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "merged into the base's weights" in card
    assert "library_name: transformers" in card
    assert "peft" not in card.partition("## Training")[0]


def test_a_merged_model_among_the_results_is_scored_like_its_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its name says nothing of the base, which eval-ppl scores too: that stands in the record.
    monkeypatch.chdir(tmp_path)
    base, data = save_tiny_model(tmp_path / "small"), write_prepared(tmp_path / "data")
    flags: dict[str, object] = {"max_steps": 2, "precision": "fp32", "method": "lora", "learning_rate": 1e-2}
    results = tmp_path / "results"
    workspace = Workspace(data, results)
    adapter = finetune(str(base), workspace=workspace, flags=flags, say=lambda _: None).folder

    merge_adapter(adapter, results / "models" / "small-merged" / "split_0")

    for name in ("resolved_settings.json", "trainer_log.jsonl", "loss_curve.png"):
        assert (results / "models" / "small-merged" / "split_0" / name).read_bytes() == (adapter / name).read_bytes()
    (one,) = eval_ppl(str(base), workspace=workspace, say=lambda _: None)
    (other,) = eval_ppl("small-merged", workspace=workspace, say=lambda _: None)
    assert other.finetuned.perplexity == pytest.approx(one.finetuned.perplexity, rel=1e-6)
    assert other.base == one.base
    assert other.base.perplexity != pytest.approx(other.finetuned.perplexity, rel=1e-3)


def test_an_adapter_of_a_quantised_base_is_merged_into_the_unquantised_one_and_the_card_says_so(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    quantised = save_adapter(tmp_path / "quantised", base, ["q_proj"], load_in_8bit=True)
    for name in ("chatbench.json", "README.md"):  # the other one is not of our training, and gets no card of ours
        (adapter / name).unlink()

    merge_adapter(quantised, tmp_path / "merged")
    merge_adapter(adapter, tmp_path / "expected")

    one, other = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("merged", "expected"))
    assert torch.equal(logits(one), logits(other))
    assert not hasattr(one.config, "quantization_config")
    assert "8-bit weights" in (tmp_path / "merged" / "README.md").read_text()
    assert not (tmp_path / "expected" / "README.md").exists()


@pytest.mark.parametrize(
    ("what", "raised"), [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "No space left"), ChatbenchError)]
)
def test_a_merge_that_is_stopped_or_finds_the_disk_full_leaves_nothing(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: BaseException, raised: type[BaseException]
) -> None:
    def stopped(*_: object) -> None:
        raise what

    with monkeypatch.context() as patched:
        patched.setattr(merging, "write_record", stopped)
        with pytest.raises(raised):
            merge_adapter(adapter, tmp_path / "merged")
    assert {path.name for path in tmp_path.iterdir()} == {"adapter", "base"}

    (tmp_path / "merged.unfinished").mkdir()  # what a kill leaves
    (tmp_path / "merged.unfinished" / "adapter_config.json").write_text("{}")
    merge_adapter(adapter, tmp_path / "merged")
    assert (tmp_path / "merged" / "README.md").is_file()
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    assert not (tmp_path / "merged.unfinished").exists()


def test_what_cannot_be_merged_is_refused_and_nothing_is_written(base: Path, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")

    with pytest.raises(ChatbenchError, match="no adapter"):
        merge_adapter(base, tmp_path / "merged")
    with pytest.raises(ChatbenchError, match="already exists"):
        merge_adapter(adapter, tmp_path / "full")
    with run_lock(tmp_path / "merged"), pytest.raises(ChatbenchError, match="is writing there now"):
        merge_adapter(adapter, tmp_path / "merged")
    with pytest.raises(ChatbenchError, match="not been fine-tuned"):
        finished_model(str(base), workspace=Workspace(results=tmp_path / "results"), split="split_0")
    save_tiny_model(base, seed=9)
    with pytest.raises(ChatbenchError, match="other weights"):
        merge_adapter(adapter, tmp_path / "merged")

    assert not (tmp_path / "merged").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]


def test_the_command_takes_a_folder_or_a_model_and_its_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = save_tiny_model(tmp_path / "base")
    save_adapter(tmp_path / "results" / "models" / "base" / "split_1", base, ["q_proj"])

    assert main(["merge", "base", "by-name", "--split", "split_1"]) == 0
    assert main(["merge", "results/models/base/split_1", "by-folder", "--dtype", "float16"]) == 0
    assert main(["merge", "base", "nothing", "--split", "split_0"]) == 2

    printed = capsys.readouterr()
    assert "by-name, weights in float32" in printed.out
    assert "by-folder, weights in float16" in printed.out
    assert "SPLIT_ID=split_0 chatbench finetune base" in printed.err
    assert Path("by-name/model.safetensors").stat().st_size > 1.9 * Path("by-folder/model.safetensors").stat().st_size
