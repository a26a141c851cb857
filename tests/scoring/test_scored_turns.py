"""What each token of a held-out turn cost: the numbers, the texts they stand at, and the file they are kept in."""

from __future__ import annotations

import math
import random

import pytest
import torch
from tests.models.test_loss import varied_examples
from tests.support.chat_templates import chat_tokenizer
from tests.support.tiny_models import ARCHITECTURES, Architecture, tiny_model, tiny_tokenizer

from chatbench.data.examples import ExampleRow
from chatbench.models.encoding import EncodedRows, TokenPieces, encode_rows
from chatbench.models.loss import Floats, score_rows
from chatbench.protocol.prompts import EncodedExample
from chatbench.scoring.eval_ppl import scored_turns

TEXTS = ("what is 12 plus 30?", " two  spaces and\nlines", "é 数 🙂🙂 ok", "half \ufffd a character", "Answer: B", "a")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("trees", [True, False])
def test_each_tokens_cost_is_that_of_a_slow_computation(
    architecture: Architecture, trees: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A tree lays sequences out in another order than they came: costs of the wrong example are the likely mistake.
    if not trees:
        monkeypatch.setattr("chatbench.models.loss.why_not_trees", lambda _model: "asked")
    model, rows = tiny_model(architecture).eval(), varied_examples(9)
    encoded = encode_rows(tiny_tokenizer(), rows, 256)
    told: dict[int, Floats] = {}

    losses = score_rows(model, encoded, batch_tokens=300, each_token=told.__setitem__)

    assert score_rows(model, encoded, batch_tokens=300) == losses  # whether tokens are told or not
    assert sorted(told) == list(range(len(rows)))
    for place, example in enumerate(encoded.examples):
        ids = torch.tensor([example.prompt + example.completion])
        with torch.no_grad():
            log_p = model(ids).logits[0].double().log_softmax(-1)
        start = len(example.prompt)
        slow = [-float(log_p[start + at - 1, token]) for at, token in enumerate(example.completion)]
        assert told[place].tolist() == pytest.approx(slow, rel=1e-5)
        assert math.fsum(told[place]) == pytest.approx(losses[place].nats, rel=1e-12)


@pytest.mark.parametrize("sentencepiece", [False, True])
@pytest.mark.parametrize("text", TEXTS)
def test_the_texts_of_the_tokens_joined_are_the_text(text: str, sentencepiece: bool) -> None:
    # SentencePiece leaves the first space of whatever it decodes away: token by token all words would run together.
    tokenizer = chat_tokenizer(sentencepiece=True) if sentencepiece else tiny_tokenizer()
    ids = tokenizer.encode(text, add_special_tokens=False)
    nats = [random.Random(place).random() for place in range(len(ids))]

    scored = TokenPieces(tokenizer).scored(ids, nats, text)

    assert "".join(scored.texts) == text
    assert len(scored.texts) > len(text) / 8
    assert math.fsum(scored.nats) == pytest.approx(math.fsum(nats))


def test_a_character_of_several_tokens_is_one_piece_that_costs_their_sum() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode("🙂a", add_special_tokens=False)
    assert len(ids) == 5  # four bytes, and the letter

    scored = TokenPieces(tokenizer).scored(ids, [1.0, 2.0, 3.0, 4.0, 0.5], "🙂a")

    assert (scored.texts, scored.nats) == (("🙂", "a"), (10.0, 0.5))


def test_a_turn_keeps_its_number_when_another_did_not_fit_the_context() -> None:
    kinds = ("first", "follow_up", "answer")
    rows = [ExampleRow("p", f"{kind} [END]", None, "q", "c", kind) for kind in kinds]  # type: ignore[arg-type]
    tokenizer = tiny_tokenizer()
    fitting = [rows[0], rows[2]]
    examples = [EncodedExample([1], tokenizer.encode(row.completion)) for row in fitting]
    nats = {place: [0.5] * len(example.completion) for place, example in enumerate(examples)}

    turns = list(scored_turns(rows, EncodedRows(examples, fitting, 9), nats, tokenizer))

    assert [(turn.turn, "".join(turn.texts)) for turn in turns] == [(0, "first [END]"), (2, "answer [END]")]
