"""The one-screen check, on files made by hand: what is ok, what is a warning, what is missing and how to get it."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import cast

import pytest
from rich.console import Console
from tests.support.simulated_logs import always_wrong, prepared, study_folder, write_log, write_perplexity

from chatbench.core.files import write_jsonl, write_text
from chatbench.core.records import SimulatedConversation, Termination, Turn
from chatbench.data.workspace import Workspace
from chatbench.metrics.names import Predictor
from chatbench.scoring.eval_chatbench import eval_chatbench
from chatbench.scoring.score_table import Score, ScoreTable
from chatbench.workflow.demo import (
    TRAIN_LESS,
    TRAIN_MORE,
    Found,
    SanityReport,
    check_endings,
    check_losses,
    check_scores,
    print_sanity,
    sampled_prompts,
    sanity,
)

FALLING = [{"step": step, "loss": 3.0 - step / 10} for step in range(10)] + [{"step": 10, "eval_loss": 2.0}]


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return prepared(tmp_path)


def write_model(place: Workspace, split_id: str = "split_0", log: list[dict[str, float]] = FALLING) -> Path:
    folder = place.results / "models" / "tiny" / split_id
    for name in ("model.safetensors.index.json", "tokenizer.json", "chatbench.json"):
        write_text(folder / name, "{}")
    write_jsonl(folder / "trainer_log.jsonl", log)
    return folder


def complete(place: Workspace) -> None:
    write_model(place)
    write_perplexity(place, "split_0")
    write_log(place, "split_0")
    write_log(place, "split_0", always_wrong, base_model=True)
    eval_chatbench("tiny", workspace=place)


def states(report: SanityReport) -> dict[str, str]:
    return {name: found.state for name, found in report.checks.items()}


def checked(place: Workspace) -> SanityReport:
    return sanity("tiny", workspace=place)


def test_a_complete_run_is_ok_though_the_other_split_is_not_trained(place: Workspace) -> None:
    complete(place)
    report = checked(place)

    assert set(states(report).values()) == {"ok"}
    assert report.exit_code == 0
    assert len(report.prompts) == 5
    assert "perplexity  split_0 3.00 (base 50.00)" in screen(report)


def test_an_empty_folder_lists_what_is_missing_with_its_commands(tmp_path: Path) -> None:
    report = sanity("tiny", workspace=Workspace(tmp_path / "data", tmp_path / "results"))

    assert set(states(report).values()) == {"missing"}
    assert report.exit_code == 1
    assert "-> chatbench prepare-splits --study STUDY" in screen(report)
    assert "-> chatbench finetune tiny" in screen(report)


def test_the_perplexity_of_the_model_before_it_was_trained_again_counts_as_missing(place: Workspace) -> None:
    complete(place)
    write_text(place.model_folder("tiny", "split_0") / "model.safetensors", "other weights than those scored")

    assert checked(place).checks["perplexity"].fix.startswith("chatbench eval-ppl tiny --split split_0")


def test_what_is_not_as_it_should_be_is_a_warning_and_the_command_for_it_changes_what_was_found(
    place: Workspace,
) -> None:
    # "finetune MODEL" says "already trained", "simulate" finds nothing new, and other folders stay as they are.
    complete(place)
    write_model(place, log=[{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}])
    write_perplexity(place, "split_0", tuned=60.0)
    assert states(checked(place)) == {
        "data": "ok", "model": "ok", "losses": "warning", "perplexity": "warning", "chats": "ok", "scores": "ok",
    }  # fmt: skip
    write_log(place, "split_0", lambda *_: None)
    commands = {name: found.fix for name, found in checked(place).checks.items() if found.state != "ok"}
    folders = f"--split split_0 --data {place.data} --results {place.results}"

    assert commands["losses"] == f"chatbench finetune tiny --overwrite --num-train-epochs MORE {folders}"
    assert commands["perplexity"] == commands["losses"]
    assert check_endings([chat("failed")]).fix == "simulate MODEL --assistant SPEC --overwrite"
    assert check_endings([chat("forced")]).fix == TRAIN_MORE
    overfitted = [{"loss": 2.0}, {"loss": 1.0}, {"eval_loss": 1.0}, {"eval_loss": 1.5}]
    assert check_losses(overfitted).fix == TRAIN_LESS
    (place.data / "split_1" / "train.jsonl").write_text("changed")
    assert checked(place).checks["data"].fix == (
        f"chatbench prepare-splits --study {study_folder(place)} --out {place.data}"
    )


def test_damaged_files_are_findings_and_stop_nothing(place: Workspace) -> None:
    complete(place)
    folder = write_model(place)
    (folder / "trainer_log.jsonl").write_text("{broken\n")
    (folder / "tokenizer.json").unlink()
    (place.data / "split_1" / "train.jsonl").write_text("changed")
    (place.results / "scores" / "tiny.json").write_text("{")
    report = checked(place)

    assert states(report)["data"] == "warning"
    assert states(report)["scores"] == "warning"
    for name in ("manifest.json", "split_1/train.jsonl"):  # without ids, it may be the user's own
        place.data.joinpath(name).unlink()
    prepared(place.data.parent)
    found = states(checked(place))
    assert (found["model"], found["losses"], found["chats"]) == ("missing", "warning", "ok")


def table_of(**figures: tuple[float, float]) -> ScoreTable:
    """One assistant; per source (error, correlation). Python names stand for the sources' names."""
    names = {"tuned": "fine-tuned", "few": "fine-tuned, first 3 chats", "base_model": "base model", "ai": "AI alone, x",
             "regression": "regression on user alone and AI alone"}  # fmt: skip
    scores = tuple(
        Score("split_0", "all", Predictor.parse(names[key]), metric, value)
        for key, both in figures.items()
        for metric, value in zip(("mae", "pearson"), both, strict=True)
    )
    return ScoreTable("tiny", ("split_0",), 6, 4, scores, {})


def test_a_baseline_is_beaten_in_error_and_in_correlation_or_it_is_named() -> None:
    compared = "error 0.100, correlation 0.800; compared with 1 baseline"
    assert check_scores(table_of(tuned=(0.1, 0.8), ai=(0.2, 0.7)))[:2] == ("ok", compared)
    assert "correlation 0.900, fine-tuned 0.800" in check_scores(table_of(tuned=(0.1, 0.8), ai=(0.2, 0.9)))[1]
    assert check_scores(table_of(tuned=(0.1, 0.8), ai=(0.1, 0.7)))[0] == "warning"
    assert check_scores(table_of(ai=(0.1, 0.7)))[:2] == ("warning", "no question could be scored")
    # A baseline that needs people's answers to these questions may win, but not unseen.
    beaten = check_scores(table_of(tuned=(0.1, 0.8), regression=(0.05, 0.7)))
    assert (beaten.state, "people's answers to these questions" in beaten.text) == ("ok", True)
    # With all its chats the trained one would beat the base model, with as few as the base model has it does not.
    assert check_scores(table_of(tuned=(0.1, 0.8), few=(0.3, 0.8), base_model=(0.2, 0.1)))[0] == "warning"


def test_losses_are_judged_by_their_first_and_last_tenth_and_by_the_held_out_loss() -> None:
    rising = [{"loss": 2.0}, {"loss": 1.0}, {"eval_loss": 1.0}, {"eval_loss": 1.5}]

    assert check_losses(FALLING)[:2] == ("ok", "loss 3.000 -> 2.100, held out 2.000 -> 2.000")
    assert check_losses(rising)[0] == "warning"  # training loss falls, held-out loss rises
    assert check_losses([{"loss": 2.0}, {"loss": math.nan}])[:2] == ("warning", "a loss is not finite")
    assert check_losses([{"loss": 2.0}])[0] == "warning"


def chat(termination: Termination, prompt: str = "hi") -> SimulatedConversation:
    return SimulatedConversation("i", "q1", "gpt", 0, (Turn("user", prompt), Turn("assistant", "a")), termination)


def test_nine_of_ten_chats_must_end_by_themselves_and_none_may_fail() -> None:
    assert check_endings([chat("answered")] * 9 + [chat("forced")])[:2] == ("ok", "10 chats: answered 9, forced 1")
    assert check_endings([chat("answered")] * 8 + [chat("no_answer")] * 2)[0] == "warning"
    assert check_endings([chat("answered")] * 99 + [chat("failed")])[0] == "warning"
    assert check_endings([])[0] == "missing"


def test_neither_prompts_nor_what_was_found_steer_the_terminal() -> None:
    prompts = sampled_prompts([chat("answered", "\x1b[2J[bold]hi\u202e\nthere" + "x" * 500)], 5)
    text = screen(SanityReport({"data": Found("warning", "no \x1b]0;x\x07[red]", "chatbench \u202e")}, prompts))

    assert "[bold]hi\ufffd\\nthere" in text
    assert "no \ufffd]0;x\ufffd[red]" in text
    assert "x" * 140 + "…" in text.replace("\n", "")
    assert not set(text) & set("\x1b\x07\u202e")


def screen(report: SanityReport) -> str:
    console = Console(width=160, file=io.StringIO())
    print_sanity(report, console)
    return cast(io.StringIO, console.file).getvalue()
