"""The whole pipeline on a hand-made study with a randomly initialised model: files, continuing, refusals."""

from __future__ import annotations

from dataclasses import replace
from inspect import signature
from pathlib import Path

import pytest
from tests.support.simulated_logs import prepared, rewrite_log, study, write_log
from tests.support.study_files import tiny_study
from tests.support.tiny_models import save_tiny_model

from chatbench.cli import main
from chatbench.commands import pipeline, simulation
from chatbench.core.errors import ChatbenchError
from chatbench.core.files import write_json
from chatbench.core.records import Study
from chatbench.data.download import CHATBENCH_DATASET
from chatbench.data.prepare_splits import prepare_splits
from chatbench.data.workspace import Workspace
from chatbench.endpoints.address import EndpointOptions
from chatbench.metrics.names import BASE_MODEL
from chatbench.report.tables import print_tables
from chatbench.sample.study import write_chatbench_folder
from chatbench.simulation.budget import Prices, Spending
from chatbench.simulation.participants import read_simulator_spec
from chatbench.simulation.simulate import ChatSettings
from chatbench.training.finetune import _data_origin
from chatbench.workflow.run_all import Clock, RunReport, StepTime, planned_units, run_all
from chatbench.workflow.units import STEPS, RunSettings, default_assistants

SMALL = RunSettings(
    splits=2,
    chats=ChatSettings(conversations=2, max_user_turns=2, max_tokens=6),
    base_conversations=1,
    flags={"max_steps": 2, "per_device_train_batch_size": 2, "validation_examples": 2},
)


def run(folder: Path, said: list[str] | None = None, **changes: object) -> RunReport:
    if not (folder / "study").exists():
        write_chatbench_folder(study(), folder / "study")
    options = {"study": folder / "study", "settings": SMALL, **changes}
    say = (said if said is not None else []).append
    return run_all("tiny-random", workspace=Workspace(folder / "data", folder / "results"), say=say, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunReport]:
    folder = tmp_path_factory.mktemp("run")
    return folder, run(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_step_of_every_split_leaves_its_files(finished: tuple[Path, RunReport]) -> None:
    folder, report = finished
    results = folder / "results"

    for split_id in ("split_0", "split_1"):
        assert (results / "models" / "tiny-random" / split_id / "chatbench.json").exists()
        assert (results / "ppl" / "tiny-random" / f"{split_id}.json").exists()
        lines = (results / "simulations" / "tiny-random" / split_id / "conversations.jsonl").read_text().splitlines()
        assert len(lines) == 4 * 2 * 2  # held-out questions, assistants, conversations
    assert {path.suffix for path in (results / "scores").iterdir()} == {".json", ".csv", ".md"}
    assert report.table is not None
    assert report.table.splits == ("split_0", "split_1")
    assert ("all", BASE_MODEL, "mae") in report.table.estimates()


def test_a_second_run_repeats_nothing_and_changes_no_byte(finished: tuple[Path, RunReport]) -> None:
    folder, _ = finished
    before, said = contents(folder), list[str]()
    run(folder, said)

    assert contents(folder) == before
    assert sum("already trained" in line for line in said) == 2
    assert sum("0 new in" in line for line in said) == 4
    # The table of equal settings has some forty lines, and was printed for every split.
    assert sum("learning_rate" in line for line in said) == sum("settings as above" in line for line in said) == 1


def test_only_the_steps_that_are_asked_for_run_and_other_splits_replace_none(finished: tuple[Path, RunReport]) -> None:
    folder, _ = finished
    report = run(folder, study=None, steps=["ppl"])

    assert {one.step for one in report.times} == {"ppl"}
    assert report.table is None
    with pytest.raises(ChatbenchError, match="holds splits with seed 0"):
        run(folder, settings=RunSettings(splits=2, seed=1))


def test_a_study_that_has_grown_is_refused_and_one_that_was_moved_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The new chats were left out in silence; a moved project was refused, as its path was another.
    (tmp_path / "old").mkdir()
    monkeypatch.chdir(tmp_path / "old")
    write_chatbench_folder(study(), Path("study"))
    prepare_splits(Path("study"), Path("data"), splits=1)
    (tmp_path / "old").rename(tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new")

    def planned() -> list[str]:
        settings, steps = RunSettings(splits=1), ["prepare", "finetune"]
        given = ["tiny"], Path("study"), Workspace(), settings, steps, Clock(print)
        return [unit.id for unit in planned_units(*given, in_blocks=True)]

    write_json(Path("study/download.json"), {"source": CHATBENCH_DATASET, "revision": "abc", "sha256": {}})
    assert planned() == ["tiny/split_0/finetune"]
    assert _data_origin(Workspace(Path("data")), "split_0").hub_dataset == CHATBENCH_DATASET
    more = study().conversations[0], study().answers[0]
    chat, answer = replace(more[0], id=f"{more[0].question_id}|new", worker_id="new"), replace(more[1], worker_id="new")
    answer = replace(answer, conversation_id=chat.id)
    grown = replace(study(), conversations=(*study().conversations, chat), answers=(*study().answers, answer))
    write_chatbench_folder(grown, Path("study"))
    with pytest.raises(ChatbenchError, match="holds splits with conversations 100") as refused:
        planned()
    assert refused.value.expected == "conversations 101, as in the study now"
    assert "omit --study" in refused.value.fix


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("--assistant gpt=openai:gpt-4o#sk-proj-0123456789abcdef", "never the key itself"),
        ("--steps finetune --assistant gpt=openai:gpt-4o#sk-proj-0123456789abcdef", "never the key itself"),
        ("--judge openai:judge@http://me:sk-proj-0123456789abcdef@host/v1", "a user name, a password"),
        ("--assistant nonsense:x", "cannot be read"),
        ("--assistant local:./gone", "no such folder"),
        ("--judge scripted:strong", "--judge scripted:strong"),
        ("--judge openai:judge", "no rubric"),
        ("--judge openai:judge --rubric RUBRIC", "no question is of kind outcome or text"),
        ("--simulator iqa-eval:tuned --expected-answers", "expected answers with"),
        ("--base-conversations -1", "--base-conversations"),
    ],
)
def test_what_no_unit_could_use_is_refused_before_a_plan_is_written_or_a_model_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str, found: str
) -> None:
    # `plan` wrote keys into files, and `run` fine-tuned for hours before it stopped.
    place, script, rubric = prepared(tmp_path), tmp_path / "out.sbatch", tmp_path / "rubric.txt"
    rubric.write_text("right")
    options = given.replace("RUBRIC", str(rubric)).split()
    options += ["--data", str(place.data), "--results", str(place.results)]
    for command in (["run"], ["plan"], ["plan", "--slurm", str(script)]):
        assert main([command[0], "tiny", *options, *command[1:]]) == 2
        ended = capsys.readouterr()
        assert found in ended.err
        assert "sk-proj" not in ended.out + ended.err
    assert not script.exists()
    assert not place.results.exists()


def test_a_run_needs_the_keys_of_its_endpoints_before_it_trains_and_a_plan_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    place, settings = prepared(tmp_path), RunSettings(assistants=("gpt-4o=openai:gpt-4o",))
    with pytest.raises(ChatbenchError, match="OPENAI_API_KEY is not set"):
        run_all("tiny", study=None, workspace=place, settings=settings, say=lambda _: None)

    assert not place.results.exists()
    assert planned_units(["tiny"], None, place, settings, STEPS[1:], Clock(print), in_blocks=True)


def test_without_fine_tuning_only_trained_splits_are_planned_and_the_others_named(tmp_path: Path) -> None:
    # The run stopped at the first split that was not trained, with others left to simulate.
    place, said = prepared(tmp_path, splits=3), list[str]()
    place.model_folder("tiny", "split_1").mkdir(parents=True)

    def splits(steps: list[str], settings: RunSettings | None = None) -> set[str]:
        given = ["tiny"], None, place, settings or RunSettings(), steps, Clock(said.append)
        return {unit.split for unit in planned_units(*given, in_blocks=False)} - {""}

    assert splits(["simulate", "base", "scores"]) == {"split_1"}
    assert said[-1] == "left out, as tiny is not fine-tuned on them: split_0, split_2"
    assert splits(["base"]) == splits(["finetune", "simulate"]) == {"split_0", "split_1", "split_2"}
    assert splits(["simulate"], RunSettings(only=("split_0",))) == {"split_0"}
    assert sum("left out" in line for line in said) == 1


def test_one_budget_holds_for_the_chats_of_all_splits_and_earlier_runs(tmp_path: Path) -> None:
    def simulated(most: int) -> int:
        steps = ["prepare", "finetune", "simulate"]
        run(tmp_path, steps=steps, spending=Spending(Prices(), max_tokens=most))
        logs = (tmp_path / "results").rglob("conversations.jsonl")
        return sum('"transient": false' in line for log in logs for line in log.read_text().splitlines())

    some = simulated(2_000)
    assert 0 < some < 2 * 16
    assert simulated(2_000) == some
    assert simulated(10**9) == 2 * 16


def test_an_assistant_that_cannot_be_reached_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    # A wrong key was found after all the hours of fine-tuning.
    gone = ("gpt=openai:m@http://127.0.0.1:9/v1",)
    settings = replace(SMALL, assistants=gone, options=EndpointOptions(patience_seconds=0))
    with pytest.raises(ChatbenchError, match=r"127\.0\.0\.1:9"):
        run(tmp_path, settings=settings)
    assert not (tmp_path / "results").exists()
    spent = Spending(Prices(), max_tokens=1)
    spent.tokens = 1
    run(tmp_path, settings=settings, steps=["finetune", "simulate"], spending=spent)  # then it is asked nothing
    assert spent.left > 0


def test_run_takes_every_option_of_simulate_that_shapes_or_costs_a_chat() -> None:
    options, known = (set(signature(command).parameters) for command in (simulation.simulate, pipeline.run))

    assert options - known == {"base_model", "model", "overwrite", "dry_run", "list_simulators"}


def test_a_simulator_that_is_not_fine_tuned_needs_no_training(tmp_path: Path) -> None:
    said: list[str] = []
    base = save_tiny_model(tmp_path / "base", context=2048)
    simulator = read_simulator_spec(f"two-step:local:{base}")
    run(tmp_path, said, settings=replace(SMALL, simulator=simulator), steps=["prepare", "finetune", "ppl", "simulate"])

    assert said[0] == f"skipped, as two-step:local:{base} is not fine-tuned: finetune, ppl"
    assert not (tmp_path / "results" / "models").exists()
    assert len(list((tmp_path / "results").rglob("conversations.jsonl"))) == 2


def test_a_fine_tuned_model_in_another_style_is_trained_and_has_its_perplexity_and_base(tmp_path: Path) -> None:
    settings = replace(SMALL, simulator=read_simulator_spec("two-step-problem:tuned"))
    units = planned_units(["tiny"], None, prepared(tmp_path), settings, STEPS[1:], Clock(print), in_blocks=False)

    assert {unit.stage for unit in units} == set(STEPS[1:])


def test_models_that_lost_different_splits_have_their_tables_and_a_reason_for_the_missing_page(tmp_path: Path) -> None:
    # The refusal of the page was raised: no table was printed, and no reason of any failure.
    place = prepared(tmp_path)
    for model, splits in (("tiny", ("split_0", "split_1")), ("distilgpt2", ("split_0",))):
        for split in splits:
            write_log(place, split, model=model)
    report = run_all(["tiny", "distilgpt2"], study=None, workspace=place, steps=["scores"], say=lambda _: None)
    print_tables(report.tables)

    assert [len(table.splits) for table in report.tables] == [2, 1]
    assert report.page is None
    assert report.lines()[0].startswith("missing: page: tiny and distilgpt2 differ in splits")


def test_a_run_that_fails_only_at_realism_keeps_its_tables(tmp_path: Path) -> None:
    # It raised, and the scores that were written a moment before were never printed.
    place = prepared(tmp_path)
    lost = dict.fromkeys(("answer_text", "letter", "lenient_letter", "final_output"))
    rewrite_log(write_log(place, "split_0"), lambda row: {**row, **lost, "termination": "failed", "reason": "no"})
    report = run_all("tiny", study=None, workspace=place, steps=["scores", "realism"], say=lambda _: None)

    assert report.table is not None
    assert report.lines()[0].startswith("missing: tiny/realism: split_0, fine-tuned: all 40 chats failed")


def test_an_unknown_step_and_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ChatbenchError, match="expected: some of prepare, finetune"):
        run(tmp_path, steps=["train"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ChatbenchError, match="several processes"):
        run(tmp_path)


def test_assistants_are_scripted_where_the_studys_were_and_replayed_otherwise() -> None:
    recorded = tiny_study()
    names = ("scripted-weak", "scripted-strong")
    chats = tuple(replace(recorded.conversations[0], assistant=name) for name in names)
    scripted = replace(recorded, conversations=chats)

    assert default_assistants(recorded) == ("replay:all",)
    assert default_assistants(scripted) == ("scripted:strong", "scripted:weak")
    with pytest.raises(ChatbenchError, match="no chats"):
        default_assistants(Study("empty", {}, (), ()))


def test_the_report_sums_seconds_over_splits() -> None:
    times = (StepTime("finetune", "split_0", 2.0), StepTime("finetune", "split_1", 3.0), StepTime("scores", "", 0.5))
    lines = RunReport(times, seconds=6.0, peak_bytes=1_500_000_000).lines()

    assert lines[0].split() == ["finetune", "5.0", "s", "(2", "splits)"]
    assert lines[-1].endswith("6.0 s, peak memory 1.50 GB")
