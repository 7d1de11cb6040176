from itertools import pairwise

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from budget import examples
from zhaiju.corpus import words as module
from zhaiju.corpus.words import CLASSES, analyse
from zhaiju.data.script import convert

# Written for these tests.
SENTENCES = (
    "老張在臺北的港口修了三十年的船。",
    "渡船每天早上六點開，票價四元！",
    "最大的鵝叫阿白；貓叫書籤？",
    "The ferry leaves at six, 2003 年起。",
    "茶園在東坡，今年收了九擔新茶\n",
    "後來葉醫師發現頭髮、麵條和鐘樓都變舊了。",
)
# İ is the one character that lower-casing makes two of; half a surrogate pair is no text, and comes nevertheless.
ODD = (
    *["", "\0", "\r\n", "\n\n", "\r", "\u3000", "\u200b", "\ufeff", "\ufffd", "\U0010ffff", "İ", "ẞ", "ﬃ"],
    *[
        "\ud83d",
        "\udc00",
        "a\ud800",
        "👩🏽\u200d🚀",
        "🏴",
        "e\u0301\u0323",
        "Ｇｏｏｓｅ",
        "。。",
        "!?",
        "𠀀",
        "〇",
        "①²",
    ],
)
ANY = st.text(st.characters(), max_size=6)  # surrogates among them
SCRAPS = st.one_of(st.sampled_from(SENTENCES), st.sampled_from(ODD), ANY, st.sampled_from("誰茶渡船港口叫。"))
TEXTS = st.lists(SCRAPS, max_size=8).map("".join)
FEW = settings(deadline=None, max_examples=examples(150))


@FEW
@given(text=TEXTS)
@example(text="")
@example(text="\0\r\n\ud83d👩🏽\u200d🚀İ")
@example(text="\ud83d\ude00")
def test_every_character_of_any_text_is_told_of(text):
    found = analyse(text)
    for array, kind in ((found.begins, np.bool_), (found.classes, np.int32)):
        assert array.shape == (len(text),)
        assert array.dtype == kind
    assert ((found.classes >= 0) & (found.classes < len(CLASSES))).all()
    assert found.begins[:1].all()  # where there is a text a word begins


@FEW
@given(text=TEXTS)
def test_a_word_is_of_one_class(text):
    found = analyse(text)
    inside = np.flatnonzero(~found.begins)
    assert (found.classes[inside] == found.classes[inside - 1]).all()


def words(text):
    """(Word, class)."""
    found = analyse(text)
    starts = [*np.flatnonzero(found.begins).tolist(), len(text)]
    return [(text[a:b], CLASSES[found.classes[a]]) for a, b in pairwise(starts)]


def test_words_and_classes_of_a_plain_sentence():
    assert words("林小姐在臺北的港口養了七隻鵝，Bo 重 2 公斤。") == [
        ("林小姐", "person"), ("在", "preposition"), ("臺北", "place"), ("的", "particle"), ("港口", "noun"),
        ("養", "verb"), ("了", "particle"), ("七隻", "number"), ("鵝", "noun"), ("，", "mark"), ("Bo", "latin"),
        (" ", "mark"), ("重", "adjective"), (" ", "mark"), ("2", "number"), (" ", "mark"), ("公斤", "measure"),
        ("。", "mark"),
    ]  # fmt: skip


def test_words_that_do_not_make_up_the_text_are_not_believed(monkeypatch):
    class Lossy:
        def tag(self, text):
            return [("茶園", "n")]

    monkeypatch.setattr(module, "_jieba", Lossy)
    assert words("茶園在") == [("茶", "other"), ("園", "other"), ("在", "other")]


@FEW
@given(
    text=st.lists(st.sampled_from(SENTENCES), max_size=4).map("".join),
    script=st.sampled_from(["simplified", "traditional"]),
)
def test_a_word_in_both_scripts_is_the_same(text, script):
    found, other = analyse(text), analyse(convert(text, script))
    assert other.begins.tolist() == found.begins.tolist()
    assert other.classes.tolist() == found.classes.tolist()
