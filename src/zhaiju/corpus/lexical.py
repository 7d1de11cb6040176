"""BM25 (Robertson and Zaragoza, 2009) over characters, words of letters and digits, and pairs of them.

It knows nothing and is hard to beat: the yardstick for every selector, and the way to find paragraphs where no index
was made. Script, case, accents and width do not count.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from zhaiju.data.script import fold

K1 = 1.2
B = 0.75

Codes = npt.NDArray[np.uint32]
Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]

# Where words are written with spaces between them: Latin, Greek, Cyrillic and others up to the scripts of India. All
# other letters, Korean ones too, are units by themselves.
_SPACED = ((0x0000, 0x0E00), (0x1E00, 0x2000))
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_TURN = np.uint64(0xD6E8FEB86659FD93)
_UNKNOWN = re.compile("[\0\ud800-\udfff]")  # what OpenCC cannot be given


def terms(text: str) -> list[str]:
    """A text's units, then its pairs of units.

    A unit is a character, or a whole word of letters and digits in a script that puts spaces between words. A pair is
    two units with nothing between them, no mark and no space.
    """
    codes = _codes(composed(text))
    starts, ends, follows = units_of(codes)
    plain = "".join(map(chr, codes.tolist()))
    units = [plain[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    return units + [units[place - 1] + units[place] for place in np.flatnonzero(follows).tolist()]


class BM25:
    """An index over paragraphs, in memory.

    Args:
        texts: The paragraphs.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.count = len(texts)
        hashes, owners = _hashes(texts)
        lengths = np.bincount(owners, minlength=self.count).astype(np.float64)
        mean = float(lengths.mean() if self.count else 0) or 1.0
        order = np.argsort(hashes, kind="stable")  # a term's paragraphs stay in order
        hashes, owners = hashes[order], owners[order]
        # One posting for each paragraph that a term is in.
        places = _starts_of_runs(hashes, owners)
        often = np.diff(places, append=len(hashes)).astype(np.float64)
        self._owners = owners[places]
        first = _starts_of_runs(hashes[places])
        self._vocabulary = hashes[places][first]
        self._edges = np.append(first, len(places))  # the postings of term i are `_edges[i]:_edges[i + 1]`
        found = np.diff(self._edges)
        rarity = np.log(1 + (self.count - found + 0.5) / (found + 0.5))
        norm = K1 * (1 - B + B * lengths[self._owners] / mean)
        self._weights = np.repeat(rarity, found) * often * (K1 + 1) / (often + norm)

    def scores(self, question: str, among: Sequence[int] | None = None) -> npt.NDArray[np.float64]:
        """The score of each paragraph, or of those `among` them: float64 [paragraphs]."""
        asked = np.unique(_hashes([question])[0])
        first, last = (np.searchsorted(self._vocabulary, asked, side) for side in ("left", "right"))
        known = first[first < last]
        result = np.zeros(self.count)
        for start, end in zip(self._edges[known], self._edges[known + 1], strict=True):
            result[self._owners[start:end]] += self._weights[start:end]
        return result if among is None else result[np.asarray(among, dtype=np.intp)]

    def top(self, question: str, k: int) -> list[tuple[int, float]]:
        """The best `k` paragraphs that share anything with the question, best first, of equal ones the earlier."""
        scores = self.scores(question)
        order = np.argsort(-scores, kind="stable")[: max(0, k)]
        return [(int(index), float(scores[index])) for index in order if scores[index] > 0]


def sentences(text: str) -> list[str]:
    """Cut a text after each 。！？!? and line break; blank parts are left out."""
    parts = [part for part in re.split(r"(?<=[。！？!?\n])", text) if part]
    return [part for part in parts if part.strip()] or [text]


def composed(text: str) -> str:
    """A text in which an accent is part of its letter, without what cannot be folded."""
    return _UNKNOWN.sub(" ", unicodedata.normalize("NFC", text))


def _codes(text: str) -> Codes:
    return folded_codes(fold(text))


def folded_codes(folded: str) -> Codes:
    """Code points of a folded text, 0 for what is no letter or digit: uint32 [characters]."""
    codes = np.frombuffer(folded.encode("utf-32-le"), dtype="<u4")
    distinct, place = np.unique(codes, return_inverse=True)
    return np.fromiter(map(_plain, distinct.tolist()), np.uint32, len(distinct))[place]


@lru_cache(maxsize=1 << 16)
def _plain(code: int) -> int:
    """A code point without accent and of usual width, 0 if it is no letter or digit."""
    character = chr(code)
    if _is_spaced(code) or 0xFF00 <= code < 0xFFF0:
        base = unicodedata.normalize("NFKD", character)[:1].lower()
        if base.isalnum():
            return ord(base.replace("ς", "σ"))
    return code if character.isalnum() else 0


def _is_spaced(code: int) -> bool:
    return any(first <= code < end for first, end in _SPACED)


def are_spaced(codes: Codes) -> Flags:
    """Which characters are letters and digits of words with spaces between them: bool [characters]."""
    spaced = np.zeros(len(codes), dtype=np.bool_)
    for first, end in _SPACED:
        spaced |= (codes >= first) & (codes < end)
    return np.asarray(spaced & (codes != 0))


def units_of(codes: Codes) -> tuple[Places, Places, Flags]:
    """Where each unit starts and ends, and whether it follows another with nothing between them."""
    solid, spaced = codes != 0, are_spaced(codes)
    inside = np.zeros(len(codes), dtype=np.bool_)
    inside[1:] = spaced[1:] & spaced[:-1]
    starts = np.flatnonzero(solid & ~inside)
    lasts = np.ones(len(codes), dtype=np.bool_)
    lasts[:-1] = ~inside[1:]
    ends = np.flatnonzero(solid & lasts) + 1
    follows = np.zeros(len(starts), dtype=np.bool_)
    follows[1:] = starts[1:] == ends[:-1]
    return starts, ends, follows


def _hashes(texts: Sequence[str]) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Every text's terms as numbers, and which text each is of: uint64 [terms], int64 [terms].

    All texts at once, because OpenCC and NumPy are quicker with one long text. Two terms of a million share a number
    once in tens of millions of indexes.
    """
    texts = [composed(text) for text in texts]
    codes = _codes("\n".join(texts))
    starts, ends, follows = units_of(codes)
    if not len(starts):
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    units = hashes_of(codes, starts, ends)
    second = np.flatnonzero(follows)
    pairs = pair_hashes(units, second)
    edges = np.cumsum([len(text) + 1 for text in texts])
    owners = np.searchsorted(edges, starts, side="right")
    return np.concatenate([units, pairs]), np.concatenate([owners, owners[second]])


def hashes_of(codes: npt.NDArray[np.unsignedinteger], starts: Places, ends: Places) -> Hashes:
    """Stretches of a text as numbers, the same in every process: uint64 [stretches].

    Args:
        codes: Code points [characters].
        starts: The first character of each stretch; they are in order.
        ends: The one after its last; none is empty, none overlaps the next.
    """
    if not len(starts):
        return np.zeros(0, np.uint64)
    lengths = ends - starts
    firsts = np.cumsum(lengths) - lengths
    inside = np.arange(int(lengths.sum())) - np.repeat(firsts, lengths)
    # The sum of its characters' numbers, each times a power of a prime that says where in the stretch it is.
    parts = _mix(codes[np.repeat(starts, lengths) + inside]) * _PRIME ** inside.astype(np.uint64)
    return np.asarray(np.add.reduceat(parts, firsts))


def pair_hashes(units: Hashes, second: Places) -> Hashes:
    """The pairs of the units at `second` with those before them, as numbers: uint64 [pairs]."""
    return np.asarray(_mix(units[second - 1] * _PRIME) + units[second])


def _mix(numbers: npt.NDArray[np.unsignedinteger]) -> Hashes:
    """Each number spread over 64 bits."""
    spread = (numbers.astype(np.uint64) + np.uint64(1)) * _TURN
    spread ^= spread >> np.uint64(32)
    return spread * _TURN


def _starts_of_runs(*columns: npt.NDArray[np.generic]) -> Places:
    """Where a row differs from the one before it."""
    changes = np.ones(len(columns[0]), dtype=np.bool_)
    changes[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return np.flatnonzero(changes)
