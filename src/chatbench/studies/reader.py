"""Opens a study of any known kind: one function for every step that begins with a study."""

from __future__ import annotations

from pathlib import Path

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Study
from chatbench.studies import chatbench, halie

_EXPECTED = "a folder with questions.csv (ChatBench layout), an event_blocks.csv (HALIE), or a .jsonl of your own chats"


def open_study(path: Path, *, skip_bad_records: bool = False, include_pilots: bool = False) -> Study:
    """The study at `path`, whose kind is told from its files.

    Args:
        skip_bad_records: leave bad records out and count them by reason in `Study.dropped`, instead of stopping.
        include_pilots: also read the pilots of a ChatBench folder; other kinds have none.

    Raises:
        ChatbenchError: there is no such path, it is no study of a known kind, or its files are damaged.
    """
    if not path.exists():
        raise ChatbenchError(
            f"{path}: no such file or folder",
            expected=_EXPECTED,
            fix="check the path, or make a study with: chatbench sample STUDY",
        )
    if (path / chatbench.QUESTIONS).is_file():
        return chatbench.read_chatbench_folder(path, skip_bad_records=skip_bad_records, include_pilots=include_pilots)
    if path.name == halie.FILE_NAME or (path / halie.FILE_NAME).is_file():
        return halie.read_halie(path, skip_bad_records=skip_bad_records)
    if path.suffix == ".jsonl":
        from chatbench.studies.chat_jsonl import read_chat_jsonl  # late, for pydantic

        return read_chat_jsonl(path, skip_bad_records=skip_bad_records)
    raise ChatbenchError(
        f"{path}: no study of a known kind",
        expected=_EXPECTED,
        fix="check the path; docs/own-study.md describes your own format",
    )
