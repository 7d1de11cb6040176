"""Pieces that end where words end: a text is cut at its words first, and each word into pieces then.

A sentence-piece tokenizer (Kudo and Richardson, 2018) cuts Chinese without regard to words, and an answer that begins
inside a piece cannot be quoted. Words are those of jieba, found in simplified characters; white space goes with the
word after it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from zhaiju.data.script import convert

PIECES, WORDS = "pieces", "words"
BOUNDARIES = (PIECES, WORDS)
REMEMBERED = 1 << 15  # words

Ints = npt.NDArray[np.int32]
Places = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def has_sentence_pieces(backend: Any) -> bool:
    """Whether a tokenizer (of the library tokenizers) cuts texts into sentence pieces."""
    cuts = backend.pre_tokenizer
    return type(backend.model).__name__ == "Unigram" and cuts is not None and b"Metaspace" in cuts.__getstate__()


def words_of(text: str) -> list[str]:
    """Cut a text at the words that jieba finds in its simplified form; together they are the text."""
    import rjieba

    found = rjieba.cut(convert(text, "simplified"), False)
    if sum(map(len, found)) != len(text):  # half a surrogate pair
        return [text]
    words, at = [], 0
    for word in found:
        words.append(text[at : at + len(word)])
        at += len(word)
    return words


class WordPieces:
    """Sentence pieces that never reach over a word's end.

    Args:
        backend: A tokenizer for which `has_sentence_pieces` holds.
    """

    def __init__(self, backend: Any) -> None:
        from tokenizers import Tokenizer, pre_tokenizers

        own = Tokenizer(backend.model)  # it shares the vocabulary, and knows no special token: "</s>" in a text is text
        if backend.normalizer is not None:
            own.normalizer = backend.normalizer
        own.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")

        @lru_cache(REMEMBERED)
        def pieces(word: str) -> Places:
            encoded = own.encode(word, add_special_tokens=False)
            first, last = zip(*encoded.offsets, strict=True) if encoded.ids else ((), ())
            return tuple(encoded.ids), first, last

        self._pieces = pieces

    def __call__(self, text: str) -> tuple[Ints, Ints, Ints]:
        """The pieces of a text.

        Returns:
            int32 [N] each: vocabulary indices, first characters, the characters after the last. A piece that is white
            space alone has no width and stands at the word after it; several pieces of one character share its place.
        """
        ids: list[int] = []
        starts: list[int] = []
        ends: list[int] = []
        at, spaced = 0, True  # a text begins as after white space
        for word in words_of(text):
            if word.isspace():
                spaced = True
            else:
                own, first, last = self._pieces(f" {word}" if spaced else word)
                base = at - spaced
                ids += own
                starts += [max(at, base + place) for place in first]
                ends += [max(at, base + place) for place in last]
                spaced = False
            at += len(word)
        found = np.array([ids, starts, ends], dtype=np.int32).reshape(3, -1)
        # Where normalisation changes the order of marks, a piece may step back.
        found[1:] = np.maximum.accumulate(found[1:], axis=1)
        return found[0], found[1], found[2]
