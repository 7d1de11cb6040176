"""ask: from a question to a quote out of documents, and how far to trust it.

Paragraphs are found by BM25, the best of them ranked by lexical features or by a trained selector, the likeliest read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from zhaiju.corpus.confidence import sentence_around
from zhaiju.corpus.documents import Paragraph
from zhaiju.corpus.joined import join_up
from zhaiju.corpus.lexical import BM25
from zhaiju.data.examples import Candidate, ReadPrediction, asked_of
from zhaiju.errors import DataError
from zhaiju.inference.answer import Answerer
from zhaiju.inference.engine import Engine, make_engine
from zhaiju.modeling.checkpoint import STARTER, Checkpoint, load

CANDIDATES = 5
READ_N_BEST = 200  # before overlapping spans are left out


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
        null_score: See `ReadPrediction`.
        considered: The paragraphs that were found, likeliest first.
    """

    question: str
    quotes: tuple[Quote, ...]
    confidence: float
    threshold: float | None
    null_score: float | None = None
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


class Asker:
    """Searches, selects and reads.

    Args:
        answerer: A selector and a reader joined.
        candidates: Paragraphs to select from.
    """

    def __init__(self, answerer: Answerer, *, candidates: int = CANDIDATES) -> None:
        self.answerer = answerer
        self.candidates = candidates

    def ask(self, question: str, source: Searchable) -> Answer:
        """Answer a question from documents.

        Args:
            question: The question.
            source: Where to search.

        Raises:
            DataError: the question is empty, or does not fit the reader's window.
        """
        found = source.search(question, self.candidates)
        threshold = self.answerer.threshold
        if not found:
            return Answer(question, (), 0.0, threshold)
        example = asked_of("ask", question, [one.paragraph.text for one in found])
        try:
            answered = next(iter(self.answerer.answers([example])))
        except DataError as error:  # "ask" is no row that the asker knows of
            raise DataError(error.problem, field=error.field, found=error.found, expected=error.expected) from None
        prediction = answered.prediction
        considered = tuple(Considered(found[one.index].paragraph, one.score, one.read) for one in answered.ranked)
        quotes = tuple(_quotes(prediction, found))
        return Answer(question, quotes, prediction.confidence or 0.0, threshold, prediction.null_score, considered)


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
    return Asker(joined.answerer, candidates=candidates)
