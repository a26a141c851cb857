"""Results in the terminal and for papers: the same figures everywhere, and nothing wider than the terminal."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from tests.support.finished_results import SPLITS, stored_estimate
from tests.support.simulated_logs import ASSISTANTS, rewrite_log, write_log

from chatbench.cli import main
from chatbench.core.errors import ChatbenchError
from chatbench.core.files import write_json
from chatbench.data.workspace import Workspace
from chatbench.metrics.agreement import Estimate, Undefined
from chatbench.metrics.names import FINE_TUNED
from chatbench.metrics.resampling import Resampling
from chatbench.report.grids import EMPTY, Grid, markdown, print_grids
from chatbench.report.report import gather, shown_results
from chatbench.report.show import (
    ModelResults,
    as_csv,
    as_json,
    as_latex,
    escaped,
    latex_table,
    print_results,
    scatter_lines,
    show,
    turn_grid,
)
from chatbench.report.tables import cell_text, footnotes, main_scores
from chatbench.scoring.eval_chatbench import eval_chatbench
from chatbench.scoring.score_files import read_score_table
from chatbench.scoring.score_table import Score


def results_of(place: Workspace, *names: str) -> list[ModelResults]:
    return show(shown_results(names, results=place.results, data=place.data))


def printed(found: Sequence[ModelResults], *, published: bool = False) -> str:
    screen = Console(width=80, file=io.StringIO(), color_system=None)
    print_results(found, screen, published=published)
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def test_the_terminal_shows_table_plots_and_signature_within_eighty_columns(finished: Workspace) -> None:
    text = printed(results_of(finished), published=True)

    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    assert " ".join(text.split()).count("(mean of assistants; 8 pairs of question and assistant per split)") >= 3
    for expected in (
        "Agreement with people's accuracy", "baseline:", "ceiling", "Perplexity of people's turns",
        "between floor and ceiling", "and of simulated users", "The simulator on each split", "how the chats ended",
        "user turns of a chat", "published, not computed here", "signature",
    ):  # fmt: skip
        assert expected in text, expected


def test_json_csv_and_the_table_of_scores_hold_the_same_unrounded_numbers(finished: Workspace) -> None:
    # The likely mistake: one of the forms is made from rounded cells.
    found = results_of(finished)
    rows = list(csv.DictReader(io.StringIO(as_csv(found))))
    figures = json.loads(as_json(found))["figures"]
    stored = read_score_table(finished.results / "scores", "tiny").estimates()

    assert [row["mean"] for row in rows] == [
        repr(figure["mean"]) if isinstance(figure["mean"], float) else "" for figure in figures
    ]
    by_row = {(r["assistant"], r["source"], r["metric"]): r for r in rows if r["model"] == "tiny"}
    for row in (("gpt-4o", FINE_TUNED, "mae"), ("all", FINE_TUNED, "perplexity"), ("all", FINE_TUNED, "bleu")):
        assert float(by_row[row[0], str(row[1]), row[2]]["mean"]) == stored[row].mean
        assert float(by_row[row[0], str(row[1]), row[2]]["standard_error"]) == stored[row].standard_error


def test_a_prompted_simulator_is_called_what_it_is_in_every_form(prompted: Workspace) -> None:
    # A model that nobody trained stood in every table as "fine-tuned".
    found = results_of(prompted)
    [run] = json.loads(as_json(found))["models"]

    for text in (printed(found), as_csv(found), as_latex(found), as_json(found)):
        assert "simulator gpt-4o-mini (two-step)" in " ".join(text.split())
        assert "fine-tuned" not in text
    assert set(run["user_turns"]) == {"people", "simulator gpt-4o-mini (two-step)"}


def drawn(grid: Grid, *notes: str) -> str:
    """A grid in a terminal of 80 columns."""
    print_grids([grid], notes, Console(file=(written := io.StringIO()), width=80))
    return written.getvalue()


def test_a_name_too_long_is_broken_behind_a_hyphen_or_else_folded_and_one_of_usual_length_stays_whole() -> None:
    # "meta-llama/Llama-3.1-8B-Instruc", and "t" on the next line.
    names = ("meta-llama/Llama-3.1-8B-Instruct", "organisation/some-model-of-the-year-2025-instruct-awq",
             "folder--" + "x" * 100)  # fmt: skip
    text = drawn(Grid("t", ("", "r", "MAE", "n"), tuple((name, *("0.123456789",) * 3) for name in names)))
    column = [line[:40].strip() for line in text.splitlines()]

    assert max(map(len, text.splitlines())) <= 80
    assert text.count("x") == 100 * text.count("folder--") > 0
    assert text.count("0.123456789") == 9
    assert names[0] in column
    assert "organisation/some-model-of-the-year-" in column
    assert "2025-instruct-awq" in column


def test_a_note_on_what_is_undefined_names_the_assistants_and_splits_unless_it_holds_for_all(
    finished: Workspace,
) -> None:
    table = results_of(finished, "tiny")[0].table
    few = Undefined("2 questions, 3 are needed")

    def noted(*places: tuple[str, str]) -> list[str]:
        changed = [
            replace(score, value=few)
            if (score.predictor, score.metric) == (FINE_TUNED, "pearson") and (score.assistant, score.split) in places
            else score
            for score in table.scores
        ]
        return [note for note in footnotes(replace(table, scores=tuple(changed))) if few.reason in note]

    one, other = ASSISTANTS
    both = [(who, split) for who in (one, "mean of assistants") for split in SPLITS]
    assert noted(*both, (other, "split_1")) == [f"undefined: {few.reason} (fine-tuned): {one}; {other} in split_1"]
    assert noted(*both, *((other, split) for split in SPLITS)) == [f"undefined: {few.reason} (fine-tuned)"]
    pooled = "constant (train mean), all pairs pooled: its correlation comes from the assistants' means alone"
    assert pooled in footnotes(table)


def test_what_is_the_same_for_both_models_stands_there_once_and_belongs_to_neither(finished: Workspace) -> None:
    figures = main_scores([model.table for model in results_of(finished)])
    constant = [f for f in figures if f.name == "constant (train mean)" and (f.assistant, f.metric) == ("all", "mae")]

    assert [(f.model, f.kind) for f in constant] == [("", "baseline")]
    assert {f.model for f in figures if f.name == "fine-tuned"} == {"tiny", "distilgpt2"}


def test_published_rows_are_marked_in_every_form_and_carry_no_signature(finished: Workspace) -> None:
    found = results_of(finished, "tiny")
    rows = [row for row in csv.DictReader(io.StringIO(as_csv(found, published=True))) if row["kind"] == "published"]

    assert {(row["mean"], row["signature_id"], row["standard_error"]) for row in rows} >= {("0.63", "", "")}
    assert not any(row["kind"] == "published" for row in csv.DictReader(io.StringIO(as_csv(found))))
    assert any(figure["kind"] == "published" for figure in json.loads(as_json(found, published=True))["figures"])
    assert "published, not computed here" in as_latex(found, published=True)


def test_latex_passes_a_strict_reader_and_keeps_unrounded_figures_beside_the_rounded(finished: Workspace) -> None:
    text = as_latex(results_of(finished), published=True)
    estimates = read_score_table(finished.results / "scores", "tiny").estimates()
    mean = estimates["mean of assistants", FINE_TUNED, "mae"].mean

    assert refused_by_a_strict_reader(text) == []
    assert f"mean absolute error {mean!r}" in text
    assert re.search(r"tiny, fine-tuned & \S+ \$\\pm\$ \S+ &", text)


def test_latex_begins_with_the_warning_that_stands_before_all_numbers(finished: Workspace) -> None:
    # The one form that said nothing of chats without answers.
    [model] = results_of(finished, "tiny")
    silent = [Score(split, "all", FINE_TUNED, "without_answer_share", 1.0) for split in model.table.splits]
    others = [score for score in model.table.scores if score.metric != "without_answer_share"]
    table = replace(model.table, model="ti\nny", scores=(*others, *silent))
    lines = as_latex([replace(model, table=table)]).splitlines()

    assert lines[1].startswith("% ti?ny: 100% of the chats")
    assert lines[2] == f"% signature {table.signature_id}"


def test_turns_are_those_of_people_about_held_out_questions_and_of_chats(finished: Workspace) -> None:
    turns = results_of(finished, "tiny")[0].turns

    # Two assistants, five people of whom one writes twice. Each chat counts once, as on the page, though the two splits
    # (4 held-out questions each) hold out two questions both.
    assert turns["people"] == {1: 6 * 2 * 4, 2: 6 * 2}
    assert turns["fine-tuned"] == {1: 2 * 4 * 2 * 5}


def test_an_assistant_without_people_moves_no_share_that_stands_beside_theirs(
    finished: Workspace, tmp_path: Path
) -> None:
    def shares(folder: str, *more: str) -> tuple[object, object, object]:
        place = Workspace(finished.data, tmp_path / folder)
        for split in SPLITS:
            log = write_log(place, split, assistants=(*ASSISTANTS, *more))
            rewrite_log(log, lambda c: {**c, "turns": [*c["turns"]] * (1 + (c["assistant"] == "gpt-5"))})  # type: ignore[misc]
        eval_chatbench("tiny", workspace=place, resampling=Resampling(replicates=0))
        [run] = gather(shown_results([], results=place.results, data=place.data)).first["runs"]  # type: ignore[misc]
        return results_of(place)[0].turns, run["distributions"], run["probabilities"]

    assert shares("before") == shares("after", "gpt-5")


def test_without_the_study_the_rest_is_shown_and_what_is_missing_is_said(finished: Workspace) -> None:
    found = show(shown_results(["tiny"], results=finished.results, data=finished.results / "nowhere"))

    assert set(found[0].turns) == {"fine-tuned", "base model"}
    assert "no turns of people's chats; give --data" in printed(found).replace("\n", " ")


def test_a_scatter_counts_points_and_never_hides_one() -> None:
    lines = scatter_lines([(0.0, 1.0)] * 12 + [(1.0, 1.0), (0.5, 0.0), (0.5, 0.02)])

    assert lines[0] == "  1.0 │+" + " " * 39 + "1│"
    assert lines[10] == "  0.0 │/" + " " * 19 + "2" + " " * 20 + "│"
    assert lines[5] == "  0.5 │" + " " * 20 + "/" + " " * 20 + "│"


def test_the_scatter_has_simulated_users_to_the_right_and_people_upwards_as_the_page_has(finished: Workspace) -> None:
    # Simulated users of this model are right in three chats of five whatever the question: one column, at 0.6.
    text = printed(results_of(finished, "distilgpt2"))
    rows = [line.partition("│")[2] for line in text.splitlines() if re.match(r"  [01]\.\d │", line)]

    assert {place for row in rows for place, sign in enumerate(row) if sign.isdigit() or sign == "+"} == {24}
    assert sum(row[24] not in " /" for row in rows) > 1


def test_names_in_titles_cells_and_notes_neither_style_nor_steer_the_terminal() -> None:
    # A title given as a plain string is read as markup: [/x] stops the command, [red] is swallowed.
    text = drawn(Grid("of [red]a[/x]", ("", "b\x1b[2J"), (("c\x9b\u202e", "1"),)), "note \x1b]0;title\x07")

    assert "of [red]a[/x]" in text
    assert "note \ufffd]0;title\ufffd" in text
    assert not set(text) & set("\x1b\x9b\x07\u202e")


def test_long_chats_are_counted_together_and_shares_are_of_all_chats(finished: Workspace) -> None:
    [scored] = results_of(finished, "tiny")
    grid = turn_grid(scored.table, {"people": {1: 3, 12: 1}, "fine-tuned": {10: 1, 11: 1}})
    rows = grid.rows

    assert grid.header == ("turns", "people (4 chats)", "fine-tuned (2 chats)")
    assert "4 held-out questions per split" in grid.title

    assert rows[0] == ("1", "█████████···  75.0 %", "············   0.0 %")
    assert rows[-1] == ("10 or more", "███·········  25.0 %", "████████████ 100.0 %")


# LaTeX: what stands in a cell is printed as it is, and the table compiles

NASTY = (
    "50 % of $x_1$ & #2 {a} ~ ^ \\input{/etc/passwd} \\\\",
    "[2cm] after a line",
    "* star after a line",
    "mistralai--Mistral-7B, ''quoted'', a,,b",
    "<|im_start|> \"quoted\" `tick` 'tick'",
    "中文, عربى, emoji 🦆, ﬁ, Łódź, Ð Þ",
    "Ünïcödé ß æ ø",
    "two\nlines\ttab \x00 nul \x1b[31m \u2028 \u202e",
    "± \u00d7 \u2013 \u2014 … \u00a0 ½ €",
    "^^41 ^^M %%EOF \\end{tabular} \\catcode",
)
GRID = Grid("Title & 100 %", ("", "a_b", "µ"), tuple((text, "0.1 ± 0.2", EMPTY) for text in NASTY))


def document(*tables: str) -> str:
    body = "\n".join(tables)
    return f"\\documentclass{{article}}\n\\usepackage{{booktabs}}\n\\begin{{document}}\n{body}\n\\end{{document}}\n"


def refused_by_a_strict_reader(source: str) -> list[str]:
    """What a LaTeX that knows only what we use would refuse: other commands, bare specials, loose braces, wide rows."""
    problems = []
    known = (
        r"begin|end|centering|footnotesize|setlength|tabcolsep|linewidth|shortstack|raggedright|caption|label|toprule"
        r"|midrule|bottomrule|pm|times|dots|text[a-z]+|char|\\|[{}$&#%_]"
    )
    text = re.sub(r"(?m)(?<!\\)%.*$", "", source)
    for command in re.findall(r"\\([A-Za-z]+|.)", text):
        if not re.fullmatch(known, command):
            problems.append(f"command \\{command}")
    bare = re.sub(r"\\([A-Za-z]+|.)", "", text).replace("$$", "").replace("$-$", "")
    problems += [f"bare {found}" for found in re.findall(r"[$#%_^~\"<>|`]", bare)]
    depth = 0
    for brace in re.findall(r"[{}]", bare):
        depth += 1 if brace == "{" else -1
        problems += ["a } too many"] * (depth < 0)
    problems += ["an open {"] * (depth > 0)
    for tabular in re.findall(
        r"\\begin\{tabular\}\{(?:p\{0\.27\\linewidth\}|l)(r+)\}(.*?)\\end\{tabular\}", text, re.DOTALL
    ):
        for row in re.findall(r"^(.*) \\\\$", tabular[1], re.MULTILINE):
            if len(re.findall(r"(?<!\\)&", row)) != len(tabular[0]):
                problems.append(f"columns of {row}")
    return problems


def test_whatever_stands_in_a_cell_makes_no_command_and_leaves_no_special_character() -> None:
    # The likely mistake: one character of the list forgotten, or `\` escaped after others, so that escapes are escaped.
    assert refused_by_a_strict_reader(latex_table(GRID, "tab:x")) == []
    assert refused_by_a_strict_reader("\\begin{tabular}{lr}\na_b & 1 & 2 \\\\\n\\end{tabular}") != []


def test_hyphens_dashes_brackets_and_stars_print_as_such() -> None:
    # -- would be a dash, and behind \\ a bracket is a distance and a star part of the command. Written as -- and ---,
    # dashes would be taken apart like the hyphens of a model's name.
    assert escaped("[2cm]*\\") == r"{[}2cm]{*}\textbackslash{}"
    assert escaped("1\u20132 \u2014 a--b") == r"1\textendash{}2 \textemdash{} a-{}-b"


def test_rules_stand_between_kinds_and_figures_follow_unrounded_as_comments() -> None:
    rows = (("fine-tuned", "0.1"), ("baseline: a", "0.2"), ("baseline: b", "0.3"), ("ceiling, 10 chats", EMPTY))
    lines = latex_table(Grid("t", ("", "r"), rows), "tab:x", {"baseline: a": "r 0.20000000000000001\nevil"}).split("\n")

    assert lines[lines.index(r"\midrule") : -2] == [
        r"\midrule",
        r"fine-tuned & 0.1 \\",
        r"\midrule",
        r"baseline: a & 0.2 \\",
        "% r 0.20000000000000001?evil",  # a line end would end the comment
        r"baseline: b & 0.3 \\",
        r"\midrule",
        r"ceiling, 10 chats & -- \\",
        r"\bottomrule",
    ]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex: apt-get install texlive-latex-recommended")
def test_it_compiles_without_a_complaint_and_is_no_wider_than_a_page(finished: Workspace, tmp_path: Path) -> None:
    compile_latex(document(latex_table(GRID, "tab:x", {NASTY[0]: NASTY[0]})), tmp_path)
    for text in (as_latex(results_of(finished), published=True), as_latex([], [stored_estimate("tiny")])):
        assert "Overfull" not in compile_latex(document(text), tmp_path)


def compile_latex(source: str, folder: Path) -> str:
    """Compiles, and gives the log; fails on an error, a missing character or a missing reference."""
    (folder / "table.tex").write_text(source, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "table.tex"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=60)
    log = (folder / "table.log").read_text(encoding="latin-1")

    assert ended.returncode == 0, log[-3000:]
    assert "Missing character" not in log
    assert "LaTeX Warning: Command" not in log
    return log


# What RESULTS|MODEL means


def test_a_results_folder_shows_every_model_and_finds_the_data_beside_it(finished: Workspace) -> None:
    shown = shown_results([str(finished.results)], results=Path("elsewhere"), data=None)

    assert shown.models == ("distilgpt2", "tiny")
    assert shown.workspace.data == finished.data


def test_a_folder_called_like_a_recipe_is_no_results_folder(
    finished: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny" / "scores").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    assert shown_results(["tiny"], results=finished.results, data=None).workspace.results == finished.results


def test_two_folders_or_a_folder_without_results_are_refused(finished: Workspace, tmp_path: Path) -> None:
    with pytest.raises(ChatbenchError, match="one results folder, or models"):
        shown_results([str(finished.results), "tiny"], results=finished.results, data=None)
    with pytest.raises(ChatbenchError, match="no results"):
        show(shown_results([], results=tmp_path, data=None))


def test_models_without_scores_are_named_with_the_command_that_makes_them(copied: Workspace) -> None:
    copied.scores("tiny").unlink()

    [found] = results_of(copied, str(copied.results))
    assert found.key == "distilgpt2"
    assert "tiny: not scored yet; chatbench eval-chatbench tiny" in found.missing
    with pytest.raises(ChatbenchError, match="no scores of tiny"):
        results_of(copied, "tiny")


@pytest.mark.parametrize("names", [["distilgpt2"], ["tiny"], ["tiny", "distilgpt2"]])
def test_an_estimate_is_in_every_form_with_and_without_scores(
    names: list[str], copied: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    # Plain `show` printed it, and the forms said that there are no scores; with scores, CSV and LaTeX lacked it.
    for model in ("tiny", "distilgpt2"):
        write_json(copied.estimate(model), {"new": stored_estimate(model)})
    copied.scores("distilgpt2").unlink()

    def shown(*form: str) -> str:
        places = ["--results", str(copied.results), "--data", str(copied.data)]
        assert main(["show", *names, *form, *places]) == 0
        return capsys.readouterr().out

    rows = [row for row in csv.DictReader(io.StringIO(shown("--csv"))) if row["kind"] == "estimate"]
    by_row = {(row["model"], row["source"], row["assistant"], row["metric"], row["subset"]): row for row in rows}
    models = {model["model"]: model for model in json.loads(shown("--json"))["models"]}
    latex, printed_out = shown("--latex"), shown()

    assert refused_by_a_strict_reader(latex) == []
    for model in names:
        of_all = by_row[model, "predicted", "vendor/new_model:1b", "accuracy", "all"]
        assert [of_all[key] for key in ("mean", "low", "high", "signature_id")] == [repr(1 / 3), "0.1", "0.6", "abc"]
        assert by_row[model, "rectified", "vendor/new_model:1b", "accuracy", "s"]["undefined_because"] == "too few"
        assert by_row[model, "simulated", "a", "accuracy", "all"]["mean"] == "0.4"
        assert models[model]["estimates"][0] == stored_estimate(model)
        assert f"{model}: expected accuracy of people with vendor/new\\_model:1b" in latex
        assert f"{model}: expected accuracy of people with vendor/new_model:1b" in printed_out
    assert "s, minus a: too few" in printed_out
    assert "s, minus a: too few" in latex


@pytest.mark.parametrize(("flag", "begins"), [("--json", "{\n"), ("--csv", "model,source,"), ("--latex", "% needs ")])
def test_the_command_prints_one_form_and_refuses_two(
    flag: str, begins: str, finished: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(finished.results), flag]) == 0
    assert (out := capsys.readouterr().out).startswith(begins)
    assert "\ufffd" not in out  # what would steer a terminal; the line ends of CSV do not

    assert main(["show", str(finished.results), flag, "--csv" if flag != "--csv" else "--json"]) == 2
    assert "choose one" in capsys.readouterr().err


def test_a_name_stays_one_cell_of_markdown() -> None:
    evil = "A\x1b[31m<script>\n# head|\u202e"

    lines = markdown(Grid(evil, ("", evil), ((evil, "1"),))).split("\n")
    assert len(lines) == 5
    assert all("\\<script\\> # head\\|" in lines[at] for at in (0, 2, 4))
    assert not set("".join(lines)) & set("\x1b\u202e")


@pytest.mark.parametrize(("counted", "said"), [(1, "0.50 (1 split)"), (2, "0.50 (2 splits)")])
def test_a_value_says_how_many_splits_it_is_of_if_not_of_all(counted: int, said: str) -> None:
    unknown = Undefined("one split")
    assert cell_text(Estimate(0.5, unknown, unknown, counted, undefined=5 - counted), "{:.2f}".format) == said
