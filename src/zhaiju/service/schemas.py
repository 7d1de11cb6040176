"""What goes over the wire.

Offsets are half-open, `[start, end)`, and count Unicode code points of the text as it was sent: `text[start:end]` in
Python. Where strings count UTF-16, as in JavaScript, slice `Array.from(text)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from inspect import cleandoc
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, create_model, model_validator

from zhaiju.data.examples import check_text
from zhaiju.errors import ConfigError, DataError
from zhaiju.tasks import TASKS, known
from zhaiju.tasks.base import Task

ItemT = TypeVar("ItemT")

QUESTION = "誰在河邊修船？"
CONTEXTS = ["林師傅在河邊修船。", "鎮上有兩家書店。"]
START = "First code point of the quote in its paragraph (not UTF-16 unit, as JavaScript counts)."
END = "The code point after its last."


def _visible(text: str, *, empty_allowed: bool = False) -> str:
    try:
        return check_text(text, "", empty_allowed=empty_allowed)
    except DataError as error:
        raise ValueError(error.problem) from None


def _task(name: str) -> str:
    try:
        known(name)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return name


# What `str.strip` leaves, for the description: JavaScript's \s has other white space than Python.
_VISIBLE = r"[^\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
Text = Annotated[str, AfterValidator(_visible), WithJsonSchema({"type": "string", "minLength": 1, "pattern": _VISIBLE})]
Unicode = Annotated[str, AfterValidator(partial(_visible, empty_allowed=True))]


def shape(*examples: Any, either: Sequence[tuple[str, str]] = ()) -> ConfigDict:
    """Settings of a request.

    Args:
        examples: Shown in the description.
        either: Of these fields exactly one is given, each with the type that it then has.
    """
    extra: dict[str, Any] = {"examples": list(examples)}
    if either:
        extra["oneOf"] = [{"required": [name], "properties": {name: {"type": kind}}} for name, kind in either]
    return ConfigDict(extra="forbid", strict=True, json_schema_extra=extra)


# --- requests


class Batch(BaseModel, Generic[ItemT]):
    """Several at once, answered in their order; one that is faulty refuses them all."""

    model_config = ConfigDict(extra="forbid")

    items: Annotated[list[ItemT], Field(min_length=1, fail_fast=True)]


class AnswerRequest(BaseModel):
    """A question over paragraphs, or over the indexed documents."""

    model_config = shape({"question": QUESTION, "contexts": CONTEXTS}, {"question": QUESTION})

    question: Text
    contexts: Annotated[
        list[Text] | None,
        Field(min_length=1, fail_fast=True, description="Paragraphs to quote from; without them the index is asked."),
    ] = None


class SelectRequest(BaseModel):
    """A question and the paragraphs to choose from."""

    model_config = shape({"question": QUESTION, "contexts": CONTEXTS})

    question: Text
    contexts: Annotated[list[Text], Field(min_length=1, fail_fast=True)]


class ReadRequest(BaseModel):
    """A question and the paragraph to quote from."""

    model_config = shape({"question": QUESTION, "context": CONTEXTS[0]})

    question: Text
    context: Text


class IntentRequest(BaseModel):
    """An utterance."""

    model_config = shape({"text": "book a boat for tomorrow"})

    text: Text


class SlotsRequest(BaseModel):
    """A sentence, or the words of one."""

    model_config = shape(
        {"text": "book a boat for tomorrow"},
        {"tokens": ["book", "a", "boat", "for", "tomorrow"]},
        either=[("text", "string"), ("tokens", "array")],
    )

    text: Text | None = None
    tokens: Annotated[list[Unicode] | None, Field(min_length=1, fail_fast=True)] = None

    @model_validator(mode="after")
    def _one(self) -> SlotsRequest:
        if (self.text is None) == (self.tokens is None):
            raise ValueError("expected either text or tokens")
        return self


class DocumentUpload(BaseModel):
    """A document: `text`, or the bytes of a file in base64, read by the suffix of its name."""

    model_config = shape(
        {"name": "notes.md", "text": "# 河邊\n\n林師傅在河邊修船。"},
        {"name": "a.pdf", "base64": "JVBERi0xLjQ="},
        either=[("text", "string"), ("base64", "string")],
    )

    name: Annotated[Text, Field(description="Answers are quoted under it; one of the same name is replaced.")]
    text: Unicode | None = None
    base64: Unicode | None = None

    @model_validator(mode="after")
    def _one(self) -> DocumentUpload:
        if (self.text is None) == (self.base64 is None):
            raise ValueError("expected either text or base64")
        return self


class DocumentsRequest(BaseModel):
    """Documents to add, all of them or none."""

    model_config = shape({"documents": [{"name": "notes.md", "text": "# 河邊\n\n林師傅在河邊修船。"}]})

    documents: Annotated[list[DocumentUpload], Field(min_length=1, fail_fast=True)]


class TokensRequest(BaseModel):
    """A text, and whose tokenizer is meant."""

    model_config = shape({"text": CONTEXTS[0]}, {"text": "book a boat for tomorrow", "task": "intent"})

    text: Text
    task: Annotated[
        str,
        AfterValidator(_task),
        WithJsonSchema({"type": "string", "enum": list(TASKS)}),
        Field(description="The task whose encoder is to see the text."),
    ] = "read"


# --- responses


class Results(BaseModel, Generic[ItemT]):
    """One result an item, in order."""

    results: Sequence[ItemT]


class Span(BaseModel):
    """A possible quote."""

    text: str
    start: Annotated[int, Field(description=START)]
    end: Annotated[int, Field(description=END)]
    score: Annotated[float, Field(description="Its probability, 0..1.")]


class Place(BaseModel):
    """A paragraph: one that was sent, or one of a document."""

    source: Annotated[str, Field(description="Index of the paragraph, or the document and the place in it.")]
    index: Annotated[int | None, Field(description="Of the paragraph in contexts.")] = None
    document: Annotated[str | None, Field(description="The document's name.")] = None
    document_id: str | None = None
    line: int | None = None
    page: int | None = None
    number: Annotated[int | None, Field(description="Of the paragraph in its document.")] = None
    heading: Annotated[str | None, Field(description="The nearest above it.")] = None
    paragraph: Annotated[str | None, Field(description="Its text, in which offsets count; null where you sent it.")] = (
        None
    )


class Quote(Place, Span):
    """A quote and where it stands."""


class Candidate(Place):
    """A paragraph that might hold the answer."""

    score: Annotated[float, Field(description="Probability that it is the right one, 0..1.")]
    selected: Annotated[bool, Field(description="Whether it was read, and so might be quoted.")]


class AnswerResponse(BaseModel):
    """The best quote, and the others."""

    answer: Annotated[str, Field(description="The quote; empty where the documents do not seem to hold the answer.")]
    start: Annotated[int, Field(description=START)]
    end: Annotated[int, Field(description=END)]
    score: Annotated[float, Field(description="Its probability among all quotes, 0..1.")]
    source: Annotated[str, Field(description="Index of its paragraph, or its document and the place in it.")]
    index: Annotated[int | None, Field(description="Of its paragraph in contexts.")] = None
    selected: Annotated[float | None, Field(description="Probability of that paragraph.")] = None
    found: Annotated[bool, Field(description="Whether there is an answer.")]
    confidence: Annotated[float, Field(description="Probability that it is right, 0..1.")]
    threshold: Annotated[float | None, Field(description="Confidence below which nothing is answered.")] = None
    quotes: Annotated[Sequence[Quote], Field(description="Best first.")]
    candidates: Annotated[
        Sequence[Candidate], Field(description="The paragraphs, likeliest first; of documents those that were found.")
    ]


class SelectResponse(BaseModel):
    """The paragraph that answers the question."""

    index: int
    score: Annotated[float, Field(description="Its probability, 0..1.")]
    scores: Annotated[Sequence[float], Field(description="The logit of every paragraph.")]


class ReadResponse(BaseModel):
    """The quote, and the others."""

    answer: str
    start: Annotated[int, Field(description=START)]
    end: Annotated[int, Field(description=END)]
    score: Annotated[float, Field(description="Its probability among all quotes, 0..1.")]
    null_score: Annotated[float | None, Field(description="By how much the logit of no answer is above its own.")] = (
        None
    )
    threshold: Annotated[float | None, Field(description="Score below which it is better to say nothing.")] = None
    n_best: Sequence[Span]


class LabelScore(BaseModel):
    """A class and its probability."""

    label: str
    score: float


class IntentResponse(BaseModel):
    """What the utterance is about."""

    label: str
    score: Annotated[float, Field(description="Its probability, 0..1.")]
    threshold: Annotated[float | None, Field(description="Score below which it is better to say nothing.")] = None
    n_best: Sequence[LabelScore]


class SlotSpan(BaseModel):
    """A filled slot."""

    label: str
    text: str
    start: Annotated[int, Field(description="First code point in the text; of words sent, the first word.")]
    end: Annotated[int, Field(description="The one after the last.")]
    score: Annotated[float, Field(description="Probability of its least sure tag, 0..1.")]


class SlotsResponse(BaseModel):
    """The filled slots, and a tag for each word."""

    spans: Sequence[SlotSpan]
    tags: Sequence[str]
    scores: Annotated[Sequence[float], Field(description="Probability of each tag, 0..1.")]
    threshold: Annotated[float | None, Field(description="Score below which a slot is better left out.")] = None


# What a task's own classes say in more words than its fields and columns do.
_OWN: dict[str, tuple[type[BaseModel], type[BaseModel]]] = {
    "select": (SelectRequest, SelectResponse),
    "read": (ReadRequest, ReadResponse),
    "intent": (IntentRequest, IntentResponse),
    "slots": (SlotsRequest, SlotsResponse),
}


@cache
def wire(task: type[Task[Any, Any]]) -> tuple[type[BaseModel], type[BaseModel]]:
    """A task's request, with its `fields`, and its response, with the `columns` of its predictions."""
    if task.name in _OWN:
        return _OWN[task.name]
    title = task.name.title()
    given: Any = dict.fromkeys(task.fields, (Text, ...))
    told: Any = {name: (_type(kind, f"{title}{name.title()}"), ...) for name, kind in task.columns.items()}
    told.pop("id")
    told["threshold"] = (float | None, None)
    about = cleandoc(task.__doc__ or "").partition("\n\n")[0]
    return (
        create_model(f"{title}Request", __config__=shape(dict(task.probe)), __doc__=about, **given),
        create_model(f"{title}Response", __doc__=about, **told),
    )


def _type(kind: Any, title: str) -> Any:
    """The type of a column."""
    if isinstance(kind, list):
        return Sequence[_type(kind[0], title)]  # type: ignore[misc]
    if isinstance(kind, dict):
        fields: Any = {name: (_type(inner, title + name.title()), ...) for name, inner in kind.items()}
        return create_model(title, **fields)
    return {"string": str, "bool": bool, "int32": int, "float64": float}[kind]


class Token(BaseModel):
    """What the encoder sees of a few characters."""

    token: Annotated[str, Field(description="Its entry in the vocabulary.")]
    id: Annotated[int, Field(description="Its number there.")]
    start: Annotated[int, Field(description="First code point in the text.")]
    end: Annotated[int, Field(description="The code point after its last.")]


class TokensResponse(BaseModel):
    """A text as an encoder sees it, without what is put around it."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"tokens": [{"token": "林", "id": 1805, "start": 0, "end": 1}]}]}
    )

    tokens: Sequence[Token]


class DocumentResponse(BaseModel):
    """A document in the index."""

    id: Annotated[str, Field(description="What to delete it by.")]
    name: str
    paragraphs: int


class DocumentsResponse(BaseModel):
    """Documents in the index."""

    documents: Sequence[DocumentResponse]


class StepPoint(BaseModel):
    """A few steps of a training together, so that no run has more than some hundred of them."""

    step: Annotated[int, Field(description="The last of them.")]
    loss: Annotated[float | None, Field(description="Training loss, smoothed; null where it is no number.")]
    low: Annotated[float | None, Field(description="The lowest.")]
    high: Annotated[float | None, Field(description="The highest.")]
    lr: Annotated[float | None, Field(description="Learning rate.")]


class EvaluationPoint(BaseModel):
    """An evaluation."""

    step: int
    figures: Annotated[dict[str, float | None], Field(description="By name, such as em and f1, 0..1.")]


class RunResponse(BaseModel):
    """The metrics of a training run, which may still go on."""

    name: str
    task: str
    best_step: Annotated[int | None, Field(description="Step of the best evaluation.")] = None
    steps: Sequence[StepPoint]
    evaluations: Sequence[EvaluationPoint]


class RunsResponse(BaseModel):
    """The runs that are shown here."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "runs": [
                        {
                            "name": "read",
                            "task": "read",
                            "best_step": 20,
                            "steps": [{"step": 20, "loss": 4.1, "low": 3.9, "high": 4.4, "lr": 0.0001}],
                            "evaluations": [{"step": 20, "figures": {"em": 0.31, "f1": 0.42}}],
                        }
                    ]
                }
            ]
        }
    )

    runs: Sequence[RunResponse]


class LimitsResponse(BaseModel):
    """The most that a request may hold."""

    max_question: Annotated[int, Field(description="Characters of a question.")]
    max_context: Annotated[int, Field(description="Characters of a paragraph.")]
    max_contexts: Annotated[int, Field(description="Paragraphs of a question.")]
    max_text: Annotated[int, Field(description="Characters of an utterance, or of a text to tokenise.")]
    max_batch: Annotated[int, Field(description="Questions, utterances or documents at a time.")]
    max_body: Annotated[int, Field(description="Bytes of a request.")]
    max_upload: Annotated[int, Field(description="Bytes of a request that adds documents.")]


class CapabilitiesResponse(BaseModel):
    """What this service can do."""

    tasks: Annotated[Sequence[str], Field(description="Tasks with a model.")]
    index: Annotated[bool, Field(description="Whether documents can be asked.")]
    uploads: Annotated[bool, Field(description="Whether they can be added and deleted.")]
    labels: Annotated[bool, Field(description="Whether answers can be labelled.")]
    curves: Annotated[bool, Field(description="Whether there are runs to show.")]
    token: Annotated[bool, Field(description="Whether a bearer token is needed.")]
    limits: LimitsResponse


class Status(BaseModel):
    """How the service is."""

    status: str
    tasks: Annotated[Sequence[str], Field(description="What it can do.")] = ()


class Error(BaseModel):
    """What went wrong."""

    code: Annotated[str, Field(description="A word for programs.")]
    message: Annotated[str, Field(description="A line for people.")]
    field: Annotated[str | None, Field(description="What is at fault in the request.")] = None


class ErrorResponse(BaseModel):
    """Every error has this shape."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": {
                        "code": "too_long",
                        "message": "1,204 characters, expected at most 1,000",
                        "field": "question",
                    }
                }
            ]
        }
    )

    error: Error
