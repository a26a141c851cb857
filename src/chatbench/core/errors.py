"""The one error that a user sees: where it is, what was found, what was expected, and how to fix it.

Everything that a user can cause (a bad file, an unknown name, a missing model) raises `ChatbenchError`; `cli.main`
catches it, prints it without a traceback and exits with code 2 (143 where a run was asked to stop, and has saved).
Anything else that escapes is a bug of ours.
"""

from __future__ import annotations


class ChatbenchError(Exception):
    """An error with its cause and its cure.

    >>> print(ChatbenchError("train.jsonl, line 3: no 'messages'", expected="a chat example", fix="prepare again"))
    train.jsonl, line 3: no 'messages'
      expected: a chat example
      fix: prepare again
    """

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


class StoppedError(ChatbenchError):
    """A run was asked to stop (SIGTERM), has written what it needs to continue, and has stopped."""
