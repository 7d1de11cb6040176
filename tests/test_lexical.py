import math
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhaiju.corpus.lexical import BM25, K1, B, terms
from zhaiju.data.script import fold

# Terms: 貓狗 -> 貓 狗 貓狗 (3); 貓 -> 貓 (1); 魚鳥 -> 魚 鳥 魚鳥 (3). Mean length 7/3.
ANIMALS = BM25(["貓狗", "貓", "魚鳥"])


def plain_scores(texts, question, terms):
    """BM25 as it is written down."""
    counts = [Counter(terms(text)) for text in texts]
    lengths = [sum(count.values()) for count in counts]
    mean = sum(lengths) / len(lengths) or 1.0
    scores = []
    for count, length in zip(counts, lengths, strict=True):
        score = 0.0
        for term in set(terms(question)) & set(count):
            found = sum(term in other for other in counts)
            rarity = math.log(1 + (len(texts) - found + 0.5) / (found + 0.5))
            score += rarity * count[term] * (K1 + 1) / (count[term] + K1 * (1 - B + B * length / mean))
        scores.append(score)
    return scores


def characters_and_bigrams(text):
    folded = fold(text)
    singles = [character for character in folded if character.isalnum()]
    return singles + [a + b for a, b in pairwise(folded) if (a + b).isalnum()]


def test_terms_are_characters_words_and_pairs_that_cross_no_mark():
    assert terms("貓狗，A1 魚") == ["猫", "狗", "a1", "鱼", "猫狗"]
    assert terms("第30屆 IT展") == ["第", "30", "届", "it", "展", "第30", "30届", "it展"]
    assert terms("The ships' crew") == ["the", "ships", "crew"]
    assert terms("한국, かな") == ["한", "국", "か", "な", "한국", "かな"]


@pytest.mark.parametrize("written", ["café", "cafe\u0301", "CAFÉ", "ｃａｆｅ", "Cafe"])
def test_accents_and_width_do_not_count(written):
    assert terms(written) == ["cafe"]


MIXED = st.text(st.sampled_from("貓狗魚猫aAé1٣Σςß 。\n\0\ud800İｂ𠀀한\u0301"), max_size=12)


@given(st.lists(MIXED, min_size=1, max_size=6), MIXED)
def test_scores_are_those_of_the_formula(texts, question):
    assert BM25(texts).scores(question) == pytest.approx(plain_scores(texts, question, terms), abs=1e-9)


@given(st.lists(st.text("貓狗魚鳥猫，。", max_size=12), min_size=1, max_size=6), st.text("貓狗魚鳥猫", max_size=8))
def test_chinese_is_characters_and_bigrams(texts, question):
    expected = plain_scores(texts, question, characters_and_bigrams)
    assert BM25(texts).scores(question) == pytest.approx(expected, abs=1e-9)


ENGLISH = [
    "The harbour master keeps the tide tables in a drawer of the old desk.",
    "A baker on Mill Street sells rye bread and, on Fridays, plum tarts.",
    "Streetlights along the mill were installed in 1931 by a firm from Leeds.",
    "The observatory's telescope was ground from a single disc of Bohemian glass.",
    "Her trade was milling rye; her brother traded in slates.",
]


@pytest.mark.parametrize(
    ("question", "best"),
    [
        ("Where are the tide tables kept?", 0),
        ("What is sold on Fridays?", 1),
        ("Which firm installed the streetlights in 1931?", 2),
        ("What glass was the telescope made of?", 3),
        ("Who traded in slates?", 4),
    ],
)
def test_english_questions_find_their_paragraph(question, best):
    assert BM25(ENGLISH).top(question, 1)[0][0] == best


def test_top_is_best_first_the_earlier_of_equal_ones_first_and_nothing_that_shares_nothing():
    index = BM25(["狗", "貓狗", "貓", "貓", "魚"])
    assert [place for place, _ in index.top("貓", 9)] == [2, 3, 1]
    assert [place for place, _ in index.top("貓", 1)] == [2]
    assert index.top("貓", 0) == index.top("象", 3) == BM25([]).top("貓", 3) == []
    assert index.top("貓", 3)[2] == (1, pytest.approx(index.scores("貓")[1]))


def test_import_needs_neither_torch_nor_transformers():
    code = "import sys, zhaiju.corpus.lexical, zhaiju.corpus.index; print({'torch', 'transformers'} & {*sys.modules})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_a_thousand_paragraphs_are_quick():
    generator = np.random.default_rng(0)
    texts = ["".join(map(chr, generator.zipf(1.3, 450) % 4000 + 0x4E00)) for _ in range(1000)]
    began = time.process_time()
    index = BM25(texts)
    built = time.process_time()
    for text in texts[:20]:
        index.top(text[:20], 10)
    assert built - began < 2  # about 0.3 on a slow core
    assert (time.process_time() - built) / 20 < 0.05  # about 0.001


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
