"""Models as speakers of a dialogue: a local simulator, a local assistant, an assistant behind an endpoint.

A speaker's `identity` states what a result depends on (weights, tokenizer, decoding), and neither a secret nor a path
of somebody's machine. `reproducible` is false where the same request may be answered differently next time.
"""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from chatbench.core.records import Message
from chatbench.models.endpoint import ChatEndpoint
from chatbench.models.generation import Decoding, LocalGenerator
from chatbench.models.loading import Loaded
from chatbench.protocol.dialogue import Failure, Reply, Request
from chatbench.protocol.transcript import encode_prompt, prompt_text

PLAIN_NAMES = {"user": "User", "assistant": "Assistant"}
PLAIN_STOP = "\nUser:"
"""What a base model writes when it goes on with the user's part."""


class LocalSimulator:
    """A language model, fine-tuned or not, in the user's place, in the plain-text form of its training."""

    def __init__(self, loaded: Loaded, name: str, *, temperature: float, max_tokens: int) -> None:
        decoding = Decoding(temperature, max_tokens)
        self._generator = LocalGenerator(loaded.model, loaded.tokenizer, decoding)
        self.identity: dict[str, object] = {**_identity(loaded, name, decoding), "form": "plain text"}

    @property
    def prompts_cut(self) -> int:
        """How many prompts so far were too long for the model and lost their start."""
        return self._generator.prompts_cut

    def reply_all(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        texts = [prompt_text(request.messages) for request in requests]
        # Many people are asked the same: each text is tokenised once.
        ids = {text: encode_prompt(self._generator.tokenizer, text) for text in set(texts)}
        return _generate(self._generator, [ids[text] for text in texts], requests)


class LocalAssistant:
    """A local language model as the assistant, through its chat template, or as plain text where it has none."""

    def __init__(self, loaded: Loaded, name: str, *, temperature: float, max_tokens: int) -> None:
        self._template = bool(loaded.tokenizer.chat_template)
        decoding = Decoding(temperature, max_tokens, stop=() if self._template else (PLAIN_STOP,))
        self._generator = LocalGenerator(loaded.model, loaded.tokenizer, decoding)
        self.identity: dict[str, object] = {
            **_identity(loaded, name, decoding),
            "form": "chat template" if self._template else "plain text",
        }

    def reply_all(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        encode = encode_chat if self._template else encode_plain_chat
        prompts = [encode(self._generator.tokenizer, request.messages) for request in requests]
        return _generate(self._generator, prompts, requests)


class EndpointAssistant:
    """A model behind an OpenAI-compatible endpoint as the assistant."""

    def __init__(self, endpoint: ChatEndpoint) -> None:
        self._endpoint = endpoint
        self.identity: dict[str, object] = {
            "kind": "openai",
            "name": endpoint.address.model,
            "base_url": endpoint.address.base_url,
            "temperature": endpoint.temperature,
            "max_tokens": endpoint.max_tokens,
            "reproducible": False,
        }

    def reply_all(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        return self._endpoint.complete_all(requests)


def _identity(loaded: Loaded, name: str, decoding: Decoding) -> dict[str, object]:
    return {
        "kind": "local",
        "name": name,
        "weights": loaded.weights,
        "tokenizer": loaded.tokenizer_hash,
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "temperature": decoding.temperature,
        "max_tokens": decoding.max_new_tokens,
    }


def _generate(
    generator: LocalGenerator, prompts: Sequence[list[int]], requests: Sequence[Request]
) -> list[Reply | Failure]:
    generated = generator.generate(prompts, [request.seed for request in requests])
    return [Reply(one.text.strip(), one.tokens, one.stopped) for one in generated]


def encode_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Token ids of a chat through the tokenizer's template, ready for the assistant's next turn.

    A template that knows no system role gets the system message at the head of the first user message.
    """
    rows = [message.as_dict() for message in messages]
    try:
        text = tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=True)
    except TemplateError:
        merged = [{"role": "user", "content": f"{rows[0]['content']}\n\n{rows[1]['content']}"}, *rows[2:]]
        text = tokenizer.apply_chat_template(merged, tokenize=False, add_generation_prompt=True)
    # The template's own markers are special tokens, though in other text of a study the same characters are only text.
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=False)["input_ids"])


def encode_plain_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Token ids of a chat for a model without a template: the system text, then `User: ...` and `Assistant: ...`."""
    turns = [f"{PLAIN_NAMES[message.role]}: {message.content}" for message in messages[1:]]
    return encode_prompt(tokenizer, "\n\n".join([messages[0].content, *turns, f"{PLAIN_NAMES['assistant']}:"]))
