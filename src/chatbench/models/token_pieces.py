"""The text of each scored token, so that its probability can be shown where it stands.

The pieces of a completion joined are its text. A character that takes several tokens (an emoji, a letter of a script
that the tokenizer hardly knows) cannot be divided: its tokens are one piece, whose nats are their sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

_BROKEN = "\ufffd"
"""What a tokenizer decodes part of a character to."""
_MOST_BYTES = 4
"""Of a character: what is not whole after as many tokens is a broken character that somebody wrote."""
_ANCHOR = "a"
"""Decoded before each token: at the start of a text some tokenizers leave the token's space away."""


@dataclass(frozen=True, slots=True)
class ScoredText:
    """`texts[i]` cost `nats[i]`; both of the same length, in the order of the completion."""

    texts: tuple[str, ...]
    nats: tuple[float, ...]


class TokenPieces:
    """Decodes the tokens of completions one by one; each token of the vocabulary is decoded once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._anchor = tokenizer.encode(_ANCHOR, add_special_tokens=False)
        self._anchor_length = len(self._decode(self._anchor))
        self._known: dict[int, str] = {}

    def scored(self, completion: Sequence[int], nats: Sequence[float], text: str) -> ScoredText:
        """The pieces of a completion and what each cost.

        Args:
            completion: token ids.
            nats: as many.
            text: what was encoded; tells whether a leading space is the text's or the tokenizer's.
        """
        texts: list[str] = []
        sums: list[float] = []
        unfinished: list[int] = []  # tokens of a character that is not whole yet
        for token, cost in zip(completion, nats, strict=True):
            if unfinished:
                unfinished.append(token)
                texts[-1] = self._after_anchor(unfinished)
                sums[-1] += cost
            else:
                unfinished = [token]
                texts.append(self._text(token))
                sums.append(cost)
            if not texts[-1].endswith(_BROKEN) or len(unfinished) == _MOST_BYTES:
                unfinished = []
        if texts and not text.startswith(" "):
            texts[0] = texts[0].removeprefix(" ")
        return ScoredText(tuple(texts), tuple(sums))

    def _text(self, token: int) -> str:
        if token not in self._known:
            self._known[token] = self._after_anchor([token])
        return self._known[token]

    def _after_anchor(self, tokens: Sequence[int]) -> str:
        return self._decode([*self._anchor, *tokens])[self._anchor_length :]

    def _decode(self, tokens: Sequence[int]) -> str:
        # "Hello ." must not become "Hello.".
        return str(self._tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))
