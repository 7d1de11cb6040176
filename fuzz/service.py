"""The service in this process: requests to its application, and bytes to its connections.

Its engines compute numbers from token ids instead of running models; all else is the service's own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, cast

import numpy as np
import uvicorn
from fastapi import FastAPI
from uvicorn.server import ServerState

from fuzz.encoder import tokenizers
from fuzz.mutate import BETWEEN, change, of_bytes, of_json, pick
from fuzz.target import Target, hold
from zhaiju.api import Model
from zhaiju.corpus.documents import Paragraph
from zhaiju.data.chunks import Chunk
from zhaiju.data.encoding import Encoding
from zhaiju.inference.engine import Engine
from zhaiju.service.app import make_app
from zhaiju.service.labels import Labels, Sources
from zhaiju.service.limits import Settings
from zhaiju.service.server import configured
from zhaiju.service.work import Models
from zhaiju.tasks import make_task

LABELS = {"intent": ("book", "oos", "weather"), "slots": ("O", "B-a", "I-a")}
SIZES = {"read": (2,), "select": (), "intent": (3,), "slots": (3,)}
METHODS = ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH")
STATUSES = {200, 201, 204, 307, 400, 401, 403, 404, 405, 408, 409, 413, 415, 421, 422, 429, 503, 504}


class _Sums:
    """A backend whose logits are remainders of token ids."""

    pad_id = 0

    def __init__(self, task: str) -> None:
        self._task = task

    def run(self, chunk: Chunk) -> Any:
        ids = chunk.input_ids
        if self._task == "read":
            logits = np.stack([ids * 7 % 11, ids * 5 % 13], axis=1).astype(np.float32)
            return np.where(chunk.answerable[:, None, :], logits, np.float32(-1e4))
        if self._task == "select":
            return (ids.sum(axis=1) % 17).astype(np.float32)[:, None]
        if self._task == "intent":
            return np.stack([ids.sum(axis=1) % size for size in (5, 7, 11)], axis=1).astype(np.float32)
        return np.stack([ids % size for size in (3, 5, 7)], axis=2).astype(np.float32)


def _model() -> Model:
    parts: dict[str, Any] = {}
    for place, task in enumerate(SIZES):
        encoding = Encoding(tokenizers()[place % 3], window=48, overlap=10)
        labels = {"labels": LABELS[task]} if task in LABELS else {}
        parts[task] = (Engine(cast(Any, _Sums(task)), encoding), make_task(task, **labels))
    return Model(parts)


class _Loop:
    """An application and the loop that it runs in."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        folder = Path(tempfile.mkdtemp(prefix="zhaiju-fuzz-"))
        paragraphs = [
            Paragraph("林師傅在河邊修船。", "a.md", line=1),
            Paragraph("The ferry leaves at nine.", "b.txt", line=3),
        ]
        self.labels = Labels(folder / "labels.json", Sources(paragraphs))
        settings = Settings(
            max_body=20_000, max_question=100, max_text=200, max_context=500, max_contexts=8, max_batch=6
        )
        self.app = make_app(settings, Models(_model()), labels=self.labels)

    def ask(
        self, method: str, path: str, query: bytes, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> tuple[int, bytes]:
        """A request through the whole application; its status and body."""
        sent: list[Any] = []
        ended = asyncio.Event()
        given = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            if given:
                return given.pop()
            await ended.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode("utf-8", "surrogateescape"),
            "query_string": query,
            "headers": headers,
            "root_path": "",
            "client": ("127.0.0.1", 9),
            "server": ("127.0.0.1", 80),
            "state": {},
        }

        async def serve() -> None:
            await self.app(scope, receive, send)
            ended.set()

        with _unlogged():
            self.loop.run_until_complete(serve())
        hold(sent and sent[0]["type"] == "http.response.start", "a response", sent)
        return sent[0]["status"], b"".join(one.get("body", b"") for one in sent[1:])


@contextmanager
def _unlogged() -> Iterator[None]:
    """Without log lines, which tell of every bad request."""
    logging.disable()
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@cache
def _service() -> _Loop:
    return _Loop()


def check_api(data: bytes) -> None:
    """A documented status, JSON in UTF-8, errors by name, and quotes that are slices of what was sent."""
    head, _, rest = data.partition(BETWEEN)
    headers, _, body = rest.partition(BETWEEN)
    method, _, target = head.decode("latin-1").partition(" ")
    path, _, query = target.partition("?")
    if method not in METHODS or not path.startswith("/"):
        method, path = METHODS[len(data) % 2], "/" + path
    named = [line.partition(b":") for line in headers.split(b"\n")[:20] if line]
    status, answer = _service().ask(
        method, path, query.encode("latin-1"), [(name.strip().lower(), value.strip()) for name, _, value in named], body
    )
    hold(status in STATUSES, "a documented status", status, answer[:200])
    if status >= 400 and method != "HEAD":
        error = json.loads(answer)["error"]
        hold(set(error) <= {"code", "message", "field"} and error["code"], "an error by name", error)
        hold(len(error["message"].splitlines()) == 1, "one line", error)
    elif status == 200 and method == "POST" and path.startswith("/v1/"):
        told, given = json.loads(answer), json.loads(body)
        batch = path.endswith("/batch")
        for one, asked in zip(told["results"], given["items"], strict=True) if batch else [(told, given)]:
            _hold_quote(one, asked)


def _hold_quote(told: Any, asked: Any) -> None:
    if "answer" in told:
        contexts = asked["contexts"] if "contexts" in asked else [asked["context"]]
        context = contexts[told.get("index") or 0]
        hold(context[told["start"] : told["end"]] == told["answer"], "a slice", told, context)
    if "spans" in told and asked.get("text"):
        for span in told["spans"]:
            hold(asked["text"][span["start"] : span["end"]] == span["text"], "a slice", span)
    for name in ("score", "confidence"):
        hold(0 <= told.get(name, 0) <= 1 + 1e-9, "a probability", told)


_FIELDS = ("question", "context", "contexts", "text", "tokens", "items", "task", "paragraph", "answers", "start", "end")
_json_of = of_json(*_FIELDS)
_HEADS = (
    "POST /v1/read", "/batch", "GET /v1/labels", "/v1/labels/", "DELETE", "/healthz", "?a=b", "%2e%2e/", "/docs",
    "/openapi.json",
)  # fmt: skip
_HEADERS = (
    "content-type: application/json\n", "content-length: 9\n", "origin: null\n", "host: x\n",
    "authorization: Bearer ", ":",
)  # fmt: skip


def make_request(random: Random, seeds: Sequence[bytes]) -> bytes:
    """A request: most often only its body is changed, as JSON."""
    parts = pick(random, seeds).split(BETWEEN, 2)
    if len(parts) < 3:
        return change(random, bytearray(b"\xff".join(parts)), seeds, tuple(word.encode() for word in _HEADS))
    chance = random.random()
    if chance < 0.8:
        others = [other.split(BETWEEN, 2)[-1] for other in (parts[2], pick(random, seeds))]
        parts[2] = _json_of(random, others[:1] if chance < 0.7 else others)
    if chance > 0.75:
        words = _HEADS if chance > 0.85 else _HEADERS
        place = 0 if chance > 0.85 else 1
        parts[place] = change(random, bytearray(parts[place]), seeds, tuple(word.encode() for word in words))
    return BETWEEN.join(parts)


class _Transport(asyncio.Transport):
    """A connection whose other end keeps what it is sent; like asyncio's, it drops what is written after its end."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: Any = None
        self.written = bytearray()
        self.is_closed = False

    def write(self, data: Any) -> None:
        self.written += b"" if self.is_closed else data

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> Any:
        return self.protocol

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 9) if name in ("peername", "sockname") else default


@cache
def _connections() -> tuple[asyncio.AbstractEventLoop, uvicorn.Config]:
    app = _service().app

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        body, more = 0, True
        while more:
            message = await receive()
            more = message.get("more_body", False)
            body += len(message.get("body", b""))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    config = configured(cast(FastAPI, _Echo(echo, app.state)))
    config.load()
    return _service().loop, config


class _Echo:
    """An application that needs no models, with the state that a connection asks for."""

    def __init__(self, call: Any, state: Any) -> None:
        self._call = call
        self.state = state

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._call(scope, receive, send)


def check_http(data: bytes) -> None:
    """Whatever comes over a connection, in whatever pieces: whole responses and nothing else, and no fault."""
    loop, config = _connections()
    faults: list[Any] = []
    loop.set_exception_handler(lambda _, about: faults.append(about))
    size = 1 + (data[0] if data else 0) * 3

    async def talk() -> bytes:
        transport, state = _Transport(), ServerState()
        made = cast(Any, config.http_protocol_class)(config=config, server_state=state, app_state={}, _loop=loop)
        transport.protocol = made
        made.connection_made(transport)
        for at in range(1, len(data), size):
            if transport.is_closed:
                break
            transport.protocol.data_received(data[at : at + size])
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        transport.protocol.connection_lost(None)
        for _ in range(5):
            await asyncio.sleep(0)
        return bytes(transport.written)

    with _unlogged():
        written = loop.run_until_complete(talk())
    hold(not faults, "no fault", faults)
    for response in written.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"").split(b"HTTP/1.1 ")[1:]:
        hold(response[:3].isdigit() and b"\r\n\r\n" in response, "whole responses", written)
    hold(not written or written.startswith(b"HTTP/1.1 "), "responses", written)


_HTTP = (
    "GET ", "POST ", "/v1/read", " HTTP/1.1", " HTTP/1.0", "\r\n", "\r\n\r\n", "\n", ": ", "Host: x",
    "Content-Length: ", "Transfer-Encoding: chunked", "0\r\n\r\n", "5\r\nabcde\r\n", "Expect: 100-continue",
    "Connection: close", "Connection: Upgrade", "Upgrade: websocket", "CONNECT ", "*", "\0",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\xff",
)  # fmt: skip

TARGETS = (
    Target("api", "documented answers, and slices", check_api, make_request, 40_000),
    Target("http", "whole responses and no fault", check_http, of_bytes(*_HTTP), 60_000),
)
