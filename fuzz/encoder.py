"""From text to tokens to windows and back, with a tokenizer of each kind."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from fuzz.mutate import BETWEEN, of_bytes
from fuzz.target import Refusing, Target, hold, texts_of
from zhaiju.data.encoding import Encoding, cover, locate, slice_of
from zhaiju.data.examples import Span
from zhaiju.data.vocabulary import PlainTokenizer
from zhaiju.errors import DataError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789林師傅在河邊修船，了三十年。鎮上有兩家書店一賣舊山川日?!.é"
PIECES = ("##a", "##e", "##s", "##ing", "the", "##n", "##r", "##t", "ferry", "##船")


def _framed(tokenizer: Tokenizer) -> PlainTokenizer:
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=ids
    )
    return PlainTokenizer(tokenizer)


def _vocabulary(tokens: Any) -> dict[str, int]:
    return {token: place for place, token in enumerate(dict.fromkeys((*SPECIAL, *tokens)))}


@cache
def tokenizers() -> list[PlainTokenizer]:
    """Word pieces, single characters, bytes, and pieces with a mark for a space."""
    pieces = Tokenizer(models.WordPiece(_vocabulary((*CHARACTERS, *PIECES)), unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer()
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    characters = Tokenizer(models.WordLevel(_vocabulary((*CHARACTERS, " ")), unk_token="[UNK]"))
    characters.normalizer = normalizers.Lowercase()
    characters.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("æ", "ľ"), ("Ġ", "l")]
    merged = (*alphabet, *(one + two for one, two in merges))
    byte_level = Tokenizer(models.BPE(_vocabulary(merged), merges, unk_token="[UNK]"))
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    scores = [(token, 0.0) for token in SPECIAL] + [
        (token, -3.0 - place / 99) for place, token in enumerate("▁" + CHARACTERS)
    ]
    unigram = Tokenizer(models.Unigram([*scores, ("▁the", -4.0), ("師傅", -3.5)], unk_id=1, byte_fallback=False))
    unigram.normalizer = normalizers.NFKC()
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    return [_framed(one) for one in (pieces, characters, byte_level, unigram)]


@cache
def encodings() -> list[Encoding]:
    """Each tokenizer in several settings."""
    return [
        Encoding(tokenizer, window=window, overlap=overlap, script=script)
        for tokenizer in tokenizers()
        for window, overlap, script in (
            (16, 0, "as-is"),
            (24, 5, "simplified"),
            (40, 30, "traditional"),
            (64, 1000, "as-is"),
        )
    ]


def check_encoder(data: bytes) -> None:
    """Windows hold every token and no more than they may, places slice back to the text, and answers are found."""
    choice = data[0] if data else 0
    encoding = encodings()[choice % len(encodings())]
    question, context = texts_of(data[1:], 2)
    tokens = encoding.tokens(context)
    starts, ends = tokens.starts, tokens.ends
    hold(len(starts) == len(ends) == len(tokens.ids), "a place a token")
    if len(starts):
        hold(starts.min() >= 0 and ends.max() <= len(context), "inside the text", context)
        hold(
            (np.diff(starts) >= 0).all() and (np.diff(ends) >= 0).all() and (starts <= ends).all(), "in order", context
        )
    refusing = Refusing(DataError)
    with refusing:
        _hold_windows(encoding, encoding.windows(question, context), tokens, context)
    if refusing.error is None and context:
        start = choice * 7 % len(context)
        _hold_answer(encoding, question, context, Span(context[start : start + 1 + choice % 9], start))
    alone = encoding.text_windows(context)
    _hold_windows(encoding, alone, tokens, context)
    words = context.split(" ")
    _hold_windows(encoding, encoding.word_windows(words), encoding.words(words), words)
    encoding.forget()


def _hold_windows(encoding: Encoding, windows: Any, tokens: Any, text: Any) -> None:
    hold(windows, "at least one")
    held = set()
    for window in windows:
        hold(len(window) <= encoding.window, "no longer than asked for", len(window), encoding.window)
        size = {len(row) for row in (window.input_ids, window.token_type_ids, window.starts, window.ends)}
        hold(size == {len(window)}, "an entry a token", size)
        inside = np.flatnonzero(window.starts >= 0)
        first, last = window.first, window.first + len(inside)
        hold((window.input_ids[inside] == tokens.ids[first:last]).all(), "the text's tokens", text)
        hold((window.starts[inside] == tokens.starts[first:last]).all(), "their places", text)
        hold(0 <= window.start <= window.end <= len(text), "inside the text", window.start, window.end)
        held.update(range(first, last))
    hold(held == set(range(len(tokens.ids))), "every token", text)
    hold(windows[0].start == 0 and windows[-1].end == len(text), "the whole text", text)


def _hold_answer(encoding: Encoding, question: str, context: str, span: Span) -> None:
    """An answer that tokens make and that a window can hold is found in one, whole."""
    pair = encoding.pair(question, context)
    first, last = cover(pair.told, span.start, span.end)
    windows = encoding.windows(question, context, hold=(span,))
    if not 0 <= last - first < pair.capacity:
        return
    places = [(window, place) for window in windows if (place := locate(window, span)) is not None]
    hold(places, "some window holds it", context, span)
    for window, (a, b) in places:
        start, end = slice_of(context, int(window.starts[a]), int(window.ends[b]))
        wanted = slice_of(context, span.start, span.end)
        seen = {int(place) for place in range(*wanted)} & _seen(pair.told, context, wanted)
        hold(start >= end or seen <= set(range(start, end)), "the whole of it", context, span, (start, end))


def _seen(tokens: Any, text: str, span: tuple[int, int]) -> set[int]:
    """The characters of a span that have a token, white space left out."""
    first, last = cover(tokens, *span)
    return {
        place
        for start, end in zip(
            tokens.starts[first : last + 1].tolist(), tokens.ends[first : last + 1].tolist(), strict=True
        )
        for place in range(max(start, span[0]), min(end, span[1]))
        if not text[place].isspace()  # which may be cut off at both ends
    }


_PARTS = (BETWEEN, "。", "山", "the ", "[SEP]", "師傅", " ", "船" * 20, "e\u0301", "Ａ", "ferry", "\u200b", "\x7f", "…")

TARGETS = (Target("encoder", "every token, and answers found whole", check_encoder, of_bytes(*_PARTS), 100_000),)
