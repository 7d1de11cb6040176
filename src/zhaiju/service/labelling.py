"""The routes over `Labels`."""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Protocol, TypeVar
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, Field

from zhaiju.service import schemas
from zhaiju.service.batching import Ticket
from zhaiju.service.labels import Example, Labels
from zhaiju.service.limits import RequestError, Settings, at_most

T = TypeVar("T")
log = logging.getLogger(__name__)


class LabelSpan(BaseModel):
    """Where an answer stands."""

    model_config = schemas.shape({"start": 0, "end": 3})

    start: Annotated[int, Field(description=schemas.START)]
    end: Annotated[int, Field(description=schemas.END)]


class LabelRequest(BaseModel):
    """A question about a paragraph, and its answers; none: the paragraph does not hold the answer."""

    model_config = schemas.shape(
        {"paragraph": 0, "question": schemas.QUESTION, "answers": [{"start": 0, "end": 3}]},
        {"paragraph": 0, "question": "誰在修橋？", "answers": []},
    )

    paragraph: Annotated[int, Field(description="Its `id`.")]
    question: schemas.Text
    answers: list[LabelSpan]


class LabelParagraph(BaseModel):
    """A paragraph to ask about."""

    id: int
    document: str
    heading: str | None = None
    line: Annotated[int | None, Field(description="From 1, in text and Markdown.")] = None
    page: Annotated[int | None, Field(description="From 1, in PDF.")] = None
    text: str


class LabelAnswer(BaseModel):
    """A marked answer."""

    text: str
    start: Annotated[int, Field(description=schemas.START)]
    end: Annotated[int, Field(description=schemas.END)]


class LabelResponse(BaseModel):
    """A question about a paragraph. Without answers, and not impossible, it waits to be answered."""

    id: Annotated[str, Field(description="1 to 64 letters, digits, - and _ of ASCII.")]
    paragraph: int
    question: str
    answers: Sequence[LabelAnswer]
    is_impossible: Annotated[bool, Field(description="The paragraph does not hold the answer.")]


class LabelsResponse(BaseModel):
    """All that is labelled and to be labelled."""

    file: Annotated[str, Field(description="Base name of the file that is written.")]
    paragraphs: Sequence[LabelParagraph]
    examples: Sequence[LabelResponse]


class Run(Protocol):
    """Does the work of a request in a thread, until its deadline."""

    def __call__(self, request: Request, work: Callable[[Ticket], T], /) -> Awaitable[T]:
        """See above."""
        ...


def add_labels(
    app: FastAPI,
    labels: Labels | None,
    *,
    settings: Settings,
    run: Run,
    responses: Mapping[int | str, Mapping[str, Any]],
) -> None:
    """Add the routes that show and change labels.

    Args:
        app: The application.
        labels: What they are about; None: they answer that there is nothing to label.
        settings: What it accepts.
        run: Runs the work of a request.
        responses: The errors, as they are documented.
    """
    app.state.labels = labels
    changed = {"model": schemas.ErrorResponse, "description": "Another program has changed the file"}
    told: dict[int | str, dict[str, Any]] = {name: dict(value) for name, value in responses.items()} | {409: changed}

    def started() -> Labels:
        if labels is None:
            raise RequestError(404, "no_labels", "nothing is labelled here; start with zhaiju label")
        return labels

    @app.get("/v1/labels", response_model=LabelsResponse, responses=told, tags=["labels"])
    async def list_labels(request: Request) -> Response:
        """The paragraphs, and the questions about them."""
        chosen = started()
        return Response(await run(request, lambda ticket: _told(chosen)), media_type="application/json")

    @app.get("/v1/labels/file", response_class=Response, tags=["labels"],
             responses=told | {200: {"content": {"application/json": {}}, "description": "The file"}})  # fmt: skip
    async def labels_file(request: Request) -> Response:
        """The labelled questions as a file of the SQuAD shape, to train on."""
        chosen = started()
        content = await run(request, lambda ticket: chosen.content().encode("utf-8", "backslashreplace"))
        return Response(content, media_type="application/json", headers={"Content-Disposition": _attached(chosen.name)})

    @app.put("/v1/labels/{id}", responses=told, tags=["labels"])
    async def put_label(request: Request, id: str, given: LabelRequest) -> LabelResponse:  # noqa: A002
        """Add a question, or replace the one with this id. Once it is answered with 200 it is on disk.

        After 504 it may be there nevertheless, if it was being written when the time was up.
        """
        chosen = started()
        at_most(len(given.question), settings.max_question, "characters", "question")
        if settings.log_texts:
            log.info("label %s", given.model_dump_json())
        spans = [(span.start, span.end) for span in given.answers]
        put = await run(request, lambda ticket: chosen.put(id, given.paragraph, given.question, spans, ticket))
        return LabelResponse(**_example(put))

    @app.delete("/v1/labels/{id}", responses=told, tags=["labels"])
    async def delete_label(request: Request, id: str) -> LabelResponse:  # noqa: A002
        """Take a question out."""
        chosen = started()
        return LabelResponse(**_example(await run(request, lambda ticket: chosen.delete(id, ticket))))


def _told(labels: Labels) -> bytes:
    paragraphs = [
        {
            "id": place,
            "document": paragraph.document,
            "heading": paragraph.heading,
            "line": paragraph.line,
            "page": paragraph.page,
            "text": paragraph.text,
        }
        for place, paragraph in enumerate(labels.paragraphs)
    ]
    value = {"file": labels.name, "paragraphs": paragraphs, "examples": list(map(_example, labels.examples()))}
    return json.dumps(value, ensure_ascii=False).encode()


def _example(example: Example) -> dict[str, Any]:
    return {
        "id": example.id,
        "paragraph": example.paragraph,
        "question": example.question,
        "answers": [{"text": span.text, "start": span.start, "end": span.end} for span in example.answers],
        "is_impossible": example.is_impossible,
    }


def _attached(name: str) -> str:
    """A header that has a browser save the answer under a name of any characters (RFC 6266)."""
    plain = "".join(one if one.isascii() and (one.isalnum() or one in "._-") else "_" for one in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
