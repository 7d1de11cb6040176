"""What words alone say of a paragraph: lexical features, and the weights under which they choose.

BM25 (Robertson and Zaragoza, 2009) takes a paragraph as a heap of terms. That the terms of a question stand *together*
says more, so most features look at the best place of a paragraph: the best clause, the best few clauses in a row, the
point around which the question's terms are nearest (a kernel over positions, as in Lv and Zhai, 2009). The words that
ask (什麼, 哪一年, how many) are taken out of the question where that helps. Script, case, accents, width do not count.

Nothing here has learnt words: how rare they are is one table (`zhaiju.corpus.rarity`), and one weight a feature is
fitted, by a conditional logit (McFadden, 1974), so that the weighted sum is a logit as it stands. It ranks paragraphs
wherever no trained selector is named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zhaiju import files
from zhaiju.corpus import rarity
from zhaiju.corpus.lexical import (
    K1,
    B,
    Hashes,
    Places,
    are_spaced,
    composed,
    folded_codes,
    hashes_of,
    pair_hashes,
    units_of,
)
from zhaiju.corpus.rarity import KINDS, Rarity
from zhaiju.corpus.words import analyse
from zhaiju.data.script import fold
from zhaiju.errors import ConfigError
from zhaiju.inference.answer import selection

if TYPE_CHECKING:
    from zhaiju.data.examples import QAExample, SelectPrediction

Floats = npt.NDArray[np.float64]

FEATURES = (
    "units near",  # rarity of the question's units, each less the farther it is from the best point
    "words near",  # the same of its words
    "units",  # BM25 over units
    "pairs in eight clauses",  # rarity of the pairs found in the best eight clauses in a row
    "longest run",  # characters of the longest piece of the question that is there word for word
    "one clause",  # rarity of units and pairs found in the best clause
    "quoted",  # how many of the question's quoted titles are there
    "pairs, share",  # share of the rarity of the question's pairs that is there at all
)
REACH = 16.0  # characters at which a term near the best point counts e times less
KEPT = 2048  # paragraphs that are kept cut up

_SPACE, _FULL_STOP = ord(" "), ord(".")
_CLAUSE_ENDS = np.array([ord(character) for character in "。！？!?；;\n，,"], dtype=np.uint32)
_ASKING = re.compile(  # in folded text
    "(?:(?:是|为|在|于|有|由|被|叫|叫做|称为)?"
    "(?:哪一?[个位种座条年些里家本部场项所支间块段颗]?|什么|甚么|何[时处地人者种年事物]|为何|如何|何|谁|多少"
    "|多[久长高大远]|几[个位种座条年次人岁]?|怎[么样麽]+|是否|请问)(?:时候|地方|原因|名字)?)|[吗呢嘛]"
    r"|\b(?:what|which|who|whom|whose|when|where|why|how(?: many| much| long| old| far| often)?"
    r"|did|does|do|was|were|is|are)\b"
)
_QUOTED = re.compile('[「『《〈“"]([^」』》〉”"]{2,20})[」』》〉”"]')
_BETWEEN = re.compile(r"[^\w]+")


@dataclass(frozen=True, slots=True)
class Terms:
    """A text's terms of one kind, in order.

    Attributes:
        hashes: Each term: uint64 [terms].
        at: The character at which each begins: intp [terms].
        clauses: The clause that it begins in, from 0: intp [terms].
    """

    hashes: Hashes
    at: Places
    clauses: Places


@dataclass(frozen=True, slots=True)
class Cut:
    """A text cut up.

    Attributes:
        plain: It without script, case, accents and width; positions are in it.
        clauses: How many it has.
        terms: Its terms by kind.
    """

    plain: str
    clauses: int
    terms: Mapping[str, Terms]

    def places(self, kind: str, hashes: Hashes) -> list[Places]:
        """Where each of some terms begins, in order."""
        own = self.terms[kind]
        return [own.at[own.hashes == one] for one in hashes]


def table(question: str, texts: Sequence[str], known: Rarity) -> Floats:
    """What each feature says of each paragraph, looking at it alone: float64 [texts, len(FEATURES)].

    Args:
        question: The question.
        texts: The paragraphs.
        known: How rare terms are.
    """
    plain = plain_of(question)
    asked, bare = cut(plain), cut(_ASKING.sub("\n", plain))
    terms = {kind: _distinct(asked.terms[kind].hashes) for kind in KINDS}
    words = list(dict.fromkeys(plain[start:end] for start, end in _words(plain)))  # in the order of their hashes
    rare = {kind: known.of(kind, terms[kind]) for kind in KINDS}
    weights = {kind: rare[kind] * np.isin(terms[kind], bare.terms[kind].hashes) for kind in KINDS}
    quoted = set(_QUOTED.findall(plain))
    all_pairs = float(rare["pair"].sum()) or 1.0
    rows = []
    for text in map(_kept, texts):
        counts = {kind: _counts(terms[kind], text, kind) for kind in ("unit", "pair")}
        units, pairs = ((counts[kind] > 0) @ weights[kind] for kind in ("unit", "pair"))
        length = len(text.terms["unit"].hashes) / known.means["unit"]
        rows.append(
            [
                _nearness(weights["unit"], text.places("unit", terms["unit"])),
                _nearness(weights["word"], _word_places(words, terms["word"], text)),
                float(_saturated(counts["unit"].sum(0), length) @ weights["unit"]),
                _best(counts["pair"], weights["pair"], 8),
                _longest_run(bare.plain, text.plain),
                float((units + pairs).max()),
                float(sum(title in text.plain for title in quoted)),
                float(rare["pair"] @ (counts["pair"].sum(0) > 0)) / all_pairs,
            ]
        )
    return np.array(rows, dtype=np.float64).reshape(len(texts), len(FEATURES))


@dataclass(frozen=True)
class FeatureWeights:
    """How much each of `FEATURES` counts; the weighted sum is a logit."""

    weights: tuple[float, ...]

    @classmethod
    def load(cls, path: Path) -> FeatureWeights:
        """Read what `save` wrote.

        Raises:
            ConfigError: it is something else.
        """
        try:
            named = files.read_json(path)["weights"]
            if set(named) != set(FEATURES):
                raise ValueError(f"it weighs {sorted(named)}, expected {sorted(FEATURES)}")
            weights = tuple(float(named[name]) for name in FEATURES)
            if not np.isfinite(weights).all():
                raise ValueError("expected finite numbers")
            return cls(weights)
        except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
            raise ConfigError(f"{path} cannot be read: {error!r}") from None

    def save(self, path: Path, about: Mapping[str, Any]) -> None:
        """Write them by name, with what they were fitted on."""
        files.write_json(path, {"weights": dict(zip(FEATURES, self.weights, strict=True)), "about": dict(about)})


class LexicalRanking:
    """Ranks paragraphs by the weighted sum of their features.

    It predicts as the engine of a trained selector does, and takes its place where none is named.

    Args:
        weights: Of the features.
        known: How rare terms are.
    """

    def __init__(self, weights: FeatureWeights, known: Rarity) -> None:
        self.weights = weights
        self.known = known

    def scores(self, question: str, texts: Sequence[str]) -> Floats:
        """The logit of each candidate: float64 [texts]."""
        return np.asarray(table(question, texts, self.known) @ np.array(self.weights.weights))

    def predict(self, task: Any, examples: Iterable[QAExample], *, progress: Any = None) -> Iterator[SelectPrediction]:
        """One prediction an example, in order.

        Args:
            task: Select; it holds nothing to be told.
            examples: Read one by one.
            progress: Called with the number of examples done since the last call.
        """
        for example in examples:
            yield selection(example, self.scores(example.question, [context.text for context in example.contexts]))
            if progress is not None:
                progress(1)


@lru_cache(maxsize=1)
def ranking() -> LexicalRanking:
    """The packaged ranking.

    Raises:
        ConfigError: one of its two files is damaged.
    """
    return LexicalRanking(FeatureWeights.load(_weights_file()), rarity.packaged())


def fingerprint() -> str:
    """What tells the packaged ranking from another: the SHA-256 of its weights."""
    return files.fingerprint(_weights_file())


def _weights_file() -> Path:
    return Path(str(resources.files("zhaiju.starter"))) / "ranking.json"


def plain_of(text: str) -> str:
    """A text with script, case, accents and width taken out of it, marks left in."""
    folded = fold(composed(text))
    codes = folded_codes(folded)
    own = np.frombuffer(folded.encode("utf-32-le"), dtype="<u4")
    return np.where(codes != 0, codes, own).astype("<u4").tobytes().decode("utf-32-le")


def cut(plain: str) -> Cut:
    """Cut what `plain_of` gives into clauses, units, pairs and words; two units with a space between are a pair too."""
    codes = folded_codes(plain)
    own = np.frombuffer(plain.encode("utf-32-le"), dtype="<u4")
    starts, ends, follows = units_of(codes)
    between = own[ends[:-1]] == _SPACE  # every unit but the last has something after it
    spaced = are_spaced(codes)[starts]
    follows[1:] |= between & (starts[1:] == ends[:-1] + 1) & spaced[1:] & spaced[:-1]
    breaks = np.isin(own, _CLAUSE_ENDS)
    breaks[:-1] |= (own[:-1] == _FULL_STOP) & (own[1:] == _SPACE)
    clause = np.cumsum(breaks, dtype=np.intp)
    units, second = hashes_of(codes, starts, ends), np.flatnonzero(follows)
    firsts, lasts = np.array(_words(plain), dtype=np.intp).reshape(-1, 2).T

    def terms(hashes: Hashes, at: Places) -> Terms:
        return Terms(hashes, at, clause[at])

    return Cut(
        plain,
        int(clause[-1]) + 1 if len(clause) else 1,
        {
            "unit": terms(units, starts),
            "pair": terms(pair_hashes(units, second), starts[second - 1]),
            "word": terms(hashes_of(own, firsts, lasts), firsts),
        },
    )


@lru_cache(maxsize=KEPT)
def _kept(text: str) -> Cut:
    return cut(plain_of(text))


def _words(plain: str) -> list[tuple[int, int]]:
    """Where the words begin and end that have a letter or digit."""
    words = []
    for start, end in pairwise([*np.flatnonzero(analyse(plain).begins).tolist(), len(plain)]):
        word = plain[start:end].strip()
        if any(map(str.isalnum, word)):
            first = start + plain[start:end].index(word)
            words.append((first, first + len(word)))
    return words


def _distinct(hashes: Hashes) -> Hashes:
    """Each once, in the order in which they come first."""
    _, first = np.unique(hashes, return_index=True)
    return hashes[np.sort(first)]


def _counts(terms: Hashes, text: Cut, kind: str) -> Floats:
    """How often each term is in each clause: float64 [clauses, terms]."""
    found = text.terms[kind]
    result = np.zeros((text.clauses, len(terms)))
    if len(terms):
        order = np.argsort(terms)
        place = order[np.minimum(np.searchsorted(terms, found.hashes, sorter=order), len(terms) - 1)]
        hits = terms[place] == found.hashes
        np.add.at(result, (found.clauses[hits], place[hits]), 1)
    return result


def _saturated(often: Floats, length: float) -> Floats:
    """BM25's gain from a term that is there so often, in a text of so many times the mean length."""
    return often * (K1 + 1) / (often + K1 * (1 - B + B * length))


def _best(counts: Floats, weights: Floats, size: int) -> float:
    """The most weight that `size` clauses in a row hold, each term once."""
    size = min(size, len(counts))
    sums = np.vstack([np.zeros((1, counts.shape[1])), np.cumsum(counts, axis=0)])
    return float((((sums[size:] - sums[:-size]) > 0) @ weights).max())


def _nearness(weights: Floats, places: Sequence[Places]) -> float:
    """The weight of all terms around the best of their own places, each less with its distance."""
    found = [(weight, at) for weight, at in zip(weights, places, strict=True) if weight and len(at)]
    if not found:
        return 0.0
    points = np.unique(np.concatenate([at for _, at in found]))
    return float(sum(weight * np.exp(-_distance(points, at) / REACH) for weight, at in found).max())


def _word_places(words: Sequence[str], hashes: Hashes, text: Cut) -> list[Places]:
    """Where words begin; a longer one is found where the paragraph was cut otherwise too."""
    places = text.places("word", hashes)
    for index, word in enumerate(words):
        if len(word) > 1:
            starts = [found.start() for found in re.finditer(f"(?={re.escape(word)})", text.plain)]
            places[index] = np.array(starts, dtype=np.intp)
    return places


def _distance(points: Places, at: Places) -> Places:
    """How far the nearest of some places, which are in order, is from each point."""
    after = np.searchsorted(at, points)
    left, right = at[np.maximum(after - 1, 0)], at[np.minimum(after, len(at) - 1)]
    return np.asarray(np.minimum(np.abs(points - left), np.abs(points - right)))


def _longest_run(question: str, text: str) -> float:
    """Length of the longest piece of the question that the text has, 0 if that is a single character."""
    longest = 0
    for piece in _BETWEEN.split(question):
        for start in range(len(piece)):
            while start + longest < len(piece) and piece[start : start + longest + 1] in text:
                longest += 1
    return float(longest) if longest > 1 else 0.0
