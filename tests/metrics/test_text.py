"""Perplexity by hand; BLEU and ROUGE of prompt pairs, against numbers worked by hand, sacrebleu and rouge-score."""

from __future__ import annotations

import math
import random
from itertools import permutations

import numpy as np
import pytest
from benchmarks.overlap import largest_difference, made_up_prompts, pair_by_pair, shared

from chatbench.metrics.agreement import Undefined
from chatbench.metrics.text import (
    BleuCounts,
    Tokenizer,
    TokenLoss,
    common_lengths,
    overlap,
    perplexity_by_kind,
    sacrebleu_score,
    summarise,
    tokens_13a,
    tokens_rouge,
    tokens_unicode,
)


@pytest.mark.parametrize(
    ("losses", "metric", "expected"),
    [
        # A mean over examples of their perplexities would give 5, of their mean losses 4: the likely mistakes.
        ([TokenLoss(math.log(2), 1, 1), TokenLoss(3 * math.log(8), 3, 1)], "perplexity", 2**2.5),
        ([TokenLoss(7 * math.log(320), 7, 1)], "perplexity", 320),  # a uniform guess among v has perplexity v
        # "né" is 2 characters and 3 bytes; 6 bits over 3 bytes.
        ([TokenLoss(6 * math.log(2), 1, len("né".encode()))], "bits_per_byte", 2),
    ],
)
def test_tokens_weigh_the_same_and_bits_are_per_byte(losses: list[TokenLoss], metric: str, expected: float) -> None:
    assert getattr(summarise(losses), metric) == pytest.approx(expected)


def test_the_order_of_examples_does_not_show_in_the_last_digit() -> None:
    losses = [TokenLoss(nats, 1, 1) for nats in (1e-9, 0.1, 0.2, 0.3, 1e3)]

    assert len({summarise(order[:4]).perplexity for order in permutations(losses[:4])}) == 1
    assert len({summarise(order).bits_per_byte for order in permutations(losses)}) == 1


def test_kinds_come_in_the_order_of_a_conversation() -> None:
    answers = [("answer", TokenLoss(0.0, tokens, 9)) for tokens in (2, 1)]
    by_kind = perplexity_by_kind([answers[0], ("first", TokenLoss(math.log(4), 1, 2)), answers[1]])

    assert list(by_kind) == ["first", "answer"]
    assert by_kind["first"].perplexity == pytest.approx(4)
    assert (by_kind["answer"].tokens, by_kind["answer"].examples, by_kind["answer"].perplexity) == (3, 2, 1)


@pytest.mark.parametrize("losses", [[], [TokenLoss(1.0, 1, 0)], [TokenLoss(0.0, 0, 1)]])
def test_nothing_scored_is_an_error_and_not_a_perplexity_of_one(losses: list[TokenLoss]) -> None:
    with pytest.raises(ValueError, match="so there is no perplexity"):
        summarise(losses)


@pytest.mark.parametrize("nats", [math.nan, -1.0])
def test_a_loss_that_is_not_a_number_cannot_be_made(nats: float) -> None:
    with pytest.raises(ValueError, match=str(nats)):
        TokenLoss(nats, 1)


PIECES = "the The of 3,000 it's 12.5 - a-b, (x) $5. cat 7- &amp; &quot;yes&quot; end. -\n \n what? é naïve 5. <skipped>"


def random_texts(count: int, seed: int) -> list[str]:
    """Short texts with everything that the tokenizers treat specially; some are empty.

    Stripped, because sacrebleu strips before it tokenises and `evaluate` does not: "a-" and a line end differ.
    """
    draw = random.Random(seed)
    return [" ".join(draw.choices(PIECES.split(" "), k=draw.randint(0, 25))).strip() for _ in range(count)]


def test_bleu_equals_sacrebleu_on_any_text_and_so_do_its_figure_and_signature() -> None:
    from sacrebleu.metrics.bleu import BLEU

    hypotheses, references = random_texts(8, seed=1), random_texts(9, seed=2)
    scored = overlap(hypotheses, references)
    unsmoothed, metric = BLEU(smooth_method="none", tokenize="13a"), BLEU()
    pairs = [text for text in hypotheses for _ in references], [[text for _ in hypotheses for text in references]]

    assert 0 < scored.bleu < 1
    assert 100 * scored.bleu == pytest.approx(unsmoothed.corpus_score(*pairs).score, rel=1e-12)
    theirs = metric.corpus_score(["the cat sat on the mat", "no match"], [["the cat sat on a mat", "at all here"]])
    allowed = np.array([[True, False], [False, True]])
    scored = overlap(["the cat sat on the mat", "no match"], ["the cat sat on a mat", "at all here"], allowed=allowed)
    assert sacrebleu_score(scored.bleu_counts) == (pytest.approx(theirs.score), str(metric.get_signature()))


@pytest.mark.parametrize(
    ("hypothesis", "reference", "expected"),
    [
        # 3 shared of 4 and 6 words: F = 6/10. 2 shared of 3 and 5 pairs: F = 4/8. In order: the same 3 words.
        ("The cat sat down", "the cat sat on a mat", (0.6, 0.5, 0.6)),
        ("c b a", "a b c", (1, 0, 1 / 3)),  # the same words reversed share one word in order
    ],
)
def test_rouge_worked_by_hand(hypothesis: str, reference: str, expected: tuple[float, float, float]) -> None:
    scored = overlap([hypothesis], [reference])

    assert (scored.rouge1, scored.rouge2, scored.rougeL) == pytest.approx(expected)


def test_only_allowed_pairs_count_empty_texts_score_zero_and_no_pair_at_all_is_an_error() -> None:
    # The human-human reference: nobody is compared with himself, so equal texts on the diagonal must not score.
    texts = ["a b c d", "e f g h"]
    scored = overlap(texts, texts, allowed=~np.eye(2, dtype=bool))
    assert (scored.pairs, scored.bleu, scored.rouge1) == (2, 0.0, 0.0)
    scored = overlap(["", "a b c d"], ["", "a b c d"])

    assert (scored.rouge1, scored.rougeL) == (0.25, 0.25)
    assert scored.bleu == pytest.approx((4 / 8) ** 0.25 * (3 / 6) ** 0.25 * (2 / 4) ** 0.25 * (1 / 2) ** 0.25)
    # A repeated word is matched no more often than the reference has it: without clipping all 7 would match.
    assert overlap(["the the the the the the the"], ["the cat is on the mat"]).bleu_counts.matches == (2, 0, 0, 0)
    with pytest.raises(ValueError, match="no pair among 0 hypotheses"):
        overlap([], ["a"])


@pytest.mark.parametrize(
    ("tokens", "text", "expected"),
    [
        (tokens_13a, "It costs $5.", "It costs $ 5 ."),
        (tokens_13a, "1.5 in 2024-25, yes", "1.5 in 2024 - 25 , yes"),
        (tokens_rouge, "Naïve, it's 3.5!", "na ve it s 3 5"),  # case, accents and punctuation are dropped
        (tokens_unicode, "हैं e\u0301te\u0301 น้ำ", "हैं été น้ ำ"),  # marks belong to their letters
    ],
)
def test_texts_are_tokenised(tokens: Tokenizer, text: str, expected: str) -> None:
    assert list(tokens(text)) == expected.split()


# Hypotheses, references, and BLEU over all pairs, by hand.
BLEU_OF = [
    # 5 of 6 words, 3 of 5 pairs, 2 of 4 triples, 1 of 3 fours; equal length, so no penalty.
    (["the cat sat on the mat"], ["the cat sat on a mat"], (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25),
    # All n-grams match, 4 tokens stand against 6: only the brevity penalty exp(1 - 6/4) is left.
    (["the cat sat on"], ["the cat sat on a mat"], math.exp(-0.5)),
    # A penalty with the ratio upside down would shrink that of a long hypothesis.
    (["the cat sat on a mat"], ["the cat sat on"], (4 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25),
    (["a b c x"], ["a b c y"], 0.0),  # no four-gram matches: not smoothed
    # One corpus, one pair of which matches and the other, longer one not at all: no mean of sentences' scores.
    (["a b c d e", "p q r s t u v"], ["a b c d e"], (5 / 12 * 4 / 10 * 3 / 8 * 2 / 6) ** 0.25),
    ([""], [""], 0.0),
    # From here on the value of `bleu` of the `evaluate` package: its metrics/bleu/bleu.py, nmt_bleu.py and
    # tokenizer_13a.py (huggingface/evaluate, commit 4ec931e), run once.
    (
        ["If 3 boxes hold 14 pens each, how many pens are there? A. 17 B. 42", "how many pens in 3 boxes"],
        [
            "Sadly, 2 of the 3 boxes are empty. How many pens are there?",
            "3 boxes hold 14 pens each, how many pens are there in all?",
        ],
        0.32323249660804226,
    ),
    (
        ["It costs $5.", "", "it's 1,200.5 kg (net) &amp; that's all"],
        ["It costs $5. it's 1,200.5 kg (net) & that's it", ""],
        0.27440504577232283,
    ),
    (
        ["Wie groß ist die Fläche von 3 × 4 m²?", "面积 是 多少 ? 请 告诉 我"],  # noqa: RUF001
        ["Wie groß ist die Fläche von 5 × 4 m²?", "面积 是 多少 ? 请 说明"],  # noqa: RUF001
        0.34538267100068293,
    ),
    (
        ["a-\nb c d e 3-4 well-known", "a b c d e"],
        ["ab c d e 3-4 well-known", "a b c d e f g h i j k l"],
        0.36457247705,
    ),
    (["", ""], ["a b c d"], 0.0),
    (["a b c d e"], [""], 0.0),
]


@pytest.mark.parametrize(("hypotheses", "references", "expected"), BLEU_OF)
def test_bleu_is_as_by_hand_and_of_evaluate(hypotheses: list[str], references: list[str], expected: float) -> None:
    assert overlap(hypotheses, references).bleu == pytest.approx(expected, abs=1e-9)


TEXTS = [(one, other) for one, other, _ in BLEU_OF] + [(random_texts(12, seed=3), random_texts(10, seed=4))]


@pytest.mark.parametrize(("hypotheses", "references"), TEXTS)
def test_rouge_has_the_values_of_the_rouge_score_package(hypotheses: list[str], references: list[str]) -> None:
    # Not of a-z and 0-9: dropped by both. Empty on both sides: 0 and not 0/0.
    from rouge_score.rouge_scorer import RougeScorer

    names = ["rouge1", "rouge2", "rougeL"]
    scorer = RougeScorer(names, use_stemmer=False)
    theirs = [scorer.score(reference, text) for text in hypotheses for reference in references]
    scored = overlap(hypotheses, references)

    expected = [float(np.mean([pair[name].fmeasure for pair in theirs])) for name in names]
    assert [scored.rouge1, scored.rouge2, scored.rougeL] == pytest.approx(expected, abs=1e-12)


def test_the_longest_common_subsequence_of_long_texts_equals_a_table_filled_by_hand() -> None:
    # All texts share one integer: a carry that ran into the next text would change its length. 70 and more tokens, so
    # that no machine word holds a text; few words, so that there are many matches.
    draw = random.Random(8)
    texts = [tuple(draw.choices("abcd", k=draw.choice([0, 1, 5, 70, 130]))) for _ in range(12)]

    def by_table(one: tuple[str, ...], two: tuple[str, ...]) -> int:
        row = [0] * (len(two) + 1)
        for token in one:
            before = row
            row = [0]
            for place, other in enumerate(two):
                row.append(before[place] + 1 if token == other else max(before[place + 1], row[place]))
        return row[-1]

    assert common_lengths(texts, texts[:7]).tolist() == [[by_table(one, two) for two in texts[:7]] for one in texts]


def test_a_text_s_counts_do_not_depend_on_the_texts_beside_it() -> None:
    # Numbers of n-grams are shared by all texts: an n-gram that ran over the end of one text into the next would count.
    texts, others = random_texts(6, seed=11), random_texts(5, seed=12)
    together = overlap(texts, others)
    alone = [overlap([one], [two]) for one in texts for two in others]

    assert sum((each.bleu_counts for each in alone), start=BleuCounts()) == together.bleu_counts
    assert together.rouge2 == pytest.approx(float(np.mean([each.rouge2 for each in alone])), rel=1e-12)


def test_the_benchmark_compares_like_with_like() -> None:
    # It prints how much faster shared counting is; that means something only if both count the same.
    prompts = made_up_prompts(questions=3, simulated=4, human=5, seed=2)

    assert largest_difference(shared(prompts), pair_by_pair(prompts)) < 1e-9
    assert {len(human) for _, human in prompts} == {5}


CHINESE = ["三加四等于几 请帮我算", "二十减六是多少"]
METRICS = ("bleu", "rouge1", "rouge2", "rougeL")


def test_texts_that_a_tokenizer_cannot_read_have_no_value_and_say_why() -> None:
    # Equal texts with 0 words each would score 0: not measurable is not unlike.
    chinese, russian = overlap(["Read."], CHINESE), overlap(["сколько будет три плюс четыре"] * 2, ["сколько будет"])

    for metric in METRICS:
        assert "cannot read what people wrote: 100% of the letters" in str(chinese.value(metric))
    assert str(chinese.value("rouge1")).count("not a-z or 0-9") == 1
    assert isinstance(russian.value("rouge2"), Undefined)
    assert russian.value("bleu") == 0.0  # words between blanks: read, though no four of them are alike


@pytest.mark.parametrize(
    ("hypotheses", "references", "rouge1"),
    [
        (CHINESE, ["How many are there?"], 0.0),  # what people wrote decides: all rows leave out the same questions
        (["naïve Größe"], ["naïve Größe"], 1.0),  # most letters are read
        (["3 + 4 = ?"], ["3 + 4 = ?"], 1.0),
        ([""], [""], 0.0),  # nothing written is nothing lost
    ],
)
def test_texts_that_are_read_have_a_value(hypotheses: list[str], references: list[str], rouge1: float) -> None:
    assert overlap(hypotheses, references).value("rouge1") == rouge1


@pytest.mark.parametrize(
    "text", [*CHINESE, "сколько будет три плюс четыре", "तीन और चार कितने होते हैं", "สามบวกสี่เท่ากับเท่าไร"]
)
def test_the_unicode_tokenizer_reads_all_scripts(text: str) -> None:
    same, other = (overlap([each], [text], tokenizer="unicode") for each in (text, "three plus four is what"))

    assert [same.value(metric) for metric in METRICS] == pytest.approx([1] * 4)
    assert other.value("rouge1") == 0.0
    assert "tok:unicode" in sacrebleu_score(same.bleu_counts, "unicode")[1]
