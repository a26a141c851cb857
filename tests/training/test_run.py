"""Training: what it learns from and writes, packed or not, in few bits, and through all that can go wrong meanwhile.

It is killed, stopped, interrupted; the disk is full; a loss is not a number. Whatever it is, the user reads one clear
error, a complete checkpoint stays, and the same command ends with the weights of an undisturbed run.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file
from tests.support.chat_templates import EXACT, save_chat_model
from tests.support.prepared_files import sums
from tests.support.tiny_models import (
    ARCHITECTURES,
    SEES,
    Architecture,
    other_model,
    save_tiny_model,
    score_examples,
    tiny_model,
    tiny_tokenizer,
)
from tests.support.tiny_runs import (
    KILLED,
    LORA,
    KilledError,
    chats,
    killed_at_checkpoint,
    log_of,
    run_tiny,
    tiny_job,
    weights_of,
)

from chatbench.cli import main
from chatbench.core.errors import ChatbenchError, StoppedError
from chatbench.core.records import Message
from chatbench.core.settings import Method, Settings
from chatbench.data.examples import ExampleRow
from chatbench.data.workspace import Workspace
from chatbench.models.encoding import encode_rows
from chatbench.models.loading import load, load_base, load_tokenizer
from chatbench.models.loss import completion_nats, padded_batch
from chatbench.models.weights import Bits, Format
from chatbench.training import checkpoints as checkpoints_module
from chatbench.training import run as training
from chatbench.training import trainer as trainer_module
from chatbench.training.dry_run import model_shape
from chatbench.training.finetune import finetune, plan_finetune
from chatbench.training.run import TrainingOutcome, base_dtype, freeze_all_but_text, train, with_adapters
from chatbench.training.trainer import CompletionTrainer, RecentLosses

TESTS = Path(__file__).parents[1]
SOURCES = f"{TESTS.parent}{os.pathsep}{TESTS.parent / 'src'}"
SELDOM: dict[str, object] = {"logging_steps": 10}
"""Lines come with checkpoints only, so that a run that stops between two has a loss that is not logged yet."""


@pytest.fixture(scope="module")
def finished(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[TrainingOutcome, Path]]:
    """Undisturbed runs of all weights and of adapters; nothing may be written into their folders."""
    folder = tmp_path_factory.mktemp("finished")
    kinds: dict[str, dict[str, object]] = {"full": SELDOM, "lora": {**SELDOM, **LORA, "lora_dropout": 0.1}}
    return {name: (run_tiny(tiny_job(base, folder / name, **flags)), folder / name) for name, flags in kinds.items()}


@pytest.fixture(scope="module")
def undisturbed(finished: dict[str, tuple[TrainingOutcome, Path]]) -> Path:
    return finished["full"][1]


@contextmanager
def killed_before_the_result() -> Iterator[None]:
    """Inside, a run ends after its last checkpoint, as if it were killed."""

    def killed(*_: object) -> None:
        raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "write_result", killed)
        with pytest.raises(KilledError):
            yield


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "split_0.unfinished").glob("checkpoint-*"))


@contextmanager
def at_step(patch: pytest.MonkeyPatch, step: int, disturb: Callable[[CompletionTrainer], None]) -> Iterator[None]:
    """Inside, a run is disturbed when this step begins."""
    undisturbed_step = CompletionTrainer.training_step

    def disturbed(self: CompletionTrainer, *arguments: Any) -> Any:
        if self.state.global_step == step - 1:
            disturb(self)
        return undisturbed_step(self, *arguments)

    with patch.context() as patched:
        patched.setattr(CompletionTrainer, "training_step", disturbed)
        yield


@pytest.mark.slow
def test_runs_killed_at_any_moment_again_and_again_end_as_undisturbed_ones(base: Path, tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, TESTS / "support" / "killed_runs.py", base, tmp_path / "killed"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": SOURCES},
        capture_output=True,
        text=True,
        check=False,
    )

    assert killed.returncode == 0, killed.stderr
    kills = dict(line.split() for line in killed.stdout.splitlines() if line.split()[:1][0] in KILLED)
    assert all(int(kills[name]) >= 1 for name in KILLED)  # else it would prove nothing
    for name, flags in KILLED.items():
        run_tiny(tiny_job(base, tmp_path / "undisturbed" / name, **flags))
        assert weights_of(tmp_path / "killed" / name) == weights_of(tmp_path / "undisturbed" / name), name
        assert log_of(tmp_path / "killed" / name) == log_of(tmp_path / "undisturbed" / name), name


@pytest.mark.parametrize(
    ("asked", "step", "raised", "said", "kept"),
    [
        (signal.SIGTERM, 1, StoppedError, "after step 1 of 6; progress saved\n  fix: ", "checkpoint-1"),
        (signal.SIGTERM, 3, StoppedError, "after step 3 of 6; progress saved\n  fix: ", "checkpoint-3"),
        (signal.SIGINT, 4, KeyboardInterrupt, "checkpoint-2 is kept; ", "checkpoint-2"),  # at once
    ],
)
def test_sigterm_saves_ctrl_c_does_not_and_the_same_command_continues(
    base: Path,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: signal.Signals,
    step: int,
    raised: type[BaseException],
    said: str,
    kept: str,
) -> None:
    with (
        at_step(monkeypatch, step, lambda _: os.kill(os.getpid(), asked)),
        pytest.raises(raised, match=f"{said}the same command continues"),
    ):
        run_tiny(tiny_job(base, tmp_path, **SELDOM))

    assert checkpoints(tmp_path)[-1] == kept
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert run_tiny(tiny_job(base, tmp_path, **SELDOM)).status == "resumed"
    assert weights_of(tmp_path) == weights_of(undisturbed)
    assert log_of(tmp_path) == log_of(undisturbed)


def test_sigterm_at_the_last_step_lets_the_run_finish(
    base: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at_step(monkeypatch, 6, lambda _: os.kill(os.getpid(), signal.SIGTERM)):
        assert run_tiny(tiny_job(base, tmp_path)).status == "trained"

    assert weights_of(tmp_path) == weights_of(undisturbed)


def test_the_command_line_tells_a_stop_from_a_wrong_input_by_its_exit_code(
    base: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["finetune", str(base), "--max-steps", "3"]
    monkeypatch.chdir(workspace.data.parent)

    with at_step(monkeypatch, 2, lambda _: os.kill(os.getpid(), signal.SIGTERM)):
        assert main(command) == 143

    assert "the same command continues" in capsys.readouterr().err
    assert main(command) == 0
    assert "resumed 3 steps" in capsys.readouterr().out


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Inside, the kernel refuses to make a file larger, as a full disk does: the libraries' own errors come up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("size", "fails"),
    [(100_000, "the weights (safetensors)"), (200_000, "the optimizer (torch.save)")],  # 156 kB and 313 kB
)
def test_a_disk_that_fills_up_ends_with_its_name_and_leaves_the_checkpoint_before(
    base: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, fails: str
) -> None:
    limit = files_no_larger_than(size)
    try:
        with (
            at_step(monkeypatch, 4, lambda _: limit.__enter__()),
            pytest.raises(ChatbenchError, match="checkpoint-4 cannot be written") as ended,
        ):
            run_tiny(tiny_job(base, tmp_path))
    finally:
        limit.__exit__(None, None, None)

    assert " free" in ended.value.found, fails
    assert "continues from the last complete checkpoint" in ended.value.fix
    assert checkpoints(tmp_path) == ["checkpoint-2"]
    run_tiny(tiny_job(base, tmp_path))
    assert weights_of(tmp_path) == weights_of(undisturbed)


def test_a_disk_that_fills_up_at_the_very_end_keeps_the_trained_model(
    base: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = training.write_result

    def when_full(*arguments: Any) -> None:
        with files_no_larger_than(100_000):
            write(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(training, "write_result", when_full)
        with pytest.raises(ChatbenchError, match="split_0 cannot be written"):
            run_tiny(tiny_job(base, tmp_path / "one", **SELDOM))
    shutil.copytree(tmp_path / "one", tmp_path / "other")

    assert "checkpoint-6" in checkpoints(tmp_path / "one")
    assert run_tiny(tiny_job(base, tmp_path / "one", **SELDOM)).status == "resumed"
    assert train(tiny_job(base, tmp_path / "other", **SELDOM), resume=False, say=lambda _: None).status == "trained"
    for folder in (tmp_path / "one", tmp_path / "other"):
        assert weights_of(folder) == weights_of(undisturbed)
        for name in ("chatbench.json", "trainer_log.jsonl"):
            assert (folder / "split_0" / name).read_bytes() == (undisturbed / "split_0" / name).read_bytes()


@pytest.mark.parametrize(
    "length", [{"max_steps": 4, "lr_scheduler_type": "constant"}, {"num_train_epochs": 1.4}], ids=["steps", "epochs"]
)
def test_a_run_killed_after_its_last_checkpoint_takes_no_further_step(
    base: Path, tmp_path: Path, length: dict[str, object]
) -> None:
    # Inside an epoch the Trainer goes on with the next batch and only then counts; each kill would add a step.
    run_tiny(tiny_job(base, tmp_path / "undisturbed", **length))
    for _ in range(2):
        with killed_before_the_result():
            run_tiny(tiny_job(base, tmp_path / "killed", **length))

    said: list[str] = []
    outcome = train(tiny_job(base, tmp_path / "killed", **length), say=said.append)

    assert (outcome.status, outcome.steps) == ("resumed", 4 if "max_steps" in length else 5)
    assert not any(line.startswith("step ") for line in said)
    assert weights_of(tmp_path / "killed") == weights_of(tmp_path / "undisturbed")
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "undisturbed")


def test_a_run_whose_checkpoints_do_not_fit_the_disk_is_refused_before_its_first_step(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 39,072 parameters, 12 bytes each, and three checkpoints at a time: 1.41 MB.
    class Usage:
        free = 1_400_000

    monkeypatch.setattr(checkpoints_module.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(ChatbenchError, match=r"1\.4 MB free on its disk") as refused:
        run_tiny(tiny_job(base, tmp_path))
    assert "save_total_limit" in refused.value.fix
    assert checkpoints(tmp_path) == []

    Usage.free = 1_410_000
    run_tiny(tiny_job(base, tmp_path))


def spoil(trainer: CompletionTrainer) -> None:
    with torch.no_grad():
        next(iter(trainer.model.parameters()))[:] = float("nan")


def test_the_first_step_whose_loss_is_not_finite_is_named_with_its_examples(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The loss is read with the checkpoint of step 4, a step later than it came up.
    seen: list[tuple[int, ...]] = []
    add = RecentLosses.add
    monkeypatch.setattr(
        RecentLosses,
        "add",
        lambda self, step, loss, examples: (seen.append(tuple(examples)), add(self, step, loss, examples)),
    )
    with at_step(monkeypatch, 3, spoil), pytest.raises(ChatbenchError) as stopped:
        run_tiny(tiny_job(base, tmp_path, logging_steps=1000))

    rows = sums(12)
    named = ", ".join(f"{rows[index].conversation_id} ({rows[index].kind})" for index in seen[2])
    assert stopped.value.found == f"the loss is not finite at step 3; examples in that step: {named}"
    assert "learning_rate" in stopped.value.fix
    assert checkpoints(tmp_path) == ["checkpoint-2"]  # else the next run would go on from weights that are no numbers


def test_a_second_run_in_the_same_folder_is_refused_and_harms_nothing(
    base: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []

    def start_another(_: CompletionTrainer) -> None:
        with pytest.raises(ChatbenchError) as error:
            run_tiny(tiny_job(base, tmp_path, seed=1))
        refused.append(error.value.found)

    with at_step(monkeypatch, 4, start_another):
        run_tiny(tiny_job(base, tmp_path))

    assert refused == [f"{tmp_path / 'split_0'}: process {os.getpid()} on {os.uname().nodename} is writing there now"]
    assert weights_of(tmp_path) == weights_of(undisturbed)
    assert not list(tmp_path.glob("*.lock"))


@pytest.mark.parametrize("flags", [{}, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_steps_of_the_same_examples_give_the_same_weights_packed_or_not(
    bases: dict[str, Path], architecture: Architecture, flags: dict[str, object], tmp_path: Path
) -> None:
    # A step of all examples, so that only the packing differs; a budget that cuts it into several trees. Outputs and
    # not weights: Adam blows the rounding of a gradient that should be zero up to a whole step, as for the biases of
    # GPT-2's keys, which change no output.
    def logits(source: Path) -> torch.Tensor:
        return load(str(source), device="cpu").model(input_ids=torch.arange(40)[None]).logits

    flags = {**flags, "learning_rate": 1e-3, "num_train_epochs": 3.0, "examples_per_step": 18, "pack_tokens": 150}
    for packing in ("none", "conversation", "question"):
        run_tiny(tiny_job(bases[architecture], tmp_path / packing, chats(6), packing=packing, **flags))
    plain, conversation, question = (
        logits(tmp_path / name / "split_0") for name in ("none", "conversation", "question")
    )

    assert torch.allclose(conversation, plain, atol=1e-3)
    assert torch.allclose(question, plain, atol=1e-3)
    assert (logits(bases[architecture]) - plain).abs().max() > 0.03


PACKED: dict[str, object] = {**LORA, "lora_dropout": 0.1, "num_train_epochs": 3.0, "examples_per_step": 4}


@pytest.mark.parametrize(
    ("kill_at", "flags"),
    [
        (2, {}),  # at step 4: goes on from 2, inside an epoch
        (3, {"train_sampling_strategy": "group_by_length"}),
        (3, {**LORA, "lora_dropout": 0.1}),
        (4, {**PACKED, "packing": "conversation"}),  # step 8, in the second of three epochs of five steps
        (4, {**PACKED, "packing": "question"}),
        (2, {**LORA, "lora_dropout": 0.1, "load_in_8bit": True, "validation_examples": 0}),
        (2, {**LORA, "lora_dropout": 0.1, "load_in_4bit": True, "validation_examples": 0}),
    ],
)
def test_a_run_killed_while_it_writes_a_checkpoint_ends_as_an_undisturbed_one(
    base: Path, tmp_path: Path, kill_at: int, flags: dict[str, object]
) -> None:
    rows = chats(6) if "packing" in flags else sums(12)
    run_tiny(tiny_job(base, tmp_path / "undisturbed", rows, **flags))
    with killed_at_checkpoint(kill_at):
        run_tiny(tiny_job(base, tmp_path / "killed", rows, **flags))
    assert not (tmp_path / "killed" / "split_0").exists()

    assert run_tiny(tiny_job(base, tmp_path / "killed", rows, **flags)).status == "resumed"

    assert weights_of(tmp_path / "killed") == weights_of(tmp_path / "undisturbed")
    one, other = tmp_path / "undisturbed" / "split_0", tmp_path / "killed" / "split_0"
    for name in ("trainer_log.jsonl", "chatbench.json"):
        assert (other / name).read_text() == (one / name).read_text()
    assert {path.name for path in other.iterdir()} == {path.name for path in one.iterdir()}


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_adapter_learns_on_quantised_weights_and_is_scored_on_the_same(
    bases: dict[str, Path], tmp_path: Path, architecture: Architecture, bits: Bits
) -> None:
    # Scored on the unquantised base, the likely mistake, the adapter has another loss than training saw.
    flags = {**LORA, "lora_dropout": 0.1, "packing": "conversation", f"load_in_{bits}bit": True}
    outcome = run_tiny(tiny_job(bases[architecture], tmp_path, **flags))
    folder = tmp_path / "split_0"

    assert outcome.last_loss < 0.95 * outcome.first_loss
    loaded = load(str(folder), device="cpu")
    kinds = {parameter.dtype for parameter in loaded.model.parameters()}
    assert kinds == {torch.float32, torch.int8 if bits == 8 else torch.uint8}
    assert loaded.weights.endswith(f"in {bits} bits")
    trained_loss = outcome.validation[-1][1]
    assert nats_per_token(folder, sums(4, 50)) == pytest.approx(trained_loss, rel=1e-5)
    assert nats_per_token(folder, sums(4, 50), quantise=False) != pytest.approx(trained_loss, rel=1e-5)


@pytest.mark.parametrize("flags", [{}, {**LORA, "load_in_4bit": True, "gradient_checkpointing": True}])
def test_bf16_autocast_trains_and_saves_float32_weights(
    bases: dict[str, Path], tmp_path: Path, flags: dict[str, object]
) -> None:
    outcome = run_tiny(tiny_job(bases["mistral"], tmp_path, precision="bf16", **flags))

    assert outcome.last_loss < outcome.first_loss
    (file,) = (tmp_path / "split_0").glob("*.safetensors")
    assert {tensor.dtype for tensor in load_file(file).values()} == {torch.float32}
    # Validated as it will be scored: in float32.
    assert outcome.validation[-1][1] == pytest.approx(nats_per_token(tmp_path / "split_0", sums(4, 50)), rel=1e-6)


def test_a_frozen_base_on_a_gpu_is_held_in_the_precision_of_the_run_and_any_other_in_float32() -> None:
    # In 16 bits whatever is asked for, a run in fp32 would compute with rounded weights.
    cases = product(get_args(Method), ("cuda", "mps", "cpu"), get_args(Format))

    held = {case: base_dtype(*case) for case in cases}

    on_gpu = {("lora", "cuda", "bf16"): torch.bfloat16, ("lora", "cuda", "fp16"): torch.float16}
    assert held == {**dict.fromkeys(held, torch.float32), **on_gpu}
    assert len(held) == 2 * 3 * 3


@pytest.mark.parametrize("method", ["full", "lora"])
def test_of_a_model_that_could_see_images_only_what_reads_text_is_trained(method: Method) -> None:
    # What gets no gradient would be saved, counted, and waited for by distributed training.
    settings, model = Settings(method=method), other_model("gemma3", **SEES)
    shape = model_shape(model, settings)
    if method == "lora":
        model = with_adapters(model, settings)
    else:
        freeze_all_but_text(model)

    completion_nats(model, padded_batch(encode_rows(tiny_tokenizer(), sums(4), 256).examples, 0)).sum().backward()

    learned = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert [name for name, weight in learned.items() if weight.grad is None or "vision" in name] == []
    assert method == "full" or sum(weight.numel() for weight in learned.values()) == shape.adapters > 0


def test_how_the_base_is_sampled_from_does_not_become_how_the_simulator_is(tmp_path: Path) -> None:
    # This one is not even saved: a temperature without do_sample.
    base = save_tiny_model(tmp_path / "base")
    own = {"temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.2, "eos_token_id": [0, 7]}
    (base / "generation_config.json").write_text(json.dumps(own))

    run_tiny(tiny_job(base, tmp_path, max_steps=2))

    written = json.loads((tmp_path / "split_0" / "generation_config.json").read_text())
    assert {name: written.get(name) for name in ("do_sample", "top_k", *own)} == {
        "do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": None,
        "eos_token_id": [0, 7],
    }  # fmt: skip


def gradients(base: Path, settings: Settings, bits: Bits | None) -> tuple[float, dict[str, torch.Tensor], int]:
    """Loss and gradients of one batch, and how many tensors the backward pass kept."""
    torch.manual_seed(0)
    model: Any = load_base(str(base), dtype=torch.float32, bits=bits).model.train()
    if settings.method == "lora":
        model = with_adapters(model, settings)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at first, which would leave lora_A without gradients
                torch.nn.init.normal_(parameter, std=0.1)
    if settings.gradient_checkpointing:
        model.activation_checkpointing_enable()
    kept = []
    batch = padded_batch(encode_rows(tiny_tokenizer(), sums(4), 256).examples, 0)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(1) or t, lambda t: t):
        loss = completion_nats(model, batch).mean()
    loss.backward()
    return float(loss), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, len(kept)


@pytest.mark.parametrize(("method", "bits"), [("full", None), ("lora", None), ("lora", 8), ("lora", 4)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradient_checkpointing_changes_neither_loss_nor_gradients(
    bases: dict[str, Path], architecture: Architecture, method: str, bits: Bits | None
) -> None:
    # With frozen embeddings and a reentrant checkpoint, the likely mistake, no gradient would arrive at all.
    plain, checkpointed = (
        gradients(bases[architecture], Settings(method=method, lora_dropout=0.0, gradient_checkpointing=on), bits)  # type: ignore[arg-type]
        for on in (False, True)
    )

    assert checkpointed[0] == plain[0]
    assert checkpointed[1].keys() == plain[1].keys() != set()
    for name, gradient in plain[1].items():
        assert torch.allclose(checkpointed[1][name], gradient, rtol=1e-5, atol=1e-7), name
        assert gradient.abs().max() > 0, name
    assert checkpointed[2] < plain[2] / 2  # else it was not on


def nats_per_token(folder: Path, rows: list[ExampleRow], *, quantise: bool = True) -> float:
    loaded = load(str(folder), device="cpu", quantise=quantise)
    losses = score_examples(loaded.model, loaded.tokenizer, rows)
    return sum(loss.nats for loss in losses) / sum(loss.tokens for loss in losses)


def test_every_scored_token_of_a_step_weighs_the_same_however_it_is_cut_into_batches(
    base: Path, tmp_path: Path
) -> None:
    # The loss of step 1 is that of the base, so it is known from scoring. The mean over batches of their means, the
    # likely mistake, differs because answers are shorter than questions; so does a loss on prompts too.
    loaded = load(str(base), device="cpu")
    losses = score_examples(loaded.model, loaded.tokenizer, sums(12))
    by_token = sum(loss.nats for loss in losses) / sum(loss.tokens for loss in losses)
    assert abs(by_token - sum(loss.nats / loss.tokens for loss in losses) / 12) > 1e-3

    first_steps = []
    for batch in (12, 4, 1):
        flags = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 12 // batch, "max_steps": 1}
        run_tiny(tiny_job(base, tmp_path / str(batch), **flags))
        first_steps.append(next(row for row in log_of(tmp_path / str(batch)) if "loss" in row))

    assert [row["loss"] for row in first_steps] == pytest.approx([by_token] * 3, rel=1e-6)
    assert [row["grad_norm"] for row in first_steps] == pytest.approx([first_steps[0]["grad_norm"]] * 3, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "weights"),
    [("full", {"model.safetensors"}), ("lora", {"adapter_model.safetensors", "adapter_config.json"})],
)
def test_a_result_holds_all_that_loads_and_explains_it_and_its_loss_is_that_of_the_reloaded_model(
    finished: dict[str, tuple[TrainingOutcome, Path]], base: Path, kind: str, weights: set[str]
) -> None:
    outcome, place = finished[kind]
    folder = place / "split_0"
    names = {path.name for path in folder.iterdir()}

    assert names >= weights | {
        "config.json", "tokenizer.json", "training_args.bin", "README.md", "chatbench.json", "trainer_log.jsonl",
        "checkpoint-4", "checkpoint-6", "special_tokens_map.json",
    }  # fmt: skip
    assert ("model.safetensors" in names) == (kind == "full")
    assert "checkpoint-2" not in names  # two are kept
    assert not [*place.glob("*.unfinished"), *place.glob("*.old")]
    assert list((place / "logs").glob("events.*"))
    record = json.loads((folder / "chatbench.json").read_text())
    assert record["settings"]["learning_rate"] == (1e-3 if kind == "full" else 1e-2)
    assert record["origins"]["learning_rate"] == "--learning-rate"
    assert record["base_weights"] == load(str(base), device="cpu").weights
    assert ("on sha256:" in load(str(folder), device="cpu").weights) == (kind == "lora")
    assert (outcome.status, outcome.steps) == ("trained", 6)
    assert [epoch for epoch, _ in outcome.validation] == [1.0, 2.0]
    assert outcome.validation[-1][1] == pytest.approx(nats_per_token(folder, sums(4, 50)), rel=1e-6)


def test_a_finished_run_is_not_repeated_unless_it_differs_or_is_damaged_and_overwriting_is_asked_for(
    base: Path, tmp_path: Path
) -> None:
    first = run_tiny(tiny_job(base, tmp_path, max_steps=1))
    weights = tmp_path / "split_0" / "model.safetensors"
    kept, written = weights.read_bytes(), weights.stat().st_mtime_ns

    second = run_tiny(tiny_job(base, tmp_path, max_steps=1))
    assert (second.status, second.last_loss, weights.stat().st_mtime_ns) == (
        "already trained",
        first.last_loss,
        written,
    )
    with pytest.raises(ChatbenchError, match=r"learning_rate: 0\.001 -> 0\.01") as refused:
        run_tiny(tiny_job(base, tmp_path, max_steps=1, learning_rate=1e-2))
    assert "--overwrite" in refused.value.fix
    assert weights.read_bytes() == kept

    weights.write_bytes(kept[:-4] + b"0000")  # as long as before
    (tmp_path / "split_0" / "README.md").write_text("mine")  # may change
    with pytest.raises(ChatbenchError, match=r"model\.safetensors is missing or differs from what training wrote"):
        run_tiny(tiny_job(base, tmp_path, max_steps=1))
    assert train(tiny_job(base, tmp_path, max_steps=1), overwrite=True, say=lambda _: None).status == "trained"
    assert weights.read_bytes() == kept


def test_a_base_that_was_moved_is_the_same_and_one_that_has_changed_is_not(tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "here" / "small")
    run_tiny(tiny_job(base, tmp_path, max_steps=1, **LORA))
    moved = (tmp_path / "here").rename(tmp_path / "there")
    assert run_tiny(tiny_job(moved / "small", tmp_path, max_steps=1, **LORA)).status == "already trained"
    moved.rename(tmp_path / "here")
    tiny_model("llama", seed=9).save_pretrained(base)

    with pytest.raises(ChatbenchError, match="weights of the base"):
        run_tiny(tiny_job(base, tmp_path, max_steps=1, **LORA))
    with pytest.raises(ChatbenchError, match="trained on other weights"):
        load(str(tmp_path / "split_0"), device="cpu")


def test_with_another_chat_template_or_tokenizer_a_run_is_neither_continued_nor_already_there(tmp_path: Path) -> None:
    base = save_chat_model(tmp_path / "base")
    rows = [
        replace(row, messages=(Message("system", "Add."), Message("user", "1 + 2"), Message("assistant", "It is 3")))
        for row in sums(4)
    ]
    job = replace(tiny_job(base, tmp_path, rows, max_steps=2, template="chat"), validation=rows)
    with killed_at_checkpoint(1):
        run_tiny(job)
    save_chat_model(base, EXACT["no system"])
    with pytest.raises(ChatbenchError, match=r"text form: chat template \w+ -> chat template \w+"):
        run_tiny(job)

    save_chat_model(base)
    record = tmp_path / "split_0.unfinished" / "chatbench.json"
    of_before = {name: value for name, value in json.loads(record.read_text()).items() if name != "text_form"}
    record.write_text(json.dumps(of_before))  # as an earlier version wrote it
    assert run_tiny(job).status == "trained"
    assert run_tiny(job).status == "already trained"

    tokenizer = load_tokenizer(str(base))
    tokenizer.add_tokens(["plus"])
    tokenizer.save_pretrained(base)
    with pytest.raises(ChatbenchError, match="tokenizer: sha256:"):
        run_tiny(job)


def test_a_killed_run_is_not_continued_with_other_settings(base: Path, tmp_path: Path) -> None:
    with killed_at_checkpoint(1):
        run_tiny(tiny_job(base, tmp_path))

    with pytest.raises(ChatbenchError, match="seed: 0 -> 1"):
        run_tiny(tiny_job(base, tmp_path, seed=1))
    assert train(tiny_job(base, tmp_path, seed=1), overwrite=True, say=lambda _: None).status == "trained"


def test_what_cannot_be_trained_is_refused_and_what_is_there_left_alone(base: Path, tmp_path: Path) -> None:
    (tmp_path / "split_0").mkdir()
    (tmp_path / "split_0" / "notes.txt").write_text("mine")

    with pytest.raises(ChatbenchError, match="not empty"):
        run_tiny(tiny_job(base, tmp_path))
    with pytest.raises(ChatbenchError, match="no training examples"):
        run_tiny(tiny_job(base, tmp_path, []))
    assert (tmp_path / "split_0" / "notes.txt").read_text() == "mine"


def test_examples_longer_than_the_context_are_left_out_counted_and_said(base: Path, tmp_path: Path) -> None:
    said: list[str] = []

    outcome = train(tiny_job(base, tmp_path, max_steps=1, max_tokens=50), say=said.append)

    lengths = [len(tiny_tokenizer().encode(r.prompt)) + len(tiny_tokenizer().encode(r.completion)) for r in sums(12)]
    assert 12 > outcome.examples_left_out == sum(length > 50 for length in lengths) > 0
    assert any(f"{outcome.examples_left_out} left out" in line for line in said)
    record = json.loads((tmp_path / "split_0" / "chatbench.json").read_text())
    assert record["outcome"]["examples_left_out"] == outcome.examples_left_out


def test_the_first_step_is_said_whatever_the_logging_and_losses_as_the_trainer_says_them(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(trainer_module, "SILENT_SECONDS", 0)

    train(tiny_job(base, tmp_path, logging_steps=1000, save_steps=1000), say=said.append)

    steps = [line for line in said if line.startswith("step ")]
    assert steps[0].startswith("step 1/6: 1 forward and backward passes took")
    assert any(line.startswith("{'eval_loss': '") and "'epoch': '1'" in line for line in said)
    monkeypatch.setattr(trainer_module, "SILENT_SECONDS", 1000)
    said.clear()
    train(tiny_job(base, tmp_path / "quick", logging_steps=1000, save_steps=1000), say=said.append)
    assert [line.split()[1] for line in said if line.startswith("step ")] == ["1/6", "6/6"]


def test_finetune_reads_a_prepared_split_and_writes_where_the_others_look(
    base: Path, workspace: Workspace, tmp_path: Path
) -> None:
    said: list[str] = []

    result = finetune(str(base), workspace=workspace, flags={"max_steps": 2, "precision": "fp32"}, say=said.append)

    assert result.folder == tmp_path / "results" / "models" / "llama" / "split_0"
    assert (result.folder / "chatbench.json").is_file()
    assert list((tmp_path / "results" / "logs" / "llama" / "split_0").glob("events.*"))
    assert any("max_steps" in line and "--max-steps" in line for line in said)
    assert "trained 2 steps" in said[-1]
    with pytest.raises(ChatbenchError, match="no such split: split_7"):
        finetune(str(base), workspace=workspace, split="split_7")


def test_the_overrides_file_is_read_where_it_always_lies_unless_another_is_given(
    base: Path, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "training_args.json").write_text('{"warmup_ratio": 0.25, "eval_strategy": "no"}')
    (tmp_path / "own.json").write_text("{}")
    monkeypatch.chdir(tmp_path)

    plan = plan_finetune(str(base), workspace=workspace, say=said.append)
    assert (plan.resolved.settings.warmup_steps, plan.resolved.settings.validation_examples) == (0.25, 0)
    assert any(line.split() == ["warmup_steps", "0.25", "configs/training_args.json"] for line in said)
    own = plan_finetune(str(base), workspace=workspace, config=tmp_path / "own.json", say=said.append)
    assert own.resolved.settings.warmup_steps == 0
