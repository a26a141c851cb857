"""What is shown is what is scored, and a file cannot steer the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support.prepared_files import as_line, sums

from chatbench.core.errors import ChatbenchError
from chatbench.training.finetune import SCORED_STYLES, show_mask, visible


def write_rows(path: Path, **changes: str) -> Path:
    path.write_text("".join(json.dumps(as_line(row) | changes) + "\n" for row in sums(3)), encoding="utf-8")
    return path


def test_the_completion_is_coloured_to_its_end_marker_and_the_prompt_is_not(base: Path, tmp_path: Path) -> None:
    text = show_mask(write_rows(tmp_path / "train.jsonl", completion="é数 x [END]"), 2, str(base))

    coloured = [text.plain[span.start : span.end] for span in text.spans if span.style in SCORED_STYLES]
    assert "".join(coloured) == "é数 x [END]"
    assert "é" in coloured  # two bytes, and here two tokens
    assert text.plain.startswith(visible(sums(3)[1].prompt) + "é数 x [END]")
    assert "row 2: follow_up turn of c1" in text.plain


def test_control_characters_are_drawn_and_never_sent_and_markup_stays_text(base: Path, tmp_path: Path) -> None:
    assert visible("a\x00\x1b[2J\x07\r\x7f\x9b\u202e\u2028b") == "a␀␛[2J␇␍␡<U+009B><U+202E><U+2028>b"

    hostile = "\x1b]0;title\x07 \x00 [bold]x[/bold]"
    path = write_rows(tmp_path / "train.jsonl", completion=hostile, conversation_id="\x1b[31m")
    text = show_mask(path, 1, str(base))

    assert not any(ord(character) < 32 and character != "\n" for character in text.plain)
    assert "[bold]x[/bold]" in text.plain


@pytest.mark.parametrize("row", [0, 4, -1])
def test_a_row_that_is_not_there_is_named_with_those_that_are(tmp_path: Path, row: int) -> None:
    with pytest.raises(ChatbenchError, match=f"no row {row}") as refused:
        show_mask(write_rows(tmp_path / "train.jsonl"), row)
    assert refused.value.expected == "1 to 3"
