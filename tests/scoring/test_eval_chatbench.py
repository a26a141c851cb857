"""The scores step on a study and logs made by hand: files, signature, refusals, unfinished runs."""

from __future__ import annotations

import csv
import io
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from tests.support.command_lines import problem_with
from tests.support.simulated_logs import (
    ASSISTANTS,
    always_wrong,
    endpoint,
    prepared,
    rewrite_log,
    study_folder,
    write_log,
    write_perplexity,
)

from chatbench.cli import main
from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json
from chatbench.core.records import Question, Study
from chatbench.data.prepare_splits import prepare_splits
from chatbench.data.workspace import Workspace
from chatbench.metrics.agreement import Undefined
from chatbench.metrics.baselines import published
from chatbench.metrics.names import BASE_MODEL, CONSTANT, FINE_TUNED, PEOPLE
from chatbench.metrics.resampling import Resampling
from chatbench.report.tables import as_markdown, print_tables, score_grids, write_markdown
from chatbench.scoring.eval_chatbench import _incomplete, eval_chatbench
from chatbench.scoring.score_files import as_csv, read_score_table
from chatbench.scoring.score_table import Score, ScoreTable, comparable
from chatbench.simulation.split_chats import read_chats


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return prepared(tmp_path)


def test_who_answers_as_people_do_has_no_error_and_who_is_always_wrong_has_all_of_it(place: Workspace) -> None:
    write_log(place, "split_0", always_wrong, base_model=True)
    for split_id in ("split_0", "split_1"):
        write_log(place, split_id)
    table = eval_chatbench("tiny", workspace=place)
    rows, values = table.estimates(), table.values()

    assert rows["gpt-4o", FINE_TUNED, "pearson"].mean == pytest.approx(1)
    assert rows["all", FINE_TUNED, "mae"].mean == pytest.approx(0)
    assert rows["all", FINE_TUNED, "bleu"].mean == pytest.approx(1)
    assert rows["all", FINE_TUNED, "questions"].mean == 8  # four held-out questions, two assistants
    wrong, right = values["all", BASE_MODEL, "mae"]["split_0"], values["all", PEOPLE, "accuracy"]["split_0"]
    assert wrong == pytest.approx(right)
    assert isinstance(rows["gpt-4o", BASE_MODEL, "pearson"].mean, Undefined)


def test_a_model_given_as_a_path_is_named_without_the_path(place: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "private" / "mine"
    folder.mkdir(parents=True)
    write_log(place, "split_0", model=str(folder))
    eval_chatbench(str(folder), workspace=place)

    table = read_score_table(place.results / "scores", "mine")
    assert (table.model, table.signature["model"]) == ("mine", "mine")
    assert "private" not in as_markdown([table])


def test_the_files_hold_the_same_figures_and_every_line_names_the_signature(place: Workspace) -> None:
    write_log(place, "split_0")
    write_log(place, "split_1")
    write_log(place, "split_0", always_wrong, base_model=True, conversations=2)
    table = eval_chatbench("tiny", workspace=place)
    write_markdown(table, place)
    folder = place.results / "scores"
    lines = list(csv.DictReader((folder / "tiny.csv").open()))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}

    assert read_score_table(folder, "tiny").estimates() == table.estimates()
    assert {line["signature_id"] for line in lines} == {table.signature_id}
    assert len(lines) == len(table.scores)
    counts = {line["value"] for line in lines if line["metric"] == "questions" and line["value"]}
    assert counts
    assert all(count.isdigit() for count in counts)  # 4, not 4.0
    assert next(line for line in lines if line["metric"] == "pearson" and not line["value"])["undefined_because"]
    assert table.signature["base model"]["conversations"] == 2  # type: ignore[index]
    assert "base model" in (folder / "tiny.md").read_text()
    blocks = [block.splitlines() for block in (folder / "tiny.md").read_text().split("\n\n") if block.startswith("|")]
    assert len(blocks) >= 5
    assert all(len({*map(len, block)}) == 1 for block in blocks)  # columns are aligned
    eval_chatbench("tiny", workspace=place)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_a_simulator_that_was_only_prompted_goes_by_its_model_and_style_in_every_file(place: Workspace) -> None:
    for split_id in ("split_0", "split_1"):  # a model per split is one simulator
        write_log(place, split_id, model="other", prompted=endpoint(name=f"mine-{split_id}"))
    assert str(eval_chatbench("other", workspace=place).simulator) == "simulator mine-{split} (two-step)"
    shutil.rmtree(place.results)
    write_log(place, "split_0", prompted=endpoint())
    write_perplexity(place, "split_0", weights="those of a fine-tuned model of the same name")
    table = eval_chatbench("tiny", workspace=place)
    write_markdown(table, place)

    assert str(table.simulator) == "simulator gpt-4o (two-step)"
    assert str(read_score_table(place.results / "scores", "tiny").simulator) == "simulator gpt-4o (two-step)"
    files = {path.suffix: path.read_text() for path in (place.results / "scores").iterdir()}
    assert set(files) == {".json", ".csv", ".md"}
    for suffix, text in files.items():
        assert "fine-tuned" not in text.partition("Reference: published scores")[0], suffix
    assert "simulator gpt-4o (two-step), invalid dropped" in files[".csv"]
    assert not any(metric.startswith("perplexity") for _, _, metric in table.estimates())


@pytest.mark.parametrize(
    "other",
    [{"name": "gpt-4.1"}, {"base_url": "http://localhost:8000/v1"}, {"temperature": 0.2}, {"top_p": 0.9}],
)
def test_prompted_simulators_of_one_name_have_different_signatures(place: Workspace, other: dict[str, object]) -> None:
    tables = []
    for each in (endpoint(), endpoint(**other)):
        write_log(place, "split_0", prompted=each)
        tables.append(eval_chatbench("tiny", workspace=place))

    assert tables[0].signature_id != tables[1].signature_id
    comparable(tables)  # the simulator is what they differ in, so they may stand side by side


def test_an_assistant_without_human_data_has_its_own_row_and_changes_no_other(place: Workspace) -> None:
    # Pooled turns, endings, overlap and intervals would all move with it: the likely mistake.
    for split_id in ("split_0", "split_1"):
        write_log(place, split_id, now_and_then)
        write_log(place, split_id, always_wrong, base_model=True, conversations=1)
    before = eval_chatbench("tiny", workspace=place, resampling=Resampling(100))
    for path in place.results.rglob("conversations*"):
        path.unlink()
    for split_id in ("split_0", "split_1"):
        for base_model in (False, True):
            log = write_log(
                place, split_id, always_wrong if base_model else now_and_then, base_model=base_model,
                conversations=1 if base_model else 5, assistants=(*ASSISTANTS, "gpt-5"),
            )  # fmt: skip
            rewrite_log(log, lambda row: {**row, "turns": row["turns"] * (1 + (row["assistant"] == "gpt-5"))})
    after = eval_chatbench("tiny", workspace=place, resampling=Resampling(100))

    others = {row: values for row, values in after.values().items() if row[0] != "gpt-5"}
    assert others == before.values()
    intervals = {row: bound for row, bound in after.uncertainty.intervals[""].items() if row[0] != "gpt-5"}
    assert intervals == before.uncertainty.intervals[""]
    assert after.uncertainty.spreads == before.uncertainty.spreads
    own = {row[1:]: estimate.mean for row, estimate in after.estimates().items() if row[0] == "gpt-5"}
    assert own[PEOPLE, "accuracy"] == Undefined("people did not work with this assistant")
    assert own[FINE_TUNED, "user_turns"] == 2
    assert own[BASE_MODEL, "accuracy"] == 0
    bound = after.uncertainty.intervals[""]["gpt-5", FINE_TUNED, "accuracy"]
    assert bound.low <= own[FINE_TUNED, "accuracy"] <= bound.high  # type: ignore[operator]
    assert read_score_table(place.results / "scores", "tiny") == after
    [note] = [note for note in after.notes if "gpt-5" in note]
    assert f"there is no human accuracy; simulated accuracy {own[FINE_TUNED, 'accuracy']:.3f} (interval" in note


def now_and_then(question: Question, _assistant: str, index: int) -> str:
    return "B" if (int(question.id.rpartition("-")[2]) + index) % 3 else "A"


@pytest.mark.parametrize(("answered", "code"), [(2, 3), (3, 0)])  # of five chats
def test_where_most_chats_have_no_answer_that_is_said_first_and_by_the_exit_code(
    place: Workspace, capsys: pytest.CaptureFixture[str], answered: int, code: int
) -> None:
    write_log(place, "split_0", lambda _question, _assistant, index: "B" if index < answered else None)
    folders = ["--data", str(place.data), "--results", str(place.results)]

    assert main(["eval-chatbench", "tiny", "--bootstrap", "0", *folders]) == code
    shown = capsys.readouterr().out
    warned = "tiny: 60% of the chats of fine-tuned have no valid answer"
    assert shown.startswith(warned) is (code == 3)
    if code == 3:  # "chatbench export shows how the chats end" was no command
        said = " ".join(shown.split())
        assert "fine-tune it for more epochs (--num-train-epochs) or from a larger base" in said
        assert (command := "chatbench export tiny --to chats.csv") in said
        assert problem_with(command) is None
    assert main(["show", "tiny", *folders]) == 0
    assert capsys.readouterr().out.startswith(warned) is (code == 3)
    assert (warned in (place.results / "scores" / "tiny.md").read_text()[:120]) is (code == 3)
    assert " ".join(shown.split()).count("4 questions scored") == 1
    assert read_json(place.results / "scores" / "tiny.json")["scored_questions"] == 4  # type: ignore[index]


def test_an_unfinished_simulation_is_scored_over_its_complete_cells_and_can_be_continued(place: Workspace) -> None:
    # 5 chats a cell; 7 are missing at the end: the last cell wholly, and two chats of the one before. Without the
    # options that the log was made with, the command was refused.
    write_log(place, "split_0", leave_out=7, temperature=0.5)
    table = eval_chatbench("tiny", workspace=place)
    write_log(place, "split_1", leave_out=7, prompted={"kind": "openai", "name": "gpt", "temperature": 1.0})
    prompted = eval_chatbench("tiny", workspace=place, splits=["split_1"])

    assert table.splits == ("split_0",)
    assert "split_1: not simulated yet" in table.notes[0]
    assert [table.estimates()["all", each, "questions"].mean for each in (FINE_TUNED, CONSTANT)] == [6, 6]
    notes = [note for each in (table, prompted) for note in each.notes if "to continue" in note]
    assert all("2 of 8 (question, assistant) pairs" in note for note in notes)
    one, other = (note.partition("to continue: chatbench ")[2] for note in notes)
    assert one == "simulate tiny --assistant SPEC --split split_0 --conversations 5 --simulator-temperature 0.5"
    assert other.startswith("simulate tiny --simulator two-step:openai:... --assistant SPEC --split split_1")


def test_pairs_without_people_are_noted_but_not_to_be_simulated_again(place: Workspace) -> None:
    write_log(place, "split_0")
    test = place.split("split_0").question_ids("test")
    fewer = replace(place.study, answers=tuple(a for a in place.study.answers if a.question_id != test[0]))
    notes = _incomplete("tiny", fewer, read_chats(place, "tiny", "split_0"), set(test))

    assert ["answers of people" in note and "chatbench simulate" not in note for note in notes] == [True]


def test_what_cannot_be_replayed_is_noted_but_not_to_be_simulated_again(place: Workspace) -> None:
    # The likely mistake: a command that adds nothing, however often it is given.
    write_log(place, "split_0", leave_out=5)
    test = place.split("split_0").question_ids("test")
    pair = (test[-1], ASSISTANTS[-1])
    chats = tuple(c for c in place.study.conversations if (c.question_id, c.assistant) != pair)
    entry = read_chats(place, "tiny", "split_0")
    replayed = {FINE_TUNED: {name: {"kind": "replay", "name": name} for name in ASSISTANTS}}

    def notes(study: Study) -> list[str]:
        return _incomplete("tiny", study, replace(entry, assistants=replayed), set(test))

    [note] = notes(replace(place.study, conversations=chats))
    assert "1 of 8 (question, assistant) pairs" in note
    assert "cannot be replayed" in note
    assert "chatbench simulate" not in note
    assert ["chatbench simulate" in each for each in notes(place.study)] == [True]


def test_chats_with_assistants_that_a_split_was_trained_on_are_left_out_and_said_so(place: Workspace) -> None:
    # They were told to be with assistants that people had not worked with, and averaged with the held-out ones.
    prepare_splits(study_folder(place), place.data, by="assistant")
    for split in place.manifest.split_ids:
        write_log(place, split)
    table = eval_chatbench("tiny", workspace=place)

    assert not any("people did not work with" in note for note in table.notes)
    assert sum("not held out there, are left out" in note for note in table.notes) == len(place.manifest.split_ids)
    for name in place.study.assistants:
        scored = table.values()[name, FINE_TUNED, "accuracy"]
        assert [split for split in scored if tuple(place.split(split).held_out) == (name,)] == list(scored)


def test_chats_that_are_missing_or_of_other_settings_or_splits_are_refused(place: Workspace, tmp_path: Path) -> None:
    with pytest.raises(ChatbenchError, match="chatbench simulate tiny --assistant"):
        eval_chatbench("tiny", workspace=place)
    with pytest.raises(ChatbenchError, match="--split split_1"):
        eval_chatbench("tiny", workspace=place, splits=["split_1"])
    write_log(place, "split_0", temperature=1.0)
    write_log(place, "split_1", temperature=0.5)
    with pytest.raises(ChatbenchError, match=r"temperature differs: 1\.0 in split_0, 0\.5 in split_1"):
        eval_chatbench("tiny", workspace=place)
    write_log(place, "split_1", model="other", prompted=endpoint())
    write_log(place, "split_0", model="other", prompted=endpoint(name="gpt-4.1"))
    with pytest.raises(ChatbenchError, match=r"simulator\.name differs: 'gpt-4\.1' in split_0, 'gpt-4o' in split_1"):
        eval_chatbench("other", workspace=place)
    # The question set is the same and only the seed differs: comparing the question set alone would let it pass.
    place = prepared(tmp_path, seed=1)
    with pytest.raises(ChatbenchError, match="simulated on another split_0"):
        eval_chatbench("tiny", workspace=place)
    assert not (place.results / "scores").exists()


def test_perplexities_join_the_table_if_they_are_of_the_same_examples_and_model(place: Workspace) -> None:
    write_log(place, "split_0")
    write_perplexity(place, "split_0")
    rows = eval_chatbench("tiny", workspace=place).estimates()
    assert rows["all", FINE_TUNED, "perplexity"].mean == pytest.approx(3)
    assert rows["all", BASE_MODEL, "perplexity_first"].mean == pytest.approx(50)
    assert rows["all", FINE_TUNED, "bits_per_byte"].mean == pytest.approx(math.log2(3) / 4)

    write_perplexity(place, "split_0", test_sha256="of another seed")
    table = eval_chatbench("tiny", workspace=place)
    assert ("all", FINE_TUNED, "perplexity") not in table.estimates()
    assert [note for note in table.notes if "left out; chatbench eval-ppl tiny --split split_0" in note]

    write_perplexity(place, "split_0", weights="hash after training again")
    with pytest.raises(ChatbenchError, match="both from the same fine-tuned model"):
        eval_chatbench("tiny", workspace=place)


def test_only_models_on_the_same_data_stand_in_one_table(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    for split_id in ("split_0", "split_1"):
        for model in ("tiny", "distilgpt2"):
            write_log(place, split_id, model=model)
    first, second = (eval_chatbench(model, workspace=place) for model in ("tiny", "distilgpt2"))
    grid = score_grids([first, second])[0]
    names = [row[0] for row in grid.rows]
    assert grid.header == ("", "gpt-4o", "llama-3.1-8b", "mean of assistants", "all pairs")
    assert names.count("constant (train mean)") == 1
    # Both simulated the same letters, so even their rows agree and are named once: nothing is shown twice.
    assert "fine-tuned" in names

    with pytest.raises(ChatbenchError, match="differ in splits"):
        comparable([first, ScoreTable(second.model, ("split_0",), 6, 4, second.scores, second.signature)])
    answer, *others = place.study.answers
    corrected = replace(place.study, answers=(replace(answer, correct=1 - answer.correct), *others))
    monkeypatch.setattr(Workspace, "study", corrected)

    with pytest.raises(ChatbenchError, match="differ in people_sha256"):
        comparable([first, eval_chatbench("distilgpt2", workspace=place)])


def test_how_many_questions_have_no_overlap_is_noted(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    write_log(place, "split_0")
    study, own = place.study, place.study.conversations
    other = [replace(one, turns=(replace(one.turns[0], text="三足す四はいくつですか"), *one.turns[1:])) for one in own]
    first = own[0].question_id
    one_question = [b if a.question_id == first else a for a, b in zip(own, other, strict=True)]
    of_nine = [f"{name} is of the other 9 of 10 questions" for name in ("BLEU", "ROUGE")]
    for chats, expected in ((other, []), (one_question, of_nine)):  # if none has an overlap, its row says so
        monkeypatch.setattr(Workspace, "study", replace(study, conversations=tuple(chats)))
        notes = [note for note in eval_chatbench("tiny", workspace=place).notes if "--tokenizer unicode" in note]
        assert [note.partition(":")[0] for note in notes] == expected
    assert not any("unicode" in note for note in eval_chatbench("tiny", workspace=place, tokenizer="unicode").notes)


def test_a_table_without_columns_is_not_shown(place: Workspace) -> None:
    write_log(place, "split_0", assistants=["nobody's"])
    text = as_markdown([eval_chatbench("tiny", workspace=place)], with_published=False)

    assert [line for line in text.splitlines() if line.startswith("|") and line.count("|") < 3] == []
    assert "people did not work with this assistant" in text


def test_a_cell_shows_mean_and_error_over_splits_and_undefined_in_words() -> None:
    same = Undefined("the prediction is the same")
    scores = tuple(
        Score(f"split_{number}", *row, value)
        for row, values in {
            ("gpt", FINE_TUNED, "pearson"): (0.5, 0.7),
            ("gpt", CONSTANT, "pearson"): (same, same),
            ("all", FINE_TUNED, "all_numbers_share"): (0.925, 0.975),
        }.items()
        for number, value in enumerate(values)
    )
    table = ScoreTable("tiny", ("split_0", "split_1"), 60, 40, scores, {"study": "s"})
    text = as_markdown([table])

    assert "0.600 ± 0.100" in text
    assert "95.0 ± 2.5 %" in text
    assert "undefined |" in text
    assert "undefined: the prediction is the same (constant (train mean))" in text
    assert "every error is 1.53 times as large" in text  # sqrt(1 + 2 * 40/60)
    assert "0.65 / 0.17" in text
    assert published().source in text
    assert "split_0,gpt,constant (train mean),pearson,,the prediction is the same," in as_csv(table).splitlines()[3]


def test_a_grid_too_wide_for_the_terminal_comes_in_parts_and_nothing_is_cut() -> None:
    names = [f"text-davinci-00{i}" for i in range(4)]
    scores = [Score("split_0", name, FINE_TUNED, "mae", i / 8) for i, name in enumerate(names)]
    table = ScoreTable("tiny", ("split_0",), 60, 40, tuple(scores), {"study": "s"})
    print_tables([table], Console(width=60, file=(output := io.StringIO())))
    shown = output.getvalue()

    assert all(name in shown for name in names)
    assert all(figure in shown for figure in ("0.000", "0.125", "0.250", "0.375"))
    assert "continued" in shown
    assert max(map(len, shown.splitlines())) <= 60
    assert "1 split, so there are no standard errors" in " ".join(shown.split())


def test_a_scores_file_that_is_none_is_named_with_the_command(tmp_path: Path) -> None:
    (tmp_path / "tiny.json").write_text('{"figures": 3}')

    with pytest.raises(ChatbenchError, match="chatbench eval-chatbench tiny"):
        read_score_table(tmp_path, "tiny")
