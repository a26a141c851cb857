"""What was read is not read again, within a bound; and what comes out is what one prompt alone gives."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.support.tiny_models import ARCHITECTURES, Architecture, tiny_model, tiny_tokenizer
from transformers import PreTrainedModel

from chatbench.core.errors import ChatbenchError
from chatbench.models import kv_cache
from chatbench.models.answer_probabilities import AnswerReader, answer_reader
from chatbench.models.encoding import encoder
from chatbench.models.generation import Decoding, Generated, LocalGenerator
from chatbench.models.kv_cache import RadixCache, Shape

TOKENIZER = tiny_tokenizer()
# Two questions behind one instruction, chats that part at several places, an equal prompt, and one that is all of
# another. The window of the Mistral shape is 64 tokens, which the longer ones exceed.
HEAD = [7 + token % 90 for token in range(40)]
QUESTIONS = [[*HEAD, *range(100, 130)], [*HEAD, *range(105, 140)]]
PROMPTS = [
    question + turns
    for question in QUESTIONS
    for turns in ([5], [5], [5, 6, 7], [5, 6, *range(200, 215)], [5, 6, *range(200, 230)], [9, 8, 7, 6])
]
SEEDS = list(range(len(PROMPTS)))
LORA = {"gpt2": ["c_attn"], "llama": ["q_proj", "v_proj"], "mistral": ["q_proj", "v_proj"]}


def model_of(architecture: Architecture, dtype: torch.dtype = torch.float32, *, lora: bool = False) -> PreTrainedModel:
    model: Any = tiny_model(architecture, vocabulary=len(TOKENIZER), context=128)
    if lora:
        torch.manual_seed(1)
        model = get_peft_model(model, LoraConfig(target_modules=LORA[architecture], init_lora_weights=False))
    made: PreTrainedModel = model.to(dtype).eval()
    return made


def generator(model: PreTrainedModel, *, temperature: float = 0.0, **options: Any) -> LocalGenerator:
    reader = answer_reader(model, TOKENIZER, encoder(TOKENIZER, "plain"))
    return LocalGenerator(model, TOKENIZER, Decoding(temperature, 20), answers=reader, **options)


def alone(model: PreTrainedModel, reader: AnswerReader, prompt: list[int]) -> tuple[list[int], list[float]]:
    """Greedy tokens and answer probabilities of one prompt, by whole forward passes without any cache."""

    def logits(tokens: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]  # type: ignore[no-any-return]

    written: list[int] = []
    while len(written) < 20 and TOKENIZER.eos_token_id not in written:
        written.append(int(logits([*prompt, *written])[-1].argmax()))
    shown = logits([*prompt, *reader.shown])[len(prompt) - 1 :]
    (answer,) = reader.read(shown[None], 1.0)
    return written, [answer.answering, *answer.letters]


def probabilities(made: Generated) -> list[float]:
    assert made.answer is not None
    return [made.answer.answering, *made.answer.letters]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("lora", "sharing"), [(False, 8), (True, 8), (False, 2), (True, 2)])
def test_texts_and_answers_are_those_of_one_prompt_alone(
    architecture: Architecture, lora: bool, sharing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Positions counted in the batch, a window counted in slots, or states kept for another prefix are likely mistakes;
    # so is NaN from fresh memory, which a mask does not hide.
    empty = Shape.empty
    monkeypatch.setattr(Shape, "empty", lambda *sizes: empty(*sizes).fill_(float("nan")))
    monkeypatch.setattr(kv_cache, "SHARING", sharing)  # 2: what two rows share is attended to once
    attention, together = kv_cache._attention, set[int]()
    monkeypatch.setattr(kv_cache, "_attention", lambda *each: (together.update(each[6:]), attention(*each))[1])
    model = model_of(architecture, lora=lora)
    greedy, sampling = generator(model), generator(model, temperature=1.0)
    expected = [alone(model, greedy._answers, prompt) for prompt in PROMPTS]  # type: ignore[arg-type]

    for max_rows, piece in ((128, 512), (3, 512), (128, 7), (2, 1)):
        for one in (greedy, sampling):
            one.max_rows, one._piece_tokens = max_rows, piece
        texts = greedy.generate(PROMPTS, SEEDS)  # the second round finds the first one's states
        answers = [probabilities(each) for each in sampling.generate(PROMPTS, SEEDS)]

        assert [(each.tokens, each.last_token) for each in texts] == [(len(each), each[-1]) for each, _ in expected]
        assert [each.text for each in texts] == [
            TOKENIZER.decode(each, skip_special_tokens=True).partition("[END]")[0] for each, _ in expected
        ]
        for found, (_, true) in zip(answers, expected, strict=True):
            assert found == pytest.approx(true, abs=1e-5)
    assert bool(together & {70, 71, 75, 76}) is (sharing == 2)  # a question, and the same with its first turn


@pytest.mark.parametrize("sharing", [8, 2])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_in_bfloat16_answers_differ_by_its_rounding_only(
    architecture: Architecture, sharing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Seven bits of mantissa: a probability is off by some hundredths of itself.
    monkeypatch.setattr(kv_cache, "SHARING", sharing)
    model = model_of(architecture, torch.bfloat16)
    one = generator(model, temperature=1.0)

    for made, prompt in zip(one.generate(PROMPTS, SEEDS), PROMPTS, strict=True):
        _, true = alone(model, one._answers, prompt)  # type: ignore[arg-type]
        assert probabilities(made) == pytest.approx(true, abs=0.06)


def test_each_distinct_token_is_read_once_but_for_the_last_of_a_prompt() -> None:
    # Two that arrive together and share a start would both read it; so would the next turn, and the next chat.
    one = generator(model_of("llama"))
    distinct = {tuple(prompt[:end]) for prompt in PROMPTS for end in range(1, len(prompt) + 1)}

    one.generate(PROMPTS, SEEDS)
    first = one.prompt_tokens_read
    one.generate(PROMPTS, SEEDS)

    assert len(distinct) <= first <= len(distinct) + len(PROMPTS)
    assert one.prompt_tokens_read - first == len(PROMPTS)


@pytest.mark.parametrize("tokens", [600, 900, 2000])
@pytest.mark.parametrize("sharing", [8, 2])
def test_within_a_bound_texts_are_the_same_and_the_bound_holds(
    tokens: int, sharing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With little room, branches are dropped and read again, and rows go back into the line.
    monkeypatch.setattr(kv_cache, "SHARING", sharing)
    model = model_of("llama")
    token_bytes = generator(model).cache.shape.token_bytes
    free = generator(model, temperature=1.0)
    bound = generator(model, temperature=1.0, cache_bytes=tokens * token_bytes)

    assert [each.text for each in bound.generate(PROMPTS, SEEDS)] == [
        each.text for each in free.generate(PROMPTS, SEEDS)
    ]
    assert bound.cache.peak <= tokens * token_bytes
    assert bound.cache.bytes >= 0
    assert bound.prompt_tokens_read >= free.prompt_tokens_read


def test_every_row_that_a_slab_holds_counts_towards_the_bound() -> None:
    one = generator(model_of("llama"))
    for key, prompt in enumerate(PROMPTS):
        one.join(key, prompt, key)
    most = 0
    while not one.idle:
        one.step()
        held = sum(slab.width * len(slab.lengths) for slab, _ in one._slabs)
        most = max(most, held)
        assert one.cache.bytes >= held * one.cache.shape.token_bytes
    assert most == 128 * len(PROMPTS)


def test_only_rows_that_are_active_at_once_share_a_slab(monkeypatch: pytest.MonkeyPatch) -> None:
    # Else the turns of one long chat would share a beginning, which no other row has: a slab for each such chat.
    monkeypatch.setattr(kv_cache, "SHARING", 2)
    one = generator(model_of("llama"))
    row = tuple(PROMPTS[0])

    for _ in range(3):
        one.generate([row], [0])
    assert one.cache.shared(row) == 0
    for key in range(2):
        one.join(key, row, key)
    one.step()
    assert one.cache.shared(row) == len(row) - 1
    while not one.idle:
        one.step()
    assert one.cache.shared(row) == 0


def test_a_prompt_that_finds_no_room_is_refused_with_the_option_that_helps() -> None:
    one = generator(model_of("llama"), cache_bytes=20_000)

    with pytest.raises(ChatbenchError, match=r"7\d-token prompt do not fit into 0\.00 GiB") as refused:
        one.generate(PROMPTS, SEEDS)

    assert "--cache-gib" in refused.value.fix
    assert one.idle


def test_a_reply_that_the_next_prompt_repeats_is_not_read() -> None:
    one = generator(model_of("llama"), keeps_replies=True, end_ids=frozenset({1}))
    row = one.generate([PROMPTS[0]], [0])[0]
    before = one.prompt_tokens_read
    written, _ = alone(one.model, one._answers, PROMPTS[0])  # type: ignore[arg-type]

    one.generate([[*PROMPTS[0], *written, 3, 4]], [1])

    assert one.prompt_tokens_read - before <= 3
    assert row.tokens == len(written)


def test_a_reply_does_not_fill_what_another_prompt_is_reading() -> None:
    # They part after a shared beginning: the other prompt's tokens got this reply's keys and values.
    cache = RadixCache(Shape.of(model_of("llama")), 10**9)
    states = cache.shape.empty(cache.shape.heads, 5).zero_()
    reply, other = (1, 2, 3, 4), (1, 2, 3, 5, 6)
    cache.begin(reply[:2], 2)
    cache.end(reply[:2], states)
    assert cache.begin(other, 5) is not None

    cache.end(reply, states + 1)
    cache.end(other, states + 2)

    found = cache.begin((*other, 7), 6)
    assert found is not None
    buffer, known = found
    assert (known, set(buffer[..., 2:5, :].flatten().tolist())) == (5, {2.0})


def test_what_is_in_memory_stays_within_the_bound_with_chats_of_8000_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    # Counted from the tensors that live, not from the cache's own books.
    model: Any = tiny_model("llama", vocabulary=len(TOKENIZER), context=8192).eval()
    bound = 18_000
    one = LocalGenerator(
        model, TOKENIZER, Decoding(0.0, 5), cache_bytes=bound * generator(model_of("llama")).cache.shape.token_bytes
    )
    lived: list[int] = []

    def states_in_memory() -> int:
        gc.collect()
        found = [each for each in gc.get_objects() if type(each) is torch.Tensor and each.ndim in (5, 6)]
        return sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in found}.values())

    def counted(cache: RadixCache, tokens: tuple[int, ...], states: torch.Tensor, end: Any = RadixCache.end) -> None:
        end(cache, tokens, states)
        lived.append(states_in_memory())

    before = states_in_memory()
    monkeypatch.setattr(RadixCache, "end", counted)
    start = [7 + token % 90 for token in range(7800)]
    prompts = [[*start[:1000], chat, *start[1000:], turn] for turn in (1, 2) for chat in range(3)]

    made = one.generate(prompts, list(range(len(prompts))))

    assert len(made) == len(prompts)
    assert max(lived) - before <= one.cache.peak <= one.cache.limit
    assert max(lived) - before > one.cache.limit / 2  # the tensors were found
    assert one.prompt_tokens_read > 3 * 6800 + 1000 + 3000  # three chats do not fit: some was dropped, and read again
