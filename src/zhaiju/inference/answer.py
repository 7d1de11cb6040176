"""answer: select, then read, ranked together.

Each of the `k` likeliest paragraphs is read, and their spans are ranked by
`weight * log p(paragraph) + span logit`. `k` and `weight` (λ) are fitted on labelled questions and kept with the
reader. `k = 1` is the hard pipeline of the course report: what the selector chose is read, whatever comes of it.

The selector is a trained one, or the lexical ranking (`zhaiju.corpus.features`) where none is named. Beside a trained
one that ranking's logits may count too, with a fitted weight, for the two err on different questions; and they can
spare it work: `Shortcuts` has it look at the likeliest few only, and stop where two of these leave no doubt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from zhaiju import files
from zhaiju.data.examples import QAExample, ReadPrediction, SelectPrediction
from zhaiju.errors import ConfigError
from zhaiju.inference.engine import Predictor, Progress
from zhaiju.modeling.checkpoint import Meta, read_meta
from zhaiju.tasks import ReadTask, SelectTask
from zhaiju.tasks.base import Task, log_softmax
from zhaiju.tasks.metrics import course

JOINT_FILE = "answer.json"
LEXICAL_RANKING = "lexical"  # under this name the file keeps what was fitted without a trained selector
POOL_QUESTIONS = 512  # two pools of the engine, so that it tokenises, computes and decodes side by side
FIRST_LOOK = 2
UNSEEN = -1e4  # the score of a paragraph that was ruled out unseen
MOST_PARAGRAPHS = 4
LEXICAL = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0)
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)

Lexical = Callable[[str, Sequence[str]], Any]  # a question and paragraphs to a logit for each: float64 [paragraphs]


@dataclass(frozen=True)
class Joint:
    """How paragraphs and spans are ranked together.

    Attributes:
        k: Paragraphs to read.
        weight: λ, the weight of the paragraph's log-probability.
        lexical: Weight of the lexical ranking's logits beside those of a trained selector.
    """

    k: int = 1
    weight: float = 0.0
    lexical: float = 0.0

    def __post_init__(self) -> None:
        if type(self.k) is not int or self.k < 1:
            raise ConfigError(f"k is {self.k!r}, expected a whole number of at least 1")
        if not isinstance(self.weight, int | float) or not 0 <= self.weight < np.inf:
            raise ConfigError(f"weight (λ) is {self.weight!r}, expected a number of at least 0")
        if not isinstance(self.lexical, int | float) or not 0 <= self.lexical < np.inf:
            raise ConfigError(f"lexical is {self.lexical!r}, expected a number of at least 0")


PIPELINE = Joint()


@dataclass(frozen=True)
class Shortcuts:
    """Paragraphs that a trained selector need not look at. Both cost accuracy; `Spared` tells how much at most.

    Attributes:
        prefilter: Only this many, the first of the lexical ranking; None: all.
        certain: Look at the first two of the lexical ranking, and not at the others where one of the two has at least
            this probability against the other, 0.5..1; None: look at all.
    """

    prefilter: int | None = None
    certain: float | None = None

    def __post_init__(self) -> None:
        if self.prefilter is not None and self.prefilter < 1:
            raise ConfigError(f"prefilter is {self.prefilter}, expected at least 1 paragraph")
        if self.certain is not None and not 0.5 <= self.certain <= 1:
            raise ConfigError(f"certain is {self.certain:g}, expected a probability from 0.5 to 1")


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate paragraph and what came of it.

    Attributes:
        index: Its place among the candidates.
        score: Its probability of being the right one of them, 0..1.
        read: Whether a quote was looked for in it.
    """

    index: int
    score: float
    read: bool


@dataclass(frozen=True, slots=True)
class Answered:
    """A question, and how its answer came about.

    Attributes:
        example: The question.
        selected: How likely each of its paragraphs is.
        readings: What was read in the likeliest of them, likeliest first.
        prediction: The answer.
    """

    example: QAExample
    selected: SelectPrediction
    readings: Sequence[ReadPrediction]
    prediction: ReadPrediction

    @property
    def ranked(self) -> tuple[Ranked, ...]:
        """All candidates, likeliest first."""
        return rank(self.selected, self.readings)


class Confidence(Protocol):
    """Judges answers."""

    @property
    def threshold(self) -> float:
        """Confidence below which the paragraphs are taken not to hold the answer."""
        ...

    def judge(self, question: str, text: str, logit: float, prediction: ReadPrediction) -> float:
        """Probability that an answer is right, 0..1, from its paragraph and the selector's logit of that."""
        ...


@dataclass
class Spared:
    """What shortcuts did so far.

    Attributes:
        paragraphs: Candidates in all.
        scored: Those that the selector scored.
        labelled: Questions that say which paragraph is right.
        lost: Those of them whose right paragraph was ruled out unseen: what the shortcuts cost at most.
    """

    paragraphs: int = 0
    scored: int = 0
    labelled: int = 0
    lost: int = 0


class Answerer:
    """A selector and a reader joined.

    Args:
        reader: Engine of a checkpoint for read.
        selector: Engine of a checkpoint for select, or the lexical ranking in its place.
        read_task: Settings of the span search.
        select_task: Settings of the selector.
        joint: How both are weighed.
        lexical: The lexical ranking beside a trained selector; None: it does not count.
        shortcuts: Which paragraphs the selector need not look at; none unless asked for.
        confidence: Judges the answers; None: their confidence is their own score.

    Attributes:
        spared: What the shortcuts did so far.

    Raises:
        ConfigError: there are shortcuts, and no lexical ranking beside the selector.
    """

    def __init__(
        self,
        reader: Predictor,
        selector: Predictor,
        *,
        read_task: Task[Any, Any] | None = None,
        select_task: Task[Any, Any] | None = None,
        joint: Joint | None = None,
        lexical: Lexical | None = None,
        shortcuts: Shortcuts | None = None,
        confidence: Confidence | None = None,
    ) -> None:
        self.confidence = confidence
        self.shortcuts = shortcuts or Shortcuts()
        if self.shortcuts != Shortcuts() and lexical is None:
            raise ConfigError("prefilter and certain spare a trained selector work; there is none")
        self.spared = Spared()
        self.reader = reader
        self.selector = selector
        self.read_task = read_task or ReadTask()
        self.select_task = select_task or SelectTask()
        self.joint = joint or Joint()
        self.lexical = lexical

    def predict(self, examples: Iterable[QAExample], *, progress: Progress | None = None) -> Iterator[ReadPrediction]:
        """One answer an example, in order; its `index` and `source` say which candidate it quotes."""
        source = iter(examples)
        while pool := list(islice(source, POOL_QUESTIONS)):
            for answered in self.answers(pool):
                yield answered.prediction
            if progress is not None:
                progress(len(pool))

    @property
    def threshold(self) -> float | None:
        """Confidence below which the paragraphs are taken not to hold the answer; None: no answer is judged."""
        return None if self.confidence is None else self.confidence.threshold

    def answers(self, pool: Sequence[QAExample]) -> Iterator[Answered]:
        """The answer to each question, and how it came about."""
        for example, selected, readings in self.readings(pool, self.joint):
            found = join(example, selected, readings, self.joint)
            confidence = found.score
            if self.confidence is not None:
                text, logit = example.contexts[found.index].text, selected.scores[found.index]
                confidence = self.confidence.judge(example.question, text, logit, found)
            yield Answered(example, selected, readings, replace(found, confidence=confidence))

    def readings(
        self, pool: Sequence[QAExample], joint: Joint
    ) -> Iterator[tuple[QAExample, SelectPrediction, list[ReadPrediction]]]:
        """For each example the selection and what was read in its `joint.k` likeliest paragraphs, likeliest first."""
        selections = list(self.select(pool, joint))
        wanted = [
            [
                int(index)
                for index in np.argsort([-score for score in selected.scores], kind="stable")[: joint.k]
                if selected.scores[index] > UNSEEN / 2
            ]
            for selected in selections
        ]
        single = (
            replace(example, contexts=(example.contexts[index],), relevant=0, answers=(), gold=())
            for example, indices in zip(pool, wanted, strict=True)
            for index in indices
        )
        readings = self.reader.predict(self.read_task, single)
        for example, selected, indices in zip(pool, selections, wanted, strict=True):
            yield example, selected, [replace(next(readings), index=index) for index in indices]

    def select(self, pool: Sequence[QAExample], joint: Joint) -> Iterator[SelectPrediction]:
        """The selector's choice for each example, the lexical ranking's logits added with their weight."""
        if self.lexical is None or (self.shortcuts == Shortcuts() and not joint.lexical):
            yield from self.selector.predict(self.select_task, pool)
            return
        lexical = [self.lexical(example.question, [one.text for one in example.contexts]) for example in pool]
        if self.shortcuts == Shortcuts():
            found: Iterable[SelectPrediction] = self.selector.predict(self.select_task, pool)
        else:
            found = self._shortcut(pool, lexical)
        for example, selected, scores in zip(pool, found, lexical, strict=True):
            yield mix(example, selected, scores, joint)

    def _shortcut(self, pool: Sequence[QAExample], lexical: Sequence[Any]) -> Iterator[SelectPrediction]:
        """Selections that look at some of the paragraphs only."""
        order = [np.argsort(-scores, kind="stable")[: self.shortcuts.prefilter] for scores in lexical]
        scores = [np.full(len(example.contexts), UNSEEN) for example in pool]
        wanted = [places if self.shortcuts.certain is None else places[:FIRST_LOOK] for places in order]
        self._score(pool, wanted, scores)
        if self.shortcuts.certain is not None:
            rest = [
                places[:0] if self._is_certain(scores[at][wanted[at]]) else places[FIRST_LOOK:]
                for at, places in enumerate(order)
            ]
            self._score(pool, rest, scores)
        for example, values in zip(pool, scores, strict=True):
            self.spared.paragraphs += len(values)
            self.spared.scored += int((values > UNSEEN).sum())
            if example.relevant is not None and len(values) > 1:
                self.spared.labelled += 1
                self.spared.lost += int(values[example.relevant] == UNSEEN)
            yield selection(example, values)

    def _is_certain(self, scores: Any) -> bool:
        return bool(np.exp(log_softmax(scores).max()) >= (self.shortcuts.certain or 0))

    def _score(self, pool: Sequence[QAExample], wanted: Sequence[Any], scores: Sequence[Any]) -> None:
        """Have the selector score the wanted paragraphs of each example, into `scores`."""
        asked = [at for at, places in enumerate(wanted) if len(places)]
        parts = (
            replace(
                pool[at],
                contexts=tuple(pool[at].contexts[place] for place in wanted[at]),
                relevant=None,
                answers=(),
                gold=(),
            )
            for at in asked
        )
        for at, selected in zip(asked, self.selector.predict(self.select_task, parts), strict=True):
            scores[at][wanted[at]] = selected.scores

    def fit(
        self, examples: Iterable[QAExample], *, progress: Progress | None = None
    ) -> tuple[Joint, list[dict[str, Any]]]:
        """Find the `k` and λ with the best EM (then F1) by the course's definition on labelled questions.

        Before them, beside a trained selector, the weight of the lexical ranking: the one under which the right
        paragraphs are likeliest.

        Args:
            examples: The questions.
            progress: Called with the number of examples done since the last call.

        Returns:
            The best, which this answerer then uses, and the whole grid: `k`, `weight`, `em`, `f1` each. Of equal
            ones the smallest `k` and then the smallest λ is taken; `PIPELINE` is among them.

        Raises:
            ConfigError: there is no labelled question.
        """
        examples = list(examples)
        base = Joint(lexical=self._fit_lexical(examples))
        source = iter(examples)
        read = []
        while pool := list(islice(source, POOL_QUESTIONS)):
            read += list(self.readings(pool, replace(base, k=MOST_PARAGRAPHS)))
            if progress is not None:
                progress(len(pool))
        if not any(example.gold for example, _, _ in read):
            raise ConfigError("there is no labelled question to fit on")
        grid = []
        for k in range(1, MOST_PARAGRAPHS + 1):
            for weight in WEIGHTS if k > 1 else (0.0,):
                joint = replace(base, k=k, weight=weight)
                scores = [
                    course(join(example, selected, readings[:k], joint).answer, example.gold)
                    for example, selected, readings in read
                    if example.gold
                ]
                em, f1 = np.mean(scores, axis=0)
                grid.append({"k": k, "weight": weight, "em": float(em), "f1": float(f1)})
        best = max(grid, key=lambda entry: (entry["em"], entry["f1"], -entry["k"], -entry["weight"]))
        self.joint = replace(base, k=int(best["k"]), weight=best["weight"])
        return self.joint, grid

    def _fit_lexical(self, examples: Sequence[QAExample]) -> float:
        known = [example for example in examples if example.relevant is not None and len(example.contexts) > 1]
        if self.lexical is None or not known:
            return 0.0
        rows = [
            (
                np.asarray(selected.scores),
                self.lexical(example.question, [context.text for context in example.contexts]),
                example.relevant,
            )
            for example, selected in zip(known, self.select(known, PIPELINE), strict=True)
        ]

        def likelihood(weight: float) -> float:
            return sum(float(log_softmax(logits + weight * scores)[right]) for logits, scores, right in rows)

        return max(LEXICAL, key=likelihood)


def mix(example: QAExample, selected: SelectPrediction, lexical: Sequence[float], joint: Joint) -> SelectPrediction:
    """A selector's prediction with the lexical ranking's logits added to its own, with their weight."""
    own = np.asarray(selected.scores, dtype=np.float64)
    both = own + joint.lexical * np.asarray(lexical, dtype=np.float64)
    return selection(example, np.where(own > UNSEEN, both, UNSEEN))


def selection(example: QAExample, scores: Any) -> SelectPrediction:
    """The prediction that a score for each paragraph makes; of equal ones the first."""
    best = int(scores.argmax())
    return SelectPrediction(
        id=example.id,
        index=best,
        source=example.contexts[best].source,
        score=float(np.exp(log_softmax(scores)[best])),
        scores=tuple(scores.tolist()),
    )


def join(
    example: QAExample, selected: SelectPrediction, readings: Sequence[ReadPrediction], joint: Joint
) -> ReadPrediction:
    """Rank the spans of several readings of one question.

    The score is the span's probability among all spans of the paragraphs read, paragraphs weighed with λ, times the
    probability that the answer is in one of these paragraphs at all.
    """
    logs = log_softmax(np.asarray(selected.scores))
    read = [reading.index for reading in readings]
    weights = joint.weight * logs[read]
    mass = float(np.exp(logs[read]).sum())
    evidence = -np.inf
    entries = []
    for weight, reading in zip(weights, readings, strict=True):
        if not reading.n_best:
            continue
        top = reading.n_best[0]
        evidence = float(np.logaddexp(evidence, weight + top.logit - np.log(max(top.score, 1e-300))))
        entries += [(float(weight) + candidate.logit, reading, candidate) for candidate in reading.n_best]
    if not entries:
        return replace(readings[0], id=example.id)
    entries.sort(key=lambda entry: -entry[0])
    n_best = tuple(
        replace(candidate, logit=rank, score=min(1.0, float(np.exp(rank - evidence)) * mass))
        for rank, _, candidate in entries
    )[: max(len(reading.n_best) for reading in readings)]
    reading = entries[0][1]
    best = n_best[0]
    chosen = float(np.exp(logs[reading.index]))
    if not reading.answer:  # its no-answer logit won
        return replace(reading, id=example.id, n_best=n_best, selected=chosen)
    return ReadPrediction(
        id=example.id,
        answer=best.text,
        start=best.start,
        end=best.end,
        score=best.score,
        source=best.source,
        n_best=n_best,
        null_score=reading.null_score,
        index=reading.index,
        selected=chosen,
    )


def rank(selected: SelectPrediction, readings: Sequence[ReadPrediction]) -> tuple[Ranked, ...]:
    """All candidates of a question, likeliest first."""
    read = [reading.index for reading in readings]
    scores = np.asarray(selected.scores)
    odds = np.exp(log_softmax(scores))
    order = np.argsort(-scores, kind="stable").tolist()
    return tuple(Ranked(index, float(odds[index]), index in read) for index in order)


def _pair(reader: str, selector: str | None) -> str:
    """A name for the selector's weights, and for both temperatures, which what was fitted depends on too."""
    # A hub's checkpoint is not calibrated anew here, so its id says enough.
    metas = [read_meta(where) if where and Path(where).is_dir() else Meta() for where in (reader, selector)]
    name = LEXICAL_RANKING
    if selector is not None:
        path = Path(selector) / "model.safetensors"
        name = files.fingerprint(path) if path.is_file() else metas[1].weights or selector
    temperatures = [meta.temperature for meta in metas]
    return name if temperatures == [1.0, 1.0] else f"{name} at {temperatures[0]:g} and {temperatures[1]:g}"


def save_joint(reader: str, selector: str | None, joint: Joint, about: dict[str, Any]) -> Path:
    """Keep a pair's `k` and λ in the reader's checkpoint, under the fingerprint of the selector's weights.

    Both temperatures are part of it: calibrated anew, the pair is to be fitted anew.

    Args:
        reader: The reader's checkpoint directory.
        selector: The selector's checkpoint directory or hub id; None: the lexical ranking.
        joint: What was fitted.
        about: What it was fitted on, for the record.

    Raises:
        ConfigError: the reader is a hub id, not a directory.
    """
    if not Path(reader).is_dir():
        raise ConfigError(f"{reader} is not a directory, so k and λ cannot be kept with it; download it to one")
    path = Path(reader) / JOINT_FILE
    files.write_json(path, _pairs(path) | {_pair(reader, selector): asdict(joint) | about})
    return path


def load_joint(reader: str, selector: str | None) -> Joint | None:
    """The `k` and λ that were fitted for this very pair, or None.

    Args:
        reader: The reader's checkpoint directory or hub id.
        selector: The selector's; None: the lexical ranking.

    Raises:
        ConfigError: the file is not what `save_joint` writes.
    """
    path = Path(reader) / JOINT_FILE
    entry = _pairs(path).get(_pair(reader, selector))
    try:
        return None if entry is None else Joint(entry["k"], entry["weight"], entry["lexical"])
    except (ConfigError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; remove it and fit again") from None


def _pairs(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        pairs = files.read_json(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; remove it and fit again") from None
    return pairs if isinstance(pairs, dict) else {}
