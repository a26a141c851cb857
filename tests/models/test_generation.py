"""Local generation: a prompt's text depends on its own seed only, whatever it is batched with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tests.support.tiny_models import (
    ARCHITECTURES,
    LATENT,
    LAYERS,
    SEES,
    SMALL,
    Architecture,
    other_model,
    reciting,
    tiny_model,
    tiny_tokenizer,
)

from chatbench.core.errors import ChatbenchError
from chatbench.models.answer_probabilities import answer_reader
from chatbench.models.encoding import encoder
from chatbench.models.generation import Decoding, LocalGenerator, draw
from chatbench.protocol.prompts import encode_completion

TOKENIZER = tiny_tokenizer()
PROMPTS = [
    TOKENIZER.encode(text)
    for text in (
        "[SYSTEM] What is 12 + 30? A. 42 [USER] ",
        "[SYSTEM] What is 12 + 30? A. 42 [USER] ",
        "[SYSTEM] What is 12 + 30? A. 42 B. 41 [USER] ",
        "[SYSTEM] What is 12 + 30? A. 42 B. 41 C. 7 [USER] ",
        "?",
        "Generate the first prompt you would say to the system",
    )
]
SEEDS = [11, 12, 13, 14, 15, 16]


def generator(architecture: Architecture = "llama", *, context: int = 256, **decoding: object) -> LocalGenerator:
    model = tiny_model(architecture, vocabulary=len(TOKENIZER), context=context).double()
    return LocalGenerator(model, TOKENIZER, Decoding(**{"max_new_tokens": 24, **decoding}))  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_one_by_one_and_in_batches_of_any_order_the_text_is_the_same(
    architecture: Architecture, temperature: float
) -> None:
    # Left padding without position ids, or one random stream for the whole batch, are the likely mistakes.
    one = generator(architecture, temperature=temperature)

    alone = [one.generate([prompt], [seed])[0] for prompt, seed in zip(PROMPTS, SEEDS, strict=True)]
    together = one.generate(PROMPTS, SEEDS)
    reversed_ = one.generate(PROMPTS[::-1], SEEDS[::-1])[::-1]
    one.max_rows = 2
    in_pairs = one.generate(PROMPTS, SEEDS)

    assert alone == together == reversed_ == in_pairs


@pytest.mark.parametrize(
    "made",
    [
        *(partial(tiny_model, architecture, vocabulary=len(TOKENIZER)) for architecture in ARCHITECTURES),
        partial(other_model, "gemma3", **SEES),  # could see images too: its vocabulary is that of its text part
        partial(other_model, "gemma2", **{**SMALL, **LAYERS}, attn_logit_softcapping=0.5),
    ],
    ids=lambda made: made.args[0],
)
def test_greedy_text_is_what_transformers_generates(made: Callable[[], Any]) -> None:
    model, texts = made().double().eval(), []
    reader = answer_reader(model, TOKENIZER, encoder(TOKENIZER, "plain"))

    written = LocalGenerator(model, TOKENIZER, Decoding(0.0, 24), answers=reader).generate(PROMPTS, SEEDS)

    for prompt in PROMPTS:
        ids = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=24, pad_token_id=0)[0]
        texts.append(TOKENIZER.decode(ids[len(prompt) :], skip_special_tokens=True).partition("[END]")[0])
    assert [each.text for each in written] == texts
    assert all(each.answer is not None for each in written)


@pytest.mark.parametrize(
    ("kind", "shape"), [("gemma4_text", {**LAYERS, "global_head_dim": 16}), ("deepseek_v3", LATENT)]
)
def test_keys_and_values_of_several_widths_are_refused(kind: str, shape: dict[str, object]) -> None:
    # Gemma 4's layers differ; DeepSeek's keys are wider than its values.
    with pytest.raises(ChatbenchError, match="keys and values differ in width") as refused:
        LocalGenerator(other_model(kind, **{**SMALL, **shape}), TOKENIZER, Decoding())

    assert refused.value.fix == "use an endpoint"


def test_refused_prompts_leave_none_behind() -> None:
    one = LocalGenerator(tiny_model("gpt2"), TOKENIZER, Decoding(0.0, 24))
    with pytest.raises(ValueError, match="expected one of 1 to"):
        one.generate([PROMPTS[0], ()], SEEDS[:2])

    assert one.idle


def test_equal_prompts_with_other_seeds_get_other_texts() -> None:
    texts = [one.text for one in generator().generate([PROMPTS[0]] * 8, list(range(8)))]

    assert len(set(texts)) == 8


def test_the_end_marker_stops_the_row_though_it_is_several_tokens() -> None:
    script = encode_completion(TOKENIZER, "is ] it 42 [END] and never this")
    marker = encode_completion(TOKENIZER, "is ] it 42 [END]")
    split_marker = [TOKENIZER.convert_tokens_to_ids(piece) for piece in "[END]"]
    one_by_one = [*encode_completion(TOKENIZER, "yes "), *split_marker, *script]

    for tokens, text, count in ((script, "is ] it 42 ", len(marker)), (one_by_one, "yes ", None)):
        made = LocalGenerator(reciting(tokens, 3), TOKENIZER, Decoding(0.0, 60)).generate([[5, 6, 7]], [0])[0]

        assert (made.text, made.stopped) == (text, True)
        assert count is None or made.tokens == count


def test_the_end_token_stops_and_the_limit_does_not_count_as_stopping() -> None:
    script = [*encode_completion(TOKENIZER, "what is"), TOKENIZER.eos_token_id]

    made = LocalGenerator(reciting(script, 1), TOKENIZER, Decoding(0.0, 60)).generate([[5]], [0])[0]
    cut = LocalGenerator(reciting(script, 1), TOKENIZER, Decoding(0.0, len(script) - 1)).generate([[5]], [0])[0]

    assert (made.text, made.stopped, made.tokens) == ("what is", True, len(script))
    assert (cut.text, cut.stopped) == ("what is", False)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_quarter_of_the_context_stays_free_for_new_tokens_and_no_prompt_is_cut(architecture: Architecture) -> None:
    # Mistral's window, half its context, hides what is further back and cuts nothing.
    one = generator(architecture, context=64, temperature=0.0, max_new_tokens=1000)

    made = one.generate([[*range(5, 5 + one.room)], [7]], [1, 1])

    assert (one.context, one.room) == (64, 48)
    assert made[0].tokens <= one.context // 4 or made[0].stopped
    assert made[1].tokens <= one.context - 1
    for prompt in ([*range(6 + one.room)], []):
        with pytest.raises(ValueError, match=f"of 1 to {one.room} tokens"):
            one.generate([prompt], [1])


def test_inverse_transform_draws_each_token_as_often_as_it_is_likely() -> None:
    # Probabilities 0.5, 0.25, 0.25 over 1,000 evenly spaced uniforms: exactly 500, 250, 250.
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64)).expand(1000, 3)
    uniforms = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000

    assert Counter(draw(logits, 1.0, uniforms).tolist()) == {0: 500, 1: 250, 2: 250}
    # At temperature 0.5 probabilities are squared and normalised: 4/6, 1/6, 1/6.
    assert Counter(draw(logits, 0.5, uniforms).tolist()) == {0: 667, 1: 166, 2: 167}
    assert draw(logits[:1], 0.0, uniforms[:1]).tolist() == [0]
    # A token of probability zero is never drawn.
    one_only = torch.tensor([[-torch.inf, 0.0, -torch.inf]])
    assert [draw(one_only, 1.0, torch.tensor([each])).tolist() for each in (0.0, 1.0 - 1e-16)] == [[1], [1]]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers_are_an_error_and_no_empty_text(temperature: float, broken: float) -> None:
    logits = torch.tensor([[1.0, 2.0, -torch.inf], [broken, 0.0, 1.0]])

    with pytest.raises(ChatbenchError, match="NaN or infinity in float32"):
        draw(logits, temperature, torch.tensor([0.5, 0.5]))
