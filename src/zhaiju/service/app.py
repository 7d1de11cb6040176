"""The application: routes over a `Worker`."""

import asyncio
import base64
import binascii
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any, TypeVar, cast

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from zhaiju.errors import DataError
from zhaiju.service import schemas
from zhaiju.service.batching import LateError, StoppedError, Ticket
from zhaiju.service.documents import Document, Documents, told
from zhaiju.service.guard import TICKET, WORK, Door, Guard, methods_of
from zhaiju.service.labelling import add_labels
from zhaiju.service.labels import Labels
from zhaiju.service.limits import RETRY_SECONDS, Gate, RequestError, Settings, at_most
from zhaiju.service.metrics import Metrics
from zhaiju.service.page import add_page
from zhaiju.service.runs import Runs
from zhaiju.service.turns import Crew, Turns
from zhaiju.service.work import Models, Worker
from zhaiju.tasks import TASKS
from zhaiju.tasks.base import Task

ABOUT = (
    "Answers questions by quoting. Every answer is a slice of a text, and `start` and `end` count its **Unicode code "
    "points**, from 0, the end excluded. In JavaScript, whose strings count UTF-16, take "
    "`Array.from(text).slice(start, end).join('')`.\n\nEach task has a second route, `/batch`, for several at once: "
    '`{"items": […]}` gives `{"results": […]}` in the same order.'
)
PHRASES = {
    400: "The body is not JSON",
    401: "No valid bearer token",
    403: "Not allowed here",
    404: "Not loaded here, or not found",
    408: "The body did not come in time",
    413: "The body is too large",
    415: "The body is not declared as JSON",
    421: "Addressed by a name that is not the service's",
    422: "A field is missing, wrong or too long; it is named",
    429: "Too many requests from this client",
    503: "Too many requests at a time; try again",
    504: "Not done in time, and dropped",
}
PARSED_AT_ONCE = 1 << 16  # bytes of a body, which take less than a millisecond
T = TypeVar("T")
log = logging.getLogger(__name__)


def make_app(
    settings: Settings,
    models: Models,
    documents: Documents | None = None,
    *,
    labels: Labels | None = None,
    runs: Runs | None = None,
) -> FastAPI:
    """The application.

    Args:
        settings: What it accepts.
        models: What it answers with; used by nobody else from now on.
        documents: What is asked where a question comes without paragraphs.
        labels: What is labelled; closed by whoever made it.
        runs: Trainings whose curves are shown.
    """
    gate = Gate(settings.queue)
    metrics = Metrics(lambda: gate.inside)
    worker = Worker(
        models,
        documents,
        window=settings.window_ms / 1000,
        batch_tokens=settings.batch_tokens,
        observe=metrics.computed,
    )
    crew = Crew(settings.queue, worker.turns)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(metrics.watch_loop())
        yield
        watching.cancel()
        worker.close(drain=False)  # what was accepted has been answered, or its time is over
        crew.close()

    app = FastAPI(
        title="Zhaiju",
        summary="Answers questions by quoting.",
        description=ABOUT,
        version=version("zhaiju"),
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    door = Door(gate, metrics)
    app.router.route_class = _route_class(worker.turns)
    app.add_middleware(Guard, settings=settings, gate=gate, metrics=metrics, door=door)
    if settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors,
            allow_methods=["*"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.state.worker = worker
    app.state.gate = gate
    app.state.door = door
    app.state.labels = labels
    _add_errors(app)

    async def run(request: Request, work: Callable[[Ticket], T], *, aside: bool = False) -> T:
        """Do the work of a request in a thread, until its deadline; aside: most of it is not Python."""
        ticket: Ticket = request.scope[TICKET]
        future = asyncio.wrap_future((crew.run_aside if aside else crew.run)(lambda: work(ticket)))
        future.add_done_callback(lambda done: done.cancelled() or done.exception())  # it was told, or came too late
        request.scope[WORK] = future
        await asyncio.wait({future}, timeout=ticket.deadline - asyncio.get_running_loop().time())
        if not future.done():
            ticket.drop()
            raise LateError
        return future.result()

    async def do(
        request: Request, task: str, items: Sequence[Any], work: Callable[[Any, Ticket], list[T]], *, batch: bool = True
    ) -> list[T]:
        worker.needs("read" if task == "answer" else task)
        at_most(len(items), settings.max_batch, "items", "items")
        for place, item in enumerate(items):
            _check_sizes(item, settings, f"items[{place}]." if batch else "")
            if settings.log_texts:
                log.info("%s %s", task, item.model_dump_json(exclude_none=True))
        try:
            return await run(request, lambda ticket: work(items, ticket))
        except DataError as error:
            field = error.field or ""
            raise RequestError(
                422, "invalid", told(error), field=f"items[{error.row}].{field}".rstrip(".") if batch else field or None
            ) from None

    async def one(request: Request, task: str, item: Any, work: Callable[[Any, Ticket], list[T]]) -> T:
        return (await do(request, task, [item], work, batch=False))[0]

    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": schemas.ErrorResponse, "description": phrase} for status, phrase in PHRASES.items()
    }

    @app.post("/v1/answer", responses=responses, tags=["questions"])
    async def answer(request: Request, item: schemas.AnswerRequest) -> schemas.AnswerResponse:
        """Quote the answer from one of several paragraphs, or from the indexed documents."""
        return await one(request, "answer", item, worker.answer)

    @app.post("/v1/answer/batch", responses=responses, tags=["questions"])
    async def answers(
        request: Request, batch: schemas.Batch[schemas.AnswerRequest]
    ) -> schemas.Results[schemas.AnswerResponse]:
        """Several questions."""
        return schemas.Results(results=await do(request, "answer", batch.items, worker.answer))

    def add_task(task: type[Task[Any, Any]]) -> None:
        given, told = schemas.wire(task)

        async def predict(request: Request, item: Any) -> Any:
            return await one(request, task.name, item, partial(worker.predict, task))

        async def predict_batch(request: Request, batch: Any) -> Any:
            return schemas.Results(results=await do(request, task.name, batch.items, partial(worker.predict, task)))

        predict.__annotations__ |= {"request": Request, "item": given, "return": told}
        batched: dict[str, Any] = {"batch": schemas.Batch[given], "return": schemas.Results[told]}  # type: ignore[valid-type]
        predict_batch.__annotations__ |= {"request": Request} | batched
        about: dict[str, Any] = {"responses": responses, "tags": [f"{task.unit}s"]}
        app.post(f"/v1/{task.name}", description=given.__doc__, name=task.name, **about)(predict)
        app.post(f"/v1/{task.name}/batch", description="Several.", name=f"{task.name}_batch", **about)(predict_batch)

    for kind in TASKS.values():
        add_task(kind)

    def indexed(*, changing: bool = False) -> Documents:
        if documents is None:
            raise RequestError(404, "no_index", "no documents are indexed here; start with --index")
        if changing and not settings.uploads:
            raise RequestError(403, "uploads_off", "documents are not changed from outside; start with --uploads")
        return documents

    @app.post("/v1/documents", status_code=201, responses=responses, tags=["documents"])
    async def add_documents(request: Request, given: schemas.DocumentsRequest) -> schemas.DocumentsResponse:
        """Put documents into the index, all of them or none. Once it is answered with 201 they are on disk.

        After 504 they may be there nevertheless, if it was being written when the time was up.
        """
        index = indexed(changing=True)
        at_most(len(given.documents), settings.max_batch, "documents", "documents")

        def add(ticket: Ticket) -> Sequence[Document]:
            contents = [(one.name, _content(one, f"documents[{at}]")) for at, one in enumerate(given.documents)]
            return index.add(contents, ticket)

        added = await run(request, add, aside=True)
        return schemas.DocumentsResponse(documents=[_document(one) for one in added])

    @app.get("/v1/documents", responses=responses, tags=["documents"])
    async def list_documents(request: Request) -> schemas.DocumentsResponse:
        """The documents in the index, by name."""
        index = indexed()
        found = await run(request, lambda ticket: index.list(), aside=True)
        return schemas.DocumentsResponse(documents=[_document(one) for one in found])

    @app.delete("/v1/documents/{id}", responses=responses, tags=["documents"])
    async def delete_document(request: Request, id: str) -> schemas.DocumentResponse:  # noqa: A002
        """Take a document out of the index."""
        index = indexed(changing=True)
        return _document(await run(request, lambda ticket: index.delete(id, ticket), aside=True))

    add_labels(app, labels, settings=settings, run=run, responses=responses)

    @app.post("/v1/tokens", responses=responses, tags=["service"])
    async def tokens(request: Request, item: schemas.TokensRequest) -> schemas.TokensResponse:
        """Show a text as the encoder of a task sees it."""
        return await one(request, item.task, item, lambda items, ticket: [worker.tokens(item) for item in items])

    @app.get("/v1/runs", responses=responses, tags=["service"])
    async def list_runs(request: Request) -> schemas.RunsResponse:
        """The metrics of the runs that are shown here, as far as they have come."""
        if runs is None:
            raise RequestError(404, "no_runs", "no runs are shown here; start with --run")
        return await run(request, lambda ticket: runs.read())

    @app.get("/v1/capabilities", responses=responses, tags=["service"])
    async def capabilities() -> schemas.CapabilitiesResponse:
        """What can be asked here, and how much at a time."""
        return schemas.CapabilitiesResponse(
            tasks=worker.tasks,
            index=documents is not None,
            uploads=documents is not None and settings.uploads,
            labels=app.state.labels is not None,
            curves=runs is not None,
            token=bool(settings.tokens),
            limits=schemas.LimitsResponse(
                **{name: getattr(settings, name) for name in schemas.LimitsResponse.model_fields}
            ),
        )

    @app.get("/healthz", tags=["service"])
    async def healthz() -> schemas.Status:
        """Whether it lives."""
        return schemas.Status(status="ok", tasks=worker.tasks)

    @app.get("/readyz", responses={503: responses[503]}, tags=["service"])
    async def readyz() -> schemas.Status:
        """Whether it can answer: every engine works, and the index can be read."""
        if not worker.is_alive:
            raise RequestError(503, "not_ready", "an engine has stopped")
        if documents is not None:
            await asyncio.to_thread(documents.check)
        return schemas.Status(status="ready", tasks=worker.tasks)

    @app.get("/metrics", tags=["service"], response_class=Response)
    async def prometheus() -> Response:
        """Counters, for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    add_page(app)
    door.routes = frozenset(route.path for route in app.routes if isinstance(route, APIRoute))
    return app


def _route_class(turns: Turns) -> type[APIRoute]:
    """Routes whose large bodies are parsed in threads, since the event loop answers nobody meanwhile."""

    class Route(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()
            if not self.dependant.body_params:
                return handle
            expected: Any = TypeAdapter(cast(Any, self.dependant.body_params[0].field_info.annotation))

            def parse(body: bytes) -> Any:
                with turns.taken():
                    try:
                        return expected.validate_python(json.loads(body))
                    except ValidationError as error:
                        raise RequestValidationError(
                            [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_input=False)]
                        ) from None
                    except (ValueError, RecursionError):
                        raise RequestError(400, "not_json", "the body is not JSON") from None

            async def handle_large(request: Request) -> Response:
                body = await request.body()
                if len(body) <= PARSED_AT_ONCE:
                    return await handle(request)
                return await handle(_Parsed(request, await asyncio.to_thread(parse, body)))

            return handle_large

    return Route


class _Parsed(Request):
    """A request whose body was parsed and validated."""

    def __init__(self, request: Request, value: Any) -> None:
        super().__init__(request.scope, request.receive)
        self._value = value

    async def body(self) -> bytes:
        return b"parsed"

    async def json(self) -> Any:
        return self._value


def _add_errors(app: FastAPI) -> None:
    def respond(error: RequestError) -> JSONResponse:
        return JSONResponse(error.body, error.status, error.headers)

    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> JSONResponse:
        return respond(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return respond(RequestError(400, "not_json", "the body is not JSON"))
        message = str(first["msg"]).removeprefix("Value error, ")
        return respond(RequestError(422, "invalid", message, field=_field(first["loc"])))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        codes = {404: "not_found", 405: "method_not_allowed"}
        said = RequestError(error.status_code, codes.get(error.status_code, "refused"), str(error.detail))
        headers = dict(error.headers or {})
        if error.status_code == 405:  # the framework names those of one route, and a path may have several
            headers["Allow"] = ", ".join(sorted(methods_of(request.scope)))
        return JSONResponse(said.body, said.status, headers)

    @app.exception_handler(LateError)
    async def late(request: Request, error: LateError) -> JSONResponse:
        return respond(RequestError(504, "deadline", "it was not done in time, and was dropped"))

    @app.exception_handler(StoppedError)
    async def stopped(request: Request, error: StoppedError) -> JSONResponse:
        return respond(RequestError(503, "stopping", "the service is stopping", retry=RETRY_SECONDS))


def _field(location: Sequence[int | str]) -> str | None:
    """A place in the body as a client would write it: items[2].question."""
    name = ""
    for part in location[1:]:
        name += f"[{part}]" if isinstance(part, int) else f".{part}"
    return name.lstrip(".") or None


def _check_sizes(item: BaseModel, settings: Settings, prefix: str) -> None:
    given = dict(item)
    limits = {"question": settings.max_question, "text": settings.max_text}
    for name, value in given.items():
        if isinstance(value, str):
            at_most(len(value), limits.get(name, settings.max_context), "characters", prefix + name)
    contexts, words = given.get("contexts") or (), given.get("tokens") or ()
    at_most(len(contexts), settings.max_contexts, "paragraphs", f"{prefix}contexts")
    for place, context in enumerate(contexts):
        at_most(len(context), settings.max_context, "characters", f"{prefix}contexts[{place}]")
    at_most(len(words), settings.max_text, "words", f"{prefix}tokens")
    at_most(sum(map(len, words)), settings.max_text, "characters", f"{prefix}tokens")


def _content(given: schemas.DocumentUpload, field: str) -> bytes:
    if given.text is not None:
        return given.text.encode()
    try:
        return base64.b64decode(given.base64 or "", validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(422, "invalid", "this is not base64", field=f"{field}.base64") from None


def _document(document: Document) -> schemas.DocumentResponse:
    return schemas.DocumentResponse(id=document.id, name=document.name, paragraphs=document.paragraphs)
