"""Batched generation with a local model, in which no prompt's text depends on the others.

Each row draws its tokens by inverse transform from uniforms of its own seed, so its batch changes nothing but
floating-point rounding. The batch stays full: between two tokens, finished rows make room for others, whose prompts
are read in chunks together with the tokens of active rows. What was read before is not read again (`kv_cache`).

The loop is our own because transformers' `generate` does none of this, and its continuous batching draws from one
generator for the batch (docs/decisions, page 2, has what was measured).
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Container, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import AnswerProbabilities
from chatbench.models.answer_probabilities import AnswerReader
from chatbench.models.kv_cache import OutOfRoomError, Piece, RadixCache, Shape, Slab, Step, end_token_ids, slab_width
from chatbench.models.loading import context_length, free_bytes
from chatbench.models.prefix_tree import attends_to_trees, why_not_trees
from chatbench.protocol.answers import REASONING_TAGS, opens_reasoning, split_reasoning
from chatbench.protocol.prompts import END

PIECE_TOKENS = {"cpu": 1024}
"""Prompt tokens that are read in one forward pass; 2,048 on other devices."""
LOOK_AHEAD = 64
"""Once this many prompts wait for another to read what they share, no further one is looked at."""
DRAWN_ROWS = 16
"""Rows that are drawn together: on a CPU, tensors of several times as many take longer to get than to fill."""
PROMPT_END = 8
"""Tokens at a prompt's end that may hold a reasoning tag opened by the template."""


@dataclass(frozen=True, slots=True)
class Generated:
    """Generated text up to its stop marker or end token; `stopped` is False if the limit ended it.

    `reasoning` is what a thinking model wrote before it.

    `tokens` includes the reasoning. `answer` is set if the generator has a reader of answers; `last_token`
    is the end token.
    """

    text: str
    tokens: int
    stopped: bool
    answer: AnswerProbabilities | None = None
    last_token: int | None = None
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How tokens are drawn. Temperature 0 is greedy; `stop` are printable ASCII strings."""

    temperature: float = 1.0
    max_new_tokens: int = 1000
    stop: tuple[str, ...] = (END.strip(),)

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.max_new_tokens < 1:
            raise ValueError(f"temperature {self.temperature}, max_new_tokens {self.max_new_tokens}: out of range")


@dataclass(slots=True, eq=False)
class _Row:
    """A prompt and its text so far; while it is being read, `buffer` holds what is cached of it, `read` tokens."""

    key: int
    prompt: tuple[int, ...]
    seed: int
    answers: bool
    limit: int
    uniforms: np.random.Generator = field(init=False)
    written: list[int] = field(init=False)
    answer: AnswerProbabilities | None = None
    buffer: torch.Tensor | None = None
    read: int = 0

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.uniforms, self.written = np.random.default_rng(self.seed), []
        self.buffer, self.read = None, 0

    @property
    def tokens(self) -> tuple[int, ...]:
        return (*self.prompt, *self.written)


class LocalGenerator:
    """Continues prompts with a causal language model.

    `join` queues a prompt; `step` is one forward pass and returns the texts that ended with it; `generate` does
    both. A prompt has at most `room` tokens: some of the context is kept free for new ones, but never more than a
    quarter, so that a limit of 1,000 new tokens does not leave a model with a context of 1,024 without a prompt.

    Args:
        end_ids: tokens that end a text, besides the tokenizer's and the model's own.
        answers: reads each prompt's answer probabilities, without changing any text.
        cache_bytes: maximum bytes of keys and values; default: a third of what is free on the device.
        keeps_replies: whether the next prompt is likely to begin with this prompt and its text as written.

    Raises:
        ChatbenchError: the model has no attention that can be computed row by row, or keeps states of several shapes.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        decoding: Decoding,
        *,
        end_ids: frozenset[int] = frozenset(),
        answers: AnswerReader | None = None,
        max_rows: int = 256,
        cache_bytes: int | None = None,
        keeps_replies: bool = False,
    ) -> None:
        if reason := why_not_trees(model, capped=True):
            raise ChatbenchError(f"{type(model).__name__} cannot be sampled from here: {reason}", fix="use an endpoint")
        self.model = model.eval()  # type: ignore[no-untyped-call]  # transformers has no types here
        self.tokenizer = tokenizer
        self.decoding = decoding
        self.max_rows = max_rows
        self.context = context_length(model)
        self.room = self.context - min(decoding.max_new_tokens, self.context // 4)
        self.cache = RadixCache(Shape.of(model), cache_bytes or free_bytes(model.device) // 3)
        self.prompt_tokens_read = 0
        self._keeps_replies = keeps_replies
        self._piece_tokens = PIECE_TOKENS.get(model.device.type, 2048)
        self._answers = answers
        self._end_ids = end_token_ids(model, tokenizer) | end_ids
        vocabulary = tokenizer.get_vocab()
        self._tags = {vocabulary[tag]: tag for tag in REASONING_TAGS if tag in vocabulary}
        self._may_stop = tokens_that_may_stop(tokenizer, model.config.get_text_config().vocab_size, decoding.stop)
        self.forget()

    def forget(self) -> None:
        """Drops all queued and active prompts, and what was read."""
        self.cache = RadixCache(self.cache.shape, self.cache.limit)
        self._waiting: list[_Row] = []
        self._reading: list[_Row] = []
        self._slabs: list[tuple[Slab, list[_Row]]] = []

    @property
    def idle(self) -> bool:
        """Whether nothing is queued or active."""
        return not (self._waiting or self._reading or self._slabs)

    def generate(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> list[Generated]:
        """One text per prompt (token ids, not empty), in order; a prompt's text depends on its own seed only.

        Raises:
            ValueError: a prompt is empty or longer than `room`, or there are more or fewer seeds than prompts.
        """
        try:
            for key, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
                self.join(key, prompt, seed)
        except ValueError:
            self.forget()
            raise
        texts: dict[int, Generated] = {}
        while not self.idle:
            texts.update(self.step())
        return [texts[key] for key in range(len(prompts))]

    def join(self, key: int, prompt: Sequence[int], seed: int, *, answers: bool = True) -> None:
        """Queues a prompt; of those waiting, the one with the lowest key comes first.

        Args:
            answers: whether to read its answer probabilities, if there is a reader of them.

        Raises:
            ValueError: the prompt is empty or longer than `room`.
        """
        if not 0 < len(prompt) <= self.room:
            raise ValueError(f"a prompt of {len(prompt)} tokens, expected one of 1 to {self.room} tokens")
        limit = min(self.decoding.max_new_tokens, self.context - len(prompt))
        row = _Row(key, tuple(prompt), seed, answers and self._answers is not None, limit)
        insort(self._waiting, row, key=lambda each: each.key)

    def step(self) -> list[tuple[int, Generated]]:
        """One forward pass; returns key and text of each prompt whose text ended.

        Raises:
            ChatbenchError: the cache has no room for a single prompt.
        """
        if self.idle:
            return []
        try:
            with torch.inference_mode(), attends_to_trees(self.model):
                return self._step()
        except BaseException:
            self.forget()
            raise

    def _step(self) -> list[tuple[int, Generated]]:
        self._admit()
        rows = [row for _, among in self._slabs for row in among]
        pieces: list[tuple[int, ...]] = []
        for row in self._reading:
            if (left := self._piece_tokens - sum(map(len, pieces))) > 0:
                piece = row.prompt[row.read : row.read + left]
                self.prompt_tokens_read += len(piece)
                if row.answers and self._answers and row.read + len(piece) == len(row.prompt):
                    piece = (*piece, *self._answers.shown)  # to read its answers
                pieces.append(piece)
        reading = self._reading[: len(pieces)]
        at = [Piece(row.buffer, row.read, len(piece)) for row, piece in zip(reading, pieces, strict=True)]  # type: ignore[arg-type]
        step = Step([slab for slab, _ in self._slabs], at)
        tokens = [row.tokens[-1] for row in rows] + [token for piece in pieces for token in piece]
        # Logits of every continued row, and of the columns after the last token of each prompt that is now read.
        wanted, end = list(range(len(rows))), len(rows)
        finished: list[tuple[_Row, slice]] = []
        for row, piece in zip(reading, pieces, strict=True):
            end += len(piece)
            row.read += len(piece)
            if row.read >= len(row.prompt):
                columns = row.read - len(row.prompt) + 1
                finished.append((row, slice(len(wanted), len(wanted) + columns)))
                wanted += range(end - columns, end)
        logits = self._forward(tokens, step, wanted)
        firsts = [*range(len(rows)), *(columns.start for _, columns in finished)]
        drawing = [*rows, *(row for row, _ in finished)]
        self._read_answers(logits, [each for each in finished if each[0].answers])
        if drawing:
            uniforms = torch.tensor([row.uniforms.random() for row in drawing], dtype=torch.float64).to(logits.device)
            drawn = draw(logits if firsts == wanted else logits[firsts], self.decoding.temperature, uniforms).tolist()
            for row, token in zip(drawing, drawn, strict=True):
                row.written.append(token)
        ended = {
            row.key: self._text_of(row) for row in drawing if len(row.written) >= row.limit or self._stops(row.written)
        }
        self._leave(ended)
        for row, _ in finished:
            self._reading.remove(row)
            assert row.buffer is not None
            self.cache.end(row.prompt[:-1], row.buffer)
            if row.key in ended:
                self.cache.leave(row.prompt[:-1])
                self._release(row)
            else:
                row.read = len(row.prompt)  # what was shown to read the answers is dropped
                self._continue(row)
        self._widen()
        return list(ended.items())

    def _admit(self) -> None:
        """Starts reading prompts, while there is room and less to read than one pass takes."""
        under_way = sum(len(among) for _, among in self._slabs) + len(self._reading)
        to_read = sum(len(row.prompt) - row.read for row in self._reading)
        place = 0
        while (
            place < min(len(self._waiting), LOOK_AHEAD) and under_way < self.max_rows and to_read < self._piece_tokens
        ):
            row = self._waiting[place]
            shown = len(self._answers.shown) if row.answers and self._answers else 0
            try:
                begun = self.cache.begin(row.prompt[:-1], len(row.prompt) + shown)
            except OutOfRoomError:
                if under_way == 0:
                    raise self._no_room(row) from None
                return
            if begun is None:  # another prompt is reading the beginning of this one
                place += 1
                continue
            del self._waiting[place]
            under_way += 1
            row.buffer, row.read = begun
            if len(row.prompt) - row.read == 1 and not shown:
                self._continue(row)
            else:
                self._reading.append(row)
                to_read += len(row.prompt) - row.read

    def _forward(self, tokens: Sequence[int], step: Step, wanted: Sequence[int]) -> torch.Tensor:
        """Logits of the wanted columns, shape (columns, vocabulary)."""
        device = self.model.device
        output = self.model(
            input_ids=torch.tensor([tokens], device=device),
            position_ids=torch.tensor([step.positions], device=device).clamp_(max=self.context - 1),
            tree_plan=step,
            use_cache=False,
            logits_to_keep=torch.tensor(wanted, device=device, dtype=torch.long),
        )
        logits: torch.Tensor = output.logits[0]
        return logits

    def _read_answers(self, logits: torch.Tensor, finished: Sequence[tuple[_Row, slice]]) -> None:
        if finished and self._answers:
            columns = torch.stack([logits[columns] for _, columns in finished])
            found = self._answers.read(columns, self.decoding.temperature)
            for (row, _), answer in zip(finished, found, strict=True):
                row.answer = answer

    def _leave(self, keys: Container[int]) -> None:
        """Finished rows leave their slabs, and empty slabs are freed; every other row has one more token."""
        for slab, among in self._slabs:
            slab.lengths = [length + 1 for length in slab.lengths]
            for place in range(len(among) - 1, -1, -1):
                if among[place].key in keys:
                    self.cache.leave(among[place].prompt[:-1])
                    if self._keeps_replies:
                        self.cache.end(among[place].tokens[:-1], slab.states[:, :, place])
                    self._remove(slab, among, place)
        self._drop_empty()

    def _remove(self, slab: Slab, among: list[_Row], place: int) -> None:
        slab.remove(place)
        last = among.pop()
        if place < len(among):
            among[place] = last

    def _continue(self, row: _Row) -> None:
        """Moves a row into a slab with all of its tokens but the last, and frees its buffer.

        If there is no room, the youngest row goes back into the queue: its text will be the same.
        """
        assert row.buffer is not None
        length = row.read
        start = row.prompt[: self.cache.shared(row.prompt)]
        while True:
            try:
                slab, among = self._slab_for(length + 1, start)
            except OutOfRoomError:
                others = [(each, slab, among) for slab, among in self._slabs for each in among]
                youngest = max(others, key=lambda each: each[0].key, default=None)
                if youngest is None or youngest[0].key < row.key:
                    if youngest is None and not self._reading:
                        raise self._no_room(row) from None
                    self._release(row)
                    self._again(row)
                    return
                one, slab, among = youngest
                self._remove(slab, among, among.index(one))
                self._drop_empty()
                self._again(one)
                continue
            slab.append(row.buffer, length)
            among.append(row)
            self._release(row)
            return

    def _slab_for(self, tokens: int, start: tuple[int, ...]) -> tuple[Slab, list[_Row]]:
        width = slab_width(tokens, self.context)
        for slab, among in self._slabs:
            if slab.width == width and slab.start == start and len(among) < slab.rows:
                slab.reserve(len(among) + 1)
                return slab, among
        self._slabs.append((Slab(self.cache, tokens, self.context, start), []))
        return self._slabs[-1]

    def _release(self, row: _Row) -> None:
        assert row.buffer is not None
        self.cache.give(row.buffer.shape[-2] * self.cache.shape.token_bytes)
        row.buffer = None

    def _again(self, row: _Row) -> None:
        self.cache.leave(row.prompt[:-1])
        row.begin()
        insort(self._waiting, row, key=lambda each: each.key)

    def _widen(self) -> None:
        """Moves rows that fill their slab's width to a wider one."""
        full = [
            row for slab, among in self._slabs for row, n in zip(among, slab.lengths, strict=True) if n == slab.width
        ]
        for row in full:
            for slab, among in self._slabs:  # by now a row may have gone back into the queue
                if row in among:
                    place = among.index(row)
                    row.buffer, row.read = slab.states[:, :, place].clone(), slab.width
                    self.cache.bytes += slab.width * self.cache.shape.token_bytes  # for a moment
                    self._remove(slab, among, place)
                    self._continue(row)
                    break
        self._drop_empty()

    def _drop_empty(self) -> None:
        for slab, among in self._slabs:
            if not among:
                self.cache.give(slab.bytes)
        self._slabs = [each for each in self._slabs if each[1]]

    def _no_room(self, row: _Row) -> ChatbenchError:
        token = self.cache.shape.token_bytes
        return ChatbenchError(
            f"keys and values of a {len(row.prompt):,}-token prompt do not fit into {self.cache.limit / 2**30:.2f} GiB",
            expected=f"{token:,} bytes per token, for about four times the tokens of the longest prompt",
            fix="raise --cache-gib, or close other programs",
        )

    def _stops(self, written: Sequence[int]) -> bool:
        token = written[-1]
        if token in self._end_ids:
            return True
        if not self._may_stop[token]:
            return False
        longest = max(map(len, self.decoding.stop))  # a token holds at least one byte of the text
        tail = self.tokenizer.decode(list(written[-longest - 2 :]), skip_special_tokens=False)
        return any(marker in tail for marker in self.decoding.stop)

    def _text_of(self, row: _Row) -> Generated:
        written, tail = row.written, list(row.prompt[-PROMPT_END:])
        opened = opens_reasoning(str(self.tokenizer.decode(tail, skip_special_tokens=False)))
        ids = [token for token in written if token not in self._end_ids]
        # Reasoning tags are kept even if they are special tokens, which decoding leaves out.
        pieces: list[str] = []
        start = 0
        for end in [*(place for place, token in enumerate(ids) if token in self._tags), len(ids)]:
            run = ids[start:end]
            pieces.append(str(self.tokenizer.decode(run, skip_special_tokens=True, clean_up_tokenization_spaces=False)))
            pieces.append(self._tags[ids[end]] if end < len(ids) else "")
            start = end + 1
        whole = "".join(pieces)
        reasoning, text = split_reasoning(f"<think>{whole}" if opened else whole)
        cuts = [text.find(marker) for marker in self.decoding.stop if marker in text]
        text = text[: min(cuts)] if cuts else text
        return Generated(text, len(written), self._stops(written), row.answer, written[-1], reasoning)


def draw(logits: torch.Tensor, temperature: float, uniforms: torch.Tensor) -> torch.Tensor:
    """One token per row by inverse transform: the first whose cumulative probability exceeds the row's uniform.

    Args:
        logits: shape (rows, vocabulary).
        uniforms: shape (rows,), in [0, 1); ignored at temperature 0.

    Raises:
        ChatbenchError: a row is not finite.
    """
    if not logits.amax(-1).isfinite().all():
        raise ChatbenchError(
            f"the model computed NaN or infinity in {str(logits.dtype).removeprefix('torch.')}",
            fix="use --dtype float32 (float16 overflows in some models), or check the model's weights",
        )
    if temperature == 0:
        return logits.argmax(-1)
    # Float64: over 100,000 tokens, a float32 sum is off by more than the weight of a rare token. MPS has no float64.
    precise = torch.float32 if logits.device.type == "mps" else torch.float64
    found = []
    for some, their in zip(torch.split(logits, DRAWN_ROWS), torch.split(uniforms.to(precise), DRAWN_ROWS), strict=True):
        cumulative = (some.float() / temperature).softmax(-1).cumsum(-1, dtype=precise)
        total = cumulative[:, -1:].contiguous()
        drawn = torch.searchsorted(cumulative, their[:, None] * total, right=True)
        # A product that rounds up to the total would lie beyond the last token that can be drawn.
        found.append(torch.minimum(drawn, torch.searchsorted(cumulative, total)).squeeze(1))
    return torch.cat(found)


def tokens_that_may_stop(tokenizer: PreTrainedTokenizerBase, vocabulary: int, stop: Sequence[str]) -> list[bool]:
    """Per token id, whether it can complete one of the markers; only then is the text decoded."""
    last = {marker[-1] for marker in stop}
    last |= {f"<0x{ord(character):02X}>" for character in last}  # SentencePiece's spelling of single bytes
    size = max(vocabulary, len(tokenizer))
    may = [False] * size
    for token, index in tokenizer.get_vocab().items():
        may[index] = any(character in token for character in last)
    return may
