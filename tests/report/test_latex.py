"""LaTeX tables: what stands in a cell is printed as it is, and the table compiles."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from chatbench.report.grids import EMPTY, Grid
from chatbench.report.show import escaped, latex_table

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


def test_two_hyphens_brackets_and_stars_print_as_such() -> None:
    # -- would be a dash, and behind \\ a bracket is a distance and a star part of the command.
    assert escaped("mistralai--Mistral-7B") == "mistralai-{}-Mistral-7B"
    assert escaped("[2cm]*") == "{[}2cm]{*}"
    assert escaped("\\") == r"\textbackslash{}"


def test_dashes_stay_dashes_and_hyphens_hyphens() -> None:
    # Written as -- and ---, dashes would be taken apart like the hyphens of a model's name.
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
def test_it_compiles_without_a_complaint(tmp_path: Path) -> None:
    compile_latex(document(latex_table(GRID, "tab:x", {NASTY[0]: NASTY[0]})), tmp_path)


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
