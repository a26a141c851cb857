"""Models on this machine as participants of a dialogue: a simulator, an assistant.

A participant's `identity` states what a result depends on (weights, tokenizer, decoding), and neither a secret nor a path
of somebody's machine. `reproducible` is false where the same request may be answered differently next time.

UserLM-8b and models like it: trained on the user's part of chats, and prompted by their own chat template.

    system message (the intent), user, assistant, user, assistant, ... then the template asks for the next user turn

A turn ends with the template's end of a message; a token of its own says that the chat has run its course. The card's
example samples with top-p 0.8 and bans that token; here nothing is cut off the distribution, as for all simulators, and
the token ends the chat.

Source: the card and chat template of microsoft/UserLM-8b; Naous et al. 2025 (arXiv 2510.06552).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Message
from chatbench.core.settings import Template
from chatbench.data.truncation import TURNS_PER_EXCHANGE, asked_without_oldest, exchanges_asked_with
from chatbench.models.answer_probabilities import answer_reader
from chatbench.models.chat_template import PROBE, ChatTemplate, tokenizer_name
from chatbench.models.encoding import encoder
from chatbench.models.generation import Decoding, Generated, LocalGenerator
from chatbench.models.loading import Loaded
from chatbench.protocol.dialogue import Failure, Reply, Request
from chatbench.protocol.plain_text import encode_prompt
from chatbench.protocol.prompts import USERLM_END

PLAIN_NAMES = {"user": "User", "assistant": "Assistant"}
PLAIN_STOP = "\nUser:"
"""What a base model writes when it goes on with the user's part."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids that fit a model's context; `turns_dropped` of the oldest turns are not among them."""

    ids: list[int]
    turns_dropped: int = 0


class LocalSimulator:
    """A language model, fine-tuned or not, in the user's place, in the form of its training.

    A prompt that is too long loses the oldest turns of the conversation in it, which the reply says; one that is too
    long even without the conversation is a failure.

    Args:
        expected_answers: also read how likely each turn after the first is to be an answer, and which one.

    Raises:
        ChatbenchError: the tokenizer does not go with the template, or answers cannot be read from it.
    """

    def __init__(
        self,
        loaded: Loaded,
        name: str,
        *,
        temperature: float,
        max_tokens: int,
        template: Template = "plain",
        expected_answers: bool = False,
    ) -> None:
        self._form = encoder(loaded.tokenizer, template)
        decoding = Decoding(temperature, max_tokens, stop=self._form.stop)
        ends = self._form.end_ids
        answers = answer_reader(loaded.model, loaded.tokenizer, self._form) if expected_answers else None
        self._generator = LocalGenerator(loaded.model, loaded.tokenizer, decoding, end_ids=ends, answers=answers)
        self.identity: dict[str, object] = {**local_identity(loaded, name, decoding), "form": self._form.name}

    def reply_all(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        # Many people are asked the same: each prompt is tokenised once.
        prompts = {messages: self._prompt(messages) for messages in {request.messages for request in requests}}
        replies = generate_replies(self._generator, [prompts[request.messages] for request in requests], requests)
        return [_read_after_first(request, reply) for request, reply in zip(requests, replies, strict=True)]

    def _prompt(self, messages: Sequence[Message]) -> Prompt | Failure:
        def without(count: int) -> list[int]:
            return self._form.prompt_ids(asked_without_oldest(messages, count))

        return fitting_prompt(without, exchanges_asked_with(messages), self._generator.room)


class LocalAssistant:
    """A local language model as the assistant, through its chat template, or as plain text where it has none.

    A chat that is too long loses its oldest turns, which the reply says; one whose last message alone is too long is a
    failure.
    """

    def __init__(self, loaded: Loaded, name: str, *, temperature: float, max_tokens: int) -> None:
        tokenizer = loaded.tokenizer
        self._template = ChatTemplate(tokenizer) if tokenizer.chat_template else None
        decoding = Decoding(temperature, max_tokens, stop=() if self._template else (PLAIN_STOP,))
        self._generator = LocalGenerator(loaded.model, tokenizer, decoding)
        self.identity: dict[str, object] = {
            **local_identity(loaded, name, decoding),
            "form": "chat template" if self._template else "plain text",
        }

    def reply_all(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        return generate_replies(self._generator, [self._prompt(request.messages) for request in requests], requests)

    def _prompt(self, messages: Sequence[Message]) -> Prompt | Failure:
        def without(count: int) -> list[int]:
            kept = [messages[0], *messages[1 + TURNS_PER_EXCHANGE * count :]]
            if self._template:
                return self._template.prompt_ids(kept)
            return encode_plain_chat(self._generator.tokenizer, kept)

        return fitting_prompt(without, (len(messages) - 1) // TURNS_PER_EXCHANGE, self._generator.room)


def local_identity(loaded: Loaded, name: str, decoding: Decoding) -> dict[str, object]:
    """What a result depends on where a model on this machine speaks."""
    return {
        "kind": "local",
        "name": name,
        "weights": loaded.weights,
        "tokenizer": loaded.tokenizer_hash,
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "temperature": decoding.temperature,
        "max_tokens": decoding.max_new_tokens,
    }


def fitting_prompt(without: Callable[[int], list[int]], exchanges: int, room: int) -> Prompt | Failure:
    """The prompt without as few of its oldest exchanges as make it fit `room` tokens; a failure where nothing does.

    Args:
        without: token ids of the prompt without that many of its `exchanges`.
    """
    for count in range(exchanges + 1):
        ids = without(count)
        if len(ids) <= room:
            return Prompt(ids, TURNS_PER_EXCHANGE * count)
    return Failure(f"a prompt of {len(ids):,} tokens, earlier turns left out: the model has room for {room:,}")


def generate_replies(
    generator: LocalGenerator,
    prompts: Sequence[Prompt | Failure],
    requests: Sequence[Request],
    text_of: Callable[[Generated], str] = lambda generated: generated.text.strip(),
) -> list[Reply | Failure]:
    """A reply to each request whose prompt fits, and the failure of each whose prompt does not."""
    asked = list(zip(prompts, requests, strict=True))
    fitting = [(prompt, request.seed) for prompt, request in asked if isinstance(prompt, Prompt)]
    generated = iter(generator.generate([prompt.ids for prompt, _ in fitting], [seed for _, seed in fitting]))
    return [prompt if isinstance(prompt, Failure) else _reply(prompt, next(generated), text_of) for prompt in prompts]


def _reply(prompt: Prompt, generated: Generated, text_of: Callable[[Generated], str]) -> Reply:
    return Reply(
        text_of(generated),
        generated.tokens,
        generated.stopped,
        prompt.turns_dropped,
        prompt_tokens=len(prompt.ids),
        answer=generated.answer,
    )


def _read_after_first(request: Request, reply: Reply | Failure) -> Reply | Failure:
    """Without the probabilities of an answer before there is a conversation: there, `Answer: B` is a message."""
    if isinstance(reply, Failure) or exchanges_asked_with(request.messages):
        return reply
    return replace(reply, answer=None)


def encode_plain_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Token ids of a chat for a model without a template: the system text, then `User: ...` and `Assistant: ...`."""
    turns = [f"{PLAIN_NAMES[message.role]}: {message.content}" for message in messages[1:]]
    return encode_prompt(tokenizer, "\n\n".join([messages[0].content, *turns, f"{PLAIN_NAMES['assistant']}:"]))


_FIX = "use a model of that kind (microsoft/UserLM-8b), or prompt this one: two-step:local:FOLDER"


class LocalUserLm:
    """A UserLM on this machine in the user's place; a chat that is too long loses its oldest turns.

    Raises:
        ChatbenchError: its chat template does not ask for the user's next turn.
    """

    def __init__(self, loaded: Loaded, name: str, *, temperature: float, max_tokens: int) -> None:
        tokenizer = loaded.tokenizer
        if not tokenizer.chat_template:
            raise ChatbenchError(f"{tokenizer_name(tokenizer)}: no chat template, which a UserLM has", fix=_FIX)
        self._template = ChatTemplate(tokenizer)
        # Where it is no token of the vocabulary, the model writes it as text, and the style reads it there.
        self._end_of_chat = tokenizer.get_vocab().get(USERLM_END)
        ends = {_end_of_turn(self._template)} | ({self._end_of_chat} if self._end_of_chat is not None else set())
        decoding = Decoding(temperature, max_tokens, stop=())
        self._generator = LocalGenerator(loaded.model, tokenizer, decoding, end_ids=frozenset(ends))
        self.identity: dict[str, object] = {
            **local_identity(loaded, name, decoding),
            "form": f"{self._template.name}, asking for the user's turn",
        }

    def reply_all(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        """As a `Participant`: one reply or failure per request, in their order."""
        prompts = [self._prompt(request.messages) for request in requests]
        return generate_replies(self._generator, prompts, requests, self._text_of)

    def _prompt(self, messages: Sequence[Message]) -> Prompt | Failure:
        def without(count: int) -> list[int]:
            return self._template.prompt_ids(asked_without_oldest(messages, count))

        return fitting_prompt(without, exchanges_asked_with(messages), self._generator.room)

    def _text_of(self, generated: Generated) -> str:
        ends_chat = generated.stopped and generated.last_token == self._end_of_chat
        return generated.text.strip() + (USERLM_END if ends_chat else "")


def _end_of_turn(template: ChatTemplate) -> int:
    """The token that ends a user turn: the first special one after the turn that the prompt asks for."""
    prompt, whole = template.ids([template.text(PROBE[:1], ask=True), template.text(PROBE[:2], ask=False)])
    ends = [token for token in whole[len(prompt) :] if token in template.special_ids]
    if whole[: len(prompt)] != prompt or not ends:
        raise ChatbenchError(
            f"{tokenizer_name(template.tokenizer)}: its chat template does not ask for the user's next turn",
            expected="a template that ends a prompt with the head of a user message",
            fix=_FIX,
        )
    return ends[0]
