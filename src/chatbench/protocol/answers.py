"""What a simulated user's output means: its next message, or the answer that ends the conversation.

The published order matters and is kept: white space, then double quotes at both ends, then one leading `YOU: `, and
only then the test for `Answer: `. A quoted answer behind `YOU: ` therefore is an ordinary message.

Source: Chang, Anderson, Hofman, ACL 2025 (arXiv 2504.07114), and the published simulation loop (docs/protocol.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from chatbench.core.records import LETTERS
from chatbench.protocol.prompts import ANSWER_PREFIX, IQA_EVAL_ANSWER

SPEAKER_PREFIX = "YOU: "
"""How the prompt shows the user's own turns; models like to repeat it."""


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """What followed `Answer: `: the text as it was, and its letter, None where the text is invalid (counted wrong).

    `message` is the whole of what was said, its prefix and whatever stood before it included.
    """

    text: str
    letter: str | None
    message: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Said:
    """A message to the assistant; a `last` one ends the chat once it is answered, or at once where it is empty."""

    text: str
    last: bool = False


def clean_output(output: str) -> str:
    r"""The message in a simulator's output; a double quote goes from either end, whether the other has one or not.

    >>> clean_output('  "YOU: what is 2+2?"\n')
    'what is 2+2?'
    >>> clean_output('YOU: "Answer: B"')
    '"Answer: B'
    """
    return output.strip().strip('"').removeprefix(SPEAKER_PREFIX)


def read_answer(message: str) -> FinalAnswer | None:
    """The answer that a cleaned message gives, None where it is an ordinary message.

    The first character after `Answer: ` is the letter if it is one of A-D; anything else is an invalid answer.

    >>> read_answer("Answer: B. because 4 is even")
    FinalAnswer(text='B. because 4 is even', letter='B')
    >>> read_answer("Answer: (A)")
    FinalAnswer(text='(A)', letter=None)
    >>> read_answer("the Answer: B") is None
    True
    """
    if not message.startswith(ANSWER_PREFIX):
        return None
    return _answer(message.removeprefix(ANSWER_PREFIX), message)


def read_iqa_answer(output: str) -> FinalAnswer | None:
    """The answer of an IQA-EVAL simulator, which may stand anywhere in its output and in any turn, the first too.

    >>> read_iqa_answer("I think so. So, the answer is: D.")
    FinalAnswer(text='D.', letter='D')
    """
    _, marker, text = output.partition(IQA_EVAL_ANSWER)
    return _answer(text, clean_output(output)) if marker else None


def _answer(text: str, message: str) -> FinalAnswer:
    return FinalAnswer(text, text[0] if text.startswith(LETTERS) else None, message)
