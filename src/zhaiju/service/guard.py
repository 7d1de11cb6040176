"""What every request passes on its way in: who it is from, how much there is of it, how many are inside."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse
from starlette.routing import Match, Route

from zhaiju.service.batching import Ticket
from zhaiju.service.limits import UPLOADS, Gate, Rate, RequestError, Settings, check_host, client_token, overloaded
from zhaiju.service.metrics import Metrics
from zhaiju.service.page import is_page

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN = ("/healthz", "/readyz")  # to anyone, for those who only want to know whether it lives
GUARDED = "/v1/"
DOCUMENTS = "/v1/documents"
TICKET = "zhaiju.ticket"
WORK = "zhaiju.work"
QUIET_SECONDS = 1.0  # in which refusals are counted, for one line of the log
log = logging.getLogger(__name__)


class Door:
    """Tells whether a request would be refused whatever it holds, and counts those that were.

    Args:
        gate: Who is inside.
        metrics: Counts.
    """

    def __init__(self, gate: Gate, metrics: Metrics) -> None:
        error = overloaded()
        self.body = json.dumps(error.body, separators=(",", ":")).encode()
        self.headers = [
            (name.lower().encode(), value.encode())
            for name, value in (
                error.headers | {"Content-Type": "application/json", "Content-Length": str(len(self.body))}
            ).items()
        ]
        self._gate = gate
        self._metrics = metrics
        self._refused = 0
        self.routes: frozenset[str] = frozenset()  # by which refusals are counted; others are "other"

    @property
    def is_shut(self) -> bool:
        """Whether nobody more may come in."""
        return self._gate.is_full

    def refused(self, path: str, seconds: float) -> None:
        """Count one that was; the log is told once a second how many."""
        self._metrics.answered(path if path in self.routes else "other", 503, seconds)
        if not self._refused:
            asyncio.get_running_loop().call_later(QUIET_SECONDS, self._tell)
        self._refused += 1

    def _tell(self) -> None:
        log.info("%d refused within %g s, 503: too many requests at a time", self._refused, QUIET_SECONDS)
        self._refused = 0


class Guard:
    """Refuses what may not come in, before its body is read; counts and logs what does.

    Args:
        app: What is behind it.
        settings: What may come in.
        gate: Who is inside.
        metrics: Counts.
        door: Refuses once the gate is full.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, gate: Gate, metrics: Metrics, door: Door) -> None:
        self._app = app
        self._settings = settings
        self._gate = gate
        self._door = door
        self._uploads = Gate(UPLOADS)
        self._metrics = metrics
        burst = settings.burst or max(1, round(2 * (settings.rate or 0)))
        self._rate = None if settings.rate is None else Rate(settings.rate, burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        status = 0
        is_refused = False

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._admit(scope)
            if scope["path"].startswith(GUARDED) and scope["method"] == "POST" and self._door.is_shut:
                is_refused = True
                await sending({"type": "http.response.start", "status": 503, "headers": list(self._door.headers)})
                await sending({"type": "http.response.body", "body": self._door.body})
            elif scope["path"].startswith(GUARDED):
                await self._inside(scope, receive, sending)
            else:
                await self._app(scope, receive, sending)
        except RequestError as error:
            await JSONResponse(error.body, error.status, error.headers)(scope, receive, sending)
        except Exception as error:  # its message may hold a user's text, so only where it happened is logged
            where = "".join(traceback.format_tb(error.__traceback__))
            log.error("%s in %s\n%s", type(error).__name__, _route(scope), where)
            if not status:
                failed = RequestError(500, "internal", "an error of the service; its log says more")
                await JSONResponse(failed.body, failed.status)(scope, receive, sending)
        finally:
            seconds = time.monotonic() - began
            if is_refused:
                self._door.refused(scope["path"], seconds)
            else:
                self._metrics.answered(_route(scope), status, seconds)
                level = logging.DEBUG if is_page(scope["path"]) else logging.INFO
                log.log(level, "%s %s %d %.0f ms", scope["method"], _route(scope), status, 1000 * seconds)

    def _admit(self, scope: Scope) -> None:
        if scope["path"] in OPEN:
            return
        headers = dict(scope["headers"])
        client = (scope.get("client") or ("",))[0]
        if self._settings.tokens and is_page(scope["path"]):  # it holds nothing of anyone's, and asks for the token
            return
        if self._settings.tokens:
            client = client_token(self._settings.tokens, headers.get(b"authorization", b""))
        else:
            check_host(self._settings.hosts, headers.get(b"host", b""))
        if self._rate is not None and scope["path"].startswith(GUARDED):
            self._rate.take(client)

    async def _inside(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = dict(scope["headers"]).get(b"content-type", b"").partition(b";")[0].strip().lower()
        # What a foreign page may send unasked is no JSON. Where nothing takes a POST, the application says that.
        if scope["method"] == "POST" and kind != b"application/json" and "POST" in methods_of(scope):
            raise RequestError(415, "not_json", "send JSON, as Content-Type: application/json")
        uploading = self._settings.uploads and scope["method"] == "POST" and scope["path"] == DOCUMENTS
        leave = self._enter(self._gate, *[self._uploads] * uploading)
        scope[TICKET] = ticket = Ticket(self._settings.deadline)
        watch: asyncio.Task[None] | None = None
        try:
            limit = self._settings.max_upload if uploading else self._settings.max_body
            patience = self._settings.deadline if uploading else min(self._settings.patience, self._settings.deadline)
            body = await self._body(scope, receive, limit, patience)
            if body is None:
                return
            watch = asyncio.create_task(_watch(receive, ticket))
            given = False

            async def replay() -> Message:
                nonlocal given
                if not given:
                    given = True
                    return {"type": "http.request", "body": body, "more_body": False}
                await asyncio.shield(watch)
                return {"type": "http.disconnect"}

            await self._app(scope, replay, send)
        finally:
            if watch is not None:
                watch.cancel()
            work: asyncio.Future[Any] | None = scope.get(WORK)
            if work is None or work.done():
                leave()
            else:  # whoever was answered "too late" stays inside until the thread has noticed
                work.add_done_callback(lambda _: leave())

    @staticmethod
    def _enter(*gates: Gate) -> Callable[[], None]:
        """Go through all gates or none; gives what goes back through them."""
        entered: list[Gate] = []

        def leave() -> None:
            for gate in entered:
                gate.leave()

        try:
            for gate in gates:
                gate.enter()
                entered.append(gate)
        except RequestError:
            leave()
            raise
        return leave

    async def _body(self, scope: Scope, receive: Receive, limit: int, seconds: float) -> bytes | None:
        """The body, None where the client went away; no more of it is read than is allowed."""
        too_large = RequestError(413, "too_large", f"the body is too large, expected at most {limit:,} bytes")
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            raise too_large
        parts = []
        size = 0
        try:
            async with asyncio.timeout(seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limit:
                        raise too_large
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise RequestError(408, "slow_body", "the body did not come in time") from None


async def _watch(receive: Receive, ticket: Ticket) -> None:
    """Drop the work of a client that goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass
    ticket.drop()


def methods_of(scope: Scope) -> set[str]:
    """What may be done with a request's path: of paths that match it, such as one with an id, with the first."""
    routes = [route for route in scope["app"].routes if isinstance(route, Route)]
    path = next((route.path for route in routes if route.matches(scope)[0] is not Match.NONE), None)
    return set().union(*(route.methods or () for route in routes if route.path == path))


def _route(scope: Scope) -> str:
    """The route as it is written in the documentation; never what a client put into its address."""
    found = getattr(scope.get("route"), "path", None)
    if found is not None:
        return str(found)
    known = [getattr(route, "path", None) for route in scope["app"].routes] if "app" in scope else []
    return scope["path"] if scope["path"] in known else "other"  # what was refused before it was routed
