"""BLEU and ROUGE of prompt pairs, against numbers worked by hand, sacrebleu and rouge-score."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from chatbench.measures.overlap import BleuCounts, bleu, overlap, sacrebleu_score, tokens_13a, tokens_rouge

PIECES = "the The of 3,000 it's 12.5 - a-b, (x) $5. cat 7- &amp; &quot;yes&quot; end. -\n \n what? é naïve 5. <skipped>"


def random_texts(count: int, seed: int) -> list[str]:
    """Short texts with everything that the tokenizers treat specially; some are empty.

    Stripped, because sacrebleu strips before it tokenises and `evaluate` does not: "a-" and a line end differ.
    """
    draw = random.Random(seed)
    return [" ".join(draw.choices(PIECES.split(" "), k=draw.randint(0, 25))).strip() for _ in range(count)]


def test_bleu_of_one_pair_worked_by_hand() -> None:
    # 5 of 6 words, 3 of 5 pairs, 2 of 4 triples, 1 of 3 fours; equal length, so no penalty.
    scored = overlap(["the cat sat on the mat"], ["the cat sat on a mat"])

    assert scored.bleu_counts == BleuCounts((5, 3, 2, 1), (6, 5, 4, 3), 6, 6)
    assert scored.bleu == pytest.approx((5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)


def test_a_short_hypothesis_pays_the_brevity_penalty() -> None:
    # All n-grams match, 4 tokens stand against 6: only exp(1 - 6/4) is left.
    assert overlap(["the cat sat on"], ["the cat sat on a mat"]).bleu == pytest.approx(math.exp(-0.5))


def test_a_long_hypothesis_pays_no_penalty_but_precision() -> None:
    # 4/6, 3/5, 2/4, 1/3; a penalty with the ratio upside down would shrink it.
    scored = overlap(["the cat sat on a mat"], ["the cat sat on"])

    assert scored.bleu == pytest.approx((4 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)


def test_a_repeated_word_is_matched_no_more_often_than_the_reference_has_it() -> None:
    # Without clipping all 7 would match.
    assert overlap(["the the the the the the the"], ["the cat is on the mat"]).bleu_counts.matches == (2, 0, 0, 0)


def test_bleu_without_a_matching_four_gram_is_zero_and_not_smoothed() -> None:
    assert overlap(["a b c x"], ["a b c y"]).bleu == 0.0


def test_pairs_of_a_question_are_one_corpus_and_not_a_mean_of_sentence_scores() -> None:
    # One perfect pair (5 tokens) and one without any match: 5/10, 4/8, 3/6, 2/4 = 1/2. A mean of scores gives 1/2 too
    # only if lengths are equal, so the second hypothesis is longer: 5/12, 4/10, 3/8, 2/6, lengths 12 against 10.
    scored = overlap(["a b c d e", "p q r s t u v"], ["a b c d e"])

    assert scored.pairs == 2
    assert scored.bleu == pytest.approx((5 / 12 * 4 / 10 * 3 / 8 * 2 / 6) ** 0.25)


def test_bleu_equals_sacrebleu_without_smoothing_on_any_text() -> None:
    from sacrebleu.metrics.bleu import BLEU

    hypotheses, references = random_texts(8, seed=1), random_texts(9, seed=2)
    scored = overlap(hypotheses, references)
    theirs = BLEU(smooth_method="none", tokenize="13a").corpus_score(
        [text for text in hypotheses for _ in references], [[text for _ in hypotheses for text in references]]
    )

    assert 0 < scored.bleu < 1
    assert 100 * scored.bleu == pytest.approx(theirs.score, rel=1e-12)


def test_sacrebleu_figure_and_signature_are_those_of_the_package_called_on_the_texts() -> None:
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU()
    theirs = metric.corpus_score(["the cat sat on the mat", "no match"], [["the cat sat on a mat", "at all here"]])
    allowed = np.array([[True, False], [False, True]])
    scored = overlap(["the cat sat on the mat", "no match"], ["the cat sat on a mat", "at all here"], allowed=allowed)

    assert sacrebleu_score(scored.bleu_counts) == (pytest.approx(theirs.score), str(metric.get_signature()))


def test_rouge_of_one_pair_worked_by_hand() -> None:
    # 3 shared of 4 and 6 words: F = 6/10. 2 shared of 3 and 5 pairs: F = 4/8. In order: the same 3 words.
    scored = overlap(["The cat sat down"], ["the cat sat on a mat"])

    assert (scored.rouge1, scored.rouge2, scored.rouge_l) == pytest.approx((0.6, 0.5, 0.6))


def test_rouge_l_follows_the_order_of_words() -> None:
    # The same words reversed share one word in order: F = 1/3, though ROUGE-1 is 1.
    scored = overlap(["c b a"], ["a b c"])

    assert (scored.rouge1, scored.rouge_l) == pytest.approx((1, 1 / 3))


def test_rouge_equals_the_rouge_score_package_on_any_text() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    names = ["rouge1", "rouge2", "rougeL"]
    scorer = RougeScorer(names, use_stemmer=False)
    hypotheses, references = random_texts(12, seed=3), random_texts(10, seed=4)
    theirs = [scorer.score(reference, text) for text in hypotheses for reference in references]
    scored = overlap(hypotheses, references)

    expected = [float(np.mean([pair[name].fmeasure for pair in theirs])) for name in names]
    assert [scored.rouge1, scored.rouge2, scored.rouge_l] == pytest.approx(expected, rel=1e-12)


def test_only_allowed_pairs_count() -> None:
    # The human-human reference: nobody is compared with himself, so equal texts on the diagonal must not score.
    texts = ["a b c d", "e f g h"]
    scored = overlap(texts, texts, allowed=~np.eye(2, dtype=bool))

    assert (scored.pairs, scored.bleu, scored.rouge1) == (2, 0.0, 0.0)


def test_empty_texts_score_zero_and_no_pair_at_all_is_an_error() -> None:
    scored = overlap(["", "a b c d"], ["", "a b c d"])

    assert overlap([""], [""]).bleu == 0.0
    assert (scored.rouge1, scored.rouge_l) == (0.25, 0.25)
    assert scored.bleu == pytest.approx((4 / 8) ** 0.25 * (3 / 6) ** 0.25 * (2 / 4) ** 0.25 * (1 / 2) ** 0.25)
    with pytest.raises(ValueError, match="no pair among 0 hypotheses"):
        overlap([], ["a"])


def test_counts_add_up_so_a_corpus_is_the_sum_of_its_questions() -> None:
    one, two = overlap(["a b c d e"], ["a b c d x"]), overlap(["p q r s"], ["p q r s t"])

    assert one.bleu_counts + two.bleu_counts == BleuCounts((8, 6, 4, 2), (9, 7, 5, 3), 9, 10)
    assert bleu(one.bleu_counts + two.bleu_counts) != pytest.approx((one.bleu + two.bleu) / 2)


def test_a_final_full_stop_after_a_digit_is_its_own_token() -> None:
    assert tokens_13a("It costs $5.") == ("It", "costs", "$", "5", ".")
    assert tokens_13a("1.5 in 2024-25, yes") == ("1.5", "in", "2024", "-", "25", ",", "yes")


def test_rouge_words_drop_case_accents_and_punctuation() -> None:
    assert tokens_rouge("Naïve, it's 3.5!") == ("na", "ve", "it", "s", "3", "5")
