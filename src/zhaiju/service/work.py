"""What requests are answered with: the models behind their batchers, and from predictions to responses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from pydantic import BaseModel

from zhaiju.api import Model
from zhaiju.corpus.ask import READ_N_BEST, Answer, Asker, Found
from zhaiju.corpus.documents import Paragraph
from zhaiju.data.examples import asked_of
from zhaiju.errors import ConfigError, DataError
from zhaiju.inference.answer import Answered
from zhaiju.inference.backends import AUTO
from zhaiju.inference.engine import Engine
from zhaiju.modeling.checkpoint import STARTER
from zhaiju.service import schemas
from zhaiju.service.batching import Batch, Batcher, Ticket
from zhaiju.service.documents import Documents, identity, shown_paragraph
from zhaiju.service.limits import RequestError
from zhaiju.service.turns import Turns
from zhaiju.tasks import TASKS
from zhaiju.tasks.base import Task

ASKING = 4  # questions of a request over documents that are worked on at a time
QUOTES = 5


@dataclass(frozen=True)
class Models:
    """Loaded models.

    Attributes:
        model: For each task that can be done an engine.
        more: The same models again, to compute beside them.
    """

    model: Model
    more: Sequence[Model] = ()


def load_models(
    reader: str | None = STARTER,
    selector: str | None = None,
    others: Sequence[str] = (),
    *,
    backend: str = AUTO,
    precision: str = "fp32",
    streams: int = 1,
) -> Models:
    """Load what a service is to do; None leaves a task out.

    Args:
        reader: A checkpoint.
        selector: The same; None: the lexical ranking selects for the reader.
        others: Checkpoints for other tasks; before one that does not say its task itself stands TASK=.
        backend: What computes.
        precision: How.
        streams: How often each is loaded, to compute side by side (see `zhaiju.threads.share`).

    Raises:
        ZhaijuError: one of them cannot be loaded.
    """
    first, *more = (_load(reader, selector, others, backend, precision) for _ in range(streams))
    return Models(first, more)


def _load(reader: str | None, selector: str | None, others: Sequence[str], backend: str, precision: str) -> Model:
    found = []
    if reader is not None:
        found.append(Model.load(reader, selector=selector, task="read", backend=backend, precision=precision))
    elif selector is not None:
        found.append(Model.load(selector, task="select", backend=backend, precision=precision))
    for name in others:
        task, _, what = name.partition("=")
        known = task in TASKS and what
        found.append(
            Model.load(what if known else name, task=task if known else None, backend=backend, precision=precision)
        )
    if not found:
        raise ConfigError("no model named: expected a reader, a selector, or a model for another task")
    parts = {task: part for one in found for task, part in one.parts.items()}
    where = {task: name for one in found for task, name in one.where.items()}
    model = Model(parts, joint=found[0].joint, confidence=found[0].confidence)
    model.where = where
    model.thresholds = {task: value for one in found for task, value in one.thresholds.items()}
    _warm_up(model)
    return model


def _warm_up(model: Model) -> None:
    """Have every model answer once, so that the first request is as quick as others.

    And while there is one thread only: an encoding learns from its tokenizer by calling it, and no other may then.
    """
    for name in model.parts:
        model.predict(name, TASKS[name].probe)


class Worker:
    """Answers requests, each in the thread that it is called in.

    Args:
        models: The models; their engines are used by nobody else from now on.
        documents: What is asked where a question comes without paragraphs.
        window: Seconds that an idle engine waits for company of the first request.
        batch_tokens: Tokens computed at once, padding included.
        observe: Called with an engine's task and each batch it has computed.

    Attributes:
        turns: Requests take turns in Python.
    """

    def __init__(
        self,
        models: Models,
        documents: Documents | None = None,
        *,
        window: float = 0.002,
        batch_tokens: int = 4096,
        observe: Callable[[str, Batch], None] = lambda task, batch: None,
    ) -> None:
        self.documents = documents
        self.turns = Turns()
        self.tasks = tuple(models.model.parts)
        self._models = models
        self._batchers: dict[str, Batcher] = {}
        for task, (engine, _) in models.model.parts.items():
            if not isinstance(engine, Engine):
                continue  # the lexical ranking, which needs no company
            more = [cast(Engine, one.parts[task][0]) for one in models.more]
            engine.batch_tokens = batch_tokens
            self._batchers[task] = Batcher(
                engine, more=more, window=window, observe=partial(observe, task), turns=self.turns
            )

    @property
    def is_alive(self) -> bool:
        """Whether every engine works."""
        return all(batcher.is_alive for batcher in self._batchers.values())

    def close(self, *, drain: bool = True) -> None:
        """Do what was taken, or drop it, and take no more."""
        for batcher in self._batchers.values():
            batcher.close(drain=drain)
        if self.documents is not None:
            self.documents.close()

    def needs(self, task: str) -> None:
        """Raise an error if a task cannot be done."""
        if task not in self.tasks:
            loaded = ", ".join(self.tasks)
            raise RequestError(404, "not_loaded", f"no model for {task} is loaded here, only for {loaded}")

    def answer(self, items: Sequence[schemas.AnswerRequest], ticket: Ticket) -> list[schemas.AnswerResponse]:
        """Quote from paragraphs, or from the documents."""
        given = [place for place, item in enumerate(items) if item.contexts is not None]
        open_ones = [place for place, item in enumerate(items) if item.contexts is None]
        if open_ones and self.documents is None:
            raise RequestError(422, "no_index", "contexts are needed: no documents are indexed here", field="contexts")
        results = self._ask_all({place: items[place].question for place in open_ones}, ticket)
        if given:
            with _placed(given):
                for place, response in zip(given, self._quote([items[place] for place in given], ticket), strict=True):
                    results[place] = response
        return [results[place] for place in range(len(items))]

    def _quote(self, items: Sequence[schemas.AnswerRequest], ticket: Ticket) -> Iterator[schemas.AnswerResponse]:
        """What `Model.answer` answers, and how the paragraphs were ranked."""
        examples = [asked_of(str(number), item.question, item.contexts or ()) for number, item in enumerate(items)]
        for answered in self._model(ticket).answerer().answers(examples):
            yield _answered(answered)

    def tokens(self, item: schemas.TokensRequest) -> schemas.TokensResponse:
        """What the encoder of a task sees of a text."""
        engine, _ = self._models.model.parts[item.task]
        if not isinstance(engine, Engine):
            raise RequestError(404, "not_loaded", f"no encoder for {item.task} is loaded here: words alone decide")
        found = engine.encoding.tokens(item.text)
        names = engine.encoding.tokenizer.convert_ids_to_tokens(found.ids.tolist())
        columns = zip(names, found.ids.tolist(), found.starts.tolist(), found.ends.tolist(), strict=True)
        return schemas.TokensResponse(
            tokens=[schemas.Token(token=name, id=number, start=start, end=end) for name, number, start, end in columns]
        )

    def predict(self, task: type[Task[Any, Any]], items: Sequence[BaseModel], ticket: Ticket) -> list[BaseModel]:
        """What a task predicts, each as `schemas.wire` has it."""
        response = schemas.wire(task)[1]
        more = (
            {"threshold": self._models.model.thresholds.get(task.name)} if "threshold" in response.model_fields else {}
        )
        inputs = [item.model_dump(exclude_none=True) for item in items]
        return [
            response.model_validate(found, from_attributes=True).model_copy(update=more)
            for found in self._model(ticket).predict(task.name, inputs)
        ]

    def _model(self, ticket: Ticket) -> Model:
        return self._models.model.through(
            lambda task, engine: self._batchers[task].predictor(ticket) if task in self._batchers else engine
        )

    def _ask_all(self, questions: Mapping[int, str], ticket: Ticket) -> dict[int, schemas.AnswerResponse]:
        """Ask the documents, in threads where there are several questions, so that they are computed together."""
        if len(questions) <= 1:
            return {place: self._ask(question, ticket) for place, question in questions.items()}
        pool = ThreadPoolExecutor(min(ASKING, len(questions)), thread_name_prefix="zhaiju-ask")
        results = {}
        try:
            asked = {place: pool.submit(self._ask, question, ticket) for place, question in questions.items()}
            for place, future in asked.items():
                with _placed([place]), self.turns.aside():
                    results[place] = future.result()
        finally:
            with self.turns.aside():
                pool.shutdown(cancel_futures=True)
        return results

    def _ask(self, question: str, ticket: Ticket) -> schemas.AnswerResponse:
        assert self.documents is not None
        ticket.check()
        answerer = self._model(ticket).answerer(n_best=READ_N_BEST)
        with self.turns.taken():
            asked = Asker(answerer).ask(question, _Aside(self.documents, self.turns))
            return _from_documents(asked)


@dataclass(frozen=True)
class _Aside:
    """Documents that are searched without a turn."""

    documents: Documents
    turns: Turns

    def search(self, question: str, k: int) -> Sequence[Found]:
        with self.turns.aside():
            return self.documents.search(question, k)


@contextmanager
def _placed(places: Sequence[int]) -> Iterator[None]:
    """Have an error name the item of the request and not its place among some of them."""
    try:
        yield
    except DataError as error:
        row = str(places[int(error.row or 0)])
        raise DataError(error.problem, row=row, field=error.field, found=error.found, expected=error.expected) from None


def _answered(answered: Answered) -> schemas.AnswerResponse:
    found = answered.prediction
    return schemas.AnswerResponse(
        answer=found.answer,
        start=found.start,
        end=found.end,
        score=found.score,
        source=found.source,
        index=found.index,
        selected=found.selected,
        found=bool(found.answer),
        confidence=found.confidence or 0.0,
        quotes=[
            schemas.Quote(
                text=one.text, start=one.start, end=one.end, score=one.score, source=one.source, index=int(one.source)
            )
            for one in found.n_best
        ],
        candidates=[
            schemas.Candidate(index=one.index, source=str(one.index), score=one.score, selected=one.read)
            for one in answered.ranked
        ],
    )


def _place(paragraph: Paragraph) -> dict[str, Any]:
    """A paragraph of a document as it is told: under a name that is no path of the server."""
    shown = shown_paragraph(paragraph)
    return {
        "source": shown.source,
        "document": shown.document,
        "document_id": identity(paragraph.document),
        "line": shown.line,
        "page": shown.page,
        "number": shown.number,
        "heading": shown.heading,
        "paragraph": shown.text,
    }


def _from_documents(found: Answer) -> schemas.AnswerResponse:
    quotes = [
        schemas.Quote(text=quote.text, start=quote.start, end=quote.end, score=quote.score, **_place(quote.paragraph))
        for quote in found.quotes[:QUOTES]
    ]
    best = quotes[0] if found.found else None
    return schemas.AnswerResponse(
        answer=best.text if best else "",
        start=best.start if best else 0,
        end=best.end if best else 0,
        score=best.score if best else 0.0,
        source=best.source if best else "",
        found=found.found,
        confidence=found.confidence,
        threshold=found.threshold,
        quotes=quotes,
        candidates=[
            schemas.Candidate(score=one.score, selected=one.read, **_place(one.paragraph)) for one in found.considered
        ],
    )
