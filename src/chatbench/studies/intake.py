"""What happens to records that cannot be used: an error that says where and why, or a count under its reason.

Nothing is left out silently. A record that breaks a study's rules raises `BadRecord`; with `skip_bad_records` the same
record is left out and counted. What the protocol leaves out (the attention check, duplicates) is always counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from chatbench.core.errors import ChatbenchError

SKIP_FIX = "correct the record, or run again with --skip-bad-records to leave it out and have it counted"

ATTENTION_CHECK = "attention check"
DUPLICATE_ANSWER = "duplicate answer (same worker, question and kind; the first is kept)"
DUPLICATE_CONVERSATION = "duplicate conversation (same worker and question; the first is kept)"


class BadRecord(ChatbenchError):  # noqa: N818  # a record, named as the option --skip-bad-records names it
    """One record that cannot be used; `reason` is the short name under which it is counted when left out."""

    def __init__(self, reason: str, found: str, *, expected: str = "", fix: str = SKIP_FIX) -> None:
        self.reason = reason
        super().__init__(found, expected=expected, fix=fix)


class Intake:
    """Counts what a reader leaves out (`dropped`) and what it wants to be known (`notes`)."""

    def __init__(self, *, skip_bad_records: bool = False) -> None:
        self.skip_bad_records = skip_bad_records
        self._dropped: Counter[str] = Counter()
        self._noted: Counter[str] = Counter()

    @contextmanager
    def record(self) -> Iterator[None]:
        """Reads one record: a `BadRecord` raised inside is counted instead where bad records are to be skipped."""
        try:
            yield
        except BadRecord as error:
            if not self.skip_bad_records:
                raise
            self.drop(error.reason)

    def drop(self, reason: str) -> None:
        """Counts a record that is left out."""
        self._dropped[reason] += 1

    def note(self, text: str) -> None:
        """Counts something about a record that is kept."""
        self._noted[text] += 1

    @property
    def dropped(self) -> dict[str, int]:
        """Number of records left out, by reason, in alphabetical order."""
        return dict(sorted(self._dropped.items()))

    @property
    def notes(self) -> tuple[str, ...]:
        """One line per noted fact, led by its count."""
        return tuple(f"{count} x {text}" for text, count in sorted(self._noted.items()))


def conversation_id(question_id: str, worker_id: str) -> str:
    """The id of a person's chat about a question; a person has at most one.

    >>> conversation_id("college_mathematics-redux-3", "w7")
    'college_mathematics-redux-3|w7'
    """
    return f"{question_id}|{worker_id}"
