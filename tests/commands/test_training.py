"""Fine-tuning: what it learns from, what it writes, and that stopping it does not change what comes out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.support.prepared_files import sums, write_prepared
from tests.support.tiny_models import save_tiny_model, score_examples, tiny_model, tiny_tokenizer

from chatbench.core.errors import ChatbenchError
from chatbench.core.resolved_settings import resolve_settings
from chatbench.data.examples import ExampleRow
from chatbench.data.workspace import Workspace
from chatbench.metrics.perplexity import TokenLoss
from chatbench.models.encoding import encode_rows
from chatbench.models.loading import load
from chatbench.models.loss import padded_batch
from chatbench.models.precision import resolve_precision
from chatbench.protocol.plain_text import EncodedExample, encode_completion, encode_prompt
from chatbench.training import result as training_result
from chatbench.training import run as training
from chatbench.training import trainer as completion_trainer
from chatbench.training.checkpoints import FILE_LIST, add_checksums, is_complete, latest_complete
from chatbench.training.finetune import finetune, spread
from chatbench.training.run import TrainingJob, TrainingOutcome, train

TESTS = Path(__file__).parents[1]
LORA = {"method": "lora", "lora_dropout": 0.1, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "small")


def job(base: Path, folder: Path, rows: list[ExampleRow] | None = None, **flags: object) -> TrainingJob:
    short = {"per_device_train_batch_size": 4, "num_train_epochs": 2.0, "learning_rate": 1e-3, "logging_steps": 1}
    if "max_steps" in flags:
        del short["num_train_epochs"]
    resolved = resolve_settings(str(base), None, {**short, "save_steps": 2, "precision": "fp32", **flags})
    return TrainingJob(
        resolved=resolved,
        train=sums(12) if rows is None else rows,
        validation=sums(4, 50),
        train_sha256="0" * 64,
        folder=folder / "split_0",
        logs=folder / "logs",
        split="split_0",
    )


def quiet(_line: str) -> None:
    """Says nothing."""


def run(each: TrainingJob, *, overwrite: bool = False) -> TrainingOutcome:
    return train(each, overwrite=overwrite, say=quiet)


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "trainer_log.jsonl").read_text().splitlines()]


def weights_of(folder: Path) -> bytes:
    (file,) = folder.glob("*.safetensors")
    return file.read_bytes()


def test_labels_cover_the_completion_exactly() -> None:
    batch = padded_batch([EncodedExample([5, 6, 7], [8, 9]), EncodedExample([5], [8])], pad_id=1)

    assert batch.ids.tolist() == [[5, 6, 7, 8, 9], [5, 8, 1, 1, 1]]
    assert batch.labels.tolist() == [[-100, -100, -100, 8, 9], [-100, 8, -100, -100, -100]]


def test_many_at_a_time_gives_the_ids_of_one_at_a_time() -> None:
    tokenizer, rows = tiny_tokenizer(), sums(9)

    one_by_one = [
        EncodedExample(encode_prompt(tokenizer, row.prompt), encode_completion(tokenizer, row.completion))
        for row in rows
    ]

    assert encode_rows(tokenizer, rows, 1000).examples == one_by_one


def test_every_scored_token_of_a_step_weighs_the_same_however_it_is_cut_into_batches(
    base: Path, tmp_path: Path
) -> None:
    # The loss of step 1 is that of the base, so it is known from scoring. The mean over batches of their means, the
    # likely mistake, differs because answers are shorter than questions.
    loaded = load(str(base), device="cpu")
    losses = score_examples(loaded.model, loaded.tokenizer, sums(12))
    by_token = sum(loss.nats for loss in losses) / sum(loss.tokens for loss in losses)
    by_example = sum(loss.nats / loss.tokens for loss in losses) / 12
    assert abs(by_token - by_example) > 1e-3

    first_steps = []
    for batch in (12, 4, 1):
        flags = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 12 // batch, "max_steps": 1}
        run(job(base, tmp_path / str(batch), **flags))
        first_steps.append(next(row for row in log_of(tmp_path / str(batch) / "split_0") if "loss" in row))

    assert [row["loss"] for row in first_steps] == pytest.approx([by_token] * 3, rel=1e-6)
    assert [row["grad_norm"] for row in first_steps] == pytest.approx([first_steps[0]["grad_norm"]] * 3, rel=1e-5)


def test_only_the_completion_is_learned(base: Path, tmp_path: Path) -> None:
    # The same completions after other prompts: a loss on prompts would fall for what the prompts say.
    outcome = run(job(base, tmp_path, num_train_epochs=10.0, learning_rate=1e-2, save_steps=1000))
    before, after = load(str(base), device="cpu"), load(str(tmp_path / "split_0"), device="cpu")
    prompts = [
        ExampleRow(
            prompt="[SYSTEM]", completion=row.prompt, messages=None, question_id="", conversation_id="", kind="first"
        )
        for row in sums(12)
    ]

    def nats(rows: list[ExampleRow], model: torch.nn.Module) -> float:
        losses: list[TokenLoss] = score_examples(model, before.tokenizer, rows)  # type: ignore[arg-type]
        return sum(loss.nats for loss in losses) / sum(loss.tokens for loss in losses)

    assert outcome.last_loss < 0.5 * outcome.first_loss
    assert nats(sums(12), after.model) < 0.5 * nats(sums(12), before.model)
    assert nats(prompts, after.model) > 0.7 * nats(prompts, before.model)


def test_a_whole_model_is_written_with_everything_that_loads_and_explains_it(base: Path, tmp_path: Path) -> None:
    outcome = run(job(base, tmp_path, save_steps=2))
    folder = tmp_path / "split_0"

    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "config.json", "model.safetensors", "tokenizer.json", "training_args.bin", "README.md", "chatbench.json",
        "trainer_log.jsonl", "checkpoint-4", "checkpoint-6",
    }  # fmt: skip
    assert "checkpoint-2" not in names  # two are kept
    assert not list(tmp_path.glob("*.unfinished"))
    assert not list(tmp_path.glob("*.old"))
    assert list((tmp_path / "logs").glob("events.*"))
    record = json.loads((folder / "chatbench.json").read_text())
    assert record["settings"]["learning_rate"] == 1e-3
    assert record["origins"]["learning_rate"] == "--learning-rate"
    assert record["base_weights"] == load(str(base), device="cpu").weights
    assert outcome.status == "trained"
    assert outcome.steps == 6
    assert [epoch for epoch, _ in outcome.validation] == [1.0, 2.0]


def test_the_validation_loss_is_that_of_the_reloaded_model(base: Path, tmp_path: Path) -> None:
    outcome = run(job(base, tmp_path))

    loaded = load(str(tmp_path / "split_0"), device="cpu")
    losses = score_examples(loaded.model, loaded.tokenizer, sums(4, 50))
    expected = sum(loss.nats for loss in losses) / sum(loss.tokens for loss in losses)
    assert outcome.validation[-1][1] == pytest.approx(expected, rel=1e-6)


def test_an_adapter_is_written_and_reloaded_on_its_base(base: Path, tmp_path: Path) -> None:
    outcome = run(job(base, tmp_path, **LORA))
    folder = tmp_path / "split_0"

    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= {p.name for p in folder.iterdir()}
    assert not (folder / "model.safetensors").exists()
    assert json.loads((folder / "adapter_config.json").read_text())["target_modules"] is not None
    loaded = load(str(folder), device="cpu")
    losses = score_examples(loaded.model, loaded.tokenizer, sums(4, 50))
    expected = sum(loss.nats for loss in losses) / sum(loss.tokens for loss in losses)
    assert outcome.validation[-1][1] == pytest.approx(expected, rel=1e-6)
    assert "on sha256:" in loaded.weights


def test_an_adapter_on_a_base_that_has_changed_is_refused(tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "small")
    run(job(base, tmp_path, max_steps=1, **LORA))
    tiny_model("llama", seed=9).save_pretrained(base)

    with pytest.raises(ChatbenchError, match="trained on other weights"):
        load(str(tmp_path / "split_0"), device="cpu")


def test_adapters_for_modules_that_are_not_there_name_those_that_are(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ChatbenchError, match="q_proj"):
        run(job(base, tmp_path, **LORA, lora_targets=["c_attn"]))


class KilledError(Exception):
    """Stands for a kill: nothing that training does afterwards runs."""


@pytest.mark.parametrize(
    ("flags", "kill_at"), [({}, 2), (LORA, 3), ({"train_sampling_strategy": "group_by_length"}, 3)]
)
def test_a_run_killed_while_it_writes_a_checkpoint_ends_as_an_undisturbed_one(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: dict[str, object], kill_at: int
) -> None:
    # 3 steps an epoch, a checkpoint every 2: the runs resume from step 2 (inside an epoch) and from step 4.
    run(job(base, tmp_path / "undisturbed", **flags))
    checkpoints = []

    def killing(checkpoint: Path) -> None:
        checkpoints.append(checkpoint)
        if len(checkpoints) == kill_at:
            raise KilledError
        add_checksums(checkpoint)

    with monkeypatch.context() as patched:
        patched.setattr(completion_trainer, "add_checksums", killing)
        with pytest.raises(KilledError):
            run(job(base, tmp_path / "killed", **flags))
    assert not (tmp_path / "killed" / "split_0").exists()

    outcome = run(job(base, tmp_path / "killed", **flags))

    assert outcome.status == "resumed"
    one, other = tmp_path / "undisturbed" / "split_0", tmp_path / "killed" / "split_0"
    assert weights_of(other) == weights_of(one)
    for name in ("trainer_log.jsonl", "chatbench.json"):
        assert (other / name).read_text() == (one / name).read_text()
    assert {p.name for p in other.iterdir()} == {p.name for p in one.iterdir()}


def test_a_run_killed_while_it_writes_the_result_ends_as_an_undisturbed_one(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(job(base, tmp_path / "undisturbed"))

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(training_result, "write_jsonl", killed)
        with pytest.raises(KilledError):
            run(job(base, tmp_path / "killed"))
    run(job(base, tmp_path / "killed"))

    one, other = tmp_path / "undisturbed" / "split_0", tmp_path / "killed" / "split_0"
    assert weights_of(other) == weights_of(one)
    assert (other / "chatbench.json").read_text() == (one / "chatbench.json").read_text()


def test_without_resume_a_killed_run_starts_again_at_the_first_step(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(training_result, "write_jsonl", killed)
        with pytest.raises(KilledError):
            run(job(base, tmp_path))

    assert training.train(job(base, tmp_path), resume=False, say=lambda _: None).status == "trained"


def test_a_checkpoint_that_lost_bytes_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    for step in (2, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "model.safetensors").write_bytes(b"12345")
        add_checksums(tmp_path / f"checkpoint-{step}")
    assert latest_complete(tmp_path) == tmp_path / "checkpoint-10"  # 10 > 2, though "10" < "2" as text

    (tmp_path / "checkpoint-10" / "model.safetensors").write_bytes(b"1234")
    assert latest_complete(tmp_path) == tmp_path / "checkpoint-2"

    (tmp_path / "checkpoint-2" / FILE_LIST).write_text('{"model.saf')
    assert not is_complete(tmp_path / "checkpoint-2")
    assert latest_complete(tmp_path) is None


def test_a_finished_run_is_said_and_not_repeated(base: Path, tmp_path: Path) -> None:
    first = run(job(base, tmp_path, max_steps=1))
    before = (tmp_path / "split_0" / "model.safetensors").stat().st_mtime_ns

    second = run(job(base, tmp_path, max_steps=1))

    assert second.status == "already trained"
    assert second.last_loss == first.last_loss
    assert (tmp_path / "split_0" / "model.safetensors").stat().st_mtime_ns == before


def test_changed_settings_are_refused_by_name_until_overwriting_is_asked_for(base: Path, tmp_path: Path) -> None:
    run(job(base, tmp_path, max_steps=1))
    kept = weights_of(tmp_path / "split_0")

    with pytest.raises(ChatbenchError, match=r"learning_rate: 0\.001 -> 0\.01") as refused:
        run(job(base, tmp_path, max_steps=1, learning_rate=1e-2))
    assert "--overwrite" in refused.value.fix
    assert weights_of(tmp_path / "split_0") == kept

    assert run(job(base, tmp_path, max_steps=1, learning_rate=1e-2), overwrite=True).status == "trained"
    assert weights_of(tmp_path / "split_0") != kept


def test_a_base_that_has_changed_since_is_not_taken_for_the_same_run(tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "small")
    run(job(base, tmp_path, max_steps=1))
    tiny_model("llama", seed=9).save_pretrained(base)

    with pytest.raises(ChatbenchError, match="weights of the base"):
        run(job(base, tmp_path, max_steps=1))


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_no_model(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ChatbenchError, match="not finite") as stopped:
        run(job(base, tmp_path, learning_rate=1e30, max_grad_norm=0.0, num_train_epochs=10.0))

    assert "learning_rate" in stopped.value.fix
    assert not (tmp_path / "split_0").exists()


def test_a_killed_run_is_not_continued_with_other_settings(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_checkpoint: Path) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(completion_trainer, "add_checksums", killed)
        with pytest.raises(KilledError):
            run(job(base, tmp_path))

    with pytest.raises(ChatbenchError, match="seed: 0 -> 1"):
        run(job(base, tmp_path, seed=1))
    assert run(job(base, tmp_path, seed=1), overwrite=True).status == "trained"


def test_a_folder_that_training_did_not_make_is_left_alone(base: Path, tmp_path: Path) -> None:
    (tmp_path / "split_0").mkdir()
    (tmp_path / "split_0" / "notes.txt").write_text("mine")

    with pytest.raises(ChatbenchError, match="not empty"):
        run(job(base, tmp_path))


def test_examples_longer_than_the_context_are_left_out_counted_and_said(base: Path, tmp_path: Path) -> None:
    said: list[str] = []

    outcome = train(job(base, tmp_path, max_steps=1, max_tokens=50), say=said.append)

    lengths = [len(tiny_tokenizer().encode(r.prompt)) + len(tiny_tokenizer().encode(r.completion)) for r in sums(12)]
    assert 12 > outcome.examples_left_out == sum(length > 50 for length in lengths) > 0
    assert any(f"{outcome.examples_left_out} left out" in line for line in said)
    record = json.loads((tmp_path / "split_0" / "chatbench.json").read_text())
    assert record["outcome"]["examples_left_out"] == outcome.examples_left_out


def test_no_examples_is_an_error(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ChatbenchError, match="no training examples"):
        run(job(base, tmp_path, rows=[]))


def test_half_precision_that_a_processor_cannot_train_in_is_refused() -> None:
    assert resolve_precision("bf16", "cpu") == "bf16"
    assert resolve_precision("auto", "mps") == "fp32"
    with pytest.raises(ChatbenchError, match="fp16"):
        resolve_precision("fp16", "cpu")


def test_bf16_autocast_trains_and_saves_float32_weights(base: Path, tmp_path: Path) -> None:
    outcome = run(job(base, tmp_path, precision="bf16"))

    assert outcome.last_loss < outcome.first_loss
    assert load(str(tmp_path / "split_0"), device="cpu").model.dtype == torch.float32


def test_validation_examples_are_spread_over_the_whole_side() -> None:
    rows = sums(10)

    assert spread(rows, 3) == [rows[0], rows[3], rows[6]]
    assert spread(rows, 99) == rows
    assert spread(rows, 0) == []


def test_the_step_reads_a_prepared_split_and_writes_where_the_others_look(base: Path, tmp_path: Path) -> None:
    data, said = write_prepared(tmp_path / "data"), list[str]()

    result = finetune(
        str(base),
        workspace=Workspace(data, tmp_path / "results"),
        flags={"max_steps": 2, "precision": "fp32"},
        say=said.append,
    )

    assert result.folder == tmp_path / "results" / "models" / "small" / "split_0"
    assert (result.folder / "chatbench.json").is_file()
    assert list((tmp_path / "results" / "logs" / "small" / "split_0").glob("events.*"))
    assert any("max_steps" in line and "--max-steps" in line for line in said)
    assert "trained 2 steps" in said[-1]
    with pytest.raises(ChatbenchError, match="no such split: split_7"):
        finetune(str(base), workspace=Workspace(data, tmp_path / "results"), split="split_7")
