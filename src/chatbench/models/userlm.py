"""UserLM-8b and models like it: trained on the user's part of chats, and prompted by their own chat template.

    system message (the intent), user, assistant, user, assistant, ... then the template asks for the next user turn

A turn ends with the template's end of a message; a token of its own says that the chat has run its course. The card's
example samples with top-p 0.8 and bans that token; here nothing is cut off the distribution, as for all simulators, and
the token ends the chat.

Source: the card and chat template of microsoft/UserLM-8b; Naous et al. 2025 (arXiv 2510.06552).
"""

from __future__ import annotations

from collections.abc import Sequence

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Message
from chatbench.models.chat_template import PROBE, ChatTemplate, tokenizer_name
from chatbench.models.generation import Decoding, Generated, LocalGenerator
from chatbench.models.loading import Loaded
from chatbench.models.speakers import Prompt, fitting_prompt, generate_replies, local_identity
from chatbench.protocol.dialogue import Failure, Reply, Request
from chatbench.protocol.history import asked_without_oldest, exchanges_asked_with
from chatbench.protocol.prompts import USERLM_END

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
        """As a `Speaker`: one reply or failure per request, in their order."""
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
