"""ask: from a question to a quote out of documents, and how far to trust it.

Paragraphs are found by BM25, the best of them ranked by lexical features or by a trained selector, the likeliest read.
Whether the quote is right is judged by a logistic regression over what the three stages saw; below its threshold the
documents are said not to hold the answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from zhaiju import files
from zhaiju.corpus.documents import CLOSERS, Paragraph
from zhaiju.corpus.joined import join_up
from zhaiju.corpus.lexical import BM25, terms
from zhaiju.data.examples import Candidate, Context, QAExample, ReadPrediction
from zhaiju.errors import ConfigError, DataError
from zhaiju.inference.answer import Answerer, join, rank
from zhaiju.inference.engine import Engine, make_engine
from zhaiju.modeling.checkpoint import STARTER, Checkpoint, load, starter

TRUST_FILE = "trust.json"
CANDIDATES = 5
READ_N_BEST = 200  # before overlapping spans are left out
SIGNALS = ("coverage", "sentence", "lexical", "null", "span")
RIDGE = 1.0
STEPS = 50
# A full stop ends a sentence only after three letters or digits, so that "Dr." and "e.g." do not.
_SENTENCE_END = re.compile(rf"(?:[。！？!?]+[{CLOSERS}]*|(?<=\w{{3}})\.[{CLOSERS}]*(?=\s)|\n)\s*")


class Found(Protocol):
    """A paragraph that a search found."""

    @property
    def paragraph(self) -> Paragraph:
        """The paragraph."""
        ...

    @property
    def score(self) -> float:
        """What it was found by, the higher the better."""
        ...


class Searchable(Protocol):
    """Where paragraphs are found: an `Index` on disk, or `Paragraphs` in memory."""

    def search(self, question: str, k: int) -> Sequence[Found]:
        """The best `k` paragraphs for a question, best first."""
        ...


@dataclass(frozen=True, slots=True)
class Hit:
    """A paragraph found in memory, with its BM25 score."""

    paragraph: Paragraph
    score: float


class Paragraphs:
    """Paragraphs in memory, searched by BM25.

    Args:
        paragraphs: All of them.
    """

    def __init__(self, paragraphs: Sequence[Paragraph]) -> None:
        self.paragraphs = paragraphs
        self._index = BM25([paragraph.text for paragraph in paragraphs])

    def search(self, question: str, k: int) -> list[Hit]:
        """The best `k` paragraphs that share anything with the question, best first."""
        return [Hit(self.paragraphs[place], score) for place, score in self._index.top(question, k)]


@dataclass(frozen=True, slots=True)
class Quote:
    """One answer: `text` is `paragraph.text[start:end]`.

    Attributes:
        text: The quote.
        start: Its first character in the paragraph.
        end: The one after its last.
        paragraph: Where it stands.
        score: Its probability among all spans of the paragraphs read, times that of these paragraphs, 0..1.
    """

    text: str
    start: int
    end: int
    paragraph: Paragraph
    score: float

    @property
    def source(self) -> str:
        """The document and the place in it."""
        return self.paragraph.source

    @property
    def sentence(self) -> str:
        """The sentences that it lies in."""
        first, last = sentence_around(self.paragraph.text, self.start, self.end)
        return self.paragraph.text[first:last]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "answer": self.text,
            "start": self.start,
            "end": self.end,
            "score": self.score,
            "source": self.source,
            "document": self.paragraph.document,
            "line": self.paragraph.line,
            "page": self.paragraph.page,
            "number": self.paragraph.number,
            "heading": self.paragraph.heading,
            "sentence": self.sentence,
            "paragraph": self.paragraph.text,
        }


@dataclass(frozen=True, slots=True)
class Considered:
    """A paragraph that was found for a question.

    Attributes:
        paragraph: The paragraph.
        score: Its probability of being the right one of those found, 0..1.
        read: Whether a quote was looked for in it.
    """

    paragraph: Paragraph
    score: float
    read: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What documents say to a question.

    Attributes:
        question: The question.
        quotes: Best first, none overlapping a better one; empty if nothing in the documents shares a word with the
            question.
        confidence: Probability that the first one is right, 0..1.
        threshold: Confidence below which the documents are taken not to hold the answer; None: not calibrated.
        considered: The paragraphs that were found, likeliest first.
    """

    question: str
    quotes: tuple[Quote, ...]
    confidence: float
    threshold: float | None
    considered: tuple[Considered, ...] = ()

    @property
    def found(self) -> bool:
        """Whether the documents are taken to hold the answer."""
        return bool(self.quotes) and (self.threshold is None or self.confidence >= self.threshold)

    def as_dict(self, number: int) -> dict[str, Any]:
        """For JSON, with the first `number` quotes; "answer" is "" where the documents do not hold it."""
        return {
            "question": self.question,
            "found": self.found,
            "answer": self.quotes[0].text if self.found else "",
            "confidence": self.confidence,
            "threshold": self.threshold,
            "quotes": [quote.as_dict() for quote in self.quotes[:number]],
        }


@dataclass(frozen=True)
class Trust:
    """How likely an answer is right, by logistic regression over `SIGNALS`.

    Attributes:
        mean: Mean of each signal where it was fitted.
        spread: Its standard deviation there.
        weights: Of the standardised signals.
        bias: Added to their sum.
        threshold: Confidence below which to abstain.
    """

    mean: tuple[float, ...]
    spread: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    threshold: float

    def confidence(self, signals: Sequence[float]) -> float:
        """Probability that the answer is right, 0..1."""
        standard = (np.asarray(signals) - self.mean) / self.spread
        return float(_logistic(standard @ np.asarray(self.weights) + self.bias))

    @classmethod
    def fit(cls, signals: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], *, keep: float) -> Trust:
        """Fit by Newton's method with a ridge penalty.

        Args:
            signals: float64 [answers, signals], of questions whose paragraph is there and of others.
            right: bool [answers].
            keep: Share of the right answers that the threshold lets through.

        Raises:
            ConfigError: all answers are right, or none is.
        """
        if right.all() or not right.any():
            raise ConfigError("confidence needs right and wrong answers to be fitted on")
        mean, spread = signals.mean(0), np.maximum(signals.std(0), 1e-6)
        inputs = np.column_stack([(signals - mean) / spread, np.ones(len(signals))])
        weights = np.zeros(inputs.shape[1])
        penalty = np.full(len(weights), RIDGE)
        penalty[-1] = 1e-6
        for _ in range(STEPS):
            odds = _logistic(inputs @ weights)
            slope = inputs.T @ (odds - right) + penalty * weights
            curve = (inputs * (odds * (1 - odds))[:, None]).T @ inputs + np.diag(penalty)
            weights = weights - np.linalg.solve(curve, slope)
        fitted = cls(tuple(mean.tolist()), tuple(spread.tolist()), tuple(weights[:-1].tolist()), float(weights[-1]), 0)
        confidences = [fitted.confidence(row) for row in signals[right]]
        return replace(fitted, threshold=float(np.quantile(confidences, 1 - keep, method="lower")))

    @classmethod
    def load(cls, directory: str | Path) -> Trust | None:
        """What `save` kept in a reader's directory; None where nothing was.

        Raises:
            ConfigError: the file is not what `save` writes.
        """
        path = Path(directory) / TRUST_FILE
        if not path.is_file():
            return None
        try:
            values = files.read_json(path)
            if tuple(values["signals"]) != SIGNALS:
                raise ValueError(f"it weighs {values['signals']}, expected {list(SIGNALS)}")
            rows = {name: tuple(map(float, values[name])) for name in ("mean", "spread", "weights")}
            if any(len(row) != len(SIGNALS) for row in rows.values()):
                raise ValueError(f"expected {len(SIGNALS)} numbers each")
            trust = cls(**rows, bias=float(values["bias"]), threshold=float(values["threshold"]))
            if min(trust.spread) <= 0 or not np.isfinite([*sum(rows.values(), ()), trust.bias, trust.threshold]).all():
                raise ValueError("expected finite numbers, those of spread above 0")
            return trust
        except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
            raise ConfigError(f"{path} cannot be read: {error!r}") from None

    def save(self, directory: str | Path, about: Mapping[str, Any]) -> None:
        """Keep it in a reader's directory, with what it was fitted on."""
        values = {"signals": list(SIGNALS), **asdict(self), "about": dict(about)}
        files.write_json(Path(directory) / TRUST_FILE, values)


def _logistic(logits: Any) -> Any:
    return 1 / (1 + np.exp(-np.clip(logits, -50, 50)))


class Asker:
    """Searches, selects and reads.

    Args:
        answerer: A selector and a reader joined.
        trust: Judges the answers; None: the confidence is the answer's own score, and nothing is held back.
        candidates: Paragraphs to select from.
    """

    def __init__(self, answerer: Answerer, trust: Trust | None = None, *, candidates: int = CANDIDATES) -> None:
        self.answerer = answerer
        self.trust = trust
        self.candidates = candidates

    def ask(self, question: str, source: Searchable) -> Answer:
        """Answer a question from documents.

        Args:
            question: The question.
            source: Where to search.

        Raises:
            DataError: the question is empty, or does not fit the reader's window.
        """
        answer, _ = self.examine(question, source)
        return answer

    def examine(self, question: str, source: Searchable) -> tuple[Answer, tuple[float, ...]]:
        """The answer, and the signals by which it is judged (zeros where nothing was found)."""
        hits = source.search(question, self.candidates)
        if not hits:
            return Answer(question, (), 0.0, self._threshold), (0.0,) * len(SIGNALS)
        contexts = tuple(Context(hit.paragraph.text, str(place)) for place, hit in enumerate(hits))
        example = QAExample("ask", question, contexts, relevant=0 if len(contexts) == 1 else None)
        joint = self.answerer.joint
        try:
            _, selected, readings = next(iter(self.answerer.readings([example], joint)))
        except DataError as error:  # "ask" is no row that the asker knows of
            raise DataError(error.problem, field=error.field, found=error.found, expected=error.expected) from None
        prediction = join(example, selected, readings, joint)
        hit = hits[prediction.index]
        signals = _signals(question, hit, selected.scores[prediction.index], prediction)
        confidence = prediction.score if self.trust is None else self.trust.confidence(signals)
        considered = tuple(
            Considered(hits[one.index].paragraph, one.score, one.read) for one in rank(selected, readings)
        )
        return Answer(question, tuple(_quotes(prediction, hits)), confidence, self._threshold, considered), signals

    @property
    def _threshold(self) -> float | None:
        return None if self.trust is None else self.trust.threshold


def _quotes(prediction: ReadPrediction, hits: Sequence[Found]) -> Iterator[Quote]:
    """The n best spans without those that overlap a better one."""
    taken: list[Candidate] = []
    for candidate in prediction.n_best:
        if any(
            other.source == candidate.source and other.start < candidate.end and candidate.start < other.end
            for other in taken
        ):
            continue
        taken.append(candidate)
        paragraph = hits[int(candidate.source)].paragraph
        yield Quote(candidate.text, candidate.start, candidate.end, paragraph, candidate.score)


def _signals(question: str, hit: Found, logit: float, prediction: ReadPrediction) -> tuple[float, ...]:
    """None of them depends on how many other paragraphs there are: two are judged as two million are."""
    asked = set(terms(question))
    text = hit.paragraph.text
    first, last = sentence_around(text, prediction.start, prediction.end)
    score = prediction.n_best[0].score if prediction.n_best else 0.0
    return (
        len(asked & set(terms(text))) / max(1, len(asked)),
        len(asked & set(terms(text[first:last]))) / max(1, len(asked)),
        logit,
        float(np.clip(prediction.null_score or 0.0, -30, 30)),
        math.log(max(score, 1e-6)),
    )


def load_asker(reader: str = STARTER, selector: str | None = None, *, candidates: int = CANDIDATES) -> Asker:
    """An `Asker` from checkpoints.

    Args:
        reader: "starter", a run, a checkpoint directory or a hub id.
        selector: A run, a checkpoint directory or a hub id; None: the lexical ranking selects.
        candidates: Paragraphs to select from.

    Raises:
        CheckpointError: one of them cannot be loaded.
    """

    def open_one(what: str, task: str) -> tuple[Engine, Checkpoint]:
        checkpoint = load(what, task)
        return make_engine(checkpoint), checkpoint

    joined = join_up(open_one, reader, selector, n_best=READ_N_BEST)
    return Asker(joined.answerer, trust_of(*joined.where), candidates=candidates)


def trust_of(reader: str, selector: str | None) -> Trust | None:
    """What judges the answers of the packaged reader where the lexical ranking selects; others were not fitted.

    Args:
        reader: The reader's directory or hub id.
        selector: The selector's; None: the lexical ranking.

    Raises:
        ConfigError: what is kept is damaged.
    """
    return Trust.load(reader) if (reader, selector) == (str(starter("read")), None) else None


def sentence_around(text: str, start: int, end: int) -> tuple[int, int]:
    """The sentences that `[start, end)` lies in, as `[first, last)` without white space around them."""
    first, last = 0, len(text)
    for match in _SENTENCE_END.finditer(text):
        if match.end() <= start:
            first = match.end()
        elif match.end() >= end:
            last = match.end()
            break
    first += len(text[first:start]) - len(text[first:start].lstrip())
    return first, end + len(text[end:last].rstrip())
