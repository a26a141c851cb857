"""Training on packed trees: the same weights as without packing, through kills too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.support.prepared_files import sums
from tests.support.tiny_models import ARCHITECTURES, Architecture, save_tiny_model
from transformers import PreTrainedModel

from chatbench.core.errors import ChatbenchError
from chatbench.core.resolved_settings import resolve_settings
from chatbench.core.settings import Packing
from chatbench.data.examples import ExampleRow
from chatbench.models.loading import load
from chatbench.training import trainer as completion_trainer
from chatbench.training.job import TrainingJob
from chatbench.training.run import train

LORA = {"method": "lora", "lora_dropout": 0.0}


def chats() -> list[ExampleRow]:
    """Six conversations of three examples each about two questions; an example begins as the one before it."""
    rows = []
    for chat, row in enumerate(sums(6)):
        history = row.prompt
        for turn in range(3):
            history += f" {chat} plus {turn}"
            rows.append(ExampleRow(history, f" {turn * chat} [END]", None, f"q{chat % 2}", f"chat {chat}", "follow-up"))
    return rows


def job(base: Path, folder: Path, **settings: object) -> TrainingJob:
    few = {"num_train_epochs": 3.0, "learning_rate": 1e-3, "logging_steps": 1, "save_steps": 2, "precision": "fp32"}
    return TrainingJob(
        resolved=resolve_settings(str(base), None, {**few, **settings}),
        train=chats(),
        validation=sums(3, 50),
        train_sha256="0" * 64,
        folder=folder / "split_0",
        logs=folder / "logs",
        split="split_0",
    )


def trained(base: Path, folder: Path, **settings: object) -> PreTrainedModel:
    each = job(base, folder, **settings)
    train(each, say=lambda _: None)
    return load(str(each.folder), device="cpu").model


@pytest.mark.parametrize("method", [{}, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_steps_of_the_same_examples_give_the_same_weights_packed_or_not(
    architecture: Architecture, method: dict[str, object], tmp_path: Path
) -> None:
    # A step of all examples, so that only the packing differs; a budget that cuts it into several trees.
    base = save_tiny_model(tmp_path / "base", architecture)
    kinds: tuple[Packing, ...] = ("none", "conversation", "question")
    # Outputs and not weights: Adam blows the rounding of a gradient that should be zero up to a whole step, as for the
    # biases of GPT-2's keys, which change no output.
    plain, conversation, question = (
        trained(base, tmp_path / kind, packing=kind, examples_per_step=18, pack_tokens=150, **method)(
            input_ids=torch.arange(40)[None]
        ).logits
        for kind in kinds
    )

    assert torch.allclose(conversation, plain, atol=1e-3)
    assert torch.allclose(question, plain, atol=1e-3)
    base_model = load(str(base), device="cpu").model(input_ids=torch.arange(40)[None]).logits
    assert (base_model - plain).abs().max() > 0.03


@pytest.mark.parametrize("packing", ["conversation", "question"])
def test_a_packed_run_killed_in_mid_epoch_ends_with_the_weights_of_an_undisturbed_one(
    packing: Packing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        """Stands for a kill."""

    base = save_tiny_model(tmp_path / "base")
    settings = {"packing": packing, "examples_per_step": 4, "method": "lora", "lora_dropout": 0.1}
    undisturbed = trained(base, tmp_path / "one", **settings).state_dict()
    seal = completion_trainer.seal

    def killed(checkpoint: Path) -> None:
        if checkpoint.name == "checkpoint-8":  # in the second of three epochs of five steps
            raise KilledError
        seal(checkpoint)

    with monkeypatch.context() as patched:
        patched.setattr(completion_trainer, "seal", killed)
        with pytest.raises(KilledError):
            trained(base, tmp_path / "two", **settings)
    resumed = trained(base, tmp_path / "two", **settings).state_dict()

    assert all(torch.equal(resumed[name], weight) for name, weight in undisturbed.items())


def test_grouping_by_length_and_packing_exclude_each_other(tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "base")

    with pytest.raises(ChatbenchError, match="choose one"):
        job(base, tmp_path, packing="conversation", train_sampling_strategy="group_by_length")
