"""Local generation: a prompt's text depends on its own seed only, whatever it is batched with."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from tests.support.chat_templates import chat_tokenizer
from tests.support.tiny_models import ARCHITECTURES, Architecture, tiny_model, tiny_tokenizer
from transformers import LlamaForCausalLM

from chatbench.core.records import Message
from chatbench.models.chat_template import ChatForm
from chatbench.models.generation import Decoding, LocalGenerator, draw
from chatbench.models.kv_cache import passes, shared_starts
from chatbench.models.loading import Loaded
from chatbench.models.local_participants import LocalAssistant, LocalSimulator, encode_plain_chat
from chatbench.protocol.dialogue import Reply, Request
from chatbench.protocol.plain_text import encode_completion

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


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_text_is_what_transformers_generates(architecture: Architecture) -> None:
    one = generator(architecture, temperature=0.0)
    expected = []
    for prompt in PROMPTS:
        ids = one.model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=24, pad_token_id=0)[0]  # type: ignore[operator]
        expected.append(TOKENIZER.decode(ids[len(prompt) :], skip_special_tokens=True))

    texts = [one.text for one in one.generate(PROMPTS, SEEDS)]

    assert texts == [text.partition("[END]")[0] for text in expected]


def test_an_adapter_on_its_base_generates_too() -> None:
    from peft import LoraConfig, get_peft_model

    base = tiny_model("llama", vocabulary=len(TOKENIZER))
    adapted = get_peft_model(base, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    one = LocalGenerator(adapted, TOKENIZER, Decoding(0.0, 8))  # type: ignore[arg-type]  # it behaves like its base

    with adapted.disable_adapter():
        plain = one.generate(PROMPTS, SEEDS)

    assert len(one.generate(PROMPTS, SEEDS)) == len(PROMPTS)
    assert one.generate(PROMPTS, SEEDS) != plain


def test_equal_prompts_with_other_seeds_get_other_texts() -> None:
    texts = [one.text for one in generator().generate([PROMPTS[0]] * 8, list(range(8)))]

    assert len(set(texts)) == 8


class Reciting(LlamaForCausalLM):
    """A model that writes `script` after any prompt, by looking at the position only."""

    script: list[int]
    prompt_tokens: int

    def forward(self, **inputs: torch.Tensor) -> object:  # type: ignore[override]
        output = super().forward(**inputs)  # type: ignore[misc,arg-type]
        positions = inputs["position_ids"][:, -1] - self.prompt_tokens + 1
        output.logits.fill_(0.0)
        for row, position in enumerate(positions.tolist()):
            output.logits[row, -1, self.script[min(max(position, 0), len(self.script) - 1)]] = 100.0
        return output


def reciting(script: list[int], prompt_tokens: int) -> Reciting:
    model = tiny_model("llama", vocabulary=len(TOKENIZER))
    model.__class__ = Reciting
    assert isinstance(model, Reciting)
    model.script, model.prompt_tokens = script, prompt_tokens
    return model


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
    # Mistral's window is half its context of 64.
    one = generator(architecture, context=64, temperature=0.0, max_new_tokens=1000)

    made = one.generate([[*range(5, 5 + one.room)], [7]], [1, 1])

    assert (one.context, one.room) == ((32, 24) if architecture == "mistral" else (64, 48))
    assert made[0].tokens <= one.context // 4 or made[0].stopped
    assert made[1].tokens <= one.context - 1
    with pytest.raises(ValueError, match=f"of 1 to {one.room} tokens"):
        one.generate([[*range(6 + one.room)]], [1])


def test_inverse_transform_draws_each_token_as_often_as_it_is_likely() -> None:
    # Probabilities 0.5, 0.25, 0.25 over 1,000 evenly spaced uniforms: exactly 500, 250, 250.
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64)).expand(1000, 3)
    uniforms = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000

    assert Counter(draw(logits, 1.0, uniforms).tolist()) == {0: 500, 1: 250, 2: 250}
    # At temperature 0.5 probabilities are squared and normalised: 4/6, 1/6, 1/6.
    assert Counter(draw(logits, 0.5, uniforms).tolist()) == {0: 667, 1: 166, 2: 167}
    assert draw(logits[:1], 0.0, uniforms[:1]).tolist() == [0]


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]])

    assert draw(logits, 1.0, torch.tensor([0.0])).tolist() == [1]
    assert draw(logits, 1.0, torch.tensor([1.0 - 1e-16])).tolist() == [1]


def test_a_prompt_joins_the_ones_it_shares_more_with() -> None:
    # Two questions with the same instruction (two tokens): one start for all would throw away what each question has.
    first, second = [(1, 2, 3, 4, 5, end) for end in (6, 7)], [(1, 2, 8, 9, 10, end) for end in (6, 7)]

    assert set(shared_starts([*first, *second], least=2).values()) == {5}
    # A newcomer that shares less costs what the others save: 2 of 3 members times 3 tokens are 6, 2 x 3 are no less.
    assert shared_starts([(1, 2, 3, 4, 5), (1, 2, 3, 4, 6), (1, 2, 3, 9)], least=2)[1, 2, 3, 9] == 3
    assert shared_starts([(1, 2, 3, 4, 5), (1, 2, 3, 4, 6), (1, 9, 9, 9)], least=1)[1, 9, 9, 9] == 0
    assert shared_starts([(1, 2), (1, 2, 3)], least=2) == {(1, 2): 0, (1, 2, 3): 0}  # one token stays out


def test_passes_hold_every_row_once_within_their_tokens_and_waste_little_on_padding() -> None:
    # One pass of all rows, as long as the longest, is the likely mistake: 4,000 columns in place of 1,390.
    lengths = [1000] + [10] * 39

    assert passes(lengths) == [[0], [*range(1, 40)]]
    assert [len(each) for each in passes([3000, 3000, 3000])] == [1, 1, 1]
    assert [len(each) for each in passes([10, 11, 12])] == [3]


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="of 1 to"):
        generator().generate([[]], [0])


def request(*contents: str, participant: str = "simulator") -> Request:
    roles = ("system", "user", "assistant", "user")
    messages = tuple(Message(role, text) for role, text in zip(roles, contents, strict=False))  # type: ignore[arg-type]
    return Request(participant, messages, "q", 5, "turn")  # type: ignore[arg-type]


def test_a_local_simulator_reads_the_plain_text_form_and_states_its_weights() -> None:
    loaded = Loaded(tiny_model("gpt2", vocabulary=len(TOKENIZER)), TOKENIZER, "/secret/path", "sha256:1")
    simulator = LocalSimulator(loaded, "tiny split_0", temperature=1.0, max_tokens=8)

    first, second = simulator.reply_all([request("What is 12 + 30?", "Generate")] * 2)

    assert first == second
    assert isinstance(first, Reply)
    assert first.tokens <= 8
    assert simulator.identity["weights"] == "sha256:1"
    assert "/secret" not in str(simulator.identity)


def test_an_assistant_without_a_chat_template_gets_plain_text() -> None:
    loaded = Loaded(tiny_model("llama", vocabulary=len(TOKENIZER)), TOKENIZER, "x", "w")
    assistant = LocalAssistant(loaded, "x", temperature=0.7, max_tokens=8)

    assert isinstance(assistant.reply_all([request("S", "hi", participant="assistant")])[0], Reply)
    ids = encode_plain_chat(TOKENIZER, request("S", "hi", "yes?", "12").messages)
    assert TOKENIZER.decode(ids) == "S\n\nUser: hi\n\nAssistant: yes?\n\nUser: 12\n\nAssistant:"


def test_a_simulator_of_a_chat_template_ends_its_turn_at_the_templates_token_and_nowhere_else() -> None:
    # "[END]" is only text here; the tokenizer's own end token is another than the one that ends a turn.
    tokenizer = chat_tokenizer()
    messages = request("What is 12 + 30?", "Generate").messages
    script = [*encode_completion(tokenizer, "what is [END] 12"), *tokenizer.convert_tokens_to_ids(["<|im_end|>"]), 5, 6]
    model = reciting(script, len(ChatForm(tokenizer).prompt_ids(messages)))
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)

    simulator = LocalSimulator(Loaded(model, tokenizer, "x", "w"), "x", temperature=0.0, max_tokens=60, template="chat")
    (reply,) = simulator.reply_all([request("What is 12 + 30?", "Generate")])

    assert tokenizer.convert_tokens_to_ids("<|im_end|>") != tokenizer.eos_token_id
    prompt_tokens = model.prompt_tokens
    assert reply == Reply("what is [END] 12", tokens=len(script) - 2, stopped=True, prompt_tokens=prompt_tokens)
    assert str(simulator.identity["form"]).startswith("chat template ")
