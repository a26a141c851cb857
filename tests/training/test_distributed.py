"""Several processes: they learn what one learns, stop and continue together, and leave an ordinary model folder.

Two processes on this machine's processor stand for GPUs (gloo for NCCL). They are started with the launchers and the
files in configs/accelerate that people use; the runs are in distributed_runs.py.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env
from tests.support.prepared_files import sums, write_prepared
from tests.support.tiny_models import score_examples
from tests.support.tiny_runs import LORA, STANDSTILL, chats, log_of, run_tiny, tiny_job, weights_of
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from chatbench.cli import main
from chatbench.core.errors import ChatbenchError
from chatbench.core.settings import Settings, resolve_settings
from chatbench.models.loading import load
from chatbench.models.run_record import differing_file
from chatbench.training.distributed import check_sharded, check_shared, refuse_launch

TESTS = Path(__file__).parents[1]
CONFIGS = TESTS.parent / "configs" / "accelerate"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]


def environment() -> dict[str, str]:
    hidden = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **hidden, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS.parent / 'src'}"}


def start(*command: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        list(map(str, command)), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(*started: subprocess.Popen[str]) -> list[str]:
    said = [process.communicate(timeout=300)[0] for process in started]
    failed = [text[-5000:] for process, text in zip(started, said, strict=True) if process.returncode]
    assert not failed, "\n".join(failed)
    return said


@pytest.fixture(scope="module")
def folders(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The runs of both suites, in two processes each; both are under way while this one does its own."""
    made = {name: tmp_path_factory.mktemp(name) for name in ("copies", "shards", "one")}
    script = TESTS / "support" / "distributed_runs.py"
    copies = start(*TORCHRUN, script, "copies", base, made["copies"])
    config = CONFIGS / "fsdp_4gpu.yaml"
    shards = start(*ACCELERATE, "--config_file", config, script, "shards", base, made["shards"])
    one = made["one"]
    run_tiny(tiny_job(base, one / "full"))
    run_tiny(tiny_job(base, one / "accumulated", **STANDSTILL))
    run_tiny(tiny_job(base, one / "lora", **LORA))
    run_tiny(tiny_job(base, one / "eight_bit", **LORA, load_in_8bit=True))
    run_tiny(tiny_job(base, one / "packed", chats(4), packing="conversation", **STANDSTILL))
    finish(copies, shards)
    return made


def assert_same_run(folder: Path, of_one_process: Path) -> None:
    """Losses and weights are those of one process, up to what the order of additions does to them in 6 steps."""
    losses = [[row["loss"] for row in log_of(each) if "loss" in row] for each in (of_one_process, folder)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    loaded = [load(str(each / "split_0"), device="cpu") for each in (of_one_process, folder)]
    for ours, theirs in zip(*(each.model.parameters() for each in loaded), strict=True):
        assert torch.allclose(ours, theirs, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suite", "name"),
    [("copies", "full"), ("copies", "lora"), ("copies", "eight_bit"), ("shards", "full"), ("shards", "lora")],
)
def test_two_processes_learn_what_one_with_twice_the_batch_learns(
    folders: dict[str, Path], suite: str, name: str
) -> None:
    # The sharded ones were killed in mid-epoch and continued, too.
    folder = folders[suite] / name
    record = json.loads((folder / "split_0" / "chatbench.json").read_text())

    assert record["processes"] == 2
    assert differing_file(folder / "split_0" / "checkpoint-6") is None
    assert (folder / "split_0" / "checkpoint-6" / "rng_state_1.pth").is_file()
    assert_same_run(folder, folders["one"] / name)


@pytest.mark.slow
@pytest.mark.parametrize(("suite", "name"), [("copies", "accumulated"), ("copies", "packed"), ("shards", "packed")])
def test_every_scored_token_of_a_step_weighs_the_same_however_the_step_is_spread(
    folders: dict[str, Path], suite: str, name: str
) -> None:
    # Two accumulated batches of one in each of two processes, against one batch of four. A mean of the processes'
    # means, the likely mistake, is off in the first digits, because answers are shorter than questions.
    losses, norms = (
        [[row[key] for row in log_of(folders[each] / name) if key in row] for each in ("one", suite)]
        for key in ("loss", "grad_norm")
    )

    assert len(losses[0]) >= 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)


@pytest.mark.slow
def test_a_run_of_two_processes_that_was_killed_in_mid_epoch_ends_as_an_undisturbed_one(
    folders: dict[str, Path],
) -> None:
    # With dropout, so that each process must find its own generator again.
    killed, undisturbed = folders["copies"] / "killed", folders["copies"] / "undisturbed"

    assert weights_of(killed) == weights_of(undisturbed)
    assert log_of(killed) == log_of(undisturbed)


@pytest.mark.slow
def test_a_signal_to_one_process_makes_all_save_and_stop_at_the_same_step(folders: dict[str, Path]) -> None:
    copies = folders["copies"]
    for rank in (0, 1):
        said = (copies / f"stopped_{rank}.txt").read_text()
        assert "StoppedError: stopped by SIGTERM after step 4 of 6; progress saved" in said

    assert weights_of(copies / "stopped") == weights_of(copies / "undisturbed")


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_is_named_by_all_with_its_examples(folders: dict[str, Path]) -> None:
    said = [(folders["copies"] / f"spoiled_{rank}.txt").read_text() for rank in (0, 1)]

    assert said[0] == said[1]
    assert "the loss is not finite at step 4 in process 1 of 2; examples in that step: c" in said[0]
    assert said[0].count("(first)") + said[0].count("(follow_up)") + said[0].count("(answer)") == 4
    assert not (folders["copies"] / "spoiled" / "split_0").exists()


@pytest.mark.slow
def test_a_disk_that_is_full_for_the_first_process_ends_all_with_its_error(folders: dict[str, Path]) -> None:
    said = [(folders["copies"] / f"disk_full_{rank}.txt").read_text() for rank in (0, 1)]

    assert said[0] == said[1]
    assert "checkpoint-4 cannot be written: No space left on device" in said[0]
    left = sorted(path.name for path in (folders["copies"] / "disk_full" / "split_0.unfinished").glob("checkpoint-*"))
    assert left == ["checkpoint-2"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full", "lora"])
def test_a_sharded_run_leaves_an_ordinary_folder_with_whole_weights(folders: dict[str, Path], name: str) -> None:
    # Sharded weights would load with half of their rows missing, or not at all.
    folder = folders["shards"] / name / "split_0"
    loaded = load(str(folder), device="cpu")
    losses = score_examples(loaded.model, loaded.tokenizer, sums(4, 50))
    validation = json.loads((folder / "chatbench.json").read_text())["outcome"]["validation"]

    nats = sum(loss.nats for loss in losses) / sum(loss.tokens for loss in losses)
    assert validation[-1][1] == pytest.approx(nats, rel=1e-6)
    assert not list(folder.glob("*.distcp"))


@pytest.mark.slow
def test_two_nodes_meet_over_the_network_with_the_documented_command(base: Path, tmp_path: Path) -> None:
    data, settings = write_prepared(tmp_path / "data"), tmp_path / "settings.json"
    settings.write_text(json.dumps({"num_train_epochs": 1, "per_device_train_batch_size": 2, "precision": "fp32"}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def node(rank: int) -> subprocess.Popen[str]:
        where = ("--machine_rank", str(rank), "--main_process_ip", "127.0.0.1", "--main_process_port", port)
        what = ("finetune", base, "--data", data, "--results", tmp_path / "results", "--config", settings)
        return start(*ACCELERATE, "--config_file", CONFIGS / "ddp_2nodes.yaml", *where, "-m", "chatbench", *what)

    first, second = finish(node(0), node(1))

    assert "2 processes on cpu, gloo, each with the whole model" in first
    assert "trained 3 steps" in first
    assert "steps" not in second
    record = json.loads((tmp_path / "results" / "models" / "llama" / "split_0" / "chatbench.json").read_text())
    assert record["processes"] == 2


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_config_is_one_that_this_accelerate_understands(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A misspelt key of fsdp_config is passed over in silence, so each is looked for in what reaches the processes.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    machines = ["--machine_rank", "1", "--main_process_ip", "127.0.0.1"] if "2nodes" in config.stem else []
    parser = launch_command_parser()
    arguments, defaults, _ = _validate_launch_command(
        parser.parse_args(["--config_file", str(config), *machines, "-m", "chatbench", "finetune", "distilgpt2"])
    )

    nodes, processes = {"1gpu": (1, 1), "4gpu": (1, 4), "8gpu": (1, 8), "2nodes": (2, 16)}[config.stem.split("_")[1]]
    assert (arguments.num_machines, arguments.num_processes) == (nodes, processes)
    assert defaults.mixed_precision == "no"
    if processes == 1:
        return
    told = prepare_multi_gpu_env(arguments)
    for key, value in load_config_from_file(str(config)).fsdp_config.items():
        assert told[key.upper()].lower() == str(value).lower()
    assert told.get("ACCELERATE_USE_FSDP", "false") == str(config.stem.startswith("fsdp")).lower()


def test_the_settings_that_fsdp_configs_name_fit_a_recipe_that_is_quantised() -> None:
    resolved = resolve_settings("llama3-8b", CONFIGS.parent / "full_model.json")

    assert (resolved.settings.method, resolved.settings.load_in_8bit) == ("full", False)


def test_a_launch_that_starts_one_process_where_two_were_asked_for_is_refused() -> None:
    arguments, _, _ = _validate_launch_command(
        launch_command_parser().parse_args(["--cpu", "--num_processes", "2", "-m", "chatbench", "finetune"])
    )
    command, told = prepare_simple_launcher_cmd_env(arguments)
    assert command[1:3] == ["-m", "chatbench"]  # one process, not torch.distributed.run

    with pytest.raises(ChatbenchError, match="several processes but started only one"):
        refuse_launch(Settings(), told)
    refuse_launch(Settings(), {**told, "WORLD_SIZE": "2"})
    del told["MASTER_ADDR"]
    refuse_launch(Settings(), told)


def test_what_torchrun_prints_in_the_end_is_our_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The launcher's own traceback cannot be helped; without this it would be all that stands there.
    report = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(report))

    assert main(["finetune", "tiny", "--data", str(tmp_path / "nowhere")]) == 2

    ended = str(ChildFailedError("chatbench", {0: ProcessFailure(0, 1, 2, str(report))}))
    assert "nowhere/manifest.json: no such file" in ended.partition("Root Cause")[2]
    assert "chatbench prepare-splits" in ended


def test_what_cannot_be_sharded_is_refused_before_the_base_is_loaded() -> None:
    fsdp = {"ACCELERATE_USE_FSDP": "true", "WORLD_SIZE": "2"}

    with pytest.raises(ChatbenchError, match="quantised"):
        refuse_launch(Settings(method="lora", load_in_8bit=True), fsdp)
    with pytest.raises(ChatbenchError, match="does not shard here"):
        check_sharded(False, fsdp)
    refuse_launch(Settings(method="lora"), fsdp)
    check_sharded(False, {})


def test_a_machine_that_does_not_see_the_shared_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(ChatbenchError, match=socket.gethostname()):
        check_shared(tmp_path / "elsewhere")
    check_shared(tmp_path)
