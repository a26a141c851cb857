"""Show the exact text of one training example, with the tokens that carry loss in colour.

Text and mask come from the same code as in training, so what is shown is what is trained on. Control characters are
shown as symbols, so a file cannot send control sequences to the terminal.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from chatbench.core.errors import ChatbenchError
from chatbench.core.resolved_settings import resolve_settings
from chatbench.core.settings import Template
from chatbench.data.examples import read_examples

if TYPE_CHECKING:
    from rich.text import Text

SCORED_STYLES = ("black on green", "black on bright_green")
"""Alternating shades that show token borders; the tokens of one character share a shade."""


def show_mask(path: Path, row: int, model: str = "tiny", template: Template | None = None) -> Text:
    """Render the example on line `row` (from 1, not counting blank lines) as MODEL's tokenizer encodes it.

    Args:
        template: the example's template; None is that of MODEL's recipe.

    Raises:
        ChatbenchError: no such file, line or model, or a chat template that cannot be masked exactly.
    """
    rows = read_examples(path)
    if not 1 <= row <= len(rows):
        raise ChatbenchError(f"{path}: no row {row}", expected=f"1 to {len(rows)}")
    from rich.text import Text

    from chatbench.models.encoding import TokenPieces, encoder
    from chatbench.models.loading import load_tokenizer

    resolved = resolve_settings(model)
    tokenizer = load_tokenizer(resolved.base)
    form = encoder(tokenizer, template or resolved.settings.template)
    example = rows[row - 1]
    (encoded,) = form.encode([example])
    shown = str(tokenizer.decode(encoded.prompt, clean_up_tokenization_spaces=False))
    text = Text(visible(shown), style="dim")
    whole = str(tokenizer.decode(encoded.completion, clean_up_tokenization_spaces=False))
    pieces = TokenPieces(tokenizer).scored(encoded.completion, [0.0] * len(encoded.completion), whole).texts
    for index, piece in enumerate(pieces):
        text.append(visible(piece), style=SCORED_STYLES[index % 2])
    text.append(
        f"\n\n{path}, row {row}: {example.kind} turn of {visible(example.conversation_id)}; {form.name}; "
        f"{len(encoded.prompt):,} tokens of prompt (dim, no loss), {len(encoded.completion):,} scored (coloured)"
    )
    for note in form.notes:
        text.append(f"\n{note}")
    return text


def visible(text: str) -> str:
    r"""Mark white space and replace every control character with a symbol.

    >>> visible("two\nlines\x1b[31m\x00")
    'two↵\nlines␛[31m␀'
    """
    symbols = {code: chr(0x2400 + code) for code in range(0x20)}  # the block "Control Pictures"
    symbols |= {ord("\n"): "↵\n", ord("\t"): "→\t", 0x7F: "␡"}
    # C1 controls, and characters that change the direction of text or separate lines; a plain space is printable.
    hidden = {ord(each): f"<U+{ord(each):04X}>" for each in text if not each.isprintable()}
    return text.translate(hidden | symbols)
