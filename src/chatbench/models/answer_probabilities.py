r"""How likely a simulator's next turn is to be an answer, and which one, from its own next-token probabilities.

After each prompt, the model is shown the tokens that begin an answer as it learnt them (`Answer:`), and its
probabilities are read on the way:

    answering   p("Answer") * p(":" after it) * p(the next token makes it an answer)
    letters     p(the next token gives that letter) / p(the next token makes it an answer)

The protocol's own parser decides which tokens do, from the text with each of them appended, so `Answer: Because` is a B
here as it is there. If a token writes only the space, the token after it is read too.

Expected accuracy. Let a chat end at its step T with an answer, after the history H, and let Y be 1 if its letter
is right. Then `p = P(Y = 1 | H, T, it answered)` is the probability of the right letter given an answer, and
however chats end, E[p] = E[Y] and Var[p] = Var[Y] - E[p (1 - p)]: the same mean, and less variance
by what the last draw adds (Rao-Blackwell). Nothing else about a chat changes: both come from the same run.

The sum of p(answering) * p(right letter) over all steps that a chat reached has the same mean, but more variance: the
probabilities of answering along one chat add up to 1 only in their mean over chats. With one p at every step and
probability h of answering at each, p has no variance, the sum has p^2 (1 - h).

Neglected: other tokens for the same text ("An", "swer") and quotes before it, to which a model fine-tuned on one
spelling gives almost no probability; white space of more than one character; and an end marker that follows the
space, if a tokenizer splits it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chatbench.core.answer_kinds import LETTERS
from chatbench.core.errors import ChatbenchError
from chatbench.core.records import FOUR_LETTERS, AnswerProbabilities, Message
from chatbench.data.examples import ExampleRow
from chatbench.models.chat_template import ChatForm
from chatbench.models.encoding import PlainForm
from chatbench.models.kv_cache import end_token_ids
from chatbench.protocol.answers import clean_output, read_answer
from chatbench.protocol.prompts import ANSWER_PREFIX, completion_text, prompt_text

_INVALID, _NO_ANSWER = len(FOUR_LETTERS), len(FOUR_LETTERS) + 1
_CLASSES = len(FOUR_LETTERS) + 2
"""What the text becomes with a token appended: the answers A to D, any other answer, no answer."""

_Kinds = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class AnswerReader:
    """Reads answer probabilities from a model whose tokenizer writes every answer with `path` before its letter.

    `kinds` has, for each token after the path, the kind of turn that it makes, one-hot, of shape (vocabulary, kinds),
    and in a second tensor which of E to Z an answer of another kind begins with (with four options it is invalid).
    `space` is the token that writes only the white space before the letter, with the kinds of the tokens after it; None
    if the path ends with it, or no token writes it alone.
    """

    path: tuple[int, ...]
    kinds: _Kinds
    space: tuple[int, _Kinds] | None

    @property
    def shown(self) -> tuple[int, ...]:
        """The tokens shown after a prompt: the path, and the space, if there is one."""
        return (*self.path, *([self.space[0]] if self.space else []))

    def read(self, logits: torch.Tensor, temperature: float) -> list[AnswerProbabilities]:
        """The answer probabilities of each row.

        Args:
            logits: shape (rows, 1 + shown tokens, vocabulary), after the prompt and after each shown token.
        """
        columns = logits.unbind(1)
        before = torch.ones(len(logits), dtype=torch.float64, device="cpu")
        for column, token in zip(columns, self.path, strict=False):
            before *= _probabilities(column, temperature)[:, token].double().cpu()
        after = _probabilities(columns[len(self.path)], temperature)
        found = [after @ kinds.to(after) for kinds in self.kinds]
        if self.space is not None:
            token, following = self.space
            behind_space = _probabilities(columns[-1], temperature)
            found = [
                each + after[:, [token]] * (behind_space @ kinds.to(behind_space))
                for each, kinds in zip(found, following, strict=True)
            ]
        kinds, more = (each.double().cpu() for each in found)
        answer = kinds[:, :_NO_ANSWER].sum(1)
        letters = torch.cat([kinds[:, : len(FOUR_LETTERS)], more], dim=1)
        letters = torch.where(answer[:, None] > 0, letters / answer[:, None], 0.0)
        rows = zip((before * answer).tolist(), letters.tolist(), strict=True)
        return [AnswerProbabilities(min(answering, 1.0), tuple(each)) for answering, each in rows]


def answer_reader(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, form: PlainForm | ChatForm
) -> AnswerReader:
    """The reader for a simulator and the form that it learnt answers in.

    Raises:
        ChatbenchError: the tokenizer writes the four answers without a common beginning.
    """
    vocabulary = int(model.config.get_text_config().vocab_size)  # of the logits: the tokenizer may have fewer tokens
    ends = end_token_ids(model, tokenizer) | form.end_ids
    # The tokens with which the targets `Answer: A` to `Answer: D` all begin, as training encodes them.
    asked = (Message("system", "S"), Message("user", "U"))
    rows = [
        ExampleRow(
            prompt_text(asked), completion_text(target), (*asked, Message("assistant", target)), "", "", "answer"
        )
        for target in (ANSWER_PREFIX + letter for letter in FOUR_LETTERS)
    ]
    beginnings = zip(*(example.completion for example in form.encode(rows)), strict=False)
    path = tuple(tokens[0] for tokens in takewhile(lambda tokens: len(set(tokens)) == 1, beginnings))
    text = str(tokenizer.decode(list(path))).lstrip()  # a template may put white space before the answer
    if not path or not ANSWER_PREFIX.startswith(text):
        raise ChatbenchError(
            f"the tokenizer begins the four answers with {text!r}",
            expected=f"a beginning of {ANSWER_PREFIX!r} that all four share",
            fix="simulate without --expected-answers",
        )

    def texts_after(shown: Sequence[int]) -> list[str]:
        # Decoded after what is shown: some tokenizers drop a space at the start of a text.
        ids = [[*shown, token] for token in range(min(vocabulary, len(tokenizer)))]
        return tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    following = texts_after(path)
    kinds = _kinds(following, form.stop, ends, vocabulary)
    bare = next(
        (token for token, each in enumerate(following) if each.lstrip() == ANSWER_PREFIX and token not in ends), None
    )
    if text == ANSWER_PREFIX or bare is None:
        return AnswerReader(path, kinds, None)
    return AnswerReader(path, kinds, (bare, _kinds(texts_after([*path, bare]), form.stop, ends, vocabulary)))


def _kinds(texts: Sequence[str], stop: Sequence[str], ends: frozenset[int], vocabulary: int) -> _Kinds:
    """The kind of turn that each token results in."""
    kinds = [_NO_ANSWER] * vocabulary
    more = torch.zeros(vocabulary, len(LETTERS) - len(FOUR_LETTERS)).double()
    for token, text in enumerate(texts):
        for marker in stop:
            text = text.partition(marker)[0]
        answer = read_answer(clean_output(text))
        if answer is not None and token not in ends:
            letter = LETTERS.index(answer.text[0]) if answer.text.startswith(LETTERS) else len(LETTERS)
            kinds[token] = min(letter, _INVALID)
            if _INVALID <= letter < len(LETTERS):
                more[token, letter - _INVALID] = 1.0
    return torch.nn.functional.one_hot(torch.tensor(kinds), _CLASSES).double(), more


def _probabilities(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """The distribution of the next token, shape (rows, vocabulary); at temperature 0 the likeliest token has it all."""
    precise = torch.float32 if logits.device.type == "mps" else torch.float64
    if temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(precise)
    return (logits.to(precise) / temperature).softmax(-1)
