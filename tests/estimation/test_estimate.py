"""`chatbench estimate` from files to files: known truth, real chats, what is undefined and what is refused."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.support import simulated_assistants as made
from tests.support.simulated_assistants import by_assistant, people, people_file, question_file

from chatbench import api
from chatbench.cli import main
from chatbench.commands.options import NO_ANSWERS
from chatbench.core.errors import BudgetSpentError, ChatbenchError
from chatbench.core.files import write_json, write_jsonl
from chatbench.core.records import Answer
from chatbench.data.open_study import open_study
from chatbench.data.own_chats import read_question_lines
from chatbench.data.prepare_splits import prepare_splits
from chatbench.data.workspace import Workspace
from chatbench.estimation import estimate as module
from chatbench.estimation.estimate import Estimate, estimate
from chatbench.estimation.new_assistant import Predicted, Rectified
from chatbench.metrics.agreement import Undefined
from chatbench.protocol.dialogue import Failure, FunctionParticipant, Reply, function_identity
from chatbench.report.estimate_table import estimate_grids, estimate_notes, read_estimates
from chatbench.simulation import simulate as simulation
from chatbench.simulation.budget import Price, Prices, Spending
from chatbench.simulation.judge import Judge, judge_answers, peoples_answers, simulated_answers
from chatbench.simulation.log import checksummed_line, read_conversations
from chatbench.simulation.participants import open_assistant
from chatbench.simulation.simulate import ChatSettings, simulate

LEVELS = made.LEVELS | {"new": 0.55}
LINE = '{"id": "q", "subset": "s", "text": "t", "options": ["1", "2", "3", "4"], "answer": "A"}\n'
SETTINGS = ChatSettings(conversations=8, max_user_turns=2)


@pytest.fixture(scope="module", autouse=True)
def simulated_by() -> Iterator[None]:
    """In place of models: users of `simulated_assistants`, whose spec's argument is the assistant's name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulation, "open_simulator", lambda *_, **__: made.simulated_user(LEVELS, 0.1))
        patch.setattr(simulation, "open_assistant", lambda spec, *_, **__: made.said_by(spec.name))
        yield


def run(place: Workspace, **options: object) -> Estimate:
    given = {"assistant": "new=scripted:weak", "settings": SETTINGS, "say": lambda _: None, **options}
    return estimate("tiny", workspace=place, **given)  # type: ignore[arg-type]  # of several types


def refused(place: Workspace, **options: object) -> ChatbenchError:
    with pytest.raises(ChatbenchError) as caught:
        run(place, **options)
    return caught.value


def paid(tokens: int) -> FunctionParticipant:
    reply = Reply("reply of new.", tokens=tokens, prompt_tokens=9)
    return replace(made.said_by("new"), function=lambda _: reply)


def folders(place: Workspace) -> list[str]:
    return ["--data", str(place.data), "--results", str(place.results)]


@pytest.fixture(scope="module")
def estimated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Estimate]:
    """The held-out assistants and the new one, simulated and estimated once; nothing may be written there."""
    place = by_assistant(tmp_path_factory.mktemp("estimated"))
    for split, (name,) in place.manifest.held_out.items():
        simulate("tiny", assistants=[f"{name}=scripted:weak"], workspace=place, split=split, settings=SETTINGS)
    return place, run(place)


@pytest.fixture
def place(estimated: tuple[Workspace, Estimate], tmp_path: Path) -> Workspace:
    """Results of one's own to change."""
    shutil.copytree(estimated[0].results, tmp_path / "results")
    return Workspace(estimated[0].data, tmp_path / "results")


def test_the_estimate_corrects_the_error_on_assistants_not_met(estimated: tuple[Workspace, Estimate]) -> None:
    place, found = estimated

    # Simulators are right too often by 0.1 and -0.05, 0 or 0.05 by assistant; people with the new one by 0.55.
    assert [(row.assistant, row.split) for row in found.held_out] == list(
        zip("abcd", place.manifest.split_ids, strict=True)
    )
    assert all(-0.3 < row.error < 0.1 for row in found.held_out)
    whole = found.subsets[0]
    mean_error = sum(row.error for row in found.held_out) / 4
    assert mean_error == pytest.approx(-0.1, abs=0.05)
    assert whole.predicted.estimate.value == pytest.approx(whole.simulated + mean_error)
    assert whole.predicted.estimate.low < 0.55 < whole.predicted.estimate.high
    assert (whole.questions, whole.chats, whole.people) == (30, 30 * 8 * 4, None)
    assert [row.subset for row in found.subsets] == ["all", "college_mathematics", "moral_scenarios"]
    assert found.subsets[1].questions == 15
    by_name = {row.assistant: row.difference for row in found.differences}
    for name, level in made.LEVELS.items():
        one = by_name[name]
        assert one.low < 0.55 - level < one.high
    assert 0 < found.correlation < 0.6
    assert [point.people for point in found.curve] == [25, 50, 100, 200, 400, 800, 1600]
    assert all(point.with_simulator < point.alone for point in found.curve)
    assert found.signature["split_by"] == "assistant"


def test_the_file_keeps_one_entry_per_new_assistant_and_a_second_run_simulates_nothing(
    estimated: tuple[Workspace, Estimate], place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = estimated[1]
    logs = {path: path.read_bytes() for path in place.simulations("tiny").rglob("*.jsonl")}
    content = place.estimate("tiny").read_bytes()
    assert run(place) == first
    assert {path: path.read_bytes() for path in logs} == logs
    assert place.estimate("tiny").read_bytes() == content

    monkeypatch.setitem(LEVELS, "other", 0.5)
    run(place, assistant="other=scripted:weak")
    entries = read_estimates(place.estimate("tiny"))
    assert [entry["assistant"] for entry in entries] == ["new", "other"]
    titles = [grid.title for grid in estimate_grids(entries[0])]
    assert titles[0] == "tiny: expected accuracy of people with new (95 % prediction interval)"
    assert "With real chats" not in titles
    assert estimate_notes(entries[0])[-1] == f"signature {first.signature['id']}"
    # A negative part of the variance was an sd of 0.0 beside a share of -12 %.
    whole = entries[0]["subsets"][0]
    parts = {"simulator on a new assistant": -0.0003, "people": 0.0028, "questions": 0.0}
    other = {**entries[0], "subsets": [{**whole, "predicted": {**whole["predicted"], "variance_by_cause": parts}}]}
    (grid,) = (grid for grid in estimate_grids(other) if grid.title == "What the interval is made of")
    assert [row[1:] for row in grid.rows] == [("not above 0", "-12 %"), ("5.3", "112 %"), ("0.0", "0 %")]


def test_the_command_takes_the_settings_of_simulate(monkeypatch: pytest.MonkeyPatch) -> None:
    # With other settings than the known assistants' chats, it could not continue their logs.
    given: dict[str, object] = {}

    def step(_model: str, **options: object) -> None:
        given.update(options)
        raise ChatbenchError("enough")

    monkeypatch.setattr("chatbench.estimation.estimate.estimate", step)
    line = (
        "estimate tiny --assistant new=scripted:0.5 --people p.jsonl --conversations 3 --max-tokens 60 --answer-model "
    )
    line += "--simulator-temperature 0.5 --assistant-temperature 0 --end-on role_flip --expected-answers "
    line += "--judge openai:m@http://localhost:1 --rubric r.txt --assistant-max-tokens 4000 "
    line += "--reasoning-effort low --skip-bad-records --map a=b --max-user-turns 4 --seed 7"

    assert main(line.split()) == 2
    assert given["settings"] == ChatSettings(
        3, 7, 4, simulator_temperature=0.5, assistant_temperature=0.0, max_tokens=60, end_on=("role_flip",),
        expected_answers=True, answer_model=True, reasoning_effort="low",
        judge="openai:m@http://localhost:1", rubric=Path("r.txt"), assistant_max_tokens=4000,
    )  # fmt: skip
    assert (given["skip_bad_records"], given["maps"]) == (True, ["a=b"])


def test_from_python_the_new_assistant_may_be_a_function(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "open_assistant", open_assistant)

    def newest(_: list[dict[str, str]]) -> str:
        return "reply of new."

    found = api.estimate(
        "tiny", api.assistant(newest), data=place.data, results=place.results, conversations=8, max_user_turns=2
    )
    assert (found.assistant, found.subsets[0].chats) == ("newest", 30 * 8 * 4)
    assert isinstance(found.subsets[0].predicted, Predicted)
    assert found.signature["assistant"] == {"name": "newest", "identity": function_identity(newest)}
    with pytest.raises(ChatbenchError, match="a: the study already has this assistant"):
        api.estimate("tiny", api.assistant(newest, name="a"), data=place.data, results=place.results)


def test_real_chats_rectify_and_are_set_beside_people_and_simulation_alone(place: Workspace, tmp_path: Path) -> None:
    answers = people("new", 0.55, 40, Random(7), "x")
    real = people_file(tmp_path / "new.jsonl", answers)
    found = run(place, people=real)
    whole = found.subsets[0].people

    assert (whole.answers, whole.people, whole.questions) == (200, 40, 30)
    assert whole.rectified.low < 0.55 < whole.rectified.high
    assert found.correlation == whole.correlation
    assert found.correlation_from.startswith("real chats")
    json.loads(place.estimate("tiny").read_text())
    (entry,) = read_estimates(place.estimate("tiny"))
    grid = next(grid for grid in estimate_grids(entry) if grid.title == "With real chats")
    assert grid.rows[0][-1].startswith("200 count like ")
    loses = ", ".join(row.subset for row in found.subsets if isinstance(row.people, Rectified) and row.people.loses)
    notes = [note.partition(":")[0] for note in estimate_notes(entry) if "people alone are the estimate" in note]
    assert notes == [loses] * bool(loses)
    # Bad answers and another spelling of the name vanished without a word; a second answer was an error.
    real = people_file(tmp_path / "new.jsonl", [*answers, *answers[:2]])
    rows = [json.loads(line) for line in real.read_text().splitlines()]
    rows[10]["answer"] = rows[11]["answer"] = "Z"
    rows[20]["assistant"] = "New"
    write_jsonl(real, rows)
    found = run(place, people=real, skip_bad_records=True)

    assert found.subsets[0].people.answers == 197
    left_out = [note.removeprefix(f"{real}: ") for note in found.notes]
    assert left_out[0].startswith("left out: 2 x ")
    assert left_out[1:] == [
        "left out: 2 x duplicate answer (same worker, question and kind; the first is kept)",
        "answers with other assistants than 'new' are not used: 1 with 'New'",
    ]


def test_other_questions_have_logs_of_their_own_and_no_differences(place: Workspace, tmp_path: Path) -> None:
    found = run(place, questions=question_file(tmp_path / "questions.jsonl", 12))

    assert found.subsets[0].questions == 12
    assert isinstance(found.subsets[0].predicted, Predicted)
    assert len(list(place.estimate("tiny").parent.rglob("questions_*.jsonl"))) == 4
    assert all(isinstance(row.difference, Undefined) for row in found.differences)
    (entry,) = read_estimates(place.estimate("tiny"))
    all_of_them = "minus a, minus b, minus c, minus d: fewer than 2 questions were simulated with both assistants"
    assert estimate_notes(entry)[:2] == ["new: scripted, new", all_of_them]


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(
    ("other", "name", "use"),
    [
        ({"max_user_turns": 3}, "max_user_turns 2", "those chats, --max-user-turns 2, or"),
        ({"end_on": ("role_flip",)}, "end_on []", "those chats, without --end-on, or"),
        ({}, "simulator.weights 'w'", "those chats, or"),
    ],
)
def test_settings_other_than_those_that_the_error_is_known_for_are_refused(
    place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool, other: Any, name: str, use: str
) -> None:
    # Other questions have a log of their own: nothing was compared.
    if not other:
        user = made.simulated_user(LEVELS, 0.1)
        user = replace(user, identity={**user.identity, "weights": "x"})
        monkeypatch.setattr(simulation, "open_simulator", lambda *_, **__: user)
    options = {"questions": question_file(tmp_path / "questions.jsonl", 12)} if own else {}
    error = refused(place, settings=replace(SETTINGS, **other), **options)  # type: ignore[arg-type]  # some of its fields
    assert f"made with {name}" in error.found
    assert use in error.fix
    assert "chatbench simulate MODEL ... --overwrite" in error.fix
    assert not list(place.estimate("tiny").parent.rglob("questions_*.jsonl"))


def test_other_questions_may_have_fewer_chats_but_always_the_same_number(place: Workspace, tmp_path: Path) -> None:
    path = question_file(tmp_path / "questions.jsonl", 12)
    three, two = (replace(SETTINGS, conversations=number, seed=1) for number in (3, 2))
    assert run(place, questions=path, settings=three).subsets[0].chats == 12 * 3 * 4
    error = refused(place, questions=path, settings=two)
    assert "made with conversations 3" in error.found
    assert "--overwrite" not in error.fix  # which estimate does not have
    assert "or remove" in error.fix


def test_verdicts_score_people_and_all_simulated_chats_alike(tmp_path: Path) -> None:
    # The judge finds A and C as right as the listed B. By the rule alone, people and simulators are right now and then.
    def as_text(answers: list[Answer], name: str) -> Path:
        rows = [json.loads(line) for line in people_file(tmp_path / name, answers).read_text().splitlines()]
        for row in rows:
            row["question"] = {**row["question"], "answer_kind": "text", "answer": "B", "subset": "all"}
            del row["question"]["options"]
            row["answer"] = row["answer"].replace("C", "A")  # only simulated people say C
        write_jsonl(tmp_path / name, rows)
        return tmp_path / name

    real = as_text(people("new", 0.55, 40, Random(7), "x"), "new.jsonl")
    place = Workspace(tmp_path / "d", tmp_path / "r")
    prepare_splits(as_text(list(made.study().answers), "study.jsonl"), place.data, by="assistant", splits=None)
    for split, (name,) in place.manifest.held_out.items():
        place.model_folder("tiny", split).mkdir(parents=True)
        write_json(place.model_folder("tiny", split) / "chatbench.json", {})
        simulate("tiny", assistants=[f"{name}=scripted:weak"], workspace=place, split=split, settings=SETTINGS)
    by_rule = run(place, people=real)
    logs = [read_conversations(place.conversations("tiny", split)) for split in place.manifest.split_ids]
    given = [*peoples_answers(place.study), *(each for log in logs for each in simulated_answers(place.study, log))]
    checker = Judge(lambda _, answer: answer in "AC")
    judge_answers(checker, given[:1], place.study, place)
    left = len({*given, *peoples_answers(open_study(real))}) - 1
    assert any(f"{left} answers are not judged yet" in note for note in run(place, people=real).notes)
    judge_answers(checker, given, place.study, place)
    judged = run(place, people=real)

    assert all(0.3 < share < 0.9 for one in by_rule.held_out for share in (one.human, one.simulated))
    assert all((one.human, one.simulated) == (1, 1) for one in judged.held_out)
    assert judged.subsets[0].simulated == 1
    assert str(judged.subsets[0].people) == "undefined: all 200 answers are right, so they show no variance"
    assert [row.subset for row in judged.subsets] == ["all"]  # a subset of this name was a second total
    assert any("judged by" in note for note in judged.notes)
    assert judged.signature["id"] != by_rule.signature["id"]


def test_questions_that_share_only_an_id_with_the_study_s_are_refused(place: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    asked = place.study.questions.values()
    known = [each for each in asked if each.subset == next(iter(asked)).subset][:3]
    lines = [{"id": q.id, "subset": q.subset, "text": q.text, "options": q.options, "answer": q.answer} for q in known]
    write_jsonl(path, lines)
    # All of one subset: its row has the error of that subset, the row of all that of the study.
    assert [(row.subset, row.questions) for row in run(place, questions=path).subsets] == [
        ("all", 3), (known[0].subset, 3),
    ]  # fmt: skip

    for other in ({"text": "something else"}, {"ordered": True}):  # the second would score held-out chats by this key
        write_jsonl(path, [{**line, **other} for line in lines])
        error = refused(place, questions=path)
        assert f"question {known[0].id!r} differs from the study's question with this id" in error.found


def test_an_unknown_error_is_refused_at_once(place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # It was paid for all chats, said "undefined", and ended with code 0; its next command lacked --max-user-turns.
    two = by_assistant(tmp_path / "two", levels={"a": 0.4, "b": 0.5})
    for split in place.manifest.split_ids[:2]:
        shutil.rmtree(place.conversations("tiny", split).parent)
    shutil.rmtree(place.model_folder("tiny", "split_1"))
    monkeypatch.setattr(simulation, "open_assistant", lambda *_, **__: pytest.fail("asked"))
    one, other, fewest = (refused(each) for each in (place, by_assistant(tmp_path / "questions", by="question"), two))

    assert "2 of the study's 4 assistants were held out and simulated" in one.found
    options = "--conversations 8 --max-user-turns 2"
    assert one.fix.startswith(f"chatbench simulate tiny --assistant a=SPEC --split split_0 {options}; or give real")
    assert "splits by question" in other.found
    assert "--by assistant" in other.fix
    assert (fewest.expected, fewest.fix) == (
        "3 or more", "give real chats with the new assistant: --people FILE",
    )  # fmt: skip
    shutil.rmtree(place.model_folder("tiny", "split_0"))
    assert refused(place).fix.startswith("SPLIT_ID=split_0 chatbench finetune tiny, then chatbench simulate tiny")
    for content in ("[]", '{"a": '):  # so is a damaged file of estimates
        place.estimate("tiny").write_text(content)
        assert "tiny.json" in refused(place).found
        assert f"restore {place.estimate('tiny')}" in refused(place).fix


def test_with_real_chats_two_assistants_are_undefined_and_say_why(place: Workspace, tmp_path: Path) -> None:
    real = people_file(tmp_path / "new.jsonl", people("new", 0.55, 40, Random(7), "x"))
    for split in place.manifest.split_ids[:2]:
        shutil.rmtree(place.conversations("tiny", split).parent)
    found = run(place, people=real)
    assert "2 assistants were held out and simulated, 3 are needed" in str(found.subsets[0].predicted)
    assert found.notes[0].startswith("split_0: a was not simulated")
    command = "simulate tiny --assistant a=SPEC --split split_0 --conversations 8 --max-user-turns 2"
    assert found.notes[0].endswith(f"run chatbench {command}")

    place = by_assistant(tmp_path / "questions", by="question")
    found = run(place, people=real)
    assert isinstance(found.subsets[0].predicted, Undefined)
    assert "prepare-splits --by assistant" in found.notes[0]
    assert isinstance(found.subsets[0].people, Rectified)


def test_a_spent_budget_is_no_estimate_and_continues(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "open_assistant", lambda *_, **__: paid(10))
    monkeypatch.setitem(LEVELS, "fresh", 0.5)

    def fresh(most: int) -> Estimate:
        return run(place, assistant="fresh=scripted:weak", spending=Spending(Prices(), max_tokens=most))

    with pytest.raises(BudgetSpentError, match="720 conversations with fresh are missing: there is no esti") as spent:
        fresh(100)  # the first of four blocks
    assert spent.value.exit_code == 4
    assert "fresh" not in place.estimate("tiny").read_text()
    with pytest.raises(BudgetSpentError, match="720"):  # what the first run used counts
        fresh(100)
    assert fresh(10**6).subsets[0].chats == 30 * 8 * 4


def test_failed_chats_are_noted_and_tried_again(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    # An estimate from the chats that did not fail looked like one from all. Which ones fail is no chance.
    free, lost = made.said_by("new"), Failure("busy", transient=True)
    busy = replace(free, function=lambda asked: free.function(asked) if asked.seed % 4 else lost)
    with monkeypatch.context() as patch:
        patch.setattr(simulation, "open_assistant", lambda *_, **__: busy)
        found = run(place, assistant="fresh=scripted:weak")
    failed = 960 - found.subsets[0].chats
    assert failed > 0
    reason = f"{failed} failed: busy (the same command tries them again)"
    assert found.notes == (f"{failed} of 960 chats with fresh are missing from the estimate: {reason}",)
    monkeypatch.setattr(simulation, "open_assistant", lambda *_, **__: free)
    again = run(place, assistant="fresh=scripted:weak")
    assert (again.subsets[0].chats, again.notes) == (960, ())


def test_chats_without_answers_are_warned_of_first_and_in_the_notes(
    place: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The interval was printed as if these simulated people had answered wrong, with exit code 0.
    silent = made.simulated_user(LEVELS, 0.1)
    monkeypatch.setattr(simulation, "open_simulator", lambda *_, **__: replace(silent, function=lambda _: Reply("Hm.")))
    line = ["estimate", "tiny", "--assistant", "mute=scripted:weak", "--conversations", "8", "--max-user-turns", "2"]
    assert main([*line, *folders(place)]) == NO_ANSWERS
    warning = "tiny: most simulated chats have no valid answer (100% with mute), so the estimate says little"
    shown = capsys.readouterr().out
    assert shown.count(warning) == 1
    assert shown.index(warning) < shown.index("expected accuracy of people")
    mute = read_estimates(place.estimate("tiny"))[-1]
    assert mute["notes"][0] == mute["warning"]
    assert mute["warning"].startswith(warning)

    log = place.conversations("tiny", "split_0")
    chats = [replace(chat, letter=None) if chat.assistant == "a" else chat for chat in read_conversations(log)]
    log.write_bytes(b"".join(checksummed_line(asdict(chat)) for chat in chats))
    assert "no valid answer (100% with a)" in run(place).warning


def test_the_command_has_prices_a_budget_and_a_dry_run(place: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--conversations", "8", "--max-user-turns", "2", "--assistant-price", "1/4", "--budget-usd", "0.001"]
    command = ["estimate", "tiny", "--assistant", "fresh=openai:m@http://127.0.0.1:9/v1", *folders(place), *options]
    before = sorted(place.results.rglob("*"))

    assert main([*command, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "split_0: fresh: 240 conversations, 0 recorded, 240 to simulate, one by one" in shown
    assert "of the 960 conversations" in shown
    assert "total: 960 conversations to simulate, about $" in shown
    assert "4 characters per token; reasoning comes on top" in shown
    assert sorted(place.results.rglob("*")) == before


def test_what_the_first_split_cost_is_expected_of_the_others(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    # They were expected to cost what people's chats would, after a model that reasons had cost eight times as much.
    monkeypatch.setattr(simulation, "open_assistant", lambda *_, **__: paid(500))
    said: list[str] = []
    costs = Prices(assistant=Price(1, 4))
    given = {"assistant": "thinker=openai:m@http://127.0.0.1:9/v1", "workspace": place, "settings": SETTINGS}
    budget = Spending(costs, max_usd=0.5)  # one split's
    with pytest.raises(BudgetSpentError):
        estimate("tiny", spending=budget, say=said.append, **given)  # type: ignore[arg-type]  # of several types
    measured = "recorded conversations of another split"
    assert [measured in "".join(line for line in said if line.startswith(f"split_{n}: about")) for n in range(3)] == [
        False, True, True,
    ]  # fmt: skip
    assert "$2.01 per 1,000 conversations, $0.48 for these 240" in "".join(said)
    said.clear()
    module.dry_run(
        "tiny", spending=Spending(costs, max_usd=1), say=said.append, questions=None, people=None,
        skip_bad_records=False, maps=(), **given,
    )  # fmt: skip
    assert "".join(said).count(measured) == 3
    assert "the rest is enough for about " in "".join(said)


def test_other_real_chats_cannot_be_joined(place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = people("new", 0.55, 10, Random(7), "x")
    outcomes = module._outcomes
    asked = {answers[0].question_id, answers[1].question_id}
    monkeypatch.setattr(module, "_outcomes", lambda *a: {q: o for q, o in outcomes(*a).items() if q not in asked})
    real = people_file(tmp_path / "new.jsonl", answers[:2])

    assert "no question has both real and simulated chats" in str(run(place, people=real).subsets[0].people)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"assistant": "new"', '"assistant": "other"', "no human answers with new; it has other"),
        ('"worker_id": "xnew0"', '"worker_id": "wa0"', "1 of the people also took part in the study"),
        ("college_mathematics-redux", "Why", "unknown"),
        ("What about", "Why", "whose text differs from that simulated"),
    ],
)
def test_unfitting_real_chats_are_refused(place: Workspace, tmp_path: Path, old: str, new: str, said: str) -> None:
    path = people_file(tmp_path / "new.jsonl", people("new", 0.5, 4, Random(1), "x"))
    path.write_text(path.read_text().replace(old, new))
    assert said in refused(place, people=path).found


@pytest.mark.parametrize(
    ("assistant", "said"),
    [("a=scripted:weak", "a: the study already has this assistant"), ("scripted:all", "names 2")],
)
def test_anything_but_one_new_assistant_is_refused(place: Workspace, assistant: str, said: str) -> None:
    assert said in refused(place, assistant=assistant).found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"id": "q"}\n', "line 1, key 'subset': missing"),
        (LINE.replace('"t"', '" "'), "line 1: question"),
        (LINE * 2, "'q' again"),
        (LINE, "1 questions"),
    ],
)  # fmt: skip
def test_questions_that_are_none_are_refused_with_their_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "q.jsonl").write_text(text)
    with pytest.raises(ChatbenchError) as caught:
        read_question_lines(tmp_path / "q.jsonl", least=2)
    assert said in str(caught.value)


def test_each_held_out_assistant_has_a_row(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    table = importlib.import_module("estimate_table")
    study = made.study()
    table.print_table(study, table.stand_ins(study), 3, [30, 60, 500])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith(("| a", "| d"))]

    assert [len(row) for row in rows] == [4, 4, 9, 9, 9, 9]  # 500 is more than anybody's answers
    truth = sum(a.correct for a in table.with_assistant(study, "a")) / 200
    assert float(rows[0][1]) == pytest.approx(100 * truth, abs=6)
