"""The one exception that users see: where it is, what was found, what was expected, and how to fix it.

Everything that a user can cause (a bad file, an unknown name, a missing model) raises `ChatbenchError`; `cli.main`
catches it, prints it without a traceback and exits with its `exit_code`.
Any other exception that escapes is a bug in chatbench.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any


class ChatbenchError(Exception):
    """An error that says what was found, what was expected and how to fix it.

    >>> print(ChatbenchError("train.jsonl, line 3: no 'messages'", expected="a chat example", fix="prepare again"))
    train.jsonl, line 3: no 'messages'
      expected: a chat example
      fix: prepare again
    """

    exit_code = 2

    def __init__(self, found: str, *, expected: str = "", fix: str = "") -> None:
        self.found = found
        self.expected = expected
        self.fix = fix
        lines = [found]
        if expected:
            lines.append(f"  expected: {expected}")
        if fix:
            lines.append(f"  fix: {fix}")
        super().__init__("\n".join(lines))


class OccupiedError(ChatbenchError):
    """Another process is writing the same files."""


class StoppedError(ChatbenchError):
    """A run was asked to stop (SIGTERM), saved what it needs to continue, and stopped."""

    exit_code = 143


class BudgetSpentError(ChatbenchError):
    """The budget was spent before everything was done; a larger one continues."""

    exit_code = 4


def process_count() -> int:
    """Number of processes that torchrun or accelerate started together; 1 if none did, or `WORLD_SIZE` is no number."""
    count = os.environ.get("WORLD_SIZE", "")
    return int(count) if count.isdecimal() else 1


_EXPECTED = {
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "string_type": "text",
    "string_too_short": "non-empty text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "too_short": "a list of {min_length} or more",
    "too_long": "a list of {max_length} or fewer",
    "literal_error": "one of {expected}",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "a number below {lt}",
    "less_than_equal": "{le} or less",
    "missing": "a value",
    "extra_forbidden": "only documented keys",
}
"""What was expected, by pydantic error type."""


def expected_by(error: Mapping[str, Any]) -> str:
    """Describe what pydantic expected, given one entry of `ValidationError.errors()`.

    >>> expected_by({"type": "greater_than", "ctx": {"gt": 0}})
    'a number above 0'
    """
    return _EXPECTED.get(error["type"], "a different value").format(**error.get("ctx", {}))


def first_problem(error: Any) -> tuple[str, str, str]:
    """(key, what was found, what was expected) of the first problem in a pydantic `ValidationError`."""
    first = error.errors(include_url=False)[0]
    found = "missing" if first["type"] == "missing" else repr(first["input"])[:80]
    expected = expected_by(first) if first["type"] in _EXPECTED else first["msg"].removeprefix("Value error, ")
    return ".".join(map(str, first["loc"])), found, expected
