"""Models on this machine as participants of a dialogue: a simulator, a UserLM, an assistant.

A participant's `identity` states what a result depends on (weights, tokenizer, decoding), but neither secrets nor
paths of the machine.

A prompt that is too long loses the oldest turns of its conversation, which the reply reports; one that is too long
even without the conversation is a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import torch
from transformers import PreTrainedTokenizerBase

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Message
from chatbench.core.settings import Template
from chatbench.data.examples import TURNS_PER_EXCHANGE, asked_without_oldest, exchanges_asked_with
from chatbench.models.answer_probabilities import AnswerReader, answer_reader
from chatbench.models.chat_template import PROBE, ChatTemplate, tokenizer_name
from chatbench.models.encoding import encoder
from chatbench.models.generation import Decoding, Generated, LocalGenerator
from chatbench.models.loading import Loaded, free_bytes, tokenizer_hash
from chatbench.models.weights import cpu_has_bf16
from chatbench.protocol.dialogue import ONLY_THOUGHT, Failure, Reply, Request
from chatbench.protocol.prompts import USERLM_END, encode_prompt

PLAIN_STOP = "\nUser:"
"""What a base model writes when it continues with the user's turn."""
SLOW_FROM = 50_000_000
"""Parameters from which the data type decides the speed on a CPU with matrix units."""
_USERLM_FIX = "use a UserLM (microsoft/UserLM-8b), or prompt this model: two-step:local:FOLDER"


class _LocalParticipant:
    """What the three participants share.

    Args:
        prompt_ids: token ids of the messages of a request.
    """

    def __init__(
        self,
        loaded: Loaded,
        name: str,
        decoding: Decoding,
        form: str,
        prompt_ids: Callable[[Sequence[Message]], list[int]],
        *,
        end_ids: frozenset[int] = frozenset(),
        answers: AnswerReader | None = None,
        keeps_replies: bool = True,
    ) -> None:
        self._prompt_ids = prompt_ids
        self.generator = LocalGenerator(
            loaded.model, loaded.tokenizer, decoding, end_ids=end_ids, answers=answers, keeps_replies=keeps_replies
        )  # fmt: skip
        self._asked: dict[int, tuple[list[int], int]] = {}
        self._failed: list[tuple[int, Reply | Failure]] = []
        # Many prompts are equal: each is tokenised once.
        self._fitting = lru_cache(maxsize=1024)(self._fitted)
        self.identity: dict[str, object] = {
            "kind": "local",
            "name": name,
            "weights": loaded.weights,
            "tokenizer": tokenizer_hash(loaded.tokenizer),
            "dtype": str(loaded.model.dtype).removeprefix("torch."),
            "temperature": decoding.temperature,
            "max_tokens": decoding.max_new_tokens,
            "form": form,
        }

    def reply_all(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        """As a `Participant`: one reply or failure per request, in their order."""
        replies: dict[int, Reply | Failure] = {}
        for key, request in enumerate(requests):
            self.join(key, request)
        while len(replies) < len(requests):
            replies.update(self.step())
        return [replies[key] for key in range(len(requests))]

    def join(self, key: int, request: Request) -> None:
        """As a `SteppedParticipant`."""
        prompt = self._fitting(request.messages)
        if isinstance(prompt, Failure):
            self._failed.append((key, prompt))
            return
        self._asked[key] = prompt
        # Before there is a conversation, `Answer: B` is a message.
        answers = self._exchanges(request.messages) > 0
        self.generator.join(key, prompt[0], request.seed, answers=answers)

    def step(self) -> list[tuple[int, Reply | Failure]]:
        """As a `SteppedParticipant`.

        Raises:
            ChatbenchError: the cache has no room for a single prompt.
        """
        replies, self._failed = self._failed, []
        for key, made in self.generator.step():
            ids, turns_dropped = self._asked.pop(key)
            reply = Reply(
                self._text(made),
                made.tokens,
                "stop" if made.stopped else "length",
                turns_dropped,
                prompt_tokens=len(ids),
                answer=made.answer,
                reasoning=made.reasoning,
            )
            failed = Failure(ONLY_THOUGHT, tokens=made.tokens, prompt_tokens=len(ids)) if reply.only_thought else None
            replies.append((key, failed or reply))
        return replies

    def forget(self) -> None:
        """As a `SteppedParticipant`."""
        self._asked.clear()
        self._failed.clear()
        self.generator.forget()

    @property
    def slow_in_float32(self) -> bool:
        """Whether this CPU would be much faster with weights in bfloat16; in the smallest models, products are few."""
        model = self.generator.model
        in_float32 = model.device.type == "cpu" and model.dtype == torch.float32
        return in_float32 and cpu_has_bf16() and model.num_parameters() >= SLOW_FROM

    def share_memory(self, gib: float | None, models: int) -> None:
        """As a `SteppedParticipant`."""
        limit = gib * 2**30 if gib else free_bytes(self.generator.model.device) / 3
        self.generator.cache.limit = int(limit / models)

    def _fitted(self, messages: tuple[Message, ...]) -> tuple[list[int], int] | Failure:
        """Token ids of the prompt after dropping as few of its oldest turns as make it fit, and the number dropped."""
        ids: list[int] = []
        for count in range(self._exchanges(messages) + 1):
            ids = self._prompt_ids(self._without_oldest(messages, count))
            if len(ids) <= self.generator.room:
                return ids, TURNS_PER_EXCHANGE * count
        room = self.generator.room
        return Failure(f"a prompt of {len(ids):,} tokens, earlier turns left out: the model has room for {room:,}")

    def _exchanges(self, messages: Sequence[Message]) -> int:
        return exchanges_asked_with(messages)

    def _without_oldest(self, messages: Sequence[Message], count: int) -> Sequence[Message]:
        return asked_without_oldest(messages, count)

    def _text(self, generated: Generated) -> str:
        return generated.text.strip()


class LocalSimulator(_LocalParticipant):
    """A language model, fine-tuned or not, as the user, in the form of its training.

    Args:
        expected_answers: also read how likely each turn after the first is to be an answer, and which one.

    Raises:
        ChatbenchError: the tokenizer does not match the template, or answers cannot be read from it.
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
        form = encoder(loaded.tokenizer, template)
        answers = answer_reader(loaded.model, loaded.tokenizer, form) if expected_answers else None
        decoding = Decoding(temperature, max_tokens, stop=form.stop)
        super().__init__(
            loaded, name, decoding, form.name, form.prompt_ids, end_ids=form.end_ids, answers=answers,
            keeps_replies=False,
        )  # fmt: skip


class LocalAssistant(_LocalParticipant):
    """A local language model as the assistant, through its chat template, or as plain text if it has none.

    Args:
        thinking: let the model think first, through the template's option `enable_thinking`, which is off otherwise.

    Raises:
        ChatbenchError: the template has no such option.
    """

    def __init__(
        self, loaded: Loaded, name: str, *, temperature: float, max_tokens: int, thinking: bool = False
    ) -> None:
        has_option = "enable_thinking" in str(loaded.tokenizer.chat_template)
        if thinking and not has_option:
            raise ChatbenchError(
                f"{tokenizer_name(loaded.tokenizer)}: its chat template has no enable_thinking option",
                fix="omit #thinking; thoughts that the model writes anyway are left out of its replies",
            )
        if loaded.tokenizer.chat_template:
            decoding = Decoding(temperature, max_tokens, stop=())
            template = ChatTemplate(loaded.tokenizer, thinking=thinking if has_option else None)
            form = f"{template.name}, thinking" if thinking else template.name
            super().__init__(loaded, name, decoding, form, template.prompt_ids)
        else:
            decoding = Decoding(temperature, max_tokens, stop=(PLAIN_STOP,))
            super().__init__(loaded, name, decoding, "plain text", partial(encode_plain_chat, loaded.tokenizer))

    def _exchanges(self, messages: Sequence[Message]) -> int:
        return (len(messages) - 1) // TURNS_PER_EXCHANGE

    def _without_oldest(self, messages: Sequence[Message], count: int) -> Sequence[Message]:
        return [messages[0], *messages[1 + TURNS_PER_EXCHANGE * count :]]


def encode_plain_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Token ids of a chat for a model without a template: the system text, then `User: ...` and `Assistant: ...`."""
    turns = [f"{message.role.capitalize()}: {message.content}" for message in messages[1:]]
    return encode_prompt(tokenizer, "\n\n".join([messages[0].content, *turns, "Assistant:"]))


class LocalUserLm(_LocalParticipant):
    """UserLM-8b, or a model like it, as the user: trained on the user's side of chats, with its own template.

    After system message (the intent), user, assistant, user, assistant, ... the template asks for the next user turn. A
    turn ends with the template's end of a message; a special token says that the chat is over. The card's
    example samples with top-p 0.8 and bans that token; here, as for all simulators, the distribution is not truncated,
    and the token ends the chat.

    Source: the card and chat template of microsoft/UserLM-8b; Naous et al. 2025 (arXiv 2510.06552).

    Raises:
        ChatbenchError: its chat template does not ask for the user's next turn.
    """

    def __init__(self, loaded: Loaded, name: str, *, temperature: float, max_tokens: int) -> None:
        tokenizer = loaded.tokenizer
        if not tokenizer.chat_template:
            raise ChatbenchError(
                f"{tokenizer_name(tokenizer)}: no chat template, but a UserLM needs one", fix=_USERLM_FIX
            )
        self._template = ChatTemplate(tokenizer)
        # The token that ends a user turn: the first special one after the turn that the prompt asks for.
        prompt, chat = self._template.ids(
            [self._template.text(PROBE[:1], ask=True), self._template.text(PROBE[:2], ask=False)]
        )
        ends = [token for token in chat[len(prompt) :] if token in self._template.special_ids]
        if chat[: len(prompt)] != prompt or not ends:
            raise ChatbenchError(
                f"{tokenizer_name(tokenizer)}: its chat template does not ask for the user's next turn",
                expected="a template that ends a prompt with the header of a user message",
                fix=_USERLM_FIX,
            )
        # If it is not in the vocabulary, the model writes it as text, and the style reads it there.
        self._end_of_chat = tokenizer.get_vocab().get(USERLM_END)
        end_ids = frozenset(token for token in (ends[0], self._end_of_chat) if token is not None)
        form = f"{self._template.name}, asking for the user's turn"
        decoding = Decoding(temperature, max_tokens, stop=())
        super().__init__(loaded, name, decoding, form, self._template.prompt_ids, end_ids=end_ids)

    def _text(self, generated: Generated) -> str:
        ends_chat = generated.stopped and generated.last_token == self._end_of_chat
        return generated.text.strip() + (USERLM_END if ends_chat else "")
