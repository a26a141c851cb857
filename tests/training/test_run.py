"""Training: packed or not, on a base in few bits, and through everything that can go wrong while a run trains.

It is killed, stopped, interrupted; the disk is full; a loss is not a number. Whatever it is, the user reads one clear
error, a complete checkpoint stays, and the same command ends with the weights of an undisturbed run.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.support.prepared_files import sums, write_prepared
from tests.support.tiny_models import ARCHITECTURES, Architecture, save_tiny_model, score_examples, tiny_tokenizer
from tests.support.tiny_runs import (
    KILLED,
    LORA,
    chats,
    killed_at_checkpoint,
    log_of,
    run_tiny,
    tiny_job,
    weights_of,
)

from chatbench.cli import main
from chatbench.core.errors import ChatbenchError, StoppedError
from chatbench.core.settings import Packing, Settings
from chatbench.models.encoding import encode_rows
from chatbench.models.loading import load, load_base
from chatbench.models.loss import completion_nats, padded_batch
from chatbench.models.precision import Bits
from chatbench.training import checkpoints as checkpoints_module
from chatbench.training import run as training
from chatbench.training.run import with_adapters
from chatbench.training.trainer import CompletionTrainer, RecentLosses

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: save_tiny_model(folder / name, name) for name in ARCHITECTURES}


@pytest.fixture(scope="module")
def base(bases: dict[str, Path]) -> Path:
    return bases["llama"]


@pytest.fixture(scope="module")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    run_tiny(tiny_job(base, folder))
    return folder


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
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(TESTS.parent)},
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


@pytest.mark.parametrize("step", [1, 4])
def test_sigterm_saves_and_stops_and_the_same_command_continues(
    base: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    with (
        at_step(monkeypatch, step, lambda _: os.kill(os.getpid(), signal.SIGTERM)),
        pytest.raises(StoppedError, match=f"after step {step} of 6, and saved") as stopped,
    ):
        run_tiny(tiny_job(base, tmp_path, logging_steps=10))

    assert stopped.value.fix == "the same command continues"
    assert checkpoints(tmp_path)[-1] == f"checkpoint-{step}"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert run_tiny(tiny_job(base, tmp_path, logging_steps=10)).status == "resumed"
    assert weights_of(tmp_path) == weights_of(undisturbed)


def test_sigterm_at_the_last_step_lets_the_run_finish(
    base: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at_step(monkeypatch, 6, lambda _: os.kill(os.getpid(), signal.SIGTERM)):
        assert run_tiny(tiny_job(base, tmp_path)).status == "trained"

    assert weights_of(tmp_path) == weights_of(undisturbed)


def test_the_command_line_tells_a_stop_from_a_wrong_input_by_its_exit_code(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_prepared(tmp_path / "data")
    command = ["finetune", str(base), "--data", str(data), "--results", str(tmp_path / "results"), "--max-steps", "3"]
    monkeypatch.chdir(tmp_path)

    with at_step(monkeypatch, 2, lambda _: os.kill(os.getpid(), signal.SIGTERM)):
        assert main(command) == 143

    assert "the same command continues" in capsys.readouterr().err
    assert main(command) == 0
    assert "resumed 3 steps" in capsys.readouterr().out


def test_ctrl_c_stops_at_once_and_the_same_command_continues(
    base: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        at_step(monkeypatch, 4, lambda _: os.kill(os.getpid(), signal.SIGINT)),
        pytest.raises(KeyboardInterrupt),
    ):
        run_tiny(tiny_job(base, tmp_path))

    assert checkpoints(tmp_path) == ["checkpoint-2"]
    run_tiny(tiny_job(base, tmp_path))
    assert weights_of(tmp_path) == weights_of(undisturbed)


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

    assert "are free" in ended.value.found, fails
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
            run_tiny(tiny_job(base, tmp_path))

    assert "checkpoint-6" in checkpoints(tmp_path)
    assert run_tiny(tiny_job(base, tmp_path)).status == "resumed"
    assert weights_of(tmp_path) == weights_of(undisturbed)


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
    # A line is logged every 10 steps, so the loss is read two steps later than it came up.
    seen: list[tuple[int, ...]] = []
    add = RecentLosses.add
    monkeypatch.setattr(
        RecentLosses,
        "add",
        lambda self, step, loss, examples: (seen.append(tuple(examples)), add(self, step, loss, examples)),
    )
    with at_step(monkeypatch, 2, spoil), pytest.raises(ChatbenchError) as stopped:
        run_tiny(tiny_job(base, tmp_path, logging_steps=10, save_steps=1000))

    rows = sums(12)
    named = ", ".join(f"{rows[index].conversation_id} ({rows[index].kind})" for index in seen[1])
    assert stopped.value.found == f"the loss is not finite at step 2; its examples: {named}"
    assert "learning_rate" in stopped.value.fix


def test_no_checkpoint_is_written_after_a_loss_that_is_not_finite(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else the next run would continue from weights that are not numbers.
    with at_step(monkeypatch, 3, spoil), pytest.raises(ChatbenchError, match="not finite at step 3"):
        run_tiny(tiny_job(base, tmp_path, logging_steps=1000, save_steps=2))

    assert checkpoints(tmp_path) == ["checkpoint-2"]


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

    assert refused == [f"{tmp_path / 'split_0'}: process {os.getpid()} on {os.uname().nodename} is training there now"]
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


@pytest.mark.parametrize("packing", ["conversation", "question"])
def test_a_packed_run_killed_in_mid_epoch_ends_with_the_weights_of_an_undisturbed_one(
    base: Path, packing: Packing, tmp_path: Path
) -> None:
    settings: dict[str, object] = {
        "packing": packing, "examples_per_step": 4, "method": "lora", "lora_dropout": 0.1, "num_train_epochs": 3.0,
    }  # fmt: skip
    run_tiny(tiny_job(base, tmp_path / "one", chats(6), **settings))

    with killed_at_checkpoint(4):  # step 8, in the second of three epochs of five steps
        run_tiny(tiny_job(base, tmp_path / "two", chats(6), **settings))
    run_tiny(tiny_job(base, tmp_path / "two", chats(6), **settings))

    assert weights_of(tmp_path / "two") == weights_of(tmp_path / "one")


def test_grouping_by_length_and_packing_exclude_each_other(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ChatbenchError, match="choose one"):
        tiny_job(base, tmp_path, packing="conversation", train_sampling_strategy="group_by_length")


def held_out_nats(folder: Path, *, quantise: bool = True) -> float:
    loaded = load(str(folder), device="cpu", quantise=quantise)
    losses = score_examples(loaded.model, loaded.tokenizer, sums(4, 50))
    return sum(loss.nats for loss in losses) / sum(loss.tokens for loss in losses)


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
    assert held_out_nats(folder) == pytest.approx(trained_loss, rel=1e-5)
    assert held_out_nats(folder, quantise=False) != pytest.approx(trained_loss, rel=1e-5)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_killed_run_on_quantised_weights_ends_in_the_weights_of_an_undisturbed_one(
    base: Path, tmp_path: Path, bits: Bits
) -> None:
    flags = {**LORA, "lora_dropout": 0.1, f"load_in_{bits}bit": True, "validation_examples": 0}
    run_tiny(tiny_job(base, tmp_path / "undisturbed", **flags))

    with killed_at_checkpoint(2):
        run_tiny(tiny_job(base, tmp_path / "killed", **flags))

    assert run_tiny(tiny_job(base, tmp_path / "killed", **flags)).status == "resumed"
    assert weights_of(tmp_path / "killed") == weights_of(tmp_path / "undisturbed")


def test_bf16_autocast_trains_float32_adapters_on_quantised_weights(bases: dict[str, Path], tmp_path: Path) -> None:
    flags = {**LORA, "load_in_4bit": True, "precision": "bf16", "gradient_checkpointing": True}
    outcome = run_tiny(tiny_job(bases["mistral"], tmp_path, **flags))

    assert outcome.last_loss < outcome.first_loss
    stored = load_file(tmp_path / "split_0" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}


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
