from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from budget import examples
from checkpoints import CHECKPOINTS
from zhaiju.data import encoding as module
from zhaiju.data.encoding import Encoding, cover, cut, locate, slice_of
from zhaiju.data.examples import Span
from zhaiju.data.vocabulary import KINDS, build_tokenizer
from zhaiju.errors import CheckpointError, ConfigError, DataError
from zhaiju.modeling.checkpoint import load_tokenizer

SAMPLE = [
    "老周養了七隻鵝，最大的叫阿白；渡船每天早上六點開，票價四元。",
    "The ferry leaves at six, and the ferryman's oldest goose is called Blanche. Tea grows on the eastern slope.",
    "茶園在東坡，今年收了九擔新茶。茶园在东坡，今年收了九担新茶。",
]
FRAGMENTS = [
    *[
        "👩🏽‍🚀",
        "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
        "e\u0301\u0323",
        "\u0301",
        "שָׁלוֹם",
        "مرحبا",
        "\u202eabc\u202c",
        "Ｆｕｌｌ　Ｗｉｄｔｈ",
        "ﬃ",
        "ẞ",
        "ΑΣ",
    ],
    *["\0", "\x07", "\x1f", "\x85", "\u200b", "\ufeff", "\ufffd", " ", "   ", "\u3000", "\n\r\n", "\t", "\U0010ffff"],
    *[
        "𠀀",
        "𪚥",
        "豈",
        "渡船",
        "六點",
        "茶園",
        "。",
        "，",
        "the ferry",
        "Goose",
        "ferryman's",
        "1,024",
        "x" * 120,
        "각",
    ],
]
SCRAPS = st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=4), st.sampled_from(SAMPLE))
# İ is the one character that lower-casing makes two of.
TEXTS = st.lists(SCRAPS, max_size=30).map(lambda scraps: "".join(scraps).replace("İ", "I"))
QUESTIONS = st.lists(st.sampled_from(FRAGMENTS[:-2]), max_size=2).map(lambda scraps: "".join(scraps)[:16])
WINDOWS = st.integers(30, 60)
OVERLAPS = st.integers(0, 60)
FEW = settings(deadline=None, max_examples=examples(150))
both = pytest.mark.parametrize("kind", KINDS)


@cache
def tokenizer(kind):
    return build_tokenizer(SAMPLE, kind=kind, size=400)


def encoder(kind, **settings):
    return Encoding(tokenizer(kind), **settings)


def told(window):
    """A window's context tokens: (id, start, end)."""
    inside = window.starts >= 0
    return list(
        zip(
            window.input_ids[inside].tolist(), window.starts[inside].tolist(), window.ends[inside].tolist(), strict=True
        )
    )


def triples(tokens):
    return list(zip(tokens.ids.tolist(), tokens.starts.tolist(), tokens.ends.tolist(), strict=True))


def fits(encoding, question):
    return len(encoding.tokens(question).ids) <= encoding.window - 3 - 8


# Tokens


@both
@FEW
@given(text=TEXTS)
@example(text="İİ")
def test_offsets_lie_in_the_text_and_never_step_back(kind, text):
    tokens = encoder(kind).tokens(text)
    assert len(tokens.ids) == len(tokens.starts) == len(tokens.ends)
    assert (np.diff(tokens.starts) >= 0).all()
    assert (np.diff(tokens.ends) >= 0).all()
    assert (tokens.starts >= 0).all()
    assert (tokens.starts <= tokens.ends).all()
    assert (tokens.ends <= len(text)).all()


@FEW
@given(text=TEXTS)
@example(text="[SEP][UNK][CLS]")
def test_characters_are_a_token_each_whatever_they_are(text):
    tokens = encoder("characters").tokens(text)
    assert tokens.starts.tolist() == list(range(len(text)))
    assert tokens.ends.tolist() == list(range(1, len(text) + 1))


@FEW
@given(text=TEXTS)
def test_known_words_and_chinese_characters_have_the_tokens_place(text):
    encoding = encoder("wordpiece")
    names = encoding.tokenizer.convert_ids_to_tokens(encoding.tokens(text).ids.tolist())
    for name, (_, start, end) in zip(names, triples(encoding.tokens(text)), strict=True):
        if name != "[UNK]" and text[start:end].isascii():
            assert text[start:end].lower() == name.removeprefix("##")


@both
@pytest.mark.parametrize("name", ["[SEP]", "[CLS]", "[PAD]", "[UNK]", "[MASK]"])
def test_name_of_a_special_token_in_a_text_is_a_text(kind, name):
    encoding = encoder(kind)
    special = set(encoding.tokenizer.all_special_ids) - {encoding.tokenizer.unk_token_id}
    (window,) = encoding.windows(f"鵝{name}？", f"茶園{name}東坡")
    inside = window.starts >= 0
    assert not special & set(window.input_ids[inside].tolist())
    assert window.input_ids.tolist().count(encoding.tokenizer.sep_token_id) == 2
    assert (window.ends - window.starts)[inside].max() < len(name)


@both
def test_tokenizer_that_was_told_to_cut_and_pad_does_neither(kind):
    own = build_tokenizer(SAMPLE, kind=kind, size=400)
    own.backend_tokenizer.enable_truncation(5)
    own.backend_tokenizer.enable_padding(length=200)
    expected = encoder(kind).tokens(SAMPLE[0])
    assert triples(Encoding(own).tokens(SAMPLE[0])) == triples(expected)
    assert expected.ends[-1] == len(SAMPLE[0])


@pytest.mark.parametrize("kind", KINDS)
def test_half_a_surrogate_pair_has_the_place_of_a_character(kind):
    tokens = encoder(kind).tokens("茶\ud83d園")
    assert triples(encoder(kind).tokens("茶\ufffd園")) == triples(tokens)
    assert len(encoder(kind).words(["茶", "\ud83d"]).ids)


def test_only_so_many_texts_are_remembered(monkeypatch):
    monkeypatch.setattr(module, "CACHED_TEXTS", 3)
    encoding = encoder("characters")
    kept = encoding.tokens("茶園0")
    for number in range(1, 4):
        encoding.tokens(f"茶園{number}")
        assert encoding.tokens("茶園0") is kept  # used again and again
    assert len(encoding._cache) == 3


def test_of_long_texts_fewer_are_remembered_but_a_question_and_its_paragraph_always(monkeypatch):
    monkeypatch.setattr(module, "CACHED_BYTES", 300_000)
    encoding = Encoding(encoder("characters").tokenizer)
    for number in range(200):
        encoding.tokens(f"{number}" + "茶園" * 200)
        assert encoding._cached_bytes == sum(module._cost(key, told) for key, told in encoding._cache.items())
        assert encoding._cached_bytes <= 300_000
    assert 8 < len(encoding._cache) < 60
    asked, told = encoding.tokens("在哪裡？"), encoding.tokens("茶園" * 50_000)
    for number in range(3):
        encoding.words([f"{number}", "茶"])
    assert encoding.tokens("茶園" * 50_000) is told
    assert encoding.tokens("在哪裡？") is asked
    assert len(encoding._cache) == module.CACHED_ALWAYS
    encoding.forget()
    assert (len(encoding._cache), encoding._cached_bytes) == (0, 0)


def test_several_threads_may_tokenise_at_once(monkeypatch):
    monkeypatch.setattr(module, "CACHED_TEXTS", 2)  # what one thread looks up is dropped by another
    encoding = encoder("wordpiece")
    texts = [f"{number}: {text}" for number in range(20) for text in SAMPLE]
    expected = [encoding.tokens(text).ids.tolist() for text in texts]
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: [encoding.tokens(text).ids.tolist() for text in texts], range(4)):
            assert found == expected


# Words


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The tokenizers of all kinds of encoder, and byte-level ones as they mostly are: with words after a space."""
    folder = tmp_path_factory.mktemp("tokenizers")
    found = {}
    for name, maker in CHECKPOINTS.items():
        maker(folder / name)
        found[name] = Encoding(load_tokenizer(str(folder / name)))
    for name, prefix in (("byte-level", False), ("byte-level with a space before texts", True)):
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
        backend.train_from_iterator([*SAMPLE, "a b", "the boat", "a boat to the harbour"] * 3, trainer)
        found[name] = Encoding(PreTrainedTokenizerFast(tokenizer_object=backend))
    assert len(found["byte-level"].tokens(" b").ids) == 1  # "Ġb"
    return found


KINDS_OF_TOKENIZER = [*CHECKPOINTS, "byte-level", "byte-level with a space before texts"]
every_tokenizer = pytest.mark.parametrize("name", KINDS_OF_TOKENIZER)
SENTENCE = "book the QX-42 for Rita's 圖書館 Ｂｌｕｅ déjà 天 氣 GPU 1,024 👩🏽\u200d🚀 bye!"
WORDS = tuple(SENTENCE.split())


@every_tokenizer
def test_words_of_a_list_get_the_tokens_that_they_have_inside_a_sentence(published, name):
    encoding = published[name]
    before = encoding.tokens("a").ids.tolist()

    def inside(words):
        ids = encoding.tokens(f"a {words}").ids.tolist()
        assert ids[: len(before)] == before
        # There a space is always a token by itself, and of no word.
        return [one for one in ids[len(before) :] if name != "modernbert" or [one] != encoding.tokens(" ").ids.tolist()]

    found = encoding.words(WORDS)
    assert found.ids.tolist() == inside(SENTENCE)
    assert sorted(set(found.starts.tolist())) == list(range(len(WORDS)))
    assert (found.ends == found.starts + 1).all()
    for place, word in enumerate(WORDS):  # whatever stands around it
        own = found.ids[found.starts == place].tolist()
        assert encoding.words([word]).ids.tolist() == own
        assert inside(word) == own


@every_tokenizer
@pytest.mark.parametrize("blank", ["", " ", "\u3000", "\xa0\t"])
def test_a_blank_word_has_no_token_and_moves_no_other(published, name, blank):
    encoding = published[name]
    plain = encoding.words(["book", "the", "天氣"])
    found = encoding.words([blank, "book", blank, blank, "the", "天氣", blank])
    assert found.ids.tolist() == plain.ids.tolist()
    assert found.starts.tolist() == [[1, 4, 5][word] for word in plain.starts]
    assert encoding.words([blank]).ids.tolist() == encoding.words([]).ids.tolist() == []


@pytest.mark.parametrize(
    ("name", "space"),
    [("byte-level", " "), ("byte-level with a space before texts", ""), ("modernbert", ""), ("deberta-v2", "")],
)
def test_a_space_goes_before_words_where_it_is_part_of_their_tokens(published, name, space):
    assert published[name]._before_words == space


@every_tokenizer
def test_windows_of_words_hold_every_word_and_frame_it_as_a_sentence(published, name):
    encoding = Encoding(published[name].tokenizer, window=48, overlap=4)
    words = WORDS * 4
    windows = encoding.word_windows(words)
    assert len(windows) > 1
    assert set().union(*(told(each) for each in windows)) == set(triples(encoding.words(words)))
    assert {word for each in windows for _, word, _ in told(each)} == set(range(len(words)))
    assert (windows[0].start, windows[-1].end) == (0, len(words))
    assert all(len(each) <= 48 for each in windows)


# Windows


@both
@FEW
@given(question=QUESTIONS, context=TEXTS, window=WINDOWS, overlap=OVERLAPS)
def test_windows_together_hold_every_token_and_none_is_too_long(kind, question, context, window, overlap):
    encoding = encoder(kind, window=window, overlap=overlap)
    assume(fits(encoding, question))
    windows = encoding.windows(question, context, choice=4)
    assert windows
    assert all(len(each) <= window and each.choice == 4 for each in windows)
    assert set().union(*(told(each) for each in windows)) == set(triples(encoding.tokens(context)))
    assert (windows[0].start, windows[-1].end) == (0, len(context))
    for each in windows:
        assert len(each.input_ids) == len(each.token_type_ids) == len(each.starts) == len(each.ends)
        assert all(each.start <= start and end <= each.end for _, start, end in told(each))
    for before, after in pairwise(windows):
        assert after.start <= before.end  # no character falls between


@both
@FEW
@given(question=QUESTIONS, context=TEXTS, window=WINDOWS, overlap=OVERLAPS)
def test_window_is_what_the_tokenizer_makes_of_the_pair_with_a_run_of_the_context(
    kind, question, context, window, overlap
):
    encoding = encoder(kind, window=window, overlap=overlap)
    assume(context and fits(encoding, question))  # an empty one is no pair to a tokenizer
    pair = encoding.tokenizer(question, context)
    ids, types = pair["input_ids"], pair["token_type_ids"]
    first = ids.index(encoding.tokenizer.sep_token_id) + 1  # [CLS] question [SEP] context [SEP]
    at = first
    for each in encoding.windows(question, context):
        run = [token for token, _, _ in told(each)]
        at = next(place for place in range(at, len(ids)) if ids[place : place + len(run)] == run)
        assert at + len(run) < len(ids)
        assert each.input_ids.tolist() == ids[:first] + run + ids[-1:]
        assert each.token_type_ids.tolist() == types[:first] + types[at : at + len(run)] + types[-1:]


@both
@FEW
@given(question=QUESTIONS, context=TEXTS, window=WINDOWS, overlap=OVERLAPS)
def test_neighbours_share_the_overlap_or_half_a_window(kind, question, context, window, overlap):
    encoding = encoder(kind, window=window, overlap=overlap)
    assume(fits(encoding, question))
    half = encoding.capacity(question) // 2
    windows = encoding.windows(question, context)
    for before, after in pairwise(windows):
        shared = sum(token in set(told(after)) for token in told(before))
        assert before.end - after.start >= overlap or shared >= half


@FEW
@given(total=st.integers(0, 400), capacity=st.integers(8, 60), overlap=OVERLAPS)
def test_windows_are_as_few_and_then_as_short_as_can_be(total, capacity, overlap):
    tokens = encoder("characters").tokens("茶" * total)
    shared = min(overlap, capacity // 2)
    cuts = cut(tokens, capacity, overlap)
    count = 1 if total <= capacity else 1 + -(-(total - capacity) // (capacity - shared))
    assert len(cuts) == count
    length = -(-(total + (count - 1) * shared) // count)
    assert {b - a for a, b in cuts} == {length}
    assert all(before[1] - after[0] >= shared for before, after in pairwise(cuts))


@both
@FEW
@given(context=TEXTS, window=WINDOWS, overlap=OVERLAPS)
def test_no_window_is_shorter_than_its_fellows(kind, context, window, overlap):
    windows = encoder(kind, window=window, overlap=overlap).windows("茶？", context)
    assert len({len(each) for each in windows}) == 1


@both
@FEW
@given(text=TEXTS, window=WINDOWS, overlap=OVERLAPS)
def test_a_text_that_stands_alone_is_held_whole_as_the_tokenizer_frames_it(kind, text, window, overlap):
    encoding = encoder(kind, window=window, overlap=overlap)
    ids = encoding.tokenizer(text)["input_ids"]
    windows = encoding.text_windows(text)
    tokens = triples(encoding.tokens(text))
    assert (windows[0].start, windows[-1].end) == (0, len(text))
    assert set().union(*(told(each) for each in windows)) == set(tokens)
    for each in windows:
        run = told(each)
        assert len(each) <= window
        assert run == tokens[each.first : each.first + len(run)]
        assert each.input_ids.tolist() == ids[:1] + [token for token, _, _ in run] + ids[-1:]
        assert not each.token_type_ids.any()
    if len(windows) == 1:
        assert windows[0].input_ids.tolist() == ids


# Spans


def spans(data, low, high):
    start = data.draw(st.integers(low, high - 1))
    return start, data.draw(st.integers(start + 1, high))


@FEW
@given(context=TEXTS, window=WINDOWS, overlap=OVERLAPS, data=st.data())
def test_span_in_a_window_comes_back_exactly_from_characters(context, window, overlap, data):
    assume(context)
    windows = encoder("characters", window=window, overlap=overlap).windows("茶？", context)
    each = data.draw(st.sampled_from(windows))
    start, end = spans(data, each.start, each.end)
    first, last = locate(each, Span(context[start:end], start))
    assert (int(each.starts[first]), int(each.ends[last])) == (start, end)
    found = slice_of(context, int(each.starts[first]), int(each.ends[last]))
    assert context[slice(*found)] == context[start:end].strip()


@FEW
@given(context=TEXTS, window=WINDOWS, overlap=OVERLAPS, data=st.data())
def test_span_in_a_window_comes_back_whole_from_word_pieces(context, window, overlap, data):
    encoding = encoder("wordpiece", window=window, overlap=overlap)
    windows = encoding.windows("茶？", context)
    each = data.draw(st.sampled_from(windows))
    assume(each.end > each.start)
    start, end = spans(data, each.start, each.end)
    touched = [(a, b) for _, a, b in triples(encoding.tokens(context)) if a < end and b > start]
    place = locate(each, Span(context[start:end], start))
    if not touched:
        assert place is None
        return
    first, last = place
    assert (int(each.starts[first]), int(each.ends[last])) == (touched[0][0], touched[-1][1])


@both
@FEW
@given(context=TEXTS, window=WINDOWS, overlap=OVERLAPS, data=st.data())
def test_every_answer_that_fits_a_window_is_held_by_one_when_asked_for(kind, context, window, overlap, data):
    encoding = encoder(kind, window=window, overlap=overlap)
    assume(context)
    start, end = spans(data, 0, len(context))
    span = Span(context[start:end], start)
    first, last = cover(encoding.tokens(context), start, end)
    windows = encoding.windows("茶？", context, hold=(span,))
    assert all(len(each) <= window for each in windows)
    held = any(locate(each, span) is not None for each in windows)
    assert held == (0 <= last - first < encoding.capacity("茶？"))
    plain = encoding.windows("茶？", context)
    assert [told(each) for each in windows[: len(plain)]] == [told(each) for each in plain]


@pytest.mark.parametrize("overlap", [0, 5, 20])
def test_answer_with_the_space_before_or_after_a_window_is_held(overlap):
    context = "tea " * 60
    encoding = encoder("wordpiece", window=30, overlap=overlap)
    for start in range(3, len(context) - 21, 4):
        for span in (Span(context[start : start + 20], start), Span(context[start + 1 : start + 21], start + 1)):
            assert span.text.count(" ") == 5
            assert any(locate(each, span) for each in encoding.windows("tea?", context, hold=(span,)))


@pytest.mark.parametrize("start", [-1, 100])
def test_span_outside_the_window_is_not_located(start):
    (window,) = encoder("characters").windows("茶？", "茶園在東坡")
    assert locate(window, Span("茶", start)) is None


def test_span_of_characters_without_tokens_is_not_located():
    (window,) = encoder("wordpiece").windows("tea?", "the \0\0 ferry")
    assert locate(window, Span("\0\0", 4)) is None


@pytest.mark.parametrize(
    ("text", "start", "end", "found"), [(" 茶 ", 0, 3, (1, 2)), ("茶\u3000", 0, 2, (0, 1)), ("a  b", 1, 3, (3, 3))]
)
def test_slice_leaves_white_space_out(text, start, end, found):
    assert slice_of(text, start, end) == found


# Script


@both
@FEW
@given(text=TEXTS, script=st.sampled_from(["simplified", "traditional", "tw2s"]))
@example(text="茶園\0頭髮", script="simplified")
def test_script_conversion_moves_no_offset(kind, text, script):
    plain, converted = encoder(kind).tokens(text), encoder(kind, script=script).tokens(text)
    if kind == "characters":
        assert converted.starts.tolist() == plain.starts.tolist()
        assert converted.ends.tolist() == plain.ends.tolist()
    assert (converted.ends <= len(text)).all()
    for _, start, end in triples(converted):
        assert 0 <= start <= end


def test_encoder_sees_the_script_and_the_quote_stays_in_its_own():
    plain = encoder("characters").tokens("茶园在东坡")
    converted = encoder("characters", script="simplified").tokens("茶園在東坡")
    assert converted.ids.tolist() == plain.ids.tolist()
    (window,) = encoder("characters", script="simplified").windows("茶？", "茶園在東坡")
    first, last = locate(window, Span("東坡", 3))
    assert "茶園在東坡"[window.starts[first] : window.ends[last]] == "東坡"


def test_token_types_tell_question_and_context_apart():
    (window,) = encoder("characters").windows("茶園", "茶園")
    assert window.token_type_ids.tolist() == [0, 0, 0, 0, 1, 1, 1]


# Pairs


@both
@FEW
@given(
    question=QUESTIONS,
    context=TEXTS,
    window=WINDOWS,
    overlap=OVERLAPS,
)
def test_windows_are_cut_from_the_pair(kind, question, context, window, overlap):
    encoding = encoder(kind, window=window, overlap=overlap)
    assume(fits(encoding, question))
    pair = encoding.pair(question, context)
    assert pair.capacity == encoding.capacity(question)
    for each in encoding.windows(question, context, choice=3):
        own = pair.window(each.first, each.first + len(told(each)), 3)
        for name in ("input_ids", "token_type_ids", "starts", "ends"):
            assert getattr(own, name).tolist() == getattr(each, name).tolist()
        assert (own.choice, own.start, own.end, own.first) == (3, each.start, each.end, each.first)


def test_a_pair_whose_question_leaves_no_room_is_refused():
    with pytest.raises(DataError, match="the question does not fit the window of 30 tokens"):
        encoder("characters", window=30).pair("茶" * 20, "茶園")


@both
def test_what_hides_a_token_is_the_mask(kind):
    encoding = encoder(kind)
    assert encoding.tokenizer.convert_ids_to_tokens([encoding.mask_id]) == ["[MASK]"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"mask_token": "m", "unk_token": "u", "pad_token": "p"}, 2),
        ({"unk_token": "u", "pad_token": "p"}, 1),
        ({"pad_token": "p"}, 3),
        ({}, 0),
    ],
)
def test_a_tokenizer_without_a_mask_hides_with_the_unknown_token_or_the_padding(names, expected):
    backend = Tokenizer(models.WordLevel({"茶": 0, "u": 1, "m": 2, "p": 3}, unk_token="u"))
    assert Encoding(PreTrainedTokenizerFast(tokenizer_object=backend, **names)).mask_id == expected


# Size


@both
def test_paragraph_of_a_megabyte_is_held_whole(kind):
    word = "x" * 100_000  # one token of 100,000 characters for word pieces
    context = "".join(SAMPLE) * 2000 + word + "茶園在東坡。" * 20_000
    assert len(context.encode()) > 1_000_000
    encoding = encoder(kind, window=512, overlap=128)
    windows = encoding.windows("茶園在哪？", context)
    assert (windows[0].start, windows[-1].end) == (0, len(context))
    assert max(map(len, windows)) <= 512
    assert len(set().union(*(told(each) for each in windows))) == len(encoding.tokens(context).ids)


def test_question_of_just_the_longest_length_fits():
    assert encoder("characters", window=64).capacity("茶" * (64 - 3 - 8)) == 8


@both
def test_question_longer_than_the_window_is_refused_with_the_numbers(kind):
    with pytest.raises(DataError) as caught:
        encoder(kind, window=64).windows("茶" * 54, "茶園")
    assert str(caught.value) == (
        "question: the question does not fit the window of 64 tokens, found 54 tokens, "
        "expected at most 53; use a larger window"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 15}, "window is 15 tokens, expected at least 16"),
        ({"overlap": -1}, "overlap is -1 characters, expected 0 or more"),
        ({"script": "s2twp"}, "script 's2twp' is not one of"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        encoder("characters", **settings)


def test_tokenizer_that_knows_no_offsets_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(CheckpointError, match="Slow is not a fast tokenizer"):
        Encoding(Slow())


# Tokenizers made from texts


@both
def test_vocabulary_is_the_same_for_the_same_texts_and_starts_with_the_special_tokens(kind):
    own = build_tokenizer(iter(SAMPLE), kind=kind, size=400)
    assert own.get_vocab() == tokenizer(kind).get_vocab()
    assert isinstance(own, PreTrainedTokenizerFast)
    assert own.convert_ids_to_tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.mark.parametrize("size", [6, 20])
def test_vocabulary_of_characters_keeps_the_most_frequent(size):
    own = build_tokenizer(["茶茶茶園園坡"], kind="characters", size=size)
    assert own.convert_ids_to_tokens(range(5, len(own))) == ["茶", "園", "坡"][: size - 5]


@both
@pytest.mark.parametrize("texts", [[], [""]])
def test_vocabulary_of_no_text_is_refused(kind, texts):
    with pytest.raises(DataError, match="no text to make a vocabulary from"):
        build_tokenizer(texts, kind=kind)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"size": 5}, "vocabulary size is 5, expected more than 5"), ({"kind": "words"}, "'words' is not one of")],
)
def test_vocabulary_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        build_tokenizer(SAMPLE, **settings)
