"""What words alone say of a paragraph: eleven voices beside BM25, and the weights under which they choose.

BM25 (Robertson and Zaragoza, 2009) takes a paragraph as a heap of terms. That the terms of a question stand *together*
says more, so most voices look at the best place of a paragraph: the best clause, the best few clauses in a row, the
point around which the question's words are nearest (a kernel over positions, as in Lv and Zhai, 2009). The words that
ask (什麼, 哪一年, 多少) are taken out of the question where that helps. Script, case, accents and width do not count.

Nothing here has learnt words; only one weight a voice is fitted, by a conditional logit (McFadden, 1974): the weighted
sum is a logit as it stands, and the weights are kept in a file beside the selector that they were weighed against.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zhaiju import files
from zhaiju.corpus.lexical import K1, B, _composed, _folded_codes, _units
from zhaiju.corpus.words import CLASSES, analyse
from zhaiju.data.script import fold
from zhaiju.errors import ConfigError
from zhaiju.inference.answer import VOICES_FILE

if TYPE_CHECKING:
    from zhaiju.data.examples import Context, QAExample
    from zhaiju.inference.answer import Lexical

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

VOICES = (
    "nearness",  # rarity of the question's words, each less the farther it is from the best point
    "units",  # BM25 over units, without the words that ask
    "pairs in eight clauses",  # rarity of the pairs found in the best eight clauses in a row
    "names",  # BM25 over names of persons, places, organisations, Latin words, idioms
    "units in four clauses",
    "longest run",  # characters of the longest piece of the question that is there word for word
    "only here",  # rarity of units that few of the candidates have
    "words in four clauses",
    "one clause",  # rarity of units and pairs found in the best clause
    "quoted",  # how many of the question's quoted titles are there
    "pairs, share",  # share of the rarity of the question's pairs that is there at all
)
REACH = 16.0  # characters at which a word counts e times less for `nearness`
KEPT = 4096  # paragraphs that are kept cut up; others are cut again when they are candidates
BLOCK = 1024
RIDGE = 3.0
STEPS = 100

_KINDS = ("unit", "pair", "word")
_CLAUSE_ENDS = frozenset("。！？!?；;\n，,")
_NAMES = tuple(CLASSES.index(name) for name in ("person", "place", "organisation", "proper noun", "latin", "idiom"))
_ASKING = re.compile(  # in folded text
    "(?:(?:是|为|在|于|有|由|被|叫|叫做|称为)?"
    "(?:哪一?[个位种座条年些里家本部场项所支间块段颗]?|什么|甚么|何[时处地人者种年事物]|为何|如何|何|谁|多少"
    "|多[久长高大远]|几[个位种座条年次人岁]?|怎[么样麽]+|是否|请问)(?:时候|地方|原因|名字)?)|[吗呢嘛]"
)
_QUOTED = re.compile('[「『《〈“"]([^」』》〉”"]{2,20})[」』》〉”"]')
_BETWEEN = re.compile(r"[^\w]+")
_TURN = np.int64(0x1E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class _Terms:
    """A text's terms of one kind, in order.

    Attributes:
        names: Which terms they are, as Python's hashes of them: the same within a process.
        at: The character at which each begins.
        clauses: The clause that it begins in, from 0.
    """

    names: Ints
    at: Ints
    clauses: Ints


@dataclass(frozen=True, slots=True)
class _Text:
    """A text cut up; `plain` is what positions are in."""

    plain: str
    clauses: int
    terms: Mapping[str, _Terms]


class Voices:
    """Paragraphs cut up, and how rare their terms are.

    Args:
        texts: The paragraphs.
        progress: Called with the number of paragraphs done since the last call.
    """

    def __init__(self, texts: Sequence[str], *, progress: Callable[[int], None] = lambda done: None) -> None:
        self.count = len(texts)
        self._texts: dict[str, _Text] = {}
        self._found = {kind: (np.zeros(0, np.int64), np.zeros(0, np.int64)) for kind in _KINDS}
        total = dict.fromkeys(_KINDS, 0)
        for start in range(0, len(texts), BLOCK):
            cut = []
            for text in texts[start : start + BLOCK]:
                cut.append(self._texts.get(text) or _cut(_plain(text)))
                if len(self._texts) < KEPT:
                    self._texts[text] = cut[-1]
                progress(1)
            for kind in _KINDS:
                names = [text.terms[kind].names for text in cut]
                total[kind] += sum(map(len, names))
                self._found[kind] = _counted(*self._found[kind], [np.unique(one) for one in names])
        self._mean = {kind: total[kind] / max(1, self.count) or 1.0 for kind in _KINDS}

    def table(self, question: str, texts: Sequence[str]) -> Floats:
        """What each voice says of each candidate: float64 [texts, len(VOICES)].

        "only here" compares the candidates, all others look at each by itself.

        Args:
            question: The question.
            texts: The candidates; rarity is counted over the paragraphs of this object, whether they are among them
                or not.
        """
        plain = _plain(question)
        asked, bare = _cut(plain), _cut(_ASKING.sub("\n", plain))
        told = [self._texts.get(text) or _cut(_plain(text)) for text in texts]
        words, _, classes = _words(plain)
        words, classes = _first_of_each(words, classes)
        terms = {kind: _distinct(asked.terms[kind].names) for kind in _KINDS}
        rarity = {kind: self._rarity(kind, terms[kind]) for kind in _KINDS}
        stays = {kind: np.isin(terms[kind], bare.terms[kind].names) for kind in _KINDS}
        weights = {kind: rarity[kind] * stays[kind] for kind in _KINDS}
        named = np.isin(classes, _NAMES)
        quoted = set(_QUOTED.findall(plain))
        counts = [{kind: _counts(terms[kind], text, kind) for kind in _KINDS} for text in told]
        having = np.array([count["unit"].sum(0) > 0 for count in counts]).reshape(len(told), len(terms["unit"]))
        alone = np.log((len(told) + 0.5) / np.maximum(having.sum(0), 1))
        all_pairs = float(rarity["pair"].sum()) or 1.0
        rows = []
        for text, count, has in zip(told, counts, having, strict=True):
            often = {kind: count[kind].sum(0) for kind in _KINDS}
            length = {kind: len(text.terms[kind].names) / self._mean[kind] for kind in _KINDS}
            units, pairs = ((count[kind] > 0) @ weights[kind] for kind in ("unit", "pair"))
            rows.append(
                [
                    _nearness(words, terms["word"], weights["word"], stays["word"], text),
                    float(_saturated(often["unit"], length["unit"]) @ weights["unit"]),
                    _best(count["pair"], weights["pair"], 8),
                    float(_saturated(often["word"], length["word"]) @ (rarity["word"] * named)),
                    _best(count["unit"], weights["unit"], 4),
                    _longest_run(bare.plain, text.plain),
                    float((weights["unit"] * alone) @ has),
                    _best(count["word"], weights["word"], 4),
                    float((units + pairs).max()),
                    float(sum(title in text.plain for title in quoted)),
                    float(rarity["pair"] @ (often["pair"] > 0)) / all_pairs,
                ]
            )
        return np.array(rows, dtype=np.float64).reshape(len(told), len(VOICES))

    def _rarity(self, kind: str, names: Ints) -> Floats:
        """BM25's rarity of each term: float64 [terms]."""
        known, counts = self._found[kind]
        found = np.zeros(len(names))
        if len(known):
            place = np.minimum(np.searchsorted(known, names), len(known) - 1)
            found = np.where(known[place] == names, counts[place], 0).astype(np.float64)
        return np.log(1 + (self.count - found + 0.5) / (found + 0.5))


@dataclass(frozen=True)
class Weights:
    """How much each voice counts, and how much a selector beside them.

    Attributes:
        voices: One for each of `VOICES`; the weighted sum is a logit.
        selector: What the selector's logits are multiplied by before they are added to it.
    """

    voices: tuple[float, ...]
    selector: float

    @classmethod
    def load(cls, directory: str | Path) -> Weights | None:
        """What `save` kept in a selector's directory; None where nothing was.

        Raises:
            ConfigError: the file is not what `save` writes.
        """
        path = Path(directory) / VOICES_FILE
        if not path.is_file():
            return None
        try:
            values = files.read_json(path)
            named = values["voices"]
            if set(named) != set(VOICES):
                raise ValueError(f"it weighs {sorted(named)}, expected {sorted(VOICES)}")
            weights = cls(tuple(float(named[name]) for name in VOICES), float(values["selector"]))
            if not np.isfinite([*weights.voices, weights.selector]).all() or weights.selector < 0:
                raise ValueError("expected finite numbers, the selector's at least 0")
            return weights
        except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
            raise ConfigError(f"{path} cannot be read: {error!r}") from None

    def save(self, directory: str | Path, about: Mapping[str, Any]) -> None:
        """Keep it in a selector's directory, with what it was fitted on."""
        named = dict(zip(VOICES, self.voices, strict=True))
        files.write_json(
            Path(directory) / VOICES_FILE, {"voices": named, "selector": self.selector, "about": dict(about)}
        )


def voices_of(
    contexts: Sequence[Context], weights: Weights, *, progress: Callable[[int], None] = lambda done: None
) -> Lexical:
    """The weighted sum of the voices for an example's candidates, rarity counted over all `contexts`."""
    voices = Voices([context.text for context in contexts], progress=progress)
    weight = np.array(weights.voices)

    def scores(example: QAExample) -> list[float]:
        table = voices.table(example.question, [context.text for context in example.contexts])
        return [float(score) for score in table @ weight]

    return scores


def fit(tables: Sequence[Floats], right: Sequence[int], importance: Sequence[float], *, ridge: float = RIDGE) -> Floats:
    """Fit a conditional logit by Newton's method: float64 [voices].

    Args:
        tables: For each question float64 [candidates, voices].
        right: Which candidate is the right one.
        importance: How much each question counts.
        ridge: Penalty on the squared weights, voices measured in units of their spread within a question.
    """
    most = max(map(len, tables))
    values = np.zeros((len(tables), most, tables[0].shape[1]))
    there = np.zeros((len(tables), most), dtype=np.bool_)
    for row, table in enumerate(tables):
        values[row, : len(table)] = table
        there[row, : len(table)] = True
    values -= values.sum(1, keepdims=True) / there.sum(1)[:, None, None]
    values[~there] = 0
    spread = np.sqrt((values**2).sum((0, 1)) / there.sum()) + 1e-9
    values /= spread
    rows, chosen, counts = np.arange(len(tables)), np.asarray(right), np.asarray(importance, dtype=np.float64)

    def look(weights: Floats) -> tuple[float, Floats]:
        logits = np.where(there, values @ weights, -np.inf)
        logits -= logits.max(1, keepdims=True)
        total = np.log(np.exp(logits).sum(1))
        loss = float(-(counts * (logits[rows, chosen] - total)).sum() + ridge * (weights @ weights) / 2)
        return loss, np.exp(logits - total[:, None])

    weights = np.zeros(values.shape[2])
    loss, odds = look(weights)
    for _ in range(STEPS):
        mean = np.einsum("ij,ijk->ik", odds, values)
        slope = counts @ (mean - values[rows, chosen]) + ridge * weights
        curve = np.einsum("ij,ijk,ijl->kl", odds * counts[:, None], values, values, optimize=True)
        curve += ridge * np.eye(len(weights)) - (mean * counts[:, None]).T @ mean
        step = np.linalg.solve(curve, slope)
        size = 1.0
        while size > 1e-6 and look(weights - size * step)[0] > loss:
            size /= 2
        weights = weights - size * step
        before, (loss, odds) = loss, look(weights)
        if before - loss < 1e-10 * (1 + abs(loss)):
            break
    return np.asarray(weights / spread)


def _plain(text: str) -> str:
    """A text with script, case, accents and width taken out of it, marks left in."""
    folded = fold(_composed(text))
    codes = _folded_codes(folded)
    own = np.frombuffer(folded.encode("utf-32-le"), dtype="<u4")
    return np.where(codes != 0, codes, own).astype("<u4").tobytes().decode("utf-32-le")


def _cut(plain: str) -> _Text:
    """Cut a text into clauses, units, pairs and words."""
    codes = _folded_codes(plain)
    starts, ends, follows = _units(codes)
    units = _numbers([plain[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)])
    second = np.flatnonzero(follows)
    clause = np.cumsum(np.fromiter((character in _CLAUSE_ENDS for character in plain), np.int64, len(plain)))
    words, places, _ = _words(plain)

    def terms(names: Ints, at: Any) -> _Terms:
        positions = np.asarray(at, dtype=np.int64)
        return _Terms(names, positions, clause[positions])

    return _Text(
        plain,
        int(clause[-1]) + 1 if len(clause) else 1,
        {
            "unit": terms(units, starts),
            "pair": terms(units[second - 1] * _TURN + units[second], starts[second - 1]),
            "word": terms(_numbers(words), places),
        },
    )


def _words(plain: str) -> tuple[list[str], list[int], list[int]]:
    """Words that have a letter or digit: what they are, where they begin, the class of each."""
    hints = analyse(plain)
    words, places = [], []
    for start, end in pairwise([*np.flatnonzero(hints.begins).tolist(), len(plain)]):
        word = plain[start:end].strip()
        if any(map(str.isalnum, word)):
            words.append(word)
            places.append(start)
    return words, places, hints.classes[places].tolist() if places else []


def _numbers(terms: Sequence[str]) -> Ints:
    return np.fromiter(map(hash, terms), np.int64, len(terms))


def _distinct(names: Ints) -> Ints:
    """Each name once, in the order in which they come first."""
    _, first = np.unique(names, return_index=True)
    return names[np.sort(first)]


def _counted(known: Ints, counts: Ints, more: Sequence[Ints]) -> tuple[Ints, Ints]:
    """Terms in order and in how many paragraphs each is, with those of more paragraphs."""
    terms, place = np.unique(np.concatenate([known, *more]), return_inverse=True)
    added = np.bincount(place[len(known) :], minlength=len(terms))
    added[place[: len(known)]] += counts
    return terms, added


def _first_of_each(words: Sequence[str], classes: Sequence[int]) -> tuple[list[str], list[int]]:
    """Each word once, with the class that it has where it comes first."""
    found: dict[str, int] = {}
    for word, kind in zip(words, classes, strict=True):
        found.setdefault(word, kind)
    return list(found), list(found.values())


def _counts(terms: Ints, text: _Text, kind: str) -> Floats:
    """How often each term is in each clause: float64 [clauses, terms]."""
    found = text.terms[kind]
    result = np.zeros((text.clauses, len(terms)))
    if len(terms):
        order = np.argsort(terms)
        place = order[np.minimum(np.searchsorted(terms, found.names, sorter=order), len(terms) - 1)]
        hits = terms[place] == found.names
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


def _nearness(words: Sequence[str], names: Ints, weights: Floats, stays: Flags, text: _Text) -> float:
    """The weight of all words around the best of their own places, each less with its distance."""
    told = text.terms["word"]
    wanted = np.flatnonzero(stays)
    places = [
        # A longer word is found where the paragraph was cut otherwise too.
        _places(words[index], text.plain) if len(words[index]) > 1 else told.at[told.names == names[index]]
        for index in wanted.tolist()
    ]
    points = np.unique(np.concatenate([np.zeros(0, np.int64), *places]))
    total = np.zeros(len(points))
    for weight, at in zip(weights[wanted], places, strict=True):
        if len(at):
            total += weight * np.exp(-_distance(points, at) / REACH)
    return float(total.max()) if len(points) else 0.0


def _distance(points: Ints, at: Ints) -> Ints:
    """How far the nearest of some places, which are in order, is from each point."""
    after = np.searchsorted(at, points)
    left, right = at[np.maximum(after - 1, 0)], at[np.minimum(after, len(at) - 1)]
    return np.asarray(np.minimum(np.abs(points - left), np.abs(points - right)))


def _places(word: str, text: str) -> Ints:
    """Where a word stands in a text, overlapping or not."""
    result = []
    start = text.find(word)
    while start >= 0:
        result.append(start)
        start = text.find(word, start + 1)
    return np.array(result, dtype=np.int64)


def _longest_run(question: str, text: str) -> float:
    """Length of the longest piece of the question that the text has, 0 if that is a single character."""
    longest = 0
    for piece in _BETWEEN.split(question):
        for start in range(len(piece)):
            while start + longest < len(piece) and piece[start : start + longest + 1] in text:
                longest += 1
    return float(longest) if longest > 1 else 0.0
