"""Chat templates in the manner of well-known ones, written for the tests, on tokenizers small enough to read."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.tiny_models import SENTENCES, Architecture, tiny_model, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

MARKERS = ["<|im_start|>", "<|im_end|>"]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}"
    "{% set said = m.content.split('</think>')[-1] %}<think>\n\n</think>\n\n{{ said.lstrip('\n') }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""As Qwen3's: an empty block of thoughts before the last reply, in the prompt only when thinking is switched off."""

NO_SYSTEM = (
    "<|endoftext|>{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
"""As Gemma's: it raises on a system message, trims, names the assistant otherwise and writes a first token."""

DATED = (
    "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n\n"
    "{% if m.role == 'system' %}Today Date: {{ date_string }}\n\n{% endif %}{{ m.content | trim }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)
"""As Llama 3.2's: a date in the system message, today's where the caller gives none."""

SPACED = CHATML.replace("assistant\n", "assistant: ").replace("{{ m.role }}\n", "{{ m.role }}: ")
"""Its prompt ends with a space, which a byte-pair tokenizer joins with the word after it."""

BLANK_BEFORE_REPLY = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ ' ' + m.content }}<|im_end|>{% else %}"
    "<|im_start|>{{ m.content }}</i>{% endif %}{% endfor %}"
)
"""As Mistral's v0.2 and v0.3: the prompt ends without a blank, and one stands before the reply."""

EXACT = {
    "chatml": CHATML, "thinking": THINKING, "no system": NO_SYSTEM, "dated": DATED, "spaced": SPACED,
    "blank before reply": BLANK_BEFORE_REPLY,
}  # fmt: skip

REFUSED = {
    "does not begin with the prompt": CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif"),
    "instead of the reply": CHATML.replace(
        "{{ m.content }}", "{{ m.content if m.role != 'assistant' else m.content | upper }}"
    ),
    "does not end the reply with a special token": CHATML.replace("<|im_end|>", "[end]"),
    "not write the user message exactly once": CHATML.replace("{{ m.content }}", "{{ m.content if m.role != 'user' }}"),
    "today's date": CHATML.replace("{{ m.content }}", "{{ strftime_now('%d %B %Y ') if loop.first }}{{ m.content }}"),
}
"""By what is said of it, a template that cannot be masked exactly."""


def chat_tokenizer(template: str = CHATML, *, sentencepiece: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer with a template and its markers, loaded as the package loads one: special text is only text."""
    tokenizer = _sentencepiece_like() if sentencepiece else tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": MARKERS})
    if template == THINKING:
        tokenizer.add_tokens(["<think>", "</think>"])  # not special, as in Qwen3
    tokenizer.chat_template = template
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.split_special_tokens = True
    return tokenizer


def _sentencepiece_like() -> PreTrainedTokenizerFast:
    """A tokenizer that puts a space before a text, as Llama 2's and Mistral's do."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>", "<unk>", *[f"<0x{byte:02X}>" for byte in range(256)]],
        show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator(SENTENCES, trainer)
    content = json.loads(backend.to_str())
    content["added_tokens"] = content["added_tokens"][:2]  # bytes are no special tokens
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)), eos_token="<|endoftext|>", unk_token="<unk>"
    )


def save_chat_model(
    folder: Path, template: str | None = CHATML, architecture: Architecture = "llama", *, context: int = 512
) -> Path:
    """Saves a tiny model whose tokenizer has the template; gives the folder back."""
    tokenizer = chat_tokenizer(template or CHATML)
    if template is None:
        tokenizer.chat_template = None
    tiny_model(architecture, vocabulary=len(tokenizer), context=context).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
