import json

import numpy as np
import pytest

from zhaiju.data.examples import Context, QAExample, ReadPrediction, Span
from zhaiju.data.formats import gold_answers
from zhaiju.tasks import metrics


@pytest.mark.parametrize(
    ("prediction", "gold", "em", "f1"),
    [
        ("馬祖列島", ["馬祖列島"], 1, 1),
        ("「馬祖列島」。", ["馬祖列島"], 1, 1),  # marks do not count
        ("3 公里", ["3公里"], 1, 1),  # nor does white space
        ("", ["馬祖"], 0, 0),
        ("", [""], 1, 1),
        ("。", [""], 1, 1),  # nothing but a mark is nothing
        ("apple pie", ["apple tart"], 0, 0.5),
        ("apple", ["pear", "apple"], 1, 1),  # the best of several
        ("a a b", ["a b b"], 0, 2 / 3),  # bags: a, b in common
        ("Apple", ["apple"], 0, 0),  # case counts
    ],
)
def test_course_definition_on_hand_worked_cases(prediction, gold, em, f1):
    assert metrics.course(prediction, gold) == (em, pytest.approx(f1))


@pytest.mark.parametrize(
    ("prediction", "gold", "em", "f1"),
    [
        ("北京大學", ["北京大學"], 1, 1),
        ("《北京大學》", ["北京大學"], 1, 1),
        ("在北京大學", ["北京大學"], 0, 8 / 9),  # run of 4 of 5 and 4
        ("京北大學", ["北京大學"], 0, 2 * 2 / 8),  # the longest *run* is 大學
        ("in 1999年", ["1999年"], 0, 2 * 2 / 5),  # words: in, 1999, 年
        ("Apple", ["apple"], 1, 1),
    ],
)
def test_cmrc_definition_on_hand_worked_cases(prediction, gold, em, f1):
    assert metrics.cmrc(prediction, gold) == (em, pytest.approx(f1))


@pytest.mark.parametrize(
    ("prediction", "gold", "em", "f1"),
    [
        ("The 長城", ["長城"], 1, 1),  # articles and case dropped
        ("長城。", ["長城"], 1, 1),
        ("京北", ["北京"], 0, 1),  # a bag of characters
        ("北京市", ["北京"], 0, 4 / 5),
        ("a b", ["ab"], 0, 2 / 3),  # the article goes, so b against ab
    ],
)
def test_drcd_definition_on_hand_worked_cases(prediction, gold, em, f1):
    assert metrics.drcd(prediction, gold) == (em, pytest.approx(f1))


def test_words_are_slices_that_together_are_the_text():
    text = "臺灣的軟體工程師，用Python 3.11寫程式😀"
    words = metrics.words(text)
    assert "".join(words) == text
    assert "工程師" in words  # jieba alone, on Traditional text, would miss it


def test_half_a_surrogate_pair_is_a_character_like_others():
    assert "".join(metrics.words("山\ud83d川")) == "山\ud83d川"
    assert [score("\ud83d", ["\ud83d"]) for score in metrics.DEFINITIONS.values()] == [(1.0, 1.0)] * 3


def test_the_segmenter_names_its_versions():
    assert metrics.segmenter().startswith("opencc-")
    assert "+rjieba-" in metrics.segmenter()


def test_a_missing_id_scores_zero_and_is_named():
    gold = {"a": ("甲",), "b": ("乙",)}
    report = metrics.score_answers(gold, {"a": "甲", "z": "丙"}, resamples=0)
    assert report["em"] == 0.5
    assert report["count"] == 2
    assert report["missing"] == 1
    assert metrics.missing(gold, {"a": "甲"}) == ["b"]


def test_bootstrap_interval_holds_the_mean_and_narrows_with_more_questions():
    few = metrics.bootstrap(np.array([0.0, 1.0] * 20))
    many = metrics.bootstrap(np.array([0.0, 1.0] * 2000))
    assert few[0] < 0.5 < few[1]
    assert many[1] - many[0] < (few[1] - few[0]) / 3
    assert metrics.bootstrap(np.array([0.0, 1.0] * 20)) == few  # seeded


def _example():
    return QAExample(
        "q",
        "誰住在山上？",
        (Context("河邊有一條船。", "0"), Context("山上住著一位老師傅。", "1")),
        1,
        (Span("老師傅", 6),),
    )


@pytest.mark.parametrize(
    ("answer", "start", "index", "held", "cap", "kind"),
    [
        ("老師傅", 6, 1, True, 50, "correct"),
        ("一條船", 3, 0, True, 50, "selector miss"),
        ("山上", 0, 1, False, 50, "lost to windows"),
        ("一位", 4, 1, True, 2, "length cap"),
        ("", 0, 1, True, 50, "no answer"),
        ("一位老師傅", 4, 1, True, 50, "boundary"),
        ("山上", 0, 1, True, 50, "wrong span"),
    ],
)
def test_every_wrong_answer_has_a_reason(answer, start, index, held, cap, kind):
    prediction = ReadPrediction("q", answer, start, start + len(answer), 0.5, str(index), index=index)
    assert metrics.outcome(_example(), prediction, held=held, max_answer_chars=cap) == kind


def _last_annotator_against_the_others(path):
    predictions, gold = {}, {}
    for article in json.loads(path.read_text("utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                texts = [answer["text"] for answer in question["answers"]]
                predictions[question["id"]] = texts[-1]
                gold[question["id"]] = tuple(texts[:-1])
    return metrics.score_answers(gold, predictions, resamples=0)


@pytest.mark.parametrize(
    ("name", "cmrc", "drcd"),
    [
        ("drcd-dev", (0.803, 0.919), (0.791, 0.924)),
        ("cmrc2018-dev", (0.778, 0.935), (0.772, 0.937)),
    ],
)
def test_human_agreement_is_as_published(shared, name, cmrc, drcd):
    report = _last_annotator_against_the_others(shared / "squad" / f"{name}.json")
    assert (report["em_cmrc"], report["f1_cmrc"]) == pytest.approx(cmrc, abs=0.001)
    assert (report["em_drcd"], report["f1_drcd"]) == pytest.approx(drcd, abs=0.001)


def test_gold_scored_against_itself_is_perfect(shared):
    gold = gold_answers(shared / "course" / "public.json")
    report = metrics.score_answers(gold, {row: texts[0] for row, texts in gold.items()}, resamples=0)
    perfect = {name: value for name, value in report.items() if name not in ("count", "missing")}
    assert report["count"] == 676
    assert set(perfect.values()) == {1.0}
