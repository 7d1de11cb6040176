"""Sentence pieces that end where words end."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from budget import examples
from checkpoints import CHECKPOINTS
from zhaiju.data.encoding import Encoding, cover
from zhaiju.data.vocabulary import build_tokenizer
from zhaiju.data.words import words_of
from zhaiju.errors import ConfigError
from zhaiju.modeling.checkpoint import Meta, load, load_encoding, save

TEXT = "渡船每天早上六點開，票價四元。"
SCRAPS = [
    "渡船",
    "六點",
    "每天早上",
    "。",
    " ",
    "\n\t",
    "\u3000",
    "the ferry",
    "don't",
    "1,024",
    "…",
    "㎢",
    "ﬃ",
    "e\u0301",
    "각",
    "👩🏽‍🚀",
]
FEW = settings(deadline=None, max_examples=examples(150))


def unigram(extra=(), **template):
    """A tokenizer as XLM-R's: pieces over words' ends are the likeliest, single characters the least likely."""
    letters = sorted({*TEXT, *"渡船每天早上六点开票价四元", *"▁abcdefghijklmnopqrstuvwxyz,.'0123456789km"})
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -8.0) for letter in letters if letter != "▁"]
    pieces += [("▁the", -3.0), ("▁ferry", -4.0), ("渡船", -4.0), ("船每", -3.0), ("早上", -4.0), ("上六", -3.0), *extra]
    backend = Tokenizer(models.Unigram(pieces, unk_id=3))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def pieces(encoding, text):
    tokens = encoding.tokens(text)
    names = encoding.tokenizer.convert_ids_to_tokens(tokens.ids.tolist())
    return list(zip(names, tokens.starts.tolist(), tokens.ends.tolist(), strict=True))


def encoder(boundaries="words", **options):
    return Encoding(unigram(), window=64, overlap=8, script="simplified", boundaries=boundaries, **options)


def test_no_piece_reaches_over_the_end_of_a_word():
    assert ("船每", 1, 3) in pieces(encoder("pieces"), TEXT)
    found = pieces(encoder(), TEXT)
    assert ("渡船", 0, 2) in found
    assert ("早上", 4, 6) in found
    assert not {"船每", "上六"} & {name for name, _, _ in found}


def test_an_answer_inside_a_piece_can_be_quoted():
    def is_quotable(boundaries):
        tokens = encoder(boundaries).tokens(TEXT)
        first, last = cover(tokens, 4, 6)
        return (tokens.starts[first], tokens.ends[last]) == (4, 6)

    assert (is_quotable("pieces"), is_quotable("words")) == (False, True)


def test_a_piece_with_white_space_has_the_place_of_its_letters():
    text = "  the\n\tferry 六"
    found = pieces(encoder(), text)
    assert found[:2] == [("▁the", 2, 5), ("▁ferry", 7, 12)]
    assert text[found[-1][1] : found[-1][2]] == "六"


@pytest.mark.parametrize(("text", "letters"), [("…", "..."), ("㎢", "km2"), ("ﬃ", "ffi")])
def test_pieces_of_one_character_share_its_place(text, letters):
    found = [piece for piece in pieces(encoder(), f"六{text}四") if piece[1:] == (1, 2)]
    assert "".join(name for name, _, _ in found).removeprefix("▁") == letters


@FEW
@given(st.lists(st.one_of(st.sampled_from(SCRAPS), st.text(max_size=4)), max_size=12).map("".join))
def test_offsets_lie_in_the_text_and_never_step_back(text):
    tokens = encoder().tokens(text)
    for places in (tokens.starts, tokens.ends):
        assert (np.diff(places) >= 0).all()
    assert (tokens.starts >= 0).all()
    assert (tokens.starts <= tokens.ends).all()
    assert (tokens.ends <= len(text)).all()
    covered = {place for start, end in zip(tokens.starts, tokens.ends, strict=True) for place in range(start, end)}
    visible = {
        place
        for place, character in enumerate(text)
        if character in TEXT or (character.isascii() and character.isalnum())
    }
    assert visible <= covered


@FEW
@given(st.text(max_size=30))
def test_words_are_the_text(text):
    assert "".join(words_of(text)) == text


def test_name_of_a_special_token_in_a_text_is_a_text():
    assert not {0, 1, 2} & set(encoder().tokens("六</s>四<s>").ids.tolist())


def test_boundaries_need_sentence_pieces():
    with pytest.raises(ConfigError, match="needs a tokenizer with sentence pieces"):
        Encoding(build_tokenizer([TEXT]), window=64, boundaries="words")
    with pytest.raises(ConfigError, match="expected one of pieces, words"):
        Encoding(unigram(), window=64, boundaries="Words")


def test_what_is_kept_of_texts_tells_both_ways_apart():
    assert encoder("words").serialised() != encoder("pieces").serialised()


@pytest.fixture(scope="module")
def deberta(tmp_path_factory):
    """A checkpoint with sentence pieces that others made: no zhaiju.json."""
    folder = tmp_path_factory.mktemp("deberta")
    CHECKPOINTS["deberta-v2"](folder)
    return folder


def test_training_to_quote_cuts_at_words_and_others_checkpoints_are_read_as_they_were_trained(deberta):
    def boundaries(task, **options):
        return load(deberta, task, **options).encoding.boundaries

    assert boundaries("read", head_required=False) == "words"
    assert boundaries("read", head_required=False, boundaries="pieces") == "pieces"
    assert boundaries("select", head_required=False) == "pieces"
    assert load_encoding(deberta).boundaries == "pieces"


def test_a_checkpoint_keeps_where_its_pieces_end(deberta, tmp_path):
    trained = load(deberta, "read", head_required=False)
    save(tmp_path, trained.network, trained.encoding, Meta(task="read"))
    assert load(tmp_path).encoding.boundaries == "words"
    assert load_encoding(tmp_path).boundaries == "words"
    assert load(tmp_path, "select", head_required=False).encoding.boundaries == "words"
