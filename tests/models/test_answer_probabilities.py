"""Expected answers: what the model's own probabilities say is what happens when it speaks."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from tests.support.chat_templates import chat_tokenizer
from tests.support.tiny_models import tiny_model
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from chatbench.core.answer_kinds import LETTERS
from chatbench.core.errors import ChatbenchError
from chatbench.models.answer_probabilities import answer_reader
from chatbench.models.encoding import encoder
from chatbench.models.generation import Decoding, LocalGenerator
from chatbench.protocol.answers import clean_output, read_answer
from chatbench.protocol.prompts import read_completion

WORDS = ("<end>", "<unk>", "Answer", ":", " A", " B", " C", " D", " ", "B", "C", " Because", " (A)", " [END]", "hm")
PROMPTS = [(1,), (1, 9, 3), (14, 14), (2, 3, 5)]


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Its tokens are `WORDS`; a text is cut into the longest of them, anything else is `<unk>`."""
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, "<unk>"))
    longest_first = sorted(WORDS[2:], key=len, reverse=True)
    pattern = "|".join(word.replace("(", r"\(").replace(")", r"\)").replace("[", r"\[") for word in longest_first)
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", unk_token="<unk>")


class Answering(LlamaForCausalLM):
    """A random model that likes the words of an answer, so that a few thousand samples hold many."""

    def forward(self, **inputs: torch.Tensor) -> object:  # type: ignore[override]
        output = super().forward(**inputs)  # type: ignore[misc,arg-type]
        likes = torch.tensor([4.0, 4.0, 1.0, 2.0, 1.0, 1.0, -1.0, 0.0], dtype=output.logits.dtype)
        output.logits.mul_(0.1)  # nearer to each other: of random logits one mostly has it all
        output.logits[..., 1] = -100.0  # <unk>, which a tokenizer leaves out of a text
        output.logits[..., 2:10] += likes
        return output


TOKENIZER = word_tokenizer()


def answering_model() -> Answering:
    model = tiny_model("llama", vocabulary=len(WORDS), seed=3).double()
    model.__class__ = Answering
    assert isinstance(model, Answering)
    return model


def generator(*, temperature: float = 1.0, max_tokens: int = 4) -> LocalGenerator:
    model = answering_model()
    reader = answer_reader(model, TOKENIZER, encoder(TOKENIZER, "plain"))
    return LocalGenerator(model, TOKENIZER, Decoding(temperature, max_tokens), answers=reader)


def enumerated(model: LlamaForCausalLM, prompt: tuple[int, ...], temperature: float, tokens: int) -> dict[str, float]:
    """Probability of each outcome (a letter, "invalid", "message"), from every sequence that the model can write.

    Only "Answer" as the first token begins an answer: that a space may stand before it is neglected, and documented.
    """
    found: dict[str, float] = {"message": 0.0}
    prefixes: list[tuple[int, ...]] = [()]
    weights = torch.ones(1, dtype=torch.float64)
    for length in range(tokens):
        inputs = torch.tensor([prompt + prefix for prefix in prefixes])
        with torch.inference_mode():
            logits = model(input_ids=inputs, position_ids=torch.arange(inputs.shape[1])[None]).logits[:, -1]
        chances = weights[:, None] * (logits.double() / temperature).softmax(-1)
        going_on, kept = [], []
        for row, prefix in enumerate(prefixes):
            for token, word in enumerate(WORDS):
                if token == 0 or "[END]" in word or length == tokens - 1:
                    text, _ = read_completion("".join(WORDS[each] for each in (*prefix, token) if each > 1))
                    outcome = outcome_of(text) if (*prefix, token)[0] == WORDS.index("Answer") else "message"
                    found[outcome] = found.get(outcome, 0.0) + float(chances[row, token])
                else:
                    going_on.append((*prefix, token))
                    kept.append(chances[row, token])
        prefixes, weights = going_on, torch.stack(kept) if kept else weights
    return found


def outcome_of(text: str) -> str:
    answer = read_answer(clean_output(text))
    if answer is None:
        return "message"
    return answer.text[0] if answer.text.startswith(LETTERS) else "invalid"


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_probabilities_are_those_of_all_texts_that_the_model_can_write(temperature: float) -> None:
    # Left out, each of these shows: the token that writes a space alone, " Because" as a B, the end in place of a
    # letter ("Answer: [END]" is no answer), the temperature, padding (the prompts differ in length).
    one = generator(temperature=temperature)

    made = one.generate(PROMPTS, [0] * len(PROMPTS))

    for prompt, text in zip(PROMPTS, made, strict=True):
        truth = enumerated(one.model, prompt, temperature, tokens=4)  # type: ignore[arg-type]
        answering = 1 - truth["message"]
        assert text.answer is not None
        assert text.answer.answering == pytest.approx(answering, rel=1e-9)
        assert text.answer.letters == pytest.approx([truth.get(letter, 0) / answering for letter in LETTERS], rel=1e-9)


def test_answers_come_as_often_as_they_are_said_to() -> None:
    one = generator()
    count = 3000

    made = one.generate([PROMPTS[1]] * count, list(range(count)))

    said = made[0].answer
    assert said is not None
    seen = Counter(outcome_of(text.text.strip()) for text in made)
    for letter, chance in zip("ABCD", said.letters, strict=False):
        expected = said.answering * chance
        assert seen[letter] / count == pytest.approx(expected, abs=4 * (expected * (1 - expected) / count) ** 0.5)
    assert seen["B"] > 30  # there is something to count


def test_reading_changes_no_text() -> None:
    # What was read must leave the cache: tokens shown to the model would otherwise be part of the prompt.
    read_too, plain = generator(max_tokens=12), generator(max_tokens=12)
    plain._answers = None
    prompts, seeds = PROMPTS * 8, list(range(8 * len(PROMPTS)))

    texts = [(made.text, made.tokens) for made in read_too.generate(prompts, seeds)]

    assert texts == [(made.text, made.tokens) for made in plain.generate(prompts, seeds)]


def test_greedy_decoding_is_certain() -> None:
    for made in generator(temperature=0.0, max_tokens=5).generate(PROMPTS, [0] * len(PROMPTS)):
        outcome = outcome_of(made.text.strip())
        assert made.answer is not None
        assert made.answer.answering == (outcome != "message")
        if outcome in "ABCD":
            assert made.answer.letters["ABCD".index(outcome)] == 1.0


def test_with_a_chat_template_the_answer_ends_at_the_templates_token() -> None:
    # Its own marker, "[END]", is ordinary text there: "Answer: [" begins an invalid answer.
    tokenizer = chat_tokenizer()
    model = tiny_model("llama", vocabulary=len(tokenizer))

    reader = answer_reader(model, tokenizer, encoder(tokenizer, "chat"))

    assert tokenizer.decode(list(reader.path)).rstrip() == "Answer:"
    ends = reader.kinds[0][tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert ends.tolist() == [0, 0, 0, 0, 0, 1]


def test_a_word_that_ends_the_models_texts_gives_no_answer() -> None:
    # Some models end with a token that their tokenizer takes for an ordinary word.
    model = answering_model()
    model.generation_config.eos_token_id = [0, WORDS.index("hm")]  # type: ignore[union-attr]

    reader = answer_reader(model, TOKENIZER, encoder(TOKENIZER, "plain"))

    assert reader.space is not None
    hm = [kinds[0][WORDS.index("hm")].tolist() for kinds in (reader.kinds, reader.space[1])]
    assert hm == [[0, 0, 0, 0, 0, 1]] * 2


def test_a_tokenizer_that_writes_the_four_answers_as_four_words_is_refused() -> None:
    backend = Tokenizer(
        models.WordLevel({f"Answer: {letter}": i for i, letter in enumerate("ABCD")} | {"<unk>": 4}, "<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"Answer: [A-D]|a"), "isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")

    with pytest.raises(ChatbenchError, match="begins the four answers with ''"):
        answer_reader(tiny_model("llama", vocabulary=5), tokenizer, encoder(tokenizer, "plain"))
