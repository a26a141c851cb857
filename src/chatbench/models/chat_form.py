"""An example through the tokenizer's chat template, with loss on exactly what the person wrote.

    prompt       template(system, user), ending where the assistant is to speak
    completion   the target and the special token that ends the turn: what the model must write, and nothing else

A template that cannot be masked exactly is refused: the chat with the target must begin with the prompt, as text and
as tokens, go on with the target as it is, and end the turn with a special token. What a template writes after that
token (a line feed, mostly) is left away: generation stops at the token, so the model is never asked for it. A template
that writes today's date is refused too, for its prompt would be another one tomorrow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from transformers import PreTrainedTokenizerBase

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Message
from chatbench.models.chat_template import PLAIN_FIX, PROBE, ChatTemplate, tokenizer_name
from chatbench.protocol.example_rows import ExampleRow
from chatbench.protocol.transcript import EncodedExample

_DATE_FORMAT = re.compile(r"""strftime_now\(\s*['"]([^'"]+)['"]""")


class ChatForm:
    """The chat template of a tokenizer, checked to mask exactly.

    A generated turn ends with a token of `end_ids`, whatever text (`stop`) is in it.

    Templates of thinking models are tried as they are, then with `enable_thinking=False`: they put an empty block of
    thoughts before the last reply, and with this option before the prompt's end too, where it belongs to the prompt.

    Raises:
        ChatbenchError: there is no template, or it cannot be masked exactly.
    """

    stop: tuple[str, ...] = ()

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        reasons = []
        for thinking in (None, False):
            self.template = ChatTemplate(tokenizer, thinking=thinking)
            try:
                self._end_id = self._found_end_id()
                return
            except _InexactError as error:
                reasons.append(str(error))
        raise _refused(tokenizer_name(tokenizer), reasons[0])

    @property
    def end_ids(self) -> frozenset[int]:
        """The token that ends a turn."""
        return frozenset({self._end_id})

    @property
    def name(self) -> str:
        """A name of the form that changes with the template."""
        return self.template.name

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about how the template is applied."""
        return self.template.notes

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the prompt of a system and a user message."""
        return self.template.prompt_ids(messages)

    def encode(self, rows: Sequence[ExampleRow]) -> list[EncodedExample]:
        """Token ids of each row.

        Raises:
            ChatbenchError: a row holds no messages, or one cannot be masked exactly.
        """
        texts: list[str] = []
        for row in rows:
            with _refusing(row):
                texts += self._texts(_messages(row))
        ids = self.template.ids(texts)
        encoded = []
        for row, prompt, whole in zip(rows, ids[::2], ids[1::2], strict=True):
            with _refusing(row):
                encoded.append(self._split(prompt, whole, self._end_id))
        return encoded

    def _found_end_id(self) -> int:
        pair = self._texts(PROBE)
        self._check_prompt(pair[0])
        prompt, whole = self.template.ids(pair)
        special = [token for token in whole[len(prompt) :] if token in self.template.special_ids]
        if not special:
            raise _InexactError(f"it ends the reply with no special token: {pair[1]!r}")
        self._split(prompt, whole, special[0])
        return special[0]

    def _check_prompt(self, prompt: str) -> None:
        wrong = [message.role for message in PROBE[:2] if prompt.count(message.content) != 1]
        if wrong:
            raise _InexactError(f"it does not write the {wrong[0]} message once: {prompt!r}")
        today = [datetime.now().strftime(each) for each in _DATE_FORMAT.findall(self.template.source)]
        if any(date in prompt for date in today):
            raise _InexactError(f"it writes today's date: {prompt!r}")

    def _texts(self, messages: Sequence[Message]) -> tuple[str, str]:
        """Prompt and whole chat as text."""
        prompt, whole = self.template.text(messages[:2], ask=True), self.template.text(messages, ask=False)
        target = self.template.held_text(messages[2].content)
        if not whole.startswith(prompt):
            raise _InexactError(f"the chat with the reply, {whole!r}, does not begin with the prompt, {prompt!r}")
        if not whole[len(prompt) :].startswith(target):
            raise _InexactError(f"after the prompt it writes {whole[len(prompt) :]!r} where the reply is {target!r}")
        return prompt, whole

    @staticmethod
    def _split(prompt: list[int], whole: list[int], end_id: int) -> EncodedExample:
        if whole[: len(prompt)] != prompt:
            raise _InexactError("the tokenizer joins the prompt's last characters with the reply's first")
        rest = whole[len(prompt) :]
        if end_id not in rest:
            raise _InexactError("the reply is not ended as in other chats")
        return EncodedExample(prompt, rest[: rest.index(end_id) + 1])


class _InexactError(Exception):
    """Why prompt and completion cannot be told apart exactly."""


@contextmanager
def _refusing(row: ExampleRow) -> Iterator[None]:
    """Names the conversation of a row that cannot be masked exactly."""
    try:
        yield
    except _InexactError as error:
        raise _refused(f"example of conversation {row.conversation_id}", str(error)) from error


def _refused(where: str, reason: str) -> ChatbenchError:
    return ChatbenchError(
        f"{where}: the chat template cannot be masked exactly: {reason}",
        expected="always the same prompt, then the reply as it is, then a special token that ends it",
        fix=PLAIN_FIX,
    )


def _messages(row: ExampleRow) -> tuple[Message, ...]:
    if row.messages is None:
        raise ChatbenchError(
            f"example of conversation {row.conversation_id}: plain text, where a chat template needs messages",
            expected="messages (system, user, assistant)",
            fix=f"prepare the splits with --format messages, or {PLAIN_FIX}",
        )
    system, user, assistant = row.messages
    # A person's message has no white space around it (see protocol.examples), and many templates strip it anyway.
    return system, user, Message("assistant", assistant.content.strip())
