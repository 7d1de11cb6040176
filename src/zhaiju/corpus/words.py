"""Texts cut into words, each of a class, by jieba's dictionary and its model for unknown words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from zhaiju.data.script import encodable, fold

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


@dataclass(slots=True)
class Words:
    """The words of a text, character by character.

    Attributes:
        begins: bool [N], whether a word begins there.
        classes: int32 [N], the class of the word, an index of `CLASSES`.
    """

    begins: npt.NDArray[np.bool_]
    classes: npt.NDArray[np.int32]


def analyse(text: str) -> Words:
    """Cut a text into words; both scripts of Chinese alike."""
    folded = fold(text)
    begins = np.zeros(len(folded), dtype=np.bool_)
    classes = np.zeros(len(folded), dtype=np.int32)
    at = 0
    for word, tag in _tagged(folded):
        kind = _CLASS_OF.get(tag, 0)
        if kind == _MARK and word.isalnum():
            kind = 0  # a word that it does not know
        begins[at] = True
        classes[at : at + len(word)] = kind
        at += len(word)
    return Words(begins, classes)


def _tagged(text: str) -> list[tuple[str, str]]:
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
