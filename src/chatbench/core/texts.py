"""Text of unknown origin on its way out: to a terminal, or into the cells of a spreadsheet.

Chats, names, file contents and servers' messages can hold anything. A terminal acts on control characters, and a
spreadsheet computes what begins like a formula; whatever is printed or written as CSV goes through here.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from unicodedata import category

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "'")
_ACTS = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's control and format characters (escape sequences, reversed lines), halves of pairs, and odd line ends."""


def printable(text: str) -> str:
    r"""A text without characters that a terminal acts on; line ends and tabs stay.

    >>> printable("red: \x1b[31m, back: \r, line\nand tab\t")
    'red: \ufffd[31m, back: \ufffd, line\nand tab\t'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join("\ufffd" if category(each) in _ACTS and each not in "\n\t" else each for each in text)


def harmless(cell: object) -> object:
    """A cell that no spreadsheet takes for a formula: text that looks like one gets an apostrophe before it.

    >>> [harmless("=1+1"), harmless("hello"), harmless("'quoted'"), harmless(-1.5)]
    ["'=1+1", 'hello', "''quoted'", -1.5]
    """
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA_STARTS) else cell


def as_it_was(cell: str) -> str:
    """The cell that `harmless` was given."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA_STARTS) else cell


def file_name(text: str) -> str:
    """A name for a file or folder, which no other text gets, whatever it holds, and on any disk.

    >>> file_name("gpt-4o"), file_name("GPT-4o"), file_name("a/b")
    ('gpt-4o', 'gpt-4o-9b816f4a', 'a-b-c14cddc0')
    """
    plain = re.sub(r"[^a-z0-9._-]+", "-", text.lower())[:80]
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    r"""A table as CSV, its cells `harmless`.

    Lines end in "\r\n", the format's own line end: only so does Python quote a lone "\r" inside a cell.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows([harmless(cell) for cell in row] for row in rows)
    return text.getvalue()
