from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from budget import examples
from zhaiju.data import hints
from zhaiju.data.hints import (
    CLASSES,
    CONTEXT,
    HINT_TYPES,
    LEVELS,
    PLACES,
    QUESTION,
    SENTENCE_ENDS,
    analyse,
    context_types,
    fields,
    match_levels,
    question_types,
    sentence_places,
)
from zhaiju.data.script import convert, fold

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


# What is known of a text


@FEW
@given(text=TEXTS)
@example(text="")
@example(text="\0\r\n\ud83d👩🏽\u200d🚀İ")
@example(text="\ud83d\ude00")
def test_every_character_of_any_text_is_told_of(text):
    found = analyse(text)
    for array, kind in ((found.codes, np.uint64), (found.begins, np.bool_), (found.classes, np.int32)):
        assert array.shape == (len(text),)
        assert array.dtype == kind
    assert ((found.classes >= 0) & (found.classes < len(CLASSES))).all()
    assert found.codes.tolist() == [ord(each) if each.isalnum() else 0 for each in fold(text)]
    assert found.begins[:1].all()  # where there is a text a word begins
    assert found.sentences.tolist() == [
        sum(each in SENTENCE_ENDS for each in fold(text)[:place]) for place in range(len(text))
    ]


@FEW
@given(text=TEXTS)
def test_a_word_is_of_one_class(text):
    found = analyse(text)
    inside = np.flatnonzero(~found.begins)
    assert (found.classes[inside] == found.classes[inside - 1]).all()


def words(text):
    """(Word, class) as the hints tell them."""
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

    monkeypatch.setattr(hints, "_jieba", Lossy)
    assert words("茶園在") == [("茶", "other"), ("園", "other"), ("在", "other")]


# What two texts share


def levels_by_hand(asked, told):
    levels = [0] * len(told)
    for size in (1, 2, 3):
        grams = {asked[place : place + size] for place in range(len(asked) - size + 1)}
        for place in range(len(told) - size + 1):
            gram = told[place : place + size]
            if gram in grams and gram.isalnum():
                levels[place : place + size] = [size] * size
    return levels


@FEW
@given(question=TEXTS, context=TEXTS)
@example(question="\U0010ffff\U0010fffe", context="\U0010ffff")
@example(question="𠀀𠀁𠀂", context="a𠀀𠀁𠀂b𠀀𠀁")
def test_match_levels_are_those_of_the_definition(question, context):
    found = match_levels(analyse(question).codes, analyse(context).codes)
    assert found.tolist() == levels_by_hand(fold(question), fold(context))


@FEW
@given(
    question=st.lists(st.sampled_from(SENTENCES), max_size=3).map("".join),
    context=st.lists(st.sampled_from(SENTENCES), max_size=4).map("".join),
    scripts=st.tuples(st.sampled_from(["simplified", "traditional"]), st.sampled_from(["simplified", "traditional"])),
)
def test_both_scripts_of_a_text_look_the_same(question, context, scripts):
    asked, told = analyse(question), analyse(context)
    other = [analyse(convert(text, script)) for text, script in zip((question, context), scripts, strict=True)]
    assert match_levels(*(each.codes for each in other)).tolist() == match_levels(asked.codes, told.codes).tolist()
    assert context_types(*other).tolist() == context_types(asked, told).tolist()
    assert question_types(*other).tolist() == question_types(asked, told).tolist()


def places_by_hand(question, context):
    sentences = [""]
    for character in context:
        sentences[-1] += character
        if character in SENTENCE_ENDS:
            sentences.append("")

    def shared(sentence):
        return sum(
            len({text[at : at + size] for at in range(len(text) - size + 1) if text[at : at + size].isalnum()} & wanted)
            for size in (1, 2)
            for text in [sentence]
            for wanted in [{question[at : at + size] for at in range(len(question) - size + 1)}]
        )

    ranked = sorted(range(len(sentences)), key=lambda place: -shared(sentences[place]))  # stable
    places = {number: min(rank, PLACES - 1) for rank, number in enumerate(ranked)}
    return [places[number] for number, sentence in enumerate(sentences) for _ in sentence]


@FEW
@given(question=TEXTS, context=TEXTS)
@example(question="茶", context="。。茶。\n")
@example(question="", context="茶園。渡船。鵝。")
def test_sentence_places_are_those_of_the_definition(question, context):
    found = sentence_places(analyse(question), analyse(context))
    assert found.tolist() == places_by_hand(fold(question), fold(context))


def test_the_sentence_that_shares_most_with_the_question_is_in_the_first_place():
    context = "渡船早上開。誰修的船沒有人知道？老張在港口修了船！票價四元。"
    asked = analyse("誰在港口修了船？")
    parts = fields(context_types(asked, analyse(context)))
    second, third = context.index("誰"), context.index("老張")
    assert set(parts["place"][third : context.index("票")].tolist()) == {0}
    assert set(parts["place"][second:third].tolist()) == {1}
    assert set(parts["place"][:second].tolist()) == set(parts["place"][context.index("票") :].tolist()) == {2}


def test_of_sentences_that_share_as_much_the_earlier_comes_first():
    places = sentence_places(analyse("茶"), analyse("鵝。茶。茶茶。茶。"))
    assert places.tolist() == [2, 2, 0, 0, 1, 1, 1, 2, 2]  # a character counts once


# Token types


@FEW
@given(question=TEXTS, context=TEXTS)
@example(question="", context="")
@example(question="", context="茶")
@example(question="茶", context="")
def test_types_are_in_their_side_s_range(question, context):
    asked, told = analyse(question), analyse(context)
    first, second = question_types(asked, told), context_types(asked, told)
    assert (len(first), len(second)) == (len(question), len(context))
    assert first.dtype == second.dtype == np.int32
    assert ((first >= QUESTION) & (first < HINT_TYPES)).all()
    assert ((second >= CONTEXT) & (second < QUESTION)).all()


@FEW
@given(question=TEXTS, context=TEXTS)
def test_the_fields_of_types_are_what_went_into_them(question, context):
    asked, told = analyse(question), analyse(context)
    ours = fields(context_types(asked, told).astype(np.int64))
    assert (ours["side"] == 1).all()
    assert ours["match"].tolist() == match_levels(asked.codes, told.codes).tolist()
    assert ours["place"].tolist() == sentence_places(asked, told).tolist()
    assert ours["begins"].tolist() == told.begins.astype(int).tolist()
    assert ours["kind"].tolist() == told.classes.tolist()
    theirs = fields(question_types(asked, told).astype(np.int64))
    assert (theirs["side"] == 2).all()
    assert (theirs["match"] - LEVELS).tolist() == match_levels(told.codes, asked.codes).tolist()
    assert (theirs["place"] == PLACES).all()
    assert (theirs["begins"] - 2).tolist() == asked.begins.astype(int).tolist()
    assert (theirs["kind"] - len(CLASSES)).tolist() == asked.classes.tolist()


def composed(side, match, place, begins, kind):
    """The number of a type again."""
    if side == 0:
        return 0
    if side == 1:
        return CONTEXT + ((match * PLACES + place) * 2 + begins) * len(CLASSES) + kind
    return QUESTION + ((match - LEVELS) * 2 + begins - 2) * len(CLASSES) + kind - len(CLASSES)


def test_every_type_is_the_composition_of_its_fields():
    found = fields(np.arange(HINT_TYPES))
    rows = list(zip(*(found[name].tolist() for name in ("side", "match", "place", "begins", "kind")), strict=True))
    assert [composed(*row) for row in rows] == list(range(HINT_TYPES))
    assert len(set(rows[1:])) == HINT_TYPES - 1
    assert found["side"].tolist() == [0] + [1] * (QUESTION - CONTEXT) + [2] * (HINT_TYPES - QUESTION)
    for name, values in {"match": 2 * LEVELS, "place": PLACES + 1, "begins": 4, "kind": 2 * len(CLASSES)}.items():
        assert set(found[name].tolist()) == set(range(values)), name  # no value of a part is left unused


def test_there_are_641_types():
    assert (CONTEXT, QUESTION, HINT_TYPES) == (1, 481, 641)


@pytest.mark.parametrize("repeats", [1, 20_000])
def test_a_long_text_is_told_of_as_a_short_one(repeats):
    told = analyse("茶園在東坡。" * repeats)
    types = context_types(analyse("茶園？"), told)
    assert len(types) == 6 * repeats
    assert fields(types[:6])["match"].tolist() == [2, 2, 0, 0, 0, 0]
