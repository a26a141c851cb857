"""A tokenizer's own chat template: text stays text, and the loss is on exactly what the person wrote.

`ChatTemplate` applies it. A template writes markers (`<|im_end|>`) around the messages, and those become single tokens.
The same characters inside a message must not: its author could end the turn, or write as somebody else. So a marker
inside a message is split before the template sees it, and its parts are tokenised one by one; all other text is
tokenised as one, as by the tokenizer itself. A template that takes a date from the caller gets a fixed one, so the
prompt is the same every day.

`ChatForm` makes examples with it:

    prompt       template(system, user), ending where the assistant's turn begins, without trailing white space
    completion   the target and the special token that ends the turn: what the model must write, and nothing else

White space that the template puts between the two belongs to the completion: a tokenizer joins it with the target's
first word, so the model writes both, and it is stripped when the turn is read.

A template that cannot be masked exactly is refused: the chat with the target must begin with the prompt, as text and
as tokens, continue with the same white space, then the unchanged target, and end the turn with a special token. What a
template writes after that token (a line feed, mostly) is omitted: generation stops at the token, so the model is never
asked for it. A template that writes today's date is refused too: its prompt would be different tomorrow.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NoReturn, cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Message
from chatbench.data.examples import ExampleRow
from chatbench.protocol.prompts import EncodedExample

PLAIN_FIX = "use the plain-text form: --template plain"
FIXED_DATE = "26 Jul 2024"
"""The date that Llama 3's templates fall back to if the caller provides no clock."""
PROBE = (Message("system", "Ssys"), Message("user", "Uusr"), Message("assistant", "Ttgt"))
"""A chat that identifies a template by how it is rendered."""

TEMPLATE_SECONDS = 10.0
TEMPLATE_CHARACTERS, CHAT_CHARACTERS = 1 << 18, 1 << 24
"""Maximum length of a template's source and of its output: a template is somebody else's program."""

_CUT = "\ufdd0"
"""Marks where a message's text is tokenised in parts: a code point that Unicode reserves for use inside programs."""
_DATE_FORMAT = re.compile(r"""strftime_now\(\s*['"]([^'"]+)['"]""")


class ChatTemplate:
    """The chat template of a tokenizer.

    A template without a system role gets the system message at the start of the first user message
    (`merges_system`). `thinking` is the template's option `enable_thinking`, None to leave it unset.

    Raises:
        ChatbenchError: the tokenizer has no template, or it cannot be applied to a system and a user message.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, thinking: bool | None = None) -> None:
        self.tokenizer = tokenizer
        self.thinking = thinking
        if not tokenizer.chat_template:
            raise ChatbenchError(f"{tokenizer_name(tokenizer)}: its tokenizer has no chat template", fix=PLAIN_FIX)
        try:
            self.source = tokenizer.get_chat_template()
        except ValueError as error:
            raise ChatbenchError(
                f"{tokenizer_name(tokenizer)}: its tokenizer has several chat templates and none called 'default'",
                fix=PLAIN_FIX,
            ) from error
        if len(self.source) > TEMPLATE_CHARACTERS:
            self._refuse(f"has {len(self.source):,} characters")
        tokens = tokenizer.added_tokens_decoder
        # White space that is a token of its own (Gemma) occurs in every template, and in every text.
        markers = {
            index: token.content
            for index, token in tokens.items()
            if token.special or (token.content in self.source and not token.content.isspace())
        }
        self.special_ids = frozenset(index for index, token in tokens.items() if token.special)
        # Any text may contain the token for unknown characters, unless that is also another token.
        unknown = {tokenizer.unk_token_id} - {tokenizer.bos_token_id, tokenizer.eos_token_id}
        self._marker_ids = frozenset(markers) - unknown
        longest_first = sorted(markers.values(), key=len, reverse=True)
        self._marker = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")  # (?!) matches nothing
        self.merges_system = False
        try:
            self.merges_system = PROBE[0].content not in self._rendered(PROBE[:2], ask=True)  # ignored
        except TemplateError:
            self.merges_system = True
        self.text(PROBE[:2], ask=True)

    @property
    def name(self) -> str:
        """A name that changes with the template and its options."""
        text = f"{self.source}\n{self.thinking}\n{FIXED_DATE}"
        return f"chat template {hashlib.sha256(text.encode()).hexdigest()[:16]}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about how the template is applied."""
        notes = []
        if self.merges_system:
            notes.append("the chat template has no system role: the system message is put before the user's")
        if self.thinking is False:
            notes.append("the chat template is called with enable_thinking=False")
        return tuple(notes)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a chat, ready for the assistant's next turn.

        Raises:
            ChatbenchError: the template refuses the messages.
        """
        return self.ids([self.text(messages, ask=True)])[0]

    def text(self, messages: Sequence[Message], *, ask: bool) -> str:
        """The chat as text, to be tokenised by `ids` only; with `ask`, it ends where the assistant's turn begins.

        Raises:
            ChatbenchError: the template refuses the messages.
        """
        try:
            return self._rendered(messages, ask)
        except TemplateError as error:
            roles = ", ".join(message.role for message in messages)
            raise ChatbenchError(
                f"{tokenizer_name(self.tokenizer)}: its chat template refuses the roles {roles}: {error}", fix=PLAIN_FIX
            ) from error

    def escaped(self, message: str) -> str:
        """A message's text as in `text`, with its markers split."""

        def apart(marker: re.Match[str]) -> str:
            half = len(marker[0]) // 2
            return f"{marker[0][:half]}{_CUT}{marker[0][half:]}{_CUT}"

        return self._marker.sub(apart, message.replace(_CUT, "\ufffd"))

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts from `text`, without any token that the template does not write.

        Raises:
            ChatbenchError: the tokenizer turns ordinary text into a marker.
        """
        distinct = list(dict.fromkeys(texts))  # many people are asked the same
        whole = [text for text in distinct if _CUT not in text]
        ids = dict(zip(whole, self._encoded(whole), strict=True))
        ids |= {text: self._in_parts(text) for text in distinct if _CUT in text}
        for text, each in ids.items():
            if sum(map(self._marker_ids.__contains__, each)) > len(self._marker.findall(text)):
                raise ChatbenchError(
                    f"the tokenizer turns ordinary text into special tokens: {text.replace(_CUT, '')[:200]!r}",
                    fix=PLAIN_FIX,
                )
        return [ids[text] for text in texts]

    def _rendered(self, messages: Sequence[Message], ask: bool) -> str:
        rows = [{"role": message.role, "content": self.escaped(message.content)} for message in messages]
        if self.merges_system and rows[0]["role"] == "system":
            head = "\n\n".join(row["content"] for row in rows[:2])  # a system message may come alone (IQA-EVAL)
            rows = [{"role": "user", "content": head}, *rows[2:]]
        options: dict[str, Any] = {} if self.thinking is None else {"enable_thinking": self.thinking}
        try:
            with _time_limit(TEMPLATE_SECONDS):
                rendered = self.tokenizer.apply_chat_template(
                    rows, tokenize=False, add_generation_prompt=ask, date_string=FIXED_DATE, **options
                )
        except TemplateError:
            raise
        except TimeoutError:
            self._refuse(f"took more than {TEMPLATE_SECONDS:.0f} s")
        except Exception as error:  # it is a program, which can fail in any way
            self._refuse(f"fails: {type(error).__name__}: {str(error)[:200]}")
        if len(rendered) > CHAT_CHARACTERS:
            self._refuse(f"writes {len(rendered):,} characters")
        return cast(str, rendered)

    def _refuse(self, what: str) -> NoReturn:
        raise ChatbenchError(f"{tokenizer_name(self.tokenizer)}: its chat template {what}", fix=PLAIN_FIX)

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        # A chat template writes its own beginning-of-sequence token, where it has one.
        batch = self.tokenizer(
            list(texts), add_special_tokens=False, split_special_tokens=False, return_attention_mask=False,
            return_token_type_ids=False, verbose=False,
        )  # fmt: skip
        return cast("list[list[int]]", batch["input_ids"])

    def _in_parts(self, text: str) -> list[int]:
        """Tokenises each part by itself, all but the first after a line feed, which is then removed.

        Otherwise a SentencePiece tokenizer would put a space before it, as at the start of a text.
        """
        first, *parts = text.split(_CUT)
        (feed, ids) = self._encoded(["\n", first]) if first else (self._encoded(["\n"])[0], [])
        for part in filter(None, parts):
            after_feed, alone = self._encoded(["\n" + part, part])
            ids = ids + (after_feed[len(feed) :] if after_feed[: len(feed)] == feed else alone)
        return ids


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Inside, `TimeoutError` is raised after this time, in any thread, between two Python operations."""
    thread, lock, over = ctypes.c_ulong(threading.get_ident()), threading.Lock(), threading.Event()

    def stop() -> None:
        with lock:
            if not over.is_set():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(TimeoutError))

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        with lock:
            over.set()


def tokenizer_name(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's name in messages."""
    return tokenizer.name_or_path or "the tokenizer"


class ChatForm:
    """The chat template of a tokenizer, checked to mask exactly.

    A generated turn ends with the one token of `end_ids`, whatever text (`stop`) is in it; `name` changes with the
    template, `notes` are what a user should know about how it is applied, `prompt_ids` encodes a system and a user
    message.

    Templates of thinking models are called with `enable_thinking=False`: a person's turn has no thoughts. They put an
    empty block of thoughts before the last reply, and with this option before the prompt's end too, where it belongs.

    Raises:
        ChatbenchError: there is no template, or it cannot be masked exactly.
    """

    stop: tuple[str, ...] = ()

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        refused = []
        for thinking in (False, None) if "enable_thinking" in str(tokenizer.chat_template) else (None,):
            self.template = ChatTemplate(tokenizer, thinking=thinking)
            self.name, self.notes = self.template.name, self.template.notes
            try:
                self._end_id = self._found_end_id(tokenizer_name(tokenizer))
            except _InexactError as error:
                refused.append(error)
            else:
                self.end_ids = frozenset({self._end_id})
                return
        raise refused[0]

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the prompt of a system and a user message.

        Raises:
            ChatbenchError: the template refuses the messages.
        """
        return self.template.ids([self.template.text(messages, ask=True).rstrip(" ")])[0]

    def encode(self, rows: Sequence[ExampleRow]) -> list[EncodedExample]:
        """Token ids of each row.

        Raises:
            ChatbenchError: a row holds no messages, or one cannot be masked exactly.
        """
        texts: list[str] = []
        places = [f"example of conversation {row.conversation_id}" for row in rows]
        for row, where in zip(rows, places, strict=True):
            if row.messages is None:
                raise ChatbenchError(
                    f"{where}: plain text, but a chat template needs messages",
                    expected="messages (system, user, assistant)",
                    fix=f"prepare the splits with --format messages, or {PLAIN_FIX}",
                )
            system, user, assistant = row.messages
            # A person's message has no white space around it (see data.examples), and many templates strip it anyway.
            texts += self._texts((system, user, Message("assistant", assistant.content.strip())), where)
        ids = self.template.ids(texts)
        pairs = zip(ids[::2], ids[1::2], places, strict=True)
        return [self._split(prompt, whole, self._end_id, where) for prompt, whole, where in pairs]

    def _found_end_id(self, where: str) -> int:
        asked, chat = self._texts(PROBE, where)
        wrong = [message.role for message in PROBE[:2] if asked.count(message.content) != 1]
        if wrong:
            raise _InexactError(where, f"it does not write the {wrong[0]} message exactly once: {asked!r}")
        today = [datetime.now().strftime(each) for each in _DATE_FORMAT.findall(self.template.source)]
        if any(date in asked for date in today):
            raise _InexactError(where, f"it writes today's date: {asked!r}")
        prompt, whole = self.template.ids([asked, chat])
        special = [token for token in whole[len(prompt) :] if token in self.template.special_ids]
        if not special:
            raise _InexactError(where, f"it does not end the reply with a special token: {chat!r}")
        self._split(prompt, whole, special[0], where)
        return special[0]

    def _texts(self, messages: Sequence[Message], where: str) -> tuple[str, str]:
        """Prompt and whole chat as text."""
        prompt, whole = self.template.text(messages[:2], ask=True).rstrip(" "), self.template.text(messages, ask=False)
        target = self.template.escaped(messages[2].content)
        if not whole.startswith(prompt):
            raise _InexactError(where, f"the whole chat, {whole!r}, does not begin with the prompt, {prompt!r}")
        rest = whole[len(prompt) :]
        if not rest.lstrip().startswith(target):
            raise _InexactError(where, f"after the prompt it writes {rest!r} instead of the reply {target!r}")
        if messages == PROBE:
            self._blank = rest[: -len(rest.lstrip())]
        elif not rest.startswith(self._blank + target):
            raise _InexactError(where, f"before the reply it writes {rest[:20]!r}, but {self._blank!r} in other chats")
        return prompt, whole

    @staticmethod
    def _split(prompt: list[int], whole: list[int], end_id: int, where: str) -> EncodedExample:
        if whole[: len(prompt)] != prompt:
            raise _InexactError(where, "the tokenizer joins the prompt's last characters with the reply's first")
        rest = whole[len(prompt) :]
        if end_id not in rest:
            raise _InexactError(where, "the reply does not end as in other chats")
        return EncodedExample(prompt, rest[: rest.index(end_id) + 1])


class _InexactError(ChatbenchError):
    """Prompt and completion of a tokenizer or an example (`where`) cannot be separated exactly."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(
            f"{where}: the chat template cannot be masked exactly: {reason}",
            expected="the same prompt and white space each time, then the reply unchanged, then a special end token",
            fix=PLAIN_FIX,
        )
