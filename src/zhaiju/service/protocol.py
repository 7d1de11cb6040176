"""The first that a connection meets: a bound on their number, patience with slow ones, refusals at once.

It extends uvicorn's own protocols, so that what may not come in costs no task, no scope and no body. Where httptools is
not installed, a full service refuses a little later (see `zhaiju.service.guard`), with the same words.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from zhaiju.service.guard import GUARDED, Door
from zhaiju.service.limits import RETRY_SECONDS, RequestError

if TYPE_CHECKING:
    from uvicorn.server import ServerState

LINGER_SECONDS = 1.0  # in which who is turned away may read why


def _closing(line: str, error: RequestError) -> bytes:
    """A response after which the connection is closed."""
    body = json.dumps(error.body, separators=(",", ":")).encode()
    headers = error.headers | {"Content-Type": "application/json", "Content-Length": str(len(body))}
    return _head(line, [*headers.items(), ("Connection", "close")]) + body


def _head(line: str, headers: Sequence[tuple[str, str]]) -> bytes:
    return "".join([f"HTTP/1.1 {line}\r\n", *(f"{name}: {value}\r\n" for name, value in headers), "\r\n"]).encode()


CROWDED = _closing(
    "503 Service Unavailable",
    RequestError(503, "too_many_connections", "too many connections at a time; try again", retry=RETRY_SECONDS),
)
SLOW = _closing("408 Request Timeout", RequestError(408, "slow_head", "the request's head did not come in time"))


class _Careful(asyncio.Protocol):
    """Closes connections past a number, and those that neither send a request's head nor take their answer."""

    transport: asyncio.Transport
    server_state: ServerState
    loop: asyncio.AbstractEventLoop
    cycle: Any  # the request in work

    def __init__(self, *given: Any, door: Door, patience: float, connections: int, **named: Any) -> None:
        super().__init__(*given, **named)
        self.door = door
        self._patience = patience
        self._most = connections
        self._is_turned_away = False
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None

    @property
    def _awaits_head(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if len(self.server_state.connections) >= self._most:
            self._is_turned_away = True
            self.transport.write(CROWDED)
            self.loop.call_later(LINGER_SECONDS, self.transport.abort)
            return
        super().connection_made(transport)
        self._reading = self.loop.call_later(self._patience, self._give_up)

    def data_received(self, data: bytes) -> None:
        if self._is_turned_away:
            self.transport.close()  # now that what it sent was read, and would not reset the connection
            return
        super().data_received(data)
        self._after_data()

    def _after_data(self) -> None:
        if not self._awaits_head:
            self._hurry(None)
        elif self._reading is None:
            self._hurry(self._patience)

    def connection_lost(self, exc: Exception | None) -> None:
        self._hurry(None)
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing = self.loop.call_later(self._patience, self.transport.abort)

    def resume_writing(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
            super().resume_writing()

    def _hurry(self, seconds: float | None) -> None:
        """Have a head come within some seconds; None: whenever."""
        if self._reading is not None:
            self._reading.cancel()
        self._reading = None if seconds is None else self.loop.call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        self._reading = None
        if self._awaits_head and not self.transport.is_closing():
            if self.cycle is not _Refused:  # else it may ask for nothing more, and would take this for an answer
                self.transport.write(SLOW)
            self.transport.close()


class _Refused:
    """In place of a request in work: one that was answered before its body came, which is not looked at then."""

    response_complete = True
    disconnected = False
    keep_alive = True
    more_body = False

    class message_event:  # noqa: N801
        @staticmethod
        def set() -> None: ...


def protocol(door: Door, *, patience: float, connections: int) -> Any:
    """What makes a protocol for each connection, for uvicorn's `http`.

    Args:
        door: Says whether to refuse.
        patience: Seconds that a client may take to send a request's head, and in which it takes nothing of its answer.
        connections: Connections that may be open.
    """
    made: Any
    if find_spec("httptools") is None:
        from uvicorn.protocols.http.h11_impl import H11Protocol

        made = type("CarefulH11", (_Careful, H11Protocol), {})
        return partial(made, door=door, patience=patience, connections=connections)
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    head = _head("503 Service Unavailable", [(name.decode(), value.decode()) for name, value in door.headers])
    refusal = head + door.body

    class Quick(_Careful, HttpToolsProtocol):
        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self._awaits_head:
                self._hurry(self._patience)

        def on_message_complete(self) -> None:
            self._hurry(None)
            super().on_message_complete()

        def _after_data(self) -> None:
            """Nothing: the parser tells where in a request it is."""

        def on_headers_complete(self) -> None:
            self._hurry(None)
            if not (self.door.is_shut and self._awaits_head and self._is_plain):
                super().on_headers_complete()
                return
            self.cycle = cast(Any, _Refused)
            self._hurry(self._patience)  # for its body
            self.transport.write(refusal)
            self.door.refused(self.url.partition(b"?")[0].decode("latin-1"), 0.0)
            self.on_response_complete()

        @property
        def _is_plain(self) -> bool:
            """Whether what is refused here is what is refused further in: it may neither be upgraded nor foreign."""
            return (
                self.parser.get_method() == b"POST"
                and self.url.startswith(GUARDED.encode())
                and self.parser.get_http_version() == "1.1"
                and self.parser.should_keep_alive()
                and not self.parser.should_upgrade()
                and not self.expect_100_continue
                and all(name != b"origin" for name, _ in self.headers)
            )

    made = Quick
    return partial(made, door=door, patience=patience, connections=connections)
