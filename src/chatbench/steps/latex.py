r"""Tables for papers: grids as booktabs tables that compile, whatever text stands in their cells.

pdflatex with its default fonts is the measure: a character that it does not have is written as `[U+4E2D]`. Unrounded
figures follow their row as a comment.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

from chatbench.steps.grids import EMPTY, Grid

_ESCAPED = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",  # the default fonts have other signs in the places of < > and |
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': r"\texttt{\char34}",  # in other fonts, and with babel, it is another sign or a command
    "[": "{[}",  # behind \\ a bracket would be read as a distance, an asterisk as part of the command
    "*": "{*}",
    "±": r"$\pm$",
    "\u00d7": r"$\times$",
    "\u2013": r"\textendash{}",  # not --: hyphens that stand together are kept apart below
    "\u2014": r"\textemdash{}",
    "…": r"\dots{}",
}
LONGEST_NAME = 24
"""Characters of a row's name up to which no name is broken into lines."""
LONGEST_HEADER = 12
"""The same of a column's name."""
_LIGATURES = re.compile(r"([-',])(?=\1)")
"""Two of these would become one other sign: a dash in mistralai--Mistral-7B."""
_LATIN = frozenset("ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝßàáâãäåæçèéêëìíîïñòóôõöøùúûüýÿ")
"""Letters beyond ASCII that the default fonts can set."""


def escaped(text: str) -> str:
    r"""Text as LaTeX prints it, in a cell or anywhere else.

    >>> escaped("50 % of $x_1$"), escaped("--"), escaped("中")
    ('50 \\% of \\$x\\_1\\$', '-{}-', '{[}U+4E2D]')
    """
    plain = "".join(map(_escaped_character, unicodedata.normalize("NFC", text)))
    return _LIGATURES.sub(r"\1{}", plain)


def _escaped_character(character: str) -> str:
    if character in _ESCAPED:
        return _ESCAPED[character]
    if character.isspace():
        return " "
    if " " < character <= "~" or character in _LATIN:
        return character
    return f"{{[}}U+{ord(character):04X}]"


def latex_table(grid: Grid, label: str, exact: Mapping[str, str] | None = None) -> str:
    """One `table` environment, which needs `\\usepackage{booktabs}`; a rule stands where the kind of rows changes.

    Args:
        label: what `\\ref` calls it; letters, digits, colons and hyphens.
        exact: by row name, its figures unrounded; each goes into a comment behind its row.
    """
    widest = max((len(row[0]) for row in grid.rows), default=0)
    broken = widest > LONGEST_NAME
    columns = (r"p{0.27\linewidth}" if broken else "l") + "r" * (len(grid.header) - 1)
    lines = [
        r"\begin{table*}",
        r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{escaped(grid.title)}.}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join([escaped(grid.header[0]), *map(_header, grid.header[1:])]) + r" \\",
        r"\midrule",
    ]
    kind = _kind(grid.rows[0][0]) if grid.rows else ""
    for row in grid.rows:
        if _kind(row[0]) != kind:
            kind = _kind(row[0])
            lines.append(r"\midrule")
        lines.append(r"\raggedright " * broken + _line(row))
        lines += [f"% {_one_line(exact[row[0]])}"] if exact and row[0] in exact else []
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table*}"])


def _kind(name: str) -> str:
    """`baseline` of `baseline: user alone`, `ceiling` of `ceiling, 10 chats`; all others are one kind."""
    return name.partition(":")[0] if name.startswith("baseline: ") else "ceiling" * name.startswith("ceiling, ")


def _line(cells: Sequence[str]) -> str:
    return " & ".join("--" if cell == EMPTY else _numbers(escaped(cell)) for cell in cells) + r" \\"


def _header(name: str) -> str:
    """A long name of a column on two lines, parted at the blank nearest its middle."""
    blanks = [place for place, character in enumerate(name) if character == " "]
    if len(name) <= LONGEST_HEADER or not blanks:
        return escaped(name)
    middle = min(blanks, key=lambda place: abs(place - len(name) / 2))
    return rf"\shortstack[r]{{{escaped(name[:middle])}\\{escaped(name[middle + 1 :])}}}"


def _numbers(cell: str) -> str:
    """A cell that begins with a minus sign gets one, not a hyphen."""
    return re.sub(r"^-(?=\d)", "$-$", cell)


def _one_line(text: str) -> str:
    """A comment ends where its line does, whichever character ends it."""
    return "".join(character if character.isprintable() and character.isascii() else "?" for character in text)
