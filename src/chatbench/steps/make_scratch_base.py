"""A base for fine-tuning from nothing: random weights, and a tokenizer from a split's training side only."""

from __future__ import annotations

from pathlib import Path

from chatbench.core.errors import ChatbenchError
from chatbench.protocol.example_rows import read_examples


def make_scratch_base(
    shape: str, out: Path, *, train: Path, vocabulary: int, width: int, layers: int, seed: int
) -> str:
    """Writes the base to `out` and says what it is.

    Raises:
        ChatbenchError: no such shape, or `train` is no file of examples.
    """
    from chatbench.models.scratch import SHAPES
    from chatbench.models.scratch import make_scratch_base as write

    known = next((name for name in SHAPES if name == shape), None)
    if known is None:
        raise ChatbenchError(f"shape {shape!r}", expected=f"one of {', '.join(SHAPES)}")
    if width < 32 or width % 32:
        raise ChatbenchError(f"--width {width}", expected="a multiple of 32")
    texts = [row.prompt + row.completion for row in read_examples(train)]
    parameters = write(known, texts, out, vocabulary=vocabulary, width=width, layers=layers, seed=seed)
    return f"{out}: {shape} shape, {parameters:,} random parameters, tokenizer from {len(texts):,} examples"
