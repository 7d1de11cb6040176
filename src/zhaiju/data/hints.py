"""What plain matching and a word list know, told to a small encoder through its token types.

An encoder made from nothing and trained on a few thousand questions does not learn what words are, which of them
are names, places or dates, nor to compare a question with a text. All of that is known without training: jieba's
dictionary cuts words and says what they are, and counting finds what two texts share. Each token's type is one
number that says, of its first character,

- on which side it stands, the question's or the context's;
- whether the other side has it too: alone, in a shared bigram or in a shared trigram (0..3);
- in the context, whether its sentence is the one that shares most with the question, the second, or another;
- whether a word begins with it;
- the word's class: person, place, number, time, verb, … (20 classes).

Everything is computed from folded text (simplified, lower case), so both scripts of Chinese look the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from zhaiju.data.script import encodable, fold

Ints = npt.NDArray[np.int32]
Codes = npt.NDArray[np.uint64]

LEVELS = 4
PLACES = 3
CLASSES = (
    "other", "noun", "person", "place", "organisation", "proper noun", "number", "time", "measure", "verb",
    "adjective", "adverb", "preposition", "conjunction", "particle", "pronoun", "direction", "latin", "mark", "idiom",
)  # fmt: skip
_TAGS = {
    "noun": "n ng an", "person": "nr nrt nrfg", "place": "ns", "organisation": "nt", "proper noun": "nz",
    "number": "m mq", "time": "t tg", "measure": "q", "verb": "v vn vd vg vi vq", "adjective": "a ad ag b",
    "adverb": "d dg", "preposition": "p", "conjunction": "c", "particle": "u uj ul uz ud uv ug y e",
    "pronoun": "r rg rr rz", "direction": "f s", "latin": "eng", "mark": "x", "idiom": "i l j",
}  # fmt: skip
_CLASS_OF = {tag: CLASSES.index(name) for name, tags in _TAGS.items() for tag in tags.split()}
_MARK = CLASSES.index("mark")

SPECIAL = 0
CONTEXT = 1
QUESTION = CONTEXT + LEVELS * PLACES * 2 * len(CLASSES)
HINT_TYPES = QUESTION + LEVELS * 2 * len(CLASSES)  # 641

SENTENCE_ENDS = frozenset("。！？!?；\n")


@dataclass(slots=True)
class Hints:
    """What is known of a text by itself, character by character.

    Attributes:
        codes: uint64 [N], folded code points, 0 for what is no letter or digit.
        begins: bool [N], whether a word begins there.
        classes: int32 [N], the class of the word, an index of `CLASSES`.
        sentences: int32 [N], which sentence it belongs to, from 0.
    """

    codes: Codes
    begins: npt.NDArray[np.bool_]
    classes: Ints
    sentences: Ints

    @property
    def nbytes(self) -> int:
        """Memory of the arrays."""
        return self.codes.nbytes + self.begins.nbytes + self.classes.nbytes + self.sentences.nbytes


def codes_of(folded: str) -> Codes:
    """Code points of a folded text, 0 for what is no letter or digit: uint64 [characters]."""
    return np.fromiter((ord(character) if character.isalnum() else 0 for character in folded), np.uint64, len(folded))


def analyse(text: str) -> Hints:
    """Cut a text into words and sentences. Words by jieba's dictionary and its model for unknown ones."""
    folded = fold(text)
    total = len(folded)
    begins = np.zeros(total, dtype=np.bool_)
    classes = np.zeros(total, dtype=np.int32)
    at = 0
    for word, tag in _words(folded):
        kind = _CLASS_OF.get(tag, 0)
        if kind == _MARK and word.isalnum():
            kind = 0  # a word that it does not know
        begins[at] = True
        classes[at : at + len(word)] = kind
        at += len(word)
    ends = np.fromiter((character in SENTENCE_ENDS for character in folded), np.int32, total)
    sentences = np.cumsum(ends, dtype=np.int32) - ends
    return Hints(codes_of(folded), begins, classes, sentences)


def _words(text: str) -> list[tuple[str, str]]:
    """Words with their tags; together they are the text."""
    if not text:
        return []
    words: list[tuple[str, str]] = _jieba().tag(encodable(text))
    if sum(len(word) for word, _ in words) != len(text):
        return [(character, "") for character in text]
    return words


@lru_cache(maxsize=1)
def _jieba() -> Any:
    import rjieba

    return rjieba


def match_levels(asked: Codes, told: Codes) -> Ints:
    """What each character of a context shares with the question.

    Args:
        asked: uint64 [Q], folded code points, 0 for what is no letter or digit.
        told: uint64 [N], likewise.

    Returns:
        int32 [N]: 0 nothing, 1 the character, 2 a bigram around it, 3 a trigram around it.
    """
    levels = np.zeros(len(told), dtype=np.int32)
    for size in (1, 2, 3):
        grams, whole = _grams(told, size)
        hits = np.flatnonzero(np.isin(grams, _distinct(asked, size)) & whole)
        for step in range(size):
            levels[hits + step] = size
    return levels


def _grams(codes: Codes, size: int) -> tuple[Codes, npt.NDArray[np.bool_]]:
    """Each run of `size` characters as one number, and whether all of it is letters and digits."""
    bits = np.uint64(21)  # a code point has 21 bits, so a trigram has 63
    count = max(0, len(codes) - size + 1)
    grams, whole = codes[:count], codes[:count] != 0
    for step in range(1, size):
        following = codes[step : step + count]
        grams, whole = (grams << bits) | following, whole & (following != 0)
    return grams, whole


def _distinct(codes: Codes, size: int) -> Codes:
    grams, whole = _grams(codes, size)
    return np.unique(grams[whole])


def sentence_places(asked: Hints, told: Hints) -> Ints:
    """Where each character's sentence stands among those of its text: int32 [N].

    0 for the sentence that shares the most different characters and bigrams with the question, 1 for the second, 2
    for the others; of equal ones the earlier comes first. Weights for rare characters were tried and did not do
    better.
    """
    if not len(told.codes):
        return np.zeros(0, dtype=np.int32)
    counts = np.zeros(int(told.sentences[-1]) + 1, dtype=np.int64)
    for size in (1, 2):
        grams, whole = _grams(told.codes, size)
        wanted = _distinct(asked.codes, size)
        hits = np.flatnonzero(np.isin(grams, wanted) & whole)
        pairs = np.unique(told.sentences[hits].astype(np.int64) * len(wanted) + np.searchsorted(wanted, grams[hits]))
        counts += np.bincount(pairs // max(1, len(wanted)), minlength=len(counts))
    order = np.argsort(-counts, kind="stable")
    places = np.full(len(counts), PLACES - 1, dtype=np.int32)
    places[order[: PLACES - 1]] = np.arange(min(PLACES - 1, len(counts)))
    return places[told.sentences]


def context_types(asked: Hints, told: Hints) -> Ints:
    """The token type of each character of a context: int32 [N]."""
    first = match_levels(asked.codes, told.codes) * PLACES + sentence_places(asked, told)
    return _with_words(first, told) + CONTEXT


def question_types(asked: Hints, told: Hints) -> Ints:
    """The token type of each character of a question: int32 [Q]."""
    return _with_words(match_levels(told.codes, asked.codes), asked) + QUESTION


def _with_words(first: Ints, text: Hints) -> Ints:
    return ((first * 2 + text.begins) * len(CLASSES) + text.classes).astype(np.int32)


def fields(types: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
    """What token types are made of, to give each part an embedding of its own: int64 arrays of the same shape.

    Returns:
        `side` 0 special, 1 context, 2 question; `match` side and level; `place` 0..2, 3 for no context; `begins`
        and `kind` (class) by side.
    """
    asked, told = types >= QUESTION, (types >= CONTEXT) & (types < QUESTION)
    rest = np.where(asked, types - QUESTION, np.maximum(types - CONTEXT, 0))
    rest, kind = np.divmod(rest, len(CLASSES))
    rest, begins = np.divmod(rest, 2)
    return {
        "side": told + 2 * asked,
        "match": np.where(told, rest // PLACES, rest + LEVELS),
        "place": np.where(told, rest % PLACES, PLACES),
        "begins": begins + 2 * asked,
        "kind": kind + len(CLASSES) * asked,
    }
