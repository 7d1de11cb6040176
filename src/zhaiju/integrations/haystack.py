"""Components for Haystack: a reader in the place of its extractive reader, and a ranker.

Neither sends anything anywhere. Haystack itself reports usage to its makers when a pipeline runs, unless
`HAYSTACK_TELEMETRY_ENABLED=False` stands in the environment before it is imported.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from threading import Lock
from typing import Any

import numpy as np

from zhaiju.api import Model
from zhaiju.corpus.ask import Answer, Asker, Hit, load_asker
from zhaiju.corpus.documents import Paragraph
from zhaiju.corpus.lexical import BM25
from zhaiju.errors import ConfigError, not_installed
from zhaiju.modeling.checkpoint import STARTER
from zhaiju.tasks.base import log_softmax

try:
    from haystack import Document, ExtractedAnswer, component, default_from_dict, default_to_dict
except ImportError as error:
    raise (not_installed(error) or error) from error

log = logging.getLogger(__name__)


@component
class ZhaijuReader:
    """Quotes answers from documents; takes and gives what Haystack's extractive reader does.

    An answer's `data` is `document.content[start:end]` of its `document_offset`. One more answer, whose `data` and
    `document` are None, stands for "it is not there", and comes first exactly where the model says so: with the
    starter, where `zhaiju ask` would not answer; with other readers, where their no-answer logit is the highest. So the
    starter's scores are its probabilities with the threshold of `zhaiju ask` moved to one half.
    Documents without text are passed over.

    Args:
        model: "starter", a run, a checkpoint directory or a hub id of a reader.
        selector: The same of a selector, which says in which document to read; None: words alone say it.
        top_k: Most answers, the one that there is none aside.
        score_threshold: Leave out answers with a lower score; None: none.
        no_answer: Whether "it is not there" is among the answers.
    """

    def __init__(
        self,
        model: str = STARTER,
        selector: str | None = None,
        top_k: int = 20,
        score_threshold: float | None = None,
        no_answer: bool = True,
    ) -> None:
        self.model = str(model)
        self.selector = selector
        self.top_k = _at_least_one(top_k)
        self.score_threshold = score_threshold
        self.no_answer = no_answer
        self._asker: Asker | None = None
        self._lock = Lock()  # pipelines may run at the same time

    def to_dict(self) -> dict[str, Any]:
        """See Haystack."""
        return default_to_dict(
            self,
            model=self.model,
            selector=self.selector,
            top_k=self.top_k,
            score_threshold=self.score_threshold,
            no_answer=self.no_answer,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "ZhaijuReader":
        """See Haystack."""
        return default_from_dict(cls, data)

    def warm_up(self) -> None:
        """Load the models; `run` does where it was not done."""
        with self._lock:
            self._loaded()

    def _loaded(self) -> Asker:
        if self._asker is None:
            self._asker = load_asker(self.model, self.selector)
        return self._asker

    @component.output_types(answers=list[ExtractedAnswer])
    def run(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        score_threshold: float | None = None,
        no_answer: bool | None = None,
    ) -> dict[str, list[ExtractedAnswer]]:
        """Answer a question.

        Args:
            query: The question.
            documents: Where to look.
            top_k: As above; None: as there.
            score_threshold: As above; None: as there.
            no_answer: As above; None: as there.

        Returns:
            {"answers": the answers, those with the highest score first}; none where there is no document.

        Raises:
            DataError: the question is empty or does not fit the reader's window.
        """
        most = self.top_k if top_k is None else _at_least_one(top_k)
        least = self.score_threshold if score_threshold is None else score_threshold
        readable = _readable(documents)
        if not readable:
            return {"answers": []}
        with self._lock:
            found = self._loaded().ask(query, _Given(readable))
        scores, none = _scores(found)
        answers = [
            ExtractedAnswer(
                query=query,
                score=score,
                data=quote.text,
                document=(document := readable[quote.paragraph.number or 0]),
                document_offset=ExtractedAnswer.Span(quote.start, quote.end),
                meta=_page(document, quote.start),
            )
            for quote, score in zip(found.quotes[:most], scores, strict=False)
        ]
        if self.no_answer if no_answer is None else no_answer:
            answers.append(ExtractedAnswer(query=query, score=none))
        answers.sort(key=lambda answer: -answer.score)
        return {"answers": [answer for answer in answers if least is None or answer.score >= least]}


@component
class ZhaijuRanker:
    """Ranks documents by the probability that they hold the answer, which becomes their score.

    Args:
        model: "starter", a run, a checkpoint directory or a hub id of a selector.
        top_k: Most documents.
    """

    def __init__(self, model: str = STARTER, top_k: int = 10) -> None:
        self.model = str(model)
        self.top_k = _at_least_one(top_k)
        self._selector: Model | None = None
        self._lock = Lock()

    def to_dict(self) -> dict[str, Any]:
        """See Haystack."""
        return default_to_dict(self, model=self.model, top_k=self.top_k)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "ZhaijuRanker":
        """See Haystack."""
        return default_from_dict(cls, data)

    def warm_up(self) -> None:
        """Load the model; `run` does where it was not done."""
        with self._lock:
            self._loaded()

    def _loaded(self) -> Model:
        if self._selector is None:
            self._selector = Model.load(self.model, task="select")
        return self._selector

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, list[Document]]:
        """Rank documents; those without text are left out.

        Args:
            query: The question.
            documents: The documents.
            top_k: As above; None: as there.

        Returns:
            {"documents": copies with the new scores, the likeliest first}

        Raises:
            DataError: the question is empty or does not fit the selector's window.
        """
        most = self.top_k if top_k is None else _at_least_one(top_k)
        readable = _readable(documents)
        if not readable:
            return {"documents": []}
        with self._lock:
            logits = self._loaded().select(query, [document.content or "" for document in readable]).scores
        scores = np.exp(log_softmax(np.asarray(logits)))
        order = np.argsort(-scores, kind="stable")[:most]
        return {"documents": [replace(readable[place], score=float(scores[place])) for place in order]}


class _Given:
    """What a pipeline found before, all of it, with its BM25 scores; a paragraph's number is its place.

    Args:
        documents: The documents.
    """

    def __init__(self, documents: Sequence[Document]) -> None:
        self._paragraphs = [Paragraph(one.content or "", one.id, number=at) for at, one in enumerate(documents)]

    def search(self, question: str, k: int) -> list[Hit]:
        """All of them, best first."""
        scores = BM25([paragraph.text for paragraph in self._paragraphs]).scores(question)
        return [Hit(self._paragraphs[place], float(scores[place])) for place in np.argsort(-scores, kind="stable")]


def _scores(found: Answer) -> tuple[list[float], float]:
    """The score of each quote, and that of there being no answer."""
    if not found.quotes:
        return [], 1.0
    best = found.quotes[0].score
    if found.threshold is None:
        ratio = math.exp(min(30.0, found.null_score or 0.0)) * best  # "no answer" against all spans together
        return [quote.score / (1 + ratio) for quote in found.quotes], ratio / (1 + ratio)
    right, wrong = found.confidence * (1 - found.threshold), (1 - found.confidence) * found.threshold
    sure = right / (right + wrong)
    return [sure * quote.score / best for quote in found.quotes], wrong / (right + wrong)


def _readable(documents: Sequence[Document]) -> list[Document]:
    readable = [document for document in documents if document.content and document.content.strip()]
    if len(readable) < len(documents):
        log.warning(
            "%d of %d documents hold no text and are passed over", len(documents) - len(readable), len(documents)
        )
    return readable


def _page(document: Document, start: int) -> dict[str, Any]:
    """On which page an answer stands, where the document says on which it begins, as Haystack's converters do."""
    first = document.meta.get("page_number")
    return {"answer_page_number": first + (document.content or "").count("\f", 0, start)} if type(first) is int else {}


def _at_least_one(top_k: int) -> int:
    if top_k < 1:
        raise ConfigError(f"top_k is {top_k}, expected at least 1")
    return top_k
