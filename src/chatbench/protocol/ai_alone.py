"""An assistant that answers a question alone: what it is asked by each method, and what its reply means.

    letter-only-zero-shot   the question, to be answered with a single letter
    letter-only-few-shot    the same behind five examples of the question's subset (MMLU's dev questions)
    free-text               the question as it is; a second model, the extractor, says which option the reply settles on

A letter-only reply counts by its first character, white space before it set aside: A to D, else it is invalid, which
counts as wrong. A free-text reply is right where the extractor names the right letter, and wrong where it names another
or none, or no attempt was made. Where the extractor does not return the JSON that it was asked for, the outcome is
unknown: the sample is dropped, and counted.

Source: Chang, Anderson, Hofman, ACL 2025 (arXiv 2504.07114); docs/protocol.md, AI-alone baselines.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Literal, get_args

from chatbench.core.records import LETTERS, Message, Question
from chatbench.protocol.prompts import (
    ASSISTANT_SYSTEM,
    EXTRACTION,
    EXTRACTION_SYSTEM,
    LETTER_ONLY,
    LETTER_ONLY_FEW_SHOT,
    LETTER_ONLY_QUESTION,
    SEPARATOR,
)

Method = Literal["letter-only-zero-shot", "letter-only-few-shot", "free-text"]
METHODS: tuple[Method, ...] = get_args(Method)
Result = Literal["right", "wrong", "invalid", "unknown"]
"""`invalid`: a letter-only reply without a letter, counted wrong. `unknown`: dropped."""

MAX_TOKENS: dict[Method, int] = {"letter-only-zero-shot": 10, "letter-only-few-shot": 10, "free-text": 1000}
EXTRACTION_MAX_TOKENS = 300


def column_name(method: Method) -> str:
    """The method as the study's tables call it.

    >>> column_name("letter-only-zero-shot")
    'letter_only_zero_shot'
    """
    return method.replace("-", "_")


def question_messages(method: Method, question: Question, examples: Sequence[Question] = ()) -> tuple[Message, Message]:
    """What the assistant is asked; `examples` are those of the few-shot method.

    Raises:
        ValueError: the few-shot method without examples, or examples with another method.
    """
    if bool(examples) != (method == "letter-only-few-shot"):
        raise ValueError(f"{method} with {len(examples)} examples")
    if method == "free-text":
        return Message("system", ASSISTANT_SYSTEM), Message("user", question.full_text)
    text = LETTER_ONLY
    if examples:
        text += LETTER_ONLY_FEW_SHOT.replace("{subset}", question.subset.replace("_", " "))
    text += "".join(f"{_asked(example)} {example.answer}\n\n" for example in examples)
    return Message("system", ASSISTANT_SYSTEM), Message("user", text + _asked(question))


def _asked(question: Question) -> str:
    return LETTER_ONLY_QUESTION.replace("{question}", question.full_text)


def extraction_messages(question: Question, reply: str) -> tuple[Message, Message]:
    """What the extractor is asked about a free-text reply."""
    # Cut at the markers and not replaced one after the other: a reply may hold a marker's name.
    head, _, tail = EXTRACTION.replace("{separator}", SEPARATOR).partition("{answer}")
    return (
        Message("system", EXTRACTION_SYSTEM),
        Message("user", head.replace("{question}", question.full_text) + reply + tail),
    )


def read_letter_reply(reply: str, question: Question) -> Result:
    """What a letter-only reply comes to.

    >>> read_letter_reply(" B. because", Question("q", "s", "2+2?", ("3", "4", "5", "6"), "B"))
    'right'
    >>> read_letter_reply("The answer is B", Question("q", "s", "2+2?", ("3", "4", "5", "6"), "B"))
    'invalid'
    """
    first = reply.strip()[:1]
    if first not in LETTERS:
        return "invalid"
    return "right" if first == question.answer else "wrong"


def read_extraction(output: str, question: Question) -> Result:
    """What a free-text reply comes to, by what the extractor returned; text around the JSON object is passed over.

    >>> question = Question("q", "s", "2+2?", ("3", "4", "5", "6"), "B")
    >>> read_extraction('{"attempted_answer": true, "answer_val": "4", "answer_letter": "B"}', question)
    'right'
    >>> read_extraction('{"attempted_answer": true, "answer_val": "7", "answer_letter": null}', question)
    'wrong'
    >>> read_extraction("The student answers B.", question)
    'unknown'
    """
    try:
        found = json.loads(output[output.find("{") : output.rfind("}") + 1])
    except (json.JSONDecodeError, RecursionError):
        return "unknown"
    if (
        not isinstance(found, dict)
        or not isinstance(found.get("attempted_answer"), bool)
        or "answer_letter" not in found
    ):
        return "unknown"
    letter = found["answer_letter"]
    right = found["attempted_answer"] and isinstance(letter, str) and letter.strip().upper() == question.answer
    return "right" if right else "wrong"


def method_sha256(method: Method) -> str:
    """SHA-256 of the texts that a method is made of, without any question: it changes where a prompt does."""
    texts = [method, ASSISTANT_SYSTEM]
    texts += [EXTRACTION_SYSTEM, EXTRACTION] if method == "free-text" else [LETTER_ONLY, LETTER_ONLY_QUESTION]
    texts += [LETTER_ONLY_FEW_SHOT] if method == "letter-only-few-shot" else []
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
