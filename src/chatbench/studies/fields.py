"""The spellings in which studies write roles, letters, options and kinds of answers, each read to one value.

The names that the ChatBench files use are not all published, so the readers accept the variants listed here and refuse
everything else: a value that is merely guessed would be worse than an error.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence

from chatbench.core.records import LETTERS, AnswerKind, Role

ROLE_NAMES: dict[str, Role] = {
    "user": "user",
    "you": "user",
    "human": "user",
    "assistant": "assistant",
    "bot": "assistant",
    "ai": "assistant",
}
EXPECTED_ROLES = "one of user, You, assistant, Bot, AI"

KIND_NAMES: dict[str, AnswerKind] = {
    "useralone": "user-alone",
    "user": "user-alone",
    "alone": "user-alone",
    "userai": "user-AI",
    "withai": "user-AI",
    "ai": "user-AI",
}
EXPECTED_KINDS = "user-alone or user-AI"

Options = tuple[str, str, str, str]


def plain_name(name: str) -> str:
    """A name without case and punctuation: `questionID`, `question_id` and `Question ID` are one name.

    >>> plain_name("questionID") == plain_name("question_id")
    True
    """
    return re.sub(r"[^a-z0-9]", "", name.lower())


def is_blank(value: str) -> bool:
    """Whether a cell says that nothing was recorded (empty, or a data frame's `nan`)."""
    return value.strip() in {"", "nan", "NaN", "None", "null"}


def role_of(name: str) -> Role | None:
    """`user` or `assistant`, or None for an unknown role."""
    return ROLE_NAMES.get(plain_name(name))


def kind_of(name: str) -> AnswerKind | None:
    """`user-alone` or `user-AI`, or None for an unknown kind."""
    return KIND_NAMES.get(plain_name(name))


def correct_of(text: str) -> bool | None:
    """The truth of an `acc` cell (`1`, `0.0`, `True`), or None where it is blank or neither.

    >>> correct_of("1.0"), correct_of("False"), correct_of("")
    (True, False, None)
    """
    return {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}.get(text.strip().lower())


def holds_indices(values: Sequence[str]) -> bool:
    """Whether a column of answers counts options from 0 to 3 instead of naming letters or texts.

    Decided for the whole column: in a mathematics study a single `2` may as well be the text of an option.
    """
    filled = [value for value in values if not is_blank(value)]
    return sum(value.removesuffix(".0") in {"0", "1", "2", "3"} for value in filled) > len(filled) / 2


def letter_of(value: str, options: Options, *, indices: bool = False) -> str | None:
    """The letter that a recorded answer means, or None if it means none.

    A letter in either case, an index from 0 (where `indices` says that the column holds them), or an option's text.

    >>> letter_of("b", ("1", "2", "3", "4")), letter_of("3", ("1", "2", "3", "4"))
    ('B', 'C')
    >>> letter_of("3", ("1", "2", "3", "4"), indices=True)
    'D'
    """
    value = value.strip()
    if value.upper() in LETTERS:
        return value.upper()
    if indices:
        index = value.removesuffix(".0")
        return LETTERS[int(index)] if index in {"0", "1", "2", "3"} else None
    matches = [letter for letter, option in zip(LETTERS, options, strict=True) if option.strip() == value]
    return matches[0] if len(matches) == 1 else None


def literal_list(text: str) -> list[object] | None:
    """The list in a cell, written as JSON or as a Python literal; None if it is neither.

    >>> literal_list('["1", "2"]') == literal_list("['1', '2']")
    True
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return None
    return value if isinstance(value, list) else None


def four_options(values: Sequence[object]) -> Options | None:
    """Four non-blank options as text, or None."""
    texts = [str(value).strip() for value in values]
    return (texts[0], texts[1], texts[2], texts[3]) if len(texts) == len(LETTERS) and all(texts) else None


def number_key(value: object) -> str:
    """A batch or position as one spelling, whether it was read as `3`, `3.0` or 3."""
    return str(value).strip().removesuffix(".0")
