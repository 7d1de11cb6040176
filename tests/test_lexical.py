import math

import numpy as np
import pytest

from zhaiju.corpus.lexical import BM25, terms

# Terms: 貓狗 -> 貓 狗 貓狗 (3); 貓 -> 貓 (1); 魚鳥 -> 魚 鳥 魚鳥 (3). Mean length 7/3.
ANIMALS = BM25(["貓狗", "貓", "魚鳥"])


def test_terms_are_letters_digits_and_bigrams_that_cross_no_mark():
    assert terms("貓狗，A1 魚") == ["猫", "狗", "a", "1", "鱼", "猫狗", "a1"]


def test_score_is_the_hand_worked_one():
    rarity = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))  # 貓 is in two of three
    expected = [rarity * 2.2 / (1 + 1.2 * (0.25 + 0.75 * length / (7 / 3))) for length in (3, 1)]
    assert ANIMALS.scores("貓") == pytest.approx([*expected, 0.0])
    assert ANIMALS.scores("貓") == pytest.approx([0.4208, 0.6134, 0.0], abs=1e-4)


def test_repeated_word_of_a_question_counts_once_and_of_a_paragraph_more_than_once():
    index = BM25(["貓，貓，狗，鳥", "貓，牛，狗，鳥"])
    assert index.scores("貓貓") == pytest.approx(index.scores("貓"))
    assert index.scores("貓")[0] > index.scores("貓")[1] > 0


def test_rarer_words_weigh_more():
    index = BM25(["貓，狗", "貓，鳥", "貓，魚"])
    assert index.scores("貓狗").argmax() == 0
    assert index.scores("狗")[0] > index.scores("貓")[0]


def test_script_and_case_do_not_count():
    index = BM25(["圖書館 ABC", "游泳池"])
    assert index.scores("图书馆 abc") == pytest.approx(index.scores("圖書館 ABC"))
    assert index.scores("图书馆")[0] > 0


def test_scores_among_some_are_theirs_among_all():
    assert ANIMALS.scores("貓鳥", among=[2, 0]) == pytest.approx(ANIMALS.scores("貓鳥")[[2, 0]])


@pytest.mark.parametrize("question", ["", "？！", "象"])
def test_question_that_shares_nothing_scores_nothing(question):
    assert not ANIMALS.scores(question).any()


@pytest.mark.parametrize("texts", [[], ["……"], ["！", "？ "], ["", "貓"]])
def test_paragraphs_without_words_are_no_trouble(texts):
    scores = BM25(texts).scores("貓")
    assert len(scores) == len(texts)
    assert np.isfinite(scores).all()
