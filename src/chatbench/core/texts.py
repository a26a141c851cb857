"""Sanitise untrusted text before it goes to a terminal or into the cells of a spreadsheet.

Chats, names, file contents and server messages can hold anything. A terminal acts on control characters, and a
spreadsheet evaluates cells that begin like a formula; everything printed or written as CSV goes through here.
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
"""Unicode categories: control and format characters (escapes, bidi overrides), surrogates, line separators."""


def printable(text: str) -> str:
    r"""Replace the characters that a terminal acts on; newlines and tabs stay.

    >>> printable("red: \x1b[31m, back: \r, line\nand tab\t")
    'red: \ufffd[31m, back: \ufffd, line\nand tab\t'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join("\ufffd" if category(each) in _ACTS and each not in "\n\t" else each for each in text)


def markdown_text(text: str) -> str:
    r"""Write text so that Markdown shows it as it is, on one line.

    >>> markdown_text("<b>*a|b*</b>\n# head")
    '\\<b\\>\\*a\\|b\\*\\</b\\> # head'
    """
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(printable(text).split()))


def harmless(cell: object) -> object:
    """Keep a spreadsheet from evaluating a cell: text that looks like a formula gets a leading apostrophe.

    >>> [harmless("=1+1"), harmless("hello"), harmless("'quoted'"), harmless(-1.5)]
    ["'=1+1", 'hello', "''quoted'", -1.5]
    """
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA_STARTS) else cell


def as_it_was(cell: str) -> str:
    """Undo `harmless`."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA_STARTS) else cell


def file_name(text: str) -> str:
    """Map any text to a file or folder name of its own that is valid on any disk.

    >>> file_name("gpt-4o"), file_name("GPT-4o"), file_name("a/b")
    ('gpt-4o', 'gpt-4o-9b816f4a', 'a-b-c14cddc0')
    """
    plain = re.sub(r"[^a-z0-9._-]+", "-", text.lower())[:80]
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    r"""Format a table as CSV with `harmless` cells.

    Lines end in "\r\n", the format's own line end: only then does Python quote a lone "\r" inside a cell.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows([harmless(cell) for cell in row] for row in rows)
    return text.getvalue()
