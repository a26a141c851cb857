"""Turns of a chat from the messages of any program, with fixed rules for what does not alternate between the two sides.

    content in parts              texts are joined by newlines; any other part is named, as `[image]`
    system, tool messages         context: the assistant saw it, the person did not, no prompt contains it
    assistant before the person   context too
    messages of one side in a row are one turn, joined by a newline (blank ones of the assistant are left out)
    a blank message of the person is left out, with the reply to it
    a chat that ends with the person gets an empty reply

Each use of a rule is counted. Names, time stamps and the like are not part of a chat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from chatbench.core.records import Context, Role, Turn
from chatbench.data.tables import plain_name, role_of

CONTEXT_ROLES = {"system": "system", "developer": "system", "tool": "tool", "function": "tool"}
EMPTY_CHAT = "chats without a message of the person: left out"
_TEXT_PARTS = ("text", "input_text", "output_text")


class RawMessage(NamedTuple):
    """A message as found in a file: any role, and content that is text, a list of parts, or nothing."""

    role: str
    content: object


class Turns(NamedTuple):
    """The turns of person and assistant (none if the person said nothing), and the assistant's other context."""

    turns: tuple[Turn, ...]
    context: tuple[Context, ...]


@dataclass(slots=True)
class _Exchange:
    asked: list[str] = field(default_factory=list)
    replies: list[str] = field(default_factory=list)


def known_role(name: str) -> str | None:
    """`user`, `assistant`, `system` or `tool`; None for an unknown role.

    >>> known_role("Human"), known_role("gpt"), known_role("developer"), known_role("moderator")
    ('user', 'assistant', 'system', None)
    """
    return role_of(name) or _MODELS.get(plain_name(name)) or CONTEXT_ROLES.get(plain_name(name))


_MODELS: dict[str, Role] = dict.fromkeys(("gpt", "model", "chatgpt", "bing", "bard"), "assistant")


def content_text(content: object, note: Callable[[str], None] = lambda _text: None) -> str | None:
    """The text of a message's content; None if it is neither text nor parts.

    >>> content_text([{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "..."}}])
    'What is this?\\n[image]'
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, Sequence):
        return None
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(part, str) or (kind in _TEXT_PARTS and isinstance(part.get("text"), str)):
            texts.append(part if isinstance(part, str) else part["text"])
        elif isinstance(kind, str) and kind not in _TEXT_PARTS:
            name = kind.removeprefix("input_").partition("_")[0]
            texts.append(f"[{name}]")
            note(f"parts of messages that are no text, named [{name}] in their place")
        else:
            return None
    return "\n".join(texts)


def turns_of(messages: Iterable[RawMessage], note: Callable[[str], None]) -> Turns:
    """Convert messages to turns; `note` is called for each rule that was needed.

    Raises:
        ValueError: a role is unknown, or content is neither text nor parts.
    """
    exchanges, context = _exchanges(messages, note)
    turns: list[Turn] = []
    starts = []  # of each exchange, as an index into turns
    for exchange in exchanges:
        starts.append(len(turns))
        said, replies = ([text for text in each if text.strip()] for each in (exchange.asked, exchange.replies))
        if len(said) < len(exchange.asked):
            note("blank messages of the person, left out (with their replies, where nothing else was asked)")
        if not said:
            continue
        if not exchange.replies:
            note("chats that end with the person: an empty reply follows")
        elif not replies:
            note("empty assistant messages, kept as they were")
        whole = replies if len(exchange.replies) > 1 else exchange.replies
        turns += [Turn("user", "\n".join(said)), Turn("assistant", "\n".join(whole))]
    starts.append(len(turns))
    return Turns(
        tuple(turns),
        tuple(Context(min(starts[at] + before_reply, len(turns)), *rest) for at, before_reply, *rest in context),
    )


def _exchanges(
    messages: Iterable[RawMessage], note: Callable[[str], None]
) -> tuple[list[_Exchange], list[tuple[int, bool, str, str]]]:
    """The exchanges, and the context as (index of the exchange, whether before its reply, role, text)."""
    exchanges: list[_Exchange] = []
    context: list[tuple[int, bool, str, str]] = []
    for index, message in enumerate(messages):
        role, text = known_role(message.role), content_text(message.content, note)
        if role is None or text is None:
            wrong = f"role {message.role!r}" if role is None else "content that is not text"
            raise ValueError(f"message {index}: {wrong}")
        if role in CONTEXT_ROLES:
            note(f"{role} messages, kept as the assistant's context")
            asked = bool(exchanges) and not exchanges[-1].replies
            context.append((len(exchanges) - asked, asked, role, text))
        elif role == "assistant" and not exchanges:
            note("messages of the assistant before the person's first, kept as its context")
            context.append((0, False, role, text))
        elif role == "assistant":
            if text.strip() and any(map(str.strip, exchanges[-1].replies)):
                note("messages of the assistant in a row, joined")
            exchanges[-1].replies.append(text)
        elif exchanges and not exchanges[-1].replies:
            note("messages of the person in a row, joined")
            exchanges[-1].asked.append(text)
        else:
            exchanges.append(_Exchange([text]))
    return exchanges, context
